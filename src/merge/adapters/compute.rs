//! The tensors of one module of a soup of adapters.

use crate::adapter::Factor;
use crate::adapter::NonFinite;
use crate::adapter::product_norm;
use crate::adapter::truncate;
use crate::checkpoint::Checkpoint;
use crate::kernel::Backend;
use crate::kernel::Input;
use crate::kernel::PIECE;
use crate::kernel::Weights;
use crate::kernel::cpu::Cpu;
use crate::kernel::store;
use crate::kernel::value_at;
use crate::merge::MergeError;
use crate::merge::adapters::plan::Member;
use crate::merge::adapters::plan::Piece;
use crate::merge::adapters::plan::PlannedModule;
use crate::merge::adapters::plan::Rule;
use crate::merge::options::MergeOptions;
use crate::tensor::Dtype;

/// The tensors of a module.
pub(super) struct Computed<'a> {
    /// With their bytes.
    pub(super) pieces: Vec<(&'a Piece, Vec<u8>)>,
    /// Of a truncated product.
    pub(super) norms: Option<Norms>,
}

/// Frobenius norms of a truncated product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Norms {
    /// Of the mean of the products.
    pub(super) exact: f64,
    /// Of what the stored factors lack.
    pub(super) lost: f64,
}

/// A module that is being computed.
pub(super) struct Work<'a> {
    pub(super) checkpoints: &'a [Checkpoint],
    pub(super) module: &'a PlannedModule,
    pub(super) options: &'a MergeOptions,
}

