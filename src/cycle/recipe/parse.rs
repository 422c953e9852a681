//! From text to a recipe: TOML and overrides walk in.

use std::str::FromStr;

use super::Recipe;
use super::RecipeError;
use crate::graph::TomlError;
use crate::graph::spelling::nearest;

/// `section.key=value`, from the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    keys: Vec<String>,
    value: toml::Value,
}

impl FromStr for Override {
    type Err = RecipeError;

    /// The value is TOML, or else a string as it stands.
    fn from_str(text: &str) -> Result<Self, RecipeError> {
        let malformed = || RecipeError::Override {
            text: text.to_owned(),
        };
        let (key, value) = text.split_once('=').ok_or_else(malformed)?;
        let keys: Vec<String> = key.trim().split('.').map(str::to_owned).collect();
        if keys.iter().any(String::is_empty) {
            return Err(malformed());
        }
        let value = value.trim();
        let parsed: Option<toml::Table> = toml::from_str(&format!("value = {value}")).ok();
        let parsed = parsed.and_then(|mut table| table.remove("value"));
        Ok(Self {
            keys,
            value: parsed.unwrap_or_else(|| toml::Value::String(value.to_owned())),
        })
    }
}

impl Override {
    fn apply(&self, table: &mut toml::Table) -> Result<(), RecipeError> {
        let (last, sections) = self.keys.split_last().expect("text has a first part");
        let mut table = table;
        for section in sections {
            let entry = table.entry(section.clone());
            let entry = entry.or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = entry.as_table_mut().ok_or_else(|| RecipeError::NoSection {
                key: self.keys.join("."),
                through: section.clone(),
            })?;
        }
        table.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

impl Recipe {
    /// The recipe that `text` spells, with `overrides` applied in their order, checked as
    /// far as it can be without data.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn parse(text: &str, overrides: &[Override]) -> Result<Self, RecipeError> {
        let in_text = |error| malformed(&error, TomlError::in_text(&error, text));
        // The user's own text first: what is wrong with it has a line there.
        let mut recipe: Self = toml::from_str(text).map_err(in_text)?;
        if !overrides.is_empty() {
            let mut table: toml::Table = toml::from_str(text).map_err(in_text)?;
            for change in overrides {
                change.apply(&mut table)?;
            }
            recipe = table
                .try_into()
                .map_err(|error| malformed(&error, TomlError::in_value(&error)))?;
        }
        recipe.check()?;
        Ok(recipe)
    }

    /// The recipe as TOML.
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("numbers, strings and lists have a TOML form")
    }
}

fn malformed(error: &toml::de::Error, source: TomlError) -> RecipeError {
    RecipeError::Text {
        suggestion: suggestion(error.message()),
        source,
    }
}

/// Of serde's sentence "unknown field `a`, expected one of `b`, `c`" (or "unknown
/// variant"), the known word that is most like the unknown one, if one is.
fn suggestion(message: &str) -> Option<String> {
    let rest = message
        .strip_prefix("unknown field ")
        .or_else(|| message.strip_prefix("unknown variant "))?;
    // Every second part of the text between backticks is quoted.
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    nearest(unknown, &known).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_alike_are_suggested() {
        let check = |message: &str, expected: Option<&str>| {
            assert_eq!(suggestion(message).as_deref(), expected, "{message}");
        };
        check(
            "unknown field `phase`, expected one of `sparsity`, `phases`",
            Some("phases"),
        );
        check(
            "unknown field `sparsty`, expected `sparsity`",
            Some("sparsity"),
        );
        check(
            "unknown variant `gready`, expected `uniform` or `greedy`",
            Some("greedy"),
        );
        check(
            "unknown field `colour`, expected one of `epochs`, `phases`",
            None,
        );
        check("invalid type: string \"a\", expected u64", None);
    }
}
