//! `sms-merge completions`: the name of a shell walks in, a script for it walks out.

use clap::Arg;
use clap::Command;
use clap::CommandFactory;
use clap::ValueHint;
use clap::builder::PossibleValuesParser;
use sms_merge::graph::models::MODELS;
#[cfg(feature = "train")]
use sms_merge::train::data::Known;

use crate::cli::args::Arguments;
use crate::cli::args::CompletionsArguments;
use crate::cli::args::Shell;
use crate::cli::exit::Exit;
use crate::cli::text;

/// Prints the script.
pub(crate) fn run(arguments: &CompletionsArguments) -> anyhow::Result<Exit> {
    text::print(&script(arguments.shell))?;
    Ok(Exit::Done)
}

/// A script that completes commands and, as `merge` may be left out, its options and
/// files as well.
fn script(shell: Shell) -> String {
    let mut command = with_names(Arguments::command());
    if let Some(merge) = command.find_subcommand("merge").cloned() {
        let of_merge = merge.get_arguments().cloned();
        command = command.args(of_merge.map(|argument| argument.required(false)));
    }
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut command, "sms-merge", &mut script);
    // clap_complete 4.6 calls the program `sms__merge` where it recognises commands and
    // `sms__subcmd__merge` where it acts on them, because of the hyphen.
    let script = String::from_utf8_lossy(&script).replace("sms__subcmd__merge", "sms__merge");
    match shell {
        Shell::Bash => with_files_in_bash(&script),
        Shell::Zsh => with_files_in_zsh(script),
        Shell::Fish => with_files_in_fish(script),
    }
}

/// Names that an argument takes beside files, or one of which it takes.
struct Names {
    words: Vec<&'static str>,
    takes_files: bool,
}

impl Names {
    /// The names that `argument` of any command takes; clap knows those of an enumeration.
    fn of(argument: &Arg) -> Option<Self> {
        let files = |words| Self {
            words,
            takes_files: true,
        };
        let words = |words| Self {
            words,
            takes_files: false,
        };
        let is_place = argument.is_positional();
        match argument.get_id().as_str() {
            "model" => Some(files(MODELS.iter().map(|model| model.name).collect())),
            #[cfg(feature = "train")]
            "data" => Some(files(data_sets())),
            #[cfg(feature = "train")]
            "name" if is_place => Some(files(data_sets())),
            "device" => Some(words(vec!["cpu", "cuda", "auto"])),
            "pattern" if !is_place => Some(words(vec!["unstructured", "channels", "2:4"])),
            _ => None,
        }
    }
}

#[cfg(feature = "train")]
fn data_sets() -> Vec<&'static str> {
    Known::ALL.into_iter().map(Known::name).collect()
}

/// The command with the names that its arguments and those of its commands take. It serves
/// scripts alone: it would refuse files.
fn with_names(command: Command) -> Command {
    command
        .mut_args(|argument| match Names::of(&argument) {
            Some(names) => argument
                .value_parser(PossibleValuesParser::new(names.words))
                .value_hint(ValueHint::Unknown)
                .default_value(None),
            None => argument,
        })
        .mut_subcommands(with_names)
}

/// Every list of names beside which files are taken.
fn open_lists() -> Vec<Vec<&'static str>> {
    let mut lists = Vec::new();
    let mut commands = vec![Arguments::command()];
    while let Some(command) = commands.pop() {
        for names in command.get_arguments().filter_map(Names::of) {
            if names.takes_files && !lists.contains(&names.words) {
                lists.push(names.words);
            }
        }
        commands.extend(command.get_subcommands().cloned());
    }
    lists
}

