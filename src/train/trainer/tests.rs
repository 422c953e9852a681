use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use super::*;
use crate::graph::Features;
use crate::graph::Graph;
use crate::graph::Role;
use crate::graph::models::ModelSpec;
use crate::graph::models::build;
use crate::tensor::Mask;
use crate::train::Objective;
use crate::train::Rule;
use crate::train::data::Augmentation;
use crate::train::data::DataSpec;
use crate::train::data::Normalisation;
use crate::train::data::Samples;
use crate::train::data::open;
use crate::train::engine::EngineError;
use crate::train::engine::Images;
use crate::train::engine::Masks;
use crate::train::engine::Optimizer;
use crate::train::engine::StepSeed;
use crate::train::engine::Update;
use crate::train::native::Native;
use crate::train::recipe::Average;
use crate::train::recipe::Fall;
use crate::train::recipe::Pace;

/// Softmax regression, `W x + b`: the smallest network, with no dependency.
struct Regression {
    graph: Graph,
    masks: Masks,
    weights: Weights,
    gradients: Vec<Vec<f32>>,
    optimizer: OptimizerState,
}

impl Regression {
    fn new(dataset: &Dataset, seed: u64, masks: Masks) -> Self {
        let mut spec = ModelSpec::new("mlp", dataset.image(), dataset.classes());
        spec.options.insert("hidden".to_owned(), "none".to_owned());
        let graph = build(&spec).unwrap();
        let mut engine = Self {
            weights: Weights::initial(&graph, seed),
            gradients: vec![Vec::new(); 2],
            optimizer: OptimizerState::default(),
            masks,
            graph,
        };
        let weights = engine.weights.clone();
        engine.set_weights(&weights).unwrap();
        engine
    }

    fn dense(dataset: &Dataset, seed: u64) -> Self {
        Self::new(dataset, seed, vec![None, None])
    }
}

impl Engine for Regression {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn predict(&mut self, images: Images<'_>) -> Result<Vec<f32>, EngineError> {
        let (inputs, classes) = (self.graph.input().numel(), self.graph.classes());
        let mut logits = Vec::new();
        for image in images.pixels.chunks_exact(inputs) {
            for class in 0..classes {
                let row = &self.weights.values[0][class * inputs..][..inputs];
                let sum: f32 = row.iter().zip(image).map(|(w, x)| w * x).sum();
                logits.push(sum + self.weights.values[1][class]);
            }
        }
        Ok(logits)
    }

    fn backpropagate(
        &mut self,
        images: Images<'_>,
        labels: &[u32],
        objective: &Objective,
        _seed: StepSeed,
    ) -> Result<Loss, EngineError> {
        let (inputs, classes) = (self.graph.input().numel(), self.graph.classes());
        let logits = self.predict(images)?;
        let (loss, errors) = objective.gradient(&logits, labels, classes);
        let (mut weight, mut bias) = (vec![0.0; inputs * classes], vec![0.0; classes]);
        for (image, errors) in images
            .pixels
            .chunks_exact(inputs)
            .zip(errors.chunks_exact(classes))
        {
            for (class, error) in errors.iter().enumerate() {
                bias[class] += error;
                for (slot, pixel) in weight[class * inputs..][..inputs].iter_mut().zip(image) {
                    *slot += error * pixel;
                }
            }
        }
        if let Some(mask) = &self.masks[0] {
            mask.apply(&mut weight);
        }
        self.gradients = vec![weight, bias];
        Ok(loss)
    }

    fn observe(&mut self, _images: Images<'_>, _factor: f64) -> Result<(), EngineError> {
        Ok(())
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        let all = self.gradients.iter().flatten();
        Ok(all
            .map(|&x| f64::from(x) * f64::from(x))
            .sum::<f64>()
            .sqrt())
    }

