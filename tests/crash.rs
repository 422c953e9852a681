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

use safetensors::tensor::TensorView;
use tempfile::TempDir;

/// Set where a missing `strace` is a failure rather than a skip.
const REQUIRE: &str = "SMS_MERGE_REQUIRE_STRACE";

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// More than any thread makes of one call: a trace that is misread ends somewhere.
const MOST_CALLS: usize = 1000;

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
    /// One of the whole states in between that this case allows.
    Between,
    /// The old one under a temporary name, where directories cannot be exchanged.
    Aside,
}

/// What the system of a run lacks, so that the run has to do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Nothing,
    /// `O_TMPFILE`.
    UnnamedFiles,
    /// `RENAME_NOREPLACE` and `RENAME_EXCHANGE`.
    RenameFlags,
}

/// What the place of the output held, what a whole run puts there, and how many
/// temporary names a killed run may leave beside it.
struct Expected {
    old: Tree,
    new: Tree,
    /// Other states in which no two files of an output belong to different ones.
    between: Vec<Tree>,
    most_leftovers: usize,
}

/// What is left of a run that met a fault.
struct Remains {
    tree: Tree,
    status: ExitStatus,
    stderr: String,
}

/// Names in the top directory that a killed run may leave; an old directory that was
/// moved aside is one only beside another.
fn temporaries(tree: &Tree) -> Vec<&str> {
    let is_placed = tree.contains_key(Path::new("soup"));
    tree.keys()
        .filter_map(|path| path.to_str())
        .filter(|name| !name.contains('/'))
        .filter(|name| name.starts_with(".sms-merge-"))
        .filter(|name| name.ends_with(".tmp") || (is_placed && name.ends_with(".old")))
        .collect()
}

/// The tree with its only name given back that was moved to a temporary one.
fn aside(tree: &Tree) -> Tree {
    let is_aside = |path: &Path| {
        path.components().next().is_some_and(|first| {
            let name = first.as_os_str().to_string_lossy();
            name.starts_with(".sms-merge-") && name.ends_with(".old")
        })
    };
    let give_back = |(path, bytes): (&PathBuf, &Option<Vec<u8>>)| {
        let path = if is_aside(path) {
            Path::new("soup").join(path.components().skip(1).collect::<PathBuf>())
        } else {
            path.clone()
        };
        // Joining nothing leaves a slash at the end, which paths do not compare.
        (path.components().collect(), bytes.clone())
    };
    tree.iter().map(give_back).collect()
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
    } else if expected.between.contains(&outputs) {
        State::Between
    } else if fault == Fault::Kill && !expected.old.is_empty() && aside(&outputs) == expected.old {
        State::Aside
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
        Fault::Kill if leftovers.len() > expected.most_leftovers => {
            return Err(format!("left {leftovers:?}"));
        }
        Fault::Kill if status.signal() != Some(SIGKILL) => return Err(format!("{status}")),
        Fault::Kill => return Ok(state),
        Fault::Error(_) => {}
    }
    // What cannot be removed is at least named.
    if let Some(name) = leftovers.iter().find(|name| !stderr.contains(**name)) {
        return Err(format!("left `{name}` without saying so"));
    }
    match status.code() {
        Some(0) if state != State::New => Err("ended with 0 without an output".to_owned()),
        Some(0) if !leftovers.is_empty() => Err("ended with 0 and a leftover".to_owned()),
        Some(0) => Ok(state),
        Some(_) if stderr.is_empty() => Err("failed without a word".to_owned()),
        Some(1..=5) => Ok(state),
        Some(101) if is_closedir => Ok(state),
        None if is_out_of_memory => Ok(state),
        _ => Err(format!("{status}")),
    }
}

/// A checkpoint of a model that this program knows: one linear layer.
fn linear() -> Vec<u8> {
    let (weights, bias) = ([1; 48], [0; 12]);
    let tensors = [
        ("fc1.weight", vec![3, 4], &weights[..]),
        ("fc1.bias", vec![3], &bias[..]),
    ];
    let tensors = tensors.map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape, bytes);
        (name, view.unwrap())
    });
    safetensors::serialize(tensors, None).unwrap()
}

/// A merge to disturb: the directory it runs in, what is there before, and its words.
struct Subject {
    root: TempDir,
    old: Tree,
    words: Vec<&'static str>,
    missing: Missing,
    most_leftovers: usize,
    /// Files of an old and of a whole new output that may stand alone in between.
    between: &'static [Between],
}

