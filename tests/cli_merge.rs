//! Whole runs of the binary on the checkpoints in `fixtures/`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

/// A directory with copies of `a.st`, `b.st`, `c.st` and `odd.st`.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for name in ["a.st", "b.st", "c.st", "odd.st"] {
            let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fixtures")
                .join(name);
            fs::copy(fixture, bench.at(name)).unwrap();
        }
        bench
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, words: &[impl AsRef<OsStr>]) -> Output {
        self.command(words).output().unwrap()
    }

    fn command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        command
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn json(&self, words: &[&str], exit: i32) -> Value {
        let output = self.run(words);
        assert_eq!(
            output.status.code(),
            Some(exit),
            "{words:?} {}",
            stderr(&output)
        );
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["schema"], 1);
        object
    }

    /// Names in the directory, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const INPUTS: [&str; 4] = ["a.st", "b.st", "c.st", "odd.st"];

#[track_caller]
fn assert_exit(output: &Output, expected: i32) {
    assert_eq!(output.status.code(), Some(expected), "{}", stderr(output));
}

#[test]
fn a_soup_is_written_told_and_proved() {
    let bench = Bench::new();
    let output = bench.run(&["a.st", "b.st", "c.st", "-o", "soup.st"]);
    assert_exit(&output, 0);
    assert!(output.stdout.is_empty());
    assert!(stderr(&output).contains("merged 3 ingredients into `soup.st`"));
    assert!(stderr(&output).contains("batch norm"));
    let proved = bench.json(&["verify", "soup.st", "a.st", "b.st", "c.st", "--json"], 0);
    assert_eq!(
        (&proved["verified"], &proved["mode"]),
        (&true.into(), &"recomputed".into())
    );
    let checked = bench.json(&["verify", "soup.st", "--json"], 0);
    assert_eq!(checked["mode"], "self-check");
    let refused = bench.json(
        &["verify", "soup.st", "a.st", "b.st", "odd.st", "--json"],
        6,
    );
    assert_eq!(refused["verified"], false);
    assert!(!refused["differences"].as_array().unwrap().is_empty());
    assert_exit(&bench.run(&["verify", "a.st"]), 3);
}

