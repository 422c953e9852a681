//! The index of a checkpoint in several files: the bytes of
//! `model.safetensors.index.json` walk in, the file of every tensor walks out.
//!
//! Touches no file: whether the shards exist and hold what the index says is
//! checked where they are opened. The headers of the shards are the truth.
//!
//! Source: <https://huggingface.co/docs/transformers/big_models>.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt;
use std::str::Utf8Error;

use serde::Serialize;
use serde::de;
use serde::de::DeserializeSeed;
use serde::de::Deserializer;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Value;
use serde_json::error::Category;
use thiserror::Error;

use crate::tensor::Printable;

const METADATA: &str = "metadata";
const WEIGHT_MAP: &str = "weight_map";

/// Which file holds which tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardIndex {
    /// What the writer noted, such as `total_size` in bytes; empty if nothing.
    pub metadata: Map<String, Value>,
    /// File of each tensor: a plain base name beside the index.
    pub weight_map: BTreeMap<String, String>,
}

/// Why the bytes are not the index of a sharded checkpoint.
#[derive(Debug, Error)]
pub enum ShardIndexError {
    /// The index is not text.
    #[error("shard index is not UTF-8 at byte {}", source.valid_up_to())]
    NotUtf8 {
        /// Where the text ends.
        source: Utf8Error,
    },
    /// The index is not JSON.
    #[error("shard index is not valid JSON")]
    Json {
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// The index is JSON, but not an object.
    #[error("shard index is not an object of `metadata` and `weight_map`")]
    NotAnObject {
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// `metadata` or `weight_map` appears a second time.
    #[error("shard index has `{field}` twice")]
    FieldTwice {
        /// Name of the field.
        field: &'static str,
    },
    /// `metadata` is something else than an object.
    #[error("`metadata` of the shard index is not an object")]
    MetadataNotObject {
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// The index names no tensor at all.
    #[error("shard index lacks `weight_map`, expected an object of file names by tensor")]
    MissingWeightMap,
    /// `weight_map` is something else than an object.
    #[error("`weight_map` of the shard index is not an object of file names by tensor")]
    WeightMapNotObject {
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// A tensor appears a second time.
    #[error("shard index names tensor `{}` twice", Printable(tensor))]
    TensorTwice {
        /// Name of the tensor, after escapes.
        tensor: String,
    },
    /// The file of a tensor is something else than text.
    #[error(
        "shard index gives tensor `{}` something else than a file name",
        Printable(tensor)
    )]
    FileNotText {
        /// Name of the tensor.
        tensor: String,
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// The file of a tensor may lie outside the folder of the index.
    #[error(
        "shard index puts tensor `{}` in `{}`, expected the plain name of a file beside the index",
        Printable(tensor),
        Printable(file)
    )]
    NotBaseName {
        /// Name of the tensor.
        tensor: String,
        /// The file found.
        file: String,
    },
}

/// The shard index in `bytes`. Keys that the format does not know are ignored.
///
/// # Errors
/// A [`ShardIndexError`] that names the first tensor at fault.
pub fn parse(bytes: &[u8]) -> Result<ShardIndex, ShardIndexError> {
    let text = std::str::from_utf8(bytes).map_err(|source| ShardIndexError::NotUtf8 { source })?;
    let mut reader = Reader::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let outcome = json.deserialize_map(&mut reader).and_then(|()| json.end());
    match (outcome, reader.weight_map.take()) {
        (Err(source), _) => Err(reader.explain(source)),
        (Ok(()), None) => Err(ShardIndexError::MissingWeightMap),
        (Ok(()), Some(weight_map)) => Ok(ShardIndex {
            metadata: reader.metadata.unwrap_or_default(),
            weight_map,
        }),
    }
}

/// The text of a shard index: sorted, indented, with a newline at its end.
///
/// `total_size` is the size of all tensors in bytes, without headers. The
/// readers that insist on `metadata` want it there.
pub fn render(weight_map: &BTreeMap<String, String>, total_size: u64) -> String {
    #[derive(Serialize)]
    struct Metadata {
        total_size: u64,
    }
    #[derive(Serialize)]
    struct Index<'a> {
        metadata: Metadata,
        weight_map: &'a BTreeMap<String, String>,
    }
    let index = Index {
        metadata: Metadata { total_size },
        weight_map,
    };
    let mut text =
        serde_json::to_string_pretty(&index).expect("strings and whole numbers have a JSON form");
    text.push('\n');
    text
}

