//! Every way to be refused, by file: `fixtures/malformed/` against the public
//! readers. A file without a case fails, and so does an error without a file.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::CheckpointError;
use sms_merge::checkpoint::CompactError;
use sms_merge::checkpoint::ContentError;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::map::SourceError;
use sms_merge::format::safetensors::DEFAULT_HEADER_LIMIT;
use sms_merge::format::safetensors::Header;
use sms_merge::format::safetensors::HeaderError;
use sms_merge::format::safetensors::header_len;
use sms_merge::format::safetensors::parse;
use sms_merge::format::shard_index;
use sms_merge::format::shard_index::ShardIndexError;
use sms_merge::format::sniff::Foreign;
use sms_merge::format::sniff::sniff;

/// Variants of an enum by name. A variant that is missing here does not compile.
macro_rules! variants {
    ($all:ident, $name:ident, $kind:ident: $($variant:ident)*) => {
        const $all: &[&str] = &[$(concat!(stringify!($kind), "::", stringify!($variant)),)*];

        fn $name(value: &$kind) -> &'static str {
            match value {
                $($kind::$variant { .. } =>
                    concat!(stringify!($kind), "::", stringify!($variant)),)*
            }
        }
    };
}

variants! { HEADER_ERRORS, header_error, HeaderError:
    TooShort OverFormatLimit PastEnd OverLimit NotUtf8 NotAnObject Json MetadataTwice
    MetadataNotObject MetadataKeyTwice MetadataValue TensorTwice TensorNotObject UnknownField
    MissingField FieldTwice DtypeNotText UnknownDtype ShapeEntry ShapeOverflow PartialByte
    OffsetsNotPair OffsetsReversed PastBuffer ByteLength Hole Overlap TrailingBytes
}

variants! { INDEX_ERRORS, index_error, ShardIndexError:
    NotUtf8 Json NotAnObject FieldTwice MetadataNotObject MissingWeightMap WeightMapNotObject
    TensorTwice FileNotText NotBaseName
}

variants! { FOREIGN, foreign, Foreign:
    Empty LfsPointer Html Xml Zip Pickle Tar Gguf Hdf5 Gzip Zstd Npy Json Tflite
}

variants! { COMPACT_ERRORS, compact_error, CompactError:
    Record Version DeclaredTwice Shape Dtype Missing Part Twice NotContiguous
}

variants! { CONTENT_ERRORS, content_error, ContentError:
    Onnx Count Padding Place RowOffset
}

/// What a file is refused as.
enum Refusal {
    Header(HeaderError),
    Index(ShardIndexError),
    Foreign(Foreign),
    Compact(CompactError),
    Content(ContentError),
}

impl Refusal {
    fn variant(&self) -> &'static str {
        match self {
            Self::Header(error) => header_error(error),
            Self::Index(error) => index_error(error),
            Self::Foreign(kind) => foreign(kind),
            Self::Compact(error) => compact_error(error),
            Self::Content(error) => content_error(error),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Header(error) => whole_message(error),
            Self::Index(error) => whole_message(error),
            Self::Foreign(kind) => format!("{kind}; {}", kind.remedy()),
            Self::Compact(error) => whole_message(error),
            Self::Content(error) => whole_message(error),
        }
    }
}

/// The message and those of its sources, as the binary shows them.
fn whole_message(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", whole_message(source)),
        None => error.to_string(),
    }
}

fn read_header(file: &[u8], limit: u64) -> Result<Header, HeaderError> {
    let header_bytes = header_len(file, file.len() as u64, limit)?;
    let (json, data) = file[8..].split_at(usize::try_from(header_bytes).unwrap());
    parse(json, data.len() as u64)
}

/// Why a checkpoint with compact tensors is not opened, or not read.
fn compact_refusal(name: &str) -> Refusal {
    let path = folder().join(name);
    let path = if path.is_dir() {
        path
    } else {
        path.with_extension("safetensors")
    };
    let checkpoint = match Checkpoint::open(&path, &OpenOptions::default()) {
        Ok(checkpoint) => checkpoint,
        Err(CheckpointError::Compact { source, .. }) => return Refusal::Compact(source),
        Err(error) => panic!("{name}: {error:?}"),
    };
    let mut read = checkpoint.tensors().iter().map(|tensor| {
        let mut scratch = Vec::new();
        let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch);
        bytes.map(<[u8]>::len)
    });
    match read.find_map(Result::err).expect(name) {
        SourceError::Content { source, .. } => Refusal::Content(source),
        error => panic!("{name}: {error:?}"),
    }
}

