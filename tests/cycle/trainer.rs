//! The user's own trainer: what it is told, and what happens if it fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::bench::Bench;
use crate::bench::SMALL;
use crate::bench::stderr;
use crate::python;

/// A trainer that trains with this program.
pub const TRAIN: &str = r#"#!/bin/sh
set -e
init=""
if [ -n "$SMS_MERGE_BASE" ]; then init="--init $SMS_MERGE_BASE --mask $SMS_MERGE_MASK"; fi
"$SMS_MERGE" train $init --model mlp --model-option hidden=16 --limit-train 200 --epochs 2 \
    --seed "$SMS_MERGE_SEED" --quiet -o "$SMS_MERGE_OUTPUT"
"#;

pub fn script(bench: &Bench, name: &str, text: &str) -> String {
    let path = bench.at(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// A recipe that trains by the command.
pub fn recipe(bench: &Bench, command: &str, more: &str) {
    let text = SMALL
        .replace("[pretraining]\nepochs = 4\n", "")
        .replace("imp_reprune = true", "imp_m_times = false");
    bench.recipe(
        "r.toml",
        &format!("{text}\n[trainer]\ncommand = \"{command}\"\n{more}"),
    );
}

fn cycle(bench: &Bench, words: &[&str], exit: i32) -> String {
    let mut command = bench.command(&[&["cycle", "r.toml"], words].concat());
    command.env("SMS_MERGE", env!("CARGO_BIN_EXE_sms-merge"));
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(exit), "{text}");
    text
}

#[test]
fn a_trainer_of_the_users_makes_the_ingredients() {
    let bench = Bench::new();
    let train = script(&bench, "train.sh", TRAIN);
    recipe(&bench, &train, "");
    cycle(&bench, &[], 0);
    let report: Value = serde_json::from_str(&bench.text("sms-run/report.json")).unwrap();
    let phase = &report["studies"][0]["phases"][1];
    let soup = &phase["soup"]["model"]["scores"]["accuracy"];
    assert!(soup.as_f64().unwrap() > 0.3, "{soup}");
    assert_eq!(phase["ingredients"].as_array().unwrap().len(), 2);
    bench.run(&["verify", "sms-run/soup.safetensors"], 0);
    // What it was told.
    let (path, _) = bench.receipt("sms-run", "seed 0, phase 2, ingredient 1");
    let key = path.file_stem().unwrap().to_str().unwrap().to_owned();
    let told = bench.text(&format!("sms-run/jobs/{key}/1/job.json"));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["schema"], 1);
    assert_eq!(told["phase"], 2);
    assert_eq!(told["ingredient"], 1);
    assert_eq!(told["seed"], 2001);
    assert_eq!(told["sparsity"], 0.8);
    assert_eq!(told["hyperparameters"]["epochs"], 2);
    assert!(told["base"].as_str().unwrap().starts_with('/'));
}

#[test]
fn revived_weights_stop_the_run_or_are_pruned_again() {
    let bench = Bench::new();
    // Trains, and forgets the mask in the retraining.
    let text = TRAIN.replace("--mask $SMS_MERGE_MASK", "--dense");
    let train = script(&bench, "train.sh", &text);
    recipe(&bench, &train, "");
    let text = cycle(&bench, &[], 1);
    assert!(
        text.contains("the trainer revived pruned weights"),
        "{text}"
    );
    assert!(text.contains("`fc1.weight`"), "{text}");
    // It would do so again: it is not tried a second time.
    assert!(!text.contains("tried again"), "{text}");
    let text = cycle(&bench, &["--set", "trainer.on_unmasked=remask"], 0);
    assert!(text.contains("which were pruned again"), "{text}");
    bench.run(&["verify", "sms-run/soup.safetensors"], 0);
}

