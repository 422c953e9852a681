//! Whole runs of the binary that are killed before a system call, or whose system
//! call fails: each call of a small merge in turn, under `strace -e inject`.
//!
//! Afterwards the output is what it was or complete and new, nothing lies beside
//! it, and only a complete output lets the run end with 0. The method is SQLite's:
//! <https://www.sqlite.org/testing.html>, section 3.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Output;
use std::process::Stdio;

use tempfile::TempDir;

/// Set where a missing `strace` is a failure rather than a skip.
const REQUIRE: &str = "SMS_MERGE_REQUIRE_STRACE";

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// Calls that are made to fail, and how. Calls of the allocator and of the thread
/// library that cannot fail in practice are killed at, not failed.
const ERRORS: &[(&[&str], &[&str])] = &[
    (
        &["openat"],
        &[
            "ENOSPC",
            "EIO",
            "EINTR",
            "EACCES",
            "EDQUOT",
            "EMFILE",
            "EOPNOTSUPP",
        ],
    ),
    (
        &["pwrite64", "write", "fallocate", "ftruncate"],
        &["ENOSPC", "EIO", "EINTR", "EDQUOT", "EFBIG", "EOPNOTSUPP"],
    ),
    (
        &["fsync", "fdatasync"],
        &["ENOSPC", "EIO", "EINTR", "EDQUOT"],
    ),
    (
        &[
            "linkat",
            "mkdirat",
            "unlinkat",
            "rename",
            "renameat",
            "renameat2",
        ],
        &[
            "ENOSPC", "EIO", "EINTR", "EACCES", "EDQUOT", "EEXIST", "ENOSYS", "EINVAL",
        ],
    ),
    (&["fchmod", "fchown", "flock"], &["EIO", "EINTR", "EPERM"]),
    (&["read", "pread64"], &["EIO", "EINTR"]),
    (&["getdents64"], &["EIO", "EACCES"]),
    (
        &["statx", "newfstatat", "fstat", "fstatfs", "readlink"],
        &["EIO", "EACCES"],
    ),
    (
        &["faccessat", "faccessat2", "lseek", "fcntl", "close"],
        &["EIO", "EINTR"],
    ),
    (&["madvise", "mmap"], &["ENOMEM"]),
    (&["clone3"], &["EAGAIN"]),
];

/// Calls before which a run cannot be killed usefully: there is no file at stake
/// that there is not before the next call.
const NOT_KILLED: &[&str] = &[
    "execve",
    "exit",
    "exit_group",
    "brk",
    "fcntl",
    "futex",
    "getpid",
    "getrandom",
    "gettid",
    "lseek",
    "madvise",
    "mprotect",
    "munmap",
    "poll",
    "prctl",
    "prlimit64",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "sigaltstack",
];

/// Paths below a directory, and what the files hold.
type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

fn tree(directory: &Path) -> Tree {
    fn walk(root: &Path, below: &Path, found: &mut Tree) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let entry = entry.unwrap();
            let path = below.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                found.insert(path.clone(), None);
                walk(root, &path, found);
            } else {
                found.insert(path, Some(fs::read(entry.path()).unwrap()));
            }
        }
    }
    let mut found = Tree::new();
    walk(directory, Path::new(""), &mut found);
    found
}

/// What is done to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Error(&'static str),
}

/// What a run leaves in the place of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Old,
    New,
}

/// What the place of the output held, and what a whole run puts there.
struct Expected {
    old: Tree,
    new: Tree,
}

/// What is left of a run that met a fault.
struct Remains {
    tree: Tree,
    status: ExitStatus,
    stderr: String,
}

/// Names in the top directory that a killed run may leave.
fn temporaries(tree: &Tree) -> Vec<&str> {
    tree.keys()
        .filter_map(|path| path.to_str())
        .filter(|name| !name.contains('/'))
        .filter(|name| name.starts_with(".sms-merge-") && name.ends_with(".tmp"))
        .collect()
}

