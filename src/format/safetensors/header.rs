//! The reader's side: the bytes of a header walk in, a checked [`Header`]
//! walks out.

use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;

use crate::format::safetensors::FORMAT_HEADER_LIMIT;
use crate::format::safetensors::HeaderError;
use crate::format::safetensors::PREFIX_BYTES;
use crate::format::safetensors::error::dims_text;
use crate::format::safetensors::reader;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// What a safetensors file says about itself, checked against its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Free text by key, from `__metadata__`; empty if there is none.
    pub metadata: BTreeMap<String, String>,
    /// The tensors in the order of their bytes: sorted by begin, then end
    /// (which differs only where one has no bytes), then name. They cover the
    /// data buffer without hole or overlap.
    pub tensors: Vec<TensorInfo>,
}

/// Where one tensor lies in the data buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, as in the model's `state_dict`; may be empty.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, row-major.
    pub shape: Shape,
    /// First byte, counted from the start of the data buffer.
    pub begin: u64,
    /// The byte after the last, counted from the start of the data buffer.
    pub end: u64,
}

/// Bytes of JSON after the first 8 bytes of a file.
///
/// `prefix` begins the file; 8 bytes of it are looked at. `file_bytes` is the
/// size of the whole file, `limit` the bytes of JSON that the caller is
/// willing to read, such as [`DEFAULT_HEADER_LIMIT`]. On success, 8 + the
/// result is at most `file_bytes`.
///
/// # Errors
/// [`HeaderError::TooShort`], [`HeaderError::OverFormatLimit`],
/// [`HeaderError::PastEnd`] or [`HeaderError::OverLimit`], in this order.
///
/// [`DEFAULT_HEADER_LIMIT`]: crate::format::safetensors::DEFAULT_HEADER_LIMIT
pub fn header_len(prefix: &[u8], file_bytes: u64, limit: u64) -> Result<u64, HeaderError> {
    let Some(after_prefix) = file_bytes.checked_sub(PREFIX_BYTES) else {
        return Err(HeaderError::TooShort { found: file_bytes });
    };
    let Some(prefix) = prefix.first_chunk::<8>() else {
        return Err(HeaderError::TooShort {
            found: prefix.len() as u64,
        });
    };
    let header_bytes = u64::from_le_bytes(*prefix);
    if header_bytes > FORMAT_HEADER_LIMIT {
        return Err(HeaderError::OverFormatLimit { header_bytes });
    }
    if header_bytes > after_prefix {
        return Err(HeaderError::PastEnd {
            header_bytes,
            file_bytes,
        });
    }
    if header_bytes > limit {
        return Err(HeaderError::OverLimit {
            header_bytes,
            limit,
        });
    }
    Ok(header_bytes)
}

/// The header in `json`, whose tensors cover `data_bytes` bytes exactly.
///
/// `json` is what lies between the 8 bytes of the length and the data buffer;
/// white space at its end is padding. Beside the result, 16 bytes per tensor
/// are needed.
///
/// # Errors
/// A [`HeaderError`] that names the first tensor at fault. Faults of single
/// tensors come before duplicate names, and these before holes and overlaps.
pub fn parse(json: &[u8], data_bytes: u64) -> Result<Header, HeaderError> {
    let text = std::str::from_utf8(json).map_err(|source| HeaderError::NotUtf8 { source })?;
    if !text.starts_with('{') {
        return Err(HeaderError::NotAnObject {
            found: json.first().copied(),
        });
    }
    let mut header = reader::read(text, data_bytes)?;
    refuse_duplicates(&header.tensors)?;
    header
        .tensors
        .sort_unstable_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    refuse_gaps(&header.tensors, data_bytes)?;
    Ok(header)
}

/// The tensor, if its parts agree with each other and with the data buffer.
///
/// # Errors
/// The [`HeaderError`] for the first disagreement.
pub(super) fn check_tensor(
    name: &str,
    dtype: Dtype,
    dims: &[u64],
    (begin, end): (u64, u64),
    data_bytes: u64,
) -> Result<Shape, HeaderError> {
    let tensor = || name.to_owned();
    let too_large = || HeaderError::ShapeOverflow {
        tensor: tensor(),
        dtype,
        shape: dims_text(dims),
    };
    let shape = Shape::new(dims).ok_or_else(too_large)?;
    let bits = shape
        .numel()
        .checked_mul(dtype.bits())
        .ok_or_else(too_large)?;
    let Some(expected) = dtype.byte_len(shape.numel()) else {
        let shape = dims_text(dims);
        return Err(HeaderError::PartialByte {
            tensor: tensor(),
            dtype,
            shape,
            bits,
        });
    };
    let Some(found) = end.checked_sub(begin) else {
        return Err(HeaderError::OffsetsReversed {
            tensor: tensor(),
            begin,
            end,
        });
    };
    if end > data_bytes {
        return Err(HeaderError::PastBuffer {
            tensor: tensor(),
            end,
            data_bytes,
        });
    }
    if found != expected {
        let shape = dims_text(dims);
        return Err(HeaderError::ByteLength {
            tensor: tensor(),
            dtype,
            shape,
            expected,
            found,
        });
    }
    Ok(shape)
}

