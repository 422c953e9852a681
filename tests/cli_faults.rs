//! Whole runs of the binary that are killed, stopped, or failed by the system: after
//! each, the output is absent, old or complete, and nothing else is left behind.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_sms-merge");

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn merge(directory: &Path, output: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(words(output)).current_dir(directory);
    command
}

fn words(output: &str) -> Vec<String> {
    let inputs = ["a.st", "b.st"].map(|name| fixture(name).display().to_string());
    let options = ["-o", output, "--force", "-q", "--threads", "1"].map(str::to_owned);
    inputs.into_iter().chain(options).collect()
}

/// The bytes of the soup that the faults below try to spoil.
fn whole_soup() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let output = merge(directory.path(), "soup.st").output().unwrap();
    assert!(output.status.success());
    fs::read(directory.path().join("soup.st")).unwrap()
}

/// Runs a merge under strace with `fault` injected; `None` if strace cannot.
fn injected(directory: &TempDir, fault: &str) -> Option<Output> {
    let trace = directory.path().with_extension("strace");
    let mut strace = Command::new("strace");
    // Cargo lengthens the search for libraries, and every step of it is a call.
    strace.env_remove("LD_LIBRARY_PATH");
    strace.args(["-f", "-qq", "-o"]).arg(&trace);
    strace.args(["-e", fault, BINARY]).args(words("soup.st"));
    let output = strace.current_dir(directory.path()).output();
    let found = fs::read_to_string(&trace).unwrap_or_default();
    let removed = fs::remove_file(&trace);
    drop(removed);
    let output = output.ok()?;
    let can_trace = !String::from_utf8_lossy(&output.stderr).contains("PTRACE");
    // A fault that never came leaves no trace.
    let came = found.contains("(INJECTED)") || found.contains("+++ killed by SIGKILL");
    (can_trace && came).then_some(output)
}

/// Whether strace can be used here at all. Where CI promises it, it must.
fn can_inject() -> bool {
    let trial = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .output();
    let can = trial.is_ok_and(|output| output.status.success());
    assert!(
        can || std::env::var_os("SMS_MERGE_REQUIRE_STRACE").is_none(),
        "strace cannot be used"
    );
    if !can {
        eprintln!("skipped: strace cannot be used");
    }
    can
}

/// Calls by which an output is made, with the errors that each can meet.
const CALLS: [(&str, &[&str]); 11] = [
    ("openat", &["EACCES", "EMFILE", "ENOSPC", "EIO"]),
    ("pwrite64", &["ENOSPC", "EIO", "EDQUOT", "EFBIG"]),
    ("write", &["ENOSPC", "EIO"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("renameat", &["EIO", "ENOSPC", "EACCES"]),
    ("renameat2", &["EIO", "ENOSPC", "EACCES"]),
    ("linkat", &["EIO", "ENOSPC", "EACCES"]),
    ("unlinkat", &["EIO", "EACCES"]),
    ("ftruncate", &["EIO", "EFBIG", "ENOSPC"]),
    ("fallocate", &["EIO", "ENOSPC"]),
];
/// More calls of one name than a small merge makes; the loops end when a fault no
/// longer comes.
const MOST_CALLS: usize = 64;

/// Fewer faults than this come only if the injection does not work.
const LEAST_FAULTS: usize = 20;

/// Puts an old output in place, if there is to be one.
fn prepare(old: Option<&[u8]>) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    if let Some(old) = old {
        fs::write(directory.path().join("soup.st"), old).unwrap();
    }
    directory
}

#[track_caller]
fn assert_sound(directory: &TempDir, old: Option<&[u8]>, whole: &[u8], what: &str) {
    let found = fs::read(directory.path().join("soup.st")).ok();
    let is_sound = found.as_deref() == old || found.as_deref() == Some(whole);
    assert!(
        is_sound,
        "{what}: the output is neither absent, old nor complete"
    );
}

#[test]
fn errors_of_the_system_leave_nothing_behind() {
    if !can_inject() {
        return;
    }
    let whole = whole_soup();
    let mut n_faults = 0;
    for old in [None, Some(b"old".as_slice())] {
        for (call, errors) in CALLS {
            for error in errors {
                for nth in 1..MOST_CALLS {
                    let directory = prepare(old);
                    let fault = format!("inject={call}:error={error}:when={nth}");
                    let Some(output) = injected(&directory, &fault) else {
                        break;
                    };
                    let what = format!("{fault}, {}", if old.is_some() { "old" } else { "new" });
                    n_faults += 1;
                    assert!(nth < MOST_CALLS - 1, "{call} is called too often");
                    assert_sound(&directory, old, &whole, &what);
                    // What is not needed for the soup may fail in silence, and 127 is
                    // the loader's word for a library that it cannot open.
                    let soup = fs::read(directory.path().join("soup.st"));
                    match output.status.code() {
                        Some(0) => assert!(soup.is_ok_and(|found| found == whole), "{what}"),
                        code => assert!(matches!(code, Some(1..=5 | 127)), "{what}: {code:?}"),
                    }
                    let left = names(&directory);
                    assert!(left.len() <= 1 || call == "unlinkat", "{what}: {left:?}");
                }
            }
        }
    }
    assert!(n_faults > LEAST_FAULTS, "only {n_faults} faults came");
}

#[test]
fn a_kill_at_any_point_leaves_the_old_or_the_new() {
    if !can_inject() {
        return;
    }
    let whole = whole_soup();
    let mut n_faults = 0;
    for old in [None, Some(b"old".as_slice())] {
        for (call, _) in CALLS {
            for nth in 1..MOST_CALLS {
                let directory = prepare(old);
                let fault = format!("inject={call}:signal=SIGKILL:when={nth}");
                if injected(&directory, &fault).is_none() {
                    break;
                }
                n_faults += 1;
                assert!(nth < MOST_CALLS - 1, "{call} is called too often");
                assert_sound(&directory, old, &whole, &fault);
                // A sibling may be left between two names; the next run removes it.
                let again = merge(directory.path(), "soup.st").output().unwrap();
                assert!(again.status.success(), "{fault}");
                assert_eq!(names(&directory), ["soup.st"], "{fault}");
                assert_sound(&directory, Some(&whole), &whole, &fault);
            }
        }
    }
    assert!(n_faults > LEAST_FAULTS, "only {n_faults} faults came");
}

/// Two checkpoints of one pruned tensor, large enough to be caught half-way.
fn large_inputs(directory: &TempDir) {
    const ROWS: usize = 4096;
    const COLUMNS: usize = 4096;
    let bytes = ROWS * COLUMNS * 4;
    let header = format!(
        r#"{{"w":{{"dtype":"F32","shape":[{ROWS},{COLUMNS}],"data_offsets":[0,{bytes}]}}}}"#
    );
    let values: Vec<u8> = (0..ROWS * COLUMNS)
        .flat_map(|idx| if idx % 4 == 0 { 1.5_f32 } else { 0.0 }.to_le_bytes())
        .collect();
    for name in ["a.st", "b.st"] {
        let mut file = fs::File::create(directory.path().join(name)).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes())
            .unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.write_all(&values).unwrap();
    }
}

