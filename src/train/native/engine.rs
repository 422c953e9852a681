//! The engine itself: buffers, parameters and the contract of
//! [`Engine`].

use super::lanes::Batch;
use super::lanes::LANES;
use super::lanes::Row;
use super::lanes::gather;
use super::lanes::scatter;
use super::norm::Affine;
use super::norm::Moments;
use super::parameter::Parameter;
use super::plan::Plan;
use super::pool::Choice;
use crate::graph::Graph;
use crate::graph::Role;
use crate::train::Loss;
use crate::train::Objective;
use crate::train::Rule;
use crate::train::Weights;
use crate::train::engine::Engine;
use crate::train::engine::EngineError;
use crate::train::engine::Images;
use crate::train::engine::Masks;
use crate::train::engine::OptimizerState;
use crate::train::engine::StepSeed;
use crate::train::engine::Update;

use rayon::ThreadPool;
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

/// A network on the processor.
#[derive(Debug)]
pub struct Native {
    graph: Graph,
    threads: ThreadPool,
    pub(super) network: Network,
}

/// Everything that a pass reads and writes.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) arch: pulp::Arch,
    pub(super) plan: Plan,
    pub(super) parameters: Vec<Parameter>,
    pub(super) counts: Vec<i64>,
    pub(super) batch: Batch,
    /// One per buffer of the plan.
    pub(super) values: Vec<Vec<Row>>,
    /// One per slot of the plan.
    pub(super) gradients: Vec<Vec<Row>>,
    /// What steps keep for the backward pass.
    pub(super) kept: Vec<Kept>,
    pub(super) scratch: Scratch,
}

/// What one step keeps for its backward pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    pub(super) choices: Vec<Choice>,
    pub(super) affine: Vec<Affine>,
    pub(super) factors: Vec<Row>,
}

/// Memory that steps use in turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    pub(super) numbers: Vec<f32>,
    pub(super) rows: Vec<Row>,
}

/// Which kernels compute a layer that has a mask.
///
/// Logits, losses and convolutions' gradients do not depend on the choice; gradients of
/// linear layers are summed in another order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Those that are faster at the layer's density, as measured by
    /// `cargo bench --bench train`.
    ByDensity,
    /// Those that multiply by zeros, too.
    Dense,
    /// Those that know retained weights alone.
    Sparse,
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// Batch norm by running statistics.
    Predict,
    /// Batch norm by the batch; dropout.
    Train(StepSeed),
    /// Batch norm by the batch, whose share of the running statistics is given.
    Observe(f64),
}

impl Native {
    /// A network of `graph` that computes with `n_threads` threads.
    ///
    /// # Errors
    /// [`EngineError::Device`] if the threads cannot be started.
    ///
    /// # Panics
    /// If weights or masks are not those of the graph.
    pub fn new(
        graph: Graph,
        weights: &Weights,
        masks: Masks,
        n_threads: usize,
    ) -> Result<Self, EngineError> {
        Self::with_kernels(graph, weights, masks, n_threads, Kernels::ByDensity)
    }

