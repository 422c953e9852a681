//! Sparse Model Soups: average pruned networks that share one connectivity.
//!
//! Source: Zimmer, Spiegel, Pokutta, *Sparse Model Soups*, ICLR 2024, arXiv:2306.16788.

pub mod adapter;
pub mod checkpoint;
pub mod connectivity;
#[cfg(feature = "train")]
pub mod cycle;
pub mod export;
pub mod format;
pub mod graph;
pub mod kernel;
pub mod merge;
pub mod prune;
pub mod tensor;
#[cfg(feature = "train")]
pub mod train;
