//! What findings add up to over the seeds: [`Findings`] walk in, a [`Summary`] walks out.

use serde::Serialize;

use crate::cycle::findings::Findings;
use crate::cycle::report::contender::Contender;
use crate::cycle::report::contender::accuracy;
use crate::cycle::report::contender::at_phase;
use crate::cycle::report::contender::phase_numbers;
use crate::cycle::report::number::Unit;
use crate::cycle::report::spread::Paired;
use crate::cycle::report::spread::Spread;
use crate::cycle::report::verdict;

/// A run over all its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Whether the soup of the last phase is better than its best candidate, in a
    /// sentence; the first line of a report.
    pub headline: String,
    /// What is still to come, if the run goes on.
    pub unfinished: Option<String>,
    /// Seeds, those included that have reached no phase.
    pub seeds: usize,
    /// The phases that some seed has reached, in order.
    pub phases: Vec<PhaseSummary>,
}

/// One phase over all seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseSummary {
    /// From 1.
    pub phase: u32,
    /// Fraction of the prunable weights that is pruned.
    pub sparsity: Option<Spread>,
    /// Whether the soup is better than the best candidate, in words.
    pub verdict: String,
    /// Everyone who was measured, the soup first.
    pub standings: Vec<Standing>,
    /// Ingredients that are missing, and why, with their seeds.
    pub missing: Vec<String>,
}

/// A contender in one phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// Who.
    pub contender: Contender,
    /// Test accuracy over the seeds.
    pub accuracy: Spread,
    /// The soup's accuracy minus this one's, over the seeds that have both. `None` of the
    /// soup itself, and while there is no soup.
    pub soup_minus: Option<Paired>,
}

impl Summary {
    /// Adds up what was found.
    pub fn of(findings: &Findings) -> Self {
        let unit = Unit::of(findings);
        let contenders = Contender::all(findings);
        let phases: Vec<PhaseSummary> = phase_numbers(findings)
            .into_iter()
            .map(|number| PhaseSummary::of(findings, number, &contenders, unit))
            .collect();
        Self {
            headline: verdict::headline(findings, &phases, unit),
            unfinished: verdict::unfinished(findings, &phases),
            seeds: findings.studies.len(),
            phases,
        }
    }

    /// The last phase in which a soup was measured.
    pub fn last_judged(&self) -> Option<&PhaseSummary> {
        let has_soup = |phase: &&PhaseSummary| phase.accuracy(&Contender::Soup).is_some();
        self.phases.iter().rev().find(has_soup)
    }
}

impl PhaseSummary {
    fn of(findings: &Findings, number: u32, contenders: &[Contender], unit: Unit) -> Self {
        let standing = |contender: &Contender| {
            let of = |who: &Contender| {
                let who = who.clone();
                at_phase(findings, number)
                    .map(move |(study, phase)| who.measure(study, phase, &accuracy))
            };
            let pairs = of(&Contender::Soup).zip(of(contender));
            let soup_minus = match contender {
                Contender::Soup => None,
                _ => Paired::of(pairs.filter_map(|(soup, rival)| soup.zip(rival))),
            };
            Some(Standing {
                contender: contender.clone(),
                accuracy: Spread::of(of(contender).flatten())?,
                soup_minus,
            })
        };
        let missing = at_phase(findings, number).flat_map(|(study, phase)| {
            let reasons = phase.soup.missing.iter();
            reasons.map(|reason| format!("seed {}: {reason}", study.seed))
        });
        let mut summary = Self {
            phase: number,
            sparsity: Spread::of(at_phase(findings, number).map(|(_, phase)| phase.sparsity)),
            verdict: String::new(),
            standings: contenders.iter().filter_map(standing).collect(),
            missing: missing.collect(),
        };
        summary.verdict = verdict::of_phase(&summary, unit);
        summary
    }

    /// Who was measured, by name.
    pub fn standing(&self, contender: &Contender) -> Option<&Standing> {
        let mut standings = self.standings.iter();
        standings.find(|standing| standing.contender == *contender)
    }

    /// Test accuracy of a contender.
    pub fn accuracy(&self, contender: &Contender) -> Option<Spread> {
        self.standing(contender).map(|standing| standing.accuracy)
    }

    /// The soup's accuracy minus a contender's.
    pub fn soup_minus(&self, contender: &Contender) -> Option<Paired> {
        self.standing(contender)?.soup_minus
    }
}
