//! Which weights go: what remains of every tensor walks in, its cut walks out.

use crate::prune::Amount;
use crate::prune::ChannelDistribution;
use crate::prune::Distribution;
use crate::prune::PruneError;
use crate::prune::channel::Channels;
use crate::prune::cut::Ties;
use crate::prune::cut::cuts;
use crate::prune::distribution;
use crate::prune::distribution::Layer;
use crate::prune::histogram::Cell;
use crate::prune::histogram::Group;
use crate::prune::histogram::refine;
use crate::prune::lamp;
use crate::prune::pass::Effort;
use crate::prune::score::Scale;
use crate::prune::select::Rule;
use crate::prune::subject::Subject;
use crate::prune::tile::Score;
use crate::prune::tile::Scorer;
use crate::tensor::Mask;

/// What has been decided so far.
pub(super) struct Chosen {
    /// For each parameter, what is retained.
    pub(super) rules: Vec<Rule>,
    /// For each parameter, where scores were cut.
    pub(super) thresholds: Vec<Option<f64>>,
}

impl Chosen {
    /// Ranks single weights. `known` holds how many remain of each parameter, and
    /// their largest key.
    pub(super) fn weights(
        &mut self,
        scorer: &Scorer<'_>,
        amount: Amount,
        distribution: Distribution,
        known: (&[u64], &[u64]),
        effort: Effort<'_>,
    ) -> Result<(), PruneError> {
        let (remaining, largest) = known;
        let subject = scorer.subject;
        let prunable = subject.prunable();
        let layer = |&parameter: &usize| {
            let found = &subject.parameters()[parameter];
            Layer {
                name: found.name.clone(),
                dims: found.shape.dims().into(),
                numel: found.shape.numel(),
                remaining: remaining[parameter],
            }
        };
        let layers: Vec<Layer> = prunable.iter().map(layer).collect();
        let largest = |parameter: usize| match scorer.score {
            Score::Magnitude => largest[parameter],
            Score::Random { .. } => u64::MAX >> 1,
        };
        let single = |parameter: &usize| {
            let (count, largest) = (remaining[*parameter], largest(*parameter));
            Group::new(vec![*parameter], count, largest)
        };
        let magnitude = |key: u64| Some(scorer.width.magnitude(key));
        match distribution {
            Distribution::Global | Distribution::Random { .. } => {
                let rank = distribution::total(amount, &layers)?;
                let count = prunable.iter().map(|&parameter| remaining[parameter]).sum();
                let most = prunable.iter().map(|&parameter| largest(parameter)).max();
                let mut groups = [Group::new(prunable, count, most.unwrap_or(0))];
                let takes = narrow_ranks(scorer, &mut groups, &[rank], effort)?;
                let threshold = |key| match scorer.score {
                    Score::Magnitude => magnitude(key),
                    Score::Random { .. } => None,
                };
                self.cut(scorer, &groups, &takes, threshold, effort)
            }
            Distribution::Uniform | Distribution::Erk => {
                let ranks = match distribution {
                    Distribution::Uniform => distribution::uniform(amount, &layers)?,
                    _ => distribution::erk(amount, &layers)?,
                };
                let mut groups: Vec<Group> = prunable.iter().map(single).collect();
                let takes = narrow_ranks(scorer, &mut groups, &ranks, effort)?;
                self.cut(scorer, &groups, &takes, magnitude, effort)
            }
            Distribution::Lamp => {
                let rank = distribution::total(amount, &layers)?;
                if rank == 0 {
                    return Ok(());
                }
                let mut groups: Vec<Group> = prunable.iter().map(single).collect();
                for group in &mut groups {
                    let parameter = group.members[0];
                    let numel = subject.parameters()[parameter].shape.numel();
                    group.scale = Some(Scale::new(scorer.width, largest(parameter), numel));
                }
                let score = lamp::narrow(scorer, &mut groups, rank, effort)?;
                let mut left = rank - groups.iter().map(|group| group.below).sum::<u64>();
                let takes: Vec<u64> = groups
                    .iter()
                    .map(|group| {
                        let ties = group.cells.iter().map(|cell| cell.count).sum();
                        let take = left.min(ties);
                        left -= take;
                        take
                    })
                    .collect();
                self.cut(scorer, &groups, &takes, |_| None, effort)?;
                for group in &groups {
                    self.thresholds[group.members[0]] = Some(score);
                }
                Ok(())
            }
        }
    }

