//! A stand-in for the program: this executable, started by a script that passes on its
//! words, with the subcommands that the executor starts.

use std::env;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use sms_merge::cycle::executor::Devices;
use sms_merge::cycle::executor::Invocation;
use sms_merge::cycle::executor::Limits;
use sms_merge::cycle::executor::Local;
use sms_merge::cycle::executor::Start;
use sms_merge::cycle::executor::Supervised;
use sms_merge::cycle::executor::end_with;
use sms_merge::cycle::executor::exec_words;
use sms_merge::cycle::executor::guard;
use tempfile::TempDir;

/// Names the file with the words.
const WORDS: &str = "SMS_MERGE_TEST_WORDS";

/// What a job does is in this file of its directory.
const SCRIPT: &str = "script";

/// A shell script that starts a process and writes both numbers to `$NUMBERS`.
pub(crate) const FAMILY: &str = "sleep 600 & echo $! >> $NUMBERS; echo $$ >> $NUMBERS; wait";

/// The program, in a directory that goes with it.
pub(crate) struct Program {
    pub(crate) directory: TempDir,
}

impl Program {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let text = format!(
            "#!/bin/sh\n\
             {WORDS}='{}/words.'$$\n\
             export {WORDS}\n\
             printf '%s\\0' \"$@\" > ${WORDS}\n\
             [ -e '{}/deaf' ] && trap '' TERM\n\
             exec '{}' --exact program::entry --nocapture --test-threads 2\n",
            directory.path().display(),
            directory.path().display(),
            env::current_exe().unwrap().display(),
        );
        let path = directory.path().join("program");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("program")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A job's directory whose worker runs a shell script.
    pub(crate) fn job(&self, name: &str, script: &str) -> PathBuf {
        let directory = self.file(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(SCRIPT), script).unwrap();
        directory
    }

    /// Starts the program with these words.
    pub(crate) fn start(&self, words: &[&OsStr]) -> Child {
        Command::new(self.path())
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

/// Runs a shell script as the command of a user, to its end or that of this process.
fn supervise(program: &Path, directory: &Path, script: &str) {
    let words = ["sh", "-c", script].map(OsString::from);
    let numbers = directory.join("numbers");
    let supervised = Supervised::spawn(&Invocation {
        program,
        words: &words,
        environment: &[("NUMBERS".into(), numbers.into())],
        directory,
        log: &directory.join("command.txt"),
    });
    let started = Instant::now();
    let ended = supervised.unwrap().wait(
        &Limits::default(),
        &[],
        &|| started.elapsed(),
        &AtomicBool::new(false),
    );
    println!("the command {}", ended.unwrap());
}

/// Not a test of its own: without words it does nothing.
#[test]
fn entry() {
    let Some(path) = env::var_os(WORDS) else {
        return;
    };
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let program = Path::new(&path).with_file_name("program");
    let words: Vec<OsString> = bytes
        .strip_suffix(b"\0")
        .unwrap_or(&bytes)
        .split(|&byte| byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    let shown: Vec<&str> = words
        .iter()
        .map(|word| word.to_str().unwrap_or("?"))
        .collect();
    match shown[..] {
        ["job", "exec", "--parent", parent, "--", ..] => {
            println!("{}", exec_words(parent.parse().unwrap(), &words[5..]));
            process::exit(127);
        }
        ["job", "guard"] => {
            println!("{}", guard(io::stdin()));
            process::exit(8);
        }
        ["job", "run", "--threads", threads, "--parent", parent, job] => {
            if let Err(error) = end_with(parent.parse().unwrap()) {
                println!("{error}");
                process::exit(9);
            }
            work(&program, Path::new(job), threads);
        }
        ["supervise", directory] => supervise(&program, Path::new(directory), FAMILY),
        ["coordinate", job] => {
            let mut local = Local::new(program, 1, Devices::inherited());
            let start = Start {
                directory: Path::new(job),
                threads: 1,
                memory_bytes: 0,
            };
            local.submit(&start).unwrap().unwrap();
            thread::sleep(Duration::from_secs(600));
        }
        _ => panic!("{words:?}"),
    }
}

/// What a worker does: what its job's script says, under supervision if that is `family`.
fn work(program: &Path, job: &Path, threads: &str) {
    let script = fs::read(job.join(SCRIPT)).unwrap();
    let device = env::var("CUDA_VISIBLE_DEVICES").unwrap_or_else(|_| "none".to_owned());
    println!("threads {threads}, device {device}");
    if script == b"family" {
        fs::write(job.join("worker"), format!("{}\n", process::id())).unwrap();
        supervise(program, job, FAMILY);
        return;
    }
    let status = Command::new("sh")
        .args([OsStr::new("-c"), OsStr::from_bytes(&script)])
        .current_dir(job)
        .status()
        .unwrap();
    process::exit(status.code().unwrap_or(100));
}
