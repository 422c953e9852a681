//! From tallies to a proof, or to a report of where and how masks differ.

use std::sync::Arc;

use crate::tensor::{Digest, Digester, Shape};

use super::agreement::Agreement;
use super::agreement::Pairwise;
use super::pattern::Pattern;
use super::policy::{
    DENSE_ZERO_FRACTION, DRIFT_TOLERANCE, Expectation, MismatchPolicy, Resolution, Rules,
};
use super::scan::MaskTally;
use super::zeros::ZeroCause;

/// Two masks agree nearly everywhere if they share at least this fraction of what
/// either retains.
const NEAR_AGREEMENT: f64 = 0.99;

/// What was found of one tensor's mask.
#[derive(Clone, Debug)]
pub struct TensorMask {
    /// Name of the tensor, without the suffix of a stored mask convention.
    pub name: String,
    /// Its dimensions.
    pub shape: Shape,
    /// Whether it has a mask, rather than being dense.
    pub is_pruned: bool,
    /// Elements retained in the resolved mask; all of them if it is dense.
    pub retained: u64,
    /// Elements that only some participants retain.
    pub disagreements: u64,
    /// Row-major index of the first of them.
    pub first_difference: Option<u64>,
    /// Whether the disagreements were taken for weights that are zero by accident.
    pub is_tolerated: bool,
    /// n:m pattern of the resolved mask.
    pub pattern: Option<Pattern>,
    /// n:m pattern that every ingredient holds and the resolved mask does not.
    pub broken_pattern: Option<Pattern>,
    /// Elements retained by each participant.
    pub retained_by: Box<[u64]>,
    /// Agreement of all pairs; `None` where all agree.
    pub pairwise: Option<Pairwise>,
    /// Digest of the resolved mask.
    pub digest: Digest,
    /// Whether zeros decide, and not a stored or given mask.
    pub is_from_zeros: bool,
    /// Why the zeros that differ may be no mask, if they look like that.
    pub cause: Option<ZeroCause>,
}

impl TensorMask {
    /// Pruned fraction, in [0, 1].
    pub fn sparsity(&self) -> f64 {
        let numel = self.shape.numel();
        if numel == 0 {
            0.0
        } else {
            1.0 - self.retained as f64 / numel as f64
        }
    }

    /// Whether participants differ by more than accidental zeros.
    pub fn is_mismatch(&self) -> bool {
        self.is_pruned && self.disagreements > 0 && !self.is_tolerated
    }

    /// Judges what was counted of a tensor. `digest` is that of its resolved mask.
    pub fn judge(
        name: String,
        shape: Shape,
        expectation: Expectation,
        tally: &MaskTally,
        digest: Digest,
        rules: &Rules,
    ) -> Self {
        let numel = shape.numel();
        let least_retained = tally.retained_by.iter().copied().min().unwrap_or(numel);
        let is_pruned = match expectation {
            Expectation::Dense => false,
            Expectation::Pruned | Expectation::Explicit => true,
            Expectation::FromZeros => {
                (numel - least_retained) as f64 > DENSE_ZERO_FRACTION * numel as f64
            }
        };
        let resolved = tally.resolved_pattern().pattern(&shape, tally.retained);
        let mut shared_patterns = (0..tally.n_participants()).map(|who| {
            tally
                .pattern_of(who)
                .pattern(&shape, tally.retained_by[who])
        });
        let first_pattern = shared_patterns.next().flatten();
        let pattern = first_pattern.filter(|_| shared_patterns.all(|other| other == first_pattern));
        let broken_pattern =
            pattern.filter(|_| is_pruned && tally.disagreements > 0 && resolved != pattern);
        let bound = DRIFT_TOLERANCE * tally.retained_by_any as f64;
        let is_tolerated = tally.disputed_by_explicit == 0
            && !rules.strict
            && broken_pattern.is_none()
            && tally.disagreements as f64 <= bound;
        let is_from_zeros = expectation != Expectation::Explicit && tally.disputed_by_explicit == 0;
        let cause = tally
            .zeros
            .cause(&tally.retained_by, &shape)
            .filter(|_| is_from_zeros && tally.disagreements > 0);
        Self {
            is_pruned,
            is_from_zeros,
            cause,
            retained: if is_pruned { tally.retained } else { numel },
            disagreements: tally.disagreements,
            first_difference: tally.first_difference,
            is_tolerated,
            pattern: resolved.filter(|_| is_pruned),
            broken_pattern,
            retained_by: tally.retained_by.clone(),
            pairwise: (tally.disagreements > 0).then(|| Pairwise::of(tally)),
            digest,
            name,
            shape,
        }
    }
}

