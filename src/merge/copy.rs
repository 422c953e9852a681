//! The same checkpoint with its masks stored in another way.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::checkpoint::CERTIFICATE_KEY;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Contents;
use crate::checkpoint::Destination;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::checkpoint::Sidecars;
use crate::checkpoint::StagedOutput;
use crate::checkpoint::StoredTensor;
use crate::connectivity::Connectivity;
use crate::connectivity::Expectation;
use crate::merge::MergeError;
use crate::merge::apply::Additions;
use crate::merge::certificate::Certificate;
use crate::merge::draft::Claim;
use crate::merge::draft::Draft;
use crate::merge::job::Job;
use crate::merge::ledger::Outcome;
use crate::merge::options::MergeOptions;
use crate::merge::plan::Action;
use crate::merge::plan::MergePlan;
use crate::merge::plan::PlannedTensor;
use crate::merge::run::prove;
use crate::merge::run::require_content;
use crate::merge::sink::Sink;

/// A copy that has been written.
#[derive(Debug)]
pub struct Copied {
    /// What was done.
    pub plan: MergePlan,
    /// What was found on the way.
    pub outcome: Outcome,
    /// The masks.
    pub connectivity: Connectivity,
    /// Whether the source has a certificate.
    pub was_certified: bool,
    /// Whether the copy has it too: not where it does not hold of the source, nor where
    /// the masks that are stored are not those that it certifies.
    pub is_certified: bool,
    /// Files that were copied along.
    pub sidecars: Sidecars,
    /// Bytes of all files of the copy.
    pub bytes_written: u64,
}

impl Copied {
    /// Bytes that a parameter of the plan takes, mask and all, in the source and in the
    /// copy.
    pub fn stored_bytes(&self, source: &Ingredients, planned: &PlannedTensor) -> (u64, u64) {
        let parameter = &source.parameters()[planned.parameter];
        let before = source.value(parameter, 0).stored_bytes();
        let mask = source.stored_mask(parameter, 0);
        (
            before + mask.map_or(0, StoredTensor::stored_bytes),
            planned.stored_bytes(&parameter.shape),
        )
    }
}

/// Writes a checkpoint again with its masks stored as `options.layout` says.
///
/// Every retained element keeps its bits, retained zeros too, and pruned ones become
/// `+0` or are left out; tensors without a mask are copied. Masks are those that are
/// stored or given, else what `options.rules` read from zeros. Of `options` the rules,
/// the layout, the size of shards and the threads count. A soup's certificate is carried
/// over with the digests of its new form.
///
/// # Errors
/// [`MergeError`], also if a given mask prunes what is not zero; then the destination holds what it held.
pub fn copy(
    source: &Ingredients,
    options: MergeOptions,
    destination: &Destination,
    observer: Observer<'_>,
) -> Result<Copied, MergeError> {
    copy_with(source, options, destination, observer, None)
}

