//! Whole runs of `sms-merge train` on the embedded digits.
#![cfg(feature = "train")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).unwrap()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        command
            .arg("train")
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn train(&self, words: &[&str]) -> Output {
        let output = self.command(words).output().unwrap();
        assert_exit(&output, 0);
        output
    }

    #[track_caller]
    fn refused(&self, words: &[&str], exit: i32, expected: &str) {
        let output = self.command(words).output().unwrap();
        assert_exit(&output, exit);
        let text = stderr(&output);
        assert!(text.contains(expected), "{text}");
    }

    /// Lines of a metrics file, without what the clock decides.
    fn metrics(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.at(name)).unwrap();
        let mut lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for line in &mut lines {
            let object = line.as_object_mut().unwrap();
            object.remove("images_per_sec");
            object.remove("elapsed_secs");
        }
        lines
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_exit(output: &Output, expected: i32) {
    assert_eq!(output.status.code(), Some(expected), "{}", stderr(output));
}

/// A small network with batch norm, for which order, state and statistics matter.
const SMALL: [&str; 8] = [
    "--model",
    "convnet",
    "--model-option",
    "widths=4,8",
    "--limit-train",
    "400",
    "--log-every",
    "1",
];

fn small<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], more].concat()
}

#[test]
fn it_trains_without_being_told_anything() {
    let bench = Bench::new();
    let output = bench.train(&["-o", "a.st", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["schema"], 1);
    assert_eq!(
        (&object["data"]["name"], &object["steps"]),
        (&"digits".into(), &1230.into())
    );
    assert_eq!(object["test"]["images"], 360);
    assert!(
        object["test"]["accuracy"].as_f64().unwrap() > 0.95,
        "{object}"
    );
    assert!(stderr(&output).is_empty());
    assert_eq!(fs::read_dir(bench.0.path()).unwrap().count(), 1);
    let bytes = bench.bytes("a.st");
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let record: Value =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["sms_train"]).unwrap();
    assert_eq!(record["model"]["name"], object["model"]["name"]);
    assert_eq!(record["recipe"], object["recipe"]);
    let shown = bench.train(&["-o", "b.st", "--epochs", "2"]);
    let text = stderr(&shown);
    for part in [
        "epoch 1 of 2: loss ",
        "validation ",
        "test ",
        "trained `mlp`",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(shown.stdout.is_empty());
}

#[test]
fn threads_change_no_bit_and_seeds_do() {
    let bench = Bench::new();
    let train = |name: &str, more: &[&str]| {
        let words = [&["-o", name, "--epochs", "2", "-q"], more].concat();
        bench.train(&small(&words));
        bench.bytes(name)
    };
    let one = train("1.st", &["--threads", "1"]);
    assert!(one == train("2.st", &["--threads", "2"]));
    assert!(one == train("3.st", &["--threads", "3"]));
    assert!(one != train("4.st", &["--seed", "1"]));
}

/// Starts a training, waits until it has recorded `lines` lines, and sends `signal`.
fn break_off(bench: &Bench, words: &[&str], metrics: &str, lines: usize, signal: Signal) -> Output {
    let mut child = bench
        .command(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let text = fs::read_to_string(bench.at(metrics)).unwrap_or_default();
        if text.lines().count() >= lines {
            break;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(Instant::now() < deadline, "nothing was recorded");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_training_that_is_broken_off_ends_in_the_same_bytes() {
    let bench = Bench::new();
    let recipe = [
        "--epochs",
        "40",
        "--ema",
        "0.9",
        "--clip-norm",
        "1",
        "--augment",
        "on",
    ];
    let words = small(&recipe);
    bench.train(&[&words[..], &["-o", "whole.st", "--metrics", "whole.jsonl"]].concat());
    let expected = bench.bytes("whole.st");
    let lines = bench.metrics("whole.jsonl");
    assert_eq!(lines.len(), 40 * 13 + 40 + 1);
    let again = [&words[..], &["-o", "a.st", "--metrics", "a.jsonl"]].concat();
    for (n_lines, signal) in [(1, Signal::INT), (40, Signal::TERM), (30, Signal::KILL)] {
        let saving = [&again[..], &["--save-every", "3steps"]].concat();
        let output = break_off(&bench, &saving, "a.jsonl", n_lines, signal);
        assert!(!bench.at("a.st").exists());
        assert!(bench.at("a.st.state").exists());
        if signal == Signal::KILL {
            assert_eq!(output.status.code(), None);
        } else {
            assert_exit(&output, 128 + signal.as_raw());
            assert!(stderr(&output).contains("next: repeat the command with `--resume`"));
        }
        bench.refused(&again, 2, "is the state of a training that was broken off");
        bench.train(&[&again[..], &["--resume", "--threads", "1"]].concat());
        assert!(bench.bytes("a.st") == expected, "after {n_lines} lines");
        assert_eq!(bench.metrics("a.jsonl"), lines);
        assert!(!bench.at("a.st.state").exists());
        fs::remove_file(bench.at("a.st")).unwrap();
        fs::remove_file(bench.at("a.jsonl")).unwrap();
    }
}

#[test]
fn a_state_of_another_training_is_refused() {
    let bench = Bench::new();
    let words = small(&["-o", "a.st", "--epochs", "40", "--metrics", "a.jsonl"]);
    break_off(&bench, &words, "a.jsonl", 20, Signal::INT);
    let state = bench.bytes("a.st.state");
    let check = |more: &[&str], expected: &str| {
        let words = [&words[..], &["--resume"], more].concat();
        bench.refused(&words, 3, expected);
    };
    check(
        &["--weight-decay", "0.1"],
        "`recipe.weight_decay` is 0.0005 there and 0.1 here",
    );
    check(&["--seed", "1"], "is the state of another training: `");
    check(&["--engine", "candle"], "`engine` is \"native\" there");
    fs::write(bench.at("cut.state"), &state[..state.len() / 2]).unwrap();
    let resume = [&words[..], &["--resume", "cut.state"]].concat();
    bench.refused(&resume, 3, "cut.state");
    assert!(bench.bytes("a.st.state") == state);
    bench.train(&["-o", "b.st", "--epochs", "1"]);
    let resume = [&words[..], &["--resume", "b.st"]].concat();
    bench.refused(&resume, 3, "`b.st` is not the state of a training");
}

/// Writes `name`: the tensors of `from` with three of four weights pruned, and its
/// metadata; and a mask file `mask.st`.
fn prune(bench: &Bench, from: &str, name: &str) {
    let bytes = bench.bytes(from);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let is_pruned = |name: &str| name.starts_with("conv") || name == "fc.weight";
    let pruned: HashMap<String, Vec<u8>> = tensors
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let mut bytes = tensor.data().to_vec();
            if is_pruned(&name) {
                for (idx, element) in bytes.chunks_exact_mut(4).enumerate() {
                    if idx % 4 != 0 {
                        // torch's masks leave zeros of both signs.
                        let zero = if idx % 2 == 0 { -0.0_f32 } else { 0.0 };
                        element.copy_from_slice(&zero.to_le_bytes());
                    }
                }
            }
            (name, bytes)
        })
        .collect();
    let views = tensors.tensors().into_iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype(), tensor.shape().to_vec(), &pruned[&name]);
        (name.clone(), view.unwrap())
    });
    fs::write(
        bench.at(name),
        safetensors::serialize(views, metadata).unwrap(),
    )
    .unwrap();
    let masks: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .into_iter()
        .filter(|(name, _)| is_pruned(name))
        .map(|(name, tensor)| {
            let numel = tensor.data().len() / 4;
            let bits = (0..numel).map(|idx| u8::from(idx % 4 == 0)).collect();
            (name, tensor.shape().to_vec(), bits)
        })
        .collect();
    let views = masks.iter().map(|(name, shape, bits)| {
        let view = TensorView::new(Dtype::BOOL, shape.clone(), bits).unwrap();
        (name.clone(), view)
    });
    fs::write(
        bench.at("mask.st"),
        safetensors::serialize(views, None).unwrap(),
    )
    .unwrap();
}

