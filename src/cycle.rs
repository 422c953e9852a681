//! The whole of Sparse Model Soups: a recipe walks in; soups, receipts and a report walk
//! out. Names every room, and computes no weight itself.

pub mod executor;
pub mod findings;
pub mod job;
pub mod measure;
pub mod plan;
pub mod recalibrated;
pub mod recipe;
pub mod report;
pub mod run;
pub mod scene;
pub mod store;
pub mod work;
