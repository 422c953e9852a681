//! What computes a network: the contract that the trainer stands on.
//!
//! Two engines keep it. `native` runs on the processor and gives the same bits for any
//! number of threads; `candle` walks the graph with candle's tensors, on any device
//! that candle knows, and is the independent check of the first.

use serde::Deserialize;
use serde::Serialize;

use crate::graph::Graph;
use crate::graph::NodeIdx;
use crate::tensor::Mask;
use crate::tensor::Stream;
use crate::train::Loss;
use crate::train::Objective;
use crate::train::Weights;
use crate::train::memory::Need;

/// A batch of images, ready for the network.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// Row-major (samples, channels, height, width), normalised.
    pub pixels: &'a [f32],
    /// Number of images.
    pub samples: usize,
}

/// Names the random choices of one training step.
#[derive(Clone, Copy, Debug)]
pub struct StepSeed {
    /// Seed of the run.
    pub seed: u64,
    /// Steps before this one.
    pub step: u64,
}

/// How gradients become changes of weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent, as torch's `SGD` with `dampening = 0`: decay is
    /// added to the gradient.
    Sgd {
        /// Share of the last step's direction, in [0, 1).
        momentum: f64,
        /// Whether to look ahead along the momentum.
        nesterov: bool,
    },
    /// Adam with decoupled decay, as torch's `AdamW`. Source: arXiv:1711.05101.
    #[serde(rename = "adamw")]
    AdamW {
        /// Share of the last first moment.
        beta1: f64,
        /// Share of the last second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        epsilon: f64,
    },
}

/// Which parameters decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// All learned parameters, as torch's optimisers do by default.
    All,
    /// Weights of linear and convolution layers only.
    Weights,
}

/// One change of the weights.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The rule.
    pub optimizer: Optimizer,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Factor of the decay.
    pub weight_decay: f64,
    /// What decays.
    pub decay: Decay,
    /// Factor of all gradients (below 1 where they are clipped).
    pub gradient_scale: f64,
    /// Updates of this optimiser before this one, for the bias correction of AdamW.
    pub step: u64,
}

/// The memory of an optimiser, in the graph's order of parameters: empty for
/// statistics. SGD has one slot (momentum), AdamW two (first and second moment).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// `slots[slot][parameter]`, each as long as the parameter.
    pub slots: Vec<Vec<Vec<f32>>>,
}

/// Why an engine stopped.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A batch does not have the shape that the network takes.
    #[error("{samples} images of this network have {expected} pixels, found {found}")]
    Batch {
        /// Images in the batch.
        samples: usize,
        /// Numbers that they should have.
        expected: usize,
        /// Numbers that they have.
        found: usize,
    },
    /// The network does not fit into memory.
    #[error(
        "a network with batches of {samples} images takes {} bytes of memory at least, {} for its \
         weights and {} between its layers; {available} bytes are available",
        need.bytes(),
        need.weights,
        need.buffers
    )]
    Memory {
        /// What it takes.
        need: Need,
        /// Images in a batch.
        samples: usize,
        /// Bytes that are left.
        available: u64,
    },
    /// Batch statistics of a single value have no variance.
    #[error("batch norm cannot train on one value per channel; use larger batches")]
    OneValue,
    /// The device failed.
    #[error("the device failed")]
    Device(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A network with its weights, gradients and optimiser.
///
/// Pruned coordinates of weights, gradients and optimiser state are exactly `+0` after
/// every call.
pub trait Engine: Send {
    /// The network.
    fn graph(&self) -> &Graph;

    /// Logits, row-major (samples, classes): batch norm by running statistics, no
    /// dropout.
    ///
    /// # Errors
    /// [`EngineError::Batch`], [`EngineError::Device`].
    fn predict(&mut self, images: Images<'_>) -> Result<Vec<f32>, EngineError>;

    /// Forward and backward pass in training mode: batch norm by the batch's statistics,
    /// running statistics updated, dropout as `seed` names it. The gradients stay in
    /// the engine.
    ///
    /// # Errors
    /// [`EngineError::Batch`], [`EngineError::OneValue`], [`EngineError::Device`].
    fn backpropagate(
        &mut self,
        images: Images<'_>,
        labels: &[u32],
        objective: &Objective,
        seed: StepSeed,
    ) -> Result<Loss, EngineError>;

    /// Forward pass that only moves the running statistics: `factor` is the share of
    /// this batch (1/k for the k-th batch makes a cumulative mean), no dropout. Counts of
    /// batches rise by one, as they do in training.
    ///
    /// # Errors
    /// [`EngineError::Batch`], [`EngineError::OneValue`], [`EngineError::Device`].
    fn observe(&mut self, images: Images<'_>, factor: f64) -> Result<(), EngineError>;

    /// Root of the sum of the squares of all gradients.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn gradient_norm(&mut self) -> Result<f64, EngineError>;

    /// Gradients of the last [`backpropagate`](Self::backpropagate), in the graph's
    /// order; empty for statistics.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError>;

    /// Changes the weights by the gradients.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn update(&mut self, update: &Update) -> Result<(), EngineError>;

    /// The weights and statistics as they are now.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn weights(&mut self) -> Result<Weights, EngineError>;

    /// Replaces weights and statistics; masks stay, and are applied.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn set_weights(&mut self, weights: &Weights) -> Result<(), EngineError>;

    /// The optimiser's memory; no slots before the first update.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn optimizer_state(&mut self) -> Result<OptimizerState, EngineError>;

    /// Replaces the optimiser's memory; no slots make a fresh optimiser.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn set_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), EngineError>;
}

/// One optional mask per parameter of a graph, in its order.
pub type Masks = Vec<Option<Mask>>;

/// Keep factors of a dropout node: 0, or 1/(1 - probability). Row-major (samples,
/// features), the same for every engine.
pub fn dropout_factors(seed: StepSeed, node: NodeIdx, numel: usize, probability: f64) -> Vec<f32> {
    let name = format!("step {} node {node}", seed.step);
    let mut stream = Stream::named(seed.seed, "dropout", &name);
    let kept = (1.0 / (1.0 - probability)) as f32;
    (0..numel)
        .map(|_| {
            if stream.uniform() < probability {
                0.0
            } else {
                kept
            }
        })
        .collect()
}
