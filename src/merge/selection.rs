//! Which ingredients a greedy soup keeps, and by what they were judged: data for the
//! certificate, and the rule that every decision follows.

use std::cmp::Ordering;

use serde::Deserialize;
use serde::Serialize;

use crate::merge::certificate::IngredientRecord;
use crate::tensor::Digest;

/// Which of two scores is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// The higher one, as of an accuracy.
    #[default]
    Higher,
    /// The lower one, as of a loss.
    Lower,
}

/// What becomes of a candidate with which the soup is exactly as good as without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTie {
    /// It is kept: at least as good is enough. Source: arXiv:2306.16788.
    #[default]
    Keep,
    /// It is dropped: the soup must become better. Source: arXiv:2203.05482.
    Drop,
}

/// One of the checkpoints that a greedy soup was chosen from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Last component of its path.
    pub name: String,
    /// Digest of the tensors that were read.
    pub digest: Digest,
    /// How good it is alone.
    pub score: f64,
}

/// What became of one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Its position among the candidates, from 0.
    pub candidate: usize,
    /// How good the uniform soup of it and all that were kept before it is; of the
    /// first, how good it is alone.
    pub score: f64,
    /// Whether it is kept.
    pub is_kept: bool,
}

/// How a greedy soup was chosen. Source: arXiv:2203.05482, recipe 1.
///
/// Candidates are tried from the best down, of equal ones in the order given. The first
/// is kept; each later one is kept if the uniform soup with it is better than the soup
/// of those kept so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Which scores are better.
    pub better: Better,
    /// What became of candidates that made no difference.
    pub on_tie: OnTie,
    /// What was chosen from, in the order given.
    pub candidates: Vec<Candidate>,
    /// What became of each, in the order in which they were tried.
    pub decisions: Vec<Decision>,
}

impl Selection {
    /// Positions of the candidates that are kept, ascending: the order of summation.
    pub fn kept(&self) -> Vec<usize> {
        let kept = self.decisions.iter().filter(|decision| decision.is_kept);
        let mut kept: Vec<usize> = kept.map(|decision| decision.candidate).collect();
        kept.sort_unstable();
        kept
    }

    /// How good the soup is; `None` of no decision.
    pub fn score(&self) -> Option<f64> {
        let kept = self.decisions.iter().filter(|decision| decision.is_kept);
        kept.last().map(|decision| decision.score)
    }

    /// Positions of the candidates from the best down, of equal ones in the order given.
    pub(super) fn ranking(&self) -> Vec<usize> {
        let mut ranking: Vec<usize> = (0..self.candidates.len()).collect();
        let score = |position: usize| self.candidates[position].score;
        ranking.sort_by(|&first, &second| self.compare(score(second), score(first)));
        ranking
    }

    /// Whether a candidate is kept that takes the soup from a score of `without` to one
    /// of `with`.
    pub(super) fn keeps(&self, with: f64, without: f64) -> bool {
        match self.compare(with, without) {
            Ordering::Greater => true,
            Ordering::Equal => self.on_tie == OnTie::Keep,
            Ordering::Less => false,
        }
    }

    /// The better one is the greater. Scores are finite, and no zero is negative.
    fn compare(&self, first: f64, second: f64) -> Ordering {
        match self.better {
            Better::Higher => first.total_cmp(&second),
            Better::Lower => second.total_cmp(&first),
        }
    }

    /// Position in `members`, which are positions of candidates, of the first whose digest
    /// is no longer what it was.
    pub(super) fn changed(&self, members: &[usize], digests: &[Digest]) -> Option<usize> {
        let mut members = members.iter().zip(digests);
        members.position(|(&member, &digest)| self.candidates[member].digest != digest)
    }

    /// Whether the decisions follow from the scores, and the ingredients of the soup are
    /// what they keep.
    pub(super) fn is_sound(&self, ingredients: &[IngredientRecord]) -> bool {
        let tried: Vec<usize> = self.decisions.iter().map(|tried| tried.candidate).collect();
        let Some((first, others)) = self.decisions.split_first() else {
            return false;
        };
        if tried != self.ranking() || !first.is_kept {
            return false;
        }
        let mut best = first.score;
        let follows = |decision: &Decision| {
            let keeps = self.keeps(decision.score, best);
            if keeps {
                best = decision.score;
            }
            decision.is_kept == keeps
        };
        let kept = self.kept();
        best_of_all_is(first, &self.candidates)
            && others.iter().all(follows)
            && kept.len() == ingredients.len()
            && kept.iter().zip(ingredients).all(|(&kept, ingredient)| {
                let candidate = &self.candidates[kept];
                (&candidate.name, candidate.digest) == (&ingredient.name, ingredient.digest)
            })
    }
}

