//! `sms-merge completions`: the name of a shell walks in, a script for it walks out.

use clap::CommandFactory;

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
    let mut command = Arguments::command();
    if let Some(merge) = command.find_subcommand("merge").cloned() {
        let of_merge = merge.get_arguments().cloned();
        command = command.args(of_merge.map(|argument| argument.required(false)));
    }
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "sms-merge", &mut script);
    // clap_complete 4.6 calls the program `sms__merge` where it recognises commands and
    // `sms__subcmd__merge` where it acts on them, because of the hyphen.
    String::from_utf8_lossy(&script).replace("sms__subcmd__merge", "sms__merge")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_commands_and_the_options_of_a_merge() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["inspect", "no-normalize", "sms-merge"] {
                assert!(script.contains(word), "{shell:?} {word}");
            }
        }
    }
}
