//! The engine for the processor: images innermost, buffers kept, sums in a fixed order.

#[cfg(test)]
mod bench_scratch;
mod convolve;
mod lanes;
mod linear;
mod product;
mod weight_gradient;
mod window;
