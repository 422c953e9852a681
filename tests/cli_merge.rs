//! Whole runs of the binary on the checkpoints in `fixtures/`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
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
fn the_same_words_give_the_same_bytes_for_any_number_of_threads() {
    let bench = Bench::new();
    for (name, threads) in [("1.st", "1"), ("2.st", "2"), ("7.st", "7")] {
        let words = [
            "a.st",
            "b.st",
            "-w",
            "0.3,0.7",
            "-q",
            "-o",
            name,
            "--threads",
            threads,
        ];
        let output = bench.run(&words);
        assert_exit(&output, 0);
        assert!(output.stderr.is_empty());
    }
    let pread = [
        "a.st",
        "b.st",
        "-w",
        "0.3,0.7",
        "-o",
        "p.st",
        "--no-mmap",
        "--no-sync",
    ];
    assert_exit(&bench.run(&pread), 0);
    let expected = fs::read(bench.at("1.st")).unwrap();
    for name in ["2.st", "7.st", "p.st"] {
        assert!(fs::read(bench.at(name)).unwrap() == expected, "{name}");
    }
    assert_eq!(
        fs::metadata(bench.at("1.st")).unwrap().mode() & 0o400,
        0o400
    );
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
fn an_ingredient_is_never_written_to_by_whatever_name() {
    let bench = Bench::new();
    symlink("a.st", bench.at("link.st")).unwrap();
    fs::hard_link(bench.at("a.st"), bench.at("hard.st")).unwrap();
    fs::create_dir(bench.at("model")).unwrap();
    fs::copy(bench.at("a.st"), bench.at("model/model.safetensors")).unwrap();
    symlink("model", bench.at("model-link")).unwrap();
    let before = fs::read(bench.at("a.st")).unwrap();
    let check = |words: &[&str]| {
        let output = bench.run(&[words, &["--force"]].concat());
        assert_exit(&output, 2);
        assert!(
            stderr(&output).contains("inputs are never written to"),
            "{words:?} {}",
            stderr(&output)
        );
        assert_eq!(fs::read(bench.at("a.st")).unwrap(), before);
    };
    let absolute = bench.at("a.st").display().to_string();
    check(&["a.st", "b.st", "-o", "a.st"]);
    check(&["b.st", "a.st", "-o", "./a.st"]);
    check(&["a.st", "b.st", "-o", &absolute]);
    check(&["a.st", "b.st", "-o", "link.st"]);
    check(&["link.st", "b.st", "-o", "a.st"]);
    check(&["a.st", "b.st", "-o", "hard.st"]);
    check(&["model", "b.st", "-o", "model"]);
    check(&["model", "b.st", "-o", "model-link/"]);
    check(&["model", "b.st", "-o", "model/model.safetensors"]);
    check(&["b.st", "c.st", "--mask", "a.st", "-o", "a.st"]);
}

#[test]
fn names_of_any_bytes_and_255_of_them() {
    let bench = Bench::new();
    let odd = OsStr::from_bytes(b"a\xff\n.st");
    fs::rename(bench.at("a.st"), bench.at(odd)).unwrap();
    let long = format!("{}.st", "x".repeat(252));
    let words = [odd, OsStr::new("b.st"), OsStr::new("-o"), OsStr::new(&long)];
    let output = bench.run(&words);
    assert_exit(&output, 0);
    let soup = OsStr::from_bytes(b"soup\xfe.st");
    let words = [
        odd,
        OsStr::new("b.st"),
        OsStr::new("-o"),
        soup,
        OsStr::new("--json"),
    ];
    let output = bench.run(&words);
    assert_exit(&output, 0);
    assert_eq!(
        fs::read(bench.at(soup)).unwrap(),
        fs::read(bench.at(&long)).unwrap()
    );
    let too_long = format!("{}.st", "x".repeat(253));
    let output = bench.run(&[
        odd,
        OsStr::new("b.st"),
        OsStr::new("-o"),
        OsStr::new(&too_long),
    ]);
    assert_exit(&output, 5);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let bench = Bench::new();
    assert_exit(&bench.run(&["a.st", "b.st", "-o", "none/soup.st"]), 2);
    assert_exit(
        &bench.run(&["a.st", "b.st", "-o", "/dev/null", "--force"]),
        2,
    );
    let limited = "ulimit -f 8; exec \"$0\" a.st b.st -o soup.st";
    let output = Command::new("bash")
        .args(["-c", limited, env!("CARGO_BIN_EXE_sms-merge")])
        .current_dir(bench.at(""))
        .output()
        .unwrap();
    assert_exit(&output, 5);
    assert_eq!(bench.names(), INPUTS);
    // Root may write to a directory that is read-only.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        fs::create_dir(bench.at("locked")).unwrap();
        fs::set_permissions(bench.at("locked"), fs::Permissions::from_mode(0o555)).unwrap();
        assert_exit(&bench.run(&["a.st", "b.st", "-o", "locked/soup.st"]), 5);
    }
}

#[test]
fn what_goes_to_standard_output_may_go_nowhere() {
    let bench = Bench::new();
    let script = "\"$0\" a.st b.st -o soup.st --json >&-";
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_sms-merge")])
        .current_dir(bench.at(""))
        .output()
        .unwrap();
    assert_exit(&output, 0);
    assert_exit(&bench.run(&["verify", "soup.st", "a.st", "b.st"]), 0);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = bench
        .command(&["inspect", "a.st"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_exit(&output, 0);
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = bench
        .command(&["inspect", "a.st"])
        .stdout(full)
        .output()
        .unwrap();
    assert_exit(&output, 5);
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
