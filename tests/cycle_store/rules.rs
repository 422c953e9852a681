//! Who may do what in a run directory, and what is cleared up.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::thread;

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use sms_merge::cycle::store::Attempt;
use sms_merge::cycle::store::Draft;
use sms_merge::cycle::store::Found;
use sms_merge::cycle::store::RunDirectory;
use sms_merge::cycle::store::StoreError;
use tempfile::TempDir;

use crate::draft;
use crate::key;
use crate::names;
use crate::other_key;
use crate::publish;
use crate::worker;
use crate::worker::Task;

fn fresh() -> (TempDir, RunDirectory) {
    let directory = TempDir::new().unwrap();
    let run = RunDirectory::create(directory.path()).unwrap();
    (directory, run)
}

#[test]
fn a_run_directory_is_made_and_opened() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/run");
    let run = RunDirectory::create(&path).unwrap();
    assert_eq!(RunDirectory::create(&path).unwrap(), run);
    assert_eq!(RunDirectory::open(&path).unwrap(), run);
    assert_eq!(run.root(), fs::canonicalize(&path).unwrap());
    assert_eq!(names(&path), ["artefacts", "damaged", "jobs", "receipts"]);
    assert!(matches!(run.receipt(&key()), Ok(Found::Missing)));
}

#[test]
fn what_is_no_run_directory_is_refused_and_left_alone() {
    let check = |make: fn(&Path), expected: &str| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("run");
        make(&path);
        let error = RunDirectory::create(&path).unwrap_err();
        assert!(
            matches!(&error, StoreError::NotARun { found, .. } if found == expected),
            "{error:?}"
        );
        assert!(!path.join("receipts").exists());
        assert!(RunDirectory::open(&path).is_err());
    };
    check(|path| fs::write(path, "").unwrap(), "is no directory");
    check(
        |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("recipe.toml"), "").unwrap();
            fs::write(path.join("thesis.tex"), "").unwrap();
        },
        "holds `thesis.tex`",
    );
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("recipe.toml"), "").unwrap();
    RunDirectory::create(directory.path()).unwrap();
    let missing = RunDirectory::open(&directory.path().join("run")).unwrap_err();
    assert!(missing.to_string().contains("does not exist"), "{missing}");
}

#[test]
fn a_second_coordinator_is_told_of_the_first() {
    let (directory, run) = fresh();
    assert_eq!(run.holder().unwrap(), None);
    let mut child = Task::HoldLock.start_and_wait(directory.path());
    let expected = "the first, process 1 on host";
    assert_eq!(run.holder().unwrap().as_deref(), Some(expected));
    match run.lock("the second") {
        Err(StoreError::Locked { path, holder }) => {
            assert_eq!((&*path, &*holder), (run.root(), expected));
        }
        other => panic!("{other:?}"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The text is still there, and means nothing.
    assert_eq!(run.holder().unwrap(), None);
    let lock = run.lock("2nd").unwrap();
    assert_eq!(run.holder().unwrap().as_deref(), Some("2nd"));
    drop(lock);
    assert_eq!(run.holder().unwrap(), None);
}

#[test]
fn looking_at_the_lock_keeps_nobody_out() {
    let (_directory, run) = fresh();
    let looking = run.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                looking.holder().unwrap();
            }
        });
        for _ in 0..200 {
            run.lock("a coordinator").unwrap();
        }
    });
}

/// A job, as a worker reads it.
#[derive(Debug, PartialEq, Deserialize)]
struct Job {
    seed: u64,
}

#[test]
fn jobs_are_written_whole_and_read_again() {
    let (_directory, run) = fresh();
    run.write_job(&key(), &json!({"seed": 7})).unwrap();
    let job = run.job_directory(&key());
    let read = |path: &Path| RunDirectory::read_job::<Job>(path);
    assert_eq!(read(&job).unwrap(), Job { seed: 7 });
    let inode = |path: &Path| fs::metadata(path.join("job.json")).unwrap().ino();
    let before = inode(&job);
    run.write_job(&key(), &json!({"seed": 7})).unwrap();
    assert_eq!(inode(&job), before, "the same job was written again");
    run.write_job(&key(), &json!({"seed": 8})).unwrap();
    assert_eq!(read(&job).unwrap(), Job { seed: 8 });
    assert_eq!(names(&job), ["job.json"]);
    assert_eq!(RunDirectory::of_job(&job).unwrap(), (run.clone(), key()));

    fs::write(job.join("job.json"), "{").unwrap();
    assert!(matches!(read(&job), Err(StoreError::Job { .. })));
    let missing = run.job_directory(&other_key());
    assert!(matches!(read(&missing), Err(StoreError::System { .. })));
    let check = |path: &Path| {
        let found = RunDirectory::of_job(path);
        assert!(
            matches!(found, Err(StoreError::NotAJob { .. })),
            "{found:?}"
        );
    };
    check(&run.jobs());
    let stray = run.root().join(key().as_str());
    fs::create_dir(&stray).unwrap();
    check(&stray);
}

