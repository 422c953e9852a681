//! Why a training ends without an outcome.

use thiserror::Error;

use crate::train::data::DataError;
use crate::train::engine::EngineError;
use crate::train::recipe::RecipeError;

/// Why a training ended without an outcome.
#[derive(Debug, Error)]
pub enum FitError {
    /// The recipe cannot be followed.
    #[error("the recipe cannot be followed")]
    Recipe(#[from] RecipeError),
    /// The data cannot be parted.
    #[error("the data cannot be parted")]
    Data(#[from] DataError),
    /// There is no image to train on.
    #[error("there are no images to train on")]
    NoImages,
    /// The network takes other images, or tells other classes apart.
    #[error(
        "the network takes {expected} numbers per image and tells {expected_classes} classes \
         apart, but the data set has {found} and {found_classes}"
    )]
    Shape {
        /// Numbers that the network takes.
        expected: usize,
        /// Numbers of an image.
        found: usize,
        /// Classes of the network.
        expected_classes: usize,
        /// Classes of the data set.
        found_classes: usize,
    },
    /// Training has diverged.
    #[error(
        "{what} became {value} at step {step} (epoch {epoch}), learning rate {learning_rate}; \
         lower the learning rate, clip gradients, or warm up for longer"
    )]
    NonFinite {
        /// The loss, or the norm of the gradients.
        what: &'static str,
        /// What it is.
        value: f64,
        /// The step, counted from 1.
        step: u64,
        /// The epoch, counted from 1.
        epoch: u64,
        /// Learning rate of the step.
        learning_rate: f64,
    },
    /// The engine failed.
    #[error("step {step} failed")]
    Engine {
        /// Steps before the one that failed.
        step: u64,
        /// Why.
        source: EngineError,
    },
    /// Who watches gave up.
    #[error("training stopped at step {step}")]
    Watch {
        /// Steps done.
        step: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