/// Name of the shard `idx`, counted from 0, of `n_shards`:
/// `model-00001-of-00003.safetensors` for the first of three with stem `model`.
pub fn shard_name(stem: &str, idx: usize, n_shards: usize) -> String {
    format!("{stem}-{:05}-of-{n_shards:05}.safetensors", idx + 1)
}

/// Whether `file` names an entry of the folder it is looked up in, on any
/// system: no folder, no way up, not empty.
fn is_base_name(file: &str) -> bool {
    !matches!(file, "" | "." | "..") && !file.contains(['/', '\\', '\0'])
}

/// What to say once serde, which can only fail with a text, has unwound.
enum Verdict {
    /// A fault that the reader found itself.
    Refused(ShardIndexError),
    /// serde found a value of the wrong kind in this place.
    WrongKind(Box<dyn FnOnce(serde_json::Error) -> ShardIndexError>),
}

#[derive(Default)]
struct Reader {
    metadata: Option<Map<String, Value>>,
    weight_map: Option<BTreeMap<String, String>>,
    verdict: Option<Verdict>,
}

impl Reader {
    /// Keeps the error aside and returns one for serde to unwind with.
    fn refuse<E: de::Error>(&mut self, error: ShardIndexError) -> E {
        self.verdict.get_or_insert(Verdict::Refused(error));
        E::custom("refused")
    }

    /// Notes the place in which serde failed. The innermost is noted first and stays.
    fn blame(&mut self, place: impl FnOnce(serde_json::Error) -> ShardIndexError + 'static) {
        self.verdict
            .get_or_insert_with(|| Verdict::WrongKind(Box::new(place)));
    }

    fn explain(self, source: serde_json::Error) -> ShardIndexError {
        match (self.verdict, source.classify()) {
            (Some(Verdict::Refused(error)), _) => error,
            (Some(Verdict::WrongKind(place)), Category::Data) => place(source),
            (None, Category::Data) => ShardIndexError::NotAnObject { source },
            _ => ShardIndexError::Json { source },
        }
    }
}