    fn gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        Ok(self.gradients.clone())
    }

    fn update(&mut self, update: &Update) -> Result<(), EngineError> {
        if self.optimizer.slots.is_empty() {
            let zeros = self.weights.values.iter();
            let zeros: Vec<Vec<f32>> = zeros.map(|values| vec![0.0; values.len()]).collect();
            self.optimizer.slots = vec![zeros; update.optimizer.slots()];
        }
        for (idx, values) in self.weights.values.iter_mut().enumerate() {
            let rule = Rule::new(update, self.graph.parameters[idx].role).unwrap();
            let slots = self.optimizer.slots.iter_mut();
            let mut slots: Vec<&mut [f32]> = slots.map(|slot| &mut slot[idx][..]).collect();
            let words = self.masks[idx].as_ref().map(Mask::words);
            rule.apply(values, &self.gradients[idx], &mut slots, words);
        }
        Ok(())
    }

    fn weights(&mut self) -> Result<Weights, EngineError> {
        Ok(self.weights.clone())
    }

    fn set_weights(&mut self, weights: &Weights) -> Result<(), EngineError> {
        self.weights = weights.clone();
        for (values, mask) in self.weights.values.iter_mut().zip(&self.masks) {
            if let Some(mask) = mask {
                mask.apply(values);
            }
        }
        Ok(())
    }

    fn optimizer_state(&mut self) -> Result<OptimizerState, EngineError> {
        Ok(self.optimizer.clone())
    }

    fn set_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), EngineError> {
        self.optimizer = state.clone();
        Ok(())
    }
}

/// Images of 2x3 pixels, of which the brightest tells the class.
fn dataset() -> Dataset {
    let image = Features {
        channels: 1,
        height: 2,
        width: 3,
    };
    let samples = |count: usize, purpose: &str| {
        let mut stream = Stream::named(0, "test", purpose);
        let labels: Vec<u32> = (0..count).map(|_| stream.below(6) as u32).collect();
        let pixels = labels
            .iter()
            .flat_map(|&label| (0..6).map(move |place| (label, place)))
            .map(|(label, place)| stream.below(160) as u8 + if label == place { 95 } else { 0 })
            .collect();
        Samples::new(Path::new("test"), image, 255, pixels, labels).unwrap()
    };
    Dataset {
        name: "brightest".to_owned(),
        class_names: (0..6).map(|class| class.to_string()).collect(),
        train: samples(107, "train"),
        test: samples(40, "test"),
        normalisation: Normalisation {
            mean: vec![0.4],
            deviation: vec![0.25],
        },
        augmentation: Augmentation {
            crop_padding: 1,
            flip: true,
        },
    }
}

/// 107 images less 11 that are held out: 96, which 20 leave in 5 steps.
fn recipe() -> Recipe {
    Recipe {
        epochs: 4,
        batch_size: 20,
        augmentation: Augmentation {
            crop_padding: 0,
            flip: true,
        },
        label_smoothing: 0.1,
        seed: 3,
        ..Recipe::default()
    }
}

/// Keeps what happened, and interrupts or fails where it is told to.
#[derive(Default)]
struct Record {
    steps: Vec<StepReport>,
    epochs: Vec<EpochReport>,
    saved: Vec<State>,
    save_every: Option<u64>,
    interrupt_at: Option<u64>,
    fail_at: Option<u64>,
}

impl Record {
    fn fit(
        &mut self,
        engine: &mut dyn Engine,
        recipe: &Recipe,
        state: Option<&State>,
    ) -> Result<Outcome, FitError> {
        let dataset = dataset();
        let plan = Plan::new(&dataset, recipe)?;
        let flag = AtomicBool::new(false);
        let mut watch = Interrupting {
            record: self,
            flag: &flag,
        };
        fit(engine, &plan, state, &mut watch, &flag)
    }
}

struct Interrupting<'a> {
    record: &'a mut Record,
    flag: &'a AtomicBool,
}

impl Watch for Interrupting<'_> {
    fn watch(&mut self, event: Event<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match event {
            Event::Step(report) => {
                self.record.steps.push(*report);
                if self.record.interrupt_at == Some(report.step) {
                    self.flag.store(true, Ordering::Relaxed);
                }
                if self.record.fail_at == Some(report.step) {
                    return Err("the disk is full".into());
                }
            }
            Event::Epoch(report) => self.record.epochs.push(*report),
            Event::Save(state) => self.record.saved.push(state.clone()),
        }
        Ok(())
    }

    fn saves_at(&self, step: u64, _steps_per_epoch: u64) -> bool {
        let every = self.record.save_every;
        every.is_some_and(|every| step.is_multiple_of(every))
    }
}

fn done(outcome: Outcome) -> Weights {
    match outcome {
        Outcome::Done(weights) => weights,
        Outcome::Interrupted(state) => panic!("interrupted at {}", state.step),
    }
}

/// Recipes that use everything that a state must remember.
fn recipes() -> Vec<Recipe> {
    let plain = recipe();
    let clipped = Recipe {
        clip_norm: Some(0.3),
        average: Average::Ema { decay: 0.9 },
        ..recipe()
    };
    let averaged = Recipe {
        optimizer: Optimizer::AdamW {
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
        },
        average: Average::Swa { start: 1 },
        pace: Pace::Curve {
            learning_rate: 0.01,
            shape: Fall::Linear,
            warmup_epochs: 0.5,
        },
        ..recipe()
    };
    vec![plain, clipped, averaged]
}

