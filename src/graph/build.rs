//! Layers walk in one after another, a checked [`Graph`] walks out: shapes are
//! inferred, parameters are registered in the order of the calls, which is that of
//! torch's `state_dict` where modules are declared in the order of their use.

mod checks;

use super::BatchNorm;
use super::BuildError;
use super::Conv2d;
use super::Features;
use super::Graph;
use super::Initialiser;
use super::Linear;
use super::Node;
use super::NodeIdx;
use super::Op;
use super::Parameter;
use super::ParameterIdx;
use super::Role;
use super::Start;
use super::Window;

use std::collections::BTreeSet;

/// Most elements of one layer's output for one image, and of all parameters of a
/// network: 8 GiB in f32. Products of two such counts fit into 64 bits.
pub const MOST_ELEMENTS: u64 = 1 << 31;

/// A graph under construction.
///
/// Layers with parameters have a name, that of torch's module: the weight of `conv1`
/// is `conv1.weight`.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    nodes: Vec<Node>,
    parameters: Vec<Parameter>,
    names: BTreeSet<String>,
    n_elements: u64,
    /// What errors call the nodes.
    labels: Vec<String>,
    /// What errors call the next node, where its author has a name for it.
    label: Option<String>,
}

impl Builder {
    /// A graph called `name` that has only its input.
    ///
    /// # Errors
    /// [`BuildError::Zero`], [`BuildError::TooLarge`].
    pub fn new(name: &str, input: Features) -> Result<Self, BuildError> {
        let mut builder = Self {
            name: name.to_owned(),
            nodes: Vec::new(),
            parameters: Vec::new(),
            names: BTreeSet::new(),
            n_elements: 0,
            labels: Vec::new(),
            label: None,
        };
        builder.push("input", Op::Input, &[], input)?;
        Ok(builder)
    }

    /// The input node.
    pub fn input(&self) -> NodeIdx {
        0
    }

