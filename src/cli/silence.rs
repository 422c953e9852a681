//! What is asked where a checkpoint does not say what it is: a file and options walk in,
//! a refusal that names both walks out. Nothing is guessed.

use std::path::Path;

use sms_merge::train::card::Card;

use crate::cli::args::learning::DataArguments;
use crate::cli::args::learning::ModelArguments;
use crate::cli::exit::UsageError;
use crate::cli::text::shown;

/// What else helps a user whose network this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherWay {
    /// Nothing does.
    None,
    /// Statistics can be estimated in PyTorch.
    InTorch,
    /// A command of the user's can evaluate.
    ByCommand,
}

impl OtherWay {
    fn sentence(self) -> &'static str {
        match self {
            Self::None => "",
            Self::InTorch => {
                "; statistics of any other network are estimated in PyTorch, by \
                 `torch.optim.swa_utils.update_bn(loader, model)`"
            }
            Self::ByCommand => {
                "; any other network is evaluated by a command of yours: `--eval COMMAND`"
            }
        }
    }
}

/// Refuses a checkpoint that does not say what it is, unless options do.
///
/// # Errors
/// [`UsageError`] says which file it is, what is missing and what to pass.
pub(crate) fn refuse_silence(
    path: &Path,
    card: Option<&Card>,
    model: &ModelArguments,
    data: &DataArguments,
    other: OtherWay,
) -> Result<(), UsageError> {
    if card.is_some() {
        return Ok(());
    }

    let needs = [
        (
            model.model.is_none(),
            "which network it holds",
            "`--model MODEL` (`sms-merge model --list` lists them, `sms-merge model --help` says \
             how a file describes another)",
        ),
        (
            data.data.is_none(),
            "which images it was trained on",
            "`--data DATA` (`sms-merge data --help` lists them, and says how a file holds your \
             own)",
        ),
    ];
    let missing: Vec<_> = needs
        .iter()
        .filter(|(is_missing, ..)| *is_missing)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }

    let facts: Vec<&str> = missing.iter().map(|(_, fact, _)| *fact).collect();
    let options: Vec<&str> = missing.iter().map(|(.., option)| *option).collect();
    Err(UsageError {
        message: format!(
            "`{}` does not say {}: its metadata has no `sms_model`, which `sms-merge train` writes \
             and a merge keeps",
            shown(path),
            facts.join(" and "),
        ),
        next: Some(format!("add {}{}", options.join(" and "), other.sentence())),
    })
}
