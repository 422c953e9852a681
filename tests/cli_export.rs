//! Whole runs of `sms-merge export`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

/// What a training writes of a linear model for 2x2 pixels and 3 classes.
const CARD: &str = r#"{"format_version": 1,
  "model": {"name": "mlp", "input": [1, 2, 2], "classes": 3, "options": {"hidden": "none"}},
  "data": {"name": "squares", "digest": "00000000000000000000000000000000", "images": 9,
    "normalisation": {"mean": [0.5], "deviation": [0.25]}, "class_names": ["a", "b", "c"]},
  "validation_fraction": 0.1, "validation_seed": 0}"#;

struct Bench(TempDir);

impl Bench {
    /// With `model.st`, a linear model of whose weights half are zero.
    fn new(metadata: &[(&str, &str)]) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let weights = (0..12_u8).map(|idx| f32::from(idx % 2) * f32::from(idx));
        let weights: Vec<u8> = weights.flat_map(f32::to_le_bytes).collect();
        let bias = [0; 12];
        let tensors = [
            (
                "fc1.weight",
                TensorView::new(Dtype::F32, vec![3, 4], &weights),
            ),
            ("fc1.bias", TensorView::new(Dtype::F32, vec![3], &bias)),
        ];
        let tensors = tensors.map(|(name, view)| (name, view.unwrap()));
        let metadata = metadata.iter();
        let metadata = metadata.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let bytes = safetensors::serialize(tensors, Some(metadata.collect())).unwrap();
        fs::write(bench.at("model.st"), bytes).unwrap();
        bench
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sms-merge"))
            .arg("export")
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs what must fail, and returns its message.
    fn refused(&self, words: &[&str], status: i32) -> String {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{errors}");
        assert_eq!(output.stdout, b"");
        errors
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

const OF_MODEL: [&str; 7] = [
    "model.st",
    "--model=mlp",
    "--option=hidden=none",
    "--input=1x2x2",
    "--classes=3",
    "-o",
    "model.onnx",
];

#[test]
fn a_named_model_is_exported_and_reported() {
    let bench = Bench::new(&[("format", "pt"), ("note", "kept")]);
    let object = bench.json(&[&OF_MODEL as &[&str], &["--onnx-encoding", "bitmask"]].concat());
    assert_eq!(object["schema"], 1);
    assert_eq!(object["output"], "model.onnx");
    assert_eq!(object["data"], Value::Null);
    assert_eq!(object["encoding"], "bitmask");
    assert_eq!(
        (&object["opset"], &object["ir_version"]),
        (&18.into(), &8.into())
    );
    assert_eq!(object["model"]["input"], "1x2x2");
    assert_eq!(object["mask"]["retained"], 6);
    assert_eq!(object["mask"]["sparsity"], 0.5);
    // Of twelve weights the nodes that decode take more than they save.
    assert_eq!(object["warnings"].as_array().unwrap().len(), 1);
    let bytes = fs::read(bench.at("model.onnx")).unwrap();
    assert_eq!(object["bytes_written"], bytes.len());
    assert_eq!(object["sizes"]["bitmask"], bytes.len());
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(holds(b"note") && holds(b"kept"), "metadata is kept");
    assert!(!holds(b"format\x12\x02pt"), "but for `format`");
    assert!(holds(b"logits") && !holds(b"probabilities"));

    let output = bench.run(&[&OF_MODEL as &[&str], &["--force", "--softmax"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("opset 18, IR version 8; 50.00 % of 12 weights pruned"),
        "{text}"
    );
    for encoding in ["dense (written)", "bitmask", "delta", "sparse-initializer"] {
        assert!(text.contains(encoding), "{text}");
    }
    let bytes = fs::read(bench.at("model.onnx")).unwrap();
    assert!(bytes.windows(13).any(|window| window == b"probabilities"));
    assert_eq!(bench.files(), ["model.onnx", "model.st"]);
}

#[test]
#[cfg_attr(not(feature = "train"), ignore = "needs the feature `train`")]
fn a_checkpoint_says_which_model_it_is() {
    let bench = Bench::new(&[("sms_model", CARD)]);
    let object = bench.json(&["model.st", "-o", "model.onnx"]);
    assert_eq!(object["model"]["name"], "mlp");
    assert_eq!(object["model"]["classes"], 3);

    let bench = Bench::new(&[("sms_model", "{}")]);
    let message = bench.refused(&["model.st", "-o", "model.onnx"], 3);
    assert!(
        message.contains("`model.st` cannot be understood"),
        "{message}"
    );
}

#[test]
fn weights_stay_outside() {
    let bench = Bench::new(&[]);
    let inside = bench.json(&OF_MODEL);
    let words = [&OF_MODEL as &[&str], &["--force", "--external-data"]].concat();
    let object = bench.json(&words);
    assert!(object["bytes_written"].as_u64() > inside["bytes_written"].as_u64().map(|n| n - 60));
    assert_eq!(bench.files(), ["model.onnx", "model.st"]);
    let bytes = fs::read(bench.at("model.onnx")).unwrap();
    assert!(bytes.windows(8).any(|window| window == b"model.st"));

    let object = bench.json(&[&words[..8], &["--external-data=file"]].concat());
    assert_eq!(object["data"], "model.onnx.data");
    assert_eq!(bench.files(), ["model.onnx", "model.onnx.data", "model.st"]);
    let data = fs::read(bench.at("model.onnx.data")).unwrap();
    let weights = fs::read(bench.at("model.st")).unwrap();
    assert!(weights.windows(48).any(|window| window == &data[..48]));

    // Where weights are stored compact, none lie there as a reader would take them.
    bench.json(&["model.st", "-o", "compact.st", "--layout=bitmask"]);
    let words = [&["compact.st"], &words[1..]].concat();
    let message = bench.refused(&words, 2);
    assert!(message.contains("one after the other"), "{message}");
}

#[test]
fn weights_lie_beside_the_model_that_a_link_leads_to() {
    let bench = Bench::new(&[]);
    fs::create_dir(bench.at("inner")).unwrap();
    symlink("inner/real.onnx", bench.at("model.onnx")).unwrap();
    bench.json(&[&OF_MODEL as &[&str], &["--external-data=file"]].concat());
    assert!(bench.at("inner/real.onnx.data").exists());
    let model = fs::read(bench.at("inner/real.onnx")).unwrap();
    assert!(model.windows(14).any(|window| window == b"real.onnx.data"));
    assert_eq!(bench.files(), ["inner", "model.onnx", "model.st"]);
    let inner = |file: &str| bench.at(format!("inner/{file}"));
    fs::rename(bench.at("model.st"), inner("model.st")).unwrap();
    let words = [&["inner/model.st"], &OF_MODEL[1..]].concat();
    bench.json(&[&words as &[&str], &["--external-data", "--force"]].concat());
    let model = fs::read(inner("real.onnx")).unwrap();
    // A location, and not one that leads through the folder.
    assert!(model.windows(8).any(|window| window == b"model.st"));
    assert!(!model.windows(6).any(|window| window == b"inner/"));
}

#[test]
fn a_mask_of_another_checkpoint_has_a_remedy_that_export_knows() {
    let bench = Bench::new(&[]);
    let flags = [0_u8; 12];
    let mask = TensorView::new(Dtype::BOOL, vec![3, 4], &flags).unwrap();
    let mask = safetensors::serialize([("fc1.weight_mask", mask)], None).unwrap();
    fs::write(bench.at("mask.st"), mask).unwrap();
    let words = [
        "model.st",
        "-o",
        "small.st",
        "--layout=bitmask",
        "--mask=mask.st",
    ];
    let message = bench.refused(&words, 4);
    assert!(
        message.contains("the mask is not that of the checkpoint"),
        "{message}"
    );
    assert!(message.contains("leave `--mask` out"), "{message}");
    assert!(!message.contains("--on-mask-mismatch"), "{message}");
}

#[test]
fn what_is_wrong_is_said_and_leaves_nothing() {
    let bench = Bench::new(&[]);
    let message = bench.refused(&["model.st", "-o", "model.onnx"], 2);
    assert!(message.contains("name it with `--model`"), "{message}");
    let message = bench.refused(&["model.st", "-o", "model.onnx", "--layout=bitmask"], 2);
    assert!(message.contains("see `--onnx-encoding`"), "{message}");
    let message = bench.refused(&["model.st", "-o", "small.st", "--softmax"], 2);
    assert!(message.contains("end the output in .onnx"), "{message}");
    let message = bench.refused(&[&OF_MODEL as &[&str], &["--classes=4"]].concat(), 2);
    assert!(
        message.contains("cannot be used multiple times"),
        "{message}"
    );
    let mut other = OF_MODEL;
    other[4] = "--classes=4";
    let message = bench.refused(&other, 3);
    assert!(
        message.contains("`model.st` is no checkpoint of `mlp`"),
        "{message}"
    );
    let sparse = ["--onnx-encoding=sparse-initializer", "--external-data=file"];
    let message = bench.refused(&[&OF_MODEL as &[&str], &sparse].concat(), 2);
    assert!(
        message.contains("sparse initialisers are stored inside"),
        "{message}"
    );
    let mut onto = OF_MODEL;
    onto[6] = "model.st";
    bench.refused(&onto, 2);
    fs::rename(bench.at("model.st"), bench.at("input.onnx")).unwrap();
    let mut onto = OF_MODEL;
    (onto[0], onto[6]) = ("input.onnx", "input.onnx");
    let message = bench.refused(&[&onto as &[&str], &["--force"]].concat(), 2);
    assert!(message.contains("is the input"), "{message}");
    assert_eq!(bench.files(), ["input.onnx"]);
}
