//! Batches that a device runs, and the memory that they take.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaEvent;
use cudarc::driver::CudaSlice;
use cudarc::driver::CudaStream;
use cudarc::driver::DevicePtr;
use cudarc::driver::PinnedHostSlice;

use super::batch::Answer;
use super::batch::Batch;
use super::batch::Buffer;
use super::batch::Orders;
use super::batch::Placed;
use super::batch::Request;
use super::driver::Device;
use super::error::DeviceError;
use super::launch::Launch;
use crate::kernel::KernelError;
use crate::kernel::Weights;

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

impl Lane {
    /// Buffers and a stream of a device for the combinations that `weights` say.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] or [`DeviceError::Failed`].
    pub fn new(
        device: &Arc<Device>,
        bytes: LaneBytes,
        weights: &Weights,
    ) -> Result<Self, DeviceError> {
        let stream = device.stream()?;
        let done = device.event()?;
        let to = device.allocate(&stream, bytes.to, bytes.total())?;
        let from = device.allocate(&stream, bytes.from, bytes.total())?;
        let (sent, fetched) = (device.pin(bytes.to)?, device.pin(bytes.from)?);
        stream
            .synchronize()
            .map_err(device.failed("clear memory"))?;
        let buffer = |slice: &CudaSlice<u8>, bytes| Buffer {
            address: slice.device_ptr(&stream).0,
            bytes,
        };
        let batch = Batch::new(buffer(&to, bytes.to), buffer(&from, bytes.from), weights);
        Ok(Self {
            device: Arc::clone(device),
            batch,
            stream,
            done,
            sent,
            fetched,
            to,
            from,
        })
    }

    /// Its size.
    pub fn bytes(&self) -> LaneBytes {
        LaneBytes {
            to: self.to.len(),
            from: self.from.len(),
        }
    }

    /// Its device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

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

    /// Forgets the last batch, and combines by other coefficients from now on.
    pub fn weigh(&mut self, weights: &Weights) {
        self.batch.weigh(weights);
    }

    /// Adds a tile whose values are on the device; `false` if there is no room for it.
    pub(super) fn push_placed(&mut self, placed: &Placed) -> bool {
        self.batch.push_placed(placed)
    }

    /// Sends the batch, computes it, and fetches what was found.
    ///
    /// # Errors
    /// [`DeviceError::Failed`]; then nothing is known about the results.
    pub fn run(&mut self) -> Result<(), DeviceError> {
        let device = Arc::clone(&self.device);
        device.bind()?;
        let to_pinned = device.failed("reach the processor's memory");
        let sent = self.sent.as_mut_slice().map_err(&to_pinned)?;
        let Orders {
            sent: n_sent,
            fetched: n_fetched,
            cleared,
            launches,
        } = self.batch.finish(sent);
        let queued = self.queue(n_sent, n_fetched, cleared, &launches);
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
        cleared: Range<usize>,
        launches: &[Launch],
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
        for launch in launches {
            device.launch(stream, launch)?;
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
        self.batch.answer(index, self.fetched())
    }

    /// What was found for every tile, in their order.
    pub(super) fn answers(&self) -> impl Iterator<Item = Answer<'_>> {
        let fetched = self.fetched();
        (0..self.len()).map(move |index| self.batch.answer(index, fetched))
    }

    /// The bytes that were fetched. Asks the driver, which takes microseconds.
    fn fetched(&self) -> &[u8] {
        self.fetched.as_slice().unwrap_or_default()
    }
}
