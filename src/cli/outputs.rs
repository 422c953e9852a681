//! From arguments to the library's terms: how outputs are written.

use std::path::Path;

use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::format::replace::Target;

use crate::cli::exit::UsageError;
use crate::cli::text::shown;

/// What `--force` says of an output that exists.
pub(crate) fn existing(force: bool) -> Existing {
    match force {
        true => Existing::Replace,
        false => Existing::Refuse,
    }
}

/// What `--no-sync` says.
pub(crate) fn durability(no_sync: bool) -> Durability {
    match no_sync {
        true => Durability::Unsynced,
        false => Durability::Synced,
    }
}

/// Refuses two outputs that would be one file or directory, by whatever names. What can be
/// neither is refused where it is opened.
pub(crate) fn refuse_same_place<'p>(
    outputs: impl IntoIterator<Item = (&'static str, &'p Path)>,
) -> Result<(), UsageError> {
    let mut known: Vec<(&str, Target)> = Vec::new();
    for (what, path) in outputs {
        let target = Target::for_file(path, Existing::Replace)
            .or_else(|_| Target::for_directory(path, Existing::Replace));
        let Ok(target) = target else { continue };
        if let Some((other, _)) = known.iter().find(|(_, known)| known.is_same_place(&target)) {
            return Err(UsageError {
                message: format!(
                    "the {other} and the {what} cannot be the same file, `{}`",
                    shown(path)
                ),
                next: Some("name two files".to_owned()),
            });
        }
        known.push((what, target));
    }
    Ok(())
}
