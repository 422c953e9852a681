//! The writer's side: names, element types and shapes walk in, the place of
//! every tensor and the bytes of the header walk out.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Serialize;
use serde::ser::SerializeMap;
use serde::ser::Serializer;
use thiserror::Error;

use crate::format::safetensors::FORMAT_HEADER_LIMIT;
use crate::format::safetensors::METADATA_KEY;
use crate::format::safetensors::PREFIX_BYTES;
use crate::format::safetensors::TensorInfo;
use crate::tensor::Dtype;
use crate::tensor::Printable;
use crate::tensor::Shape;

/// A header takes a multiple of so many bytes, so that tensors written widest
/// first begin at a multiple of their width.
///
/// Source: `prepare` of safetensors 0.8.0.
const ALIGNMENT: usize = 8;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name, anything but `__metadata__`.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, row-major.
    pub shape: Shape,
}

/// The order of the crate's `serialize`: the later [`Dtype`] first, which is the
/// wider one first, then by name.
///
/// Source: `prepare` of safetensors 0.8.0.
pub fn natural_cmp(a: &Entry, b: &Entry) -> Ordering {
    b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name))
}

/// Cuts the entries into files of at most `shard_bytes`; a larger tensor gets a
/// file of its own.
pub fn split(entries: Vec<Entry>, shard_bytes: Option<u64>) -> Vec<Vec<Entry>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for entry in entries {
        let bytes = entry
            .dtype
            .byte_len(entry.shape.numel())
            .unwrap_or(u64::MAX);
        let is_full =
            shard_bytes.is_some_and(|most| filled > 0 && bytes > most.saturating_sub(filled));
        if is_full {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(last) = shards.last_mut() {
            last.push(entry);
        }
    }
    shards
}

/// Why tensors cannot be written into one file.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// A tensor has the one name that readers take for something else.
    #[error("a tensor cannot be called `__metadata__` in a safetensors file")]
    ReservedName,
    /// Two tensors have one name.
    #[error(
        "tensor `{}` would be written twice; where one of the two is a part of a compact tensor, \
         `--layout dense` needs none",
        Printable(tensor)
    )]
    TensorTwice {
        /// Name of both.
        tensor: String,
    },
    /// The elements do not fill whole bytes, or more than can be counted.
    #[error(
        "tensor `{}` of dtype {dtype} and shape {shape} does not take a whole number of bytes \
         below 2^64",
        Printable(tensor)
    )]
    ByteLength {
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its dimensions.
        shape: Shape,
    },
    /// The tensors together take more bytes than can be counted.
    #[error("tensor `{}` would end after byte 2^64 - 1", Printable(tensor))]
    FileTooLarge {
        /// Name of the first tensor that does not fit.
        tensor: String,
    },
    /// The header is longer than any reader accepts.
    #[error(
        "header of {header_bytes} bytes passes the format's limit of {}; \
         write the tensors into several shards",
        FORMAT_HEADER_LIMIT
    )]
    HeaderTooLarge {
        /// Bytes of JSON that the header takes.
        header_bytes: u64,
    },
    /// The header does not fit into the space that was reserved for it.
    #[error("header takes {needed} bytes, but {reserved} are reserved for it")]
    Reserved {
        /// Bytes that the header takes, its length included.
        needed: usize,
        /// Bytes reserved, expected to be a multiple of 8 and no less.
        reserved: usize,
    },
}

/// Tensors with their places: back to back, in the order given.
///
/// ```
/// use sms_merge::format::safetensors::{Entry, Layout};
/// use sms_merge::tensor::{Dtype, Shape};
/// let shape = Shape::new([2, 3]).unwrap();
/// let entry = Entry { name: "w".to_owned(), dtype: Dtype::F32, shape };
/// let layout = Layout::new(vec![entry])?;
/// assert_eq!(layout.data_bytes(), 24);
/// # Ok::<(), sms_merge::format::safetensors::LayoutError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<TensorInfo>,
    data_bytes: u64,
}

