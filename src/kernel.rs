//! Arithmetic on bytes: which coordinates are retained, and their weighted mean.
//!
//! Byte slices, coefficients and mask words walk in; byte slices and counts walk
//! out. Knows neither paths nor tensor names. [`mod@reference`] is the definition;
//! every other backend must give the same bits, for any input.

mod batch_norm;
pub mod cpu;
pub mod cuda;
mod double;
mod exact;
mod float;
mod fraction;
mod gram;
pub mod reference;
mod weights;

use crate::tensor::Dtype;

pub use batch_norm::pooled_variance;
pub use exact::{first_difference, first_not_flag, maximum, write_flags};
pub use gram::Gram;
pub use reference::same_infinity;
pub use reference::store;
pub use reference::value_at;
pub use weights::{Normalization, WeightError, Weights};

/// Elements that a backend takes at once: the unit over which the lanes of a
/// [`Gram`] are summed, and a bound on a backend's scratch memory.
pub const PIECE: usize = 2048;

/// One ingredient's elements of the coordinates being combined.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Little-endian elements, not aligned.
    pub bytes: &'a [u8],
    /// F16, BF16, F32 or F64.
    pub dtype: Dtype,
}

/// What a combination met on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Retained coordinates whose result is zero (of either sign).
    pub retained_zeros: u64,
    /// Retained coordinates whose result is NaN or infinite.
    pub non_finite: u64,
}

/// Failures of a backend; each is a mistake of the caller, not of a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Slices disagree about the number of elements, or it passes [`PIECE`].
    #[error("{what} holds {found} bytes or words, expected {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Bytes or words it should hold.
        expected: usize,
        /// Bytes or words it holds.
        found: usize,
    },
    /// An element type that this operation does not know.
    #[error("{dtype} elements cannot be {operation}")]
    Dtype {
        /// The element type.
        dtype: Dtype,
        /// What was asked for.
        operation: &'static str,
    },
}

/// A way to compute soups. All backends give the bits of [`mod@reference`].
pub trait Backend: Sync {
    /// Scratch memory of one worker thread.
    type Workspace: Send;

    /// Scratch memory for combining `n_ingredients` inputs.
    fn workspace(&self, n_ingredients: usize) -> Self::Workspace;

    /// Sets bit `j` of `words` if element `j` is not a zero of either sign.
    ///
    /// Bit `j % 64` of word `j / 64`; `words` holds `ceil(n / 64)` words for the
    /// `n` elements of `bytes`, and the bits past `n` are cleared.
    ///
    /// # Errors
    /// [`KernelError::Dtype`] for element types narrower than a byte and C64.
    fn nonzero(&self, words: &mut [u64], dtype: Dtype, bytes: &[u8]) -> Result<(), KernelError>;

    /// Weighted mean of the inputs; pruned coordinates are `+0`.
    ///
    /// `out[j] = round((Σᵢ wᵢ·xᵢ[j]) / d)` where bit `j` of `mask` is set, `+0`
    /// elsewhere; `None` retains everything. Sums run in ingredient order from
    /// the first, each product and sum rounded on its own in `f64` (no fused
    /// multiply-add), then one rounding to `out_dtype`, ties to even. If an
    /// input or the output is F64, the exact mean is rounded to `f64` instead,
    /// and then to `out_dtype`. All slices hold the same number of elements,
    /// at most [`PIECE`].
    ///
    /// With `gram`, adds the inner products of all pairs over the retained
    /// coordinates to it.
    ///
    /// # Errors
    /// [`KernelError`] if a length or element type does not fit.
    ///
    /// Source: uniform soup, arXiv:2203.05482; shared mask, arXiv:2306.16788.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call per piece, all of it needed"
    )]
    fn combine(
        &self,
        workspace: &mut Self::Workspace,
        out: &mut [u8],
        out_dtype: Dtype,
        inputs: &[Input<'_>],
        weights: &Weights,
        mask: Option<&[u64]>,
        gram: Option<&mut Gram>,
    ) -> Result<Counts, KernelError>;
}

/// Bytes of one element of an averaged type, or `None` for other types.
pub(crate) fn float_bytes(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F16 | Dtype::BF16 => Some(2),
        Dtype::F32 => Some(4),
        Dtype::F64 => Some(8),
        _ => None,
    }
}

/// Checks the slices of a `nonzero` call and returns the bytes of an element.
fn check_comparison(words: &[u64], dtype: Dtype, bytes: &[u8]) -> Result<usize, KernelError> {
    let width = match dtype.bits() {
        bits @ (8 | 16 | 32 | 64) if dtype != Dtype::C64 => (bits / 8) as usize,
        _ => {
            return Err(KernelError::Dtype {
                dtype,
                operation: "compared with zero",
            });
        }
    };
    let expected = (bytes.len() / width).div_ceil(64);
    if words.len() != expected {
        return Err(KernelError::Length {
            what: "mask",
            expected,
            found: words.len(),
        });
    }
    Ok(width)
}

/// Checks the slices of a `combine` call and returns the number of elements.
fn check_lengths(
    out: &[u8],
    out_dtype: Dtype,
    inputs: &[Input<'_>],
    weights: &Weights,
    mask: Option<&[u64]>,
) -> Result<usize, KernelError> {
    let width = |dtype| {
        float_bytes(dtype).ok_or(KernelError::Dtype {
            dtype,
            operation: "averaged",
        })
    };
    let out_width = width(out_dtype)?;
    let n = out.len() / out_width;
    let length = |what, expected, found| {
        if expected == found {
            Ok(())
        } else {
            Err(KernelError::Length {
                what,
                expected,
                found,
            })
        }
    };
    length("output", n.min(PIECE) * out_width, out.len())?;
    length("list of inputs", weights.values().len(), inputs.len())?;
    for input in inputs {
        length("input", n * width(input.dtype)?, input.bytes.len())?;
    }
    if let Some(mask) = mask {
        length("mask", n.div_ceil(64), mask.len())?;
    }
    Ok(n)
}

/// Whether the exact mean is needed: where a plain `f64` sum would not be
/// wide enough for one of the element types.
fn needs_exact_mean(out_dtype: Dtype, dtypes: impl IntoIterator<Item = Dtype>) -> bool {
    let mut dtypes = dtypes.into_iter();
    out_dtype == Dtype::F64 || dtypes.any(|dtype| dtype == Dtype::F64)
}

#[cfg(test)]
mod tests;