/// Refuses two tensors of one name; names the second one that comes first.
///
/// Sorts hashes instead of names: at a million tensors a set of names would
/// cost more memory than the tensors, and comparing names more time than
/// reading them. Equal hashes are told apart by name, so that a file built to
/// collide costs no more than a sort.
fn refuse_duplicates(tensors: &[TensorInfo]) -> Result<(), HeaderError> {
    let mut places: Vec<(u64, usize)> = tensors
        .iter()
        .enumerate()
        .map(|(idx, tensor)| {
            let mut hasher = DefaultHasher::new();
            tensor.name.hash(&mut hasher);
            (hasher.finish(), idx)
        })
        .collect();
    let name = |idx: usize| tensors[idx].name.as_str();
    places.sort_unstable_by(|&(hash_a, a), &(hash_b, b)| {
        hash_a
            .cmp(&hash_b)
            .then_with(|| name(a).cmp(name(b)))
            .then(a.cmp(&b))
    });
    let second = places
        .windows(2)
        .filter(|pair| pair[0].0 == pair[1].0 && name(pair[0].1) == name(pair[1].1))
        .map(|pair| pair[1].1)
        .min();
    match second {
        Some(idx) => Err(HeaderError::TensorTwice {
            tensor: name(idx).to_owned(),
        }),
        None => Ok(()),
    }
}

