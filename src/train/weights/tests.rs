//! Checkpoints written by the `safetensors` crate and by this program.

use super::*;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::OpenOptions;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::Target;
use crate::graph::Features;
use crate::graph::Graph;
use crate::graph::models::ModelSpec;
use crate::graph::models::build;

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn graph(name: &str) -> Graph {
    let input = Features {
        channels: 1,
        height: 8,
        width: 8,
    };
    let mut spec = ModelSpec::new(name, input, 3);
    if name == "mlp" {
        spec.options.insert("hidden".to_owned(), "4".to_owned());
    }
    build(&spec).unwrap()
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, &OpenOptions::default()).unwrap()
}

type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// The tensors of `weights`, each of its values encoded by `encode`.
fn stored(
    graph: &Graph,
    weights: &Weights,
    dtype: Dtype,
    encode: fn(f32) -> Vec<u8>,
) -> Vec<Stored> {
    let tensors = weights.tensors(graph);
    let named = tensors.into_iter().map(|tensor| {
        let shape: Vec<usize> = tensor
            .shape
            .dims()
            .iter()
            .map(|&dim| dim as usize)
            .collect();
        match tensor.values {
            Values::F32(values) => {
                let bytes = values.iter().flat_map(|&value| encode(value)).collect();
                (tensor.name, dtype, shape, bytes)
            }
            Values::I64(counts) => (
                tensor.name,
                Dtype::I64,
                shape,
                counts[0].to_le_bytes().to_vec(),
            ),
            other => panic!("{other:?}"),
        }
    });
    named.collect()
}

/// A checkpoint of `tensors`, written by another library.
fn saved(directory: &Path, tensors: &[Stored]) -> Checkpoint {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let path = directory.join("weights.st");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    open(&path)
}

#[test]
fn what_is_written_is_read_and_read_by_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.st");
    let graph = graph("resnet8");
    let mut weights = Weights::initial(&graph, 7);
    let count = graph
        .parameters
        .iter()
        .position(|parameter| parameter.role == Role::BatchCount)
        .unwrap();
    weights.counts[count] = 1 << 40;
    weights.values[0][0] = -0.0;
    let target = Target::for_file(&path, Existing::Refuse).unwrap();
    let metadata = BTreeMap::from([("model".to_owned(), "resnet8".to_owned())]);
    weights
        .write(&graph, &metadata, &target, Durability::Unsynced)
        .unwrap();

    let checkpoint = open(&path);
    let read = Weights::read(&graph, &checkpoint).unwrap();
    assert_eq!(read, weights);
    assert!(read.values[0][0].is_sign_negative());
    assert_eq!(checkpoint.metadata()["format"], "pt");
    assert_eq!(checkpoint.metadata()["model"], "resnet8");

    let bytes = std::fs::read(&path).unwrap();
    let others = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(others.len(), graph.parameters.len());
    let name = &graph.parameters[count].name;
    let tensor = others.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::I64);
    assert_eq!(tensor.shape(), [0_usize; 0]);
    assert_eq!(tensor.data(), (1_i64 << 40).to_le_bytes());
    let last = others.tensor("linear.weight").unwrap();
    assert_eq!((last.dtype(), last.shape()), (Dtype::F32, &[3, 64][..]));
    let idx = graph
        .parameters
        .iter()
        .position(|parameter| parameter.name == "linear.weight")
        .unwrap();
    let expected: Vec<u8> = weights.values[idx]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(last.data(), expected);
}

