//! From a subject and a target to a selection: which coordinates are retained.

use crate::connectivity::DENSE_ZERO_FRACTION;
use crate::connectivity::Pattern;
use crate::kernel::cpu::Cpu;
use crate::prune::Distribution;
use crate::prune::PruneError;
use crate::prune::Target;
use crate::prune::census::Census;
use crate::prune::census::take_census;
use crate::prune::channel::sum_channels;
use crate::prune::choose::Chosen;
use crate::prune::cut::Cut;
use crate::prune::histogram::Limits;
use crate::prune::pass::Effort;
use crate::prune::pattern::check_groups;
use crate::prune::subject::Subject;
use crate::prune::tile::Score;
use crate::prune::tile::Scorer;
use crate::tensor::Mask;

/// What is retained of one tensor.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// All that its own mask retains; it is not prunable, or nothing is pruned of it.
    Own,
    /// What the cut does not prune.
    Cut(Cut),
    /// The largest of each group.
    Pattern(Pattern),
    /// Whole output channels.
    Channels(Mask),
}

/// What is retained of a checkpoint. Pure data; nothing has been written.
#[derive(Clone, Debug)]
pub struct Selection {
    pub(super) target: Target,
    /// For each parameter, what is retained.
    pub(super) rules: Vec<Rule>,
    /// For each parameter, the score below which all was pruned and above which
    /// nothing was, if there is one.
    pub(super) thresholds: Vec<Option<f64>>,
    /// For each parameter, the coordinates that remained before.
    pub(super) remaining: Vec<u64>,
    /// For each parameter, whether its zeros were its mask before.
    pub(super) are_zeros_pruned: Vec<bool>,
    pub(super) score: Score,
}

impl Selection {
    /// What was asked for.
    pub fn target(&self) -> Target {
        self.target
    }
}

/// Decides which coordinates are retained.
///
/// Of an already pruned checkpoint only what remains is ranked, so masks are nested.
/// The result is a function of the subject and the target.
///
/// # Errors
/// [`PruneError`] if the target cannot be met, a weight is not finite, or something
/// cannot be read.
pub fn select(
    subject: &Subject,
    target: &Target,
    effort: Effort<'_>,
) -> Result<Selection, PruneError> {
    select_within(subject, target, Limits::default(), effort)
}

/// [`select`], with so much memory for keys; none changes a bit of the result.
pub(super) fn select_within(
    subject: &Subject,
    target: &Target,
    limits: Limits,
    effort: Effort<'_>,
) -> Result<Selection, PruneError> {
    target.check()?;
    if let Target::Pattern(pattern) = *target {
        check_groups(subject, pattern)?;
    }
    let n_parameters = subject.parameters().len();
    let backend = Cpu::new();
    let undecided = vec![false; n_parameters];
    let mut scorer = Scorer {
        subject,
        width: subject.width(),
        score: Score::Magnitude,
        are_zeros_pruned: &undecided,
        backend: &backend,
        limits,
    };
    let census: Vec<Census> = take_census(&scorer, *target, effort)?;
    let zeros_are_mask = |(parameter, census): (usize, &Census)| {
        let numel = subject.parameters()[parameter].shape.numel();
        let is_explicit = subject.has_explicit_mask(parameter);
        !is_explicit && census.zeros as f64 > DENSE_ZERO_FRACTION * numel as f64
    };
    let are_zeros_pruned: Vec<bool> = census.iter().enumerate().map(zeros_are_mask).collect();
    scorer.are_zeros_pruned = &are_zeros_pruned;
    let remaining: Vec<u64> = census
        .iter()
        .zip(&are_zeros_pruned)
        .map(|(census, is_pruned)| census.remaining - if *is_pruned { census.zeros } else { 0 })
        .collect();
    let mut chosen = Chosen {
        rules: vec![Rule::Own; n_parameters],
        thresholds: vec![None; n_parameters],
    };
    match *target {
        Target::Given => {}
        Target::Pattern(pattern) => {
            for parameter in subject.prunable() {
                chosen.rules[parameter] = Rule::Pattern(pattern);
            }
        }
        Target::Weights {
            amount,
            distribution,
        } => {
            if let Distribution::Random { seed } = distribution {
                scorer.score = Score::Random { seed };
            }
            let largest: Vec<u64> = census.iter().map(|census| census.largest).collect();
            chosen.weights(
                &scorer,
                amount,
                distribution,
                (&remaining, &largest),
                effort,
            )?;
        }
        Target::Channels {
            amount,
            distribution,
        } => {
            let channels = sum_channels(&scorer, effort)?;
            chosen.channels(subject, amount, distribution, &channels)?;
        }
    }
    let score = scorer.score;
    Ok(Selection {
        target: *target,
        rules: chosen.rules,
        thresholds: chosen.thresholds,
        remaining,
        are_zeros_pruned,
        score,
    })
}