#[test]
fn failures_are_told_and_others_go_on() {
    let check = |text: &str, more: &str, expected: &[&str]| {
        let bench = Bench::new();
        let train = script(&bench, "train.sh", text);
        recipe(&bench, &train, more);
        let found = cycle(&bench, &[], 1);
        for expected in expected {
            assert!(found.contains(expected), "{expected}: {found}");
        }
        // The other ingredient was trained.
        bench.receipt("sms-run", "seed 0, phase 1, ingredient 1");
        assert!(!bench.at("sms-run/soup.safetensors").exists());
    };
    let second = |command: &str| {
        let condition = "if [ \"$SMS_MERGE_INGREDIENT\" = 2 ]; then ";
        TRAIN.replace("set -e\n", &format!("set -e\n{condition}{command}; fi\n"))
    };
    check(
        &second("echo out of luck; exit 7"),
        "",
        &["ended with status 7", "out of luck", "tried again"],
    );
    check(&second("kill -SEGV $$"), "", &["signal: 11"]);
    check(&second("exit 0"), "", &["ended without writing"]);
    check(
        &second("sleep 60"),
        "timeout_secs = 1\n[run]\nretries = 0",
        &["it took too long"],
    );
    check(
        &second("sleep 60"),
        "stall_secs = 1\n[run]\nretries = 0",
        &["it stalled"],
    );
    check(
        &second("printf half > \"$SMS_MERGE_OUTPUT\"; exit 0"),
        "",
        &["output.st"],
    );
    let other = "\"$SMS_MERGE\" train --model mlp --model-option hidden=8 --limit-train 64 \
                 --epochs 1 --quiet -o \"$SMS_MERGE_OUTPUT\"; exit 0";
    check(&second(other), "", &["fc1.bias"]);
}

#[test]
fn enough_ingredients_make_a_soup_if_that_is_permitted() {
    let bench = Bench::new();
    let condition = "if [ \"$SMS_MERGE_INGREDIENT\" = 2 ]; then exit 7; fi\n";
    let text = TRAIN.replace("set -e\n", &format!("set -e\n{condition}"));
    let train = script(&bench, "train.sh", &text);
    let more = "[ingredients]\nmin = 2\n[run]\nretries = 0";
    recipe(&bench, &train, more);
    let found = cycle(&bench, &["--set", "ingredients.count=3"], 0);
    let warning = "warning: soups were made without some ingredients";
    assert!(found.contains(warning), "{found}");
    assert!(
        found.contains("  seed 0, phase 2, ingredient 2: "),
        "{found}"
    );
    let report: Value = serde_json::from_str(&bench.text("sms-run/report.json")).unwrap();
    let phase = &report["studies"][0]["phases"][1];
    let ordinals: Vec<&Value> = phase["ingredients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ingredient| &ingredient["ordinal"])
        .collect();
    assert_eq!(ordinals, [1, 3]);
    assert_eq!(phase["soup"]["missing"][0], "seed 0, phase 2, ingredient 2");
    assert!(bench.at("sms-run/soup.safetensors").exists());
    // Who looks finds the soups, though an ingredient could be tried again.
    let found = bench.run(&["cycle", "status", "sms-run", "--json"], 0);
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["report"]["studies"], report["studies"]);
    let open = found["steps"].as_array().unwrap().iter();
    let open: Vec<&Value> = open.filter(|step| step["state"] != "done").collect();
    assert!(
        open.iter()
            .all(|step| step["label"].as_str().unwrap().ends_with("ingredient 2")),
        "{open:?}"
    );
    assert_eq!(open.len(), 2);
}

/// It is the trainer's step that fails, not the merge that reads of it.
#[test]
fn a_training_that_diverged_is_named() {
    let bench = Bench::new();
    let diverge = "if [ \"$SMS_MERGE_INGREDIENT\" = 2 ]; then \"$SMS_MERGE\" \
                   \"$SMS_MERGE_OUTPUT\" \"$SMS_MERGE_OUTPUT\" -w 1e300,1e300 --no-normalize \
                   --allow-non-finite -q -o far.st --force; mv far.st \"$SMS_MERGE_OUTPUT\"; fi\n";
    let train = script(&bench, "train.sh", &format!("{TRAIN}{diverge}"));
    recipe(&bench, &train, "");
    let found = cycle(&bench, &["--set", "evaluation.segment_points=0"], 1);
    assert!(
        found.contains("failed: seed 0, phase 1, ingredient 2: "),
        "{found}"
    );
    let expected = "has elements in `fc1.bias` that are NaN or infinite";
    assert!(found.contains(expected), "{found}");
    assert!(!found.contains("is tried again"), "{found}");
}

