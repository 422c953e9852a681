//! What can go wrong with a device.

/// A device that cannot be used, or that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no driver.
    #[error(
        "there is no CUDA driver here: libcuda.so.1 cannot be loaded; install NVIDIA's driver, \
         or use `--device cpu`"
    )]
    NoDriver,
    /// There is no such device.
    #[error(
        "there is no device cuda:{index}: the driver has {found}, counted from 0; \
         CUDA_VISIBLE_DEVICES hides devices"
    )]
    NoDevice {
        /// The index that was asked for.
        index: usize,
        /// Devices that there are.
        found: usize,
    },
    /// The device is of an older kind than the kernels are made for.
    #[error(
        "cuda:{index} ({name}) has compute capability {major}.{minor}, and 8.0 is needed \
         (Ampere, 2020, or later); use `--device cpu`"
    )]
    TooOld {
        /// The index of the device.
        index: usize,
        /// Its name.
        name: String,
        /// Its compute capability.
        major: i32,
        /// The same, second part.
        minor: i32,
    },
    /// The limit on memory does not hold the smallest piece of work.
    #[error(
        "{limit} bytes of device memory are too few: one tile of these ingredients takes {needed}; \
         raise `--device-memory`, or use `--device cpu`"
    )]
    Limit {
        /// The limit.
        limit: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// The device has too little free memory.
    #[error(
        "cuda:{index} has {free} bytes of free memory, and {needed} are needed; lower \
         `--device-memory`, or use `--device cpu`"
    )]
    Memory {
        /// The index of the device.
        index: usize,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The driver is older than the kernels.
    #[error(
        "the driver of cuda:{index} does not take the kernels ({code}); it must be of version \
         525 (CUDA 12.0) or later"
    )]
    Driver {
        /// The index of the device.
        index: usize,
        /// The driver's name of the error.
        code: String,
    },
    /// A call failed.
    #[error(
        "cuda:{index} failed to {action} ({code}); nothing was written. Try again, or use \
         `--device cpu`"
    )]
    Failed {
        /// The index of the device.
        index: usize,
        /// What it was asked to do.
        action: &'static str,
        /// The driver's name of the error.
        code: String,
    },
}
