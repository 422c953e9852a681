//! How far the masks of two participants agree.

use serde::Serialize;

use super::scan::MaskTally;

/// Sizes of the overlap of two masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// Elements that both retain.
    pub shared: u64,
    /// Elements that only the first retains.
    pub only_first: u64,
    /// Elements that only the second retains.
    pub only_second: u64,
}

impl Agreement {
    /// Intersection over union, in [0, 1]; 1 for two empty masks.
    pub fn iou(&self) -> f64 {
        let union = self.shared + self.only_first + self.only_second;
        if union == 0 {
            1.0
        } else {
            self.shared as f64 / union as f64
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.shared += other.shared;
        self.only_first += other.only_first;
        self.only_second += other.only_second;
    }
}

/// Agreement of all pairs of participants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairwise {
    pub(super) n_participants: usize,
    pub(super) agreements: Vec<Agreement>,
}

impl Pairwise {
    pub(super) fn empty(n_participants: usize) -> Self {
        let nothing = Agreement {
            shared: 0,
            only_first: 0,
            only_second: 0,
        };
        Self {
            n_participants,
            agreements: vec![nothing; n_participants * n_participants.saturating_sub(1) / 2],
        }
    }

    pub(super) fn of(tally: &MaskTally) -> Self {
        let mut pairwise = Self::empty(tally.n_participants());
        for (first, second, agreement) in pairwise.pairs_mut() {
            let shared = tally.shared(first, second);
            *agreement = Agreement {
                shared,
                only_first: tally.retained_by[first] - shared,
                only_second: tally.retained_by[second] - shared,
            };
        }
        pairwise
    }

    fn pairs_mut(&mut self) -> impl Iterator<Item = (usize, usize, &mut Agreement)> {
        let pairs = (1..self.n_participants)
            .flat_map(|second| (0..second).map(move |first| (first, second)));
        pairs
            .zip(&mut self.agreements)
            .map(|((first, second), agreement)| (first, second, agreement))
    }

    /// Each pair (i, k), i < k, with its agreement.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize, Agreement)> + Clone {
        let pairs = (1..self.n_participants)
            .flat_map(|second| (0..second).map(move |first| (first, second)));
        pairs
            .zip(&self.agreements)
            .map(|((first, second), &agreement)| (first, second, agreement))
    }

    /// The pair that agrees least.
    pub fn least(&self) -> Option<(usize, usize, Agreement)> {
        self.pairs().min_by(|a, b| a.2.iou().total_cmp(&b.2.iou()))
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, agreement) in self.agreements.iter_mut().zip(&other.agreements) {
            sum.add(*agreement);
        }
    }
}
