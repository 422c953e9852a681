//! A merge from end to end, and a look at masks without one.

use std::collections::BTreeMap;

use crate::checkpoint::Ingredients;
use crate::connectivity::Connectivity;
use crate::connectivity::Expectation;
use crate::connectivity::Mismatch;
use crate::connectivity::MismatchPolicy;
use crate::connectivity::TensorMask;
use crate::format::safetensors::LayoutError;
use crate::merge::MergeError;
use crate::merge::certificate::CERTIFICATE_KEY;
use crate::merge::certificate::Certificate;
use crate::merge::certificate::FileDigest;
use crate::merge::certificate::IngredientRecord;
use crate::merge::certificate::MaskRecord;
use crate::merge::certificate::RecordedOptions;
use crate::merge::certificate::SoupRecord;
use crate::merge::certificate::TensorRecord;
use crate::merge::distance::Distances;
use crate::merge::execute::Job;
use crate::merge::execute::Observer;
use crate::merge::execute::Sink;
use crate::merge::ledger::Outcome;
use crate::merge::ledger::checkpoint_digest;
use crate::merge::options::MergeOptions;
use crate::merge::output::Destination;
use crate::merge::output::Sidecars;
use crate::merge::output::StagedOutput;
use crate::merge::plan::Action;
use crate::merge::plan::MergePlan;
use crate::merge::plan::is_statistic;
use crate::tensor::Digest;

/// A soup that has been written.
#[derive(Debug)]
pub struct Merged {
    /// What was done.
    pub plan: MergePlan,
    /// What was found on the way.
    pub outcome: Outcome,
    /// The proof that the ingredients share one connectivity.
    pub connectivity: Connectivity,
    /// What the soup says about itself.
    pub certificate: Certificate,
    /// Distances between ingredients, if they were measured.
    pub distances: Option<Distances>,
    /// Files that were copied along.
    pub sidecars: Sidecars,
    /// Keys of metadata that are not carried over, because ingredients differ in them.
    pub dropped_metadata: Vec<String>,
    /// Whether batch norm's statistics have to be estimated again.
    pub needs_recalibration: bool,
    /// Bytes of all files of the soup.
    pub bytes_written: u64,
}

/// A look at all masks, without a soup.
#[derive(Debug)]
pub struct Scanned {
    /// What was planned.
    pub plan: MergePlan,
    /// What was found.
    pub outcome: Outcome,
    /// The proof that the ingredients share one connectivity, or how they differ.
    pub connectivity: Result<Connectivity, Box<Mismatch>>,
}

/// Names of what takes part in the comparison of masks.
fn participants(ingredients: &Ingredients) -> Vec<String> {
    let all = ingredients
        .mask_file()
        .into_iter()
        .chain(ingredients.checkpoints());
    all.map(|checkpoint| checkpoint.path().to_string_lossy().into_owned())
        .collect()
}

pub(super) fn prove(
    outcome: &Outcome,
    ingredients: &Ingredients,
    options: &MergeOptions,
) -> Result<Connectivity, Box<Mismatch>> {
    let masks: Vec<TensorMask> = outcome
        .tensors
        .iter()
        .filter_map(|tensor| tensor.mask.clone())
        .collect();
    Connectivity::prove(masks, &participants(ingredients), &options.rules)
}

/// Compares the masks of all ingredients and digests what it reads.
///
/// # Errors
/// [`MergeError`] if something cannot be read; differing masks are no error here.
pub fn scan(
    ingredients: &Ingredients,
    options: &MergeOptions,
    observer: Observer<'_>,
) -> Result<Scanned, MergeError> {
    let plan = MergePlan::new(ingredients, options)?;
    let outcome = Job::new(ingredients, &plan, options, Sink::None).run(observer)?;
    let connectivity = prove(&outcome, ingredients, options);
    Ok(Scanned {
        plan,
        outcome,
        connectivity,
    })
}

/// A plan in which masks that differ are resolved as the policy says.
///
/// Which differences are accidental zeros is known only once all of a tensor has
/// been read, so a policy other than refusing takes one pass more.
pub(super) fn resolved_plan(
    ingredients: &Ingredients,
    options: &MergeOptions,
    observer: Observer<'_>,
) -> Result<MergePlan, MergeError> {
    let mut plan = MergePlan::new(ingredients, options)?;
    if options.rules.policy != MismatchPolicy::Error {
        let outcome = Job::new(ingredients, &plan, options, Sink::None).run(observer)?;
        let connectivity =
            prove(&outcome, ingredients, options).map_err(MergeError::Connectivity)?;
        plan.resolve(&connectivity.resolutions(), ingredients);
    }
    Ok(plan)
}

