//! One tile of one tensor: read, compared, combined and digested while it is in cache.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Parameter;
use crate::checkpoint::StoredTensor;
use crate::connectivity::Expectation;
use crate::connectivity::MaskTally;
use crate::connectivity::PieceMasks;
use crate::connectivity::mask_digest;
use crate::kernel::Backend;
use crate::kernel::Counts;
use crate::kernel::Gram;
use crate::kernel::Input;
use crate::kernel::PIECE;
use crate::kernel::cpu::Cpu;
use crate::kernel::cpu::Workspace;
use crate::kernel::first_difference;
use crate::kernel::first_not_flag;
use crate::kernel::maximum;
use crate::kernel::pooled_variance;
use crate::kernel::value_at;
use crate::kernel::write_flags;
use crate::merge::MergeError;
use crate::merge::execute::Job;
use crate::merge::plan::Action;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::is_statistic;
use crate::tensor::Arithmetic;
use crate::tensor::Digest;
use crate::tensor::TILE_ELEMENTS;

/// Where a tile lies in its tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileRange {
    /// Row-major index of its first element.
    pub(super) begin: u64,
    /// Its number of elements.
    pub(super) count: u64,
}

/// What was found in a tile.
#[derive(Debug)]
pub(super) struct TileOutcome {
    pub(super) tally: Option<MaskTally>,
    pub(super) mask: Option<Digest>,
    /// Digests of what was read: each ingredient's values, then the stored masks,
    /// then the given mask.
    pub(super) values: Box<[Digest]>,
    pub(super) stored_masks: Box<[Option<Digest>]>,
    pub(super) given_mask: Option<Digest>,
    /// Digests of what was written.
    pub(super) content: Option<Digest>,
    pub(super) mask_content: Option<Digest>,
    pub(super) counts: Counts,
    pub(super) gram: Option<Gram>,
}

/// Scratch memory of one worker.
pub(super) struct Scratch {
    workspace: Workspace,
    values: Vec<Vec<u8>>,
    masks: Vec<Vec<u8>>,
    given: Vec<u8>,
    /// Mask words of all participants over the tile, one after the other.
    words: Vec<u64>,
    /// Mask words of all participants over a piece, one after the other.
    piece_words: Vec<u64>,
    resolved: Vec<u64>,
}

impl Scratch {
    pub(super) fn new(backend: &Cpu, n_ingredients: usize) -> Self {
        Self {
            workspace: backend.workspace(n_ingredients),
            values: vec![Vec::new(); n_ingredients],
            masks: vec![Vec::new(); n_ingredients],
            given: Vec::new(),
            words: Vec::new(),
            piece_words: Vec::new(),
            resolved: vec![0; (TILE_ELEMENTS / 64) as usize],
        }
    }
}

/// The bytes of a tile in every file that has it.
struct TileBytes<'a> {
    values: Vec<&'a [u8]>,
    masks: Vec<Option<&'a [u8]>>,
    given: Option<&'a [u8]>,
}

