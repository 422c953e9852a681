//! What this executable does when a test starts it again as another process.

use std::env;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;
use std::time::SystemTime;

use rustix::process::Resource;
use rustix::process::Rlimit;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;
use sms_merge::cycle::store::Draft;
use sms_merge::cycle::store::RunDirectory;
use sms_merge::tensor::Digest;

use crate::draft;
use crate::key;

/// Says what to do, and where.
const TASK: &str = "SMS_MERGE_TEST_TASK";
const DIRECTORY: &str = "SMS_MERGE_TEST_DIRECTORY";

/// Status of a worker whose result was not needed.
pub(crate) const LOST: i32 = 10;

/// Status of a worker that found no space.
pub(crate) const NO_SPACE: i32 = 11;

/// What another process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Does the step in the run directory.
    Work,
    /// Does the step with names that all workers share.
    WorkNaively,
    /// Takes the lock, says so, and holds it until it is killed.
    HoldLock,
    /// Begins an attempt with artefacts, says so, and lives until it is killed.
    Linger,
    /// Does the step where no file can be long.
    FindNoSpace,
}

impl Task {
    const ALL: [Self; 5] = [
        Self::Work,
        Self::WorkNaively,
        Self::HoldLock,
        Self::Linger,
        Self::FindNoSpace,
    ];

    /// Starts another process.
    pub(crate) fn start(self, directory: &Path) -> Child {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "worker::entry", "--nocapture"])
            .env(TASK, format!("{self:?}"))
            .env(DIRECTORY, directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap()
    }

    /// Starts another process, and waits until it says that it is ready.
    pub(crate) fn start_and_wait(self, directory: &Path) -> Child {
        let ready = directory.join("ready");
        let mut child = self.start(directory);
        for _ in 0..3000 {
            if ready.exists() {
                fs::remove_file(ready).unwrap();
                return child;
            }
            thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("{self:?} is not ready after 30 seconds");
    }
}

/// Not a test of its own: without a task it does nothing.
#[test]
fn entry() {
    let Ok(name) = env::var(TASK) else {
        return;
    };
    let directory = PathBuf::from(env::var_os(DIRECTORY).unwrap());
    let is_named = |task: &Task| format!("{task:?}") == name;
    match Task::ALL.into_iter().find(is_named).unwrap() {
        Task::Work => work(&directory),
        Task::WorkNaively => work_naively(&directory),
        Task::HoldLock => {
            let run = RunDirectory::open(&directory).unwrap();
            let _lock = run.lock("the first, process 1 on host").unwrap();
            linger(&directory);
        }
        Task::Linger => {
            let run = RunDirectory::open(&directory).unwrap();
            let attempt = run.begin_attempt(&key()).unwrap();
            draft(&attempt, "of a worker that lives");
            fs::write(attempt.scratch().join("state"), "half").unwrap();
            linger(&directory);
        }
        Task::FindNoSpace => find_no_space(&directory),
    }
}

fn linger(directory: &Path) {
    fs::write(directory.join("ready"), "").unwrap();
    thread::sleep(Duration::from_secs(600));
}

/// A number that no two workers share: workers are not deterministic.
fn nonce() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let text = format!("{} {}", process::id(), since.as_nanos());
    let digest = Digest::of(text.as_bytes()).to_bytes();
    u64::from_le_bytes(digest[..8].try_into().unwrap())
}

/// Writes a file of some length in several pieces, all of which say who wrote it.
fn write_slowly(path: &Path, nonce: u64) {
    let mut file = File::create(path).unwrap();
    let line = format!("{nonce:020}\n");
    let lines = 1 + usize::try_from(nonce % 400).unwrap();
    for _ in 0..8 {
        file.write_all(line.repeat(lines).as_bytes()).unwrap();
        thread::yield_now();
    }
}

/// Whether all of a file was written by one worker.
pub(crate) fn is_all_of(path: &Path, nonce: u64) -> bool {
    let line = format!("{nonce:020}");
    fs::read_to_string(path).is_ok_and(|text| text.lines().all(|found| found == line))
}

fn work(directory: &Path) {
    let run = RunDirectory::open(directory).unwrap();
    let attempt = run.begin_attempt(&key()).unwrap();
    let nonce = nonce();
    let outputs = ["checkpoint", "mask"].map(|name| {
        let path = attempt.artefact(name, "bin");
        write_slowly(&path, nonce);
        (name.to_owned(), path)
    });
    let published = attempt
        .publish(Draft {
            label: format!("worker {}", process::id()),
            kind: "train".to_owned(),
            outputs: outputs.into(),
            metrics: json!({"nonce": nonce}),
            elapsed_secs: 0.001,
        })
        .unwrap();
    if !published.is_ours {
        process::exit(LOST);
    }
}

/// What a step without attempts would leave.
#[derive(Serialize, Deserialize)]
pub(crate) struct NaiveReceipt {
    /// Who made it.
    pub(crate) nonce: u64,
    /// Digests of the files.
    pub(crate) digests: Vec<Digest>,
}

/// The same with one name per file, the receipt renamed into its place when it is complete.
fn work_naively(directory: &Path) {
    let nonce = nonce();
    let digests = ["checkpoint", "mask"].map(|name| {
        let path = directory.join(name);
        write_slowly(&path, nonce);
        Digest::of(&fs::read(path).unwrap())
    });
    let receipt = NaiveReceipt {
        nonce,
        digests: digests.into(),
    };
    let unpublished = directory.join(format!("receipt-{nonce}"));
    fs::write(&unpublished, serde_json::to_vec(&receipt).unwrap()).unwrap();
    fs::rename(unpublished, directory.join("receipt")).unwrap();
}

fn find_no_space(directory: &Path) {
    let run = RunDirectory::open(directory).unwrap();
    let attempt = run.begin_attempt(&key()).unwrap();
    let draft = draft(&attempt, "short");
    // A handler rather than the default, which would end the process.
    let seen = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(rustix::process::Signal::XFSZ.as_raw(), seen).unwrap();
    let limit = Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    rustix::process::setrlimit(Resource::Fsize, limit).unwrap();
    let error = attempt.publish(draft).unwrap_err();
    if error.is_no_space() {
        process::exit(NO_SPACE);
    }
    panic!("{error:?}");
}
