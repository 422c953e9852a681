//! Commands as recipes give them: a line of text walks in, words with values put in walk
//! out. No shell reads them.

use std::collections::BTreeMap;
use std::ffi::OsString;

use thiserror::Error;

/// Why a command cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// There is no word.
    #[error("the command is empty")]
    Empty,
    /// A quote has no end.
    #[error("command `{command}` has a quote that is not closed")]
    Quote {
        /// The command.
        command: String,
    },
    /// A placeholder stands for nothing.
    #[error(
        "command `{command}` has a placeholder `{{{found}}}`, which stands for nothing; there are {}",
        listed(known)
    )]
    Unknown {
        /// The command.
        command: String,
        /// The placeholder.
        found: String,
        /// Those that stand for something.
        known: Vec<String>,
    },
}

fn listed(known: &[String]) -> String {
    let names: Vec<String> = known.iter().map(|name| format!("`{{{name}}}`")).collect();
    names.join(", ")
}

/// Part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(String),
}

/// The words of a command, with places for values.
///
/// A line is split as a shell splits it: spaces part words, quotes and backslashes keep
/// them together, and nothing else means anything. `{name}` in a word is a place for a
/// value, which is never split. `{{name}}` is the text `{name}`; other braces are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    words: Vec<Vec<Piece>>,
}

impl Template {
    /// The command that `text` describes, whose places may be the `known` ones.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, TemplateError> {
        let words = shell_words::split(text).map_err(|_| TemplateError::Quote {
            command: text.to_owned(),
        })?;
        if words.is_empty() {
            return Err(TemplateError::Empty);
        }
        let words: Vec<Vec<Piece>> = words.iter().map(|word| pieces(word)).collect();
        for piece in words.iter().flatten() {
            if let Piece::Place(name) = piece
                && !known.contains(&name.as_str())
            {
                return Err(TemplateError::Unknown {
                    command: text.to_owned(),
                    found: name.clone(),
                    known: known.iter().map(|&name| name.to_owned()).collect(),
                });
            }
        }
        Ok(Self { words })
    }

    /// Whether the command has a place of this name.
    pub fn names(&self, name: &str) -> bool {
        let is_place = |piece: &Piece| matches!(piece, Piece::Place(found) if found == name);
        self.words.iter().flatten().any(is_place)
    }

    /// The words with their values; nothing stands where there is no value.
    pub fn fill(&self, values: &BTreeMap<&str, OsString>) -> Vec<OsString> {
        let fill = |word: &Vec<Piece>| {
            let mut filled = OsString::new();
            for piece in word {
                match piece {
                    Piece::Text(text) => filled.push(text),
                    Piece::Place(name) => {
                        filled.push(values.get(name.as_str()).cloned().unwrap_or_default());
                    }
                }
            }
            filled
        };
        self.words.iter().map(fill).collect()
    }
}

/// A word, cut at its places.
fn pieces(word: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = word;
    while let Some(character) = rest.chars().next() {
        let escaped = rest
            .strip_prefix('{')
            .and_then(place)
            .and_then(|(name, after)| Some((name, after.strip_prefix('}')?)));
        if let Some((name, after)) = escaped {
            text.push_str(&format!("{{{name}}}"));
            rest = after;
        } else if let Some((name, after)) = place(rest) {
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Place(name.to_owned()));
            rest = after;
        } else {
            text.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    pieces
}

/// The name of the place that `text` begins with, and what follows it.
fn place(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.strip_prefix('{')?.split_once('}')?;
    let is_named = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_'
    };
    let begins = name.starts_with(|character: char| character.is_ascii_lowercase());
    (begins && name.chars().all(is_named)).then_some((name, after))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn words_are_split_and_filled() {
        let known = ["checkpoint", "seed", "empty"];
        let values = BTreeMap::from([
            ("checkpoint", OsString::from("a b/{seed}.st")),
            ("seed", OsString::from("7")),
        ]);
        let check = |text: &str, expected: &[&str]| {
            let template = Template::parse(text, &known).unwrap();
            assert_eq!(template.fill(&values), expected, "{text}");
        };
        check("python train.py", &["python", "train.py"]);
        check(
            "python 'my train.py' --seed={seed} {checkpoint}",
            &["python", "my train.py", "--seed=7", "a b/{seed}.st"],
        );
        check("{seed}{seed}x", &["77x"]);
        check("'{seed}' \"{seed}\" \\{seed}", &["7", "7", "7"]);
        check("{{seed}} x{{seed}}{seed}", &["{seed}", "x{seed}7"]);
        check(
            "python -c 'print({1: {2}}, {}, { seed }, {Seed}, {'",
            &["python", "-c", "print({1: {2}}, {}, { seed }, {Seed}, {"],
        );
        check("a {empty} ''", &["a", "", ""]);
        check("echo $HOME * ; |", &["echo", "$HOME", "*", ";", "|"]);
        let bytes = OsStr::from_bytes(b"a\xff").to_owned();
        let template = Template::parse("x={seed}", &known).unwrap();
        let filled = template.fill(&BTreeMap::from([("seed", bytes)]));
        assert_eq!(filled[0].as_bytes(), b"x=a\xff");
    }

    #[test]
    fn places_are_known() {
        let template = Template::parse("a {seed} {{mask}}", &["seed", "mask"]).unwrap();
        assert!(template.names("seed") && !template.names("mask"));
        let refused = Template::parse("a {sed}", &["checkpoint", "seed"]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "command `a {sed}` has a placeholder `{sed}`, which stands for nothing; \
             there are `{checkpoint}`, `{seed}`"
        );
    }

    #[test]
    fn what_is_no_command() {
        assert_eq!(Template::parse(" ", &[]), Err(TemplateError::Empty));
        let open = Template::parse("a 'b", &[]).unwrap_err();
        assert!(matches!(open, TemplateError::Quote { .. }), "{open:?}");
    }
}
