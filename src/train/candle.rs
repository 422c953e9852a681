//! The engine that walks the graph with candle's tensors and its automatic
//! differentiation, on any device that candle knows.
//!
//! Uses only candle's operations whose gradients are right, and which CUDA has too: windows
//! of convolutions and pools are cut by tables of indices, products are one `matmul`.
//! Tensors are (channels, samples, height, width), so that a convolution is one matrix
//! product and the sums of a channel run over contiguous memory.
//!
//! None of them adds in an order that chance decides: each sum has one thread, or is a tree
//! of threads in a fixed shape. So a GPU gives the same bits again where cuBLAS does, which
//! promises it for one stream on GPUs of one kind. They are not the processor's bits.

mod device;
mod forward;
mod update;
mod window;

use std::collections::BTreeMap;

use candle_core::DType;
use candle_core::Tensor;
use candle_core::Var;

use crate::graph::Graph;
use crate::graph::NodeIdx;
use crate::graph::Role;
use crate::tensor::Mask;
use crate::train::Loss;
use crate::train::Objective;
use crate::train::Weights;
use crate::train::engine::Engine;
use crate::train::engine::EngineError;
use crate::train::engine::Images;
use crate::train::engine::Masks;
use crate::train::engine::OptimizerState;
use crate::train::engine::StepSeed;
use crate::train::engine::Update;

pub use candle_core::Device;
pub use device::open_cuda;

use forward::Mode;
use forward::Statistics;

/// A network on a device of candle.
#[derive(Debug)]
pub struct CandleEngine {
    graph: Graph,
    device: Device,
    /// Learned parameters and running statistics; `None` for a count.
    values: Vec<Option<Var>>,
    counts: Vec<i64>,
    /// One byte per coordinate, 1 where it is retained; `None` where all are.
    masks: Vec<Option<Tensor>>,
    /// Of the last step; `None` for what is not learned.
    gradients: Vec<Option<Tensor>>,
    /// Memory of the optimiser, by slot and parameter.
    slots: Vec<Vec<Option<Tensor>>>,
    /// Which pixels the windows of a node take.
    windows: BTreeMap<NodeIdx, window::Tables>,
    /// For each node the last one that takes its output.
    last_uses: Vec<NodeIdx>,
}

impl CandleEngine {
    /// A network on the processor. Masks are applied to the weights.
    ///
    /// # Errors
    /// [`EngineError::Device`] if weights or masks do not have the graph's shapes.
    pub fn on_processor(
        graph: Graph,
        weights: &Weights,
        masks: &Masks,
    ) -> Result<Self, EngineError> {
        Self::new(graph, weights, masks, Device::Cpu)
    }

    /// A network on any device. Masks are applied to the weights.
    ///
    /// # Errors
    /// [`EngineError::Device`] if weights or masks do not have the graph's shapes, or
    /// the device has no room for them.
    pub fn new(
        graph: Graph,
        weights: &Weights,
        masks: &Masks,
        device: Device,
    ) -> Result<Self, EngineError> {
        let masks = mask_tensors(&graph, masks, &device).map_err(failed)?;
        let windows = window::tables(&graph, &device).map_err(failed)?;
        let mut last_uses: Vec<NodeIdx> = (0..graph.nodes.len()).collect();
        for (node_idx, node) in graph.nodes.iter().enumerate() {
            for &input in &node.inputs {
                last_uses[input] = node_idx;
            }
        }
        let mut engine = Self {
            values: vec![None; graph.parameters.len()],
            counts: vec![0; graph.parameters.len()],
            gradients: vec![None; graph.parameters.len()],
            slots: Vec::new(),
            graph,
            device,
            masks,
            windows,
            last_uses,
        };
        engine.set_weights(weights)?;
        Ok(engine)
    }

    fn is_learned(&self, parameter: usize) -> bool {
        self.graph.parameters[parameter].role.is_learned()
    }

