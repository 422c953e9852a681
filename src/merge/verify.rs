//! Proof after the fact: a soup computed again, or held against its own certificate.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::DtypeRule;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::connectivity::whole_mask_digest;
use crate::kernel::Normalization;
use crate::kernel::Weights;
use crate::merge::MergeError;
use crate::merge::adapters;
use crate::merge::certificate::Certificate;
use crate::merge::difference::Difference;
use crate::merge::difference::layout_differences;
use crate::merge::frame::frame_differences;
use crate::merge::frame::seal_difference;
use crate::merge::job::Job;
use crate::merge::options::MergeOptions;
use crate::merge::options::Workers;
use crate::merge::plan::MergePlan;
use crate::merge::recalibrated::content_digest;
use crate::merge::recalibrated::is_statistic;
use crate::merge::recorded::in_recorded_order;
use crate::merge::recorded::other_ingredients;
use crate::merge::run::prove;
use crate::merge::run::recertify;
use crate::merge::run::resolve_plan;
use crate::merge::selected::pick_kept;
use crate::merge::sink::Comparison;
use crate::merge::sink::Sink;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// What the certificate of a greedy soup says of how it came about.
const SELECTION: &str = "the selection of the ingredients";

/// Computes a soup again and compares every bit.
///
/// The recipe is the certificate's. Ingredients whose names are those of the certificate
/// are put in its order; others are taken in the order given. Of a greedy soup, what it
/// was chosen from may be given in place of what was kept: then what was dropped is held
/// against the certificate too, and must share the mask. Nobody is evaluated again. All
/// differences found are returned: ingredients that are others first, then the first element
/// that differs; none means that the soup is proved.
///
/// # Errors
/// [`MergeError`] if something cannot be read, or the ingredients cannot be merged.
pub fn recompute(
    soup: &Checkpoint,
    certificate: &Certificate,
    checkpoints: Vec<Checkpoint>,
    mask_file: Option<Checkpoint>,
    workers: &Workers,
    observer: Observer<'_>,
) -> Result<Vec<Difference>, MergeError> {
    let record = &certificate.soup;
    let (recorded, found) = (record.ingredients.len(), checkpoints.len());
    let selection = record.selection.as_ref();
    let all = selection.filter(|all| found != recorded && found == all.candidates.len());
    if found != recorded && all.is_none() {
        return Ok(vec![Difference::IngredientCount { recorded, found }]);
    }
    if mask_file.is_some() != certificate.options.mask_file.is_some() {
        return Ok(vec![Difference::MaskFile]);
    }
    let normalization = if record.normalized {
        Normalization::SumToOne
    } else {
        Normalization::AsGiven
    };
    let unfit = |what| Ok(vec![Difference::Certificate { what }]);
    if !record.is_selection_sound() {
        return unfit(SELECTION);
    }
    let Ok(weights) = Weights::new(record.weights.clone(), normalization) else {
        return unfit("the weights");
    };
    let mut options = MergeOptions::new(record.method, weights);
    certificate.options.restore(&mut options);
    options.workers = workers.clone();
    options.distances = false;
    let (checkpoints, mask_file) = match all {
        Some(all) => {
            let names = all.candidates.iter().map(|candidate| &candidate.name);
            let candidates = in_recorded_order(checkpoints, names);
            match pick_kept(all, candidates, mask_file, &options, observer)? {
                Ok(kept) => kept,
                Err(differences) => return Ok(differences),
            }
        }
        None => {
            let names = record.ingredients.iter().map(|ingredient| &ingredient.name);
            (in_recorded_order(checkpoints, names), mask_file)
        }
    };
    let dtypes = options.dtype_rule();
    if options.adapters.is_some() {
        let inputs = (checkpoints, mask_file);
        return adapters::recompute(soup, certificate, inputs, &options, observer);
    }
    let ingredients =
        Ingredients::join_picked(checkpoints, mask_file, dtypes, |name| options.pick(name))?;
    let plan = MergePlan::new(&ingredients, &options)
        .and_then(|plan| resolve_plan(plan, &ingredients, &options, observer));
    let plan = match plan {
        Err(MergeError::WeightCount { .. }) => return unfit("the number of weights"),
        Err(MergeError::UnusedPattern { .. }) => return unfit("a pattern"),
        plan => plan?,
    };
    let planned = plan.tensors.iter();
    let expected: BTreeMap<&str, (Dtype, &Shape)> = planned
        .flat_map(|planned| {
            let shape = &ingredients.parameters()[planned.parameter].shape;
            let mask = planned.stored_mask().map(|(name, dtype, _)| (name, dtype));
            std::iter::once((planned.slot.name.as_str(), planned.slot.dtype))
                .chain(mask)
                .map(move |(name, dtype)| (name, (dtype, shape)))
        })
        .collect();
    let mut differences = layout_differences(soup, &expected);
    if !differences.is_empty() {
        return Ok(differences);
    }
    differences.extend(frame_differences(soup, certificate, &ingredients)?);
    let recalibrated = &certificate.recalibrated;
    if !recalibrated.iter().all(|name| is_statistic(name)) {
        return unfit("the list of statistics that were estimated again");
    }
    let comparison = Comparison {
        soup,
        except: recalibrated,
        first: Mutex::new(None),
    };
    let job = Job::new(&ingredients, &plan, &options, Sink::Compare(comparison));
    let outcome = job.run(observer)?;
    differences.extend(changed_statistics(soup, certificate)?);
    soup.check_unchanged()?;
    if let Sink::Compare(comparison) = job.sink
        && let Some((_, tensor, index)) = comparison
            .first
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    {
        let shape = expected[tensor.as_str()].1.clone();
        differences.push(Difference::Element {
            tensor,
            shape,
            index,
        });
    }
    // What follows from another ingredient comes after it.
    let others = other_ingredients(certificate, &ingredients, &outcome.ingredients);
    differences.splice(0..0, others);
    if outcome.mask_file != certificate.options.mask_file {
        differences.push(Difference::MaskFile);
    }
    let masks = outcome
        .tensors
        .iter()
        .filter_map(|tensor| tensor.mask.as_ref())
        .filter(|mask| mask.is_pruned);
    if whole_mask_digest(masks.map(|mask| (mask.name.as_str(), mask.digest))) != record.mask {
        differences.push(Difference::Certificate {
            what: "the digest of the mask",
        });
    }
    if differences.is_empty() {
        let proof = prove(&outcome, &ingredients, &options).map_err(MergeError::Connectivity)?;
        let mut found = recertify(&ingredients, &options, &plan, (&outcome, &proof));
        for name in recalibrated {
            // Held against the file above: the ingredients do not tell.
            if let Some(record) = certificate.tensors.get(name) {
                found.tensors.insert(name.clone(), record.clone());
            }
        }
        found.content = found.content_of(soup);
        differences.extend(false_records(certificate, &found));
    }
    Ok(differences)
}

