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
//!
//! ```no_run
//! use sms_merge::kernel::Weights;
//! use sms_merge::kernel::cuda::{Combiner, Device, Resident, TensorLayout};
//! use sms_merge::tensor::Dtype;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::open(0)?;
//! let layout = [TensorLayout { n_elements: 3, dtype: Dtype::F32, is_masked: true }];
//! let upload = |values: [f32; 3]| {
//!     let mut model = Resident::zeros(&device, &layout)?;
//!     model.write(0, &values.map(f32::to_le_bytes).concat())?;
//!     Ok::<_, Box<dyn std::error::Error>>(model)
//! };
//! let (first, second) = (upload([1.0, 0.0, 3.0])?, upload([2.0, 0.0, 5.0])?);
//! let mut soup = Resident::zeros(&device, &layout)?;
//! let mut combiner = Combiner::new(&device, 2, 64 << 20)?;
//! // The soup is [1.5, 0, 4]; models whose zeros stand elsewhere would be refused.
//! combiner.combine(&mut soup, &[&first, &second], &Weights::uniform(2)?, false)?;
//! # Ok(())
//! # }
//! ```

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
