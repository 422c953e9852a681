//! What a pruned checkpoint says of its mask: how it came about, and its digests.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::prune::Target;
use crate::tensor::Digest;

/// Key of the record in `__metadata__`; its value is one JSON object.
///
/// A merge carries it along, as other metadata, where all ingredients have the same.
pub const PRUNING_KEY: &str = "sms_merge_prune";

/// Version of the record's fields.
const FORMAT_VERSION: u32 = 1;

/// How a mask came about, and its digests.
///
/// In a checkpoint of several files, each file's record lists that file's tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PruningRecord {
    /// Version of these fields.
    pub format_version: u32,
    /// Name and version of the program that wrote it.
    pub tool: String,
    /// Last component of the path of what was pruned.
    pub source: String,
    /// Digest of the tensors of that, as a soup's certificate has it of an ingredient.
    pub source_digest: Digest,
    /// What was asked for.
    pub target: Target,
    /// Digest of all masks.
    pub mask: Digest,
    /// Elements of prunable tensors.
    pub prunable: u64,
    /// Those of them that are retained.
    pub retained: u64,
    /// The mask of each prunable tensor, by its name.
    pub tensors: BTreeMap<String, MaskEntry>,
}

/// One mask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskEntry {
    /// Digest of the mask.
    pub mask: Digest,
    /// Elements that it retains.
    pub retained: u64,
    /// Those of them whose value is zero: a mask read from zeros lacks them.
    pub retained_zeros: u64,
}

impl PruningRecord {
    /// The record of a checkpoint, its files taken together; `None` if it has none
    /// that this program knows.
    pub fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let mut whole: Option<Self> = None;
        for metadata in checkpoint.shard_metadata() {
            let Some(text) = metadata.get(PRUNING_KEY) else {
                continue;
            };
            let record: Self = serde_json::from_str(text).ok()?;
            if record.format_version != FORMAT_VERSION {
                return None;
            }
            match &mut whole {
                Some(whole) => whole.tensors.extend(record.tensors),
                None => whole = Some(record),
            }
        }
        whole
    }

    pub(super) fn new(
        source: &Checkpoint,
        source_digest: Digest,
        target: Target,
        mask: Digest,
        (prunable, retained): (u64, u64),
        tensors: BTreeMap<String, MaskEntry>,
    ) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            tool: concat!("sms-merge ", env!("CARGO_PKG_VERSION")).to_owned(),
            source: source.display_name(),
            source_digest,
            target,
            mask,
            prunable,
            retained,
            tensors,
        }
    }

    /// As the value of [`PRUNING_KEY`], with only the tensors that `holds` picks.
    pub(super) fn to_json(&self, holds: impl Fn(&str) -> bool) -> String {
        let part = Self {
            tensors: self
                .tensors
                .iter()
                .filter(|(name, _)| holds(name))
                .map(|(name, entry)| (name.clone(), entry.clone()))
                .collect(),
            ..self.clone()
        };
        serde_json::to_string(&part)
            .expect("strings, numbers and maps with string keys have a JSON form")
    }
}
