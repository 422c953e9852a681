//! Why a graph cannot be built.

use super::Features;
use super::MOST_ELEMENTS;

/// Why a graph cannot be built. `layer` is the name of the layer, or what it computes
/// where it has no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A size that must be at least 1 is 0.
    #[error("{what} of {layer} is 0; it must be at least 1")]
    Zero {
        /// The layer.
        layer: String,
        /// Which size.
        what: &'static str,
    },
    /// A number is not in its range.
    #[error("{what} of {layer} is {found}; expected {expected}")]
    Range {
        /// The layer.
        layer: String,
        /// Which number.
        what: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A window does not fit into its input.
    #[error(
        "the window of {layer} is {kernel}, but its input with padding is only {found} \
         (rows x columns); use larger images, more padding or fewer pooling layers"
    )]
    Window {
        /// The layer.
        layer: String,
        /// Rows and columns of the window.
        kernel: String,
        /// Rows and columns of the padded input.
        found: String,
    },
    /// A layer for vectors got a map.
    #[error("{layer} takes a vector, found {found}; put `flatten` or `global-avg-pool` before it")]
    NotVector {
        /// The layer.
        layer: String,
        /// Shape of its input.
        found: Features,
    },
    /// The operands of a sum differ in shape.
    #[error("{layer} takes two inputs of one shape, found {left} and {right}")]
    Sum {
        /// The layer.
        layer: String,
        /// Shape of the first input.
        left: Features,
        /// Shape of the second input.
        right: Features,
    },
    /// A layer names an input that does not exist.
    #[error("{layer} takes node {found} as its input, but only {expected} nodes stand before it")]
    Input {
        /// The layer.
        layer: String,
        /// The place that it names.
        found: usize,
        /// Number of nodes before it.
        expected: usize,
    },
    /// Two parameters have one name.
    #[error("two parameters are called `{parameter}`; give each layer a name of its own")]
    Twice {
        /// The name.
        parameter: String,
    },
    /// A name is empty or has characters that no torch module has.
    #[error(
        "{found:?} is no name of a layer; expected letters, digits, `_` and `-`, in parts \
         with dots between them"
    )]
    Name {
        /// The name.
        found: String,
    },
    /// A layer or the whole network is larger than anything that could run here.
    #[error("{layer} has more than {MOST_ELEMENTS} elements; make it smaller")]
    TooLarge {
        /// The layer.
        layer: String,
    },
    /// Nothing takes the output of a node, and it is not the last.
    #[error("nothing takes the output of {layer}; remove it, or name it as an input")]
    Unused {
        /// The layer.
        layer: String,
    },
    /// The last layer does not give one number per class.
    #[error(
        "the last layer, {layer}, gives {found}; expected a vector of at least 2 numbers, \
         one per class"
    )]
    Output {
        /// The layer.
        layer: String,
        /// Shape of its output.
        found: Features,
    },
}