/// Refuses holes, overlaps and trailing bytes among sorted tensors.
fn refuse_gaps(tensors: &[TensorInfo], data_bytes: u64) -> Result<(), HeaderError> {
    let mut covered = 0;
    let mut previous = "";
    for TensorInfo {
        name, begin, end, ..
    } in tensors
    {
        let tensor = || name.clone();
        if *begin > covered {
            return Err(HeaderError::Hole {
                tensor: tensor(),
                expected: covered,
                found: *begin,
            });
        }
        if *begin < covered {
            let other = previous.to_owned();
            return Err(HeaderError::Overlap {
                tensor: tensor(),
                other,
                expected: covered,
                found: *begin,
            });
        }
        covered = *end;
        previous = name;
    }
    if covered != data_bytes {
        return Err(HeaderError::TrailingBytes {
            expected: covered,
            found: data_bytes,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::error::Error;

    /// The message and those of its sources, as the binary shows them.
    fn whole_message(error: &dyn Error) -> String {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            message = format!("{message}: {error}");
            source = error.source();
        }
        message
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        let check = |prefix: &[u8], file_bytes, expected: Result<u64, &str>| {
            let found = header_len(prefix, file_bytes, 1000).map_err(|error| error.to_string());
            assert_eq!(
                found,
                expected.map_err(str::to_owned),
                "{prefix:?} {file_bytes}"
            );
        };
        let len = |n: u64| n.to_le_bytes();
        check(&len(2), 10, Ok(2));
        check(&len(1000), 2000, Ok(1000));
        check(&len(0), 8, Ok(0));
        let short = "but the length of a safetensors header alone takes 8";
        check(b"", 0, Err(&format!("file has 0 bytes, {short}")));
        check(&len(0)[..7], 7, Err(&format!("file has 7 bytes, {short}")));
        check(
            &len(0)[..3],
            100,
            Err(&format!("file has 3 bytes, {short}")),
        );
        check(
            &len(3),
            10,
            Err(
                "header of 3 bytes does not fit in a file of 10: the file is cut short, or not a \
                 safetensors file",
            ),
        );
        check(
            &len(1001),
            1 << 30,
            Err(
                "header of 1001 bytes passes the limit of 1000; if you trust the file, raise it \
                 with `--max-header-bytes 1001`",
            ),
        );
        for huge in [100_000_001, u64::MAX - 7, u64::MAX] {
            let outcome = header_len(&len(huge), u64::MAX, u64::MAX);
            assert!(
                matches!(outcome, Err(HeaderError::OverFormatLimit { .. })),
                "{huge}"
            );
        }
        assert!(matches!(
            header_len(&len(100_000_000), u64::MAX, u64::MAX),
            Ok(100_000_000)
        ));
    }

    #[test]
    fn headers_are_read() {
        let check = |json: &str, data_bytes, expected: &[(&str, u64, u64)]| {
            let header = parse(json.as_bytes(), data_bytes).expect(json);
            let found: Vec<(&str, u64, u64)> = header
                .tensors
                .iter()
                .map(|tensor| (tensor.name.as_str(), tensor.begin, tensor.end))
                .collect();
            assert_eq!(found, expected, "{json}");
        };
        check("{}", 0, &[]);
        check("{\"__metadata__\":{}}   \n\t\r ", 0, &[]);
        check(
            r#"{"":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#,
            1,
            &[("", 0, 1)],
        );
        check(
            r#"{ "b" : {"shape":[2],"data_offsets":[0,8],"dtype":"F32"},
                 "a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[8,11]} }"#,
            11,
            &[("b", 0, 8), ("a", 8, 11)],
        );
        check(
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                "c":{"dtype":"U8","shape":[0,9],"data_offsets":[4,4]},
                "\u0062":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
            4,
            &[("b", 0, 0), ("a", 0, 4), ("c", 4, 4)],
        );
        let header = parse(br#"{"__metadata__":{"b":"","a":"\u00e4"}}"#, 0).unwrap();
        let pairs: Vec<_> = header
            .metadata
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(pairs, [("a", "ä"), ("b", "")]);
    }

    #[test]
    fn faults_are_named() {
        let check = |json: &str, data_bytes, expected: &str| {
            let error = parse(json.as_bytes(), data_bytes).expect_err(json);
            assert_eq!(whole_message(&error), expected, "{json}");
        };
        let tensor = |fields: &str| format!(r#"{{"a":{{{fields}}}}}"#);
        let placed = |dtype: &str, shape: &str, offsets: &str| {
            tensor(&format!(
                r#""dtype":{dtype},"shape":{shape},"data_offsets":{offsets}"#
            ))
        };
        check("", 0, "header begins with nothing, expected `{`");
        check(" {}", 0, "header begins with byte 0x20, expected `{`");
        check(
            "{\"a\"}",
            0,
            "header is not valid JSON: expected `:` at line 1 column 5",
        );
        check(
            "{}x",
            0,
            "header is not valid JSON: trailing characters at line 1 column 3",
        );
        check(
            r#"{"__metadata__":{},"\u005f_metadata__":{}}"#,
            0,
            "header has `__metadata__` twice",
        );
        check(
            r#"{"__metadata__":null}"#,
            0,
            "`__metadata__` is not an object of strings: invalid type: null, expected an object \
             of strings at line 1 column 20",
        );
        check(
            r#"{"__metadata__":{"k":"","\u006b":""}}"#,
            0,
            "`__metadata__` has the key `k` twice",
        );
        check(
            r#"{"__metadata__":{"k":[[1]]}}"#,
            0,
            "`__metadata__` key `k` holds something else than a string: invalid type: sequence, \
             expected a string at line 1 column 21",
        );
        check(
            r#"{"a":["F32",[],[0,4]]}"#,
            4,
            "tensor `a` is not an object of `dtype`, `shape`, `data_offsets`: invalid type: \
             sequence, expected an object at line 1 column 5",
        );
        check(
            &tensor(r#""dtype":"U8","shape":[],"data_offsets":[0,1],"\u0078":1"#),
            1,
            "tensor `a` has the unknown field `x`, expected `dtype`, `shape`, `data_offsets`",
        );
        check(
            &tensor(r#""dtype":"U8","shape":[]"#),
            1,
            "tensor `a` lacks the field `data_offsets`",
        );
        check(
            &tensor(r#""data_offsets":[0,1],"shape":[]"#),
            1,
            "tensor `a` lacks the field `dtype`",
        );
        check(
            &tensor(r#""data_offsets":[0,1],"dtype":"U8""#),
            1,
            "tensor `a` lacks the field `shape`",
        );
        check(
            &tensor(r#""shape":[],"shape":[]"#),
            1,
            "tensor `a` has the field `shape` twice",
        );
        check(
            &placed("7", "[]", "[0,1]"),
            1,
            "`dtype` of tensor `a` is not a string: invalid type: integer `7`, expected a string \
             at line 1 column 15",
        );
        check(
            &placed(r#""f32\u001b""#, "[]", "[0,4]"),
            4,
            "tensor `a` has the unknown dtype `f32\\u{1b}`, expected one of BOOL, F4, F6_E2M3, \
             F6_E3M2, U8, I8, F8_E5M2, F8_E4M3, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, I16, U16, \
             F16, BF16, I32, U32, F32, C64, F64, I64, U64",
        );
        check(
            &placed(r#""U8""#, "[1.5]", "[0,1]"),
            1,
            "`shape` of tensor `a` is not a list of whole numbers below 2^64: invalid type: \
             floating point `1.5`, expected u64 at line 1 column 31",
        );
        check(
            &placed(r#""U8""#, "[3037000500, 3037000500]", "[0,1]"),
            1,
            "tensor `a` of dtype U8 and shape [3037000500, 3037000500] is too large to count",
        );
        check(
            &placed(r#""F4""#, "[3]", "[0,2]"),
            2,
            "tensor `a` of dtype F4 and shape [3] takes 12 bits, expected a multiple of 8",
        );
        check(
            &placed(r#""U8""#, "[]", "[0]"),
            1,
            "`data_offsets` of tensor `a` is not two whole numbers below 2^64: invalid length 1, \
             expected a list of two whole numbers at line 1 column 48",
        );
        check(
            &placed(r#""U8""#, "[]", "[1,0]"),
            1,
            "tensor `a` begins at byte 1 but ends at 0",
        );
        check(
            &placed(r#""U8""#, "[]", "[0,2]"),
            1,
            "tensor `a` ends at byte 2, but the data has 1 bytes: the file is cut short",
        );
        check(
            &placed(r#""F32""#, "[2]", "[0,7]"),
            7,
            "tensor `a` of dtype F32 and shape [2] takes 8 bytes, but its `data_offsets` span 7",
        );
        check(
            &placed(r#""U8""#, "[]", "[1,2]"),
            2,
            "tensor `a` begins at byte 1, expected 0: the bytes between belong to no tensor",
        );
        check(
            &placed(r#""U8""#, "[]", "[0,1]"),
            2,
            "the tensors end at byte 1, but the data has 2 bytes: the rest belongs to no tensor",
        );
        check(
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},
                "b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#,
            3,
            "tensor `a` begins at byte 1, before tensor `b` ends at 2",
        );
        check(
            r#"{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},
                "b":{"dtype":"U8","shape":[],"data_offsets":[1,2]},
                "\u0062":{"dtype":"U8","shape":[],"data_offsets":[2,3]},
                "\u0061":{"dtype":"U8","shape":[],"data_offsets":[3,4]}}"#,
            4,
            "tensor `b` appears twice",
        );
    }

    #[test]
    fn every_bad_shape_and_every_bad_place_is_refused() {
        let error = |shape: &str, offsets: &str| {
            let json =
                format!(r#"{{"a":{{"dtype":"U8","shape":{shape},"data_offsets":{offsets}}}}}"#);
            parse(json.as_bytes(), u64::MAX).expect_err(&json)
        };
        for shape in [
            "[-1]",
            "[-0]",
            "[1e2]",
            "[18446744073709551616]",
            "[null]",
            "[[1]]",
            "{}",
            "3",
        ] {
            assert!(
                matches!(error(shape, "[0,1]"), HeaderError::ShapeEntry { .. }),
                "{shape}"
            );
        }
        for shape in [
            "[0,9223372036854775808,4]",
            "[9223372036854775808]",
            "[4294967296,4294967296]",
        ] {
            assert!(
                matches!(error(shape, "[0,1]"), HeaderError::ShapeOverflow { .. }),
                "{shape}"
            );
        }
        for offsets in [
            "[]",
            "[0,1,2]",
            "[0,-1]",
            "[0,1.0]",
            "[0,18446744073709551616]",
            "{}",
            "null",
        ] {
            let found = error("[]", offsets);
            assert!(
                matches!(found, HeaderError::OffsetsNotPair { .. }),
                "{offsets} {found}"
            );
        }
        let near_the_end = error("[1]", "[18446744073709551614,18446744073709551615]");
        assert!(matches!(near_the_end, HeaderError::Hole { .. }));
        let reversed = error("[1]", "[18446744073709551615,0]");
        assert!(matches!(reversed, HeaderError::OffsetsReversed { .. }));
    }

    #[test]
    fn nesting_bombs_are_refused_before_they_are_entered() {
        for start in [
            "",
            r#"{"a":"#,
            r#"{"__metadata__":"#,
            r#"{"__metadata__":{"k":"#,
        ] {
            for bracket in ["[", r#"{"a":"#] {
                let bomb = format!("{start}{}", bracket.repeat(200_000));
                assert!(parse(bomb.as_bytes(), 0).is_err(), "{start} {bracket}");
            }
        }
        let bomb = format!(r#"{{"a":{{"shape":{}"#, "[".repeat(200_000));
        assert!(matches!(
            parse(bomb.as_bytes(), 0),
            Err(HeaderError::ShapeEntry { .. })
        ));
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic(
            position in 0_usize..120,
            byte in any::<u8>(),
            data_bytes in prop_oneof![Just(12_u64), any::<u64>()],
        ) {
            let mut json = concat!(
                r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"#,
                r#""data_offsets":[0,8]},"b":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}}"#,
            ).as_bytes().to_vec();
            json[position] = byte;
            let _ = parse(&json, data_bytes);
        }
    }
}
