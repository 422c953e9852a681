//! Checkpoints of `torch.save`: the bytes of an archive or of a legacy file walk in, the
//! names, element types, shapes and places of tensors walk out.
//!
//! A pickle is a program. This one is read by a machine that knows data alone: numbers,
//! text, tuples, lists, dicts, and the few names that a tensor is made of. Every other
//! name stands for nothing: nothing is imported or called, and an object is its name and
//! what it was given. It is refused only where a tensor of the state dict should be. What
//! the machine makes lies in flat vectors and is counted against a limit, so that neither
//! depth nor cycles nor shared parts cost more than the bytes of the pickle.
//!
//! Touches no file and no byte of a tensor.
//!
//! Source: `torch/serialization.py` and `torch/_weights_only_unpickler.py` of torch
//! 2.15; Python `pickletools`; PKWARE APPNOTE 6.3.10.

mod archive;
mod error;
mod global;
mod heap;
mod legacy;
mod machine;
mod state;

pub use archive::Archive;
pub use archive::ArchiveKind;
pub use archive::Directory;
pub use archive::Entry;
pub use archive::TAIL_BYTES;
pub use archive::check_byte_order;
pub use archive::find_directory;
pub use archive::parse_directory;
pub use error::ArchiveError;
pub use error::LegacyError;
pub use error::Names;
pub use error::PickleError;
pub use error::StateError;
pub use error::TorchError;
pub use error::Unread;
pub use legacy::Legacy;
pub use legacy::parse_legacy;
pub use state::LeftOut;
pub use state::Places;
pub use state::SparseView;
pub use state::StateDict;
pub use state::Storage;
pub use state::View;
pub use state::parse_state_dict;