impl<'a> Work<'a> {
    pub(super) fn compute(&self) -> Result<Computed<'a>, MergeError> {
        let module = self.module;
        let mut norms = None;
        let (down, up) = match &module.rule {
            Rule::Stacked => {
                let (down, up) = self.stacked(|member| member.coefficient)?;
                (
                    rounded(&down, module.down.dtype),
                    rounded(&up, module.up.dtype),
                )
            }
            Rule::SharedDown(weights) => (
                self.converted(
                    &module.members[0],
                    |member| member.module.down,
                    &module.down,
                )?,
                self.mean(weights, |member| Some(member.module.up), &module.up)?,
            ),
            Rule::SharedUp(weights) => (
                self.mean(weights, |member| Some(member.module.down), &module.down)?,
                self.converted(&module.members[0], |member| member.module.up, &module.up)?,
            ),
            Rule::Truncated => {
                let (down, up, found) = self.truncated()?;
                norms = Some(found);
                (down, up)
            }
        };
        let mut pieces = vec![(&module.down, down), (&module.up, up)];
        if let Some(piece) = &module.bias {
            pieces.push((piece, self.bias(piece)?));
        }
        if let Some(piece) = &module.alpha_tensor {
            let mut bytes = vec![0; (piece.dtype.bits() / 8) as usize];
            store(&mut bytes, piece.dtype, 0, module.alpha);
            pieces.push((piece, bytes));
        }
        for (piece, bytes) in &pieces {
            self.refuse_non_finite(piece, bytes)?;
        }
        Ok(Computed { pieces, norms })
    }

    fn read(&self, member: &Member, index: usize) -> Result<Factor, MergeError> {
        let checkpoint = &self.checkpoints[member.ingredient];
        let allowed = match self.options.allow_non_finite {
            true => NonFinite::Taken,
            false => NonFinite::Refused,
        };
        Ok(Factor::read(
            checkpoint,
            &checkpoint.tensors()[index],
            allowed,
        )?)
    }

    /// The factors beside each other, the second ones multiplied by what `coefficient`
    /// says.
    fn stacked(
        &self,
        coefficient: impl Fn(&Member) -> f64,
    ) -> Result<(Factor, Factor), MergeError> {
        let members = &self.module.members;
        let rank: u64 = members.iter().map(|member| member.module.rank).sum();
        let mut down: Option<Factor> = None;
        let mut up: Option<Factor> = None;
        let mut begin = 0;
        for member in members {
            let own = self.read(member, member.module.down)?;
            let down = down.get_or_insert_with(|| Factor::zeros(0, own.columns));
            down.rows += own.rows;
            down.values.extend(own.values);

            let own = self.read(member, member.module.up)?;
            let up = up.get_or_insert_with(|| Factor::zeros(own.rows, rank as usize));
            let factor = coefficient(member);
            for row in 0..own.rows {
                let at = row * rank as usize + begin;
                let to = &mut up.values[at..at + own.columns];
                let from = own.row(row).iter();
                to.iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to = factor * from);
            }
            begin += own.columns;
        }
        let empty = || Factor::zeros(0, 0);
        Ok((down.unwrap_or_else(empty), up.unwrap_or_else(empty)))
    }

    /// The mean cut to the module's rank, and what that loses, rounding included.
    fn truncated(&self) -> Result<(Vec<u8>, Vec<u8>, Norms), MergeError> {
        let module = self.module;
        let values = self.options.weights.values();
        let divisor = self.options.weights.divisor();
        let in_mean = |member: &Member| {
            values[member.ingredient] * member.module.alpha / (divisor * member.module.divisor)
        };
        let (down, up) = self.stacked(in_mean)?;
        let cut = truncate(&up, &down, module.rank as usize);

        // The scale is 1, but where alpha is a tensor that cannot hold the rank.
        let scale = module.alpha / module.rank as f64;
        let (mut cut_down, mut cut_up) = (cut.down, cut.up);
        cut_up.values.iter_mut().for_each(|value| *value /= scale);
        let down_bytes = rounded(&cut_down, module.down.dtype);
        let up_bytes = rounded(&cut_up, module.up.dtype);
        reread(&mut cut_down, &down_bytes, module.down.dtype);
        reread(&mut cut_up, &up_bytes, module.up.dtype);
        cut_up.values.iter_mut().for_each(|value| *value *= -scale);

        let mut both_down = down;
        both_down.rows += cut_down.rows;
        both_down.values.extend(cut_down.values);
        let both_up = beside(&up, &cut_up);
        let norms = Norms {
            exact: cut.norm,
            lost: product_norm(&both_up, &both_down),
        };
        Ok((down_bytes, up_bytes, norms))
    }

    /// The elements of one tensor in the type that is stored.
    fn converted(
        &self,
        member: &Member,
        which: impl Fn(&Member) -> usize,
        piece: &Piece,
    ) -> Result<Vec<u8>, MergeError> {
        let checkpoint = &self.checkpoints[member.ingredient];
        let tensor = &checkpoint.tensors()[which(member)];
        if tensor.dtype == piece.dtype {
            let mut scratch = Vec::new();
            let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch)?;
            return Ok(bytes.to_vec());
        }
        Ok(rounded(&self.read(member, which(member))?, piece.dtype))
    }

    /// The weighted mean of one tensor of every ingredient, by the definition of a soup.
    fn mean(
        &self,
        weights: &Weights,
        which: impl Fn(&Member) -> Option<usize>,
        piece: &Piece,
    ) -> Result<Vec<u8>, MergeError> {
        let members = &self.module.members;
        let mut scratch = vec![Vec::new(); members.len()];
        let numel = piece.shape.numel();
        let zeros = vec![0; (numel * piece.dtype.bits() / 8) as usize];
        let mut inputs = Vec::with_capacity(members.len());
        for (member, scratch) in members.iter().zip(&mut scratch) {
            let checkpoint = &self.checkpoints[member.ingredient];
            let Some(index) = which(member) else {
                inputs.push((zeros.as_slice(), piece.dtype));
                continue;
            };
            let tensor = &checkpoint.tensors()[index];
            inputs.push((checkpoint.read(tensor, 0, numel, scratch)?, tensor.dtype));
        }

        let backend = Cpu::new();
        let mut workspace = backend.workspace(members.len());
        let mut out = zeros.clone();
        let width = (piece.dtype.bits() / 8) as usize;
        for (index, out) in out.chunks_mut(PIECE * width).enumerate() {
            let (begin, count) = (index * PIECE, out.len() / width);
            let parts = inputs.iter().map(|&(bytes, dtype)| {
                let width = (dtype.bits() / 8) as usize;
                let bytes = &bytes[begin * width..(begin + count) * width];
                Input { bytes, dtype }
            });
            let parts: Vec<Input<'_>> = parts.collect();
            backend.combine(
                &mut workspace,
                out,
                piece.dtype,
                &parts,
                weights,
                None,
                None,
            )?;
        }
        Ok(out)
    }

    /// What the second factor adds: its mean, in the soup's scale.
    fn bias(&self, piece: &Piece) -> Result<Vec<u8>, MergeError> {
        let module = self.module;
        if let Rule::SharedDown(weights) | Rule::SharedUp(weights) = &module.rule {
            return self.mean(weights, |member| member.module.bias, piece);
        }
        let values = self.options.weights.values();
        let divisor = self.options.weights.divisor();
        let mut sum = Factor::zeros(piece.shape.numel() as usize, 1);
        for member in &module.members {
            let Some(index) = member.module.bias else {
                continue;
            };
            let own = &member.module;
            let numerator = values[member.ingredient] * own.alpha * module.rank as f64;
            let factor = numerator / (divisor * own.divisor * module.alpha);
            let bias = self.read(member, index)?;
            let elements = sum.values.iter_mut().zip(bias.values);
            elements.for_each(|(sum, value)| *sum += factor * value);
        }
        Ok(rounded(&sum, piece.dtype))
    }

    fn refuse_non_finite(&self, piece: &Piece, bytes: &[u8]) -> Result<(), MergeError> {
        let input = Input {
            bytes,
            dtype: piece.dtype,
        };
        if self.options.allow_non_finite {
            return Ok(());
        }
        let mut values = (0..piece.shape.numel() as usize).map(|j| value_at(input, j));
        match values.position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(index) => Err(MergeError::NonFinite {
                path: None,
                tensor: piece.name.clone(),
                index: index as u64,
                value: value_at(input, index),
            }),
        }
    }
}

/// A factor in a stored type, each element rounded once.
fn rounded(factor: &Factor, dtype: Dtype) -> Vec<u8> {
    let mut bytes = vec![0; factor.values.len() * (dtype.bits() / 8) as usize];
    for (index, &value) in factor.values.iter().enumerate() {
        store(&mut bytes, dtype, index, value);
    }
    bytes
}

/// Puts what was stored in place of what was rounded.
fn reread(factor: &mut Factor, bytes: &[u8], dtype: Dtype) {
    let input = Input { bytes, dtype };
    let values = factor.values.iter_mut().enumerate();
    values.for_each(|(index, value)| *value = value_at(input, index));
}

/// The columns of two matrices with the same rows.
fn beside(a: &Factor, b: &Factor) -> Factor {
    let mut out = Factor::zeros(a.rows, a.columns + b.columns);
    for (row, to) in out
        .values
        .chunks_exact_mut(a.columns + b.columns)
        .enumerate()
    {
        to[..a.columns].copy_from_slice(a.row(row));
        to[a.columns..].copy_from_slice(b.row(row));
    }
    out
}
