//! NVIDIA's processors: kernels in PTX, run by a driver that is looked for when it is
//! needed.
//!
//! The unit of work is a [`Batch`] of tiles: their bytes go over the bus in one copy,
//! masks are found and compared, means and inner products computed, and the results come
//! back in one copy. The bits are those of [`reference`](super::reference). What is rare
//! is not computed here: [`Answer`] tells of masks that differ and of means that need an
//! exact fraction, and the processor does such a tile.
//!
//! Models that stay on a device are [`Resident`]s, and a [`Combiner`] makes soups of them
//! there: nothing crosses the bus but tables, counts and inner products.

mod batch;
mod combiner;
mod driver;
mod error;
mod lane;
mod launch;
mod resident;

pub use batch::Answer;
pub use batch::Batch;
pub use batch::Buffer;
pub use batch::MaskSource;
pub use batch::Orders;
pub use batch::Request;
pub use batch::batch_bytes;
pub use batch::tile_bytes;
pub use combiner::Combined;
pub use combiner::Combiner;
pub use driver::Device;
pub use driver::device_count;
pub use error::DeviceError;
pub use lane::Lane;
pub use lane::LaneBytes;
pub use launch::Kernel;
pub use launch::Launch;
pub use resident::Resident;
pub use resident::ResidentError;
pub use resident::TensorLayout;
