//! What a network's buffers will take, before any of them is made.

use super::lanes::Batch;
use super::lanes::LANES;
use super::lanes::Row;
use super::plan::Kind;
use super::plan::Plan;
use super::plan::Step;
use crate::graph::Graph;

/// Bytes of the buffers of a dense network for a batch of so many images: of the forward
/// pass, and of the backward pass if it is asked for.
pub fn buffer_bytes(graph: &Graph, samples: usize, with_gradients: bool) -> u64 {
    let plan = Plan::new(graph);
    let n_tiles = Batch { samples }.n_tiles();
    let scratch = plan.scratch(n_tiles, with_gradients);
    let rows = plan.rows(n_tiles, with_gradients);
    [
        rows.saturating_add(scratch.rows as u64)
            .saturating_mul(size_of::<Row>() as u64),
        (scratch.numbers as u64).saturating_mul(size_of::<f32>() as u64),
        plan.choice_bytes(n_tiles),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// Lengths of the memory that steps use in turn, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScratchLengths {
    pub(super) numbers: usize,
    pub(super) rows: usize,
}

impl Plan {
    /// Rows of what lies between layers.
    fn rows(&self, n_tiles: usize, with_gradients: bool) -> u64 {
        let values = self
            .buffers
            .iter()
            .map(|buffer| buffer.layout.rows() as u64);
        let gradients = self.slots.iter().map(|layout| layout.rows() as u64);
        let gradients = gradients.filter(|_| with_gradients);
        let rows = values.chain(gradients).fold(0, u64::saturating_add);
        rows.saturating_mul(n_tiles as u64)
    }

    /// What the largest layers need besides.
    pub(super) fn scratch(&self, n_tiles: usize, with_gradients: bool) -> ScratchLengths {
        let mut lengths = ScratchLengths {
            numbers: 0,
            rows: 0,
        };
        for step in &self.steps {
            let layout = |buffer: usize| self.buffers[buffer].layout;
            let (from, to) = (layout(step.source), layout(step.target));
            match step.kind {
                // Its weights, packed; or sums of their gradients.
                Kind::Convolution { window, .. } => {
                    let numel = from.channels.saturating_mul(to.channels);
                    let numel = numel.saturating_mul(window.n_taps());
                    lengths.numbers = lengths.numbers.max(numel);
                }
                // Its output by rows; or its input turned.
                Kind::Linear { .. } => {
                    let source = if with_gradients { from.rows() } else { 0 };
                    let rows = to.rows().max(source).saturating_mul(n_tiles);
                    lengths.rows = lengths.rows.max(rows);
                }
                _ => {}
            }
        }
        lengths
    }

    /// Bytes of what poolings note of their inputs.
    fn choice_bytes(&self, n_tiles: usize) -> u64 {
        let is_pool = |step: &&Step| matches!(step.kind, Kind::MaxPool(_));
        let pools = self.steps.iter().filter(is_pool);
        let rows = pools.map(|step| self.buffers[step.target].layout.rows());
        let rows = rows.fold(0, usize::saturating_add).saturating_mul(n_tiles);
        (rows as u64).saturating_mul(LANES as u64)
    }
}

#[cfg(test)]
mod tests {
    use crate::graph::Features;
    use crate::graph::models;
    use crate::graph::models::ModelSpec;
    use crate::train::Objective;
    use crate::train::Weights;
    use crate::train::engine::Engine;
    use crate::train::engine::Images;
    use crate::train::engine::StepSeed;
    use crate::train::native::Native;

    use super::*;

    #[test]
    fn no_more_is_asked_for_than_is_taken() {
        let features = Features {
            channels: 1,
            height: 8,
            width: 8,
        };
        for (name, samples) in [("mlp", 40), ("convnet", 70), ("resnet20", 3)] {
            let input = match name {
                "resnet20" => Features {
                    channels: 3,
                    ..features
                },
                _ => features,
            };
            let graph = models::build(&ModelSpec::new(name, input, 10)).unwrap();
            let weights = Weights::initial(&graph, 1);
            let masks = vec![None; graph.parameters.len()];
            let mut engine = Native::new(graph.clone(), &weights, masks, 2).unwrap();
            let pixels = vec![0.5; samples * input.numel()];
            let images = Images {
                pixels: &pixels,
                samples,
            };
            engine.predict(images).unwrap();
            let check = |engine: &Native, with_gradients| {
                let expected = buffer_bytes(&graph, samples, with_gradients);
                let found = engine.taken_bytes() as u64;
                assert!(expected <= found, "{name}: {expected}, {found}");
                assert!(expected * 2 > found, "{name}: {expected}, {found}");
            };
            check(&engine, false);
            let labels = vec![1; samples];
            let seed = StepSeed { seed: 1, step: 0 };
            let objective = Objective::default();
            engine
                .backpropagate(images, &labels, &objective, seed)
                .unwrap();
            check(&engine, true);
        }
    }
}
