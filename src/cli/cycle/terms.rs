//! The words of a recipe: a message that names options of other commands walks in, one
//! that a user of `sms-merge cycle` can follow walks out.
//!
//! What a step of a run does is done by the rooms that `merge`, `prune` and `train` use,
//! and their messages name the options of those. A clause that names an option which
//! `cycle` lacks is taken out, and what a recipe can do instead stands at the end.

use std::collections::BTreeSet;

use clap::CommandFactory;

use crate::cli::args::Arguments;
use crate::cli::exit::ErrorObject;

/// What stands in a recipe for an option.
enum Term {
    /// A key, which takes the option's place in the sentence.
    Key(&'static str),
    /// Something else to do, which takes the place of the clause.
    Instead(&'static str),
}

/// What is written again before a recipe names it.
const EXPORT: &str = "write the state dict alone, or let `sms-merge export` write it so \
                      (`sms-merge export FILE --layout dense --key KEY --strip-prefix PREFIX -o \
                      net.st`, with what of `KEY` and `PREFIX` it needs)";

/// What keeps a trainer's checkpoints apart from others.
const AS_BASE: &str = "a trainer writes the tensors of its `base`, with their names, shapes and \
                       element types, and no others";

/// What keeps masks the same.
const MASK: &str = "a trainer keeps the `mask` that its job names; `trainer.on_unmasked = \
                    \"remask\"` prunes again what it revived";

/// What is said of an option that nothing is known of.
const OTHERWISE: &str = "a recipe has no key for this: change the checkpoint before the cycle, or \
                         in the trainer";

/// What a recipe has in place of options.
const TERMS: &[(&str, Term)] = &[
    (
        "--allow-non-finite",
        Term::Instead(
            "weights that are NaN or infinite make no soup: train again, with a smaller \
         `learning_rate`",
        ),
    ),
    ("--data", Term::Key("data.name")),
    ("--data-dir", Term::Key("data.directory")),
    ("--dense", Term::Instead(MASK)),
    ("--dtype", Term::Instead(AS_BASE)),
    ("--exclude", Term::Instead(AS_BASE)),
    ("--force", Term::Instead("choose another `--run-dir`")),
    ("--include", Term::Instead(AS_BASE)),
    ("--key", Term::Instead(EXPORT)),
    ("--mask", Term::Instead(MASK)),
    (
        "--max-header-bytes",
        Term::Instead(
            "`sms-merge export FILE --layout dense --max-header-bytes BYTES -o net.st` writes it with \
         a header of its own",
        ),
    ),
    ("--model", Term::Key("model.name")),
    ("--model-option", Term::Key("model.options")),
    (
        "--no-normalize",
        Term::Instead("give other `merge.weights`"),
    ),
    (
        "--on-integer-mismatch",
        Term::Instead("a trainer leaves integers as they are in its `base`"),
    ),
    ("--on-mask-mismatch", Term::Instead(MASK)),
    ("--prunable", Term::Instead(MASK)),
    ("--recalibrate", Term::Key("recalibration")),
    ("--schedule", Term::Key("retraining.schedule")),
    ("--strict", Term::Instead(MASK)),
    ("--strip-prefix", Term::Instead(EXPORT)),
    ("--validation", Term::Key("data.validation")),
    ("--validation-seed", Term::Key("data.validation_seed")),
    ("--weights", Term::Key("merge.weights")),
];

/// A message in a recipe's words, and what to do instead of what was taken out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) text: String,
    pub(super) instead: Vec<&'static str>,
}

/// The options of all commands that `sms-merge cycle` lacks.
fn lacking() -> BTreeSet<String> {
    fn collect(command: &clap::Command, found: &mut BTreeSet<String>) {
        let longs = command.get_arguments().filter_map(clap::Arg::get_long);
        found.extend(longs.map(|long| format!("--{long}")));
        command
            .get_subcommands()
            .for_each(|sub| collect(sub, found));
    }

    let root = Arguments::command();
    let (mut all, mut own) = (BTreeSet::new(), BTreeSet::new());
    collect(&root, &mut all);
    if let Some(cycle) = root.find_subcommand("cycle") {
        collect(cycle, &mut own);
    }
    all.retain(|option| !own.contains(option));
    all
}

/// A message in a recipe's words.
pub(super) fn told(text: &str) -> Told {
    let lacking = lacking();
    let mut instead = Vec::new();
    let mut kept = String::new();
    for (clause, separator) in clauses(text) {
        let mut clause = clause.to_owned();
        let mut is_kept = true;
        for option in options(&clause) {
            if !lacking.contains(&option) {
                continue;
            }
            match TERMS.iter().find(|(name, _)| *name == option) {
                Some((_, Term::Key(key))) => clause = replace(&clause, &option, key),
                Some((_, Term::Instead(way))) => {
                    is_kept = false;
                    instead.push(*way);
                }
                None => {
                    is_kept = false;
                    instead.push(OTHERWISE);
                }
            }
        }
        if is_kept {
            kept.push_str(&clause);
            kept.push_str(separator);
        }
    }

    let mut seen = BTreeSet::new();
    instead.retain(|way| seen.insert(*way));
    let text = kept.trim_end_matches([';', ':', ' ']).to_owned();
    Told { text, instead }
}

/// A message of one line and what to do, in a recipe's words. What follows the first
/// line is the output of a command of the user's, and stays.
pub(super) fn line(text: &str) -> String {
    let (first, rest) = match text.split_once('\n') {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    };
    let told = told(first);
    let mut line = told.text;
    for way in told.instead {
        line.push_str(if line.is_empty() { "" } else { "; " });
        line.push_str(way);
    }
    if let Some(rest) = rest {
        line.push('\n');
        line.push_str(rest);
    }
    line
}

/// A failure in a recipe's words.
pub(crate) fn in_recipe(mut error: ErrorObject) -> ErrorObject {
    let mut instead = Vec::new();
    let mut put = |text: &mut String| {
        let (first, rest) = match text.split_once('\n') {
            Some((first, rest)) => (first, format!("\n{rest}")),
            None => (text.as_str(), String::new()),
        };
        let mut found = told(first);
        instead.append(&mut found.instead);
        *text = found.text + &rest;
    };

    put(&mut error.message);
    error.causes.iter_mut().for_each(&mut put);
    if let Some(next) = &mut error.next {
        put(next);
    }

    let own = error.next.take().filter(|next| !next.is_empty());
    let mut seen = BTreeSet::new();
    instead.retain(|way| seen.insert(*way));
    let all: Vec<&str> = own.as_deref().into_iter().chain(instead).collect();
    error.next = (!all.is_empty()).then(|| all.join("; "));
    error
}

/// The parts of a text between `; ` and `: `, with what stands behind each. Names in
/// backticks are never cut.
fn clauses(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let (mut begin, mut is_name) = (0, false);
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'`' => is_name = !is_name,
            b';' | b':' if !is_name && bytes.get(at + 1) == Some(&b' ') => {
                found.push((&text[begin..at], &text[at..at + 2]));
                begin = at + 2;
            }
            _ => {}
        }
    }
    found.push((&text[begin..], ""));
    found
}

