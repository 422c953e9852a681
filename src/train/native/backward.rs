//! The backward pass: the gradient of the logits walks in, gradients of all learned
//! parameters are left in them.

use std::mem;

use super::convolve::Convolution;
use super::elementwise;
use super::elementwise::Shortcut;
use super::engine::Network;
use super::forward::pool;
use super::lanes::Deposit;
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
use super::product::Store;
use super::sparse;
use super::sparse::PatternKind;
use super::sparse::weight_gradient::ConvolutionGradient;
use super::weight_gradient::WeightGradient;
use super::window::Window;
use crate::graph::ParameterIdx;

/// Which gradients have been written in this pass, and are now added to.
struct Written(Vec<bool>);

impl Written {
    /// How a gradient is written now; from then on it is added to.
    fn deposit(&mut self, buffer: BufferIdx) -> Deposit {
        match mem::replace(&mut self.0[buffer], true) {
            true => Deposit::Add,
            false => Deposit::Set,
        }
    }
}

impl Network {
    /// Computes all gradients from `delta`, that of the logits, row-major (samples,
    /// classes).
    pub(super) fn backward(&mut self, delta: &[f32]) {
        let n_tiles = self.batch.n_tiles();
        for (layout, gradient) in self.plan.slots.iter().zip(&mut self.gradients) {
            gradient.resize(n_tiles * layout.rows(), Row::ZERO);
        }
        let mut written = Written(vec![false; self.plan.buffers.len()]);
        written.deposit(self.plan.logits);
        let layout = self.layout(self.plan.logits);
        let mut logits = self.lend(self.plan.logits);
        let tiles = logits.chunks_exact_mut(layout.rows());
        for (tile, delta) in tiles.zip(delta.chunks(layout.rows() * LANES)) {
            scatter(delta, layout, delta.len() / layout.rows(), tile);
        }
        self.give_back(self.plan.logits, logits);
        for idx in (0..self.plan.steps.len()).rev() {
            let step = self.plan.steps[idx].clone();
            // A step that nothing reads, or that no weight precedes, has no gradient.
            if !written.0[step.target] {
                continue;
            }
            let mut delta = self.lend(step.target);
            self.differentiate(idx, &step, &mut delta, &mut written);
            self.give_back(step.target, delta);
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
                self.fill_source(step, written, |network, deposit, target| {
                    network.convolve_back(step, window, weight, delta, deposit, target);
                });
            }
            Kind::Linear { weight, bias } => {
                self.bias_gradient(step, bias, delta);
                self.linear_gradient(step, weight, delta);
                self.fill_source(step, written, |network, deposit, target| {
                    network.multiply_back(step, weight, delta, deposit, target);
                });
            }
            Kind::MaxPool(window) => self.fill_source(step, written, |network, deposit, target| {
                let pool = pool(
                    window,
                    network.layout(step.source),
                    network.layout(step.target),
                );
                clear_for(deposit, target);
                pool.max_backward(delta, &network.kept[idx].choices, target);
            }),
            Kind::AvgPool(window) => self.fill_source(step, written, |network, deposit, target| {
                let pool = pool(
                    window,
                    network.layout(step.source),
                    network.layout(step.target),
                );
                clear_for(deposit, target);
                pool.average_backward(delta, target);
            }),
            Kind::Shortcut { stride, before } => {
                self.fill_source(step, written, |network, deposit, target| {
                    clear_for(deposit, target);
                    Shortcut {
                        stride,
                        before,
                        source: network.layout(step.source),
                        target: network.layout(step.target),
                    }
                    .backward(delta, target);
                });
            }
            Kind::Flatten => self.fill_source(step, written, |network, deposit, target| {
                elementwise::flatten_backward(delta, deposit, target, network.layout(step.source));
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

    /// Takes out the gradient of a buffer, so that all else can be read meanwhile.
    fn lend(&mut self, buffer: BufferIdx) -> Vec<Row> {
        let slot = self.plan.slot_of[buffer];
        slot.map_or_else(Vec::new, |slot| mem::take(&mut self.gradients[slot]))
    }

    fn give_back(&mut self, buffer: BufferIdx, gradient: Vec<Row>) {
        if let Some(slot) = self.plan.slot_of[buffer] {
            self.gradients[slot] = gradient;
        }
    }

    /// Hands the gradient of the step's source to `write`, if there is one.
    fn fill_source(
        &mut self,
        step: &Step,
        written: &mut Written,
        write: impl FnOnce(&mut Self, Deposit, &mut [Row]),
    ) {
        if self.plan.buffers[step.source].has_gradient {
            let deposit = written.deposit(step.source);
            let mut target = self.lend(step.source);
            write(self, deposit, &mut target);
            self.give_back(step.source, target);
        }
    }

    /// Copies or deposit a gradient to that of another buffer of the same shape.
    fn hand_on(&mut self, to: BufferIdx, from: BufferIdx, delta: &[Row], written: &mut Written) {
        if self.plan.buffers[to].has_gradient {
            let deposit = written.deposit(to);
            let (source, target) = (self.layout(from), self.layout(to));
            let mut gradient = self.lend(to);
            elementwise::transfer(delta, source, deposit, &mut gradient, target);
            self.give_back(to, gradient);
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
        let sums = norm.reduce(&affine, source, output, delta);
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
        self.fill_source(step, written, |network, deposit, target| {
            let source = &network.values[step.source];
            norm.differentiate(&affine, &sums, source, delta, deposit, target);
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
        deposit: Deposit,
        target: &mut [Row],
    ) {
        let (inputs, outputs) = (self.layout(step.source), self.layout(step.target));
        let weight = &self.parameters[weight];
        if let Some(PatternKind::Convolution { backward, .. }) = weight.pattern_kind() {
            backward.run(
                self.arch,
                &weight.values,
                &[],
                store(deposit),
                delta,
                target,
            );
            return;
        }
        let n_taps = window.n_taps();
        Convolution {
            phases: &window.backward([inputs.plane.height, inputs.plane.width]),
            n_taps,
            source: outputs,
            target: inputs,
            bias: &[],
            store: store(deposit),
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
        deposit: Deposit,
        target: &mut [Row],
    ) {
        let n_inputs = self.layout(step.source).rows();
        let n_outputs = self.layout(step.target).rows();
        let weight = &self.parameters[weight];
        if let Some(PatternKind::Linear { backward, .. }) = weight.pattern_kind() {
            backward.run(
                self.arch,
                &weight.values,
                &[],
                store(deposit),
                delta,
                target,
            );
            return;
        }
        Product {
            n_source: n_outputs,
            n_target: n_inputs,
            bias: &[],
            store: store(deposit),
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

fn store(deposit: Deposit) -> Store {
    match deposit {
        Deposit::Set => Store::Plain,
        Deposit::Add => Store::Add,
    }
}

/// Makes room for what is added up.
fn clear_for(deposit: Deposit, target: &mut [Row]) {
    if deposit == Deposit::Set {
        target.fill(Row::ZERO);
    }
}
