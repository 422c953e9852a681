//! Soups against values that torch, numpy and exact fractions computed:
//! `fixtures/golden/make.py` wrote inputs and expectations.

use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::connectivity::MismatchPolicy;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::kernel::Normalization;
use sms_merge::kernel::Weights;
use sms_merge::merge::Destination;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::merge;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden")
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, &OpenOptions::default()).unwrap()
}

/// Merges the inputs of a case into `soup`.
fn merge_case(case: &Value, soup: &Path) {
    let path = |name: &Value| folder().join(name.as_str().unwrap());
    let inputs = case["inputs"].as_array().unwrap();
    let checkpoints = inputs.iter().map(|name| open(&path(name))).collect();
    let mask = case.get("mask").map(|name| open(&path(name)));
    let weights = case["weights"].as_array().unwrap();
    let weights = weights
        .iter()
        .map(|weight| weight.as_f64().unwrap())
        .collect();
    let weights = Weights::new(weights, Normalization::SumToOne).unwrap();
    let mut options = MergeOptions::new(Method::Weighted, weights);
    options.rules.policy = MismatchPolicy::Error;
    let ingredients = Ingredients::join(checkpoints, mask, DtypeRule::Same, |_| true).unwrap();
    let destination = Destination::resolve(
        soup,
        &ingredients,
        None,
        Existing::Refuse,
        Durability::Unsynced,
    )
    .unwrap();
    let plan = MergePlan::new(&ingredients, &options).unwrap();
    let observer = Observer {
        advance: &|_| (),
        interrupted: &AtomicBool::new(false),
    };
    merge(
        plan,
        &ingredients,
        &options,
        &destination,
        Vec::new(),
        observer,
    )
    .unwrap();
}

/// The first tensor and byte in which two files differ, read by the crate.
fn first_difference(soup: &[u8], expected: &[u8]) -> Option<String> {
    let soup = safetensors::SafeTensors::deserialize(soup).unwrap();
    let expected = safetensors::SafeTensors::deserialize(expected).unwrap();
    if soup.len() != expected.len() {
        return Some(format!(
            "{} tensors instead of {}",
            soup.len(),
            expected.len()
        ));
    }
    expected.iter().find_map(|(name, tensor)| {
        let Ok(found) = soup.tensor(name) else {
            return Some(format!("`{name}` is missing"));
        };
        if (found.dtype(), found.shape()) != (tensor.dtype(), tensor.shape()) {
            return Some(format!("`{name}` has another type or shape"));
        }
        let mut pairs = found.data().iter().zip(tensor.data());
        let byte = pairs.position(|(found, expected)| found != expected)?;
        Some(format!("`{name}` differs at byte {byte}"))
    })
}

#[test]
fn every_golden_soup_is_met_bit_for_bit() {
    let manifest = std::fs::read_to_string(folder().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let cases = manifest["cases"].as_array().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let soup = directory.path().join(format!("{name}.st"));
        merge_case(case, &soup);
        let expected = folder().join(case["expected"].as_str().unwrap());
        let difference = first_difference(
            &std::fs::read(soup).unwrap(),
            &std::fs::read(expected).unwrap(),
        );
        failures.extend(difference.map(|difference| format!("{name}: {difference}")));
    }
    assert_eq!(cases.len(), 22);
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_comparison_rejects_what_differs() {
    let read = |name: &str| std::fs::read(folder().join(name)).unwrap();
    let expected = read("f32_uniform2.st");
    assert_eq!(first_difference(&expected, &expected), None);
    let mut flipped = expected.clone();
    *flipped.last_mut().unwrap() ^= 0x80;
    assert!(first_difference(&flipped, &expected).is_some());
    assert!(first_difference(&read("f32_uniform3.st"), &expected).is_some());
    assert!(first_difference(&read("bf16_uniform2.st"), &expected).is_some());
    assert!(first_difference(&read("f32_mask.st"), &expected).is_some());
}
