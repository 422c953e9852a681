//! Images and labels: the name or the path of a data set walks in, a [`Dataset`] walks
//! out; then indices walk in and normalised batches walk out.
//!
//! Everything random comes from a [`Stream`](crate::tensor::Stream) named by seed, epoch
//! and sample, so a batch is the same whoever makes it, and in whatever order.

mod batch;
mod cifar;
mod corruption;
mod dataset;
mod error;
mod gzip;
mod idx;
mod known;
mod open;
mod sheet;
mod split;
mod tensors;

pub use batch::{Assembler, Batch, Variation};
pub use corruption::{Corruption, Severity, corrupted};
pub use dataset::{Augmentation, Dataset, Normalisation, Samples};
pub use error::DataError;
pub use known::Known;
pub use open::{DataSpec, open};
pub use sheet::sheet;
pub use split::{Split, VALIDATION_FRACTION, VALIDATION_SEED, epoch_order};

#[cfg(test)]
mod tests;
