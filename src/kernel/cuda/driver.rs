//! The CUDA driver: devices, buffers, and batches that run on them.
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
use cudarc::driver::DevicePtr;
use cudarc::driver::DriverError;
use cudarc::driver::LaunchConfig;
use cudarc::driver::PinnedHostSlice;
use cudarc::driver::PushKernelArg;
use cudarc::driver::sys;
use cudarc::nvrtc::Ptx;

use super::batch::Answer;
use super::batch::Batch;
use super::batch::Buffer;
use super::batch::Orders;
use super::batch::Request;
use super::error::DeviceError;
use super::launch::Kernel;
use crate::kernel::KernelError;
use crate::kernel::Weights;

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

/// Memory of a device and of the processor, for one batch at a time.
#[derive(Debug)]
pub struct Lane {
    device: Arc<Device>,
    stream: Arc<CudaStream>,
    /// Recorded behind the last batch. A thread that waits for it leaves its core to
    /// others.
    done: CudaEvent,
    sent: PinnedHostSlice<u8>,
    fetched: PinnedHostSlice<u8>,
    to: CudaSlice<u8>,
    from: CudaSlice<u8>,
    batch: Batch,
}

/// Bytes of the two buffers of a [`Lane`], each taken on both sides of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneBytes {
    /// What is sent at once.
    pub to: usize,
    /// What is computed at once.
    pub from: usize,
}

impl LaneBytes {
    /// Bytes on either side.
    pub fn total(self) -> u64 {
        self.to as u64 + self.from as u64
    }
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
        // SAFETY: every buffer of a lane is used on the lane's stream alone, and freed
        // after it has been waited for.
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

    fn failed(&self, action: &'static str) -> impl Fn(DriverError) -> DeviceError {
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

    /// Buffers and a stream for the combinations that `weights` say.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] or [`DeviceError::Failed`].
    pub fn lane(
        self: &Arc<Self>,
        bytes: LaneBytes,
        weights: &Weights,
    ) -> Result<Lane, DeviceError> {
        let context = &self.context;
        context.bind_to_thread().map_err(self.failed("start"))?;
        let no_memory = |error: DriverError| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::Memory {
                index: self.index,
                needed: bytes.total(),
                free: self.free_memory().unwrap_or(0),
            },
            _ => self.failed("give memory")(error),
        };
        let stream = context.new_stream().map_err(self.failed("make a stream"))?;
        let done = context
            .new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC))
            .map_err(self.failed("make an event"))?;
        let allocate = |len| stream.alloc_zeros::<u8>(len).map_err(no_memory);
        let pin = |len| {
            // SAFETY: any byte is a valid u8, and only what was written is read: the
            // buffer is cleared below before anybody sees it.
            let pinned = unsafe { context.alloc_pinned_with_flags::<u8>(len, 0) };
            let mut pinned = pinned.map_err(self.failed("pin the processor's memory"))?;
            pinned
                .as_mut_slice()
                .map_err(self.failed("pin the processor's memory"))?
                .fill(0);
            Ok(pinned)
        };
        let (to, from) = (allocate(bytes.to)?, allocate(bytes.from)?);
        let (sent, fetched) = (pin(bytes.to)?, pin(bytes.from)?);
        stream.synchronize().map_err(self.failed("clear memory"))?;
        let buffer = |slice: &CudaSlice<u8>, bytes| Buffer {
            address: slice.device_ptr(&stream).0,
            bytes,
        };
        let batch = Batch::new(buffer(&to, bytes.to), buffer(&from, bytes.from), weights);
        Ok(Lane {
            device: Arc::clone(self),
            batch,
            stream,
            done,
            sent,
            fetched,
            to,
            from,
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cuda:{} ({})", self.index, self.name)
    }
}

impl Lane {
    /// Forgets the last batch.
    pub fn clear(&mut self) {
        self.batch.clear();
    }

    /// Number of tiles of the batch.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether the batch has no tiles.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Adds a tile to the batch; `false` if there is no room for it.
    ///
    /// # Errors
    /// [`KernelError`] if a length or element type does not fit.
    pub fn push(&mut self, request: Request<'_>) -> Result<bool, KernelError> {
        let buffer = self.sent.as_mut_slice().unwrap_or_default();
        self.batch.push(buffer, request)
    }

    /// Sends the batch, computes it, and fetches what was found.
    ///
    /// # Errors
    /// [`DeviceError::Failed`]; then nothing is known about the results.
    pub fn run(&mut self) -> Result<(), DeviceError> {
        let device = Arc::clone(&self.device);
        device
            .context
            .bind_to_thread()
            .map_err(device.failed("start"))?;
        let to_pinned = device.failed("reach the processor's memory");
        let sent = self.sent.as_mut_slice().map_err(&to_pinned)?;
        let Orders {
            sent: n_sent,
            fetched: n_fetched,
            cleared,
            launches,
        } = self.batch.finish(sent);
        let queued = self.queue(n_sent, n_fetched, cleared, launches);
        let unfinished = device.failed("finish its work");
        match queued {
            Ok(()) => self.done.synchronize().map_err(unfinished),
            Err(error) => {
                // Buffers must not be in use when it is told.
                let _ = self.stream.synchronize();
                Err(error)
            }
        }
    }

    fn queue(
        &mut self,
        n_sent: usize,
        n_fetched: usize,
        cleared: std::ops::Range<usize>,
        launches: Vec<super::launch::Launch>,
    ) -> Result<(), DeviceError> {
        let Self {
            device,
            stream,
            done,
            sent,
            fetched,
            to,
            from,
            ..
        } = self;
        let sent = sent
            .as_slice()
            .map_err(device.failed("reach the processor's memory"))?;
        stream
            .memcpy_htod(&sent[..n_sent], &mut to.slice_mut(..n_sent))
            .map_err(device.failed("take what is sent"))?;
        stream
            .memset_zeros(&mut from.slice_mut(cleared))
            .map_err(device.failed("clear memory"))?;
        for launch in &launches {
            let function = device
                .functions
                .iter()
                .find(|(kernel, _)| *kernel == launch.kernel);
            let Some((_, function)) = function else {
                continue;
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
            // SAFETY: the parameters are the kernel's, in number and size, and the tables
            // that they point at name addresses within `to` and `from` only: a batch gives
            // places out within both, and refuses what does not fit.
            unsafe { call.launch(config) }.map_err(device.failed("start a kernel"))?;
        }
        let fetched = fetched
            .as_mut_slice()
            .map_err(device.failed("reach the processor's memory"))?;
        stream
            .memcpy_dtoh(&from.slice(..n_fetched), &mut fetched[..n_fetched])
            .map_err(device.failed("give what was found"))?;
        done.record(stream)
            .map_err(device.failed("record an event"))
    }

    /// What was found for the tile of this index.
    ///
    /// # Panics
    /// If there is no such tile.
    pub fn answer(&self, index: usize) -> Answer<'_> {
        self.batch
            .answer(index, self.fetched.as_slice().unwrap_or_default())
    }
}
