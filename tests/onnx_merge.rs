//! Models as ingredients and templates: soups against what numpy computed, graphs that
//! differ, files beside a model, and other programs that read what was written.
//!
//! `fixtures/onnx/make.py` wrote models and expectations; `fixtures/onnx/check.py` holds
//! soups against onnx, numpy and onnxruntime. Where Python or these packages are missing
//! that is skipped with a message, and fails under `SMS_MERGE_REQUIRE_PYTHON=1`.

#![expect(unreachable_pub, reason = "modules of a test have no other users")]

mod python;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::CheckpointError;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::map::Access;
use sms_merge::checkpoint::map::SourceError;
use tempfile::TempDir;

/// Packages of `fixtures/onnx/check.py`.
const PACKAGES: [&str; 3] = ["numpy", "onnx", "onnxruntime"];

/// Pairs of models, and the expectation of their soup.
const PAIRS: [(&str, &str); 13] = [
    ("legacy", "legacy"),
    ("legacy_folded", "legacy_folded"),
    ("dynamo", "dynamo"),
    ("dynamo_folded", "dynamo_folded"),
    ("typed", "typed"),
    ("sparse", "sparse"),
    ("bitmask", "legacy"),
    ("delta", "legacy"),
    ("external", "legacy"),
    ("f16", "f16"),
    ("f16_typed", "f16_typed"),
    ("bf16", "bf16"),
    ("control", "control"),
];

fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("fixtures/onnx").join(name)
}

fn run(words: &[impl AsRef<OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
    command.args(words).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeed(words: &[impl AsRef<OsStr>]) -> Output {
    let output = run(words);
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

#[track_caller]
fn refuse(words: &[impl AsRef<OsStr>], exit: i32, message: &str) {
    let output = run(words);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(exit), "{text}");
    assert!(text.contains(message), "{text}");
}

fn pair(name: &str) -> [PathBuf; 2] {
    ["a", "b"].map(|letter| fixture(&format!("{name}_{letter}.onnx")))
}

/// Merges a pair into `output`.
#[track_caller]
fn merge_pair(name: &str, output: &Path, more: &[&str]) {
    let [first, other] = pair(name);
    let mut words = vec![first.as_os_str(), other.as_os_str(), OsStr::new("-o")];
    words.push(output.as_os_str());
    words.extend(more.iter().map(OsStr::new));
    succeed(&words);
}

/// Name, type, shape and bytes of every tensor that is not the mask of another.
fn tensors(path: &Path, access: Access) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let options = OpenOptions {
        access,
        ..OpenOptions::default()
    };
    let checkpoint = Checkpoint::open(path, &options).unwrap();
    let read = |tensor: &sms_merge::checkpoint::StoredTensor| {
        let mut scratch = Vec::new();
        let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch);
        let dims = tensor.shape.dims().to_vec();
        (
            tensor.dtype.name().to_owned(),
            dims,
            bytes.unwrap().to_vec(),
        )
    };
    let tensors = checkpoint.weights();
    tensors
        .map(|tensor| (tensor.name.clone(), read(tensor)))
        .collect()
}

