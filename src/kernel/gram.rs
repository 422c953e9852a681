//! Inner products of all pairs of ingredients, summed in one fixed order.

use super::PIECE;

/// Lanes of a piece's partial sums.
pub(super) const LANES: usize = 8;

/// Inner products `<x_i, x_k>` of ingredients over retained coordinates.
///
/// Within a piece of [`PIECE`] elements, the r-th retained coordinate adds to
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
        let mut at = 0;
        for high in 0..self.n_ingredients {
            for low in 0..=high {
                self.products[at] += piece_product(columns(high), columns(low));
                at += 1;
            }
        }
    }
}

#[inline(always)]
fn piece_product(a: &[f64], b: &[f64]) -> f64 {
    debug_assert!(a.len() == b.len() && a.len() <= PIECE);
    let mut lanes = [0.0; LANES];
    let (a_groups, a_rest) = a.as_chunks::<LANES>();
    let (b_groups, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_groups.iter().zip(b_groups) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    add_lanes(&lanes)
}

/// The sum of the lanes. Not inlined: seeing this order of additions, the compiler
/// keeps the lanes in pairs all along, and the loop in vectors of two.
#[inline(never)]
fn add_lanes(&[l0, l1, l2, l3, l4, l5, l6, l7]: &[f64; LANES]) -> f64 {
    ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))
}
