//! Low-rank adapters: recognised by the names of their tensors, paired, scaled, and named
//! after the tensors of the network that they change.
//!
//! An open [`Checkpoint`] walks in; an [`Adapter`] walks
//! out, whose product for a module is `scale * up * down`, and what can be computed of
//! products: they are stacked, cut to a rank, or added to weights. Knows neither masks
//! nor the files that are written.

mod config;
mod delta;
mod error;
mod factor;
mod names;
mod orthogonal;
mod pairs;
mod patterns;
mod scaling;
mod target;
mod truncate;

pub use config::CONFIG_NAME;
pub use config::rewritten;
pub use delta::Delta;
pub use delta::Product;
pub use error::AdapterError;
pub use factor::Factor;
pub use factor::NonFinite;
pub use names::Naming;
pub use names::Role;
pub use names::role_of;
pub use pairs::Adapter;
pub use pairs::Module;
pub use patterns::ModulePattern;
pub use scaling::DIFFUSERS_KEY;
pub use scaling::Scaling;
pub use target::Change;
pub use target::Changes;
pub use truncate::Truncated;
pub use truncate::product_norm;
pub use truncate::truncate;

use crate::checkpoint::Checkpoint;

/// Whether a tensor of this name belongs to no factor of an adapter.
pub fn is_of_no_factor(name: &str) -> bool {
    matches!(role_of(name), Role::Other)
}

/// Whether a checkpoint has tensors that are factors of an adapter, or parts of one whose
/// tensors are not averaged.
pub fn is_adapter(checkpoint: &Checkpoint) -> bool {
    let mut names = checkpoint.tensors().iter();
    // `alpha` alone is a parameter of many networks.
    names.any(|tensor| !matches!(role_of(&tensor.name), Role::Other | Role::Alpha(_)))
}
