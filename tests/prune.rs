//! Prunings against masks that torch and numpy chose: `fixtures/prune/make.py` wrote
//! inputs and expectations.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use safetensors::SafeTensors;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/prune")
}

/// The tensors of a file: element type and bytes, by name.
fn read(path: &Path) -> BTreeMap<String, (safetensors::Dtype, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.tensors().into_iter();
    tensors
        .map(|(name, tensor)| (name, (tensor.dtype(), tensor.data().to_vec())))
        .collect()
}

fn magnitude(dtype: safetensors::Dtype, bytes: &[u8]) -> f64 {
    let value = match dtype {
        safetensors::Dtype::F16 => half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        safetensors::Dtype::BF16 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        safetensors::Dtype::F32 => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
        _ => f64::from_le_bytes(bytes.try_into().unwrap()),
    };
    value.abs()
}

/// The options of a case.
fn words(case: &Value) -> Vec<String> {
    let mut words = Vec::new();
    let options = ["sparsity", "of_remaining", "distribution", "pattern"];
    for option in options {
        if let Some(value) = case.get(option) {
            let value = value.as_str().map_or(value.to_string(), str::to_owned);
            words.extend([format!("--{}", option.replace('_', "-")), value]);
        }
    }
    words
}

#[test]
fn masks_are_those_of_torch_and_numpy() {
    let manifest = std::fs::read(folder().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let cases = manifest["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let directory = tempfile::tempdir().unwrap();
        let (pruned, mask) = (directory.path().join("p.st"), directory.path().join("m.st"));
        let input = folder().join(case["input"].as_str().unwrap());
        let output = Command::new(env!("CARGO_BIN_EXE_sms-merge"))
            .arg("prune")
            .arg(&input)
            .args(["--no-sync", "-q", "-o"])
            .arg(&pruned)
            .arg("--mask-out")
            .arg(&mask)
            .args(words(case))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{case} {errors}");
        let expected = read(&folder().join(case["mask"].as_str().unwrap()));
        let is_torch = case["by"] == "torch" && case.get("pattern").is_none();
        compare(
            case,
            &read(&input),
            &read(&pruned),
            &read(&mask),
            &expected,
            is_torch,
        );
    }
}

type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<u8>)>;

/// Compares masks, and the pruned tensors with what they should hold. Torch does not say
/// which of equal weights it prunes: these are compared by their number.
fn compare(
    case: &Value,
    dense: &Tensors,
    pruned: &Tensors,
    masks: &Tensors,
    expected: &Tensors,
    is_torch: bool,
) {
    assert!(masks.keys().eq(expected.keys()), "{case}");
    assert!(dense.keys().eq(pruned.keys()), "{case}");
    // Magnitude of each weight that only one of both prunes, and which one.
    let mut disputes: Vec<(f64, bool)> = Vec::new();
    for (name, (dtype, bytes)) in dense {
        let Some((_, mask)) = masks.get(name) else {
            assert_eq!(bytes, &pruned[name].1, "{case} {name} is not prunable");
            continue;
        };
        let width = bytes.len() / mask.len();
        let elements = bytes.chunks(width).zip(pruned[name].1.chunks(width));
        let flags = mask.iter().zip(&expected[name].1);
        for (index, ((before, after), (&own, &theirs))) in elements.zip(flags).enumerate() {
            let zero = vec![0; width];
            let kept = if own == 1 { before } else { &zero };
            assert_eq!(after, kept, "{case} {name} at {index}");
            if own != theirs {
                disputes.push((magnitude(*dtype, before), own == 1));
            }
        }
    }
    if !is_torch {
        assert!(disputes.is_empty(), "{case}: {disputes:?}");
        return;
    }
    let own = disputes.iter().filter(|(_, is_own)| *is_own).count();
    assert_eq!(
        2 * own,
        disputes.len(),
        "{case}: as many one way as the other"
    );
    if case["distribution"] == "global" {
        let all_equal = disputes.windows(2).all(|pair| pair[0].0 == pair[1].0);
        assert!(all_equal, "{case}: only ties differ: {disputes:?}");
    } else {
        assert!(disputes.is_empty(), "{case}: {disputes:?}");
    }
}

#[test]
fn the_comparison_sees_a_wrong_mask() {
    let case = serde_json::json!({ "distribution": "global" });
    let f32s = |values: [f32; 2]| {
        let bytes = values.map(f32::to_le_bytes).concat();
        BTreeMap::from([("w".to_owned(), (safetensors::Dtype::F32, bytes))])
    };
    let flags = |values: [u8; 2]| {
        BTreeMap::from([("w".to_owned(), (safetensors::Dtype::BOOL, values.to_vec()))])
    };
    let fails = |dense, pruned, mask, expected, is_torch| {
        let run = || compare(&case, &dense, &pruned, &mask, &expected, is_torch);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
    };
    let (dense, good) = (f32s([1.0, 2.0]), f32s([0.0, 2.0]));
    let (second, first) = (flags([0, 1]), flags([1, 0]));
    let copy = |tensors: &Tensors| tensors.clone();
    assert!(!fails(
        copy(&dense),
        copy(&good),
        copy(&second),
        copy(&second),
        false
    ));
    assert!(fails(
        copy(&dense),
        copy(&good),
        copy(&second),
        copy(&first),
        false
    ));
    assert!(fails(
        copy(&dense),
        copy(&good),
        copy(&second),
        copy(&first),
        true
    ));
    assert!(fails(
        copy(&dense),
        f32s([-0.0, 2.0]),
        copy(&second),
        copy(&second),
        false
    ));
    assert!(fails(
        copy(&dense),
        f32s([0.0, 2.5]),
        copy(&second),
        copy(&second),
        false
    ));
    let tied = f32s([1.0, -1.0]);
    assert!(!fails(
        tied,
        f32s([0.0, -1.0]),
        copy(&second),
        copy(&first),
        true
    ));
}