    /// `values` of a parameter on the device, pruned coordinates zero.
    fn upload(&self, parameter: usize, values: &[f32]) -> candle_core::Result<Tensor> {
        let dims = dims(&self.graph, parameter);
        let tensor = Tensor::from_slice(values, dims, &self.device)?;
        self.masked(parameter, tensor)
    }

    /// `tensor` with `+0` at the pruned coordinates of a parameter.
    fn masked(&self, parameter: usize, tensor: Tensor) -> candle_core::Result<Tensor> {
        match &self.masks[parameter] {
            None => Ok(tensor),
            Some(mask) => mask.where_cond(&tensor, &tensor.zeros_like()?),
        }
    }

    fn check(&self, images: Images<'_>) -> Result<(), EngineError> {
        let expected = images.samples.saturating_mul(self.graph.input().numel());
        let found = images.pixels.len();
        if expected == found {
            Ok(())
        } else {
            Err(EngineError::Batch {
                samples: images.samples,
                expected,
                found,
            })
        }
    }

    /// Moves the running statistics to those of a batch.
    fn move_statistics(
        &mut self,
        statistics: &[Statistics],
        factor: Option<f64>,
    ) -> candle_core::Result<()> {
        for batch in statistics {
            let factor = factor.unwrap_or(batch.momentum);
            let pairs = [
                (batch.running_mean, &batch.mean),
                (batch.running_var, &batch.variance),
            ];
            for (parameter, new) in pairs {
                if let Some(running) = &self.values[parameter] {
                    let old = running.as_detached_tensor().affine(1.0 - factor, 0.0)?;
                    running.set(&(old + new.affine(factor, 0.0)?)?)?;
                }
            }
            self.counts[batch.num_batches_tracked] += 1;
        }
        Ok(())
    }

    /// The values of one tensor per parameter; zeros for what has none.
    fn download(&self, tensors: &[Option<Tensor>]) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut all = Vec::with_capacity(tensors.len());
        for (parameter, tensor) in tensors.iter().enumerate() {
            all.push(match tensor {
                Some(tensor) => host(tensor).map_err(failed)?,
                None if self.is_learned(parameter) => vec![0.0; numel(&self.graph, parameter)],
                None => Vec::new(),
            });
        }
        Ok(all)
    }
}

impl Engine for CandleEngine {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn predict(&mut self, images: Images<'_>) -> Result<Vec<f32>, EngineError> {
        self.check(images)?;
        if images.samples == 0 {
            return Ok(Vec::new());
        }
        let (logits, _) = self.forward(images, Mode::Predict)?;
        rows(&logits).map_err(failed)
    }

    fn backpropagate(
        &mut self,
        images: Images<'_>,
        labels: &[u32],
        objective: &Objective,
        seed: StepSeed,
    ) -> Result<Loss, EngineError> {
        self.check(images)?;
        self.gradients.fill(None);
        if images.samples == 0 {
            return Err(EngineError::OneValue);
        }
        let (logits, statistics) = self.forward(images, Mode::Train(seed))?;
        let host = rows(&logits).map_err(failed)?;
        let classes = self.graph.classes();
        let (loss, gradient) = objective.gradient(&host, labels, classes);
        self.differentiate(&logits, &gradient).map_err(failed)?;
        self.move_statistics(&statistics, None).map_err(failed)?;
        Ok(loss)
    }

    fn observe(&mut self, images: Images<'_>, factor: f64) -> Result<(), EngineError> {
        self.check(images)?;
        if images.samples == 0 {
            return Err(EngineError::OneValue);
        }
        let (_, statistics) = self.forward(images, Mode::Observe)?;
        self.move_statistics(&statistics, Some(factor))
            .map_err(failed)
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        let squares = self
            .gradients()?
            .iter()
            .flatten()
            .map(|&value| f64::from(value) * f64::from(value))
            .sum::<f64>();
        Ok(squares.sqrt())
    }