#[test]
fn it_learns_and_reports_what_happened() {
    let dataset = dataset();
    let mut engine = Regression::dense(&dataset, 3);
    let mut record = Record::default();
    // A mirrored image is of another class here.
    let recipe = Recipe {
        augmentation: Augmentation::default(),
        ..recipe()
    };
    let weights = done(record.fit(&mut engine, &recipe, None).unwrap());
    assert_eq!(engine.weights, weights);
    let steps: Vec<u64> = record.steps.iter().map(|report| report.step).collect();
    assert_eq!(steps, (1..=20).collect::<Vec<_>>());
    let epochs: Vec<u64> = record.steps.iter().map(|report| report.epoch).collect();
    assert_eq!(epochs[..6], [0, 0, 0, 0, 0, 1]);
    let samples: Vec<u64> = record.steps.iter().map(|step| step.loss.samples).collect();
    assert_eq!(samples[..5], [20, 20, 20, 20, 16]);
    let plan_rates = recipe.rates(5).unwrap();
    for report in &record.steps {
        assert_eq!(report.learning_rate, plan_rates.rate(report.step - 1));
        assert_eq!(report.gradient_norm, None);
    }
    assert_eq!(record.epochs.len(), 4);
    for (idx, epoch) in record.epochs.iter().enumerate() {
        let steps = &record.steps[5 * idx..][..5];
        let sum: f64 = steps.iter().map(|step| step.loss.sum).sum();
        assert_eq!((epoch.train.sum, epoch.train.samples), (sum, 96));
        assert_eq!(
            (epoch.epoch, epoch.step),
            (idx as u64 + 1, 5 * (idx as u64 + 1))
        );
        assert_eq!(epoch.validation.unwrap().samples, 11);
    }
    let last = record.epochs[3];
    assert!(last.train.accuracy() > 0.7, "{last:?}");
    assert!(last.train.mean() < record.epochs[0].train.mean());
    // What was measured is what the weights give.
    let assembler = crate::train::data::Assembler::new(&dataset.train, &dataset.normalisation);
    let plan = Plan::new(&dataset, &recipe).unwrap();
    let held_out = &plan.split().validation;
    let measured = measure(
        &mut engine,
        &assembler,
        held_out,
        3,
        &AtomicBool::new(false),
    );
    assert_eq!(
        measured.unwrap().unwrap().correct,
        last.validation.unwrap().correct
    );
    let stopped = measure(&mut engine, &assembler, held_out, 3, &AtomicBool::new(true));
    assert_eq!(stopped.unwrap(), None);
}

#[test]
fn every_state_continues_to_the_same_bits() {
    let dataset = dataset();
    for recipe in recipes() {
        let mut record = Record {
            save_every: Some(1),
            ..Record::default()
        };
        let mut engine = Regression::dense(&dataset, 3);
        let expected = done(record.fit(&mut engine, &recipe, None).unwrap());
        // After the last step there is the outcome itself.
        assert_eq!(record.saved.len(), 19);
        for state in &record.saved {
            // Another start must not matter.
            let mut engine = Regression::dense(&dataset, 99);
            let mut resumed = Record::default();
            let found = done(resumed.fit(&mut engine, &recipe, Some(state)).unwrap());
            assert_eq!(found, expected, "from step {}", state.step);
            assert_eq!(resumed.steps, record.steps[state.step as usize..]);
            let epochs = record.epochs.len() - resumed.epochs.len();
            assert_eq!(resumed.epochs, record.epochs[epochs..]);
        }
    }
}

#[test]
fn an_interruption_loses_nothing() {
    let dataset = dataset();
    for recipe in recipes() {
        let mut uninterrupted = Record::default();
        let mut engine = Regression::dense(&dataset, 3);
        let expected = done(uninterrupted.fit(&mut engine, &recipe, None).unwrap());
        for at in 1..=20 {
            let mut record = Record {
                interrupt_at: Some(at),
                ..Record::default()
            };
            let mut engine = Regression::dense(&dataset, 3);
            let outcome = record.fit(&mut engine, &recipe, None).unwrap();
            let Outcome::Interrupted(state) = outcome else {
                panic!("not interrupted at {at}");
            };
            assert_eq!(state.step, at);
            record.interrupt_at = None;
            let mut engine = Regression::dense(&dataset, 99);
            let found = done(record.fit(&mut engine, &recipe, Some(&state)).unwrap());
            assert_eq!(found, expected, "from step {at}");
            assert_eq!(record.steps, uninterrupted.steps);
            assert_eq!(record.epochs, uninterrupted.epochs);
        }
    }
}

