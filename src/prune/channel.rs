//! Norms of whole output channels: tensors walk in, the sum of squares of each of their
//! channels walks out.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::prune::PruneError;
use crate::prune::pass::Effort;
use crate::prune::pass::Grain;
use crate::prune::pass::Visitor;
use crate::prune::pass::lock;
use crate::prune::score::EXCLUDED;
use crate::prune::subject::Subject;
use crate::prune::tile::KeyScratch;
use crate::prune::tile::Scorer;
use crate::prune::tile::Tile;

/// The channels of one tensor.
#[derive(Clone, Debug, Default)]
pub(super) struct Channels {
    /// Sum of squares of each channel's remaining weights, or `None` if none remains.
    pub(super) squares: Vec<Option<f64>>,
}

impl Channels {
    /// Channels in which some weight remains.
    pub(super) fn remaining(&self) -> u64 {
        self.squares.iter().flatten().count() as u64
    }
}

/// Elements of each output channel of a parameter; at least 1.
pub(super) fn channel_numel(subject: &Subject, parameter: usize) -> u64 {
    let dims = subject.parameters()[parameter].shape.dims();
    dims.iter().skip(1).product::<u64>().max(1)
}

struct Summer<'a> {
    scorer: &'a Scorer<'a>,
    found: &'a [Mutex<Channels>],
    own: Channels,
    scratch: KeyScratch,
}

impl Visitor for Summer<'_> {
    fn visit(&mut self, tile: &Tile<'_>) -> Result<(), PruneError> {
        let subject = self.scorer.subject;
        let numel = channel_numel(subject, tile.parameter);
        let n_channels = subject.parameters()[tile.parameter].shape.numel() / numel;
        let squares = &mut self.own.squares;
        squares.resize(n_channels as usize, None);
        let width = self.scorer.width;
        self.scorer.pieces(tile, &mut self.scratch, |begin, keys| {
            let mut index = tile.begin + begin as u64;
            let mut rest = keys;
            while !rest.is_empty() {
                let channel = index / numel;
                let left = (channel + 1) * numel - index;
                let (own, later) = rest.split_at(left.min(rest.len() as u64) as usize);
                for &key in own.iter().filter(|key| **key != EXCLUDED) {
                    let value = width.magnitude(key);
                    let sum = &mut squares[channel as usize];
                    *sum = Some(sum.unwrap_or(0.0) + value * value);
                }
                index += own.len() as u64;
                rest = later;
            }
        })
    }

    fn leave(&mut self, parameter: usize) {
        *lock(&self.found[parameter]) = std::mem::take(&mut self.own);
    }
}

/// The channels of every parameter; of those that are not prunable, none.
pub(super) fn sum_channels(
    scorer: &Scorer<'_>,
    effort: Effort<'_>,
) -> Result<Vec<Channels>, PruneError> {
    let subject = scorer.subject;
    let n_parameters = subject.parameters().len();
    let found: Vec<Mutex<Channels>> = (0..n_parameters).map(|_| Mutex::default()).collect();
    let parameters = subject.prunable();
    effort.run(subject, &parameters, Grain::Tensors, || Summer {
        scorer,
        found: &found,
        own: Channels::default(),
        scratch: KeyScratch::new(),
    })?;
    Ok(found
        .into_iter()
        .map(|found| found.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect())
}
