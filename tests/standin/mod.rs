//! A driver for tests: `libcuda.so` that runs the kernels' own source on the processor.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Words that are added to the compiler's, such as `-fsanitize=undefined`.
const FLAGS: &str = "SMS_MERGE_STANDIN_FLAGS";

/// Compiles the stand-in and returns the folder that holds it, for `LD_LIBRARY_PATH`;
/// `None` where there is no g++, or where a test runs without its source, but a failure
/// under `SMS_MERGE_REQUIRE_GXX=1`.
pub(crate) fn folder() -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(compile).clone()
}

fn compile() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = root.join("tests/standin/driver.cpp");
    if !source.exists() {
        return skip(&format!("{} is not there", source.display()));
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("standin");
    std::fs::create_dir_all(&folder).unwrap();
    // Processes of tests run side by side: each compiles for itself, and the last one's
    // stays.
    let own = folder.join(format!("{}.so", std::process::id()));
    let flags = std::env::var(FLAGS).unwrap_or_default();
    let done = Command::new("g++")
        .args(["-std=c++20", "-O2", "-ffp-contract=off"])
        .args(["-U_FORTIFY_SOURCE", "-fPIC", "-shared"])
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"])
        .args(flags.split_whitespace())
        .arg("-I")
        .arg(root.join("tests/standin"))
        .arg("-I")
        .arg(root.join("src/kernel/cuda"))
        .arg(source)
        .arg("-o")
        .arg(&own)
        .output();
    match done {
        Err(error) => skip(&format!("g++ cannot be run ({error})")),
        Ok(done) => {
            let log = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{log}");
            std::fs::rename(&own, folder.join("libcuda.so")).unwrap();
            Some(folder)
        }
    }
}

fn skip(why: &str) -> Option<PathBuf> {
    let is_required = std::env::var_os("SMS_MERGE_REQUIRE_GXX").is_some();
    assert!(!is_required, "{why}");
    eprintln!("skipped: {why}");
    None
}
