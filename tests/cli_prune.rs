//! Whole runs of `sms-merge prune` and `sms-merge mask` on the checkpoints in `fixtures/`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

/// A directory with a dense checkpoint, and with one that torch pruned.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let copies = [
            ("prune/dense_f32.st", "dense.st"),
            ("pair_a.st", "torch.st"),
            ("a.st", "a.st"),
        ];
        for (from, to) in copies {
            fs::copy(fixtures.join(from), bench.at(to)).unwrap();
        }
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        let command = command.args(words).current_dir(self.0.path());
        command.output().unwrap()
    }

    #[track_caller]
    fn expect(&self, words: &[&str], exit: i32) -> String {
        let output = self.run(words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{words:?} {text}");
        text
    }

    #[track_caller]
    fn json(&self, words: &[&str], exit: i32) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{words:?} {text}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let names = entries.map(|entry| name(entry).into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

const INPUTS: [&str; 3] = ["a.st", "dense.st", "torch.st"];

#[test]
fn what_is_pruned_can_be_merged_checked_and_pruned_further() {
    let bench = Bench::new();
    let words = [
        "prune",
        "dense.st",
        "-o",
        "p.st",
        "--sparsity",
        "0.9",
        "--mask-out",
        "m.st",
    ];
    let object = bench.json(&words, 0);
    assert_eq!(object["schema"], 1);
    // 5488 prunable weights, of which round(4939.2) go.
    assert_eq!(object["mask"]["numel"], 5488);
    assert_eq!(object["mask"]["retained"], 549);
    let tensors = object["tensors"].as_array().unwrap();
    let conv = tensors
        .iter()
        .find(|tensor| tensor["name"] == "conv1.weight")
        .unwrap();
    assert_eq!(
        (&conv["standing"], &conv["remaining"]),
        (&"prunable".into(), &576.into())
    );
    assert!(conv["threshold"].as_f64().unwrap() > 0.0);
    let norm = tensors
        .iter()
        .find(|tensor| tensor["name"] == "bn1.weight")
        .unwrap();
    assert_eq!(
        (&norm["standing"], &norm["remaining"]),
        (&"rank".into(), &Value::Null)
    );
    bench.expect(&["p.st", "p.st", "-o", "soup.st", "--mask", "m.st"], 0);
    let check = bench.json(&["check", "p.st", "soup.st", "--mask", "m.st"], 0);
    assert_eq!(check["mask"]["digest"], object["mask"]["digest"]);
    bench.expect(&["verify", "soup.st", "p.st", "p.st", "--mask", "m.st"], 0);
    let further = [
        "prune",
        "p.st",
        "-o",
        "q.st",
        "--of-remaining",
        "0.5",
        "--distribution",
        "lamp",
    ];
    let further = bench.json(&further, 0);
    // 549 remain, of which round(274.5) go, to even.
    assert_eq!(further["mask"]["retained"], 275);
    let nested = bench.json(&["mask", "diff", "p.st", "q.st"], 4);
    assert_eq!(nested["mask"]["shared"], 275);
    assert_eq!(nested["mask"]["union"], 549);
    let metadata = &bench.json(&["inspect", "q.st"], 0)["metadata"];
    let record: Value =
        serde_json::from_str(metadata["sms_merge_prune"].as_str().unwrap()).unwrap();
    assert_eq!(record["source"], "p.st");
    assert_eq!(record["target"]["weights"]["amount"]["of-remaining"], 0.5);
    assert_eq!(record["retained"], 275);
    assert_eq!(record["tensors"].as_object().unwrap().len(), 5);
    let shown = bench.run(&["inspect", "q.st"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("from p.st ("), "{shown}");
    assert!(
        shown.contains("275 of 5,488 prunable weights retained"),
        "{shown}"
    );
    let said = bench.expect(&["prune", "q.st", "-o", "r.st", "--sparsity", "0.5"], 3);
    assert!(
        said.contains("5213 of 5488 weights pruned already, and the target allows 2744"),
        "{said}"
    );
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let bench = Bench::new();
    let run = |output: &str, more: &[&str]| {
        let words = ["prune", "dense.st", "-o", output, "--sparsity", "0.8", "-f"];
        bench.expect(&[&words[..], more].concat(), 0);
        fs::read(bench.at(output)).unwrap()
    };
    for distribution in ["global", "uniform", "erk", "lamp", "random"] {
        let one = run(
            "one.st",
            &["--distribution", distribution, "--threads", "1"],
        );
        let four = run(
            "one.st",
            &[
                "--distribution",
                distribution,
                "--threads",
                "4",
                "--no-mmap",
            ],
        );
        assert!(one == four, "{distribution}");
    }
    let seeds = ["1", "2"].map(|seed| run("s.st", &["--distribution", "random", "--seed", seed]));
    assert!(seeds[0] != seeds[1]);
}

#[test]
fn a_mask_goes_from_one_checkpoint_to_another() {
    let bench = Bench::new();
    let words = [
        "prune",
        "dense.st",
        "--sparsity",
        "0.7",
        "--mask-out",
        "m.st",
    ];
    bench.expect(&words, 0);
    bench.expect(
        &[
            "prune",
            "dense.st",
            "-o",
            "x.st",
            "--from-mask",
            "m.st",
            "-q",
        ],
        0,
    );
    bench.expect(
        &["prune", "dense.st", "-o", "y.st", "--sparsity", "0.7", "-q"],
        0,
    );
    let same = bench.json(&["mask", "diff", "x.st", "y.st"], 0);
    assert_eq!(same["same"], true);
    bench.expect(&["mask", "diff", "m.st", "x.st"], 0);
    let said = bench.expect(&["prune", "a.st", "-o", "z.st", "--from-mask", "m.st"], 3);
    assert!(said.contains("m.st"), "{said}");
}

#[test]
fn masks_are_united_and_intersected() {
    let bench = Bench::new();
    for (output, seed) in [("a1.st", "1"), ("a2.st", "2")] {
        let words = [
            "prune",
            "dense.st",
            "--mask-out",
            output,
            "--sparsity",
            "0.5",
        ];
        bench.expect(
            &[&words[..], &["--distribution", "random", "--seed", seed]].concat(),
            0,
        );
    }
    let union = bench.json(&["mask", "union", "a1.st", "a2.st", "-o", "u.st"], 0);
    let both = bench.json(&["mask", "intersect", "a1.st", "a2.st", "-o", "i.st"], 0);
    let only = bench.json(&["mask", "diff", "a1.st", "a2.st", "-o", "d.st"], 4);
    let count = |object: &Value, what: &str| object["mask"][what].as_u64().unwrap();
    let (any, all) = (count(&union, "result"), count(&both, "result"));
    assert_eq!(
        (count(&union, "union"), count(&union, "shared")),
        (any, all)
    );
    assert_eq!(any + all, 2 * 2744);
    assert_eq!(count(&only, "result"), 2744 - all);
    // The parts make the whole again.
    let whole = bench.json(&["mask", "union", "i.st", "d.st", "-o", "w.st"], 0);
    assert_eq!(count(&whole, "shared"), 0);
    bench.expect(&["mask", "diff", "w.st", "a1.st"], 0);
    bench.expect(&["mask", "diff", "a1.st", "torch.st"], 3);
    bench.expect(&["mask", "union", "a1.st", "a2.st", "-o", "u.st"], 2);
    bench.expect(&["mask", "union", "a1.st", "a2.st", "-o", "a1.st", "-f"], 2);
}

#[test]
fn stored_masks_are_kept_and_nested() {
    let bench = Bench::new();
    let before = bench.json(&["inspect", "torch.st"], 0);
    assert_eq!(before["mask"]["retained"], 869);
    bench.expect(
        &["prune", "torch.st", "-o", "p.st", "--sparsity", "0.95"],
        0,
    );
    let after = bench.json(&["inspect", "p.st"], 0);
    assert_eq!(
        after["tensors"][0]["stored_as"],
        before["tensors"][0]["stored_as"]
    );
    // round(0.95 * 8688) are pruned.
    assert_eq!(after["mask"]["retained"], 8688 - 8254);
    bench.expect(
        &[
            "prune",
            "torch.st",
            "-o",
            "d.st",
            "--sparsity",
            "0.95",
            "--layout",
            "dense",
        ],
        0,
    );
    let dense = bench.json(&["inspect", "d.st"], 0);
    assert_eq!(dense["mask"]["digest"], after["mask"]["digest"]);
    let stored = dense["tensors"].as_array().unwrap().iter();
    assert!(stored.clone().all(|tensor| tensor["stored_as"] == "plain"));
    let nested = bench.json(&["mask", "diff", "torch.st", "p.st"], 4);
    assert_eq!(nested["mask"]["shared"], 434);
    assert_eq!(nested["mask"]["union"], 869);
}

#[test]
fn shards_are_written_and_read() {
    let bench = Bench::new();
    let words = ["prune", "dense.st", "--sparsity", "0.9", "-o"];
    bench.expect(&[&words[..], &["one.st"]].concat(), 0);
    bench.expect(
        &[&words[..], &["shards/", "--shard-size", "8KB"]].concat(),
        0,
    );
    assert!(bench.at("shards/model.safetensors.index.json").exists());
    bench.expect(&["mask", "diff", "one.st", "shards"], 0);
    fs::write(bench.at("shards/config.json"), "{}").unwrap();
    let words = ["prune", "shards", "-o", "again", "--of-remaining", "0"];
    let object = bench.json(&words, 0);
    assert_eq!(object["sidecars"], serde_json::json!(["config.json"]));
    bench.expect(&["check", "one.st", "again"], 0);
    let digest = |path: &str| bench.json(&["inspect", path], 0)["mask"]["digest"].clone();
    assert_eq!(digest("one.st"), digest("again"));
}

#[test]
fn a_mask_behind_a_link_to_the_checkpoint_is_refused() {
    let bench = Bench::new();
    symlink("p.st", bench.at("link.st")).unwrap();
    let words = ["prune", "dense.st", "-o", "p.st", "--sparsity", "0.5"];
    let said = bench.expect(&[&words[..], &["--mask-out", "link.st"]].concat(), 2);
    assert!(said.contains("cannot be the same file"), "{said}");
    assert!(!bench.at("p.st").exists());
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let refused = |more: &[&str], exit: i32, part: &str| {
        let said = bench.expect(&[&["prune", "dense.st", "-o", "p.st"], more].concat(), exit);
        assert!(said.contains(part), "{more:?}: {said}");
        assert_eq!(bench.names(), INPUTS, "{more:?}");
    };
    refused(&[], 2, "say how much");
    refused(
        &["--sparsity", "1"],
        2,
        "the sparsity is 1, expected at least 0 and less than 1",
    );
    refused(&["--sparsity", "90"], 2, "the sparsity is 90");
    refused(&["--sparsity", "nan"], 2, "the sparsity is NaN");
    refused(&["--of-remaining=-0.5"], 2, "-0.5");
    refused(
        &["--sparsity", "0.5", "--of-remaining", "0.5"],
        2,
        "cannot be used with",
    );
    refused(&["--pattern", "4:4"], 2, "4:4");
    refused(&["--pattern", "2:5"], 2, "m is 2, 4, 8, 16 or 32");
    refused(&["--pattern", "two"], 2, "unstructured, channels, or n:m");
    refused(
        &["--pattern", "2:4", "--sparsity", "0.5"],
        2,
        "says by itself",
    );
    refused(&["--pattern", "2:32"], 3, "no whole groups of 32");
    let channels = [
        "--pattern",
        "channels",
        "--sparsity",
        "0.5",
        "--distribution",
        "lamp",
    ];
    refused(&channels, 2, "`--distribution uniform` or `global`");
    refused(
        &["--sparsity", "0.5", "--exclude", "head*"],
        2,
        "pattern `head*` to exclude matches no tensor",
    );
    refused(
        &["--sparsity", "0.5", "--include", "steps"],
        3,
        "`steps` is I64",
    );
    refused(
        &["--sparsity", "0.5", "--exclude", "*"],
        3,
        "has no prunable tensor",
    );
    let same = ["prune", "dense.st", "-o", "out/", "--mask-out", "out"];
    let said = bench.expect(&[&same[..], &["--sparsity", "0.5"]].concat(), 2);
    assert!(said.contains("cannot be the same file"), "{said}");
    assert!(!bench.at("out").exists());
    for place in ["p.st", "./p.st"] {
        refused(
            &["--sparsity", "0.5", "--mask-out", place],
            2,
            "cannot be the same file",
        );
    }
    let said = bench.expect(
        &[
            "prune",
            "dense.st",
            "-o",
            "dense.st",
            "--sparsity",
            "0.5",
            "-f",
        ],
        2,
    );
    assert!(said.contains("is the input"), "{said}");
    bench.expect(&["prune", "dense.st", "--plan", "--sparsity", "0.5"], 0);
    assert_eq!(bench.names(), INPUTS);
}

/// Writes matrices of U8: a name, the number of rows, and the values.
fn write_masks(path: &Path, tensors: &[(&str, usize, &[u8])]) {
    let views = tensors.iter().map(|(name, rows, values)| {
        let shape = vec![*rows, values.len() / rows];
        let dtype = safetensors::Dtype::U8;
        let view = safetensors::tensor::TensorView::new(dtype, shape, values).unwrap();
        ((*name).to_owned(), view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

#[test]
fn masks_that_do_not_go_together_are_refused() {
    let bench = Bench::new();
    write_masks(&bench.at("m.st"), &[("fc2.weight", 2, &[1, 0, 1, 1])]);
    write_masks(
        &bench.at("wide.st"),
        &[("fc2.weight_mask", 1, &[1, 0, 1, 1])],
    );
    write_masks(&bench.at("two.st"), &[("fc2.weight", 2, &[1, 0, 2, 1])]);
    write_masks(&bench.at("other.st"), &[("fc3.weight", 2, &[1, 0, 1, 1])]);
    let refused = |words: &[&str], part: &str| {
        let said = bench.expect(words, 3);
        assert!(said.contains(part), "{words:?}: {said}");
    };
    let shape = "`fc2.weight` has shape [1, 4] in `wide.st`, and [2, 2] in the inputs before it";
    refused(&["mask", "diff", "m.st", "wide.st"], shape);
    let holds = "mask `fc2.weight` in `two.st` holds something else than 0 and 1 at index 2";
    refused(&["mask", "union", "m.st", "two.st", "-o", "u.st"], holds);
    let lacks = "`fc2.weight` has a mask in `m.st`, and `other.st` has no such tensor";
    refused(&["mask", "diff", "m.st", "other.st"], lacks);
    bench.expect(&["mask", "diff", "m.st", "m.st"], 0);
    refused(
        &["mask", "diff", "dense.st", "dense.st"],
        "none of the inputs has a mask",
    );
    let given = ["prune", "dense.st", "-o", "p.st", "--from-mask", "two.st"];
    refused(&given, "fc2.weight");
    assert!(!bench.at("p.st").exists() && !bench.at("u.st").exists());
}

#[test]
fn a_mask_file_that_is_no_mask_is_named() {
    let bench = Bench::new();
    let values: Vec<u8> = (0..400).map(|index| u8::from(index % 2 == 0) * 3).collect();
    write_masks(&bench.at("m.st"), &[("fc2.weight", 10, &values)]);
    for option in ["--mask", "--from-mask"] {
        let mut words = vec!["prune", "dense.st", "-o", "p.st", option, "m.st"];
        if option == "--mask" {
            words.extend(["--sparsity", "0.5"]);
        }
        let said = bench.expect(&words, 3);
        let part = "mask `fc2.weight` in `m.st` holds something else than 0 and 1 at index 0";
        assert!(said.contains(part), "{said}");
    }
    assert!(!bench.at("p.st").exists());
}
