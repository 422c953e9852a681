//! The processor's backend: plain loops, compiled once per instruction set.
//!
//! Most coordinates of a sparse ingredient are pruned, so arithmetic runs in the
//! compact domain: retained elements of a piece are gathered into columns of
//! `f64`, combined there, and scattered back. The loops are safe scalar code;
//! `pulp` compiles them for the widest vectors that the machine has, and the
//! compiler never contracts a product and a sum, so the bits stay those of
//! [`reference`](super::reference).

mod mean;
mod nonzero;

use self::mean::mean_of_columns;
use self::mean::wide_mean_of_columns;
use self::nonzero::Nonzero;
use super::float::{BF16, Element, F16, F32, F64};
use super::gram::PieceSums;
use super::{Backend, Counts, Gram, Input, KernelError, PIECE, Weights};
use super::{check_comparison, check_lengths, needs_exact_mean};
use crate::tensor::Dtype;

/// Combines on the processor.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    arch: pulp::Arch,
}

impl Cpu {
    /// The backend for the instruction set of this machine.
    pub fn new() -> Self {
        Self {
            arch: pulp::Arch::new(),
        }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

/// Retained elements that are widened, combined and stored before the next ones are
/// looked at: a multiple of a gram's lanes, and so few that the columns of several
/// ingredients stay in the first cache.
const STRETCH: usize = 256;

/// Positions of retained elements within a piece, and room for writing too many.
type Positions = [u16; PIECE + AT_ONCE];

/// Scratch memory of one worker: 2 KiB per ingredient and a little more.
#[derive(Debug)]
pub struct Workspace {
    /// Positions of the retained elements within the piece.
    positions: Box<Positions>,
    /// Retained values of each ingredient in a stretch.
    columns: Vec<Column>,
    /// Their combination.
    means: Box<Column>,
    /// Stored elements of one ingredient, or of the soup, without the pruned ones.
    compact: Box<Stored>,
}

/// Values of a stretch.
type Column = [f64; STRETCH];

/// Stored elements of a stretch.
type Stored = [[u8; 8]; STRETCH];

/// Runs `$body` with `$element` naming the element type of `$dtype`.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr, _ => $other:expr) => {
        match $dtype {
            Dtype::F16 => {
                type $element = F16;
                $body
            }
            Dtype::BF16 => {
                type $element = BF16;
                $body
            }
            Dtype::F32 => {
                type $element = F32;
                $body
            }
            Dtype::F64 => {
                type $element = F64;
                $body
            }
            _ => $other,
        }
    };
}

/// Which elements of a piece are combined, or which in a stretch.
#[derive(Clone, Copy)]
enum Retained<'a> {
    All { begin: usize, len: usize },
    At(&'a [u16]),
}

impl Retained<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        match self {
            Self::All { len, .. } => len,
            Self::At(positions) => positions.len(),
        }
    }

    /// Those of a stretch.
    #[inline(always)]
    fn stretch(self, begin: usize) -> Self {
        let len = STRETCH.min(self.len() - begin);
        match self {
            Self::All { .. } => Self::All { begin, len },
            Self::At(positions) => Self::At(&positions[begin..begin + len]),
        }
    }
}

/// Positions written at once, needed or not: a branch per set bit would be guessed
/// wrong once per word.
const AT_ONCE: usize = 8;

/// Writes the positions of the set bits and returns their number.
#[inline(always)]
fn list_positions(positions: &mut Positions, mask: &[u64]) -> usize {
    let mut n_retained = 0;
    for (index, &word) in mask.iter().enumerate() {
        let base = index as u16 * 64;
        let mut rest = word;
        let end = (n_retained + word.count_ones() as usize).min(PIECE);
        while n_retained < end {
            // Past the last set bit these are no positions, and written over later.
            for position in &mut positions[n_retained..n_retained + AT_ONCE] {
                *position = base.wrapping_add(rest.trailing_zeros() as u16);
                rest &= rest.wrapping_sub(1);
            }
            n_retained += AT_ONCE;
        }
        n_retained = end;
    }
    n_retained
}

/// Room for `n` elements of `N` bytes.
#[inline(always)]
fn room<const N: usize>(compact: &mut Stored, n: usize) -> &mut [[u8; N]] {
    &mut compact.as_flattened_mut().as_chunks_mut::<N>().0[..n]
}

#[inline(always)]
fn widen<E: Element<Bytes = [u8; N]>, const N: usize>(
    column: &mut Column,
    compact: &mut Stored,
    bytes: &[u8],
    retained: Retained<'_>,
) {
    let elements = bytes.as_chunks::<N>().0;
    let elements = match retained {
        Retained::All { begin, len } => &elements[begin..begin + len],
        Retained::At(positions) => {
            let gathered = room::<N>(compact, positions.len());
            match <&[[u8; N]; PIECE]>::try_from(elements) {
                // All pieces but a tensor's last: no index needs to be checked.
                Ok(whole) => {
                    for (to, &position) in gathered.iter_mut().zip(positions) {
                        *to = whole[usize::from(position) % PIECE];
                    }
                }
                Err(_) => {
                    for (to, &position) in gathered.iter_mut().zip(positions) {
                        *to = elements[usize::from(position)];
                    }
                }
            }
            gathered
        }
    };
    for (value, &element) in column.iter_mut().zip(elements) {
        *value = E::widen(element);
    }
}

