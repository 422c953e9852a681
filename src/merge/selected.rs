//! What a greedy soup was chosen from, looked at again: is it what was judged, and does
//! it share one mask?

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::kernel::Weights;
use crate::merge::MergeError;
use crate::merge::difference::Difference;
use crate::merge::options::MergeOptions;
use crate::merge::options::Method;
use crate::merge::plan::MergePlan;
use crate::merge::run::scan;
use crate::merge::selection::Selection;

/// What of the candidates was kept, or how they differ from what was judged.
pub(super) type Kept = Result<(Vec<Checkpoint>, Option<Checkpoint>), Vec<Difference>>;

/// Picks what was kept from all candidates, which are in the order of the selection.
///
/// # Errors
/// [`MergeError`] if something cannot be read, or they do not share one mask.
pub(super) fn pick_kept(
    selection: &Selection,
    candidates: Vec<Checkpoint>,
    mask_file: Option<Checkpoint>,
    options: &MergeOptions,
    observer: Observer<'_>,
) -> Result<Kept, MergeError> {
    let options = MergeOptions {
        method: Method::Uniform,
        weights: Weights::uniform(candidates.len())?,
        ..options.clone()
    };
    let dtypes = options.dtype_rule();
    let all = Ingredients::join_picked(candidates, mask_file, dtypes, |name| options.pick(name))?;
    let plan = MergePlan::new(&all, &options)?;
    let scanned = scan(plan, &all, &options, observer)?;
    scanned.connectivity.map_err(MergeError::Connectivity)?;
    let found = scanned.outcome.ingredients.iter();
    let pairs = selection.candidates.iter().zip(found).enumerate();
    let differences: Vec<Difference> = pairs
        .filter(|(_, (candidate, found))| candidate.digest != **found)
        .map(|(position, (candidate, &found))| Difference::Ingredient {
            position,
            name: candidate.name.clone(),
            path: all.checkpoints()[position].path().to_owned(),
            recorded: candidate.digest,
            found,
        })
        .collect();
    if !differences.is_empty() {
        return Ok(Err(differences));
    }
    let kept = selection.kept();
    let (checkpoints, mask_file) = all.into_checkpoints();
    let checkpoints = checkpoints.into_iter().enumerate();
    let kept = checkpoints.filter(|(position, _)| kept.contains(position));
    Ok(Ok((
        kept.map(|(_, checkpoint)| checkpoint).collect(),
        mask_file,
    )))
}
