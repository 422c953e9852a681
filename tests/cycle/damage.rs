//! Run directories that something happened to: named, done again, and never used.

use std::fs;
use std::path::Path;

use crate::bench::Bench;
use crate::bench::SMALL;
use crate::bench::stderr;

const STEP: &str = "seed 0, phase 1, ingredient 1";

/// Damages a finished run, runs it again, and expects a warning with `expected` and the
/// bytes of before.
fn check(damage: impl FnOnce(&Bench), expected: &str) {
    let bench = Bench::new();
    bench.recipe("r.toml", SMALL);
    bench.cycle(&["r.toml"], 0);
    let (soup, outputs) = (
        bench.bytes("sms-run/soup.safetensors"),
        bench.outputs("sms-run"),
    );
    damage(&bench);
    let status = bench.run(&["cycle", "status"], 0);
    let again = bench.cycle(&["r.toml"], 0);
    for output in [&status, &again] {
        let text = stderr(output);
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(bench.bytes("sms-run/soup.safetensors") == soup);
    assert_eq!(bench.outputs("sms-run"), outputs);
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_byte_of_a_checkpoint() {
    let last = |path: &Path| fs::metadata(path).unwrap().len() as usize - 1;
    check(
        |bench| {
            let path = bench.artefact("sms-run", STEP);
            flip(&path, last(&path));
        },
        "ingredient 1: `",
    );
}

#[test]
fn a_checkpoint_that_is_cut_off() {
    check(
        |bench| {
            let path = bench.artefact("sms-run", "seed 0, phase 2, soup");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        },
        "seed 0, phase 2, soup: `",
    );
}

#[test]
fn receipts_that_are_empty_or_changed() {
    check(
        |bench| fs::write(bench.receipt("sms-run", STEP).0, "").unwrap(),
        "ingredient 1: its receipt is damaged: it is empty",
    );
    check(
        |bench| flip(&bench.receipt("sms-run", STEP).0, 40),
        "ingredient 1: its receipt is damaged",
    );
}

#[test]
fn a_journal_that_is_torn_or_gone_decides_nothing() {
    let bench = Bench::new();
    bench.recipe("r.toml", SMALL);
    bench.cycle(&["r.toml"], 0);
    let soup = bench.bytes("sms-run/soup.safetensors");
    let journal = bench.at("sms-run/journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, &text[..text.len() - 20]).unwrap();
    bench.cycle(&["r.toml"], 0);
    fs::remove_file(&journal).unwrap();
    let again = bench.cycle(&["r.toml"], 0);
    assert!(stderr(&again).contains("is finished"));
    assert!(bench.bytes("sms-run/soup.safetensors") == soup);
}

#[test]
fn a_recipe_in_the_run_that_was_edited_is_read_as_it_is() {
    let bench = Bench::new();
    bench.recipe("r.toml", SMALL);
    bench.cycle(&["r.toml"], 0);
    let path = bench.at("sms-run/recipe.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("phases = 2", "phasen = 2")).unwrap();
    let refused = bench.cycle(&[], 2);
    assert!(stderr(&refused).contains("did you mean `phases`?"));
    // The recipe that is named wins, and is written again.
    bench.cycle(&["r.toml"], 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn what_was_removed_is_made_again_only_where_it_is_needed() {
    let bench = Bench::new();
    bench.recipe("r.toml", &format!("{SMALL}\n[run]\nkeep = \"soups\""));
    bench.cycle(&["r.toml"], 0);
    let ingredient = bench.artefact("sms-run", STEP);
    assert!(!ingredient.exists(), "it is not kept");
    assert!(bench.artefact("sms-run", "seed 0, phase 1, soup").exists());
    // Nobody needs it: nothing is to be done.
    let again = bench.cycle(&["r.toml"], 0);
    assert!(stderr(&again).contains("is finished"));
    // A weighted soup does.
    let words = [
        "r.toml",
        "--set",
        "merge.method=weighted",
        "--set",
        "merge.weights=[1,3]",
    ];
    let found = bench.cycle(&words, 0);
    assert!(
        stderr(&found).contains("is needed again"),
        "{}",
        stderr(&found)
    );
    let anew = [&words[..], &["--run-dir", "anew"]].concat();
    bench.cycle(&anew, 0);
    assert_eq!(
        bench.bytes("sms-run/soup.safetensors"),
        bench.bytes("anew/soup.safetensors")
    );
}
