//! What a trained checkpoint says about itself: model, data and recipe, as JSON in its
//! metadata, so that it can be evaluated and trained on without being told again.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use crate::graph::Description;
use crate::graph::DescriptionError;
use crate::graph::Features;
use crate::graph::Graph;
use crate::graph::Syntax;
use crate::graph::models;
use crate::graph::models::ModelError;
use crate::graph::models::ModelSpec;
use crate::tensor::Digest;
use crate::tensor::Digester;
use crate::train::Weights;
use crate::train::data::Dataset;
use crate::train::data::Normalisation;
use crate::train::data::Samples;
use crate::train::engine::Masks;
use crate::train::masks::masks_digest;
use crate::train::recipe::Recipe;

/// Key of the record in `__metadata__`; its value is one JSON object.
pub const RECORD_KEY: &str = "sms_train";

/// Version of the record's fields.
pub const FORMAT_VERSION: u32 = 1;

/// How a checkpoint came about. The same record gives the same bytes, whatever the
/// number of threads and wherever files lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of these fields.
    pub format_version: u32,
    /// Name and version of the program.
    pub tool: String,
    /// What computed: the bits of one engine are not those of another.
    pub engine: String,
    /// The network.
    pub model: ModelRecord,
    /// The images.
    pub data: DataRecord,
    /// How it was trained.
    pub recipe: Recipe,
    /// Where it began.
    pub start: StartRecord,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
}

/// A network, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Name of a model that ships with the program, or of the described one.
    pub name: String,
    /// Channels, height and width of one image.
    pub input: [usize; 3],
    /// Number of classes.
    pub classes: usize,
    /// Options that were named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// The user's own description of the network, whole, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A data set, as it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataRecord {
    /// Its name, or that of its file.
    pub name: String,
    /// Digest of the training images and their labels.
    pub digest: Digest,
    /// Number of training images, held out or not.
    pub images: usize,
    /// How pixels become what the network sees.
    pub normalisation: Normalisation,
    /// One name per class.
    pub class_names: Vec<String>,
}

/// Where a training began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Digest of the first weights.
    pub weights: Digest,
    /// Digest of the masks.
    pub masks: Digest,
}

impl ModelRecord {
    /// Shape of one image.
    pub fn input(&self) -> Features {
        let [channels, height, width] = self.input;
        Features {
            channels,
            height,
            width,
        }
    }

    /// The network.
    ///
    /// # Errors
    /// [`NetworkError`] if there is no such model, or its description describes none.
    pub fn graph(&self) -> Result<Graph, NetworkError> {
        let Some(text) = &self.description else {
            return Ok(models::build(&ModelSpec {
                name: self.name.clone(),
                input: self.input(),
                classes: self.classes,
                options: self.options.clone(),
            })?);
        };
        let description = Description::parse(text, Syntax::Json)?;
        Ok(description.build(Some(self.input()), Some(self.classes))?)
    }
}

impl DataRecord {
    /// What is recorded of a data set.
    pub fn new(dataset: &Dataset) -> Self {
        Self {
            name: dataset.name.clone(),
            digest: digest_of(&dataset.train),
            images: dataset.train.len(),
            normalisation: dataset.normalisation.clone(),
            class_names: dataset.class_names.clone(),
        }
    }
}

/// The digest of images and their labels.
pub fn digest_of(samples: &Samples) -> Digest {
    let mut digester = Digester::new();
    let image = samples.image();
    for size in [image.channels, image.height, image.width, samples.len()] {
        digester.update(&(size as u64).to_le_bytes());
    }
    digester.update(&[samples.white()]);
    digester.update(samples.pixels());
    for label in samples.labels() {
        digester.update(&label.to_le_bytes());
    }
    digester.finish()
}

impl StartRecord {
    /// What is recorded of the first weights and the masks.
    pub fn new(graph: &Graph, weights: &Weights, masks: &Masks) -> Self {
        let mut digester = Digester::new();
        for values in &weights.values {
            for value in values {
                digester.update(&value.to_le_bytes());
            }
        }
        for count in &weights.counts {
            digester.update(&count.to_le_bytes());
        }
        Self {
            weights: digester.finish(),
            masks: masks_digest(graph, masks),
        }
    }
}

impl Record {
    /// The record in a checkpoint's metadata; `None` if there is none.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be understood.
    pub fn of(metadata: &BTreeMap<&str, &str>) -> Result<Option<Self>, RecordError> {
        let Some(text) = metadata.get(RECORD_KEY) else {
            return Ok(None);
        };
        let value: Value = serde_json::from_str(text).map_err(RecordError::Malformed)?;
        match value.get("format_version").and_then(Value::as_u64) {
            Some(version) if version == u64::from(FORMAT_VERSION) => {}
            found => {
                return Err(RecordError::Version {
                    expected: FORMAT_VERSION,
                    found: found.unwrap_or_default(),
                });
            }
        }
        serde_json::from_value(value)
            .map(Some)
            .map_err(RecordError::Malformed)
    }