#[test]
fn every_attempt_has_a_number_of_its_own() {
    let (_directory, run) = fresh();
    assert_eq!(run.attempts(&key()).unwrap(), 0);
    let attempts: Vec<Attempt> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| run.begin_attempt(&key()).unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let numbers: BTreeSet<u32> = attempts.iter().map(Attempt::number).collect();
    let artefacts: BTreeSet<PathBuf> = attempts
        .iter()
        .map(|attempt| attempt.artefact("mask", "st"))
        .collect();
    assert_eq!((numbers.len(), artefacts.len()), (16, 16));
    assert_eq!(run.attempts(&key()).unwrap(), 16);
    assert_eq!(run.attempts(&other_key()).unwrap(), 0);
}

#[test]
fn a_number_that_artefacts_carry_is_not_given_again() {
    let (_directory, run) = fresh();
    publish(&run, "first");
    fs::remove_dir_all(run.job_directory(&key())).unwrap();
    assert_eq!(run.begin_attempt(&key()).unwrap().number(), 2);
}

#[test]
fn an_attempt_that_is_given_up_leaves_no_artefact() {
    let (_directory, run) = fresh();
    let attempt = run.begin_attempt(&key()).unwrap();
    draft(&attempt, "half");
    fs::write(attempt.log(), "it failed").unwrap();
    let log = attempt.log();
    drop(attempt);
    assert_eq!(names(&run.artefacts()), Vec::<String>::new());
    assert_eq!(fs::read_to_string(log).unwrap(), "it failed");
    assert_eq!(run.attempts(&key()).unwrap(), 1);
}

#[test]
fn drafts_that_cannot_be_believed_are_refused() {
    let check = |change: fn(&Attempt, &mut Draft), is_expected: fn(&StoreError) -> bool| {
        let (_directory, run) = fresh();
        let attempt = run.begin_attempt(&key()).unwrap();
        let mut draft = draft(&attempt, "first");
        change(&attempt, &mut draft);
        let error = attempt.publish(draft).unwrap_err();
        assert!(is_expected(&error), "{error:?}");
        assert_eq!(run.receipt(&key()).unwrap(), Found::Missing);
        assert_eq!(names(&run.artefacts()), Vec::<String>::new());
    };
    check(
        |attempt, draft| {
            draft.outputs.insert("log".to_owned(), attempt.log());
        },
        |error| matches!(error, StoreError::Foreign { .. }),
    );
    check(
        |attempt, draft| {
            let path = attempt.artefact("never", "written");
            draft.outputs.insert("never".to_owned(), path);
        },
        |error| matches!(error, StoreError::System { .. }),
    );
    check(
        |_, draft| draft.elapsed_secs = f64::NAN,
        |error| matches!(error, StoreError::Unsealable { .. }),
    );
}

#[test]
fn a_step_may_make_nothing_but_numbers() {
    let (_directory, run) = fresh();
    let attempt = run.begin_attempt(&key()).unwrap();
    let published = attempt
        .publish(Draft {
            label: "evaluation".to_owned(),
            kind: "evaluate".to_owned(),
            outputs: BTreeMap::new(),
            metrics: json!({"accuracy": 0.1 + 0.2}),
            elapsed_secs: 0.0,
        })
        .unwrap();
    assert_eq!(crate::whole(&run), published.receipt);
    assert_eq!(
        published.receipt.metrics["accuracy"],
        Value::from(0.1 + 0.2)
    );
}