#[inline(always)]
fn narrow<E: Element<Bytes = [u8; N]>, const N: usize>(
    out: &mut [u8],
    compact: &mut Stored,
    means: &[f64],
    retained: Retained<'_>,
) -> Counts {
    let elements = out.as_chunks_mut::<N>().0;
    match retained {
        Retained::All { begin, len } => {
            narrow_all::<E, N>(&mut elements[begin..begin + len], means)
        }
        Retained::At(positions) => {
            let narrowed = room::<N>(compact, positions.len());
            let counts = narrow_all::<E, N>(narrowed, means);
            match <&mut [[u8; N]; PIECE]>::try_from(&mut *elements) {
                Ok(whole) => {
                    for (&position, &element) in positions.iter().zip(&*narrowed) {
                        whole[usize::from(position) % PIECE] = element;
                    }
                }
                Err(_) => {
                    for (&position, &element) in positions.iter().zip(&*narrowed) {
                        elements[usize::from(position)] = element;
                    }
                }
            }
            counts
        }
    }
}

#[inline(always)]
fn narrow_all<E: Element<Bytes = [u8; N]>, const N: usize>(
    elements: &mut [[u8; N]],
    means: &[f64],
) -> Counts {
    let mut zeros = 0_u32;
    let mut non_finite = 0_u32;
    for (element, &mean) in elements.iter_mut().zip(means) {
        *element = E::narrow(mean);
        let stored = E::widen(*element);
        zeros += u32::from(stored == 0.0);
        non_finite += u32::from(!stored.is_finite());
    }
    Counts {
        retained_zeros: zeros.into(),
        non_finite: non_finite.into(),
    }
}

/// [`Backend::combine`] after its checks.
struct Combine<'a> {
    positions: &'a mut Positions,
    columns: &'a mut [Column],
    means: &'a mut Column,
    compact: &'a mut Stored,
    out: &'a mut [u8],
    out_dtype: Dtype,
    inputs: &'a [Input<'a>],
    weights: &'a Weights,
    mask: Option<&'a [u64]>,
    gram: Option<&'a mut Gram>,
    n_elements: usize,
}

impl pulp::NullaryFnOnce for Combine<'_> {
    type Output = Counts;

    #[inline(always)]
    fn call(self) -> Counts {
        let Self {
            positions,
            columns,
            means,
            compact,
            out,
            out_dtype,
            inputs,
            weights,
            mask,
            gram,
            n_elements,
        } = self;
        let all = Retained::All {
            begin: 0,
            len: n_elements,
        };
        let retained = match mask {
            None => all,
            Some(mask) => match list_positions(positions, mask) {
                n_retained if n_retained == n_elements => all,
                n_retained => {
                    out.fill(0);
                    Retained::At(&positions[..n_retained])
                }
            },
        };
        let is_exact = needs_exact_mean(out_dtype, inputs.iter().map(|input| input.dtype));
        let mut sums = gram.as_deref().map(PieceSums::new);
        let mut counts = Counts::default();
        for begin in (0..retained.len()).step_by(STRETCH) {
            let stretch = retained.stretch(begin);
            for (column, input) in columns.iter_mut().zip(inputs) {
                with_element!(input.dtype, E => widen::<E, _>(column, compact, input.bytes, stretch), _ => ());
            }
            let means = &mut means[..stretch.len()];
            if is_exact {
                wide_mean_of_columns(means, columns, weights, out_dtype);
            } else {
                mean_of_columns(means, columns, weights);
            }
            if let Some(sums) = &mut sums {
                sums.add(|i| &columns[i][..stretch.len()]);
            }
            let found = with_element!(out_dtype, E => narrow::<E, _>(out, compact, means, stretch), _ => Counts::default());
            counts.retained_zeros += found.retained_zeros;
            counts.non_finite += found.non_finite;
        }
        if let (Some(gram), Some(sums)) = (gram, &sums) {
            gram.add_sums(sums);
        }
        counts
    }
}

impl Backend for Cpu {
    type Workspace = Workspace;

    fn workspace(&self, n_ingredients: usize) -> Workspace {
        Workspace {
            positions: Box::new([0; PIECE + AT_ONCE]),
            columns: vec![[0.0; STRETCH]; n_ingredients],
            means: Box::new([0.0; STRETCH]),
            compact: Box::new([[0; 8]; STRETCH]),
        }
    }

    fn nonzero(&self, words: &mut [u64], dtype: Dtype, bytes: &[u8]) -> Result<(), KernelError> {
        let width = check_comparison(words, dtype, bytes)?;
        let sign_bits = u32::from(dtype.is_float());
        self.arch.dispatch(Nonzero {
            words,
            bytes,
            width,
            sign_bits,
        });
        Ok(())
    }

    fn combine(
        &self,
        workspace: &mut Workspace,
        out: &mut [u8],
        out_dtype: Dtype,
        inputs: &[Input<'_>],
        weights: &Weights,
        mask: Option<&[u64]>,
        gram: Option<&mut Gram>,
    ) -> Result<Counts, KernelError> {
        let n_elements = check_lengths(out, out_dtype, inputs, weights, mask)?;
        let Workspace {
            positions,
            columns,
            means,
            compact,
        } = workspace;
        let found = columns.len();
        let columns = columns.get_mut(..inputs.len()).ok_or(KernelError::Length {
            what: "workspace",
            expected: inputs.len(),
            found,
        })?;
        let operation = Combine {
            positions,
            columns,
            means,
            compact,
            out,
            out_dtype,
            inputs,
            weights,
            mask,
            gram,
            n_elements,
        };
        Ok(self.arch.dispatch(operation))
    }
}
