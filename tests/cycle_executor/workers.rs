//! Workers of the local executor.

use std::env;
use std::fs;
use std::path::Path;

use sms_merge::cycle::executor::Devices;
use sms_merge::cycle::executor::ExecutorError;
use sms_merge::cycle::executor::Local;
use sms_merge::cycle::executor::Start;
use sms_merge::cycle::executor::Status;
use sms_merge::cycle::executor::Ticket;

use crate::assert_ends;
use crate::numbers;
use crate::program::Program;
use crate::wait_for;

fn start(directory: &Path) -> Start<'_> {
    Start {
        directory,
        threads: 3,
        memory_bytes: 0,
    }
}

/// Whether a job succeeded and how, once it has ended.
fn ended(local: &mut Local, ticket: Ticket) -> (bool, String) {
    wait_for("the end of a job", || match local.poll(&ticket).unwrap() {
        Status::Running => None,
        Status::Exited {
            success,
            description,
        } => Some((success, description)),
    })
}

#[test]
fn workers_run_and_end() {
    let check = |script: &str, is_success: bool, expected: &str| {
        let program = Program::new();
        let job = program.job("job", script);
        let mut local = Local::new(program.path(), 1, Devices::inherited());
        let ticket = local.submit(&start(&job)).unwrap().unwrap();
        let (success, description) = ended(&mut local, ticket);
        assert_eq!((success, &*description), (is_success, expected));
        // Asked again, it says the same.
        assert_eq!(ended(&mut local, ticket), (success, description));
        let log = fs::read_to_string(job.join("log.txt")).unwrap();
        assert!(log.contains("threads 3, device "), "{log}");
        assert!(log.contains("said\n"), "{log}");
    };
    check("echo said", true, "ended with status 0");
    check("echo said >&2; exit 3", false, "ended with status 3");
    let killed = "was ended by signal: 9 (SIGKILL), as the system ends a process when memory runs \
                  out; smaller batches and fewer jobs at a time take less";
    check("echo said; kill -9 $PPID", false, killed);
    let ended = "was ended by signal: 15 (SIGTERM)";
    check("echo said; kill -15 $PPID", false, ended);
}

#[test]
fn a_second_worker_of_a_job_adds_to_its_log() {
    let program = Program::new();
    let job = program.job("job", "echo said");
    let mut local = Local::new(program.path(), 1, Devices::inherited());
    for _ in 0..2 {
        let ticket = local.submit(&start(&job)).unwrap().unwrap();
        ended(&mut local, ticket);
    }
    let log = fs::read_to_string(job.join("log.txt")).unwrap();
    assert_eq!(log.matches("said\n").count(), 2, "{log}");
}

/// A script that ends when a file `go` is in the job's directory.
const WAIT: &str = "touch here; until [ -e go ]; do sleep 0.02; done";

