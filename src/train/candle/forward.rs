//! The forward pass: images walk in, logits walk out. Tensors are (channels, samples,
//! height, width).

use candle_core::Tensor;

use crate::graph::NodeIdx;
use crate::graph::Op;
use crate::graph::ParameterIdx;
use crate::train::engine::EngineError;
use crate::train::engine::Images;
use crate::train::engine::StepSeed;
use crate::train::engine::dropout_factors;

use super::CandleEngine;
use super::failed;
use super::window::Take;

/// What a pass is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    /// Running statistics, no dropout, no gradients.
    Predict,
    /// Statistics of the batch, no dropout, no gradients.
    Observe,
    /// Statistics of the batch, dropout, gradients.
    Train(StepSeed),
}

/// What a batch norm saw of a batch.
#[derive(Debug)]
pub(super) struct Statistics {
    pub(super) running_mean: ParameterIdx,
    pub(super) running_var: ParameterIdx,
    pub(super) num_batches_tracked: ParameterIdx,
    pub(super) momentum: f64,
    /// (channels).
    pub(super) mean: Tensor,
    /// (channels), unbiased.
    pub(super) variance: Tensor,
}

/// One pass through the graph.
struct Pass<'a> {
    engine: &'a CandleEngine,
    mode: Mode,
    samples: usize,
    statistics: Vec<Statistics>,
}

impl CandleEngine {
    /// Logits (classes, samples), and what each batch norm saw.
    pub(super) fn forward(
        &self,
        images: Images<'_>,
        mode: Mode,
    ) -> Result<(Tensor, Vec<Statistics>), EngineError> {
        let mut pass = Pass {
            engine: self,
            mode,
            samples: images.samples,
            statistics: Vec::new(),
        };
        let mut outputs: Vec<Option<Tensor>> = vec![None; self.graph.nodes.len()];
        for (node_idx, node) in self.graph.nodes.iter().enumerate() {
            let output = if node.op == Op::Input {
                self.input(images).map_err(failed)?
            } else {
                let inputs = node.inputs.iter().filter_map(|&idx| outputs[idx].clone());
                pass.node(node_idx, &inputs.collect::<Vec<_>>())?
            };
            for &input in &node.inputs {
                if self.last_uses[input] == node_idx {
                    outputs[input] = None;
                }
            }
            outputs[node_idx] = Some(output);
        }
        let logits = outputs.pop().flatten().ok_or_else(|| {
            EngineError::Device("a network without nodes computes nothing".into())
        })?;
        let shape = (self.graph.classes(), images.samples);
        Ok((logits.reshape(shape).map_err(failed)?, pass.statistics))
    }

    fn input(&self, images: Images<'_>) -> candle_core::Result<Tensor> {
        let image = self.graph.input();
        let shape = (images.samples, image.channels, image.height, image.width);
        let tensor = Tensor::from_slice(images.pixels, shape, &self.device)?;
        tensor.transpose(0, 1)?.contiguous()
    }
}

