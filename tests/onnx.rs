//! Exported models against other programs: onnx's checker, onnxruntime and OpenVINO load
//! them, and give the logits of our own evaluation.
//!
//! The programs are Python packages (`tests/onnx/requirements.txt`). Where they are
//! missing the tests print that they are skipped, and fail under
//! `SMS_MERGE_REQUIRE_PYTHON=1`. `SMS_MERGE_PYTHON` names the interpreter.

#![cfg(feature = "train")]
#![expect(unreachable_pub, reason = "modules of a test have no other users")]

mod python;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use half::bf16;
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde_json::json;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DataTarget;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::Observer;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::export::onnx::BatchNorms;
use sms_merge::export::onnx::Encoding;
use sms_merge::export::onnx::OnnxExport;
use sms_merge::export::onnx::OnnxOptions;
use sms_merge::export::onnx::Output;
use sms_merge::export::onnx::Payloads;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::format::replace::Target;
use sms_merge::graph::Description;
use sms_merge::graph::Graph;
use sms_merge::graph::Parameter;
use sms_merge::graph::Role;
use sms_merge::graph::Syntax;
use sms_merge::graph::models;
use sms_merge::graph::models::ModelSpec;
use sms_merge::tensor::Stream;
use sms_merge::train::Weights;
use sms_merge::train::engine::Engine;
use sms_merge::train::engine::Images;
use sms_merge::train::native::Native;
use tempfile::TempDir;

/// Largest difference of a logit, relative to the largest one: single precision sums in
/// other orders. Weights in F16 and BF16 are widened without error, so it is theirs too.
const TOLERANCE: f64 = 1e-5;

/// Images of a batch.
const SAMPLES: usize = 3;

/// Packages of the scripts.
const PACKAGES: [&str; 5] = ["numpy", "onnx", "onnxruntime", "openvino", "safetensors"];

const ALL: [&str; 4] = ["checker", "full_check", "onnxruntime", "openvino"];

/// Readers of sparse initialisers: shape inference and OpenVINO know none.
const OF_SPARSE: [&str; 2] = ["checker", "onnxruntime"];

/// Runs a script beside this file and reads what it prints.
fn run<T: for<'de> Deserialize<'de>>(python: &Path, script: &str, argument: &Path) -> T {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/onnx")
        .join(script);
    let output = Command::new(python)
        .arg(script)
        .arg(argument)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect(&errors)
}

/// How the weights of a checkpoint are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Store {
    F32,
    F16,
    Bf16,
    F64,
    /// F32 as `nn.utils.prune` writes: a mask beside weights that are not zero off it,
    /// with weights on it that are.
    TorchPrune,
}

/// Everything that is exported, and a directory that holds it.
struct Exports {
    directory: TempDir,
    entries: Vec<serde_json::Value>,
    labels: Vec<String>,
}

/// A network, its checkpoint, images and logits.
struct Subject {
    graph: Graph,
    label: String,
    checkpoint: PathBuf,
    images: PathBuf,
    logits: PathBuf,
    probabilities: PathBuf,
}

impl Exports {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            entries: Vec::new(),
            labels: Vec::new(),
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A checkpoint with random weights of which `sparsity` is pruned.
    fn subject(&self, graph: &Graph, label: &str, store: Store, sparsity: f64) -> Subject {
        let label = format!("{label} {store:?} {sparsity}");
        let stem = label.replace(['/', ' '], "_");
        let plain = self.file(
            &format!("{stem}.plain.st"),
            &checkpoint(graph, sparsity, store),
        );
        let weights = Checkpoint::open(&plain, &OpenOptions::default()).unwrap();
        let weights = Weights::read(graph, &weights).unwrap();
        let pixels = stream_of("images", SAMPLES * graph.input().numel());
        let masks = vec![None; graph.parameters.len()];
        let logits = Native::new(graph.clone(), &weights, masks, 1)
            .unwrap()
            .predict(Images {
                pixels: &pixels,
                samples: SAMPLES,
            })
            .unwrap();
        let stored = match store {
            Store::TorchPrune => {
                let bytes = torch_prune(graph, sparsity);
                self.file(&format!("{stem}.torch.st"), &bytes)
            }
            _ => plain,
        };
        let probabilities: Vec<f32> = logits.chunks(graph.classes()).flat_map(softmax).collect();
        Subject {
            checkpoint: stored,
            images: self.file(&format!("{stem}.images"), &bytes_of(&pixels)),
            logits: self.file(&format!("{stem}.logits"), &bytes_of(&logits)),
            probabilities: self.file(&format!("{stem}.softmax"), &bytes_of(&probabilities)),
            graph: graph.clone(),
            label,
        }
    }

