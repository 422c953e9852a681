//! What a file really is when it is no safetensors file: its first bytes walk in,
//! a name for it and what to do next walk out. Whether an archive or a pickle is a
//! checkpoint of torch, its first bytes do not tell: see [`torch`](crate::format::torch).

use std::fmt;

use crate::format::safetensors::FORMAT_HEADER_LIMIT;

/// Bytes from the start of a file that [`sniff`] can make use of.
pub const SNIFF_BYTES: usize = 512;

/// A file that is something else than a safetensors checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Foreign {
    /// No bytes at all.
    Empty,
    /// The text that Git LFS leaves in place of a file.
    LfsPointer,
    /// A web page, often the answer of a server that wanted a login.
    Html,
    /// An XML text, often the error of an object store.
    Xml,
    /// A zip archive: a checkpoint of torch, or `.npz`, `.keras`.
    Zip,
    /// A Python pickle without an archive: a checkpoint of torch before 1.6, or not.
    Pickle,
    /// A tar archive, as torch wrote before 0.1.10.
    Tar,
    /// A model of llama.cpp.
    Gguf,
    /// An HDF5 file: `.h5` of Keras.
    Hdf5,
    /// A gzip stream.
    Gzip,
    /// A zstd stream.
    Zstd,
    /// One numpy array.
    Npy,
    /// A JSON text, such as a shard index or a config.
    Json,
    /// A TensorFlow Lite model.
    Tflite,
}

impl Foreign {
    /// Every kind that [`sniff`] tells apart.
    pub const ALL: &[Self] = &[
        Self::Empty,
        Self::LfsPointer,
        Self::Html,
        Self::Xml,
        Self::Zip,
        Self::Pickle,
        Self::Tar,
        Self::Gguf,
        Self::Hdf5,
        Self::Gzip,
        Self::Zstd,
        Self::Npy,
        Self::Json,
        Self::Tflite,
    ];

    /// What to do next, as the end of a message.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Empty => "download or write the file again",
            Self::LfsPointer => "fetch the file itself with `git lfs pull`",
            Self::Html => {
                "download the file itself, not the page that shows it; \
                 the server may want a login"
            }
            Self::Xml => {
                "open it as text: a server may have answered with an error; download again"
            }
            Self::Zip => {
                "if it is a `.npz` or `.keras` file, load it in Python and write its arrays with \
                 `safetensors.numpy.save_file`"
            }
            Self::Pickle => {
                "if you trust it, load it in Python and write its tensors with \
                 `safetensors.torch.save_file`"
            }
            Self::Tar => "unpack it with `tar -x` and give the checkpoint in it",
            Self::Gguf => "use the safetensors checkpoint that the GGUF file was converted from",
            Self::Hdf5 => {
                "load it in Keras and write its weights with `safetensors.numpy.save_file`"
            }
            Self::Gzip => "unpack it with `gunzip`",
            Self::Zstd => "unpack it with `unzstd`",
            Self::Npy => {
                "load it with `numpy.load` and write it with `safetensors.numpy.save_file`"
            }
            Self::Json => {
                "give the checkpoint itself, or the shard index under a name that ends in \
                 `.safetensors.index.json`"
            }
            Self::Tflite => "use the checkpoint that the TFLite model was converted from",
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "an empty file",
            Self::LfsPointer => "a Git LFS pointer, which stands for a file not downloaded yet",
            Self::Html => "an HTML page",
            Self::Xml => "an XML text",
            Self::Zip => "a zip archive without a checkpoint of torch",
            Self::Pickle => "a Python pickle that `torch.save` did not write",
            Self::Tar => "a tar archive",
            Self::Gguf => "a GGUF model",
            Self::Hdf5 => "an HDF5 file, as Keras writes",
            Self::Gzip => "a gzip stream",
            Self::Zstd => "a zstd stream",
            Self::Npy => "a numpy array",
            Self::Json => "a JSON text, such as a shard index or a config",
            Self::Tflite => "a TensorFlow Lite model",
        })
    }
}