    /// The same, with the kernels of masked layers chosen by the caller: for tests and
    /// measurements.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_kernels(
        graph: Graph,
        weights: &Weights,
        masks: Masks,
        n_threads: usize,
        kernels: Kernels,
    ) -> Result<Self, EngineError> {
        assert_eq!(
            weights.values.len(),
            graph.parameters.len(),
            "weights of this graph"
        );
        assert_eq!(masks.len(), graph.parameters.len(), "masks of this graph");
        let threads = ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .build()
            .map_err(|error| EngineError::Device(error.into()))?;
        let plan = Plan::new(&graph);
        let parameters = graph.parameters.iter().zip(&weights.values).zip(masks);
        let parameters = parameters
            .enumerate()
            .map(|(idx, ((parameter, values), mask))| {
                if parameter.role != Role::BatchCount {
                    let numel = parameter.shape.numel() as usize;
                    assert_eq!(values.len(), numel, "values of `{}`", parameter.name);
                }
                let pattern = mask
                    .as_ref()
                    .and_then(|mask| plan.pattern(idx, mask, kernels));
                Parameter::new(parameter.role, mask, pattern, values)
            })
            .collect();
        let network = Network {
            arch: pulp::Arch::new(),
            parameters,
            counts: weights.counts.clone(),
            batch: Batch { samples: 0 },
            values: vec![Vec::new(); plan.buffers.len()],
            gradients: vec![Vec::new(); plan.slots.len()],
            kept: vec![Kept::default(); plan.steps.len()],
            scratch: Scratch::default(),
            plan,
        };
        Ok(Self {
            graph,
            threads,
            network,
        })
    }

    /// Bytes of the buffers between layers, of both passes.
    pub fn buffer_bytes(&self) -> usize {
        let rows = |buffers: &[Vec<Row>]| buffers.iter().map(Vec::len).sum::<usize>();
        (rows(&self.network.values) + rows(&self.network.gradients)) * size_of::<Row>()
    }

    /// Bytes of all that passes share and keep, besides the parameters.
    #[cfg(test)]
    pub(super) fn taken_bytes(&self) -> usize {
        let Scratch { numbers, rows } = &self.network.scratch;
        let kept = self.network.kept.iter();
        let kept = kept.map(|kept| {
            kept.choices.len() * size_of::<Choice>() + kept.factors.len() * size_of::<Row>()
        });
        self.buffer_bytes()
            + kept.sum::<usize>()
            // Layers use it in turn, each as much of it as it needs.
            + numbers.capacity() * size_of::<f32>()
            + rows.capacity() * size_of::<Row>()
    }

    /// Lays out a batch and runs the forward pass.
    fn forward(&mut self, images: Images<'_>, purpose: Purpose) -> Result<(), EngineError> {
        let numel = self.graph.input().numel();
        if images.samples.checked_mul(numel) != Some(images.pixels.len()) {
            return Err(EngineError::Batch {
                samples: images.samples,
                expected: images.samples.saturating_mul(numel),
                found: images.pixels.len(),
            });
        }
        if images.samples == 0 {
            return match purpose {
                Purpose::Predict => Ok(()),
                Purpose::Train(_) | Purpose::Observe(_) => Err(EngineError::OneValue),
            };
        }
        let network = &mut self.network;
        network.reserve(images.samples, matches!(purpose, Purpose::Train(_)))?;
        self.threads.install(|| {
            network.load(images);
            network.forward(purpose)
        })
    }
}

impl Network {
    fn load(&mut self, images: Images<'_>) {
        self.batch = Batch {
            samples: images.samples,
        };
        let n_tiles = self.batch.n_tiles();
        for (buffer, values) in self.plan.buffers.iter().zip(&mut self.values) {
            values.resize(n_tiles * buffer.layout.rows(), Row::ZERO);
        }
        let layout = self.plan.buffers[0].layout;
        let image_numel = layout.numel();
        self.values[0]
            .par_chunks_exact_mut(layout.rows())
            .zip(images.pixels.par_chunks(image_numel * LANES))
            .for_each(|(tile, images)| scatter(images, layout, images.len() / image_numel, tile));
    }

    /// The logits of the batch, row-major (samples, classes).
    fn logits(&self) -> Vec<f32> {
        let rows = &self.values[self.plan.logits];
        let n_classes = self.plan.buffers[self.plan.logits].layout.rows();
        let mut logits = vec![0.0; self.batch.samples * n_classes];
        let samples = logits.chunks_mut(LANES * n_classes);
        for (tile, samples) in rows.chunks_exact(n_classes).zip(samples) {
            gather(tile, samples.len() / n_classes, samples);
        }
        logits
    }

