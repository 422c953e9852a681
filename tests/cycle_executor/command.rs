//! The user's commands under supervision.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use sms_merge::cycle::executor::Ended;
use sms_merge::cycle::executor::Invocation;
use sms_merge::cycle::executor::Limits;
use sms_merge::cycle::executor::ProcessError;
use sms_merge::cycle::executor::Supervised;
use sms_merge::cycle::executor::last_lines;

use crate::assert_ends;
use crate::numbers;
use crate::program::FAMILY;
use crate::program::Program;

/// Long enough for a shell to start on a busy machine.
const START: Duration = Duration::from_secs(2);

/// Short enough not to be waited for.
const SHORT: Duration = Duration::from_millis(300);

/// Runs a command, and says how it ended.
fn run_words(
    program: &Program,
    words: &[OsString],
    limits: Limits,
    watched: &[&Path],
    interrupted: &AtomicBool,
) -> Ended {
    let environment = [
        ("NUMBERS".into(), program.file("numbers").into()),
        ("GREETING".into(), "good day".into()),
    ];
    let supervised = Supervised::spawn(&Invocation {
        program: &program.path(),
        words,
        environment: &environment,
        directory: program.directory.path(),
        log: &program.file("log.txt"),
    });
    let started = Instant::now();
    let clock = || started.elapsed();
    let supervised = supervised.unwrap();
    let ended = supervised.wait(&limits, watched, &clock, interrupted);
    ended.unwrap()
}

fn run(program: &Program, script: &str, limits: Limits) -> Ended {
    let words = ["sh", "-c", script].map(OsString::from);
    run_words(program, &words, limits, &[], &AtomicBool::new(false))
}

fn wall(limit: Duration) -> Limits {
    Limits {
        wall: Some(limit),
        grace: Duration::from_secs(5),
        ..Limits::default()
    }
}

fn stall(limit: Duration) -> Limits {
    Limits {
        stall: Some(limit),
        ..Limits::default()
    }
}

#[test]
fn commands_end_in_many_ways() {
    let check = |script: &str, limits: Limits, expected: Ended, lines: &[&str]| {
        let program = Program::new();
        assert_eq!(run(&program, script, limits), expected, "{script}");
        let found = last_lines(&program.file("log.txt"), 2).unwrap();
        assert!(
            found.ends_with(
                &lines
                    .iter()
                    .map(|&line| line.to_owned())
                    .collect::<Vec<_>>()
            ),
            "{script}: {found:?}"
        );
    };
    let open = Limits::default();
    check("exit 0", open, Ended::Success, &[]);
    check(
        "echo a; echo b >&2; exit 3",
        open,
        Ended::Exit(3),
        &["a", "b"],
    );
    check("echo a; kill -9 $$", open, Ended::Signal(9), &["a"]);
    check(
        "echo \"$GREETING\" $PWD/x > here; cat here | wc -l",
        open,
        Ended::Success,
        &["1"],
    );
    check("cat; echo read", open, Ended::Success, &["read"]);
    check(
        "echo on; sleep 60",
        wall(START),
        Ended::WallTimeout,
        &["on"],
    );
    check(
        "echo on; sleep 60",
        stall(START),
        Ended::StallTimeout,
        &["on"],
    );
    let polite = "trap 'echo bye; exit 0' TERM; echo on; while :; do sleep 0.05; done";
    check(polite, wall(START), Ended::WallTimeout, &["bye"]);
    let deaf = Limits {
        grace: SHORT,
        ..wall(START)
    };
    check(
        "trap '' TERM; echo deaf; sleep 60; sleep 60",
        deaf,
        Ended::WallTimeout,
        &["deaf"],
    );
}

#[test]
fn a_command_gets_its_words_its_environment_and_its_place() {
    let program = Program::new();
    let words = ["printf", "%s|", "a b", "$HOME", "*", "", "'", "--", "-x"].map(OsString::from);
    let free = AtomicBool::new(false);
    let ended = run_words(&program, &words, Limits::default(), &[], &free);
    assert_eq!(ended, Ended::Success);
    let found = last_lines(&program.file("log.txt"), 1).unwrap();
    assert_eq!(found, ["a b|$HOME|*||'|--|-x|"]);
    let script = "printf '%s in %s\\n' \"$GREETING\" \"$(pwd -P)\"";
    assert_eq!(run(&program, script, Limits::default()), Ended::Success);
    let place = fs::canonicalize(program.directory.path()).unwrap();
    let expected = format!("good day in {}", place.display());
    let found = last_lines(&program.file("log.txt"), 1).unwrap();
    assert_eq!(found, [expected]);
}

#[test]
fn a_command_that_does_not_exist_says_so_in_its_log() {
    let program = Program::new();
    let words = ["/nonexistent/python".into(), "train.py".into()];
    let free = AtomicBool::new(false);
    let ended = run_words(&program, &words, Limits::default(), &[], &free);
    assert_eq!(ended, Ended::Exit(127));
    let found = last_lines(&program.file("log.txt"), 1).unwrap();
    assert_eq!(found, ["`/nonexistent/python` cannot be run"]);
}

