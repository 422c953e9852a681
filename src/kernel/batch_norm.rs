//! Running statistics of batch norm, pooled until they are estimated again.

use crate::kernel::Input;
use crate::kernel::KernelError;
use crate::kernel::Weights;
use crate::kernel::check_lengths;
use crate::kernel::double::weighted_mean;
use crate::kernel::reference::store;
use crate::kernel::reference::value_at;
use crate::tensor::Dtype;

/// Variance of the mixture of the ingredients' activations: the mean of their
/// variances plus the variance of their means.
///
/// `out[j] = Σᵢ wᵢ·vᵢ[j] / d + Σ_{i<k} wᵢ·wₖ·(μᵢ[j] − μₖ[j])² / d²`, the first
/// term exactly and rounded to `f64`, the second in `f64`. Copies give themselves back,
/// because their means do not differ. The weights must be a convex combination.
///
/// Only a placeholder: no ingredient saw the activations of the soup.
///
/// # Errors
/// [`KernelError`] if a length or element type does not fit.
pub fn pooled_variance(
    out: &mut [u8],
    out_dtype: Dtype,
    variances: &[Input<'_>],
    means: &[Input<'_>],
    weights: &Weights,
) -> Result<(), KernelError> {
    let n = check_lengths(out, out_dtype, variances, weights, None)?;
    check_lengths(out, out_dtype, means, weights, None)?;
    let values = weights.factors();
    for j in 0..n {
        let mean = weighted_mean(
            variances.iter().map(|&input| value_at(input, j)),
            values,
            weights.wide_divisor(),
            |_| false,
        );
        let mut spread = 0.0;
        for (k, &later) in means.iter().enumerate() {
            for (i, &earlier) in means[..k].iter().enumerate() {
                let distance = value_at(earlier, j) - value_at(later, j);
                spread += values[i] * values[k] * distance * distance;
            }
        }
        store(
            out,
            out_dtype,
            j,
            mean + spread / (weights.divisor() * weights.divisor()),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(variances: &[f32], means: &[f32], weights: &Weights) -> f32 {
        let bytes = |values: &[f32]| {
            values
                .iter()
                .map(|value| value.to_le_bytes())
                .collect::<Vec<_>>()
        };
        let (variances, means) = (bytes(variances), bytes(means));
        fn input(bytes: &[u8]) -> Input<'_> {
            Input {
                bytes,
                dtype: Dtype::F32,
            }
        }
        let variances: Vec<Input<'_>> = variances.iter().map(|bytes| input(&bytes[..])).collect();
        let means: Vec<Input<'_>> = means.iter().map(|bytes| input(&bytes[..])).collect();
        let mut out = [0; 4];
        pooled_variance(&mut out, Dtype::F32, &variances, &means, weights).unwrap();
        f32::from_le_bytes(out)
    }

    #[test]
    fn mean_of_variances_plus_variance_of_means() {
        let uniform = Weights::uniform(2).unwrap();
        assert_eq!(pooled(&[1.0, 3.0], &[0.0, 4.0], &uniform), 2.0 + 4.0);
        let weighted =
            Weights::new(vec![3.0, 1.0], crate::kernel::Normalization::SumToOne).unwrap();
        assert_eq!(pooled(&[1.0, 5.0], &[0.0, 4.0], &weighted), 2.0 + 3.0);
    }

    #[test]
    fn copies_give_themselves_back() {
        let weights = Weights::uniform(7).unwrap();
        assert_eq!(pooled(&[0.1; 7], &[1e5; 7], &weights), 0.1);
    }
}
