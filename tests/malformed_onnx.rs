//! Every way for a model to be refused, by file: `fixtures/onnx/malformed/` against the
//! public reader. A variant without a file fails, and so does a file that is accepted or
//! refused as another.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::path::Path;

use sms_merge::format::onnx::read::MOST_NODES;
use sms_merge::format::onnx::read::MOST_TENSORS;
use sms_merge::format::onnx::read::Model;
use sms_merge::format::onnx::read::OnnxError;
use sms_merge::format::onnx::read::ReadError;
use sms_merge::format::onnx::read::Scattered;
use sms_merge::format::onnx::read::first_difference;
use sms_merge::format::onnx::read::parse;

/// Bytes of structure that are enough for every file but the one that is over it.
const LIMIT: u64 = 1 << 20;

/// Names of the variants. A variant that is missing here does not compile.
macro_rules! variants {
    ($($variant:ident $name:literal)*) => {
        const VARIANTS: &[&str] = &[$($name,)*];

        fn variant(error: &OnnxError) -> &'static str {
            match error {
                $(OnnxError::$variant { .. } => $name,)*
            }
        }
    };
}

variants! {
    Varint "varint"
    Cut "cut"
    Group "group"
    WireType "wire-type"
    FieldNumber "field-number"
    FieldType "field-type"
    FieldTwice "field-twice"
    NotUtf8 "not-utf8"
    OverLimit "over-limit"
    TooDeep "too-deep"
    TooManyNodes "too-many-nodes"
    TooManyTensors "too-many-tensors"
    NoGraph "no-graph"
    Unnamed "unnamed"
    TensorTwice "tensor-twice"
    ElementType "element-type"
    Segment "segment"
    Shape "shape"
    Data "data"
    ByteLength "byte-length"
    Count "count"
    Element "element"
    External "external"
    Location "location"
    ExternalConstant "external-constant"
    Sparse "sparse"
    Place "place"
    Proportion "proportion"
}

/// Variants whose files would be large: they have tests of their own below.
const GENERATED: &[&str] = &["too-many-nodes", "too-many-tensors"];

/// Everything that is looked at when a model is opened.
fn read(file: &[u8], limit: u64) -> Result<Model, OnnxError> {
    let error = |error: ReadError<Infallible>| match error {
        ReadError::Onnx(error) => error,
        ReadError::Source(never) => match never {},
    };
    let model = parse(file, limit).map_err(error)?;
    model.check_proportion(file.len() as u64)?;
    for initializer in &model.initializers {
        Scattered::new(initializer, |_| file).map_err(error)?;
    }
    Ok(model)
}

fn files() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new("fixtures/onnx/malformed");
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "onnx") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            files.push((name, fs::read(path).unwrap()));
        }
    }
    assert!(!files.is_empty());
    files
}

#[test]
fn every_file_is_refused_as_its_name_says() {
    let mut seen = BTreeSet::new();
    for (name, file) in files() {
        let limit = if name == "over-limit" { 500 } else { LIMIT };
        let expected = name.split("--").next().unwrap();
        let error = read(&file, limit).expect_err(&name);
        assert_eq!(variant(&error), expected, "{name}: {error}");
        let text = error.to_string();
        assert!(!text.is_empty() && !text.ends_with('.'), "{name}: {text}");
        seen.insert(expected.to_owned());
    }
    for variant in VARIANTS {
        let has_file = seen.contains(*variant);
        assert_ne!(has_file, GENERATED.contains(variant), "{variant}");
    }
}

/// Whatever is read can be compared, either way round.
fn compare(first: (&[u8], &Model), other: (&[u8], &Model)) {
    let differ = |first, other| match first_difference(first, other, LIMIT) {
        Ok(difference) => difference.is_some(),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(differ(first, other), differ(other, first));
    assert!(!differ(other, other));
}

#[test]
fn every_beginning_and_every_changed_byte_of_a_model_is_read_or_refused() {
    for name in ["control_a", "f16_typed_a"] {
        let path = format!("fixtures/onnx/{name}.onnx");
        let file = fs::read(path).unwrap();
        let model = read(&file, LIMIT).unwrap();
        for end in 0..file.len() {
            let _ = read(&file[..end], LIMIT);
        }
        let mut changed = file.clone();
        for at in 0..file.len() {
            for flip in [0x01, 0x80] {
                changed[at] = file[at] ^ flip;
                if let Ok(other) = read(&changed, LIMIT) {
                    compare((&file, &model), (&changed, &other));
                }
            }
            changed[at] = file[at];
        }
    }
}

/// A field that holds bytes.
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

#[test]
fn there_is_a_limit_on_nodes_and_on_tensors() {
    let node = field(1, b"");
    let graph = node.repeat(MOST_NODES + 1);
    let error = read(&field(7, &graph), u64::MAX).unwrap_err();
    assert_eq!(error, OnnxError::TooManyNodes);

    let mut graph = Vec::new();
    for number in 0..=MOST_TENSORS as u32 {
        let mut tensor = vec![0x10, 1];
        tensor.extend(field(8, format!("{number:x}").as_bytes()));
        tensor.extend(field(9, &[0; 4]));
        graph.extend(field(5, &tensor));
    }
    let error = read(&field(7, &graph), u64::MAX).unwrap_err();
    assert_eq!(error, OnnxError::TooManyTensors);
}

#[test]
fn long_paths_of_many_graphs_count_as_what_they_take() {
    // A name of 10 kB stands before that of each of 1000 initialisers: 10 MB of names
    // in a file of 30 kB.
    let mut inner = Vec::new();
    for number in 0..1000 {
        let mut tensor = vec![0x10, 1];
        tensor.extend(field(8, number.to_string().as_bytes()));
        tensor.extend(field(9, &[0; 4]));
        inner.extend(field(5, &tensor));
    }
    let mut node = field(2, &[b'o'; 10_000]);
    node.extend(field(5, &field(6, &inner)));
    let file = field(7, &field(1, &node));
    assert!(file.len() < 40_000);
    let error = read(&file, LIMIT).unwrap_err();
    assert_eq!(error, OnnxError::OverLimit { limit: LIMIT });
}
