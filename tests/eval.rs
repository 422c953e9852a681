//! `sms-merge eval` and `sms-merge recalibrate` as a user runs them.
#![cfg(feature = "train")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

/// The digits have 360 test images, 1,437 to train on, and hold out 144 of those.
const TEST_IMAGES: u64 = 360;

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sms-merge"))
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap()
}

/// Standard output of a run that must succeed.
fn text(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}\n{error}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(directory: &Path, arguments: &[&str]) -> Value {
    let with_json = [arguments, &["--json"]].concat();
    serde_json::from_str(&text(directory, &with_json)).unwrap()
}

/// Exit status and standard error of a run that must fail.
fn failure(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(directory, arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), error)
}

/// A directory with a model of batch norm, `base.st`, two that were trained on from it,
/// `a.st` and `b.st`, their soup, and one without batch norm, `mlp.st`.
fn models() -> TempDir {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let train = |arguments: &[&str]| {
        let short = ["train", "--epochs", "1", "--limit-train", "256", "-q"];
        text(path, &[&short, arguments].concat());
    };
    let convnet = ["--model", "convnet", "--model-option", "widths=4,8"];
    train(&[&convnet[..], &["-o", "base.st"]].concat());
    train(&["--init", "base.st", "--seed", "1", "-o", "a.st"]);
    train(&["--init", "base.st", "--seed", "2", "-o", "b.st"]);
    train(&[
        "--model",
        "mlp",
        "--model-option",
        "hidden=8",
        "-o",
        "mlp.st",
    ]);
    text(path, &["a.st", "b.st", "-o", "soup.st", "-q"]);
    directory
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn eval_measures_models_and_their_ensemble() {
    let directory = models();
    let path = directory.path();
    let found = json(path, &["eval", "a.st", "b.st", "--confusion", "c.svg"]);
    assert_eq!(found["schema"], 1);
    assert_eq!(found["data"]["name"], "digits");
    assert_eq!(found["data"]["part"], "test");
    assert_eq!(found["data"]["images"], TEST_IMAGES);
    let models = found["models"].as_array().unwrap();
    let evaluations = models.iter().map(|model| &model["evaluation"]);
    for evaluation in evaluations.chain([&found["ensemble"]]) {
        assert_eq!(evaluation["samples"], TEST_IMAGES);
        let confusion = evaluation["confusion"].as_array().unwrap();
        let counts = confusion.iter().flat_map(|row| row.as_array().unwrap());
        let sum: u64 = counts.map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(sum, TEST_IMAGES);
        let diagonal: u64 = (0..10)
            .map(|class| confusion[class][class].as_u64().unwrap())
            .sum();
        assert_eq!(evaluation["correct"], diagonal);
        let share = diagonal as f64 / TEST_IMAGES as f64;
        assert_eq!(float(&evaluation["accuracy"]), share);
    }
    // The cross-entropy of a mean of probabilities is at most the mean cross-entropy.
    let losses: Vec<f64> = models
        .iter()
        .map(|model| float(&model["evaluation"]["loss"]))
        .collect();
    let mean = (losses[0] + losses[1]) / 2.0;
    assert!(float(&found["ensemble"]["loss"]) < mean);
    // One model's numbers do not depend on its company, nor on the engine.
    let alone = json(path, &["eval", "a.st"]);
    assert_eq!(alone["models"][0], models[0]);
    assert_eq!(alone["ensemble"], Value::Null);
    let candle = json(path, &["eval", "a.st", "--engine", "candle"]);
    let candle = &candle["models"][0]["evaluation"];
    assert_eq!(candle["confusion"], models[0]["evaluation"]["confusion"]);
    assert!((float(&candle["loss"]) - losses[0]).abs() < 1e-6);
    let picture = fs::read_to_string(path.join("c.svg")).unwrap();
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    assert!(picture.contains("ensemble of 2 checkpoints on digits"));
    let (status, error) = failure(path, &["eval", "a.st", "--confusion", "c.svg"]);
    assert_eq!(status, 2, "{error}");
}

#[test]
fn eval_knows_parts_and_corruptions() {
    let directory = models();
    let path = directory.path();
    let images = |arguments: &[&str]| {
        let found = json(path, &[&["eval", "mlp.st"], arguments].concat());
        found["data"]["images"].as_u64().unwrap()
    };
    assert_eq!(images(&["--on", "validation"]), 144);
    assert_eq!(images(&["--on", "train"]), 1293);
    assert_eq!(images(&["--on", "train", "--validation", "0.5"]), 719);
    assert_eq!(images(&["--limit", "50"]), 50);
    let found = json(path, &["eval", "mlp.st", "a.st", "--ood", "--limit", "60"]);
    assert_eq!(
        found["ood"]["severities"],
        serde_json::json!([1, 2, 3, 4, 5])
    );
    let corruptions = found["ood"]["corruptions"].as_array().unwrap();
    assert_eq!(corruptions.len(), 12);
    for corruption in corruptions {
        for found in corruption["models"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&corruption["ensemble"]])
        {
            let accuracies = found["accuracy"].as_array().unwrap();
            assert_eq!(accuracies.len(), 5);
            let sum: f64 = accuracies.iter().map(float).sum();
            assert!((sum / 5.0 - float(&found["mean_accuracy"])).abs() < 1e-12);
        }
    }
    let at = |severity: usize| -> f64 {
        let accuracies = corruptions
            .iter()
            .map(|corruption| &corruption["models"][1]["accuracy"]);
        accuracies
            .map(|by_severity| float(&by_severity[severity]))
            .sum()
    };
    assert!(at(4) < at(0), "{} {}", at(4), at(0));
    let shown = text(path, &["eval", "mlp.st", "--ood", "--limit", "60"]);
    assert!(shown.contains("Accuracy on corrupted images, by severity"));
    assert!(shown.contains("\ngaussian-noise "));
}

