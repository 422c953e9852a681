//! The forward pass.

use std::mem;

use super::convolve::Convolution;
use super::elementwise;
use super::elementwise::Shortcut;
use super::engine::Network;
use super::engine::Purpose;
use super::lanes::Deposit;
use super::lanes::LANES;
use super::lanes::Layout;
use super::lanes::Row;
use super::lanes::scatter;
use super::linear::Product;
use super::linear::pack_rows;
use super::norm::Affine;
use super::norm::Moments;
use super::norm::Norm;
use super::norm::Rectify;
use super::plan;
use super::plan::BufferIdx;
use super::plan::Kind;
use super::plan::Step;
use super::pool::Pool;
use super::product::Store;
use super::sparse::PatternKind;
use super::window::Window;
use crate::graph::Features;
use crate::graph::NodeIdx;
use crate::graph::ParameterIdx;
use crate::train::engine::EngineError;
use crate::train::engine::StepSeed;
use crate::train::engine::dropout_factors;

impl Network {
    /// Computes all steps on the loaded batch.
    pub(super) fn forward(&mut self, purpose: Purpose) -> Result<(), EngineError> {
        let has_one_value =
            |step: &Step| matches!(step.kind, Kind::Norm(_)) && self.norm(step).count() < 2;
        let by_batch = !matches!(purpose, Purpose::Predict);
        // Asked first, so that no statistic has moved when the batch is refused.
        if by_batch && self.plan.steps.iter().any(has_one_value) {
            return Err(EngineError::OneValue);
        }
        for idx in 0..self.plan.steps.len() {
            let step = self.plan.steps[idx].clone();
            // The target is lent out, so that the step can read all other buffers.
            let mut target = mem::take(&mut self.values[step.target]);
            self.compute(idx, &step, purpose, &mut target);
            self.values[step.target] = target;
        }
        Ok(())
    }

    fn compute(&mut self, idx: usize, step: &Step, purpose: Purpose, target: &mut [Row]) {
        let from = self.layout(step.source);
        let to = self.layout(step.target);
        let source = &self.values[step.source];
        match step.kind {
            Kind::Convolution {
                window,
                weight,
                bias,
            } => self.convolve(step, window, weight, bias, target),
            Kind::Linear { weight, bias } => self.multiply(step, weight, bias, target),
            Kind::Norm(norm) => self.normalise(idx, step, &norm, purpose, target),
            Kind::MaxPool(window) => {
                let pool = pool(window, from, to);
                let choices = &mut self.kept[idx].choices;
                choices.resize(target.len(), [0; LANES]);
                pool.max(self.arch, source, target, choices);
            }
            Kind::AvgPool(window) => pool(window, from, to).average(source, target),
            Kind::Shortcut { stride, before } => Shortcut {
                stride,
                before,
                source: from,
                target: to,
            }
            .forward(source, target),
            Kind::Add => {
                let addend = step
                    .addend
                    .map(|idx| (self.values[idx].as_slice(), self.layout(idx)));
                elementwise::add((source, from), addend, step.rectify, target, to);
            }
            Kind::Flatten => elementwise::flatten(source, from, target),
            Kind::Dropout { node, probability } => match purpose {
                Purpose::Train(seed) => self.drop_out(idx, step, node, probability, seed, target),
                _ => elementwise::transfer(source, from, Deposit::Set, target, to),
            },
        }
    }

    fn convolve(
        &mut self,
        step: &Step,
        window: Window,
        weight: ParameterIdx,
        bias: Option<ParameterIdx>,
        target: &mut [Row],
    ) {
        let (from, to) = (self.layout(step.source), self.layout(step.target));
        let source = &self.values[step.source];
        let bias = bias.map(|bias| self.parameters[bias].values.as_slice());
        let bias = bias.unwrap_or_default();
        let store = store(step.rectify);
        let weight = &self.parameters[weight];
        if let Some(PatternKind::Convolution { forward, .. }) = weight.pattern_kind() {
            forward.run(self.arch, &weight.values, bias, store, source, target);
            return;
        }
        let n_taps = window.n_taps();
        Convolution {
            phases: &window.forward(),
            n_taps,
            source: from,
            target: to,
            bias,
            store,
        }
        .run(
            self.arch,
            |output, input, tap| weight.values[(output * from.channels + input) * n_taps + tap],
            &mut self.scratch.numbers,
            source,
            target,
        );
    }

