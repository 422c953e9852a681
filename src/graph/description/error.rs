//! Why a description makes no graph.

use crate::graph::BuildError;
use crate::graph::TomlError;
use crate::graph::spelling::hint;
use crate::tensor::Printable;

use thiserror::Error;

/// Why a description makes no graph. `place` is `the description` or the name of a
/// layer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DescriptionError {
    /// The text is no TOML.
    #[error("the description is not valid TOML")]
    Toml {
        /// Where not.
        source: TomlError,
    },
    /// The text is no JSON.
    #[error("the description is not valid JSON")]
    Json {
        /// Where not.
        source: serde_json::Error,
    },
    /// A key means nothing.
    #[error(
        "{place} has no key `{}`{}; expected one of {}",
        Printable(key), hint(key, expected), expected.join(", ")
    )]
    UnknownKey {
        /// What has the key.
        place: String,
        /// The key.
        key: String,
        /// Keys that mean something.
        expected: Vec<&'static str>,
    },
    /// A key is needed.
    #[error("{place} lacks `{key}`; expected {expected}")]
    MissingKey {
        /// What lacks the key.
        place: String,
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A key has a value that it cannot have.
    #[error("`{key}` of {place} is {found}; expected {expected}")]
    Value {
        /// What has the key.
        place: String,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// There is no such operation.
    #[error(
        "{place} has the unknown op `{}`{}; expected one of {}",
        Printable(found), hint(found, expected), expected.join(", ")
    )]
    UnknownOp {
        /// The layer.
        place: String,
        /// Its operation.
        found: String,
        /// All operations.
        expected: Vec<&'static str>,
    },
    /// Two layers have one name.
    #[error("two layers are called `{}`; rename one of them", Printable(layer))]
    LayerTwice {
        /// The name.
        layer: String,
    },
    /// A layer takes another number of inputs.
    #[error("{place} takes {expected} inputs, found {found}; give `input` as a list of names")]
    Inputs {
        /// The layer.
        place: String,
        /// How many it takes.
        expected: usize,
        /// How many it names.
        found: usize,
    },
    /// A layer takes the output of a layer that does not exist.
    #[error(
        "{place} takes the output of `{}`, and no layer is called so{hint}",
        Printable(found)
    )]
    UnknownInput {
        /// The layer.
        place: String,
        /// The name.
        found: String,
        /// A similar name, in words.
        hint: String,
    },
    /// Layers take each other's output.
    #[error("layers take each other's output: {}", Printable(&layers.join(" -> ")))]
    Cycle {
        /// From a layer, over the one whose output it takes, to itself.
        layers: Vec<String>,
    },
    /// A layer takes the output of one that stands behind it.
    #[error(
        "{place} takes the output of `{}`, which stands behind it; swap them",
        Printable(found)
    )]
    Order {
        /// The layer.
        place: String,
        /// The later layer.
        found: String,
    },
    /// The shape of an image is not known.
    #[error(
        "the description does not say its `input`; add it, such as `input = \"3x32x32\"`, or give it on the command line"
    )]
    NoInput,
    /// The number of classes is not known.
    #[error(
        "the description does not say its `classes`; add it, such as `classes = 10`, or give it on the command line"
    )]
    NoClasses,
    /// The last layer has another number of outputs than there are classes.
    #[error(
        "the last layer gives {found} numbers for {expected} classes; let its size be \"classes\""
    )]
    Classes {
        /// Number of classes.
        expected: usize,
        /// Outputs of the last layer.
        found: usize,
    },
    /// The layers do not fit to each other.
    #[error("the layers do not fit together")]
    Build {
        /// Which layer, and why.
        source: BuildError,
    },
}