/// The same of a file that another program wrote, read by another crate.
fn expected(name: &str) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let bytes = fs::read(fixture(&format!("{name}_expected.st"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| {
            let dims = view.shape().iter().map(|&dim| dim as u64).collect();
            let dtype = view.dtype().to_string();
            (name.to_owned(), (dtype, dims, view.data().to_vec()))
        })
        .collect()
}

#[test]
fn soups_have_the_bits_that_numpy_computed() {
    let directory = tempfile::tempdir().unwrap();
    for (name, expectation) in PAIRS {
        let expected = expected(expectation);
        for (output, more) in [
            ("soup.st", &[][..]),
            ("soup.onnx", &[]),
            ("read.onnx", &["--no-mmap", "--threads", "1"]),
        ] {
            let soup = directory.path().join(format!("{name}-{output}"));
            merge_pair(name, &soup, more);
            for access in [Access::Mapped, Access::Pread] {
                assert!(tensors(&soup, access) == expected, "{name} {output}");
            }
        }
        let [mapped, read] = ["soup.onnx", "read.onnx"].map(|output| {
            let soup = directory.path().join(format!("{name}-{output}"));
            fs::read(soup).unwrap()
        });
        // The name of the file beside it is all that may differ.
        assert!(name == "external" || mapped == read, "{name}");
    }
}

#[test]
fn encodings_and_places_of_elements_change_no_bit() {
    // Torch writes zeros of both signs, and what leaves them out has no signs of them.
    let unsigned = |name: &str, access| {
        let mut tensors = tensors(&pair(name)[0], access);
        for (_, _, bytes) in tensors.values_mut() {
            for element in bytes.as_chunks_mut::<4>().0 {
                if *element == (-0.0_f32).to_le_bytes() {
                    *element = [0; 4];
                }
            }
        }
        tensors
    };
    let plain = unsigned("legacy", Access::Mapped);
    for name in ["typed", "sparse", "bitmask", "delta", "external"] {
        for access in [Access::Mapped, Access::Pread] {
            assert!(unsigned(name, access) == plain, "{name}");
        }
    }
    let half = tensors(&pair("f16")[0], Access::Mapped);
    assert!(tensors(&pair("f16_typed")[0], Access::Mapped) == half);
}

#[test]
fn models_with_one_graph_merge_however_they_store_weights() {
    let directory = tempfile::tempdir().unwrap();
    let soup = directory.path().join("soup.onnx");
    let expected = expected("legacy");
    for first in ["legacy", "typed", "sparse", "bitmask", "delta", "external"] {
        for other in ["legacy", "sparse", "bitmask", "delta"] {
            let (first, other) = (&pair(first)[0], &pair(other)[1]);
            let words = [first.as_os_str(), other.as_os_str()];
            let more = ["-o".as_ref(), soup.as_os_str(), "--force".as_ref()];
            succeed(&[&words[..], &more].concat());
            let found = tensors(&soup, Access::Mapped);
            assert!(found == expected, "{first:?} {other:?}");
        }
    }
}

#[test]
fn soups_are_proved_and_changed_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    for (name, _) in PAIRS {
        let soup = directory.path().join(format!("{name}.onnx"));
        merge_pair(name, &soup, &[]);
        let [first, other] = pair(name);
        let proof = [
            "verify".as_ref(),
            soup.as_os_str(),
            first.as_os_str(),
            other.as_os_str(),
        ];
        succeed(&proof);
        succeed(&proof[..2]);
        // The last byte of the largest tensor.
        let options = OpenOptions::default();
        let checkpoint = Checkpoint::open(&soup, &options).unwrap();
        let weights = checkpoint.weights();
        let weight = weights
            .filter(|tensor| tensor.dtype.is_float())
            .max_by_key(|tensor| tensor.stored_bytes())
            .unwrap();
        let file = checkpoint.shards()[weight.shard].source().path();
        let mut bytes = fs::read(file).unwrap();
        let at = (weight.offset + weight.stored_bytes() - 1) as usize;
        bytes[at] ^= 0x40;
        fs::write(file, bytes).unwrap();
        refuse(&proof, 6, "");
        refuse(&proof[..2], 6, "");
    }
}

#[test]
fn graphs_that_differ_are_refused_with_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let soup = directory.path().join("soup.st");
    let check = |first: &str, other: &str, place: &str| {
        let words = [fixture(first), fixture(other), "-o".into(), soup.clone()];
        refuse(&words, 3, place);
        assert!(!soup.exists());
    };
    check("legacy_a.onnx", "legacy_folded_b.onnx", "node 0 (`Conv`)");
    check("legacy_a.onnx", "control_b.onnx", "first in ");
    check("f16_a.onnx", "bf16_b.onnx", "do not hold the same tensors");
    check("legacy_a.onnx", "net_b.st", "is an ONNX model and");
    check("net_a.st", "legacy_b.onnx", "is an ONNX model and");

    // One attribute, one name, one operator: bytes of the same length.
    let edit = |name: &str, from: &[u8], to: &[u8]| {
        let mut bytes = fs::read(fixture(name)).unwrap();
        let places = bytes.windows(from.len());
        let at = places.rev().position(|window| window == from);
        let at = bytes.len() - from.len() - at.expect("the bytes are there");
        bytes[at..][..to.len()].copy_from_slice(to);
        let path = directory.path().join("edited.onnx");
        fs::write(&path, bytes).unwrap();
        path
    };
    let check = |name: &str, from: &[u8], to: &[u8], place: &str| {
        let edited = edit(&format!("{name}_b.onnx"), from, to);
        let first = fixture(&format!("{name}_a.onnx"));
        refuse(&[first, edited, "-o".into(), soup.clone()], 3, place);
    };
    // The value of the last `transB`.
    check(
        "legacy",
        b"\x0a\x06transB\x18\x01",
        b"\x0a\x06transB\x18\x00",
        "(`Gemm`), attribute `transB`",
    );
    check(
        "legacy",
        b"\x22\x07Flatten",
        b"\x22\x07Flottan",
        "(`Flatten` and `Flottan`)",
    );
    check(
        "control",
        b"\x22\x06MatMul",
        b"\x22\x06MatMux",
        "node 3 (`Loop`), attribute `body`, node 0 (`MatMul` and `MatMux`)",
    );
    // What decides nothing may differ.
    let renamed = edit("legacy_b.onnx", b"pytorch", b"pytouch");
    let words = [fixture("legacy_a.onnx"), renamed, "-o".into(), soup.clone()];
    succeed(&words);
}

