//! What a soup says beside the elements of its tensors, held against what was sealed and
//! against its ingredients.

use std::collections::BTreeMap;

use crate::checkpoint::CERTIFICATE_KEY;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::checkpoint::RECALIBRATION_KEY;
use crate::checkpoint::Seal;
use crate::checkpoint::map::SourceError;
use crate::merge::certificate::Certificate;
use crate::merge::difference::Difference;
use crate::merge::run::carried_metadata;

/// What is not as it was sealed. A soup of an older version has no seal, and nothing is
/// said of it.
pub(super) fn seal_difference(
    soup: &Checkpoint,
    certificate: &Certificate,
) -> Result<Option<Difference>, SourceError> {
    let seal = soup.seal()?;
    if certificate.is_fitted_by(&seal) {
        return Ok(None);
    }
    let file = match seal {
        Seal::Broken { file } => file,
        // The certificate says that there was one.
        Seal::Absent | Seal::Holds => soup.path().to_owned(),
    };
    Ok(Some(Difference::Seal { file }))
}

/// Metadata and graph that are not what the ingredients give, or not as they were sealed.
pub(super) fn frame_differences(
    soup: &Checkpoint,
    certificate: &Certificate,
    ingredients: &Ingredients,
) -> Result<Vec<Difference>, SourceError> {
    let mut differences = metadata_differences(soup, ingredients);
    differences.extend(seal_difference(soup, certificate)?);
    let first = ingredients.checkpoints().first();
    let place = first
        .map(|first| soup.graph_difference(first))
        .transpose()?;
    if let Some(place) = place.flatten() {
        differences.push(Difference::Graph { place });
    }
    Ok(differences)
}

/// Metadata in which all ingredients agree must be there. What else there is must be the
/// first ingredient's: a model keeps what its graph stands in.
fn metadata_differences(soup: &Checkpoint, ingredients: &Ingredients) -> Vec<Difference> {
    let (carried, _) = carried_metadata(ingredients);
    let firsts: BTreeMap<&str, &str> = ingredients
        .checkpoints()
        .first()
        .map(Checkpoint::metadata)
        .unwrap_or_default();
    let found = soup.metadata();
    let is_model = soup.model().is_some();
    let is_own = |key: &str| key == CERTIFICATE_KEY || key == RECALIBRATION_KEY;

    let stray = found.iter().filter(|&(&key, value)| {
        let is_carried = carried.get(key).is_some_and(|carried| carried == value);
        !is_own(key) && !is_carried && firsts.get(key) != Some(value)
    });
    let lacking = carried.iter().filter(|&(key, value)| {
        // What is said of safetensors files alone is not said of a model.
        let is_given = !is_model || firsts.contains_key(key.as_str());
        is_given && found.get(key.as_str()).copied() != Some(value.as_str())
    });
    let keys = stray.map(|(key, _)| (*key).to_owned());
    let mut keys: Vec<String> = keys.chain(lacking.map(|(key, _)| key.clone())).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .map(|key| Difference::Metadata { key })
        .collect()
}
