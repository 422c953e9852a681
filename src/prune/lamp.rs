//! The one threshold of LAMP scores: sums of squares of every tensor's cells walk in,
//! the cells that may hold the threshold walk out.
//!
//! A score `w² / T(w)`, with `T` the squares of all weights of the tensor that are no
//! smaller, grows with `|w|`. So the scores of a cell lie between that of its smallest
//! key with all of the cell's squares in `T`, and that of its largest key alone in `T`
//! with what lies above the cell. The n-th smallest of all lower bounds and the n-th
//! smallest of all upper bounds enclose the n-th smallest score, and cells that lie
//! outside are decided. What is left is divided in the next pass.

use crate::prune::PruneError;
use crate::prune::histogram::Cell;
use crate::prune::histogram::Group;
use crate::prune::histogram::refine;
use crate::prune::pass::Effort;
use crate::prune::score::Scale;
use crate::prune::tile::Scorer;

/// Above what rounding and truncation can add to an upper bound.
const SLACK: f64 = 1.0 + 1e-9;

/// Lower and upper bound of the scores of a cell, and its count.
#[derive(Clone, Copy)]
struct Bounds {
    lower: f64,
    upper: f64,
    count: u64,
}

/// Bounds of every cell of a group, ascending. `above` is the sum of squares of what
/// lies above all of them.
fn bounds(cells: &[Cell], scale: Scale, above: u128) -> Vec<Bounds> {
    let mut above = above;
    let mut bounds: Vec<Bounds> = cells
        .iter()
        .rev()
        .map(|cell| {
            let below = above;
            above += cell.squares;
            let lower = scale.score(cell.first, above);
            let upper = if cell.is_exact() {
                lower
            } else {
                SLACK * scale.score(cell.last, below + scale.square(cell.last))
            };
            Bounds {
                lower,
                upper,
                count: cell.count,
            }
        })
        .collect();
    bounds.reverse();
    bounds
}

/// The `rank`-th smallest of the values, each as often as its count; ranks from 1.
fn ranked(values: impl Iterator<Item = (f64, u64)>, rank: u64) -> f64 {
    let mut values: Vec<(f64, u64)> = values.collect();
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut seen = 0;
    for &(value, count) in &values {
        seen += count;
        if seen >= rank {
            return value;
        }
    }
    f64::INFINITY
}

/// Narrows every group to the cells whose scores are that of rank `n` among all, and
/// returns that score. `n` is at least 1 and at most the number of keys.
pub(super) fn narrow(
    scorer: &Scorer<'_>,
    groups: &mut [Group],
    n: u64,
    effort: Effort<'_>,
) -> Result<f64, PruneError> {
    let mut above = vec![0_u128; groups.len()];
    let mut fineness = 1;
    loop {
        refine(scorer, groups, fineness, effort)?;
        let all_bounds: Vec<Vec<Bounds>> = groups
            .iter()
            .zip(&above)
            .map(|(group, &above)| match group.scale {
                Some(scale) => bounds(&group.cells, scale, above),
                None => Vec::new(),
            })
            .collect();
        let below: u64 = groups.iter().map(|group| group.below).sum();
        let rank = n - below;
        let flat = || all_bounds.iter().flatten();
        let least = ranked(flat().map(|cell| (cell.lower, cell.count)), rank);
        let most = ranked(flat().map(|cell| (cell.upper, cell.count)), rank);
        let mut has_progressed = false;
        for ((group, above), bounds) in groups.iter_mut().zip(&mut above).zip(&all_bounds) {
            let begin = bounds.partition_point(|cell| cell.upper < least);
            let end = bounds.partition_point(|cell| cell.lower <= most).max(begin);
            has_progressed |= begin > 0 || end < bounds.len();
            group.below += bounds[..begin].iter().map(|cell| cell.count).sum::<u64>();
            *above += group.cells[end..]
                .iter()
                .map(|cell| cell.squares)
                .sum::<u128>();
            if begin > 0 {
                group.floor = group.cells[begin - 1].last + 1;
            }
            group.cells.truncate(end);
            group.cells.drain(..begin);
        }
        if groups
            .iter()
            .all(|group| group.cells.iter().all(Cell::is_exact))
        {
            return Ok(most);
        }
        // Where no cell was decided, the next pass makes smaller ones.
        fineness = if has_progressed { 1 } else { 4 * fineness };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_multiplicities() {
        let values = [(3.0, 2), (1.0, 1), (2.0, 3)];
        let check = |rank, expected| assert_eq!(ranked(values.into_iter(), rank), expected);
        check(1, 1.0);
        check(2, 2.0);
        check(4, 2.0);
        check(5, 3.0);
        check(6, 3.0);
        check(7, f64::INFINITY);
    }
}
