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

mod commands;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Stream;

use commands::copy;
use commands::median;
use commands::setting;
use commands::sms_merge;
use commands::timed;

const N_INGREDIENTS: usize = 4;

/// Writes an ingredient: the mask is that of all, the weights its own and above zero.
fn write_ingredient(path: &Path, n_tensors: usize, sparsity: f64, ingredient: u64) {
    let shapes = vec![[1024, 1024]; n_tensors];
    commands::write_checkpoint(path, Dtype::F32, &shapes, |name, n_elements, file| {
        let mut mask = Stream::named(0, "mask", name);
        let mut values = Stream::named(ingredient, "values", name);
        for _ in 0..n_elements {
            let is_retained = mask.uniform() >= sparsity;
            let value = if is_retained {
                values.uniform() as f32 + 0.01
            } else {
                0.0
            };
            file.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    });
}

/// The seconds of a merge.
fn merge(inputs: &[PathBuf], soup: &Path) -> f64 {
    let mut command = sms_merge();
    command.args(inputs).arg("-o").arg(soup);
    timed(command.args(["--force", "--no-sync", "--quiet"]))
}

fn export(from: &Path, to: &Path) {
    let mut command = sms_merge();
    command.arg("export").arg(from).arg("-o").arg(to);
    timed(command.args(["--layout", "bitmask", "--force", "--no-sync", "--quiet"]));
}

/// Has the page cache hold a file as it does one that was read, not written.
fn read_from_disk(path: &Path) {
    timed(Command::new("sync").arg(path));
    let mut drop_pages = Command::new("dd");
    drop_pages.arg(format!("if={}", path.display()));
    timed(drop_pages.args(["iflag=nocache", "count=0", "status=none"]));
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

fn measure(directory: &Path, sparsity: f64, n_tensors: usize, rounds: u64) {
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
    let copied = directory.join("copy.st");
    let (mut slow, mut fast, mut ratios) = (vec![], vec![], vec![]);
    let mut copies = vec![];
    for _ in 0..rounds {
        for output in [&of_dense, &of_compact, &copied] {
            let _ = std::fs::remove_file(output);
        }
        let dense_secs = merge(&dense, &of_dense);
        let compact_secs = merge(&compact, &of_compact);
        copies.push(copy(&dense[0], &copied));
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
        median(&slow),
        median(&fast),
        median(&ratios),
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        100.0 * compact_bytes / dense_bytes,
        dense_bytes / median(&copies) / 1e9,
    );
}

fn main() {
    if !commands::is_asked() {
        return;
    }
    let bytes = setting("SMS_MERGE_BENCH_BYTES", 500_000_000);
    let rounds = setting("SMS_MERGE_BENCH_ROUNDS", 7);
    let directory = commands::directory();
    let n_tensors = (bytes >> 22).max(1) as usize;
    for sparsity in [0.8, 0.9, 0.95, 0.98] {
        measure(directory.path(), sparsity, n_tensors, rounds);
    }
}
