//! What can go wrong with a file that is read.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::ContentError;
use crate::checkpoint::map::FileIdentity;
use crate::format::replace::FileKind;

/// Why bytes of a file cannot be had, or cannot be trusted.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Nothing has this path, or a symbolic link on the way leads nowhere.
    #[error("`{}` does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The user may not read the file or enter a directory on the way.
    #[error("`{}` may not be read by this user", path.display())]
    Denied {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be opened for another reason.
    #[error("`{}` cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path names something that is no regular file.
    #[error("`{}` is {found}, expected a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: FileKind,
    },
    /// The range does not lie within the file.
    #[error("`{}` has {bytes} bytes, but {len} bytes at {offset} were asked for", path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        len: u64,
        /// Length of the file when it was opened.
        bytes: u64,
    },
    /// The file has become shorter since it was opened.
    #[error("`{}` was truncated while it was read: expected {expected} bytes, found {found}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Length when it was opened.
        expected: u64,
        /// Length now.
        found: u64,
    },
    /// A page of the mapping could not be read although the file is long enough.
    #[error("`{}` cannot be read at byte {offset}: input/output error", path.display())]
    Fault {
        /// The file.
        path: PathBuf,
        /// Where the page is, or the byte that was touched.
        offset: u64,
    },
    /// Reading, or asking for the file's status, failed.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file was written to since it was opened.
    #[error(
        "`{}` changed while it was read: expected {} bytes modified at {}, found {} bytes modified at {}",
        path.display(), expected.bytes, Timestamp(expected.modified), found.bytes, Timestamp(found.modified)
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Identity when it was opened.
        expected: FileIdentity,
        /// Identity now.
        found: FileIdentity,
    },
    /// The file was written to since it was opened, and its time of modification put back.
    #[error(
        "`{}` changed while it was read: its status was of {} and is of {}, though its size and time \
         of modification are as before; let it be, and run this again",
        path.display(), Timestamp(*expected), Timestamp(*found)
    )]
    PutBack {
        /// The file.
        path: PathBuf,
        /// Time of the last change of status when it was opened: seconds since 1970 and
        /// nanoseconds.
        expected: (i64, i64),
        /// That time now.
        found: (i64, i64),
    },
    /// What the file holds makes no tensor.
    #[error("`{}` cannot be made sense of", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ContentError,
    },
    /// There is no memory to read the range into.
    #[error("no memory for {len} bytes of `{}`", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Number of bytes asked for.
        len: usize,
    },
}

/// Seconds and nanoseconds, printed as a decimal fraction.
struct Timestamp((i64, i64));

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self((secs, nanos)) = self;
        write!(f, "{secs}.{nanos:09}")
    }
}
