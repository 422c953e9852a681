//! How many keys lie where: groups of tensors and stretches of keys walk in, the
//! stretches that are not empty walk out, finer than before.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::prune::PruneError;
use crate::prune::pass::Effort;
use crate::prune::pass::Grain;
use crate::prune::pass::Visitor;
use crate::prune::pass::lock;
use crate::prune::score::Scale;
use crate::prune::tile::KeyScratch;
use crate::prune::tile::Scorer;
use crate::prune::tile::Tile;

/// Memory of one count and the cell that it becomes.
const PER_CELL: u64 = 80;
/// Most stretches that a group is divided into: their counts fit the second cache.
const MOST_CELLS: u64 = 1 << 16;
/// Fewest stretches that a group is divided into, so that it always makes progress.
const FEWEST_CELLS: u64 = 16;
/// How much is held of keys at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of the counts and cells of all groups together.
    pub(super) cell_bytes: u64,
    /// Keys, in all groups together, that are gathered one by one.
    pub(super) gathered: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cell_bytes: 24 << 20,
            gathered: 1 << 20,
        }
    }
}

/// Keys that lie in one stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// Smallest key of the stretch.
    pub(super) first: u64,
    /// Largest key of the stretch.
    pub(super) last: u64,
    /// Keys in it.
    pub(super) count: u64,
    /// Sum of the squares that they stand for, where that is asked for.
    pub(super) squares: u128,
}

impl Cell {
    /// Whether all keys in it are the same.
    pub(super) fn is_exact(&self) -> bool {
        self.first == self.last
    }
}

/// Tensors whose keys are counted together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Their parameters, in the order of their names.
    pub(super) members: Vec<usize>,
    /// What squares are measured in, for a group of one tensor.
    pub(super) scale: Option<Scale>,
    /// Keys that lie below all cells.
    pub(super) below: u64,
    /// They are smaller than this, and all others are not.
    pub(super) floor: u64,
    /// The stretches that are still of interest, ascending, none of them empty.
    pub(super) cells: Vec<Cell>,
}

impl Group {
    /// A group about which nothing is known but the number of its keys, and the largest.
    pub(super) fn new(members: Vec<usize>, count: u64, largest: u64) -> Self {
        let whole = Cell {
            first: 0,
            last: largest,
            count,
            squares: 0,
        };
        Self {
            members,
            scale: None,
            below: 0,
            floor: 0,
            cells: (count > 0).then_some(whole).into_iter().collect(),
        }
    }

    fn is_open(&self) -> bool {
        self.cells.iter().any(|cell| !cell.is_exact())
    }

    fn count(&self) -> u64 {
        self.cells.iter().map(|cell| cell.count).sum()
    }
}

/// How the keys of a group are counted in a pass.
#[derive(Clone, Copy)]
enum Counting {
    /// Not at all.
    Skip,
    /// One by one, those from `first` to `last`.
    Gather { first: u64, last: u64 },
    /// In stretches of `2^shift` keys from `first`, up to `last`.
    Stretches { first: u64, last: u64, shift: u32 },
}

/// What a pass found of a group.
#[derive(Default)]
struct Found {
    gathered: Vec<u64>,
    counts: Vec<u64>,
    squares: Vec<u128>,
}

impl Found {
    fn add(&mut self, other: &mut Self) {
        self.gathered.append(&mut other.gathered);
        if self.counts.is_empty() {
            std::mem::swap(&mut self.counts, &mut other.counts);
            std::mem::swap(&mut self.squares, &mut other.squares);
            return;
        }
        let counts = self.counts.iter_mut().zip(&other.counts);
        counts.for_each(|(sum, count)| *sum += count);
        let squares = self.squares.iter_mut().zip(&other.squares);
        squares.for_each(|(sum, square)| *sum += square);
    }
}

struct Counter<'a> {
    scorer: &'a Scorer<'a>,
    groups: &'a [Group],
    /// For each parameter, its group.
    group_of: &'a [usize],
    countings: &'a [Counting],
    found: &'a [Mutex<Found>],
    /// What is not handed over yet, and of which group.
    own: Found,
    own_group: usize,
    scratch: KeyScratch,
}

impl Counter<'_> {
    /// Hands over what was found of a group: seldom, because many tensors may share one.
    fn hand_over(&mut self) {
        lock(&self.found[self.own_group]).add(&mut self.own);
        self.own.counts.clear();
        self.own.squares.clear();
    }
}

