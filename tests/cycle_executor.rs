//! Workers and the user's commands as real processes: how they end, and that nobody
//! outlives who started it.

#![cfg(feature = "train")]

#[path = "cycle_executor/command.rs"]
mod command;
#[path = "cycle_executor/program.rs"]
mod program;
#[path = "cycle_executor/workers.rs"]
mod workers;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Longest time that anything may take that should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `happened` says something.
fn wait_for<T>(what: &str, mut happened: impl FnMut() -> Option<T>) -> T {
    let pause = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        if let Some(found) = happened() {
            return found;
        }
        thread::sleep(pause);
    }
    panic!("{what}: not within {PATIENCE:?}");
}

/// The process numbers in a file, once there are `n` lines of them.
fn numbers(path: &Path, n: usize) -> Vec<String> {
    wait_for("process numbers", || {
        let text = fs::read_to_string(path).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (text.ends_with('\n') && lines.len() == n).then_some(lines)
    })
}

fn is_alive(number: &str) -> bool {
    // A zombie has ended, and waits for a parent that may be slow to look.
    fs::read_to_string(format!("/proc/{number}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn assert_ends(numbers: &[String]) {
    wait_for("everybody's end", || {
        let is_over = numbers.iter().all(|number| !is_alive(number));
        is_over.then_some(())
    });
}
