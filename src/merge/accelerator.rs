//! Devices that combine in place of the processor, and how much of them a merge takes.

use std::num::NonZeroUsize;
use std::sync::Arc;

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
use crate::tensor::TILE_ELEMENTS;

/// Whole tiles of a run.
const UNIT_WHOLE_TILES: usize = (UNIT_ELEMENTS / TILE_ELEMENTS) as usize;

/// Ingredients from which on their pairwise distances are left to a GPU. An H100 took twice
/// as long as 16 cores for 128 ingredients, and 0.68 of the time for 256
/// (benches/results/2026-11-26-h100.txt).
const FEWEST_FOR_DISTANCES: usize = 256;

/// Devices that are open, and the memory that may be taken of each.
#[derive(Clone, Debug)]
pub struct Accelerator {
    devices: Vec<Arc<Device>>,
    memory: u64,
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
    /// as many as the memory holds.
    ///
    /// # Errors
    /// [`DeviceError`] if it does not hold one, or the device has none left.
    pub(super) fn lanes(&self, job: &Job<'_>, most: usize) -> Result<Vec<Lane>, DeviceError> {
        let each = most.div_ceil(self.devices.len().max(1)).max(1);
        let (bytes, each) = lane_bytes(job, self.memory, each)?;
        let dealt = (0..each).flat_map(|_| &self.devices);
        dealt
            .map(|device| Lane::new(device, bytes, &job.options.weights))
            .collect()
    }
}

/// Bytes of a lane, and how many lanes there are: `most` that hold all tiles of a run
/// each, then fewer tiles, then fewer lanes.
fn lane_bytes(job: &Job<'_>, memory: u64, most: usize) -> Result<(LaneBytes, usize), DeviceError> {
    let sizes = |n_tiles| lane_of(job, n_tiles);
    let few = (0..)
        .map(|halvings| UNIT_WHOLE_TILES >> halvings)
        .take_while(|&n_tiles| n_tiles > 0)
        .map(sizes)
        .find(|bytes| bytes.total().saturating_mul(most as u64) <= memory);
    if let Some(bytes) = few {
        return Ok((bytes, most));
    }
    let bytes = sizes(1);
    match (memory / bytes.total()) as usize {
        0 => Err(DeviceError::Limit {
            limit: memory,
            needed: bytes.total(),
        }),
        n_lanes => Ok((bytes, n_lanes)),
    }
}

/// Bytes of a lane that holds so many whole tiles of the widest types of the ingredients,
/// and the tables of a run of small ones.
fn lane_of(job: &Job<'_>, n_tiles: usize) -> LaneBytes {
    let ingredients = job.ingredients;
    let n_ingredients = ingredients.count();
    let averaged = || {
        let planned = job.plan.tensors.iter();
        planned.filter(|planned| planned.action == Action::Average)
    };
    let width = |ingredient| {
        let widths = averaged().filter_map(|planned| {
            let parameter = &ingredients.parameters()[planned.parameter];
            float_bytes(ingredients.value(parameter, ingredient).dtype)
        });
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_ingredients).map(width).collect();
    let out = averaged().filter_map(|planned| float_bytes(planned.slot.dtype));
    let out = if job.writes() {
        out.max().unwrap_or(0)
    } else {
        0
    };
    let gram = job.options.distances && job.writes();
    let (to, from) = tile_bytes(TILE_ELEMENTS as usize, &widths, out, gram);
    let (small_to, small_from) = tile_bytes(1, &widths, out, false);
    let (rest_to, rest_from) = batch_bytes(n_ingredients);
    LaneBytes {
        to: n_tiles * to + UNIT_TILES * small_to + rest_to,
        from: n_tiles * from + UNIT_TILES * small_from + rest_from,
    }
}
