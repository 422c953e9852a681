//! Every way for an adapter to be refused, by directory: `fixtures/lora/malformed/`. A
//! directory without its error fails, and so does an error without a directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use sms_merge::adapter::Adapter;
use sms_merge::adapter::AdapterError;
use sms_merge::adapter::Factor;
use sms_merge::adapter::NonFinite;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::OpenOptions;

/// Variants of an enum by the names of their fixtures. A variant that is missing here
/// does not compile, but for those of a later version.
macro_rules! variants {
    ($($variant:ident $name:literal)*) => {
        const ALL: &[&str] = &[$($name,)*];

        fn name_of(error: &AdapterError) -> &'static str {
            match error {
                $(AdapterError::$variant { .. } => $name,)*
                _ => "a variant that is not listed",
            }
        }
    };
}

variants! {
    Foreign "foreign"
    Unpaired "unpaired"
    Twice "twice"
    Shapes "shapes"
    FactorDtype "factor-dtype"
    Scale "scale"
    NoConfig "no-config"
    Config "config"
    Rank "rank"
    NotAnAdapter "not-an-adapter"
    NonFinite "non-finite"
}

/// What takes more than one file: `tests/lora.rs` has it. `Source` is of the system.
const ELSEWHERE: [&str; 6] = [
    "Mixed",
    "Option",
    "Unmatched",
    "Ambiguous",
    "TargetShape",
    "Source",
];

fn directories() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lora/malformed");
    let entries = fs::read_dir(root).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn read(path: &Path) -> Result<(), AdapterError> {
    let checkpoint = Checkpoint::open(path, &OpenOptions::default()).unwrap();
    let adapter = Adapter::open(&checkpoint, |_| true)?;
    for module in adapter.modules.values() {
        let tensor = &checkpoint.tensors()[module.down];
        Factor::read(&checkpoint, tensor, NonFinite::Refused)?;
    }
    Ok(())
}

#[test]
fn every_directory_is_refused_for_its_reason() {
    let mut seen = BTreeSet::new();
    for path in directories() {
        let file = path.file_name().unwrap().to_str().unwrap();
        let expected = file.split("--").next().unwrap();
        let error = read(&path).expect_err(file);
        assert_eq!(name_of(&error), expected, "{file}: {error}");
        let message = error.to_string();
        assert!(message.contains("malformed/"), "{message}");
        seen.insert(expected.to_owned());
    }
    let all: BTreeSet<String> = ALL.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(seen, all);
}

#[test]
fn every_error_is_listed() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/adapter/error.rs");
    let text = fs::read_to_string(source).unwrap();
    let body = text.split("pub enum AdapterError {").nth(1).unwrap();
    let body = body.split("\n}\n").next().unwrap();
    let variants = body.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?;
        let is_variant = name.starts_with(|first: char| first.is_ascii_uppercase());
        is_variant.then(|| name.split([' ', '(', ',']).next().unwrap().to_owned())
    });
    let kebab = |name: &str| {
        let mut out = String::new();
        for character in name.chars() {
            if character.is_ascii_uppercase() && !out.is_empty() {
                out.push('-');
            }
            out.push(character.to_ascii_lowercase());
        }
        out
    };
    for variant in variants {
        let is_listed =
            ALL.contains(&kebab(&variant).as_str()) || ELSEWHERE.contains(&variant.as_str());
        assert!(is_listed, "{variant}");
    }
}

#[test]
fn the_program_says_one_error_and_writes_nothing() {
    let bench = tempfile::tempdir().unwrap();
    for path in directories() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let net = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lora/net.st");
        let is_none = name.starts_with("not-an-adapter");
        let mut merge = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        merge.args([&path, &path]).args(["-o", "soup"]);
        let mut apply = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        apply
            .arg("apply")
            .arg(&path)
            .arg("--to")
            .arg(net)
            .args(["-o", "out.st"]);
        for (what, mut command) in [("merge", merge), ("apply", apply)] {
            if is_none && what == "merge" {
                continue;
            }
            let output = command.current_dir(bench.path()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{what} {name} {text}");
            let errors = text.lines().filter(|line| line.starts_with("error: "));
            assert_eq!(errors.count(), 1, "{what} {name} {text}");
        }
        assert_eq!(fs::read_dir(bench.path()).unwrap().count(), 0, "{name}");
    }
}