/// Where a command takes files, clap's script offers its options in their place; bash itself
/// offers files where the script offers nothing.
fn with_files_in_bash(script: &str) -> String {
    let takes_files = |command: &&Command| {
        let commands = std::iter::once(*command).chain(command.get_subcommands());
        let mut arguments = commands.flat_map(Command::get_positionals);
        arguments.any(|argument| {
            let hint = argument.get_value_hint();
            argument.get_possible_values().is_empty() && hint != ValueHint::Unknown
        })
    };
    let root = Arguments::command();
    let commands = root.get_subcommands().filter(takes_files);
    let commands: Vec<&str> = commands.map(Command::get_name).collect();
    let wrapper = format!(
        "_sms__merge__files() {{\n    \
             _sms__merge \"$@\"\n    \
             case \"${{COMP_WORDS[1]}}\" in\n        \
                 {}) ;;\n        \
                 *) return 0 ;;\n    \
             esac\n    \
             if [[ \"$2\" != -* ]]; then\n        \
                 local word words=()\n        \
                 for word in \"${{COMPREPLY[@]}}\"; do\n            \
                     [[ \"${{word}}\" == -* ]] || words+=(\"${{word}}\")\n        \
                 done\n        \
                 COMPREPLY=(\"${{words[@]}}\")\n    \
             fi\n\
         }}\n\n",
        commands.join("|")
    );
    let script = script.replace(
        "complete -F _sms__merge ",
        "complete -F _sms__merge__files ",
    );
    let place = script.rfind("if [[ \"${BASH_VERSINFO[0]}\"");
    let (functions, registration) = script.split_at(place.unwrap_or(script.len()));
    format!("{functions}{wrapper}{registration}")
}

fn with_files_in_zsh(script: String) -> String {
    open_lists().iter().fold(script, |script, words| {
        let words = words.join(" ");
        let both = format!(":{{compadd {words}; _files}}");
        script.replace(&format!(":({words})"), &both)
    })
}

fn with_files_in_fish(script: String) -> String {
    open_lists().iter().fold(script, |script, words| {
        let begin = format!("-a \"{}\\t", words[0]);
        script.replace(&format!("-f {begin}"), &format!("-F {begin}"))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use super::*;

    #[test]
    fn scripts_know_commands_and_the_options_of_a_merge() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["inspect", "no-normalize", "sms-merge", "wideresnet20"] {
                assert!(script.contains(word), "{shell:?} {word}");
            }
        }
    }

    #[test]
    fn files_are_offered_beside_names() {
        let zsh = script(Shell::Zsh);
        assert!(zsh.contains(":MODEL:{compadd mlp "), "{zsh}");
        assert!(!zsh.contains(":(mlp "), "{zsh}");
        let fish = script(Shell::Fish);
        assert!(fish.contains("-F -a \"mlp\\t"), "{fish}");
        assert!(!fish.contains("-f -a \"mlp\\t"), "{fish}");
    }

    /// What bash offers for the last of `words`.
    fn offered(words: &[&str]) -> Vec<String> {
        let completed = r#"
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _sms__merge__files "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let output = Process::new("bash")
            .args(["-c", &(script(Shell::Bash) + completed), "bash"])
            .args(words)
            .output()
            .expect("bash runs");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn bash_offers_names() {
        let check = |words: &[&str], expected: &[&str]| assert_eq!(offered(words), expected);
        check(&["sms-merge", "merge", "--layout", "tor"], &["torch-prune"]);
        check(&["sms-merge", "merge", "--method", "gre"], &["greedy"]);
        check(&["sms-merge", "merge", "--device", "cu"], &["cuda"]);
        check(
            &["sms-merge", "export", "--model", "res"],
            &["resnet8", "resnet20", "resnet56", "resnet18"],
        );
        check(&["sms-merge", "model", "vgg"], &["vgg16-bn"]);
        check(&["sms-merge", "prune", "a.st", "--pattern", "2"], &["2:4"]);
        check(&["sms-merge", "ins"], &["inspect"]);
        check(
            &["sms-merge", "merge", "--on-mask-mismatch", "u"],
            &["union"],
        );
        // Nothing is offered, so that bash offers files.
        check(&["sms-merge", "check", ""], &[]);
        check(&["sms-merge", "check", "a.st", ""], &[]);
        check(
            &["sms-merge", "check", "--str"],
            &["--strict", "--strip-prefix"],
        );
        check(&["sms-merge", "completions", ""][..2], &["completions"]);
    }

    #[cfg(feature = "train")]
    #[test]
    fn bash_offers_data_sets() {
        let check = |words: &[&str], expected: &[&str]| assert_eq!(offered(words), expected);
        let all = ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"];
        check(&["sms-merge", "train", "--data", ""], &all);
        check(&["sms-merge", "train", "-d", "fa"], &["fashion-mnist"]);
        check(&["sms-merge", "data", "cif"], &["cifar10", "cifar100"]);
        check(&["sms-merge", "data", ""], &all);
        check(&["sms-merge", "train", "--schedule", "al"], &["allr"]);
        assert!(offered(&["sms-merge", "train", "--o"]).contains(&"--output".to_owned()));
        assert!(offered(&["sms-merge", "train", ""]).contains(&"--output".to_owned()));
    }
}
