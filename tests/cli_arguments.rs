//! Whole runs of the binary: what is said on the command line, and what comes back
//! where nothing is merged.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

fn sms_merge(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
    command.args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    sms_merge(words).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_and_version_go_to_standard_output() {
    for words in [
        &["--help"] as &[&str],
        &["-h"],
        &["--version"],
        &["merge", "--help"],
        &["check", "--help"],
        &["inspect", "-h"],
        &["verify", "--help"],
    ] {
        let output = run(words);
        assert_eq!(status(&output), 0, "{words:?}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{words:?}"
        );
    }
}

#[test]
fn wrong_command_lines_end_with_2_and_say_why() {
    let check = |words: &[&str], expected: &str| {
        let output = run(words);
        assert_eq!(status(&output), 2, "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}");
        assert!(
            stderr(&output).contains(expected),
            "{words:?}: {}",
            stderr(&output)
        );
    };
    check(&[], "Usage: sms-merge");
    check(
        &["chek", "a.st"],
        "no such file `chek`; did you mean the command `check`?",
    );
    check(&["a.st", "b.st"], "--output");
    for threads in ["0", "1025"] {
        check(
            &["a.st", "b.st", "-o", "s.st", "--threads", threads],
            "from 1 to 1024",
        );
    }
    check(
        &["a.st", "b.st", "-o", "s.st", "--shard-size", "5G"],
        "`5GB` or `5GiB`",
    );
    check(
        &["a.st", "b.st", "-o", "s.st", "--no-normalize"],
        "--weights",
    );
    check(&["a.st", "-o", "s.st", "--best", "1"], "--metrics");
    check(
        &["a.st", "b.st", "-o", "s.st", "--frobnicate"],
        "--frobnicate",
    );
    check(&["a.st", "b.st", "-o", "s.st", "-w", "0.5,x"], "'x'");
}

#[test]
fn a_pattern_without_a_match_is_told() {
    let output = run(&["nothing-*.st", "-o", "s.st"]);
    assert_eq!(status(&output), 5);
    assert!(
        stderr(&output).contains("`nothing-*.st` matches no file"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn arguments_do_not_reach_the_terminal_raw() {
    let output = run(&["a.st", "--\u{1b}[2J", "-o", "s.st"]);
    assert_eq!(status(&output), 2);
    assert!(!output.stderr.contains(&0x1b), "{}", stderr(&output));
}

#[test]
fn failures_are_objects_with_json() {
    for (words, kind, exit) in [
        (
            &["a.st", "-o", "s.st", "--json", "--frobnicate"] as &[&str],
            "usage",
            2,
        ),
        (&["chek", "--json"], "usage", 2),
        (&["none-*.st", "-o", "s.st", "--json"], "io", 5),
        (&["check", "none.st", "none.st", "--json"], "io", 5),
        (&["inspect", "none.st", "--json"], "io", 5),
        (&["inspect", "Cargo.toml", "--json"], "incompatible", 3),
    ] {
        let output = run(words);
        assert_eq!(status(&output), exit, "{words:?} {}", stderr(&output));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["schema"], 1);
        assert_eq!(object["error"]["kind"], kind, "{words:?}");
        assert_eq!(object["error"]["exit"], exit, "{words:?}");
        assert!(
            object["error"]["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = sms_merge(&["completions", "bash"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(status(&output), 5);
    assert!(stderr(&output).contains("standard output cannot be written"));
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = sms_merge(&["completions", "bash"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!((status(&output), stderr(&output)), (0, String::new()));
}

#[test]
fn names_need_not_be_text() {
    let name = OsStr::from_bytes(b"none-\xff\x1b.st");
    let output = sms_merge(&["inspect"]).arg(name).output().unwrap();
    assert_eq!(status(&output), 5);
    let text = stderr(&output);
    assert!(text.contains(r"`none-�\u{1b}.st` does not exist"), "{text}");
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert_eq!(status(&output), 0);
        assert!(output.stdout.len() > 1000, "{shell}");
    }
    assert_eq!(status(&run(&["completions", "csh"])), 2);
}

#[test]
fn bash_takes_the_completions() {
    let script = run(&["completions", "bash"]).stdout;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("completions");
    std::fs::write(&path, script).unwrap();
    let commands = r#"
        source "$1"; shift
        COMP_WORDS=(sms-merge "$@"); COMP_CWORD=$#
        _sms__merge sms-merge "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        echo "${COMPREPLY[@]}"
    "#;
    let check = |words: &[&str], expected: &str| {
        let mut bash = Command::new("bash");
        bash.args(["-c", commands, "bash"]).arg(&path).args(words);
        let Ok(output) = bash.output() else {
            eprintln!("skipped: there is no bash");
            return;
        };
        let found = String::from_utf8_lossy(&output.stdout);
        assert_eq!(found.trim(), expected, "{words:?} {}", stderr(&output));
    };
    check(&["ins"], "inspect");
    check(&["--no-n"], "--no-normalize");
    check(&["inspect", "--no"], "--no-mmap");
    check(&["verify", "--ma"], "--mask --max-header-bytes");
    check(
        &["merge", "--layout", ""],
        "keep dense bitmask compressed-tensors torch-prune",
    );
    check(&["completions", "f"], "fish");
}
