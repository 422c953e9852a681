//! What can go wrong in a run directory.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use thiserror::Error;

use crate::format::replace::Failure;
use crate::format::replace::ReplaceError;
use crate::tensor::Printable;

/// Why a run directory cannot be used, or something in it not read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another coordinator is at work.
    #[error("`{}` is in use by {}", path.display(), Printable(holder))]
    Locked {
        /// The run directory.
        path: PathBuf,
        /// What the other one said of itself.
        holder: String,
    },
    /// The path is something else than a run directory.
    #[error("`{}` is no run directory: it {found}; choose an empty or a new one", path.display())]
    NotARun {
        /// The path.
        path: PathBuf,
        /// What shows it.
        found: String,
    },
    /// The directory of a job is not where jobs are.
    #[error("`{}` is no job: expected `jobs/<key>` below a run directory", path.display())]
    NotAJob {
        /// The path.
        path: PathBuf,
    },
    /// The description of a job cannot be understood.
    #[error("`{}` is no job that this version can read", path.display())]
    Job {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// What was to be written has no form as JSON.
    #[error("what should go to `{}` cannot be written as JSON", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A receipt would not read as it was written.
    #[error("receipt `{}` does not survive being written: {why}", path.display())]
    Unsealable {
        /// The receipt.
        path: PathBuf,
        /// What happened to it.
        why: String,
    },
    /// An output does not carry the attempt's name.
    #[error("`{}` is no artefact of this attempt, expected a file called `{expected}*`", path.display())]
    Foreign {
        /// The output.
        path: PathBuf,
        /// Beginning of the path of every artefact of the attempt.
        expected: String,
    },
    /// An output is no regular file.
    #[error("`{}` is no regular file", path.display())]
    NoFile {
        /// The output.
        path: PathBuf,
    },
    /// The step was done by someone else, and what they left is damaged.
    #[error("the step was already done, but `{}` is damaged: {why}; resume the run to have it redone", path.display())]
    DamagedWinner {
        /// The damaged receipt or artefact.
        path: PathBuf,
        /// How it is damaged.
        why: String,
    },
    /// A receipt appears and vanishes.
    #[error("receipt `{}` was removed each time it was published", path.display())]
    Unstable {
        /// The receipt.
        path: PathBuf,
    },
    /// The file system cannot publish a receipt.
    #[error(
        "`{}` is on a file system that can give a file a name by neither a hard link nor a rename \
         that replaces nothing; put the run directory on another one",
        path.display()
    )]
    NoLinks {
        /// The receipt.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be replaced.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// The system refuses something.
    #[error("`{}` cannot be {action}", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// What was to be done with it.
        action: Action,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// Whether the device is full, the user's quota is, or a file became longer than the
    /// system permits. A run that ended so goes on when there is space again.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Replace(error) => error.kind() == Failure::Space,
            Self::System { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::FileTooLarge
            ),
            _ => false,
        }
    }
}

/// What is done with a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Making it.
    Create,
    /// Finding out what it is.
    Inspect,
    /// Reading its names.
    List,
    /// Taking its lock.
    Lock,
    /// Giving it another place.
    Move,
    /// Giving it its name.
    Publish,
    /// Reading its bytes.
    Read,
    /// Removing it.
    Remove,
    /// Bringing it to the device.
    Sync,
    /// Writing its bytes.
    Write,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "created",
            Self::Inspect => "inspected",
            Self::List => "listed",
            Self::Lock => "locked",
            Self::Move => "moved",
            Self::Publish => "published",
            Self::Read => "read",
            Self::Remove => "removed",
            Self::Sync => "synced",
            Self::Write => "written",
        })
    }
}

/// Names what the system refuses to do with `path`.
pub(super) fn system(action: Action, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::System {
        path,
        action,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_full_disk_is_recognised() {
        let check = |errno: Errno, expected| {
            let error = system(Action::Write, Path::new("a"))(errno.into());
            assert_eq!(error.is_no_space(), expected, "{errno}");
        };
        check(Errno::NOSPC, true);
        check(Errno::DQUOT, true);
        check(Errno::FBIG, true);
        check(Errno::IO, false);
        check(Errno::ACCESS, false);
        let replaced = |source: Errno| ReplaceError::NoSpace {
            path: PathBuf::from("a"),
            needed: 1,
            free: 0,
            source: source.into(),
        };
        assert!(StoreError::Replace(replaced(Errno::NOSPC)).is_no_space());
    }

    #[test]
    fn messages_say_what_could_not_be_done() {
        let error = system(Action::Sync, Path::new("run/artefacts"))(Errno::IO.into());
        assert_eq!(error.to_string(), "`run/artefacts` cannot be synced");
        let locked = StoreError::Locked {
            path: PathBuf::from("run"),
            holder: "process 7\u{1b}[2J on host".to_owned(),
        };
        assert_eq!(
            locked.to_string(),
            r"`run` is in use by process 7\u{1b}[2J on host"
        );
    }
}