/// The kind of file that begins with `first_bytes`, or `None` if it may be a
/// safetensors file or is nothing known.
///
/// Give the first [`SNIFF_BYTES`] bytes, or all if there are fewer. A file
/// whose ninth byte is `{` after a length that the format allows is never
/// taken for something else, whatever that length spells.
pub fn sniff(first_bytes: &[u8]) -> Option<Foreign> {
    if first_bytes.is_empty() {
        return Some(Foreign::Empty);
    }
    if begins_like_safetensors(first_bytes) {
        return None;
    }
    MAGIC
        .iter()
        .find(|(offset, magic, _)| {
            first_bytes
                .get(*offset..)
                .is_some_and(|rest| rest.starts_with(magic))
        })
        .map(|&(_, _, foreign)| foreign)
        .or_else(|| sniff_text(first_bytes))
}

fn begins_like_safetensors(first_bytes: &[u8]) -> bool {
    match first_bytes.split_first_chunk::<8>() {
        Some((length, [b'{', ..])) => u64::from_le_bytes(*length) <= FORMAT_HEADER_LIMIT,
        _ => false,
    }
}

/// Offset, bytes found there, kind.
///
/// Sources: PKWARE APPNOTE 4.3, Python `pickletools`, POSIX.1-1988 (ustar), the GGUF specification,
/// HDF5 file format III.A, RFC 1952, RFC 8878, numpy NEP 1, the TFLite schema,
/// the Git LFS pointer specification.
const MAGIC: &[(usize, &[u8], Foreign)] = &[
    (
        0,
        b"version https://git-lfs.github.com/spec/",
        Foreign::LfsPointer,
    ),
    (
        0,
        b"version https://hawser.github.com/spec/",
        Foreign::LfsPointer,
    ),
    (0, b"PK\x03\x04", Foreign::Zip),
    (0, b"PK\x05\x06", Foreign::Zip),
    (0, b"PK\x07\x08", Foreign::Zip),
    (0, b"\x80\x02", Foreign::Pickle),
    (0, b"\x80\x03", Foreign::Pickle),
    (0, b"\x80\x04", Foreign::Pickle),
    (0, b"\x80\x05", Foreign::Pickle),
    (257, b"ustar", Foreign::Tar),
    (0, b"GGUF", Foreign::Gguf),
    (0, b"\x89HDF\r\n\x1a\n", Foreign::Hdf5),
    (0, b"\x1f\x8b", Foreign::Gzip),
    (0, b"\x28\xb5\x2f\xfd", Foreign::Zstd),
    (0, b"\x93NUMPY", Foreign::Npy),
    (4, b"TFL3", Foreign::Tflite),
];

/// Whether a file that begins like this is an ONNX model: its version, then a field that
/// models have.
///
/// A safetensors file never is: read as the length of a header, the bytes pass the
/// format's limit.
pub fn is_onnx(first_bytes: &[u8]) -> bool {
    let Some(&first) = first_bytes.first_chunk::<8>() else {
        return false;
    };
    // Field 1, a number; versions so far are below 16. Then producer name and version,
    // domain, model version, documentation, graph, operator sets, or metadata.
    matches!(
        first,
        [
            0x08,
            1..=0x1f,
            0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72,
            ..
        ]
    ) && u64::from_le_bytes(first) > FORMAT_HEADER_LIMIT
}

