//! How a soup stores each parameter, and how much of it once masks have been counted.

use crate::checkpoint::Convention;
use crate::checkpoint::Ingredients;
use crate::checkpoint::MaskLayout;
use crate::checkpoint::Observer;
use crate::checkpoint::Parameter;
use crate::checkpoint::map::SourceError;
use crate::connectivity::Expectation;
use crate::connectivity::MismatchPolicy;
use crate::format::compact::BitmaskRecord;
use crate::format::compact::CompactKind;
use crate::format::safetensors::Layout;
use crate::merge::MergeError;
use crate::merge::job::Job;
use crate::merge::ledger::TensorOutcome;
use crate::merge::options::MergeOptions;
use crate::merge::place::place;
use crate::merge::plan::MergePlan;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::Slot;
use crate::merge::run::prove;
use crate::merge::sink::Sink;
use crate::tensor::Dtype;
use crate::tensor::Shape;
use crate::tensor::tile_elements;

/// Bits of masks that are counted before the pages that hold them are let go: 64 MiB.
const COUNTED_BITS: u64 = 8 * (64 << 20);

/// How a parameter is stored of which only what is retained is.
#[derive(Clone, Debug)]
pub struct Compacted {
    /// The layout.
    pub kind: CompactKind,
    /// Where the bits of its mask go, under the name of the mask.
    pub bitmask: Slot,
    /// Where its dimensions go, if they are a tensor.
    pub shape: Option<Slot>,
    /// Where the number of values before each row goes, if it is stored.
    pub row_offsets: Option<Slot>,
    /// Retained elements before each tile, and in all; empty until they are known.
    pub ranks: Box<[u64]>,
}

/// How a parameter is stored.
enum Storage {
    /// As a plain tensor.
    Plain,
    /// As the first ingredient stores it, its mask beside it.
    Kept,
    TorchPrune,
    Compact(CompactKind),
}

/// Where the values, the mask and the other parts of a parameter go, all places open.
pub(super) fn slots(
    ingredients: &Ingredients,
    options: &MergeOptions,
    parameter: &Parameter,
    expectation: Expectation,
    dtype: Dtype,
) -> (Slot, Option<Slot>, Option<Compacted>) {
    let name = &parameter.name;
    let slot = |name: &str, dtype| Slot {
        name: name.to_owned(),
        dtype,
        shard: 0,
        offset: 0,
    };
    let stored = ingredients.value(parameter, 0);
    // A model's sparse weights are no layout of safetensors files, and stay in its graph.
    let is_model = ingredients.checkpoints()[0].model().is_some();
    let storage = match options.layout {
        MaskLayout::Keep if is_model => Storage::Plain,
        _ => storage(options, parameter, expectation, dtype),
    };
    match storage {
        Storage::Plain => (slot(name, dtype), None, None),
        Storage::Kept => {
            let mask = ingredients.stored_mask(parameter, 0);
            let mask = mask.map(|mask| slot(&mask.name, mask.dtype));
            (slot(&stored.name, dtype), mask, None)
        }
        Storage::TorchPrune => {
            let mask = slot(&format!("{name}_mask"), dtype);
            (slot(&format!("{name}_orig"), dtype), Some(mask), None)
        }
        Storage::Compact(kind) => {
            let names = kind
                .part_names(name)
                .unwrap_or_else(|| unreachable!("a layout is chosen for what it has names for"));
            let compact = Compacted {
                kind,
                bitmask: slot(&names.bitmask, Dtype::U8),
                shape: names.shape.map(|name| slot(&name, Dtype::I64)),
                row_offsets: names.row_offsets.map(|name| slot(&name, Dtype::I64)),
                ranks: Box::default(),
            };
            (slot(name, dtype), None, Some(compact))
        }
    }
}

fn storage(
    options: &MergeOptions,
    parameter: &Parameter,
    expectation: Expectation,
    dtype: Dtype,
) -> Storage {
    let compact = |kind: CompactKind| {
        let has_names = kind.part_names(&parameter.name).is_some();
        if has_names && kind.takes(dtype, &parameter.shape) {
            Storage::Compact(kind)
        } else {
            Storage::Plain
        }
    };
    let has_mask = expectation != Expectation::Dense;
    match (options.layout, parameter.sources[0].convention) {
        // safetensors has no sparse tensors.
        (MaskLayout::Keep, Convention::Plain | Convention::TorchSparse) => Storage::Plain,
        (MaskLayout::Keep, Convention::Compact(kind)) => compact(kind),
        (MaskLayout::Keep, _) => Storage::Kept,
        (MaskLayout::Bitmask, _) if has_mask => compact(CompactKind::Bitmask),
        (MaskLayout::CompressedTensors, _) if has_mask => compact(CompactKind::CompressedTensors),
        (MaskLayout::TorchPrune, _) if has_mask => Storage::TorchPrune,
        _ => Storage::Plain,
    }
}

