//! The JSON of a header, read in one pass: text walks in, tensors checked one
//! by one walk out. Knows nothing of how tensors lie to each other.
//!
//! serde's visitors can only fail with a text, so the reader keeps the typed
//! error aside while serde unwinds. Nothing here recurses: the format is three
//! levels deep, and a value of the wrong kind is refused before it is entered.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de;
use serde::de::DeserializeSeed;
use serde::de::Deserializer;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::error::Category;

use crate::format::safetensors::Header;
use crate::format::safetensors::HeaderError;
use crate::format::safetensors::METADATA_KEY;
use crate::format::safetensors::TensorInfo;
use crate::format::safetensors::header::check_tensor;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// The header in `text`, tensors in the order of the text.
///
/// # Errors
/// A [`HeaderError`] for the first fault in the text.
pub(super) fn read(text: &str, data_bytes: u64) -> Result<Header, HeaderError> {
    let mut reader = Reader {
        data_bytes,
        metadata: None,
        tensors: Vec::new(),
        dims: Vec::new(),
        verdict: None,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let outcome = json.deserialize_map(&mut reader).and_then(|()| json.end());
    match outcome {
        Ok(()) => Ok(Header {
            metadata: reader.metadata.unwrap_or_default(),
            tensors: reader.tensors,
        }),
        Err(source) => Err(reader.explain(source)),
    }
}

/// What to say once serde has unwound.
enum Verdict {
    /// A fault that the reader found itself.
    Refused(HeaderError),
    /// serde found a value of the wrong kind in this place.
    WrongKind(Box<dyn FnOnce(serde_json::Error) -> HeaderError>),
}

struct Reader {
    data_bytes: u64,
    metadata: Option<BTreeMap<String, String>>,
    tensors: Vec<TensorInfo>,
    /// Dimensions of the tensor being read; kept for its memory.
    dims: Vec<u64>,
    verdict: Option<Verdict>,
}

impl Reader {
    /// Keeps the error aside and returns one for serde to unwind with.
    fn refuse<E: de::Error>(&mut self, error: HeaderError) -> E {
        self.verdict.get_or_insert(Verdict::Refused(error));
        E::custom("refused")
    }

    /// Notes the place in which serde failed. The innermost is noted first and stays.
    fn blame(&mut self, place: impl FnOnce(serde_json::Error) -> HeaderError + 'static) {
        self.verdict
            .get_or_insert_with(|| Verdict::WrongKind(Box::new(place)));
    }

    fn explain(self, source: serde_json::Error) -> HeaderError {
        match self.verdict {
            Some(Verdict::Refused(error)) => error,
            Some(Verdict::WrongKind(place)) if source.classify() == Category::Data => place(source),
            _ => HeaderError::Json { source },
        }
    }
}

/// The whole header: `__metadata__` and tensors by name.
impl<'de> Visitor<'de> for &mut Reader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA_KEY {
                if self.metadata.is_some() {
                    return Err(self.refuse(HeaderError::MetadataTwice));
                }
                let metadata = map.next_value_seed(MetadataSeed(self)).inspect_err(|_| {
                    self.blame(|source| HeaderError::MetadataNotObject { source })
                })?;
                self.metadata = Some(metadata);
            } else {
                let seed = TensorSeed {
                    reader: self,
                    name: &name,
                };
                let (dtype, shape, begin, end) = map.next_value_seed(seed).inspect_err(|_| {
                    let tensor = name.clone();
                    self.blame(|source| HeaderError::TensorNotObject { tensor, source });
                })?;
                self.tensors.push(TensorInfo {
                    name,
                    dtype,
                    shape,
                    begin,
                    end,
                });
            }
        }
        Ok(())
    }
}

struct MetadataSeed<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut metadata = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            match metadata.entry(key) {
                Entry::Occupied(entry) => {
                    let key = entry.key().clone();
                    return Err(self.0.refuse(HeaderError::MetadataKeyTwice { key }));
                }
                Entry::Vacant(entry) => {
                    let value = map.next_value::<String>().inspect_err(|_| {
                        let key = entry.key().clone();
                        self.0
                            .blame(|source| HeaderError::MetadataValue { key, source });
                    })?;
                    entry.insert(value);
                }
            }
        }
        Ok(metadata)
    }
}

struct TensorSeed<'a> {
    reader: &'a mut Reader,
    name: &'a str,
}

