//! Every engine against straight loops in `f64` and central differences: one suite,
//! one line per engine.

#![cfg(feature = "train")]

#[path = "engines/cases.rs"]
mod cases;
#[path = "engines/oracle.rs"]
mod oracle;

use sms_merge::graph::Graph;
use sms_merge::graph::Parameter;
use sms_merge::graph::Role;
use sms_merge::tensor::Mask;
use sms_merge::tensor::Stream;
use sms_merge::train::Objective;
use sms_merge::train::Rule;
use sms_merge::train::Weights;
use sms_merge::train::candle::CandleEngine;
#[cfg(feature = "cuda")]
use sms_merge::train::candle::Device;
#[cfg(feature = "cuda")]
use sms_merge::train::candle::open_cuda;
use sms_merge::train::engine::Decay;
use sms_merge::train::engine::Engine;
use sms_merge::train::engine::EngineError;
use sms_merge::train::engine::Images;
use sms_merge::train::engine::Masks;
use sms_merge::train::engine::Optimizer;
use sms_merge::train::engine::OptimizerState;
use sms_merge::train::engine::StepSeed;
use sms_merge::train::engine::Update;
use sms_merge::train::native::Kernels;
use sms_merge::train::native::Native;

use oracle::Mode;
use oracle::Oracle;

/// Largest difference of a tensor of `f32` from the definition, relative to its largest
/// magnitude: sums of some hundred numbers, each rounded to 2^-24.
const TOLERANCE: f64 = 1e-5;

/// A tensor whose gradients are all below this share of the network's largest has none:
/// batch norm takes away the gradient of a bias before it, and what an engine finds there
/// is the rounding of a sum. It is compared with the network's largest instead.
const NOTHING: f64 = 1e-8;

/// The gradient of a channel before batch norm cancels along the channel's own weights; with
/// one weight left there is nothing else. How large the terms are shows at its pruned
/// coordinates, and this share of their slopes is the least that a tensor is compared with.
const CANCELLED: f64 = 0.1;

const SEED: StepSeed = StepSeed { seed: 11, step: 5 };

#[test]
fn the_candle_engine() {
    check_engine(|graph, weights, masks| {
        Box::new(CandleEngine::on_processor(graph, &weights, &masks).unwrap())
    });
}

