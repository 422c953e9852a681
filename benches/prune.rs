//! How long does a pruning take, in copies of the checkpoint, and how much anonymous
//! memory?
//!
//! Every round times, one after the other: `cp` of the checkpoint, and prunings of it
//! into a new file, all without a final fsync. The figures are medians over the rounds,
//! and the largest `RssAnon` that was seen, looked at every millisecond.
//!
//! `cargo bench --bench prune` makes its own input: 490 MB of normally distributed F32
//! in 26 tensors, as dense as a trained network. `SMS_MERGE_BENCH_BYTES`,
//! `SMS_MERGE_BENCH_ROUNDS` and `SMS_MERGE_BENCH_DIR` change size, rounds and place.

mod commands;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use sms_merge::tensor::Dtype;
use sms_merge::tensor::Stream;

use commands::copy;
use commands::median;
use commands::setting;

/// What is timed: a name, and the options.
const RUNS: [(&str, &[&str]); 7] = [
    ("global", &["--sparsity", "0.9"]),
    (
        "uniform",
        &["--sparsity", "0.9", "--distribution", "uniform"],
    ),
    ("erk", &["--sparsity", "0.9", "--distribution", "erk"]),
    ("lamp", &["--sparsity", "0.9", "--distribution", "lamp"]),
    ("random", &["--sparsity", "0.9", "--distribution", "random"]),
    ("2:4", &["--pattern", "2:4"]),
    ("channels", &["--sparsity", "0.5", "--pattern", "channels"]),
];

/// Writes tensors of the shapes of linear layers, of `bytes` in all, or nearly.
fn write_dense(path: &Path, bytes: u64) {
    let unit = bytes / 4 / 26;
    let side = (unit as f64).sqrt() as u64 / 32 * 32;
    let mut scale = 0.02;
    commands::write_checkpoint(
        path,
        Dtype::F32,
        &[[side; 2]; 26],
        |name, n_elements, file| {
            let mut stream = Stream::named(1, "bench", name);
            for _ in 0..n_elements / 2 {
                // Box and Muller.
                let radius = (-2.0 * (1.0 - stream.uniform()).ln()).sqrt() * scale;
                let angle = std::f64::consts::TAU * stream.uniform();
                for value in [radius * angle.cos(), radius * angle.sin()] {
                    file.write_all(&(value as f32).to_le_bytes())?;
                }
            }
            scale += 0.02 / 8.0;
            Ok(())
        },
    );
}

/// Runs a pruning; its seconds, and the most anonymous memory in bytes.
fn prune(input: &Path, output: &Path, options: &[&str]) -> (f64, u64) {
    let start = Instant::now();
    let mut child = commands::sms_merge()
        .arg("prune")
        .arg(input)
        .arg("-o")
        .arg(output)
        .args(["--no-sync", "--force", "--quiet"])
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut most = 0;
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            assert!(status.success(), "{options:?} failed");
            return (start.elapsed().as_secs_f64(), most);
        }
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Checks that the count was met.
fn check(output: &Path, sparsity: f64) {
    let object = commands::sms_merge()
        .args(["inspect", "--json"])
        .arg(output)
        .output()
        .expect("the program starts");
    let object: serde_json::Value =
        serde_json::from_slice(&object.stdout).expect("inspect prints JSON");
    let count = |key: &str| object["mask"][key].as_u64().expect("a count") as f64;
    let pruned = count("numel") - count("retained");
    let expected = (sparsity * count("numel")).round_ties_even();
    assert!(
        pruned == expected,
        "{pruned} are pruned, expected {expected}"
    );
}

fn main() {
    if !commands::is_asked() {
        return;
    }
    let bytes = setting("SMS_MERGE_BENCH_BYTES", 490_000_000);
    let rounds = setting("SMS_MERGE_BENCH_ROUNDS", 5) as usize;
    let directory = commands::directory();
    let (input, output) = (
        directory.path().join("in.st"),
        directory.path().join("out.st"),
    );
    write_dense(&input, bytes);
    let bytes = fs::metadata(&input).expect("it was written").len() as f64;
    let copied = directory.path().join("copy.st");
    copy(&input, &copied);
    let mut copies = Vec::new();
    let mut seconds = vec![Vec::new(); RUNS.len()];
    let mut most = [0; RUNS.len()];
    for _ in 0..rounds {
        fs::remove_file(&copied).expect("it was written");
        copies.push(copy(&input, &copied));
        for (index, (name, options)) in RUNS.iter().enumerate() {
            let _ = fs::remove_file(&output);
            let (secs, memory) = prune(&input, &output, options);
            seconds[index].push(secs);
            most[index] = most[index].max(memory);
            if *name == "global" && seconds[index].len() == 1 {
                check(&output, 0.9);
            }
        }
    }
    let copy = median(&copies);
    let rate = |secs: f64| bytes / secs / 1e9;
    println!("copy     {copy:.3} s, {:.2} GB/s", rate(copy));
    for ((name, _), (seconds, memory)) in RUNS.iter().zip(seconds.iter().zip(most)) {
        let secs = median(seconds);
        println!(
            "{name:8} {secs:.3} s, {:.2} GB/s, {:.1} copies, {:.1} MiB anonymous",
            rate(secs),
            secs / copy,
            memory as f64 / f64::from(1 << 20)
        );
    }
}