#[test]
fn eval_says_what_does_not_fit() {
    let directory = models();
    let path = directory.path();
    let (status, error) = failure(path, &["eval", "missing.st"]);
    assert_eq!(status, 5, "{error}");
    let (status, error) = failure(path, &["eval", "a.st", "--model", "mlp"]);
    assert_eq!(status, 3, "{error}");
    assert!(
        error.contains("`a.st` is no checkpoint of `mlp`"),
        "{error}"
    );
    let (status, error) = failure(
        path,
        &["eval", "a.st", "--on", "validation", "--validation", "0"],
    );
    assert_eq!(status, 2, "{error}");
    // A model that has diverged.
    let bytes = fs::read(path.join("mlp.st")).unwrap();
    let end = bytes.len();
    let mut broken = bytes.clone();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path.join("nan.st"), broken).unwrap();
    let (status, error) = failure(path, &["eval", "nan.st"]);
    assert_eq!(status, 1, "{error}");
    assert!(error.contains("`nan.st` cannot be evaluated"), "{error}");
    assert!(error.contains("are not finite"), "{error}");
}

/// Bytes of every tensor of a file, by name.
fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Vec<u8>)> = file
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

fn metadata(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header["__metadata__"].clone()
}

#[test]
fn recalibrate_changes_statistics_alone_and_keeps_the_proof() {
    let directory = models();
    let path = directory.path();
    let warned = run(path, &["eval", "soup.st"]);
    let warned = String::from_utf8(warned.stderr).unwrap();
    assert!(warned.contains("sms-merge recalibrate soup.st"), "{warned}");
    for (weights, can_be_negative) in [("1,2", false), ("2,-1", true)] {
        let words = ["a.st", "b.st", "-w", weights, "-o", "far.st", "--force"];
        let warned = run(path, &words).stderr;
        let warned = String::from_utf8(warned).unwrap();
        assert!(warned.contains("statistics of batch norm were averaged"));
        let found = warned.contains("variances can be negative");
        assert_eq!(found, can_be_negative, "{warned}");
    }
    let arguments = [
        "recalibrate",
        "soup.st",
        "-o",
        "ready.st",
        "--images",
        "300",
    ];
    let found = json(path, &arguments);
    assert_eq!(found["has_batch_norm"], true);
    assert_eq!(found["data"]["batches"], 2);
    assert_eq!(found["data"]["images"], 256);
    assert_eq!(found["tensors"].as_array().unwrap().len(), 6);
    let before = tensors(&path.join("soup.st"));
    let after = tensors(&path.join("ready.st"));
    for ((name, before), (other, after)) in before.iter().zip(&after) {
        assert_eq!(name, other);
        let is_statistic = name.contains("running") || name.contains("tracked");
        assert_eq!(before != after, is_statistic, "{name}");
        if name.contains("tracked") {
            assert_eq!(after, &2_i64.to_le_bytes(), "{name}");
        }
    }
    // The same images give the same bytes, whatever the number of threads.
    let again = [
        "recalibrate",
        "soup.st",
        "-o",
        "again.st",
        "--images",
        "300",
    ];
    text(path, &[&again[..], &["--threads", "1"]].concat());
    let read = |name: &str| fs::read(path.join(name)).unwrap();
    assert_eq!(read("ready.st"), read("again.st"));
    let shown = run(path, &["eval", "ready.st"]);
    assert!(shown.stderr.is_empty());
    assert!(text(path, &["verify", "ready.st"]).contains("as it was written"));
    let proved = text(path, &["verify", "ready.st", "a.st", "b.st"]);
    assert!(
        proved.contains("6 tensors of batch norm were estimated again"),
        "{proved}"
    );
    let inspected = text(path, &["inspect", "ready.st"]);
    assert!(inspected.contains("were estimated again after the merge"));
    // A soup of recalibrated models is not recalibrated.
    text(path, &["recalibrate", "a.st", "-o", "ra.st", "-q"]);
    text(path, &["recalibrate", "b.st", "-o", "rb.st", "-q"]);
    assert!(metadata(&path.join("ra.st"))["sms_recalibration"].is_string());
    text(path, &["ra.st", "rb.st", "-o", "rsoup.st", "-q"]);
    let soup = metadata(&path.join("rsoup.st"));
    assert_eq!(soup["sms_recalibration"], Value::Null);
    assert!(soup["sms_model"].is_string());
}

