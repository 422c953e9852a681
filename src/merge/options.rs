//! What a user can say about a merge.

use serde::Deserialize;
use serde::Serialize;

use crate::checkpoint::DtypeRule;
use crate::checkpoint::MaskLayout;
use crate::checkpoint::Pick;
use crate::connectivity::NamePatterns;
use crate::connectivity::Rules;
use crate::kernel::WeightError;
use crate::kernel::Weights;
use crate::merge::accelerator::Accelerator;
use crate::merge::adapters::Products;
use crate::merge::selection::Selection;
use crate::tensor::Dtype;

/// How the weights were chosen, for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// All the same. Source: arXiv:2203.05482.
    Uniform,
    /// As given.
    Weighted,
    /// All the same, of those that make the soup better. Source: arXiv:2203.05482.
    Greedy,
}

/// What to do with integer tensors that differ, other than `num_batches_tracked`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntegerPolicy {
    /// Refuse to merge.
    #[default]
    Error,
    /// Take the first ingredient's.
    First,
    /// Take the largest.
    Max,
}

/// Everything that decides a soup's bytes, and how it is computed.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// How the weights were chosen.
    pub method: Method,
    /// One weight per ingredient.
    pub weights: Weights,
    /// How the ingredients were chosen, if that is for the record.
    pub selection: Option<Selection>,
    /// How masks are read and compared.
    pub rules: Rules,
    /// Tensors that are merged; empty for all.
    pub include: NamePatterns,
    /// Tensors that are left out.
    pub exclude: NamePatterns,
    /// Tensors that are the first ingredient's, as they are.
    pub from_first: NamePatterns,
    /// Element type of averaged tensors; `None` keeps the ingredients'.
    pub dtype: Option<Dtype>,
    /// What to do with integer tensors that differ.
    pub integers: IntegerPolicy,
    /// Whether NaN and infinities are merged.
    pub allow_non_finite: bool,
    /// How masks are stored in the soup.
    pub layout: MaskLayout,
    /// Largest shard in bytes; `None` for one file.
    pub shard_bytes: Option<u64>,
    /// Which products a soup of adapters has; `None` averages factors like all tensors.
    pub adapters: Option<Products>,
    /// Whether distances between ingredients are measured.
    pub distances: bool,
    /// What computes.
    pub workers: Workers,
}

/// What computes; none of it changes a bit of the result.
#[derive(Clone, Debug)]
pub struct Workers {
    /// Worker threads.
    pub threads: usize,
    /// Devices that combine in place of the processor.
    pub accelerator: Option<Accelerator>,
}

impl Default for Workers {
    /// As many threads as the machine has for this process, and no device.
    fn default() -> Self {
        default_threads().into()
    }
}

impl From<usize> for Workers {
    fn from(threads: usize) -> Self {
        Self {
            threads,
            accelerator: None,
        }
    }
}

impl MergeOptions {
    /// A uniform soup of `weights.values().len()` ingredients with every default.
    pub fn new(method: Method, weights: Weights) -> Self {
        Self {
            method,
            distances: weights.values().len() <= MOST_FOR_DISTANCES,
            weights,
            selection: None,
            rules: Rules::default(),
            include: NamePatterns::default(),
            exclude: NamePatterns::default(),
            from_first: NamePatterns::default(),
            dtype: None,
            integers: IntegerPolicy::default(),
            allow_non_finite: false,
            layout: MaskLayout::default(),
            shard_bytes: None,
            adapters: None,
            workers: Workers::default(),
        }
    }

    /// The same options for the uniform soup of what a selection keeps, with the
    /// selection in its certificate.
    ///
    /// # Errors
    /// [`WeightError::Empty`] if it keeps nothing.
    pub fn with_selection(&self, selection: Selection) -> Result<Self, WeightError> {
        let n_kept = selection.kept().len();
        Ok(Self {
            method: Method::Greedy,
            weights: Weights::uniform(n_kept)?,
            distances: self.distances && n_kept > 1,
            selection: Some(selection),
            ..self.clone()
        })
    }

    /// Whether ingredients may store a tensor in different floating types.
    pub fn dtype_rule(&self) -> DtypeRule {
        match self.dtype {
            Some(_) => DtypeRule::AnyFloat,
            None => DtypeRule::Same,
        }
    }

    /// Whether a tensor is in the soup.
    pub fn selects(&self, name: &str) -> bool {
        self.pick(name) != Pick::Nowhere
    }

    /// Where a tensor of the soup comes from: of the patterns, `exclude` wins over
    /// `from_first`, and that over `include`.
    pub fn pick(&self, name: &str) -> Pick {
        if self.exclude.matches(name) {
            Pick::Nowhere
        } else if self.from_first.matches(name) {
            Pick::First
        } else if self.include.is_empty() || self.include.matches(name) {
            Pick::Everyone
        } else {
            Pick::Nowhere
        }
    }
}

/// Most ingredients whose pairwise distances are measured without being asked: the
/// cost grows with the square of their number.
pub const MOST_FOR_DISTANCES: usize = 16;

/// Most threads used without being asked: memory is the limit long before.
const MOST_THREADS: usize = 16;

/// Threads that the machine has for this process, at most 16.
pub fn default_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_THREADS)
}
