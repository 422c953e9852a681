//! Two training steps of LeNet-5 and ResNet-8 with masks against torch: losses, every
//! gradient, every weight, momentum and running statistic. One line per engine.
//!
//! `fixtures/torch_step/make.py` wrote the expected values, in double precision.

#![cfg(feature = "train")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use sms_merge::graph::Features;
use sms_merge::graph::Graph;
use sms_merge::graph::Parameter;
use sms_merge::graph::Role;
use sms_merge::graph::models;
use sms_merge::graph::models::ModelSpec;
use sms_merge::tensor::Mask;
use sms_merge::train::Objective;
use sms_merge::train::Weights;
use sms_merge::train::candle::CandleEngine;
use sms_merge::train::engine::Decay;
use sms_merge::train::engine::Engine;
use sms_merge::train::engine::Images;
use sms_merge::train::engine::Masks;
use sms_merge::train::engine::Optimizer;
use sms_merge::train::engine::StepSeed;
use sms_merge::train::engine::Update;
use sms_merge::train::native::Native;

/// Largest difference from torch, relative to the largest magnitude of a tensor. torch
/// in single precision differs from itself in double precision by up to 1.1e-6.
const TOLERANCE: f64 = 1e-5;

const STEPS: u64 = 2;
const SAMPLES: usize = 8;
const CLASSES: usize = 10;
const DENSITY: f64 = 0.1;

type Make<'a> = &'a dyn Fn(Graph, Weights, Masks) -> Box<dyn Engine>;

#[test]
fn the_candle_engine_steps_as_torch() {
    check_steps(&|graph, weights, masks| {
        Box::new(CandleEngine::on_processor(graph, &weights, &masks).unwrap())
    });
}

#[test]
fn the_native_engine_steps_as_torch() {
    check_steps(&|graph, weights, masks| Box::new(Native::new(graph, &weights, masks, 2).unwrap()));
}

fn check_steps(make: Make<'_>) {
    check_model(make, "lenet5", [1, 28, 28]);
    check_model(make, "resnet8", [3, 32, 32]);
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

/// What a parameter holds at the start, and its mask if it is pruned.
fn start(parameter: &Parameter) -> (Vec<f32>, Option<Mask>) {
    let numel = parameter.shape.numel() as usize;
    let name = &parameter.name;
    let scaled = |scale: f64, shift: f64| {
        let values = noise(name, numel).map(|random| (shift + scale * random) as f32);
        values.collect::<Vec<_>>()
    };
    match parameter.role {
        Role::Weight => {
            let fan_in = numel as f64 / parameter.shape.dims()[0] as f64;
            let bits: Vec<bool> = noise(&format!("{name} mask"), numel)
                .map(|random| random < 2.0 * DENSITY - 1.0)
                .collect();
            let mask = Mask::from_fn(numel, |idx| bits[idx]);
            (scaled((6.0 / (fan_in * DENSITY)).sqrt(), 0.0), Some(mask))
        }
        Role::RunningVariance => (scaled(0.5, 1.0), None),
        Role::Scale => (scaled(0.25, 1.0), None),
        Role::Bias | Role::Shift | Role::RunningMean => (scaled(0.1, 0.0), None),
        Role::BatchCount => (Vec::new(), None),
    }
}

/// Expected values by name.
struct Golden {
    values: BTreeMap<String, Vec<f64>>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = root.join(format!("fixtures/torch_step/{name}.st"));
        let bytes = fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let values = tensors.iter().map(|(name, tensor)| {
            let data = tensor.data();
            let numbers = match tensor.dtype() {
                safetensors::Dtype::F64 => data
                    .chunks_exact(8)
                    .map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()))
                    .collect(),
                _ => data
                    .chunks_exact(4)
                    .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
                    .collect(),
            };
            (name.to_owned(), numbers)
        });
        Self {
            values: values.collect(),
        }
    }

    /// Fails unless the retained coordinates of `found` are those expected under `key`
    /// and the others are `+0`. No key is asked for twice.
    fn check(&mut self, key: &str, found: &[f32], mask: Option<&Mask>) {
        let expected = self.values.remove(key);
        let expected = expected.unwrap_or_else(|| panic!("{key} is not in the file"));
        let is_retained = |idx: &usize| mask.is_none_or(|mask| mask.is_retained(*idx));
        let (retained, pruned): (Vec<usize>, Vec<usize>) = (0..found.len()).partition(is_retained);
        assert!(pruned.iter().all(|&idx| found[idx].to_bits() == 0), "{key}");
        assert_eq!(retained.len(), expected.len(), "{key}");
        let largest = expected.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        assert!(largest > 0.0, "{key}");
        for (idx, expected) in retained.into_iter().zip(expected) {
            let difference = (f64::from(found[idx]) - expected).abs();
            assert!(
                difference <= TOLERANCE * largest,
                "{key}, element {idx}: {} is not {expected}",
                found[idx]
            );
        }
    }
}