#[test]
fn the_output_says_which_format_and_which_options_fit() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let merge = |name: &str, output: &str, more: &[&str]| -> Vec<PathBuf> {
        let [first, other] = pair(name);
        let words = [first, other, "-o".into(), at(output)];
        let more = more.iter().map(PathBuf::from);
        words.into_iter().chain(more).collect()
    };
    let soup = "soup.onnx";
    refuse(&merge("legacy", soup, &["--dtype", "f16"]), 2, "--dtype");
    refuse(
        &merge("legacy", soup, &["--exclude", "fc.*"]),
        2,
        "--exclude",
    );
    refuse(
        &merge("sparse", soup, &["--on-mask-mismatch", "union"]),
        2,
        "--on-mask-mismatch",
    );
    succeed(&merge("legacy", soup, &["--on-mask-mismatch", "union"]));
    refuse(&merge("legacy", soup, &[]), 2, "exists");
    succeed(&merge("external", "x.onnx", &[]));
    assert!(at("x.onnx.data").exists());
    refuse(&merge("external", "x.onnx", &[]), 2, "exists");
    // The new weights have a name that the old model does not know, and the old ones go.
    succeed(&merge("external", "x.onnx", &["--force"]));
    assert!(at("x.onnx.2.data").exists() && !at("x.onnx.data").exists());
    succeed(&merge("external", "x.onnx", &["--force"]));
    assert!(at("x.onnx.data").exists() && !at("x.onnx.2.data").exists());
    fs::remove_file(at("x.onnx")).unwrap();
    refuse(&merge("external", "x.onnx", &[]), 2, "x.onnx.data");

    // No graph to put the weights of a checkpoint into, and no safetensors called so.
    let st = [fixture("net_a.st"), fixture("net_b.st")];
    let words = [&st[..], &["-o".into(), at("n.onnx")]].concat();
    refuse(&words, 2, "needs a graph");
    let prune = [
        "prune".into(),
        fixture("net_a.st"),
        "--sparsity".into(),
        "0.9".into(),
    ];
    let words = [&prune[..], &["-o".into(), at("p.onnx")]].concat();
    refuse(&words, 2, "named like an ONNX model");
    assert!(!at("n.onnx").exists() && !at("p.onnx").exists());
}

/// A copy of the model with external data, in a folder of its own.
fn external() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for name in ["external_a.onnx", "external_a.data"] {
        fs::copy(fixture(name), directory.path().join(name)).unwrap();
    }
    let model = directory.path().join("external_a.onnx");
    (directory, model)
}

#[test]
fn files_beside_a_model_must_be_there_whole_and_regular() {
    let open = |path: &Path| Checkpoint::open(path, &OpenOptions::default());
    let (directory, model) = external();
    let data = directory.path().join("external_a.data");
    open(&model).unwrap();

    let len = fs::metadata(&data).unwrap().len();
    let file = fs::File::options().write(true).open(&data).unwrap();
    file.set_len(len - 1).unwrap();
    let error = open(&model).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::ExternalData { found, .. } if *found == len - 1),
        "{error}"
    );

    fs::remove_file(&data).unwrap();
    let error = open(&model).unwrap_err();
    let is_missing = matches!(
        &error,
        CheckpointError::Beside { model: named, source } if *named == model
            && matches!(&**source, SourceError::Missing { path, .. } if *path == data)
    );
    assert!(is_missing, "{error}");

    let output = run(&["inspect".as_ref(), model.as_os_str()]);
    assert_eq!(output.status.code(), Some(5));
    let said = String::from_utf8(output.stderr).unwrap();
    for part in ["external_a.onnx", "external_a.data", "copy both"] {
        assert!(said.contains(part), "{said}");
    }

    // A link leads to the file of somebody else.
    for to in [
        fixture("external_a.data").to_str().unwrap(),
        "/dev/zero",
        "/",
    ] {
        symlink(to, &data).unwrap();
        let error = open(&model).unwrap_err();
        let is_refused = matches!(
            &error,
            CheckpointError::BesideOutside { model: named, file } if *named == model && *file == data
        );
        assert!(is_refused, "{error}");
        fs::remove_file(&data).unwrap();
    }
    // What the message says helps: the file in place of the link.
    fs::copy(fixture("external_a.data"), &data).unwrap();
    open(&model).unwrap();

    fs::remove_file(&data).unwrap();
    fs::create_dir(&data).unwrap();
    let error = open(&model).unwrap_err();
    let is_refused = matches!(
        &error,
        CheckpointError::Beside { source, .. }
            if matches!(**source, SourceError::NotRegular { .. })
    );
    assert!(is_refused, "{error}");
}

