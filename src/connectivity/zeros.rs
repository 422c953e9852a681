//! Zeros that are no mask: what they look like where masks differ.
//!
//! Mask words of the participants walk in, tile by tile; counts walk out, and what they
//! say. Layers that were never trained, rows of added tokens and values too small for F16
//! leave zeros in one network and not in another, and nobody pruned anything.

use crate::tensor::Shape;

/// Fewest elements of a row or column: shorter ones are zero by chance.
const SHORTEST_RUN: u64 = 8;

/// Share of all zeros that must lie in whole rows, or in whole columns.
const RUN_SHARE: f64 = 0.99;

/// Share of the differing elements whose values must be tiny.
const TINY_SHARE: f64 = 0.9;

/// Values below this are what F16 makes of weights that it can hardly hold: its smallest
/// number is 2^-24. Source: IEEE 754-2019, binary16.
pub(crate) const TINY: f64 = 1.0 / (1 << 20) as f64;

/// Share of a tensor that an ingredient retains which has not pruned it.
const DENSE_SHARE: f64 = 0.99;

/// Why zeros of a tensor that only some participants have may be no mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCause {
    /// Some participants have nothing but zeros, and the others next to none: a layer that
    /// begins at zero and was not trained.
    Whole,
    /// They fill whole rows: those of tokens that were added, or of a class without data.
    Rows,
    /// They fill whole columns: those of inputs that were added.
    Columns,
    /// The others have values there that F16 can hardly hold.
    Underflow,
    /// It is the only tensor of several that differs.
    Lone,
}

/// What was counted of zeros in tiles in which masks differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZeroTally {
    /// Zeros of all participants.
    pub zeros: u64,
    /// Those in rows that a participant has zero throughout.
    pub in_rows: u64,
    /// Those in columns that a participant has zero throughout.
    pub in_columns: u64,
    /// Elements that only some participants retain.
    pub disputed: u64,
    /// Those of them that are tiny in all participants that retain them.
    pub tiny: u64,
}

impl ZeroTally {
    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.zeros += other.zeros;
        self.in_rows += other.in_rows;
        self.in_columns += other.in_columns;
        self.disputed += other.disputed;
        self.tiny += other.tiny;
    }

    /// Counts the zeros of one participant in a tile of `n_elements`, of which the first has
    /// the row-major index `begin`. `words` are its mask.
    pub fn add_words(&mut self, words: &[u64], begin: u64, n_elements: u64, shape: &Shape) {
        let retained: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
        self.zeros += n_elements - retained.min(n_elements);
        let Some(row) = row_of(shape).filter(|_| n_elements > 0) else {
            return;
        };
        let kernel = shape.kernel_numel();
        let mut is_used = vec![false; (row / kernel) as usize];
        let mut at = begin;
        while at < begin + n_elements {
            let end = ((at / row + 1) * row).min(begin + n_elements);
            let (from, to) = (at - begin, end - begin);
            let mut is_zero = true;
            for element in set_bits(words, from, to) {
                is_zero = false;
                let column = (at % row + (element - from)) / kernel;
                is_used[column as usize] = true;
            }
            if is_zero {
                self.in_rows += to - from;
            }
            at = end;
        }
        // Of fewer rows, columns are zero by chance.
        if n_elements >= SHORTEST_RUN * row {
            let end = begin + n_elements;
            for column in (0..row / kernel).filter(|&column| !is_used[column as usize]) {
                // Its elements before that one.
                let before = |element: u64| {
                    let rest = (element % row).saturating_sub(column * kernel);
                    element / row * kernel + rest.min(kernel)
                };
                self.in_columns += before(end) - before(begin);
            }
        }
    }

    /// What the zeros look like, given what each participant retains.
    pub(super) fn cause(&self, retained_by: &[u64], shape: &Shape) -> Option<ZeroCause> {
        let numel = shape.numel();
        let is_dense = |retained: u64| retained as f64 >= DENSE_SHARE * numel as f64;
        let is_empty = retained_by.contains(&0);
        if is_empty && retained_by.iter().all(|&by| by == 0 || is_dense(by)) {
            return Some(ZeroCause::Whole);
        }
        let is_most =
            |part: u64, all: u64, share: f64| all > 0 && part as f64 >= share * all as f64;
        let is_long = row_of(shape).is_some_and(|row| row >= SHORTEST_RUN);
        if is_long && is_most(self.in_rows, self.zeros, RUN_SHARE) {
            Some(ZeroCause::Rows)
        } else if is_most(self.in_columns, self.zeros, RUN_SHARE) {
            Some(ZeroCause::Columns)
        } else if is_most(self.tiny, self.disputed, TINY_SHARE) {
            Some(ZeroCause::Underflow)
        } else {
            None
        }
    }
}

