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
use crate::train::data::DataSpec;
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
pub const FORMAT_VERSION: u32 = 1;

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

    /// The card as text of one line.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists have a JSON form")
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

/// What is known of a network and its images before anybody names them.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// There is no checkpoint yet: what nobody names is chosen.
    New,
    /// A checkpoint says what it is.
    Told(&'a Card),
    /// A checkpoint does not say what it is: what nobody names is not known, and a choice
    /// would be a guess.
    Silent,
}

impl<'a> Origin<'a> {
    /// What a checkpoint with this card is, or one that has none.
    pub fn of_checkpoint(card: Option<&'a Card>) -> Self {
        card.map_or(Self::Silent, Self::Told)
    }

    /// What it says, if it says something.
    pub fn card(self) -> Option<&'a Card> {
        match self {
            Self::Told(card) => Some(card),
            Self::New | Self::Silent => None,
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

/// The network that is named, or else that of a card, or else one that suits the images;
/// `None` for a checkpoint that does not say which one it is. Options are those of a model
/// that ships with the program.
pub fn choose_model(
    named: Option<Named<'_>>,
    options: BTreeMap<String, String>,
    origin: Origin<'_>,
    dataset: &Dataset,
) -> Option<ModelRecord> {
    let input = dataset.image();
    let mut record = ModelRecord {
        name: String::new(),
        input: [input.channels, input.height, input.width],
        classes: dataset.classes(),
        options,
        description: None,
    };
    match (named, origin) {
        (Some(Named::Model(name)), _) => name.clone_into(&mut record.name),
        (Some(Named::Described(graph)), _) => {
            graph.name.clone_into(&mut record.name);
            record.description = Some(Description::of(graph).to_text(Syntax::Json));
        }
        (None, Origin::Told(card)) => {
            let options = std::mem::take(&mut record.options);
            record = card.model.clone();
            record.options.extend(options);
        }
        (None, Origin::New) => suited_model(dataset).clone_into(&mut record.name),
        (None, Origin::Silent) => return None,
    }
    Some(record)
}

/// The name of the images that are asked for, or else those of a card that are known by
/// name, or else the digits; `None` where a checkpoint does not tell.
pub fn choose_data(named: Option<&str>, origin: Origin<'_>) -> Option<String> {
    match (named, origin) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Origin::Told(card)) => {
            let name = &card.data.name;
            Known::from_name(name).map(|_| name.clone())
        }
        (None, Origin::New) => Some(DataSpec::default().name),
        (None, Origin::Silent) => None,
    }
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
    BTreeMap::from([
        (RECORD_KEY.to_owned(), record.to_text()),
        (CARD_KEY.to_owned(), Card::from(record).to_text()),
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
    fn nothing_is_guessed_of_a_checkpoint_that_does_not_say() {
        let digits = crate::train::data::open(&DataSpec::default()).unwrap();
        let card = Card::from(&record());
        let model = |named, origin| {
            let chosen = choose_model(named, BTreeMap::new(), origin, &digits);
            chosen.map(|record| record.name)
        };
        assert_eq!(model(None, Origin::Silent), None);
        assert_eq!(choose_data(None, Origin::Silent), None);
        let named = Some(Named::Model("lenet5"));
        assert_eq!(model(named, Origin::Silent).as_deref(), Some("lenet5"));
        assert_eq!(choose_data(Some("x"), Origin::Silent).as_deref(), Some("x"));
        for origin in [Origin::New, Origin::Told(&card)] {
            assert_eq!(model(None, origin).as_deref(), Some("mlp"));
            assert_eq!(choose_data(None, origin).as_deref(), Some("digits"));
        }
        let mut elsewhere = card.clone();
        elsewhere.data.name = "mine.st".to_owned();
        assert_eq!(choose_data(None, Origin::Told(&elsewhere)), None);
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
