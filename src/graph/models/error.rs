//! Why a model cannot be built.

use super::MODELS;
use super::Model;
use crate::graph::BuildError;
use crate::graph::spelling::hint;

/// Why a model cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// There is no such model.
    #[error("no model is called `{found}`{hint}; expected one of {expected}")]
    UnknownModel {
        /// The name.
        found: String,
        /// A similar name, in words.
        hint: String,
        /// All names.
        expected: String,
    },
    /// The model has no such option.
    #[error("`{model}` has no option `{found}`{hint}; it has {expected}")]
    UnknownOption {
        /// The model.
        model: String,
        /// The option.
        found: String,
        /// A similar name, in words.
        hint: String,
        /// All options.
        expected: String,
    },
    /// An option has a value that it cannot have.
    #[error("option `{option}` of `{model}` is `{found}`; expected {expected}")]
    OptionValue {
        /// The model.
        model: String,
        /// The option.
        option: String,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The layers do not fit to the image, the classes or each other.
    #[error("`{model}` cannot be built for images of {input} and {classes} classes")]
    Build {
        /// The model.
        model: String,
        /// Shape of an image.
        input: String,
        /// Number of classes.
        classes: usize,
        /// Why not.
        #[source]
        source: Box<BuildError>,
    },
}

impl ModelError {
    pub(super) fn unknown_model(found: &str) -> Self {
        let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        Self::UnknownModel {
            found: found.to_owned(),
            hint: hint(found, &names),
            expected: names.join(", "),
        }
    }

    pub(super) fn unknown_option(model: &Model, found: &str) -> Self {
        let names: Vec<&str> = model.options.iter().map(|option| option.name).collect();
        Self::UnknownOption {
            model: model.name.to_owned(),
            found: found.to_owned(),
            hint: hint(found, &names),
            expected: if names.is_empty() {
                "no options".to_owned()
            } else {
                names.join(", ")
            },
        }
    }
}