#[test]
fn a_changed_bit_is_found() {
    let bench = Bench::new();
    assert_exit(&bench.run(&["a.st", "b.st", "-o", "soup.st"]), 0);
    let mut bytes = fs::read(bench.at("soup.st")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(bench.at("soup.st"), bytes).unwrap();
    let checked = bench.json(&["verify", "soup.st", "--json"], 6);
    assert_eq!(checked["differences"][0]["kind"], "content");
    let proved = bench.json(&["verify", "soup.st", "a.st", "b.st", "--json"], 6);
    assert_eq!(proved["differences"][0]["kind"], "element");
    assert_eq!(proved["differences"][0]["tensor"], "fc2.weight");
    assert_eq!(
        proved["differences"][0]["coordinate"],
        serde_json::json!([9, 47])
    );
}

#[test]
fn masks_that_differ_are_refused_and_explained() {
    let bench = Bench::new();
    let output = bench.run(&["a.st", "odd.st", "b.st", "-o", "soup.st"]);
    assert_exit(&output, 4);
    let text = stderr(&output);
    for part in [
        "`odd.st` is the odd one",
        "--on-mask-mismatch intersect",
        "next: leave `odd.st` out",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(bench.names(), INPUTS);
    let object = bench.json(&["a.st", "odd.st", "b.st", "-o", "soup.st", "--json"], 4);
    assert_eq!(object["error"]["kind"], "connectivity");
    assert_eq!(object["error"]["mismatch"]["verdict"], "one-odd");
    assert_eq!(object["error"]["mismatch"]["odd"], 1);
    let object = bench.json(&["check", "a.st", "odd.st", "--json"], 4);
    assert_eq!(
        (&object["shared"], &object["mismatch"]["verdict"]),
        (&false.into(), &"independent".into())
    );
    let object = bench.json(&["check", "a.st", "b.st", "c.st", "--json"], 0);
    assert_eq!(
        (&object["shared"], &object["mask"]["retained"]),
        (&true.into(), &869.into())
    );
    for policy in ["intersect", "union", "vote", "first"] {
        let soup = format!("{policy}.st");
        let words = ["a.st", "odd.st", "--on-mask-mismatch", policy, "-o", &soup];
        let output = bench.run(&words);
        assert_exit(&output, 0);
        let said = format!("made one by `{policy}`");
        assert!(stderr(&output).contains(&said), "{}", stderr(&output));
        assert_exit(&bench.run(&["verify", &soup, "a.st", "odd.st"]), 0);
    }
}

#[test]
fn an_output_that_exists_needs_force() {
    let bench = Bench::new();
    fs::write(bench.at("soup.st"), "old").unwrap();
    let output = bench.run(&["a.st", "b.st", "-o", "soup.st"]);
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("--force"));
    assert_eq!(fs::read(bench.at("soup.st")).unwrap(), b"old");
    assert_exit(&bench.run(&["a.st", "b.st", "-o", "soup.st", "--force"]), 0);
    assert_exit(&bench.run(&["verify", "soup.st", "a.st", "b.st"]), 0);
}

#[test]
fn the_best_the_last_patterns_and_lists() {
    let bench = Bench::new();
    fs::write(
        bench.at("m.json"),
        r#"{"a": {"acc": 0.9}, "b": {"acc": 0.7}, "c": {"acc": 0.8}}"#,
    )
    .unwrap();
    fs::write(bench.at("list.txt"), "# three\nb.st\n\nc.st\na.st\n").unwrap();
    let merged = |words: &[&str]| -> Vec<String> {
        let output = [words, &["-o", "soup.st", "--force", "--json"]].concat();
        let object = bench.json(&output, 0);
        let ingredients = object["ingredients"].as_array().unwrap();
        ingredients
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(merged(&["?.st"]), ["a.st", "b.st", "c.st"]);
    assert_eq!(merged(&["@list.txt"]), ["b.st", "c.st", "a.st"]);
    assert_eq!(merged(&["@list.txt", "--last", "2"]), ["c.st", "a.st"]);
    let best = [
        "@list.txt",
        "--best",
        "2",
        "--metrics",
        "m.json",
        "--metric",
        "acc",
    ];
    assert_eq!(merged(&best), ["c.st", "a.st"]);
    assert_eq!(
        merged(&[&best[..], &["--lower-is-better"]].concat()),
        ["b.st", "c.st"]
    );
}

#[test]
fn weights_that_cannot_be_used() {
    let bench = Bench::new();
    for weights in ["1", "1,2,3", "nan,1", "inf,1", "1,-1", "0,0", "", "1,,2"] {
        let output = bench.run(&["a.st", "b.st", "-w", weights, "-o", "soup.st"]);
        assert_exit(&output, 2);
        assert_eq!(bench.names(), INPUTS);
    }
    assert_exit(
        &bench.run(&["a.st", "b.st", "-w", "-0.5,1.5", "-o", "soup.st"]),
        0,
    );
    assert_exit(&bench.run(&["a.st", "b.st", "-w=0,1", "-o", "copy.st"]), 0);
}

#[test]
fn a_plan_writes_nothing() {
    let bench = Bench::new();
    let object = bench.json(&["a.st", "b.st", "-o", "soup.st", "--plan", "--json"], 0);
    assert_eq!(object["plan"]["n_files"], 1);
    assert!(object["plan"]["bytes_to_read"].as_u64().unwrap() > 60_000);
    assert_exit(&bench.run(&["a.st", "b.st", "--plan"]), 0);
    assert_eq!(bench.names(), INPUTS);
}

#[test]
fn shards_go_into_a_directory_and_come_back() {
    let bench = Bench::new();
    let output = bench.run(&["a.st", "b.st", "-o", "soup", "--shard-size", "10KB"]);
    assert_exit(&output, 0);
    assert!(bench.at("soup/model.safetensors.index.json").exists());
    assert_exit(&bench.run(&["verify", "soup"]), 0);
    assert_exit(&bench.run(&["verify", "soup", "a.st", "b.st"]), 0);
    let again = ["a.st", "c.st", "-o", "soup", "--force"];
    assert_exit(&bench.run(&again), 0);
    let left: Vec<_> = fs::read_dir(bench.at("soup")).unwrap().collect();
    assert_eq!(left.len(), 1);
    let words = ["a.st", "b.st", "-o", "soup.st", "--shard-size", "10KB"];
    assert_exit(&bench.run(&words), 2);
}

#[test]
fn inspect_shows_masks_metadata_and_lineage() {
    let bench = Bench::new();
    assert_exit(&bench.run(&["a.st", "b.st", "-o", "s1.st", "--sha256"]), 0);
    assert_exit(&bench.run(&["s1.st", "c.st", "-o", "s2.st"]), 0);
    let object = bench.json(&["inspect", "s2.st", "--json"], 0);
    assert_eq!(object["mask"]["retained"], 869);
    assert_eq!(object["metadata"]["format"], "pt");
    let ingredients = &object["certificate"]["ingredients"];
    assert_eq!(ingredients[0]["name"], "s1.st");
    assert_eq!(ingredients[0]["soup"]["ingredients"][1]["name"], "b.st");
    let object = bench.json(&["inspect", "s1.st", "--json"], 0);
    let digest = object["certificate"]["ingredients"][0]["files"][0]["sha256"]
        .as_str()
        .unwrap();
    let sum = Command::new("sha256sum")
        .arg(bench.at("a.st"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(digest));
    let output = bench.run(&["inspect", "s2.st"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "4 tensors pruned, sparsity 90.00 %",
        "uniform soup of 2 ingredients",
        "1 x b.st",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_file_given_twice_is_told() {
    let bench = Bench::new();
    let object = bench.json(&["a.st", "./a.st", "-o", "soup.st", "--json"], 0);
    let warnings = object["warnings"].to_string();
    assert!(warnings.contains("same file"), "{warnings}");
    assert_exit(&bench.run(&["a.st", "-o", "x.st"]), 2);
}

#[test]
fn export_says_what_each_tensor_takes_and_verify_still_proves_the_soup() {
    let bench = Bench::new();
    bench.json(&["a.st", "b.st", "-o", "soup.st", "--json"], 0);
    for (layout, stored_as) in [("bitmask", "bitmask"), ("torch-prune", "torch-prune")] {
        let words = [
            "export", "soup.st", "-o", "other.st", "--force", "--layout", layout, "--json",
        ];
        let object = bench.json(&words, 0);
        assert_eq!(object["layout"], layout);
        assert_eq!(object["certificate"], "carried");
        let bytes = fs::metadata(bench.at("other.st")).unwrap().len();
        assert_eq!(object["bytes_written"], bytes);
        let tensors = object["tensors"].as_array().unwrap();
        let pruned: Vec<&Value> = tensors
            .iter()
            .filter(|tensor| tensor["stored_as"] == stored_as)
            .collect();
        assert!(!pruned.is_empty(), "{object}");
        for tensor in pruned {
            let (before, after) = (tensor["bytes_before"].as_u64(), tensor["bytes"].as_u64());
            assert_eq!(after < before, layout == "bitmask", "{tensor}");
        }
        let verified = bench.json(&["verify", "other.st", "a.st", "b.st", "--json"], 0);
        assert_eq!(verified["verified"], true, "{layout}");
        let inspected = bench.json(&["inspect", "other.st", "--json"], 0);
        let stored = |tensor: &Value| tensor["stored_as"] == stored_as;
        assert!(inspected["tensors"].as_array().unwrap().iter().any(stored));
    }
    let words = [
        "export",
        "soup.st",
        "-o",
        "ct.st",
        "--layout",
        "compressed-tensors",
        "--json",
    ];
    let config = &bench.json(&words, 0)["sparsity_config"]["sparsity_config"];
    assert_eq!(config["format"], "sparse-bitmask");
    assert!(
        !config["targets"].as_array().unwrap().is_empty(),
        "{config}"
    );
}
