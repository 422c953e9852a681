//! What is wrong with TOML, and where, in one line: an error of the parser walks in.

use std::fmt;

/// What is wrong with a text in TOML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TomlError {
    /// Line and column, from 1, if it was read from a text.
    place: Option<(usize, usize)>,
    what: String,
}

impl TomlError {
    /// The parser's `error` about `text`.
    pub fn in_text(error: &toml::de::Error, text: &str) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start));
        let place = before.map(|before| {
            let line_begin = before.rfind('\n').map_or(0, |position| position + 1);
            let n_breaks = before.matches('\n').count();
            (n_breaks + 1, before[line_begin..].chars().count() + 1)
        });
        Self {
            place,
            what: one_line(error.message()),
        }
    }

    /// The parser's `error` about a value, whose key it knows.
    pub fn in_value(error: &toml::de::Error) -> Self {
        Self {
            place: None,
            what: one_line(&error.to_string()),
        }
    }
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', ", ")
}

impl fmt::Display for TomlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for TomlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let check = |text: &str, expected: &str| {
            let error = toml::from_str::<toml::Table>(text).unwrap_err();
            let found = TomlError::in_text(&error, text).to_string();
            assert!(found.starts_with(expected), "{found}");
            assert!(!found.contains('\n'), "{found}");
        };
        check("a = 1\nb = 3 4", "line 2, column 5: ");
        check("'é' = tru", "line 1, column 7: ");
    }

    #[test]
    fn values_have_a_key_and_no_place() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only its type is of interest")]
        struct Counted {
            n: u64,
        }
        let value: toml::Table = toml::from_str("n = 1.5").unwrap();
        let error = value.try_into::<Counted>().unwrap_err();
        assert_eq!(
            TomlError::in_value(&error).to_string(),
            "invalid type: floating point `1.5`, expected u64, in `n`"
        );
    }
}