/// In what way the masks of ingredients differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All but one share a mask.
    OneOdd {
        /// The odd participant.
        odd: usize,
        /// Whether it retains nearly everything: it was not pruned at all.
        is_dense: bool,
    },
    /// All pairs share at least 99 % of what either retains.
    Drift,
    /// The masks contain one another: phases of one run, at several sparsities.
    Nested {
        /// Participants, the densest first.
        order: Vec<usize>,
    },
    /// The masks were chosen independently.
    Independent,
}

/// Ingredients whose masks differ.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Every tensor with a mask, in the order of the output.
    pub tensors: Vec<Arc<TensorMask>>,
    /// Names of what was compared: the mask file, if one was given, then the ingredients.
    pub participants: Vec<String>,
    /// Agreement over all tensors with a mask.
    pub pairwise: Pairwise,
    /// In what way they differ.
    pub verdict: Verdict,
    /// Tensors whose zeros may be no mask, in the order of the output.
    pub accidents: Vec<Accident>,
}

/// A tensor that differs in zeros that may be no mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accident {
    /// Index of the tensor in [`Mismatch::tensors`].
    pub tensor: usize,
    /// What the zeros look like.
    pub cause: ZeroCause,
    /// The participants that retain less than others.
    pub zero_in: Vec<usize>,
}

/// Tensors from which one that differs alone is worth a word.
const FEWEST_FOR_LONE: usize = 4;

/// The tensors that differ in zeros that may be no mask.
fn accidents(tensors: &[Arc<TensorMask>]) -> Vec<Accident> {
    let differing = || {
        let all = tensors.iter().enumerate();
        all.filter(|(_, tensor)| tensor.is_mismatch())
    };
    let is_lone = differing().count() == 1 && tensors.len() >= FEWEST_FOR_LONE;
    let accident = |(index, tensor): (usize, &Arc<TensorMask>)| {
        let lone = (is_lone && tensor.is_from_zeros).then_some(ZeroCause::Lone);
        let most = tensor.retained_by.iter().max()?;
        let by = tensor.retained_by.iter().enumerate();
        Some(Accident {
            tensor: index,
            cause: tensor.cause.or(lone)?,
            zero_in: by
                .filter(|(_, by)| *by < most)
                .map(|(who, _)| who)
                .collect(),
        })
    };
    differing().filter_map(accident).collect()
}

impl Mismatch {
    /// The tensors in which participants differ by more than accidental zeros.
    pub fn differing(&self) -> impl Iterator<Item = &TensorMask> {
        self.tensors
            .iter()
            .map(Arc::as_ref)
            .filter(|tensor| tensor.is_mismatch())
    }

    fn new(tensors: Vec<Arc<TensorMask>>, participants: Vec<String>) -> Self {
        let n_participants = participants.len();
        let mut pairwise = Pairwise::empty(n_participants);
        let mut retained_by = vec![0_u64; n_participants];
        let mut numel = 0;
        for tensor in tensors.iter().filter(|tensor| tensor.is_pruned) {
            numel += tensor.shape.numel();
            retained_by
                .iter_mut()
                .zip(&tensor.retained_by)
                .for_each(|(sum, by)| *sum += by);
            match &tensor.pairwise {
                Some(of_tensor) => pairwise.add(of_tensor),
                None => pairwise
                    .agreements
                    .iter_mut()
                    .for_each(|agreement| agreement.shared += tensor.retained),
            }
        }
        let verdict = verdict(&pairwise, &retained_by, numel);
        Self {
            accidents: accidents(&tensors),
            tensors,
            participants,
            pairwise,
            verdict,
        }
    }
}

