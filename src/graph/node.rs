//! The vocabulary of a model: nodes, parameters and the shapes between them.

use crate::tensor::Shape;

use std::fmt;
use std::str::FromStr;

/// Place of a node in [`Graph::nodes`].
pub type NodeIdx = usize;

/// Place of a parameter in [`Graph::parameters`].
pub type ParameterIdx = usize;

/// A feed-forward network for the classification of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Name of the model, such as `resnet20`.
    pub name: String,
    /// Nodes in topological order. The first is the only [`Op::Input`]; the last one's
    /// output are the logits, one channel per class.
    pub nodes: Vec<Node>,
    /// Parameters and statistics, in the order of torch's `state_dict`.
    pub parameters: Vec<Parameter>,
}

impl Graph {
    /// Shape of one input image.
    pub fn input(&self) -> Features {
        self.nodes[0].output
    }

    /// Name of the torch module that a node stands for, such as `conv1`; `None` where
    /// the node has no parameters.
    pub fn module(&self, node: NodeIdx) -> Option<&str> {
        let weight = self.nodes.get(node)?.op.parameters().next()?;
        let name = &self.parameters[weight].name;
        Some(name.strip_suffix(".weight").unwrap_or(name))
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.nodes.last().map_or(0, |node| node.output.channels)
    }
}

/// One operation and where its operands come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Nodes whose outputs are the operands, each before this one.
    pub inputs: Vec<NodeIdx>,
    /// Shape of the output for one image.
    pub output: Features,
}

/// Shape of what flows between nodes, for one image, row-major (channels, height,
/// width). A vector has height and width 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Channels of a map, or elements of a vector.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Features {
    /// A vector of `channels` elements.
    pub fn vector(channels: usize) -> Self {
        Self {
            channels,
            height: 1,
            width: 1,
        }
    }

    /// Rows times columns.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Number of elements.
    pub fn numel(self) -> usize {
        self.channels * self.pixels()
    }
}

/// `channels x height x width`, such as `3x32x32`; a vector is one number.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.channels)?;
        if self.height != 1 || self.width != 1 {
            write!(f, "x{}x{}", self.height, self.width)?;
        }
        Ok(())
    }
}

/// A text is no shape of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no shape; expected channels, height and width such as `3x32x32`")]
pub struct ShapeError {
    /// The text.
    pub found: String,
}

/// What [`Display`](fmt::Display) writes; sizes are at least 1.
impl FromStr for Features {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let error = || ShapeError {
            found: text.chars().take(40).collect(),
        };
        let size = |size: &str| {
            let is_number = size.bytes().all(|byte| byte.is_ascii_digit());
            let size = size.parse().ok().filter(|&size: &usize| size > 0);
            size.filter(|_| is_number).ok_or_else(error)
        };
        let sizes: Vec<&str> = text.split('x').collect();
        match sizes[..] {
            [channels] => Ok(Self::vector(size(channels)?)),
            [channels, height, width] => Ok(Self {
                channels: size(channels)?,
                height: size(height)?,
                width: size(width)?,
            }),
            _ => Err(error()),
        }
    }
}