/// Whether pruned places hold `+0` and others do not, of all weights.
fn is_masked(bench: &Bench, name: &str) -> bool {
    let bytes = bench.bytes(name);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let weights = ["conv1.weight", "conv2.weight", "fc.weight"];
    weights.iter().all(|name| {
        let tensor = tensors.tensor(name).unwrap();
        let mut elements = tensor.data().chunks_exact(4).enumerate();
        elements.all(|(idx, element)| (element == [0; 4]) == (idx % 4 != 0))
    })
}

#[test]
fn masks_stay_and_can_be_given_or_ignored() {
    let bench = Bench::new();
    bench.train(&small(&["-o", "dense.st", "--epochs", "2"]));
    prune(&bench, "dense.st", "pruned.st");
    let retrain = |name: &str, more: &[&str]| {
        let words = [
            "--init",
            "pruned.st",
            "--limit-train",
            "300",
            "--epochs",
            "2",
            "-o",
            name,
        ];
        stderr(&bench.train(&[&words[..], more].concat()))
    };
    let text = retrain("a.st", &[]);
    assert!(text.contains("75.00 % of the weights pruned"), "{text}");
    assert!(is_masked(&bench, "a.st"));
    retrain("b.st", &["--optimizer", "adamw", "--ema", "0.9"]);
    assert!(is_masked(&bench, "b.st"));
    retrain("c.st", &["--swa", "2", "--momentum", "0"]);
    assert!(is_masked(&bench, "c.st"));
    retrain("d.st", &["--dense"]);
    assert!(!is_masked(&bench, "d.st"));
    // The same mask as a file, on weights that are dense.
    let words = [
        "--init", "dense.st", "--mask", "mask.st", "--epochs", "1", "-o", "e.st",
    ];
    bench.train(&words);
    assert!(is_masked(&bench, "e.st"));
    let words = ["--mask", "mask.st", "--model", "mlp", "-o", "f.st"];
    bench.refused(
        &words,
        3,
        "which is no weight of a linear or convolution layer of `mlp`",
    );
    bench.refused(
        &["--init", "pruned.st", "-o", "pruned.st", "--force"],
        2,
        "inputs are never written to",
    );
}

