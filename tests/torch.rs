//! Checkpoints that torch wrote: every byte of every tensor against what torch reads.
//!
//! `fixtures/torch/make.py` made them; `X.st` holds what is expected of `X.pt`.

#![expect(unreachable_pub, reason = "modules of a test have no other users")]

mod python;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use sms_merge::checkpoint::About;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::CheckpointError;
use sms_merge::checkpoint::Note;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::StoredTensor;
use sms_merge::checkpoint::map::Access;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/torch")
}

/// How the fixture of that name is opened.
fn options(stem: &str) -> OpenOptions {
    let mut options = OpenOptions::default();
    if stem == "wrapped_net" {
        options.key = Some("net".to_owned());
        options.strip_prefixes = vec!["module.".to_owned()];
    }
    options
}

/// Bytes of a tensor, read in stretches of `count` elements.
fn bytes(checkpoint: &Checkpoint, tensor: &StoredTensor, count: u64) -> Vec<u8> {
    let (mut found, mut scratch) = (Vec::new(), Vec::new());
    let mut begin = 0;
    while begin < tensor.shape.numel() {
        let count = count.min(tensor.shape.numel() - begin);
        let stretch = checkpoint.read(tensor, begin, count, &mut scratch).unwrap();
        found.extend_from_slice(stretch);
        begin += count;
    }
    found
}

fn assert_same(found: &Checkpoint, expected: &Checkpoint, what: &str) {
    assert_eq!(found.tensors().len(), expected.tensors().len(), "{what}");
    for (found_tensor, tensor) in found.tensors().iter().zip(expected.tensors()) {
        let name = &tensor.name;
        assert_eq!(&found_tensor.name, name, "{what}");
        assert_eq!(found_tensor.dtype, tensor.dtype, "{what} {name}");
        assert_eq!(found_tensor.shape, tensor.shape, "{what} {name}");
        assert_eq!(found_tensor.bytes, tensor.bytes, "{what} {name}");
        let expected = bytes(expected, tensor, u64::MAX);
        for count in [1, 3, 7, u64::MAX] {
            let found = bytes(found, found_tensor, count);
            assert!(found == expected, "{what} {name} {count}: {found:?}");
        }
    }
}

#[test]
fn every_byte_is_the_one_that_torch_reads() {
    let mut n_files = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let is_sharded = path.ends_with("sharded");
        if path.extension().is_none_or(|extension| extension != "pt") && !is_sharded {
            continue;
        }
        if stem.starts_with("sparse") {
            continue;
        }
        n_files += 1;
        let expected = path.with_extension("st");
        let expected = Checkpoint::open(&expected, &OpenOptions::default()).unwrap();
        for access in [Access::Mapped, Access::Pread] {
            let mut options = options(stem);
            options.access = access;
            let found = Checkpoint::open(&path, &options).unwrap();
            assert_same(&found, &expected, stem);
            found.check_unchanged().unwrap();
        }
    }
    assert_eq!(n_files, 26);
}

#[test]
fn tied_tensors_are_one_range_of_the_file() {
    for name in ["views.pt", "views_legacy.pt"] {
        let checkpoint = Checkpoint::open(&folder().join(name), &OpenOptions::default()).unwrap();
        let offset = |name: &str| checkpoint.tensors()[checkpoint.find(name).unwrap()].offset;
        assert_eq!(offset("encoder.weight"), offset("decoder.weight"));
        assert_eq!(offset("encoder.weight"), offset("decoder.transposed"));
        assert_ne!(offset("encoder.weight"), offset("rows"));
    }
}

#[test]
fn keys_lead_to_dicts_within_dicts() {
    let check = |file: &str, key: &str| {
        let options = OpenOptions {
            key: Some(key.to_owned()),
            ..OpenOptions::default()
        };
        let found = Checkpoint::open(&folder().join(file), &options).unwrap();
        let expected = folder().join("model.st");
        let expected = Checkpoint::open(&expected, &OpenOptions::default()).unwrap();
        assert_same(&found, &expected, key);
    };
    check("wrapped_model.pt", "model");
    check("wrapped_state_dict.pt", "state_dict");
    check("wrapped_twice.pt", "model");
    check("wrapped_twice.pt", "model.state_dict");
}

