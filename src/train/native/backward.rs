//! The backward pass: the gradient of the logits walks in, gradients of all learned
//! parameters are left in them.

use std::mem;

use super::convolve::Convolution;
use super::convolve::Store;
use super::elementwise;
use super::elementwise::Shortcut;
use super::engine::Network;
use super::forward::pool;
use super::lanes::LANES;
use super::lanes::Row;
use super::lanes::scatter;
use super::linear;
use super::linear::Product;
use super::linear::pack_columns;
use super::norm::Rectify;
use super::plan;
use super::plan::BufferIdx;
use super::plan::Kind;
use super::plan::Step;
use super::sparse;
use super::sparse::PatternKind;
use super::sparse::weight_gradient::ConvolutionGradient;
use super::weight_gradient::WeightGradient;
use super::window::Window;
use crate::graph::ParameterIdx;

/// Which gradients have been written in this pass, and are now added to.
struct Written(Vec<bool>);

impl Written {
    /// Whether the gradient must be added to what is there; from now on it must.
    fn adds(&mut self, buffer: BufferIdx) -> bool {
        mem::replace(&mut self.0[buffer], true)
    }
}

impl Network {
    /// Computes all gradients from `delta`, that of the logits, row-major (samples,
    /// classes).
    pub(super) fn backward(&mut self, delta: &[f32]) {
        let n_tiles = self.batch.n_tiles();
        for (buffer, gradient) in self.plan.buffers.iter().zip(&mut self.gradients) {
            if buffer.has_gradient {
                gradient.resize(n_tiles * buffer.layout.rows(), Row::ZERO);
            }
        }
        let mut written = Written(vec![false; self.plan.buffers.len()]);
        written.adds(self.plan.logits);
        let layout = self.layout(self.plan.logits);
        let tiles = self.gradients[self.plan.logits].chunks_exact_mut(layout.rows());
        for (tile, delta) in tiles.zip(delta.chunks(layout.rows() * LANES)) {
            scatter(delta, layout, delta.len() / layout.rows(), tile);
        }
        for idx in (0..self.plan.steps.len()).rev() {
            let step = self.plan.steps[idx].clone();
            // A step that nothing reads, or that no weight precedes, has no gradient.
            if !written.0[step.target] {
                continue;
            }
            let mut delta = mem::take(&mut self.gradients[step.target]);
            self.differentiate(idx, &step, &mut delta, &mut written);
            self.gradients[step.target] = delta;
        }
        for parameter in &mut self.parameters {
            parameter.mask_gradient();
        }
    }

    fn differentiate(&mut self, idx: usize, step: &Step, delta: &mut [Row], written: &mut Written) {
        if let Kind::Norm(norm) = &step.kind {
            self.differentiate_norm(idx, step, norm, delta, written);
            return;
        }
        if step.rectify == Rectify::Yes {
            elementwise::rectify_backward(&self.values[step.target], delta);
        }
        match step.kind {
            Kind::Convolution {
                window,
                weight,
                bias,
            } => {
                self.bias_gradient(step, bias, delta);
                self.convolution_gradient(step, window, weight, delta);
                self.into_source(step, written, |network, adds, target| {
                    network.convolve_back(step, window, weight, delta, adds, target);
                });
            }
            Kind::Linear { weight, bias } => {
                self.bias_gradient(step, bias, delta);
                self.linear_gradient(step, weight, delta);
                self.into_source(step, written, |network, adds, target| {
                    network.multiply_back(step, weight, delta, adds, target);
                });
            }
            Kind::MaxPool(window) => self.into_source(step, written, |network, adds, target| {
                let pool = pool(
                    window,
                    network.layout(step.source),
                    network.layout(step.target),
                );
                clear_unless(adds, target);
                pool.max_backward(delta, &network.kept[idx].choices, target);
            }),
            Kind::AvgPool(window) => self.into_source(step, written, |network, adds, target| {
                let pool = pool(
                    window,
                    network.layout(step.source),
                    network.layout(step.target),
                );
                clear_unless(adds, target);
                pool.average_backward(delta, target);
            }),
            Kind::Shortcut { stride, before } => {
                self.into_source(step, written, |network, adds, target| {
                    clear_unless(adds, target);
                    Shortcut {
                        stride,
                        before,
                        source: network.layout(step.source),
                        target: network.layout(step.target),
                    }
                    .backward(delta, target);
                });
            }
            Kind::Flatten => self.into_source(step, written, |network, adds, target| {
                elementwise::flatten_backward(delta, adds, target, network.layout(step.source));
            }),
            Kind::Dropout { .. } => {
                elementwise::scale(&self.kept[idx].factors, delta);
                self.hand_on(step.source, step.target, delta, written);
            }
            Kind::Add => {
                self.hand_on(step.source, step.target, delta, written);
                if let Some(addend) = step.addend {
                    self.hand_on(addend, step.target, delta, written);
                }
            }
            Kind::Norm(_) => {}
        }
    }

    /// Lends out the gradient of the step's source, if it has one.
    fn into_source(
        &mut self,
        step: &Step,
        written: &mut Written,
        write: impl FnOnce(&mut Self, bool, &mut [Row]),
    ) {
        if self.plan.buffers[step.source].has_gradient {
            let adds = written.adds(step.source);
            let mut target = mem::take(&mut self.gradients[step.source]);
            write(self, adds, &mut target);
            self.gradients[step.source] = target;
        }
    }

