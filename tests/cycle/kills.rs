//! SIGKILL at any moment, and two coordinators.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use sms_merge::tensor::Stream;

use crate::bench::Bench;
use crate::bench::stderr;

/// Three phases of three ingredients, each trained in an instant.
const FAST: &str = r#"
[model]
options = { hidden = "16" }
[data]
limit_train = 64
[pretraining]
epochs = 2
[pruning]
phases = 3
[retraining]
epochs = 1
[ingredients]
count = 3
[baselines]
imp_m_times = false
"#;

const KILLS: usize = 60;

/// Processes that work at jobs of a run, by their command lines.
fn workers(run: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(number) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&words).replace('\0', " ");
        if line.contains(" job run ") && line.contains(run) {
            found.extend(Pid::from_raw(number));
        }
    }
    found
}

#[test]
fn killed_at_any_moment_a_run_ends_in_the_same_bytes() {
    let bench = Bench::new();
    bench.recipe("r.toml", FAST);
    bench.cycle(&["r.toml", "--run-dir", "whole"], 0);
    let soup = bench.bytes("whole/soup.safetensors");
    let outputs = bench.outputs("whole");
    let mut stream = Stream::named(7, "test", "kills");
    let (mut kills, mut runs) = (0, 0);
    while kills < KILLS {
        runs += 1;
        let run = format!("run-{runs}");
        loop {
            let words = ["cycle", "r.toml", "--run-dir", &run, "--quiet"];
            let mut command = bench.command(&words);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut coordinator = command.spawn().unwrap();
            let deadline = Instant::now() + Duration::from_millis(stream.below(700));
            while Instant::now() < deadline && coordinator.try_wait().unwrap().is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            if let Some(status) = coordinator.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0));
                break;
            }
            let place = bench.at(&run).canonicalize();
            let place = place.map_or(String::new(), |path| path.display().to_string());
            // Every second time the workers first.
            if kills % 2 == 0 && !place.is_empty() {
                for worker in workers(&place) {
                    let _ = kill_process(worker, Signal::KILL);
                }
            }
            coordinator.kill().unwrap();
            coordinator.wait().unwrap();
            kills += 1;
            // Workers end with their coordinator.
            let patience = Instant::now() + Duration::from_secs(10);
            while !place.is_empty() && !workers(&place).is_empty() {
                assert!(
                    Instant::now() < patience,
                    "workers outlive their coordinator"
                );
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(
            bench.bytes(&format!("{run}/soup.safetensors")) == soup,
            "{run}"
        );
        assert_eq!(bench.outputs(&run), outputs, "{run}");
    }
    println!("{kills} kills in {runs} runs");
}

#[test]
fn a_second_coordinator_is_refused_and_names_the_first() {
    let bench = Bench::new();
    let slow = "[trainer]\ncommand = \"sleep 60\"\n[evaluation]\ncommand = \"echo 1\"";
    bench.recipe("r.toml", slow);
    let mut command = bench.command(&["cycle", "r.toml", "--quiet"]);
    let mut first = command.stderr(Stdio::null()).spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    while !bench.at("sms-run/journal.jsonl").exists() {
        assert!(Instant::now() < patience, "it has not begun");
        thread::sleep(Duration::from_millis(5));
    }
    let second = bench.cycle(&["r.toml"], 1);
    let name = format!("process {}", first.id());
    assert!(stderr(&second).contains(&name), "{}", stderr(&second));
    let status = bench.run(&["cycle", "status"], 0);
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains(&name), "{text}");
    // An interrupted run ends its jobs and says how to go on.
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(130));
    let place = bench.at("sms-run").canonicalize().unwrap();
    assert_eq!(workers(&place.display().to_string()), []);
}