/// Which output is left, or what is wrong with the remains.
fn judge(
    expected: &Expected,
    call: &str,
    fault: Fault,
    remains: &Remains,
) -> Result<State, String> {
    let Remains {
        tree,
        status,
        stderr,
    } = remains;
    let leftovers = temporaries(tree);
    let mut outputs = tree.clone();
    outputs.retain(|path, _| !leftovers.iter().any(|name| path.starts_with(name)));
    let state = if outputs == expected.new {
        State::New
    } else if outputs == expected.old {
        State::Old
    } else {
        let names: Vec<_> = tree.keys().collect();
        return Err(format!("neither the old nor the new output: {names:?}"));
    };
    // The standard library cannot set up a thread without memory for its signal stack.
    let is_out_of_memory = call == "mmap" && status.signal() == Some(SIGABRT);
    // It also takes no error of closing a directory, which Linux never reports.
    let is_closedir = call == "close" && stderr.contains("during closedir");
    if stderr.contains("panicked") && !is_out_of_memory && !is_closedir {
        return Err("panicked".to_owned());
    }
    match fault {
        Fault::Kill if leftovers.len() > 1 => return Err(format!("left {leftovers:?}")),
        Fault::Kill if status.signal() != Some(SIGKILL) => return Err(format!("{status}")),
        Fault::Kill => return Ok(state),
        Fault::Error(_) => {}
    }
    // What cannot be removed is at least named.
    if let Some(name) = leftovers.iter().find(|name| !stderr.contains(**name)) {
        return Err(format!("left `{name}` without saying so"));
    }
    match status.code() {
        Some(0) if state == State::Old => Err("ended with 0 without an output".to_owned()),
        Some(0) if !leftovers.is_empty() => Err("ended with 0 and a leftover".to_owned()),
        Some(0) => Ok(state),
        Some(_) if stderr.is_empty() => Err("failed without a word".to_owned()),
        Some(1..=5) => Ok(state),
        Some(101) if is_closedir => Ok(state),
        None if is_out_of_memory => Ok(state),
        _ => Err(format!("{status}")),
    }
}

/// A merge to disturb: the directory it runs in, what is there before, and its words.
struct Subject {
    root: TempDir,
    old: Tree,
    words: Vec<&'static str>,
}

impl Subject {
    /// Ingredients as files and as directories, and a place for the output.
    fn new(old: &[(&str, Option<&[u8]>)], words: &[&'static str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        for name in ["a", "b"] {
            let directory = root.path().join("in").join(name);
            fs::create_dir_all(&directory).unwrap();
            let file = fixtures.join(format!("{name}.st"));
            fs::copy(&file, directory.join("model.safetensors")).unwrap();
            fs::write(directory.join("config.json"), "{}").unwrap();
            fs::copy(&file, root.path().join(format!("in/{name}.st"))).unwrap();
        }
        let old = old
            .iter()
            .map(|(path, bytes)| (PathBuf::from(path), bytes.map(<[u8]>::to_vec)))
            .collect();
        Self {
            root,
            old,
            words: words.to_vec(),
        }
    }

    fn place(&self) -> PathBuf {
        self.root.path().join("out")
    }

    /// Puts the old output in its place, and nothing else.
    fn reset(&self) {
        let place = self.place();
        if place.exists() {
            fs::remove_dir_all(&place).unwrap();
        }
        fs::create_dir(&place).unwrap();
        for (path, bytes) in &self.old {
            match bytes {
                None => fs::create_dir(place.join(path)).unwrap(),
                Some(bytes) => fs::write(place.join(path), bytes).unwrap(),
            }
        }
    }