/// Merges the ingredients into `destination`.
///
/// `files` holds the cryptographic digests of each ingredient's files, or nothing.
/// One pass over the bytes compares masks, combines, digests and writes; the soup
/// appears only once the masks are proved equal and the inputs unchanged.
///
/// # Errors
/// [`MergeError`]; then the destination holds what it held.
pub fn merge(
    ingredients: &Ingredients,
    options: &MergeOptions,
    destination: &Destination,
    files: Vec<Vec<FileDigest>>,
    observer: Observer<'_>,
) -> Result<Merged, MergeError> {
    if ingredients.count() < 2 {
        return Err(MergeError::TooFew {
            found: ingredients.count(),
        });
    }
    let (metadata, dropped_metadata) = carried_metadata(ingredients);
    let plan = resolved_plan(ingredients, options, observer)?;
    let draft = Draft {
        ingredients,
        options,
        plan: &plan,
        metadata,
        files,
    };
    let headers = draft.reserve_headers()?;
    let sidecars = destination.sidecars(ingredients);
    let bytes_written = headers.iter().sum::<u64>() + plan.bytes_to_write;
    destination.require_space(bytes_written)?;
    let fill = |output: &StagedOutput<'_>| {
        let outcome = Job::new(ingredients, &plan, options, Sink::Write(output)).run(observer)?;
        let connectivity =
            prove(&outcome, ingredients, options).map_err(MergeError::Connectivity)?;
        let certificate = draft.certificate(Some((&outcome, &connectivity)));
        for (shard, bytes) in draft
            .headers(&certificate, Some(&headers))?
            .into_iter()
            .enumerate()
        {
            output.write_header(shard, &bytes)?;
        }
        ingredients
            .checkpoints()
            .iter()
            .chain(ingredients.mask_file())
            .try_for_each(|checkpoint| checkpoint.check_unchanged())?;
        if observer
            .interrupted
            .load(std::sync::atomic::Ordering::Relaxed)
        {
            return Err(MergeError::Interrupted);
        }
        Ok((outcome, connectivity, certificate))
    };
    let (outcome, connectivity, certificate) =
        destination.write(&headers, &plan.layouts, &sidecars, fill)?;
    let distances = outcome
        .gram
        .as_ref()
        .map(|gram| Distances::new(gram, &options.weights));
    let needs_recalibration = averages_statistics(&plan, ingredients);
    Ok(Merged {
        plan,
        outcome,
        connectivity,
        certificate,
        distances,
        sidecars,
        dropped_metadata,
        needs_recalibration,
        bytes_written,
    })
}

/// The certificate that a soup would get for what was found, its lineage aside.
pub(super) fn recertify(
    ingredients: &Ingredients,
    options: &MergeOptions,
    plan: &MergePlan,
    found: (&Outcome, &Connectivity),
) -> Certificate {
    let draft = Draft {
        ingredients,
        options,
        plan,
        metadata: BTreeMap::new(),
        files: Vec::new(),
    };
    draft.certificate(Some(found))
}

/// Whether the soup has running statistics that no ingredient measured.
fn averages_statistics(plan: &MergePlan, ingredients: &Ingredients) -> bool {
    plan.tensors.iter().any(|planned| {
        let is_averaged = matches!(
            planned.action,
            Action::Average | Action::PooledVariance { .. }
        );
        is_averaged && is_statistic(&ingredients.parameters()[planned.parameter].name)
    })
}

/// Metadata in which all ingredients agree, and the keys in which they do not.
fn carried_metadata(ingredients: &Ingredients) -> (BTreeMap<String, String>, Vec<String>) {
    let all: Vec<BTreeMap<&str, &str>> = ingredients
        .checkpoints()
        .iter()
        .map(|checkpoint| checkpoint.metadata())
        .collect();
    let keys: std::collections::BTreeSet<&str> = all
        .iter()
        .flat_map(|metadata| metadata.keys().copied())
        .collect();
    let mut carried = BTreeMap::new();
    let mut dropped = Vec::new();
    for key in keys.into_iter().filter(|&key| key != CERTIFICATE_KEY) {
        match all[0].get(key) {
            Some(value) if all.iter().all(|metadata| metadata.get(key) == Some(value)) => {
                carried.insert(key.to_owned(), (*value).to_owned());
            }
            _ => dropped.push(key.to_owned()),
        }
    }
    // transformers refuses a file that does not say which framework it is for.
    if carried
        .entry("format".to_owned())
        .or_insert_with(|| "pt".to_owned())
        == "pt"
    {
        dropped.retain(|key| key != "format");
    }
    (carried, dropped)
}