    /// Cuts the ties of narrowed groups, of which `takes` are pruned.
    fn cut(
        &mut self,
        scorer: &Scorer<'_>,
        groups: &[Group],
        takes: &[u64],
        threshold: impl Fn(u64) -> Option<f64>,
        effort: Effort<'_>,
    ) -> Result<(), PruneError> {
        let pairs = groups.iter().zip(takes);
        let ties: Vec<Ties<'_>> = pairs.map(|(group, &take)| Ties::of(group, take)).collect();
        let cuts = cuts(scorer, &ties, effort)?;
        for group in groups {
            let key = group.cells.first().map(|cell| cell.first);
            for &member in &group.members {
                self.rules[member] = Rule::Cut(cuts[member]);
                self.thresholds[member] = key.and_then(&threshold);
            }
        }
        Ok(())
    }

    /// Ranks whole channels; of equal ones, the lower (tensor, channel) goes first.
    pub(super) fn channels(
        &mut self,
        subject: &Subject,
        amount: Amount,
        distribution: ChannelDistribution,
        channels: &[Channels],
    ) -> Result<(), PruneError> {
        let prunable = subject.prunable();
        let layer = |&parameter: &usize| Layer {
            name: subject.parameters()[parameter].name.clone(),
            dims: Box::default(),
            numel: channels[parameter].squares.len() as u64,
            remaining: channels[parameter].remaining(),
        };
        let layers: Vec<Layer> = prunable.iter().map(layer).collect();
        let ranks: Vec<(Vec<usize>, u64)> = match distribution {
            ChannelDistribution::Global => {
                vec![(prunable, distribution::total(amount, &layers)?)]
            }
            ChannelDistribution::Uniform => {
                let ranks = distribution::uniform(amount, &layers)?;
                prunable
                    .into_iter()
                    .map(|one| vec![one])
                    .zip(ranks)
                    .collect()
            }
        };
        for (members, rank) in ranks {
            let mut ranked: Vec<(f64, usize, usize)> = Vec::new();
            for &member in &members {
                let squares = channels[member].squares.iter().enumerate();
                let remaining =
                    squares.filter_map(|(channel, squares)| Some(((*squares)?, member, channel)));
                ranked.extend(remaining);
            }
            ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
            let (pruned, _) = ranked.split_at(rank as usize);
            let threshold = pruned.last().map(|(squares, ..)| squares.sqrt());
            let mut gone: Vec<Vec<bool>> = members
                .iter()
                .map(|&member| {
                    let squares = channels[member].squares.iter();
                    squares.map(Option::is_none).collect()
                })
                .collect();
            for &(_, member, channel) in pruned {
                if let Ok(at) = members.binary_search(&member) {
                    gone[at][channel] = true;
                }
            }
            for (&member, gone) in members.iter().zip(gone) {
                let retained = Mask::from_fn(gone.len(), |channel| !gone[channel]);
                self.rules[member] = Rule::Channels(retained);
                self.thresholds[member] = threshold;
            }
        }
        Ok(())
    }
}

/// Narrows every group to the one key of its rank, and returns how many coordinates
/// with that key are pruned. Groups of rank 0 are left without cells.
fn narrow_ranks(
    scorer: &Scorer<'_>,
    groups: &mut [Group],
    ranks: &[u64],
    effort: Effort<'_>,
) -> Result<Vec<u64>, PruneError> {
    for (group, &rank) in groups.iter_mut().zip(ranks) {
        if rank == 0 {
            group.cells.clear();
        }
    }
    while !groups
        .iter()
        .all(|group| group.cells.iter().all(Cell::is_exact))
    {
        refine(scorer, groups, 1, effort)?;
        for (group, &rank) in groups.iter_mut().zip(ranks) {
            let mut below = group.below;
            let at = group.cells.iter().position(|cell| {
                let is_here = below + cell.count >= rank;
                if !is_here {
                    below += cell.count;
                }
                is_here
            });
            group.below = below;
            group.cells = at.map(|at| group.cells[at]).into_iter().collect();
        }
    }
    let pairs = groups.iter().zip(ranks);
    Ok(pairs.map(|(group, rank)| rank - group.below).collect())
}
