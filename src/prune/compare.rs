//! Masks of several inputs, one tile of each at a time: read, compared and combined.

use std::sync::atomic::Ordering;

use crate::checkpoint::Observer;
use crate::checkpoint::StagedOutput;
use crate::connectivity::DENSE_ZERO_FRACTION;
use crate::kernel::Backend;
use crate::kernel::cpu::Cpu;
use crate::kernel::first_not_flag;
use crate::kernel::write_flags;
use crate::prune::ComparedMask;
use crate::prune::MaskInputs;
use crate::prune::MaskOperation;
use crate::prune::PruneError;
use crate::prune::algebra::Source;
use crate::tensor::Dtype;
use crate::tensor::Shape;
use crate::tensor::tile_elements;

/// One tensor in all inputs.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// Where each input has its mask; `None` where it is dense.
    pub(super) sources: Vec<Option<Source>>,
}

/// Reads masks of all inputs tile by tile.
pub(super) struct Reader<'a> {
    pub(super) inputs: &'a MaskInputs,
    pub(super) backend: Cpu,
    pub(super) observer: Observer<'a>,
    pub(super) scratch: Vec<u8>,
}

impl Reader<'_> {
    /// Mask words of a tile of an input's mask, or of its values.
    fn words(
        &mut self,
        input: usize,
        source: &Source,
        (begin, count): (u64, u64),
    ) -> Result<Vec<u64>, PruneError> {
        if self.observer.interrupted.load(Ordering::Relaxed) {
            return Err(PruneError::Interrupted);
        }
        let tensor = self.inputs.tensor(input, source);
        let checkpoint = self.inputs.checkpoint(input);
        let bytes = checkpoint.read(tensor, begin, count, &mut self.scratch)?;
        if source.is_flags
            && let Some(index) = first_not_flag(tensor.dtype, bytes)
        {
            return Err(PruneError::NotAMask {
                path: checkpoint.path().to_owned(),
                mask: tensor.name.clone(),
                index: begin + index as u64,
            });
        }
        let mut words = vec![0; count.div_ceil(64) as usize];
        self.backend.nonzero(&mut words, tensor.dtype, bytes)?;
        if let Some(extent) = checkpoint.extent(tensor, begin, count) {
            let file = checkpoint.shards()[extent.shard].source();
            file.check_fault()?;
            if begin + count == tensor.shape.numel() {
                let bytes = tensor.stored_bytes();
                file.release(extent.end.saturating_sub(bytes), bytes);
            }
            (self.observer.advance)(extent.end - extent.begin);
        }
        Ok(words)
    }

    /// Whether more than 0.1 % of a tensor's values are zero.
    pub(super) fn has_zeros(&mut self, input: usize, source: &Source) -> Result<bool, PruneError> {
        let shape = self.inputs.tensor(input, source).shape.clone();
        let mut nonzero = 0;
        for tile in tiles(&shape) {
            nonzero += popcount(&self.words(input, source, tile)?);
        }
        let numel = shape.numel();
        Ok((numel - nonzero) as f64 > DENSE_ZERO_FRACTION * numel as f64)
    }

    /// Compares one tensor's masks, and writes the result if there is a place.
    pub(super) fn compare(
        &mut self,
        column: &Column,
        operation: MaskOperation,
        place: Option<(&StagedOutput<'_>, u64)>,
    ) -> Result<ComparedMask, PruneError> {
        let mut compared = ComparedMask {
            name: column.name.clone(),
            shape: column.shape.clone(),
            retained_by: vec![0; column.sources.len()],
            shared: 0,
            union: 0,
            result: 0,
            first_difference: None,
        };
        let mut flags = Vec::new();
        for (begin, count) in tiles(&column.shape) {
            let mut all = Vec::with_capacity(column.sources.len());
            for (input, source) in column.sources.iter().enumerate() {
                let words = match source {
                    Some(source) => self.words(input, source, (begin, count))?,
                    None => dense_words(count),
                };
                compared.retained_by[input] += popcount(&words);
                all.push(words);
            }
            let combine = |operation: MaskOperation| -> Vec<u64> {
                let combined = (0..all[0].len()).map(|word| {
                    let others = all[1..].iter().map(|words| words[word]);
                    operation.combine(all[0][word], others)
                });
                combined.collect()
            };
            let (shared, union) = (
                combine(MaskOperation::Intersect),
                combine(MaskOperation::Union),
            );
            compared.shared += popcount(&shared);
            compared.union += popcount(&union);
            let mut dispute = union.iter().zip(&shared).map(|(any, all)| any & !all);
            if compared.first_difference.is_none()
                && let Some(word) = dispute.clone().position(|bits| bits != 0)
                && let Some(bits) = dispute.nth(word)
            {
                let bit = u64::from(bits.trailing_zeros());
                compared.first_difference = Some(begin + word as u64 * 64 + bit);
            }
            let result = combine(operation);
            compared.result += popcount(&result);
            if let Some((staged, offset)) = place {
                flags.clear();
                flags.resize(count as usize, 0);
                write_flags(&mut flags, Dtype::Bool, &result);
                staged.write_at(0, &flags, offset + begin)?;
            }
        }
        Ok(compared)
    }
}

/// First element and number of elements of every tile.
fn tiles(shape: &Shape) -> impl Iterator<Item = (u64, u64)> {
    let (tile, numel) = (tile_elements(shape), shape.numel());
    let count = numel.div_ceil(tile);
    (0..count).map(move |index| (index * tile, tile.min(numel - index * tile)))
}

fn dense_words(count: u64) -> Vec<u64> {
    let mut words = vec![u64::MAX; count.div_ceil(64) as usize];
    if let (Some(last), used @ 1..) = (words.last_mut(), count % 64) {
        *last = (1 << used) - 1;
    }
    words
}

fn popcount(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}
