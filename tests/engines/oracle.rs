//! The definition that engines are held against: every operation as a straight loop in
//! `f64`, and gradients as central differences of the loss.

use sms_merge::graph::Features;
use sms_merge::graph::Graph;
use sms_merge::graph::Op;
use sms_merge::graph::ParameterIdx;
use sms_merge::train::Objective;
use sms_merge::train::Weights;
use sms_merge::train::engine::StepSeed;
use sms_merge::train::engine::dropout_factors;

/// Half of the distance between the two losses of a difference.
const STEP: f64 = 1e-5;

/// What a pass is for.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    /// Running statistics, no dropout.
    Predict,
    /// Statistics of the batch, no dropout.
    Observe,
    /// Statistics of the batch and dropout.
    Train(StepSeed),
}

/// What a batch norm saw of a batch: the statistic's parameter and its value.
pub(crate) type Statistic = (ParameterIdx, Vec<f64>);

/// A network in `f64`.
pub(crate) struct Oracle<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) values: Vec<Vec<f64>>,
}

/// A batch of maps, row-major (samples, channels, height, width).
struct Maps {
    shape: Features,
    values: Vec<f64>,
}

impl Maps {
    fn zeros(shape: Features, samples: usize) -> Self {
        let values = vec![0.0; samples * shape.numel()];
        Self { shape, values }
    }

    fn idx(&self, sample: usize, channel: usize, row: usize, column: usize) -> usize {
        let row = (sample * self.shape.channels + channel) * self.shape.height + row;
        row * self.shape.width + column
    }
}

impl<'a> Oracle<'a> {
    pub(crate) fn new(graph: &'a Graph, weights: &Weights) -> Self {
        let widen = |values: &Vec<f32>| values.iter().map(|&value| f64::from(value)).collect();
        Self {
            graph,
            values: weights.values.iter().map(widen).collect(),
        }
    }

    /// Logits, row-major (samples, classes), and what the batch norms saw: means and
    /// unbiased variances.
    pub(crate) fn forward(
        &self,
        pixels: &[f64],
        samples: usize,
        mode: Mode,
    ) -> (Vec<f64>, Vec<Statistic>) {
        let mut outputs: Vec<Maps> = Vec::new();
        let mut statistics = Vec::new();
        for (node_idx, node) in self.graph.nodes.iter().enumerate() {
            let mut output = Maps::zeros(node.output, samples);
            let inputs: Vec<&Maps> = node.inputs.iter().map(|&idx| &outputs[idx]).collect();
            match node.op {
                Op::Input => output.values = pixels.to_vec(),
                Op::Flatten => output.values.clone_from(&inputs[0].values),
                Op::Relu => {
                    let values = inputs[0].values.iter();
                    output.values = values.map(|value| value.max(0.0)).collect();
                }
                Op::Add => {
                    let pairs = inputs[0].values.iter().zip(&inputs[1].values);
                    output.values = pairs.map(|(left, right)| left + right).collect();
                }
                Op::Dropout { probability } => {
                    output.values.clone_from(&inputs[0].values);
                    if let Mode::Train(seed) = mode {
                        let numel = output.values.len();
                        let factors = dropout_factors(seed, node_idx, numel, probability);
                        for (value, factor) in output.values.iter_mut().zip(factors) {
                            *value *= f64::from(factor);
                        }
                    }
                }
                Op::BatchNorm { .. } => {
                    self.batch_norm(&node.op, inputs[0], &mut output, mode, &mut statistics);
                }
                Op::PadShortcut { stride, before, .. } => {
                    for_each(
                        inputs[0].shape.channels,
                        node.output,
                        samples,
                        |[n, c, y, x]| {
                            let to = output.idx(n, c + before, y, x);
                            output.values[to] =
                                inputs[0].values[inputs[0].idx(n, c, y * stride, x * stride)];
                        },
                    );
                }
                Op::Linear { weight, bias } => {
                    let (weight, input) = (&self.values[weight], inputs[0]);
                    let n_inputs = input.shape.numel();
                    for_each(node.output.channels, node.output, samples, |[n, o, ..]| {
                        let mut sum = bias.map_or(0.0, |bias| self.values[bias][o]);
                        for i in 0..n_inputs {
                            sum += weight[o * n_inputs + i] * input.values[n * n_inputs + i];
                        }
                        output.values[n * node.output.channels + o] = sum;
                    });
                }
                Op::Conv2d { .. } | Op::MaxPool { .. } | Op::AvgPool { .. } | Op::GlobalAvgPool => {
                    self.windowed(&node.op, inputs[0], &mut output, samples)
                }
            }
            outputs.push(output);
        }
        (outputs.pop().unwrap().values, statistics)
    }

