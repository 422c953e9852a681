//! One tile for the kernels, and what they found for it.

use crate::kernel::Counts;
use crate::kernel::Gram;
use crate::kernel::Input;
use crate::kernel::KernelError;
use crate::kernel::Weights;
use crate::kernel::float_bytes;
use crate::tensor::Dtype;

/// Where the mask of a tile comes from.
#[derive(Clone, Copy, Debug)]
pub enum MaskSource<'a> {
    /// Everything is retained.
    Dense,
    /// Bit `j % 64` of word `j / 64` tells whether element `j` is retained; bits past the
    /// end are clear.
    Given(&'a [u64]),
    /// Zeros of either sign are pruned. Masks of all inputs are compared.
    Zeros,
}

/// What is asked of the kernels for one tile.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// One per weight, all of the same number of elements.
    pub inputs: &'a [Input<'a>],
    /// Element type of the weighted mean; `None` if only masks are compared.
    pub out_dtype: Option<Dtype>,
    /// Where the mask comes from.
    pub mask: MaskSource<'a>,
    /// Whether inner products are wanted.
    pub gram: bool,
}

/// A tile whose values, mask and output have their addresses on the device.
#[derive(Clone, Debug)]
pub(in crate::kernel::cuda) struct Placed {
    /// Elements of every operand.
    pub(in crate::kernel::cuda) n_elements: usize,
    /// One per weight.
    pub(in crate::kernel::cuda) operands: Vec<(u64, Dtype)>,
    /// Where the mask is written that is read from zeros; `None` retains everything.
    pub(in crate::kernel::cuda) mask: Option<u64>,
    /// Where the weighted mean is written.
    pub(in crate::kernel::cuda) out: (u64, Dtype),
    /// Whether inner products are wanted.
    pub(in crate::kernel::cuda) gram: bool,
}

/// What the kernels found for one tile.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// The weighted mean; empty if it was not asked for.
    pub out: &'a [u8],
    /// A bit per element, whole little-endian words of 64; empty unless it was read from
    /// zeros.
    pub mask: &'a [u8],
    /// What was met among the means.
    pub counts: Counts,
    /// Coordinates that some inputs retain and others do not: if there are any, the mask
    /// is the first input's, and means and products are of no use.
    pub disputed: u64,
    /// Coordinates whose mean only an exact fraction can tell: if there are any, `out`
    /// lacks them.
    pub unsettled: u64,
    /// Inner products, if they were asked for.
    pub gram: Option<Gram>,
}

/// The number of an element type in `element.cuh`.
pub(super) fn number_of(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F16 => 0,
        Dtype::BF16 => 1,
        Dtype::F32 => 2,
        _ => 3,
    }
}

/// Checks a request and returns its number of elements.
pub(super) fn check(request: Request<'_>, weights: &Weights) -> Result<usize, KernelError> {
    let length = |what, expected, found| match expected == found {
        true => Ok(()),
        false => Err(KernelError::Length {
            what,
            expected,
            found,
        }),
    };
    let width = |dtype| {
        float_bytes(dtype).ok_or(KernelError::Dtype {
            dtype,
            operation: "averaged",
        })
    };
    length(
        "list of inputs",
        weights.values().len(),
        request.inputs.len(),
    )?;
    let first = request.inputs[0];
    let n_elements = first.bytes.len() / width(first.dtype)?;
    for input in request.inputs {
        length("input", n_elements * width(input.dtype)?, input.bytes.len())?;
    }
    if let Some(dtype) = request.out_dtype {
        width(dtype)?;
    }
    if let MaskSource::Given(words) = request.mask {
        length("mask", n_elements.div_ceil(64), words.len())?;
    }
    Ok(n_elements)
}