impl Visitor for Counter<'_> {
    fn visit(&mut self, tile: &Tile<'_>) -> Result<(), PruneError> {
        let group = self.group_of[tile.parameter];
        if group != self.own_group {
            self.hand_over();
            self.own_group = group;
        }
        let scale = self.groups[group].scale;
        let Found {
            gathered,
            counts,
            squares,
        } = &mut self.own;
        match self.countings[group] {
            Counting::Skip => Ok(()),
            Counting::Gather { first, last } => {
                self.scorer.pieces(tile, &mut self.scratch, |_, keys| {
                    let is_wanted = |key: &&u64| (first..=last).contains(*key);
                    gathered.extend(keys.iter().filter(is_wanted));
                })
            }
            Counting::Stretches { first, last, shift } => {
                let n_cells = ((last - first) >> shift) as usize + 1;
                counts.resize(n_cells, 0);
                let span = last - first;
                let Some(scale) = scale else {
                    return self.scorer.pieces(tile, &mut self.scratch, |_, keys| {
                        for key in keys {
                            let offset = key.wrapping_sub(first);
                            if offset <= span {
                                counts[(offset >> shift) as usize] += 1;
                            }
                        }
                    });
                };
                squares.resize(n_cells, 0);
                self.scorer.pieces(tile, &mut self.scratch, |_, keys| {
                    for &key in keys {
                        let offset = key.wrapping_sub(first);
                        if offset <= span {
                            let cell = (offset >> shift) as usize;
                            counts[cell] += 1;
                            squares[cell] += scale.square(key);
                        }
                    }
                })
            }
        }
    }

    fn leave(&mut self, _parameter: usize) {}

    fn end(&mut self) {
        self.hand_over();
    }
}

/// Divides the cells of every group that has some with different keys in them, by one
/// pass over its tensors.
pub(super) fn refine(
    scorer: &Scorer<'_>,
    groups: &mut [Group],
    fineness: u64,
    effort: Effort<'_>,
) -> Result<(), PruneError> {
    let countings = plan(groups, scorer.limits, fineness);
    let mut group_of = vec![usize::MAX; scorer.subject.parameters().len()];
    let mut parameters = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        for &member in &group.members {
            group_of[member] = index;
        }
        if !matches!(countings[index], Counting::Skip) {
            parameters.extend_from_slice(&group.members);
        }
    }
    let found: Vec<Mutex<Found>> = groups.iter().map(|_| Mutex::default()).collect();
    effort.run(scorer.subject, &parameters, Grain::Tiles, || Counter {
        scorer,
        groups,
        group_of: &group_of,
        countings: &countings,
        found: &found,
        own: Found::default(),
        own_group: 0,
        scratch: KeyScratch::new(),
    })?;
    for ((group, counting), found) in groups.iter_mut().zip(countings).zip(found) {
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        match counting {
            Counting::Skip => {}
            Counting::Gather { .. } => group.cells = gathered_cells(found.gathered, group.scale),
            Counting::Stretches { first, last, shift } => {
                group.cells = stretch_cells(&found, first, last, shift);
            }
        }
    }
    Ok(())
}

/// How each group is counted next.
fn plan(groups: &[Group], limits: Limits, fineness: u64) -> Vec<Counting> {
    let n_open = groups.iter().filter(|group| group.is_open()).count().max(1) as u64;
    let most_cells = (limits.cell_bytes / (PER_CELL * n_open))
        .clamp(FEWEST_CELLS, MOST_CELLS)
        .saturating_mul(fineness);
    let most_gathered = limits.gathered / n_open;
    groups
        .iter()
        .map(|group| {
            let ends = group.cells.first().zip(group.cells.last());
            let Some((first, last)) = ends.filter(|_| group.is_open()) else {
                return Counting::Skip;
            };
            let (first, last) = (first.first, last.last);
            let count = group.count();
            if count <= most_gathered {
                return Counting::Gather { first, last };
            }
            let span = last - first;
            let mut shift = 0;
            while span >> shift >= most_cells {
                shift += 1;
            }
            Counting::Stretches { first, last, shift }
        })
        .collect()
}

fn gathered_cells(mut keys: Vec<u64>, scale: Option<Scale>) -> Vec<Cell> {
    keys.sort_unstable();
    let runs = keys.chunk_by(|a, b| a == b);
    runs.map(|run| {
        let count = run.len() as u64;
        let square = scale.map_or(0, |scale| scale.square(run[0]));
        Cell {
            first: run[0],
            last: run[0],
            count,
            squares: square * u128::from(count),
        }
    })
    .collect()
}

fn stretch_cells(found: &Found, first: u64, last: u64, shift: u32) -> Vec<Cell> {
    let counted = found.counts.iter().enumerate();
    let filled = counted.filter(|(_, count)| **count > 0);
    filled
        .map(|(index, &count)| {
            let begin = first + ((index as u64) << shift);
            Cell {
                first: begin,
                last: last.min(begin + ((1 << shift) - 1)),
                count,
                squares: found.squares.get(index).copied().unwrap_or(0),
            }
        })
        .collect()
}
