//! Names of tensors: a prefix taken off, and what there is to say of those that a
//! checkpoint holds.

use std::fmt;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::StoredTensor;
use crate::format::torch::LeftOut;
use crate::tensor::Printable;

/// What torch's DataParallel and DistributedDataParallel put before every name.
const PARALLEL_PREFIX: &str = "module.";

/// Something about a checkpoint that its user may want to know, and that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Parts of its dict of tensors are no tensors, and are not read.
    LeftOut {
        /// The checkpoint.
        path: PathBuf,
        /// The parts.
        parts: Vec<LeftOut>,
    },
    /// All names begin with what DataParallel puts there.
    Parallel {
        /// The checkpoint.
        path: PathBuf,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        match self {
            Self::LeftOut { path, parts } => {
                write!(f, "`{}` holds more than tensors: ", path.display())?;
                for (idx, part) in parts.iter().take(SHOWN).enumerate() {
                    let comma = if idx == 0 { "" } else { ", " };
                    write!(f, "{comma}`{}` ({})", Printable(&part.name), part.kind)?;
                }
                match parts.len().saturating_sub(SHOWN) {
                    0 => f.write_str("; left out"),
                    more => write!(f, " and {more} more; left out"),
                }
            }
            Self::Parallel { path } => write!(
                f,
                "all names of `{}` begin with `{PARALLEL_PREFIX}`, as DataParallel writes them; \
                 `--strip-prefix {PARALLEL_PREFIX}` takes it off",
                path.display()
            ),
        }
    }
}

impl Checkpoint {
    /// What there is to say of the checkpoint.
    pub fn notes(&self) -> Vec<Note> {
        let path = || self.path().to_owned();
        let mut notes = Vec::new();
        if !self.left_out.is_empty() {
            let parts = self.left_out.clone();
            notes.push(Note::LeftOut {
                path: path(),
                parts,
            });
        }
        let is_parallel = |tensor: &StoredTensor| tensor.name.starts_with(PARALLEL_PREFIX);
        if !self.tensors().is_empty() && self.tensors().iter().all(is_parallel) {
            notes.push(Note::Parallel { path: path() });
        }
        notes
    }

    /// Takes `prefix` off the names that begin with it and go on.
    pub(super) fn strip_prefix(&mut self, prefix: &str) -> Result<(), CheckpointError> {
        let mut is_renamed = false;
        let mut strip = |name: &mut String| {
            if name.len() > prefix.len() && name.starts_with(prefix) {
                name.drain(..prefix.len());
                is_renamed |= !prefix.is_empty();
            }
        };
        for tensors in [Some(&mut self.tensors), self.stored.as_mut()] {
            let Some(tensors) = tensors else { continue };
            for tensor in tensors.iter_mut() {
                strip(&mut tensor.name);
                if let Some(mask) = &mut tensor.mask_of {
                    strip(&mut mask.tensor);
                }
            }
            tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        self.is_renamed = is_renamed;
        let pairs = self.tensors.windows(2);
        match pairs.into_iter().find(|pair| pair[0].name == pair[1].name) {
            None => Ok(()),
            Some(pair) => Err(CheckpointError::StrippedTwice {
                path: self.path().to_owned(),
                prefix: prefix.to_owned(),
                tensor: pair[0].name.clone(),
            }),
        }
    }
}