#[test]
fn prefixes_are_taken_off_and_pointed_out() {
    let path = folder().join("parallel.pt");
    let open = |prefix: Option<&str>| {
        let options = OpenOptions {
            strip_prefixes: prefix.map(str::to_owned).into_iter().collect(),
            ..OpenOptions::default()
        };
        Checkpoint::open(&path, &options).unwrap()
    };
    let note = Note {
        path: path.clone(),
        others: 0,
        about: About::Wrapped {
            begin: "module.".to_owned(),
            prefixes: vec!["module.".to_owned()],
        },
    };
    assert_eq!(open(None).notes(), [note]);
    let stripped = open(Some("module."));
    assert_eq!(stripped.notes(), []);
    let expected = folder().join("model.st");
    let expected = Checkpoint::open(&expected, &OpenOptions::default()).unwrap();
    assert_same(&stripped, &expected, "parallel");
    // What is asked of all names is done to those that have it.
    let options = OpenOptions {
        strip_prefixes: vec!["module.".to_owned()],
        ..OpenOptions::default()
    };
    let plain = Checkpoint::open(&folder().join("model.pt"), &options).unwrap();
    assert_same(&plain, &expected, "model");
    let options = OpenOptions {
        strip_prefixes: vec!["decoder.".to_owned()],
        ..OpenOptions::default()
    };
    let views = folder().join("views.pt");
    let twice = Checkpoint::open(&views, &options);
    assert!(matches!(
        twice,
        Err(CheckpointError::StrippedTwice { tensor, .. }) if tensor == "transposed"
    ));
}

#[test]
fn what_is_no_tensor_is_left_out_by_name() {
    let checkpoint = Checkpoint::open(&folder().join("flat.pt"), &OpenOptions::default()).unwrap();
    let notes: Vec<String> = checkpoint.notes().iter().map(Note::to_string).collect();
    let expected = "holds more than tensors: `epoch` (a number), `name` (text), `sizes` (a list); \
                    left out";
    assert_eq!(notes.len(), 1);
    assert!(notes[0].ends_with(expected), "{}", notes[0]);
}

#[test]
fn what_stands_beside_a_state_dict_is_named_in_one_line() {
    let open =
        |name: &str| Checkpoint::open(&folder().join(name), &OpenOptions::default()).unwrap();
    let notes = |checkpoint: &Checkpoint| -> Vec<String> {
        checkpoint.notes().iter().map(Note::to_string).collect()
    };
    for name in [
        "beside_1.pt",
        "beside_2.pt",
        "beside_5.pt",
        "beside_legacy.pt",
    ] {
        let [note] = &notes(&open(name))[..] else {
            panic!("{name}");
        };
        let expected = "`args` (argparse.Namespace), `best` (a numpy number), \
                        `history` (a numpy array), `callbacks` (a dict) and 14 more; left out";
        assert!(note.ends_with(expected), "{note}");
    }
    let [note] = &notes(&open("attributed.pt"))[..] else {
        panic!("not one note");
    };
    let expected = "`conv.weight` (attributes, and those of 1 more tensors); left out";
    assert!(note.ends_with(expected), "{note}");
    // What is true of several checkpoints is said once.
    let several = ["beside_1.pt", "beside_2.pt", "beside_5.pt"].map(open);
    let gathered = Note::gather(several.iter().flat_map(Checkpoint::notes));
    assert_eq!(gathered.len(), 1);
    assert!(
        gathered[0]
            .to_string()
            .contains("beside_1.pt` (and 2 more) holds")
    );
}

