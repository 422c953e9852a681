//! How much is pruned: a fraction walks in, an exact count walks out.

use serde::Deserialize;
use serde::Serialize;

use crate::prune::PruneError;

/// How much is pruned in all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// So that this fraction of the prunable weights is pruned in the end, whatever was
    /// pruned before.
    Sparsity(f64),
    /// This fraction of the weights that remain.
    OfRemaining(f64),
}

impl Amount {
    /// How many of `remaining` are pruned now, of `numel` in all.
    ///
    /// `n = round(p * remaining)`, the product rounded to `f64` and ties to even, as
    /// Python's `round(p * remaining)`. For a sparsity, `n` is what is missing to
    /// `round(sparsity * numel)`.
    ///
    /// # Errors
    /// [`PruneError::AlreadySparser`] for a sparsity that is passed already; `tensor`
    /// is what is said to be.
    pub fn count(
        self,
        tensor: Option<&str>,
        numel: u64,
        remaining: u64,
    ) -> Result<u64, PruneError> {
        match self {
            Self::OfRemaining(fraction) => Ok(part(fraction, remaining)),
            Self::Sparsity(fraction) => {
                let (pruned, allowed) = (numel - remaining, part(fraction, numel));
                allowed
                    .checked_sub(pruned)
                    .ok_or_else(|| PruneError::AlreadySparser {
                        tensor: tensor.map(str::to_owned),
                        numel,
                        pruned,
                        allowed,
                    })
            }
        }
    }

    /// Checks that the fraction is in [0, 1).
    ///
    /// # Errors
    /// [`PruneError::Fraction`] if it is not.
    pub fn check(self) -> Result<(), PruneError> {
        let (what, found) = match self {
            Self::Sparsity(found) => ("the sparsity", found),
            Self::OfRemaining(found) => ("the fraction of what remains", found),
        };
        check_fraction(what, found)
    }
}

/// Checks that a fraction is in [0, 1).
pub(super) fn check_fraction(what: &'static str, found: f64) -> Result<(), PruneError> {
    if (0.0..1.0).contains(&found) {
        Ok(())
    } else {
        Err(PruneError::Fraction { what, found })
    }
}

/// `round(fraction * whole)`, ties to even, at most `whole`.
fn part(fraction: f64, whole: u64) -> u64 {
    ((fraction * whole as f64).round_ties_even() as u64).min(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_python() {
        // From python 3.11: round(p * n).
        let check = |p, remaining, expected| {
            let count = Amount::OfRemaining(p).count(None, 1_000, remaining);
            assert_eq!(count.unwrap(), expected, "{p} of {remaining}");
        };
        check(0.5, 5, 2);
        check(0.5, 7, 4);
        check(0.9, 105, 94);
        check(0.35, 10, 4);
        check(0.25, 10, 2);
        check(0.1, 3, 0);
        check(0.999_999, 3, 3);
        check(0.0, 1_000, 0);
    }

    #[test]
    fn a_sparsity_counts_what_was_pruned_before() {
        let count = |remaining| Amount::Sparsity(0.9).count(Some("w"), 100, remaining);
        assert_eq!(count(100).unwrap(), 90);
        assert_eq!(count(30).unwrap(), 20);
        assert_eq!(count(10).unwrap(), 0);
        assert!(matches!(
            count(9).unwrap_err(),
            PruneError::AlreadySparser { tensor: Some(tensor), numel: 100, pruned: 91, allowed: 90 }
            if tensor == "w"
        ));
    }

    #[test]
    fn fractions_lie_below_one() {
        for legal in [0.0, 0.5, 0.999_999] {
            assert!(Amount::Sparsity(legal).check().is_ok());
        }
        for found in [1.0, -0.1, f64::NAN, f64::INFINITY, 90.0] {
            let error = Amount::OfRemaining(found).check().unwrap_err();
            assert!(matches!(error, PruneError::Fraction { .. }), "{found}");
        }
    }
}
