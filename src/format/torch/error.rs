//! Every way in which bytes can fail to be a checkpoint of torch, and how it is said.

mod archive;
mod pickle;
mod state;

use std::fmt;

use thiserror::Error;

use crate::tensor::Printable;

pub use archive::ArchiveError;
pub use pickle::PickleError;
pub use state::StateError;
pub use state::Unread;

/// What to do where an archive is not as `torch.save` writes it.
const SAVE_AGAIN: &str = "load it in Python and write it with `torch.save` again";
/// What to do where a file holds more than tensors in dicts.
const SAVE_TENSORS: &str = "if you trust the file, load it in Python and write its state dict \
                            alone, with `torch.save` or `safetensors.torch.save_file`";

/// Names of things that were found: the first few, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    shown: Vec<String>,
    count: usize,
}

impl Names {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'n> FromIterator<&'n str> for Names {
    fn from_iter<I: IntoIterator<Item = &'n str>>(names: I) -> Self {
        const SHOWN: usize = 8;
        let mut names = names.into_iter();
        let shown: Vec<String> = names.by_ref().take(SHOWN).map(str::to_owned).collect();
        let count = shown.len() + names.count();
        Self { shown, count }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        for (idx, name) in self.shown.iter().enumerate() {
            let comma = if idx == 0 { "" } else { ", " };
            write!(f, "{comma}`{}`", Printable(name))?;
        }
        match self.count - self.shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Why a file is no checkpoint of torch.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TorchError {
    /// The archive is wrong.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The pickle is wrong, or holds what is refused.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// The pickle is right, and no dict of tensors.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file is not laid out as torch before 1.6 did.
    #[error(transparent)]
    Legacy(#[from] LegacyError),
}

/// Why the bytes are not a file that torch before 1.6 wrote.
#[derive(Debug, Error)]
pub enum LegacyError {
    /// The file does not begin with torch's number.
    #[error("the file is a pickle, but not of `torch.save`")]
    NotTorch,
    /// The layout has a version that is not known.
    #[error("the file has a layout that no torch wrote, expected version 1001")]
    Version,
    /// The tensors were written on a machine with the highest byte first.
    #[error(
        "its numbers are stored with the highest byte first (`little_endian` is false); \
         {SAVE_AGAIN} on a machine that stores the lowest first"
    )]
    BigEndian,
    /// The pickles are longer than the caller wants to read.
    #[error(
        "its pickles do not end within {limit} bytes; \
         if you trust the file, raise the limit with `--max-header-bytes`"
    )]
    Limit {
        /// Bytes that the caller allows.
        limit: u64,
    },
    /// The list of storages is not a list of their keys.
    #[error("the file's list of storages is not a list of keys")]
    Keys,
    /// A storage is listed that no tensor names, or listed twice, or left out.
    #[error(
        "the file's list of storages is not that of its tensors at `{}`",
        Printable(key)
    )]
    Key {
        /// Key of the storage.
        key: String,
    },
    /// A storage has another length than the pickle says.
    #[error(
        "storage `{}` has {found} elements in the file, expected {expected}",
        Printable(key)
    )]
    Length {
        /// Key of the storage.
        key: String,
        /// Elements that the pickle says.
        expected: u64,
        /// Elements that the file says.
        found: u64,
    },
    /// A storage ends after the file does.
    #[error(
        "storage `{}` ends after the file does: the file is cut short",
        Printable(key)
    )]
    PastEnd {
        /// Key of the storage.
        key: String,
    },
    /// Bytes after the last storage belong to none.
    #[error(
        "the storages end at byte {expected}, but the file has {found}: the rest belongs to no tensor"
    )]
    TrailingBytes {
        /// Where the last storage ends.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
}