#[test]
fn files_beside_a_model_may_be_links_within_its_folder_and_its_cache() {
    let (directory, model) = external();
    let at = |name: &str| directory.path().join(name);
    let open = |path: &Path| Checkpoint::open(path, &OpenOptions::default()).unwrap();
    fs::rename(at("external_a.data"), at("own.data")).unwrap();
    symlink("own.data", at("external_a.data")).unwrap();
    open(&model);

    // A link to the model finds the files beside what it leads to, by links too.
    fs::create_dir(at("links")).unwrap();
    for name in ["external_a.onnx", "external_a.data"] {
        symlink(at(name), at("links").join(name)).unwrap();
    }
    open(&at("links/external_a.onnx"));

    // The cache of Hugging Face is made of links to regular files.
    let snapshot = at("hub/snapshots/revision/onnx");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(at("hub/blobs")).unwrap();
    for name in ["external_a.onnx", "external_a.data"] {
        fs::copy(at(name), at("hub/blobs").join(name)).unwrap();
        symlink(format!("../../../blobs/{name}"), snapshot.join(name)).unwrap();
    }
    open(&snapshot.join("external_a.onnx"));
}

#[test]
fn models_are_told_by_their_content_and_damaged_ones_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let other_name = directory.path().join("model.bin");
    fs::copy(fixture("legacy_a.onnx"), &other_name).unwrap();
    let options = OpenOptions::default();
    let checkpoint = Checkpoint::open(&other_name, &options).unwrap();
    assert!(checkpoint.model().is_some());
    let damaged = directory.path().join("x.onnx");
    let bytes = fs::read(fixture("legacy_a.onnx")).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    let error = Checkpoint::open(&damaged, &options).unwrap_err();
    assert!(matches!(error, CheckpointError::Onnx { .. }), "{error}");
    refuse(&["inspect".as_ref(), damaged.as_os_str()], 3, "cut short");
}

