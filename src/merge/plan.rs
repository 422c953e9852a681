//! What a merge will do, as data: one action per tensor and its place in the output.

use std::collections::BTreeMap;

use crate::checkpoint::Ingredients;
use crate::checkpoint::Parameter;
use crate::checkpoint::Pick;
use crate::checkpoint::StoredTensor;
use crate::connectivity::Expectation;
use crate::connectivity::Resolution;
use crate::format::safetensors::Layout;
use crate::kernel::PIECE;
use crate::merge::MergeError;
use crate::merge::hollow::refuse_hollow;
use crate::merge::options::IntegerPolicy;
use crate::merge::options::MergeOptions;
use crate::merge::patterns::refuse_unused_patterns;
use crate::merge::place::place;
use crate::merge::storage::Compacted;
use crate::merge::storage::slots;
use crate::tensor::Arithmetic;
use crate::tensor::Dtype;
use crate::tensor::TILE_ELEMENTS;

/// How one tensor of the soup comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Weighted mean over the retained coordinates.
    Average,
    /// Mean of the running variances plus the variance of the running means, which
    /// are the parameter of the given index.
    PooledVariance {
        /// Index of the running mean among the parameters.
        mean: usize,
    },
    /// The elements, which must be identical in every ingredient.
    Identical,
    /// The largest of the ingredients' integers.
    Maximum,
    /// The first ingredient's elements, of a pruned tensor the retained ones.
    First,
    /// The first ingredient's bytes. Nothing is read of the others.
    FromFirst,
}

/// The place of a tensor in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name there.
    pub name: String,
    /// Its element type there.
    pub dtype: Dtype,
    /// Index of the shard.
    pub shard: usize,
    /// Offset in the shard's data buffer.
    pub offset: u64,
}

/// One parameter of the soup.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Its index among the ingredients' parameters.
    pub parameter: usize,
    /// How it comes about.
    pub action: Action,
    /// What is known about its mask.
    pub expectation: Expectation,
    /// How differing mask bits become one.
    pub resolution: Resolution,
    /// Where its values go.
    pub slot: Slot,
    /// Where its mask goes, if it is stored as a tensor of flags.
    pub mask_slot: Option<Slot>,
    /// How it is stored, if only what is retained is.
    pub compact: Option<Compacted>,
}

/// Where a tile lies in its tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileRange {
    /// Row-major index of its first element.
    pub(super) begin: u64,
    /// Its number of elements.
    pub(super) count: u64,
}

/// What a merge will do. Pure data; nothing has been read or written.
#[derive(Debug)]
pub struct MergePlan {
    /// The parameters, in the order of the output.
    pub tensors: Vec<PlannedTensor>,
    /// One layout per file of the output.
    pub layouts: Vec<Layout>,
    /// Bytes that one pass reads.
    pub bytes_to_read: u64,
    /// Bytes of tensors that are written.
    pub bytes_to_write: u64,
    /// Threads that will work: no more than memory allows.
    pub threads: usize,
    /// Bound on the anonymous memory in bytes.
    pub peak_memory: u64,
}

/// Anonymous memory that the working threads may take together.
const WORKER_MEMORY: u64 = 48 << 20;
/// Anonymous memory per tensor: its places, counts, digests and records. With four
/// ingredients 100,000 tensors were measured to take 250 MB.
const TENSOR_MEMORY: u64 = 1536;
/// Anonymous memory per tensor and ingredient: its name, place and digests.
const STORED_MEMORY: u64 = 300;