/// Elements of a row of a tensor that has rows and columns.
fn row_of(shape: &Shape) -> Option<u64> {
    let &rows = shape.dims().first()?;
    let has_columns = shape.rank() >= 2 && shape.numel() > 0;
    has_columns.then(|| shape.numel() / rows)
}

/// Positions of the set bits from `from` to before `to`.
fn set_bits(words: &[u64], from: u64, to: u64) -> impl Iterator<Item = u64> + '_ {
    let first = from / 64;
    let last = to.div_ceil(64).min(words.len() as u64);
    (first..last).flat_map(move |index| {
        let mut word = words[index as usize];
        if index == first {
            word &= u64::MAX << (from % 64);
        }
        let end = to - index * 64;
        if end < 64 {
            word &= (1 << end) - 1;
        }
        std::iter::from_fn(move || {
            let bit = (word != 0).then(|| word.trailing_zeros())?;
            word &= word - 1;
            Some(index * 64 + u64::from(bit))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mask of `shape` that retains what `is_retained` says of each row and column.
    fn words(shape: &Shape, is_retained: impl Fn(u64, u64) -> bool) -> Vec<u64> {
        let (row, kernel) = (row_of(shape).unwrap(), shape.kernel_numel());
        let mut words = vec![0; shape.numel().div_ceil(64) as usize];
        for element in 0..shape.numel() {
            if is_retained(element / row, element % row / kernel) {
                words[(element / 64) as usize] |= 1 << (element % 64);
            }
        }
        words
    }

    fn check(dims: &[u64], masks: [&dyn Fn(u64, u64) -> bool; 2], expected: Option<ZeroCause>) {
        let shape = Shape::new(dims).unwrap();
        let mut tally = ZeroTally::default();
        let mut retained_by = Vec::new();
        for mask in masks {
            let words = words(&shape, mask);
            retained_by.push(words.iter().map(|word| u64::from(word.count_ones())).sum());
            // In two tiles, as a longer tensor is.
            let half = shape.numel().div_ceil(128) * 64;
            let (first, second) = words.split_at((half / 64) as usize);
            let shape = &shape;
            let rest = shape.numel().saturating_sub(half);
            tally.add_words(first, 0, half.min(shape.numel()), shape);
            tally.add_words(second, half, rest, shape);
        }
        assert_eq!(tally.cause(&retained_by, &shape), expected, "{dims:?}");
    }

    #[test]
    fn whole_tensors_rows_and_columns() {
        let all = |_, _| true;
        let none = |_, _| false;
        let scattered = |row: u64, column: u64| (row * 31 + column * 17).is_multiple_of(10);
        check(&[32, 32], [&all, &none], Some(ZeroCause::Whole));
        check(&[32, 32, 1, 1], [&none, &all], Some(ZeroCause::Whole));
        // The others are pruned: an ingredient that lost the layer.
        check(&[64, 64], [&scattered, &none], None);
        check(&[50, 24], [&all, &|row, _| row < 45], Some(ZeroCause::Rows));
        check(
            &[40, 9, 3, 3],
            [&all, &|_, column| column < 4],
            Some(ZeroCause::Columns),
        );
        check(&[64, 64], [&all, &scattered], None);
        check(
            &[64, 64],
            [&scattered, &|row, column| !scattered(row, column)],
            None,
        );
        // Rows of one element, and columns of few, are no sign of anything.
        check(&[64, 1], [&all, &|row, _| row.is_multiple_of(3)], None);
        check(
            &[4, 64],
            [&all, &|row, column| (row + column).is_multiple_of(3)],
            None,
        );
    }

    #[test]
    fn tiny_values() {
        let shape = Shape::new([8, 8]).unwrap();
        let tally = |tiny| ZeroTally {
            zeros: 30,
            disputed: 10,
            tiny,
            ..ZeroTally::default()
        };
        assert_eq!(
            tally(9).cause(&[50, 48], &shape),
            Some(ZeroCause::Underflow)
        );
        assert_eq!(tally(8).cause(&[50, 48], &shape), None);
        assert_eq!(ZeroTally::default().cause(&[50, 48], &shape), None);
    }
}
