//! n:m patterns: the keys of a tile walk in, what is retained walks out.

use crate::connectivity::Pattern;
use crate::prune::PruneError;
use crate::prune::score::EXCLUDED;
use crate::prune::subject::Subject;

/// Largest kernel (elements per output-input pair) whose groups lie in one tile.
const LARGEST_KERNEL: u64 = 1024;

/// Clears the bits of what the pattern prunes of a tile that holds whole groups.
///
/// In each group of `m` coordinates that lie `kernel` apart, the smallest are pruned
/// until `n` are left; of equal ones, the first. What is excluded is pruned already.
pub(super) fn prune_groups(keys: &[u64], kernel: usize, pattern: Pattern, retained: &mut [u64]) {
    let (n, m) = (usize::from(pattern.n), usize::from(pattern.m));
    let block = m * kernel;
    let mut group = [(0_u64, 0_usize); 32];
    for start in (0..keys.len() / block * block).step_by(block) {
        for position in start..start + kernel {
            let mut count = 0;
            for index in (position..start + block).step_by(kernel) {
                if keys[index] != EXCLUDED {
                    group[count] = (keys[index], index);
                    count += 1;
                }
            }
            let group = &mut group[..count];
            group.sort_unstable();
            for &(_, index) in &group[..count.saturating_sub(n)] {
                retained[index / 64] &= !(1 << (index % 64));
            }
        }
    }
}

/// Checks that all prunable tensors have whole groups.
pub(super) fn check_groups(subject: &Subject, pattern: Pattern) -> Result<(), PruneError> {
    let mut misfits = subject.prunable();
    misfits.retain(|&parameter| {
        let shape = &subject.parameters()[parameter].shape;
        let n_inputs = shape.dims().get(1).copied();
        let has_groups = n_inputs.is_some_and(|inputs| inputs.is_multiple_of(pattern.m.into()));
        !has_groups || shape.kernel_numel() > LARGEST_KERNEL
    });
    match misfits.split_first() {
        None => Ok(()),
        Some((&first, others)) => {
            let parameter = &subject.parameters()[first];
            Err(PruneError::Groups {
                tensor: parameter.name.clone(),
                shape: parameter.shape.clone(),
                m: pattern.m,
                others: others.len(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_of_each_group_go() {
        let check = |keys: &[u64], kernel, (n, m), expected: &[u64]| {
            let mut retained = vec![0; keys.len().div_ceil(64)];
            for (index, &key) in keys.iter().enumerate() {
                retained[index / 64] |= u64::from(key != EXCLUDED) << (index % 64);
            }
            prune_groups(keys, kernel, Pattern { n, m }, &mut retained);
            let bit = |index: usize| retained[index / 64] >> (index % 64) & 1;
            let found: Vec<u64> = (0..keys.len()).map(bit).collect();
            assert_eq!(found, expected, "{keys:?} {kernel} {n}:{m}");
        };
        check(
            &[4, 1, 3, 2, 5, 5, 5, 5],
            1,
            (2, 4),
            &[1, 0, 1, 0, 0, 0, 1, 1],
        );
        check(&[0, 0, 0, 9], 1, (2, 4), &[0, 0, 1, 1]);
        check(
            &[1, 8, 2, 7, 3, 6, 4, 5],
            2,
            (1, 4),
            &[0, 1, 0, 0, 0, 0, 1, 0],
        );
        check(&[EXCLUDED, 1, EXCLUDED, 2], 1, (3, 4), &[0, 1, 0, 1]);
        check(&[EXCLUDED, 1, 4, 2], 1, (2, 4), &[0, 0, 1, 1]);
        check(&[3, 1], 1, (1, 2), &[1, 0]);
    }
}
