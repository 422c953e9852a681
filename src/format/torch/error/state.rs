//! Why a pickle's values are no state dict.

use std::fmt;

use thiserror::Error;

use crate::format::torch::LeftOut;
use crate::format::torch::Names;
use crate::format::torch::error::SAVE_TENSORS;
use crate::tensor::Printable;

/// Why a tensor is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Its class is none of torch's, and may make something else of its elements.
    Subclass,
    /// It is one of several parts.
    Shard,
    /// Its elements are codes.
    Quantised,
    /// It has a shape and no elements.
    Meta,
    /// It is the conjugate or negative of what is stored.
    Negated,
    /// Its elements are complex numbers of a type that safetensors does not have.
    Complex,
    /// It is sparse, and stored in blocks or by columns.
    Blocks,
    /// Another reason.
    Other,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subclass => {
                "a class of tensors that is not torch's own; \
                 write it with `.as_subclass(torch.Tensor)`"
            }
            Self::Shard => {
                "one part of a tensor that several processes share; write the whole with \
                 `.full_tensor()` in all processes that hold parts of it, or join the parts \
                 with the tool of the trainer"
            }
            Self::Quantised => "which is quantised; write it with `.dequantize()`",
            Self::Meta => {
                "which has a shape and no elements; save the model again once its weights are loaded"
            }
            Self::Negated => {
                "which is the conjugate or negative of what is stored; \
                 write it with `.resolve_conj().resolve_neg()`"
            }
            Self::Complex => {
                "which safetensors does not have; write it with `torch.view_as_real`"
            }
            Self::Blocks => {
                "which is sparse by blocks or columns; write it with `.to_dense()`"
            }
            Self::Other => {
                "whose elements are not read; write a plain tensor in its place, \
                 or leave it out of the state dict"
            }
        })
    }
}

/// Why a pickle's values are no state dict.
#[derive(Debug, Error)]
pub enum StateError {
    /// What should be a dict of tensors is something else.
    #[error("{} is {}, expected a dict of tensors by name", place(key.as_deref()), Printable(found))]
    NotADict {
        /// The key that led there, if one did.
        key: Option<String>,
        /// What it is.
        found: String,
    },
    /// What should be a dict of tensors is an object, such as a whole model.
    #[error(
        "{} is an object, `{}`, and objects are not loaded; {SAVE_TENSORS}",
        place(key.as_deref()),
        Printable(found)
    )]
    Object {
        /// The key that led there, if one did.
        key: Option<String>,
        /// Its class, or the function that makes it.
        found: String,
    },
    /// There is nothing under the key.
    #[error("it has no `{}`; it has {found}", Printable(key))]
    NoKey {
        /// The key.
        key: String,
        /// Keys that there are.
        found: Names,
    },
    /// Several dicts may be meant.
    #[error("it holds several state dicts: {found}; name one with `--key`")]
    Several {
        /// Their keys.
        found: Names,
    },
    /// The dict holds no tensor.
    #[error("it holds no tensor{}", no_tensor(candidates, *can_join, parts))]
    NoTensor {
        /// Keys of dicts that do hold tensors.
        candidates: Names,
        /// Whether the names of all these can be joined.
        can_join: bool,
        /// What it holds, where no key would lead to tensors.
        parts: Vec<LeftOut>,
    },
    /// A key of the dict is no text.
    #[error(
        "its dict of tensors has {} as a name, expected text",
        Printable(found)
    )]
    Name {
        /// What it is.
        found: String,
    },
    /// Two tensors have one name.
    #[error("tensor `{}` appears twice", Printable(tensor))]
    TensorTwice {
        /// The name.
        tensor: String,
    },
    /// A part of the dict holds tensors of its own.
    #[error(
        "`{}` is {} that holds tensors, expected a tensor; {}",
        Printable(name),
        Printable(found),
        if *can_join {
            "`--key .` joins the names of dicts within dicts with dots"
        } else {
            "load the file in Python and write the tensors alone, each under a name"
        }
    )]
    Nested {
        /// Name of the part.
        name: String,
        /// What it is.
        found: String,
        /// Whether the names of all that the file holds can be joined.
        can_join: bool,
    },
    /// The names of dicts within dicts take more memory than they may.
    #[error(
        "the names of its dicts within dicts take more than {limit} bytes when they are joined; \
         write the tensors alone, each under a name"
    )]
    Joined {
        /// Most bytes.
        limit: u64,
    },
    /// A tensor is of a kind that is not read.
    #[error("`{}` is a `{}`, {why}", Printable(tensor), Printable(found))]
    Unread {
        /// The name.
        tensor: String,
        /// Its class, type or function.
        found: String,
        /// Why not.
        why: Unread,
    },
    /// The parts of a sparse tensor do not go together, or stand for too much.
    #[error("the sparse tensor `{}` {what}", Printable(tensor))]
    Sparse {
        /// The name.
        tensor: String,
        /// What is wrong, and what to do if that is known.
        what: &'static str,
    },
    /// The shape stands for more elements than can be counted.
    #[error("tensor `{}` is too large to count", Printable(tensor))]
    TooLarge {
        /// The name.
        tensor: String,
    },
    /// The tensor looks behind the end of its storage.
    #[error(
        "tensor `{}` reaches behind the end of its storage of {bytes} bytes",
        Printable(tensor)
    )]
    Bounds {
        /// The name.
        tensor: String,
        /// Bytes of the storage.
        bytes: u64,
    },
    /// The tensor has more elements than are stored.
    #[error(
        "tensor `{}` has {numel} elements of which only {stored} are stored (`expand`); write it with `contiguous()`",
        Printable(tensor)
    )]
    Expanded {
        /// The name.
        tensor: String,
        /// Its elements.
        numel: u64,
        /// Elements of its storage.
        stored: u64,
    },
}

fn place(key: Option<&str>) -> String {
    match key {
        Some(key) => format!("`{}`", Printable(key)),
        None => "what it holds".to_owned(),
    }
}

fn no_tensor(candidates: &Names, can_join: bool, parts: &[LeftOut]) -> String {
    if !candidates.is_empty() {
        let join = match can_join {
            true => ", or join the names of all of them with `--key .`",
            false => "",
        };
        return format!(
            " by name, but dicts of tensors: {candidates}; name one with `--key`{join}"
        );
    }
    const SHOWN: usize = 4;
    let shown = parts.iter().take(SHOWN);
    let shown: Vec<String> = shown.map(LeftOut::to_string).collect();
    match (shown.as_slice(), parts.len().saturating_sub(SHOWN)) {
        ([], _) => String::new(),
        (_, 0) => format!(", but {}", shown.join(", ")),
        (_, more) => format!(", but {} and {more} more", shown.join(", ")),
    }
}
