//! A soup of adapters: the mean of what they add to a network.
//!
//! The mean of products `scale * up * down` is no product of mean factors. It is exactly
//! the product of the factors put beside each other, whose rank is the sum of the ranks, or
//! of one factor and the mean of the other where adapters share one. What belongs to no
//! factor is averaged as in any soup.

mod compute;
mod plan;
mod prove;
mod rule;
mod said;
mod write;

use serde::Deserialize;
use serde::Serialize;

use crate::tensor::Digest;
use crate::tensor::Digester;

pub use plan::AdapterPlan;
pub use plan::Member;
pub use plan::PlannedModule;
pub use plan::Rule;
pub use plan::understand;
pub use write::AdapterSoup;
pub use write::MergedModule;
pub use write::merge_adapters;

pub(super) use prove::check_scales;
pub(super) use prove::recompute;

/// Which products a soup of adapters has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "products")]
pub enum Products {
    /// The means, exactly, but for one rounding of each element of a factor.
    Exact,
    /// The best approximations of the means that have at most this rank.
    Rank {
        /// The rank.
        rank: u64,
    },
}

/// What the certificate of a soup of adapters says of its products.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterRecord {
    /// Which products it has.
    #[serde(flatten)]
    pub products: Products,
    /// Digest of the rank and scale of every module, which stand in a file beside the soup or
    /// in tensors of their own.
    pub scales: Digest,
}

impl AdapterRecord {
    /// A record whose digest is not known yet.
    pub(super) fn open(products: Products) -> Self {
        Self {
            products,
            scales: Digest::of(b""),
        }
    }
}

/// Digest of the name, rank and alpha of modules, sorted by name.
fn scales_digest<'m>(modules: impl Iterator<Item = (&'m str, u64, f64)>) -> Digest {
    let mut digester = Digester::new();
    for (name, rank, alpha) in modules {
        digester.push_text(name);
        digester.update(&rank.to_le_bytes());
        digester.update(&alpha.to_bits().to_le_bytes());
    }
    digester.finish()
}
