//! Where the tensors of a pruned checkpoint and of its mask file lie, and what their
//! headers say.

use std::collections::BTreeMap;

use crate::checkpoint::CERTIFICATE_KEY;
use crate::checkpoint::Convention;
use crate::checkpoint::MaskLayout;
use crate::checkpoint::RECALIBRATION_KEY;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::format::safetensors::LayoutError;
use crate::format::safetensors::natural_cmp;
use crate::format::safetensors::split;
use crate::prune::PruneError;
use crate::prune::record::PRUNING_KEY;
use crate::prune::record::PruningRecord;
use crate::prune::subject::Subject;
use crate::tensor::Dtype;

/// A header takes a multiple of so many bytes.
const ALIGNMENT: usize = 8;

/// The place of a tensor in the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) shard: usize,
    /// Offset in the shard's data buffer.
    pub(super) offset: u64,
    pub(super) dtype: Dtype,
}

impl Slot {
    /// Offset of the element with the given index.
    pub(super) fn at(self, index: u64) -> u64 {
        self.offset + index * self.dtype.bits() / 8
    }
}

/// Tensors with their places, and the files that they fill.
#[derive(Debug)]
pub(super) struct Placed {
    /// For each parameter, where its values go.
    pub(super) values: Vec<Option<Slot>>,
    /// For each parameter, where its mask goes.
    pub(super) masks: Vec<Option<Slot>>,
    pub(super) layouts: Vec<Layout>,
    /// The file that says of a parameter's mask, by the parameter's name.
    shards: BTreeMap<String, usize>,
}

/// Which tensor of a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Values,
    Mask,
}

impl Placed {
    /// Places of a checkpoint with everything that the subject has.
    pub(super) fn checkpoint(
        subject: &Subject,
        layout: MaskLayout,
        shard_bytes: Option<u64>,
    ) -> Result<Self, PruneError> {
        let mut entries = Vec::new();
        for (index, parameter) in subject.parameters().iter().enumerate() {
            let value = subject.value(index);
            let keeps = layout == MaskLayout::Keep
                && !matches!(
                    parameter.sources[0].convention,
                    Convention::Plain | Convention::Compact(_) | Convention::TorchSparse
                );
            let entry = |name: &str, dtype| Entry {
                name: name.to_owned(),
                dtype,
                shape: parameter.shape.clone(),
            };
            match subject.stored_mask(index).filter(|_| keeps) {
                Some(mask) => {
                    entries.push((entry(&value.name, value.dtype), index, Part::Values));
                    entries.push((entry(&mask.name, mask.dtype), index, Part::Mask));
                }
                None => entries.push((entry(&parameter.name, value.dtype), index, Part::Values)),
            }
        }
        Self::new(entries, subject, shard_bytes)
    }

    /// Places of a file with the masks of all prunable tensors.
    pub(super) fn masks(subject: &Subject) -> Result<Self, PruneError> {
        let entries = subject.prunable().into_iter().map(|index| {
            let parameter = &subject.parameters()[index];
            let entry = Entry {
                name: parameter.name.clone(),
                dtype: Dtype::Bool,
                shape: parameter.shape.clone(),
            };
            (entry, index, Part::Mask)
        });
        Self::new(entries.collect(), subject, None)
    }

    fn new(
        mut entries: Vec<(Entry, usize, Part)>,
        subject: &Subject,
        shard_bytes: Option<u64>,
    ) -> Result<Self, PruneError> {
        entries.sort_by(|(a, ..), (b, ..)| natural_cmp(a, b));
        let n_parameters = subject.parameters().len();
        let owners: Vec<(usize, Part)> = entries
            .iter()
            .map(|(_, parameter, part)| (*parameter, *part))
            .collect();
        let entries = entries.into_iter().map(|(entry, ..)| entry).collect();
        let layouts = split(entries, shard_bytes)
            .into_iter()
            .map(Layout::new)
            .collect::<Result<Vec<_>, LayoutError>>()?;
        let mut placed = Self {
            values: vec![None; n_parameters],
            masks: vec![None; n_parameters],
            layouts,
            shards: BTreeMap::new(),
        };
        let places = placed
            .layouts
            .iter()
            .enumerate()
            .flat_map(|(shard, layout)| {
                let tensors = layout.tensors().iter();
                tensors.map(move |tensor| (shard, tensor.begin, tensor.dtype))
            });
        for ((parameter, part), (shard, offset, dtype)) in owners.into_iter().zip(places) {
            let name = subject.parameters()[parameter].name.clone();
            placed.shards.entry(name).or_insert(shard);
            let slot = Some(Slot {
                shard,
                offset,
                dtype,
            });
            match part {
                Part::Values => placed.values[parameter] = slot,
                Part::Mask => placed.masks[parameter] = slot,
            }
        }
        Ok(placed)
    }

    /// The headers with this record, each at least as long as its `reserved` bytes.
    pub(super) fn headers(
        &self,
        metadata: &BTreeMap<String, String>,
        record: &PruningRecord,
        reserved: &[u64],
    ) -> Result<Vec<Vec<u8>>, LayoutError> {
        let layouts = self.layouts.iter().enumerate();
        layouts
            .map(|(shard, layout)| {
                let mut metadata = metadata.clone();
                let text = record.to_json(|name| self.shards.get(name) == Some(&shard));
                metadata.insert(PRUNING_KEY.to_owned(), text);
                match reserved.get(shard) {
                    Some(&bytes) => layout.header_padded(&metadata, bytes as usize),
                    None => layout.header(&metadata),
                }
            })
            .collect()
    }

    /// Bytes of each header with a record that is at its longest.
    pub(super) fn reserve(
        &self,
        metadata: &BTreeMap<String, String>,
        longest: &PruningRecord,
    ) -> Result<Vec<u64>, LayoutError> {
        let headers = self.headers(metadata, longest, &[])?;
        let lengths = headers.iter().map(Vec::len);
        Ok(lengths
            .map(|bytes| bytes.next_multiple_of(ALIGNMENT) as u64)
            .collect())
    }

    /// Bytes of all data buffers.
    pub(super) fn data_bytes(&self) -> u64 {
        self.layouts.iter().map(Layout::data_bytes).sum()
    }
}

/// The metadata of the subject that stays true of what is made of it.
pub(super) fn carried_metadata(subject: &Subject) -> BTreeMap<String, String> {
    let all = subject.checkpoint().metadata().into_iter();
    let mut carried: BTreeMap<String, String> = all
        .filter(|&(key, _)| ![CERTIFICATE_KEY, PRUNING_KEY, RECALIBRATION_KEY].contains(&key))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    // transformers refuses a file that does not say which framework it is for.
    carried
        .entry("format".to_owned())
        .or_insert_with(|| "pt".to_owned());
    carried
}
