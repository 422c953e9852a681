//! A network as a text that people write: TOML or JSON walks in, a [`Description`] walks
//! out, and from it a [`Graph`]; and the other way round.
//!
//! ```
//! use sms_merge::graph::Description;
//! use sms_merge::graph::Syntax;
//!
//! let text = r#"
//! name = "small"
//! input = "1x28x28"
//! classes = 10
//!
//! [[layers]]
//! op = "conv2d"
//! name = "conv1"
//! channels = 8
//! kernel = 3
//! padding = 1
//!
//! [[layers]]
//! op = "relu"
//!
//! [[layers]]
//! op = "global-avg-pool"
//!
//! [[layers]]
//! op = "linear"
//! name = "fc"
//! features = "classes"
//! "#;
//! let graph = Description::parse(text, Syntax::Toml)?.build(None, None)?;
//! assert_eq!(graph.parameters[0].name, "conv1.weight");
//! assert_eq!(graph.learned(), 8 * 9 + 8 + 8 * 10 + 10);
//! # Ok::<(), sms_merge::graph::DescriptionError>(())
//! ```
//!
//! # The description
//!
//! | key | meaning |
//! | --- | --- |
//! | `name` | name of the model |
//! | `input` | shape of an image, `"channels x height x width"` without spaces; may be left out if it is given elsewhere |
//! | `classes` | number of classes; may be left out likewise |
//! | `layers` | a list of layers, in an order in which each stands behind its inputs |
//!
//! # Every layer
//!
//! | key | meaning |
//! | --- | --- |
//! | `op` | what it computes, one of those below |
//! | `name` | the module in torch's `state_dict`: the weight of `conv1` is `conv1.weight`. Needed where there are parameters; elsewhere only for `input` to refer to |
//! | `input` | name of the layer whose output it takes, or a list of two for `add`. `"input"` is the image. Without it, the layer before |
//!
//! # Operations
//!
//! | `op` | keys, with defaults |
//! | --- | --- |
//! | `conv2d` | `channels` (a number, or `"classes"`), `kernel`, `stride` = 1, `padding` = 0, `init`, `bias` |
//! | `linear` | `features` (a number, or `"classes"`), `init`, `bias` |
//! | `batch-norm` | `epsilon` = 1e-5, `momentum` = 0.1, `scale` = 1, `shift` = 0 |
//! | `relu`, `flatten`, `global-avg-pool` | none |
//! | `add` | none; `input` is a list of two layers |
//! | `max-pool` | `kernel`, `stride` = the kernel, `padding` = 0 |
//! | `avg-pool` | `kernel`, `stride` = the kernel |
//! | `pad-shortcut` | `stride` = 1, `before` = 0, `after` = 0 (channels of zeros) |
//! | `dropout` | `probability` |
//!
//! `kernel`, `stride` and `padding` are one number, or `[vertical, horizontal]`. `init`
//! is how the weight begins: `"torch"` (the default: uniform, bound `1/sqrt(fan_in)`),
//! `"he-fan-in"`, `"he-fan-out"` (normal, deviation `sqrt(2/fan)`), a number (all
//! elements), `{ normal = deviation }` or `{ uniform = bound }`. `bias` is the same for
//! the bias, `true` for `"torch"` (the default), or `false` for no bias. `scale` and
//! `shift` are a number, `{ normal = .. }` or `{ uniform = .. }`.

mod error;
mod of_graph;
mod parse;
mod place;
mod value;

use super::BatchNorm;
use super::Conv2d;
use super::Features;
use super::Graph;
use super::Linear;
use super::TomlError;
use super::Window;

pub use error::DescriptionError;

use value::Value;

/// Name of the image among the layers.
const IMAGE: &str = "input";

/// The word that stands for the number of classes.
const CLASSES: &str = "classes";

/// How a description is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// <https://toml.io>.
    Toml,
    /// <https://json.org>.
    Json,
}

/// A network as data that people write: see the module's table of keys.
///
/// Serialises as the same keys; [`parse`](Self::parse) reads them again.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    name: String,
    input: Option<Features>,
    classes: Option<usize>,
    layers: Vec<Layer>,
}

