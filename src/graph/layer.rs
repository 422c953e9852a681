//! Layers before they are placed: sizes and starts, in the words of torch.

use super::Initialiser;

/// How a weight or bias begins, in the words of the literature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// torch's default for linear and convolution layers: uniform, with bound
    /// `1 / sqrt(fan_in)`, for the weight (`kaiming_uniform_` with `a = sqrt(5)`) and
    /// for the bias.
    Torch,
    /// Normal with deviation `sqrt(2 / fan_in)`. Source: He et al., arXiv:1502.01852.
    HeFanIn,
    /// Normal with deviation `sqrt(2 / fan_out)`, as torchvision's ResNet.
    HeFanOut,
    /// As stated.
    Exactly(Initialiser),
}

impl Start {
    /// The initialiser of a layer whose units have this many inputs and outputs.
    pub fn initialiser(self, fan_in: usize, fan_out: usize) -> Initialiser {
        match self {
            Self::Torch => Initialiser::Uniform {
                bound: 1.0 / (fan_in as f64).sqrt(),
            },
            Self::HeFanIn => Initialiser::Normal {
                deviation: (2.0 / fan_in as f64).sqrt(),
            },
            Self::HeFanOut => Initialiser::Normal {
                deviation: (2.0 / fan_out as f64).sqrt(),
            },
            Self::Exactly(initialiser) => initialiser,
        }
    }
}

/// A convolution layer, as torch's `Conv2d`. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2d {
    /// Channels of the output.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Stride.
    pub stride: [usize; 2],
    /// Rows and columns of zeros added at each side.
    pub padding: [usize; 2],
    /// How the weight begins.
    pub weight: Start,
    /// How the bias begins, if there is one.
    pub bias: Option<Start>,
}

impl Conv2d {
    /// A square kernel with torch's defaults: stride 1, no padding, a bias.
    pub fn new(out_channels: usize, kernel: usize) -> Self {
        Self {
            out_channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [0; 2],
            weight: Start::Torch,
            bias: Some(Start::Torch),
        }
    }
}

/// A fully connected layer, as torch's `Linear`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Elements of the output.
    pub out_features: usize,
    /// How the weight begins.
    pub weight: Start,
    /// How the bias begins, if there is one.
    pub bias: Option<Start>,
}

impl Linear {
    /// A layer with torch's defaults.
    pub fn new(out_features: usize) -> Self {
        Self {
            out_features,
            weight: Start::Torch,
            bias: Some(Start::Torch),
        }
    }
}

/// A batch norm, as torch's `BatchNorm2d` and `BatchNorm1d`. The default is torch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance.
    pub epsilon: f64,
    /// Share of the new batch in a running statistic, in (0, 1].
    pub momentum: f64,
    /// How the scale begins.
    pub weight: Initialiser,
    /// How the shift begins.
    pub bias: Initialiser,
}

impl Default for BatchNorm {
    fn default() -> Self {
        Self {
            epsilon: 1e-5,
            momentum: 0.1,
            weight: Initialiser::Constant(1.0),
            bias: Initialiser::Constant(0.0),
        }
    }
}

/// A pooling window. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Stride.
    pub stride: [usize; 2],
    /// Rows and columns added at each side.
    pub padding: [usize; 2],
}

impl Window {
    /// A square window whose stride is its size, without padding.
    pub fn square(kernel: usize) -> Self {
        Self {
            kernel: [kernel; 2],
            stride: [kernel; 2],
            padding: [0; 2],
        }
    }
}
