//! Whole runs of `sms-merge cycle` on the embedded digits.
#![cfg(feature = "train")]
#![expect(unreachable_pub, reason = "modules of a test have no other users")]

#[path = "cycle/bench.rs"]
mod bench;
#[path = "cycle/damage.rs"]
mod damage;
#[path = "cycle/inputs.rs"]
mod inputs;
#[path = "cycle/kills.rs"]
mod kills;
#[path = "cycle/names.rs"]
mod names;
mod python;
#[path = "cycle/trainer.rs"]
mod trainer;
#[path = "cycle/words.rs"]
mod words;

use serde_json::Value;

use bench::Bench;
use bench::SMALL;
use bench::stderr;

/// The accuracy of a model in `report.json`.
fn accuracy(model: &Value) -> f64 {
    model["scores"]["accuracy"].as_f64().unwrap()
}

#[test]
fn a_run_ends_with_a_soup_and_a_report() {
    let bench = Bench::new();
    bench.recipe("r.toml", SMALL);
    let found = bench.cycle(&["r.toml", "--json"], 0);
    let object: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(object["ended"], "done");
    assert_eq!(object["reused"], 0);
    let report: Value = serde_json::from_str(&bench.text("sms-run/report.json")).unwrap();
    assert_eq!(report["studies"], object["report"]["studies"]);
    let phases = report["studies"][0]["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2);
    for (phase, target) in phases.iter().zip([0.552_786_404_500_042_1, 0.8]) {
        assert_eq!(phase["target"].as_f64().unwrap(), target);
        // Counts are met exactly: within half a weight of 8*8*16 + 16*10.
        let sparsity = phase["sparsity"].as_f64().unwrap();
        assert!((sparsity - target).abs() <= 0.5 / 1184.0, "{sparsity}");
        assert_eq!(phase["ingredients"].as_array().unwrap().len(), 2);
        assert_eq!(phase["soup"]["method"], "uniform");
        for name in ["imp", "imp-m-times", "imp-reprune", "ensemble"] {
            assert!(accuracy(&phase["baselines"][name]) > 0.3, "{name}");
        }
        assert_eq!(phase["segments"][0]["points"].as_array().unwrap().len(), 3);
    }
    // IMP begins as the first ingredient does: the first phase trains them once.
    let first = &phases[0];
    assert_eq!(
        first["baselines"]["imp"]["digest"],
        first["ingredients"][0]["model"]["digest"]
    );
    for name in [
        "report.html",
        "report.md",
        "soup.safetensors",
        "soup.onnx",
        "recipe.toml",
    ] {
        assert!(bench.at("sms-run").join(name).is_file(), "{name}");
    }
    // The soup is what it says, and as good as the report says.
    bench.run(&["verify", "sms-run/soup.safetensors"], 0);
    let measured = bench.run(&["eval", "--json", "sms-run/soup.safetensors"], 0);
    let measured: Value = serde_json::from_slice(&measured.stdout).unwrap();
    assert_eq!(
        measured["models"][0]["evaluation"]["accuracy"],
        phases[1]["soup"]["model"]["scores"]["accuracy"]
    );
    // Once more: nothing is left to do, and nothing changes.
    let before = bench.bytes("sms-run/soup.safetensors");
    let again = bench.cycle(&["r.toml"], 0);
    assert!(stderr(&again).contains("is finished"), "{}", stderr(&again));
    assert_eq!(bench.bytes("sms-run/soup.safetensors"), before);
    let status = bench.run(&["cycle", "status", "sms-run"], 0);
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.starts_with("nobody works in `sms-run`"), "{text}");
}

#[test]
fn neither_jobs_nor_threads_change_a_byte() {
    let bench = Bench::new();
    bench.recipe("r.toml", SMALL);
    let digests = |run: &str, words: &[&str]| {
        let words = [&["r.toml", "--run-dir", run], words].concat();
        bench.cycle(&words, 0);
        (
            bench.bytes(&format!("{run}/soup.safetensors")),
            bench.outputs(run),
        )
    };
    let one = digests("one", &["--jobs", "1", "--threads", "1"]);
    let many = digests("many", &["--jobs", "3", "--threads", "4"]);
    assert!(one == many, "the runs differ");
}

#[test]
fn a_changed_recipe_keeps_what_it_does_not_change() {
    let bench = Bench::new();
    bench.recipe("r.toml", SMALL);
    bench.cycle(&["r.toml"], 0);
    // A third ingredient: the others are there already.
    let more = ["r.toml", "--json", "--set", "ingredients.count=3"];
    let found = bench.cycle(&more, 0);
    let object: Value = serde_json::from_slice(&found.stdout).unwrap();
    let (steps, reused) = (&object["steps"], &object["reused"]);
    // The dense network, the first pruning and two of its retrainings, and what IMP makes
    // of the first: the rest depends on the soup or the number of ingredients.
    assert!(reused.as_u64().unwrap() >= 8, "{reused} of {steps}");
    assert!(reused.as_u64() < steps.as_u64());
    let anew = [
        "r.toml",
        "--set",
        "ingredients.count=3",
        "--run-dir",
        "anew",
    ];
    bench.cycle(&anew, 0);
    assert_eq!(
        bench.bytes("sms-run/soup.safetensors"),
        bench.bytes("anew/soup.safetensors")
    );
}

