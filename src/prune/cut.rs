//! Where ties are cut: of keys that score the same, the first so many in the order of
//! (tensor, index).

use std::sync::Mutex;

use crate::prune::PruneError;
use crate::prune::histogram::Group;
use crate::prune::pass::Effort;
use crate::prune::pass::Grain;
use crate::prune::pass::Visitor;
use crate::prune::pass::lock;
use crate::prune::tile::KeyScratch;
use crate::prune::tile::Scorer;
use crate::prune::tile::Tile;

/// Which of a tensor's coordinates are pruned, by their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Keys below this are pruned.
    pub(super) first: u64,
    /// Those from `first` up to this are ties.
    pub(super) last: u64,
    /// Ties before this row-major index are pruned.
    pub(super) until: u64,
}

impl Cut {
    /// Nothing is pruned.
    pub(super) const NOTHING: Self = Self {
        first: 0,
        last: 0,
        until: 0,
    };

    /// Whether the coordinate is pruned.
    #[inline(always)]
    pub(super) fn prunes(self, key: u64, index: u64) -> bool {
        key < self.first || (key <= self.last && index < self.until)
    }
}

/// A group that has been narrowed to its ties, and how many of them are pruned.
#[derive(Clone, Debug)]
pub(super) struct Ties<'a> {
    members: &'a [usize],
    first: u64,
    last: u64,
    count: u64,
    take: u64,
}

impl<'a> Ties<'a> {
    /// The ties of a narrowed group, of which the first `take` are pruned.
    pub(super) fn of(group: &'a Group, take: u64) -> Self {
        let ends = group.cells.first().zip(group.cells.last());
        let (first, last) = ends.map_or((group.floor, group.floor), |(first, last)| {
            (first.first, last.last)
        });
        Self {
            members: &group.members,
            first,
            last,
            count: group.cells.iter().map(|cell| cell.count).sum(),
            take,
        }
    }

    /// Whether some ties are pruned and others not.
    fn is_split(&self) -> bool {
        self.take > 0 && self.take < self.count
    }
}

/// Ties of one tile: parameter, first element of the tile, and their number.
type TileTies = (usize, u64, u64);

struct TieCounter<'a> {
    scorer: &'a Scorer<'a>,
    /// For each parameter, the ties that are looked for.
    wanted: &'a [Option<(u64, u64)>],
    found: &'a Mutex<Vec<TileTies>>,
    own: Vec<TileTies>,
    scratch: KeyScratch,
}

impl Visitor for TieCounter<'_> {
    fn visit(&mut self, tile: &Tile<'_>) -> Result<(), PruneError> {
        let Some((first, last)) = self.wanted[tile.parameter] else {
            return Ok(());
        };
        let mut count = 0;
        self.scorer.pieces(tile, &mut self.scratch, |_, keys| {
            count += keys
                .iter()
                .filter(|key| (first..=last).contains(*key))
                .count() as u64;
        })?;
        if count > 0 {
            self.own.push((tile.parameter, tile.begin, count));
        }
        Ok(())
    }

    fn leave(&mut self, _parameter: usize) {
        lock(self.found).append(&mut self.own);
    }
}

/// Finds the index of a tie within its tile.
struct TieFinder<'a> {
    scorer: &'a Scorer<'a>,
    /// The tile, by parameter and first element, its ties, and how many of them go.
    sought: (usize, u64, u64, u64, u64),
    found: &'a Mutex<u64>,
    scratch: KeyScratch,
}

impl Visitor for TieFinder<'_> {
    fn visit(&mut self, tile: &Tile<'_>) -> Result<(), PruneError> {
        let (parameter, begin, first, last, take) = self.sought;
        if (tile.parameter, tile.begin) != (parameter, begin) {
            return Ok(());
        }
        let mut seen = 0;
        self.scorer.pieces(tile, &mut self.scratch, |offset, keys| {
            for (index, key) in keys.iter().enumerate() {
                if (first..=last).contains(key) {
                    seen += 1;
                    if seen == take {
                        *lock(self.found) = begin + (offset + index) as u64 + 1;
                    }
                }
            }
        })
    }

    fn leave(&mut self, _parameter: usize) {}
}

/// The cut of every parameter; `NOTHING` where no group has it.
pub(super) fn cuts(
    scorer: &Scorer<'_>,
    all_ties: &[Ties<'_>],
    effort: Effort<'_>,
) -> Result<Vec<Cut>, PruneError> {
    let n_parameters = scorer.subject.parameters().len();
    let mut cuts = vec![Cut::NOTHING; n_parameters];
    let mut wanted = vec![None; n_parameters];
    for ties in all_ties {
        let are_all_pruned = ties.take > 0 && ties.take == ties.count;
        let until = if are_all_pruned { u64::MAX } else { 0 };
        for &member in ties.members {
            cuts[member] = Cut {
                first: ties.first,
                last: ties.last,
                until,
            };
            wanted[member] = ties.is_split().then_some((ties.first, ties.last));
        }
    }
    let parameters: Vec<usize> = (0..n_parameters)
        .filter(|&parameter| wanted[parameter].is_some())
        .collect();
    let found = Mutex::new(Vec::new());
    effort.run(scorer.subject, &parameters, Grain::Tiles, || TieCounter {
        scorer,
        wanted: &wanted,
        found: &found,
        own: Vec::new(),
        scratch: KeyScratch::new(),
    })?;
    let mut tiles = std::mem::take(&mut *lock(&found));
    tiles.sort_unstable();
    for ties in all_ties {
        if ties.is_split() {
            split(scorer, ties, &tiles, &mut cuts, effort)?;
        }
    }
    Ok(cuts)
}

/// Cuts ties of which only some are pruned.
fn split(
    scorer: &Scorer<'_>,
    ties: &Ties<'_>,
    tiles: &[TileTies],
    cuts: &mut [Cut],
    effort: Effort<'_>,
) -> Result<(), PruneError> {
    let mut left = ties.take;
    for &member in ties.members {
        let begin = tiles.partition_point(|tile| tile.0 < member);
        let own = tiles[begin..].iter().take_while(|tile| tile.0 == member);
        for &(_, begin, count) in own {
            if count >= left {
                let found = Mutex::new(0);
                let sought = (member, begin, ties.first, ties.last, left);
                effort.run(scorer.subject, &[member], Grain::Tiles, || TieFinder {
                    scorer,
                    sought,
                    found: &found,
                    scratch: KeyScratch::new(),
                })?;
                cuts[member].until = *lock(&found);
                return Ok(());
            }
            left -= count;
        }
        cuts[member].until = u64::MAX;
    }
    Ok(())
}
