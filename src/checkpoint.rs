//! From paths to checkpoints.
