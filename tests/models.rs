//! Models against torch: names, shapes and order of the `state_dict`, counts, and the
//! logits of every engine.
//!
//! `fixtures/models/make.py` wrote the expected values.

#![cfg(feature = "train")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::format::replace::Target;
use sms_merge::graph::Graph;
use sms_merge::graph::Parameter;
use sms_merge::graph::Role;
use sms_merge::graph::models;
use sms_merge::graph::models::MODELS;
use sms_merge::graph::models::ModelSpec;
use sms_merge::train::Weights;
use sms_merge::train::candle::CandleEngine;
use sms_merge::train::engine::Engine;
use sms_merge::train::engine::Images;
use sms_merge::train::native::Native;

/// Largest difference of a logit, relative to the largest one. torch in single
/// precision differs from itself in double precision by up to 6e-7.
const TOLERANCE: f64 = 1e-5;

/// A model, and what torch says about it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    model: String,
    input: String,
    classes: usize,
    options: BTreeMap<String, String>,
    parameters: u64,
    multiply_adds: u64,
    /// `name [dims]`, in the order of the `state_dict`.
    tensors: Vec<String>,
    /// Images whose logits are known.
    #[serde(default)]
    samples: usize,
    #[serde(default)]
    logits: Vec<f32>,
}

impl Case {
    fn graph(&self) -> Graph {
        let mut spec = ModelSpec::new(&self.model, self.input.parse().unwrap(), self.classes);
        spec.options.clone_from(&self.options);
        models::build(&spec).unwrap()
    }

    fn describe(&self) -> String {
        format!("{} {} {:?}", self.model, self.input, self.options)
    }
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/models.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Numbers in [-1, 1): the top 24 bits of splitmix64 of FNV-1a of the name.
fn noise(name: &str, numel: usize) -> impl Iterator<Item = f64> {
    let salt = name.bytes().fold(0xCBF2_9CE4_8422_2325, |salt: u64, byte| {
        (salt ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (1..=numel as u64).map(move |idx| {
        let z = idx.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(salt);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

/// What a parameter holds.
fn values(parameter: &Parameter) -> Vec<f32> {
    let numel = parameter.shape.numel() as usize;
    let (scale, shift) = match parameter.role {
        Role::BatchCount => return Vec::new(),
        Role::Weight => {
            let fan_in = numel as f64 / parameter.shape.dims()[0] as f64;
            ((6.0 / fan_in).sqrt(), 0.0)
        }
        Role::Scale | Role::RunningVariance => (0.5, 1.0),
        Role::Bias | Role::Shift | Role::RunningMean => (0.1, 0.0),
    };
    noise(&parameter.name, numel)
        .map(|random| (shift + scale * random) as f32)
        .collect()
}

fn weights(graph: &Graph) -> Weights {
    let parameters = graph.parameters.iter();
    let counts = parameters.clone().map(|parameter| match parameter.role {
        Role::BatchCount => 7,
        _ => 0,
    });
    Weights {
        values: parameters.clone().map(values).collect(),
        counts: counts.collect(),
    }
}

/// Largest difference, relative to the largest expected value. Infinite where one is no
/// number.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f64, |largest, value| {
        largest.max(f64::from(value.abs()))
    });
    let differences = found.iter().zip(expected).map(|(found, expected)| {
        let difference = (f64::from(*found) - f64::from(*expected)).abs() / largest;
        if difference.is_nan() {
            f64::INFINITY
        } else {
            difference
        }
    });
    differences.fold(0.0, f64::max)
}

fn check_logits(make: &dyn Fn(Graph, Weights) -> Box<dyn Engine>) {
    for case in cases().iter().filter(|case| case.samples > 0) {
        let graph = case.graph();
        let weights = weights(&graph);
        let pixels: Vec<f32> = noise("images", case.samples * graph.input().numel())
            .map(|pixel| pixel as f32)
            .collect();
        let images = Images {
            pixels: &pixels,
            samples: case.samples,
        };
        let found = make(graph, weights).predict(images).unwrap();
        let difference = difference(&found, &case.logits);
        assert!(
            difference <= TOLERANCE,
            "{}: logits differ by {difference:e} of the largest",
            case.describe()
        );
    }
}

#[test]
fn the_native_engine_gives_torchs_logits() {
    check_logits(&|graph, weights| {
        let masks = vec![None; graph.parameters.len()];
        Box::new(Native::new(graph, &weights, masks, 2).unwrap())
    });
}

#[test]
fn the_candle_engine_gives_torchs_logits() {
    check_logits(&|graph, weights| {
        let masks = vec![None; graph.parameters.len()];
        Box::new(CandleEngine::on_processor(graph, &weights, &masks).unwrap())
    });
}

#[test]
fn names_shapes_order_and_counts_are_torchs() {
    for case in cases() {
        let graph = case.graph();
        let tensors: Vec<String> = graph
            .parameters
            .iter()
            .map(|parameter| format!("{} {:?}", parameter.name, parameter.shape.dims()))
            .collect();
        assert_eq!(tensors, case.tensors, "{}", case.describe());
        assert_eq!(graph.learned(), case.parameters, "{}", case.describe());
        assert_eq!(
            graph.multiply_adds(),
            case.multiply_adds,
            "{}",
            case.describe()
        );
    }
}

#[test]
fn every_model_has_logits_and_its_defaults() {
    let cases = cases();
    for model in MODELS {
        let of_model = || cases.iter().filter(|case| case.model == model.name);
        assert!(of_model().any(|case| case.samples > 0), "{}", model.name);
        assert!(
            of_model().any(|case| case.options.is_empty()),
            "{}",
            model.name
        );
        for option in model.options {
            assert!(
                of_model().any(|case| case.options.contains_key(option.name)),
                "{} {}",
                model.name,
                option.name
            );
        }
    }
}

#[test]
fn weights_survive_a_file() {
    let directory = tempfile::tempdir().unwrap();
    for (idx, case) in cases().iter().filter(|case| case.samples > 0).enumerate() {
        let graph = case.graph();
        let weights = weights(&graph);
        let path = directory.path().join(format!("{idx}.st"));
        let target = Target::for_file(&path, Existing::Refuse).unwrap();
        weights
            .write(&graph, &BTreeMap::new(), &target, Durability::Unsynced)
            .unwrap();
        let checkpoint = Checkpoint::open(&path, &OpenOptions::default()).unwrap();
        assert_eq!(Weights::read(&graph, &checkpoint).unwrap(), weights);
    }
}

#[test]
fn differences_are_found() {
    assert_eq!(difference(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
    assert!(difference(&[1.0, 2.0001], &[1.0, 2.0]) > TOLERANCE);
    assert!(difference(&[-2.0], &[2.0]) > TOLERANCE);
    assert!(difference(&[f32::NAN, 2.0], &[1.0, 2.0]) > TOLERANCE);
    assert!(difference(&[0.0], &[0.0]) > TOLERANCE);
}