    fn gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        self.download(&self.gradients)
    }

    fn update(&mut self, update: &Update) -> Result<(), EngineError> {
        self.step(update).map_err(failed)
    }

    fn weights(&mut self) -> Result<Weights, EngineError> {
        let mut values = Vec::with_capacity(self.values.len());
        for value in &self.values {
            values.push(match value {
                Some(value) => host(value).map_err(failed)?,
                None => Vec::new(),
            });
        }
        Ok(Weights {
            values,
            counts: self.counts.clone(),
        })
    }

    fn set_weights(&mut self, weights: &Weights) -> Result<(), EngineError> {
        for parameter in 0..self.values.len() {
            if self.graph.parameters[parameter].role == Role::BatchCount {
                self.counts[parameter] = weights.counts[parameter];
            } else {
                let value = self.upload(parameter, &weights.values[parameter]);
                let value = value.and_then(|value| Var::from_tensor(&value));
                self.values[parameter] = Some(value.map_err(failed)?);
            }
        }
        Ok(())
    }

    fn optimizer_state(&mut self) -> Result<OptimizerState, EngineError> {
        let slots = self.slots.iter().map(|slot| self.download(slot));
        Ok(OptimizerState {
            slots: slots.collect::<Result<_, _>>()?,
        })
    }

    fn set_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), EngineError> {
        let mut slots = Vec::with_capacity(state.slots.len());
        for values in &state.slots {
            let mut slot = vec![None; self.values.len()];
            for (parameter, tensor) in slot.iter_mut().enumerate() {
                if self.is_learned(parameter) {
                    let value = self.upload(parameter, &values[parameter]);
                    *tensor = Some(value.map_err(failed)?);
                }
            }
            slots.push(slot);
        }
        self.slots = slots;
        Ok(())
    }
}

impl CandleEngine {
    /// Gradients of all learned parameters, given the gradient of the logits, row-major
    /// (samples, classes).
    fn differentiate(&mut self, logits: &Tensor, gradient: &[f32]) -> candle_core::Result<()> {
        let (classes, samples) = logits.dims2()?;
        let gradient = Tensor::from_slice(gradient, (samples, classes), &self.device)?;
        // The gradient of this sum by the weights is that of the loss: the chain rule.
        let mut found = (logits * gradient.t()?)?.sum_all()?.backward()?;
        for parameter in 0..self.values.len() {
            let Some(value) = self.values[parameter].as_ref() else {
                continue;
            };
            if let Some(gradient) = found.remove(value)
                && self.is_learned(parameter)
            {
                let gradient = self.masked(parameter, gradient.detach().contiguous()?)?;
                self.gradients[parameter] = Some(gradient);
            }
        }
        Ok(())
    }
}

fn failed(error: candle_core::Error) -> EngineError {
    EngineError::Device(Box::new(plain(error)))
}

/// An error without the backtrace that candle writes into its text.
fn plain(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => plain(*inner),
        error => error,
    }
}

fn dims(graph: &Graph, parameter: usize) -> Vec<usize> {
    let shape = &graph.parameters[parameter].shape;
    shape.dims().iter().map(|&dim| dim as usize).collect()
}

fn numel(graph: &Graph, parameter: usize) -> usize {
    dims(graph, parameter).iter().product()
}

/// Row-major values of a tensor.
fn host(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Logits (classes, samples) as rows of one sample.
fn rows(logits: &Tensor) -> candle_core::Result<Vec<f32>> {
    host(&logits.t()?.contiguous()?)
}

fn mask_tensors(
    graph: &Graph,
    masks: &[Option<Mask>],
    device: &Device,
) -> candle_core::Result<Vec<Option<Tensor>>> {
    let tensor = |(parameter, mask): (usize, &Option<Mask>)| {
        let Some(mask) = mask else { return Ok(None) };
        let bytes: Vec<u8> = (0..mask.numel())
            .map(|idx| u8::from(mask.is_retained(idx)))
            .collect();
        let tensor = Tensor::from_vec(bytes, dims(graph, parameter), device)?;
        debug_assert_eq!(tensor.dtype(), DType::U8);
        Ok(Some(tensor))
    };
    masks.iter().enumerate().map(tensor).collect()
}
