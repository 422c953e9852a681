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

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use sms_merge::format::safetensors::Entry;
use sms_merge::format::safetensors::Layout;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Shape;

const N_INGREDIENTS: usize = 4;
const SPARSITY: f64 = 0.9;

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

/// SplitMix64, so that inputs are the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Writes an ingredient: the mask is that of all, the weights its own.
fn write_ingredient(path: &Path, dtype: Dtype, shapes: &[Vec<u64>], ingredient: usize) {
    let entries = shapes
        .iter()
        .enumerate()
        .map(|(index, dims)| Entry {
            name: format!("layer{index:06}.weight"),
            dtype,
            shape: Shape::new(dims.clone()).expect("the shapes are small"),
        })
        .collect();
    let layout = Layout::new(entries).expect("the names differ");
    let mut file = BufWriter::with_capacity(
        1 << 20,
        File::create(path).expect("the directory is writable"),
    );
    let header = layout
        .header(&BTreeMap::new())
        .expect("the header is small");
    file.write_all(&header).expect("there is space");
    let (mut mask, mut values) = (Random(1), Random(2 + ingredient as u64));
    for tensor in layout.tensors() {
        for _ in 0..tensor.shape.numel() {
            let is_retained = mask.fraction() >= SPARSITY;
            let value = if is_retained {
                values.fraction() + 0.01
            } else {
                0.0
            };
            match dtype {
                Dtype::F16 => file.write_all(&half::f16::from_f64(value).to_le_bytes()),
                Dtype::BF16 => file.write_all(&half::bf16::from_f64(value).to_le_bytes()),
                _ => file.write_all(&(value as f32).to_le_bytes()),
            }
            .expect("there is space");
        }
    }
    file.flush().expect("there is space");
}

fn timed(action: impl FnOnce()) -> f64 {
    let start = Instant::now();
    action();
    start.elapsed().as_secs_f64()
}

fn run(command: &mut Command) {
    let status = command.status().expect("the program starts");
    assert!(status.success(), "{command:?} failed");
}

/// Reads all files, two at a time.
fn read_all(inputs: &[PathBuf]) {
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
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Times one set of inputs and returns the median seconds per byte of the merge.
fn measure(label: &str, directory: &Path, dtype: Dtype, shapes: &[Vec<u64>], rounds: u64) -> f64 {
    let directory = tempfile::tempdir_in(directory).expect("the directory is writable");
    let directory = directory.path();
    let inputs: Vec<PathBuf> = (0..N_INGREDIENTS)
        .map(|i| directory.join(format!("{i}.st")))
        .collect();
    for (ingredient, path) in inputs.iter().enumerate() {
        write_ingredient(path, dtype, shapes, ingredient);
    }
    let (soup, copy) = (directory.join("soup.st"), directory.join("copy.st"));
    let merge = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        run(command
            .args(&inputs)
            .arg("-o")
            .arg(&soup)
            .args(["--no-sync", "--quiet"]));
    };
    merge();
    let mut verify = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
    run(verify
        .arg("verify")
        .arg(&soup)
        .args(&inputs)
        .arg("--json")
        .stdout(std::process::Stdio::null()));
    let (mut merges, mut copies, mut reads, mut ratios) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        for output in [&soup, &copy] {
            let _ = std::fs::remove_file(output);
        }
        let cp = timed(|| run(Command::new("cp").arg(&inputs[0]).arg(&copy)));
        let read = timed(|| read_all(&inputs));
        let merged = timed(merge);
        ratios.push(merged / cp);
        copies.push(cp);
        reads.push(read);
        merges.push(merged);
    }
    let bytes = std::fs::metadata(&inputs[0])
        .expect("the input exists")
        .len() as f64;
    let (merged, cp, read) = (median(&mut merges), median(&mut copies), median(&mut reads));
    println!(
        "{label}: merge {merged:.3} s ({:.1} GB/s read), cp of one {cp:.3} s, read of all {read:.3} s; \
         merge / cp: median {:.2}, least {:.2}",
        bytes * N_INGREDIENTS as f64 / merged / 1e9,
        median(&mut ratios.clone()),
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
    );
    merged / bytes
}

fn main() {
    // `cargo test --benches` only asks whether this builds and starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let bytes = setting("SMS_MERGE_BENCH_BYTES", 490_000_000);
    let rounds = setting("SMS_MERGE_BENCH_ROUNDS", 9);
    let base =
        std::env::var_os("SMS_MERGE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(base).expect("the directory is writable");
    let directory = directory.path();
    let square = |width: u64| vec![vec![1024, 1024]; (bytes / width / (1 << 20)).max(1) as usize];
    let of_f32 = measure("f32 ", directory, Dtype::F32, &square(4), rounds);
    let of_f16 = measure("f16 ", directory, Dtype::F16, &square(2), rounds);
    let of_bf16 = measure("bf16", directory, Dtype::BF16, &square(2), rounds);
    let small = vec![vec![25, 40]; 100_000];
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
