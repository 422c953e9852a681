//! A product of two factors cut to a lower rank.

use crate::adapter::factor::Factor;
use crate::adapter::orthogonal::dot;
use crate::adapter::orthogonal::orthogonal;
use crate::adapter::orthogonal::singular;

/// The best approximation of a product by one of a lower rank.
#[derive(Clone, Debug)]
pub struct Truncated {
    /// The factor that is applied first, `(rank, in)`.
    pub down: Factor,
    /// The factor that is applied second, `(out, rank)`.
    pub up: Factor,
    /// Frobenius norm of the product.
    pub norm: f64,
}

/// The product `up * down` cut to `rank`: no matrix of that rank is nearer to it in the
/// Frobenius norm. Both factors get the roots of the singular values.
///
/// `up = L' Q` and `down = M R` with orthonormal rows `Q'` and `R`, so that the singular
/// values are those of the small matrix `L' M`. In `f64`, in one order. Where the
/// product has fewer singular values than `rank`, the rest are zero.
///
/// Source: Eckart and Young, "The approximation of one matrix by another of lower rank",
/// 1936.
pub fn truncate(up: &Factor, down: &Factor, rank: usize) -> Truncated {
    let up = orthogonal(up.transposed());
    let down = orthogonal(down.clone());
    let found = singular(core(&up.coefficients, &down.coefficients));
    let mut out = Truncated {
        down: Factor::zeros(rank, down.basis.columns),
        up: Factor::zeros(rank, up.basis.columns),
        norm: dot(&found.values, &found.values).sqrt(),
    };
    let kept = found.values.iter().take(rank).enumerate();
    for (k, &value) in kept.filter(|(_, value)| **value > 0.0) {
        let root = value.sqrt();
        combine(&mut out.up, k, root, found.left.row(k), &up.basis);
        combine(&mut out.down, k, root, found.right.row(k), &down.basis);
    }
    out.up = out.up.transposed();
    out
}

/// Frobenius norm of `up * down`, found without making the product.
pub fn product_norm(up: &Factor, down: &Factor) -> f64 {
    let up = orthogonal(up.transposed());
    let down = orthogonal(down.clone());
    let core = core(&up.coefficients, &down.coefficients);
    dot(&core.values, &core.values).sqrt()
}

/// The product of two factors in the bases of their columns and rows: `L' M`.
fn core(up: &Factor, down: &Factor) -> Factor {
    let (up, down) = (up.transposed(), down.transposed());
    let mut core = Factor::zeros(up.rows, down.rows);
    for i in 0..up.rows {
        for j in 0..down.rows {
            core.values[i * down.rows + j] = dot(up.row(i), down.row(j));
        }
    }
    core
}

/// Row `k` of `out` becomes `root` times a combination of the rows of a basis.
fn combine(out: &mut Factor, k: usize, root: f64, coefficients: &[f64], basis: &Factor) {
    let width = out.columns;
    let out = &mut out.values[k * width..(k + 1) * width];
    for (index, &coefficient) in coefficients.iter().enumerate() {
        let row = basis.row(index).iter();
        out.iter_mut()
            .zip(row)
            .for_each(|(out, value)| *out += root * coefficient * value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factor(rows: usize, columns: usize, values: &[f64]) -> Factor {
        Factor {
            rows,
            columns,
            values: values.to_vec(),
        }
    }

    fn product(up: &Factor, down: &Factor) -> Vec<f64> {
        let mut out = vec![0.0; up.rows * down.columns];
        for i in 0..up.rows {
            for k in 0..up.columns {
                for j in 0..down.columns {
                    out[i * down.columns + j] += up.row(i)[k] * down.row(k)[j];
                }
            }
        }
        out
    }

    #[test]
    fn the_largest_parts_of_a_product_stay() {
        // 5 e1 e1' + 2 e2 e2' + 1 e3 e3', in a stack with a copy of one part.
        let up = factor(
            3,
            4,
            &[3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        );
        let down = factor(
            4,
            3,
            &[1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        );
        let cut = truncate(&up, &down, 2);
        assert!((cut.norm - 30.0_f64.sqrt()).abs() < 1e-14);
        let expected = [5.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];
        for (found, expected) in product(&cut.up, &cut.down).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-14);
        }
        assert!((product_norm(&up, &down) - cut.norm).abs() < 1e-14);
        let whole = truncate(&up, &down, 5);
        assert_eq!((whole.up.columns, whole.down.rows), (5, 5));
        for (found, expected) in product(&whole.up, &whole.down)
            .iter()
            .zip(product(&up, &down))
        {
            assert!((found - expected).abs() < 1e-14);
        }
    }
}
