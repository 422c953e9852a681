//! Shapes: row-major dimensions whose element count is known to fit.

use std::fmt;

/// Dimensions of a tensor, outermost first (row-major); empty for a scalar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: Box<[u64]>,
    numel: u64,
}

impl Shape {
    /// A shape, or `None` if the product of its non-zero dimensions passes 2^63 - 1.
    ///
    /// Zero-sized dimensions are legal, but do not excuse the others:
    /// `[0, 2^63, 4]` is refused.
    pub fn new(dims: impl Into<Box<[u64]>>) -> Option<Self> {
        let dims = dims.into();
        let mut extent = 1_u64;
        for &dim in dims.iter().filter(|&&dim| dim != 0) {
            extent = extent.checked_mul(dim).filter(|&n| n < 1 << 63)?;
        }
        let numel = if dims.contains(&0) { 0 } else { extent };
        Some(Self { dims, numel })
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// Number of dimensions; 0 for a scalar.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn numel(&self) -> u64 {
        self.numel
    }

    /// Product of the dimensions after the second: the elements that share
    /// one (output, input) pair, such as the 9 of a 3x3 convolution kernel.
    /// 1 for a matrix; 1 where the rank is below 2.
    pub fn kernel_numel(&self) -> u64 {
        self.dims.iter().skip(2).product()
    }

    /// Coordinate of the element with the given row-major index.
    pub fn coordinate(&self, index: u64) -> Vec<u64> {
        let mut rest = index;
        let mut coordinate: Vec<u64> = self
            .dims
            .iter()
            .rev()
            .map(|&dim| {
                let dim = dim.max(1);
                let position = rest % dim;
                rest /= dim;
                position
            })
            .collect();
        coordinate.reverse();
        coordinate
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.dims.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_counts() {
        let check = |dims: &[u64], expected| {
            assert_eq!(
                Shape::new(dims).map(|shape| shape.numel()),
                expected,
                "{dims:?}"
            );
        };
        check(&[], Some(1));
        check(&[3, 4], Some(12));
        check(&[3, 0, 4], Some(0));
        check(&[0, 1 << 63, 4], None);
        check(&[1 << 32, 1 << 31], None);
        check(&[1 << 32, 1 << 30], Some(1 << 62));
    }

    #[test]
    fn coordinates_are_row_major() {
        let shape = Shape::new([2, 3, 4]).unwrap();
        assert_eq!(shape.coordinate(0), [0, 0, 0]);
        assert_eq!(shape.coordinate(23), [1, 2, 3]);
        assert_eq!(shape.coordinate(17), [1, 1, 1]);
        assert_eq!(Shape::new([]).unwrap().coordinate(0), Vec::<u64>::new());
    }
}
