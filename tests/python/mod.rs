//! The Python that tests hold files against: what `SMS_MERGE_PYTHON` names, or `python3`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// What must be there under `SMS_MERGE_REQUIRE_PYTHON=1`.
const REQUIRED: &str = include_str!("../onnx/requirements.txt");

/// The interpreter if it has these packages, or `None` after saying that it has not.
///
/// # Panics
///
/// If they must be there.
pub fn with(packages: &[&str]) -> Option<PathBuf> {
    let python = env::var_os("SMS_MERGE_PYTHON").map_or("python3".into(), PathBuf::from);
    let imports = format!("import {}", packages.join(", "));
    let found = Command::new(&python).args(["-c", &imports]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let missing = format!("`{}` cannot `{imports}`", python.display());
    let is_listed = |name: &&str| {
        let mut lines = REQUIRED.lines();
        lines.any(|line| line.split("==").next() == Some(*name))
    };
    let is_required = packages.iter().all(is_listed)
        && env::var_os("SMS_MERGE_REQUIRE_PYTHON").is_some_and(|value| value == "1");
    assert!(
        !is_required,
        "{missing}: install tests/onnx/requirements.txt"
    );
    println!("skipped: {missing}");
    None
}