impl Compacted {
    /// Stores what is not two of every four elements, for which there is another format.
    fn become_bitmask(&mut self, name: &str) {
        self.kind = CompactKind::CompressedTensors;
        let names = self.kind.part_names(name);
        self.row_offsets = names.and_then(|names| names.row_offsets).map(|name| Slot {
            name,
            dtype: Dtype::I64,
            ..self.bitmask
        });
    }
}

impl PlannedTensor {
    /// Name, element type and shard of the mask that is stored with it.
    pub(super) fn stored_mask(&self) -> Option<(&str, Dtype, usize)> {
        match (&self.mask_slot, &self.compact) {
            (Some(slot), _) => Some((&slot.name, slot.dtype, slot.shard)),
            (None, Some(compact)) => {
                Some((&compact.bitmask.name, Dtype::Bool, compact.bitmask.shard))
            }
            (None, None) => None,
        }
    }

    /// Bytes that it takes in the output with its mask, given its shape.
    pub fn stored_bytes(&self, shape: &Shape) -> u64 {
        let bytes = |dtype: Dtype, numel: u64| dtype.byte_len(numel).unwrap_or(u64::MAX);
        let flags = self.mask_slot.as_ref();
        let flags = flags.map_or(0, |slot| bytes(slot.dtype, shape.numel()));
        let Some(compact) = &self.compact else {
            return bytes(self.slot.dtype, shape.numel()) + flags;
        };
        let most = compact.kind.most_retained(shape);
        let retained = compact.ranks.last().copied().unwrap_or(most);
        let dims = compact.shape.as_ref().map_or(0, |_| shape.rank() as u64);
        let rows = compact.row_offsets.as_ref();
        let rows = rows.map_or(0, |_| compact.kind.row_shape(shape).numel());
        bytes(self.slot.dtype, retained)
            + compact.kind.bitmask_shape(shape).numel()
            + 8 * (dims + rows)
    }

    /// Retained elements before each tile, where compact ingredients that are merged as
    /// they are tell: they all retain as many, and a mismatch ends the merge.
    fn known_ranks(
        &self,
        ingredients: &Ingredients,
        options: &MergeOptions,
    ) -> Result<Option<Box<[u64]>>, SourceError> {
        let parameter = &ingredients.parameters()[self.parameter];
        if !self.ranks_are_known(ingredients, options) {
            return Ok(None);
        }
        let value = ingredients.value(parameter, 0);
        let Some(compact) = value.compact() else {
            return Ok(None);
        };
        let checkpoint = &ingredients.checkpoints()[0];
        let (tile, numel) = (tile_elements(&parameter.shape), parameter.shape.numel());
        let begins = (0..numel.div_ceil(tile).max(1)).map(|index| index * tile);
        let ranks = begins
            .chain([numel])
            .map(|element| compact.rank(checkpoint, element));
        ranks.collect::<Result<_, _>>().map(Some)
    }

    fn ranks_are_known(&self, ingredients: &Ingredients, options: &MergeOptions) -> bool {
        let parameter = &ingredients.parameters()[self.parameter];
        let retained = |ingredient| {
            let value = ingredients.value(parameter, ingredient);
            value.compact().map(|compact| compact.retained())
        };
        options.rules.policy == MismatchPolicy::Error
            && parameter.given_mask.is_none()
            && retained(0).is_some()
            && (1..parameter.sources.len()).all(|ingredient| retained(ingredient) == retained(0))
    }

    /// Whether masks have to be counted before it has a place.
    fn is_open(&self, ingredients: &Ingredients, options: &MergeOptions) -> bool {
        match &self.compact {
            Some(compact) => {
                compact.ranks.is_empty() && !self.ranks_are_known(ingredients, options)
            }
            None => self.mask_slot.is_some() && self.expectation == Expectation::FromZeros,
        }
    }

    /// Takes what was counted of its mask.
    fn count(&mut self, found: &TensorOutcome, name: &str) {
        if let Some(mask) = found.mask.as_ref().filter(|mask| mask.is_pruned) {
            if let Some(compact) = &mut self.compact {
                let is_24 = mask.pattern.is_some_and(|pattern| pattern.implies(2, 4));
                if compact.kind == CompactKind::Sparse24
                    && !(is_24 && 2 * mask.retained == mask.shape.numel())
                {
                    compact.become_bitmask(name);
                }
                let ranks = found.retained_by_tile.iter().scan(0, |rank, retained| {
                    *rank += retained;
                    Some(*rank)
                });
                compact.ranks = std::iter::once(0).chain(ranks).collect();
            }
        } else if self.stored_mask().is_some() {
            name.clone_into(&mut self.slot.name);
            (self.mask_slot, self.compact) = (None, None);
        }
    }
}