fn large_merge(directory: &TempDir) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["a.st", "b.st", "-o", "soup.st", "--threads", "1"])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_signal_stops_a_merge_and_leaves_nothing() {
    for signal in ["INT", "TERM"] {
        let directory = tempfile::tempdir().unwrap();
        large_inputs(&directory);
        let mut stopped = 0;
        for wait_millis in [20, 40, 80] {
            let child = large_merge(&directory).spawn().unwrap();
            thread::sleep(Duration::from_millis(wait_millis));
            let kill = Command::new("kill")
                .args(["-s", signal, &child.id().to_string()])
                .output();
            kill.unwrap();
            let output = child.wait_with_output().unwrap();
            if output.status.code() == Some(130) {
                stopped += 1;
                assert_eq!(names(&directory), ["a.st", "b.st"], "{signal}");
                let told = String::from_utf8(output.stderr).unwrap();
                assert!(told.contains("interrupted; nothing was written"), "{told}");
            } else {
                // The merge was faster than the signal, or the signal than the merge's
                // handlers; neither says anything.
                let removed = fs::remove_file(directory.path().join("soup.st"));
                drop(removed);
            }
        }
        if stopped == 0 {
            eprintln!("skipped: no merge was caught by SIG{signal}");
        }
    }
}

#[test]
fn an_input_that_is_cut_short_meanwhile_is_an_error() {
    for access in [&[] as &[&str], &["--no-mmap"]] {
        let directory = tempfile::tempdir().unwrap();
        let mut caught = 0;
        for wait_millis in [10, 20, 40, 80] {
            large_inputs(&directory);
            let child = large_merge(&directory).args(access).spawn().unwrap();
            thread::sleep(Duration::from_millis(wait_millis));
            let file = fs::OpenOptions::new()
                .write(true)
                .open(directory.path().join("b.st"));
            file.unwrap().set_len(1 << 20).unwrap();
            let output = child.wait_with_output().unwrap();
            let told = String::from_utf8(output.stderr).unwrap();
            match output.status.code() {
                Some(0) => fs::remove_file(directory.path().join("soup.st")).unwrap(),
                // Cut before the header was read, the file is no checkpoint.
                Some(3) => {}
                code => {
                    assert_eq!(code, Some(5), "{told}");
                    assert!(told.contains("b.st"), "{told}");
                    assert_eq!(names(&directory), ["a.st", "b.st"]);
                    caught += 1;
                }
            }
        }
        if caught == 0 {
            eprintln!("skipped: no merge was caught by the truncation");
        }
    }
}
