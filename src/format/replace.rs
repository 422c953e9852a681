//! Files and directories that appear whole or not at all.
//!
//! A path walks in as a [`Target`], bytes walk in through `write_at`, and
//! `publish` gives the result its name. Until then nothing with that name
//! changes, and a dropped or killed run leaves nothing behind.
//!
//! - A file under construction has no name at all (`O_TMPFILE`), so even
//!   SIGKILL leaves nothing. A new output gets its final name by `linkat(2)`,
//!   which refuses to displace what appeared meanwhile.
//! - Replacing needs a temporary sibling for the instant between `linkat` and
//!   `rename(2)`; so does a file system without `O_TMPFILE`, a system without
//!   `/proc`, and a directory. Siblings are called
//!   `.sms-merge-<hash of the final name>-<process>-<count>.tmp`: short
//!   whatever the output's name. Their maker holds `flock(2)` on them, which
//!   the kernel frees when it dies; the next run that writes to the same output
//!   removes those it can lock. A process number alone would not tell: it is
//!   reused, and means nothing in another container or on another host.
//! - New files get mode 0666 and new directories 0777, less the umask. What
//!   replaces an older output keeps its permission bits and, where the system
//!   lets it, its owner and group, but not its access-control list or extended
//!   attributes. Other hard links to a replaced file keep the old bytes.
//! - A directory is replaced by `RENAME_EXCHANGE`, and the old one is removed
//!   afterwards. Where the file system cannot exchange, the old directory is
//!   moved to a sibling ending in `.old`, the new one takes its name, and the
//!   sibling is removed; a run killed between the two renames leaves the old
//!   directory under the `.old` name, from where it can be moved back by hand.
//!   It is removed only when an output with the final name exists again.
//!
//! A file past `ulimit -f` raises SIGXFSZ, which ends a process that does not
//! ignore it. Ignoring it is up to the program; then it is
//! [`ReplaceError::TooLarge`].
//!
//! Reads no tensor and interprets no byte.

mod directory;
mod draft;
mod file;
mod kind;
mod nested;
mod parent;
mod retire;
mod sibling;
mod swap;
mod target;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use directory::StagedDirectory;
pub use directory::StagedEntry;
pub use file::StagedFile;
pub use kind::FileKind;
pub use retire::Retired;
pub use target::Target;

/// What to do about an output that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to touch it.
    Refuse,
    /// Replace it: `--force`.
    Replace,
}

/// Whether a published output survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Files and the directory that names them are synced.
    Synced,
    /// Left to the system, which may take half a minute: `--no-sync`.
    Unsynced,
}

/// Which kind of failure a [`ReplaceError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The output that was asked for is refused; nothing was written.
    Refused,
    /// Space, quota or the permitted file size is used up.
    Space,
    /// The system failed otherwise.
    System,
}