/// The same on the first GPU. One device for all engines: each would load the kernels anew.
#[cfg(feature = "cuda")]
#[test]
fn the_candle_engine_on_a_gpu() {
    let device = match open_cuda(0) {
        Ok(device) => device,
        Err(error) if std::env::var_os("SMS_MERGE_REQUIRE_CUDA").is_some() => {
            panic!("{error}: {:?}", std::error::Error::source(&error));
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    check_engine(|graph, weights, masks| {
        Box::new(CandleEngine::new(graph, &weights, &masks, device.clone()).unwrap())
    });
    check_repeated(&device);
}

/// Two trainings on one device are the same bits: nothing there adds in the order of chance.
#[cfg(feature = "cuda")]
fn check_repeated(device: &Device) {
    for case in cases::all() {
        let graph = &case.graph;
        let batch = Batch::new(graph, 6);
        let train = || {
            let (weights, masks) = (weights(graph), masks(graph));
            let mut engine =
                CandleEngine::new(graph.clone(), &weights, &masks, device.clone()).unwrap();
            for step in 0..3 {
                let update = Update {
                    optimizer: Optimizer::Sgd {
                        momentum: 0.9,
                        nesterov: false,
                    },
                    learning_rate: 0.05,
                    weight_decay: 0.01,
                    decay: Decay::All,
                    gradient_scale: 1.0,
                    step,
                };
                let seed = StepSeed { seed: 11, step };
                engine
                    .backpropagate(batch.images(), &batch.labels, &Objective::default(), seed)
                    .unwrap();
                engine.update(&update).unwrap();
            }
            let weights = engine.weights().unwrap().values.concat();
            weights
                .iter()
                .map(|value| value.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(train(), train(), "{}", graph.name);
    }
}

#[test]
fn the_native_engine() {
    for (n_threads, kernels) in [(1, Kernels::Dense), (3, Kernels::Sparse)] {
        check_engine(|graph, weights, masks| {
            Box::new(Native::with_kernels(graph, &weights, masks, n_threads, kernels).unwrap())
        });
    }
}

/// Everything that is asked of an engine.
fn check_engine(make: impl Fn(Graph, Weights, Masks) -> Box<dyn Engine>) {
    for case in cases::all() {
        for samples in case.samples {
            check_forward(&make, &case, *samples);
            check_gradients(&make, &case, *samples);
            check_statistics(&make, &case, *samples);
        }
    }
    for case in cases::all().iter().filter(|case| case.is_updated) {
        check_updates(&make, case);
    }
    check_zero_passes_nothing(&make);
    check_first_maximum_wins(&make);
    check_errors(&make);
    check_non_finite(&make);
}

/// Random numbers in [-1, 1).
fn noise(name: &str, numel: usize) -> Vec<f32> {
    let mut stream = Stream::named(3, "test", name);
    (0..numel)
        .map(|_| (stream.uniform() * 2.0 - 1.0) as f32)
        .collect()
}

/// Weights where nothing is as it begins: scales and variances are near 1, shifts and
/// means are not 0.
fn weights(graph: &Graph) -> Weights {
    let mut weights = Weights::initial(graph, 0);
    for (values, parameter) in weights.values.iter_mut().zip(&graph.parameters) {
        let random = noise(&parameter.name, values.len());
        for (value, random) in values.iter_mut().zip(random) {
            *value = match parameter.role {
                Role::Scale | Role::RunningVariance => 1.0 + 0.5 * random,
                Role::Weight => 0.7 * random,
                // A mean much larger than the deviation would cost a batch norm the
                // last digits of its input, and no engine could give them back.
                _ => 0.2 * random,
            };
        }
    }
    weights
}

/// Masks that prune about half of the coordinates of every weight.
fn masks(graph: &Graph) -> Masks {
    let mask = |parameter: &Parameter| {
        let numel = parameter.shape.numel() as usize;
        let random = noise(&format!("mask {}", parameter.name), numel);
        (parameter.role == Role::Weight).then(|| Mask::from_fn(numel, |idx| random[idx] > 0.0))
    };
    graph.parameters.iter().map(mask).collect()
}

fn no_masks(graph: &Graph) -> Masks {
    vec![None; graph.parameters.len()]
}

struct Batch {
    pixels: Vec<f32>,
    labels: Vec<u32>,
}

impl Batch {
    fn new(graph: &Graph, samples: usize) -> Self {
        let pixels = noise("pixels", samples * graph.input().numel());
        let classes = graph.classes() as u64;
        let mut stream = Stream::named(3, "test", "labels");
        let labels = (0..samples).map(|_| stream.below(classes) as u32);
        Self {
            pixels,
            labels: labels.collect(),
        }
    }

    fn images(&self) -> Images<'_> {
        Images {
            pixels: &self.pixels,
            samples: self.labels.len(),
        }
    }

    fn wide(&self) -> Vec<f64> {
        widened(&self.pixels)
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

/// Fails unless `found` is `expected` within the tolerance of `scale`.
fn assert_close(found: &[f32], expected: &[f64], scale: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (idx, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(found) - expected).abs();
        assert!(
            difference <= TOLERANCE * scale,
            "{what}, element {idx}: {found} is not {expected}"
        );
    }
}

/// Fails unless every pruned coordinate is `+0`.
fn assert_pruned(masks: &Masks, values: &[Vec<f32>], what: &str) {
    for (mask, values) in masks.iter().zip(values) {
        let Some(mask) = mask else { continue };
        for (idx, value) in values.iter().enumerate() {
            let is_plus_zero = value.to_bits() == 0;
            assert!(
                mask.is_retained(idx) || is_plus_zero,
                "{what}, element {idx}"
            );
        }
    }
}

type Make<'a> = &'a dyn Fn(Graph, Weights, Masks) -> Box<dyn Engine>;

fn check_forward(make: Make<'_>, case: &cases::Case, samples: usize) {
    let what = format!("logits of {}, {samples} samples", case.graph.name);
    let (weights, batch) = (weights(&case.graph), Batch::new(&case.graph, samples));
    let mut engine = make(case.graph.clone(), weights.clone(), no_masks(&case.graph));
    let oracle = Oracle::new(&case.graph, &weights);
    let (expected, _) = oracle.forward(&batch.wide(), samples, Mode::Predict);
    let found = engine.predict(batch.images()).unwrap();
    assert_close(&found, &expected, largest(&expected), &what);
    assert_eq!(engine.weights().unwrap(), weights, "{what}");
    // A sample's logits do not depend on the others.
    let numel = case.graph.input().numel();
    let alone = engine.predict(Images {
        pixels: &batch.pixels[(samples - 1) * numel..],
        samples: 1,
    });
    let classes = case.graph.classes();
    let last = &expected[(samples - 1) * classes..];
    assert_close(&alone.unwrap(), last, largest(&expected), &what);
}

fn check_gradients(make: Make<'_>, case: &cases::Case, samples: usize) {
    let graph = &case.graph;
    let what = format!("{}, {samples} samples", graph.name);
    let batch = Batch::new(graph, samples);
    let objective = Objective {
        label_smoothing: 0.1,
    };
    for masks in [no_masks(graph), masks(graph)] {
        let mut weights = weights(graph);
        for (values, mask) in weights.values.iter_mut().zip(&masks) {
            if let Some(mask) = mask {
                mask.apply(values);
            }
        }
        let mut engine = make(graph.clone(), weights.clone(), masks.clone());
        let loss = engine
            .backpropagate(batch.images(), &batch.labels, &objective, SEED)
            .unwrap();
        let mut oracle = Oracle::new(graph, &weights);
        let pixels = batch.wide();
        let at = |oracle: &Oracle<'_>| oracle.loss(&pixels, &batch.labels, objective, SEED);
        let expected = at(&oracle);
        let found = loss.sum / samples as f64;
        assert!((found - expected).abs() < TOLERANCE * expected, "{what}");
        assert_eq!(loss.samples, samples as u64);

        let found = engine.gradients().unwrap();
        assert_pruned(&masks, &found, &what);
        let all = widened(&found.concat());
        let norm = all.iter().map(|value| value * value).sum::<f64>().sqrt();
        let difference = (engine.gradient_norm().unwrap() - norm).abs();
        assert!(difference <= 1e-12 * norm, "norm of {what}");
        let (mut kinks, mut compared) = (0, 0);
        for (parameter, found) in found.iter().enumerate() {
            let known = &graph.parameters[parameter];
            let name = format!("gradient of `{}` of {what}", known.name);
            if !known.role.is_learned() {
                assert!(found.is_empty(), "{name}");
                continue;
            }
            assert_eq!(found.len() as u64, known.shape.numel(), "{name}");
            let chosen = chosen(&name, &masks[parameter], found.len());
            let slopes: Vec<[f64; 2]> = chosen
                .iter()
                .map(|&idx| oracle.slopes((parameter, idx), at))
                .collect();
            let terms: Vec<f64> = self::chosen(&name, &None, found.len())
                .into_iter()
                .map(|idx| oracle.slopes((parameter, idx), at)[0])
                .collect();
            let mut scale = largest(slopes.as_flattened()).max(CANCELLED * largest(&terms));
            if scale < NOTHING * largest(&all) {
                scale = largest(&all);
            }
            for (idx, [slope, narrow]) in chosen.into_iter().zip(slopes) {
                if (slope - narrow).abs() < TOLERANCE * scale {
                    assert_close(&found[idx..=idx], &[slope], scale, &name);
                    compared += 1;
                } else {
                    kinks += 1;
                }
            }
        }
        assert!(kinks * 20 <= compared, "{kinks} kinks in {what}");
    }
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Some of the retained coordinates of a tensor; others for every name.
fn chosen(name: &str, mask: &Option<Mask>, numel: usize) -> Vec<usize> {
    let mut all: Vec<usize> = match mask {
        Some(mask) => mask.positions().collect(),
        None => (0..numel).collect(),
    };
    Stream::named(4, "test", name).shuffle(&mut all);
    all.truncate(10);
    all
}

fn check_statistics(make: Make<'_>, case: &cases::Case, samples: usize) {
    let graph = &case.graph;
    let (weights, batch) = (weights(graph), Batch::new(graph, samples));
    let oracle = Oracle::new(graph, &weights);
    let check = |mode: Mode, share: f64, found: Weights| {
        let (_, seen) = oracle.forward(&batch.wide(), samples, mode);
        let mut expected = oracle.values.clone();
        for (parameter, statistic) in &seen {
            for (value, seen) in expected[*parameter].iter_mut().zip(statistic) {
                *value = (1.0 - share) * *value + share * seen;
            }
        }
        for (parameter, expected) in expected.iter().enumerate() {
            let name = &graph.parameters[parameter].name;
            let what = format!("`{name}` of {}, {samples} samples", graph.name);
            let found = &found.values[parameter];
            assert_close(found, expected, largest(expected), &what);
        }
        let batch_counts = graph.parameters.iter().zip(&found.counts);
        for (parameter, &count) in batch_counts {
            let expected = i64::from(parameter.role == Role::BatchCount);
            assert_eq!(count, expected, "{}", parameter.name);
        }
    };
    let new = || make(graph.clone(), weights.clone(), no_masks(graph));
    let mut engine = new();
    engine
        .backpropagate(batch.images(), &batch.labels, &Objective::default(), SEED)
        .unwrap();
    check(
        Mode::Train(SEED),
        cases::MOMENTUM,
        engine.weights().unwrap(),
    );
    let mut engine = new();
    engine.observe(batch.images(), 0.25).unwrap();
    check(Mode::Observe, 0.25, engine.weights().unwrap());
}

fn check_updates(make: Make<'_>, case: &cases::Case) {
    let graph = &case.graph;
    let masks = masks(graph);
    let batch = Batch::new(graph, 5);
    let sgd = |momentum, nesterov| Optimizer::Sgd { momentum, nesterov };
    let adam = Optimizer::AdamW {
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
    };
    for optimizer in [sgd(0.0, false), sgd(0.9, false), sgd(0.8, true), adam] {
        for decay in [Decay::All, Decay::Weights] {
            let mut engine = make(graph.clone(), weights(graph), masks.clone());
            let mut values = engine.weights().unwrap().values;
            assert_pruned(&masks, &values, "weights at the start");
            assert_eq!(engine.optimizer_state().unwrap(), OptimizerState::default());
            let mut slots = vec![values.clone(); optimizer.slots()];
            slots.iter_mut().flatten().for_each(|slot| slot.fill(0.0));
            for step in 0..3 {
                let update = Update {
                    optimizer,
                    learning_rate: 0.05,
                    weight_decay: 0.01,
                    decay,
                    gradient_scale: 0.7,
                    step,
                };
                engine
                    .backpropagate(batch.images(), &batch.labels, &Objective::default(), SEED)
                    .unwrap();
                let gradients = engine.gradients().unwrap();
                engine.update(&update).unwrap();
                let found = engine.weights().unwrap().values;
                let state = engine.optimizer_state().unwrap();
                assert_eq!(state.slots.len(), slots.len());
                for (parameter, known) in graph.parameters.iter().enumerate() {
                    let Some(rule) = Rule::new(&update, known.role) else {
                        // Statistics move with every batch.
                        assert!(state.slots.iter().all(|slot| slot[parameter].is_empty()));
                        values[parameter].clone_from(&found[parameter]);
                        continue;
                    };
                    let words = masks[parameter].as_ref().map(Mask::words);
                    let mut memory: Vec<&mut [f32]> =
                        slots.iter_mut().map(|slot| &mut *slot[parameter]).collect();
                    let value = &mut values[parameter];
                    rule.apply(value, &gradients[parameter], &mut memory, words);
                    let what = format!("`{}` of {} by {optimizer:?}", known.name, graph.name);
                    assert_eq!(found[parameter], values[parameter], "{what}");
                    for (found, expected) in state.slots.iter().zip(&slots) {
                        assert_eq!(found[parameter], expected[parameter], "{what}");
                    }
                }
                assert_pruned(&masks, &found, "weights");
                state
                    .slots
                    .iter()
                    .for_each(|slot| assert_pruned(&masks, slot, "slots"));
            }
            check_resumed(make, case, &mut *engine, &batch);
        }
    }
}

/// A second engine that is given weights and memory goes on like the first.
fn check_resumed(make: Make<'_>, case: &cases::Case, first: &mut dyn Engine, batch: &Batch) {
    let graph = &case.graph;
    let mut second = make(graph.clone(), weights(graph), masks(graph));
    second.set_weights(&first.weights().unwrap()).unwrap();
    let state = first.optimizer_state().unwrap();
    second.set_optimizer_state(&state).unwrap();
    assert_eq!(second.optimizer_state().unwrap(), state);
    let update = Update {
        optimizer: Optimizer::Sgd {
            momentum: 0.9,
            nesterov: false,
        },
        learning_rate: 0.1,
        weight_decay: 0.0,
        decay: Decay::All,
        gradient_scale: 1.0,
        step: 3,
    };
    if state.slots.len() == 1 {
        for engine in [&mut *first, &mut *second] {
            engine
                .backpropagate(batch.images(), &batch.labels, &Objective::default(), SEED)
                .unwrap();
            engine.update(&update).unwrap();
        }
        assert_eq!(first.weights().unwrap(), second.weights().unwrap());
        assert_eq!(
            first.optimizer_state().unwrap(),
            second.optimizer_state().unwrap()
        );
    }
    second
        .set_optimizer_state(&OptimizerState::default())
        .unwrap();
    assert_eq!(second.optimizer_state().unwrap(), OptimizerState::default());
    // Weights that do not know of the mask are pruned by it.
    let mut dense = weights(graph);
    dense.values.iter_mut().for_each(|values| values.fill(-1.0));
    second.set_weights(&dense).unwrap();
    assert_pruned(&masks(graph), &second.weights().unwrap().values, "weights");
}

/// torch's ReLU passes no gradient where its input is exactly zero.
fn check_zero_passes_nothing(make: Make<'_>) {
    let graph = cases::relu_alone();
    let mut weights = Weights::initial(&graph, 0);
    // Hidden units: 0, 2 and -2.
    weights.values = vec![vec![1.0, 1.0, -1.0], vec![-1.0, 1.0, -1.0], vec![1.0; 6]];
    weights.values[2] = vec![1.0, 0.5, 0.25, -1.0, 0.25, 0.5];
    let mut engine = make(graph.clone(), weights, no_masks(&graph));
    let images = Images {
        pixels: &[1.0],
        samples: 1,
    };
    engine
        .backpropagate(images, &[0], &Objective::default(), SEED)
        .unwrap();
    let gradients = engine.gradients().unwrap();
    // Logits 1 and 0.5: the label's gradient is p - 1 = -1 / (1 + e^0.5).
    let slope = 1.0 / (1.0 + 0.5_f64.exp());
    let expected = [0.0, -slope * 0.5 + slope * 0.25, 0.0];
    assert_close(&gradients[0], &expected, 1.0, "weights before ReLU");
    assert_close(&gradients[1], &expected, 1.0, "biases before ReLU");
    let after = [0.0, -2.0 * slope, 0.0, 0.0, 2.0 * slope, 0.0];
    assert_close(&gradients[2], &after, 1.0, "weights after ReLU");
    assert_eq!((gradients[0][0], gradients[0][2]), (0.0, 0.0));
}

/// Of several largest values in a window the first, row by row, gets the gradient, as in
/// torch.
fn check_first_maximum_wins(make: Make<'_>) {
    // Two channels are added; the sums of a row are equal, their parts are not.
    let graph = cases::pool_alone();
    let mut weights = Weights::initial(&graph, 0);
    weights.values = vec![vec![1.0, 1.0], vec![1.0, -1.0]];
    let mut engine = make(graph.clone(), weights, no_masks(&graph));
    let images = Images {
        pixels: &[1.0, 3.0, 2.0, 0.0, 3.0, 1.0, 2.0, 0.0],
        samples: 1,
    };
    let logits = engine.predict(images).unwrap();
    assert_eq!(logits, [4.0, -4.0]);
    engine
        .backpropagate(images, &[1], &Objective::default(), SEED)
        .unwrap();
    let gradients = engine.gradients().unwrap();
    // Both logits pull the maximum the same way: 2 p, with p near 1.
    let slope = 2.0 / (1.0 + (-8.0_f64).exp());
    let expected = [slope, 3.0 * slope];
    assert_close(&gradients[0], &expected, 3.0, "the first maximum");
}

fn check_errors(make: Make<'_>) {
    let graph = cases::vector_batch_norm();
    let mut engine = make(graph.clone(), weights(&graph), no_masks(&graph));
    let pixels = noise("pixels", graph.input().numel() * 2);
    let short = Images {
        pixels: &pixels[1..],
        samples: 2,
    };
    let expected = pixels.len();
    let is_batch = |error| {
        let found = expected - 1;
        matches!(error, EngineError::Batch { samples: 2, expected: e, found: f } if e == expected && f == found)
    };
    let objective = Objective::default();
    assert!(is_batch(engine.predict(short).unwrap_err()));
    assert!(is_batch(engine.observe(short, 1.0).unwrap_err()));
    let error = engine.backpropagate(short, &[0, 1], &objective, SEED);
    assert!(is_batch(error.unwrap_err()));
    let single = Images {
        pixels: &pixels[..expected / 2],
        samples: 1,
    };
    let before = engine.weights().unwrap();
    let error = engine.backpropagate(single, &[0], &objective, SEED);
    assert!(matches!(error.unwrap_err(), EngineError::OneValue));
    let error = engine.observe(single, 1.0).unwrap_err();
    assert!(matches!(error, EngineError::OneValue));
    assert_eq!(engine.weights().unwrap(), before);
    assert_eq!(engine.predict(single).unwrap().len(), graph.classes());
    let empty = Images {
        pixels: &[],
        samples: 0,
    };
    assert!(engine.predict(empty).unwrap().is_empty());
    let error = engine.backpropagate(empty, &[], &objective, SEED);
    assert!(matches!(error.unwrap_err(), EngineError::OneValue));
    let error = engine.observe(empty, 1.0).unwrap_err();
    assert!(matches!(error, EngineError::OneValue));
    assert_eq!(engine.weights().unwrap(), before);
}

/// What is not a number reaches the loss, and pruned weights stay zero all the same.
fn check_non_finite(make: Make<'_>) {
    for case in cases::all() {
        let graph = &case.graph;
        let masks = masks(graph);
        let mut engine = make(graph.clone(), weights(graph), masks.clone());
        let mut batch = Batch::new(graph, 4);
        batch.pixels.fill(f32::NAN);
        let objective = Objective::default();
        let loss = engine.backpropagate(batch.images(), &batch.labels, &objective, SEED);
        assert!(loss.unwrap().sum.is_nan(), "{}", graph.name);
        let update = Update {
            optimizer: Optimizer::Sgd {
                momentum: 0.9,
                nesterov: true,
            },
            learning_rate: f64::INFINITY,
            weight_decay: 0.1,
            decay: Decay::All,
            gradient_scale: 1.0,
            step: 0,
        };
        assert_pruned(&masks, &engine.gradients().unwrap(), "gradients");
        engine.update(&update).unwrap();
        assert_pruned(&masks, &engine.weights().unwrap().values, "weights");
        let state = engine.optimizer_state().unwrap();
        assert_pruned(&masks, &state.slots[0], "slots");
    }
}

#[test]
fn the_comparison_rejects() {
    let check = |found: f32, expected: f64| {
        let result = std::panic::catch_unwind(|| assert_close(&[found], &[expected], 1.0, ""));
        result.is_ok()
    };
    assert!(check(1.0, 1.0));
    assert!(check(1.0 + 5e-6, 1.0));
    assert!(!check(1.0 + 5e-5, 1.0));
    assert!(!check(f32::NAN, 1.0));
    let masks: Masks = vec![Some(Mask::from_fn(2, |idx| idx == 1))];
    let pruned = |value: f32| {
        let values = [vec![value, 1.0]];
        std::panic::catch_unwind(|| assert_pruned(&masks, &values, "")).is_ok()
    };
    assert!(pruned(0.0));
    assert!(!pruned(-0.0));
    assert!(!pruned(1e-30));
}
