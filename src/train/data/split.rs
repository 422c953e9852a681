//! Which images are trained on, which are held out, and in which order they come.

use crate::tensor::Stream;
use crate::train::data::DataError;

/// Share of the training images that is held out unless the user says otherwise.
pub const VALIDATION_FRACTION: f64 = 0.1;

/// Seed of the split unless the user says otherwise. It is not the seed of a run: models
/// that are trained with different seeds and then averaged must hold out the same
/// images.
pub const VALIDATION_SEED: u64 = 0;

/// Indices of the training images, parted in two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Images to train on, ascending.
    pub train: Vec<u32>,
    /// Images to choose by, never trained on and never augmented, ascending.
    pub validation: Vec<u32>,
}

impl Split {
    /// Holds out `round(samples * fraction)` of `samples` images (ties to even), drawn
    /// at random.
    ///
    /// # Errors
    /// [`DataError::Fraction`] unless `fraction` is in [0, 1) and leaves images to train
    /// on.
    pub fn of(samples: usize, fraction: f64, seed: u64) -> Result<Self, DataError> {
        let held_out = (samples as f64 * fraction).round_ties_even();
        let is_legal = (0.0..1.0).contains(&fraction) && held_out < samples as f64;
        let count = u32::try_from(samples).ok().filter(|_| is_legal);
        let Some(count) = count else {
            return Err(DataError::Fraction {
                found: fraction,
                samples: samples as u64,
            });
        };
        let mut order: Vec<u32> = (0..count).collect();
        Stream::named(seed, "validation", "split").shuffle(&mut order);
        let mut train = order.split_off(held_out as usize);
        train.sort_unstable();
        order.sort_unstable();
        Ok(Self {
            train,
            validation: order,
        })
    }
}

/// `indices` in the random order of one epoch.
pub fn epoch_order(seed: u64, epoch: u64, indices: &[u32]) -> Vec<u32> {
    let mut order = indices.to_vec();
    Stream::named(seed, "order", &format!("epoch {epoch}")).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_parts_all_images_once() {
        let check = |samples, fraction, held_out| {
            let split = Split::of(samples, fraction, 0).unwrap();
            assert_eq!(split.validation.len(), held_out);
            assert!(split.train.is_sorted() && split.validation.is_sorted());
            let mut all = [split.train, split.validation].concat();
            all.sort_unstable();
            assert_eq!(all, (0..samples as u32).collect::<Vec<_>>());
        };
        check(1437, 0.1, 144);
        check(60_000, VALIDATION_FRACTION, 6000);
        check(25, 0.1, 2);
        check(10, 0.0, 0);
        check(1, 0.4, 0);
    }

    #[test]
    fn a_split_depends_on_its_seed_alone() {
        let split = |seed| Split::of(100, 0.1, seed).unwrap();
        assert_eq!(split(0), split(0));
        assert_ne!(split(0), split(1));
        // What the first version drew: another split would mix held-out images into
        // the training of older recipes.
        assert_eq!(split(0).validation, [4, 29, 43, 54, 58, 62, 75, 79, 80, 84]);
    }

    #[test]
    fn fractions_that_leave_nothing_are_refused() {
        for (samples, fraction) in [(10, 1.0), (10, 0.99), (10, -0.1), (10, f64::NAN), (0, 0.1)] {
            let error = Split::of(samples, fraction, 0).unwrap_err();
            assert!(matches!(error, DataError::Fraction { .. }), "{fraction}");
        }
    }

    #[test]
    fn epochs_have_orders_of_their_own() {
        let indices: Vec<u32> = (100..200).collect();
        let first = epoch_order(1, 0, &indices);
        assert_eq!(first, epoch_order(1, 0, &indices));
        assert_ne!(first, epoch_order(1, 1, &indices));
        assert_ne!(first, epoch_order(2, 0, &indices));
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, indices);
        assert_ne!(first, indices);
    }
}
