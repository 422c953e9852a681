use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::*;
use crate::graph::models;
use crate::graph::models::ModelSpec;
use crate::train::Weights;
use crate::train::candle::CandleEngine;
use crate::train::data::DataSpec;
use crate::train::data::open;

/// What numpy and scikit-learn find; `fixtures/evaluation/make.py` wrote it.
const GOLDEN: &str = include_str!("../../../fixtures/evaluation/golden.json");

/// Sums of 120 numbers in another order.
const TOLERANCE: f64 = 1e-12;

fn floats(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

fn integers(value: &Value) -> Vec<u64> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_u64().unwrap()).collect()
}

fn assert_is(found: f64, expected: f64, what: &str) {
    let difference = (found - expected).abs();
    assert!(difference < TOLERANCE, "{what}: {found} is not {expected}");
}

fn check(found: &Evaluation, expected: &Value) {
    for (found, name) in [
        (found.accuracy, "accuracy"),
        (found.loss, "loss"),
        (found.ece, "ece"),
        (found.mce, "mce"),
        (found.worst_class_accuracy.unwrap(), "worst_class_accuracy"),
    ] {
        assert_is(found, expected[name].as_f64().unwrap(), name);
    }
    let rows = expected["confusion"].as_array().unwrap();
    let confusion: Vec<Vec<u64>> = rows.iter().map(integers).collect();
    assert_eq!(found.confusion, confusion);
    let counts: Vec<u64> = found.bins.iter().map(|bin| bin.samples).collect();
    assert_eq!(counts, integers(&expected["bin_counts"]));
    let recall = floats(&expected["recall"]);
    let precision = floats(&expected["precision"]);
    for (class, report) in found.classes.iter().enumerate() {
        assert_is(report.accuracy.unwrap_or_default(), recall[class], "recall");
        let found = report.precision.unwrap_or_default();
        assert_is(found, precision[class], "precision");
    }
}

#[test]
fn metrics_are_those_of_numpy_and_scikit_learn() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let labels: Vec<u32> = integers(&golden["labels"])
        .into_iter()
        .map(|label| label as u32)
        .collect();
    let mut members = Vec::new();
    for (logits, expected) in golden["logits"]
        .as_array()
        .unwrap()
        .iter()
        .zip(golden["models"].as_array().unwrap())
    {
        let logits: Vec<f32> = floats(logits)
            .into_iter()
            .map(|logit| logit as f32)
            .collect();
        let predictions = Predictions::of_logits(&logits, &labels, 7).unwrap();
        check(&predictions.evaluate(), expected);
        assert_eq!(
            Predictions::ensemble(std::slice::from_ref(&predictions)),
            predictions
        );
        members.push(predictions);
    }
    assert_eq!(members.len(), 3);
    let ensemble = Predictions::ensemble(&members).evaluate();
    check(&ensemble, &golden["ensemble"]);
    assert_eq!(ensemble.classes[6].accuracy, None);
    assert_eq!(ensemble.classes[3].precision, None);
}

#[test]
fn certain_mistakes_have_a_finite_loss() {
    let predictions = Predictions::of_logits(&[2000.0, -2000.0], &[1], 2).unwrap();
    let evaluation = predictions.evaluate();
    assert_eq!((evaluation.loss, evaluation.ece), (4000.0, 1.0));
    let half = Predictions::of_logits(&[0.0, 0.0], &[1], 2).unwrap();
    let ensemble = Predictions::ensemble(&[predictions, half]).evaluate();
    assert_is(ensemble.loss, -(0.25_f64.ln()), "a quarter");
}

#[test]
fn the_first_of_equal_classes_counts() {
    let logits = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0];
    let predictions = Predictions::of_logits(&logits, &[0, 1], 3).unwrap();
    let evaluation = predictions.evaluate();
    assert_eq!(evaluation.correct, 1);
    assert_eq!(
        evaluation.confusion,
        [[1, 0, 0], [1, 0, 0], [0, 0, 0]].map(Vec::from)
    );
    assert_eq!(evaluation.worst_class, Some(1));
    let mistaken = evaluation.classes[1];
    assert_eq!((mistaken.mistaken_for, mistaken.mistakes), (Some(0), 1));
    assert_eq!(evaluation.classes[0].mistaken_for, None);
}

#[test]
fn no_images_have_no_metrics() {
    let evaluation = Predictions::of_logits(&[], &[], 2).unwrap().evaluate();
    assert_eq!((evaluation.samples, evaluation.worst_class), (0, None));
    assert_eq!((evaluation.accuracy, evaluation.loss), (0.0, 0.0));
    assert_eq!((evaluation.ece, evaluation.mce), (0.0, 0.0));
}

#[test]
fn logits_that_are_no_numbers_are_refused() {
    for logit in [f32::NAN, f32::INFINITY] {
        let error = Predictions::of_logits(&[0.0, 1.0, 0.0, logit], &[0, 1], 2).unwrap_err();
        assert!(matches!(error, EvaluateError::NonFinite { sample: 1 }));
    }
}

fn engine(classes: usize) -> (CandleEngine, crate::train::data::Dataset) {
    let dataset = open(&DataSpec::default()).unwrap();
    let spec = ModelSpec::new("mlp", dataset.image(), classes);
    let graph = models::build(&spec).unwrap();
    let weights = Weights::initial(&graph, 0);
    let masks = vec![None; graph.parameters.len()];
    let engine = CandleEngine::on_processor(graph, &weights, &masks).unwrap();
    (engine, dataset)
}

#[test]
fn batches_change_no_prediction() {
    let (mut engine, dataset) = engine(10);
    let assembler = Assembler::new(&dataset.test, &dataset.normalisation);
    let indices = &dataset.test.indices()[..50];
    let run = |engine: &mut CandleEngine, batch_size| {
        let done = std::cell::Cell::new(0);
        let advance = |images| done.set(done.get() + images);
        let go_on = AtomicBool::new(false);
        let predictions = predict(engine, &assembler, indices, batch_size, &advance, &go_on);
        assert_eq!(done.get(), 50);
        predictions.unwrap().unwrap()
    };
    let whole = run(&mut engine, 50);
    let parts = run(&mut engine, 7);
    assert_eq!(whole.labels(), parts.labels());
    let losses = (whole.evaluate().loss, parts.evaluate().loss);
    assert!((losses.0 - losses.1).abs() < 1e-6);
    let stop = AtomicBool::new(true);
    let stopped = predict(&mut engine, &assembler, indices, 7, &|_| {}, &stop);
    assert_eq!(stopped.unwrap(), None);
}

#[test]
fn networks_for_other_data_are_refused() {
    let (engine, dataset) = engine(3);
    let error = check_fit(&engine, dataset.image(), 10).unwrap_err();
    assert!(matches!(
        error,
        EvaluateError::Classes {
            expected: 3,
            found: 10
        }
    ));
    let image = Features {
        channels: 3,
        ..dataset.image()
    };
    let error = check_fit(&engine, image, 3).unwrap_err();
    assert!(matches!(error, EvaluateError::Image { .. }));
    check_fit(&engine, dataset.image(), 3).unwrap();
}
