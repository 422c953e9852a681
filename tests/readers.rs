//! Compact files against the libraries that define them: theirs are read here, and ours
//! by them.
//!
//! The second half runs `fixtures/compact/read.py` with the Python that
//! `SMS_MERGE_PYTHON` names, or `python3`, and is skipped where the packages are missing.

#![expect(unreachable_pub, reason = "modules of a test have no other users")]

mod python;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::tensor::Dtype;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/compact")
}

type Tensors = BTreeMap<String, (Dtype, Vec<u64>, Vec<u8>)>;

/// Logical tensors, or the parts that are stored of them.
fn tensors(path: &Path, are_parts: bool) -> Tensors {
    let checkpoint = Checkpoint::open(path, &OpenOptions::default()).unwrap();
    let tensors = match are_parts {
        true => checkpoint.stored_tensors().iter().collect::<Vec<_>>(),
        false => checkpoint.weights().collect(),
    };
    let read = |tensor: &&sms_merge::checkpoint::StoredTensor| {
        let mut scratch = Vec::new();
        let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch);
        let dims = tensor.shape.dims().to_vec();
        (
            tensor.name.clone(),
            (tensor.dtype, dims, bytes.unwrap().to_vec()),
        )
    };
    tensors.iter().map(read).collect()
}

fn export(from: &Path, to: &Path, layout: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
    command.args(["export", "--quiet", "--layout", layout, "-o"]);
    let status = command.arg(to).arg(from).status().unwrap();
    assert!(status.success(), "{layout}");
}

#[test]
fn what_compressed_tensors_wrote_is_read() {
    for (theirs, dense) in [
        ("theirs.st", "dense.st"),
        ("example.st", "example_dense.st"),
        ("theirs_24.st", "dense_24.st"),
    ] {
        let found = tensors(&folder().join(theirs), false);
        assert!(found == tensors(&folder().join(dense), false), "{theirs}");
    }
}

#[test]
fn the_example_of_the_format() {
    let parts = tensors(&folder().join("example.st"), true);
    assert_eq!(parts["fc.bitmask"].2, [2, 2, 0, 0, 1, 1]);
    let offsets: Vec<u8> = [0_i64, 2, 2]
        .iter()
        .flat_map(|row| row.to_le_bytes())
        .collect();
    assert_eq!(parts["fc.row_offsets"].2, offsets);
}

#[test]
fn what_is_written_is_what_compressed_tensors_writes() {
    let directory = tempfile::tempdir().unwrap();
    let ours = directory.path().join("ours.st");
    for (dense, theirs) in [
        ("dense.st", "theirs.st"),
        ("example_dense.st", "example.st"),
    ] {
        export(&folder().join(dense), &ours, "compressed-tensors");
        let (mut found, mut expected) =
            (tensors(&ours, true), tensors(&folder().join(theirs), true));
        // In kernels the library adds rows up along the first dimension alone, and does
        // not read them: these count all rows before.
        for tensors in [&mut found, &mut expected] {
            tensors.remove("conv.row_offsets");
        }
        assert!(found == expected, "{dense}");
        std::fs::remove_file(&ours).unwrap();
    }
}

#[test]
fn what_is_written_is_read_by_the_libraries() {
    let directory = tempfile::tempdir().unwrap();
    let dense = folder().join("dense.st");
    for (layout, package) in [
        ("compressed-tensors", "compressed_tensors"),
        ("torch-prune", "torch"),
    ] {
        let Some(python) = python::with(&[package, "safetensors.torch"]) else {
            continue;
        };
        let ours = directory.path().join(format!("{layout}.safetensors"));
        export(&dense, &ours, layout);
        let mut command = Command::new(&python);
        let command = command.arg(folder().join("read.py")).arg(layout);
        let output = command.arg(&ours).arg(&dense).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"same\n", "{layout}: {error}");
    }
}