fn check_model(make: Make<'_>, name: &str, [channels, height, width]: [usize; 3]) {
    let input = Features {
        channels,
        height,
        width,
    };
    let graph = models::build(&ModelSpec::new(name, input, CLASSES)).unwrap();
    let (values, masks): (_, Masks) = graph.parameters.iter().map(start).unzip();
    let is_count = |parameter: &Parameter| parameter.role == Role::BatchCount;
    let counts = |count: i64| {
        let parameters = graph.parameters.iter();
        let counts = parameters.map(|parameter| if is_count(parameter) { count } else { 0 });
        counts.collect::<Vec<_>>()
    };
    let weights = Weights {
        values,
        counts: counts(3),
    };
    let mut engine = make(graph.clone(), weights, masks.clone());
    let pixels: Vec<f32> = noise("images", SAMPLES * input.numel())
        .map(|value| value as f32)
        .collect();
    let images = Images {
        pixels: &pixels,
        samples: SAMPLES,
    };
    let labels: Vec<u32> = (0..SAMPLES as u32).map(|idx| idx * 7 % 10).collect();
    let objective = Objective {
        label_smoothing: 0.1,
    };
    let mut golden = Golden::read(name);
    for step in 0..STEPS {
        let seed = StepSeed { seed: 0, step };
        let loss = engine
            .backpropagate(images, &labels, &objective, seed)
            .unwrap();
        let mean = loss.sum / SAMPLES as f64;
        golden.check(&format!("{step}.loss"), &[mean as f32], None);
        let gradients = engine.gradients().unwrap();
        let update = Update {
            optimizer: Optimizer::Sgd {
                momentum: 0.9,
                nesterov: true,
            },
            learning_rate: 0.05,
            weight_decay: 5e-4,
            decay: Decay::All,
            gradient_scale: 1.0,
            step,
        };
        engine.update(&update).unwrap();
        let weights = engine.weights().unwrap();
        let momentum = engine.optimizer_state().unwrap().slots.swap_remove(0);
        for (idx, parameter) in graph.parameters.iter().enumerate() {
            let name = &parameter.name;
            let mask = masks[idx].as_ref();
            if parameter.role.is_learned() {
                golden.check(&format!("{step}.gradient.{name}"), &gradients[idx], mask);
                golden.check(&format!("{step}.momentum.{name}"), &momentum[idx], mask);
            }
            let value = &weights.values[idx];
            if is_count(parameter) {
                let count = weights.counts[idx] as f32;
                golden.check(&format!("{step}.value.{name}"), &[count], None);
            } else {
                golden.check(&format!("{step}.value.{name}"), value, mask);
            }
        }
        assert_eq!(weights.counts, counts(4 + step as i64));
    }
    let left: Vec<&String> = golden.values.keys().collect();
    assert!(left.is_empty(), "{left:?} was not compared");
}

#[test]
fn the_comparison_rejects() {
    let check = |found: &[f32], mask: Option<&Mask>| {
        let mut golden = Golden {
            values: [("a".to_owned(), vec![1.0, -2.0])].into(),
        };
        std::panic::catch_unwind(move || golden.check("a", found, mask)).is_ok()
    };
    let mask = Mask::from_fn(3, |idx| idx != 1);
    assert!(check(&[1.0, -2.0], None));
    assert!(check(&[1.0, 0.0, -2.00001], Some(&mask)));
    assert!(!check(&[1.0, 0.0, -2.0001], Some(&mask)));
    assert!(!check(&[1.0, -0.0, -2.0], Some(&mask)));
    assert!(!check(&[1.0, f32::NAN], None));
    assert!(!check(&[1.0], None));
}
