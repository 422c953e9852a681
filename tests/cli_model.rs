//! Whole runs of `sms-merge model`.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

const DESCRIPTION: &str = r#"
name = "tiny"
input = "1x4x4"
classes = 2

[[layers]]
op = "conv2d"
name = "conv"
channels = 5
kernel = 3
padding = 1
bias = false

[[layers]]
op = "batch-norm"
name = "norm"

[[layers]]
op = "relu"

[[layers]]
op = "flatten"

[[layers]]
op = "linear"
name = "fc"
features = "classes"
"#;

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        fs::write(bench.at("tiny.toml"), DESCRIPTION).unwrap();
        bench
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sms-merge"))
            .arg("model")
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Standard output of a run that succeeds.
    fn text(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?} {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let object: Value = serde_json::from_str(&self.text(words)).unwrap();
        assert_eq!(object["schema"], 1);
        object
    }

    /// A checkpoint of `tiny`, whose weights are retained every so many places.
    fn checkpoint(&self, name: &str, conv_step: usize, fc_step: usize) {
        let floats = |numel: usize, step: usize| -> Vec<u8> {
            let values = (0..numel).map(|idx| if idx % step == 0 { 1.5_f32 } else { 0.0 });
            values.flat_map(f32::to_le_bytes).collect()
        };
        let tensors = [
            ("conv.weight", vec![5, 1, 3, 3], floats(45, conv_step)),
            ("norm.weight", vec![5], floats(5, 1)),
            ("norm.bias", vec![5], floats(5, 1)),
            ("norm.running_mean", vec![5], floats(5, 1)),
            ("norm.running_var", vec![5], floats(5, 1)),
            ("fc.weight", vec![2, 80], floats(160, fc_step)),
            ("fc.bias", vec![2], floats(2, 1)),
        ];
        let count = 3_i64.to_le_bytes();
        let count = TensorView::new(Dtype::I64, Vec::new(), &count).unwrap();
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                (
                    *name,
                    TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
                )
            })
            .chain([("norm.num_batches_tracked", count)]);
        fs::write(self.at(name), safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn retained_weights_and_their_multiply_adds_are_counted() {
    let bench = Bench::new();
    bench.checkpoint("pruned.st", 5, 16);
    let object = bench.json(&["tiny.toml", "pruned.st", "--json"]);
    assert_eq!(object["parameters"], 45 + 10 + 160 + 2);
    assert_eq!(object["multiply_adds"], 45 * 16 + 160);
    let sparse = &object["sparse"];
    assert_eq!(sparse["weights"], 205);
    assert_eq!(sparse["retained"], 9 + 10);
    assert_eq!(sparse["multiply_adds"], 9 * 16 + 10);
    let is_near = |key: &str, expected: f64| {
        let found = sparse[key].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{key} {found}");
    };
    is_near("sparsity", 1.0 - 19.0 / 205.0);
    is_near("speed_up", 880.0 / 154.0);
    let conv = &object["layers"][1];
    assert_eq!(conv["name"], "conv");
    assert_eq!(
        (&conv["retained"], &conv["sparse_multiply_adds"]),
        (&9.into(), &144.into())
    );
    assert_eq!(object["layers"][2]["retained"], Value::Null);
    assert_eq!(object["tensors"][5]["name"], "norm.num_batches_tracked");
    assert_eq!(object["tensors"][5]["role"], "batch-count");

    assert_eq!(
        bench.text(&["tiny.toml", "pruned.st"]),
        "\
layer  op          output  parameters  multiply-adds  retained  sparse multiply-adds
conv   conv2d      5x4x4           45            720         9                   144
norm   batch-norm  5x4x4           10
fc     linear      2              162            160        10                    10

tiny for images of 1x4x4 and 2 classes
217 parameters, 880 multiply-adds per image
pruned.st: 19 of 205 weights retained (sparsity 90.73 %), 154 multiply-adds per image, \
theoretical speed-up 5.71
"
    );
}

#[test]
fn a_dense_checkpoint_gains_nothing() {
    let bench = Bench::new();
    bench.checkpoint("dense.st", 1, 1);
    let sparse = &bench.json(&["tiny.toml", "dense.st", "--json"])["sparse"];
    assert_eq!(
        (&sparse["retained"], &sparse["speed_up"]),
        (&205.into(), &1.0.into())
    );
}

#[test]
fn a_description_is_written_and_read_again() {
    let bench = Bench::new();
    for (syntax, file) in [("toml", "written.toml"), ("json", "written.json")] {
        let words = ["resnet20", "--option", "shortcut=B", "--input", "1x28x28"];
        let written = bench.text(&[&words[..], &["--describe", syntax]].concat());
        fs::write(bench.at(file), written).unwrap();
        let expected = bench.json(&[&words[..], &["--json"]].concat());
        assert_eq!(bench.json(&[file, "--json"]), expected);
        let other = bench.json(&[file, "--json", "--input", "3x32x32", "--classes", "100"]);
        assert_eq!(
            (&other["input"], &other["classes"]),
            (&"3x32x32".into(), &100.into())
        );
    }
}

#[test]
fn models_are_listed() {
    let bench = Bench::new();
    let listed = bench.json(&["--list", "--json"]);
    let models = listed["models"].as_array().unwrap();
    let text = bench.text(&["--list"]);
    for model in models {
        let name = model["name"].as_str().unwrap();
        assert!(text.contains(name), "{name}");
        let built = bench.json(&[name, "--json"]);
        assert_eq!(built["name"], model["name"]);
        assert_eq!(built["input"], model["input"]);
    }
    assert_eq!(models.len(), 9);
}

#[test]
fn what_is_wrong_is_said_with_its_status() {
    let bench = Bench::new();
    bench.checkpoint("tiny.st", 1, 1);
    fs::write(bench.at("bytes.toml"), [0xff, 0xfe]).unwrap();
    fs::write(
        bench.at("odd.toml"),
        DESCRIPTION.replace("padding", "pading"),
    )
    .unwrap();
    let check = |words: &[&str], status, expected: &[&str]| {
        let output = bench.run(words);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{words:?} {text}");
        for part in expected {
            assert!(text.contains(part), "{words:?} {text}");
        }
        assert!(output.stdout.is_empty(), "{words:?}");
    };
    check(&[], 2, &["MODEL"]);
    check(&["resnt20"], 2, &["did you mean `resnet20`?"]);
    check(
        &["tiny.st"],
        2,
        &["a file must end in .toml or .json", "model --list"],
    );
    check(
        &["mlp", "--option", "hiden=3"],
        2,
        &["did you mean `hidden`?"],
    );
    check(
        &["mlp", "--option", "hidden=3", "--option", "hidden=4"],
        2,
        &["given twice"],
    );
    check(
        &["tiny.toml", "--option", "hidden=3"],
        2,
        &["change the file instead"],
    );
    check(
        &["mlp", "--input", "28x28"],
        2,
        &["expected channels, height and width"],
    );
    check(
        &["lenet5", "--input", "1x8x8"],
        2,
        &["images of 1x8x8", "window of `conv2`"],
    );
    check(&["absent.toml"], 5, &["`absent.toml` cannot be read"]);
    check(&["bytes.toml"], 2, &["expected UTF-8 text"]);
    check(
        &["odd.toml"],
        2,
        &["`odd.toml` describes no model", "did you mean `padding`?"],
    );
    check(
        &["lenet5", "tiny.st"],
        3,
        &["`tiny.st` is no checkpoint of `lenet5`", "`conv1.weight`"],
    );
    check(
        &["tiny.toml", "tiny.st", "--classes", "3"],
        3,
        &["tensor `fc.weight` has shape [2, 80], expected [3, 80]"],
    );
}