/// Reads a file of the folder as its name says.
fn refusal(name: &str, file: &[u8]) -> Refusal {
    if name.starts_with("compact-") {
        return compact_refusal(name);
    }
    if name.starts_with("index-") {
        return Refusal::Index(shard_index::parse(file).expect_err(name));
    }
    if name.starts_with("foreign-") {
        return Refusal::Foreign(sniff(file).expect(name));
    }
    let limit = if name.starts_with("over-limit") {
        255
    } else {
        DEFAULT_HEADER_LIMIT
    };
    assert_eq!(sniff(file), None, "{name}");
    Refusal::Header(read_header(file, limit).expect_err(name))
}

/// File without its ending, a test of the exact variant, a part of its message.
type Case = (&'static str, fn(&Refusal) -> bool, &'static str);

macro_rules! case {
    ($file:literal, $refusal:ident($pattern:pat $(if $guard:expr)?), $message:literal) => {
        ($file, |found| matches!(found, Refusal::$refusal($pattern) $(if $guard)?), $message)
    };
}

const CASES: &[Case] = &[
    case!(
        "too-short",
        Header(HeaderError::TooShort { found: 7 }),
        "7 bytes"
    ),
    case!(
        "over-format-limit",
        Header(HeaderError::OverFormatLimit {
            header_bytes: 100_000_001
        }),
        "limit of 100000000"
    ),
    case!(
        "over-format-limit--wraps",
        Header(HeaderError::OverFormatLimit {
            header_bytes: 0xffff_ffff_ffff_fff8
        }),
        "18446744073709551608"
    ),
    case!(
        "past-end",
        Header(HeaderError::PastEnd {
            header_bytes: 200,
            file_bytes: 22
        }),
        "cut short"
    ),
    case!(
        "over-limit",
        Header(HeaderError::OverLimit {
            header_bytes: 256,
            limit: 255
        }),
        "`--max-header-bytes 256`"
    ),
    case!("not-utf8", Header(HeaderError::NotUtf8 { .. }), "byte 5"),
    case!(
        "not-an-object",
        Header(HeaderError::NotAnObject { found: Some(b' ') }),
        "0x20"
    ),
    case!(
        "not-an-object--empty",
        Header(HeaderError::NotAnObject { found: None }),
        "nothing"
    ),
    case!(
        "json",
        Header(HeaderError::Json { .. }),
        "trailing comma at line 1 column 63"
    ),
    case!(
        "json--trailing",
        Header(HeaderError::Json { .. }),
        "trailing characters"
    ),
    case!(
        "json--lone-surrogate",
        Header(HeaderError::Json { .. }),
        "at line 1 column"
    ),
    case!(
        "metadata-twice",
        Header(HeaderError::MetadataTwice),
        "`__metadata__` twice"
    ),
    case!(
        "metadata-not-object",
        Header(HeaderError::MetadataNotObject { .. }),
        "sequence"
    ),
    case!(
        "metadata-key-twice",
        Header(HeaderError::MetadataKeyTwice { key } if key == "format"),
        "key `format` twice"
    ),
    case!(
        "metadata-value",
        Header(HeaderError::MetadataValue { key, .. } if key == "epoch"),
        "integer `3`"
    ),
    case!(
        "metadata-value--bomb",
        Header(HeaderError::MetadataValue { .. }),
        "`epoch`"
    ),
    case!(
        "tensor-twice",
        Header(HeaderError::TensorTwice { .. }),
        "`fc1.weight` appears twice"
    ),
    case!(
        "tensor-twice--escaped",
        Header(HeaderError::TensorTwice { .. }),
        "`fc1.weight`"
    ),
    case!(
        "tensor-not-object",
        Header(HeaderError::TensorNotObject { .. }),
        "`fc1.weight`"
    ),
    case!(
        "tensor-not-object--bomb",
        Header(HeaderError::TensorNotObject { .. }),
        "`fc1.weight`"
    ),
    case!(
        "unknown-field",
        Header(HeaderError::UnknownField { field, .. } if field == "strides"),
        "`fc1.weight` has the unknown field `strides`"
    ),
    case!(
        "missing-field",
        Header(HeaderError::MissingField { field: "shape", .. }),
        "`fc1.weight` lacks the field `shape`"
    ),
    case!(
        "field-twice",
        Header(HeaderError::FieldTwice { field: "dtype", .. }),
        "`fc1.weight` has the field `dtype` twice"
    ),
    case!(
        "dtype-not-text",
        Header(HeaderError::DtypeNotText { .. }),
        "`fc1.weight`"
    ),
    case!(
        "unknown-dtype",
        Header(HeaderError::UnknownDtype { dtype, .. } if dtype == "f32"),
        "`fc1.weight` has the unknown dtype `f32`, expected one of BOOL, F4,"
    ),
    case!(
        "unknown-dtype--control",
        Header(HeaderError::UnknownDtype { .. }),
        r"dtype `\u{1b}[2J\u{202e}`"
    ),
    case!(
        "shape-entry--negative",
        Header(HeaderError::ShapeEntry { .. }),
        "`fc1.weight` is not a list of whole numbers below 2^64: invalid value: integer `-4`"
    ),
    case!(
        "shape-entry--fraction",
        Header(HeaderError::ShapeEntry { .. }),
        "`fc1.weight`"
    ),
    case!(
        "shape-entry--too-large",
        Header(HeaderError::ShapeEntry { .. }),
        "`fc1.weight`"
    ),
    case!(
        "shape-entry--text",
        Header(HeaderError::ShapeEntry { .. }),
        "`fc1.weight`"
    ),
    case!(
        "shape-overflow",
        Header(HeaderError::ShapeOverflow { .. }),
        "`fc1.weight`"
    ),
    case!(
        "shape-overflow--behind-zero",
        Header(HeaderError::ShapeOverflow { .. }),
        "`fc1.weight` of dtype U8 and shape [0, 9223372036854775808, 4]"
    ),
    case!(
        "shape-overflow--bits",
        Header(HeaderError::ShapeOverflow { .. }),
        "`fc1.weight`"
    ),
    case!(
        "partial-byte",
        Header(HeaderError::PartialByte { bits: 28, .. }),
        "`fc1.weight`"
    ),
    case!(
        "offsets-not-pair--one",
        Header(HeaderError::OffsetsNotPair { .. }),
        "`fc1.weight`"
    ),
    case!(
        "offsets-not-pair--three",
        Header(HeaderError::OffsetsNotPair { .. }),
        "`fc1.weight`"
    ),
    case!(
        "offsets-not-pair--negative",
        Header(HeaderError::OffsetsNotPair { .. }),
        "`fc1.weight`"
    ),
    case!(
        "offsets-not-pair--too-large",
        Header(HeaderError::OffsetsNotPair { .. }),
        "`fc1.weight`"
    ),
    case!(
        "offsets-reversed",
        Header(HeaderError::OffsetsReversed {
            begin: 4,
            end: 0,
            ..
        }),
        "`fc1.weight` begins at byte 4 but ends at 0"
    ),
    case!(
        "offsets-reversed--near-the-end",
        Header(HeaderError::OffsetsReversed {
            begin: u64::MAX,
            end: 3,
            ..
        }),
        "`fc1.weight`"
    ),
    case!(
        "past-buffer",
        Header(HeaderError::PastBuffer {
            end: 5,
            data_bytes: 4,
            ..
        }),
        "`fc1.weight` ends at byte 5, but the data has 4 bytes"
    ),
    case!(
        "past-buffer--near-the-end",
        Header(HeaderError::PastBuffer { .. }),
        "`fc1.weight`"
    ),
    case!(
        "byte-length",
        Header(HeaderError::ByteLength {
            expected: 8,
            found: 4,
            ..
        }),
        "`fc1.weight` of dtype F32 and shape [2] takes 8 bytes"
    ),
    case!(
        "hole",
        Header(HeaderError::Hole {
            expected: 0,
            found: 1,
            ..
        }),
        "`fc1.weight`"
    ),
    case!(
        "hole--between",
        Header(HeaderError::Hole {
            expected: 4,
            found: 5,
            ..
        }),
        "`fc2.weight`"
    ),
    case!(
        "overlap",
        Header(HeaderError::Overlap {
            expected: 4,
            found: 1,
            ..
        }),
        "`fc1.weight` begins at byte 1, before tensor `fc2.weight` ends at 4"
    ),
    case!(
        "overlap--same-place",
        Header(HeaderError::Overlap { .. }),
        "`fc1.weight`"
    ),
    case!(
        "trailing-bytes",
        Header(HeaderError::TrailingBytes {
            expected: 4,
            found: 5
        }),
        "the tensors end at byte 4, but the data has 5 bytes"
    ),
    case!(
        "trailing-bytes--no-tensor",
        Header(HeaderError::TrailingBytes { .. }),
        "end at byte 0"
    ),
    case!(
        "index-not-utf8",
        Index(ShardIndexError::NotUtf8 { .. }),
        "byte 30"
    ),
    case!(
        "index-json",
        Index(ShardIndexError::Json { .. }),
        "at line 1 column"
    ),
    case!(
        "index-json--bomb",
        Index(ShardIndexError::Json { .. }),
        "recursion limit"
    ),
    case!(
        "index-not-an-object",
        Index(ShardIndexError::NotAnObject { .. }),
        "sequence"
    ),
    case!(
        "index-field-twice--weight-map",
        Index(ShardIndexError::FieldTwice {
            field: "weight_map"
        }),
        "`weight_map` twice"
    ),
    case!(
        "index-field-twice--metadata",
        Index(ShardIndexError::FieldTwice { field: "metadata" }),
        "`metadata` twice"
    ),
    case!(
        "index-metadata-not-object",
        Index(ShardIndexError::MetadataNotObject { .. }),
        "`24`"
    ),
    case!(
        "index-missing-weight-map",
        Index(ShardIndexError::MissingWeightMap),
        "`weight_map`"
    ),
    case!(
        "index-weight-map-not-object",
        Index(ShardIndexError::WeightMapNotObject { .. }),
        "sequence"
    ),
    case!(
        "index-tensor-twice",
        Index(ShardIndexError::TensorTwice { .. }),
        "`fc1.weight` twice"
    ),
    case!(
        "index-file-not-text",
        Index(ShardIndexError::FileNotText { .. }),
        "`fc1.weight`"
    ),
    case!(
        "index-not-base-name--empty",
        Index(ShardIndexError::NotBaseName { .. }),
        "`fc1.weight`"
    ),
    case!(
        "index-not-base-name--dot",
        Index(ShardIndexError::NotBaseName { .. }),
        "`.`"
    ),
    case!(
        "index-not-base-name--dots",
        Index(ShardIndexError::NotBaseName { .. }),
        "`..`"
    ),
    case!(
        "index-not-base-name--up",
        Index(ShardIndexError::NotBaseName { .. }),
        "`../a."
    ),
    case!(
        "index-not-base-name--absolute",
        Index(ShardIndexError::NotBaseName { .. }),
        "`/etc/"
    ),
    case!(
        "index-not-base-name--backslash",
        Index(ShardIndexError::NotBaseName { .. }),
        r"a\\b"
    ),
    case!(
        "index-not-base-name--nul",
        Index(ShardIndexError::NotBaseName { .. }),
        r"a\u{0}"
    ),
    case!("foreign-empty", Foreign(Foreign::Empty), "an empty file"),
    case!(
        "foreign-lfs-pointer",
        Foreign(Foreign::LfsPointer),
        "`git lfs pull`"
    ),
    case!("foreign-html", Foreign(Foreign::Html), "an HTML page"),
    case!("foreign-xml", Foreign(Foreign::Xml), "an XML text"),
    case!(
        "foreign-zip",
        Foreign(Foreign::Zip),
        "a zip archive without a checkpoint of torch"
    ),
    case!(
        "foreign-pickle",
        Foreign(Foreign::Pickle),
        "a Python pickle"
    ),
    case!("foreign-tar", Foreign(Foreign::Tar), "`tar -x`"),
    case!("foreign-gguf", Foreign(Foreign::Gguf), "a GGUF model"),
    case!("foreign-hdf5", Foreign(Foreign::Hdf5), "as Keras writes"),
    case!("foreign-gzip", Foreign(Foreign::Gzip), "`gunzip`"),
    case!("foreign-zstd", Foreign(Foreign::Zstd), "`unzstd`"),
    case!("foreign-npy", Foreign(Foreign::Npy), "a numpy array"),
    case!(
        "foreign-json",
        Foreign(Foreign::Json),
        "a shard index or a config"
    ),
    case!(
        "foreign-tflite",
        Foreign(Foreign::Tflite),
        "a TensorFlow Lite model"
    ),
    case!(
        "compact-record",
        Compact(CompactError::Record { .. }),
        "`sms_bitmask` is not"
    ),
    case!(
        "compact-record--twice",
        Compact(CompactError::Record { .. }),
        "named twice"
    ),
    case!(
        "compact-version",
        Compact(CompactError::Version { found: 2 }),
        "version 2"
    ),
    case!(
        "compact-shape",
        Compact(CompactError::Shape { .. }),
        "`fc.weight`"
    ),
    case!(
        "compact-shape--negative",
        Compact(CompactError::Shape { .. }),
        "negative"
    ),
    case!(
        "compact-dtype",
        Compact(CompactError::Dtype { .. }),
        "type `I32`"
    ),
    case!(
        "compact-dtype--unknown",
        Compact(CompactError::Dtype { .. }),
        "type `f32`"
    ),
    case!(
        "compact-missing",
        Compact(CompactError::Missing { .. }),
        "`fc.weight.bitmask`"
    ),
    case!(
        "compact-part",
        Compact(CompactError::Part { .. }),
        "should be U8 of shape [2], and is U8 of shape [3]"
    ),
    case!(
        "compact-part--values",
        Compact(CompactError::Part { .. }),
        "`fc.weight.values` should be F32 of shape [n], n up to 9"
    ),
    case!(
        "compact-part--dims",
        Compact(CompactError::Part { .. }),
        "`fc.shape`"
    ),
    case!(
        "compact-twice",
        Compact(CompactError::Twice { .. }),
        "compact and as it is"
    ),
    case!(
        "compact-declared-twice",
        Compact(CompactError::DeclaredTwice { .. }),
        "in two shards"
    ),
    case!(
        "compact-count",
        Content(ContentError::Count {
            expected: 2,
            found: 3,
            ..
        }),
        "retains 3 elements, and `fc.weight.values` holds 2 values"
    ),
    case!(
        "compact-padding",
        Content(ContentError::Padding { row: 0, .. }),
        "row 0"
    ),
    case!(
        "compact-padding--row",
        Content(ContentError::Padding { row: 1, .. }),
        "row 1"
    ),
    case!(
        "compact-row-offset",
        Content(ContentError::RowOffset {
            row: 2,
            expected: 2,
            found: 1,
            ..
        }),
        "row 2 of bitmask `fc.bitmask` begins at value 2"
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/malformed")
}

/// The files of the folder by name without ending, but for the script.
fn files() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "make.py" {
            continue;
        }
        if path.is_dir() {
            files.insert(name.to_owned(), Vec::new());
            continue;
        }
        let stem = name
            .strip_suffix(".safetensors")
            .or(name.strip_suffix(".index.json"));
        let stem = stem.unwrap_or_else(|| panic!("`{name}` is no fixture"));
        files.insert(stem.to_owned(), fs::read(&path).unwrap());
    }
    files
}