    /// Shape of the output of `node`.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn output(&self, node: NodeIdx) -> Features {
        self.nodes[node].output
    }

    /// Gives errors about the next node this name.
    pub(super) fn relabel(&mut self, label: &str) {
        self.label = Some(label.to_owned());
    }

    /// A convolution of `input`.
    ///
    /// # Errors
    /// Every [`BuildError`] about a layer.
    pub fn conv2d(
        &mut self,
        name: &str,
        input: NodeIdx,
        layer: Conv2d,
    ) -> Result<NodeIdx, BuildError> {
        let label = format!("`{name}`");
        let from = self.operand(&label, input)?;
        self.positive(&label, "the number of channels", &[layer.out_channels])?;
        let window = Window {
            kernel: layer.kernel,
            stride: layer.stride,
            padding: layer.padding,
        };
        let output = self.slide(&label, from, layer.out_channels, window)?;
        let [rows, columns] = layer.kernel;
        let taps = rows.saturating_mul(columns);
        let fan_in = taps.saturating_mul(from.channels);
        let fan_out = taps.saturating_mul(layer.out_channels);
        let weight = self.parameter(
            name,
            "weight",
            &[layer.out_channels, from.channels, rows, columns],
            Role::Weight,
            layer.weight.initialiser(fan_in, fan_out),
        )?;
        let bias = self.bias(name, layer.out_channels, layer.bias, fan_in, fan_out)?;
        let op = Op::Conv2d {
            weight,
            bias,
            kernel: layer.kernel,
            stride: layer.stride,
            padding: layer.padding,
        };
        self.push(&label, op, &[input], output)
    }

    /// A fully connected layer behind the vector `input`.
    ///
    /// # Errors
    /// Every [`BuildError`] about a layer.
    pub fn linear(
        &mut self,
        name: &str,
        input: NodeIdx,
        layer: Linear,
    ) -> Result<NodeIdx, BuildError> {
        let label = format!("`{name}`");
        let from = self.operand(&label, input)?;
        self.positive(&label, "the number of features", &[layer.out_features])?;
        if from.pixels() != 1 {
            return Err(BuildError::NotVector {
                layer: self.called(&label),
                found: from,
            });
        }
        let weight = self.parameter(
            name,
            "weight",
            &[layer.out_features, from.channels],
            Role::Weight,
            layer.weight.initialiser(from.channels, layer.out_features),
        )?;
        let bias = self.bias(
            name,
            layer.out_features,
            layer.bias,
            from.channels,
            layer.out_features,
        )?;
        let op = Op::Linear { weight, bias };
        self.push(&label, op, &[input], Features::vector(layer.out_features))
    }

    /// A batch norm of `input`.
    ///
    /// # Errors
    /// Every [`BuildError`] about a layer.
    pub fn batch_norm(
        &mut self,
        name: &str,
        input: NodeIdx,
        layer: BatchNorm,
    ) -> Result<NodeIdx, BuildError> {
        let label = format!("`{name}`");
        let from = self.operand(&label, input)?;
        let BatchNorm {
            epsilon, momentum, ..
        } = layer;
        self.within(&label, "epsilon", epsilon, epsilon > 0.0, "more than 0")?;
        let is_share = momentum > 0.0 && momentum <= 1.0;
        self.within(&label, "momentum", momentum, is_share, "in (0, 1]")?;
        let shape = [from.channels];
        let constant = Initialiser::Constant;
        let op = Op::BatchNorm {
            weight: self.parameter(name, "weight", &shape, Role::Scale, layer.weight)?,
            bias: self.parameter(name, "bias", &shape, Role::Shift, layer.bias)?,
            running_mean: self.parameter(
                name,
                "running_mean",
                &shape,
                Role::RunningMean,
                constant(0.0),
            )?,
            running_var: self.parameter(
                name,
                "running_var",
                &shape,
                Role::RunningVariance,
                constant(1.0),
            )?,
            num_batches_tracked: self.parameter(
                name,
                "num_batches_tracked",
                &[],
                Role::BatchCount,
                constant(0.0),
            )?,
            epsilon,
            momentum,
        };
        self.push(&label, op, &[input], from)
    }

    /// `max(x, 0)`.
    ///
    /// # Errors
    /// [`BuildError::Input`].
    pub fn relu(&mut self, input: NodeIdx) -> Result<NodeIdx, BuildError> {
        self.elementwise("relu", Op::Relu, input)
    }

    /// Dropout with `probability`.
    ///
    /// # Errors
    /// [`BuildError::Input`], [`BuildError::Range`].
    pub fn dropout(&mut self, input: NodeIdx, probability: f64) -> Result<NodeIdx, BuildError> {
        let label = self.numbered("dropout");
        let is_share = (0.0..1.0).contains(&probability);
        self.within(
            &label,
            "the probability",
            probability,
            is_share,
            "in [0, 1)",
        )?;
        self.elementwise("dropout", Op::Dropout { probability }, input)
    }

    /// The sum of two maps of one shape.
    ///
    /// # Errors
    /// [`BuildError::Input`], [`BuildError::Sum`].
    pub fn add(&mut self, left: NodeIdx, right: NodeIdx) -> Result<NodeIdx, BuildError> {
        let label = self.numbered("add");
        let (one, other) = (self.operand(&label, left)?, self.operand(&label, right)?);
        if one != other {
            return Err(BuildError::Sum {
                layer: self.called(&label),
                left: one,
                right: other,
            });
        }
        self.push(&label, Op::Add, &[left, right], one)
    }

    /// The maximum of each window.
    ///
    /// # Errors
    /// Every [`BuildError`] about a layer.
    pub fn max_pool(&mut self, input: NodeIdx, window: Window) -> Result<NodeIdx, BuildError> {
        let label = self.numbered("max-pool");
        let from = self.operand(&label, input)?;
        let output = self.slide(&label, from, from.channels, window)?;
        let Window {
            kernel,
            stride,
            padding,
        } = window;
        for (kernel, padding) in kernel.into_iter().zip(padding) {
            let is_half = padding <= kernel / 2;
            self.within(
                &label,
                "the padding",
                padding,
                is_half,
                "at most half of the window",
            )?;
        }
        let op = Op::MaxPool {
            kernel,
            stride,
            padding,
        };
        self.push(&label, op, &[input], output)
    }

    /// The mean of each window, which must have no padding.
    ///
    /// # Errors
    /// Every [`BuildError`] about a layer.
    pub fn avg_pool(&mut self, input: NodeIdx, window: Window) -> Result<NodeIdx, BuildError> {
        let label = self.numbered("avg-pool");
        let from = self.operand(&label, input)?;
        for padding in window.padding {
            self.within(&label, "the padding", padding, padding == 0, "0")?;
        }
        let output = self.slide(&label, from, from.channels, window)?;
        let op = Op::AvgPool {
            kernel: window.kernel,
            stride: window.stride,
        };
        self.push(&label, op, &[input], output)
    }

    /// The mean of each channel, a vector.
    ///
    /// # Errors
    /// [`BuildError::Input`].
    pub fn global_avg_pool(&mut self, input: NodeIdx) -> Result<NodeIdx, BuildError> {
        let label = self.numbered("global-avg-pool");
        let from = self.operand(&label, input)?;
        let output = Features::vector(from.channels);
        self.push(&label, Op::GlobalAvgPool, &[input], output)
    }

    /// The shortcut without parameters: every `stride`-th row and column, and channels
    /// of zeros in front and behind.
    ///
    /// # Errors
    /// [`BuildError::Input`], [`BuildError::Zero`], [`BuildError::TooLarge`].
    pub fn pad_shortcut(
        &mut self,
        input: NodeIdx,
        stride: usize,
        before: usize,
        after: usize,
    ) -> Result<NodeIdx, BuildError> {
        let label = self.numbered("pad-shortcut");
        let from = self.operand(&label, input)?;
        self.positive(&label, "the stride", &[stride])?;
        let output = Features {
            channels: from.channels.saturating_add(before).saturating_add(after),
            height: from.height.div_ceil(stride),
            width: from.width.div_ceil(stride),
        };
        let op = Op::PadShortcut {
            stride,
            before,
            after,
        };
        self.push(&label, op, &[input], output)
    }

    /// The map as a vector.
    ///
    /// # Errors
    /// [`BuildError::Input`].
    pub fn flatten(&mut self, input: NodeIdx) -> Result<NodeIdx, BuildError> {
        let label = self.numbered("flatten");
        let from = self.operand(&label, input)?;
        self.push(
            &label,
            Op::Flatten,
            &[input],
            Features::vector(from.numel()),
        )
    }

    /// The graph, whose logits are the output of the last node.
    ///
    /// # Errors
    /// [`BuildError::Unused`], [`BuildError::Output`].
    pub fn finish(self) -> Result<Graph, BuildError> {
        let used: BTreeSet<NodeIdx> = self
            .nodes
            .iter()
            .flat_map(|node| node.inputs.iter().copied())
            .collect();
        let last = self.nodes.len() - 1;
        if let Some(unused) = (0..last).find(|idx| !used.contains(idx)) {
            return Err(BuildError::Unused {
                layer: self.labels[unused].clone(),
            });
        }
        let found = self.nodes[last].output;
        if found.pixels() != 1 || found.channels < 2 {
            return Err(BuildError::Output {
                layer: self.labels[last].clone(),
                found,
            });
        }
        Ok(Graph {
            name: self.name,
            nodes: self.nodes,
            parameters: self.parameters,
        })
    }
}
