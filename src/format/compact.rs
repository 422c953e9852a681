//! Compact layouts of pruned tensors in safetensors files: names and shapes walk in,
//! those of the parts that are stored in their place walk out, and back.
//!
//! Three layouts are known, all of the retained values and of one bit per element, bit
//! `i` of byte `j` being element `8 j + i`.
//!
//! - [`CompactKind::Bitmask`], our own: `T.values` and `T.bitmask` in place of `T`, the
//!   bitmask of the flattened tensor; dtype and shape of `T` stand in the metadata
//!   under [`BITMASK_KEY`].
//! - [`CompactKind::CompressedTensors`], the `sparse-bitmask` format of that library:
//!   `P.compressed`, `P.bitmask`, `P.shape` and `P.row_offsets` in place of `P.weight`,
//!   every row of the last dimension beginning a byte of the bitmask.
//! - [`CompactKind::Sparse24`], the `sparse-24-bitmask` format of that library for
//!   matrices of which two of every four elements are retained: the same without
//!   `P.row_offsets`, `P.compressed` of half as many columns, `P.shape` a column.
//!
//! In all the bitmask is the mask: a retained weight of zero is one of the values.
//!
//! Source: <https://github.com/neuralmagic/compressed-tensors>, release 0.14.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::Visitor;

use crate::format::safetensors::Entry;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// Key in `__metadata__` of the record of our bitmask layout; its value is one JSON
/// object, a [`BitmaskRecord`].
pub const BITMASK_KEY: &str = "sms_bitmask";

/// Version of the bitmask layout.
pub const BITMASK_VERSION: u32 = 1;

/// A compact layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactKind {
    /// Ours.
    Bitmask,
    /// `sparse-bitmask` of the library compressed-tensors.
    CompressedTensors,
    /// `sparse-24-bitmask` of that library.
    Sparse24,
}

/// Names of what is stored in place of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartNames {
    /// The retained values.
    pub values: String,
    /// One bit per element.
    pub bitmask: String,
    /// The dimensions, if they are a tensor.
    pub shape: Option<String>,
    /// Number of values before each row, if they are stored.
    pub row_offsets: Option<String>,
}

impl CompactKind {
    /// Names of the parts of a tensor called `name`, or `None` if the layout has no
    /// names for it: compressed-tensors knows `weight` alone.
    pub fn part_names(self, name: &str) -> Option<PartNames> {
        match self {
            Self::Bitmask => Some(PartNames {
                values: format!("{name}.values"),
                bitmask: format!("{name}.bitmask"),
                shape: None,
                row_offsets: None,
            }),
            Self::CompressedTensors | Self::Sparse24 => {
                let module = name.strip_suffix(".weight")?;
                let has_offsets = self == Self::CompressedTensors;
                Some(PartNames {
                    values: format!("{module}.compressed"),
                    bitmask: format!("{module}.bitmask"),
                    shape: Some(format!("{module}.shape")),
                    row_offsets: has_offsets.then(|| format!("{module}.row_offsets")),
                })
            }
        }
    }

    /// Elements whose bits share whole bytes: all, or those of the last dimension.
    pub fn row_elements(self, shape: &Shape) -> u64 {
        match shape.dims().last() {
            Some(&last) if self != Self::Bitmask => last,
            _ => shape.numel(),
        }
    }

    /// Shape of the bitmask of a tensor.
    pub fn bitmask_shape(self, shape: &Shape) -> Shape {
        let dims: Vec<u64> = match shape.dims().split_last() {
            Some((last, outer)) if self != Self::Bitmask => {
                outer.iter().copied().chain([last.div_ceil(8)]).collect()
            }
            _ => vec![shape.numel().div_ceil(8)],
        };
        Shape::new(dims).expect("a bitmask has no more bytes than its tensor has elements")
    }