impl Subject {
    /// Ingredients as files and as directories, and a place for the output.
    fn new(case: &Case) -> Self {
        let Case {
            old,
            words,
            missing,
            most_leftovers,
            between,
        } = *case;
        let root = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        for name in ["a", "b"] {
            let directory = root.path().join("in").join(name);
            fs::create_dir_all(&directory).unwrap();
            let file = fixtures.join(format!("{name}.st"));
            fs::copy(&file, directory.join("model.safetensors")).unwrap();
            fs::write(directory.join("config.json"), "{}").unwrap();
            fs::create_dir(directory.join("1_Pooling")).unwrap();
            fs::write(directory.join("1_Pooling/config.json"), "[]").unwrap();
            // The model says what the file beside it is called.
            let data = format!("external_{name}.data");
            for (from, to) in [
                (format!("external_{name}.onnx"), format!("{name}.onnx")),
                (data.clone(), data),
            ] {
                fs::copy(
                    fixtures.join("onnx").join(from),
                    root.path().join("in").join(to),
                )
                .unwrap();
            }
            fs::copy(&file, root.path().join(format!("in/{name}.st"))).unwrap();
        }
        fs::write(root.path().join("in/a_linear.st"), linear()).unwrap();
        let old = old
            .iter()
            .map(|(path, bytes)| (PathBuf::from(path), bytes.map(<[u8]>::to_vec)))
            .collect();
        Self {
            root,
            old,
            words: words.to_vec(),
            missing,
            most_leftovers,
            between,
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

    /// The states that this case allows between the old output and a whole new one.
    fn between(&self, new: &Tree) -> Vec<Tree> {
        let of = |(old, whole): &Between| {
            let pick = |tree: &Tree, names: &[&str]| {
                let files = tree.iter();
                let picked =
                    files.filter(|(path, _)| names.iter().any(|name| *path == Path::new(name)));
                picked
                    .map(|(path, bytes)| (path.clone(), bytes.clone()))
                    .collect::<Tree>()
            };
            let mut tree = pick(&self.old, old);
            tree.extend(pick(new, whole));
            tree
        };
        self.between.iter().map(of).collect()
    }

    /// Disturbs every call of the merge, and counts how the runs ended.
    fn disturb(&self) {
        let inputs = tree(&self.root.path().join("in"));
        let (_, log) = self.traced(&[]);
        let always = always(self.missing, &log);
        let base: Vec<&str> = always.iter().flat_map(|word| ["-e", word]).collect();
        let (whole, log) = self.traced(&base);
        assert!(whole.status.success(), "{}", whole.stderr);
        assert_eq!(log.contains("(INJECTED)"), !always.is_empty());
        let expected = Expected {
            old: self.old.clone(),
            between: self.between(&whole.tree),
            new: whole.tree,
            most_leftovers: self.most_leftovers,
        };
        assert_ne!(expected.old, expected.new);
        let mut counts: BTreeMap<(bool, State, Option<i32>, usize), usize> = BTreeMap::new();
        let mut wrongs = Vec::new();
        for (call, n_before) in calls(&log) {
            if always
                .iter()
                .any(|word| word.starts_with(&format!("inject={call}:")))
            {
                continue;
            }
            let mut faults: Vec<Fault> = errors_of(&call)
                // What becomes of each error is seen where nothing is missing.
                .filter(|&error| self.missing == Missing::Nothing || error == "EIO")
                .map(Fault::Error)
                .collect();
            if !NOT_KILLED.contains(&call.as_str()) {
                faults.push(Fault::Kill);
            }
            for fault in faults {
                let mut n_missed = 0;
                for n in n_before + 1..MOST_CALLS {
                    let Some(remains) = self.meet(&base, &call, n, fault) else {
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
                            let n_left = temporaries(&remains.tree).len();
                            let is_killed = fault == Fault::Kill;
                            let key = (is_killed, state, remains.status.code(), n_left);
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
        let mut most_left = 0;
        for ((is_killed, state, code, n_left), count) in counts {
            let fault = if is_killed { "killed" } else { "failed" };
            println!("{count} {fault}: {state:?}, status {code:?}, {n_left} left");
            most_left = most_left.max(n_left);
        }
        // What is documented to be left is met, or the runs were not killed where it matters.
        assert_eq!(most_left, self.most_leftovers);
    }

    /// Disturbs the `n`-th call of a thread; `None` if there is none.
    fn meet(&self, base: &[&str], call: &str, n: usize, fault: Fault) -> Option<Remains> {
        let what = match fault {
            Fault::Kill => "signal=SIGKILL".to_owned(),
            Fault::Error(name) => format!("error={name}"),
        };
        // Only what is traced can be injected.
        let always = base.iter().filter_map(|word| word.strip_prefix("inject="));
        let mut trace = format!("trace={call}");
        for (always, _) in always.filter_map(|word| word.split_once(':')) {
            trace.push(',');
            trace.push_str(always);
        }
        let inject = format!("inject={call}:{what}:when={n}");
        let words = [&["-e", &trace, "-e", &inject], base].concat();
        let (remains, log) = self.traced(&words);
        // One call's name may begin another's.
        let names = [format!(" {call}("), format!(" {call} resumed>")];
        let is_met = |line: &str| {
            let is_call = names.iter().any(|name| line.contains(name.as_str()));
            (is_call && line.contains("(INJECTED)")) || line.contains("+++ killed by SIGKILL")
        };
        log.lines().any(is_met).then_some(remains)
    }

    /// A run after a disturbed one succeeds, and sweeps up.
    fn repeat(&self, expected: &Expected) {
        let program = Path::new(env!("CARGO_BIN_EXE_sms-merge"));
        let is_forced = self.words.contains(&"--force");
        let force: &[&str] = if is_forced { &[] } else { &["--force"] };
        // An old directory that was moved aside goes once a new one is in its place.
        let is_aside = !self.place().join("soup").exists() && !self.old.is_empty();
        let n_runs = if self.missing == Missing::RenameFlags && is_aside {
            2
        } else {
            1
        };
        for _ in 0..n_runs {
            let output = self.run(program, &[], force);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{stderr}");
        }
        let found = tree(&self.place());
        if found == expected.new {
            return;
        }
        // Beside what two killed runs left, the data gets a third name, and nothing else is
        // there.
        let data = |tree: &Tree| {
            let is_data = |(path, _): &(&PathBuf, &Option<Vec<u8>>)| {
                path.extension().is_some_and(|end| end == "data")
            };
            tree.iter().find(is_data).map(|(_, bytes)| bytes.clone())
        };
        let is_same = data(&found).is_some() && data(&found) == data(&expected.new);
        assert!(is_same, "{:?}", found.keys());
        assert_eq!(found.len(), expected.new.len(), "{:?}", found.keys());
        let inspected = Command::new(program)
            .args(["inspect", "out/soup.onnx"])
            .current_dir(self.root.path())
            .output();
        assert!(inspected.unwrap().status.success());
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

/// What strace has to inject for the system to lack something.
fn always(missing: Missing, log: &str) -> Vec<String> {
    match missing {
        Missing::Nothing => Vec::new(),
        Missing::UnnamedFiles => {
            // strace counts the calls of each thread on its own.
            let thread = |line: &str| line.split_whitespace().next().map(str::to_owned);
            let unnamed = log.lines().find(|line| line.contains("O_TMPFILE")).unwrap();
            let mut opens = log
                .lines()
                .filter(|line| line.contains(" openat(") && thread(line) == thread(unnamed));
            let first = opens.position(|line| line == unnamed).unwrap();
            vec![format!("inject=openat:error=EOPNOTSUPP:when={}", first + 1)]
        }
        Missing::RenameFlags => vec!["inject=renameat2:error=EINVAL".to_owned()],
    }
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

/// Names of files of the old output and of the new one.
type Between = (&'static [&'static str], &'static [&'static str]);

/// A merge and what it may leave when it is killed.
struct Case<'a> {
    old: &'a [(&'a str, Option<&'a [u8]>)],
    words: &'a [&'static str],
    missing: Missing,
    most_leftovers: usize,
    between: &'static [Between],
}

fn check(case: &Case) {
    if can_trace() {
        Subject::new(case).disturb();
    }
}

const FILE: &[&str] = &["in/a.st", "in/b.st", "-o", "out/soup.st"];
const FILE_AGAIN: &[&str] = &["in/a.st", "in/b.st", "-o", "out/soup.st", "--force"];
const UNSYNCED: &[&str] = &[
    "in/a.st",
    "in/b.st",
    "-o",
    "out/soup.st",
    "--no-mmap",
    "--no-sync",
];
const DIRECTORY: &[&str] = &["in/a", "in/b", "-o", "out/soup", "--shard-size", "16KB"];
const DIRECTORY_AGAIN: &[&str] = &[
    "in/a",
    "in/b",
    "-o",
    "out/soup",
    "--shard-size",
    "16KB",
    "--force",
];

const MODEL_AGAIN: &[&str] = &["in/a.onnx", "in/b.onnx", "-o", "out/soup.onnx", "--force"];
const EXPORT_AGAIN: &[&str] = &[
    "export",
    "in/a_linear.st",
    "--model=mlp",
    "--option=hidden=none",
    "--input=1x2x2",
    "--classes=3",
    "--external-data=file",
    "-o",
    "out/soup.onnx",
    "--force",
];
const PRUNE_AGAIN: &[&str] = &[
    "prune",
    "in/a.st",
    "--sparsity",
    "0.95",
    "-o",
    "out/soup",
    "--mask-out",
    "out/mask.st",
    "--force",
];
const OLD_MODEL: &[(&str, Option<&[u8]>)] = &[
    ("soup.onnx", Some(b"an older model")),
    ("soup.onnx.data", Some(b"its weights")),
];
/// The new weights are there before the new model, and the old ones go after it.
const MODEL_BETWEEN: &[Between] = &[
    (&["soup.onnx", "soup.onnx.data"], &["soup.onnx.2.data"]),
    (&["soup.onnx.data"], &["soup.onnx", "soup.onnx.2.data"]),
];
const OLD_PRUNED: &[(&str, Option<&[u8]>)] = &[
    ("soup", Some(b"an older checkpoint")),
    ("mask.st", Some(b"its mask")),
];

const OLD_FILE: &[(&str, Option<&[u8]>)] = &[("soup.st", Some(b"an older soup"))];
const OLD_DIRECTORY: &[(&str, Option<&[u8]>)] = &[
    ("soup", None),
    ("soup/1_Pooling", None),
    ("soup/1_Pooling/config.json", Some(b"{}")),
    ("soup/config.json", Some(b"[]")),
    ("soup/model-00001-of-00002.safetensors", Some(b"1")),
    ("soup/model-00002-of-00002.safetensors", Some(b"2")),
    ("soup/model.safetensors.index.json", Some(b"{}")),
];

#[test]
fn a_new_file_appears_whole_or_not_at_all() {
    check(&Case {
        old: &[],
        words: FILE,
        missing: Missing::Nothing,
        most_leftovers: 0,
        between: &[],
    });
}

#[test]
fn a_new_file_is_whole_without_unnamed_files() {
    check(&Case {
        old: &[],
        words: FILE,
        missing: Missing::UnnamedFiles,
        most_leftovers: 1,
        between: &[],
    });
}

#[test]
fn a_replaced_file_is_old_or_new() {
    check(&Case {
        old: OLD_FILE,
        words: FILE_AGAIN,
        missing: Missing::Nothing,
        most_leftovers: 1,
        between: &[],
    });
}

#[test]
fn a_replaced_file_is_old_or_new_without_unnamed_files() {
    check(&Case {
        old: OLD_FILE,
        words: FILE_AGAIN,
        missing: Missing::UnnamedFiles,
        most_leftovers: 1,
        between: &[],
    });
}

#[test]
fn a_new_directory_appears_whole_or_not_at_all() {
    check(&Case {
        old: &[],
        words: DIRECTORY,
        missing: Missing::Nothing,
        most_leftovers: 1,
        between: &[],
    });
}

#[test]
fn a_replaced_directory_is_old_or_new() {
    check(&Case {
        old: OLD_DIRECTORY,
        words: DIRECTORY_AGAIN,
        missing: Missing::Nothing,
        most_leftovers: 1,
        between: &[],
    });
}

#[test]
fn a_replaced_directory_is_never_lost_without_exchange() {
    check(&Case {
        old: OLD_DIRECTORY,
        words: DIRECTORY_AGAIN,
        missing: Missing::RenameFlags,
        most_leftovers: 1,
        between: &[],
    });
}

#[test]
fn a_model_never_reads_the_weights_of_another() {
    check(&Case {
        old: OLD_MODEL,
        words: MODEL_AGAIN,
        missing: Missing::Nothing,
        most_leftovers: 1,
        between: MODEL_BETWEEN,
    });
}

#[test]
fn an_exported_model_never_reads_the_weights_of_another() {
    check(&Case {
        old: OLD_MODEL,
        words: EXPORT_AGAIN,
        missing: Missing::Nothing,
        most_leftovers: 1,
        between: MODEL_BETWEEN,
    });
}

#[test]
fn a_mask_never_stands_beside_a_checkpoint_of_another_pruning() {
    check(&Case {
        old: OLD_PRUNED,
        words: PRUNE_AGAIN,
        missing: Missing::Nothing,
        most_leftovers: 2,
        between: &[(&["soup"], &[]), (&[], &["soup"])],
    });
}

#[test]
fn files_are_read_whole_without_mapping() {
    check(&Case {
        old: &[],
        words: UNSYNCED,
        missing: Missing::Nothing,
        most_leftovers: 0,
        between: &[],
    });
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
        between: vec![of(&[("soup.st", "old"), ("data", "new")])],
        most_leftovers: 1,
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
    let between = [old, ("data", "new")];
    assert_eq!(judged(&between, Fault::Kill, 9, ""), Ok(State::Between));
    assert_eq!(judged(&[old, one], Fault::Kill, 9, ""), Ok(State::Old));
    assert_eq!(judged(&[new, one], eio, 5 << 8, one.0), Ok(State::New));
    for (files, fault, status, stderr) in [
        (&[] as &[_], eio, 5 << 8, "error"),
        (&[("soup.st", "ne")], eio, 5 << 8, "error"),
        (&[old, ("other", "")], eio, 5 << 8, "error"),
        (&[old], eio, 0, ""),
        (&between, eio, 0, ""),
        (&[new, ("data", "new")], Fault::Kill, 9, ""),
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
