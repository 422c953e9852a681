//! Text for people and for programs: what walks in may hold anything, what walks
//! out moves no cursor. The only place that writes to standard output and error.

use std::error::Error;
use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use sms_merge::tensor::Printable;

pub(crate) use crate::cli::table::Column;
pub(crate) use crate::cli::table::table;
use crate::cli::terminal;
use crate::cli::terminal::Stream;

/// Characters of a line that is cut off, in a file or a pipe.
const MOST_CHARACTERS: usize = 100;

/// Ends a line that is cut off.
const MORE: &str = "... (-v shows all)";

/// Text with its controlling and invisible characters escaped, line breaks too.
///
/// Unlike [`Printable`] it leaves the backslash alone, so that messages in which
/// names were escaped already are not escaped twice.
pub(crate) struct Clean<'a>(pub(crate) &'a str);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character == '\\' {
                f.write_char(character)?;
            } else {
                let mut buffer = [0; 4];
                write!(f, "{}", Printable(character.encode_utf8(&mut buffer)))?;
            }
        }
        Ok(())
    }
}

/// A path to show: bytes that are no UTF-8 become `U+FFFD`.
pub(crate) fn shown(path: &Path) -> String {
    Clean(&path.to_string_lossy()).to_string()
}

/// Standard output cannot be written.
#[derive(Debug)]
pub(crate) struct StdoutError(io::Error);

impl fmt::Display for StdoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output cannot be written")
    }
}

impl Error for StdoutError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// Writes to standard output. A reader that has gone away, as `head` does, is no error.
pub(crate) fn print(text: &str) -> Result<(), StdoutError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(StdoutError),
    }
}

/// Writes one line to standard error, a label such as `error:` in colour where that is
/// wanted. There is nowhere to tell if that fails.
pub(crate) fn note(line: &str) {
    let mut line = match terminal::has_colour(Stream::Error) {
        true => terminal::painted(line),
        false => line.to_owned(),
    };
    line.push('\n');
    let written = io::stderr().lock().write_all(line.as_bytes());
    drop(written);
}

/// `value` as indented JSON and a line break. What a terminal could take for a
/// command is written as `\u....`, which any reader of JSON undoes.
pub(crate) fn json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let raw = serde_json::to_string_pretty(value)?;
    let mut text = String::with_capacity(raw.len() + 1);
    for character in raw.chars() {
        let mut buffer = [0; 4];
        // Below DEL, serde_json has escaped what must be; what is left are its line breaks.
        let is_escaped = character >= '\u{7f}'
            && Printable(character.encode_utf8(&mut buffer))
                .to_string()
                .starts_with('\\');
        if is_escaped {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(character);
        }
    }
    text.push('\n');
    Ok(text)
}

/// A line that is cut off where the terminal behind standard output ends, unless
/// `is_verbose`. JSON has all.
pub(crate) fn cut(line: &str, is_verbose: bool) -> String {
    let most = terminal::columns(Stream::Out).unwrap_or(MOST_CHARACTERS);
    if is_verbose || line.chars().count() <= most {
        return line.to_owned();
    }
    let start: String = line.chars().take(most - MORE.len()).collect();
    start + MORE
}

/// A count with thousands separated: `12,345,678`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A fraction in per cent. What is not quite 0 or 100 is not shown as that.
pub(crate) fn percent(fraction: f64) -> String {
    let shown = format!("{:.2} %", 100.0 * fraction);
    match shown.as_str() {
        "0.00 %" if fraction > 0.0 => "<0.01 %".to_owned(),
        "100.00 %" if fraction < 1.0 => ">99.99 %".to_owned(),
        _ => shown,
    }
}

/// `1 tensor`, `2 tensors`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_escapes_and_lose_their_controls() {
        let check = |text: &str, expected: &str| assert_eq!(Clean(text).to_string(), expected);
        check("plain äöü", "plain äöü");
        check(r"fc1\u{1b}", r"fc1\u{1b}");
        check("a\u{1b}[2J\nb", r"a\u{1b}[2J\nb");
        check("\u{9b}31m\u{202e}", r"\u{9b}31m\u{202e}");
    }

    #[test]
    fn json_is_safe_to_show_and_means_the_same() {
        let value = "a\u{1b}\u{7f}\u{9b}\u{202e}\u{e0041}ä\"\\";
        let text = json(&value).unwrap();
        assert_eq!(
            text,
            "\"a\\u001b\\u007f\\u009b\\u202e\\udb40\\udc41ä\\\"\\\\\"\n"
        );
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn numbers_are_shown() {
        let check = |number, expected| assert_eq!(count(number), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(12_345_678, "12,345,678");
        let check = |fraction, expected| assert_eq!(percent(fraction), expected);
        check(0.0, "0.00 %");
        check(1e-9, "<0.01 %");
        check(0.9, "90.00 %");
        check(1.0 - 1e-9, ">99.99 %");
        check(1.0, "100.00 %");
        assert_eq!(
            (plural(1, "weight"), plural(2000, "weight")),
            ("1 weight".to_owned(), "2,000 weights".to_owned())
        );
    }
}