#[track_caller]
fn check(python: &Path, words: &[impl AsRef<OsStr>]) {
    let mut command = Command::new(python);
    command.arg(fixture("check.py")).args(words);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn other_programs_read_soups_and_find_numpys_bits_in_them() {
    let Some(python) = python::with(&PACKAGES) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    for (name, expectation) in PAIRS {
        let soup = directory.path().join(format!("{name}.onnx"));
        merge_pair(name, &soup, &[]);
        if ["bitmask", "delta"].contains(&name) {
            // Their values are no list of the tensors of `expected`.
            let plain = directory.path().join("legacy.onnx");
            check(
                &python,
                &[
                    "--same-logits".as_ref(),
                    soup.as_os_str(),
                    plain.as_os_str(),
                ],
            );
            continue;
        }
        let expected = fixture(&format!("{expectation}_expected.st"));
        check(&python, &[soup, pair(name)[0].clone(), expected]);
    }
}

/// A soup of the checkpoints that the models were exported from.
fn soup_of_checkpoints(directory: &Path) -> PathBuf {
    let soup = directory.join("soup.st");
    let words = [fixture("net_a.st"), fixture("net_b.st"), "-o".into()];
    succeed(&[&words[..], std::slice::from_ref(&soup)].concat());
    soup
}

/// Words for an export of `soup` with a template.
fn export(soup: &Path, output: &Path, template: &str, more: &[&str]) -> Vec<PathBuf> {
    let words = [
        "export".into(),
        soup.to_owned(),
        "-o".into(),
        output.to_owned(),
    ];
    let source = ["--source".into(), fixture("net_a.st")];
    let template = ["--template".into(), fixture(template)];
    let more: Vec<PathBuf> = more.iter().map(PathBuf::from).collect();
    [&words[..], &template, &source, &more].concat()
}

#[test]
fn a_template_takes_the_weights_of_a_soup_transposed_where_it_has_them_so() {
    let directory = tempfile::tempdir().unwrap();
    let soup = soup_of_checkpoints(directory.path());
    let merged = directory.path().join("merged.onnx");
    merge_pair("legacy", &merged, &[]);
    let merged = tensors(&merged, Access::Mapped);
    let of_soup = tensors(&soup, Access::Mapped);
    for template in ["legacy_a", "dynamo_a", "typed_a", "external_a"] {
        let output = directory.path().join(format!("{template}.onnx"));
        succeed(&export(&soup, &output, &format!("{template}.onnx"), &[]));
        let found = tensors(&output, Access::Mapped);
        for (name, tensor) in &found {
            assert!(of_soup[name] == *tensor, "{template} {name}");
        }
        assert_eq!(found.len(), merged.len());
        assert!(template != "legacy_a" || found == merged);
    }
    let output = directory.path().join("transposed.onnx");
    let words = export(&soup, &output, "transposed_a.onnx", &["--json"]);
    let report = succeed(&words);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let replaced = report["replaced"].as_array().unwrap();
    let transposed: Vec<_> = replaced
        .iter()
        .filter(|one| one["transposed"] == true)
        .collect();
    assert_eq!(transposed.len(), 1);
    assert_eq!(transposed[0]["initializer"], "fc_t");
    assert_eq!(transposed[0]["tensor"], "fc.weight");
    let found = tensors(&output, Access::Mapped);
    let (_, dims, weight) = &of_soup["fc.weight"];
    let (_, transposed_dims, transposed) = &found["fc_t"];
    assert_eq!(
        (dims.as_slice(), transposed_dims.as_slice()),
        (&[5, 96][..], &[96, 5][..])
    );
    for (row, column) in (0..5).flat_map(|row| (0..96).map(move |column| (row, column))) {
        let element = |bytes: &[u8], at: usize| bytes[4 * at..4 * at + 4].to_vec();
        let (from, to) = (row * 96 + column, column * 5 + row);
        assert_eq!(element(weight, from), element(transposed, to));
    }
    if let Some(python) = python::with(&PACKAGES) {
        let legacy = directory.path().join("legacy_a.onnx");
        check(
            &python,
            &[
                "--same-logits".as_ref(),
                output.as_os_str(),
                legacy.as_os_str(),
            ],
        );
    }
}

#[test]
fn templates_whose_weights_were_changed_are_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let soup = soup_of_checkpoints(directory.path());
    let output = directory.path().join("x.onnx");
    let check = |template: &str, more: &[&str], exit, message: &str| {
        refuse(&export(&soup, &output, template, more), exit, message);
        assert!(!output.exists());
    };
    check("dynamo_folded_a.onnx", &[], 3, "optimize=False");
    check("legacy_folded_a.onnx", &[], 3, "do_constant_folding=False");
    // Exported from another checkpoint than the one that is named.
    check(
        "legacy_b.onnx",
        &[],
        3,
        "the bytes of no tensor of the source",
    );
    check("sparse_a.onnx", &[], 3, "is sparse; a template is dense");
    check("net_a.st", &[], 3, "is no ONNX model");
    // Kept initialisers stay, but then tensors of the source are left over.
    check(
        "legacy_folded_a.onnx",
        &["--keep", "onnx::*"],
        3,
        "`--keep` it",
    );
    let words = ["export", "a.st", "-o", "b.onnx", "--template", "c.onnx"];
    refuse(&words, 2, "--source");
    // What a template takes no notice of.
    for more in [["--dense", "fc*"], ["--classes", "3"]] {
        check("legacy_a.onnx", &more, 2, "does not go with `--template`");
    }
    let words = export(&soup, &directory.path().join("x.st"), "legacy_a.onnx", &[]);
    refuse(&words, 2, "`--template` makes an ONNX model");
    let keep = ["--keep", "onnx::*", "--keep", "bn1.*", "--keep", "conv1.*"];
    succeed(&export(&soup, &output, "legacy_folded_a.onnx", &keep));
    refuse(&export(&soup, &output, "legacy_a.onnx", &[]), 2, "exists");
    let own = directory.path().join("own.onnx");
    fs::copy(fixture("legacy_a.onnx"), &own).unwrap();
    let template = ["--template".into(), own.clone()];
    let own = ["export".into(), soup, "-o".into(), own];
    let source = ["--source".into(), fixture("net_a.st")];
    refuse(
        &[&own[..], &template, &source].concat(),
        2,
        "inputs are never written to",
    );
}

