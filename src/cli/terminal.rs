//! What is known of the terminal behind a stream: how wide it is, and whether it shows
//! colours. Where there is none, nothing is shortened and nothing is coloured.

use std::env;
use std::io;
use std::io::IsTerminal;

use anstream::AutoStream;
use anstream::ColorChoice;
use clap::builder::styling::AnsiColor;
use clap::builder::styling::Style;
use rustix::termios::tcgetwinsize;

/// Columns of a terminal that does not say how wide it is.
const USUAL_COLUMNS: usize = 80;

/// Fewest columns that a table is laid out for.
const LEAST_COLUMNS: usize = 20;

/// Beginnings of lines that are shown in a style of their own. Those of errors, usage and
/// tips look as clap's do.
const LABELS: [(&str, Style); 7] = [
    ("error:", AnsiColor::Red.on_default().bold()),
    ("failed:", AnsiColor::Red.on_default().bold()),
    ("  caused by:", AnsiColor::Red.on_default()),
    ("warning:", AnsiColor::Yellow.on_default().bold()),
    ("next:", AnsiColor::Cyan.on_default().bold()),
    ("  tip:", AnsiColor::Green.on_default()),
    ("Usage:", Style::new().bold().underline()),
];

/// Where text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// Columns of the terminal behind `stream`; `None` if a file or a program reads it.
pub(crate) fn columns(stream: Stream) -> Option<usize> {
    let (is_terminal, size) = match stream {
        Stream::Out => (io::stdout().is_terminal(), tcgetwinsize(io::stdout())),
        Stream::Error => (io::stderr().is_terminal(), tcgetwinsize(io::stderr())),
    };
    if !is_terminal {
        return None;
    }
    let told = size.ok().map(|size| usize::from(size.ws_col));
    let columns = told.filter(|&columns| columns > 0).or_else(|| {
        let columns = env::var("COLUMNS").ok()?;
        columns.parse().ok()
    });
    Some(columns.unwrap_or(USUAL_COLUMNS).max(LEAST_COLUMNS))
}

/// Whether `stream` is shown in colour: on a terminal that has colours, unless `NO_COLOR` or
/// `CLICOLOR=0` is set; anywhere if `CLICOLOR_FORCE` is.
pub(crate) fn has_colour(stream: Stream) -> bool {
    let choice = match stream {
        Stream::Out => AutoStream::choice(&io::stdout()),
        Stream::Error => AutoStream::choice(&io::stderr()),
    };
    choice != ColorChoice::Never
}

/// `line` with its label, if it begins with one, in the style of the label.
pub(crate) fn painted(line: &str) -> String {
    let label = LABELS.iter().find(|(label, _)| line.starts_with(label));
    match label {
        Some((label, style)) => {
            let rest = &line[label.len()..];
            format!("{style}{label}{style:#}{rest}")
        }
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_alone_are_painted() {
        let check = |line: &str, expected: &str| assert_eq!(painted(line), expected);
        check(
            "error: no such file",
            "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m no such file",
        );
        check(
            "warning: old\nerror: b",
            "\u{1b}[1m\u{1b}[33mwarning:\u{1b}[0m old\nerror: b",
        );
        check("the error: is here", "the error: is here");
        check("", "");
    }
}
