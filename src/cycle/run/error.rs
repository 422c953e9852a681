//! Why a run cannot go on.

use thiserror::Error;

use crate::cycle::executor::ExecutorError;
use crate::cycle::store::StoreError;

/// Why a run cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The run directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Jobs cannot be started.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// The run directory is not locked.
    #[error("a run directory is worked in only by who holds its lock")]
    NotLocked,
    /// What a receipt says was measured cannot be understood.
    #[error("the metrics of `{label}` cannot be understood")]
    Metrics {
        /// The step.
        label: String,
        /// Why not.
        source: serde_json::Error,
    },
}