impl Pass<'_> {
    fn node(&mut self, node_idx: NodeIdx, inputs: &[Tensor]) -> Result<Tensor, EngineError> {
        let graph = &self.engine.graph;
        let node = &graph.nodes[node_idx];
        let has_statistics = !matches!(self.mode, Mode::Predict);
        let values = self.samples * node.output.pixels();
        if matches!(node.op, Op::BatchNorm { .. }) && has_statistics && values < 2 {
            return Err(EngineError::OneValue);
        }
        self.compute(node_idx, inputs).map_err(failed)
    }

    fn compute(&mut self, node_idx: NodeIdx, inputs: &[Tensor]) -> candle_core::Result<Tensor> {
        let node = &self.engine.graph.nodes[node_idx];
        let input = &inputs[0];
        let output = match &node.op {
            Op::Input | Op::Flatten => flatten(input)?,
            Op::Conv2d {
                weight,
                bias,
                padding,
                ..
            } => self.convolution(node_idx, input, (*weight, *bias), *padding)?,
            Op::Linear { weight, bias } => {
                let input = input.flatten(2, 3)?.squeeze(2)?;
                self.product(*weight, *bias, &input, node_idx)?
            }
            Op::BatchNorm { .. } => self.batch_norm(&node.op, input)?,
            Op::Relu => {
                // Zero passes no gradient, as in torch, and what is not a number stays.
                let zeros = input.zeros_like()?;
                input.le(&zeros)?.where_cond(&zeros, input)?
            }
            Op::Add => (input + &inputs[1])?,
            Op::MaxPool { padding, .. } => self.max_pool(node_idx, input, *padding)?,
            Op::AvgPool { .. } => self.windows(node_idx, input, None)?.mean(2)?,
            Op::GlobalAvgPool => input.mean_keepdim(3)?.mean_keepdim(2)?,
            Op::PadShortcut { before, after, .. } => self
                .windows(node_idx, input, None)?
                .pad_with_zeros(0, *before, *after)?,
            Op::Dropout { probability } => self.dropout(node_idx, input, *probability)?,
        };
        let features = node.output;
        output.reshape((
            features.channels,
            self.samples,
            features.height,
            features.width,
        ))
    }

    /// A parameter, followed by gradients only in training.
    fn parameter(&self, parameter: ParameterIdx) -> candle_core::Result<Tensor> {
        match (&self.engine.values[parameter], self.mode) {
            (Some(value), Mode::Train(_)) => Ok(value.as_tensor().clone()),
            (Some(value), _) => Ok(value.as_detached_tensor()),
            (None, _) => candle_core::bail!("a count has no values"),
        }
    }

    /// Windows of each map: (channels, samples, kernel pixels, output pixels). `padding`
    /// is the value of a pixel outside.
    fn windows(
        &self,
        node_idx: NodeIdx,
        input: &Tensor,
        padding: Option<f32>,
    ) -> candle_core::Result<Tensor> {
        let flat = padded(input, padding)?;
        let Some(tables) = self.engine.windows.get(&node_idx) else {
            return flat.unsqueeze(2);
        };
        let (channels, samples, _) = flat.dims3()?;
        let (kernel, pixels) = tables.taken.dims2()?;
        flat.apply_op1(Take(tables.clone()))?
            .reshape((channels, samples, kernel, pixels))
    }

    fn convolution(
        &self,
        node_idx: NodeIdx,
        input: &Tensor,
        (weight, bias): (ParameterIdx, Option<ParameterIdx>),
        padding: [usize; 2],
    ) -> candle_core::Result<Tensor> {
        let padding = (padding != [0; 2]).then_some(0.0);
        let windows = self.windows(node_idx, input, padding)?;
        let (channels, samples, kernel, pixels) = windows.dims4()?;
        let columns = windows
            .transpose(1, 2)?
            .reshape((channels * kernel, samples * pixels))?;
        self.product(weight, bias, &columns, node_idx)
    }

    /// `W x + b` of columns (inputs of the weight, samples and pixels).
    fn product(
        &self,
        weight: ParameterIdx,
        bias: Option<ParameterIdx>,
        columns: &Tensor,
        node_idx: NodeIdx,
    ) -> candle_core::Result<Tensor> {
        let weight = self.parameter(weight)?;
        let product = weight.flatten_from(1)?.matmul(&columns.contiguous()?)?;
        let features = self.engine.graph.nodes[node_idx].output;
        let product = product.reshape((
            features.channels,
            self.samples,
            features.height,
            features.width,
        ))?;
        match bias {
            None => Ok(product),
            Some(bias) => &product + spread(&self.parameter(bias)?, &product)?,
        }
    }

    fn max_pool(
        &self,
        node_idx: NodeIdx,
        input: &Tensor,
        padding: [usize; 2],
    ) -> candle_core::Result<Tensor> {
        let Some(tables) = self.engine.windows.get(&node_idx) else {
            return Ok(input.clone());
        };
        let padding = (padding != [0; 2]).then_some(f32::NEG_INFINITY);
        let windows = self.windows(node_idx, &input.detach(), padding)?;
        let (channels, samples, kernel, pixels) = windows.dims4()?;
        let shape = (channels, samples, pixels);
        let candidate = |place: usize| {
            let values = windows.narrow(2, place, 1)?.squeeze(2)?.contiguous()?;
            let at = tables.taken.narrow(0, place, 1)?.unsqueeze(0)?;
            candle_core::Result::Ok((values, at.broadcast_as(shape)?.contiguous()?))
        };
        let (mut best, mut winner) = candidate(0)?;
        for place in 1..kernel {
            // The first of equal values wins, and what is not a number does, as in torch.
            let (values, at) = candidate(place)?;
            let is_new = (values.gt(&best)? + values.ne(&values)?)?;
            best = is_new.where_cond(&values, &best)?;
            winner = is_new.where_cond(&at, &winner)?;
        }
        padded(input, padding)?.gather(&winner, 2)
    }

    fn batch_norm(&mut self, op: &Op, input: &Tensor) -> candle_core::Result<Tensor> {
        let &Op::BatchNorm {
            weight,
            bias,
            running_mean,
            running_var,
            num_batches_tracked,
            epsilon,
            momentum,
        } = op
        else {
            candle_core::bail!("not a batch norm")
        };
        let (centred, variance) = if matches!(self.mode, Mode::Predict) {
            let centred = (input - spread(&self.parameter(running_mean)?, input)?)?;
            (centred, self.parameter(running_var)?)
        } else {
            let mean = channel_mean(input)?;
            let centred = (input - spread(&mean, input)?)?;
            let variance = channel_mean(&centred.sqr()?)?;
            let values = (input.elem_count() / input.dim(0)?) as f64;
            self.statistics.push(Statistics {
                running_mean,
                running_var,
                num_batches_tracked,
                momentum,
                mean: mean.detach(),
                variance: variance.detach().affine(values / (values - 1.0), 0.0)?,
            });
            (centred, variance)
        };
        let deviation = (variance + epsilon)?.sqrt()?;
        let normalised = (centred / spread(&deviation, input)?)?;
        let scaled = (normalised * spread(&self.parameter(weight)?, input)?)?;
        scaled + spread(&self.parameter(bias)?, input)?
    }

    fn dropout(
        &self,
        node_idx: NodeIdx,
        input: &Tensor,
        probability: f64,
    ) -> candle_core::Result<Tensor> {
        let Mode::Train(seed) = self.mode else {
            return Ok(input.clone());
        };
        let (channels, samples, height, width) = input.dims4()?;
        let factors = dropout_factors(seed, node_idx, input.elem_count(), probability);
        let shape = (samples, channels, height, width);
        let factors = Tensor::from_vec(factors, shape, input.device())?;
        input * factors.transpose(0, 1)?.contiguous()?
    }
}

