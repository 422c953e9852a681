//! Devices of candle: numbers walk in, opened devices walk out.

use candle_core::Device;

use super::plain;
use crate::train::device::DeviceError;

/// The GPU of this number, counted as CUDA counts them: `CUDA_VISIBLE_DEVICES` says which
/// there are. Each call makes a stream, and loads kernels, of its own; clone the device to
/// share them.
///
/// candle links the driver's library. Where that is missing, the program is not loaded at
/// all, and nothing here can say so.
///
/// # Errors
/// [`DeviceError::NotBuilt`] if the program was built without the feature `cuda`, and
/// [`DeviceError::Open`] if there is no such device.
pub fn open_cuda(index: usize) -> Result<Device, DeviceError> {
    if cfg!(not(feature = "cuda")) {
        return Err(DeviceError::NotBuilt);
    }
    // A stream of its own, not that of the calling thread: an engine may be sent to another.
    Device::new_cuda_with_stream(index).map_err(|source| DeviceError::Open {
        index,
        source: Box::new(plain(source)),
    })
}
