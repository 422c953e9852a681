//! Where a checkpoint goes that is made here: a file or a directory, staged until it
//! is complete.

mod config;
mod data;
mod error;
mod left;
mod model;
mod name;
mod replaced;
mod sidecars;
mod staging;
mod stem;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::StagedDirectory;
use crate::format::replace::StagedFile;
use crate::format::replace::Target;

pub use config::ConfigChanges;
pub use config::SparseFormat;
pub use config::Written;
pub use data::DataTarget;
pub(crate) use data::publish_model;
pub use error::OutputError;
pub use left::LeftReason;
use model::ModelOutput;
pub use name::refuse_other_name;
pub(crate) use replaced::write_replaced;
pub use sidecars::Sidecars;
pub(crate) use staging::Contents;
use staging::Staged;
pub(crate) use staging::StagedOutput;
use staging::StagedShard;
use staging::shard_index;
use stem::Stem;

/// Where a checkpoint goes.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    target: Target,
    is_directory: bool,
    /// What the files of a directory are called.
    stem: Stem,
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
            stem: Stem::of(ingredients),
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

    /// Checks, before anything is computed, that a file of so many bytes can be made where
    /// the output is to be.
    ///
    /// # Errors
    /// [`OutputError::Replace`].
    pub fn probe(&self, bytes: u64) -> Result<(), OutputError> {
        Ok(self.target.probe(bytes)?)
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
            (true, 1) => vec![self.stem.single()],
            (true, n_shards) => (0..n_shards)
                .map(|shard| self.stem.shard(shard, n_shards))
                .collect(),
        }
    }

    /// What goes with the weights, which are `written` so: nothing beside a single file.
    pub(crate) fn sidecars(
        &self,
        ingredients: &Ingredients,
        written: &Written,
    ) -> Result<Sidecars, OutputError> {
        let directory = ingredients
            .checkpoints()
            .first()
            .and_then(Checkpoint::directory);
        match directory.filter(|_| self.is_directory) {
            Some(directory) => Ok(Sidecars::find(directory, ingredients, written)?),
            None => Ok(Sidecars::none(written)),
        }
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
        contents: &Contents<'_>,
        fill: impl FnOnce(&StagedOutput<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let staged = self.stage(contents)?;
        let output = staged.output(contents)?;
        let filled = fill(&output)?;
        drop(output);
        staged.publish(contents)?;
        Ok(filled)
    }

    fn stage(&self, contents: &Contents<'_>) -> Result<Staged, OutputError> {
        if !self.is_directory {
            let staged = StagedFile::create(&self.target, contents.bytes(), self.durability)?;
            return Ok(Staged::File(staged));
        }
        let names = self.shard_names(contents.layouts.len());
        let index = (names.len() > 1).then(|| {
            let text = shard_index(&names, contents.layouts);
            (self.stem.index(), text)
        });
        let all_names: BTreeSet<&str> = names
            .iter()
            .chain(&contents.sidecars.copied)
            .chain(contents.sidecars.given.keys())
            .chain(index.as_ref().map(|(name, _)| name))
            .map(String::as_str)
            .collect();
        let directory = StagedDirectory::create(&self.target, all_names, self.durability)?;
        Ok(Staged::Directory {
            directory,
            names,
            index,
        })
    }
}

/// Writes two outputs that go together. Whoever is killed in between leaves both old
/// ones, none but the first of the old or new ones, or both new ones: never two that do
/// not belong together.
pub(crate) fn write_pair<T, E: From<OutputError>>(
    (first, first_contents): (&Destination, &Contents<'_>),
    (second, second_contents): (&Destination, &Contents<'_>),
    fill: impl FnOnce(&StagedOutput<'_>, &StagedOutput<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let first_staged = first.stage(first_contents)?;
    let second_staged = second.stage(second_contents)?;
    let outputs = (
        first_staged.output(first_contents)?,
        second_staged.output(second_contents)?,
    );
    let filled = fill(&outputs.0, &outputs.1)?;
    drop(outputs);

    let retire = second.target.retire(second.durability);
    let retired = retire.map_err(OutputError::from)?;
    let is_in_place = |error: &OutputError| match error {
        OutputError::Replace(error) => error.is_in_place(),
        _ => false,
    };
    let first_done = match first_staged.publish(first_contents) {
        Err(error) if !is_in_place(&error) => {
            retired.restore().map_err(OutputError::from)?;
            return Err(error.into());
        }
        done => done,
    };
    let second_done = match second_staged.publish(second_contents) {
        // What was there belongs to the old first output, which is gone.
        Err(OutputError::Replace(error)) if !error.is_in_place() => {
            return Err(OutputError::from(retired.strand(error)).into());
        }
        done => done,
    };
    retired.remove().map_err(OutputError::from)?;
    first_done.and(second_done)?;
    Ok(filled)
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