#[derive(Clone, Debug, PartialEq)]
struct Layer {
    name: Option<String>,
    /// Names of the operands; none for the layer before.
    inputs: Vec<String>,
    kind: Kind,
}

/// A size that may be the number of classes, which is then 0 in the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    /// As the layer says.
    Stated,
    /// The number of classes.
    Classes,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Conv2d(Conv2d, Width),
    Linear(Linear, Width),
    BatchNorm(BatchNorm),
    Relu,
    Add,
    MaxPool(Window),
    AvgPool(Window),
    GlobalAvgPool,
    PadShortcut {
        stride: usize,
        before: usize,
        after: usize,
    },
    Flatten,
    Dropout {
        probability: f64,
    },
}

impl Kind {
    /// Names of all operations, and the keys that each has.
    const ALL: &[(&str, &[&str])] = &[
        (
            "conv2d",
            &["channels", "kernel", "stride", "padding", "init", "bias"],
        ),
        ("linear", &["features", "init", "bias"]),
        ("batch-norm", &["epsilon", "momentum", "scale", "shift"]),
        ("relu", &[]),
        ("add", &[]),
        ("max-pool", &["kernel", "stride", "padding"]),
        ("avg-pool", &["kernel", "stride"]),
        ("global-avg-pool", &[]),
        ("pad-shortcut", &["stride", "before", "after"]),
        ("flatten", &[]),
        ("dropout", &["probability"]),
    ];

    fn op(&self) -> &'static str {
        match self {
            Self::Conv2d(..) => "conv2d",
            Self::Linear(..) => "linear",
            Self::BatchNorm(_) => "batch-norm",
            Self::Relu => "relu",
            Self::Add => "add",
            Self::MaxPool(_) => "max-pool",
            Self::AvgPool(_) => "avg-pool",
            Self::GlobalAvgPool => "global-avg-pool",
            Self::PadShortcut { .. } => "pad-shortcut",
            Self::Flatten => "flatten",
            Self::Dropout { .. } => "dropout",
        }
    }

    fn has_parameters(&self) -> bool {
        matches!(
            self,
            Self::Conv2d(..) | Self::Linear(..) | Self::BatchNorm(_)
        )
    }

    /// Number of operands.
    fn arity(&self) -> usize {
        if *self == Self::Add { 2 } else { 1 }
    }
}

impl Description {
    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape of an image, if the description says so.
    pub fn input(&self) -> Option<Features> {
        self.input
    }

    /// Number of classes, if the description says so.
    pub fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// Reads a description.
    ///
    /// # Errors
    /// [`DescriptionError`] names the layer and the key. Whether layers fit to each
    /// other is only known when the graph is built.
    pub fn parse(text: &str, syntax: Syntax) -> Result<Self, DescriptionError> {
        let value = match syntax {
            Syntax::Toml => toml::from_str(text).map_err(|error| DescriptionError::Toml {
                source: TomlError::in_text(&error, text),
            })?,
            Syntax::Json => {
                serde_json::from_str(text).map_err(|source| DescriptionError::Json { source })?
            }
        };
        parse::description(value)
    }

    /// The description as text that [`parse`](Self::parse) reads.
    pub fn to_text(&self, syntax: Syntax) -> String {
        let value = of_graph::value(self);
        match syntax {
            Syntax::Toml => value::to_toml(&value),
            Syntax::Json => value::to_json(&value),
        }
    }

    /// The description of a graph. [`build`](Self::build) makes the same graph of it,
    /// if the graph came out of a [`Builder`](super::Builder).
    pub fn of(graph: &Graph) -> Self {
        of_graph::description(graph)
    }

    /// The graph, with another input or number of classes than the description's where
    /// they are given.
    ///
    /// # Errors
    /// [`DescriptionError`] names the layer that does not fit.
    pub fn build(
        &self,
        input: Option<Features>,
        classes: Option<usize>,
    ) -> Result<Graph, DescriptionError> {
        place::graph(self, input.or(self.input), classes.or(self.classes))
    }
}

impl serde::Serialize for Description {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        of_graph::value(self).serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
