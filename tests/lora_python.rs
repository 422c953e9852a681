//! Soups of adapters, and networks with an adapter, in the hands of peft and diffusers.

#![expect(unreachable_pub, reason = "modules of a test have no other users")]

#[path = "python/mod.rs"]
mod python;

use std::path::Path;
use std::process::Command;

#[test]
fn peft_and_diffusers_load_what_is_written() {
    let Some(python) = python::with(&["peft", "diffusers", "transformers", "torch"]) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python)
        .arg(root.join("tests/lora/check.py"))
        .arg(env!("CARGO_BIN_EXE_sms-merge"))
        .arg(root.join("fixtures/lora"))
        .current_dir(directory.path())
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert!(text(&output.stdout).contains("4 checks passed"));
}