impl Layout {
    /// The layout of the entries in their order; see [`natural_cmp`].
    ///
    /// # Errors
    /// [`LayoutError`] if a name is reserved or appears twice, or if the
    /// tensors do not take a whole number of bytes below 2^64.
    pub fn new(entries: Vec<Entry>) -> Result<Self, LayoutError> {
        let mut names = BTreeSet::new();
        for Entry { name, .. } in &entries {
            if name == METADATA_KEY {
                return Err(LayoutError::ReservedName);
            }
            if !names.insert(name.as_str()) {
                return Err(LayoutError::TensorTwice {
                    tensor: name.clone(),
                });
            }
        }
        let mut tensors = Vec::with_capacity(entries.len());
        let mut begin = 0_u64;
        for Entry { name, dtype, shape } in entries {
            let Some(bytes) = dtype.byte_len(shape.numel()) else {
                return Err(LayoutError::ByteLength {
                    tensor: name,
                    dtype,
                    shape,
                });
            };
            let Some(end) = begin.checked_add(bytes) else {
                return Err(LayoutError::FileTooLarge { tensor: name });
            };
            tensors.push(TensorInfo {
                name,
                dtype,
                shape,
                begin,
                end,
            });
            begin = end;
        }
        Ok(Self {
            tensors,
            data_bytes: begin,
        })
    }