impl MergePlan {
    /// Plans a soup of `ingredients`.
    ///
    /// # Errors
    /// [`MergeError`] if weights and ingredients do not fit, a pattern matches
    /// nothing, or the output has no legal layout.
    pub fn new(ingredients: &Ingredients, options: &MergeOptions) -> Result<Self, MergeError> {
        let n_weights = options.weights.values().len();
        if n_weights != ingredients.count() {
            return Err(MergeError::WeightCount {
                expected: ingredients.count(),
                found: n_weights,
            });
        }
        if let Some(dtype) = options
            .dtype
            .filter(|dtype| dtype.arithmetic() != Arithmetic::Average)
        {
            return Err(MergeError::OutputDtype { dtype });
        }
        refuse_unused_patterns(ingredients, options)?;
        refuse_hollow(ingredients)?;
        let mut tensors: Vec<PlannedTensor> = ingredients
            .parameters()
            .iter()
            .enumerate()
            .map(|(index, parameter)| plan_tensor(ingredients, options, index, parameter))
            .collect();
        let layouts = place(&mut tensors, ingredients, options)?;
        let bytes_to_read = bytes_to_read(ingredients);
        let bytes_to_write = layouts.iter().map(Layout::data_bytes).sum();
        let mut per_thread = memory_per_thread(ingredients);
        if tensors.iter().any(|tensor| tensor.compact.is_some()) {
            per_thread += 8 * TILE_ELEMENTS;
        }
        let threads = options
            .workers
            .threads
            .min((WORKER_MEMORY / per_thread) as usize)
            .max(1);
        let per_tensor = TENSOR_MEMORY + STORED_MEMORY * ingredients.count() as u64;
        // With devices there are two workers to a thread, and every byte that a device
        // takes is also one of the processor's.
        let (n_workers, devices) = match &options.workers.accelerator {
            None => (threads, 0),
            Some(accelerator) => (2 * threads, accelerator.memory()),
        };
        let peak_memory = per_thread * n_workers as u64
            + per_tensor * tensors.len() as u64
            + devices.saturating_add(8 << 20);
        Ok(Self {
            tensors,
            layouts,
            bytes_to_read,
            bytes_to_write,
            threads,
            peak_memory,
        })
    }

    /// Expects a mask, in zeros, of every dense tensor that `has_mask` names.
    pub(crate) fn expect_masks(
        &mut self,
        has_mask: impl Fn(&str) -> bool,
        ingredients: &Ingredients,
    ) {
        for tensor in &mut self.tensors {
            let name = ingredients.parameters()[tensor.parameter].name.as_str();
            if tensor.expectation == Expectation::Dense && has_mask(name) {
                tensor.expectation = Expectation::Pruned;
            }
        }
    }

    /// Whether the soup has running statistics that no ingredient measured.
    pub(crate) fn averages_statistics(&self, ingredients: &Ingredients) -> bool {
        // One alone, which a greedy soup may be, keeps its own.
        ingredients.count() > 1
            && self.tensors.iter().any(|planned| {
                let is_averaged = matches!(
                    planned.action,
                    Action::Average | Action::PooledVariance { .. }
                );
                is_averaged && is_statistic(&ingredients.parameters()[planned.parameter].name)
            })
    }

    /// Replaces the rule by which differing mask bits become one, by name.
    pub(crate) fn resolve(
        &mut self,
        resolutions: &[(String, Resolution)],
        ingredients: &Ingredients,
    ) {
        let by_name: BTreeMap<&str, Resolution> = resolutions
            .iter()
            .map(|(name, resolution)| (name.as_str(), *resolution))
            .collect();
        for tensor in &mut self.tensors {
            let name = ingredients.parameters()[tensor.parameter].name.as_str();
            if let Some(&resolution) = by_name.get(name) {
                tensor.resolution = resolution;
            }
        }
    }
}

fn plan_tensor(
    ingredients: &Ingredients,
    options: &MergeOptions,
    index: usize,
    parameter: &Parameter,
) -> PlannedTensor {
    let stored = ingredients.value(parameter, 0);
    let has_explicit_mask = parameter.given_mask.is_some()
        || parameter.sources.iter().any(|source| source.mask.is_some());
    let expectation = match parameter.quantiser {
        // Zeros of codes and of their scales are no mask.
        Some(_) => Expectation::Dense,
        None => options.rules.expectation(
            &parameter.name,
            stored.dtype,
            &parameter.shape,
            has_explicit_mask,
        ),
    };
    let action = action(ingredients, options, parameter, stored.dtype, expectation);
    let is_copied = parameter.pick == Pick::First || parameter.quantiser.is_some();
    let is_averaged = stored.dtype.arithmetic() == Arithmetic::Average;
    let dtype = options
        .dtype
        .filter(|_| is_averaged && !is_copied)
        .unwrap_or(stored.dtype);
    let (slot, mask_slot, compact) = slots(ingredients, options, parameter, expectation, dtype);
    PlannedTensor {
        parameter: index,
        action,
        expectation,
        resolution: Resolution::from(options.rules.policy),
        slot,
        mask_slot,
        compact,
    }
}

