//! Sections whose keys are their own and those of a training, side by side: serde cannot
//! both flatten and refuse unknown keys, so the keys are parted here.

use serde::Deserialize;
use serde::Deserializer;
use serde::de::DeserializeOwned;
use serde::de::Error;

use super::Each;
use super::Pretraining;
use super::Retraining;
use crate::train::choices::Choices;

/// The value of `key`, taken out of the section.
fn take<T: DeserializeOwned, E: Error>(
    section: &mut toml::Table,
    key: &str,
) -> Result<Option<T>, E> {
    let value = section.remove(key);
    let value = value.map(|value| T::deserialize(value).map_err(E::custom));
    value.transpose()
}

fn rest<E: Error>(section: toml::Table) -> Result<Choices, E> {
    // Not `custom(error)`: its text would repeat where the error is.
    Choices::deserialize(section).map_err(|error| E::custom(error.message()))
}

impl<'de> Deserialize<'de> for Pretraining {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut section = toml::Table::deserialize(deserializer)?;
        Ok(Self {
            checkpoint: take(&mut section, "checkpoint")?,
            training: rest(section)?,
        })
    }
}

impl<'de> Deserialize<'de> for Retraining {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut section = toml::Table::deserialize(deserializer)?;
        Ok(Self {
            rewind_epoch: take(&mut section, "rewind_epoch")?,
            training: rest(section)?,
        })
    }
}

impl<'de> Deserialize<'de> for Each {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut section = toml::Table::deserialize(deserializer)?;
        Ok(Self {
            seed: take(&mut section, "seed")?,
            training: rest(section)?,
        })
    }
}
