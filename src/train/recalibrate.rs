//! Batch norm's statistics, estimated again: an engine and training images walk in, the
//! engine's running statistics become the cumulative mean over batches.
//!
//! After weights are averaged, the statistics of their ingredients are not theirs: this
//! is what makes a soup usable. Source: Izmailov et al., arXiv:1803.05407, section 3.3;
//! torch's `BatchNorm2d` with `momentum=None`.

mod movement;
mod stored;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use thiserror::Error;

use crate::graph::Graph;
use crate::graph::Op;
use crate::graph::Role;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::train::data::Assembler;
use crate::train::data::Batch;
use crate::train::engine::Engine;
use crate::train::engine::EngineError;

pub use movement::LayerMovement;
pub use movement::Movement;
pub use stored::stored_statistics;

/// Why statistics cannot be estimated.
#[derive(Debug, Error)]
pub enum RecalibrateError {
    /// There is no batch, and statistics of nothing would wipe those that are there.
    #[error(
        "{images} images make no batch of {batch_size}, and without a batch there are no \
         statistics; use more images or smaller batches"
    )]
    NoBatch {
        /// Images that there are.
        images: usize,
        /// Images of one batch.
        batch_size: usize,
    },
    /// A statistic cannot be stored.
    #[error(
        "`{}` would hold {value}, which is no finite number of type {dtype}: the weights have \
         diverged, or the checkpoint needs a wider type",
        Printable(tensor)
    )]
    Value {
        /// Name of the tensor.
        tensor: String,
        /// The statistic.
        value: f32,
        /// Its type in the checkpoint.
        dtype: Dtype,
    },
    /// The engine failed.
    #[error("batch {batch} cannot be observed")]
    Engine {
        /// Batches before it.
        batch: usize,
        /// Why.
        source: EngineError,
    },
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalibration {
    /// The network has no batch norm: nothing was changed.
    NoBatchNorm,
    /// Its statistics are those of so many batches.
    Done {
        /// Number of batches.
        batches: usize,
        /// Images in them.
        images: usize,
    },
    /// The flag was set; the statistics are of no use.
    Interrupted,
}

/// Whether a network has statistics to estimate.
pub fn has_statistics(graph: &Graph) -> bool {
    let mut nodes = graph.nodes.iter();
    nodes.any(|node| matches!(node.op, Op::BatchNorm { .. }))
}

/// Replaces the running statistics of the network by the mean over the batches of
/// `indices`, in their order: training mode, without dropout; images are not varied.
/// The counts of batches become the number of batches. Weights do not change.
///
/// Images that do not fill a last batch are left out, so that each counts alike.
/// `advance` is told the number of images done.
///
/// # Errors
/// [`RecalibrateError::NoBatch`], [`RecalibrateError::Engine`].
pub fn recalibrate(
    engine: &mut dyn Engine,
    assembler: &Assembler<'_>,
    indices: &[u32],
    batch_size: usize,
    advance: &dyn Fn(u64),
    interrupted: &AtomicBool,
) -> Result<Recalibration, RecalibrateError> {
    if !has_statistics(engine.graph()) {
        return Ok(Recalibration::NoBatchNorm);
    }
    let batches = indices.len().checked_div(batch_size).unwrap_or_default();
    if batches == 0 {
        return Err(RecalibrateError::NoBatch {
            images: indices.len(),
            batch_size,
        });
    }
    let failed = |batch| move |source| RecalibrateError::Engine { batch, source };
    forget(engine).map_err(failed(0))?;
    let mut batch = Batch::default();
    for (seen, indices) in indices.chunks_exact(batch_size).enumerate() {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(Recalibration::Interrupted);
        }
        assembler.fill(indices, None, &mut batch);
        let share = 1.0 / (seen + 1) as f64;
        let observed = engine.observe(batch.images(), share);
        observed.map_err(failed(seen))?;
        advance(indices.len() as u64);
    }
    Ok(Recalibration::Done {
        batches,
        images: batches * batch_size,
    })
}

/// Puts statistics to where they begin: what is not a number would stay so through any
/// mean.
fn forget(engine: &mut dyn Engine) -> Result<(), EngineError> {
    let mut weights = engine.weights()?;
    let roles: Vec<Role> = engine
        .graph()
        .parameters
        .iter()
        .map(|parameter| parameter.role)
        .collect();
    for (idx, role) in roles.into_iter().enumerate() {
        match role {
            Role::RunningMean => weights.values[idx].fill(0.0),
            Role::RunningVariance => weights.values[idx].fill(1.0),
            Role::BatchCount => weights.counts[idx] = 0,
            Role::Weight | Role::Bias | Role::Scale | Role::Shift => {}
        }
    }
    engine.set_weights(&weights)
}

#[cfg(test)]
mod tests;
