//! From arguments to the library's terms: how outputs are written.

use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;

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
