//! What every model of a family says about itself, in the metadata of its checkpoint: the
//! network and the images, not how it was trained. Models that are averaged agree in it,
//! so that their soup keeps it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use crate::graph::Description;
use crate::graph::Graph;
use crate::graph::Syntax;
use crate::train::data::Dataset;
use crate::train::data::Known;
use crate::train::record::DataRecord;
use crate::train::record::ModelRecord;
use crate::train::record::RECORD_KEY;
use crate::train::record::Record;
use crate::train::record::RecordError;

/// Key of the card in `__metadata__`; its value is one JSON object.
pub const CARD_KEY: &str = "sms_model";

/// Version of the card's fields.
const FORMAT_VERSION: u32 = 1;

/// What a model is and which images it knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Version of these fields.
    pub format_version: u32,
    /// The network.
    pub model: ModelRecord,
    /// The images.
    pub data: DataRecord,
    /// Share of the training images that was held out.
    pub validation_fraction: f64,
    /// Names which were held out.
    pub validation_seed: u64,
}

/// Why a card cannot be used.
#[derive(Debug, Error)]
pub enum CardError {
    /// It is not what this program writes.
    #[error("its metadata `{CARD_KEY}` is malformed")]
    Malformed(#[source] serde_json::Error),
    /// It was written by another version of the program.
    #[error("its metadata `{CARD_KEY}` has version {found}, expected {expected}")]
    Version {
        /// What this program knows.
        expected: u32,
        /// What it is; 0 where it is no number.
        found: u64,
    },
    /// There is none, and the record of the training cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Card {
    /// The card in a checkpoint's metadata, or what the record of its training says;
    /// `None` if there is neither.
    ///
    /// # Errors
    /// [`CardError`] if it cannot be understood.
    pub fn of(metadata: &BTreeMap<&str, &str>) -> Result<Option<Self>, CardError> {
        let Some(text) = metadata.get(CARD_KEY) else {
            return Ok(Record::of(metadata)?.as_ref().map(Self::from));
        };
        let value: Value = serde_json::from_str(text).map_err(CardError::Malformed)?;
        match value.get("format_version").and_then(Value::as_u64) {
            Some(version) if version == u64::from(FORMAT_VERSION) => {}
            found => {
                return Err(CardError::Version {
                    expected: FORMAT_VERSION,
                    found: found.unwrap_or_default(),
                });
            }
        }
        let card = serde_json::from_value(value);
        card.map(Some).map_err(CardError::Malformed)
    }
}

impl From<&Record> for Card {
    fn from(record: &Record) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            model: record.model.clone(),
            data: record.data.clone(),
            validation_fraction: record.recipe.validation_fraction,
            validation_seed: record.recipe.validation_seed,
        }
    }
}

/// How a network is named.
#[derive(Clone, Copy, Debug)]
pub enum Named<'a> {
    /// By the name of a model that ships with the program.
    Model(&'a str),
    /// By a description that was built.
    Described(&'a Graph),
}

/// The network that is named, or else that of a card, or else one that suits the images.
/// Options are those of a model that ships with the program.
pub fn choose_model(
    named: Option<Named<'_>>,
    options: BTreeMap<String, String>,
    card: Option<&Card>,
    dataset: &Dataset,
) -> ModelRecord {
    let input = dataset.image();
    let mut record = ModelRecord {
        name: String::new(),
        input: [input.channels, input.height, input.width],
        classes: dataset.classes(),
        options,
        description: None,
    };
    match (named, card) {
        (Some(Named::Model(name)), _) => name.clone_into(&mut record.name),
        (Some(Named::Described(graph)), _) => {
            graph.name.clone_into(&mut record.name);
            record.description = Some(Description::of(graph).to_text(Syntax::Json));
        }
        (None, Some(card)) => {
            let options = std::mem::take(&mut record.options);
            record = card.model.clone();
            record.options.extend(options);
        }
        (None, None) => suited_model(dataset).clone_into(&mut record.name),
    }
    record
}

/// The model for a data set where none is asked for.
fn suited_model(dataset: &Dataset) -> &'static str {
    if Known::from_name(&dataset.name) == Some(Known::Digits) {
        "mlp"
    } else if dataset.image().channels == 3 {
        "resnet20"
    } else {
        "convnet"
    }
}

/// Metadata of a checkpoint that came out of a training: its record and its card.
pub fn metadata(record: &Record) -> BTreeMap<String, String> {
    let card = serde_json::to_string(&Card::from(record))
        .expect("strings, numbers and lists have a JSON form");
    BTreeMap::from([
        (RECORD_KEY.to_owned(), record.to_text()),
        (CARD_KEY.to_owned(), card),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::record::tests::record;

    fn read(pairs: &BTreeMap<String, String>) -> Result<Option<Card>, CardError> {
        let borrowed = pairs.iter();
        Card::of(
            &borrowed
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect(),
        )
    }

    #[test]
    fn cards_survive_a_merge_and_records_do_without() {
        let card = Card::from(&record());
        let mut pairs = metadata(&record());
        assert_eq!(read(&pairs).unwrap().as_ref(), Some(&card));
        let mut other = record();
        other.recipe.seed += 1;
        assert_eq!(metadata(&other)[CARD_KEY], pairs[CARD_KEY]);
        assert_ne!(metadata(&other)[RECORD_KEY], pairs[RECORD_KEY]);
        pairs.remove(RECORD_KEY);
        assert_eq!(read(&pairs).unwrap().as_ref(), Some(&card));
        pairs = metadata(&record());
        pairs.remove(CARD_KEY);
        assert_eq!(read(&pairs).unwrap(), Some(card));
        assert_eq!(read(&BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn cards_of_others_are_refused() {
        let check = |text: &str, expected: &str| {
            let pairs = BTreeMap::from([(CARD_KEY.to_owned(), text.to_owned())]);
            assert_eq!(read(&pairs).unwrap_err().to_string(), expected);
        };
        check("{", "its metadata `sms_model` is malformed");
        check(
            "{\"format_version\": 1}",
            "its metadata `sms_model` is malformed",
        );
        check("[]", "its metadata `sms_model` has version 0, expected 1");
    }
}
