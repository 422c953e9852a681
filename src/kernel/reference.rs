//! The definition: scalar loops that every other backend must equal bit for bit.
//!
//! One rule stands above it, for the user of a backend to keep: an element that is the
//! same infinity in every input is a constant, as in a causal mask that is kept as a
//! buffer. It stays what it is, whatever the weights, and is no result that is not finite.
//! A backend counts it as one, so who finds any looks for [`same_infinity`].

use super::double::weighted_mean;
use super::float::{BF16, Element, F16, F32, F64, is_tie};
use super::{Backend, Counts, Gram, Input, KernelError, PIECE, Weights};
use super::{check_comparison, check_lengths, needs_exact_mean};
use crate::tensor::Dtype;

/// The backend that is the definition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// Element `index` of an input, exactly, as `f64`.
///
/// # Panics
/// If there is no such element.
pub fn value_at(input: Input<'_>, index: usize) -> f64 {
    fn at<E: Element<Bytes = [u8; N]>, const N: usize>(bytes: &[u8], index: usize) -> f64 {
        E::widen(bytes.as_chunks::<N>().0[index])
    }
    match input.dtype {
        Dtype::F16 => at::<F16, 2>(input.bytes, index),
        Dtype::BF16 => at::<BF16, 2>(input.bytes, index),
        Dtype::F32 => at::<F32, 4>(input.bytes, index),
        _ => at::<F64, 8>(input.bytes, index),
    }
}

/// The infinity that all inputs have as element `index`, if they have.
///
/// # Panics
/// If there is no such element.
pub fn same_infinity(inputs: &[Input<'_>], index: usize) -> Option<f64> {
    let (first, others) = inputs.split_first()?;
    let value = value_at(*first, index);
    let is_same = |&input: &Input<'_>| value_at(input, index) == value;
    (value.is_infinite() && others.iter().all(is_same)).then_some(value)
}

/// Rounds `value` once into element `index` of `out`, which is F16, BF16, F32 or F64, and
/// returns what was stored.
///
/// # Panics
/// If there is no such element.
pub fn store(out: &mut [u8], dtype: Dtype, index: usize, value: f64) -> f64 {
    fn at<E: Element<Bytes = [u8; N]>, const N: usize>(
        out: &mut [u8],
        index: usize,
        value: f64,
    ) -> f64 {
        let bytes = E::narrow(value);
        out.as_chunks_mut::<N>().0[index] = bytes;
        E::widen(bytes)
    }
    match dtype {
        Dtype::F16 => at::<F16, 2>(out, index, value),
        Dtype::BF16 => at::<BF16, 2>(out, index, value),
        Dtype::F32 => at::<F32, 4>(out, index, value),
        _ => at::<F64, 8>(out, index, value),
    }
}

/// Whether a number lies in the middle between two elements of a type that it is to be
/// rounded to once more.
fn is_tie_of(dtype: Dtype, value: f64) -> bool {
    match dtype {
        Dtype::F16 => is_tie::<F16>(value),
        Dtype::BF16 => is_tie::<BF16>(value),
        Dtype::F32 => is_tie::<F32>(value),
        _ => false,
    }
}

impl Backend for Reference {
    type Workspace = ();

    fn workspace(&self, _n_ingredients: usize) {}

    fn nonzero(&self, words: &mut [u64], dtype: Dtype, bytes: &[u8]) -> Result<(), KernelError> {
        let width = check_comparison(words, dtype, bytes)?;
        words.fill(0);
        for (index, element) in bytes.chunks_exact(width).enumerate() {
            // The sign of a floating zero is the top bit of its last byte.
            let sign = if dtype.is_float() { 0x80 } else { 0 };
            let (last, rest) = element.split_last().unwrap_or((&0, &[]));
            if last & !sign != 0 || rest.iter().any(|&byte| byte != 0) {
                words[index / 64] |= 1 << (index % 64);
            }
        }
        Ok(())
    }

    fn combine(
        &self,
        (): &mut (),
        out: &mut [u8],
        out_dtype: Dtype,
        inputs: &[Input<'_>],
        weights: &Weights,
        mask: Option<&[u64]>,
        gram: Option<&mut Gram>,
    ) -> Result<Counts, KernelError> {
        let n = check_lengths(out, out_dtype, inputs, weights, mask)?;
        let retained: Vec<usize> = (0..n)
            .filter(|&j| mask.is_none_or(|mask| mask[j / 64] >> (j % 64) & 1 == 1))
            .collect();
        let mut counts = Counts::default();
        out.fill(0);
        for &j in &retained {
            let values = inputs.iter().map(|&input| value_at(input, j));
            let mean = if needs_exact_mean(out_dtype, inputs.iter().map(|input| input.dtype)) {
                let is_tie = |value| is_tie_of(out_dtype, value);
                weighted_mean(values, weights.factors(), weights.wide_divisor(), is_tie)
            } else {
                let mut terms = values
                    .zip(weights.factors())
                    .map(|(value, weight)| weight * value);
                let first = terms.next().unwrap_or(0.0);
                terms.fold(first, |sum, term| sum + term) / weights.divisor()
            };
            let stored = store(out, out_dtype, j, mean);
            counts.retained_zeros += u64::from(stored == 0.0);
            counts.non_finite += u64::from(!stored.is_finite());
        }
        if let Some(gram) = gram {
            let columns: Vec<Vec<f64>> = inputs
                .iter()
                .map(|&input| retained.iter().map(|&j| value_at(input, j)).collect())
                .collect();
            gram.add_piece(|i| &columns[i]);
        }
        debug_assert!(n <= PIECE);
        Ok(counts)
    }
}
