//! Files that appear whole or not at all.

mod kind;

pub use kind::FileKind;
