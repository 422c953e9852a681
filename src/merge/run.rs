//! A merge from end to end, and a look at masks without one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::CERTIFICATE_KEY;
use crate::checkpoint::Contents;
use crate::checkpoint::Destination;
use crate::checkpoint::Ingredients;
use crate::checkpoint::MaskLayout;
use crate::checkpoint::Observer;
use crate::checkpoint::RECALIBRATION_KEY;
use crate::checkpoint::Sidecars;
use crate::checkpoint::StagedOutput;
use crate::connectivity::Connectivity;
use crate::connectivity::Mismatch;
use crate::connectivity::MismatchPolicy;
use crate::connectivity::TensorMask;
use crate::merge::MergeError;
use crate::merge::apply::APPLICATION_KEY;
use crate::merge::certificate::Certificate;
use crate::merge::distance::Distances;
use crate::merge::draft::Draft;
use crate::merge::file_digest::FileDigest;
use crate::merge::job::Job;
use crate::merge::ledger::Outcome;
use crate::merge::options::MergeOptions;
use crate::merge::plan::MergePlan;
use crate::merge::sink::Sink;

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
    let masks: Vec<Arc<TensorMask>> = outcome
        .tensors
        .iter()
        .filter_map(|tensor| tensor.mask.clone())
        .collect();
    Connectivity::prove(masks, &participants(ingredients), &options.rules)
}

/// Compares the masks of all ingredients, as their `plan` with these `options` says, and
/// digests what it reads.
///
/// # Errors
/// [`MergeError`] if something cannot be read; differing masks are no error here.
pub fn scan(
    plan: MergePlan,
    ingredients: &Ingredients,
    options: &MergeOptions,
    observer: Observer<'_>,
) -> Result<Scanned, MergeError> {
    let outcome = Job::new(ingredients, &plan, options, Sink::None).run(observer)?;
    let connectivity = prove(&outcome, ingredients, options);
    Ok(Scanned {
        plan,
        outcome,
        connectivity,
    })
}

/// A plan in which masks that differ are resolved as the policy says, and in which all
/// has a place.
///
/// Which differences are accidental zeros is known only once all of a tensor has
/// been read, so a policy other than refusing takes one pass more.
pub(super) fn resolve_plan(
    mut plan: MergePlan,
    ingredients: &Ingredients,
    options: &MergeOptions,
    observer: Observer<'_>,
) -> Result<MergePlan, MergeError> {
    if options.rules.policy != MismatchPolicy::Error {
        let outcome = Job::new(ingredients, &plan, options, Sink::None).run(observer)?;
        let connectivity =
            prove(&outcome, ingredients, options).map_err(MergeError::Connectivity)?;
        plan.resolve(&connectivity.resolutions(), ingredients);
    }
    plan.settled(ingredients, options, observer)
}

