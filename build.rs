//! Tells the program which commit it is built from: `SMS_MERGE_VERSION` is what
//! `sms-merge --version` shows, `0.1.0 (1a2b3c4d5, 2026-01-31)`.
//!
//! In a checkout git says it. A package has no git: there cargo has written the commit down.
//! Where nobody knows, the version stands alone. The same commit gives the same text.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What the program is made from.
const SOURCES: [&str; 5] = ["Cargo.lock", "Cargo.toml", "build.rs", "examples", "src"];

/// Digits of a commit that are shown.
const DIGITS: usize = 9;

fn main() {
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&root);

    println!("cargo::rerun-if-changed=build.rs");
    let commit = of_checkout(root).or_else(|| of_package(root));
    let shown = commit.map_or(version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=SMS_MERGE_VERSION={shown}");
}

/// The commit of the checkout at `root`, and its day; `-dirty` behind it where the sources
/// were changed since.
fn of_checkout(root: &Path) -> Option<String> {
    // A package that was unpacked below another project's checkout is not of its commit.
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(root).ok()? {
        return None;
    }
    watch(root);
    let commit = short(&git(root, &["rev-parse", "HEAD"])?)?;
    let day = git(root, &["show", "--no-patch", "--format=%cs", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(SOURCES);
    let changes = git(root, &status)?;
    let dirty = if changes.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{dirty}, {day}"))
}

/// The commit that a package was made from, which `cargo package` writes into it.
fn of_package(root: &Path) -> Option<String> {
    let path = root.join(".cargo_vcs_info.json");
    let text = fs::read_to_string(path).ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    let commit = rest.split('"').nth(1)?;
    short(commit)
}

fn short(commit: &str) -> Option<String> {
    let is_commit = commit.len() >= DIGITS && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| commit[..DIGITS].to_owned())
}

/// Has this run again once another commit is checked out or a source changes, and not
/// otherwise. A path that does not exist would have it run every time.
fn watch(root: &Path) {
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    let names = ["HEAD".to_owned(), "packed-refs".to_owned()];
    for name in names.into_iter().chain(branch) {
        if let Some(path) = git(root, &["rev-parse", "--git-path", &name]) {
            watch_path(&root.join(path));
        }
    }
    for name in SOURCES {
        watch_path(&root.join(name));
    }
}

fn watch_path(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// What git prints; `None` if there is no git, or it fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("--no-optional-locks")
        .args(arguments)
        .current_dir(root)
        // What a hook or another tool set is about another checkout.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim_end().to_owned())
}
