//! A soup's headers: reserved before the first tensor is written, filled in after the
//! last.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::checkpoint::CERTIFICATE_KEY;
use crate::checkpoint::Ingredients;
use crate::checkpoint::SEAL_KEY;
use crate::checkpoint::checkpoint_digest;
use crate::checkpoint::metadata_seal;
use crate::connectivity::Connectivity;
use crate::connectivity::Expectation;
use crate::format::compact::BITMASK_KEY;
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
    claim: Claim,
}

/// What the certificate says of how the checkpoint came about.
pub(super) enum Claim {
    /// It is a soup of the ingredients, whose records have open digests.
    Soup(Vec<IngredientRecord>),
    /// It is a copy of a soup that has this certificate.
    Copy(Box<Certificate>),
    /// It has no certificate.
    Nothing,
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
        Self::claiming(ingredients, options, plan, metadata, Claim::Soup(records))
    }

    pub(super) fn claiming(
        ingredients: &'a Ingredients,
        options: &'a MergeOptions,
        plan: &'a MergePlan,
        metadata: BTreeMap<String, String>,
        claim: Claim,
    ) -> Self {
        Self {
            ingredients,
            options,
            plan,
            metadata,
            claim,
        }
    }

    /// A certificate without records of tensors, at its longest.
    fn bare_certificate(&self) -> Option<Certificate> {
        let numel = self
            .ingredients
            .parameters()
            .iter()
            .map(|parameter| parameter.shape.numel())
            .sum();
        self.certified(
            (open_digest(), Vec::new()),
            self.ingredients.mask_file().map(|_| open_digest()),
            open_digest(),
            (numel, numel),
            BTreeMap::new(),
        )
    }

    /// Bytes that each header takes at most: digests have one length, and counts are
    /// at their longest where everything is retained.
    pub(super) fn reserve_headers(&self) -> Result<Vec<u64>, LayoutError> {
        let bare = self.bare_certificate();
        let mut records = vec![0; self.plan.layouts.len()];
        for planned in &self.plan.tensors {
            let numel = self.ingredients.parameters()[planned.parameter]
                .shape
                .numel();
            let may_have_mask = planned.expectation != Expectation::Dense;
            records[planned.slot.shard] +=
                TensorRecord::longest(&planned.slot.name, numel, may_have_mask);
            if let Some((name, _, shard)) = planned.stored_mask() {
                records[shard] += TensorRecord::longest(name, numel, false);
            }
        }
        let layouts = self.plan.layouts.iter().zip(records).enumerate();
        layouts
            .map(|(shard, (layout, records))| {
                let text = bare.as_ref().map(|bare| bare.to_json(|_| true));
                let bytes = layout.header(&self.metadata_of(shard, text))?.len() + records;
                Ok(bytes.next_multiple_of(ALIGNMENT) as u64)
            })
            .collect()
    }

    /// Bytes that a model's metadata takes at most.
    pub(super) fn reserve_metadata(&self) -> u64 {
        model_metadata(" ".repeat(self.reserve_certificate())).len() as u64
    }

    /// A model's metadata, padded to the reserved length: white space may follow JSON.
    pub(super) fn metadata(&self, certificate: &Certificate) -> Vec<u8> {
        let mut text = certificate.to_json(|_| true);
        let padding = self.reserve_certificate().saturating_sub(text.len());
        text.extend(std::iter::repeat_n(' ', padding));
        model_metadata(text)
    }

    /// Whether the files get a seal: not a copy of a soup that has none.
    fn is_sealed(&self) -> bool {
        match &self.claim {
            Claim::Soup(_) => true,
            Claim::Copy(of) => of.is_sealed(),
            Claim::Nothing => false,
        }
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
        let bare = self.bare_certificate();
        bare.map_or(0, |bare| bare.to_json(|_| true).len()) + records
    }

    /// The headers, each padded to its reserved length.
    pub(super) fn headers(
        &self,
        certificate: Option<&Certificate>,
        reserved: &[u64],
    ) -> Result<Vec<Vec<u8>>, LayoutError> {
        let layouts = self.plan.layouts.iter().zip(reserved).enumerate();
        layouts
            .map(|(shard, (layout, &reserved))| {
                let text = certificate.map(|certificate| {
                    if self.plan.layouts.len() == 1 {
                        return certificate.to_json(|_| true);
                    }
                    let own = self.names_in(shard);
                    certificate.to_json(|name| own.contains(name))
                });
                layout.header_padded(&self.metadata_of(shard, text), reserved as usize)
            })
            .collect()
    }

    /// Names of the tensors that a shard's certificate lists.
    fn names_in(&self, shard: usize) -> BTreeSet<&str> {
        let planned = self.plan.tensors.iter();
        let names = planned.flat_map(|planned| {
            let values = (planned.slot.name.as_str(), planned.slot.shard);
            let mask = planned.stored_mask().map(|(name, _, shard)| (name, shard));
            std::iter::once(values).chain(mask)
        });
        names
            .filter(|&(_, own)| own == shard)
            .map(|(name, _)| name)
            .collect()
    }

    /// The metadata of a shard.
    fn metadata_of(&self, shard: usize, certificate: Option<String>) -> BTreeMap<String, String> {
        let mut metadata = self.metadata.clone();
        if let Some(text) = certificate {
            metadata.insert(CERTIFICATE_KEY.to_owned(), text);
        }
        if let Some(text) = self.plan.bitmask_record(shard, self.ingredients) {
            metadata.insert(BITMASK_KEY.to_owned(), text);
        }
        if self.is_sealed() {
            let seal = metadata_seal(&metadata).to_string();
            metadata.insert(SEAL_KEY.to_owned(), seal);
        }
        metadata
    }

    /// The certificate of these tensors, as the claim has it. `masks` and `ingredients`
    /// are digests of what was merged.
    fn certified(
        &self,
        (masks, ingredients): (Digest, Vec<Digest>),
        mask_file: Option<Digest>,
        content: Digest,
        (prunable, retained): (u64, u64),
        tensors: BTreeMap<String, TensorRecord>,
    ) -> Option<Certificate> {
        match &self.claim {
            Claim::Nothing => None,
            Claim::Copy(of) => {
                let mut certificate = (**of).clone();
                certificate.options.layout = self.options.layout;
                (certificate.content, certificate.tensors) = (content, tensors);
                (certificate.prunable, certificate.retained) = (prunable, retained);
                Some(certificate)
            }
            Claim::Soup(records) => {
                let mut records = records.clone();
                for (record, digest) in records.iter_mut().zip(ingredients) {
                    record.digest = digest;
                }
                Some(Certificate::new(
                    SoupRecord::new(self.options, masks, records),
                    self.recorded_options(mask_file),
                    content,
                    (prunable, retained),
                    tensors,
                ))
            }
        }
    }

    /// The certificate of what was found.
    pub(super) fn certificate(
        &self,
        outcome: &Outcome,
        connectivity: &Connectivity,
    ) -> Option<Certificate> {
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
            let flags = planned.stored_mask().zip(found.mask_content);
            let values = (
                planned.slot.name.as_str(),
                planned.slot.dtype,
                found.content.unwrap_or_else(open_digest),
                mask,
            );
            let flags = flags.map(|((name, dtype, _), digest)| (name, dtype, digest, None));
            for (name, dtype, digest, mask) in std::iter::once(values).chain(flags) {
                content.push((name, dtype, shape, digest));
                tensors.insert(
                    name.to_owned(),
                    TensorRecord {
                        content: digest,
                        mask,
                    },
                );
            }
        }
        self.certified(
            (connectivity.digest(), outcome.ingredients.clone()),
            outcome.mask_file,
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

/// The certificate and, last, room for the seal, as fields of a model.
fn model_metadata(certificate: String) -> Vec<u8> {
    let mut fields = metadata(CERTIFICATE_KEY, &certificate);
    fields.extend(metadata(SEAL_KEY, &open_digest().to_string()));
    fields
}

/// Stands for a digest that is not known yet; all digests have one length.
fn open_digest() -> Digest {
    Digest::of(b"")
}
