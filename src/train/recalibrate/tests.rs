use std::cell::Cell;

use serde_json::Value;

use super::*;
use crate::graph::BatchNorm;
use crate::graph::Builder;
use crate::graph::Conv2d;
use crate::graph::Linear;
use crate::train::Weights;
use crate::train::candle::CandleEngine;
use crate::train::data::DataSpec;
use crate::train::data::Dataset;
use crate::train::data::open;

/// What torch finds; `fixtures/recalibration/make.py` wrote it.
const GOLDEN: &str = include_str!("../../../fixtures/recalibration/golden.json");

/// Difference from double precision, relative to the largest of a tensor.
const TOLERANCE: f64 = 1e-6;

/// Numbers in [-1, 1): the top 24 bits of splitmix64 of FNV-1a of the name.
fn noise(name: &str, numel: usize) -> impl Iterator<Item = f32> {
    let salt = name.bytes().fold(0xCBF2_9CE4_8422_2325, |salt: u64, byte| {
        (salt ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (1..=numel as u64).map(move |idx| {
        let z = idx.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(salt);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

fn graph(dataset: &Dataset) -> Graph {
    let mut builder = Builder::new("small", dataset.image()).unwrap();
    let input = builder.input();
    let layer = Conv2d {
        padding: [1; 2],
        ..Conv2d::new(3, 3)
    };
    let node = builder.conv2d("conv", input, layer).unwrap();
    let node = builder
        .batch_norm("bn1", node, BatchNorm::default())
        .unwrap();
    let node = builder.relu(node).unwrap();
    let node = builder.dropout(node, 0.5).unwrap();
    let node = builder.flatten(node).unwrap();
    let node = builder.linear("fc1", node, Linear::new(5)).unwrap();
    let node = builder
        .batch_norm("bn2", node, BatchNorm::default())
        .unwrap();
    let node = builder.relu(node).unwrap();
    builder.linear("fc2", node, Linear::new(10)).unwrap();
    builder.finish().unwrap()
}

/// Weights as in the fixture; statistics are NaN, and counts are wrong.
fn weights(graph: &Graph) -> Weights {
    let mut weights = Weights::initial(graph, 0);
    for (idx, parameter) in graph.parameters.iter().enumerate() {
        let values = &mut weights.values[idx];
        if parameter.role.is_learned() {
            *values = noise(&parameter.name, values.len()).collect();
        } else {
            values.fill(f32::NAN);
            weights.counts[idx] = 99 * i64::from(parameter.role == Role::BatchCount);
        }
    }
    weights
}

fn new_engine(graph: Graph, weights: &Weights) -> CandleEngine {
    let masks = vec![None; graph.parameters.len()];
    CandleEngine::on_processor(graph, weights, &masks).unwrap()
}

fn run(engine: &mut CandleEngine, images: usize, batch_size: usize) -> (Outcome, u64) {
    let dataset = open(&DataSpec::default()).unwrap();
    let assembler = Assembler::new(&dataset.train, &dataset.normalisation);
    let indices = &dataset.train.indices()[..images];
    let done = Cell::new(0);
    let advance = |images| done.set(done.get() + images);
    let go_on = AtomicBool::new(false);
    let outcome = recalibrate(engine, &assembler, indices, batch_size, &advance, &go_on);
    (outcome, done.get())
}

type Outcome = Result<Recalibration, RecalibrateError>;

#[test]
fn statistics_are_those_of_torch() {
    let graph = graph(&open(&DataSpec::default()).unwrap());
    let before = weights(&graph);
    let mut engine = new_engine(graph.clone(), &before);
    let (outcome, done) = run(&mut engine, 70, 16);
    let expected = Recalibration::Done {
        batches: 4,
        images: 64,
    };
    assert_eq!((outcome.unwrap(), done), (expected, 64));
    let after = engine.weights().unwrap();
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let mut compared = 0;
    for (idx, parameter) in graph.parameters.iter().enumerate() {
        let name = &parameter.name;
        if parameter.role.is_learned() {
            assert_eq!(after.values[idx], before.values[idx], "{name}");
            continue;
        }
        compared += 1;
        let expected: Vec<f64> = golden[name]
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value.as_f64().unwrap())
            .collect();
        if parameter.role == Role::BatchCount {
            assert_eq!(vec![after.counts[idx] as f64], expected, "{name}");
            continue;
        }
        let largest = expected.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        assert_eq!(after.values[idx].len(), expected.len());
        for (&found, expected) in after.values[idx].iter().zip(expected) {
            let difference = (f64::from(found) - expected).abs();
            assert!(
                difference < TOLERANCE * largest,
                "{name}: {found} {expected}"
            );
        }
    }
    assert_eq!(compared, 6);
}

#[test]
fn without_a_batch_nothing_is_wiped() {
    let graph = graph(&open(&DataSpec::default()).unwrap());
    let mut before = weights(&graph);
    for values in &mut before.values {
        values.iter_mut().for_each(|value| {
            if value.is_nan() {
                *value = 3.0;
            }
        });
    }
    let mut engine = new_engine(graph, &before);
    for (images, batch_size) in [(0, 16), (15, 16), (5, 0)] {
        let error = run(&mut engine, images, batch_size).0.unwrap_err();
        let is_said = matches!(
            error,
            RecalibrateError::NoBatch { images: i, batch_size: b } if (i, b) == (images, batch_size)
        );
        assert!(is_said, "{error}");
        assert_eq!(engine.weights().unwrap(), before);
    }
}

#[test]
fn networks_without_batch_norm_stay_as_they_are() {
    let mut builder = Builder::new("linear", open(&DataSpec::default()).unwrap().image()).unwrap();
    let node = builder.flatten(builder.input()).unwrap();
    builder.linear("fc", node, Linear::new(10)).unwrap();
    let graph = builder.finish().unwrap();
    let before = Weights::initial(&graph, 1);
    let mut engine = new_engine(graph, &before);
    let (outcome, done) = run(&mut engine, 0, 16);
    assert_eq!((outcome.unwrap(), done), (Recalibration::NoBatchNorm, 0));
    assert_eq!(engine.weights().unwrap(), before);
}