/// The options that a clause tells its reader to give: words that begin with `--`, bare
/// or first in backticks. Those of a command line in backticks belong to that command.
fn options(clause: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (idx, part) in clause.split('`').enumerate() {
        let is_name = idx % 2 == 1;
        let words = part.split_whitespace();
        for word in words.take(if is_name { 1 } else { usize::MAX }) {
            let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
            let end = word.find(|c| !is_letter(c)).unwrap_or(word.len());
            if word.starts_with("--") && end > 2 {
                found.push(word[..end].to_owned());
            }
        }
    }
    found
}

/// Puts a recipe's key where an option stands. In backticks, a value that follows goes
/// with it: `--data PATH` becomes `data.name`.
fn replace(clause: &str, option: &str, key: &str) -> String {
    let parts = clause.split('`').enumerate().map(|(idx, part)| {
        let is_same = |word: &str| word.split('=').next() == Some(option);
        if idx % 2 == 1 && part.split_whitespace().next().is_some_and(is_same) {
            key.to_owned()
        } else if idx % 2 == 0 {
            let words = part.split(' ').map(|word| match is_same(word) {
                true => key,
                false => word,
            });
            words.collect::<Vec<_>>().join(" ")
        } else {
            part.to_owned()
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn options_become_keys_or_steps_outside() {
        let check = |text: &str, expected: &str| assert_eq!(line(text), expected);
        check(
            "all is well; `a; b` is there",
            "all is well; `a; b` is there",
        );
        check(
            "`a` is NaN at index 3 in `b`; `--allow-non-finite` merges it all the same",
            "`a` is NaN at index 3 in `b`; weights that are NaN or infinite make no soup: train \
             again, with a smaller `learning_rate`",
        );
        check(
            "put them into a directory and name it with `--data-dir`",
            "put them into a directory and name it with `data.directory`",
        );
        check(
            "`x` differs; integers are not averaged, `--on-integer-mismatch first` or `max` \
             chooses, `--exclude` leaves it out: more",
            &format!(
                "`x` differs; more; a trainer leaves integers as they are in its `base`; {AS_BASE}"
            ),
        );
        check("name it with `--key`", EXPORT);
        // What a command of the user's was given and printed is his.
        let own = "`python3 t.py --key 1` ended with status 7\n  use --key or `--exclude`";
        check(own, own);
        let outside = "; `sms-merge prune --from-mask` prunes it by another";
        check(outside, outside);
        check(
            "stop with --jobs 1 or `--set a=b`",
            "stop with --jobs 1 or `--set a=b`",
        );
    }

    #[test]
    fn failures_keep_what_they_say_and_get_another_remedy() {
        let error = ErrorObject {
            kind: "connectivity",
            message: "masks differ".to_owned(),
            causes: vec!["`a` is a dict; name it with `--key`".to_owned()],
            exit: 4,
            next: Some("leave `b` out, or choose a mask with --on-mask-mismatch".to_owned()),
            argument: None,
            mismatch: None,
        };
        let found = in_recipe(error);
        assert_eq!(found.message, "masks differ");
        assert_eq!(found.causes, ["`a` is a dict"]);
        assert_eq!(found.next, Some(format!("{EXPORT}; {MASK}")));
    }

    /// The string literals of a source, escapes undone as far as messages have them.
    fn literals(source: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut rest = source;
        while let Some(begin) = rest.find('"') {
            let mut text = String::new();
            let mut characters = rest[begin + 1..].char_indices();
            let mut end = rest.len();
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => {
                        end = begin + 2 + at;
                        break;
                    }
                    '\\' => match characters.next() {
                        Some((_, '\n')) => {
                            let left = characters.as_str();
                            let trimmed = left.trim_start().len();
                            for _ in 0..left[..left.len() - trimmed].chars().count() {
                                characters.next();
                            }
                        }
                        Some((_, other)) => text.push(other),
                        None => break,
                    },
                    other => text.push(other),
                }
            }
            found.push(text);
            rest = &rest[end..];
        }
        found
    }

    /// Texts of the library without comments and tests.
    fn sources(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "cli" && name != "tests" {
                sources(&path, found);
            } else if name.ends_with(".rs") && name != "tests.rs" && name != "cli.rs" {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let lines = code.lines().filter(|line| {
                    let line = line.trim_start();
                    !line.starts_with("//") && !line.contains("'\"'")
                });
                found.push(lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }

    #[test]
    fn no_message_of_the_library_names_an_option_to_a_recipes_user() {
        let mut texts = Vec::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut texts,
        );
        let lacking = lacking();
        let named = |text: &str| {
            let mut all = clauses(text)
                .into_iter()
                .flat_map(|(text, _)| options(text));
            all.find(|option| lacking.contains(option))
        };
        let messages = texts.iter().flat_map(|text| literals(text));
        let naming: Vec<String> = messages.filter(|text| named(text).is_some()).collect();
        assert!(naming.len() > 20, "{naming:#?}");
        for text in naming {
            let found = line(&text);
            assert_eq!(named(&found), None, "{text}\n{found}");
            assert!(!found.is_empty(), "{text}");
        }
    }

    #[test]
    fn ways_out_name_no_option_themselves() {
        let lacking = lacking();
        for (option, term) in TERMS {
            assert!(lacking.contains(*option), "{option}");
            let text = match term {
                Term::Key(text) | Term::Instead(text) => text,
            };
            let named = options(text);
            assert!(named.iter().all(|name| !lacking.contains(name)), "{text}");
        }
    }
}