    /// The record as text of one line.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists have a JSON form")
    }

    /// The first place at which the record `text` differs, with what is there.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] if `text` is no JSON.
    pub fn difference(&self, text: &str) -> Result<Option<Differing>, RecordError> {
        // Both are read from text: a number may change its last bit on the way.
        let value = |text: &str| serde_json::from_str::<Value>(text);
        let own = value(&self.to_text()).map_err(RecordError::Malformed)?;
        let other = value(text).map_err(RecordError::Malformed)?;
        Ok(differing(String::new(), &own, &other))
    }
}

/// A place at which two records differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// Names of the fields on the way to it, with dots between them.
    pub field: String,
    /// What the record has there, as JSON.
    pub expected: String,
    /// What the text has there, as JSON.
    pub found: String,
}

fn differing(field: String, a: &Value, b: &Value) -> Option<Differing> {
    if a == b {
        return None;
    }
    if let (Value::Object(first), Value::Object(second)) = (a, b) {
        let keys = first.keys().chain(second.keys());
        let found = keys.into_iter().find_map(|key| {
            let path = if field.is_empty() {
                key.clone()
            } else {
                format!("{field}.{key}")
            };
            let get = |object: &serde_json::Map<String, Value>| {
                object.get(key).cloned().unwrap_or_default()
            };
            differing(path, &get(first), &get(second))
        });
        if found.is_some() {
            return found;
        }
    }
    Some(Differing {
        field,
        expected: a.to_string(),
        found: b.to_string(),
    })
}

/// Why a record gives no network.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// There is no such model, or not with these options.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The description describes none.
    #[error(transparent)]
    Description(#[from] DescriptionError),
}

/// Why a record cannot be used.
#[derive(Debug, Error)]
pub enum RecordError {
    /// It is not what this program writes.
    #[error("its metadata `{RECORD_KEY}` is malformed")]
    Malformed(#[source] serde_json::Error),
    /// It was written by another version of the program.
    #[error("its metadata `{RECORD_KEY}` has version {found}, expected {expected}")]
    Version {
        /// What this program knows.
        expected: u32,
        /// What it is; 0 where it is no number.
        found: u64,
    },
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::train) fn record() -> Record {
        let digest = Digest::of(b"");
        Record {
            format_version: FORMAT_VERSION,
            tool: "sms-merge 0".to_owned(),
            engine: "native".to_owned(),
            model: ModelRecord {
                name: "mlp".to_owned(),
                input: [1, 8, 8],
                classes: 10,
                options: BTreeMap::new(),
                description: None,
            },
            data: DataRecord {
                name: "digits".to_owned(),
                digest,
                images: 1437,
                normalisation: Normalisation {
                    mean: vec![0.3],
                    deviation: vec![0.4],
                },
                class_names: vec!["0".to_owned()],
            },
            recipe: Recipe::default(),
            start: StartRecord {
                weights: digest,
                masks: digest,
            },
            steps_per_epoch: 11,
        }
    }

    #[test]
    fn records_are_text_and_back() {
        let record = record();
        let text = record.to_text();
        let metadata = BTreeMap::from([(RECORD_KEY, text.as_str())]);
        assert_eq!(Record::of(&metadata).unwrap(), Some(record));
        assert_eq!(Record::of(&BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn records_of_others_are_refused() {
        let check = |text: &str, expected: &str| {
            let metadata = BTreeMap::from([(RECORD_KEY, text)]);
            let error = Record::of(&metadata).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check("{", "its metadata `sms_train` is malformed");
        check(
            "{\"format_version\": 1}",
            "its metadata `sms_train` is malformed",
        );
        let version = "its metadata `sms_train` has version 2, expected 1";
        check("{\"format_version\": 2}", version);
        check("[]", "its metadata `sms_train` has version 0, expected 1");
    }

    #[test]
    fn the_first_difference_is_named() {
        let a = record();
        assert_eq!(a.difference(&a.to_text()).unwrap(), None);
        assert!(a.difference("{").is_err());
        let check = |change: fn(&mut Record), field: &str, expected: &str, found: &str| {
            let mut b = record();
            change(&mut b);
            let difference = a.difference(&b.to_text()).unwrap().unwrap();
            let parts = (
                difference.field.as_str(),
                difference.expected.as_str(),
                difference.found.as_str(),
            );
            assert_eq!(parts, (field, expected, found));
        };
        check(
            |b| b.recipe.weight_decay = 0.0,
            "recipe.weight_decay",
            "0.0005",
            "0.0",
        );
        check(
            |b| b.recipe.limit_train = Some(3),
            "recipe.limit_train",
            "null",
            "3",
        );
        check(
            |b| b.model.name = "lenet5".to_owned(),
            "model.name",
            "\"mlp\"",
            "\"lenet5\"",
        );
        check(
            |b| {
                b.model.options.insert("hidden".to_owned(), "9".to_owned());
            },
            "model.options",
            "null",
            "{\"hidden\":\"9\"}",
        );
    }
}