fn sniff_text(first_bytes: &[u8]) -> Option<Foreign> {
    let text = first_bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(first_bytes)
        .trim_ascii_start();
    let begins_with = |start: &str| {
        text.get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
    };
    if ["<!doctype html", "<html", "<head", "<body"]
        .into_iter()
        .any(begins_with)
    {
        return Some(Foreign::Html);
    }
    if begins_with("<?xml") {
        return Some(Foreign::Xml);
    }
    let second = text.get(1..)?.trim_ascii_start().first();
    let is_json = match text.first()? {
        b'{' => matches!(second, Some(b'"' | b'}')),
        b'[' => matches!(second, Some(b'"' | b'{' | b'[' | b']' | b'0'..=b'9' | b'-')),
        _ => false,
    };
    (is_json && !text.contains(&0)).then_some(Foreign::Json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_bytes_tell_the_kind() {
        let check = |first_bytes: &[u8], expected| {
            let shown = first_bytes.escape_ascii();
            assert_eq!(sniff(first_bytes), expected, "{shown}");
        };
        check(b"", Some(Foreign::Empty));
        check(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:",
            Some(Foreign::LfsPointer),
        );
        check(b"version 3", None);
        check(b"<!DOCTYPE html>\n<html>", Some(Foreign::Html));
        check(b"\xef\xbb\xbf\n <HTML lang=\"en\">", Some(Foreign::Html));
        check(b"<?xml version=\"1.0\"?><Error>", Some(Foreign::Xml));
        check(b"PK\x03\x04\x00\x00\x08\x08\x00\x00", Some(Foreign::Zip));
        check(
            b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            Some(Foreign::Zip),
        );
        check(
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
            Some(Foreign::Pickle),
        );
        check(b"\x80\x05\x95\x10", Some(Foreign::Pickle));
        check(b"\x80\x06\x95\x10", None);
        let tar = [b"data.pkl".as_slice(), &[0; 249], b"ustar\0"].concat();
        check(&tar, Some(Foreign::Tar));
        check(b"GGUF\x03\0\0\0", Some(Foreign::Gguf));
        check(b"\x89HDF\r\n\x1a\n\0", Some(Foreign::Hdf5));
        check(b"\x1f\x8b\x08\0", Some(Foreign::Gzip));
        check(b"\x28\xb5\x2f\xfd\x04", Some(Foreign::Zstd));
        check(b"\x93NUMPY\x01\0", Some(Foreign::Npy));
        check(b"\x1c\0\0\0TFL3\x14", Some(Foreign::Tflite));
        check(b"{\"weight_map\": {}}", Some(Foreign::Json));
        check(b"{\n  \"architectures\": [", Some(Foreign::Json));
        check(b" [1, 2]", Some(Foreign::Json));
        check(b"{\0\0\0\0\0\0\0", None);
        check(b"{", None);
        check(b"\x08\x07\x12\x07pytorch", None);
        check(b"\x40\0\0\0\0\0\0\0{\"a\":", None);
    }

    #[test]
    fn models_are_told_by_their_version_and_what_follows() {
        let check = |first_bytes: &[u8], expected| {
            let shown = first_bytes.escape_ascii();
            assert_eq!(is_onnx(first_bytes), expected, "{shown}");
        };
        check(b"\x08\x08\x12\x07pytorch", true);
        check(b"\x08\x0a\x3a\xa0\x01\x0a\x10\x0a", true);
        check(b"\x08\x0a\x3a\xa0\x01\x0a\x10", false);
        check(b"\x08\x0a\x12\x00\x00\x00\x00\x00{\"a\":", false);
        check(b"\x08\x00\x12\x07pytorch", false);
        check(b"PK\x03\x04\x00\x00\x08\x08", false);
    }

    #[test]
    fn lengths_that_spell_a_magic_number_are_lengths() {
        for (offset, magic, _) in MAGIC.iter().filter(|(_, magic, _)| magic.len() <= 4) {
            let mut file = [0_u8; 9];
            file[*offset..offset + magic.len()].copy_from_slice(magic);
            file[8] = b'{';
            let length = u64::from_le_bytes(*file.first_chunk().unwrap());
            assert_eq!(
                sniff(&file).is_none(),
                length <= FORMAT_HEADER_LIMIT,
                "{length}"
            );
        }
    }

    #[test]
    fn every_kind_says_what_it_is_and_what_to_do() {
        for (idx, foreign) in Foreign::ALL.iter().enumerate() {
            assert_eq!(*foreign as usize, idx);
            assert!(foreign.to_string().starts_with('a'));
            assert!(!foreign.remedy().is_empty());
        }
    }

    proptest! {
        #[test]
        fn safetensors_are_never_misjudged(
            length in 0..=FORMAT_HEADER_LIMIT,
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut file = length.to_le_bytes().to_vec();
            file.push(b'{');
            file.extend(rest);
            prop_assert_eq!(sniff(&file), None);
        }
    }
}