/// Merges the ingredients into `destination`, as their `plan` with these `options` says.
///
/// `files` holds the cryptographic digests of each ingredient's files, or nothing.
/// One pass over the bytes compares masks, combines, digests and writes; the soup
/// appears only once the masks are proved equal and the inputs unchanged.
///
/// # Errors
/// [`MergeError`]; then the destination holds what it held.
pub fn merge(
    plan: MergePlan,
    ingredients: &Ingredients,
    options: &MergeOptions,
    destination: &Destination,
    files: Vec<Vec<FileDigest>>,
    observer: Observer<'_>,
) -> Result<Merged, MergeError> {
    // What is kept of several may be one.
    let fewest = if options.selection.is_some() { 1 } else { 2 };
    if ingredients.count() < fewest {
        return Err(MergeError::TooFew {
            found: ingredients.count(),
        });
    }
    let (metadata, dropped_metadata) = carried_metadata(ingredients);
    let plan = resolve_plan(plan, ingredients, options, observer)?;
    let draft = Draft::new(ingredients, options, &plan, metadata, files);
    let model_bytes = destination.model_bytes();
    if model_bytes.is_some() {
        refuse_for_model(ingredients, options)?;
    }
    let headers = match model_bytes {
        Some(_) => vec![draft.reserve_metadata()],
        None => draft.reserve_headers()?,
    };
    let sidecars = destination.sidecars(ingredients, &plan.written(ingredients))?;
    let bytes_written = headers.iter().sum::<u64>() + model_bytes.unwrap_or(plan.bytes_to_write);
    destination.require_space(bytes_written)?;
    let fill = |output: &StagedOutput<'_>| {
        let outcome = Job::new(ingredients, &plan, options, Sink::Write(output)).run(observer)?;
        let connectivity =
            prove(&outcome, ingredients, options).map_err(MergeError::Connectivity)?;
        refuse_changed(ingredients, options, &outcome)?;
        require_content(&plan, &outcome)?;
        let certificate = draft
            .certificate(&outcome, &connectivity)
            .expect("a soup has a certificate");
        let texts = match model_bytes {
            Some(_) => vec![draft.metadata(&certificate)],
            None => draft.headers(Some(&certificate), &headers)?,
        };
        for (shard, bytes) in texts.into_iter().enumerate() {
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
    let (outcome, connectivity, certificate) = match (model_bytes, plan.layouts.as_slice()) {
        (Some(_), [layout]) => {
            destination.write_model(&ingredients.checkpoints()[0], layout, headers[0], fill)?
        }
        _ => {
            let contents = Contents {
                headers: &headers,
                layouts: &plan.layouts,
                sidecars: &sidecars,
            };
            destination.write(&contents, fill)?
        }
    };
    let distances = outcome
        .distances
        .as_ref()
        .map(|tally| Distances::new(tally, &options.weights));
    let needs_recalibration = plan.averages_statistics(ingredients);
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

/// Refuses ingredients that are not what they were when they were selected.
fn refuse_changed(
    ingredients: &Ingredients,
    options: &MergeOptions,
    outcome: &Outcome,
) -> Result<(), MergeError> {
    let Some(selection) = &options.selection else {
        return Ok(());
    };
    match selection.changed(&selection.kept(), &outcome.ingredients) {
        Some(changed) => Err(MergeError::NotAsJudged {
            path: ingredients.checkpoints()[changed].path().to_owned(),
        }),
        None => Ok(()),
    }
}

/// Refuses what cannot be said in the graph of the first ingredient.
fn refuse_for_model(ingredients: &Ingredients, options: &MergeOptions) -> Result<(), MergeError> {
    let mut tensors = ingredients.checkpoints()[0].tensors().iter();
    let is_sparse = tensors.any(|tensor| tensor.mask_of.is_some());
    let refused = [
        (
            !options.include.is_empty() || !options.exclude.is_empty(),
            "`--include` and `--exclude` leave initialisers out, and a graph needs all",
        ),
        (
            !matches!(options.layout, MaskLayout::Keep | MaskLayout::Dense),
            "`--layout` is about safetensors files, and a graph says how weights are stored",
        ),
        (
            options.dtype.is_some(),
            "`--dtype` changes element types, and the graph says others",
        ),
        (
            is_sparse && options.rules.policy != MismatchPolicy::Error,
            "`--on-mask-mismatch` changes masks, and those of sparse initialisers stay",
        ),
    ];
    match refused.into_iter().find(|(is_refused, _)| *is_refused) {
        None => Ok(()),
        Some((_, reason)) => Err(MergeError::Model { reason }),
    }
}

/// The certificate that a soup would get for what was found.
pub(super) fn recertify(
    ingredients: &Ingredients,
    options: &MergeOptions,
    plan: &MergePlan,
    (outcome, proof): (&Outcome, &Connectivity),
) -> Certificate {
    let draft = Draft::new(ingredients, options, plan, BTreeMap::new(), Vec::new());
    draft
        .certificate(outcome, proof)
        .expect("a soup has a certificate")
}

/// Refuses a pass in which a mask was another than when it was counted.
pub(super) fn require_content(plan: &MergePlan, outcome: &Outcome) -> Result<(), MergeError> {
    let mut tensors = plan.tensors.iter().zip(&outcome.tensors);
    match tensors.find(|(_, found)| found.content.is_none()) {
        None => Ok(()),
        Some((planned, _)) => Err(MergeError::MaskChanged {
            tensor: planned.slot.name.clone(),
        }),
    }
}

/// Metadata in which all ingredients agree, and the keys in which they do not.
pub(super) fn carried_metadata(
    ingredients: &Ingredients,
) -> (BTreeMap<String, String>, Vec<String>) {
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
    let is_own = |key: &str| [CERTIFICATE_KEY, RECALIBRATION_KEY, APPLICATION_KEY].contains(&key);
    for key in keys.into_iter().filter(|&key| !is_own(key)) {
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