#[test]
fn every_malformed_file_is_refused_as_it_should_be() {
    let files = files();
    for (name, is_expected, part) in CASES {
        let found = refusal(name, &files[*name]);
        let message = found.message();
        assert!(
            is_expected(&found),
            "`{name}` is refused as {}: {message}",
            found.variant()
        );
        assert!(message.contains(part), "`{name}` says: {message}");
        assert!(
            !message.chars().any(char::is_control),
            "`{name}` says: {message:?}"
        );
    }
}

#[test]
fn every_file_has_a_case_and_every_variant_has_a_file() {
    let files = files();
    let cases: BTreeSet<&str> = CASES.iter().map(|(name, _, _)| *name).collect();
    assert_eq!(cases.len(), CASES.len(), "a case appears twice");
    assert_eq!(cases, files.keys().map(String::as_str).collect());

    let found: BTreeSet<&str> = files
        .iter()
        .map(|(name, file)| refusal(name, file).variant())
        .collect();
    let all = [
        HEADER_ERRORS,
        INDEX_ERRORS,
        FOREIGN,
        COMPACT_ERRORS,
        CONTENT_ERRORS,
    ]
    .concat();
    // These have files in `tests/malformed_onnx.rs` and in `tests/torch_hostile.rs`.
    let elsewhere = [
        "ContentError::Onnx",
        "ContentError::Place",
        "CompactError::NotContiguous",
    ];
    let all = all.into_iter().filter(|name| !elsewhere.contains(name));
    assert_eq!(found, all.collect());
}