impl Job<'_> {
    fn read_tile<'s>(
        &'s self,
        parameter: &Parameter,
        range: TileRange,
        values: &'s mut [Vec<u8>],
        masks: &'s mut [Vec<u8>],
        given: &'s mut Vec<u8>,
    ) -> Result<TileBytes<'s>, MergeError> {
        let read = |checkpoint: &'s Checkpoint, tensor: &StoredTensor, scratch: &'s mut Vec<u8>| {
            checkpoint.read(tensor, range.begin, range.count, scratch)
        };
        let checkpoints = self.ingredients.checkpoints();
        let values = checkpoints
            .iter()
            .zip(values)
            .enumerate()
            .map(|(i, (checkpoint, scratch))| {
                read(checkpoint, self.ingredients.value(parameter, i), scratch)
            })
            .collect::<Result<_, _>>()?;
        let masks = checkpoints
            .iter()
            .zip(masks)
            .enumerate()
            .map(|(i, (checkpoint, scratch))| {
                self.ingredients
                    .stored_mask(parameter, i)
                    .map(|mask| read(checkpoint, mask, scratch))
                    .transpose()
            })
            .collect::<Result<_, _>>()?;
        let given = match (
            self.ingredients.mask_file(),
            self.ingredients.given_mask(parameter),
        ) {
            (Some(mask_file), Some(mask)) => Some(read(mask_file, mask, given)?),
            _ => None,
        };
        Ok(TileBytes {
            values,
            masks,
            given,
        })
    }

    /// Works through one tile. `out` and `mask_out` take the tile of the soup and of
    /// its stored mask; both are left alone where nothing is to be written.
    pub(super) fn process_tile(
        &self,
        planned: &PlannedTensor,
        range: TileRange,
        scratch: &mut Scratch,
        out: &mut [u8],
        mask_out: &mut [u8],
    ) -> Result<TileOutcome, MergeError> {
        let parameter = &self.ingredients.parameters()[planned.parameter];
        let Scratch {
            workspace,
            values,
            masks,
            given,
            words,
            piece_words,
            resolved,
        } = scratch;
        let bytes = self.read_tile(parameter, range, values, masks, given)?;
        let mut outcome = TileOutcome {
            tally: None,
            mask: None,
            values: bytes.values.iter().map(|bytes| Digest::of(bytes)).collect(),
            stored_masks: bytes
                .masks
                .iter()
                .map(|bytes| bytes.map(Digest::of))
                .collect(),
            given_mask: bytes.given.map(Digest::of),
            content: None,
            mask_content: None,
            counts: Counts::default(),
            gram: None,
        };
        let tile = Tile {
            job: self,
            planned,
            parameter,
            range,
            bytes: &bytes,
        };
        let n_words = range.count.div_ceil(64) as usize;
        let is_masked = planned.expectation != Expectation::Dense;
        if is_masked {
            let resolved = &mut resolved[..n_words];
            outcome.tally = Some(tile.compare_masks(words, piece_words, resolved)?);
            outcome.mask = Some(mask_digest(resolved, range.count as usize));
        }
        if !self.writes() {
            return Ok(outcome);
        }
        match planned.action {
            Action::Average => {
                let mask = is_masked.then_some(&resolved[..n_words]);
                (outcome.counts, outcome.gram) = tile.average(workspace, out, mask)?;
            }
            Action::PooledVariance { mean } => tile.pool_variances(mean, out)?,
            Action::Maximum => maximum(out, planned.slot.dtype, &bytes.values)?,
            Action::First => out.copy_from_slice(bytes.values[0]),
            Action::Identical => {
                tile.refuse_differences()?;
                out.copy_from_slice(bytes.values[0]);
            }
        }
        outcome.content = Some(Digest::of(out));
        if let Some(slot) = &planned.mask_slot {
            write_flags(mask_out, slot.dtype, &resolved[..n_words]);
            outcome.mask_content = Some(Digest::of(mask_out));
        }
        Ok(outcome)
    }
}

/// A tile that has been read.
struct Tile<'a> {
    job: &'a Job<'a>,
    planned: &'a PlannedTensor,
    parameter: &'a Parameter,
    range: TileRange,
    bytes: &'a TileBytes<'a>,
}