#[test]
fn retraining_takes_its_rates_from_the_training_before() {
    let bench = Bench::new();
    let dense = small(&["-o", "dense.st", "--epochs", "3", "--learning-rate", "0.2"]);
    bench.train(&dense);
    prune(&bench, "dense.st", "pruned.st");
    let rates = |schedule: &str, more: &[&str]| -> Vec<f64> {
        let start = ["--init", "pruned.st", "-o", "a.st", "-f", "--epochs", "2"];
        let logging = [
            "--limit-train",
            "320",
            "--log-every",
            "1",
            "--metrics",
            "a.jsonl",
        ];
        let words = [&start[..], &logging, &["--schedule", schedule], more];
        bench.train(&words.concat());
        let lines = bench.metrics("a.jsonl");
        let steps = lines.iter().filter(|line| line["kind"] == "step");
        steps
            .map(|line| line["learning_rate"].as_f64().unwrap())
            .collect()
    };
    // 20 steps, of which two are warm-up.
    let llr = rates("llr", &[]);
    assert_eq!(llr.len(), 20);
    assert_eq!((llr[0], llr[2], llr[11]), (0.0, 0.2, 0.1));
    // The last of 39 steps of a cosine after a warm-up of 13.
    let ft = rates("ft", &[]);
    let smallest = 0.2 * (1.0 + (std::f64::consts::PI * 25.0 / 26.0).cos()) / 2.0;
    assert!(
        ft.iter().all(|rate| (rate - smallest).abs() < 1e-15),
        "{ft:?}"
    );
    let allr = rates("allr", &["--parent", "dense.st"]);
    // A choice that does not ask for magnitudes takes away about as much as if all
    // weights were equally large.
    assert!((allr[2] - 0.2).abs() < 0.01 && allr[2] != 0.2, "{allr:?}");
    let words = ["--init", "pruned.st", "--schedule", "allr", "-o", "b.st"];
    bench.refused(&words, 2, "next: add `--parent CHECKPOINT`");
    let words = ["--schedule", "llr", "-o", "b.st"];
    bench.refused(&words, 2, "there is no `--init`");
    let words = [
        "--init",
        "pruned.st",
        "--schedule",
        "llr",
        "-o",
        "b.st",
        "--lr",
        "1",
    ];
    bench.refused(&words, 2, "`--learning-rate` has no effect");
}

#[test]
fn engines_agree() {
    let bench = Bench::new();
    let losses = |engine: &str| -> Vec<f64> {
        let metrics = format!("{engine}.jsonl");
        let output = format!("{engine}.st");
        let more = [
            "--engine",
            engine,
            "-o",
            &output,
            "--metrics",
            &metrics,
            "--epochs",
            "1",
        ];
        bench.train(&small(&more));
        let lines = bench.metrics(&metrics);
        let steps = lines.iter().filter(|line| line["kind"] == "step");
        steps.map(|line| line["loss"].as_f64().unwrap()).collect()
    };
    let (native, candle) = (losses("native"), losses("candle"));
    assert_eq!(native.len(), 13);
    for (step, (native, candle)) in native.iter().zip(&candle).enumerate() {
        let difference = (native - candle).abs();
        // Rounding grows from step to step.
        assert!(difference < 1e-3 * native, "{native} {candle} at {step}");
    }
    assert!((native[0] - candle[0]).abs() < 1e-6);
    assert_ne!(native[0], native[12]);
}

