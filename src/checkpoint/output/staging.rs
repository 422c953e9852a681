//! The files of an output under construction, and what goes into them.

use std::collections::BTreeMap;

use crate::checkpoint::output::OutputError;
use crate::checkpoint::output::model::StagedModel;
use crate::checkpoint::output::sidecars::Sidecars;
use crate::format::replace::StagedDirectory;
use crate::format::replace::StagedEntry;
use crate::format::replace::StagedFile;
use crate::format::safetensors::Layout;
use crate::format::shard_index::render;

/// What goes into an output.
pub(crate) struct Contents<'a> {
    /// Bytes before the data buffer of each file.
    pub(crate) headers: &'a [u64],
    /// What is in the data buffer of each file.
    pub(crate) layouts: &'a [Layout],
    /// What goes beside them, if they are in a directory.
    pub(crate) sidecars: &'a Sidecars,
}

impl Contents<'_> {
    /// Length of each file.
    fn lengths(&self) -> impl Iterator<Item = u64> {
        let files = self.headers.iter().zip(self.layouts);
        files.map(|(header, layout)| header + layout.data_bytes())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lengths().sum()
    }
}

/// An output under construction.
pub(super) enum Staged {
    File(StagedFile),
    Directory {
        directory: StagedDirectory,
        names: Vec<String>,
        /// Name and text.
        index: Option<(String, String)>,
    },
}

impl Staged {
    /// The files, to be written to.
    pub(super) fn output<'a>(
        &'a self,
        contents: &Contents<'a>,
    ) -> Result<StagedOutput<'a>, OutputError> {
        let shards = match self {
            Self::File(file) => vec![StagedShard::File(file)],
            Self::Directory {
                directory, names, ..
            } => {
                let files = names.iter().zip(contents.lengths());
                files
                    .map(|(name, bytes)| Ok(StagedShard::Entry(directory.file(name, bytes)?)))
                    .collect::<Result<_, OutputError>>()?
            }
        };
        let headers = contents.headers;
        Ok(StagedOutput { shards, headers })
    }

    /// Adds what goes beside the shards, and publishes.
    pub(super) fn publish(self, contents: &Contents<'_>) -> Result<(), OutputError> {
        match self {
            Self::File(file) => Ok(file.publish()?),
            Self::Directory {
                directory, index, ..
            } => {
                if let Some((name, text)) = index {
                    directory
                        .file(&name, text.len() as u64)?
                        .write_at(text.as_bytes(), 0)?;
                }
                contents.sidecars.copy_into(&directory)?;
                Ok(directory.publish()?)
            }
        }
    }
}

/// The text of the index of these files.
pub(super) fn shard_index(names: &[String], layouts: &[Layout]) -> String {
    let places = names.iter().zip(layouts).flat_map(|(name, layout)| {
        layout
            .tensors()
            .iter()
            .map(move |tensor| (tensor.name.clone(), name.clone()))
    });
    let weight_map: BTreeMap<String, String> = places.collect();
    render(&weight_map, layouts.iter().map(Layout::data_bytes).sum())
}

/// One of the files.
pub(super) enum StagedShard<'a> {
    File(&'a StagedFile),
    Entry(StagedEntry<'a>),
    Model(StagedModel<'a>),
}

/// The files of a checkpoint while it is being written.
pub(crate) struct StagedOutput<'a> {
    pub(super) shards: Vec<StagedShard<'a>>,
    /// Bytes before each shard's data buffer.
    pub(super) headers: &'a [u64],
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