/// Writes a checkpoint again with one more tensor, `twin.weight`: the bytes of another.
fn with_twin(from: &Path, of: &str, to: &Path) {
    let bytes = fs::read(from).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let twin = ("twin.weight".to_owned(), file.tensor(of).unwrap());
    let others = file.iter().map(|(name, tensor)| (name.to_owned(), tensor));
    let all: Vec<(String, TensorView<'_>)> = others.chain([twin]).collect();
    safetensors::serialize_to_file(all, None, to).unwrap();
}

/// Exporters make one initialiser of tensors with the same bytes: a soup in which they
/// differ has no place for them.
#[test]
fn an_initialiser_that_stands_for_two_tensors_takes_no_soup_in_which_they_differ() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let soup = soup_of_checkpoints(directory.path());
    with_twin(&fixture("net_a.st"), "bn1.weight", &at("source.st"));
    with_twin(&soup, "bn1.weight", &at("same.st"));
    with_twin(&soup, "bn1.bias", &at("other.st"));
    let words = |soup: &str, more: &[&str]| {
        let output = format!("{soup}.onnx");
        let mut words = vec!["export".into(), at(soup), "-o".into(), at(&output)];
        words.extend(["--template".into(), fixture("legacy_a.onnx")]);
        words.extend(["--source".into(), at("source.st")]);
        words.extend(more.iter().map(PathBuf::from));
        words
    };
    succeed(&words("same.st", &[]));
    let message = "may be `bn1.weight` or `twin.weight`";
    refuse(&words("other.st", &[]), 3, message);
    assert!(!at("other.st.onnx").exists());
    succeed(&words("other.st", &["--keep", "twin.*"]));
}

/// A checkpoint of a network with 100 inputs, 7 hidden units and 3 classes, of whose
/// weights few are retained; one of these is zero.
fn sparse_checkpoint(path: &Path, seed: u32) {
    let mut tensors = Vec::new();
    for (name, dims) in [
        ("fc1.weight", vec![7, 100]),
        ("fc1.bias", vec![7]),
        ("fc2.weight", vec![3, 7]),
        ("fc2.bias", vec![3]),
    ] {
        let numel: usize = dims.iter().product();
        let value = |at: usize| match dims.len() {
            // Gaps of more than 255 places, of one, and of none at the start.
            2 if numel == 700 && ![0, 1, 299, 555, 699].contains(&at) => 0.0,
            2 if numel == 21 && at % 5 != 2 => 0.0,
            _ => (at as f32 + 1.0) / (seed as f32 + 2.0),
        };
        let bytes: Vec<u8> = (0..numel).flat_map(|at| value(at).to_le_bytes()).collect();
        tensors.push((name, dims, bytes));
    }
    let views = tensors.iter().map(|(name, dims, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, dims.clone(), bytes);
        (*name, view.unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn what_is_exported_is_read_back_and_merges_to_the_same_soup() {
    for dtype in ["f32", "f16", "bf16", "f64"] {
        is_read_back(dtype);
    }
}

fn is_read_back(dtype: &str) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let model = [
        "--model=mlp",
        "--option=hidden=7",
        "--input=1x10x10",
        "--classes=3",
        "--force",
    ];
    for (seed, name) in ["a.st", "b.st"].into_iter().enumerate() {
        sparse_checkpoint(&at("f32.st"), seed as u32);
        // Copies of a checkpoint merge to itself, in any type.
        let words = ["--dtype", dtype, "--force", "-o"].map(PathBuf::from);
        let copies = [at("f32.st"), at("f32.st")];
        succeed(&[&copies[..], &words, &[at(name)]].concat());
    }
    succeed(&[at("a.st"), at("b.st"), "-o".into(), at("soup.st")]);
    let expected = tensors(&at("soup.st"), Access::Mapped);
    for encoding in ["dense", "bitmask", "delta", "sparse-initializer"] {
        for name in ["a", "b"] {
            let (from, to) = (at(&format!("{name}.st")), at(&format!("{name}.onnx")));
            let option = format!("--onnx-encoding={encoding}");
            let words = [
                "export".into(),
                from.clone(),
                "-o".into(),
                to.clone(),
                option.into(),
            ];
            let model = model.iter().map(PathBuf::from);
            succeed(&words.into_iter().chain(model).collect::<Vec<_>>());
            let found = tensors(&to, Access::Mapped);
            assert!(
                found == tensors(&from, Access::Mapped),
                "{dtype} {encoding}"
            );
        }
        for output in ["soup.onnx", "again.st"] {
            let words = [
                at("a.onnx"),
                at("b.onnx"),
                "-o".into(),
                at(output),
                "--force".into(),
            ];
            succeed(&words);
            assert!(
                tensors(&at(output), Access::Mapped) == expected,
                "{dtype} {encoding}"
            );
            succeed(&["verify".into(), at(output), at("a.onnx"), at("b.onnx")]);
        }
        if let Some(python) = python::with(&PACKAGES) {
            let dense = at("dense.onnx");
            if encoding == "dense" {
                fs::copy(at("soup.onnx"), &dense).unwrap();
            }
            check(&python, &["--same-logits".into(), at("soup.onnx"), dense]);
        }
    }
}

/// A field of a protobuf message that holds bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut len = content.len();
    while len >= 0x80 {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend_from_slice(content);
    bytes
}

/// A model that adds so many initialisers of four elements to its input, one by one.
fn sums(n_layers: usize, value: f32) -> Vec<u8> {
    let text = |number: u8, text: &str| field(number, text.as_bytes());
    let mut graph = Vec::new();
    for layer in 0..n_layers {
        let (input, output) = (format!("x{layer}"), format!("x{}", layer + 1));
        let name = format!("model.layers.{layer}.bias");
        let node = [
            text(1, &input),
            text(1, &name),
            text(2, &output),
            text(4, "Add"),
        ];
        graph.extend(field(1, &node.concat()));
    }
    graph.extend(text(2, "sums"));
    for layer in 0..n_layers {
        let elements = (value + layer as f32).to_le_bytes().repeat(4);
        let tensor = [
            vec![0x08, 4, 0x10, 1],
            text(8, &format!("model.layers.{layer}.bias")),
            field(9, &elements),
        ];
        graph.extend(field(5, &tensor.concat()));
    }
    for (number, name) in [(11, "x0".to_owned()), (12, format!("x{n_layers}"))] {
        // A tensor of floats with one dimension of 4.
        let shape = field(2, &field(1, &[0x08, 4]));
        let kind = field(1, &[vec![0x08, 1], shape].concat());
        graph.extend(field(number, &[text(1, &name), field(2, &kind)].concat()));
    }
    [vec![0x08, 8], field(7, &graph), field(8, &[0x10, 17])].concat()
}

#[test]
fn a_certificate_of_any_length_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("a.onnx"), sums(900, 1.0)).unwrap();
    fs::write(at("b.onnx"), sums(900, 2.0)).unwrap();
    let words = [at("a.onnx"), at("b.onnx"), "-o".into(), at("soup.onnx")];
    succeed(&words);
    let checkpoint = Checkpoint::open(&at("soup.onnx"), &OpenOptions::default()).unwrap();
    let certificate = checkpoint.metadata()["sms_merge"].len();
    assert!(certificate > usize::from(u16::MAX), "{certificate}");
    let proof = ["verify".into(), at("soup.onnx"), at("a.onnx"), at("b.onnx")];
    succeed(&proof[..2]);
    succeed(&proof);
}