#[test]
fn other_widths_are_converted() {
    let directory = tempfile::tempdir().unwrap();
    let graph = graph("mlp");
    let weights = Weights::initial(&graph, 3);
    let check = |dtype, encode: fn(f32) -> Vec<u8>, convert: fn(f32) -> f32| {
        let checkpoint = saved(directory.path(), &stored(&graph, &weights, dtype, encode));
        let read = Weights::read(&graph, &checkpoint).unwrap();
        let mut expected = weights.clone();
        for value in expected.values.iter_mut().flatten() {
            *value = convert(*value);
        }
        assert_eq!(read, expected, "{dtype:?}");
    };
    check(
        Dtype::F32,
        |value| value.to_le_bytes().to_vec(),
        |value| value,
    );
    check(
        Dtype::F16,
        |value| f16::from_f32(value).to_le_bytes().to_vec(),
        |value| f16::from_f32(value).to_f32(),
    );
    check(
        Dtype::BF16,
        |value| bf16::from_f32(value).to_le_bytes().to_vec(),
        |value| bf16::from_f32(value).to_f32(),
    );
    // Three quarters of an f32's last place above it: rounds to the next one.
    check(
        Dtype::F64,
        |value| {
            let next = f32::from_bits(value.to_bits() + 1);
            let between = f64::from(value) * 0.25 + f64::from(next) * 0.75;
            between.to_le_bytes().to_vec()
        },
        |value| f32::from_bits(value.to_bits() + 1),
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let graph = graph("mlp");
    let weights = Weights::initial(&graph, 3);
    let good = stored(&graph, &weights, Dtype::F32, |value| {
        value.to_le_bytes().to_vec()
    });
    let check = |spoil: &dyn Fn(&mut Vec<Stored>), expected: &[&str]| {
        let mut tensors = good.clone();
        spoil(&mut tensors);
        let checkpoint = saved(directory.path(), &tensors);
        let error = Weights::read(&graph, &checkpoint).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let error = format!("{error}: {}", cause.unwrap_or_default());
        for part in expected {
            assert!(error.contains(part), "{error}");
        }
        assert!(error.contains("weights.st"), "{error}");
    };
    check(
        &|tensors| drop(tensors.remove(3)),
        &[
            "no checkpoint of `mlp`: tensor `fc2.bias` of `mlp` is missing;",
            "only a part of one",
        ],
    );
    check(
        &|tensors| tensors.truncate(1),
        &["tensor `fc1.bias` of `mlp` is missing (and 2 more)"],
    );
    check(
        &|tensors| tensors[0].0 = "conv1.weight".to_owned(),
        &["tensor `fc1.weight` of", "there is `conv1.weight` instead"],
    );
    check(
        &|tensors| {
            for tensor in tensors {
                tensor.0 = format!("module.{}", tensor.0);
            }
        },
        &["names begin with `module.`: save the `state_dict` of the model inside"],
    );
    check(
        &|tensors| tensors[0].0 = "fc1.weight_orig".to_owned(),
        &["call `prune.remove`"],
    );
    check(
        &|tensors| tensors.push(("fc3.\u{1b}".to_owned(), Dtype::F32, vec![0], Vec::new())),
        &[r"tensor `fc3.\u{1b}` is not one of `mlp`;", "another model"],
    );
    check(
        &|tensors| tensors[0].2 = vec![64, 4],
        &["tensor `fc1.weight`", "has shape [64, 4], expected [4, 64]"],
    );
    check(
        &|tensors| {
            tensors[1].1 = Dtype::I32;
        },
        &["`fc1.bias`", "has type I32, expected F16, BF16, F64 or F32"],
    );
}

#[test]
fn pairs_of_torch_are_what_they_stand_for() {
    let directory = tempfile::tempdir().unwrap();
    let graph = graph("mlp");
    let weights = Weights::initial(&graph, 3);
    let good = stored(&graph, &weights, Dtype::F32, |value| {
        value.to_le_bytes().to_vec()
    });
    let numel = weights.values[0].len();
    let mut expected = weights.clone();
    for value in expected.values[0].iter_mut().step_by(3) {
        *value = 0.0;
    }
    let retained = || (0..numel).map(|idx| idx % 3 != 0);
    let floats = retained().flat_map(|keep| f32::from(u8::from(keep)).to_le_bytes());
    let masks = [
        (Dtype::F32, floats.collect::<Vec<u8>>()),
        (Dtype::BOOL, retained().map(u8::from).collect()),
    ];
    for (dtype, bytes) in masks {
        let mut tensors = good.clone();
        let shape = tensors[0].2.clone();
        tensors[0].0 = "fc1.weight_orig".to_owned();
        tensors.push(("fc1.weight_mask".to_owned(), dtype, shape, bytes));
        let read = Weights::read(&graph, &saved(directory.path(), &tensors)).unwrap();
        assert_eq!(read, expected, "{dtype:?}");
        // A mask of another shape masks nothing.
        tensors.last_mut().unwrap().2.reverse();
        let error = Weights::read(&graph, &saved(directory.path(), &tensors)).unwrap_err();
        assert!(matches!(error, WeightsError::Fit { .. }), "{error}");
    }
}

#[test]
fn counts_may_be_missing() {
    let directory = tempfile::tempdir().unwrap();
    let graph = graph("convnet");
    let weights = Weights::initial(&graph, 3);
    let mut tensors = stored(&graph, &weights, Dtype::F32, |value| {
        value.to_le_bytes().to_vec()
    });
    tensors.retain(|tensor| tensor.1 != Dtype::I64);
    let read = Weights::read(&graph, &saved(directory.path(), &tensors)).unwrap();
    assert_eq!(read, weights);
    tensors.retain(|tensor| !tensor.0.ends_with("running_mean"));
    let error = Weights::read(&graph, &saved(directory.path(), &tensors)).unwrap_err();
    let WeightsError::Fit { source, .. } = error else {
        panic!("{error}");
    };
    assert!(
        source.to_string().contains("`bn1.running_mean`"),
        "{source}"
    );
}

#[test]
fn counts_are_i64() {
    let directory = tempfile::tempdir().unwrap();
    let graph = graph("convnet");
    let weights = Weights::initial(&graph, 3);
    let mut tensors = stored(&graph, &weights, Dtype::F32, |value| {
        value.to_le_bytes().to_vec()
    });
    let count = tensors.iter_mut().find(|tensor| tensor.1 == Dtype::I64);
    count.unwrap().1 = Dtype::F64;
    let checkpoint = saved(directory.path(), &tensors);
    let error = Weights::read(&graph, &checkpoint).unwrap_err().to_string();
    assert!(error.contains("`bn1.num_batches_tracked`"), "{error}");
    assert!(
        error.contains("has type F64, expected I64; save it as I64"),
        "{error}"
    );
}

#[test]
fn values_must_fill_their_shape() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.st");
    let graph = graph("mlp");
    let mut weights = Weights::initial(&graph, 3);
    weights.values[0].pop();
    let target = Target::for_file(&path, Existing::Refuse).unwrap();
    let error = weights
        .write(&graph, &BTreeMap::new(), &target, Durability::Unsynced)
        .unwrap_err();
    assert!(
        matches!(error, WeightsError::Length { found: 255, .. }),
        "{error}"
    );
    assert!(!path.exists());
}
