//! Devices that combine in place of the processor, and how much of them a merge takes.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;

use crate::kernel::cuda::Device;
use crate::kernel::cuda::DeviceError;
use crate::kernel::cuda::Lane;
use crate::kernel::cuda::LaneBytes;
use crate::kernel::cuda::batch_bytes;
use crate::kernel::cuda::tile_bytes;
use crate::kernel::float_bytes;
use crate::merge::execute::UNIT_ELEMENTS;
use crate::merge::execute::UNIT_TILES;
use crate::merge::job::Job;
use crate::merge::plan::Action;
use crate::merge::sink::lock;
use crate::tensor::tile_elements;

/// Ingredients from which on their pairwise distances are left to a GPU. An H100 took twice
/// as long as 16 cores for 128 ingredients, and 0.68 of the time for 256
/// (benches/results/2026-11-26-h100.txt).
const FEWEST_FOR_DISTANCES: usize = 256;

/// Devices that are open, and the memory that may be taken of each.
#[derive(Clone, Debug)]
pub struct Accelerator {
    devices: Vec<Arc<Device>>,
    memory: u64,
    /// Lanes that no pass uses now.
    idle: Arc<Mutex<Vec<Lane>>>,
}

impl Accelerator {
    /// Opens devices by their indices; at most `memory` bytes are taken of each.
    ///
    /// # Errors
    /// [`DeviceError`] if one of them cannot be used.
    pub fn open(indices: &[usize], memory: u64) -> Result<Self, DeviceError> {
        let devices = indices.iter().map(|&index| Device::open(index));
        Ok(Self {
            devices: devices.collect::<Result<_, _>>()?,
            memory,
            idle: Arc::default(),
        })
    }

    /// Whether one GPU was measured to be faster than the processor, from files in the
    /// page cache. `measured` is the number of ingredients whose pairwise distances are
    /// measured, if any are.
    pub fn is_faster(measured: Option<NonZeroUsize>) -> bool {
        measured.is_some_and(|n_ingredients| n_ingredients.get() >= FEWEST_FOR_DISTANCES)
    }

    /// The devices.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().map(|device| &**device)
    }

    /// Bytes that are taken at most, of the devices and, as much again, of the
    /// processor's memory.
    pub fn memory(&self) -> u64 {
        self.memory.saturating_mul(self.devices.len() as u64)
    }

    /// Lanes for the workers of a pass, dealt to the devices in turn: `most` of them, or
    /// as many as the memory holds. Those of an earlier pass are taken if they fit.
    ///
    /// # Errors
    /// [`DeviceError`] if it does not hold one, or the device has none left.
    pub(super) fn lanes(&self, job: &Job<'_>, most: usize) -> Result<Vec<Lane>, DeviceError> {
        let each = most.div_ceil(self.devices.len().max(1)).max(1);
        let (bytes, each) = LaneSize::of(job).fit(self.memory, each)?;
        let mut idle = std::mem::take(&mut *lock(&self.idle));
        // What does not fit gives its memory back first.
        idle.retain(|lane| lane.bytes() == bytes);
        let mut take = |device: &Arc<Device>| {
            let fits = |lane: &Lane| lane.device().index() == device.index();
            match idle.iter().position(fits) {
                Some(index) => {
                    let mut lane = idle.swap_remove(index);
                    lane.weigh(&job.options.weights);
                    Ok(lane)
                }
                None => Lane::new(device, bytes, &job.options.weights),
            }
        };
        let dealt = (0..each).flat_map(|_| &self.devices);
        dealt.map(&mut take).collect()
    }

    /// Keeps lanes for the next pass.
    pub(super) fn keep(&self, lanes: Vec<Lane>) {
        *lock(&self.idle) = lanes;
    }
}

/// What decides how many bytes a lane takes.
struct LaneSize {
    /// Bytes of the widest element of every ingredient.
    widths: Vec<usize>,
    /// Bytes of the widest element that is written; 0 if nothing is.
    out: usize,
    /// Whether inner products are measured.
    gram: bool,
    /// Elements of the largest tile.
    largest: usize,
    /// Elements of all tiles, or of a run if that is less.
    most: usize,
}

impl LaneSize {
    fn of(job: &Job<'_>) -> Self {
        let ingredients = job.ingredients;
        let mut size = Self {
            widths: vec![0; ingredients.count()],
            out: 0,
            gram: job.options.distances && job.writes(),
            largest: 1,
            most: 1,
        };
        let planned = job.plan.tensors.iter();
        for planned in planned.filter(|planned| planned.action == Action::Average) {
            let parameter = &ingredients.parameters()[planned.parameter];
            for (ingredient, width) in size.widths.iter_mut().enumerate() {
                let dtype = ingredients.value(parameter, ingredient).dtype;
                *width = float_bytes(dtype).unwrap_or(0).max(*width);
            }
            if job.writes() {
                let width = float_bytes(planned.slot.dtype).unwrap_or(0);
                size.out = width.max(size.out);
            }
            let shape = job.shape(planned);
            let numel = shape.numel();
            size.largest = size.largest.max(tile_elements(shape).min(numel) as usize);
            size.most = (size.most as u64 + numel).min(UNIT_ELEMENTS) as usize;
        }
        size
    }

    /// Bytes for so many elements, and the tables of a run of small tiles.
    fn bytes(&self, n_elements: usize) -> LaneBytes {
        let (to, from) = tile_bytes(n_elements, &self.widths, self.out, self.gram);
        let (small_to, small_from) = tile_bytes(1, &self.widths, self.out, false);
        let (rest_to, rest_from) = batch_bytes(self.widths.len());
        LaneBytes {
            to: to + UNIT_TILES * small_to + rest_to,
            from: from + UNIT_TILES * small_from + rest_from,
        }
    }

    /// Bytes of a lane, and how many lanes there are: `most` that hold a run each, then
    /// half of it and so on, then fewer lanes.
    fn fit(&self, memory: u64, most: usize) -> Result<(LaneBytes, usize), DeviceError> {
        let halved = |n_elements: &usize| (*n_elements > 1).then_some(n_elements / 2);
        let few = std::iter::successors(Some(self.most), halved)
            .take_while(|&n_elements| n_elements >= self.largest)
            .map(|n_elements| self.bytes(n_elements))
            .find(|bytes| bytes.total().saturating_mul(most as u64) <= memory);
        if let Some(bytes) = few {
            return Ok((bytes, most));
        }
        let bytes = self.bytes(self.largest);
        match (memory / bytes.total()) as usize {
            0 => Err(DeviceError::Limit {
                limit: memory,
                needed: bytes.total(),
            }),
            n_lanes => Ok((bytes, n_lanes.min(most))),
        }
    }
}
