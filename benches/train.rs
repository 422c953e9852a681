//! How long does a training step take, beside torch's in the same run, and how does it
//! fall with sparsity?
//!
//! `cargo bench --bench train`; `SMS_MERGE_PYTHON` names a Python that has torch (without
//! it, only our own times are shown). Arguments name models; default: all.
//! Times are the best of several steps of batch 128, two threads, and the best of five
//! rounds in which both programs take turns. The steps are tested against torch's in
//! tests/torch_step.rs.

use std::env;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use sms_merge::graph::Features;
use sms_merge::graph::Graph;
use sms_merge::graph::Role;
use sms_merge::graph::models;
use sms_merge::graph::models::ModelSpec;
use sms_merge::tensor::Mask;
use sms_merge::tensor::Stream;
use sms_merge::train::Objective;
use sms_merge::train::Weights;
use sms_merge::train::engine::Decay;
use sms_merge::train::engine::Engine;
use sms_merge::train::engine::Images;
use sms_merge::train::engine::Optimizer;
use sms_merge::train::engine::StepSeed;
use sms_merge::train::engine::Update;
use sms_merge::train::native::Native;

const SAMPLES: usize = 128;
const STEPS: usize = 8;
const ROUNDS: usize = 5;
const THREADS: usize = 2;
const SPARSITIES: [f64; 5] = [0.0, 0.8, 0.9, 0.95, 0.98];

/// Names, their models, options and input.
const MODELS: &[(&str, &str, &[(&str, &str)], [usize; 3])] = &[
    ("lenet5", "lenet5", &[], [1, 28, 28]),
    ("mlp-300-100", "mlp", &[("hidden", "300,100")], [1, 28, 28]),
    (
        "mlp-2048-2048",
        "mlp",
        &[("hidden", "2048,2048")],
        [1, 28, 28],
    ),
    ("resnet8", "resnet8", &[], [3, 32, 32]),
    ("resnet20", "resnet20", &[], [3, 32, 32]),
];

fn main() {
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let mut torch = Torch::start();
    println!(
        "{:<14} {:>8} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7}  buffers MB",
        "model", "sparsity", "step ms", "torch ms", "ratio", "eval ms", "torch ms", "ratio"
    );
    for (name, model, options, [channels, height, width]) in MODELS {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == name) {
            continue;
        }
        let input = Features {
            channels: *channels,
            height: *height,
            width: *width,
        };
        let mut spec = ModelSpec::new(model, input, 10);
        for (key, value) in *options {
            spec.options.insert((*key).to_owned(), (*value).to_owned());
        }
        let graph = models::build(&spec).expect("a model of the table");
        let mut engines: Vec<Bench> = SPARSITIES.iter().map(|&s| Bench::new(&graph, s)).collect();
        let mut best = vec![(f64::MAX, f64::MAX); engines.len()];
        let mut theirs = (f64::MAX, f64::MAX);
        for _ in 0..ROUNDS {
            for (engine, best) in engines.iter_mut().zip(&mut best) {
                best.0 = best.0.min(fastest(|| engine.step()));
                best.1 = best.1.min(fastest(|| engine.predict()));
            }
            if let Some((step, eval)) = torch.as_mut().map(|torch| torch.run(name)) {
                theirs = (theirs.0.min(step), theirs.1.min(eval));
            }
        }
        for ((engine, best), sparsity) in engines.iter().zip(best).zip(SPARSITIES) {
            println!(
                "{name:<14} {sparsity:>8} {:>9.2} {:>9.2} {:>7.2} {:>9.2} {:>9.2} {:>7.2}  {:.0}",
                best.0,
                theirs.0,
                best.0 / theirs.0,
                best.1,
                theirs.1,
                best.1 / theirs.1,
                engine.engine.buffer_bytes() as f64 / 1e6,
            );
        }
    }
}

/// An engine and a batch of noise.
struct Bench {
    engine: Native,
    pixels: Vec<f32>,
    labels: Vec<u32>,
    step: u64,
}

impl Bench {
    fn new(graph: &Graph, sparsity: f64) -> Self {
        let weights = Weights::initial(graph, 0);
        let masks = graph.parameters.iter().map(|parameter| {
            let mut stream = Stream::named(1, "bench", &parameter.name);
            let numel = parameter.shape.numel() as usize;
            (parameter.role == Role::Weight && sparsity > 0.0)
                .then(|| Mask::from_fn(numel, |_| stream.uniform() >= sparsity))
        });
        let engine = Native::new(graph.clone(), &weights, masks.collect(), THREADS);
        let mut stream = Stream::named(2, "bench", "pixels");
        let numel = SAMPLES * graph.input().numel();
        Self {
            engine: engine.expect("threads"),
            pixels: (0..numel)
                .map(|_| (stream.uniform() * 4.0 - 2.0) as f32)
                .collect(),
            labels: (0..SAMPLES).map(|_| stream.below(10) as u32).collect(),
            step: 0,
        }
    }

    fn images(pixels: &[f32]) -> Images<'_> {
        Images {
            pixels,
            samples: SAMPLES,
        }
    }

    fn step(&mut self) {
        let seed = StepSeed {
            seed: 0,
            step: self.step,
        };
        let images = Self::images(&self.pixels);
        let loss = self
            .engine
            .backpropagate(images, &self.labels, &Objective::default(), seed)
            .expect("a batch of the network's shape");
        assert!(loss.sum.is_finite(), "the loss is a number");
        let update = Update {
            optimizer: Optimizer::Sgd {
                momentum: 0.9,
                nesterov: true,
            },
            learning_rate: 0.01,
            weight_decay: 5e-4,
            decay: Decay::All,
            gradient_scale: 1.0,
            step: self.step,
        };
        self.engine.update(&update).expect("an update");
        self.step += 1;
    }

    fn predict(&mut self) {
        let images = Self::images(&self.pixels);
        let logits = self.engine.predict(images).expect("a batch");
        assert_eq!(logits.len(), SAMPLES * 10);
    }
}

/// Milliseconds of the fastest of some runs.
fn fastest(mut work: impl FnMut()) -> f64 {
    work();
    (0..STEPS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        })
        .fold(f64::MAX, f64::min)
}

/// torch, waiting for models to time.
struct Torch {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Torch {
    fn start() -> Option<Self> {
        let Some(python) = env::var_os("SMS_MERGE_PYTHON") else {
            println!("SMS_MERGE_PYTHON is not set: torch is not timed");
            return None;
        };
        let mut process = Command::new(python)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/benches/train_torch.py"
            ))
            .arg(THREADS.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let lines = BufReader::new(process.stdout.take().expect("a pipe"));
        Some(Self { process, lines })
    }

    /// Milliseconds of a training step and of an evaluation.
    fn run(&mut self, model: &str) -> (f64, f64) {
        let stdin = self.process.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{model} {SAMPLES} {STEPS}").expect("torch listens");
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("torch answers");
        let mut numbers = line
            .split_whitespace()
            .map(|word| word.parse().expect("a number"));
        let mut next = || numbers.next().expect("three numbers");
        (next(), next())
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().ok();
    }
}