/// Packages that the remedies for graphs that differ are made of.
const REMEDIES: [&str; 3] = ["numpy", "onnx", "onnxruntime"];

/// Runs what stands after `next:` and its colon, as a shell does.
#[track_caller]
fn follow(directory: &Path, output: &Output, python: &Path) {
    let text = stderr(output);
    let next = text.lines().find_map(|line| line.strip_prefix("next: "));
    let (_, command) = next.expect(&text).split_once(": ").unwrap();
    let command = command.replace("python -c", &format!("{} -c", python.display()));
    let mut shell = Command::new("sh");
    let done = shell
        .args(["-c", &command])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(done.status.success(), "{command}: {}", stderr(&done));
}

#[test]
fn remedies_for_graphs_that_differ_work() {
    let Some(python) = python::with(&REMEDIES) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let script = fixture("constants.py");
    let made = Command::new(&python)
        .arg(script)
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let merge = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        command
            .args(words)
            .current_dir(directory.path())
            .output()
            .unwrap()
    };

    // Numbers that no layer takes as its weights stay constants.
    let refused = merge(&["scale_a.onnx", "scale_b.onnx", "-o", "scale.onnx"]);
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    follow(directory.path(), &refused, &python);
    let names = ["scale_a-initialisers.onnx", "scale_b-initialisers.onnx"];
    let done = merge(&[names[0], names[1], "-o", "scale.onnx"]);
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(
        tensors(&directory.path().join("scale.onnx"), Access::Mapped).len(),
        2
    );

    let refused = merge(&["named_a.onnx", "named_b.onnx", "-o", "named.onnx"]);
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    follow(directory.path(), &refused, &python);
    let done = merge(&["named_a.onnx", "named_b.renamed.onnx", "-o", "named.onnx"]);
    assert!(done.status.success(), "{}", stderr(&done));
}

