//! The processor's backend: plain loops, compiled once per instruction set.
//!
//! Most coordinates of a sparse ingredient are pruned, so arithmetic runs in the
//! compact domain: retained elements of a piece are gathered into columns of
//! `f64`, combined there, and scattered back. The loops are safe scalar code;
//! `pulp` compiles them for the widest vectors that the machine has, and the
//! compiler never contracts a product and a sum, so the bits stay those of
//! [`reference`](super::reference).

mod nonzero;

use self::nonzero::Nonzero;
use super::double::weighted_mean;
use super::float::{BF16, Element, F16, F32, F64};
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

/// Positions of retained elements within a piece, and room for writing too many.
type Positions = [u16; PIECE + AT_ONCE];

/// Scratch memory of one worker: 16 KiB per ingredient and a little more.
#[derive(Debug)]
pub struct Workspace {
    /// Positions of the retained elements within the piece.
    positions: Box<Positions>,
    /// Retained values of each ingredient.
    columns: Vec<Box<[f64; PIECE]>>,
    /// Their combination.
    means: Box<[f64; PIECE]>,
    /// Stored elements of one ingredient, or of the soup, without the pruned ones.
    compact: Box<[[u8; 8]; PIECE]>,
}

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

/// Which elements of a piece are combined.
#[derive(Clone, Copy)]
enum Retained<'a> {
    All(usize),
    At(&'a [u16]),
}

impl Retained<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        match self {
            Self::All(n) => n,
            Self::At(positions) => positions.len(),
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
fn room<const N: usize>(compact: &mut [[u8; 8]; PIECE], n: usize) -> &mut [[u8; N]] {
    &mut compact.as_flattened_mut().as_chunks_mut::<N>().0[..n]
}

#[inline(always)]
fn widen<E: Element<Bytes = [u8; N]>, const N: usize>(
    column: &mut [f64; PIECE],
    compact: &mut [[u8; 8]; PIECE],
    bytes: &[u8],
    retained: Retained<'_>,
) {
    let mut elements = bytes.as_chunks::<N>().0;
    if let Retained::At(positions) = retained {
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
        elements = gathered;
    }
    for (value, &element) in column.iter_mut().zip(elements) {
        *value = E::widen(element);
    }
}

#[inline(always)]
fn narrow<E: Element<Bytes = [u8; N]>, const N: usize>(
    out: &mut [u8],
    compact: &mut [[u8; 8]; PIECE],
    means: &[f64],
    retained: Retained<'_>,
) -> Counts {
    let elements = out.as_chunks_mut::<N>().0;
    match retained {
        Retained::All(_) => narrow_all::<E, N>(elements, means),
        Retained::At(positions) => {
            let narrowed = room::<N>(compact, positions.len());
            let counts = narrow_all::<E, N>(narrowed, means);
            elements.as_flattened_mut().fill(0);
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

#[inline(always)]
fn mean_of_columns(means: &mut [f64], columns: &[Box<[f64; PIECE]>], weights: &Weights) {
    let mut terms = columns.iter().zip(weights.values());
    if let Some((column, &weight)) = terms.next() {
        for (mean, &value) in means.iter_mut().zip(column.iter()) {
            *mean = weight * value;
        }
    }
    for (column, &weight) in terms {
        for (mean, &value) in means.iter_mut().zip(column.iter()) {
            *mean += weight * value;
        }
    }
    let divisor = weights.divisor();
    for mean in means {
        *mean /= divisor;
    }
}

#[inline(always)]
fn wide_mean_of_columns(means: &mut [f64], columns: &[Box<[f64; PIECE]>], weights: &Weights) {
    for (index, mean) in means.iter_mut().enumerate() {
        let values = columns.iter().map(|column| column[index]);
        *mean = weighted_mean(values, weights.values(), weights.wide_divisor());
    }
}

/// [`Backend::combine`] after its checks.
struct Combine<'a> {
    positions: &'a mut Positions,
    columns: &'a mut [Box<[f64; PIECE]>],
    means: &'a mut [f64; PIECE],
    compact: &'a mut [[u8; 8]; PIECE],
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
        let retained = match mask {
            None => Retained::All(n_elements),
            Some(mask) => match list_positions(positions, mask) {
                n_retained if n_retained == n_elements => Retained::All(n_elements),
                n_retained => Retained::At(&positions[..n_retained]),
            },
        };
        for (column, input) in columns.iter_mut().zip(inputs) {
            with_element!(input.dtype, E => widen::<E, _>(column, compact, input.bytes, retained), _ => ());
        }
        let means = &mut means[..retained.len()];
        if needs_exact_mean(out_dtype, inputs) {
            wide_mean_of_columns(means, columns, weights);
        } else {
            mean_of_columns(means, columns, weights);
        }
        if let Some(gram) = gram {
            gram.add_piece(|i| &columns[i][..retained.len()]);
        }
        with_element!(out_dtype, E => narrow::<E, _>(out, compact, means, retained), _ => Counts::default())
    }
}

impl Backend for Cpu {
    type Workspace = Workspace;

    fn workspace(&self, n_ingredients: usize) -> Workspace {
        let zeros = || {
            vec![0.0; PIECE]
                .try_into()
                .expect("the vector holds PIECE elements")
        };
        Workspace {
            positions: Box::new([0; PIECE + AT_ONCE]),
            columns: (0..n_ingredients).map(|_| zeros()).collect(),
            means: zeros(),
            compact: Box::new([[0; 8]; PIECE]),
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