impl MergePlan {
    /// Whether masks are counted in a pass of their own before the soup has its layout:
    /// where it stores only what is retained and its ingredients do not.
    pub fn counts_masks(&self, ingredients: &Ingredients, options: &MergeOptions) -> bool {
        let mut tensors = self.tensors.iter();
        tensors.any(|tensor| tensor.is_open(ingredients, options))
    }

    /// The plan with a place for everything.
    pub(super) fn settled(
        mut self,
        ingredients: &Ingredients,
        options: &MergeOptions,
        observer: Observer<'_>,
    ) -> Result<Self, MergeError> {
        if self.counts_masks(ingredients, options) {
            let outcome = Job::new(ingredients, &self, options, Sink::None).run(observer)?;
            prove(&outcome, ingredients, options).map_err(MergeError::Connectivity)?;
            self.count(&outcome.tensors, ingredients);
        }
        self.placed(ingredients, options)
    }

    /// Takes what was counted of all masks.
    pub(super) fn count(&mut self, found: &[TensorOutcome], ingredients: &Ingredients) {
        for (tensor, found) in self.tensors.iter_mut().zip(found) {
            tensor.count(found, &ingredients.parameters()[tensor.parameter].name);
        }
    }

    /// Chooses again how each parameter is stored, once other masks are expected.
    pub(super) fn store_anew(&mut self, ingredients: &Ingredients, options: &MergeOptions) {
        for tensor in &mut self.tensors {
            let parameter = &ingredients.parameters()[tensor.parameter];
            let (expectation, dtype) = (tensor.expectation, tensor.slot.dtype);
            (tensor.slot, tensor.mask_slot, tensor.compact) =
                slots(ingredients, options, parameter, expectation, dtype);
        }
    }

    /// The plan with its layouts made anew.
    pub(super) fn placed(
        mut self,
        ingredients: &Ingredients,
        options: &MergeOptions,
    ) -> Result<Self, MergeError> {
        let mut counted_bits = 0;
        for index in 0..self.tensors.len() {
            let tensor = &self.tensors[index];
            if tensor
                .compact
                .as_ref()
                .is_some_and(|compact| compact.ranks.is_empty())
                && let Some(ranks) = tensor.known_ranks(ingredients, options)?
                && let Some(compact) = &mut self.tensors[index].compact
            {
                compact.ranks = ranks;
                let parameter = &ingredients.parameters()[self.tensors[index].parameter];
                counted_bits += parameter.shape.numel();
            }
            if counted_bits > COUNTED_BITS {
                for shard in ingredients.checkpoints()[0].shards() {
                    shard.source().release(0, shard.source().bytes());
                }
                counted_bits = 0;
            }
        }
        self.keep_one_format(ingredients);
        self.layouts = place(&mut self.tensors, ingredients, options)?;
        self.bytes_to_write = self.layouts.iter().map(Layout::data_bytes).sum();
        Ok(self)
    }

    /// Stores all weights that are in a format of compressed-tensors in one: a
    /// configuration names one.
    fn keep_one_format(&mut self, ingredients: &Ingredients) {
        let is_general = |tensor: &PlannedTensor| {
            let compact = tensor.compact.as_ref();
            compact.is_some_and(|compact| compact.kind == CompactKind::CompressedTensors)
        };
        if !self.tensors.iter().any(is_general) {
            return;
        }
        for tensor in &mut self.tensors {
            let name = &ingredients.parameters()[tensor.parameter].name;
            if let Some(compact) = &mut tensor.compact
                && compact.kind == CompactKind::Sparse24
            {
                compact.become_bitmask(name);
            }
        }
    }

    /// What a shard's metadata says of its tensors in the bitmask layout.
    pub(super) fn bitmask_record(&self, shard: usize, ingredients: &Ingredients) -> Option<String> {
        let tensors = self.tensors.iter().filter(|tensor| {
            let compact = tensor.compact.as_ref();
            tensor.slot.shard == shard
                && compact.is_some_and(|compact| compact.kind == CompactKind::Bitmask)
        });
        let record = BitmaskRecord::new(tensors.map(|tensor| {
            let shape = &ingredients.parameters()[tensor.parameter].shape;
            (tensor.slot.name.as_str(), tensor.slot.dtype, shape)
        }));
        (!record.tensors.is_empty()).then(|| record.to_json())
    }
}