#[test]
fn the_index_set_of_a_sparse_tensor_is_its_mask() {
    let open =
        |name: &str| Checkpoint::open(&folder().join(name), &OpenOptions::default()).unwrap();
    let (values, masks) = (open("sparse.st"), open("sparse_masks.st"));
    for name in ["sparse.pt", "sparse_legacy.pt"] {
        let found = open(name);
        let mut n_masks = 0;
        for tensor in found.tensors() {
            let (expected, checkpoint) = match &tensor.mask_of {
                None => (&tensor.name, &values),
                Some(mask) => (&mask.tensor, &masks),
            };
            n_masks += usize::from(tensor.mask_of.is_some());
            let place = checkpoint.find(expected).unwrap();
            let expected_tensor = &checkpoint.tensors()[place];
            assert_eq!(tensor.dtype, expected_tensor.dtype, "{expected}");
            assert_eq!(tensor.shape, expected_tensor.shape, "{expected}");
            let expected_bytes = bytes(checkpoint, expected_tensor, u64::MAX);
            for count in [1, 3, 7, u64::MAX] {
                let found = bytes(&found, tensor, count);
                assert!(
                    found == expected_bytes,
                    "{name} {expected} {count}: {found:?}"
                );
            }
        }
        assert_eq!(n_masks, masks.tensors().len());
        assert_eq!(found.tensors().len(), values.tensors().len() + n_masks);
    }
}

#[test]
fn a_zero_that_is_stored_in_a_sparse_tensor_stays_retained() {
    let directory = tempfile::tempdir().unwrap();
    let soup = directory.path().join("soup.st");
    let (a, b) = (
        folder().join("sparse.pt"),
        folder().join("sparse_legacy.pt"),
    );
    let layout: [&Path; 2] = ["--layout".as_ref(), "bitmask".as_ref()];
    run(&[&a, &b, "-o".as_ref(), &soup, layout[0], layout[1]], 0);
    run(&["verify".as_ref(), &soup, &a, &b], 0);
    let found = Checkpoint::open(&soup, &OpenOptions::default()).unwrap();
    let masks = folder().join("sparse_masks.st");
    let masks = Checkpoint::open(&masks, &OpenOptions::default()).unwrap();
    for name in ["coo", "narrow"] {
        let mask = &masks.tensors()[masks.find(name).unwrap()];
        let is_mask =
            |tensor: &&StoredTensor| tensor.mask_of.as_ref().is_some_and(|of| of.tensor == name);
        let found_mask = found.tensors().iter().find(is_mask).unwrap();
        let expected = bytes(&masks, mask, u64::MAX);
        assert_eq!(bytes(&found, found_mask, u64::MAX), expected, "{name}");
    }
    // As plain tensors, the soup has the values of the dense ones.
    let plain = directory.path().join("plain.st");
    run(&[&a, &b, "-o".as_ref(), &plain], 0);
    let plain = Checkpoint::open(&plain, &OpenOptions::default()).unwrap();
    let values = folder().join("sparse.st");
    let values = Checkpoint::open(&values, &OpenOptions::default()).unwrap();
    for tensor in values.tensors() {
        let found = &plain.tensors()[plain.find(&tensor.name).unwrap()];
        let expected = bytes(&values, tensor, u64::MAX);
        assert_eq!(bytes(&plain, found, u64::MAX), expected, "{}", tensor.name);
    }
}

#[test]
fn tied_tensors_are_told_of() {
    let checkpoint = Checkpoint::open(&folder().join("views.pt"), &OpenOptions::default()).unwrap();
    let notes: Vec<String> = checkpoint.notes().iter().map(Note::to_string).collect();
    let [note] = &notes[..] else {
        panic!("{notes:?}");
    };
    assert!(
        note.starts_with("`decoder.weight` and `encoder.weight` are one tensor in"),
        "{note}"
    );
}

