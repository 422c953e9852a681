//! Why a model cannot be measured.

use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::RewriteError;
use crate::format::replace::ReplaceError;
use crate::train::WeightsError;
use crate::train::data::DataError;
use crate::train::device::DeviceError;
use crate::train::engine::EngineError;
use crate::train::evaluate::EvaluateError;
use crate::train::masks::MaskError;
use crate::train::recalibrate::RecalibrateError;
use crate::train::record::NetworkError;

/// Why a model cannot be measured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// Images are not those that the step is about.
    #[error(
        "the images of `{name}` are not those that this run began with; put them back, or begin \
         another run"
    )]
    OtherImages {
        /// Name of the data set.
        name: String,
    },
    /// Images cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network cannot be built.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A checkpoint cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It does not hold the network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Masks cannot be read.
    #[error(transparent)]
    Masks(#[from] MaskError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The engine cannot be built.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A model cannot be evaluated.
    #[error("`{}` cannot be evaluated", path.display())]
    Evaluate {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        source: EvaluateError,
    },
    /// Statistics cannot be estimated.
    #[error("`{}` cannot be recalibrated", path.display())]
    Recalibrate {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        source: RecalibrateError,
    },
    /// The recalibrated checkpoint cannot be written.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// Its place cannot be used.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}
