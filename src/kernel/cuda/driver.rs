//! The CUDA driver: devices, their memory, and kernels that run on them.
//!
//! Nothing is linked. The driver's library is looked for when a device is asked for, and
//! if it is not there, that is an error like any other.

#![expect(
    unsafe_code,
    reason = "kernels are called by address, and cannot be checked by the compiler"
)]

use std::fmt;
use std::sync::Arc;

use cudarc::driver::CudaContext;
use cudarc::driver::CudaEvent;
use cudarc::driver::CudaFunction;
use cudarc::driver::CudaSlice;
use cudarc::driver::CudaStream;
use cudarc::driver::DriverError;
use cudarc::driver::LaunchConfig;
use cudarc::driver::PinnedHostSlice;
use cudarc::driver::PushKernelArg;
use cudarc::driver::sys;
use cudarc::nvrtc::Ptx;

use super::error::DeviceError;
use super::launch::Kernel;
use super::launch::Launch;

/// Compute capability that the PTX is made for.
const CAPABILITY: (i32, i32) = (8, 0);
/// Threads of a block.
const BLOCK: u32 = 256;

/// A device that is ready to compute.
#[derive(Debug)]
pub struct Device {
    index: usize,
    name: String,
    context: Arc<CudaContext>,
    functions: Vec<(Kernel, CudaFunction)>,
}

/// Whether the driver's library can be loaded. With the feature `cuda` it is linked, and
/// a program that runs has it.
fn has_driver() -> bool {
    #[cfg(feature = "cuda")]
    return true;
    // SAFETY: loads and unloads the library by its well-known names; its initialisers are
    // the driver's own.
    #[cfg(not(feature = "cuda"))]
    unsafe {
        sys::is_culib_present()
    }
}

/// The driver's name of an error, as `CUDA_ERROR_OUT_OF_MEMORY`.
fn code(error: DriverError) -> String {
    format!("{:?}", error.0)
}

/// Number of devices.
///
/// # Errors
/// [`DeviceError::NoDriver`]. A driver without devices has none.
pub fn device_count() -> Result<usize, DeviceError> {
    if !has_driver() {
        return Err(DeviceError::NoDriver);
    }
    let count = CudaContext::device_count();
    Ok(count.map_or(0, |count| count.max(0) as usize))
}

impl Device {
    /// Opens the device of this index and loads the kernels.
    ///
    /// # Errors
    /// [`DeviceError`] if there is no driver, no such device, or it cannot be used.
    pub fn open(index: usize) -> Result<Arc<Self>, DeviceError> {
        let found = device_count()?;
        if index >= found {
            return Err(DeviceError::NoDevice { index, found });
        }
        let failed = |action| {
            move |error| DeviceError::Failed {
                index,
                action,
                code: code(error),
            }
        };
        let context = CudaContext::new(index).map_err(failed("start"))?;
        let name = context.name().map_err(failed("tell its name"))?;
        let capability = context
            .compute_capability()
            .map_err(failed("tell its compute capability"))?;
        if capability < CAPABILITY {
            let (major, minor) = capability;
            return Err(DeviceError::TooOld {
                index,
                name,
                major,
                minor,
            });
        }
        // SAFETY: whoever puts work on a stream waits for it before the buffers that it uses
        // are used by another stream, or freed.
        unsafe { context.disable_event_tracking() };
        let refused = |error| DeviceError::Driver {
            index,
            code: code(error),
        };
        let mut functions = Vec::new();
        for kernel in Kernel::ALL {
            let module = context
                .load_module(Ptx::from_src(kernel.ptx()))
                .map_err(refused)?;
            let function = module.load_function(kernel.name()).map_err(refused)?;
            functions.push((kernel, function));
        }
        Ok(Arc::new(Self {
            index,
            name,
            context,
            functions,
        }))
    }

    /// Its index.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn failed(&self, action: &'static str) -> impl Fn(DriverError) -> DeviceError {
        let index = self.index;
        move |error| DeviceError::Failed {
            index,
            action,
            code: code(error),
        }
    }

    /// Bytes that are free now.
    ///
    /// # Errors
    /// [`DeviceError::Failed`].
    pub fn free_memory(&self) -> Result<u64, DeviceError> {
        let (free, _) = self
            .context
            .mem_get_info()
            .map_err(self.failed("tell its free memory"))?;
        Ok(free as u64)
    }

    /// A stream of its own.
    pub(super) fn stream(&self) -> Result<Arc<CudaStream>, DeviceError> {
        self.bind()?;
        self.context
            .new_stream()
            .map_err(self.failed("make a stream"))
    }

    /// An event that a thread waits for without keeping its core.
    pub(super) fn event(&self) -> Result<CudaEvent, DeviceError> {
        self.context
            .new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC))
            .map_err(self.failed("make an event"))
    }

    /// Makes the device the calling thread's.
    pub(super) fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(self.failed("start"))
    }

    /// Cleared memory of the device. `needed` is told if there is too little.
    pub(super) fn allocate(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
        needed: u64,
    ) -> Result<CudaSlice<u8>, DeviceError> {
        let too_little = || DeviceError::Memory {
            index: self.index,
            needed,
            free: self.free_memory().unwrap_or(0),
        };
        // No machine has so much, whatever a driver would say to it.
        if isize::try_from(len).is_err() {
            return Err(too_little());
        }
        let made = stream.alloc_zeros(len);
        made.map_err(|error: DriverError| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => too_little(),
            _ => self.failed("give memory")(error),
        })
    }

    /// Cleared memory of the processor that the device can reach.
    pub(super) fn pin(&self, len: usize) -> Result<PinnedHostSlice<u8>, DeviceError> {
        // SAFETY: any byte is a valid u8, and only what was written is read: the
        // buffer is cleared below before anybody sees it.
        let pinned = unsafe { self.context.alloc_pinned_with_flags::<u8>(len, 0) };
        let mut pinned = pinned.map_err(self.failed("pin the processor's memory"))?;
        pinned
            .as_mut_slice()
            .map_err(self.failed("pin the processor's memory"))?
            .fill(0);
        Ok(pinned)
    }

    /// Puts a kernel on a stream.
    pub(super) fn launch(
        &self,
        stream: &Arc<CudaStream>,
        launch: &Launch,
    ) -> Result<(), DeviceError> {
        let function = self
            .functions
            .iter()
            .find(|(kernel, _)| *kernel == launch.kernel);
        let Some((_, function)) = function else {
            return Ok(());
        };
        let mut call = stream.launch_builder(function);
        for parameter in &launch.parameters {
            call.arg(parameter);
        }
        let config = LaunchConfig {
            grid_dim: (launch.grid.0, launch.grid.1, 1),
            block_dim: (BLOCK, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: a launch is made by a batch, with the kernel's parameters in number and
        // size. The tables that they point at name addresses within the lane's buffers, where
        // the batch gives places out and refuses what does not fit, and within models of
        // this device, as long as their layouts say, which are borrowed until it is done.
        unsafe { call.launch(config) }.map_err(self.failed("start a kernel"))?;
        Ok(())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cuda:{} ({})", self.index, self.name)
    }
}
