//! The whole of Sparse Model Soups: a recipe walks in; soups, receipts and a report walk
//! out. Names every room, and computes no weight itself.

pub mod findings;
pub mod report;