#[test]
fn events_are_records_that_end_with_their_file() {
    let bench = Bench::new();
    bench.train(&small(&[
        "-o",
        "a.st",
        "--epochs",
        "2",
        "--tensorboard",
        "runs/a",
    ]));
    let mut files = fs::read_dir(bench.at("runs/a")).unwrap();
    let path = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    assert!(path.to_str().unwrap().contains("tfevents"));
    let bytes = fs::read(path).unwrap();
    let (mut rest, mut n_records) = (&bytes[..], 0);
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        rest = &rest[8 + 4 + length + 4..];
        n_records += 1;
    }
    // Version, start, 26 steps, 2 epochs, the end.
    assert_eq!(n_records, 2 + 26 + 2 + 1);
    for tag in [
        "step/loss",
        "train/accuracy",
        "validation/loss",
        "test/accuracy",
    ] {
        assert!(
            bytes
                .windows(tag.len())
                .any(|window| window == tag.as_bytes()),
            "{tag}"
        );
    }
}

#[test]
fn what_cannot_be_trained_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let check = |words: &[&str], exit, expected: &str| {
        bench.refused(&[&["-o", "a.st"], words].concat(), exit, expected);
        assert_eq!(fs::read_dir(bench.0.path()).unwrap().count(), 0);
    };
    check(&["--model", "resnet9"], 2, "no model is called `resnet9`");
    check(&["--model-option", "hidden"], 2, "expected NAME=VALUE");
    check(&["--model-option", "depth=3"], 2, "has no option `depth`");
    check(&["--data", "nowhere"], 2, "`nowhere` is neither a file");
    check(&["--data", "mnist"], 5, "--data-dir");
    check(&["--epochs", "0"], 2, "`epochs` is 0");
    check(&["--label-smoothing", "1"], 2, "`label_smoothing` is 1");
    check(&["--save-every", "0"], 2, "expected such as");
    check(&["--init", "missing.st"], 5, "`missing.st`");
    check(&["--ema", "--swa"], 2, "cannot be used with");
    check(
        &["--learning-rate", "1e20", "--warmup-epochs", "0"],
        1,
        "the loss became",
    );
    check(&["--metrics", "no/a.jsonl"], 5, "`no/a.jsonl`");
    check(&["--resume"], 5, "a.st.state");
    let same = "the checkpoint and the metrics cannot be the same file, `./a.st`";
    check(&["--metrics", "./a.st"], 2, same);
    let same = "the state and the metrics cannot be the same file";
    check(&["--metrics", "a.st.state"], 2, same);
    let milestones = ["--schedule", "step", "--epochs", "4", "--milestones", "3,1"];
    check(
        &milestones,
        2,
        "`milestones` is 1, expected more than the one before it",
    );
    check(&["--milestones", "1"], 2, "`--milestones` has no effect");
    check(&["--betas", "0.9"], 2, "expected two numbers, such as");
    let adam = ["--optimizer", "adamw", "--no-nesterov"];
    check(&adam, 2, "`--no-nesterov` has no effect");
    bench.refused(&["-o", "a.pt"], 2, "is named like a checkpoint of torch");
    fs::write(bench.at("a.st"), "mine").unwrap();
    bench.refused(&["-o", "a.st"], 2, "pass `--force` to replace it");
    // What is no state is neither replaced nor removed.
    let words = ["-o", "b.st", "--state", "a.st", "--force"];
    bench.refused(&words, 2, "`a.st` is there, and is no state of a training");
    assert_eq!(bench.bytes("a.st"), b"mine");
}

#[test]
fn a_gpu_is_used_only_where_one_can_be() {
    let bench = Bench::new();
    let on = |words: &[&'static str], exit, expected: &str| {
        bench.refused(&[&["-o", "a.st"], words].concat(), exit, expected);
        assert!(!bench.at("a.st").exists());
    };
    let native = ["--engine", "native", "--device", "cuda"];
    on(
        &native,
        2,
        "the native engine computes on the processor alone",
    );
    on(
        &["--device", "gpu"],
        2,
        "expected `cpu`, `cuda`, or `cuda:N`",
    );
    if cfg!(not(feature = "cuda")) {
        on(&["--device", "cuda"], 2, "was built without CUDA");
        on(
            &["--device", "cuda:1"],
            2,
            "next: build it with `cargo build --release --features cuda`",
        );
    }
}