#[test]
fn ingredients_without_elements_are_refused_and_inspected() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let soup = at("soup.st");
    let write = |name: &str, header: &str, data: &[u8]| {
        let length = (header.len() as u64).to_le_bytes();
        fs::write(at(name), [&length, header.as_bytes(), data].concat()).unwrap();
    };
    let empty = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    write(
        "all.st",
        &format!(r#"{{"a":{empty},"b.bias":{empty}}}"#),
        &[],
    );
    let full = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    write(
        "some.st",
        &format!(r#"{{"a.weight":{empty},"n.weight":{full}}}"#),
        &[0, 0, 128, 63],
    );
    write(
        "buffer.st",
        &format!(r#"{{"a":{empty},"n.weight":{full}}}"#),
        &[0, 0, 128, 63],
    );
    for (name, tensor) in [("all.st", "`a`"), ("some.st", "`a.weight`")] {
        let file = at(name);
        let (_, error) = run(&[&file, &file, "-o".as_ref(), &soup], 3);
        assert!(
            error.contains(tensor) && error.contains("zero_to_fp32.py"),
            "{error}"
        );
        run(&["inspect".as_ref(), &file], 0);
    }
    let exclude: [&Path; 2] = ["--exclude".as_ref(), "a.*".as_ref()];
    let some = at("some.st");
    run(
        &[&some, &some, "-o".as_ref(), &soup, exclude[0], exclude[1]],
        0,
    );
    let buffer = at("buffer.st");
    run(
        &[&buffer, &buffer, "-o".as_ref(), &soup, "--force".as_ref()],
        0,
    );
}

#[test]
fn what_messages_say_works_when_it_is_done() {
    let Some(python) = python::with(&["torch", "safetensors"]) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch/remedies.py");
    let output = Command::new(python)
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_sms-merge"))
        .arg(directory.path())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

/// Runs the program; its standard output and error.
fn run(arguments: &[&Path], status: i32) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sms-merge"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{found:?}");
    found
}

#[test]
fn a_soup_of_torch_files_is_that_of_their_tensors_and_is_verified() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let file = |name: &str| folder().join(name);
    let merge = |a: &Path, b: &Path, soup: &Path| {
        run(&[a, b, "-o".as_ref(), soup, "--no-sync".as_ref()], 0)
    };
    for pair in [
        ["model.pt", "wrapped_model.pt", "model.st"],
        ["views.pt", "views_legacy.pt", "views.st"],
        ["model_legacy.pt", "model.st", "model.st"],
    ] {
        let [a, b, expected] = pair.map(file);
        let (torch, plain) = (at("torch.st"), at("plain.st"));
        merge(&a, &b, &torch);
        merge(&expected, &expected, &plain);
        let open = |path: &Path| Checkpoint::open(path, &OpenOptions::default()).unwrap();
        assert_same(&open(&torch), &open(&plain), pair[0]);
        run(&["verify".as_ref(), &torch, &a, &b], 0);
        run(&["verify".as_ref(), &torch], 0);
        let (_, error) = run(&["verify".as_ref(), &torch, &a, &file("parallel.pt")], 3);
        assert!(error.contains("error"), "{error}");
        for soup in [torch, plain] {
            fs::remove_file(soup).unwrap();
        }
    }
}

#[test]
fn a_soup_of_mixed_names_needs_the_prefix_off() {
    let directory = tempfile::tempdir().unwrap();
    let soup = directory.path().join("soup.st");
    let (a, b) = (folder().join("model.pt"), folder().join("parallel.pt"));
    let (_, error) = run(&[&a, &b, "-o".as_ref(), &soup], 3);
    assert!(
        error.contains("`--strip-prefix module.` takes it off"),
        "{error}"
    );
    let strip: [&Path; 2] = ["--strip-prefix".as_ref(), "module.".as_ref()];
    run(&[&a, &b, "-o".as_ref(), &soup, strip[0], strip[1]], 0);
    run(&["verify".as_ref(), &soup, &a, &b, strip[0], strip[1]], 0);
}
