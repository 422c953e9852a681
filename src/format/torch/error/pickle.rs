//! Why the bytes are not a pickle of tensors and plain data.

use thiserror::Error;

use crate::tensor::Printable;

/// Why the bytes are not a pickle of tensors and plain data.
#[derive(Debug, Error)]
pub enum PickleError {
    /// The pickle is in a form that is not known.
    #[error("its pickle is of protocol {found}, expected 0 to 5")]
    Protocol {
        /// The protocol.
        found: u8,
    },
    /// The pickle does not end.
    #[error("its pickle does not end within {found} bytes")]
    CutShort {
        /// Bytes that were given.
        found: u64,
    },
    /// The pickle has an instruction that Python does not have.
    #[error(
        "its pickle has the instruction {opcode:#04x} at byte {offset}, which Python does not know: \
         the file is damaged, or no pickle"
    )]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Where it stands.
        offset: usize,
    },
    /// An instruction needs more values than there are.
    #[error("its pickle lacks the values that the instruction at byte {offset} needs")]
    Nothing {
        /// Where the instruction stands.
        offset: usize,
    },
    /// An instruction meets a value that it does not fit.
    #[error("its pickle has {found} at byte {offset} where {expected} is expected")]
    Unexpected {
        /// What would fit.
        expected: &'static str,
        /// What it is.
        found: &'static str,
        /// Where the instruction stands.
        offset: usize,
    },
    /// Text is not text.
    #[error("its pickle has text that is not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// Where the instruction stands.
        offset: usize,
    },
    /// A module or item has too long a name.
    #[error("its pickle has a name of more than {limit} bytes at byte {offset}")]
    LongName {
        /// Longest name.
        limit: usize,
        /// Where the instruction stands.
        offset: usize,
    },
    /// The pickle refers to a value that it has not noted.
    #[error("its pickle refers to value {number}, which is none of the {known} that it has noted")]
    Memo {
        /// Number of the value.
        number: u64,
        /// Number of values noted so far.
        known: usize,
    },
    /// Too many values are open at once.
    #[error("its pickle has more than {limit} values open at once, which no state dict needs")]
    Stack {
        /// Most values.
        limit: usize,
    },
    /// The values take more memory than they may.
    #[error(
        "what its pickle stands for takes more than {limit} bytes; \
         if you trust the file, raise the limit with `--max-header-bytes`"
    )]
    Memory {
        /// Most bytes.
        limit: u64,
    },
    /// A function is called otherwise than torch does.
    #[error("its pickle gives {function} at byte {offset} arguments that torch does not give it")]
    Call {
        /// The function or class.
        function: &'static str,
        /// Where the instruction stands.
        offset: usize,
    },
    /// A storage is named otherwise than torch does.
    #[error("its pickle names a storage at byte {offset} otherwise than torch does")]
    Storage {
        /// Where the instruction stands.
        offset: usize,
    },
    /// A storage is described in two ways.
    #[error("its pickle gives storage `{}` two types or lengths", Printable(key))]
    StorageTwice {
        /// Key of the storage.
        key: String,
    },
}