    /// Shape of the tensor of row offsets: the dimensions before the last.
    pub fn row_shape(self, shape: &Shape) -> Shape {
        let outer = match (self, shape.dims().split_last()) {
            (Self::CompressedTensors, Some((_, outer))) => outer.to_vec(),
            _ => Vec::new(),
        };
        Shape::new(outer).expect("a part of the dimensions fits where all do")
    }

    /// Whether tensors of this element type and shape are stored so: compressed-tensors
    /// needs a last dimension, and for two of every four elements a matrix of whole fours.
    pub fn takes(self, dtype: Dtype, shape: &Shape) -> bool {
        let is_float = matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
        let has_room = match self {
            Self::Bitmask => true,
            Self::CompressedTensors => shape.rank() > 0,
            Self::Sparse24 => matches!(shape.dims(), [_, columns] if columns % 4 == 0),
        };
        is_float && has_room
    }

    /// Shape of the tensor of values of a tensor with so many retained elements.
    pub fn values_shape(self, shape: &Shape, retained: u64) -> Option<Shape> {
        match (self, shape.dims()) {
            (Self::Sparse24, &[rows, columns]) => {
                Shape::new([rows, columns / 2]).filter(|half| half.numel() == retained)
            }
            (Self::Sparse24, _) => None,
            _ => Shape::new([retained]),
        }
    }

    /// Most elements that a tensor of this shape retains.
    pub fn most_retained(self, shape: &Shape) -> u64 {
        match self {
            Self::Sparse24 => shape.numel() / 2,
            _ => shape.numel(),
        }
    }

    /// Shape of the tensor of dimensions.
    pub fn dims_shape(self, shape: &Shape) -> Option<Shape> {
        match self {
            Self::Sparse24 => Shape::new([shape.rank() as u64, 1]),
            _ => Shape::new([shape.rank() as u64]),
        }
    }
}

/// What the metadata says of tensors in our bitmask layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitmaskRecord {
    /// Version of the layout.
    pub version: u32,
    /// Each tensor, by name.
    #[serde(deserialize_with = "without_duplicates")]
    pub tensors: BTreeMap<String, BitmaskEntry>,
}

/// What the metadata says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitmaskEntry {
    /// Name of its element type.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<u64>,
}

impl BitmaskRecord {
    /// The record of these tensors.
    pub fn new<'t>(tensors: impl Iterator<Item = (&'t str, Dtype, &'t Shape)>) -> Self {
        let entry = |(name, dtype, shape): (&str, Dtype, &Shape)| {
            let entry = BitmaskEntry {
                dtype: dtype.name().to_owned(),
                shape: shape.dims().to_vec(),
            };
            (name.to_owned(), entry)
        };
        Self {
            version: BITMASK_VERSION,
            tensors: tensors.map(entry).collect(),
        }
    }

    /// As the value of [`BITMASK_KEY`].
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers have a JSON form")
    }
}

/// The tensors stored in place of one with `retained` retained elements, the values
/// first. `None` if the layout does not take it.
pub fn part_entries(kind: CompactKind, entry: &Entry, retained: u64) -> Option<Vec<Entry>> {
    let names = kind
        .part_names(&entry.name)
        .filter(|_| kind.takes(entry.dtype, &entry.shape))?;
    let part = |name, dtype, shape| Entry { name, dtype, shape };
    let values = kind.values_shape(&entry.shape, retained)?;
    let mut parts = vec![
        part(names.values, entry.dtype, values),
        part(names.bitmask, Dtype::U8, kind.bitmask_shape(&entry.shape)),
    ];
    if let Some(name) = names.shape {
        parts.push(part(name, Dtype::I64, kind.dims_shape(&entry.shape)?));
    }
    if let Some(name) = names.row_offsets {
        parts.push(part(name, Dtype::I64, kind.row_shape(&entry.shape)));
    }
    Some(parts)
}