/// Maps as rows of pixels (channels, samples, pixels), with one more pixel of the value
/// `padding`, if there is one.
fn padded(input: &Tensor, padding: Option<f32>) -> candle_core::Result<Tensor> {
    let flat = input.flatten_from(2)?;
    let Some(padding) = padding else {
        return Ok(flat);
    };
    let (channels, samples, _) = flat.dims3()?;
    let outside = Tensor::full(padding, (channels, samples, 1), input.device())?;
    Tensor::cat(&[flat, outside.contiguous()?], 2)
}

/// The maps of one sample as one vector: (features, samples).
fn flatten(input: &Tensor) -> candle_core::Result<Tensor> {
    let (channels, samples, height, width) = input.dims4()?;
    input
        .permute((0, 2, 3, 1))?
        .reshape((channels * height * width, samples))
}

/// Mean of each channel. Rows, then columns, then samples: short sums lose less.
fn channel_mean(input: &Tensor) -> candle_core::Result<Tensor> {
    input.mean(3)?.mean(2)?.mean(1)
}

/// One value per channel in the shape of `like`. One dimension at a time, so that the
/// sums of the gradient are short as well.
fn spread(values: &Tensor, like: &Tensor) -> candle_core::Result<Tensor> {
    let (channels, samples, height, width) = like.dims4()?;
    values
        .reshape((channels, 1, 1, 1))?
        .broadcast_as((channels, samples, 1, 1))?
        .broadcast_as((channels, samples, height, 1))?
        .broadcast_as((channels, samples, height, width))
}
