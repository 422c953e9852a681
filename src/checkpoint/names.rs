//! Names of tensors: a prefix taken off, and what there is to say of those that a
//! checkpoint holds.

use std::fmt;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::Content;
use crate::checkpoint::FileFormat;
use crate::checkpoint::StoredTensor;
use crate::format::torch::LeftOut;
use crate::tensor::Printable;

/// What programs put before every name of a model that they wrap: torch's DataParallel,
/// DistributedDataParallel and AveragedModel the one, torch.compile the other.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];
/// Counter that `torch.optim.swa_utils.AveragedModel` keeps beside the model.
const COUNTER: &str = "n_averaged";

/// Something about a checkpoint that its user may want to know, and that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The checkpoint.
    pub path: PathBuf,
    /// How many other checkpoints it is true of.
    pub others: usize,
    /// What there is to say.
    pub about: About,
}

/// What there is to say of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// Parts of it are no tensors of its state dict, and are not read.
    LeftOut(Vec<LeftOut>),
    /// All names begin with what wrappers put there.
    Wrapped {
        /// What they begin with.
        begin: String,
        /// The prefixes to take off one after the other, those that were asked for first.
        prefixes: Vec<String>,
    },
    /// Tensors have their elements in common, which are written for each of them.
    Tied {
        /// The first two.
        names: [String; 2],
        /// How many more there are.
        more: usize,
    },
    /// A tensor whose mask torch.ao.pruning keeps elsewhere.
    Unmasked(String),
}

impl Note {
    /// Notes of several checkpoints, of which the same ones become one.
    pub fn gather(notes: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut gathered: Vec<Self> = Vec::new();
        for note in notes {
            let same = gathered.iter_mut().find(|other| other.about == note.about);
            match same {
                Some(same) => same.others += 1 + note.others,
                None => gathered.push(note),
            }
        }
        gathered
    }
}

/// The options that take these prefixes off.
pub(super) fn strip_recipe(prefixes: &[String]) -> String {
    let options = prefixes
        .iter()
        .map(|prefix| format!("--strip-prefix {prefix}"));
    options.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let others = match self.others {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        let path = format!("`{}`{others}", self.path.display());
        match &self.about {
            About::LeftOut(parts) => {
                let shown = parts.iter().take(SHOWN).map(LeftOut::to_string);
                let shown: Vec<String> = shown.collect();
                let more = match parts.len().saturating_sub(SHOWN) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let shown = shown.join(", ");
                write!(f, "{path} holds more than tensors: {shown}{more}; left out")
            }
            About::Wrapped { begin, prefixes } => write!(
                f,
                "all names of {path} begin with `{begin}`, as DataParallel, AveragedModel or \
                 torch.compile write them; `{}` takes it off",
                strip_recipe(prefixes)
            ),
            About::Tied { names, more } => {
                let [first, second] = names.each_ref().map(|name| Printable(name));
                let more = match more {
                    0 => String::new(),
                    more => format!(" (and {more} more)"),
                };
                write!(
                    f,
                    "`{first}` and `{second}`{more} are one tensor in {path}; a soup stores each"
                )
            }
            About::Unmasked(tensor) => write!(
                f,
                "{path} holds `{}`: torch.ao.pruning keeps masks outside of a state dict, and \
                 these weights come without theirs; call `sparsifier.squash_mask()` and save again",
                Printable(tensor)
            ),
        }
    }
}

impl Checkpoint {
    /// What there is to say of the checkpoint.
    pub fn notes(&self) -> Vec<Note> {
        let left_out = (!self.left_out.is_empty()).then(|| About::LeftOut(self.left_out.clone()));
        let wrapped = self.wrappers();
        let wrapped = (!wrapped.is_empty()).then(|| About::Wrapped {
            begin: wrapped.concat(),
            prefixes: self.prefixes_and(wrapped),
        });
        let unmasked = self.unmasked().map(About::Unmasked);
        let notes = [left_out, wrapped, self.tied(), unmasked];
        let note = |about| Note {
            path: self.path().to_owned(),
            others: 0,
            about,
        };
        notes.into_iter().flatten().map(note).collect()
    }

    /// The prefixes that were to be taken off, and more.
    pub(super) fn prefixes_and<'p>(&self, more: impl IntoIterator<Item = &'p str>) -> Vec<String> {
        let asked_for = self.prefixes.iter().cloned();
        let more = more.into_iter().map(str::to_owned);
        asked_for.chain(more).collect()
    }

    /// The prefixes of wrappers that all names begin with, one after the other.
    fn wrappers(&self) -> Vec<&'static str> {
        let names = self.tensors().iter().map(|tensor| tensor.name.as_str());
        let mut names: Vec<&str> = names.filter(|name| *name != COUNTER).collect();
        let mut found = Vec::new();
        loop {
            let wraps = |prefix: &&str| names.iter().all(|name| name.starts_with(prefix));
            let Some(prefix) = WRAPPERS
                .into_iter()
                .find(wraps)
                .filter(|_| !names.is_empty())
            else {
                return found;
            };
            found.push(prefix);
            names
                .iter_mut()
                .for_each(|name| *name = &name[prefix.len()..]);
        }
    }

    /// Tensors of torch that are the same bytes of a file.
    fn tied(&self) -> Option<About> {
        let is_torch = |tensor: &&StoredTensor| {
            self.shards[tensor.shard].format == FileFormat::Torch
                && matches!(tensor.content, Content::Plain)
                && tensor.bytes > 0
        };
        let mut tensors: Vec<&StoredTensor> = self.tensors().iter().filter(is_torch).collect();
        let place = |tensor: &StoredTensor| (tensor.shard, tensor.offset, tensor.bytes);
        // Stable, so that of those in one place the first by name comes first.
        tensors.sort_by_key(|tensor| place(tensor));
        let tied = tensors
            .windows(2)
            .filter(|pair| place(pair[0]) == place(pair[1]));
        let mut tied = tied.map(|pair| [pair[0].name.clone(), pair[1].name.clone()]);
        Some(About::Tied {
            names: tied.next()?,
            more: tied.count(),
        })
    }

    /// The first tensor that torch.ao.pruning has taken the place of: it has no other
    /// parametrization's tensors beside it.
    fn unmasked(&self) -> Option<String> {
        const WORD: &str = ".parametrizations.";
        let names = || self.tensors().iter().map(|tensor| tensor.name.as_str());
        let mut originals = names().filter(|name| {
            // What is left ends with a dot.
            name.contains(WORD)
                && name.ends_with(".original")
                && name.strip_suffix("original").is_some_and(|of| {
                    let after = self
                        .tensors()
                        .partition_point(|tensor| tensor.name.as_str() < of);
                    let beside = self.tensors()[after..].iter();
                    let mut beside = beside.take_while(|tensor| tensor.name.starts_with(of));
                    beside.all(|tensor| tensor.name == *name)
                })
        });
        originals.next().map(str::to_owned)
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
        self.is_renamed |= is_renamed;
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