/// A model of one product and one sum, with its weights in a constant, as an initialiser,
/// or sparse in either way.
fn product(how: &str, weights: [f32; 6], bias: [f32; 3]) -> Vec<u8> {
    let text = |number: u8, text: &str| field(number, text.as_bytes());
    let floats = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    let dense = |name: &str| {
        let dims = vec![0x08, 2, 0x08, 3, 0x10, 1];
        [dims, text(8, name), field(9, &floats(&weights))].concat()
    };
    let sparse = |name: &str| {
        let places: Vec<u64> = (0..6).filter(|&at| weights[at as usize] != 0.0).collect();
        let values: Vec<f32> = places.iter().map(|&at| weights[at as usize]).collect();
        let n = places.len() as u8;
        let values = [
            vec![0x08, n, 0x10, 1],
            text(8, name),
            field(9, &floats(&values)),
        ];
        let places: Vec<u8> = places
            .iter()
            .flat_map(|place| place.to_le_bytes())
            .collect();
        let places = [vec![0x08, n, 0x10, 7], field(9, &places)];
        let parts = [field(1, &values.concat()), field(2, &places.concat())];
        [parts.concat(), vec![0x18, 2, 0x18, 3]].concat()
    };
    // An attribute: its name, its value, and that it is a tensor or a sparse one. The
    // number of the field takes two bytes.
    let constant = |attribute: Vec<u8>| {
        let attribute = field(5, &attribute);
        field(1, &[text(2, "w"), text(4, "Constant"), attribute].concat())
    };
    let mut graph = match how {
        "constant" => constant([text(1, "value"), field(5, &dense("")), vec![0xa0, 1, 4]].concat()),
        "sparse constant" => {
            let inner = sparse("");
            let value = [vec![0xb2, 1, inner.len() as u8], inner].concat();
            constant([text(1, "sparse_value"), value, vec![0xa0, 1, 11]].concat())
        }
        _ => Vec::new(),
    };
    let node = |op: &str, inputs: [&str; 2], output: &str| {
        let [first, second] = inputs.map(|input| text(1, input));
        field(1, &[first, second, text(2, output), text(4, op)].concat())
    };
    graph.extend(node("MatMul", ["x", "w"], "h"));
    graph.extend(node("Add", ["h", "b"], "y"));
    graph.extend(text(2, "g"));
    if how == "initialiser" {
        graph.extend(field(5, &dense("w")));
    }
    let bias = [
        vec![0x08, 3, 0x10, 1],
        text(8, "b"),
        field(9, &floats(&bias)),
    ];
    graph.extend(field(5, &bias.concat()));
    if how == "sparse initialiser" {
        graph.extend(field(15, &sparse("w")));
    }
    for (number, name, dim) in [(11, "x", 2), (12, "y", 3)] {
        let shape = field(2, &field(1, &[0x08, dim]));
        let kind = field(1, &[vec![0x08, 1], shape].concat());
        graph.extend(field(number, &[text(1, name), field(2, &kind)].concat()));
    }
    [vec![0x08, 8], field(7, &graph), field(8, &[0x10, 17])].concat()
}

#[test]
fn weights_in_constants_are_weights() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let ways = [
        "constant",
        "initialiser",
        "sparse constant",
        "sparse initialiser",
    ];
    let mean: Vec<u8> = [2_f32, 0.0, 3.0, 4.0, 0.0, 5.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    for first in ways {
        for other in ways {
            let model = product(first, [1.0, 0.0, 2.0, 3.0, 0.0, 4.0], [1.0, 2.0, 3.0]);
            fs::write(at("a.onnx"), model).unwrap();
            let model = product(other, [3.0, 0.0, 4.0, 5.0, 0.0, 6.0], [1.0, 2.0, 3.0]);
            fs::write(at("b.onnx"), model).unwrap();
            let words = [at("a.onnx"), at("b.onnx"), "-o".into(), at("soup.onnx")];
            succeed(&[&words[..], &["--force".into()]].concat());
            let found = tensors(&at("soup.onnx"), Access::Mapped);
            assert_eq!(found["w"].1, [2, 3], "{first} {other}");
            assert_eq!(found["w"].2, mean, "{first} {other}");
            let proof = ["verify".into(), at("soup.onnx"), at("a.onnx"), at("b.onnx")];
            succeed(&proof[..2]);
            succeed(&proof);
        }
    }
}