    /// Moves the running statistics of a batch norm towards those of the batch.
    pub(super) fn track(
        &mut self,
        norm: &super::plan::Norm,
        moments: &[Moments],
        count: usize,
        factor: f64,
    ) {
        let unbiased = count as f64 / (count as f64 - 1.0);
        let means = &mut self.parameters[norm.running_mean].values;
        for (running, moments) in means.iter_mut().zip(moments) {
            *running = mix(*running, moments.mean, factor);
        }
        let variances = &mut self.parameters[norm.running_var].values;
        for (running, moments) in variances.iter_mut().zip(moments) {
            *running = mix(*running, moments.variance * unbiased, factor);
        }
        self.counts[norm.num_batches_tracked] += 1;
    }
}

fn mix(running: f32, value: f64, factor: f64) -> f32 {
    ((1.0 - factor) * f64::from(running) + factor * value) as f32
}

impl Engine for Native {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn predict(&mut self, images: Images<'_>) -> Result<Vec<f32>, EngineError> {
        self.forward(images, Purpose::Predict)?;
        match images.samples {
            0 => Ok(Vec::new()),
            _ => Ok(self.network.logits()),
        }
    }

    fn backpropagate(
        &mut self,
        images: Images<'_>,
        labels: &[u32],
        objective: &Objective,
        seed: StepSeed,
    ) -> Result<Loss, EngineError> {
        self.forward(images, Purpose::Train(seed))?;
        let classes = self.graph.classes();
        let (loss, delta) = objective.gradient(&self.network.logits(), labels, classes);
        let network = &mut self.network;
        self.threads.install(|| network.backward(&delta));
        Ok(loss)
    }

    fn observe(&mut self, images: Images<'_>, factor: f64) -> Result<(), EngineError> {
        self.forward(images, Purpose::Observe(factor))
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        let parameters = &self.network.parameters;
        let squares = self.threads.install(|| {
            let squares = parameters.iter().map(Parameter::squared_gradient);
            squares.sum::<f64>()
        });
        Ok(squares.sqrt())
    }

    fn gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        let parameters = self.network.parameters.iter();
        Ok(parameters
            .map(|parameter| parameter.expand(&parameter.gradient))
            .collect())
    }

    fn update(&mut self, update: &Update) -> Result<(), EngineError> {
        let parameters = &mut self.network.parameters;
        let n_slots = update.optimizer.slots();
        self.threads.install(|| {
            for parameter in parameters {
                if let Some(rule) = Rule::new(update, parameter.role) {
                    parameter.update(&rule, n_slots);
                }
            }
        });
        Ok(())
    }

    fn weights(&mut self) -> Result<Weights, EngineError> {
        let parameters = self.network.parameters.iter();
        Ok(Weights {
            values: parameters
                .map(|parameter| parameter.expand(&parameter.values))
                .collect(),
            counts: self.network.counts.clone(),
        })
    }

    fn set_weights(&mut self, weights: &Weights) -> Result<(), EngineError> {
        for (parameter, values) in self.network.parameters.iter_mut().zip(&weights.values) {
            parameter.set_values(values);
        }
        self.network.counts.clone_from(&weights.counts);
        Ok(())
    }

    fn optimizer_state(&mut self) -> Result<OptimizerState, EngineError> {
        let parameters = &self.network.parameters;
        let n_slots = parameters
            .iter()
            .map(|parameter| parameter.slots.len())
            .max();
        let slots = (0..n_slots.unwrap_or(0)).map(|slot| {
            let kept = parameters
                .iter()
                .map(|parameter| match parameter.slots.get(slot) {
                    Some(slot) => parameter.expand(slot),
                    None => Vec::new(),
                });
            kept.collect()
        });
        Ok(OptimizerState {
            slots: slots.collect(),
        })
    }

    fn set_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), EngineError> {
        for (idx, parameter) in self.network.parameters.iter_mut().enumerate() {
            let slots = state.slots.iter().map(|slot| &slot[idx]);
            match parameter.role.is_learned() {
                true => parameter.set_slots(slots),
                false => parameter.slots.clear(),
            }
        }
        Ok(())
    }
}