    fn run(&self, program: &Path, before: &[&str], after: &[&str]) -> Output {
        let mut command = Command::new(program);
        command
            .args(before)
            .args(&self.words)
            .args(["--threads", "2", "-q"])
            .args(after)
            .current_dir(self.root.path())
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    fn traced(&self, options: &[&str]) -> (Remains, String) {
        self.reset();
        let log = self.root.path().join("log");
        let mut words = vec!["-f", "-o", log.to_str().unwrap()];
        words.extend(options);
        words.push(env!("CARGO_BIN_EXE_sms-merge"));
        let output = self.run(Path::new("strace"), &words, &[]);
        let remains = Remains {
            tree: tree(&self.place()),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        let log = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
        (remains, log)
    }

    /// Disturbs every call of the merge, and counts how the runs ended.
    fn disturb(&self) {
        let inputs = tree(&self.root.path().join("in"));
        let (whole, log) = self.traced(&[]);
        assert!(whole.status.success(), "{}", whole.stderr);
        let expected = Expected {
            old: self.old.clone(),
            new: whole.tree,
        };
        assert_ne!(expected.old, expected.new);
        let mut counts: BTreeMap<(bool, State, Option<i32>), usize> = BTreeMap::new();
        let mut wrongs = Vec::new();
        for (call, n_before) in calls(&log) {
            let mut faults: Vec<Fault> = errors_of(&call).map(Fault::Error).collect();
            if !NOT_KILLED.contains(&call.as_str()) {
                faults.push(Fault::Kill);
            }
            for fault in faults {
                let mut n_missed = 0;
                for n in n_before + 1.. {
                    let Some(remains) = self.meet(&call, n, fault) else {
                        // Which thread makes a call is left to chance.
                        n_missed += 1;
                        if n_missed == 2 {
                            break;
                        }
                        continue;
                    };
                    n_missed = 0;
                    match judge(&expected, &call, fault, &remains) {
                        Ok(state) => {
                            let key = (fault == Fault::Kill, state, remains.status.code());
                            *counts.entry(key).or_default() += 1;
                        }
                        Err(wrong) => {
                            let stderr = &remains.stderr;
                            wrongs.push(format!(
                                "{fault:?} at `{call}` number {n}: {wrong}\n{stderr}"
                            ));
                        }
                    }
                    if fault == Fault::Kill || !temporaries(&remains.tree).is_empty() {
                        self.repeat(&expected);
                    }
                }
            }
        }
        assert_eq!(tree(&self.root.path().join("in")), inputs);
        assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
        for ((is_killed, state, code), count) in counts {
            let fault = if is_killed { "killed" } else { "failed" };
            println!("{count} {fault}: {state:?}, status {code:?}");
        }
    }

    /// Disturbs the `n`-th call of a thread; `None` if there is none.
    fn meet(&self, call: &str, n: usize, fault: Fault) -> Option<Remains> {
        let what = match fault {
            Fault::Kill => "signal=SIGKILL".to_owned(),
            Fault::Error(name) => format!("error={name}"),
        };
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:{what}:when={n}");
        let (remains, log) = self.traced(&["-e", &trace, "-e", &inject]);
        (log.contains("(INJECTED)") || log.contains("+++ killed by SIGKILL")).then_some(remains)
    }

    /// A run after a disturbed one succeeds, and sweeps up.
    fn repeat(&self, expected: &Expected) {
        let program = Path::new(env!("CARGO_BIN_EXE_sms-merge"));
        let is_forced = self.words.contains(&"--force");
        let force: &[&str] = if is_forced { &[] } else { &["--force"] };
        let output = self.run(program, &[], force);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            tree(&self.place()) == expected.new,
            "{:?}",
            tree(&self.place()).keys()
        );
    }
}

/// The calls that a trace shows from the first look at an ingredient on, each with
/// how often the main thread made it before.
fn calls(log: &str) -> BTreeMap<String, usize> {
    let mut before: BTreeMap<String, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut has_begun = false;
    for line in log.lines() {
        let text = line
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start();
        let Some((call, rest)) = text.split_once('(') else {
            continue;
        };
        if !call
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            continue;
        }
        has_begun |= call != "execve" && rest.contains("\"in/a");
        if has_begun {
            seen.insert(call.to_owned());
        } else {
            *before.entry(call.to_owned()).or_default() += 1;
        }
    }
    let count = |call: String| {
        let n_before = before.get(&call).copied().unwrap_or(0);
        (call, n_before)
    };
    seen.into_iter().map(count).collect()
}

fn errors_of(call: &str) -> impl Iterator<Item = &'static str> {
    let row = ERRORS.iter().find(|(calls, _)| calls.contains(&call));
    row.into_iter()
        .flat_map(|(_, errors)| errors.iter().copied())
}