/// Statistics that were estimated again and are not what was certified then.
fn changed_statistics(
    soup: &Checkpoint,
    certificate: &Certificate,
) -> Result<Vec<Difference>, MergeError> {
    let mut scratch = Vec::new();
    let mut differences = Vec::new();
    for name in &certificate.recalibrated {
        let Some(tensor) = soup.find(name).map(|idx| &soup.tensors()[idx]) else {
            continue;
        };
        let bytes = soup.read(tensor, 0, tensor.shape.numel(), &mut scratch)?;
        let found = content_digest(bytes, &tensor.shape, tensor.dtype.bits());
        let record = certificate.tensors.get(name);
        if record.is_none_or(|record| record.content != found) {
            differences.push(Difference::Content {
                tensor: name.clone(),
            });
        }
    }
    Ok(differences)
}

/// What a certificate says of a soup's tensors and is not so.
pub(super) fn false_records(certificate: &Certificate, found: &Certificate) -> Vec<Difference> {
    let names = found.tensors.keys();
    let stray = certificate.tensors.keys();
    let stray = stray.filter(|name| !found.tensors.contains_key(*name));
    let mut differences: Vec<Difference> = names
        .chain(stray)
        .filter(|name| certificate.tensors.get(*name) != found.tensors.get(*name))
        .cloned()
        .map(|tensor| Difference::Record { tensor })
        .collect();
    if certificate.content != found.content {
        differences.push(Difference::Certificate {
            what: "the digest of the content",
        });
    }
    if (certificate.prunable, certificate.retained) != (found.prunable, found.retained) {
        differences.push(Difference::Certificate {
            what: "the count of retained elements",
        });
    }
    differences
}

/// Whether a tensor is the mask of another by the format, and no tensor of the soup.
fn is_format_mask(soup: &Checkpoint, name: &str) -> bool {
    let tensor = soup.find(name).map(|index| &soup.tensors()[index]);
    tensor.is_some_and(|tensor| tensor.mask_of.is_some())
}

