//! Dense linear algebra on small matrices: orthonormal columns, and singular values.
//!
//! All sums run in one order, so that results are the same whoever computes them.

use crate::adapter::factor::Factor;

/// Partial sums of a dot product, added in a fixed order.
const LANES: usize = 8;

/// Most sweeps over all pairs of columns: convergence takes about ten.
const MOST_SWEEPS: usize = 64;

/// The sum of products of two slices of one length.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}

/// `to += factor * from`.
fn add_scaled(to: &mut [f64], factor: f64, from: &[f64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

/// Rows of one matrix as combinations of orthonormal rows: `rows = coefficients * basis`.
pub(super) struct Orthogonal {
    /// Orthonormal rows; a row is zero where the matrix's row depends on those before.
    pub(super) basis: Factor,
    /// Lower triangular.
    pub(super) coefficients: Factor,
}

/// Splits a matrix by the modified Gram-Schmidt process, each row being made orthogonal
/// twice: once more than that changes nothing in working precision.
///
/// Source: Giraud, Langou, Rozložník, "The loss of orthogonality in the Gram-Schmidt
/// orthogonalization process", 2005.
pub(super) fn orthogonal(mut matrix: Factor) -> Orthogonal {
    let n_rows = matrix.rows;
    let width = matrix.columns;
    let mut coefficients = Factor::zeros(n_rows, n_rows);
    for i in 0..n_rows {
        let (done, rest) = matrix.values.split_at_mut(i * width);
        let row = &mut rest[..width];
        let before = dot(row, row).sqrt();
        for _ in 0..2 {
            for (j, basis) in done.chunks_exact(width.max(1)).enumerate() {
                let along = dot(row, basis);
                coefficients.values[i * n_rows + j] += along;
                add_scaled(row, -along, basis);
            }
        }
        // What is left of a dependent row is rounding.
        let left = dot(row, row).sqrt();
        if left > before * f64::EPSILON * 16.0 {
            coefficients.values[i * n_rows + i] = left;
            row.iter_mut().for_each(|value| *value /= left);
        } else {
            row.fill(0.0);
        }
    }
    Orthogonal {
        basis: matrix,
        coefficients,
    }
}

/// The singular values of a matrix, from the largest, with their vectors as rows.
pub(super) struct Singular {
    pub(super) values: Vec<f64>,
    /// Rows of the left vectors.
    pub(super) left: Factor,
    /// Rows of the right vectors.
    pub(super) right: Factor,
}

/// The singular value decomposition of a matrix by one-sided Jacobi rotations: its rows
/// are rotated until they are orthogonal.
///
/// Source: Hestenes, "Inversion of matrices by biorthogonalization and related results",
/// 1958; the rotation as in Golub and Van Loan, "Matrix Computations", 8.6.3.
pub(super) fn singular(mut matrix: Factor) -> Singular {
    let (n_rows, width) = (matrix.rows, matrix.columns);
    let mut rotations = Factor::zeros(n_rows, n_rows);
    (0..n_rows).for_each(|i| rotations.values[i * n_rows + i] = 1.0);
    for _ in 0..MOST_SWEEPS {
        let mut is_done = true;
        for p in 0..n_rows {
            for q in p + 1..n_rows {
                let rotation = rotation(matrix.row(p), matrix.row(q));
                let Some((cosine, sine)) = rotation else {
                    continue;
                };
                is_done = false;
                rotate(&mut matrix, (p, q), cosine, sine);
                rotate(&mut rotations, (p, q), cosine, sine);
            }
        }
        if is_done {
            break;
        }
    }

    // Largest first; of equal ones the first.
    let norms: Vec<f64> = (0..n_rows)
        .map(|i| dot(matrix.row(i), matrix.row(i)).sqrt())
        .collect();
    let mut order: Vec<usize> = (0..n_rows).collect();
    order.sort_by(|&a, &b| norms[b].total_cmp(&norms[a]).then(a.cmp(&b)));
    let mut found = Singular {
        values: order.iter().map(|&i| norms[i]).collect(),
        left: Factor::zeros(n_rows, n_rows),
        right: Factor::zeros(n_rows, width),
    };
    for (to, &i) in order.iter().enumerate() {
        let left = &mut found.left.values[to * n_rows..(to + 1) * n_rows];
        left.copy_from_slice(rotations.row(i));
        if norms[i] > 0.0 {
            let right = &mut found.right.values[to * width..(to + 1) * width];
            let from = matrix.row(i).iter();
            right
                .iter_mut()
                .zip(from)
                .for_each(|(to, from)| *to = from / norms[i]);
        }
    }
    found
}

/// Cosine and sine of the rotation that makes two rows orthogonal, or `None` if they are.
fn rotation(p: &[f64], q: &[f64]) -> Option<(f64, f64)> {
    let (alpha, beta, gamma) = (dot(p, p), dot(q, q), dot(p, q));
    if gamma == 0.0 || gamma.abs() <= f64::EPSILON * (alpha * beta).sqrt() {
        return None;
    }
    let zeta = (beta - alpha) / (2.0 * gamma);
    let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    Some((cosine, cosine * tangent))
}

/// Rotates rows `p < q`.
fn rotate(matrix: &mut Factor, (p, q): (usize, usize), cosine: f64, sine: f64) {
    let width = matrix.columns;
    let (before, after) = matrix.values.split_at_mut(q * width);
    let (p, q) = (&mut before[p * width..(p + 1) * width], &mut after[..width]);
    for (p, q) in p.iter_mut().zip(q) {
        (*p, *q) = (cosine * *p - sine * *q, sine * *p + cosine * *q);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of numbers between -1 and 1 that a short recurrence gives.
    fn matrix(rows: usize, columns: usize, seed: u64) -> Factor {
        let mut state = seed;
        let mut out = Factor::zeros(rows, columns);
        for value in &mut out.values {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *value = (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
        }
        out
    }

    fn check_orthonormal(rows: &Factor, n_rows: usize) {
        for i in 0..n_rows {
            for j in 0..=i {
                let expected = f64::from(u8::from(i == j));
                let found = dot(rows.row(i), rows.row(j));
                assert!((found - expected).abs() < 1e-13, "{i} {j}: {found}");
            }
        }
    }

    #[test]
    fn rows_are_combinations_of_orthonormal_ones() {
        let given = matrix(7, 40, 1);
        let found = orthogonal(given.clone());
        check_orthonormal(&found.basis, 7);
        for i in 0..7 {
            for j in 0..40 {
                let column: f64 = (0..7)
                    .map(|k| found.coefficients.row(i)[k] * found.basis.row(k)[j])
                    .sum();
                assert!((column - given.row(i)[j]).abs() < 1e-13);
            }
        }
    }

    #[test]
    fn a_dependent_row_has_no_direction() {
        let mut given = matrix(3, 10, 2);
        for j in 0..10 {
            given.values[20 + j] = 2.0 * given.values[j] - given.values[10 + j];
        }
        let found = orthogonal(given);
        assert!(found.basis.row(2).iter().all(|&value| value == 0.0));
        assert!((found.coefficients.row(2)[0]).abs() > 0.1);
    }

    #[test]
    fn singular_values_are_those_of_numpy() {
        // numpy 2.4.6: numpy.linalg.svd([[3, 1, 0], [1, 2, -1], [0, 4, 5], [2, 2, 2]])
        let given = Factor {
            rows: 4,
            columns: 3,
            values: vec![3.0, 1.0, 0.0, 1.0, 2.0, -1.0, 0.0, 4.0, 5.0, 2.0, 2.0, 2.0],
        };
        let found = singular(given.clone());
        let expected = [
            7.174_499_667_896_674,
            3.808_312_012_232_591,
            1.738_767_992_814_297_8,
            0.0,
        ];
        for (found, expected) in found.values.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        check_orthonormal(&found.left, 4);
        check_orthonormal(&found.right, 3);
        for i in 0..4 {
            for j in 0..3 {
                let value: f64 = (0..3)
                    .map(|k| found.left.row(k)[i] * found.values[k] * found.right.row(k)[j])
                    .sum();
                assert!((value - given.row(i)[j]).abs() < 1e-13);
            }
        }
    }
}
