//! Why a recipe cannot be followed.

use thiserror::Error;

use crate::cycle::executor::TemplateError;
use crate::graph::TomlError;

/// Why a recipe cannot be followed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// It is no TOML, or has a key or a value that recipes do not have.
    #[error("the recipe cannot be understood{}", suggestion.as_ref().map_or(String::new(), |key| format!("; did you mean `{key}`?")))]
    Text {
        /// The known key that is most like the one that is not known.
        suggestion: Option<String>,
        /// What is wrong, and where.
        source: TomlError,
    },
    /// An override is not of the form `section.key=value`.
    #[error("`{text}` is not of the form `section.key=value`, such as `pruning.phases=2`")]
    Override {
        /// What was given.
        text: String,
    },
    /// An override goes through a value that is no section.
    #[error("`{key}` cannot be set: `{through}` is a value and no section")]
    NoSection {
        /// The whole key.
        key: String,
        /// The part of it that is a value.
        through: String,
    },
    /// A value is out of its range, or does not go together with others.
    #[error("`{field}` is {found}, expected {expected}")]
    Field {
        /// Section and key.
        field: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A value is missing.
    #[error("`{field}` is missing: {why}")]
    Missing {
        /// Section and key.
        field: &'static str,
        /// What it is needed for.
        why: &'static str,
    },
    /// Two values cannot both be given.
    #[error("`{first}` and `{second}` cannot both be given: {why}")]
    Conflict {
        /// Section and key.
        first: String,
        /// Section and key.
        second: String,
        /// Why not.
        why: &'static str,
    },
    /// A command cannot be used.
    #[error("`{field}` cannot be used")]
    Command {
        /// Section and key.
        field: &'static str,
        /// Why not.
        source: TemplateError,
    },
    /// Ingredients differ in nothing.
    #[error(
        "ingredients `{first}` and `{second}` have the same seed and training: they would be \
         copies of one another"
    )]
    Copies {
        /// One, from 1.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A value has no effect.
    #[error("`{field}` has no effect: {why}")]
    Ignored {
        /// Section and key.
        field: String,
        /// Why not.
        why: &'static str,
    },
}