/// What is known of a soup's headers.
struct Draft<'a> {
    ingredients: &'a Ingredients,
    options: &'a MergeOptions,
    plan: &'a MergePlan,
    metadata: BTreeMap<String, String>,
    files: Vec<Vec<FileDigest>>,
}

impl Draft<'_> {
    /// Bytes that each header takes at most: digests have one length, and counts
    /// are at their longest where everything is retained.
    fn reserve_headers(&self) -> Result<Vec<u64>, LayoutError> {
        let longest = self.headers(&self.certificate(None), None)?;
        Ok(longest.iter().map(|header| header.len() as u64).collect())
    }

    fn headers(
        &self,
        certificate: &Certificate,
        reserved: Option<&[u64]>,
    ) -> Result<Vec<Vec<u8>>, LayoutError> {
        let layouts = self.plan.layouts.iter().enumerate();
        layouts
            .map(|(shard, layout)| {
                let own: std::collections::BTreeSet<&str> = layout
                    .tensors()
                    .iter()
                    .map(|tensor| tensor.name.as_str())
                    .collect();
                let mut metadata = self.metadata.clone();
                metadata.insert(
                    CERTIFICATE_KEY.to_owned(),
                    certificate.to_json(|name| own.contains(name)),
                );
                match reserved {
                    Some(reserved) => layout.header_padded(&metadata, reserved[shard] as usize),
                    None => layout.header(&metadata),
                }
            })
            .collect()
    }

    /// The certificate of what was found, or the longest that could be.
    fn certificate(&self, found: Option<(&Outcome, &Connectivity)>) -> Certificate {
        let placeholder = Digest::of(b"");
        let mut tensors = BTreeMap::new();
        let mut content = Vec::new();
        for (index, planned) in self.plan.tensors.iter().enumerate() {
            let shape = &self.ingredients.parameters()[planned.parameter].shape;
            let outcome = found.map(|(outcome, _)| &outcome.tensors[index]);
            let digest_of =
                |digest: Option<Option<Digest>>| digest.flatten().unwrap_or(placeholder);
            let mask = match outcome {
                None => (planned.expectation != Expectation::Dense).then(|| MaskRecord {
                    mask: placeholder,
                    retained: shape.numel(),
                    retained_zeros: shape.numel(),
                }),
                Some(outcome) => outcome
                    .mask
                    .as_ref()
                    .filter(|mask| mask.is_pruned)
                    .map(|mask| MaskRecord {
                        mask: mask.digest,
                        retained: mask.retained,
                        retained_zeros: outcome.counts.retained_zeros,
                    }),
            };
            let values = digest_of(outcome.map(|outcome| outcome.content));
            content.push((
                planned.slot.name.as_str(),
                planned.slot.dtype,
                shape,
                values,
            ));
            tensors.insert(
                planned.slot.name.clone(),
                TensorRecord {
                    content: values,
                    mask,
                },
            );
            if let Some(slot) = &planned.mask_slot {
                let flags = digest_of(outcome.map(|outcome| outcome.mask_content));
                content.push((slot.name.as_str(), slot.dtype, shape, flags));
                tensors.insert(
                    slot.name.clone(),
                    TensorRecord {
                        content: flags,
                        mask: None,
                    },
                );
            }
        }
        let ingredients = self
            .ingredients
            .checkpoints()
            .iter()
            .enumerate()
            .map(|(index, checkpoint)| {
                let digest = found.map_or(placeholder, |(outcome, _)| outcome.ingredients[index]);
                IngredientRecord::new(
                    checkpoint,
                    digest,
                    self.files.get(index).cloned().unwrap_or_default(),
                )
            })
            .collect();
        let mask_file = match found {
            Some((outcome, _)) => outcome.mask_file,
            None => self.ingredients.mask_file().map(|_| placeholder),
        };
        let numel = self
            .ingredients
            .parameters()
            .iter()
            .map(|parameter| parameter.shape.numel())
            .sum();
        let pooled = averages_statistics(self.plan, self.ingredients);
        Certificate::new(
            SoupRecord::new(
                self.options,
                found.map_or(placeholder, |(_, proof)| proof.digest()),
                ingredients,
            ),
            RecordedOptions::new(self.options, mask_file, pooled),
            checkpoint_digest(content.into_iter()),
            found.map_or((numel, numel), |(_, proof)| proof.totals()),
            tensors,
        )
    }
}