#[test]
fn pruned_weights_are_plus_zero_at_every_step() {
    let dataset = dataset();
    let mask = Mask::from_fn(36, |idx| idx % 3 == 0);
    for recipe in recipes() {
        let mut engine = Regression::new(&dataset, 3, vec![Some(mask.clone()), None]);
        let mut record = Record {
            save_every: Some(1),
            ..Record::default()
        };
        let outcome = done(record.fit(&mut engine, &recipe, None).unwrap());
        let mut n_seen = 0;
        let mut check = |values: &[f32]| {
            n_seen += 1;
            for (idx, value) in values.iter().enumerate() {
                assert_eq!(value.to_bits() == 0, idx % 3 != 0, "{idx}");
            }
        };
        check(&outcome.values[0]);
        for state in &record.saved {
            check(&state.weights.values[0]);
            for slot in &state.optimizer.slots {
                check(&slot[0]);
            }
            if let Some(average) = state.average.values.first() {
                let narrowed: Vec<f32> = average.iter().map(|&value| value as f32).collect();
                check(&narrowed);
            }
        }
        assert!(n_seen > 38);
    }
}

#[test]
fn averages_are_those_of_the_weights_along_the_way() {
    let dataset = dataset();
    let fit = |average| {
        let mut record = Record {
            save_every: Some(1),
            ..Record::default()
        };
        let recipe = Recipe {
            average,
            ..recipe()
        };
        let mut engine = Regression::dense(&dataset, 3);
        let outcome = done(record.fit(&mut engine, &recipe, None).unwrap());
        assert_eq!(engine.weights, outcome);
        let weights = record.saved.into_iter().map(|state| state.weights);
        (outcome, weights.collect::<Vec<_>>())
    };
    let (last, mut path) = fit(Average::None);
    path.push(last);
    let (swa, swa_path) = fit(Average::Swa { start: 1 });
    assert_eq!(path[..19], swa_path);
    let (ema, _) = fit(Average::Ema { decay: 0.5 });
    for coordinate in 0..36 {
        let along = |step: usize| f64::from(path[step - 1].values[0][coordinate]);
        let mean = (along(10) + along(15) + along(20)) / 3.0;
        assert!((f64::from(swa.values[0][coordinate]) - mean).abs() < 1e-6);
        let mut expected = along(1);
        for step in 2..=20 {
            let seen = (step - 1) as f64;
            let kept = f64::min(0.5, (1.0 + seen) / (10.0 + seen));
            expected = kept * expected + (1.0 - kept) * along(step);
        }
        assert!((f64::from(ema.values[0][coordinate]) - expected).abs() < 1e-6);
    }
    assert_ne!(swa, ema);
}

#[test]
fn long_gradients_are_cut_to_the_norm() {
    let dataset = dataset();
    // Without momentum and decay, a step is as long as its gradient times its rate.
    let fit = |clip_norm| {
        let recipe = Recipe {
            epochs: 1,
            optimizer: Optimizer::Sgd {
                momentum: 0.0,
                nesterov: false,
            },
            pace: Pace::Curve {
                learning_rate: 1.0,
                shape: Fall::Constant,
                warmup_epochs: 0.0,
            },
            weight_decay: 0.0,
            clip_norm,
            ..recipe()
        };
        let mut record = Record {
            save_every: Some(1),
            ..Record::default()
        };
        let mut engine = Regression::dense(&dataset, 3);
        let before = engine.weights.clone();
        done(record.fit(&mut engine, &recipe, None).unwrap());
        let pairs = before.values.iter().flatten();
        let pairs = pairs.zip(record.saved[0].weights.values.iter().flatten());
        let squares = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        (squares.sum::<f64>().sqrt(), record.steps[0].gradient_norm)
    };
    let (length, norm) = fit(None);
    assert_eq!(norm, None);
    let (clipped, norm) = fit(Some(0.25));
    assert!((norm.unwrap() - length).abs() < 1e-5 && length > 0.3);
    assert!((clipped - 0.25).abs() < 1e-5, "{clipped}");
    let (unclipped, _) = fit(Some(100.0));
    assert!((unclipped - length).abs() < 1e-6);
}

