//! Paths and patterns as words that a shell reads back as they were.

use std::path::Path;

use crate::cli::text::shown;

/// A path as a word of a shell's command line.
pub(crate) fn quoted(path: &Path) -> String {
    word(shown(path))
}

/// A text as a word of a shell's command line.
pub(crate) fn word(text: String) -> String {
    let is_plain = |character: char| {
        character.is_alphanumeric() || matches!(character, '/' | '.' | '_' | '-' | '+' | ',' | '=')
    };
    if !text.is_empty() && text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// An option with each of these patterns, as words of a shell's command line.
pub(in crate::cli) fn repeated(option: &str, patterns: &[String]) -> String {
    let words = patterns
        .iter()
        .map(|pattern| format!("{option} {}", word(pattern.clone())));
    words.collect::<Vec<_>>().join(" ")
}
