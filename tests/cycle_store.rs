//! The run directory under everything that happens to one: workers that race, die and
//! disagree, bytes that flip, files that vanish.

#![cfg(feature = "train")]

#[path = "cycle_store/damage.rs"]
mod damage;
#[path = "cycle_store/race.rs"]
mod race;
#[path = "cycle_store/rules.rs"]
mod rules;
#[path = "cycle_store/worker.rs"]
mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;
use sms_merge::cycle::store::Attempt;
use sms_merge::cycle::store::Draft;
use sms_merge::cycle::store::Found;
use sms_merge::cycle::store::Key;
use sms_merge::cycle::store::Receipt;
use sms_merge::cycle::store::RunDirectory;

/// A step.
fn key() -> Key {
    Key::of("train", &json!({"seed": 1}), &BTreeMap::new())
}

/// Another step.
fn other_key() -> Key {
    Key::of("train", &json!({"seed": 2}), &BTreeMap::new())
}

/// Writes two artefacts of an attempt, and says what it would publish.
fn draft(attempt: &Attempt, content: &str) -> Draft {
    let mut outputs = BTreeMap::new();
    for name in ["checkpoint", "mask"] {
        let path = attempt.artefact(name, "bin");
        fs::write(&path, format!("{name} {content}")).unwrap();
        outputs.insert(name.to_owned(), path);
    }
    Draft {
        label: "ingredient 1".to_owned(),
        kind: "train".to_owned(),
        outputs,
        metrics: json!({"content": content}),
        elapsed_secs: 0.5,
    }
}

/// Does the step.
fn publish(run: &RunDirectory, content: &str) -> Receipt {
    let attempt = run.begin_attempt(&key()).unwrap();
    let draft = draft(&attempt, content);
    let published = attempt.publish(draft).unwrap();
    assert!(published.is_ours);
    published.receipt
}

/// The receipt of the step, which must be whole.
fn whole(run: &RunDirectory) -> Receipt {
    match run.receipt(&key()).unwrap() {
        Found::Whole(receipt) => receipt,
        found => panic!("{found:?}"),
    }
}

/// Names in a directory, sorted.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
