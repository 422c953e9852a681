//! Whether all of a checkpoint is numbers: what a trainer wrote walks in.

use std::path::Path;

use super::JobError;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::OpenOptions;
use crate::kernel::Backend;
use crate::kernel::Input;
use crate::kernel::KernelError;
use crate::kernel::PIECE;
use crate::kernel::Weights;
use crate::kernel::cpu::Cpu;
use crate::kernel::float_bytes;

/// Refuses a checkpoint with elements that are NaN or infinite.
///
/// # Errors
/// [`JobError::NonFinite`] names the first tensor that has some, and what reading fails
/// with.
pub(super) fn check_finite(path: &Path) -> Result<(), JobError> {
    let checkpoint = Checkpoint::open(path, &OpenOptions::default())?;
    let cpu = Cpu::new();
    let mut workspace = cpu.workspace(1);
    let alone = Weights::uniform(1)?;
    let (mut scratch, mut mean) = (Vec::new(), Vec::new());
    for tensor in checkpoint.tensors() {
        let dtype = tensor.dtype;
        let Some(width) = float_bytes(dtype) else {
            continue;
        };
        let (mut begin, mut count) = (0, 0);
        let numel = tensor.shape.numel();
        while begin < numel {
            let len = (PIECE as u64).min(numel - begin);
            let bytes = checkpoint.read(tensor, begin, len, &mut scratch)?;
            mean.resize(len as usize * width, 0);
            let inputs = [Input { bytes, dtype }];
            let met = cpu.combine(
                &mut workspace,
                &mut mean,
                dtype,
                &inputs,
                &alone,
                None,
                None,
            );
            let failed = |error: KernelError| JobError::MaskShape {
                path: path.to_owned(),
                tensor: tensor.name.clone(),
                why: error.to_string(),
            };
            count += met.map_err(failed)?.non_finite;
            begin += len;
        }
        if count > 0 {
            return Err(JobError::NonFinite {
                path: path.to_owned(),
                tensor: tensor.name.clone(),
                count,
            });
        }
    }
    Ok(checkpoint.check_unchanged()?)
}
