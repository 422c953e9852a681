//! Inner products of all pairs of ingredients, summed in one fixed order.

/// Lanes of a piece's partial sums.
pub(super) const LANES: usize = 8;

/// Inner products `<x_i, x_k>` of ingredients over retained coordinates.
///
/// Within a piece of [`PIECE`](super::PIECE) elements, the r-th retained coordinate adds to
/// lane `r % 8`; lanes are added as `((0+4)+(2+6)) + ((1+5)+(3+7))`, and pieces in
/// order. The order is part of the definition, so that every backend reports the
/// same distances.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    n_ingredients: usize,
    products: Vec<f64>,
}

impl Gram {
    /// All zero, for `n_ingredients`.
    pub fn zero(n_ingredients: usize) -> Self {
        Self {
            n_ingredients,
            products: vec![0.0; n_ingredients * (n_ingredients + 1) / 2],
        }
    }

    /// From the products of the pairs (i, k), k <= i, row by row.
    pub(super) fn from_products(n_ingredients: usize, products: Vec<f64>) -> Self {
        debug_assert_eq!(products.len(), n_ingredients * (n_ingredients + 1) / 2);
        Self {
            n_ingredients,
            products,
        }
    }

    /// `<x_i, x_k>`; symmetric.
    pub fn get(&self, i: usize, k: usize) -> f64 {
        let (low, high) = (i.min(k), i.max(k));
        self.products[high * (high + 1) / 2 + low]
    }

    /// Number of ingredients.
    pub fn n_ingredients(&self) -> usize {
        self.n_ingredients
    }

    /// Adds the products of a later stretch of coordinates.
    pub fn add(&mut self, later: &Self) {
        for (sum, product) in self.products.iter_mut().zip(&later.products) {
            *sum += product;
        }
    }

    /// Adds one piece; `columns(i)` are the retained values of ingredient `i`.
    #[inline(always)]
    pub(super) fn add_piece<'a>(&mut self, columns: impl Fn(usize) -> &'a [f64]) {
        let mut sums = PieceSums::new(self);
        sums.add(columns);
        self.add_sums(&sums);
    }

    /// Adds a piece of which all stretches have been seen.
    pub(super) fn add_sums(&mut self, sums: &PieceSums) {
        for (product, lanes) in self.products.iter_mut().zip(&sums.lanes) {
            *product += add_lanes(lanes);
        }
    }
}

/// Sums of one piece, stretch by stretch: in lanes that are not added yet.
pub(super) struct PieceSums {
    n_ingredients: usize,
    lanes: Vec<[f64; LANES]>,
}

impl PieceSums {
    pub(super) fn new(gram: &Gram) -> Self {
        Self {
            n_ingredients: gram.n_ingredients,
            lanes: vec![[0.0; LANES]; gram.products.len()],
        }
    }

    /// Adds a stretch of the piece. All but the last must be multiples of the lanes.
    #[inline(always)]
    pub(super) fn add<'a>(&mut self, columns: impl Fn(usize) -> &'a [f64]) {
        let mut later = self.lanes.as_mut_slice();
        for high in 0..self.n_ingredients {
            // With several partners at once: one sum alone would wait for itself.
            let (row, others) = later.split_at_mut(high + 1);
            later = others;
            let (fours, rest) = row.as_chunks_mut::<4>();
            let (twos, ones) = rest.as_chunks_mut::<2>();
            let mut low = 0;
            for lanes in fours {
                add_products(lanes, columns(high), |k| columns(low + k));
                low += 4;
            }
            for lanes in twos {
                add_products(lanes, columns(high), |k| columns(low + k));
                low += 2;
            }
            for lanes in ones {
                add_products(std::array::from_mut(lanes), columns(high), |_| columns(low));
            }
        }
    }
}

/// Adds the products of `a` with each of `N` columns to the lanes of each.
#[inline(always)]
fn add_products<'a, const N: usize>(
    all_lanes: &mut [[f64; LANES]; N],
    a: &[f64],
    b: impl Fn(usize) -> &'a [f64],
) {
    let b: [&[f64]; N] = std::array::from_fn(|k| &b(k)[..a.len()]);
    let (a_groups, a_rest) = a.as_chunks::<LANES>();
    let b_groups = b.map(|b| b.as_chunks::<LANES>().0);
    let mut sums = *all_lanes;
    for (index, a) in a_groups.iter().enumerate() {
        for (lanes, b) in sums.iter_mut().zip(b_groups) {
            let b = &b[index];
            let products: [f64; LANES] = std::array::from_fn(|lane| a[lane] * b[lane]);
            *lanes = std::array::from_fn(|lane| lanes[lane] + products[lane]);
        }
    }
    let done = a.len() - a_rest.len();
    for (lanes, b) in sums.iter_mut().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(&b[done..]) {
            *lane += a * b;
        }
    }
    *all_lanes = sums;
}

/// The sum of the lanes. Not inlined: seeing this order of additions, the compiler
/// keeps the lanes in pairs all along, and the loop in vectors of two.
#[inline(never)]
fn add_lanes(&[l0, l1, l2, l3, l4, l5, l6, l7]: &[f64; LANES]) -> f64 {
    ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::PIECE;

    /// The definition, one pair and one coordinate at a time.
    fn product(a: &[f64], b: &[f64]) -> f64 {
        let mut lanes = [0.0; LANES];
        for (index, (a, b)) in a.iter().zip(b).enumerate() {
            lanes[index % LANES] += a * b;
        }
        add_lanes(&lanes)
    }

    #[test]
    fn products_are_summed_as_the_definition_says() {
        for n_ingredients in 0..=9 {
            for len in [0, 1, 7, 8, 9, 255, 256, 257, 300, 1027, PIECE] {
                let value = |i: usize, at: usize| ((i * 7919 + at * 104_729) % 1009) as f64 / 7.0;
                let column = |i| (0..len).map(|at| value(i, at) - 70.0).collect();
                let columns: Vec<Vec<f64>> = (0..n_ingredients).map(column).collect();
                let mut gram = Gram::zero(n_ingredients);
                let mut sums = PieceSums::new(&gram);
                for begin in (0..len).step_by(24) {
                    sums.add(|i| &columns[i][begin..len.min(begin + 24)]);
                }
                gram.add_sums(&sums);
                gram.add_piece(|i| &columns[i][..len / 3]);
                for i in 0..n_ingredients {
                    for k in 0..=i {
                        let (a, b) = (&columns[i], &columns[k]);
                        let expected = product(a, b) + product(&a[..len / 3], &b[..len / 3]);
                        let found = gram.get(i, k);
                        assert_eq!(found.to_bits(), expected.to_bits(), "{len}: {i}, {k}");
                    }
                }
            }
        }
    }
}