/// A map in which no key stands twice.
fn without_duplicates<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, BitmaskEntry>, D::Error> {
    struct Tensors;

    impl<'de> Visitor<'de> for Tensors {
        type Value = BTreeMap<String, BitmaskEntry>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut tensors = BTreeMap::new();
            while let Some((name, entry)) = access.next_entry::<String, BitmaskEntry>()? {
                if tensors.insert(name, entry).is_some() {
                    return Err(A::Error::custom("a tensor is named twice"));
                }
            }
            Ok(tensors)
        }
    }

    deserializer.deserialize_map(Tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_tensor() {
        let check = |kind, name: &str, dims: &[u64], expected: &[(&str, &str, &[u64])]| {
            let entry = Entry {
                name: name.to_owned(),
                dtype: Dtype::BF16,
                shape: Shape::new(dims).unwrap(),
            };
            let parts = part_entries(kind, &entry, 5).unwrap_or_default();
            let found: Vec<_> = parts
                .iter()
                .map(|part| (part.name.as_str(), part.dtype.name(), part.shape.dims()))
                .collect();
            assert_eq!(found, expected, "{kind:?} {name} {dims:?}");
        };
        let ours = CompactKind::Bitmask;
        check(
            ours,
            "fc.weight",
            &[3, 10],
            &[
                ("fc.weight.values", "BF16", &[5]),
                ("fc.weight.bitmask", "U8", &[4]),
            ],
        );
        check(
            ours,
            "scale",
            &[],
            &[
                ("scale.values", "BF16", &[5]),
                ("scale.bitmask", "U8", &[1]),
            ],
        );
        let theirs = CompactKind::CompressedTensors;
        check(
            theirs,
            "fc.weight",
            &[4, 3, 10],
            &[
                ("fc.compressed", "BF16", &[5]),
                ("fc.bitmask", "U8", &[4, 3, 2]),
                ("fc.shape", "I64", &[3]),
                ("fc.row_offsets", "I64", &[4, 3]),
            ],
        );
        check(theirs, "fc.bias", &[10], &[]);
        check(theirs, "fc.weight", &[], &[]);
        let half = CompactKind::Sparse24;
        check(
            half,
            "fc.weight",
            &[1, 12],
            // Five elements are not half of them.
            &[],
        );
        let entry = Entry {
            name: "fc.weight".to_owned(),
            dtype: Dtype::BF16,
            shape: Shape::new([3, 8]).unwrap(),
        };
        let parts = part_entries(half, &entry, 12).unwrap();
        let parts: Vec<(&str, &[u64])> = parts
            .iter()
            .map(|part| (part.name.as_str(), part.shape.dims()))
            .collect();
        let expected: [(&str, &[u64]); 3] = [
            ("fc.compressed", &[3, 4]),
            ("fc.bitmask", &[3, 1]),
            ("fc.shape", &[2, 1]),
        ];
        assert_eq!(parts, expected);
        for dims in [&[24][..], &[3, 6], &[2, 3, 4]] {
            let shape = Shape::new(dims.to_vec()).unwrap();
            assert!(!half.takes(Dtype::BF16, &shape), "{dims:?}");
        }
    }

    #[test]
    fn the_record_round_trips_and_names_no_tensor_twice() {
        let shape = Shape::new([2, 3]).unwrap();
        let record = BitmaskRecord::new([("w", Dtype::F16, &shape)].into_iter());
        let text = record.to_json();
        assert_eq!(
            text,
            r#"{"version":1,"tensors":{"w":{"dtype":"F16","shape":[2,3]}}}"#
        );
        assert_eq!(
            serde_json::from_str::<BitmaskRecord>(&text).unwrap(),
            record
        );
        let entry = r#""w":{"dtype":"F16","shape":[2,3]}"#;
        let twice = format!(r#"{{"version":1,"tensors":{{{entry},{entry}}}}}"#);
        let error = serde_json::from_str::<BitmaskRecord>(&twice).unwrap_err();
        assert!(error.to_string().contains("named twice"), "{error}");
    }
}