impl<'de> Visitor<'de> for &mut Reader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                METADATA => {
                    if self.metadata.is_some() {
                        return Err(self.refuse(ShardIndexError::FieldTwice { field: METADATA }));
                    }
                    let metadata = map.next_value().inspect_err(|_| {
                        self.blame(|source| ShardIndexError::MetadataNotObject { source });
                    })?;
                    self.metadata = Some(metadata);
                }
                WEIGHT_MAP => {
                    if self.weight_map.is_some() {
                        return Err(self.refuse(ShardIndexError::FieldTwice { field: WEIGHT_MAP }));
                    }
                    let weight_map =
                        map.next_value_seed(WeightMapSeed(self)).inspect_err(|_| {
                            self.blame(|source| ShardIndexError::WeightMapNotObject { source });
                        })?;
                    self.weight_map = Some(weight_map);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct WeightMapSeed<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for WeightMapSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMapSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut weight_map = BTreeMap::new();
        while let Some(tensor) = map.next_key::<String>()? {
            let btree_map::Entry::Vacant(entry) = weight_map.entry(tensor.clone()) else {
                return Err(self.0.refuse(ShardIndexError::TensorTwice { tensor }));
            };
            let file = map.next_value::<String>().inspect_err(|_| {
                let tensor = tensor.clone();
                self.0
                    .blame(|source| ShardIndexError::FileNotText { tensor, source });
            })?;
            if !is_base_name(&file) {
                return Err(self.0.refuse(ShardIndexError::NotBaseName { tensor, file }));
            }
            entry.insert(file);
        }
        Ok(weight_map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_index_is_read_and_written() {
        let text = r#"{
  "metadata": {
    "total_size": 24
  },
  "weight_map": {
    "a": "model-00001-of-00002.safetensors",
    "b\n": "model-00002-of-00002.safetensors"
  }
}
"#;
        let index = parse(text.as_bytes()).unwrap();
        assert_eq!(index.metadata["total_size"], 24);
        assert_eq!(index.weight_map["b\n"], "model-00002-of-00002.safetensors");
        assert_eq!(render(&index.weight_map, 24), text);
    }

    #[test]
    fn what_is_not_needed_may_be_missing_or_more() {
        let check = |text: &str, n_tensors: usize| {
            assert_eq!(
                parse(text.as_bytes()).unwrap().weight_map.len(),
                n_tensors,
                "{text}"
            );
        };
        check(r#"{"weight_map": {}}"#, 0);
        check(
            r#" {"weight_map": {"a": "x"}, "more": [[{"a": null}]], "more": 1} "#,
            1,
        );
        check(
            r#"{"metadata": {"total_size": 1.5e9, "x": [null]}, "weight_map": {"": "..x"}}"#,
            1,
        );
    }

    #[test]
    fn faults_are_named() {
        let check = |text: &str, expected: &str| {
            assert_eq!(
                parse(text.as_bytes()).unwrap_err().to_string(),
                expected,
                "{text}"
            );
        };
        check("", "shard index is not valid JSON");
        check(
            r#"{"weight_map": {"a": "x"}"#,
            "shard index is not valid JSON",
        );
        check(r#"{"weight_map": {}} x"#, "shard index is not valid JSON");
        check(
            "[]",
            "shard index is not an object of `metadata` and `weight_map`",
        );
        check(
            r#"{"weight_map": {}, "weight_map": {}}"#,
            "shard index has `weight_map` twice",
        );
        check(
            r#"{"metadata": {}, "metadata": {}}"#,
            "shard index has `metadata` twice",
        );
        check(
            r#"{"metadata": 1}"#,
            "`metadata` of the shard index is not an object",
        );
        check(
            r#"{"weight_map": []}"#,
            "`weight_map` of the shard index is not an object of file names by tensor",
        );
        check(
            r#"{"weight_map": {"a": "x", "\u0061": "y"}}"#,
            "shard index names tensor `a` twice",
        );
        check(
            r#"{"weight_map": {"a": null}}"#,
            "shard index gives tensor `a` something else than a file name",
        );
        for file in ["", ".", "..", "/x", "../x", "x/y", "x/", "c:\\\\x"] {
            let text = format!(r#"{{"weight_map": {{"a": "{file}"}}}}"#);
            let outcome = parse(text.as_bytes());
            assert!(
                matches!(outcome, Err(ShardIndexError::NotBaseName { .. })),
                "{text}"
            );
        }
        let outcome = parse(br#"{"weight_map": {"a": "x\u0000y"}}"#);
        assert!(matches!(outcome, Err(ShardIndexError::NotBaseName { .. })));
        let outcome = parse(b"{\"x\": \"\xff\"}");
        assert!(matches!(outcome, Err(ShardIndexError::NotUtf8 { .. })));
        for nested in ["x", "metadata"] {
            let bomb = format!("{{\"{nested}\": {}", r#"{"a":"#.repeat(100_000));
            let outcome = parse(bomb.as_bytes());
            assert!(
                matches!(outcome, Err(ShardIndexError::Json { .. })),
                "{nested}"
            );
        }
    }

    #[test]
    fn shards_are_counted_from_one_in_their_names() {
        assert_eq!(
            shard_name("model", 0, 3),
            "model-00001-of-00003.safetensors"
        );
        assert_eq!(
            shard_name("a.b", 99_999, 100_000),
            "a.b-100000-of-100000.safetensors"
        );
    }

    proptest! {
        #[test]
        fn read_after_write_is_the_identity(
            weight_map in prop::collection::btree_map(any::<String>(), "[^/\\\\\0]{3,9}", 0..9),
            total_size in any::<u64>(),
        ) {
            let index = parse(render(&weight_map, total_size).as_bytes()).unwrap();
            prop_assert_eq!(&index.metadata["total_size"], total_size);
            prop_assert_eq!(index.weight_map, weight_map);
        }
    }
}
