//! What is to be pruned, as data.

use serde::Deserialize;
use serde::Serialize;

use crate::connectivity::Pattern;
use crate::prune::Amount;
use crate::prune::PruneError;

/// Group sizes whose groups never straddle two tiles.
const GROUP_SIZES: [u64; 5] = [2, 4, 8, 16, 32];

/// What is to be pruned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Single weights.
    Weights {
        /// How much.
        amount: Amount,
        /// Which, and how that is spread over the tensors.
        distribution: Distribution,
    },
    /// Whole output channels (dimension 0) of least L2 norm: the squares of their
    /// remaining weights summed in `f64`, in row-major order. Amounts count channels.
    Channels {
        /// How much.
        amount: Amount,
        /// How that is spread over the tensors.
        distribution: ChannelDistribution,
    },
    /// The m - n smallest of every m consecutive weights along the input dimension
    /// (dimension 1), as [`checked_pattern`](Target::checked_pattern) gives it.
    Pattern(Pattern),
    /// What the mask file prunes.
    Given,
}

/// Which single weights are pruned. Scores are defined over the weights that remain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Those of least magnitude over all prunable tensors.
    #[default]
    Global,
    /// Those of least magnitude in each tensor, the same fraction of each.
    Uniform,
    /// Those of least magnitude in each tensor; what a tensor retains is proportional
    /// to the sum of its dimensions, and at most what it has. Source: arXiv:1911.11134.
    Erk,
    /// Those of least `w² / Σ v²`, the sum over all remaining `v` of the tensor with
    /// `|v| >= |w|`.
    ///
    /// The squares are summed as integers, in units of 2^-(124 - b) times the square of
    /// the power of two of the tensor's largest magnitude, `b` the bits of its number of
    /// elements; a square is truncated to these units. The sum is rounded to `f64`
    /// once, the square of the weight once, and their quotient once. A zero scores 0.
    ///
    /// Source: arXiv:2010.07611.
    Lamp,
    /// Uniformly random ones over all prunable tensors; zeros before others.
    ///
    /// Each coordinate's rank is drawn from a stream that its seed, tensor and tile
    /// name, so that the same seed prunes nested sets at growing sparsity.
    Random {
        /// Names the draw.
        seed: u64,
    },
}

/// How whole channels are spread over the tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelDistribution {
    /// The same fraction of the channels of each tensor.
    #[default]
    Uniform,
    /// Those of least norm over all prunable tensors.
    Global,
}

impl Target {
    /// The target of at most `n` retained weights in every group of `m`.
    ///
    /// # Errors
    /// [`PruneError::Pattern`] unless m is 2, 4, 8, 16 or 32 and n at least 1 and less
    /// than m.
    pub fn checked_pattern(n: u64, m: u64) -> Result<Self, PruneError> {
        if !GROUP_SIZES.contains(&m) || n == 0 || n >= m {
            return Err(PruneError::Pattern { n, m });
        }
        Ok(Self::Pattern(Pattern {
            n: n as u8,
            m: m as u8,
        }))
    }

    /// The amount, where the target has one.
    pub fn amount(&self) -> Option<Amount> {
        match *self {
            Self::Weights { amount, .. } | Self::Channels { amount, .. } => Some(amount),
            Self::Pattern(_) | Self::Given => None,
        }
    }

    /// Checks what the types leave open.
    pub(super) fn check(&self) -> Result<(), PruneError> {
        if let Some(amount) = self.amount() {
            amount.check()?;
        }
        if let Self::Pattern(pattern) = *self {
            Self::checked_pattern(pattern.n.into(), pattern.m.into())?;
        }
        Ok(())
    }
}