    /// Copies or adds a gradient to that of another buffer of the same shape.
    fn hand_on(&mut self, to: BufferIdx, from: BufferIdx, delta: &[Row], written: &mut Written) {
        if self.plan.buffers[to].has_gradient {
            let adds = written.adds(to);
            let (source, target) = (self.layout(from), self.layout(to));
            elementwise::transfer(delta, source, adds, &mut self.gradients[to], target);
        }
    }

    fn differentiate_norm(
        &mut self,
        idx: usize,
        step: &Step,
        parameters: &plan::Norm,
        delta: &mut [Row],
        written: &mut Written,
    ) {
        let norm = self.norm(step);
        let affine = mem::take(&mut self.kept[idx].affine);
        let source = &self.values[step.source];
        let output = match step.rectify {
            Rectify::Yes => Some(self.values[step.target].as_slice()),
            Rectify::No => None,
        };
        let sums = norm.reduce(self.arch, &affine, source, output, delta);
        let scales = &mut self.parameters[parameters.weight].gradient;
        for (gradient, (product, _)) in scales.iter_mut().zip(&sums) {
            *gradient = *product as f32;
        }
        let shifts = &mut self.parameters[parameters.bias].gradient;
        for (gradient, (_, sum)) in shifts.iter_mut().zip(&sums) {
            *gradient = *sum as f32;
        }
        if let Some(addend) = step.addend {
            self.hand_on(addend, step.target, delta, written);
        }
        self.into_source(step, written, |network, adds, target| {
            let source = &network.values[step.source];
            norm.differentiate(network.arch, &affine, &sums, source, delta, adds, target);
        });
        self.kept[idx].affine = affine;
    }

    fn bias_gradient(&mut self, step: &Step, bias: Option<ParameterIdx>, delta: &[Row]) {
        if let Some(bias) = bias {
            let sums = elementwise::channel_sums(delta, self.layout(step.target));
            self.parameters[bias].gradient.copy_from_slice(&sums);
        }
    }

    fn convolution_gradient(
        &mut self,
        step: &Step,
        window: Window,
        weight: ParameterIdx,
        delta: &[Row],
    ) {
        let (from, to) = (self.layout(step.source), self.layout(step.target));
        let source = &self.values[step.source];
        let phase = &window.forward()[0];
        let n_taps = window.n_taps();
        let weight = &mut self.parameters[weight];
        match &weight.pattern {
            Some(pattern) => ConvolutionGradient {
                phase,
                n_taps,
                source: from,
                delta: to,
                numel: pattern.numel,
            }
            .run(
                self.arch,
                &pattern.positions,
                source,
                delta,
                &mut weight.gradient,
            ),
            None => WeightGradient {
                phase,
                n_taps,
                source: from,
                delta: to,
            }
            .run(
                self.arch,
                source,
                delta,
                &mut self.scratch.numbers,
                &mut weight.gradient,
            ),
        }
    }

    fn convolve_back(
        &mut self,
        step: &Step,
        window: Window,
        weight: ParameterIdx,
        delta: &[Row],
        adds: bool,
        target: &mut [Row],
    ) {
        let (inputs, outputs) = (self.layout(step.source), self.layout(step.target));
        let weight = &self.parameters[weight];
        if let Some(PatternKind::Convolution { backward, .. }) = weight.pattern_kind() {
            backward.run(self.arch, &weight.values, &[], store(adds), delta, target);
            return;
        }
        let n_taps = window.n_taps();
        Convolution {
            phases: &window.backward(),
            n_taps,
            source: outputs,
            target: inputs,
            bias: &[],
            store: store(adds),
        }
        .run(
            self.arch,
            |input, output, tap| weight.values[(output * inputs.channels + input) * n_taps + tap],
            &mut self.scratch.numbers,
            delta,
            target,
        );
    }

    fn linear_gradient(&mut self, step: &Step, weight: ParameterIdx, delta: &[Row]) {
        let n_source = self.layout(step.source).rows();
        let n_delta = self.layout(step.target).rows();
        let source = &self.values[step.source];
        let weight = &mut self.parameters[weight];
        match &weight.pattern {
            Some(pattern) => sparse::weight_gradient::linear(
                self.arch,
                &pattern.positions,
                n_source,
                n_delta,
                source,
                delta,
                &mut weight.gradient,
            ),
            None => linear::weight_gradient(
                self.arch,
                n_source,
                n_delta,
                source,
                delta,
                &mut self.scratch.rows,
                &mut weight.gradient,
            ),
        }
    }

    fn multiply_back(
        &mut self,
        step: &Step,
        weight: ParameterIdx,
        delta: &[Row],
        adds: bool,
        target: &mut [Row],
    ) {
        let n_inputs = self.layout(step.source).rows();
        let n_outputs = self.layout(step.target).rows();
        let weight = &self.parameters[weight];
        if let Some(PatternKind::Linear { backward, .. }) = weight.pattern_kind() {
            backward.run(self.arch, &weight.values, &[], store(adds), delta, target);
            return;
        }
        Product {
            n_source: n_outputs,
            n_target: n_inputs,
            bias: &[],
            store: store(adds),
        }
        .run(
            self.arch,
            pack_columns(&weight.values, n_inputs),
            &mut self.scratch.rows,
            delta,
            target,
        );
    }
}

fn store(adds: bool) -> Store {
    if adds { Store::Add } else { Store::Plain }
}

fn clear_unless(adds: bool, target: &mut [Row]) {
    if !adds {
        target.fill(Row::ZERO);
    }
}
