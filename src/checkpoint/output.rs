//! Where a checkpoint goes that is made here: a file or a directory, staged until it
//! is complete.

mod error;
mod model;
mod name;
mod replaced;
mod sidecars;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::INDEX_NAME;
use crate::checkpoint::Ingredients;
use crate::checkpoint::SINGLE_NAME;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::StagedDirectory;
use crate::format::replace::StagedEntry;
use crate::format::replace::StagedFile;
use crate::format::replace::Target;
use crate::format::safetensors::Layout;
use crate::format::shard_index::render;
use crate::format::shard_index::shard_name;

pub use error::OutputError;
use model::ModelOutput;
use model::StagedModel;
pub use name::refuse_other_name;
pub(crate) use replaced::write_replaced;
pub use sidecars::Sidecars;

/// Where a checkpoint goes.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    target: Target,
    is_directory: bool,
    durability: Durability,
    model: Option<ModelOutput>,
}

impl Destination {
    /// Looks a destination up, and refuses one that is an input.
    ///
    /// The output is a directory if `path` ends in a slash, is one, or has no
    /// extension where all ingredients are directories, and always if it is cut
    /// into shards. Nothing is read of any input.
    ///
    /// # Errors
    /// [`OutputError::IsInput`], [`OutputError::ShardsNeedDirectory`], those of
    /// [`refuse_other_name`], and [`OutputError::Replace`] if the place is unfit or taken.
    pub fn resolve(
        path: &Path,
        ingredients: &Ingredients,
        shard_bytes: Option<u64>,
        existing: Existing,
        durability: Durability,
    ) -> Result<Self, OutputError> {
        let is_file_name = path
            .extension()
            .is_some_and(|end| end == "st" || end == "safetensors");
        let all_directories = ingredients
            .checkpoints()
            .iter()
            .all(|input| input.directory().is_some());
        let is_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/")
            || path.is_dir()
            || shard_bytes.is_some()
            || (all_directories && path.extension().is_none());
        if is_directory && is_file_name && !path.is_dir() {
            return Err(OutputError::ShardsNeedDirectory {
                path: path.to_owned(),
            });
        }
        if !is_directory {
            refuse_other_name(path)?;
        }
        refuse_input(path, ingredients)?;
        let target = if is_directory {
            Target::for_directory(path, existing)?
        } else {
            Target::for_file(path, existing)?
        };
        Ok(Self {
            path: path.to_owned(),
            target,
            is_directory,
            durability,
            model: None,
        })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.is_directory
    }

    /// Names of the files of a checkpoint of so many shards, without its sidecars.
    pub(crate) fn shard_names(&self, n_shards: usize) -> Vec<String> {
        match (self.is_directory, n_shards) {
            (false, _) => vec![
                self.target
                    .path()
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            ],
            (true, 1) => vec![SINGLE_NAME.to_owned()],
            (true, n_shards) => (0..n_shards)
                .map(|shard| shard_name("model", shard, n_shards))
                .collect(),
        }
    }

    /// What goes with the weights: nothing beside a single file.
    pub(crate) fn sidecars(&self, ingredients: &Ingredients) -> Result<Sidecars, OutputError> {
        let directory = ingredients
            .checkpoints()
            .first()
            .and_then(Checkpoint::directory);
        match directory.filter(|_| self.is_directory) {
            Some(directory) => Ok(Sidecars::find(directory, ingredients)?),
            None => Ok(Sidecars::default()),
        }
    }

    /// Checks, before anything is computed, that a file of so many bytes can be made where
    /// the output is to be.
    ///
    /// # Errors
    /// [`OutputError::Replace`].
    pub fn probe(&self, bytes: u64) -> Result<(), OutputError> {
        Ok(self.target.probe(bytes)?)
    }

    /// Checks that so many bytes fit.
    pub(crate) fn require_space(&self, needed: u64) -> Result<(), OutputError> {
        let free = self.target.free_bytes()?;
        if free < needed {
            return Err(OutputError::Space {
                path: self.path.clone(),
                needed,
                free,
            });
        }
        Ok(())
    }

