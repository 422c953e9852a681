//! Why the bytes are not an archive of `torch.save`.

use thiserror::Error;

use crate::format::torch::Names;
use crate::format::torch::error::SAVE_AGAIN;
use crate::tensor::Printable;

/// Why the bytes are not an archive of `torch.save`.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The file does not end with a zip archive's last record.
    #[error("the archive has no end record where one must be: the file is cut short or damaged")]
    NoEnd,
    /// The archive is one of several files.
    #[error("the archive is a part of one in several files; join them")]
    Split,
    /// The end record and what it points to do not agree.
    #[error("the archive's end says that its directory {what}: the file is damaged or forged")]
    Directory {
        /// What is said and not so.
        what: &'static str,
    },
    /// The directory is longer than the caller wants to read.
    #[error(
        "directory of {found} bytes passes the limit of {limit}; \
         if you trust the file, raise it with `--max-header-bytes {found}`"
    )]
    DirectoryLimit {
        /// Bytes of the directory.
        found: u64,
        /// Bytes that the caller allows.
        limit: u64,
    },
    /// An entry is longer than the caller wants to read.
    #[error(
        "`{}` of {found} bytes passes the limit of {limit}; \
         if you trust the file, raise it with `--max-header-bytes {found}`",
        Printable(entry)
    )]
    EntryLimit {
        /// Name of the entry.
        entry: String,
        /// Its bytes.
        found: u64,
        /// Bytes that the caller allows.
        limit: u64,
    },
    /// An entry of the directory is malformed.
    #[error("entry {number} of the archive's directory {what}")]
    Entry {
        /// Number of the entry, counted from 0.
        number: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Two entries have one name.
    #[error("the archive has `{}` twice", Printable(entry))]
    EntryTwice {
        /// The name.
        entry: String,
    },
    /// Two entries share bytes, or one reaches into the directory.
    #[error(
        "`{}` of the archive shares bytes with what follows it",
        Printable(entry)
    )]
    Overlap {
        /// Name of the entry.
        entry: String,
    },
    /// An entry is compressed, so that its bytes are not those of a tensor.
    #[error(
        "`{}` of the archive is compressed, which `torch.save` never does; {SAVE_AGAIN}",
        Printable(entry)
    )]
    Compressed {
        /// Name of the entry.
        entry: String,
    },
    /// An entry is encrypted.
    #[error("`{}` of the archive is encrypted; decrypt it first", Printable(entry))]
    Encrypted {
        /// Name of the entry.
        entry: String,
    },
    /// What stands before the bytes of an entry says otherwise than the directory.
    #[error(
        "`{}` of the archive has another {what} at its bytes than in the directory: \
         the file is damaged or forged",
        Printable(entry)
    )]
    Local {
        /// Name of the entry.
        entry: String,
        /// What differs.
        what: &'static str,
    },
    /// The bytes of an entry are not those that were written.
    #[error(
        "`{}` of the archive is damaged: its checksum differs",
        Printable(entry)
    )]
    Checksum {
        /// Name of the entry.
        entry: String,
    },
    /// Several folders look like a checkpoint.
    #[error("the archive holds several checkpoints: {found}; unpack it")]
    Several {
        /// Names of their pickles.
        found: Names,
    },
    /// The archive is a program, of `torch.jit.save`.
    #[error(
        "the archive is a TorchScript program, not a checkpoint; in Python, \
         `torch.save(torch.jit.load(path).state_dict(), other)` writes its tensors alone"
    )]
    Script,
    /// The bytes of a tensor are not there.
    #[error("the archive lacks `{}`, which a tensor points to", Printable(entry))]
    Missing {
        /// Name of the entry.
        entry: String,
    },
    /// The bytes of a storage are more or fewer than its elements take.
    #[error(
        "`{}` of the archive has {found} bytes, expected {}",
        Printable(entry),
        expected.map_or("fewer than 2^64".to_owned(), |expected| expected.to_string())
    )]
    StorageBytes {
        /// Name of the entry.
        entry: String,
        /// Bytes that its elements take, if they can be counted.
        expected: Option<u64>,
        /// Bytes found.
        found: u64,
    },
    /// The tensors were written on a machine with the highest byte first.
    #[error(
        "its numbers are stored with the highest byte first (`byteorder` is `big`); {SAVE_AGAIN} \
         on a machine that stores the lowest first"
    )]
    BigEndian,
    /// The record of the byte order is neither of the two.
    #[error("`byteorder` of the archive is neither `little` nor `big`")]
    ByteOrder,
}
