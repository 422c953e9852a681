//! The words of a command line, before clap sees them: `merge` is put in where no
//! command is named.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;
use sms_merge::graph::spelling::nearest;

use crate::cli::args::Arguments;
use crate::cli::exit::UsageError;
use crate::cli::text::shown;

/// Options that are about the program rather than about a merge.
const ABOUT: [&str; 4] = ["-h", "--help", "-V", "--version"];

/// The word that asks about the command behind it, or about the program.
const HELP: &str = "help";

/// `argv` with `merge` put in after the program's name, unless a command is named or
/// the program is asked about itself. `help COMMAND` is `COMMAND --help`.
///
/// # Errors
/// [`UsageError`] if the first word is no file but nearly the name of a command.
pub(crate) fn with_command(mut argv: Vec<OsString>) -> Result<Vec<OsString>, UsageError> {
    if argv.get(1).is_some_and(|first| first == HELP) {
        argv.remove(1);
        argv.push(OsString::from("--help"));
    }
    let Some(first) = argv.get(1) else {
        return Ok(argv);
    };
    let commands: Vec<String> = Arguments::command()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    let is_command = commands.iter().any(|command| first == command.as_str());
    if is_command || ABOUT.iter().any(|&option| first == option) {
        return Ok(argv);
    }
    if let Some(command) = meant(first, &commands) {
        let word = shown(Path::new(first));
        return Err(UsageError {
            message: format!("no such file `{word}`; did you mean the command `{command}`?"),
            next: Some(format!("sms-merge {command} --help")),
        });
    }
    argv.insert(1, OsString::from("merge"));
    Ok(argv)
}

/// The command that a word stands for, if it is not a file and few letters are wrong.
fn meant<'a>(word: &OsStr, commands: &'a [String]) -> Option<&'a str> {
    let text = word.to_str()?;
    let is_word = text
        .chars()
        .all(|character| character.is_ascii_alphabetic());
    if !is_word || std::fs::symlink_metadata(word).is_ok() {
        return None;
    }
    let names: Vec<&str> = commands.iter().map(String::as_str).collect();
    nearest(text, &names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn merge_is_the_default() {
        let check = |words: &[&str], expected: &[&str]| {
            let argv = |words: &[&str]| -> Vec<OsString> {
                let all = std::iter::once(&"sms-merge").chain(words);
                all.map(OsString::from).collect()
            };
            assert_eq!(with_command(argv(words)).unwrap(), argv(expected));
        };
        check(&[], &[]);
        check(&["--help"], &["--help"]);
        check(&["-V"], &["-V"]);
        check(&["check", "a"], &["check", "a"]);
        check(&["help"], &["--help"]);
        check(&["help", "job", "run"], &["job", "run", "--help"]);
        check(&["./help", "b.st"], &["merge", "./help", "b.st"]);
        check(&["a.st", "b.st"], &["merge", "a.st", "b.st"]);
        check(&["-o", "s", "check"], &["merge", "-o", "s", "check"]);
        check(&["./check", "b.st"], &["merge", "./check", "b.st"]);
        check(&["checkpoint", "b"], &["merge", "checkpoint", "b"]);
    }

    #[test]
    fn names_need_not_be_text() {
        let name = OsString::from_vec(b"chec\xff".to_vec());
        let argv = with_command(vec!["sms-merge".into(), name.clone()]).unwrap();
        assert_eq!(argv, [OsString::from("sms-merge"), "merge".into(), name]);
    }

    #[test]
    fn a_misspelt_command_is_not_a_file() {
        let check = |word: &str, expected: Option<&str>| {
            let commands = ["merge", "check", "inspect", "verify", "completions"];
            let commands: Vec<String> = commands.map(str::to_owned).to_vec();
            assert_eq!(meant(OsStr::new(word), &commands), expected, "{word}");
        };
        check("chek", Some("check"));
        check("Merge", Some("merge"));
        check("inspct", Some("inspect"));
        check("verfy", Some("verify"));
        check("a", None);
        check("cake", None);
        check("check.st", None);
        check("src", None);
    }
}