    fn windowed(&self, op: &Op, input: &Maps, output: &mut Maps, samples: usize) {
        let (kernel, stride, padding) = match *op {
            Op::Conv2d {
                kernel,
                stride,
                padding,
                ..
            }
            | Op::MaxPool {
                kernel,
                stride,
                padding,
            } => (kernel, stride, padding),
            Op::AvgPool { kernel, stride } => (kernel, stride, [0, 0]),
            _ => ([input.shape.height, input.shape.width], [1, 1], [0, 0]),
        };
        // The pixel of a window, unless it lies outside.
        let inside = |at: usize, tap: usize, axis: usize, size: usize| {
            let place = at * stride[axis] + tap;
            place
                .checked_sub(padding[axis])
                .filter(|&place| place < size)
        };
        for_each(
            output.shape.channels,
            output.shape,
            samples,
            |[n, o, y, x]| {
                let mut sum = 0.0;
                let mut most = f64::NEG_INFINITY;
                for ky in 0..kernel[0] {
                    for kx in 0..kernel[1] {
                        let row = inside(y, ky, 0, input.shape.height);
                        let column = inside(x, kx, 1, input.shape.width);
                        let (Some(row), Some(column)) = (row, column) else {
                            continue;
                        };
                        if let Op::Conv2d { weight, .. } = *op {
                            for i in 0..input.shape.channels {
                                let tap = (o * input.shape.channels + i) * kernel[0] + ky;
                                sum += self.values[weight][tap * kernel[1] + kx]
                                    * input.values[input.idx(n, i, row, column)];
                            }
                        } else {
                            let value = input.values[input.idx(n, o, row, column)];
                            most = most.max(value);
                            sum += value / (kernel[0] * kernel[1]) as f64;
                        }
                    }
                }
                let to = output.idx(n, o, y, x);
                output.values[to] = match *op {
                    Op::Conv2d { bias, .. } => sum + bias.map_or(0.0, |bias| self.values[bias][o]),
                    Op::MaxPool { .. } => most,
                    _ => sum,
                };
            },
        );
    }

    fn batch_norm(
        &self,
        op: &Op,
        input: &Maps,
        output: &mut Maps,
        mode: Mode,
        statistics: &mut Vec<Statistic>,
    ) {
        let Op::BatchNorm {
            weight,
            bias,
            running_mean,
            running_var,
            epsilon,
            ..
        } = *op
        else {
            unreachable!()
        };
        let (channels, pixels) = (input.shape.channels, input.shape.pixels());
        let count = (input.values.len() / channels) as f64;
        let channel = |idx: usize| idx / pixels % channels;
        let (mean, variance) = if let Mode::Predict = mode {
            (
                self.values[running_mean].clone(),
                self.values[running_var].clone(),
            )
        } else {
            let mut mean = vec![0.0; channels];
            for (idx, value) in input.values.iter().enumerate() {
                mean[channel(idx)] += value / count;
            }
            let mut variance = vec![0.0; channels];
            for (idx, value) in input.values.iter().enumerate() {
                variance[channel(idx)] += (value - mean[channel(idx)]).powi(2) / count;
            }
            let unbiased = |value: &f64| value * count / (count - 1.0);
            statistics.push((running_mean, mean.clone()));
            statistics.push((running_var, variance.iter().map(unbiased).collect()));
            (mean, variance)
        };
        for (idx, value) in input.values.iter().enumerate() {
            let c = channel(idx);
            let normalised = (value - mean[c]) / (variance[c] + epsilon).sqrt();
            output.values[idx] = normalised * self.values[weight][c] + self.values[bias][c];
        }
    }

    /// Mean cross-entropy of a batch with smoothed labels.
    pub(crate) fn loss(
        &self,
        pixels: &[f64],
        labels: &[u32],
        objective: Objective,
        seed: StepSeed,
    ) -> f64 {
        let (logits, _) = self.forward(pixels, labels.len(), Mode::Train(seed));
        let classes = self.graph.classes();
        let mut sum = 0.0;
        for (row, &label) in logits.chunks_exact(classes).zip(labels) {
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = top
                + row
                    .iter()
                    .map(|logit| (logit - top).exp())
                    .sum::<f64>()
                    .ln();
            let mean = row.iter().sum::<f64>() / classes as f64;
            let sharp = log_sum - row[label as usize];
            let smooth = log_sum - mean;
            sum += (1.0 - objective.label_smoothing) * sharp + objective.label_smoothing * smooth;
        }
        sum / labels.len() as f64
    }

    /// Slopes of the loss along one coordinate: by a wide and by a narrow difference.
    /// They disagree where a step passes a kink of `max`.
    pub(crate) fn slopes(
        &mut self,
        (parameter, idx): (ParameterIdx, usize),
        loss: impl Fn(&Self) -> f64,
    ) -> [f64; 2] {
        let value = self.values[parameter][idx];
        let slopes = [STEP, STEP / 4.0].map(|step| {
            let mut at = |place: f64| {
                self.values[parameter][idx] = place;
                loss(self)
            };
            (at(value + step) - at(value - step)) / (2.0 * step)
        });
        self.values[parameter][idx] = value;
        slopes
    }
}

/// All coordinates of `channels` maps of the size of `shape`.
fn for_each(channels: usize, shape: Features, samples: usize, mut each: impl FnMut([usize; 4])) {
    for sample in 0..samples {
        for channel in 0..channels {
            for row in 0..shape.height {
                for column in 0..shape.width {
                    each([sample, channel, row, column]);
                }
            }
        }
    }
}
