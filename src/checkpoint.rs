//! From paths to checkpoints.

pub mod map;