impl TensorSeed<'_> {
    /// Refuses a field that was read before.
    fn first<T, E: de::Error>(&mut self, field: &'static str, slot: &Option<T>) -> Result<(), E> {
        if slot.is_none() {
            return Ok(());
        }
        let tensor = self.name.to_owned();
        Err(self
            .reader
            .refuse(HeaderError::FieldTwice { tensor, field }))
    }

    /// Refuses a field that was not read.
    fn required<T, E: de::Error>(&mut self, field: &'static str, slot: Option<T>) -> Result<T, E> {
        slot.ok_or_else(|| {
            let tensor = self.name.to_owned();
            self.reader
                .refuse(HeaderError::MissingField { tensor, field })
        })
    }

    /// Notes the field in which serde failed.
    fn blame(&mut self, place: fn(String, serde_json::Error) -> HeaderError) {
        let tensor = self.name.to_owned();
        self.reader.blame(move |source| place(tensor, source));
    }
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_> {
    type Value = (Dtype, Shape, u64, u64);

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed<'_> {
    type Value = (Dtype, Shape, u64, u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut dtype = None;
        let mut shape = None;
        let mut offsets = None;
        while let Some(field) = map.next_key_seed(FieldSeed)? {
            match field {
                Field::Dtype => {
                    self.first(DTYPE, &dtype)?;
                    let found = map.next_value_seed(DtypeSeed).inspect_err(|_| {
                        self.blame(|tensor, source| HeaderError::DtypeNotText { tensor, source });
                    })?;
                    dtype = Some(found.map_err(|dtype| {
                        let tensor = self.name.to_owned();
                        self.reader
                            .refuse(HeaderError::UnknownDtype { tensor, dtype })
                    })?);
                }
                Field::Shape => {
                    self.first(SHAPE, &shape)?;
                    map.next_value_seed(DimsSeed(&mut self.reader.dims))
                        .inspect_err(|_| {
                            self.blame(|tensor, source| HeaderError::ShapeEntry { tensor, source });
                        })?;
                    shape = Some(());
                }
                Field::DataOffsets => {
                    self.first(DATA_OFFSETS, &offsets)?;
                    let found = map.next_value_seed(OffsetsSeed).inspect_err(|_| {
                        self.blame(|tensor, source| HeaderError::OffsetsNotPair { tensor, source });
                    })?;
                    offsets = Some(found);
                }
                Field::Unknown(field) => {
                    let tensor = self.name.to_owned();
                    return Err(self
                        .reader
                        .refuse(HeaderError::UnknownField { tensor, field }));
                }
            }
        }
        let dtype = self.required(DTYPE, dtype)?;
        self.required(SHAPE, shape)?;
        let offsets = self.required(DATA_OFFSETS, offsets)?;
        let (dims, data_bytes) = (&self.reader.dims, self.reader.data_bytes);
        let shape = check_tensor(self.name, dtype, dims, offsets, data_bytes)
            .map_err(|error| self.reader.refuse(error))?;
        Ok((dtype, shape, offsets.0, offsets.1))
    }
}

enum Field {
    Dtype,
    Shape,
    DataOffsets,
    Unknown(String),
}

const DTYPE: &str = "dtype";
const SHAPE: &str = "shape";
const DATA_OFFSETS: &str = "data_offsets";

struct FieldSeed;

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Field, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldSeed {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Field, E> {
        Ok(match name {
            DTYPE => Field::Dtype,
            SHAPE => Field::Shape,
            DATA_OFFSETS => Field::DataOffsets,
            _ => Field::Unknown(name.to_owned()),
        })
    }
}

struct DtypeSeed;

impl<'de> DeserializeSeed<'de> for DtypeSeed {
    type Value = Result<Dtype, String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for DtypeSeed {
    /// The element type, or the name that stands for none.
    type Value = Result<Dtype, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Dtype::from_name(name).ok_or_else(|| name.to_owned()))
    }
}

/// Reads dimensions into the vector, over what was there.
struct DimsSeed<'a>(&'a mut Vec<u64>);

impl<'de> DeserializeSeed<'de> for DimsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for DimsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.clear();
        while let Some(dim) = list.next_element()? {
            self.0.push(dim);
        }
        Ok(())
    }
}

struct OffsetsSeed;

impl<'de> DeserializeSeed<'de> for OffsetsSeed {
    type Value = (u64, u64);

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for OffsetsSeed {
    type Value = (u64, u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of two whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let begin = list
            .next_element()?
            .ok_or_else(|| de::Error::invalid_length(0, &self))?;
        let end = list
            .next_element()?
            .ok_or_else(|| de::Error::invalid_length(1, &self))?;
        match list.next_element::<u64>()? {
            Some(_) => Err(de::Error::invalid_length(3, &self)),
            None => Ok((begin, end)),
        }
    }
}
