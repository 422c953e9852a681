//! Whole runs of `sms-merge data`.
#![cfg(feature = "train")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

fn run(directory: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sms-merge"))
        .arg("data")
        .args(words)
        .current_dir(directory)
        .output()
        .unwrap()
}

fn desk() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn json(directory: &Path, words: &[&str], exit: i32) -> Value {
    let output = run(directory, &[words, &["--json"]].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{words:?} {told}");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["schema"], 1);
    object
}

/// Width and height of a PNG file.
fn sides(path: &Path) -> (u32, u32) {
    let png = fs::read(path).unwrap();
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn digits_are_counted_and_measured() {
    let desk = desk();
    let object = json(desk.path(), &[], 0);
    assert_eq!(object["name"], "digits");
    assert_eq!(
        (&object["train"], &object["test"]),
        (&1437.into(), &360.into())
    );
    assert_eq!(object["validation"], 144);
    assert_eq!(object["image"]["width"], 8);
    // numpy's bincount in digits/make.py.
    assert_eq!(object["classes"][8]["train"], 139);
    assert_eq!(object["classes"][2]["test"], 35);
    let normalisation = &object["normalisation"];
    let measured = normalisation["measured_mean"][0].as_f64().unwrap();
    assert!((measured - 0.305_383_4).abs() < 1e-6, "{measured}");
    assert_eq!(object["augmentation"]["flip"], false);
    assert_eq!(object["corruptions"].as_array().unwrap().len(), 12);
    assert_eq!(object["picture"], Value::Null);
    let text = String::from_utf8(run(desk.path(), &["digits"]).stdout).unwrap();
    assert!(
        text.contains("1,437 images to train on, 360 to test on, in 10 classes"),
        "{text}"
    );
}

#[test]
fn pictures_have_a_row_for_what_they_show() {
    let desk = desk();
    // Cells of 64 and gaps of 4.
    let length = |cells: u32| 4 + 68 * cells;
    let check = |words: &[&str], rows: u32, columns: u32| {
        let words = [words, &["--picture", "a.png", "--force"]].concat();
        let object = json(desk.path(), &words, 0);
        let shown = object["picture"]["rows"].as_array().unwrap().len();
        assert_eq!(shown as u32, rows, "{words:?}");
        let sides = sides(&desk.path().join("a.png"));
        assert_eq!(sides, (length(columns), length(rows)), "{words:?}");
    };
    check(&[], 10, 12);
    check(&["--corruption", "shot-noise"], 6, 12);
    check(&["--corruption", "shot-noise", "--severity", "3"], 10, 12);
    check(&["--corruption", "all"], 13, 5);
    check(&["--corruption", "all", "--severity", "5"], 13, 12);
}

#[test]
fn pictures_replace_nothing_unasked() {
    let desk = desk();
    fs::write(desk.path().join("a.png"), "mine").unwrap();
    json(desk.path(), &["--picture", "a.png"], 2);
    // A directory that is missing is no slip of the pen in the command line.
    json(desk.path(), &["--picture", "no/such/a.png"], 5);
    json(
        desk.path(),
        &["--corruption", "saturate", "--picture", "b.png"],
        2,
    );
    assert_eq!(fs::read(desk.path().join("a.png")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(desk.path()).unwrap().count(), 1);
}

#[test]
fn what_is_not_there_is_explained() {
    let desk = desk();
    let check = |words: &[&str], exit: i32, part: &str| {
        let object = json(desk.path(), words, exit);
        let message = object["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
    };
    check(&["mnits"], 2, "`mnist`");
    check(
        &["fashion-mnist", "--data-dir", "."],
        5,
        "apt-get install dataset-fashion-mnist",
    );
    check(&["cifar10"], 5, "--data-dir");
    check(&["digits", "--data-dir", "."], 2, "leave `--data-dir` out");
    check(&["."], 5, "holds no data set");
    fs::write(desk.path().join("bad.st"), "no tensors").unwrap();
    check(&["bad.st"], 3, "bad.st");
}