    /// Exports a subject; `readers` must give its logits.
    fn add(&mut self, subject: &Subject, options: &OnnxOptions, readers: &[&str]) {
        let label = format!(
            "{} {} {:?} {:?} {:?}",
            subject.label,
            options.encoding.name(),
            options.batch_norms,
            options.output,
            options.payloads
        );
        let name = format!("{}.onnx", self.entries.len());
        let path = self.directory.path().join(&name);
        let mut options = options.clone();
        if let Payloads::File { name: file } = &mut options.payloads {
            *file = format!("{name}.data");
        }
        let checkpoint = Checkpoint::open(&subject.checkpoint, &OpenOptions::default()).unwrap();
        let ingredients =
            Ingredients::join(vec![checkpoint], None, DtypeRule::AnyFloat, |_| true).unwrap();
        let never = AtomicBool::new(false);
        let observer = Observer {
            advance: &|_| {},
            interrupted: &never,
        };
        let export = OnnxExport::plan(&subject.graph, &ingredients, &options, observer).unwrap();
        let target = Target::for_file(&path, Existing::Refuse).unwrap();
        let data = DataTarget::beside(&target, Existing::Refuse).unwrap();
        let bytes = export
            .write(&target, Some(&data), Durability::Unsynced, observer)
            .unwrap();
        if options.payloads == Payloads::Inside {
            let size = export
                .sizes()
                .iter()
                .find(|size| size.0 == options.encoding);
            assert_eq!(size.unwrap().1, bytes, "{label}");
            assert_eq!(fs::metadata(&path).unwrap().len(), bytes, "{label}");
        }
        let input = subject.graph.input();
        let mut shape = vec![SAMPLES, input.channels];
        if input.pixels() > 1 {
            shape.extend([input.height, input.width]);
        }
        let expected = match options.output {
            Output::Logits => &subject.logits,
            Output::Probabilities => &subject.probabilities,
        };
        self.entries.push(json!({
            "path": path,
            "images": subject.images,
            "shape": shape,
            "logits": expected,
            "classes": subject.graph.classes(),
            "readers": readers,
        }));
        self.labels.push(label);
    }

    /// Exports a subject in every encoding.
    fn add_encodings(&mut self, subject: &Subject, options: &OnnxOptions) {
        for encoding in Encoding::ALL {
            let readers = match encoding {
                Encoding::SparseInitializer => OF_SPARSE.as_slice(),
                _ => &ALL,
            };
            let options = OnnxOptions {
                encoding,
                ..options.clone()
            };
            self.add(subject, &options, readers);
        }
    }

    /// Has everything read.
    fn check(self, python: &Path) {
        let manifest = serde_json::to_vec(&self.entries).unwrap();
        let manifest = self.file("manifest.json", &manifest);
        let report: Report = run(python, "readers.py", &manifest);
        println!("{:?}", report.versions);
        assert_eq!(report.results.len(), self.entries.len());
        let mut faults = Vec::new();
        let mut largest = BTreeMap::new();
        for (label, readers) in self.labels.iter().zip(&report.results) {
            for (reader, found) in readers {
                match found {
                    Found::Difference(difference) if *difference <= TOLERANCE => {
                        let largest: &mut f64 = largest.entry(reader).or_default();
                        *largest = largest.max(*difference);
                    }
                    found => faults.push(format!("{label}: {reader}: {found:?}")),
                }
            }
        }
        assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
        println!(
            "{} models; largest differences {largest:?}",
            self.entries.len()
        );
    }
}

