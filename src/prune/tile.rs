//! One tile of one tensor, and the keys of its coordinates.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::kernel::Backend;
use crate::kernel::cpu::Cpu;
use crate::kernel::first_not_flag;
use crate::prune::PruneError;
use crate::prune::histogram::Limits;
use crate::prune::score::EXCLUDED;
use crate::prune::score::Width;
use crate::prune::subject::Subject;
use crate::tensor::Dtype;
use crate::tensor::Stream;

/// Elements whose keys are made at once: few enough to stay in the first cache.
pub(super) const PIECE: usize = 2048;

/// A tile that has been read.
pub(super) struct Tile<'a> {
    /// Index of its parameter.
    pub(super) parameter: usize,
    /// Row-major index of its first element.
    pub(super) begin: u64,
    /// Its number of elements.
    pub(super) count: usize,
    /// Its elements.
    pub(super) values: &'a [u8],
    /// Its part of the mask stored beside them.
    pub(super) stored: Option<&'a [u8]>,
    /// Its part of the mask in the mask file.
    pub(super) given: Option<&'a [u8]>,
}

/// What coordinates are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Score {
    /// Their magnitude.
    Magnitude,
    /// Numbers drawn for them.
    Random {
        /// Names the draw.
        seed: u64,
    },
}

/// Makes keys of elements. What is pruned already is [`EXCLUDED`].
pub(super) struct Scorer<'a> {
    pub(super) subject: &'a Subject,
    pub(super) width: Width,
    pub(super) score: Score,
    /// For each parameter, whether its zeros are its mask.
    pub(super) are_zeros_pruned: &'a [bool],
    pub(super) backend: &'a Cpu,
    /// How much is held of keys at a time.
    pub(super) limits: Limits,
}

/// Scratch memory for the keys of a piece.
pub(super) struct KeyScratch {
    keys: Vec<u64>,
    words: [u64; PIECE / 64],
}

impl KeyScratch {
    pub(super) fn new() -> Self {
        Self {
            keys: vec![0; PIECE],
            words: [0; PIECE / 64],
        }
    }
}

impl Tile<'_> {
    /// The part of `bytes` that a piece takes.
    fn piece<'b>(&self, bytes: &'b [u8], begin: usize, count: usize) -> &'b [u8] {
        let width = bytes.len() / self.count.max(1);
        &bytes[begin * width..(begin + count) * width]
    }
}

impl Scorer<'_> {
    /// Calls `each` with the first index in the tile and the keys of every piece.
    pub(super) fn pieces(
        &self,
        tile: &Tile<'_>,
        scratch: &mut KeyScratch,
        mut each: impl FnMut(usize, &[u64]),
    ) -> Result<(), PruneError> {
        let dtype = self.subject.value(tile.parameter).dtype;
        let mut stream = match self.score {
            Score::Magnitude => None,
            Score::Random { seed } => Some(self.stream(seed, tile)),
        };
        for begin in (0..tile.count).step_by(PIECE) {
            let count = PIECE.min(tile.count - begin);
            let keys = &mut scratch.keys[..count];
            self.width
                .keys(dtype, tile.piece(tile.values, begin, count), keys);
            if let Some(stream) = &mut stream {
                for key in &mut *keys {
                    // Every coordinate draws, so that its number depends on no other.
                    let draw = (stream.bits() >> 1).max(1);
                    *key = if *key == 0 { 0 } else { draw };
                }
            }
            let subject = self.subject;
            let masks = [
                tile.stored.zip(subject.stored_mask(tile.parameter)),
                tile.given.zip(subject.given_mask(tile.parameter)),
            ];
            for (bytes, mask) in masks.into_iter().flatten() {
                let words = &mut scratch.words[..count.div_ceil(64)];
                self.backend
                    .nonzero(words, mask.dtype, tile.piece(bytes, begin, count))?;
                exclude(keys, words);
            }
            if self.are_zeros_pruned[tile.parameter] {
                for key in &mut *keys {
                    *key = if *key == 0 { EXCLUDED } else { *key };
                }
            }
            each(begin, keys);
        }
        Ok(())
    }

    /// The stream of a tile's draws.
    fn stream(&self, seed: u64, tile: &Tile<'_>) -> Stream {
        let name = &self.subject.parameters()[tile.parameter].name;
        Stream::named(seed, "prune", &format!("{name}/{}", tile.begin))
    }
}

/// Excludes what the mask prunes.
fn exclude(keys: &mut [u64], words: &[u64]) {
    for (keys, &word) in keys.chunks_mut(64).zip(words) {
        if word == u64::MAX {
            continue;
        }
        for (bit, key) in keys.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *key = EXCLUDED;
            }
        }
    }
}

/// Refuses stored and given masks that hold something else than 0 and 1.
pub(super) fn refuse_non_flags(subject: &Subject, tile: &Tile<'_>) -> Result<(), PruneError> {
    let refuse = |checkpoint: &Checkpoint, mask: &StoredTensor, bytes| match first_not_flag(
        mask.dtype, bytes,
    ) {
        None => Ok(()),
        Some(index) => Err(PruneError::NotAMask {
            path: checkpoint.path().to_owned(),
            mask: mask.name.clone(),
            index: tile.begin + index as u64,
        }),
    };
    if let (Some(bytes), Some(mask)) = (tile.stored, subject.stored_mask(tile.parameter)) {
        refuse(subject.checkpoint(), mask, bytes)?;
    }
    let mask_file = subject.ingredients().mask_file();
    match (tile.given, mask_file, subject.given_mask(tile.parameter)) {
        (Some(bytes), Some(mask_file), Some(mask)) => refuse(mask_file, mask, bytes),
        _ => Ok(()),
    }
}

/// The error that a weight at `index` of its tensor is not finite.
pub(super) fn non_finite(subject: &Subject, tile: &Tile<'_>, in_tile: usize) -> PruneError {
    let parameter = &subject.parameters()[tile.parameter];
    let index = tile.begin + in_tile as u64;
    let dtype = subject.value(tile.parameter).dtype;
    let bytes = tile.piece(tile.values, in_tile, 1);
    PruneError::NonFinite {
        path: subject.checkpoint().path().to_owned(),
        tensor: parameter.name.clone(),
        index,
        coordinate: parameter.shape.coordinate(index),
        value: value_of(dtype, bytes),
    }
}

fn value_of(dtype: Dtype, bytes: &[u8]) -> f64 {
    let mut keys = [0];
    Width::Double.keys(dtype, bytes, &mut keys);
    let is_negative = bytes.last().is_some_and(|last| last >> 7 == 1);
    let magnitude = Width::Double.magnitude(keys[0]);
    if is_negative { -magnitude } else { magnitude }
}