/// What a node computes. Pairs are (vertical, horizontal).
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The image.
    Input,
    /// Cross-correlation, zero padding on both sides, as torch's `Conv2d` with
    /// `groups = 1` and `dilation = 1`.
    Conv2d {
        /// (out_channels, in_channels, kernel height, kernel width).
        weight: ParameterIdx,
        /// (out_channels).
        bias: Option<ParameterIdx>,
        /// Kernel height and width.
        kernel: [usize; 2],
        /// Stride.
        stride: [usize; 2],
        /// Rows and columns of zeros added at each side.
        padding: [usize; 2],
    },
    /// `W x + b` of a vector.
    Linear {
        /// (out_features, in_features).
        weight: ParameterIdx,
        /// (out_features).
        bias: Option<ParameterIdx>,
    },
    /// Batch normalisation per channel, as torch's `BatchNorm2d` (or `BatchNorm1d`, of
    /// a vector).
    BatchNorm {
        /// Scale, (channels).
        weight: ParameterIdx,
        /// Shift, (channels).
        bias: ParameterIdx,
        /// (channels).
        running_mean: ParameterIdx,
        /// (channels), of the unbiased variance.
        running_var: ParameterIdx,
        /// Scalar.
        num_batches_tracked: ParameterIdx,
        /// Added to the variance.
        epsilon: f64,
        /// Share of the new batch in a running statistic.
        momentum: f64,
    },
    /// `max(x, 0)`.
    Relu,
    /// Sum of two maps of one shape.
    Add,
    /// Maximum of each window; padding never wins.
    MaxPool {
        /// Window height and width.
        kernel: [usize; 2],
        /// Stride.
        stride: [usize; 2],
        /// Rows and columns added at each side, at most half of the window.
        padding: [usize; 2],
    },
    /// Mean of each window, without padding.
    AvgPool {
        /// Window height and width.
        kernel: [usize; 2],
        /// Stride.
        stride: [usize; 2],
    },
    /// Mean over all pixels of each channel.
    GlobalAvgPool,
    /// The shortcut without parameters (option A): every `stride`-th row and column,
    /// and channels of zeros in front of and behind the input's.
    /// Source: He et al., arXiv:1512.03385, section 4.2.
    PadShortcut {
        /// Stride in both directions.
        stride: usize,
        /// Channels of zeros in front.
        before: usize,
        /// Channels of zeros behind.
        after: usize,
    },
    /// The map as a vector, in the order (channel, row, column).
    Flatten,
    /// In training, each element is zeroed with this probability and the others are
    /// divided by the rest; otherwise the identity.
    Dropout {
        /// Probability, in [0, 1).
        probability: f64,
    },
}

impl Op {
    /// Word for it, as in a [`Description`](super::Description).
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Conv2d { .. } => "conv2d",
            Self::Linear { .. } => "linear",
            Self::BatchNorm { .. } => "batch-norm",
            Self::Relu => "relu",
            Self::Add => "add",
            Self::MaxPool { .. } => "max-pool",
            Self::AvgPool { .. } => "avg-pool",
            Self::GlobalAvgPool => "global-avg-pool",
            Self::PadShortcut { .. } => "pad-shortcut",
            Self::Flatten => "flatten",
            Self::Dropout { .. } => "dropout",
        }
    }

    /// Its parameters and statistics, the weight first.
    pub fn parameters(&self) -> impl Iterator<Item = ParameterIdx> {
        let (first, rest): (Option<ParameterIdx>, [Option<ParameterIdx>; 4]) = match *self {
            Self::Conv2d { weight, bias, .. } | Self::Linear { weight, bias } => {
                (Some(weight), [bias, None, None, None])
            }
            Self::BatchNorm {
                weight,
                bias,
                running_mean,
                running_var,
                num_batches_tracked,
                ..
            } => (
                Some(weight),
                [
                    Some(bias),
                    Some(running_mean),
                    Some(running_var),
                    Some(num_batches_tracked),
                ],
            ),
            _ => (None, [None; 4]),
        };
        first.into_iter().chain(rest.into_iter().flatten())
    }
}

/// A learned tensor, or a statistic of batch normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Name in torch's `state_dict`.
    pub name: String,
    /// Shape, as in torch.
    pub shape: Shape,
    /// What it is for.
    pub role: Role,
    /// How it begins.
    pub initialiser: Initialiser,
}

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Weight of a linear or convolution layer: learned, and the only role that is
    /// pruned.
    Weight,
    /// Bias of a linear or convolution layer: learned.
    Bias,
    /// Scale of a batch norm: learned.
    Scale,
    /// Shift of a batch norm: learned.
    Shift,
    /// Running mean of a batch norm: a statistic.
    RunningMean,
    /// Running variance of a batch norm: a statistic.
    RunningVariance,
    /// Batches seen by a batch norm: a count, stored as I64.
    BatchCount,
}

impl Role {
    /// Whether gradients change it.
    pub fn is_learned(self) -> bool {
        matches!(self, Self::Weight | Self::Bias | Self::Scale | Self::Shift)
    }
}

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialiser {
    /// All elements have this value.
    Constant(f64),
    /// Uniform in `[-bound, bound)`.
    Uniform {
        /// Half of the width of the interval.
        bound: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        deviation: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_written() {
        for text in ["3x32x32", "1x28x28", "17", "1x1x2"] {
            assert_eq!(text.parse::<Features>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "3x32",
            "0x1x1",
            "+3x2x2",
            "3X32X32",
            "3 x 32 x 32",
            "x",
            "-1",
        ] {
            assert!(text.parse::<Features>().is_err(), "{text}");
        }
    }
}
