//! From a checkpoint and a target to a pruned checkpoint, in a few streaming passes.
//!
//! A [`Subject`] (an open checkpoint, and which of its tensors are prunable) and a
//! [`Target`] walk in. [`select`] walks out with a [`Selection`]: for each tensor the
//! rule that says of each coordinate whether it is retained. [`apply`] turns that into
//! files and a [`Connectivity`](crate::connectivity::Connectivity). Knows neither
//! training nor what accuracy is.
//!
//! No pass holds weights: a threshold is found by counting how many scores fall into
//! each of a number of stretches, then dividing the one stretch that holds it, so that
//! anonymous memory does not grow with the size of tensors. See [`MOST_MEMORY`].
//!
//! Ties: of equal scores, that of the lower (tensor, index) is pruned first, tensors
//! in the order of their names. Everything that is counted or summed is an integer, so
//! that no number of threads changes a bit.

mod algebra;
mod amount;
mod apply;
mod census;
mod channel;
mod choose;
mod compare;
mod cut;
mod distribution;
mod error;
mod histogram;
mod lamp;
mod output;
mod pass;
mod pattern;
mod prunable;
mod record;
mod retain;
mod schedule;
mod score;
mod select;
mod subject;
mod target;
mod tile;
mod write;

pub use algebra::ComparedMask;
pub use algebra::MaskInputs;
pub use algebra::MaskOperation;
pub use amount::Amount;
pub use apply::Outputs;
pub use apply::Pruned;
pub use apply::PrunedTensor;
pub use apply::apply;
pub use error::PruneError;
pub use pass::Effort;
pub use prunable::PrunableRule;
pub use prunable::Standing;
pub use record::MaskEntry;
pub use record::PRUNING_KEY;
pub use record::PruningRecord;
pub use schedule::Schedule;
pub use select::Selection;
pub use select::select;
pub use subject::Subject;
pub use target::ChannelDistribution;
pub use target::Distribution;
pub use target::Target;

/// Anonymous memory that a pruning takes at most beside what it knows of each tensor:
/// stretches of scores, and the scratch memory of the threads.
///
/// What is known of a tensor (its name, place, counts and digests) takes about 3 KB,
/// its digests 32 bytes per 65,536 elements, and `channels` 9 bytes per channel.
/// `benches/prune.rs` measures it.
pub const MOST_MEMORY: u64 = 96 << 20;

#[cfg(test)]
mod tests;
