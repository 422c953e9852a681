//! Do the ingredients share one connectivity?
//!
//! Mask words of the ingredients walk in, tile by tile; a [`Connectivity`] walks
//! out, or the [`Mismatch`] that says where and how they differ. Knows of each
//! element only whether it is retained.

mod agreement;
mod mismatch;
mod pattern;
mod policy;
mod scan;
mod zeros;

pub use agreement::{Agreement, Pairwise};
pub(crate) use mismatch::whole_mask_digest;
pub use mismatch::{Accident, Connectivity, Mismatch, TensorMask, Verdict};
pub use pattern::{Pattern, PatternTally};
pub use policy::{
    DENSE_ZERO_FRACTION, DRIFT_TOLERANCE, Expectation, MismatchPolicy, NamePatterns, Resolution,
    Rules,
};
pub(crate) use scan::mask_digest;
pub use scan::{MaskTally, PieceMasks};
pub(crate) use zeros::TINY;
pub use zeros::{ZeroCause, ZeroTally};