/// Whether programs can be traced here; says why not, or fails if it must be.
fn can_trace() -> bool {
    let tried = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .output();
    let reason = match tried {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(
        std::env::var_os(REQUIRE).is_none_or(|value| value != "1"),
        "`strace` cannot trace: {reason}"
    );
    println!("skipped: `strace` cannot trace: {reason}");
    false
}

fn check(old: &[(&str, Option<&[u8]>)], words: &[&'static str]) {
    if can_trace() {
        Subject::new(old, words).disturb();
    }
}

#[test]
fn a_new_file_appears_whole_or_not_at_all() {
    check(&[], &["in/a.st", "in/b.st", "-o", "out/soup.st"]);
}

#[test]
fn a_replaced_file_is_old_or_new() {
    check(
        &[("soup.st", Some(b"an older soup"))],
        &["in/a.st", "in/b.st", "-o", "out/soup.st", "--force"],
    );
}

#[test]
fn a_new_directory_appears_whole_or_not_at_all() {
    check(
        &[],
        &["in/a", "in/b", "-o", "out/soup", "--shard-size", "16KB"],
    );
}

#[test]
fn a_replaced_directory_is_old_or_new() {
    check(
        &[
            ("soup", None),
            ("soup/config.json", Some(b"[]")),
            ("soup/model-00001-of-00002.safetensors", Some(b"1")),
            ("soup/model-00002-of-00002.safetensors", Some(b"2")),
            ("soup/model.safetensors.index.json", Some(b"{}")),
        ],
        &[
            "in/a",
            "in/b",
            "-o",
            "out/soup",
            "--shard-size",
            "16KB",
            "--force",
        ],
    );
}

#[test]
fn files_are_read_whole_without_mapping() {
    check(
        &[],
        &[
            "in/a.st",
            "in/b.st",
            "-o",
            "out/soup.st",
            "--no-mmap",
            "--no-sync",
        ],
    );
}

#[test]
fn the_judge_rejects_what_it_must() {
    let of = |files: &[(&str, &str)]| -> Tree {
        files
            .iter()
            .map(|(path, bytes)| (PathBuf::from(path), Some(bytes.as_bytes().to_vec())))
            .collect()
    };
    let expected = Expected {
        old: of(&[("soup.st", "old")]),
        new: of(&[("soup.st", "new")]),
    };
    let judged = |files: &[(&str, &str)], fault, status: i32, stderr: &str| {
        let remains = Remains {
            tree: of(files),
            // As wait(2) encodes it: a signal, or 256 times the status.
            status: ExitStatus::from_raw(status),
            stderr: stderr.to_owned(),
        };
        judge(&expected, "openat", fault, &remains)
    };
    let (old, new) = (("soup.st", "old"), ("soup.st", "new"));
    let (one, two) = ((".sms-merge-0-1-0.tmp", ""), (".sms-merge-0-1-1.tmp", ""));
    let eio = Fault::Error("EIO");
    assert_eq!(judged(&[old], eio, 5 << 8, "error"), Ok(State::Old));
    assert_eq!(judged(&[new], eio, 5 << 8, "error"), Ok(State::New));
    assert_eq!(judged(&[new], eio, 0, ""), Ok(State::New));
    assert_eq!(judged(&[old, one], Fault::Kill, 9, ""), Ok(State::Old));
    assert_eq!(judged(&[new, one], eio, 5 << 8, one.0), Ok(State::New));
    for (files, fault, status, stderr) in [
        (&[] as &[_], eio, 5 << 8, "error"),
        (&[("soup.st", "ne")], eio, 5 << 8, "error"),
        (&[old, ("other", "")], eio, 5 << 8, "error"),
        (&[old], eio, 0, ""),
        (&[old], eio, 5 << 8, ""),
        (&[old], eio, 6, "aborted"),
        (&[old], eio, 101 << 8, "error"),
        (&[old], eio, 5 << 8, "thread 'main' panicked at"),
        (&[old, one], eio, 5 << 8, "error"),
        (&[new, one], eio, 0, one.0),
        (&[old, one, two], Fault::Kill, 9, ""),
        (&[old, (".sms-merge-0-1-0.old", "")], Fault::Kill, 9, ""),
        (&[old], Fault::Kill, 5 << 8, "error"),
    ] {
        let verdict = judged(files, fault, status, stderr);
        assert!(
            verdict.is_err(),
            "{files:?} {fault:?} {status} {stderr}: {verdict:?}"
        );
    }
}
