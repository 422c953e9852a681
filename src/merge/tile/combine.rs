//! The values of a tile: averaged, pooled, or found identical.

use crate::kernel::Backend;
use crate::kernel::Counts;
use crate::kernel::Gram;
use crate::kernel::Input;
use crate::kernel::PIECE;
use crate::kernel::cpu::Workspace;
use crate::kernel::first_difference;
use crate::kernel::pooled_variance;
use crate::kernel::same_infinity;
use crate::kernel::store;
use crate::kernel::value_at;
use crate::merge::MergeError;
use crate::merge::tile::Tile;
use crate::tensor::Arithmetic;

impl Tile<'_> {
    pub(super) fn average(
        &self,
        workspace: &mut Workspace,
        out: &mut [u8],
        mask: Option<&[u64]>,
    ) -> Result<(Counts, Option<Gram>), MergeError> {
        let mut gram = self.measures().then(|| Gram::zero(self.bytes.values.len()));
        let mut counts = Counts::default();
        let width = (self.planned.slot.dtype.bits() / 8) as usize;
        for (index, out_piece) in out.chunks_mut(PIECE * width).enumerate() {
            let (begin, n_elements) = (index * PIECE, out_piece.len() / width);
            let inputs = self.inputs(begin, n_elements);
            let mask = mask.map(|mask| &mask[begin / 64..(begin + n_elements).div_ceil(64)]);
            let dtype = self.planned.slot.dtype;
            let weights = &self.job.options.weights;
            let before = gram.clone();
            let mut found = self.job.backend.combine(
                workspace,
                out_piece,
                dtype,
                &inputs,
                weights,
                mask,
                gram.as_mut(),
            )?;
            if found.non_finite > 0 {
                gram = before;
                let gram = gram.as_mut();
                found =
                    self.beside_constants(workspace, out_piece, (begin, &inputs), mask, gram)?;
            }
            counts.retained_zeros += found.retained_zeros;
            counts.non_finite += found.non_finite;
        }
        Ok((counts, gram))
    }

    /// The mean of a piece in which something is not finite: what is the same infinity in
    /// every ingredient is a constant, and no more than that is let pass.
    #[cold]
    fn beside_constants(
        &self,
        workspace: &mut Workspace,
        out: &mut [u8],
        (begin, inputs): (usize, &[Input<'_>]),
        mask: Option<&[u64]>,
        gram: Option<&mut Gram>,
    ) -> Result<Counts, MergeError> {
        let dtype = self.planned.slot.dtype;
        let n_elements = out.len() / (dtype.bits() / 8) as usize;
        let is_retained = |j: usize| mask.is_none_or(|mask| mask[j / 64] >> (j % 64) & 1 == 1);
        let constants: Vec<(usize, f64)> = (0..n_elements)
            .filter(|&j| is_retained(j))
            .filter_map(|j| Some((j, same_infinity(inputs, j)?)))
            .collect();

        // Zeros in their places: they add nothing to inner products either.
        let mut copies: Vec<Vec<u8>> = inputs.iter().map(|input| input.bytes.to_vec()).collect();
        for (copy, input) in copies.iter_mut().zip(inputs) {
            let width = (input.dtype.bits() / 8) as usize;
            for (j, _) in &constants {
                copy[j * width..][..width].fill(0);
            }
        }
        let copied = copies.iter().zip(inputs);
        let copied: Vec<Input<'_>> = copied
            .map(|(bytes, input)| Input { bytes, ..*input })
            .collect();
        let weights = &self.job.options.weights;
        let backend = &self.job.backend;
        let mut found = backend.combine(workspace, out, dtype, &copied, weights, mask, gram)?;
        if found.non_finite > 0 && !self.job.options.allow_non_finite {
            return Err(self.non_finite(out, &copied, mask, begin as u64));
        }
        found.retained_zeros -= constants.len() as u64;
        for (j, infinity) in constants {
            store(out, dtype, j, infinity);
        }
        Ok(found)
    }

    /// What every ingredient has of a piece.
    fn inputs(&self, begin: usize, n_elements: usize) -> Vec<Input<'_>> {
        let values = self.bytes.values.iter().enumerate();
        values
            .map(|(i, bytes)| Input {
                bytes: self.piece(bytes, begin, n_elements),
                dtype: self.stored(i).dtype,
            })
            .collect()
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
            .find(|&j| {
                let is_finite = value_at(result, j).is_finite();
                is_retained(j) && !is_finite && same_infinity(inputs, j).is_none()
            })
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

    pub(super) fn pool_variances(&self, mean: usize, out: &mut [u8]) -> Result<(), MergeError> {
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
        let dtype = self.planned.slot.dtype;
        let width = (dtype.bits() / 8) as usize;
        for (index, out_piece) in out.chunks_mut(PIECE * width).enumerate() {
            let (begin, n_elements) = (index * PIECE, out_piece.len() / width);
            let variances = self.inputs(begin, n_elements);
            let means: Vec<Input<'_>> = means
                .iter()
                .map(|mean| Input {
                    bytes: self.piece(mean.bytes, begin, n_elements),
                    dtype: mean.dtype,
                })
                .collect();
            pooled_variance(
                out_piece,
                dtype,
                &variances,
                &means,
                &self.job.options.weights,
            )?;
            let mut bad = false;
            for j in 0..n_elements {
                let bytes = &*out_piece;
                if value_at(Input { bytes, dtype }, j).is_finite() {
                    continue;
                }
                match same_infinity(&variances, j) {
                    Some(infinity) => {
                        store(out_piece, dtype, j, infinity);
                    }
                    None => bad = true,
                }
            }
            if bad && !self.job.options.allow_non_finite {
                return Err(self.non_finite(out_piece, &variances, None, begin as u64));
            }
        }
        Ok(())
    }

    /// Refuses elements that are not averaged and differ.
    pub(super) fn refuse_differences(&self) -> Result<(), MergeError> {
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
            if let Some(quantiser) = self.parameter.quantiser {
                return Err(MergeError::Quantised {
                    tensor,
                    quantiser,
                    first,
                    other,
                    index,
                });
            }
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