/// Last component of a dotted name, and what stands before it.
fn split_name(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// Whether a parameter is a buffer of batch norm rather than a weight.
pub(crate) fn is_statistic(name: &str) -> bool {
    matches!(
        split_name(name).1,
        "running_mean" | "running_var" | "num_batches_tracked"
    )
}

fn action(
    ingredients: &Ingredients,
    options: &MergeOptions,
    parameter: &Parameter,
    dtype: Dtype,
    expectation: Expectation,
) -> Action {
    if parameter.pick == Pick::First {
        return Action::FromFirst;
    }
    if parameter.quantiser.is_some() {
        return Action::Identical;
    }
    let (module, last) = split_name(&parameter.name);
    // Pooling knows no mask: statistics that have one are averaged as weights are.
    let is_pooled =
        last == "running_var" && expectation == Expectation::Dense && options.weights.is_convex();
    match dtype.arithmetic() {
        Arithmetic::Average if is_pooled => {
            let mean_name = if module.is_empty() {
                "running_mean".to_owned()
            } else {
                format!("{module}.running_mean")
            };
            let parameters = ingredients.parameters();
            let mean = parameters
                .binary_search_by(|other| other.name.as_str().cmp(&mean_name))
                .ok();
            let matching = mean.filter(|&mean| {
                let mean = &parameters[mean];
                let is_float =
                    |i| ingredients.value(mean, i).dtype.arithmetic() == Arithmetic::Average;
                mean.pick == Pick::Everyone
                    && mean.shape == parameter.shape
                    && (0..ingredients.count()).all(is_float)
            });
            matching.map_or(Action::Average, |mean| Action::PooledVariance { mean })
        }
        Arithmetic::Average => Action::Average,
        // The second is the counter of torch's `AveragedModel`.
        Arithmetic::Integer if matches!(last, "num_batches_tracked" | "n_averaged") => {
            Action::Maximum
        }
        Arithmetic::Integer => match options.integers {
            IntegerPolicy::Error => Action::Identical,
            IntegerPolicy::First => Action::First,
            IntegerPolicy::Max => Action::Maximum,
        },
        Arithmetic::Opaque => Action::Identical,
    }
}

fn bytes_to_read(ingredients: &Ingredients) -> u64 {
    let of_parameter = |parameter: &Parameter| -> u64 {
        let stored = (0..parameter.sources.len()).map(|ingredient| {
            let mask = ingredients.stored_mask(parameter, ingredient);
            let value = ingredients.value(parameter, ingredient);
            value.stored_bytes() + mask.map_or(0, StoredTensor::stored_bytes)
        });
        stored.sum::<u64>()
            + ingredients
                .given_mask(parameter)
                .map_or(0, StoredTensor::stored_bytes)
    };
    ingredients.parameters().iter().map(of_parameter).sum()
}

/// Scratch memory of one worker: mask words and columns per ingredient, output
/// buffers, and what has to be read into memory where files are not mapped.
fn memory_per_thread(ingredients: &Ingredients) -> u64 {
    let participants = ingredients.count() as u64 + 1;
    let is_read = |checkpoint: &crate::checkpoint::Checkpoint| {
        checkpoint
            .shards()
            .iter()
            .any(|shard| shard.source().access() == crate::checkpoint::map::Access::Pread)
    };
    let read_buffers = if ingredients.checkpoints().iter().any(is_read) {
        2 * 8 * TILE_ELEMENTS
    } else {
        0
    };
    let is_compact = |checkpoint: &crate::checkpoint::Checkpoint| {
        let mut tensors = checkpoint.tensors().iter();
        tensors.any(|tensor| tensor.compact().is_some())
    };
    // Expanded values, and mask words once more.
    let expanded = if ingredients.checkpoints().iter().any(is_compact) {
        8 * TILE_ELEMENTS + TILE_ELEMENTS / 8
    } else {
        0
    };
    participants * (TILE_ELEMENTS / 8 + 8 * PIECE as u64 + read_buffers + expanded)
        + 3 * 8 * TILE_ELEMENTS
}
