//! What a run is about: images, a checkpoint that is given, and what of them does not fit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

use crate::bench::Bench;
use crate::bench::SMALL;

/// 64 training images and 16 test images of 4x4 pixels, the four classes told by a bright
/// row; the labels of the test images are off by `shift`.
fn write_images(path: &Path, shift: i64) {
    let class = |image: usize| image % 4;
    let pixels = |n: usize| -> Vec<u8> {
        let bright = |image: usize, pixel: usize| match pixel / 4 == class(image) {
            true => 200 + (7 * image % 50) as u8,
            false => (31 * image + 17 * pixel) as u8 % 60,
        };
        (0..n)
            .flat_map(|image| (0..16).map(move |pixel| bright(image, pixel)))
            .collect()
    };
    let labels = |n: usize, shift: i64| -> Vec<u8> {
        let labels = (0..n).map(|image| (class(image) as i64 + shift) % 4);
        labels.flat_map(i64::to_le_bytes).collect()
    };
    let tensors = [
        ("images", Dtype::U8, vec![64, 1, 4, 4], pixels(64)),
        ("labels", Dtype::I64, vec![64], labels(64, 0)),
        ("test_images", Dtype::U8, vec![16, 1, 4, 4], pixels(16)),
        ("test_labels", Dtype::I64, vec![16], labels(16, shift)),
    ];
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
            (*name, view)
        })
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A recipe of one phase on those images.
fn on_images(bench: &Bench, more: &str) {
    write_images(&bench.at("images.st"), 0);
    let text = SMALL
        .replace(
            "name = \"digits\"\nlimit_train = 200",
            "name = \"images.st\"",
        )
        .replace("phases = 2", "phases = 1")
        .replace("imp_reprune = true", "imp_m_times = false");
    bench.recipe("r.toml", &format!("{text}\n{more}"));
}

fn accuracy(bench: &Bench) -> f64 {
    let report: Value = serde_json::from_str(&bench.text("sms-run/report.json")).unwrap();
    let soup = &report["studies"][0]["phases"][0]["soup"]["model"]["scores"];
    soup["accuracy"].as_f64().unwrap()
}

#[test]
fn other_test_images_are_measured_anew() {
    let bench = Bench::new();
    on_images(&bench, "[pretraining]\nlearning_rate = 0.05");
    bench.cycle(&["r.toml"], 0);
    let before = accuracy(&bench);
    write_images(&bench.at("images.st"), 1);
    bench.cycle(&["r.toml"], 0);
    let after = accuracy(&bench);
    assert_ne!(before, after);
    let words = ["eval", "sms-run/soup.safetensors", "--data", "images.st"];
    let found = bench.run(&[&words[..], &["--json"]].concat(), 0);
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["models"][0]["evaluation"]["accuracy"], after);
}

/// Relative paths of a recipe begin where the run was started, wherever one looks from.
#[test]
fn a_run_is_looked_at_from_anywhere() {
    let bench = Bench::new();
    on_images(&bench, "");
    bench.cycle(&["r.toml"], 0);
    let run = bench.at("sms-run");
    let here = bench.run(&["cycle", "status", run.to_str().unwrap()], 0);
    let mut command = bench.command(&["cycle", "status", run.to_str().unwrap()]);
    let elsewhere = command.current_dir("/").output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(0));
    assert_eq!(elsewhere.stdout, here.stdout);
    let job = fs::read_dir(run.join("jobs")).unwrap().next().unwrap();
    let job = job.unwrap().path();
    let mut command = bench.command(&["job", "run", job.to_str().unwrap()]);
    let done = command.current_dir("/").output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{done:?}");
}

/// There are fewer images than a batch of the recalibration has by default.
#[test]
fn few_images_are_one_batch() {
    let bench = Bench::new();
    on_images(&bench, "");
    let model = ["--set", "model.name=\"convnet\""];
    let options = ["--set", "model.options={widths=\"2,4\"}"];
    bench.cycle(&[&["r.toml"], &model[..], &options].concat(), 0);
}

