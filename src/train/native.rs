//! The engine for the processor: images innermost, buffers kept, every sum in a fixed
//! order, so that the same batch gives the same bits for any number of threads and on
//! any machine whose arithmetic is IEEE 754.
//!
//! Layers are computed on rows of 32 images (`lanes.rs`); a layer whose weights are
//! mostly pruned works on the retained ones alone (`sparse.rs`).

mod backward;
mod convolve;
mod elementwise;
mod engine;
mod forward;
mod lanes;
mod linear;
mod need;
mod norm;
mod parameter;
mod plan;
mod pool;
mod product;
mod room;
mod sparse;
#[cfg(test)]
mod tests;
mod weight_gradient;
mod window;

pub use engine::Kernels;
pub use engine::Native;
pub use need::buffer_bytes;
