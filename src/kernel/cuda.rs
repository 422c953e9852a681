//! NVIDIA's processors: kernels in PTX, run by a driver that is looked for when it is
//! needed.
//!
//! The unit of work is a [`Batch`] of tiles: their bytes go over the bus in one copy,
//! masks are found and compared, means and inner products computed, and the results come
//! back in one copy. The bits are those of [`reference`](super::reference). What is rare
//! is not computed here: [`Answer`] tells of masks that differ and of means that need an
//! exact fraction, and the processor does such a tile.

mod batch;
mod driver;
mod error;
mod launch;

pub use batch::Answer;
pub use batch::Batch;
pub use batch::Buffer;
pub use batch::MaskSource;
pub use batch::Orders;
pub use batch::Request;
pub use batch::batch_bytes;
pub use batch::tile_bytes;
pub use driver::Device;
pub use driver::Lane;
pub use driver::LaneBytes;
pub use driver::device_count;
pub use error::DeviceError;
pub use launch::Kernel;
pub use launch::Launch;
