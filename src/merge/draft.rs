//! A soup's headers: reserved before the first tensor is written, filled in after the
//! last.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::checkpoint::CERTIFICATE_KEY;
use crate::checkpoint::Ingredients;
use crate::checkpoint::checkpoint_digest;
use crate::connectivity::Connectivity;
use crate::connectivity::Expectation;
use crate::format::onnx::splice::metadata;
use crate::format::safetensors::LayoutError;
use crate::merge::certificate::Certificate;
use crate::merge::certificate::IngredientRecord;
use crate::merge::certificate::MaskRecord;
use crate::merge::certificate::RecordedOptions;
use crate::merge::certificate::SoupRecord;
use crate::merge::certificate::TensorRecord;
use crate::merge::file_digest::FileDigest;
use crate::merge::ledger::Outcome;
use crate::merge::options::MergeOptions;
use crate::merge::plan::MergePlan;
use crate::tensor::Digest;

/// A header takes a multiple of so many bytes.
const ALIGNMENT: usize = 8;

/// What is known of a soup's headers before it is computed.
pub(super) struct Draft<'a> {
    ingredients: &'a Ingredients,
    options: &'a MergeOptions,
    plan: &'a MergePlan,
    metadata: BTreeMap<String, String>,
    /// Records of the ingredients, their digests still open.
    records: Vec<IngredientRecord>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        ingredients: &'a Ingredients,
        options: &'a MergeOptions,
        plan: &'a MergePlan,
        metadata: BTreeMap<String, String>,
        files: Vec<Vec<FileDigest>>,
    ) -> Self {
        let files = files.into_iter().chain(std::iter::repeat(Vec::new()));
        let record = |(checkpoint, files)| IngredientRecord::new(checkpoint, open_digest(), files);
        let records = ingredients
            .checkpoints()
            .iter()
            .zip(files)
            .map(record)
            .collect();
        Self {
            ingredients,
            options,
            plan,
            metadata,
            records,
        }
    }

    /// A certificate without records of tensors, at its longest.
    fn bare_certificate(&self) -> Certificate {
        let numel = self
            .ingredients
            .parameters()
            .iter()
            .map(|parameter| parameter.shape.numel())
            .sum();
        Certificate::new(
            SoupRecord::new(self.options, open_digest(), self.records.clone()),
            self.recorded_options(self.ingredients.mask_file().map(|_| open_digest())),
            open_digest(),
            (numel, numel),
            BTreeMap::new(),
        )
    }

    /// Bytes that each header takes at most: digests have one length, and counts are
    /// at their longest where everything is retained.
    pub(super) fn reserve_headers(&self) -> Result<Vec<u64>, LayoutError> {
        let bare = self.bare_certificate();
        let mut metadata = self.metadata.clone();
        metadata.insert(CERTIFICATE_KEY.to_owned(), bare.to_json(|_| true));
        let mut records = vec![0; self.plan.layouts.len()];
        for planned in &self.plan.tensors {
            let numel = self.ingredients.parameters()[planned.parameter]
                .shape
                .numel();
            let may_have_mask = planned.expectation != Expectation::Dense;
            records[planned.slot.shard] +=
                TensorRecord::longest(&planned.slot.name, numel, may_have_mask);
            if let Some(slot) = &planned.mask_slot {
                records[slot.shard] += TensorRecord::longest(&slot.name, numel, false);
            }
        }
        let layouts = self.plan.layouts.iter().zip(records);
        layouts
            .map(|(layout, records)| {
                let bytes = layout.header(&metadata)?.len() + records;
                Ok(bytes.next_multiple_of(ALIGNMENT) as u64)
            })
            .collect()
    }

    /// Bytes that a model's metadata takes at most.
    pub(super) fn reserve_metadata(&self) -> u64 {
        metadata(CERTIFICATE_KEY, &" ".repeat(self.reserve_certificate())).len() as u64
    }

    /// A model's metadata, padded to the reserved length: white space may follow JSON.
    pub(super) fn metadata(&self, certificate: &Certificate) -> Vec<u8> {
        let text = certificate.to_json(|_| true);
        let padded = format!("{text:<width$}", width = self.reserve_certificate());
        metadata(CERTIFICATE_KEY, &padded)
    }

    /// Bytes of the longest certificate, as JSON.
    fn reserve_certificate(&self) -> usize {
        let records: usize = self
            .plan
            .tensors
            .iter()
            .map(|planned| {
                let parameter = &self.ingredients.parameters()[planned.parameter];
                let may_have_mask = planned.expectation != Expectation::Dense;
                TensorRecord::longest(&planned.slot.name, parameter.shape.numel(), may_have_mask)
            })
            .sum();
        self.bare_certificate().to_json(|_| true).len() + records
    }

    /// The headers, each padded to its reserved length.
    pub(super) fn headers(
        &self,
        certificate: &Certificate,
        reserved: &[u64],
    ) -> Result<Vec<Vec<u8>>, LayoutError> {
        let layouts = self.plan.layouts.iter().zip(reserved);
        layouts
            .map(|(layout, &reserved)| {
                let text = if self.plan.layouts.len() == 1 {
                    certificate.to_json(|_| true)
                } else {
                    let own: BTreeSet<&str> = layout
                        .tensors()
                        .iter()
                        .map(|tensor| tensor.name.as_str())
                        .collect();
                    certificate.to_json(|name| own.contains(name))
                };
                let mut metadata = self.metadata.clone();
                metadata.insert(CERTIFICATE_KEY.to_owned(), text);
                layout.header_padded(&metadata, reserved as usize)
            })
            .collect()
    }

    /// The certificate of what was found.
    pub(super) fn certificate(
        &self,
        outcome: &Outcome,
        connectivity: &Connectivity,
    ) -> Certificate {
        let mut tensors = BTreeMap::new();
        let mut content = Vec::with_capacity(self.plan.tensors.len());
        for (planned, found) in self.plan.tensors.iter().zip(&outcome.tensors) {
            let shape = &self.ingredients.parameters()[planned.parameter].shape;
            let mask = found
                .mask
                .as_ref()
                .filter(|mask| mask.is_pruned)
                .map(|mask| MaskRecord {
                    mask: mask.digest,
                    retained: mask.retained,
                    retained_zeros: found.counts.retained_zeros,
                });
            let flags = planned.mask_slot.as_ref().zip(found.mask_content);
            let values = (
                &planned.slot,
                found.content.unwrap_or_else(open_digest),
                mask,
            );
            let flags = flags.map(|(slot, digest)| (slot, digest, None));
            for (slot, digest, mask) in std::iter::once(values).chain(flags) {
                content.push((slot.name.as_str(), slot.dtype, shape, digest));
                tensors.insert(
                    slot.name.clone(),
                    TensorRecord {
                        content: digest,
                        mask,
                    },
                );
            }
        }
        let mut records = self.records.clone();
        for (record, &digest) in records.iter_mut().zip(&outcome.ingredients) {
            record.digest = digest;
        }
        Certificate::new(
            SoupRecord::new(self.options, connectivity.digest(), records),
            self.recorded_options(outcome.mask_file),
            checkpoint_digest(content.into_iter()),
            connectivity.totals(),
            tensors,
        )
    }

    fn recorded_options(&self, mask_file: Option<Digest>) -> RecordedOptions {
        RecordedOptions::new(
            self.options,
            mask_file,
            self.plan.averages_statistics(self.ingredients),
        )
    }
}

/// Stands for a digest that is not known yet; all digests have one length.
fn open_digest() -> Digest {
    Digest::of(b"")
}