#[test]
fn options_of_the_cycle() {
    let check = |text: &str, look: fn(&Value)| {
        let bench = Bench::new();
        bench.recipe("r.toml", &format!("{SMALL}\n{text}"));
        let found = bench.cycle(&["r.toml", "--json"], 0);
        let object: Value = serde_json::from_slice(&found.stdout).unwrap();
        look(&object["report"]);
    };
    check("[merge]\nmethod = \"greedy\"", |report| {
        let soup = &report["studies"][0]["phases"][1]["soup"];
        assert_eq!(soup["method"], "greedy");
        let decisions = soup["decisions"].as_array().unwrap();
        assert_eq!(decisions.len(), 2);
        assert_eq!(decisions[0]["kept"], true);
    });
    check(
        "[merge]\nmethod = \"weighted\"\nweights = [3.0, 1.0]",
        |report| {
            let ingredients = &report["studies"][0]["phases"][0]["ingredients"];
            assert_eq!(ingredients[0]["coefficient"], 0.75);
        },
    );
    check("[ingredients.vary]\nweight_decay = [0.0, 0.01]", |report| {
        let ingredients = &report["studies"][0]["phases"][0]["ingredients"];
        assert_eq!(ingredients[0]["varied"]["weight_decay"], "0.0");
        assert_eq!(ingredients[1]["varied"]["weight_decay"], "0.01");
    });
}

#[test]
fn networks_with_batch_norm_are_rewound_and_averaged_along_the_way() {
    let bench = Bench::new();
    let text = SMALL
        .replace("name = \"mlp\"", "name = \"convnet\"")
        .replace(
            "options = { hidden = \"16\" }",
            "options = { widths = \"4,8\" }",
        )
        .replace(
            "schedule = \"llr\"",
            "schedule = \"allr\"\nrewind_epoch = 1\nswa = 1",
        );
    bench.recipe(
        "r.toml",
        &format!("seeds = [3, 5]\n{text}\n[evaluation]\nood = true"),
    );
    let found = bench.cycle(&["r.toml", "--json"], 0);
    let object: Value = serde_json::from_slice(&found.stdout).unwrap();
    let studies = object["report"]["studies"].as_array().unwrap();
    assert_eq!(studies.len(), 2);
    for study in studies {
        let soup = &study["phases"][1]["soup"]["model"];
        assert!(accuracy(soup) > 0.2);
        assert!(soup["shifted"].as_array().unwrap().len() > 5);
    }
    bench.run(&["verify", "sms-run/soup.safetensors"], 0);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_trained() {
    let bench = Bench::new();
    let refused = |text: &str, words: &[&str], exit: i32, expected: &str| {
        bench.recipe("r.toml", text);
        let found = bench.cycle(&[&["r.toml"], words].concat(), exit);
        let text = stderr(&found);
        assert!(text.contains(expected), "{text}");
        assert!(!bench.at("sms-run").exists());
    };
    refused("[pruning]\nphase = 2", &[], 2, "did you mean `phases`?");
    refused(
        "",
        &["--set", "pruning.phase=2"],
        2,
        "did you mean `phases`?",
    );
    refused(
        "[model]\nname = \"lenet4\"",
        &[],
        2,
        "did you mean `lenet5`?",
    );
    let missing = "[pretraining]\ncheckpoint = \"no.st\"";
    refused(missing, &[], 5, "no.st");
    let late = "[pretraining]\nepochs = 2\n[retraining]\nrewind_epoch = 3";
    refused(
        late,
        &[],
        2,
        "`retraining.rewind_epoch` is 3, expected at most 2",
    );
    let long = "[pretraining]\nepochs = 1\n[retraining]\nepochs = 2\nschedule = \"lrw\"";
    refused(
        long,
        &[],
        2,
        "`retraining` of ingredient `1` cannot be followed",
    );
    bench.recipe("r.toml", "");
    let plan = bench.cycle(&["r.toml", "--plan"], 0);
    let text = String::from_utf8(plan.stdout).unwrap();
    assert!(text.contains("seed 0, phase 3, soup"), "{text}");
    assert!(!bench.at("sms-run").exists());
}

#[test]
fn a_directory_of_somebody_else_is_not_touched() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("mine")).unwrap();
    std::fs::write(bench.at("mine/photo.jpg"), "x").unwrap();
    bench.recipe("r.toml", SMALL);
    let found = bench.cycle(&["r.toml", "--run-dir", "mine"], 2);
    assert!(stderr(&found).contains("photo.jpg"), "{}", stderr(&found));
}