/// What `readers.py` prints.
#[derive(Deserialize)]
struct Report {
    versions: BTreeMap<String, String>,
    results: Vec<BTreeMap<String, Found>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Found {
    Difference(f64),
    Error(#[expect(dead_code, reason = "shown")] String),
}

/// Numbers in [-1, 1).
fn stream_of(name: &str, numel: usize) -> Vec<f32> {
    let mut stream = Stream::named(1, "onnx", name);
    (0..numel)
        .map(|_| (2.0 * stream.uniform() - 1.0) as f32)
        .collect()
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let powers: Vec<f64> = logits
        .iter()
        .map(|logit| f64::from(logit - largest).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / sum) as f32).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// What a parameter holds, before it is pruned.
fn values(parameter: &Parameter) -> Vec<f32> {
    let numel = parameter.shape.numel() as usize;
    let (scale, shift) = match parameter.role {
        Role::BatchCount => return Vec::new(),
        Role::Weight => {
            let fan_in = numel as f32 / parameter.shape.dims()[0] as f32;
            ((6.0 / fan_in).sqrt(), 0.0)
        }
        Role::Scale | Role::RunningVariance => (0.5, 1.0),
        Role::Bias | Role::Shift | Role::RunningMean => (0.1, 0.0),
    };
    let values = stream_of(&parameter.name, numel);
    values
        .into_iter()
        .map(|value| shift + scale * value)
        .collect()
}

/// Which elements of a parameter are retained.
fn mask(parameter: &Parameter, sparsity: f64) -> Vec<bool> {
    let numel = parameter.shape.numel() as usize;
    if parameter.role != Role::Weight {
        return vec![true; numel];
    }
    let mut stream = Stream::named(2, "onnx", &parameter.name);
    (0..numel).map(|_| stream.uniform() >= sparsity).collect()
}

/// A checkpoint with zeros off the mask.
fn checkpoint(graph: &Graph, sparsity: f64, store: Store) -> Vec<u8> {
    let tensors = graph.parameters.iter().map(|parameter| {
        let mut values = values(parameter);
        for ((index, value), retained) in
            values.iter_mut().enumerate().zip(mask(parameter, sparsity))
        {
            let is_zeroed = store == Store::TorchPrune && is_zeroed(parameter, index);
            if !retained || is_zeroed {
                *value = 0.0;
            }
        }
        let (dtype, bytes) = stored(&values, store);
        (parameter, parameter.name.clone(), dtype, bytes)
    });
    serialize(tensors.collect())
}

/// Every seventh weight is zero though it is retained.
fn is_zeroed(parameter: &Parameter, index: usize) -> bool {
    parameter.role == Role::Weight && index.is_multiple_of(7)
}

/// The same checkpoint with masks beside weights that are not pruned.
fn torch_prune(graph: &Graph, sparsity: f64) -> Vec<u8> {
    let mut tensors = Vec::new();
    for parameter in &graph.parameters {
        let mut values = values(parameter);
        let mask = mask(parameter, sparsity);
        for (index, value) in values.iter_mut().enumerate() {
            if mask[index] && is_zeroed(parameter, index) {
                *value = 0.0;
            }
        }
        let name = &parameter.name;
        if parameter.role == Role::Weight {
            let flags: Vec<f32> = mask
                .iter()
                .map(|&retained| f32::from(u8::from(retained)))
                .collect();
            tensors.push((
                parameter,
                format!("{name}_orig"),
                Dtype::F32,
                bytes_of(&values),
            ));
            tensors.push((
                parameter,
                format!("{name}_mask"),
                Dtype::F32,
                bytes_of(&flags),
            ));
        } else {
            tensors.push((parameter, name.clone(), Dtype::F32, bytes_of(&values)));
        }
    }
    serialize(tensors)
}

fn stored(values: &[f32], store: Store) -> (Dtype, Vec<u8>) {
    let all = values.iter();
    match store {
        Store::F32 | Store::TorchPrune => (Dtype::F32, bytes_of(values)),
        Store::F16 => (
            Dtype::F16,
            all.flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect(),
        ),
        Store::Bf16 => (
            Dtype::BF16,
            all.flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
        ),
        Store::F64 => (
            Dtype::F64,
            all.flat_map(|&value| (f64::from(value) * 1.000_000_01).to_le_bytes())
                .collect(),
        ),
    }
}

fn serialize(tensors: Vec<(&Parameter, String, Dtype, Vec<u8>)>) -> Vec<u8> {
    let count = 7_i64.to_le_bytes();
    let views = tensors.iter().map(|(parameter, name, dtype, bytes)| {
        let dims = parameter.shape.dims().iter();
        let dims = dims.map(|&dim| dim as usize).collect();
        let view = match parameter.role {
            Role::BatchCount => TensorView::new(Dtype::I64, dims, &count),
            _ => TensorView::new(*dtype, dims, bytes),
        };
        (name.clone(), view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn build(model: &str, input: &str, options: &[(&str, &str)]) -> (Graph, String) {
    let mut spec = ModelSpec::new(model, input.parse().unwrap(), 10);
    for (name, value) in options {
        spec.options.insert((*name).to_owned(), (*value).to_owned());
    }
    let graph = models::build(&spec).unwrap();
    (graph, format!("{model} {options:?}"))
}

/// Every family, as small as it goes.
fn families() -> Vec<(Graph, String)> {
    vec![
        build("mlp", "1x8x8", &[("hidden", "40,20")]),
        build("mlp", "30", &[("hidden", "none")]),
        build("lenet5", "1x28x28", &[]),
        build("convnet", "3x9x8", &[("widths", "5,7")]),
        build("resnet8", "3x15x17", &[("width", "5")]),
        build("resnet20", "3x16x16", &[("width", "8")]),
        build("resnet20", "3x16x16", &[("shortcut", "B"), ("width", "8")]),
        build("resnet56", "3x8x8", &[("width", "4")]),
        build("resnet18", "3x64x64", &[("width", "8")]),
        build("resnet18", "1x16x16", &[("stem", "cifar"), ("width", "8")]),
        build("vgg16-bn", "3x32x32", &[("width", "4")]),
        build("wideresnet20", "3x16x16", &[("width", "1")]),
    ]
}

#[test]
fn every_family_has_our_logits_in_every_encoding() {
    let Some(python) = python::with(&PACKAGES) else {
        return;
    };
    let mut exports = Exports::new();
    for (graph, label) in families() {
        let dense = exports.subject(&graph, &label, Store::F32, 0.0);
        exports.add(&dense, &OnnxOptions::default(), &ALL);
        let pruned = exports.subject(&graph, &label, Store::F32, 0.9);
        exports.add_encodings(&pruned, &OnnxOptions::default());
    }
    exports.check(&python);
}

#[test]
fn other_logits_are_noticed() {
    let Some(python) = python::with(&PACKAGES) else {
        return;
    };
    let mut exports = Exports::new();
    let (graph, label) = build("mlp", "30", &[("hidden", "none")]);
    let mut subject = exports.subject(&graph, &label, Store::F32, 0.5);
    for logit in [1.001, f32::NAN] {
        let mut logits = fs::read(&subject.logits).unwrap();
        let first = f32::from_le_bytes(logits[..4].try_into().unwrap());
        logits[..4].copy_from_slice(&(first * logit).to_le_bytes());
        subject.logits = exports.file(&format!("{logit}.logits"), &logits);
        exports.add(
            &subject,
            &OnnxOptions::default(),
            &["onnxruntime", "openvino"],
        );
    }
    let manifest = serde_json::to_vec(&exports.entries).unwrap();
    let manifest = exports.file("manifest.json", &manifest);
    let report: Report = run(&python, "readers.py", &manifest);
    let found = report.results.iter().flat_map(BTreeMap::values);
    let noticed = |found: &Found| matches!(found, Found::Difference(by) if *by > TOLERANCE);
    assert_eq!(found.filter(|found| noticed(found)).count(), 4);
}

#[test]
fn stored_types_and_masks_have_our_logits() {
    let Some(python) = python::with(&PACKAGES) else {
        return;
    };
    let mut exports = Exports::new();
    for (graph, label) in [
        build("mlp", "1x8x8", &[("hidden", "40,20")]),
        build("resnet8", "3x15x17", &[("width", "5")]),
    ] {
        for store in [Store::F16, Store::Bf16, Store::F64, Store::TorchPrune] {
            let pruned = exports.subject(&graph, &label, store, 0.95);
            exports.add_encodings(&pruned, &OnnxOptions::default());
        }
        // All is pruned but the biases; and next to nothing is.
        for sparsity in [1.0, 0.01] {
            let pruned = exports.subject(&graph, &label, Store::F32, sparsity);
            exports.add_encodings(&pruned, &OnnxOptions::default());
        }
    }
    exports.check(&python);
}

/// Operations and shapes that no model of ours has.
const UNUSUAL: &str = r#"
name = "unusual"
input = "1x9x8"
classes = 10
[[layers]]
op = "conv2d"
name = "a"
channels = 6
kernel = [3, 2]
stride = [2, 1]
padding = [1, 0]
bias = false
[[layers]]
op = "batch-norm"
name = "a.weight"
[[layers]]
op = "avg-pool"
kernel = 2
stride = 1
[[layers]]
op = "max-pool"
name = "pooled"
kernel = [4, 6]
[[layers]]
op = "pad-shortcut"
before = 1
after = 2
[[layers]]
op = "linear"
name = "b"
features = 12
bias = false
[[layers]]
op = "batch-norm"
name = "c"
[[layers]]
op = "relu"
name = "joined"
[[layers]]
op = "conv2d"
name = "map"
channels = 12
kernel = 1
[[layers]]
op = "add"
name = "sum"
input = ["map", "joined"]
[[layers]]
op = "linear"
name = "logits"
features = "classes"
[[layers]]
op = "dropout"
probability = 0.5
"#;

#[test]
fn options_have_our_logits() {
    let Some(python) = python::with(&PACKAGES) else {
        return;
    };
    let mut exports = Exports::new();
    let unusual = Description::parse(UNUSUAL, Syntax::Toml).unwrap();
    let unusual = unusual.build(None, None).unwrap();
    for (graph, label) in [
        (unusual, "unusual".to_owned()),
        build("resnet20", "3x16x16", &[("shortcut", "B"), ("width", "4")]),
        build("vgg16-bn", "3x32x32", &[("width", "2")]),
        build("wideresnet20", "3x8x8", &[("width", "1")]),
    ] {
        let folded = OnnxOptions {
            batch_norms: BatchNorms::Fold,
            ..OnnxOptions::default()
        };
        for store in [Store::F32, Store::Bf16] {
            let pruned = exports.subject(&graph, &label, store, 0.8);
            exports.add_encodings(&pruned, &folded);
        }
        let pruned = exports.subject(&graph, &label, Store::F32, 0.8);
        exports.add(&pruned, &OnnxOptions::default(), &ALL);
        let directory = exports.directory.path().to_owned();
        let name = String::new();
        for (encoding, payloads) in [
            (Encoding::Dense, Payloads::Checkpoint { directory }),
            (Encoding::Dense, Payloads::File { name: name.clone() }),
            (Encoding::Bitmask, Payloads::File { name: name.clone() }),
            (Encoding::Delta, Payloads::File { name }),
        ] {
            let options = OnnxOptions {
                encoding,
                payloads,
                output: Output::Probabilities,
                ..OnnxOptions::default()
            };
            exports.add(&pruned, &options, &ALL);
        }
    }
    exports.check(&python);
}

/// What `tensors.py` prints.
#[derive(Deserialize)]
struct Loaded {
    format: Option<String>,
    torch: bool,
    sums: BTreeMap<String, f64>,
}

#[test]
fn soups_are_loaded_as_the_checkpoints_of_torch() {
    let Some(python) = python::with(&PACKAGES) else {
        return;
    };
    let exports = Exports::new();
    let (graph, _) = build("resnet8", "3x15x17", &[("width", "5")]);
    let ingredient = checkpoint(&graph, 0.9, Store::F32);
    let paths = ["a.st", "b.st"].map(|name| exports.file(name, &ingredient));
    let soup = exports.directory.path().join("soup.st");
    let merged = Command::new(env!("CARGO_BIN_EXE_sms-merge"))
        .args(&paths)
        .arg("-o")
        .arg(&soup)
        .output()
        .unwrap();
    assert!(merged.status.success());
    let loaded: Loaded = run(&python, "tensors.py", &soup);
    assert_eq!(loaded.format.as_deref(), Some("pt"));
    println!("loaded by torch too: {}", loaded.torch);
    for parameter in &graph.parameters {
        let mask = mask(parameter, 0.9);
        let retained = values(parameter).into_iter().zip(mask);
        let expected: f64 = retained
            .map(|(value, retained)| if retained { f64::from(value) } else { 0.0 })
            .sum();
        let expected = match parameter.role {
            Role::BatchCount => 7.0,
            _ => expected,
        };
        let found = loaded.sums[&parameter.name];
        let error = (found - expected).abs();
        assert!(
            error < 1e-9,
            "{}: {found}, expected {expected}",
            parameter.name
        );
    }
    assert_eq!(loaded.sums.len(), graph.parameters.len());
}