#[test]
fn whoever_comes_second_gets_the_first_result() {
    let (_directory, run) = fresh();
    let (first, second) = (
        run.begin_attempt(&key()).unwrap(),
        run.begin_attempt(&key()).unwrap(),
    );
    let drafts = (draft(&first, "first"), draft(&second, "second"));
    let winner = second.publish(drafts.1).unwrap();
    let loser = first.publish(drafts.0).unwrap();
    assert!(winner.is_ours && !loser.is_ours);
    assert_eq!(winner.receipt, loser.receipt);
    assert_eq!(winner.receipt.metrics["content"], "second");
    let named: Vec<String> = winner
        .receipt
        .outputs
        .into_values()
        .map(|output| output.file)
        .collect();
    assert_eq!(names(&run.artefacts()), named);
    assert_eq!(names(&run.receipts()), [format!("{}.json", key())]);
}

#[test]
fn only_what_the_dead_left_is_removed() {
    let (directory, run) = fresh();
    let receipt = publish(&run, "first");
    let artefacts = run.artefacts();
    for name in ["notes.txt", "kept-1.bin"] {
        fs::write(artefacts.join(name), name).unwrap();
    }
    let leftover = format!("{}-7.checkpoint.bin", other_key());
    fs::write(artefacts.join(&leftover), "leftover").unwrap();
    let wanted = format!("{}-8.checkpoint.bin", other_key());
    fs::write(artefacts.join(&wanted), "wanted").unwrap();
    let unfinished = artefacts.join(".sms-merge-0123456789abcdef-1-1.tmp");
    fs::write(&unfinished, "unfinished").unwrap();
    let locked = artefacts.join(".sms-merge-0123456789abcdef-1-2.tmp");
    let holder = fs::File::create(&locked).unwrap();
    holder.lock().unwrap();

    let mut child = Task::Linger.start_and_wait(directory.path());
    let lock = run.lock("the test").unwrap();
    let keep = BTreeSet::from([wanted.clone()]);
    let removed = run.remove_unused(&lock, &keep).unwrap();
    let expected = "leftover".len() + "unfinished".len();
    assert_eq!((removed.files, removed.bytes), (2, expected as u64));
    let lingering: Vec<String> = ["checkpoint", "mask"]
        .map(|name| format!("{}-2.{name}.bin", key()))
        .into();
    for name in &lingering {
        assert!(artefacts.join(name).exists(), "{name}");
    }
    let scratch = run.attempt_directory(&key(), 2).join("scratch");
    assert!(scratch.join("state").exists());

    child.kill().unwrap();
    child.wait().unwrap();
    let removed = run.remove_unused(&lock, &keep).unwrap();
    assert_eq!(removed.files, 3, "two artefacts and a scratch file");
    assert!(!scratch.exists());
    assert_eq!(run.attempts(&key()).unwrap(), 2);
    let mut expected = vec!["notes.txt".to_owned(), "kept-1.bin".to_owned(), wanted];
    expected.extend(receipt.outputs.into_values().map(|output| output.file));
    expected.push(".sms-merge-0123456789abcdef-1-2.tmp".to_owned());
    expected.sort();
    assert_eq!(names(&artefacts), expected);
}

#[test]
fn nothing_is_removed_on_the_word_of_a_damaged_receipt() {
    let (_directory, run) = fresh();
    let receipt = publish(&run, "first");
    let lock = run.lock("the test").unwrap();
    fs::write(run.receipt_path(&key()), "").unwrap();
    let removed = run.remove_unused(&lock, &BTreeSet::new()).unwrap();
    assert_eq!(removed.files, 0);
    let discarded = run.discard(&key(), "it is empty").unwrap();
    assert_eq!(discarded.moved.len(), 1);
    let removed = run.remove_unused(&lock, &BTreeSet::new()).unwrap();
    assert_eq!(removed.files, receipt.outputs.len());
}

#[test]
fn a_full_disk_is_told_from_other_failures() {
    let (directory, run) = fresh();
    let status = Task::FindNoSpace.start(directory.path()).wait().unwrap();
    assert_eq!(status.code(), Some(worker::NO_SPACE));
    assert_eq!(run.receipt(&key()).unwrap(), Found::Missing);
    assert_eq!(names(&run.artefacts()), Vec::<String>::new());
    publish(&run, "when there is space again");
}
