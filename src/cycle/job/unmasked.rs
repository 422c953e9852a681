//! Whether a checkpoint keeps to a mask: what a trainer wrote walks in, what it revived
//! walks out.

use std::path::Path;

use super::JobError;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::StoredTensor;
use crate::kernel::Backend;
use crate::kernel::cpu::Cpu;

/// Elements that are compared at once, a multiple of 64.
const BLOCK: u64 = 1 << 16;

/// Pruned weights of one tensor that are not zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revived {
    pub(super) tensor: String,
    pub(super) count: u64,
    /// Row-major index of the first.
    pub(super) index: u64,
}

/// What of `checkpoint` is not zero although `mask`, a file of one tensor of zeros and ones
/// per pruned tensor, prunes it.
///
/// # Errors
/// [`JobError::MaskShape`] if a tensor is missing or has another shape, and what reading
/// fails with.
pub(super) fn revived(checkpoint: &Path, mask: &Path) -> Result<Vec<Revived>, JobError> {
    let options = OpenOptions::default();
    let checkpoint = Checkpoint::open(checkpoint, &options)?;
    let mask = Checkpoint::open(mask, &options)?;
    let mut found = Vec::new();
    for masking in mask.tensors() {
        let misfit = |why: String| JobError::MaskShape {
            path: checkpoint.path().to_owned(),
            tensor: masking.name.clone(),
            why,
        };
        let Some(masked) = checkpoint.find(&masking.name) else {
            return Err(misfit("there is no such tensor in it".to_owned()));
        };
        let masked = &checkpoint.tensors()[masked];
        if masked.shape != masking.shape {
            let (expected, found) = (&masking.shape, &masked.shape);
            return Err(misfit(format!("expected shape {expected}, found {found}")));
        }
        found.extend(compare((&checkpoint, masked), (&mask, masking))?);
    }
    checkpoint.check_unchanged()?;
    mask.check_unchanged()?;
    Ok(found)
}

fn compare(
    (checkpoint, masked): (&Checkpoint, &StoredTensor),
    (mask, masking): (&Checkpoint, &StoredTensor),
) -> Result<Option<Revived>, JobError> {
    let kernel = Cpu::new();
    let nonzero = |words: &mut [u64], tensor: &StoredTensor, bytes: &[u8]| {
        let found = kernel.nonzero(words, tensor.dtype, bytes);
        found.map_err(|error| JobError::MaskShape {
            path: checkpoint.path().to_owned(),
            tensor: tensor.name.clone(),
            why: error.to_string(),
        })
    };
    let numel = masked.shape.numel();
    let (mut scratch, mut mask_scratch) = (Vec::new(), Vec::new());
    let mut revived: Option<Revived> = None;
    let mut begin = 0;
    while begin < numel {
        let count = BLOCK.min(numel - begin);
        let mut words = vec![0; count.div_ceil(64) as usize];
        let mut retained = words.clone();
        let bytes = checkpoint.read(masked, begin, count, &mut scratch)?;
        nonzero(&mut words, masked, bytes)?;
        let bytes = mask.read(masking, begin, count, &mut mask_scratch)?;
        nonzero(&mut retained, masking, bytes)?;
        for (idx, (word, retained)) in words.iter().zip(&retained).enumerate() {
            let wrong = word & !retained;
            if wrong != 0 {
                let index = begin + idx as u64 * 64 + u64::from(wrong.trailing_zeros());
                let found = revived.get_or_insert_with(|| Revived {
                    tensor: masked.name.clone(),
                    count: 0,
                    index,
                });
                found.count += u64::from(wrong.count_ones());
            }
        }
        begin += count;
    }
    Ok(revived)
}