#[test]
fn a_limit_draws_the_same_images_for_every_seed() {
    let dataset = dataset();
    let split = |seed, limit_train| {
        let recipe = Recipe {
            seed,
            limit_train,
            ..recipe()
        };
        Plan::new(&dataset, &recipe).unwrap().split().clone()
    };
    let limited = split(1, Some(30));
    assert_eq!(limited, split(2, Some(30)));
    let all = split(1, None);
    assert_eq!(limited.validation, all.validation);
    assert_eq!((limited.train.len(), all.train.len()), (30, 96));
    assert!(limited.train.iter().all(|idx| all.train.contains(idx)));
    assert_ne!(limited.train, all.train[..30]);
    assert_eq!(split(1, Some(1000)), all);
}

#[test]
fn what_goes_wrong_is_named() {
    let dataset = dataset();
    let check = |recipe: &Recipe, engine: &mut Regression, record: &mut Record, expected: &str| {
        let error = record.fit(engine, recipe, None).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    };
    let mut engine = Regression::dense(&dataset, 3);
    let wild = Recipe {
        pace: Pace::Curve {
            learning_rate: 1e38,
            shape: Fall::Constant,
            warmup_epochs: 0.2,
        },
        ..recipe()
    };
    check(
        &wild,
        &mut engine,
        &mut Record::default(),
        "the loss became NaN at step 4 (epoch 1), learning rate 1",
    );
    let mut engine = Regression::dense(&dataset, 3);
    let mut record = Record {
        fail_at: Some(7),
        ..Record::default()
    };
    check(
        &recipe(),
        &mut engine,
        &mut record,
        "training stopped at step 7",
    );
    engine.graph.nodes[0].output.width = 4;
    check(
        &recipe(),
        &mut engine,
        &mut Record::default(),
        "the network takes 8 numbers per image and tells 6 classes apart, but the data set has 6 \
         and 6",
    );
    let mut engine = Regression::dense(&dataset, 3);
    let empty = Recipe {
        epochs: 0,
        ..recipe()
    };
    check(
        &empty,
        &mut engine,
        &mut Record::default(),
        "the recipe cannot be followed",
    );
}

/// A small network with batch norm on the digits, in the engine that is meant for it.
fn native(digits: &Dataset, masks: &Masks, n_threads: usize) -> Native {
    let graph = convnet(digits);
    let weights = Weights::initial(&graph, 1);
    Native::new(graph, &weights, masks.clone(), n_threads).unwrap()
}

fn convnet(digits: &Dataset) -> Graph {
    let mut spec = ModelSpec::new("convnet", digits.image(), digits.classes());
    spec.options.insert("widths".to_owned(), "4,8".to_owned());
    build(&spec).unwrap()
}

#[test]
fn the_native_engine_keeps_masks_bits_and_states() {
    let digits = open(&DataSpec::default()).unwrap();
    let graph = convnet(&digits);
    let masks: Masks = graph
        .parameters
        .iter()
        .map(|parameter| {
            let numel = parameter.shape.numel() as usize;
            (parameter.role == Role::Weight).then(|| Mask::from_fn(numel, |idx| idx % 4 == 1))
        })
        .collect();
    for mut recipe in recipes() {
        recipe.limit_train = Some(170);
        recipe.epochs = 2;
        recipe.average = match recipe.average {
            Average::Swa { .. } => Average::Swa { start: 1 },
            other => other,
        };
        recipe.batch_size = 48;
        let plan = Plan::new(&digits, &recipe).unwrap();
        assert_eq!(plan.steps(), 8);
        let run = |n_threads, state: Option<&State>| {
            let mut record = Record {
                save_every: Some(1),
                ..Record::default()
            };
            let flag = AtomicBool::new(false);
            let mut watch = Interrupting {
                record: &mut record,
                flag: &flag,
            };
            let mut engine = native(&digits, &masks, n_threads);
            let outcome = fit(&mut engine, &plan, state, &mut watch, &flag).unwrap();
            (done(outcome), record.saved)
        };
        let (outcome, saved) = run(1, None);
        assert_eq!((&outcome, &saved), (&run(2, None).0, &run(3, None).1));
        for state in &saved {
            let slots = state.optimizer.slots.iter();
            for values in slots.chain([&state.weights.values, &outcome.values]) {
                for (values, mask) in values.iter().zip(&masks) {
                    let Some(mask) = mask else { continue };
                    for (idx, value) in values.iter().enumerate() {
                        assert!(mask.is_retained(idx) || value.to_bits() == 0);
                    }
                }
            }
        }
        for state in saved.iter().step_by(3) {
            let (found, _) = run(2, Some(state));
            assert_eq!(found, outcome, "from step {}", state.step);
        }
    }
}