    /// Stages files of the given lengths, has `fill` write them, and publishes them
    /// together once it returns. A failure leaves nothing.
    pub(crate) fn write<T, E: From<OutputError>>(
        &self,
        headers: &[u64],
        layouts: &[Layout],
        sidecars: &Sidecars,
        fill: impl FnOnce(&StagedOutput<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let lengths = headers
            .iter()
            .zip(layouts)
            .map(|(header, layout)| header + layout.data_bytes());
        if !self.is_directory {
            let staged = StagedFile::create(&self.target, lengths.sum(), self.durability)
                .map_err(OutputError::from)?;
            let output = StagedOutput {
                shards: vec![StagedShard::File(&staged)],
                headers,
            };
            let filled = fill(&output)?;
            drop(output);
            staged.publish().map_err(OutputError::from)?;
            return Ok(filled);
        }
        let names = self.shard_names(layouts.len());
        let index = (layouts.len() > 1).then(|| shard_index(&names, layouts));
        let all_names: BTreeSet<&str> = names
            .iter()
            .chain(&sidecars.copied)
            .chain(sidecars.given.keys())
            .map(String::as_str)
            .chain(index.as_ref().map(|_| INDEX_NAME))
            .collect();
        let staged = StagedDirectory::create(&self.target, all_names, self.durability)
            .map_err(OutputError::from)?;
        let shards = names
            .iter()
            .zip(lengths)
            .map(|(name, bytes)| Ok(StagedShard::Entry(staged.file(name, bytes)?)))
            .collect::<Result<_, OutputError>>()?;
        let output = StagedOutput { shards, headers };
        let filled = fill(&output)?;
        drop(output);
        finish_directory(staged, index.as_deref(), sidecars)?;
        Ok(filled)
    }
}

/// Adds what goes beside the shards, and publishes.
fn finish_directory(
    staged: StagedDirectory,
    index: Option<&str>,
    sidecars: &Sidecars,
) -> Result<(), OutputError> {
    if let Some(text) = index {
        staged
            .file(INDEX_NAME, text.len() as u64)?
            .write_at(text.as_bytes(), 0)?;
    }
    for (name, text) in &sidecars.given {
        staged
            .file(name, text.len() as u64)?
            .write_at(text.as_bytes(), 0)?;
    }
    for name in &sidecars.copied {
        staged.copy_in(name, &sidecars.directory.join(name))?;
    }
    Ok(staged.publish()?)
}

/// Refuses an output that is one of the files or directories given as inputs, by
/// whatever name, before any of them is opened.
///
/// # Errors
/// [`OutputError::IsInput`].
pub fn refuse_named_input<'p>(
    output: &Path,
    inputs: impl IntoIterator<Item = &'p Path>,
) -> Result<(), OutputError> {
    // What does not exist yet is no input; other failures are reported by `Target`.
    let Ok(found) = fs::metadata(output) else {
        return Ok(());
    };
    let same = |input: &Path| {
        fs::metadata(input)
            .is_ok_and(|input| (input.dev(), input.ino()) == (found.dev(), found.ino()))
    };
    for input in inputs {
        let holds_input =
            found.is_dir() && input.parent().is_some_and(|parent| same(nonempty(parent)));
        if holds_input || same(input) {
            return Err(OutputError::IsInput {
                output: output.to_owned(),
                input: input.to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses an output that is any file of the inputs: their shards and indices too.
fn refuse_input(output: &Path, ingredients: &Ingredients) -> Result<(), OutputError> {
    let checkpoints = ingredients
        .checkpoints()
        .iter()
        .chain(ingredients.mask_file());
    let files = checkpoints.flat_map(|checkpoint| {
        let shards = checkpoint
            .shards()
            .iter()
            .map(|shard| shard.source().path());
        shards.chain(checkpoint.index()).chain([checkpoint.path()])
    });
    refuse_named_input(output, files)
}

/// The parent of a bare name is the current directory.
fn nonempty(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

fn shard_index(names: &[String], layouts: &[Layout]) -> String {
    let places = names.iter().zip(layouts).flat_map(|(name, layout)| {
        layout
            .tensors()
            .iter()
            .map(move |tensor| (tensor.name.clone(), name.clone()))
    });
    let weight_map: BTreeMap<String, String> = places.collect();
    render(&weight_map, layouts.iter().map(Layout::data_bytes).sum())
}

enum StagedShard<'a> {
    File(&'a StagedFile),
    Entry(StagedEntry<'a>),
    Model(StagedModel<'a>),
}

/// The files of a checkpoint while it is being written.
pub(crate) struct StagedOutput<'a> {
    shards: Vec<StagedShard<'a>>,
    /// Bytes before each shard's data buffer.
    headers: &'a [u64],
}

impl StagedOutput<'_> {
    /// Writes at an offset in a shard's data buffer. Called by all threads.
    pub(crate) fn write_at(
        &self,
        shard: usize,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), OutputError> {
        if let StagedShard::Model(model) = &self.shards[shard] {
            return model.write_elements(bytes, offset);
        }
        self.write_file(shard, bytes, self.headers[shard] + offset)
    }

    /// Writes what stands before a shard's data buffer, or a model's new metadata.
    pub(crate) fn write_header(&self, shard: usize, bytes: &[u8]) -> Result<(), OutputError> {
        self.write_file(shard, bytes, 0)
    }

    fn write_file(&self, shard: usize, bytes: &[u8], offset: u64) -> Result<(), OutputError> {
        match &self.shards[shard] {
            StagedShard::File(file) => Ok(file.write_at(bytes, offset)?),
            StagedShard::Entry(entry) => Ok(entry.write_at(bytes, offset)?),
            StagedShard::Model(model) => model.write_metadata(bytes),
        }
    }
}
