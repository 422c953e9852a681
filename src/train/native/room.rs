//! Room for a batch: how many samples walk in, and buffers that can hold them walk out, or
//! the error that says what is missing.

use super::engine::Network;
use super::lanes::Batch;
use super::lanes::Row;
use crate::train::engine::EngineError;
use crate::train::memory::Need;
use crate::train::memory::available_bytes;
use crate::train::memory::hold;

impl Network {
    /// Makes room for a batch that is larger than those before, or says that there is none:
    /// growing later would end the program instead.
    pub(super) fn reserve(
        &mut self,
        samples: usize,
        with_gradients: bool,
    ) -> Result<(), EngineError> {
        let n_tiles = Batch { samples }.n_tiles();
        let values = self.plan.buffers.iter().map(|buffer| buffer.layout);
        let mut parts: Vec<(&mut Vec<Row>, usize)> = Vec::new();
        for (layout, values) in values.zip(&mut self.values) {
            parts.push((values, n_tiles.saturating_mul(layout.rows())));
        }
        if with_gradients {
            for (layout, gradient) in self.plan.slots.iter().zip(&mut self.gradients) {
                parts.push((gradient, n_tiles.saturating_mul(layout.rows())));
            }
        }
        let scratch = self.plan.scratch(n_tiles, with_gradients);
        parts.push((&mut self.scratch.rows, scratch.rows));
        parts.retain(|(rows, wanted)| rows.capacity() < *wanted);
        let numbers = &mut self.scratch.numbers;
        let more_numbers = scratch.numbers.saturating_sub(numbers.capacity());
        if parts.is_empty() && more_numbers == 0 {
            return Ok(());
        }

        let missing = parts.iter().map(|(rows, wanted)| wanted - rows.capacity());
        let missing = missing.fold(0, usize::saturating_add);
        let available = available_bytes();
        let need = Need {
            weights: 0,
            buffers: (missing as u64)
                .saturating_mul(size_of::<Row>() as u64)
                .saturating_add(4 * more_numbers as u64),
        };
        hold(need, samples, available)?;
        let failed = || EngineError::Memory {
            need,
            samples,
            available: available.unwrap_or(0),
        };
        for (rows, wanted) in parts {
            let more = wanted - rows.len();
            rows.try_reserve_exact(more).map_err(|_| failed())?;
        }
        let more = scratch.numbers.saturating_sub(numbers.len());
        numbers.try_reserve_exact(more).map_err(|_| failed())
    }
}
