//! What a network's buffers will take, before any of them is made.

use super::lanes::Batch;
use super::lanes::Row;
use super::plan::Plan;
use crate::graph::Graph;

/// Bytes of the buffers between layers for a batch of so many images: of the forward pass,
/// and of the backward pass if it is asked for.
pub fn buffer_bytes(graph: &Graph, samples: usize, with_gradients: bool) -> u64 {
    Plan::new(graph).buffer_bytes(samples, with_gradients)
}

impl Plan {
    /// As [`buffer_bytes`].
    pub(super) fn buffer_bytes(&self, samples: usize, with_gradients: bool) -> u64 {
        let n_tiles = Batch { samples }.n_tiles() as u64;
        let values = self.buffers.iter().map(|buffer| buffer.layout.rows() as u64);
        let gradients = self.slots.iter().map(|layout| layout.rows() as u64);
        let gradients = gradients.filter(|_| with_gradients);
        let rows = values.chain(gradients).fold(0, u64::saturating_add);
        rows.saturating_mul(n_tiles)
            .saturating_mul(size_of::<Row>() as u64)
    }
}