#[test]
fn tampering_with_a_recalibrated_soup_is_found() {
    let directory = models();
    let path = directory.path();
    text(path, &["recalibrate", "soup.st", "-o", "ready.st", "-q"]);
    let bytes = fs::read(path.join("ready.st")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let begin = bytes.as_ptr() as usize;
    for name in ["bn1.running_mean", "conv1.weight"] {
        let at = file.tensor(name).unwrap().data().as_ptr() as usize - begin;
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(path.join("changed.st"), changed).unwrap();
        for ingredients in [&[][..], &["a.st", "b.st"]] {
            let arguments = [&["verify", "changed.st"], ingredients].concat();
            assert_eq!(failure(path, &arguments).0, 6, "{name} {ingredients:?}");
        }
    }
    // A certificate cannot excuse a weight.
    let place = |word: &[u8], from: usize| {
        let found = bytes[from..]
            .windows(word.len())
            .position(|part| part == word);
        found.unwrap() + from
    };
    let list = place(br#"recalibrated\":["#, 0);
    let at = place(b"bn1.running_mean", list);
    let mut forged = bytes.clone();
    forged[at..at + 16].copy_from_slice(b"conv1.weight    ");
    fs::write(path.join("forged.st"), forged).unwrap();
    let status = failure(path, &["verify", "forged.st", "a.st", "b.st"]).0;
    assert_eq!(status, 6);
}

#[test]
fn recalibrate_leaves_other_models_alone() {
    let directory = models();
    let path = directory.path();
    let shown = text(path, &["recalibrate", "mlp.st", "-o", "same.st"]);
    assert!(shown.contains("no batch norm"), "{shown}");
    let read = |name: &str| fs::read(path.join(name)).unwrap();
    assert_eq!(read("mlp.st"), read("same.st"));
    let refused = |arguments: &[&str], expected: i32| {
        let all = [&["recalibrate", "soup.st", "-o", "never.st"], arguments].concat();
        let (status, error) = failure(path, &all);
        assert_eq!(status, expected, "{error}");
        assert!(!path.join("never.st").exists());
        error
    };
    let error = refused(&["--images", "0"], 2);
    assert!(error.contains("0 images make no batch of 128"), "{error}");
    refused(&["--images", "100"], 2);
    refused(&["--images", "2000"], 2);
    let error = failure(path, &["recalibrate", "soup.st", "-o", "a.st"]);
    assert_eq!(error.0, 2, "{}", error.1);
    text(path, &["export", "soup.st", "-o", "soup.onnx", "-q"]);
    let error = failure(path, &["recalibrate", "soup.onnx", "-o", "never.st"]);
    assert_eq!(error.0, 3, "{}", error.1);
    assert!(error.1.contains("is an ONNX model"), "{}", error.1);
}

/// Writes a checkpoint again with names as torch's DataParallel makes them.
fn wrap(from: &Path, to: &Path) {
    let bytes = fs::read(from).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let renamed = file
        .iter()
        .map(|(name, tensor)| (format!("module.{name}"), tensor));
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    safetensors::serialize_to_file(renamed, header.metadata().clone(), to).unwrap();
}

#[test]
fn names_with_a_prefix_are_read_by_all_that_computes() {
    let directory = models();
    let path = directory.path();
    for name in ["a", "b", "mlp"] {
        wrap(
            &path.join(format!("{name}.st")),
            &path.join(format!("w{name}.st")),
        );
    }
    let strip = ["--strip-prefix", "module."];
    let (status, error) = failure(path, &["eval", "wa.st"]);
    assert_eq!(status, 3, "{error}");
    assert!(error.contains("`--strip-prefix module.`"), "{error}");
    let accuracy =
        |words: &[&str]| json(path, words)["models"][0]["evaluation"]["accuracy"].clone();
    let wrapped = [&["eval", "wa.st"], &strip[..]].concat();
    assert_eq!(accuracy(&wrapped), accuracy(&["eval", "a.st"]));

    let same = |wrapped: &[&str], bare: &[&str]| {
        let write = |words: &[&str], output: &str, more: &[&str]| {
            text(path, &[words, &["-o", output, "-q"], more].concat());
            tensors(&path.join(output))
        };
        let found = write(wrapped, "found.st", &strip);
        assert!(found == write(bare, "expected.st", &[]), "{wrapped:?}");
        fs::remove_file(path.join("found.st")).unwrap();
        fs::remove_file(path.join("expected.st")).unwrap();
    };
    same(&["recalibrate", "wa.st"], &["recalibrate", "a.st"]);
    same(&["recalibrate", "wmlp.st"], &["recalibrate", "mlp.st"]);
    let train = ["train", "--epochs", "1", "--limit-train", "64", "--init"];
    let [wrapped, bare] = [["wa.st"], ["a.st"]].map(|init| [&train[..], &init].concat());
    same(&wrapped, &bare);
    let greedy = ["--method", "greedy"];
    let [wrapped, bare] = [["wa.st", "wb.st"], ["a.st", "b.st"]].map(|of| [of, greedy].concat());
    same(&wrapped, &bare);
}

#[test]
fn a_certificate_of_other_names_does_not_go_on() {
    let directory = models();
    let path = directory.path();
    text(path, &["mlp.st", "mlp.st", "-o", "flat.st", "-q"]);
    for name in ["soup", "flat"] {
        let [bare, wrapped] = ["", "w"].map(|start| path.join(format!("{start}{name}.st")));
        wrap(&bare, &wrapped);
        let wrapped = format!("w{name}.st");
        let words = ["recalibrate", &wrapped, "-o", "new.st", "--force"];
        let output = run(path, &[&words[..], &["--strip-prefix", "module."]].concat());
        assert!(output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("names the tensors as they are in the file; it is left out"));
        let kept = metadata(&path.join("new.st"));
        assert!(kept["sms_model"].is_string());
        assert_eq!(kept["sms_merge"], Value::Null);
    }
}

/// Writes a checkpoint again without any metadata, its tensors changed by `change`.
fn silence(from: &Path, to: &Path, change: impl Fn(&str) -> Option<String>) {
    let bytes = fs::read(from).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file
        .iter()
        .filter_map(|(name, tensor)| Some((change(name)?, tensor)));
    safetensors::serialize_to_file(tensors, None, to).unwrap();
}

/// What a checkpoint of somebody else's is, has to be said.
#[test]
fn nothing_is_guessed_of_a_checkpoint_that_does_not_say_what_it_is() {
    let directory = models();
    let path = directory.path();
    let whole = |name: &str| Some(name.to_owned());
    for name in ["a", "b", "soup", "mlp"] {
        let [own, silent] = [name.to_owned(), format!("silent-{name}")];
        let [own, silent] = [own, silent].map(|name| path.join(name + ".st"));
        silence(&own, &silent, whole);
    }
    let model = ["--model", "convnet", "--model-option", "widths=4,8"];
    let data = ["--data", "digits"];
    let facts = ["which network it holds", "which images it was trained on"];
    let options = ["add `--model MODEL`", "`--data DATA`"];

    let commands: [&[&str]; 4] = [
        &["eval", "a.st", "silent-soup.st"],
        &["recalibrate", "silent-soup.st", "-o", "never.st"],
        &[
            "a.st",
            "silent-soup.st",
            "--method",
            "greedy",
            "-o",
            "never.st",
        ],
        &["train", "--init", "silent-soup.st", "-o", "never.st"],
    ];
    for command in commands {
        let refused = |more: &[&str], missing: [bool; 2]| {
            let (status, error) = failure(path, &[command, more].concat());
            assert_eq!(status, 2, "{command:?} {error}");
            assert!(error.contains("`silent-soup.st` does not say"), "{error}");
            for (idx, is_missing) in missing.into_iter().enumerate() {
                assert_eq!(error.contains(facts[idx]), is_missing, "{error}");
            }
            assert_eq!(error.contains(options[0]), missing[0], "{error}");
            assert_eq!(error.contains(options[1]), missing[1], "{error}");
            assert!(!path.join("never.st").exists());
            error
        };
        let error = refused(&[], [true, true]);
        let in_torch = error.contains("`torch.optim.swa_utils.update_bn(loader, model)`");
        assert_eq!(in_torch, command[0] == "recalibrate", "{error}");
        refused(&data, [true, false]);
        refused(&model, [false, true]);
    }
    let export = ["export", "silent-soup.st", "-o", "never.onnx"];
    let (status, error) = failure(path, &export);
    assert_eq!(status, 2, "{error}");
    assert!(
        error.contains("`silent-soup.st` does not say which model"),
        "{error}"
    );
    assert!(error.contains("sms-merge model --list"), "{error}");
    assert!(!path.join("never.onnx").exists());
    // What the hints name is there.
    assert!(text(path, &["model", "--list"]).contains("convnet"));
    assert!(text(path, &["model", "--help"]).contains("[[layers]]"));
    assert!(text(path, &["data", "--help"]).contains("fashion-mnist"));

    // Said, the same numbers come out as of the checkpoint that says so itself.
    let said = [&model[..], &data[..]].concat();
    let evaluation = |words: &[&str]| json(path, words)["models"][0]["evaluation"].clone();
    let silent = [&["eval", "silent-a.st"], &said[..]].concat();
    assert_eq!(evaluation(&silent), evaluation(&["eval", "a.st"]));
    let silent = [
        &["recalibrate", "silent-soup.st", "-o", "s.st", "-q"],
        &said[..],
    ]
    .concat();
    text(path, &silent);
    text(path, &["recalibrate", "soup.st", "-o", "r.st", "-q"]);
    assert!(tensors(&path.join("s.st")) == tensors(&path.join("r.st")));
    let greedy = [
        "silent-a.st",
        "silent-b.st",
        "--method",
        "greedy",
        "-o",
        "g.st",
        "-q",
    ];
    text(path, &[&greedy[..], &said[..]].concat());
}

/// Everything that is made of our own checkpoints needs no options.
#[test]
fn what_a_checkpoint_is_goes_with_it_wherever_it_goes() {
    let directory = models();
    let path = directory.path();
    let make = |words: &[&str]| drop(text(path, &[words, &["-q"]].concat()));
    make(&["prune", "soup.st", "-o", "pruned.st", "--sparsity", "0.5"]);
    for layout in ["bitmask", "compressed-tensors", "torch-prune", "dense"] {
        make(&[
            "export",
            "pruned.st",
            "-o",
            &format!("{layout}.st"),
            "--layout",
            layout,
        ]);
    }
    make(&["a.st", "b.st", "-o", "half.st", "--dtype", "f16"]);
    make(&["bitmask.st", "bitmask.st", "-o", "again.st"]);
    make(&["a.st", "b.st", "-o", "many", "--shard-size", "4KB"]);
    make(&["a.st", "b.st", "-o", "best.st", "--method", "greedy"]);
    make(&["export", "soup.st", "-o", "soup.onnx"]);
    make(&["mlp.st", "mlp.st", "-o", "flat.st"]);
    let all = [
        "pruned.st",
        "bitmask.st",
        "compressed-tensors.st",
        "torch-prune.st",
        "dense.st",
        "half.st",
        "again.st",
        "many",
        "best.st",
        "flat.st",
    ];
    for name in all {
        text(path, &["eval", name]);
        let output = format!("ready-{}.st", name.replace('.', "-"));
        text(path, &["recalibrate", name, "-o", &output]);
        text(path, &["eval", &output]);
        text(path, &["export", name, "-o", &format!("{output}.onnx")]);
    }
    text(path, &["eval", "soup.onnx"]);
    text(
        path,
        &[
            "train",
            "--init",
            "pruned.st",
            "--epochs",
            "1",
            "-o",
            "t.st",
            "-q",
        ],
    );
}

/// The commands that stand between backticks behind `before`.
fn command_in(error: &str, before: &str) -> Vec<String> {
    let begin = error.find(before).unwrap_or_else(|| panic!("{error}"));
    let command = &error[begin + before.len()..];
    let command = command.split('`').next().unwrap();
    assert!(!command.contains('\''), "{command}");
    let mut words = command.split(' ').map(str::to_owned);
    assert_eq!(words.next().unwrap(), "sms-merge");
    words.collect()
}

#[test]
fn the_advice_after_a_merge_works_as_it_is_printed() {
    let directory = models();
    let path = directory.path();
    let warned = |words: &[&str]| {
        let output = run(path, words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?} {error}");
        error
    };
    let follow = |command: &[String]| {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let found = text(path, &words);
        assert!(
            found.contains("estimated from 1,280 training images"),
            "{found}"
        );
        assert!(run(path, &["eval", &command[3]]).stderr.is_empty());
    };

    let by = "before the soup is used, by `";
    let said = warned(&["a.st", "b.st", "-o", "new.st"]);
    assert!(!said.contains("update_bn"), "{said}");
    let command = command_in(&said, by);
    assert_eq!(command[1..], ["new.st", "-o", "new-recalibrated.st"]);
    follow(&command);
    // Once more, where the name is taken.
    let command = command_in(&warned(&["a.st", "b.st", "-o", "new.st", "--force"]), by);
    assert_eq!(command[3], "new-recalibrated-2.st");
    follow(&command);
    follow(&command_in(
        &warned(&["a.st", "b.st", "-o", "dir", "--shard-size", "4KB"]),
        by,
    ));
    follow(&command_in(&warned(&["eval", "new.st"]), "first `"));

    // Of somebody else's network only its framework can estimate them.
    let whole = |name: &str| Some(name.to_owned());
    silence(&path.join("a.st"), &path.join("fa.st"), whole);
    silence(&path.join("b.st"), &path.join("fb.st"), whole);
    for words in [
        ["fa.st", "fb.st", "-o", "f.st"],
        ["a.st", "fb.st", "-o", "g.st"],
    ] {
        let said = warned(&words);
        assert!(
            said.contains("`torch.optim.swa_utils.update_bn(loader, model)`"),
            "{said}"
        );
        assert!(
            said.contains(&format!("load `{}` into the model", words[3])),
            "{said}"
        );
        assert!(!said.contains("recalibrate"), "{said}");
    }
    // Unless it is said what it is; then the advice says so too.
    let told = [
        "--model",
        "convnet",
        "--model-option",
        "widths=4,8",
        "--data",
        "digits",
    ];
    let said = warned(&[&["eval", "f.st"], &told[..]].concat());
    let words = command_in(&said, "first `");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    text(path, &words);

    // A model for other programs has to be exported again.
    text(path, &["export", "a.st", "-o", "a.onnx", "-q"]);
    text(path, &["export", "b.st", "-o", "b.onnx", "-q"]);
    let said = warned(&["a.onnx", "b.onnx", "-o", "s.onnx"]);
    assert!(
        said.contains("that the models were exported from"),
        "{said}"
    );
    assert!(!said.contains("sms-merge recalibrate"), "{said}");
}

/// Images of the digits' size and classes that are not theirs: bright noise.
fn write_noise(path: &Path) {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    let mut state = 1_u64;
    let pixels: Vec<u8> = (0..512 * 64)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 57) as u8 | 128
        })
        .collect();
    let labels: Vec<u8> = (0..512).map(|image| (image % 10) as u8).collect();
    let images = TensorView::new(Dtype::U8, vec![512, 1, 8, 8], &pixels).unwrap();
    let labels = TensorView::new(Dtype::U8, vec![512], &labels).unwrap();
    let tensors = [("images", images), ("labels", labels)];
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

