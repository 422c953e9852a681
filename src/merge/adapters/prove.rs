//! Proof after the fact that a soup of adapters is what its certificate says.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::adapter::Adapter;
use crate::adapter::is_of_no_factor;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::connectivity::whole_mask_digest;
use crate::merge::CERTIFICATE_KEY;
use crate::merge::MergeError;
use crate::merge::adapters::AdapterRecord;
use crate::merge::adapters::plan::AdapterPlan;
use crate::merge::adapters::plan::Piece;
use crate::merge::adapters::plan::plain_options;
use crate::merge::adapters::scales_digest;
use crate::merge::certificate::Certificate;
use crate::merge::difference::Difference;
use crate::merge::difference::layout_differences;
use crate::merge::draft::Draft;
use crate::merge::frame::seal_difference;
use crate::merge::job::Job;
use crate::merge::options::MergeOptions;
use crate::merge::run::carried_metadata;
use crate::merge::run::prove;
use crate::merge::sink::Comparison;
use crate::merge::sink::Sink;
use crate::merge::verify::false_records;
use crate::tensor::Dtype;
use crate::tensor::Shape;
use crate::tensor::tile_elements;

/// What is said of ranks and scales that do not fit the certificate.
const SCALES: &str = "the rank and scale of the modules (adapter_config.json beside the soup)";

/// Computes a soup of adapters again and compares every bit.
pub(in crate::merge) fn recompute(
    soup: &Checkpoint,
    certificate: &Certificate,
    (checkpoints, mask_file): (Vec<Checkpoint>, Option<Checkpoint>),
    options: &MergeOptions,
    observer: Observer<'_>,
) -> Result<Vec<Difference>, MergeError> {
    let is_joined = |name: &str| options.selects(name) && is_of_no_factor(name);
    let dtypes = options.dtype_rule();
    let ingredients = &Ingredients::join_part(checkpoints, mask_file, dtypes, is_joined)?;
    let plan = match AdapterPlan::new(ingredients, options, observer) {
        Err(MergeError::WeightCount { .. }) => {
            let what = "the number of weights";
            return Ok(vec![Difference::Certificate { what }]);
        }
        plan => plan?,
    };
    let layout = plan
        .plain
        .layouts
        .iter()
        .flat_map(|layout| layout.tensors());
    let expected: BTreeMap<&str, (Dtype, &Shape)> = layout
        .map(|tensor| (tensor.name.as_str(), (tensor.dtype, &tensor.shape)))
        .collect();
    let mut differences = layout_differences(soup, &expected);
    if !differences.is_empty() {
        return Ok(differences);
    }

    let plain = plain_options(options);
    let comparison = Comparison {
        soup,
        except: &[],
        first: Mutex::new(None),
    };
    let job = Job::new(ingredients, &plan.plain, &plain, Sink::Compare(comparison));
    let outcome = job.run(observer)?;
    let first: Mutex<BTreeMap<u64, Difference>> = Mutex::new(BTreeMap::new());
    let compare = |piece: &Piece, bytes: &[u8]| {
        if let Some(difference) = difference(soup, piece, bytes)? {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            first.insert(piece.offset, difference);
        }
        Ok(())
    };
    let computed = plan.compute(ingredients, options, observer, compare)?;
    soup.check_unchanged()?;
    let mut elements = first.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Sink::Compare(comparison) = job.sink
        && let Some((_, tensor, index)) = comparison
            .first
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    {
        let shape = expected[tensor.as_str()].1.clone();
        let difference = Difference::Element {
            tensor,
            shape,
            index,
        };
        elements.insert(0, difference);
    }
    differences.extend(elements.into_values().take(1));

    for (position, recorded) in certificate.soup.ingredients.iter().enumerate() {
        let found = plan.ingredient_digest(ingredients, position, &outcome)?;
        if recorded.digest != found {
            differences.push(Difference::Ingredient {
                position,
                name: recorded.name.clone(),
                path: ingredients.checkpoints()[position].path().to_owned(),
                recorded: recorded.digest,
                found,
            });
        }
    }
    if outcome.mask_file != certificate.options.mask_file {
        differences.push(Difference::MaskFile);
    }
    let proof = prove(&outcome, ingredients, &plain).map_err(MergeError::Connectivity)?;
    let masks = proof.tensors().iter().filter(|mask| mask.is_pruned);
    let masks = whole_mask_digest(masks.map(|mask| (mask.name.as_str(), mask.digest)));
    if masks != certificate.soup.mask {
        differences.push(Difference::Certificate {
            what: "the digest of the mask",
        });
    }
    differences.extend(check_scales(soup, certificate));
    differences.extend(seal_difference(soup, certificate)?);
    let (mut metadata, _) = carried_metadata(ingredients);
    plan.correct(&mut metadata);
    differences.extend(metadata_differences(soup, &metadata));
    if differences.is_empty() {
        let draft = Draft::new(
            ingredients,
            options,
            &plan.plain,
            BTreeMap::new(),
            Vec::new(),
        );
        let found = draft
            .certificate(&outcome, &proof)
            .expect("a soup has a certificate");
        let found = plan.certified(found, ingredients, (&outcome, &computed), options)?;
        if found.options.adapters != certificate.options.adapters {
            differences.push(Difference::Certificate { what: SCALES });
        }
        differences.extend(false_records(certificate, &found));
    }
    Ok(differences)
}