/// What a soup's own certificate says of it.
#[derive(Clone, Debug)]
pub struct SelfCheck {
    /// Everything that is not as the certificate says; nothing if the soup is sound.
    pub differences: Vec<Difference>,
    /// Retained elements whose value is zero: their place in the mask is certified by
    /// the digest alone.
    pub retained_zeros: u64,
}

/// Holds a soup against its own certificate: the content of every tensor, its mask,
/// and that nothing off the mask is non-zero.
///
/// # Errors
/// [`MergeError`] if something cannot be read.
pub fn self_check(
    soup: Checkpoint,
    certificate: &Certificate,
    workers: &Workers,
    observer: Observer<'_>,
) -> Result<SelfCheck, MergeError> {
    let mut options = MergeOptions::new(certificate.soup.method, Weights::uniform(1)?);
    options.workers = workers.clone();
    let ingredients = Ingredients::join(vec![soup], None, DtypeRule::Same, |_| true)?;
    let mut plan = MergePlan::new(&ingredients, &options)?;
    // A mask may have come from `--prunable` or `--mask`, which zeros do not tell.
    let has_mask = |name: &str| {
        let record = certificate.tensors.get(name);
        record.is_some_and(|record| record.mask.is_some())
    };
    plan.expect_masks(has_mask, &ingredients);
    let outcome = Job::new(&ingredients, &plan, &options, Sink::None).run(observer)?;
    let soup = &ingredients.checkpoints()[0];
    soup.check_unchanged()?;
    let mut differences = Vec::from_iter(seal_difference(soup, certificate)?);
    if !certificate.soup.is_selection_sound() {
        differences.push(Difference::Certificate { what: SELECTION });
    }
    differences.extend(adapters::check_scales(soup, certificate));
    let mut masks = Vec::new();
    let mut retained_zeros = 0;
    let mut totals = (0, 0);
    for (planned, outcome) in plan.tensors.iter().zip(&outcome.tensors) {
        let parameter = &ingredients.parameters()[planned.parameter];
        let value = ingredients.value(parameter, 0);
        let flags = ingredients
            .stored_mask(parameter, 0)
            .zip(outcome.stored_masks[0]);
        for (tensor, digest) in std::iter::once((value, outcome.values[0])).chain(flags) {
            let tensor = tensor.name.clone();
            match certificate.tensors.get(&tensor) {
                // A mask by the format: the digest of the mask says it.
                None if is_format_mask(soup, &tensor) => {}
                None => differences.push(Difference::Extra { tensor }),
                Some(record) if record.content != digest => {
                    differences.push(Difference::Content { tensor })
                }
                Some(_) => {}
            }
        }
        let record = certificate
            .tensors
            .get(&value.name)
            .and_then(|record| record.mask.as_ref());
        let (Some(record), Some(found)) = (record, &outcome.mask) else {
            continue;
        };
        masks.push((parameter.name.as_str(), record.mask));
        totals = (
            totals.0 + parameter.shape.numel(),
            totals.1 + record.retained,
        );
        retained_zeros += record.retained_zeros;
        // A stored mask has all that is retained; zeros lack the retained zeros.
        let is_stored = ingredients.stored_mask(parameter, 0).is_some();
        let lacking = if is_stored { 0 } else { record.retained_zeros };
        let expected = record.retained.saturating_sub(lacking);
        let count = found.retained_by[0];
        if count != expected || (lacking == 0 && found.digest != record.mask) {
            differences.push(Difference::Mask {
                tensor: value.name.clone(),
                expected,
                found: count,
            });
        }
    }
    let missing = certificate
        .tensors
        .keys()
        .filter(|name| soup.find(name).is_none());
    differences.extend(missing.map(|tensor| Difference::Missing {
        tensor: tensor.clone(),
    }));
    if whole_mask_digest(masks.into_iter()) != certificate.soup.mask {
        differences.push(Difference::Certificate {
            what: "the digest of the mask",
        });
    }
    if certificate.content_of(soup) != certificate.content {
        differences.push(Difference::Certificate {
            what: "the digest of the content",
        });
    }
    if totals != (certificate.prunable, certificate.retained) {
        differences.push(Difference::Certificate {
            what: "the count of retained elements",
        });
    }
    Ok(SelfCheck {
        differences,
        retained_zeros,
    })
}