#[test]
fn statistics_of_other_images_are_found_by_how_far_they_move() {
    let directory = models();
    let path = directory.path();
    write_noise(&path.join("noise.st"));
    let recalibrated = |more: &[&str]| {
        let words = ["recalibrate", "soup.st", "-o", "r.st", "--force"];
        let found = json(path, &[&words[..], more].concat());
        let moved = &found["moved"];
        assert_eq!(moved["channels"], 12);
        assert_eq!(moved["layers"].as_array().unwrap().len(), 2);
        assert_eq!(moved["layers"][0]["name"], "bn1");
        let warnings = found["warnings"].as_array().unwrap();
        let far = "statistics moved implausibly far";
        let is_warned = warnings
            .iter()
            .any(|text| text.as_str().unwrap().contains(far));
        (
            float(&moved["mean_shift"]),
            float(&moved["variance_factor"]),
            is_warned,
        )
    };
    let (shift, factor, is_warned) = recalibrated(&[]);
    assert!(!is_warned, "{shift} {factor}");
    let (far, larger, is_warned) = recalibrated(&["--data", "noise.st"]);
    assert!(is_warned, "{far} {larger}");
    assert!(far > 2.0 * shift, "{shift} {factor} {far} {larger}");
    let words = ["recalibrate", "soup.st", "-o", "r.st", "--force"];
    let shown = text(path, &words);
    assert!(
        shown.contains("standard deviations, variances by a factor of "),
        "{shown}"
    );
    assert!(shown.contains("(medians over 12 channels)"), "{shown}");
    // Once estimated, they stay where they are.
    let again = json(path, &["recalibrate", "r.st", "-o", "again.st"]);
    assert_eq!(float(&again["moved"]["mean_shift"]), 0.0);
    assert_eq!(float(&again["moved"]["variance_factor"]), 1.0);
}

