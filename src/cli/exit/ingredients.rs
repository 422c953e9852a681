//! What to do about checkpoints that do not go together, as a line.

use std::path::Path;

use sms_merge::checkpoint::IngredientsError;
use sms_merge::checkpoint::Remedy;
use sms_merge::merge::MergeError;
use sms_merge::tensor::cover;

use crate::cli::exit::graph;
use crate::cli::exit::quoted;
use crate::cli::exit::repeated;
use crate::cli::exit::word;
use crate::cli::text::shown;

/// What to run next, if that is known.
pub(super) fn next_of(error: &IngredientsError) -> Option<String> {
    match error {
        IngredientsError::Different {
            first,
            other,
            remedy: Some(remedy),
            ..
        } => Some(mended(remedy, first, other)),
        // What the message says takes prefixes off.
        IngredientsError::Different {
            hint: Some(hint), ..
        } if hint.contains("--strip-prefix") => hint
            .split('`')
            .find(|part| part.contains("--strip-prefix"))
            .map(|options| format!("add `{options}`")),
        IngredientsError::Graph {
            first,
            other,
            place,
        } => graph::remedy(first, other, place),
        IngredientsError::Different { first, other, .. } => Some(format!(
            "compare `sms-merge inspect {}` with `sms-merge inspect {}`",
            quoted(first),
            quoted(other)
        )),
        IngredientsError::MaskShape { path, .. }
        | IngredientsError::MaskDtype { path, .. }
        | IngredientsError::StoredTwice { path, .. }
        | IngredientsError::MaskedDtype { path, .. }
        | IngredientsError::UnknownMask { path, .. }
        | IngredientsError::StrayMask { path, .. } => {
            Some(format!("sms-merge inspect {}", quoted(path)))
        }
        _ => None,
    }
}

/// What to do about a tensor that is not averaged and differs.
pub(super) fn after_merge(error: &MergeError) -> Option<String> {
    match error {
        MergeError::IntegerMismatch { tensor, first, .. }
        | MergeError::OpaqueMismatch { tensor, first, .. } => {
            let [pattern] = &cover(&[tensor.as_str()], &[])[..] else {
                return None;
            };
            Some(format!(
                "add `--from-first {}`, which takes it from `{}` as it is",
                word(pattern.clone()),
                shown(first)
            ))
        }
        MergeError::Ingredients(error) => next_of(error),
        _ => None,
    }
}

/// The options that make two checkpoints mergeable, and what they do.
fn mended(remedy: &Remedy, first: &Path, other: &Path) -> String {
    let dtype = remedy
        .dtype
        .map(|dtype| format!("--dtype {}", dtype.name().to_lowercase()));
    let from_first = repeated("--from-first", &remedy.first_gives);
    let exclude = repeated("--exclude", &remedy.only_other);
    let options: Vec<&str> = dtype
        .iter()
        .map(String::as_str)
        .chain([from_first.as_str(), exclude.as_str()])
        .filter(|options| !options.is_empty())
        .collect();
    let line = format!("add `{}`", options.join(" "));
    let first_gives = format!("takes what differs from `{}` as it is", shown(first));
    let leaves_out = format!("leaves out what only `{}` has", shown(other));
    match (remedy.first_gives.is_empty(), remedy.only_other.is_empty()) {
        (true, true) => line,
        (false, true) => format!(
            "{line}, which {first_gives}; `{}` leaves it out",
            repeated("--exclude", &remedy.first_gives)
        ),
        (true, false) => format!(
            "{line}, which {leaves_out}; to keep it, name `{}` first and add `{}`",
            shown(other),
            repeated("--from-first", &remedy.only_other)
        ),
        (false, false) => format!("{line}, which {first_gives}, and {leaves_out}"),
    }
}