impl Tile<'_> {
    fn stored(&self, ingredient: usize) -> &StoredTensor {
        self.job.ingredients.value(self.parameter, ingredient)
    }

    /// The part of a tile's bytes that a piece takes.
    fn piece<'b>(&self, bytes: &'b [u8], begin: usize, n_elements: usize) -> &'b [u8] {
        let width = bytes.len() / (self.range.count as usize).max(1);
        &bytes[begin * width..(begin + n_elements) * width]
    }

    /// Compares the masks of all participants and writes the resolved one.
    fn compare_masks(
        &self,
        words: &mut Vec<u64>,
        piece_words: &mut Vec<u64>,
        resolved: &mut [u64],
    ) -> Result<MaskTally, MergeError> {
        self.refuse_non_flags()?;
        let n_participants = self.job.votes.len();
        let has_given = self.job.ingredients.mask_file().is_some();
        // A mask read from zeros within a given one is as good as given.
        let given = std::iter::repeat_n(self.bytes.given.is_some(), usize::from(has_given));
        let stored = self.bytes.masks.iter();
        let is_explicit: Vec<bool> = given
            .chain(stored.map(|mask| mask.is_some() || self.bytes.given.is_some()))
            .collect();
        let mut tally = MaskTally::new(n_participants);
        words.clear();
        words.resize(n_participants * resolved.len(), 0);
        for (index, resolved_piece) in resolved.chunks_mut(PIECE / 64).enumerate() {
            let begin = index * PIECE;
            let n_elements = PIECE.min(self.range.count as usize - begin);
            let n_words = resolved_piece.len();
            piece_words.clear();
            piece_words.resize(n_participants * n_words, 0);
            let (given_words, ingredient_words) =
                piece_words.split_at_mut(usize::from(has_given) * n_words);
            if let (Some(bytes), Some(mask)) = (
                self.bytes.given,
                self.job.ingredients.given_mask(self.parameter),
            ) {
                let piece = self.piece(bytes, begin, n_elements);
                self.job.backend.nonzero(given_words, mask.dtype, piece)?;
            }
            for (ingredient, own) in ingredient_words.chunks_mut(n_words).enumerate() {
                match (
                    self.bytes.masks[ingredient],
                    self.job.ingredients.stored_mask(self.parameter, ingredient),
                ) {
                    (Some(bytes), Some(mask)) => {
                        let piece = self.piece(bytes, begin, n_elements);
                        self.job.backend.nonzero(own, mask.dtype, piece)?;
                    }
                    _ => {
                        let piece = self.piece(self.bytes.values[ingredient], begin, n_elements);
                        self.job
                            .backend
                            .nonzero(own, self.stored(ingredient).dtype, piece)?;
                        if self.bytes.given.is_some() {
                            // Within a given mask a zero is an accident.
                            own.iter_mut()
                                .zip(&*given_words)
                                .for_each(|(own, given)| *own |= given);
                        }
                    }
                }
            }
            if has_given && self.bytes.given.is_none() {
                // The mask file says nothing of this tensor: it agrees with the first ingredient.
                given_words.copy_from_slice(&ingredient_words[..n_words]);
            }
            let masks = PieceMasks {
                words: piece_words,
                n_words,
                votes: &self.job.votes,
                is_explicit: &is_explicit,
            };
            let start = self.range.begin + begin as u64;
            tally.add_piece(
                masks,
                self.planned.resolution,
                start,
                n_elements,
                resolved_piece,
            );
            for (all, piece) in words
                .chunks_mut(self.n_words())
                .zip(piece_words.chunks(n_words))
            {
                all[begin / 64..][..n_words].copy_from_slice(piece);
            }
        }
        let differing = (tally.disagreements > 0).then_some(words.as_slice());
        tally.add_tile_patterns(
            resolved,
            differing,
            self.range.count as usize,
            &self.parameter.shape,
        );
        Ok(tally)
    }

    fn n_words(&self) -> usize {
        self.range.count.div_ceil(64) as usize
    }

    fn refuse_non_flags(&self) -> Result<(), MergeError> {
        let refuse = |checkpoint: &Checkpoint, mask: &StoredTensor, bytes| match first_not_flag(
            mask.dtype, bytes,
        ) {
            None => Ok(()),
            Some(index) => Err(MergeError::NotAMask {
                path: checkpoint.path().to_owned(),
                mask: mask.name.clone(),
                index: self.range.begin + index as u64,
            }),
        };
        let ingredients = self.job.ingredients;
        for (ingredient, bytes) in self.bytes.masks.iter().enumerate() {
            if let (Some(bytes), Some(mask)) =
                (bytes, ingredients.stored_mask(self.parameter, ingredient))
            {
                refuse(&ingredients.checkpoints()[ingredient], mask, bytes)?;
            }
        }
        match (
            self.bytes.given,
            ingredients.mask_file(),
            ingredients.given_mask(self.parameter),
        ) {
            (Some(bytes), Some(mask_file), Some(mask)) => refuse(mask_file, mask, bytes),
            _ => Ok(()),
        }
    }

    fn average(
        &self,
        workspace: &mut Workspace,
        out: &mut [u8],
        mask: Option<&[u64]>,
    ) -> Result<(Counts, Option<Gram>), MergeError> {
        let measures = self.job.options.distances && !is_statistic(&self.parameter.name);
        let mut gram = measures.then(|| Gram::zero(self.bytes.values.len()));
        let mut counts = Counts::default();
        let width = (self.planned.slot.dtype.bits() / 8) as usize;
        for (index, out_piece) in out.chunks_mut(PIECE * width).enumerate() {
            let (begin, n_elements) = (index * PIECE, out_piece.len() / width);
            let inputs: Vec<Input<'_>> = self
                .bytes
                .values
                .iter()
                .enumerate()
                .map(|(i, bytes)| Input {
                    bytes: self.piece(bytes, begin, n_elements),
                    dtype: self.stored(i).dtype,
                })
                .collect();
            let mask = mask.map(|mask| &mask[begin / 64..(begin + n_elements).div_ceil(64)]);
            let dtype = self.planned.slot.dtype;
            let weights = &self.job.options.weights;
            let found = self.job.backend.combine(
                workspace,
                out_piece,
                dtype,
                &inputs,
                weights,
                mask,
                gram.as_mut(),
            )?;
            if found.non_finite > 0 && !self.job.options.allow_non_finite {
                return Err(self.non_finite(out_piece, &inputs, mask, begin as u64));
            }
            counts.retained_zeros += found.retained_zeros;
            counts.non_finite += found.non_finite;
        }
        Ok((counts, gram))
    }

    /// The error for the first element of a piece that is not finite.
    fn non_finite(
        &self,
        out: &[u8],
        inputs: &[Input<'_>],
        mask: Option<&[u64]>,
        begin: u64,
    ) -> MergeError {
        let result = Input {
            bytes: out,
            dtype: self.planned.slot.dtype,
        };
        let n_elements = out.len() / (result.dtype.bits() / 8) as usize;
        let is_retained = |j: usize| mask.is_none_or(|mask| mask[j / 64] >> (j % 64) & 1 == 1);
        let j = (0..n_elements)
            .find(|&j| is_retained(j) && !value_at(result, j).is_finite())
            .unwrap_or(0);
        let culprit = inputs
            .iter()
            .position(|&input| !value_at(input, j).is_finite());
        let checkpoints = self.job.ingredients.checkpoints();
        MergeError::NonFinite {
            path: culprit.map(|ingredient| checkpoints[ingredient].path().to_owned()),
            tensor: self.parameter.name.clone(),
            index: self.range.begin + begin + j as u64,
            value: culprit.map_or(value_at(result, j), |ingredient| {
                value_at(inputs[ingredient], j)
            }),
        }
    }

    fn pool_variances(&self, mean: usize, out: &mut [u8]) -> Result<(), MergeError> {
        let ingredients = self.job.ingredients;
        let means_parameter = &ingredients.parameters()[mean];
        let mut scratch = vec![Vec::new(); ingredients.count()];
        let means = ingredients
            .checkpoints()
            .iter()
            .zip(&mut scratch)
            .enumerate()
            .map(|(i, (checkpoint, scratch))| {
                let stored = ingredients.value(means_parameter, i);
                let bytes = checkpoint.read(stored, self.range.begin, self.range.count, scratch)?;
                Ok(Input {
                    bytes,
                    dtype: stored.dtype,
                })
            })
            .collect::<Result<Vec<_>, MergeError>>()?;
        let variances: Vec<Input<'_>> = self
            .bytes
            .values
            .iter()
            .enumerate()
            .map(|(i, bytes)| Input {
                bytes,
                dtype: self.stored(i).dtype,
            })
            .collect();
        let dtype = self.planned.slot.dtype;
        let width = (dtype.bits() / 8) as usize;
        for (index, out_piece) in out.chunks_mut(PIECE * width).enumerate() {
            let (begin, n_elements) = (index * PIECE, out_piece.len() / width);
            let variances: Vec<Input<'_>> = variances
                .iter()
                .map(|&input| input_piece(input, begin, n_elements))
                .collect();
            let means: Vec<Input<'_>> = means
                .iter()
                .map(|&input| input_piece(input, begin, n_elements))
                .collect();
            pooled_variance(
                out_piece,
                dtype,
                &variances,
                &means,
                &self.job.options.weights,
            )?;
            let result = Input {
                bytes: out_piece,
                dtype,
            };
            let bad = (0..n_elements).any(|j| !value_at(result, j).is_finite());
            if bad && !self.job.options.allow_non_finite {
                return Err(self.non_finite(out_piece, &variances, None, begin as u64));
            }
        }
        Ok(())
    }

    /// Refuses elements that are not averaged and differ.
    fn refuse_differences(&self) -> Result<(), MergeError> {
        let checkpoints = self.job.ingredients.checkpoints();
        let dtype = self.planned.slot.dtype;
        for (other, bytes) in self.bytes.values.iter().enumerate().skip(1) {
            let Some(index) = first_difference(self.bytes.values[0], bytes, dtype.bits()) else {
                continue;
            };
            let tensor = self.parameter.name.clone();
            let (first, other) = (
                checkpoints[0].path().to_owned(),
                checkpoints[other].path().to_owned(),
            );
            let index = self.range.begin + index;
            return Err(match dtype.arithmetic() {
                Arithmetic::Integer => MergeError::IntegerMismatch {
                    tensor,
                    dtype,
                    first,
                    other,
                    index,
                },
                _ => MergeError::OpaqueMismatch {
                    tensor,
                    dtype,
                    first,
                    other,
                    index,
                },
            });
        }
        Ok(())
    }
}

fn input_piece(input: Input<'_>, begin: usize, n_elements: usize) -> Input<'_> {
    let width = (input.dtype.bits() / 8) as usize;
    Input {
        bytes: &input.bytes[begin * width..(begin + n_elements) * width],
        dtype: input.dtype,
    }
}
