//! How much faster is a merge of compact ingredients than one of dense ingredients?
//!
//! At sparsities of 80, 90, 95 and 98 %, every round times the merge of 4 dense
//! checkpoints and that of the same four in the bitmask layout, one after the other and
//! without a final fsync. All inputs are in the page cache, put there by reading: pages
//! that a program has written lie there as it wrote them, in small parts or in large ones,
//! and small parts cost more to map. The compact soup is first held against the dense
//! soup, made compact: every tensor has the same bytes. Beside each time stands the rate
//! at which `cp` copies one of the inputs.
//!
//! `SMS_MERGE_BENCH_BYTES` and `SMS_MERGE_BENCH_ROUNDS` change the size of an ingredient
//! and the number of rounds, `SMS_MERGE_BENCH_DIR` the directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::format::safetensors::Entry;
use sms_merge::format::safetensors::Layout;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Shape;

const N_INGREDIENTS: usize = 4;

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
}

/// Writes an ingredient: the mask is that of all, the weights its own and above zero.
fn write_ingredient(path: &Path, n_tensors: u64, sparsity: f64, ingredient: u64) {
    let entry = |index| Entry {
        name: format!("layer{index:06}.weight"),
        dtype: Dtype::F32,
        shape: Shape::new([1024, 1024]).expect("the shape is small"),
    };
    let layout = Layout::new((0..n_tensors).map(entry).collect()).expect("the names differ");
    let file = File::create(path).expect("the directory is writable");
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let header = layout.header(&BTreeMap::new());
    let header = header.expect("the header is small");
    file.write_all(&header).expect("there is space");
    let (mut mask, mut values) = (Random(1), Random(2 + ingredient));
    let bound = (sparsity * (1_u64 << 32) as f64) as u64;
    let mut row = Vec::with_capacity(4096);
    for _ in 0..n_tensors * 1024 {
        row.clear();
        for _ in 0..1024 {
            let is_retained = mask.next() >> 32 >= bound;
            let value = if is_retained {
                (values.next() >> 40) as f32 / (1 << 24) as f32 + 0.01
            } else {
                0.0
            };
            row.extend(value.to_le_bytes());
        }
        file.write_all(&row).expect("there is space");
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

fn sms_merge() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sms-merge"))
}

fn merge(inputs: &[PathBuf], soup: &Path) {
    let mut command = sms_merge();
    command.args(inputs).arg("-o").arg(soup);
    run(command.args(["--force", "--no-sync", "--quiet"]));
}

fn export(from: &Path, to: &Path) {
    let mut command = sms_merge();
    command.arg("export").arg(from).arg("-o").arg(to);
    run(command.args(["--layout", "bitmask", "--force", "--no-sync", "--quiet"]));
}

/// Has the page cache hold a file as it does one that was read, not written.
fn read_from_disk(path: &Path) {
    run(Command::new("sync").arg(path));
    let mut drop_pages = Command::new("dd");
    drop_pages.arg(format!("if={}", path.display()));
    run(drop_pages.args(["iflag=nocache", "count=0", "status=none"]));
    let mut file = File::open(path).expect("it was written");
    std::io::copy(&mut file, &mut std::io::sink()).expect("it is readable");
}

/// Fails unless both files hold the same tensors.
fn check_same(a: &Path, b: &Path) {
    let open = |path| Checkpoint::open(path, &OpenOptions::default()).expect("it was written");
    let (a, b) = (open(a), open(b));
    assert_eq!(a.stored_tensors().len(), b.stored_tensors().len());
    for (tensor, other) in a.stored_tensors().iter().zip(b.stored_tensors()) {
        assert_eq!((&tensor.name, &tensor.shape), (&other.name, &other.shape));
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let all = tensor.shape.numel();
        let one = a.read(tensor, 0, all, &mut one).expect("it is readable");
        let two = b.read(other, 0, all, &mut two).expect("it is readable");
        assert!(one == two, "`{}` differs", tensor.name);
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(directory: &Path, sparsity: f64, n_tensors: u64, rounds: u64) {
    let directory = tempfile::tempdir_in(directory).expect("the directory is writable");
    let directory = directory.path();
    let named = |kind: &str| -> Vec<PathBuf> {
        let numbers = 0..N_INGREDIENTS;
        numbers
            .map(|i| directory.join(format!("{kind}{i}.st")))
            .collect()
    };
    let (dense, compact) = (named("dense"), named("compact"));
    for (ingredient, (path, small)) in dense.iter().zip(&compact).enumerate() {
        write_ingredient(path, n_tensors, sparsity, ingredient as u64);
        export(path, small);
    }
    dense
        .iter()
        .chain(&compact)
        .for_each(|path| read_from_disk(path));
    let (of_dense, of_compact) = (directory.join("dense.st"), directory.join("compact.st"));
    let expected = directory.join("expected.st");
    merge(&dense, &of_dense);
    merge(&compact, &of_compact);
    export(&of_dense, &expected);
    check_same(&of_compact, &expected);
    std::fs::remove_file(&expected).expect("it was written");
    let copy = directory.join("copy.st");
    let (mut slow, mut fast, mut ratios) = (vec![], vec![], vec![]);
    let mut copies = vec![];
    for _ in 0..rounds {
        for output in [&of_dense, &of_compact, &copy] {
            let _ = std::fs::remove_file(output);
        }
        let dense_secs = timed(|| merge(&dense, &of_dense));
        let compact_secs = timed(|| merge(&compact, &of_compact));
        copies.push(timed(|| run(Command::new("cp").arg(&dense[0]).arg(&copy))));
        ratios.push(compact_secs / dense_secs);
        slow.push(dense_secs);
        fast.push(compact_secs);
    }
    let bytes = |path: &Path| std::fs::metadata(path).expect("it exists").len() as f64;
    let (dense_bytes, compact_bytes) = (bytes(&dense[0]), bytes(&compact[0]));
    println!(
        "{:.0} %: dense {:.3} s, compact {:.3} s, compact / dense: median {:.3}, least {:.3}; \
         {:.1} % of the bytes; cp of one dense {:.2} GB/s",
        100.0 * sparsity,
        median(&mut slow),
        median(&mut fast),
        median(&mut ratios.clone()),
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        100.0 * compact_bytes / dense_bytes,
        dense_bytes / median(&mut copies) / 1e9,
    );
}

fn main() {
    // `cargo test --benches` only asks whether this builds and starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let bytes = setting("SMS_MERGE_BENCH_BYTES", 500_000_000);
    let rounds = setting("SMS_MERGE_BENCH_ROUNDS", 7);
    let base =
        std::env::var_os("SMS_MERGE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(base).expect("the directory is writable");
    for sparsity in [0.8, 0.9, 0.95, 0.98] {
        measure(directory.path(), sparsity, (bytes >> 22).max(1), rounds);
    }
}