#[test]
fn tensors_that_a_named_model_lacks_are_named() {
    let directory = models();
    let path = directory.path();
    let change = |to: &str, change: &dyn Fn(&str) -> Option<String>| {
        silence(&path.join("a.st"), &path.join(to), change);
    };
    change("renamed.st", &|name| Some(name.replace("bn1", "norm1")));
    change("part.st", &|name| {
        (!name.starts_with("bn2.")).then(|| name.to_owned())
    });
    change("counts.st", &|name| {
        (!name.ends_with("tracked")).then(|| name.to_owned())
    });
    let model = [
        "--model",
        "convnet",
        "--model-option",
        "widths=4,8",
        "--data",
        "digits",
    ];
    let commands: [(&str, &[&str]); 2] = [("eval", &[]), ("recalibrate", &["-o", "never.st"])];
    for (command, more) in commands {
        let check = |name: &str, model: &[&str], expected: &[&str]| {
            let (status, error) = failure(path, &[&[command, name], more, model].concat());
            assert_eq!(status, 3, "{error}");
            assert!(
                error.contains(&format!("`{name}` is no checkpoint of")),
                "{error}"
            );
            for expected in expected {
                assert!(error.contains(expected), "{expected}: {error}");
            }
        };
        let norm = ["tensor `bn1.weight` of `convnet` is missing", "`norm1."];
        check("renamed.st", &model, &norm);
        check(
            "part.st",
            &model,
            &["tensor `bn2.weight` of `convnet` is missing (and 3 more)"],
        );
        let wide = [&model[..3], &["widths=4,16"], &model[4..]].concat();
        check("a.st", &wide, &["has shape", "expected"]);
        text(path, &[&[command, "counts.st"], more, &model].concat());
        let _ = fs::remove_file(path.join("never.st"));
    }
}
