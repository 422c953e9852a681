//! Hostile and damaged checkpoints of torch: `fixtures/torch/hostile/`, which
//! `fixtures/torch/hostile.py` wrote. A file is called after the error that it must end
//! in; an error without a file fails.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::CheckpointError;
use sms_merge::checkpoint::CompactError;
use sms_merge::checkpoint::ContentError;
use sms_merge::checkpoint::Note;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::map::Access;
use sms_merge::checkpoint::map::SourceError;
use sms_merge::format::torch::ArchiveError;
use sms_merge::format::torch::LegacyError;
use sms_merge::format::torch::PickleError;
use sms_merge::format::torch::StateError;
use sms_merge::format::torch::TorchError;

/// Variants of an enum by name. A variant that is missing here does not compile.
macro_rules! variants {
    ($all:ident, $name:ident, $kind:ident: $($variant:ident)*) => {
        const $all: &[&str] = &[$(concat!(stringify!($kind), stringify!($variant)),)*];

        fn $name(value: &$kind) -> &'static str {
            match value {
                $($kind::$variant { .. } =>
                    concat!(stringify!($kind), stringify!($variant)),)*
            }
        }
    };
}

variants! { ARCHIVE, archive, ArchiveError:
    NoEnd Split Directory DirectoryLimit EntryLimit Entry EntryTwice Overlap Compressed Encrypted
    Local Checksum Several Script Missing StorageBytes BigEndian ByteOrder
}

variants! { PICKLE, pickle, PickleError:
    Protocol CutShort Opcode Nothing Unexpected NotUtf8 LongName Memo Stack Memory Call Storage
    StorageTwice
}

variants! { STATE, state, StateError:
    NotADict Object NoKey Several NoTensor Name TensorTwice Nested Joined Unread Sparse TooLarge
    Bounds Expanded
}

variants! { LEGACY, legacy, LegacyError:
    NotTorch Version BigEndian Limit Keys Key Length PastEnd TrailingBytes
}

/// Errors without a file, and where they are tested.
const WITHOUT_FILE: [&str; 2] = [
    // A million values: `format/torch/machine.rs`.
    "pickle-stack",
    // Becomes `CheckpointError::Foreign`: `foreign-pickle`.
    "legacy-not-torch",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/torch/hostile")
}

/// `PickleErrorNotUtf8` as `pickle-not-utf8`.
fn file_name(variant: &str) -> String {
    let mut name = String::new();
    for character in variant.replacen("Error", "", 1).chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(character.to_lowercase());
    }
    name
}

fn refused_as(error: &CheckpointError) -> String {
    match error {
        CheckpointError::Foreign { found, .. } => {
            format!("foreign-{}", format!("{found:?}").to_lowercase())
        }
        CheckpointError::Torch { source, .. } => file_name(match source {
            TorchError::Archive(error) => archive(error),
            TorchError::Pickle(error) => pickle(error),
            TorchError::State(error) => state(error),
            TorchError::Legacy(error) => legacy(error),
            other => panic!("{other}"),
        }),
        CheckpointError::Compact {
            source: CompactError::NotContiguous { .. },
            ..
        } => "compact-not-contiguous".to_owned(),
        CheckpointError::Source(SourceError::Content {
            source: ContentError::Place { .. },
            ..
        }) => "content-place".to_owned(),
        other => panic!("{other}"),
    }
}

fn options(name: &str) -> OpenOptions {
    let mut options = OpenOptions::default();
    match name {
        "archive-directory-limit" | "archive-entry-limit" => options.header_limit = 1000,
        "pickle-memory" | "pickle-memory--views" => options.header_limit = 5100,
        "state-joined" => {
            options.header_limit = 8000;
            options.key = Some(".".to_owned());
        }
        "legacy-limit" => options.header_limit = 100,
        "state-no-key" => options.key = Some("model.encoder".to_owned()),
        "state-not-a-dict--key" => options.key = Some("net".to_owned()),
        _ => {}
    }
    options
}

/// The message and those of its sources, as the binary shows them.
fn whole_message(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", whole_message(source)),
        None => error.to_string(),
    }
}

fn refusal(name: &str, access: Access) -> CheckpointError {
    let options = OpenOptions {
        access,
        ..options(name)
    };
    let path = folder().join(format!("{name}.pt"));
    Checkpoint::open(&path, &options).expect_err(name)
}

#[test]
fn every_file_is_refused_as_its_name_says() {
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let expected = name.split("--").next().unwrap();
        for access in [Access::Mapped, Access::Pread] {
            let error = refusal(name, access);
            let message = whole_message(&error);
            assert_eq!(refused_as(&error), expected, "{name}: {message}");
            assert!(message.contains(name), "{message}");
        }
        seen.insert(expected.to_owned());
    }
    let errors = [ARCHIVE, PICKLE, STATE, LEGACY].concat();
    for name in errors.into_iter().map(file_name) {
        let is_seen = seen.contains(&name) || WITHOUT_FILE.contains(&name.as_str());
        assert!(is_seen, "no file for {name}");
    }
}

