//! Why there is no plan.

use thiserror::Error;

use crate::train::trainer::FitError;

/// Why there is no plan.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A training cannot be followed.
    #[error("`{section}` cannot be followed")]
    Training {
        /// The section of the recipe, with the ingredient if it is one's own.
        section: String,
        /// Why not.
        source: Box<FitError>,
    },
    /// A schedule takes its rates from a training that is not known.
    #[error(
        "`{section}` takes its learning rates from the pretraining, and the checkpoint that is \
         given does not say how it was trained; set `schedule = \"linear\"` and `learning_rate`"
    )]
    NoRates {
        /// The section of the recipe, with the ingredient if it is one's own.
        section: String,
    },
    /// A pattern of the pruning matches nothing.
    #[error(
        "`pruning.{field}` has `{pattern}`, which matches no tensor of `{model}`; `sms-merge \
         model` lists their names"
    )]
    Pattern {
        /// `include` or `exclude`.
        field: &'static str,
        /// The pattern.
        pattern: String,
        /// The network.
        model: String,
    },
    /// The epoch to rewind to is none of the pretraining.
    #[error(
        "`retraining.rewind_epoch` is {found}, expected at most {epochs}, the epochs of the pretraining"
    )]
    Rewind {
        /// The epoch.
        found: u64,
        /// Epochs of the pretraining.
        epochs: u64,
    },
}