#[test]
fn what_cannot_be_started() {
    let check = |program: &Path, log: &Path, is_expected: fn(&ProcessError) -> bool| {
        let error = Supervised::spawn(&Invocation {
            program,
            words: &["true".into()],
            environment: &[],
            directory: Path::new("/"),
            log,
        });
        let error = error.unwrap_err();
        assert!(is_expected(&error), "{error:?}");
    };
    let program = Program::new();
    let log = program.file("log.txt");
    check(&program.file("none"), &log, |error| {
        matches!(error, ProcessError::Spawn { .. })
    });
    check(&program.path(), &program.file("no/log.txt"), |error| {
        matches!(error, ProcessError::Log { .. })
    });
}

#[test]
fn a_file_that_grows_shows_that_a_command_is_at_work() {
    let script = "for i in 1 2 3 4 5 6; do sleep 0.8; echo $i >> grows; done";
    let check = |watched: &[&str], expected: Ended| {
        let program = Program::new();
        let words = ["sh", "-c", script].map(OsString::from);
        let watched: Vec<_> = watched.iter().map(|name| program.file(name)).collect();
        let watched: Vec<&Path> = watched.iter().map(|path| &**path).collect();
        let free = AtomicBool::new(false);
        let limits = stall(Duration::from_secs(3));
        let ended = run_words(&program, &words, limits, &watched, &free);
        assert_eq!(ended, expected);
    };
    check(&["grows"], Ended::Success);
    check(&["other"], Ended::StallTimeout);
}

#[test]
fn an_interruption_ends_a_command() {
    let program = Program::new();
    let interrupted = AtomicBool::new(false);
    thread::scope(|scope| {
        let words = ["sh", "-c", FAMILY].map(OsString::from);
        let (program, interrupted) = (&program, &interrupted);
        let limits = wall(Duration::from_secs(600));
        let ended = scope.spawn(move || run_words(program, &words, limits, &[], interrupted));
        let family = numbers(&program.file("numbers"), 2);
        interrupted.store(true, Ordering::Relaxed);
        assert_eq!(ended.join().unwrap(), Ended::Interrupted);
        assert_ends(&family);
    });
}

#[test]
fn nobody_that_a_command_started_outlives_it() {
    let check = |script: &str, limits: Limits, expected: Ended, n: usize| {
        let program = Program::new();
        assert_eq!(run(&program, script, limits), expected, "{script}");
        assert_ends(&numbers(&program.file("numbers"), n));
    };
    let open = Limits::default();
    check("sleep 600 & echo $! > $NUMBERS", open, Ended::Success, 1);
    check(
        "sleep 600 & echo $! > $NUMBERS; exit 4",
        open,
        Ended::Exit(4),
        1,
    );
    check(FAMILY, wall(START), Ended::WallTimeout, 2);
    let deaf = format!("trap '' TERM; {FAMILY}; wait; wait");
    let short = Limits {
        grace: SHORT,
        ..wall(START)
    };
    check(&deaf, short, Ended::WallTimeout, 2);
}

#[test]
fn nobody_outlives_a_killed_supervisor() {
    let program = Program::new();
    let words = ["supervise".as_ref(), program.directory.path().as_os_str()];
    let mut supervisor = program.start(&words);
    let family = numbers(&program.file("numbers"), 2);
    assert!(family.iter().all(|number| crate::is_alive(number)));
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    assert_ends(&family);
}

#[test]
fn a_supervised_command_that_is_dropped_ends() {
    let program = Program::new();
    let words = ["sh", "-c", FAMILY].map(OsString::from);
    let supervised = Supervised::spawn(&Invocation {
        program: &program.path(),
        words: &words,
        environment: &[("NUMBERS".into(), program.file("numbers").into())],
        directory: program.directory.path(),
        log: &program.file("log.txt"),
    });
    let family = numbers(&program.file("numbers"), 2);
    drop(supervised);
    assert_ends(&family);
}

#[test]
fn a_guard_ends_only_a_group_that_it_leads() {
    let program = Program::new();
    // It is in the group of this test, which goes on.
    let mut guard = program.start(&["job", "guard"].map(AsRef::as_ref));
    assert_eq!(guard.wait().unwrap().code(), Some(8));
}

#[test]
fn whoever_starts_too_late_does_not_start() {
    let program = Program::new();
    // Process 1 did not start it.
    let words = ["job", "exec", "--parent", "1", "--", "touch", "started"];
    let mut child = program.start(&words.map(AsRef::as_ref));
    assert_eq!(child.wait().unwrap().code(), Some(127));
    assert!(!program.file("started").exists());
}

/// Memory of this process now, in bytes.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process::id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    1024 * kib.parse::<u64>().unwrap()
}

#[test]
fn much_output_takes_no_memory() {
    const BYTES: u64 = 100_000_000;
    let program = Program::new();
    let before = resident_bytes();
    let script = format!("yes | head -c {BYTES}; echo; echo last; exit 1");
    assert_eq!(run(&program, &script, Limits::default()), Ended::Exit(1));
    let log = program.file("log.txt");
    assert!(fs::metadata(&log).unwrap().len() > BYTES);
    assert_eq!(last_lines(&log, 2).unwrap(), ["y", "last"]);
    let grown = resident_bytes().saturating_sub(before);
    println!("{BYTES} bytes of output, {grown} bytes of memory");
    assert!(grown < BYTES / 10, "{grown}");
}