#[test]
fn messages_name_what_was_found_and_what_to_do() {
    let check = |name: &str, parts: &[&str]| {
        let message = whole_message(&refusal(name, Access::Mapped));
        for part in parts {
            assert!(message.contains(part), "{name}: {message}");
        }
    };
    for protocol in [0, 2, 4] {
        let name = format!("state-no-tensor--system-{protocol}");
        check(&name, &["holds no tensor", "`w` (posix.system)"]);
    }
    check("state-no-tensor--eval", &["`w` (eval)"]);
    check(
        "state-object--exec",
        &["`exec`", "not loaded", "dict alone"],
    );
    check("state-no-tensor--torch-load", &["`w` (torch.load)"]);
    check("state-object--module", &["`__main__.Net`"]);
    check(
        "state-object--key",
        &["`model` is an object", "`__main__.Net`"],
    );
    check("state-object--dotted", &["`torch._utils.os.system()`"]);
    check("state-object--inst", &["`os.system`"]);
    check("state-object--obj", &["`os.system`"]);
    check("state-object--oldest", &["`os.system`"]);
    check("state-unread", &["`w` is a `os.system`", "as_subclass"]);
    check(
        "state-unread--complex",
        &["`torch.complex128`", "view_as_real"],
    );
    check(
        "state-unread--conjugate",
        &["`.resolve_conj().resolve_neg()`"],
    );
    check("state-unread--blocks", &["`.to_dense()`"]);
    check("state-nested--object", &["`v` is collections.deque"]);
    check(
        "state-sparse",
        &["`w` has more than 16,384", "`.to_dense()`"],
    );
    check("state-sparse--hybrid", &["`.to_dense()`"]);
    check(
        "content-place--order",
        &["entry 3 of", "`w`", "`.coalesce()`"],
    );
    check("content-place--twice", &["entry 2 of", "`.coalesce()`"]);
    check("content-place--outside", &["entry 3 of", "outside"]);
    check("content-place--negative", &["entry 2 of", "outside"]);
    check("content-place--column", &["entry 1 of", "outside"]);
    check("content-place--columns", &["entry 1 of", "in its row"]);
    check(
        "archive-compressed",
        &["`archive/data/0`", "`torch.save` again"],
    );
    check(
        "archive-script",
        &["TorchScript", "`torch.save(torch.jit.load("],
    );
    check("archive-several", &["`archive/data.pkl`, `other/data.pkl`"]);
    check("archive-missing--up", &["`archive/data/../../0`"]);
    check("state-no-tensor--candidates", &["`net`", "`--key`"]);
    check("state-several", &["`state_dict`, `model`", "`--key`"]);
    check("state-nested", &["`ema` is a tuple"]);
    check("state-no-key", &["no `encoder`; it has `w`"]);
    check(
        "compact-not-contiguous",
        &["`w.weight`", "`w.compressed`", "`.contiguous()`"],
    );
    check("state-expanded", &["274877906944 elements of which only 4"]);
    check("foreign-tar", &["a tar archive", "`tar -x`"]);
    check("legacy-limit", &["100 bytes", "`--max-header-bytes`"]);
}

#[test]
fn what_would_run_is_inert_beside_the_tensors() {
    let expected: Vec<u8> = (0..16).collect();
    let mut n_files = 0;
    for entry in fs::read_dir(folder().with_file_name("inert")).unwrap() {
        let path = entry.unwrap().path();
        n_files += 1;
        for access in [Access::Mapped, Access::Pread] {
            let options = OpenOptions {
                access,
                ..OpenOptions::default()
            };
            let checkpoint = Checkpoint::open(&path, &options).unwrap();
            let [tensor] = checkpoint.tensors() else {
                panic!("{}", path.display());
            };
            assert_eq!(tensor.name, "w");
            let mut scratch = Vec::new();
            let found = checkpoint.read(tensor, 0, 4, &mut scratch).unwrap();
            assert_eq!(found, expected);
            let notes: Vec<String> = checkpoint.notes().iter().map(Note::to_string).collect();
            let is_named = notes.iter().any(|note| note.ends_with("left out"));
            let stem = path.file_stem().unwrap();
            let is_silent = ["popped", "state"].iter().any(|silent| *silent == stem);
            assert_ne!(is_named, is_silent, "{notes:?}");
        }
    }
    assert_eq!(n_files, 12);
}

#[test]
fn a_cut_file_is_refused_wherever_it_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cut.pt");
    for name in ["model.pt", "model_legacy.pt"] {
        let whole = fs::read(folder().with_file_name(name)).unwrap();
        for len in (1..whole.len()).step_by(7).chain([whole.len() - 1]) {
            fs::write(&path, &whole[..len]).unwrap();
            let opened = Checkpoint::open(&path, &OpenOptions::default());
            assert!(opened.is_err(), "{name} {len}");
        }
    }
}

#[test]
fn no_byte_of_a_directory_or_pickle_brings_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.pt");
    for name in [
        "wrapped_twice.pt",
        "model_legacy.pt",
        "python2.pt",
        "sparse.pt",
        "inert/items.pt",
        "inert/attribute.pt",
    ] {
        let whole = fs::read(folder().with_file_name(name)).unwrap();
        for at in (0..whole.len()).step_by(7) {
            for change in [0x01, 0xff] {
                let mut other = whole.clone();
                other[at] ^= change;
                fs::write(&path, other).unwrap();
                // Bytes of tensors may be anything; the rest is refused or means the same.
                drop(Checkpoint::open(&path, &OpenOptions::default()));
            }
        }
    }
}
