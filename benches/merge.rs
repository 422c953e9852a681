//! How long does a merge take, in copies of one ingredient?
//!
//! Every round times, on the same files and one after the other: `cp` of one
//! ingredient, a two-thread read of all, and the merge of all into a new file, all
//! without a final fsync. The figures are medians and least ratios over the rounds.
//!
//! `cargo bench --bench merge` makes its own inputs: 4 checkpoints of 490 MB in F32,
//! F16 and BF16, 90 % pruned, then 100,000 small tensors.
//! `SMS_MERGE_BENCH_BYTES` and `SMS_MERGE_BENCH_ROUNDS` change their size and number,
//! `SMS_MERGE_BENCH_DIR` the directory.

mod commands;

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use sms_merge::tensor::Dtype;
use sms_merge::tensor::Stream;

use commands::copy;
use commands::median;
use commands::setting;
use commands::sms_merge;
use commands::timed;

const N_INGREDIENTS: usize = 4;
const SPARSITY: f64 = 0.9;

/// Writes an ingredient: the mask is that of all, the weights its own.
fn write_ingredient(path: &Path, dtype: Dtype, shapes: &[[u64; 2]], ingredient: u64) {
    commands::write_checkpoint(path, dtype, shapes, |name, n_elements, file| {
        let mut mask = Stream::named(0, "mask", name);
        let mut values = Stream::named(ingredient, "values", name);
        for _ in 0..n_elements {
            let is_retained = mask.uniform() >= SPARSITY;
            let value = if is_retained {
                values.uniform() + 0.01
            } else {
                0.0
            };
            match dtype {
                Dtype::F16 => file.write_all(&half::f16::from_f64(value).to_le_bytes())?,
                Dtype::BF16 => file.write_all(&half::bf16::from_f64(value).to_le_bytes())?,
                _ => file.write_all(&(value as f32).to_le_bytes())?,
            }
        }
        Ok(())
    });
}

/// Reads all files, two at a time; the seconds.
fn read_all(inputs: &[PathBuf]) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for half in inputs.chunks(inputs.len().div_ceil(2)) {
            scope.spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                for path in half {
                    let mut file = File::open(path).expect("the input exists");
                    while file.read(&mut buffer).expect("the input is readable") > 0 {}
                }
            });
        }
    });
    start.elapsed().as_secs_f64()
}

/// Times one set of inputs and returns the median seconds per byte of the merge.
fn measure(label: &str, directory: &Path, dtype: Dtype, shapes: &[[u64; 2]], rounds: u64) -> f64 {
    let directory = tempfile::tempdir_in(directory).expect("the directory is writable");
    let directory = directory.path();
    let inputs: Vec<PathBuf> = (0..N_INGREDIENTS)
        .map(|i| directory.join(format!("{i}.st")))
        .collect();
    for (ingredient, path) in (0..).zip(&inputs) {
        write_ingredient(path, dtype, shapes, ingredient);
    }
    let (soup, copied) = (directory.join("soup.st"), directory.join("copy.st"));
    let merge = || {
        let mut command = sms_merge();
        command.args(&inputs).arg("-o").arg(&soup);
        timed(command.args(["--no-sync", "--quiet"]))
    };
    merge();
    let mut verify = sms_merge();
    verify.arg("verify").arg(&soup).args(&inputs).arg("--json");
    timed(verify.stdout(Stdio::null()));
    let (mut merges, mut copies, mut reads, mut ratios) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        for output in [&soup, &copied] {
            let _ = std::fs::remove_file(output);
        }
        let cp = copy(&inputs[0], &copied);
        reads.push(read_all(&inputs));
        let merged = merge();
        ratios.push(merged / cp);
        copies.push(cp);
        merges.push(merged);
    }
    let bytes = std::fs::metadata(&inputs[0])
        .expect("the input exists")
        .len() as f64;
    let (merged, cp, read) = (median(&merges), median(&copies), median(&reads));
    println!(
        "{label}: merge {merged:.3} s ({:.1} GB/s read), cp of one {cp:.3} s, read of all {read:.3} s; \
         merge / cp: median {:.2}, least {:.2}",
        bytes * N_INGREDIENTS as f64 / merged / 1e9,
        median(&ratios),
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
    );
    merged / bytes
}

fn main() {
    if !commands::is_asked() {
        return;
    }
    let bytes = setting("SMS_MERGE_BENCH_BYTES", 490_000_000);
    let rounds = setting("SMS_MERGE_BENCH_ROUNDS", 9);
    let directory = commands::directory();
    let directory = directory.path();
    let square = |width: u64| vec![[1024, 1024]; (bytes / width / (1 << 20)).max(1) as usize];
    let of_f32 = measure("f32 ", directory, Dtype::F32, &square(4), rounds);
    let of_f16 = measure("f16 ", directory, Dtype::F16, &square(2), rounds);
    let of_bf16 = measure("bf16", directory, Dtype::BF16, &square(2), rounds);
    let small = vec![[25, 40]; 100_000];
    let of_small = measure(
        "100,000 tensors of 1,000 F32",
        directory,
        Dtype::F32,
        &small,
        rounds,
    );
    println!(
        "seconds per byte against f32: f16 {:.2}, bf16 {:.2}, 100,000 small tensors {:.2}",
        of_f16 / of_f32,
        of_bf16 / of_f32,
        of_small / of_f32
    );
}