#[test]
fn patterns_that_match_nothing_are_refused_at_once() {
    let bench = Bench::new();
    on_images(&bench, "");
    for key in ["include", "exclude"] {
        let change = format!("pruning.{key}=[\"conv*\"]");
        let output = bench.cycle(&["r.toml", "--set", &change], 2);
        let error = String::from_utf8(output.stderr).unwrap();
        let expected = format!("`pruning.{key}` has `conv*`, which matches no tensor of `mlp`");
        assert!(error.contains(&expected), "{error}");
    }
    assert!(!bench.at("sms-run").exists());
}

/// Trains a dense network for a recipe that begins with it.
fn given(bench: &Bench, seed: &str) {
    let words = ["train", "-q", "--model", "mlp", "--model-option"];
    let more = ["hidden=16", "--epochs", "6", "--limit-train", "200"];
    let rest = ["--seed", seed, "-o", "dense.st", "--force"];
    bench.run(&[&words[..], &more, &rest].concat(), 0);
}

fn from_given(bench: &Bench) {
    let text = SMALL
        .replace("epochs = 4", "checkpoint = \"dense.st\"")
        .replace("epochs = 2\n", "")
        .replace("phases = 2", "phases = 1");
    bench.recipe("r.toml", &text);
}

/// A third of the epochs that the checkpoint was trained for.
#[test]
fn the_length_of_a_retraining_follows_the_given_checkpoint() {
    let bench = Bench::new();
    given(&bench, "0");
    from_given(&bench);
    let found = bench.cycle(&["r.toml", "--plan", "--json"], 0);
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    // Two ingredients, the first of which is IMP and both of IMP-RePrune, and IMP of twice
    // their length.
    assert_eq!(found["epochs"], 2 * 2 + 4);
}

#[test]
fn another_checkpoint_than_the_one_looked_up_is_not_taken_in() {
    let bench = Bench::new();
    given(&bench, "0");
    from_given(&bench);
    bench.cycle(&["r.toml"], 0);
    let jobs = fs::read_dir(bench.at("sms-run/jobs")).unwrap();
    let mut jobs = jobs.map(|job| job.unwrap().path());
    let is_import = |job: &std::path::PathBuf| {
        let text = fs::read_to_string(job.join("job.json")).unwrap();
        let job: Value = serde_json::from_str(&text).unwrap();
        job["work"]["kind"] == "import"
    };
    let job = jobs.find(is_import).unwrap();
    let key = job.file_name().unwrap().to_str().unwrap();
    let receipt = bench.at(format!("sms-run/receipts/{key}.json"));
    fs::remove_file(&receipt).unwrap();
    given(&bench, "1");
    let output = bench.run(&["job", "run", job.to_str().unwrap()], 1);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("has changed since the run began"), "{error}");
    assert!(!receipt.exists());
}

/// What pruning took of the network is the same, whichever weights it is put on.
#[test]
fn rewinding_does_not_change_what_was_lost() {
    let lost = |more: &str| {
        let bench = Bench::new();
        let text = SMALL.replace("schedule = \"llr\"", "schedule = \"allr\"");
        bench.recipe("r.toml", &format!("{text}\n{more}"));
        bench.cycle(&["r.toml", "--set", "pruning.phases=1"], 0);
        let bytes = bench.bytes("sms-run/soup.safetensors");
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let mut losses = Vec::new();
        for entry in fs::read_dir(bench.at("sms-run/artefacts")).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            let Ok((_, header)) = SafeTensors::read_metadata(&bytes) else {
                continue;
            };
            let metadata = header.metadata().clone().unwrap_or_default();
            let Some(record) = metadata.get("sms_train") else {
                continue;
            };
            let record: Value = serde_json::from_str(record).unwrap();
            losses.extend(record["recipe"]["pace"]["retraining"]["lost"].as_f64());
        }
        assert!(header.metadata().is_some());
        losses.sort_by(f64::total_cmp);
        losses.dedup();
        losses
    };
    let plain = lost("");
    assert_eq!(plain.len(), 1, "{plain:?}");
    assert_eq!(lost("[retraining]\nrewind_epoch = 1"), plain);
}