#[test]
fn slots_and_devices_are_dealt() {
    let program = Program::new();
    let devices = Devices::choose(None, &["5".to_owned(), "7".to_owned()]).unwrap();
    let mut local = Local::new(program.path(), 3, devices);
    let jobs: Vec<_> = (0..4)
        .map(|idx| program.job(&format!("job{idx}"), WAIT))
        .collect();
    let submit = |local: &mut Local, idx: usize| local.submit(&start(&jobs[idx])).unwrap();
    let first: Vec<Ticket> = (0..3).map(|idx| submit(&mut local, idx).unwrap()).collect();
    assert_eq!(submit(&mut local, 3), None);
    fs::write(jobs[1].join("go"), "").unwrap();
    assert!(ended(&mut local, first[1]).0);
    // It gets the slot, and so the device, of the one that ended.
    let last = submit(&mut local, 3).unwrap();
    for job in &jobs {
        fs::write(job.join("go"), "").unwrap();
    }
    for ticket in [first[0], first[2], last] {
        assert!(ended(&mut local, ticket).0);
    }
    let device = |job: &Path| {
        let log = fs::read_to_string(job.join("log.txt")).unwrap();
        let line = log.lines().find(|line| line.starts_with("threads 3"));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    let found: Vec<String> = jobs.iter().map(|job| device(job)).collect();
    assert_eq!(found, ["5", "7", "5", "7"]);
}

#[test]
fn without_devices_workers_see_what_the_coordinator_sees() {
    let program = Program::new();
    let job = program.job("job", "true");
    let mut local = Local::new(program.path(), 1, Devices::inherited());
    let ticket = local.submit(&start(&job)).unwrap().unwrap();
    ended(&mut local, ticket);
    let seen = env::var("CUDA_VISIBLE_DEVICES").unwrap_or_else(|_| "none".to_owned());
    let log = fs::read_to_string(job.join("log.txt")).unwrap();
    assert!(log.contains(&format!("device {seen}\n")), "{log}");
}

#[test]
fn only_the_first_worker_may_want_more_memory_than_there_is() {
    let program = Program::new();
    let mut local = Local::new(program.path(), 2, Devices::inherited());
    let jobs = ["a", "b", "c"].map(|name| program.job(name, WAIT));
    let submit = |local: &mut Local, job: usize, memory_bytes: u64| {
        let start = Start {
            memory_bytes,
            ..start(&jobs[job])
        };
        local.submit(&start).unwrap()
    };
    let small = submit(&mut local, 0, 1 << 20).unwrap();
    assert_eq!(submit(&mut local, 1, 1 << 60), None);
    fs::write(jobs[0].join("go"), "").unwrap();
    ended(&mut local, small);
    let large = submit(&mut local, 1, 1 << 60).unwrap();
    // What the large one has not taken yet is promised to it.
    assert_eq!(submit(&mut local, 2, 1 << 20), None);
    fs::write(jobs[1].join("go"), "").unwrap();
    ended(&mut local, large);
    let small = submit(&mut local, 2, 1 << 20).unwrap();
    fs::write(jobs[2].join("go"), "").unwrap();
    assert!(ended(&mut local, small).0);
}

#[test]
fn a_cancelled_worker_ends_with_its_family() {
    let program = Program::new();
    let job = program.job("job", "family");
    let mut local = Local::new(program.path(), 1, Devices::inherited());
    let ticket = local.submit(&start(&job)).unwrap().unwrap();
    let mut family = numbers(&job.join("numbers"), 2);
    family.extend(numbers(&job.join("worker"), 1));
    local.cancel(&ticket);
    let (success, description) = ended(&mut local, ticket);
    assert!(!success, "{description}");
    assert_ends(&family);
    assert!(local.submit(&start(&job)).unwrap().is_some());
}

#[test]
fn workers_end_with_their_executor() {
    let check = |is_deaf: bool| {
        let program = Program::new();
        if is_deaf {
            // Neither the workers nor their families listen: they have to be forced.
            fs::write(program.file("deaf"), "").unwrap();
        }
        let left = "trap '' TERM; (sleep 600; sleep 600) & echo $! > numbers; \
                    echo $$ >> numbers; echo $PPID > worker; wait";
        let jobs = [program.job("a", "family"), program.job("b", left)];
        let mut local = Local::new(program.path(), 2, Devices::inherited());
        let mut family = Vec::new();
        for job in &jobs {
            local.submit(&start(job)).unwrap().unwrap();
            family.extend(numbers(&job.join("numbers"), 2));
            family.extend(numbers(&job.join("worker"), 1));
        }
        assert!(family.iter().all(|number| crate::is_alive(number)));
        drop(local);
        assert_ends(&family);
    };
    check(false);
    check(true);
}

#[test]
fn nobody_outlives_a_killed_coordinator() {
    let program = Program::new();
    let job = program.job("job", "family");
    let mut coordinator = program.start(&["coordinate".as_ref(), job.as_os_str()]);
    let mut family = numbers(&job.join("numbers"), 2);
    family.extend(numbers(&job.join("worker"), 1));
    assert!(family.iter().all(|number| crate::is_alive(number)));
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
    assert_ends(&family);
}

#[test]
fn a_worker_whose_coordinator_is_gone_does_nothing() {
    let program = Program::new();
    let job = program.job("job", "touch started");
    let words = ["job", "run", "--threads", "1", "--parent", "1"].map(AsRef::as_ref);
    let mut worker = program.start(&[&words[..], &[job.as_os_str()]].concat());
    assert_eq!(worker.wait().unwrap().code(), Some(9));
    assert!(!job.join("started").exists());
}

#[test]
fn what_cannot_be_started_or_asked_for() {
    let program = Program::new();
    let job = program.job("job", "true");
    let mut local = Local::new(program.file("none"), 1, Devices::inherited());
    let error = local.submit(&start(&job)).unwrap_err();
    assert!(matches!(error, ExecutorError::Spawn { .. }), "{error:?}");
    let missing = program.file("missing");
    let error = local.submit(&start(&missing)).unwrap_err();
    assert!(matches!(error, ExecutorError::Log { .. }), "{error:?}");
    let mut other = Local::new(program.path(), 1, Devices::inherited());
    let ticket = other.submit(&start(&job)).unwrap().unwrap();
    let error = local.poll(&ticket).unwrap_err();
    let is_expected = matches!(error, ExecutorError::UnknownTicket { .. });
    assert!(is_expected, "{error:?}");
}
