//! What an adapter adds to the elements of one weight.

use crate::adapter::error::AdapterError;
use crate::adapter::factor::Factor;
use crate::adapter::factor::NonFinite;
use crate::adapter::pairs::Module;
use crate::adapter::target::Change;
use crate::checkpoint::Checkpoint;

/// A product that is added to a weight of `rows` by `columns`.
#[derive(Clone, Debug)]
pub struct Product {
    left: Factor,
    right: Factor,
    scale: f64,
}

/// What becomes of a weight.
#[derive(Clone, Debug)]
pub enum Delta {
    /// A product is added.
    Product(Product),
    /// It goes so far towards other values: 1 is all the way.
    Toward {
        /// The other values.
        values: Vec<f64>,
        /// How far.
        scale: f64,
    },
    /// What a second factor adds, once per output, is added.
    Bias {
        /// What is added.
        values: Vec<f64>,
        /// What it is multiplied by.
        scale: f64,
    },
}

impl Delta {
    /// Reads what `change` needs of an adapter. `scale` multiplies the adapter's own.
    ///
    /// # Errors
    /// [`AdapterError`] if it cannot be read or holds what is not finite.
    pub fn read(
        adapter: &Checkpoint,
        change: &Change<'_>,
        scale: f64,
    ) -> Result<Self, AdapterError> {
        let read = |index: usize| {
            let tensor = &adapter.tensors()[index];
            Factor::read(adapter, tensor, NonFinite::Refused)
        };
        let scaled = |module: &Module| scale * module.alpha / module.divisor;
        match *change {
            Change::Product {
                module,
                is_transposed,
                ..
            } => {
                let (down, up) = (read(module.down)?, read(module.up)?);
                let (left, right) = match is_transposed {
                    false => (up, down),
                    true => (down.transposed(), up.transposed()),
                };
                Ok(Self::Product(Product {
                    left,
                    right,
                    scale: scaled(module),
                }))
            }
            Change::Bias { module, tensor } => Ok(Self::Bias {
                values: read(tensor)?.values,
                scale: scaled(module),
            }),
            Change::Replaced { tensor } => Ok(Self::Toward {
                values: read(tensor)?.values,
                scale,
            }),
        }
    }

    /// Puts what is added to the elements from `begin` on into `added`, and the changed
    /// elements into `values`, which holds the old ones.
    ///
    /// A product's element is the sum over the ranks in their order, times the scale; it
    /// is added to the old element, all in `f64`.
    pub fn apply(&self, begin: usize, values: &mut [f64], added: &mut [f64]) {
        match self {
            Self::Product(product) => product.fill(begin, added),
            Self::Bias {
                values: bias,
                scale,
            } => {
                let bias = bias[begin..].iter();
                added
                    .iter_mut()
                    .zip(bias)
                    .for_each(|(to, value)| *to = scale * value);
            }
            Self::Toward {
                values: other,
                scale,
            } => {
                let elements = values.iter_mut().zip(added).zip(&other[begin..]);
                for ((value, added), &other) in elements {
                    *added = scale * (other - *value);
                    *value = match *scale {
                        1.0 => other,
                        _ => *value + *added,
                    };
                }
                return;
            }
        }
        values
            .iter_mut()
            .zip(added)
            .for_each(|(value, added)| *value += *added);
    }
}

impl Product {
    fn fill(&self, begin: usize, out: &mut [f64]) {
        out.fill(0.0);
        let columns = self.right.columns.max(1);
        let (mut at, end) = (begin, begin + out.len());
        while at < end {
            let (row, column) = (at / columns, at % columns);
            let count = (columns - column).min(end - at);
            let out = &mut out[at - begin..at - begin + count];
            for (k, left) in self.left.row(row).iter().enumerate() {
                let right = &self.right.row(k)[column..column + count];
                out.iter_mut()
                    .zip(right)
                    .for_each(|(out, right)| *out += left * right);
            }
            out.iter_mut().for_each(|value| *value *= self.scale);
            at += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_added_from_any_place() {
        let factor = |rows, columns, values: &[f64]| Factor {
            rows,
            columns,
            values: values.to_vec(),
        };
        let delta = Delta::Product(Product {
            left: factor(2, 2, &[1.0, 2.0, 3.0, 4.0]),
            right: factor(2, 3, &[1.0, 0.0, -1.0, 0.5, 1.0, 2.0]),
            scale: 2.0,
        });
        let whole = [4.0, 4.0, 6.0, 10.0, 8.0, 10.0];
        for begin in 0..6 {
            for end in begin..6 {
                let mut values = vec![1.0; end - begin];
                let mut added = vec![0.0; end - begin];
                delta.apply(begin, &mut values, &mut added);
                assert_eq!(added, whole[begin..end]);
                assert!(
                    values
                        .iter()
                        .zip(&added)
                        .all(|(value, added)| *value == 1.0 + added)
                );
            }
        }
    }

    #[test]
    fn other_values_are_taken_whole_or_in_part() {
        let mut values = [1e20, 2.0];
        let mut added = [0.0; 2];
        let toward = |scale| Delta::Toward {
            values: vec![9.0, 1.0, 4.0],
            scale,
        };
        toward(1.0).apply(1, &mut values, &mut added);
        assert_eq!((values, added[1]), ([1.0, 4.0], 2.0));
        toward(0.5).apply(1, &mut values, &mut added);
        assert_eq!(values, [1.0, 4.0]);
        values = [3.0, 0.0];
        toward(0.5).apply(1, &mut values, &mut added);
        assert_eq!((values, added), ([2.0, 2.0], [-1.0, 2.0]));
    }
}