fn verdict(pairwise: &Pairwise, retained_by: &[u64], numel: u64) -> Verdict {
    let is_near = |agreement: Agreement| agreement.iou() >= NEAR_AGREEMENT;
    if pairwise.pairs().all(|(.., agreement)| is_near(agreement)) {
        return Verdict::Drift;
    }
    let n_participants = pairwise.n_participants;
    let odd_one = (0..n_participants).find(|&odd| {
        n_participants > 2
            && pairwise.pairs().all(|(first, second, agreement)| {
                let involves_odd = first == odd || second == odd;
                involves_odd != is_near(agreement)
            })
    });
    let is_dense =
        |who: usize| retained_by[who] as f64 >= (1.0 - DENSE_ZERO_FRACTION) * numel as f64;
    if let Some(odd) = odd_one {
        return Verdict::OneOdd {
            odd,
            is_dense: is_dense(odd),
        };
    }
    if n_participants == 2
        && let Some(odd) = (0..2).find(|&who| is_dense(who))
    {
        return Verdict::OneOdd {
            odd,
            is_dense: true,
        };
    }
    let contains = |agreement: Agreement| {
        let smaller = agreement.only_first.min(agreement.only_second);
        smaller as f64 <= (1.0 - NEAR_AGREEMENT) * agreement.shared as f64
    };
    if pairwise.pairs().all(|(.., agreement)| contains(agreement)) {
        let mut order: Vec<usize> = (0..n_participants).collect();
        order.sort_by_key(|&who| std::cmp::Reverse(retained_by[who]));
        return Verdict::Nested { order };
    }
    Verdict::Independent
}

/// One mask per pruned tensor, proved equal in every ingredient or made equal by a
/// named policy.
///
/// There is no other way to get one than [`Connectivity::prove`], and a soup
/// cannot be published without one.
#[derive(Clone, Debug)]
pub struct Connectivity {
    tensors: Vec<Arc<TensorMask>>,
    digest: Digest,
    policy: MismatchPolicy,
}

impl Connectivity {
    /// Proves that the participants share one connectivity, from what was counted
    /// over all of their tensors.
    ///
    /// # Errors
    /// [`Mismatch`] if a pruned tensor's masks differ, by more than accidental
    /// zeros, and the policy is to refuse that.
    pub fn prove(
        tensors: Vec<Arc<TensorMask>>,
        participants: &[String],
        rules: &Rules,
    ) -> Result<Self, Box<Mismatch>> {
        if rules.policy == MismatchPolicy::Error
            && tensors.iter().any(|tensor| tensor.is_mismatch())
        {
            return Err(Box::new(Mismatch::new(tensors, participants.to_vec())));
        }
        let pruned = tensors.iter().filter(|tensor| tensor.is_pruned);
        let digest = whole_mask_digest(pruned.map(|tensor| (tensor.name.as_str(), tensor.digest)));
        Ok(Self {
            tensors,
            digest,
            policy: rules.policy,
        })
    }

    /// Every tensor that could have been pruned, in the order of the output.
    pub fn tensors(&self) -> &[Arc<TensorMask>] {
        &self.tensors
    }

    /// Digest of all masks.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What was done where masks differed.
    pub fn policy(&self) -> MismatchPolicy {
        self.policy
    }

    /// The rule by which each tensor's differing bits become one bit: accidental
    /// zeros are retained, whatever the policy says of real differences.
    pub fn resolutions(&self) -> Vec<(String, Resolution)> {
        let resolution = |tensor: &TensorMask| {
            if tensor.is_mismatch() {
                Resolution::from(self.policy)
            } else {
                Resolution::Any
            }
        };
        self.tensors
            .iter()
            .map(|tensor| (tensor.name.clone(), resolution(tensor)))
            .collect()
    }

    /// Elements of pruned tensors, and those of them that are retained.
    pub fn totals(&self) -> (u64, u64) {
        let pruned = self.tensors.iter().filter(|tensor| tensor.is_pruned);
        pruned.fold((0, 0), |(numel, retained), tensor| {
            (numel + tensor.shape.numel(), retained + tensor.retained)
        })
    }
}

/// Digest of all masks: of the name and mask digest of each pruned tensor, sorted
/// by name.
pub(crate) fn whole_mask_digest<'a>(masks: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    let mut pruned: Vec<(&str, Digest)> = masks.collect();
    pruned.sort_unstable();
    let mut digester = Digester::new();
    for (name, digest) in pruned {
        digester.push_text(name);
        digester.push(digest);
    }
    digester.finish()
}

#[cfg(test)]
mod tests;
