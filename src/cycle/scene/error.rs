//! Why what a recipe names cannot be used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::map::SourceError;
use crate::graph::DescriptionError;
use crate::tensor::Printable;
use crate::train::card::CardError;
use crate::train::data::DataError;
use crate::train::record::NetworkError;
use crate::train::record::RecordError;

/// Why what a recipe names cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SceneError {
    /// The checkpoint that is given cannot be opened.
    #[error("`pretraining.checkpoint` cannot be used")]
    Checkpoint(#[from] CheckpointError),
    /// It cannot be read, or changed meanwhile.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Nothing says which network or images the recipe is about, and nothing is guessed.
    #[error(transparent)]
    Untold(#[from] Untold),
    /// What it says of itself cannot be understood.
    #[error("`{}` cannot be understood", path.display())]
    Card {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        source: CardError,
    },
    /// What it says of its training cannot be understood.
    #[error("`{}` cannot be understood", path.display())]
    Record {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        source: RecordError,
    },
    /// The images cannot be read.
    #[error(transparent)]
    Data(Box<DataError>),
    /// There is no such network.
    #[error(transparent)]
    Network(Box<NetworkError>),
    /// The file that describes the network, or the checkpoint, cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It describes none.
    #[error("`{}` describes no model", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: DescriptionError,
    },
    /// A network that a file describes is given options.
    #[error("`model.options` are for models that ship with the program; edit the file instead")]
    Options,
    /// The network takes other images, or knows fewer classes.
    #[error(
        "model `{model}` does not take the images of `{}`, or tells fewer classes apart",
        Printable(data)
    )]
    Fit {
        /// The model.
        model: String,
        /// The data set.
        data: String,
    },
}

/// Nothing says which network or images a recipe is about.
#[derive(Debug, Error)]
#[error(
    "{} not say {}: set {}{}",
    match checkpoint {
        Some(path) => format!("`{}` does", path.display()),
        None => "the checkpoints of `trainer.command` do".to_owned(),
    },
    asked(*needs_model, *needs_data, ["which network they hold", "which images it knows"], " and "),
    asked(*needs_model, *needs_data, ["`model.name`", "`data.name`"], " and "),
    match has_trainer {
        true => ", or leave measuring to a command of your own: `evaluation.command`, without \
                 `[model]` and `data.name`",
        false => "",
    }
)]
pub struct Untold {
    /// The checkpoint that is given, if one is.
    pub checkpoint: Option<PathBuf>,
    /// Whether `model.name` is missing.
    pub needs_model: bool,
    /// Whether `data.name` is missing.
    pub needs_data: bool,
    /// Whether the recipe has a trainer of its own.
    pub has_trainer: bool,
}

/// What is asked for, of a model and of data.
fn asked(model: bool, data: bool, words: [&str; 2], and: &str) -> String {
    let words = [(model, words[0]), (data, words[1])];
    let words = words.into_iter().filter(|(is_asked, _)| *is_asked);
    words.map(|(_, word)| word).collect::<Vec<_>>().join(and)
}

impl From<DataError> for SceneError {
    fn from(error: DataError) -> Self {
        Self::Data(Box::new(error))
    }
}

impl From<NetworkError> for SceneError {
    fn from(error: NetworkError) -> Self {
        Self::Network(Box::new(error))
    }
}
