//! Verdicts in words, and the rows of the table.

use super::model;
use super::phase;
use super::run;

use crate::cycle::findings::Findings;
use crate::cycle::findings::Study;
use crate::cycle::report::COLUMNS;
use crate::cycle::report::Contender;
use crate::cycle::report::Report;
use crate::cycle::report::Summary;
use crate::cycle::report::legend;
use crate::cycle::report::number::Unit;
use crate::cycle::report::number::duration;
use crate::cycle::report::rows;

/// A run of one phase: the soup and the best of two candidates, a pair per seed.
fn of(pairs: &[(f64, f64)]) -> Findings {
    let study = |(idx, &(soup, best)): (usize, &(f64, f64))| Study {
        seed: idx as u64 + 1,
        dense: model(None, None),
        phases: vec![phase(
            1,
            Some(soup),
            &[(Some(best - 0.1), None), (Some(best), None)],
        )],
    };
    run(pairs.iter().enumerate().map(study).collect())
}

#[test]
fn the_headline_says_who_wins() {
    let check = |pairs: &[(f64, f64)], expected: &str| {
        let findings = of(pairs);
        let report = Report::of(&findings);
        assert_eq!(report.summary.headline, expected);
        let first = report.markdown().lines().next().unwrap().replace('\\', "");
        assert_eq!(first, format!("**{expected}**"));
    };
    check(
        &[(0.905, 0.9), (0.904, 0.9), (0.906, 0.9)],
        "At 50.00 % sparsity, the soup beats the best candidate in 3 of 3 seeds, by 0.50 points \
         on average (s.e. 0.06).",
    );
    check(
        &[(0.92, 0.9), (0.90, 0.9), (0.89, 0.9)],
        "At 50.00 % sparsity, the soup beats the best candidate in 1 of 3 seeds, tied in 1, by \
         0.33 points on average (s.e. 0.88; too close to call).",
    );
    check(
        &[(0.905, 0.9)],
        "At 50.00 % sparsity, the soup beats the best candidate by 0.50 points (one seed, so no \
         standard error).",
    );
    check(
        &[(0.88, 0.9), (0.88, 0.9)],
        "At 50.00 % sparsity, the soup is not better than its best candidate: it loses in 2 of \
         2 seeds, by 2.00 points on average (s.e. 0.00).",
    );
    check(
        &[(0.9, 0.9)],
        "At 50.00 % sparsity, the soup is not better than its best candidate: they are equal \
         (one seed).",
    );
    check(
        &[(0.91, 0.9), (0.89, 0.9)],
        "At 50.00 % sparsity, the soup is not better than its best candidate: they are equal \
         on average over 2 seeds: won 1, lost 1, tied 0 (s.e. 1.00).",
    );
    check(
        &[(0.90004, 0.9)],
        "At 50.00 % sparsity, the soup beats the best candidate by less than 0.01 points (one \
         seed, so no standard error).",
    );
    check(
        &[(93.25, 92.0)],
        "At 50.00 % sparsity, the soup beats the best candidate by 1.2500 (one seed, so no \
         standard error).",
    );
    check(&[], "No soup has been measured yet.");
}

#[test]
fn a_run_that_goes_on_says_so() {
    let mut findings = of(&[(0.91, 0.9), (0.92, 0.9)]);
    findings.n_phases = 2;
    let summary = Summary::of(&findings);
    assert!(
        summary
            .headline
            .starts_with("So far, at 50.00 % sparsity, the soup beats")
    );
    assert_eq!(
        summary.unfinished.as_deref(),
        Some("This run is not finished: 1 of 2 phases have a soup in each of 2 seeds.")
    );
    findings.n_phases = 1;
    assert_eq!(Summary::of(&findings).unfinished, None);
    findings.n_seeds = 3;
    assert_eq!(
        Summary::of(&findings).unfinished.as_deref(),
        Some("This run is not finished: 0 of 1 phase have a soup in each of 3 seeds.")
    );
    findings.n_seeds = 2;
    findings.studies[1].phases.clear();
    assert!(Summary::of(&findings).unfinished.is_some());
}

#[test]
fn the_same_budget_is_compared() {
    let mut findings = of(&[(0.91, 0.9), (0.92, 0.9)]);
    assert_eq!(Summary::of(&findings).same_budget, None);
    for study in &mut findings.studies {
        let longer = model(Some(0.93), None);
        let baselines = &mut study.phases[0].baselines;
        baselines.insert("imp-m-times".to_owned(), longer);
    }
    let said = Summary::of(&findings).same_budget.unwrap();
    let start = "The soup loses to IMP m-times, one model trained for as many epochs as all \
                 ingredients together, in 2 of 2 seeds, by 1.50 points on average";
    assert!(said.starts_with(start), "{said}");
}

#[test]
fn the_best_candidate_is_the_first_of_the_highest() {
    let mut one = phase(
        1,
        None,
        &[
            (Some(0.5), Some(0.9)),
            (Some(0.7), Some(0.9)),
            (Some(0.7), None),
        ],
    );
    one.ingredients[1].model.scores.loss = Some(2.0);
    let study = Study {
        seed: 1,
        dense: model(None, None),
        phases: Vec::new(),
    };
    let best = Contender::BestCandidate.model(&study, &one).unwrap();
    assert_eq!(best.scores.loss, Some(2.0));
    let validated = Contender::ByValidation.model(&study, &one).unwrap();
    assert_eq!(validated.scores.accuracy, Some(0.5));
    one.ingredients.clear();
    assert_eq!(Contender::BestCandidate.model(&study, &one), None);
}

#[test]
fn rows_for_a_terminal() {
    let mut findings = of(&[(0.91, 0.9), (0.88, 0.9)]);
    let mut last = phase(2, None, &[]);
    last.baselines
        .insert("imp".to_owned(), model(Some(0.85), None));
    findings.studies[0].phases.push(last);
    let found = rows(&Report::of(&findings));
    assert_eq!(COLUMNS.len(), 7);
    assert_eq!(
        found,
        [
            ["1", "50.00 %", "-", "85.00", "90.00", "89.50", "-0.50"],
            ["", "", "", "+- 0.00", "+- 0.00", "+- 2.12", ""],
            ["2", "75.00 %", "85.00", "-", "-", "-", "-"],
        ]
    );
    assert!(found.iter().flatten().all(|cell| cell.is_ascii()));
    assert_eq!(
        legend(&Report::of(&findings)),
        "test accuracy in per cent: mean of 2 seeds, +- their standard deviation"
    );
    let one = Findings {
        studies: findings.studies[..1].to_vec(),
        ..findings
    };
    assert_eq!(
        legend(&Report::of(&one)),
        "test accuracy in per cent, of one seed"
    );
    assert_eq!(rows(&Report::of(&one)).len(), 2, "no deviation of one seed");
}

#[test]
fn numbers_are_shown_with_their_signs() {
    let check = |unit: Unit, value: f64, expected: &str| {
        assert_eq!(unit.difference(value), expected);
    };
    check(Unit::Share, 0.0031, "+0.31");
    check(Unit::Share, -0.0031, "−0.31");
    check(Unit::Share, 0.0, "0.00");
    check(Unit::Number, -1.5, "−1.5000");
    check(Unit::Share, f64::NAN, "–");
    let check = |secs: f64, expected: &str| assert_eq!(duration(secs), expected);
    check(0.04, "0.0 s");
    check(59.0, "59 s");
    check(200.0, "3 min 20 s");
    check(7530.0, "2 h 5 min");
    check(f64::NAN, "–");
    check(-1.0, "–");
}
