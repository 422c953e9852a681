//! What benchmarks of whole commands share: settings, inputs, clocks and medians.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::io::Result;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use sms_merge::format::safetensors::Entry;
use sms_merge::format::safetensors::Layout;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Shape;

use tempfile::TempDir;

/// Whether to measure: `cargo test --benches` only asks if this builds and starts.
pub(crate) fn is_asked() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// The number that a variable of the environment holds.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

/// A directory for the files, within `SMS_MERGE_BENCH_DIR`, which is removed at the end.
pub(crate) fn directory() -> TempDir {
    let base =
        std::env::var_os("SMS_MERGE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(base).expect("the directory is writable")
}

/// Writes a checkpoint of weights of one type; `fill` writes each tensor, given its name
/// and number of elements.
pub(crate) fn write_checkpoint(
    path: &Path,
    dtype: Dtype,
    shapes: &[[u64; 2]],
    mut fill: impl FnMut(&str, u64, &mut BufWriter<File>) -> Result<()>,
) {
    let entries = shapes.iter().enumerate().map(|(index, dims)| Entry {
        name: format!("layer{index:06}.weight"),
        dtype,
        shape: Shape::new(*dims).expect("the shapes are small"),
    });
    let layout = Layout::new(entries.collect()).expect("the names differ");
    let header = layout.header(&BTreeMap::new());
    let header = header.expect("the header is small");
    let file = File::create(path).expect("the directory is writable");
    let mut file = BufWriter::with_capacity(1 << 20, file);
    file.write_all(&header).expect("there is space");
    for tensor in layout.tensors() {
        fill(&tensor.name, tensor.shape.numel(), &mut file).expect("there is space");
    }
    file.flush().expect("there is space");
}

/// The program.
pub(crate) fn sms_merge() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sms-merge"))
}

/// Runs a command that has to succeed; its seconds.
pub(crate) fn timed(command: &mut Command) -> f64 {
    let start = Instant::now();
    let status = command.status().expect("the program starts");
    assert!(status.success(), "{command:?} failed");
    start.elapsed().as_secs_f64()
}

/// The seconds of `cp`.
pub(crate) fn copy(from: &Path, to: &Path) -> f64 {
    timed(Command::new("cp").arg(from).arg(to))
}

/// The middle one of an odd number of values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
