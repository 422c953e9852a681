//! A parameter's elements and mask, block by block.

use std::sync::atomic::Ordering;

use super::OnnxError;
use super::bits;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Convention;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::checkpoint::Parameter;
use crate::checkpoint::Shard;
use crate::checkpoint::StoredTensor;
use crate::connectivity::Expectation;
use crate::tensor::Dtype;

use half::bf16;
use half::f16;

/// Elements that are read at once: whole words and whole bytes of a bit mask.
const BLOCK: u64 = 1 << 16;

/// Where the elements of a parameter are, and what says which are retained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    ingredients: &'a Ingredients,
    parameter: &'a Parameter,
    expectation: Expectation,
}

/// Some elements of a parameter, one after the other.
pub(super) struct Block<'a> {
    /// Row-major index of the first.
    pub(super) begin: u64,
    /// As they are stored, pruned ones too.
    pub(super) bytes: &'a [u8],
    /// A set bit for each that is retained.
    pub(super) words: &'a [u64],
}

impl<'a> Source<'a> {
    pub(super) fn new(
        ingredients: &'a Ingredients,
        parameter: &'a Parameter,
        expectation: Expectation,
    ) -> Self {
        Self {
            ingredients,
            parameter,
            expectation,
        }
    }

    /// The tensor of values.
    pub(super) fn stored(&self) -> &'a StoredTensor {
        self.ingredients.value(self.parameter, 0)
    }

    /// The file that holds the values.
    pub(super) fn shard(&self) -> &'a Shard {
        &self.checkpoint().shards()[self.stored().shard]
    }

    /// Element type of the values.
    pub(super) fn dtype(&self) -> Dtype {
        self.stored().dtype
    }

    /// Number of elements.
    pub(super) fn numel(&self) -> u64 {
        self.parameter.shape.numel()
    }

    /// What is known of the mask.
    pub(super) fn expectation(&self) -> Expectation {
        self.expectation
    }

    /// The same, with every element retained.
    pub(super) fn without_mask(self) -> Self {
        Self {
            expectation: Expectation::Dense,
            ..self
        }
    }

    /// Whether pruned elements need not be zeros where they are stored.
    pub(super) fn has_stored_mask(&self) -> bool {
        self.parameter.sources[0].convention != Convention::Plain
    }

    /// Hands out all elements, in order.
    pub(super) fn blocks(
        &self,
        observer: Observer<'_>,
        mut visit: impl FnMut(&Block<'_>) -> Result<(), OnnxError>,
    ) -> Result<(), OnnxError> {
        let mut scratch = Scratch::default();
        let stored = self.stored();
        let mut begin = 0;
        while begin < self.numel() {
            if observer.interrupted.load(Ordering::Relaxed) {
                return Err(OnnxError::Interrupted);
            }
            let count = BLOCK.min(self.numel() - begin);
            let Scratch {
                values,
                masks,
                words,
                others,
            } = &mut scratch;
            let bytes = self.checkpoint().read(stored, begin, count, values)?;
            words.clear();
            words.resize((count as usize).div_ceil(64), 0);
            self.mask(begin, count, bytes, masks, words, others)?;
            visit(&Block {
                begin,
                bytes,
                words,
            })?;
            (observer.advance)(bytes.len() as u64);
            begin += count;
        }
        self.shard().source().release(stored.offset, stored.bytes);
        Ok(())
    }

    /// Sets the bits of what is retained of the elements `bytes`.
    fn mask(
        &self,
        begin: u64,
        count: u64,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
        words: &mut [u64],
        others: &mut Vec<u64>,
    ) -> Result<(), OnnxError> {
        let given = self.ingredients.given_mask(self.parameter);
        let given = given.zip(self.ingredients.mask_file());
        match self.expectation {
            Expectation::Dense => {
                bits::set_all(words, count as usize);
                return Ok(());
            }
            Expectation::FromZeros | Expectation::Pruned => {
                bits::nonzero(words, self.dtype(), bytes);
                return Ok(());
            }
            Expectation::Explicit => {}
        }
        match self.ingredients.stored_mask(self.parameter, 0) {
            Some(mask) => read_mask(self.checkpoint(), mask, begin, count, scratch, words)?,
            None => bits::nonzero(words, self.dtype(), bytes),
        }
        let Some((mask, mask_file)) = given else {
            return Ok(());
        };
        others.clear();
        others.resize(words.len(), 0);
        read_mask(mask_file, mask, begin, count, scratch, others)?;
        let mut off = words.iter().zip(&*others).map(|(own, given)| own & !given);
        if let Some(word) = off.clone().position(|bits| bits != 0) {
            let bit = off.nth(word).unwrap_or(0).trailing_zeros();
            return Err(OnnxError::OffMask {
                tensor: self.parameter.name.clone(),
                index: begin + word as u64 * 64 + u64::from(bit),
            });
        }
        // Within a given mask a zero is a retained weight.
        words.copy_from_slice(others);
        Ok(())
    }

    fn checkpoint(&self) -> &'a Checkpoint {
        &self.ingredients.checkpoints()[0]
    }

    /// All elements, widened; pruned ones are 0.
    pub(super) fn to_f64(self, observer: Observer<'_>) -> Result<Vec<f64>, OnnxError> {
        let mut values = Vec::with_capacity(self.numel() as usize);
        self.blocks(observer, |block| {
            let begin = values.len();
            widen(self.dtype(), block.bytes, |value| values.push(value));
            for (position, value) in values[begin..].iter_mut().enumerate() {
                if block.words[position / 64] >> (position % 64) & 1 == 0 {
                    *value = 0.0;
                }
            }
            Ok(())
        })?;
        Ok(values)
    }
}

/// Buffers that grow to one block.
#[derive(Default)]
struct Scratch {
    values: Vec<u8>,
    masks: Vec<u8>,
    words: Vec<u64>,
    others: Vec<u64>,
}

/// Sets the bits that a mask of zeros and ones has.
fn read_mask(
    checkpoint: &Checkpoint,
    mask: &StoredTensor,
    begin: u64,
    count: u64,
    scratch: &mut Vec<u8>,
    words: &mut [u64],
) -> Result<(), OnnxError> {
    let bytes = checkpoint.read(mask, begin, count, scratch)?;
    if let Some(index) = bits::first_not_flag(mask.dtype, bytes) {
        return Err(OnnxError::NotAMask {
            path: checkpoint.path().to_owned(),
            mask: mask.name.clone(),
            index: begin + index as u64,
        });
    }
    bits::nonzero(words, mask.dtype, bytes);
    Ok(())
}

/// Hands out elements of a float type, widened.
pub(super) fn widen(dtype: Dtype, bytes: &[u8], take: impl FnMut(f64)) {
    match dtype {
        Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f64()).for_each(take),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f64()).for_each(take),
        Dtype::F32 => each(bytes, |b| f64::from(f32::from_le_bytes(b))).for_each(take),
        _ => each(bytes, f64::from_le_bytes).for_each(take),
    }
}

fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> impl Iterator<Item = f64> {
    let elements = bytes.as_chunks::<N>().0.iter();
    elements.map(move |&element| value(element))
}