/// The same with something added inside the masks: then it has no certificate.
pub(super) fn copy_with(
    source: &Ingredients,
    mut options: MergeOptions,
    destination: &Destination,
    observer: Observer<'_>,
    additions: Option<&Additions<'_>>,
) -> Result<Copied, MergeError> {
    options.allow_non_finite = true;
    options.distances = false;
    let checkpoint = &source.checkpoints()[0];
    let certificate = Certificate::of(checkpoint).ok();
    let mut plan = MergePlan::new(source, &options)?;
    if let Some(certificate) = &certificate {
        // A mask may have come from `--prunable` or `--mask`, which zeros do not tell.
        let masked = |name: &str| {
            let record = certificate.tensors.get(name);
            record.is_some_and(|record| record.mask.is_some())
        };
        plan.expect_masks(masked, source);
        plan.store_anew(source, &options);
    }
    for tensor in &mut plan.tensors {
        tensor.action = Action::First;
    }
    let scanned = Job::new(source, &plan, &options, Sink::None).run(observer)?;
    let masks = prove(&scanned, source, &options).map_err(MergeError::Connectivity)?;
    plan.count(&scanned.tensors, source);
    for (tensor, found) in plan.tensors.iter_mut().zip(&scanned.tensors) {
        tensor.expectation = match &found.mask {
            Some(mask) if !mask.is_pruned => Expectation::Dense,
            Some(_) if tensor.expectation == Expectation::FromZeros => Expectation::Pruned,
            _ => tensor.expectation,
        };
    }
    let was_certified = certificate.is_some();
    let seal = checkpoint.seal()?;
    let certificate = certificate.filter(|certificate| {
        additions.is_none()
            && certificate.is_fitted_by(&seal)
            && holds(certificate, source, &plan, &scanned)
    });
    let is_certified = certificate.is_some();
    let claim = certificate.map_or(Claim::Nothing, |held| Claim::Copy(Box::new(held)));
    let plan = plan.placed(source, &options)?;
    let mut metadata = carried(checkpoint);
    if let Some(additions) = additions {
        additions.note(&mut metadata, masks.digest());
    }
    let draft = Draft::claiming(source, &options, &plan, metadata, claim);
    let headers = draft.reserve_headers()?;
    let sidecars = destination.sidecars(source, &plan.written(source))?;
    let bytes_written = headers.iter().sum::<u64>() + plan.bytes_to_write;
    destination.require_space(bytes_written)?;
    let fill = |output: &StagedOutput<'_>| {
        let job = Job::new(source, &plan, &options, Sink::Write(output)).adding(additions);
        let outcome = job.run(observer)?;
        let connectivity = prove(&outcome, source, &options).map_err(MergeError::Connectivity)?;
        require_content(&plan, &outcome)?;
        let certificate = draft.certificate(&outcome, &connectivity);
        let texts = draft.headers(certificate.as_ref(), &headers)?;
        for (shard, bytes) in texts.into_iter().enumerate() {
            output.write_header(shard, &bytes)?;
        }
        let mut files = source.checkpoints().iter().chain(source.mask_file());
        files.try_for_each(Checkpoint::check_unchanged)?;
        if observer.interrupted.load(Ordering::Relaxed) {
            return Err(MergeError::Interrupted);
        }
        Ok((outcome, connectivity))
    };
    let contents = Contents {
        headers: &headers,
        layouts: &plan.layouts,
        sidecars: &sidecars,
    };
    let (outcome, connectivity) = destination.write(&contents, fill)?;
    Ok(Copied {
        plan,
        outcome,
        connectivity,
        was_certified,
        is_certified,
        sidecars,
        bytes_written,
    })
}

/// Whether a certificate is true of the source, and of the masks that were found.
fn holds(
    certificate: &Certificate,
    source: &Ingredients,
    plan: &MergePlan,
    found: &Outcome,
) -> bool {
    let tensors = plan.tensors.iter().zip(&found.tensors);
    let mut records = tensors.flat_map(|(planned, found)| {
        let parameter = &source.parameters()[planned.parameter];
        let value = source.value(parameter, 0);
        let mask = source
            .stored_mask(parameter, 0)
            .zip(found.stored_masks[0])
            .map(|(mask, digest)| (mask, digest, None));
        std::iter::once((value, found.values[0], Some(found))).chain(mask)
    });
    let is_true = records.all(|(tensor, digest, found)| {
        let Some(record) = certificate.tensors.get(&tensor.name) else {
            return false;
        };
        let mask = found.and_then(|found| found.mask.as_ref());
        let mask = mask.filter(|mask| mask.is_pruned).map(|mask| mask.digest);
        let recorded = record.mask.as_ref().map(|mask| mask.mask);
        record.content == digest && (found.is_none() || mask == recorded)
    });
    let checkpoint = &source.checkpoints()[0];
    let mut names = certificate.tensors.keys();
    is_true
        && names.all(|name| checkpoint.find(name).is_some())
        && certificate.content_of(checkpoint) == certificate.content
}

/// The metadata, less the certificate: it is written anew.
fn carried(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let all = checkpoint.metadata().into_iter();
    let mut carried: BTreeMap<String, String> = all
        .filter(|&(key, _)| key != CERTIFICATE_KEY)
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    // transformers refuses a file that does not say which framework it is for.
    carried
        .entry("format".to_owned())
        .or_insert_with(|| "pt".to_owned());
    carried
}