/// Why an output was not, or not surely, put in its place.
#[derive(Debug, Error)]
pub enum ReplaceError {
    /// The path ends in no name: it is empty, `/` or ends in `..`.
    #[error("`{}` does not name an output", path.display())]
    NoName {
        /// The path as given.
        path: PathBuf,
    },
    /// The path cannot be followed.
    #[error("output `{}` cannot be looked up", path.display())]
    Resolve {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory that should hold the output does not exist.
    #[error("directory `{}` does not exist; create it first", path.display())]
    ParentMissing {
        /// The directory.
        path: PathBuf,
    },
    /// What should hold the output is no directory.
    #[error("`{}` is not a directory", path.display())]
    ParentKind {
        /// What is there.
        path: PathBuf,
    },
    /// The directory that should hold the output cannot be used.
    #[error("directory `{}` cannot be used", path.display())]
    Parent {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something of another kind is in the output's place, or is to be copied.
    #[error("`{}` is {found}, expected {expected}", path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// What it would have to be.
        expected: FileKind,
        /// What it is.
        found: FileKind,
    },
    /// The output exists and may not be replaced.
    #[error("`{}` exists; pass `--force` to replace it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Something took the output's name while it was being written.
    #[error("`{}` appeared while the output was written; it was left alone", path.display())]
    Appeared {
        /// The output.
        path: PathBuf,
    },
    /// The directory to be replaced holds something that is no part of a checkpoint.
    #[error("`{}` is no part of a checkpoint; move it or choose another output", path.display())]
    Foreign {
        /// What it holds.
        path: PathBuf,
    },
    /// The directory to be replaced is not writable, so it could not be removed.
    #[error("directory `{}` is read-only and cannot be replaced", path.display())]
    ReadOnly {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name within an output directory is no plain file name.
    #[error("`{name}` is not a plain file name")]
    EntryName {
        /// The name.
        name: String,
    },
    /// A file was staged that the directory was not created for.
    #[error("`{name}` was not announced for output directory `{}`", path.display())]
    Undeclared {
        /// The directory.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A file was staged twice.
    #[error("`{name}` was written twice to output directory `{}`", path.display())]
    Duplicate {
        /// The directory.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A file the directory was created for has not been staged.
    #[error("`{name}` was not written to output directory `{}`", path.display())]
    Unstaged {
        /// The directory.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The device is full, or the user's quota is.
    #[error("no space for `{}`: {needed} bytes needed, {free} free", path.display())]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// Length of the file that was to be written.
        needed: u64,
        /// Bytes left on the device for this user, quotas aside.
        free: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file system or `ulimit -f` permits no file as long.
    #[error("`{}` cannot have {bytes} bytes: the system permits no file as large", path.display())]
    TooLarge {
        /// The output.
        path: PathBuf,
        /// Length of the file that was to be written.
        bytes: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file under construction cannot be made.
    #[error("`{}` cannot be created", path.display())]
    Create {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes cannot be written.
    #[error("`{}` cannot be written at byte {offset}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// What was written cannot be read again.
    #[error("`{}` cannot be read again at byte {offset}", path.display())]
    ReadBack {
        /// The output.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes were to be written past the reserved length.
    #[error("{len} bytes at {offset} pass the {bytes} bytes reserved for `{}`", path.display())]
    Beyond {
        /// The output.
        path: PathBuf,
        /// Where the bytes would begin.
        offset: u64,
        /// How many there are.
        len: u64,
        /// Length that was reserved.
        bytes: u64,
    },
    /// A file that is to be copied into the output cannot be read.
    #[error("`{}` cannot be copied", path.display())]
    Copy {
        /// The file to copy.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file changed its length while it was copied.
    #[error("`{}` changed while it was copied: expected {expected} bytes, found {found}", path.display())]
    CopyLength {
        /// The file to copy.
        path: PathBuf,
        /// Length when it was opened.
        expected: u64,
        /// Bytes that were read.
        found: u64,
    },
    /// The bytes could not be brought to the device; nothing was published.
    #[error("`{}` cannot be synced", path.display())]
    Sync {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output could not be given its name; what was there is unchanged.
    #[error("`{}` cannot be put in place", path.display())]
    Publish {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output is in place, but may be lost in a power cut.
    #[error("`{}` is in place, but its directory cannot be synced", path.display())]
    SyncParent {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The new output is in place, but the old one could not be removed.
    #[error("`{}` is in place, but the old one cannot be removed from `{}`", path.display(), leftover.display())]
    Leftover {
        /// The output.
        path: PathBuf,
        /// Where the old one is now.
        leftover: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The old directory was moved aside and could not be moved back.
    #[error("`{}` was moved to `{}` and cannot be moved back", path.display(), leftover.display())]
    Stranded {
        /// The output.
        path: PathBuf,
        /// Where the old one is now.
        leftover: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ReplaceError {
    /// Whether the new output is in its place all the same.
    pub fn is_in_place(&self) -> bool {
        matches!(self, Self::SyncParent { .. } | Self::Leftover { .. })
    }

    /// Which kind of failure this is, for an exit code.
    pub fn kind(&self) -> Failure {
        match self {
            Self::NoName { .. }
            | Self::ParentMissing { .. }
            | Self::ParentKind { .. }
            | Self::WrongKind { .. }
            | Self::Exists { .. }
            | Self::Appeared { .. }
            | Self::Foreign { .. }
            | Self::ReadOnly { .. }
            | Self::EntryName { .. }
            | Self::Undeclared { .. }
            | Self::Duplicate { .. }
            | Self::Unstaged { .. } => Failure::Refused,
            Self::NoSpace { .. } | Self::TooLarge { .. } => Failure::Space,
            Self::Resolve { .. }
            | Self::Parent { .. }
            | Self::Create { .. }
            | Self::Write { .. }
            | Self::ReadBack { .. }
            | Self::Beyond { .. }
            | Self::Copy { .. }
            | Self::CopyLength { .. }
            | Self::Sync { .. }
            | Self::Publish { .. }
            | Self::SyncParent { .. }
            | Self::Leftover { .. }
            | Self::Stranded { .. } => Failure::System,
        }
    }
}