/// Keys of the soup's metadata whose values are not what the ingredients give.
fn metadata_differences(soup: &Checkpoint, expected: &BTreeMap<String, String>) -> Vec<Difference> {
    let found = soup.metadata();
    let keys = found
        .keys()
        .copied()
        .chain(expected.keys().map(String::as_str));
    let keys: BTreeSet<&str> = keys.filter(|&key| key != CERTIFICATE_KEY).collect();
    let differs = |key: &&str| found.get(key).copied() != expected.get(*key).map(String::as_str);
    let differing = keys.into_iter().filter(differs);
    differing
        .map(|key| Difference::Metadata {
            key: key.to_owned(),
        })
        .collect()
}

/// The first element of a tensor of the soup that is not what it should be.
fn difference(
    soup: &Checkpoint,
    piece: &Piece,
    bytes: &[u8],
) -> Result<Option<Difference>, MergeError> {
    let Some(index) = soup.find(&piece.name) else {
        return Ok(None);
    };
    let tensor = &soup.tensors()[index];
    let width = (piece.dtype.bits() / 8) as usize;
    let mut scratch = Vec::new();
    let step = tile_elements(&piece.shape).max(1);
    for (tile, expected) in bytes.chunks(step as usize * width).enumerate() {
        let begin = tile as u64 * step;
        let count = (expected.len() / width) as u64;
        let found = soup.read(tensor, begin, count, &mut scratch)?;
        let mut pairs = found.chunks(width).zip(expected.chunks(width));
        if let Some(at) = pairs.position(|(found, expected)| found != expected) {
            return Ok(Some(Difference::Element {
                tensor: piece.name.clone(),
                shape: piece.shape.clone(),
                index: begin + at as u64,
            }));
        }
    }
    Ok(None)
}

/// Whether the soup's own ranks and scales are those that were certified.
pub(in crate::merge) fn check_scales(
    soup: &Checkpoint,
    certificate: &Certificate,
) -> Option<Difference> {
    let AdapterRecord { scales, .. } = certificate.options.adapters.as_ref()?;
    let adapter = Adapter::open(soup, |_| true).ok();
    let found = adapter.map(|adapter| {
        let modules = adapter.modules.iter();
        // Where alpha is divided by a root, the scale is another.
        let modules = modules.map(|(name, module)| {
            let alpha = match module.divisor == module.rank as f64 {
                true => module.alpha,
                false => f64::NAN,
            };
            (name.as_str(), module.rank, alpha)
        });
        scales_digest(modules)
    });
    (found.as_ref() != Some(scales)).then_some(Difference::Certificate { what: SCALES })
}
