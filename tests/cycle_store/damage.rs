//! A run directory that was damaged: what is damaged is named and done again, never used.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sms_merge::cycle::store::ArtefactState;
use sms_merge::cycle::store::Content;
use sms_merge::cycle::store::Found;
use sms_merge::cycle::store::Receipt;
use sms_merge::cycle::store::RunDirectory;
use sms_merge::cycle::store::StoreError;
use sms_merge::tensor::Digest;
use tempfile::TempDir;

use crate::draft;
use crate::key;
use crate::names;
use crate::publish;
use crate::whole;

/// Flips one bit of a file, in its middle.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The step is taken back and done again; afterwards everything is whole.
fn check_redone(run: &RunDirectory, why: &str, n_moved: usize) {
    let discarded = run.discard(&key(), why).unwrap();
    assert_eq!(discarded.why, why);
    assert_eq!(discarded.moved.len(), n_moved, "{discarded:?}");
    for (from, to) in &discarded.moved {
        assert!(!from.exists(), "{}", from.display());
        assert!(to.symlink_metadata().is_ok(), "{}", to.display());
        assert_eq!(to.parent(), Some(&*run.damaged()));
    }
    assert_eq!(run.receipt(&key()).unwrap(), Found::Missing);
    let receipt = publish(run, "second");
    assert_eq!(whole(run), receipt);
    for artefact in receipt.outputs.values() {
        assert_eq!(run.check(artefact).unwrap(), ArtefactState::Whole);
    }
}

#[test]
fn damaged_artefacts_are_found_and_put_aside() {
    let check = |damage: fn(&Path), expected: ArtefactState, n_moved: usize| {
        let directory = TempDir::new().unwrap();
        let run = RunDirectory::create(directory.path()).unwrap();
        let receipt = publish(&run, "first");
        damage(&run.path_of(&receipt.outputs["mask"]));
        assert_eq!(run.check(&receipt.outputs["mask"]).unwrap(), expected);
        let other = run.check(&receipt.outputs["checkpoint"]).unwrap();
        assert_eq!(other, ArtefactState::Whole);
        let why = expected.fault().unwrap();
        check_redone(&run, &why, n_moved);
    };
    let damaged = |expected, found| ArtefactState::Damaged { expected, found };
    let digest = |text: &[u8]| Content::Digest(Digest::of(text));
    let flipped = damaged(digest(b"mask first"), digest(b"mask\x21first"));
    check(
        |path| fs::write(path, b"mask\x21first").unwrap(),
        flipped,
        2,
    );
    check(
        |path| fs::write(path, "mask").unwrap(),
        damaged(Content::Bytes(10), Content::Bytes(4)),
        2,
    );
    check(
        |path| fs::write(path, "").unwrap(),
        damaged(Content::Bytes(10), Content::Bytes(0)),
        2,
    );
    check(
        |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
        damaged(Content::File, Content::NoFile),
        2,
    );
    check(
        |path| {
            fs::rename(path, path.with_extension("elsewhere")).unwrap();
            symlink(path.with_extension("elsewhere"), path).unwrap();
        },
        damaged(Content::File, Content::NoFile),
        2,
    );
    check(
        |path| fs::remove_file(path).unwrap(),
        ArtefactState::Missing,
        1,
    );
}

#[test]
fn damaged_receipts_are_found_and_put_aside() {
    let check = |damage: fn(&Path), expected: &str| {
        let directory = TempDir::new().unwrap();
        let run = RunDirectory::create(directory.path()).unwrap();
        publish(&run, "first");
        let path = run.receipt_path(&key());
        damage(&path);
        let Found::Damaged { why } = run.receipt(&key()).unwrap() else {
            panic!("{expected}");
        };
        assert!(why.contains(expected), "{why}");
        // A worker that comes second neither believes nor replaces it.
        let attempt = run.begin_attempt(&key()).unwrap();
        let draft = draft(&attempt, "late");
        let error = attempt.publish(draft).unwrap_err();
        assert!(
            matches!(&error, StoreError::DamagedWinner { path: at, .. } if *at == path),
            "{error:?}"
        );
        check_redone(&run, &why, 1);
    };
    check(flip, "its seal is");
    check(|path| fs::write(path, "").unwrap(), "it is empty");
    check(
        |path| {
            let text = fs::read(path).unwrap();
            fs::write(path, &text[..text.len() / 2]).unwrap();
        },
        "it does not end in a seal",
    );
    check(
        |path| {
            let zeros = vec![0; fs::read(path).unwrap().len()];
            fs::write(path, zeros).unwrap();
        },
        "it does not end in a seal",
    );
    check(
        |path| fs::write(path, b"\xff\xfe").unwrap(),
        "it is no text",
    );
    check(
        |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace("first", "worst")).unwrap();
        },
        "its seal is",
    );
    check(
        |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
        "it is a directory",
    );
}

#[test]
fn a_receipt_of_another_step_is_not_taken_for_this_one() {
    let directory = TempDir::new().unwrap();
    let run = RunDirectory::create(directory.path()).unwrap();
    publish(&run, "first");
    let other = run.receipt_path(&crate::other_key());
    fs::copy(run.receipt_path(&key()), other).unwrap();
    let Found::Damaged { why } = run.receipt(&crate::other_key()).unwrap() else {
        panic!("it was believed");
    };
    assert!(why.starts_with("it is the receipt of"), "{why}");
}

#[test]
fn whoever_loses_to_a_damaged_artefact_says_so() {
    let directory = TempDir::new().unwrap();
    let run = RunDirectory::create(directory.path()).unwrap();
    let receipt: Receipt = publish(&run, "first");
    let mask = run.path_of(&receipt.outputs["mask"]);
    flip(&mask);
    let attempt = run.begin_attempt(&key()).unwrap();
    let draft = draft(&attempt, "late");
    let error = attempt.publish(draft).unwrap_err();
    assert!(
        matches!(&error, StoreError::DamagedWinner { path, .. } if *path == mask),
        "{error:?}"
    );
    // Its own files are gone all the same.
    assert_eq!(names(&run.artefacts()).len(), 2);
}

#[test]
fn what_was_damaged_twice_is_kept_twice() {
    let directory = TempDir::new().unwrap();
    let run = RunDirectory::create(directory.path()).unwrap();
    for content in ["first", "second", "third"] {
        publish(&run, content);
        fs::write(run.receipt_path(&key()), content).unwrap();
        let discarded = run.discard(&key(), "it is no receipt").unwrap();
        assert_eq!(discarded.moved.len(), 1);
    }
    let name = format!("{}.json", key());
    let expected = [name.clone(), format!("{name}.2"), format!("{name}.3")];
    assert_eq!(names(&run.damaged()), expected);
    let first = fs::read_to_string(run.damaged().join(name)).unwrap();
    assert_eq!(first, "first");
    // A step that is not done has nothing to be moved.
    let discarded = run.discard(&key(), "asked for").unwrap();
    assert!(discarded.moved.is_empty());
}
