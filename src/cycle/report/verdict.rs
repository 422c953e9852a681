//! Comparisons in plain words: paired differences walk in, sentences walk out.

use crate::cycle::findings::Findings;
use crate::cycle::report::contender::Contender;
use crate::cycle::report::number::Unit;
use crate::cycle::report::number::percent;
use crate::cycle::report::number::plural;
use crate::cycle::report::spread::Outcome;
use crate::cycle::report::spread::Paired;
use crate::cycle::report::summary::PhaseSummary;
use crate::cycle::report::summary::last_judged;

/// `the soup beats the best candidate in 4 of 5 seeds, by 0.31 points on average (s.e.
/// 0.08)`, and what can be said of other outcomes.
pub(super) fn against(paired: &Paired, rival: &str, unit: Unit) -> String {
    let by = unit.magnitude(paired.mean);
    let points = unit.points();
    let outcome = paired.outcome();
    let verb = match outcome {
        Outcome::Better => "beats",
        Outcome::Worse => "loses to",
        Outcome::Equal => "equals",
    };
    let Some(error) = paired.standard_error else {
        return match outcome {
            Outcome::Equal => format!("the soup {verb} {rival} (one seed)"),
            _ => {
                format!("the soup {verb} {rival} by {by}{points} (one seed, so no standard error)")
            }
        };
    };
    let error = format!("s.e. {}", unit.value(error));
    let ties = match paired.tied {
        0 => String::new(),
        tied => format!(", tied in {tied}"),
    };
    let count = paired.count;
    match outcome {
        Outcome::Equal => format!(
            "the soup {verb} {rival} on average over {count} seeds: won {}, lost {}, tied {} ({error})",
            paired.won, paired.lost, paired.tied
        ),
        _ => {
            let of = if outcome == Outcome::Better {
                paired.won
            } else {
                paired.lost
            };
            let close = match paired.is_clear {
                Some(false) => "; too close to call",
                _ => "",
            };
            format!(
                "the soup {verb} {rival} in {of} of {count} seeds{ties}, by {by}{points} on average \
                 ({error}{close})"
            )
        }
    }
}

/// The verdict of a phase: its soup against the best candidate.
pub(super) fn of_phase(phase: &PhaseSummary, unit: Unit) -> String {
    let soup = phase.accuracy(&Contender::Soup);
    match (phase.soup_minus(&Contender::BestCandidate), soup) {
        (Some(paired), _) => against(&paired, "the best candidate", unit),
        (None, Some(soup)) => format!(
            "the soup has {} {}, and no candidate was measured",
            unit.whole(soup.mean),
            unit.noun()
        ),
        (None, None) => "no soup was measured".to_owned(),
    }
}

/// The first line of a report.
pub(super) fn headline(findings: &Findings, phases: &[PhaseSummary], unit: Unit) -> String {
    let Some(phase) = last_judged(phases) else {
        return "No soup has been measured yet.".to_owned();
    };
    let at = phase.sparsity.map_or_else(
        || format!("in phase {}", phase.phase),
        |sparsity| format!("at {} % sparsity", percent(sparsity.mean)),
    );
    let start = match unfinished(findings, phases) {
        Some(_) => format!("So far, {at},"),
        None => capitalised(&at) + ",",
    };
    let best = phase.soup_minus(&Contender::BestCandidate);
    let is_better = best.is_none_or(|paired| paired.outcome() == Outcome::Better);
    let verdict = of_phase(phase, unit);
    if is_better {
        format!("{start} {verdict}.")
    } else {
        let verdict = verdict
            .replacen("the soup loses to the best candidate", "it loses", 1)
            .replacen("the soup equals the best candidate", "they are equal", 1);
        format!("{start} the soup is not better than its best candidate: {verdict}.")
    }
}

/// `text` with a capital first letter.
pub(super) fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

/// The last soup against IMP of the same budget.
pub(super) fn same_budget(phases: &[PhaseSummary], unit: Unit) -> Option<String> {
    let paired = last_judged(phases)?.soup_minus(&Contender::imp_m_times())?;
    let rival = "IMP m-times, one model trained for as many epochs as all ingredients together,";
    Some(capitalised(&against(&paired, rival, unit)) + ".")
}

/// What is still to come, if anything.
pub(super) fn unfinished(findings: &Findings, phases: &[PhaseSummary]) -> Option<String> {
    let planned = findings.n_phases.max(phases.len());
    let n_seeds = findings.n_seeds;
    let is_done = |phase: &&PhaseSummary| {
        let soup = phase.accuracy(&Contender::Soup);
        soup.is_some_and(|soup| soup.count == n_seeds)
    };
    let done = phases.iter().filter(is_done).count();
    (done < planned || n_seeds == 0).then(|| {
        format!(
            "This run is not finished: {done} of {} have a soup in each of {}.",
            plural(planned, "phase"),
            plural(n_seeds, "seed")
        )
    })
}