/// Each phase finds the report of those before it.
#[test]
fn the_report_is_there_after_each_phase() {
    let bench = Bench::new();
    let look = "set -e\nfound=\"found-$SMS_MERGE_SEED.json\"\n\
                if [ -e sms-run/report.json ] && ! [ -e \"$found\" ]; then \
                cp sms-run/report.json \"$found\"; fi\n";
    let train = script(&bench, "train.sh", &TRAIN.replace("set -e\n", look));
    recipe(&bench, &train, "[run]\njobs = 1");
    let text = cycle(&bench, &[], 0);
    let files = "soup.safetensors, soup.onnx, report.html";
    assert!(text.contains(files), "{text}");
    assert!(!bench.at("found-1001.json").exists());
    let found: Value = serde_json::from_str(&bench.text("found-2001.json")).unwrap();
    let phases = found["studies"][0]["phases"].as_array().unwrap();
    assert!(phases[0]["soup"].is_object(), "{found}");
    assert!(phases.get(1).is_none_or(|phase| phase["soup"].is_null()));
}

#[test]
fn a_command_can_measure() {
    let bench = Bench::new();
    let train = script(&bench, "train.sh", TRAIN);
    let measure = "#!/bin/sh\necho loading\necho '{\"top5\": 0.75, \"loss\": 2}'\n";
    let measure = script(&bench, "measure.sh", measure);
    let more = format!("[evaluation]\ncommand = \"{measure} {{checkpoint}}\"\nmetric = \"top5\"\n");
    recipe(&bench, &train, &more);
    let refused = cycle(&bench, &[], 2);
    let both = "`evaluation.command` and `evaluation.segment_points` cannot both be given";
    assert!(refused.contains(both), "{refused}");
    let alone = ["--set", "evaluation.segment_points=0"];
    cycle(&bench, &alone, 0);
    let report: Value = serde_json::from_str(&bench.text("sms-run/report.json")).unwrap();
    let phase = &report["studies"][0]["phases"][0];
    let scores = &phase["soup"]["model"]["scores"];
    assert_eq!(scores["accuracy"], 0.75);
    assert_eq!(scores["loss"], 2.0);
    // Nothing of another evaluator stands beside.
    assert!(phase["baselines"]["imp"].is_object());
    assert!(phase["baselines"]["ensemble"].is_null());
    // A greedy soup is not chosen on what may be test images.
    let greedy = [&alone[..], &["--set", "merge.method=\"greedy\""]].concat();
    let refused = cycle(&bench, &greedy, 1);
    assert!(
        refused.contains("the command gave no `validation_accuracy`"),
        "{refused}"
    );
}

/// The trainer of `examples/pytorch`, with the Python of `SMS_MERGE_PYTHON` or `python3`.
#[test]
fn the_pytorch_example_trains_its_ingredients() {
    let Some(python) = python::with(&["torch"]) else {
        return;
    };
    let python = python.display();
    let bench = Bench::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/pytorch");
    let recipe = format!("{example}/recipe.toml");
    let command = format!("trainer.command=\"{python} {example}/train.py {{job}}\"");
    let words = [
        recipe.as_str(),
        "--set",
        &command,
        "--set",
        "pretraining.epochs=8",
        "--set",
        "retraining.epochs=2",
    ];
    bench.cycle(&words, 0);
    let report: Value = serde_json::from_str(&bench.text("sms-run/report.json")).unwrap();
    for phase in report["studies"][0]["phases"].as_array().unwrap() {
        let soup = &phase["soup"]["model"]["scores"]["accuracy"];
        assert!(soup.as_f64().unwrap() > 0.85, "{soup}");
        let curve = &phase["ingredients"][0]["model"]["curve"];
        assert_eq!(curve.as_array().unwrap().len(), 2);
    }
    bench.run(&["verify", "sms-run/soup.safetensors"], 0);
}
