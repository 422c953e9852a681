//! What clap says of a command line: help, or what is wrong with it and with which argument.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::ContextKind;
use clap::error::ContextValue;
use clap::error::ErrorKind;

use crate::cli::args::Arguments;
use crate::cli::exit::ErrorObject;
use crate::cli::exit::Exit;
use crate::cli::report;
use crate::cli::terminal;
use crate::cli::terminal::Stream;
use crate::cli::text;
use crate::cli::text::Clean;

/// Shows help, or what clap found wrong with `argv`.
pub(crate) fn refuse(
    error: &clap::Error,
    argv: &[OsString],
    wants_json: bool,
) -> anyhow::Result<Exit> {
    let rendered = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = match terminal::has_colour(Stream::Out) {
                true => rendered.ansi().to_string(),
                false => rendered.to_string(),
            };
            text::print(&text)?;
            return Ok(Exit::Done);
        }
        _ if wants_json => {
            report(&object(error, argv), wants_json);
        }
        // clap shows the user's words as they are, so the lines are cleaned one by one.
        _ => rendered
            .to_string()
            .lines()
            .for_each(|line| text::note(&Clean(line).to_string())),
    }
    Ok(Exit::Usage)
}

/// What is wrong, for programs.
fn object(error: &clap::Error, argv: &[OsString]) -> ErrorObject {
    let rendered = error.render().to_string();
    // The sentence may go on in further lines, which name arguments or possible values.
    let paragraph: Vec<&str> = rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty() && !line.starts_with("Usage:"))
        .collect();
    let paragraph = paragraph.join(" ");
    let message = paragraph.trim_start_matches("error: ");
    ErrorObject {
        kind: Exit::Usage.kind(),
        message: message.to_owned(),
        causes: Vec::new(),
        exit: Exit::Usage.code(),
        next: Some(format!("{} --help", command(argv))),
        argument: argument(error),
        mismatch: None,
    }
}

/// The argument that is wrong or missing, the first if there are several: `--output`, or
/// `SOUP` of one that has no name on the command line.
fn argument(error: &clap::Error) -> Option<String> {
    let kinds = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let shown = kinds.iter().find_map(|&kind| match error.get(kind)? {
        ContextValue::String(one) => Some(one.as_str()),
        ContextValue::Strings(several) => several.first().map(String::as_str),
        _ => None,
    })?;
    // `--output <PATH>` and `<SOUP>...` are how usage shows them.
    let word = shown.split([' ', '=']).next().unwrap_or(shown);
    let is_place = word.starts_with(['<', '[']);
    Some(match is_place {
        true => word.trim_matches(|sign| "<>[].".contains(sign)).to_owned(),
        false => word.trim_end_matches('[').to_owned(),
    })
}

/// The option that is wrong, if that is the failure and its message names one.
pub(crate) fn argument_of(exit: Exit, error: &anyhow::Error) -> Option<String> {
    match exit {
        Exit::Usage => named_in(&error.to_string()),
        _ => None,
    }
}

/// The first option that a sentence names, as in `` `--weights` needs ... `` or
/// `--dense head: no tensor matches`.
fn named_in(sentence: &str) -> Option<String> {
    let is_end = |sign: char| !sign.is_ascii_alphanumeric() && sign != '-';
    let mut words = sentence.split([' ', '`', '\'', '"', '(']);
    let word = words.find(|word| {
        let name = word.strip_prefix("--");
        name.is_some_and(|name| name.starts_with(|first: char| first.is_ascii_alphabetic()))
    })?;
    word.split(is_end).next().map(str::to_owned)
}

/// The command that was meant, such as `sms-merge mask union`.
fn command(argv: &[OsString]) -> String {
    let mut command = Arguments::command();
    let mut path = command.get_name().to_owned();
    for word in argv.iter().skip(1) {
        let Some(found) = command.find_subcommand(word) else {
            break;
        };
        path = format!("{path} {}", found.get_name());
        command = found.clone();
    }
    path
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_argument_is_named() {
        let check = |words: &[&str], argument: Option<&str>, next: &str| {
            let argv = std::iter::once(&"sms-merge").chain(words);
            let argv: Vec<OsString> = argv.map(OsString::from).collect();
            let error = Arguments::try_parse_from(&argv).unwrap_err();
            let object = object(&error, &argv);
            assert_eq!(object.argument.as_deref(), argument, "{words:?}");
            assert_eq!(object.next.as_deref(), Some(next), "{words:?}");
            assert!(!object.message.contains('\n'), "{}", object.message);
            object.message
        };
        let help = "sms-merge merge --help";
        check(&["merge", "a", "-o", "b", "--frist"], Some("--frist"), help);
        check(&["merge", "a"], Some("--output"), help);
        check(&["merge", "-o", "b"], Some("INGREDIENT"), help);
        check(
            &["merge", "a", "-o", "b", "--last", "x"],
            Some("--last"),
            help,
        );
        check(
            &["merge", "a", "-o", "b", "-q", "-v"],
            Some("--quiet"),
            help,
        );
        check(&["verify"], Some("SOUP"), "sms-merge verify --help");
        check(&["mask", "dif"], Some("dif"), "sms-merge mask --help");
        check(
            &["mask", "union", "a", "b"],
            Some("--output"),
            "sms-merge mask union --help",
        );
        let said = check(
            &["merge", "a", "-o", "b", "--layout", "x"],
            Some("--layout"),
            help,
        );
        assert!(said.contains("possible values: keep, dense"), "{said}");
        let said = check(&["merge"], Some("--output"), help);
        assert!(said.contains("<INGREDIENT>"), "{said}");
    }

    #[test]
    fn options_are_found_in_sentences() {
        let check = |sentence: &str, expected: Option<&str>| {
            assert_eq!(named_in(sentence).as_deref(), expected, "{sentence}");
        };
        check("`--metric` needs --best", Some("--metric"));
        check("two names for --device: `cpu`", Some("--device"));
        check("`--dense head.*`: no tensor matches", Some("--dense"));
        check("1 -- 2 and --- lines", None);
        check("no tensor matches", None);
    }
}
