//! Where networks are computed: whether this program can, and why not. Opens nothing.

use thiserror::Error;

use crate::tensor::DeviceKind;

/// Nothing, if this program can train on such devices.
///
/// # Errors
/// [`DeviceError::NotBuilt`] if it was built without.
pub fn check_built(kind: DeviceKind) -> Result<(), DeviceError> {
    match kind {
        DeviceKind::Cuda if cfg!(not(feature = "cuda")) => Err(DeviceError::NotBuilt),
        DeviceKind::Cpu | DeviceKind::Cuda => Ok(()),
    }
}

/// Why a device cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The program does not contain what it takes.
    #[error("this program was built without CUDA, and computes on the processor alone")]
    NotBuilt,
    /// The driver or a library does not give it.
    #[error("`cuda:{index}` cannot be opened")]
    Open {
        /// Its number.
        index: usize,
        /// What CUDA said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_cuda_says_so() {
        assert!(check_built(DeviceKind::Cpu).is_ok());
        let is_built = check_built(DeviceKind::Cuda).is_ok();
        assert_eq!(is_built, cfg!(feature = "cuda"));
    }
}