    fn multiply(
        &mut self,
        step: &Step,
        weight: ParameterIdx,
        bias: Option<ParameterIdx>,
        target: &mut [Row],
    ) {
        let n_source = self.layout(step.source).rows();
        let n_target = self.layout(step.target).rows();
        let source = &self.values[step.source];
        let bias = bias.map(|bias| self.parameters[bias].values.as_slice());
        let bias = bias.unwrap_or_default();
        let store = store(step.rectify);
        let weight = &self.parameters[weight];
        if let Some(PatternKind::Linear { forward, .. }) = weight.pattern_kind() {
            forward.run(self.arch, &weight.values, bias, store, source, target);
            return;
        }
        Product {
            n_source,
            n_target,
            bias,
            store,
        }
        .run(
            self.arch,
            pack_rows(&weight.values, n_source),
            &mut self.scratch.rows,
            source,
            target,
        );
    }

    /// Shape of a buffer.
    pub(super) fn layout(&self, buffer: BufferIdx) -> Layout {
        self.plan.buffers[buffer].layout
    }

    fn normalise(
        &mut self,
        idx: usize,
        step: &Step,
        parameters: &plan::Norm,
        purpose: Purpose,
        target: &mut [Row],
    ) {
        let norm = self.norm(step);
        let factor = match purpose {
            Purpose::Predict => None,
            Purpose::Train(_) => Some(parameters.momentum),
            Purpose::Observe(factor) => Some(factor),
        };
        let moments = match factor {
            None => self.running_moments(parameters),
            Some(factor) => {
                let moments = norm.moments(&self.values[step.source]);
                self.track(parameters, &moments, norm.count(), factor);
                moments
            }
        };
        let scales = &self.parameters[parameters.weight].values;
        let shifts = &self.parameters[parameters.bias].values;
        let affine: Vec<Affine> = moments
            .iter()
            .zip(scales.iter().zip(shifts))
            .map(|(moments, (&scale, &shift))| {
                let inverse = 1.0 / (moments.variance + parameters.epsilon).sqrt();
                Affine {
                    mean: moments.mean as f32,
                    inverse_deviation: inverse as f32,
                    scale: (inverse * f64::from(scale)) as f32,
                    shift,
                }
            })
            .collect();
        let addend = step
            .addend
            .map(|idx| (self.values[idx].as_slice(), self.layout(idx)));
        let source = &self.values[step.source];
        norm.normalise(&affine, source, addend, step.rectify, target);
        self.kept[idx].affine = affine;
    }

    /// The batch norm of a step, on the loaded batch.
    pub(super) fn norm(&self, step: &Step) -> Norm {
        Norm {
            arch: self.arch,
            source: self.layout(step.source),
            target: self.layout(step.target),
            batch: self.batch,
        }
    }

    fn running_moments(&self, norm: &plan::Norm) -> Vec<Moments> {
        let values = |idx: ParameterIdx| self.parameters[idx].values.iter();
        values(norm.running_mean)
            .zip(values(norm.running_var))
            .map(|(&mean, &variance)| Moments {
                mean: f64::from(mean),
                variance: f64::from(variance),
            })
            .collect()
    }

    fn drop_out(
        &mut self,
        idx: usize,
        step: &Step,
        node: NodeIdx,
        probability: f64,
        seed: StepSeed,
        target: &mut [Row],
    ) {
        let layout = self.layout(step.target);
        let features = Features {
            channels: layout.channels,
            height: layout.plane.height,
            width: layout.plane.width,
        };
        let numel = features.numel();
        let factors = dropout_factors(seed, node, self.batch.samples * numel, probability);
        let kept = &mut self.kept[idx].factors;
        kept.resize(target.len(), Row::ZERO);
        let tiles = kept.chunks_exact_mut(layout.rows());
        for (tile, factors) in tiles.zip(factors.chunks(numel * LANES)) {
            scatter(factors, layout, factors.len() / numel, tile);
        }
        let from = self.layout(step.source);
        elementwise::transfer(
            &self.values[step.source],
            from,
            Deposit::Set,
            target,
            layout,
        );
        elementwise::scale(&self.kept[idx].factors, target);
    }
}

/// The pooling of a step; a window of no size is the whole map.
pub(super) fn pool(window: Window, source: Layout, target: Layout) -> Pool {
    let whole = [source.plane.height, source.plane.width];
    let kernel = if window.kernel == [0, 0] {
        whole
    } else {
        window.kernel
    };
    Pool {
        window: Window { kernel, ..window },
        source,
        target,
    }
}

fn store(rectify: Rectify) -> Store {
    match rectify {
        Rectify::Yes => Store::Relu,
        Rectify::No => Store::Plain,
    }
}