/// The first is tried alone.
fn best_of_all_is(first: &Decision, candidates: &[Candidate]) -> bool {
    candidates[first.candidate].score == first.score
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A selection by the accuracies of candidates alone, and of soups in the order tried.
    fn selection(alone: &[f64], decisions: &[(usize, f64, bool)]) -> Selection {
        Selection {
            better: Better::Higher,
            on_tie: OnTie::Keep,
            candidates: (0..alone.len())
                .map(|position| Candidate {
                    name: position.to_string(),
                    digest: Digest::of(&[position as u8]),
                    score: alone[position],
                })
                .collect(),
            decisions: decisions
                .iter()
                .map(|&(candidate, score, is_kept)| Decision {
                    candidate,
                    score,
                    is_kept,
                })
                .collect(),
        }
    }

    fn records(selection: &Selection, kept: &[usize]) -> Vec<IngredientRecord> {
        let record = |&position: &usize| IngredientRecord {
            name: selection.candidates[position].name.clone(),
            digest: selection.candidates[position].digest,
            files: Vec::new(),
            soup: None,
        };
        kept.iter().map(record).collect()
    }

    #[test]
    fn the_better_come_first_and_equal_ones_as_given() {
        let check = |better, alone: &[f64], expected: &[usize]| {
            let mut selection = selection(alone, &[]);
            selection.better = better;
            assert_eq!(selection.ranking(), expected, "{alone:?}");
        };
        check(Better::Higher, &[0.1, 0.3, 0.2], &[1, 2, 0]);
        check(Better::Higher, &[0.2, 0.3, 0.2, 0.3], &[1, 3, 0, 2]);
        check(Better::Lower, &[0.2, 0.3, 0.2], &[0, 2, 1]);
    }

    #[test]
    fn ties_are_kept_or_dropped() {
        let check = |better, on_tie, with, expected| {
            let mut selection = selection(&[], &[]);
            (selection.better, selection.on_tie) = (better, on_tie);
            assert_eq!(
                selection.keeps(with, 0.5),
                expected,
                "{better:?} {on_tie:?} {with}"
            );
        };
        for on_tie in [OnTie::Keep, OnTie::Drop] {
            check(Better::Higher, on_tie, 0.6, true);
            check(Better::Higher, on_tie, 0.4, false);
            check(Better::Lower, on_tie, 0.6, false);
            check(Better::Lower, on_tie, 0.4, true);
            check(Better::Higher, on_tie, 0.5, on_tie == OnTie::Keep);
            check(Better::Lower, on_tie, 0.5, on_tie == OnTie::Keep);
        }
    }

    #[test]
    fn a_record_that_does_not_follow_is_not_sound() {
        let alone = [0.7, 0.9, 0.8];
        let decisions = [(1, 0.9, true), (2, 0.85, false), (0, 0.9, true)];
        let check = |alone: &[f64], decisions: &[(usize, f64, bool)], kept: &[usize], expected| {
            let selection = selection(alone, decisions);
            let records = records(&selection, kept);
            assert_eq!(
                selection.is_sound(&records),
                expected,
                "{decisions:?} {kept:?}"
            );
        };
        check(&alone, &decisions, &[0, 1], true);
        check(&alone, &decisions, &[1], false);
        check(&alone, &decisions, &[0, 1, 2], false);
        check(&alone, &decisions, &[1, 0], false);
        let [best, second, third] = decisions;
        check(&alone, &[], &[], false);
        check(&alone, &[best, third, second], &[0, 1], false);
        check(&alone, &[best, second], &[1], false);
        check(&alone, &[(1, 0.8, true), second, third], &[0, 1], false);
        check(&alone, &[best, (2, 0.85, true), third], &[0, 1, 2], false);
        check(&alone, &[best, second, (0, 0.9, false)], &[1], false);
        check(&alone, &[best, second, (3, 0.9, true)], &[1], false);
        check(&[0.7, 0.9, 0.6], &decisions, &[0, 1], false);
    }

    #[test]
    fn the_score_is_that_of_the_last_soup_that_was_kept() {
        let decisions = [(1, 0.9, true), (0, 0.95, true), (2, 0.5, false)];
        let chosen = selection(&[0.7, 0.9, 0.6], &decisions);
        assert_eq!((chosen.score(), chosen.kept()), (Some(0.95), vec![0, 1]));
        assert_eq!(selection(&[], &[]).score(), None);
    }
}