    /// The tensors with their places, in the order of their bytes.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Bytes of the data buffer, which follows the header.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The bytes before the data buffer: length, JSON, and spaces up to a
    /// multiple of 8 bytes.
    ///
    /// With at most one metadata key these are the bytes that the crate's
    /// `serialize` writes. Several keys are sorted here, and in random order there.
    ///
    /// # Errors
    /// [`LayoutError::HeaderTooLarge`] past [`FORMAT_HEADER_LIMIT`].
    pub fn header(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, LayoutError> {
        let mut bytes = vec![0; PREFIX_BYTES as usize];
        serde_json::to_writer(
            &mut bytes,
            &Json {
                layout: self,
                metadata,
            },
        )
        .expect("a vector takes every write, and strings and whole numbers have a JSON form");
        let total_bytes = bytes.len().next_multiple_of(ALIGNMENT);
        pad(bytes, total_bytes)
    }

    /// The bytes before the data buffer, padded with spaces to `total_bytes`,
    /// length included: for a header whose metadata is only known after the
    /// data has been written.
    ///
    /// # Errors
    /// [`LayoutError::Reserved`] if `total_bytes` is no multiple of 8 or too
    /// small, [`LayoutError::HeaderTooLarge`] past [`FORMAT_HEADER_LIMIT`].
    pub fn header_padded(
        &self,
        metadata: &BTreeMap<String, String>,
        total_bytes: usize,
    ) -> Result<Vec<u8>, LayoutError> {
        let bytes = self.header(metadata)?;
        if bytes.len() > total_bytes || !total_bytes.is_multiple_of(ALIGNMENT) {
            return Err(LayoutError::Reserved {
                needed: bytes.len(),
                reserved: total_bytes,
            });
        }
        pad(bytes, total_bytes)
    }
}

/// Pads with spaces to `total_bytes` and writes the length in front.
fn pad(mut bytes: Vec<u8>, total_bytes: usize) -> Result<Vec<u8>, LayoutError> {
    let header_bytes = total_bytes as u64 - PREFIX_BYTES;
    if header_bytes > FORMAT_HEADER_LIMIT {
        return Err(LayoutError::HeaderTooLarge { header_bytes });
    }
    bytes.resize(total_bytes, b' ');
    bytes[..8].copy_from_slice(&header_bytes.to_le_bytes());
    Ok(bytes)
}

/// The JSON of a header, fields in the order of the crate.
struct Json<'a> {
    layout: &'a Layout,
    metadata: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct JsonTensor<'a> {
    dtype: &'a str,
    shape: &'a [u64],
    data_offsets: (u64, u64),
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA_KEY, self.metadata)?;
        }
        for TensorInfo {
            name,
            dtype,
            shape,
            begin,
            end,
        } in &self.layout.tensors
        {
            let (dtype, shape, data_offsets) = (dtype.name(), shape.dims(), (*begin, *end));
            map.serialize_entry(
                name,
                &JsonTensor {
                    dtype,
                    shape,
                    data_offsets,
                },
            )?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::format::safetensors::Header;
    use crate::format::safetensors::header_len;
    use crate::format::safetensors::parse;

    fn entry(name: &str, dtype: Dtype, dims: &[u64]) -> Entry {
        Entry {
            name: name.to_owned(),
            dtype,
            shape: Shape::new(dims).unwrap(),
        }
    }

    fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn headers_are_what_serialize_writes() {
        let layout = Layout::new(vec![
            entry("b", Dtype::F32, &[2, 2]),
            entry("a\"\n", Dtype::U8, &[0, 3]),
        ])
        .unwrap();
        let bytes = layout
            .header(&metadata(&[("z", "1"), ("format", "pt")]))
            .unwrap();
        let json = concat!(
            r#"{"__metadata__":{"format":"pt","z":"1"},"#,
            r#""b":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"#,
            r#""a\"\n":{"dtype":"U8","shape":[0,3],"data_offsets":[16,16]}}"#,
        );
        assert_eq!(bytes.len() % 8, 0);
        assert_eq!(bytes[..8], (bytes.len() as u64 - 8).to_le_bytes());
        assert_eq!(
            std::str::from_utf8(&bytes[8..])
                .unwrap()
                .trim_end_matches(' '),
            json
        );
        let empty = Layout::new(Vec::new()).unwrap();
        assert_eq!(
            empty.header(&BTreeMap::new()).unwrap(),
            b"\x08\0\0\0\0\0\0\0{}      "
        );
    }

    #[test]
    fn what_no_reader_accepts_is_not_written() {
        let check = |entries: &[Entry], expected: &str| {
            let error = Layout::new(entries.to_vec()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        let u8 = Dtype::U8;
        check(
            &[entry("__metadata__", u8, &[1])],
            "a tensor cannot be called `__metadata__` in a safetensors file",
        );
        check(
            &[entry("a\u{1b}", u8, &[1]), entry("a\u{1b}", u8, &[2])],
            r"tensor `a\u{1b}` would be written twice; where one of the two is a part of a compact tensor, `--layout dense` needs none",
        );
        check(
            &[entry("a", Dtype::F4, &[3])],
            "tensor `a` of dtype F4 and shape [3] does not take a whole number of bytes below 2^64",
        );
        check(
            &[entry("a", Dtype::F64, &[1 << 61])],
            "tensor `a` of dtype F64 and shape [2305843009213693952] does not take a whole number \
             of bytes below 2^64",
        );
        let eighth = (1 << 61) - 1;
        let full: Vec<Entry> = "abcdefghi"
            .split_terminator("")
            .skip(1)
            .map(|name| entry(name, u8, &[eighth]))
            .collect();
        check(&full, "tensor `i` would end after byte 2^64 - 1");
    }

    #[test]
    fn reserved_space_is_filled_exactly() {
        let layout = Layout::new(vec![entry("a", Dtype::F32, &[1])]).unwrap();
        let pairs = metadata(&[("format", "pt")]);
        let needed = layout.header(&pairs).unwrap().len();
        for reserved in [needed, needed + 8, needed + 4096] {
            let bytes = layout.header_padded(&pairs, reserved).unwrap();
            assert_eq!(bytes.len(), reserved);
            let file_bytes = reserved as u64 + 4;
            assert_eq!(
                header_len(&bytes, file_bytes, u64::MAX).unwrap(),
                reserved as u64 - 8
            );
            assert_eq!(parse(&bytes[8..], 4).unwrap().tensors, layout.tensors());
        }
        for reserved in [0, needed - 8, needed + 1, needed + 7] {
            let outcome = layout.header_padded(&pairs, reserved);
            assert!(
                matches!(outcome, Err(LayoutError::Reserved { .. })),
                "{reserved}"
            );
        }
        let outcome = layout.header_padded(&pairs, 100_000_016);
        assert!(matches!(
            outcome,
            Err(LayoutError::HeaderTooLarge {
                header_bytes: 100_000_008
            })
        ));
    }

    fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
        let name = prop_oneof![any::<String>(), "[a-c]{1,2}(\\.weight|\\.bias)?"];
        let dims = prop::collection::vec(0_u64..5, 0..4);
        let dtype = prop::sample::select(Dtype::ALL);
        prop::collection::btree_map(name, (dtype, dims), 0..12).prop_map(|tensors| {
            let mut entries: Vec<Entry> = tensors
                .into_iter()
                .map(|(name, (dtype, dims))| entry(&name, dtype, &dims))
                .filter(|entry| entry.name != METADATA_KEY)
                .filter(|entry| entry.dtype.byte_len(entry.shape.numel()).is_some())
                .collect();
            entries.sort_by(natural_cmp);
            entries
        })
    }

    fn crate_dtype(dtype: Dtype) -> safetensors::Dtype {
        serde_json::from_value(dtype.name().into()).unwrap()
    }

    /// What the crate writes for the entries, with zeros as data.
    fn crate_bytes(layout: &Layout, metadata: &BTreeMap<String, String>) -> Vec<u8> {
        let data = vec![0; layout.data_bytes() as usize];
        let views: HashMap<&str, TensorView<'_>> = layout
            .tensors()
            .iter()
            .map(|tensor| {
                let dims = tensor
                    .shape
                    .dims()
                    .iter()
                    .map(|&dim| dim as usize)
                    .collect();
                let slice = &data[tensor.begin as usize..tensor.end as usize];
                let view = TensorView::new(crate_dtype(tensor.dtype), dims, slice).unwrap();
                (tensor.name.as_str(), view)
            })
            .collect();
        let pairs = metadata.clone().into_iter().collect();
        let pairs = (!metadata.is_empty()).then_some(pairs);
        safetensors::serialize(views, pairs).unwrap()
    }

    proptest! {
        #[test]
        fn read_after_write_is_the_identity(
            entries in any_entries(),
            metadata in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4),
        ) {
            let layout = Layout::new(entries).unwrap();
            let mut file = layout.header(&metadata).unwrap();
            let header_bytes = file.len();
            file.resize(header_bytes + layout.data_bytes() as usize, 0);

            let found = header_len(&file, file.len() as u64, u64::MAX).unwrap();
            prop_assert_eq!(found, header_bytes as u64 - 8);
            let header = parse(&file[8..header_bytes], layout.data_bytes()).unwrap();
            // Tensors without bytes share their place, so that only their
            // names decide on the order in which they are read.
            let mut tensors = layout.tensors().to_vec();
            tensors.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
            prop_assert_eq!(&header, &Header { metadata: metadata.clone(), tensors });

            let (theirs, found) = SafeTensors::read_metadata(&file).unwrap();
            prop_assert_eq!(theirs, header_bytes - 8);
            prop_assert_eq!(found.tensors().len(), header.tensors.len());
            for tensor in &header.tensors {
                let info = found.info(&tensor.name).unwrap();
                let dims: Vec<u64> = info.shape.iter().map(|&dim| dim as u64).collect();
                let (begin, end) = info.data_offsets;
                prop_assert_eq!(info.dtype, crate_dtype(tensor.dtype));
                prop_assert_eq!(dims, tensor.shape.dims());
                prop_assert_eq!((begin as u64, end as u64), (tensor.begin, tensor.end));
            }
            let pairs = found.metadata().clone().unwrap_or_default();
            prop_assert_eq!(pairs.into_iter().collect::<BTreeMap<_, _>>(), metadata);
        }

        #[test]
        fn bytes_are_the_crates_up_to_one_metadata_key(
            entries in any_entries(),
            metadata in prop::collection::btree_map(any::<String>(), any::<String>(), 0..2),
        ) {
            let layout = Layout::new(entries).unwrap();
            let mut file = layout.header(&metadata).unwrap();
            file.resize(file.len() + layout.data_bytes() as usize, 0);
            prop_assert_eq!(file, crate_bytes(&layout, &metadata));
        }
    }
}
