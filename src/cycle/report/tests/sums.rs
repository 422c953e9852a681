//! Sums over seeds, against numpy, scipy and paper.

use serde_json::Value;

use super::model;
use super::phase;
use super::run;

use crate::cycle::findings::Study;
use crate::cycle::report::Contender;
use crate::cycle::report::Paired;
use crate::cycle::report::Spread;
use crate::cycle::report::Summary;

/// What numpy and scipy find; `fixtures/report/make.py` wrote it.
const GOLDEN: &str = include_str!("../../../../fixtures/report/golden.json");

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

/// The study that `given` describes.
fn study(seed: u64, given: &Value) -> Study {
    let phases = given["phases"].as_array().unwrap().iter().enumerate();
    let phases = phases.map(|(idx, given)| {
        let ingredients = given["ingredients"].as_array().unwrap().iter();
        let ingredients: Vec<_> = ingredients
            .map(|pair| (number(&pair[0]), number(&pair[1])))
            .collect();
        let mut phase = phase(idx as u32 + 1, number(&given["soup"]), &ingredients);
        for (name, accuracy) in given["baselines"].as_object().unwrap() {
            let model = model(number(accuracy), None);
            phase.baselines.insert(name.clone(), model);
        }
        phase
    });
    Study {
        seed,
        dense: model(number(&given["dense"]), None),
        phases: phases.collect(),
    }
}

/// Fails unless both are missing or differ by rounding alone.
fn assert_near(found: Option<f64>, expected: &Value, what: &str) {
    match (found, number(expected)) {
        (None, None) => {}
        (Some(found), Some(expected)) => {
            assert!(
                (found - expected).abs() <= 1e-13,
                "{what}: {found}, {expected}"
            );
        }
        (found, expected) => panic!("{what}: {found:?}, {expected:?}"),
    }
}

#[test]
fn sums_are_those_of_numpy_and_scipy() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let mut n_clear = 0;
    for case in ["many", "partial", "tied", "one"] {
        let studies = golden[case]["studies"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate();
        let studies = studies.map(|(seed, given)| study(seed as u64, given));
        let summary = Summary::of(&run(studies.collect()));
        let expected = golden[case]["phases"].as_array().unwrap();
        assert_eq!(summary.phases.len(), expected.len());
        for (phase, expected) in summary.phases.iter().zip(expected) {
            let expected = expected.as_object().unwrap();
            let mut names: Vec<&str> = phase
                .standings
                .iter()
                .map(|one| one.contender.key())
                .collect();
            names.sort_unstable();
            assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{case}");
            for standing in &phase.standings {
                let what = format!("{case}, {}, {}", phase.phase, standing.contender.key());
                let expected = &expected[standing.contender.key()];
                let accuracy = &expected["accuracy"];
                assert_eq!(standing.accuracy.count as u64, accuracy["count"], "{what}");
                assert_near(Some(standing.accuracy.mean), &accuracy["mean"], &what);
                assert_near(standing.accuracy.deviation, &accuracy["deviation"], &what);
                let expected = &expected["soup_minus"];
                let Some(paired) = standing.soup_minus else {
                    assert_eq!(*expected, Value::Null, "{what}");
                    continue;
                };
                assert_eq!(paired.count as u64, expected["count"], "{what}");
                assert_near(Some(paired.mean), &expected["mean"], &what);
                assert_near(paired.standard_error, &expected["standard_error"], &what);
                assert_eq!(paired.is_clear, expected["is_clear"].as_bool(), "{what}");
                assert_eq!(paired.won as u64, expected["won"], "{what}");
                assert_eq!(paired.lost as u64, expected["lost"], "{what}");
                assert_eq!(paired.tied as u64, expected["tied"], "{what}");
                n_clear += usize::from(paired.is_clear == Some(true));
            }
        }
    }
    assert!(n_clear > 5, "both answers occur");
}

#[test]
fn clear_is_what_is_beyond_students_t() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    for (idx, quantile) in golden["student_t"].as_array().unwrap().iter().enumerate() {
        // Half of the values are 1 above their mean and half below, or one is in the middle.
        let count = idx + 2;
        let values: Vec<f64> = (0..count)
            .map(|at| match 2 * at + 1 {
                twice if twice == count => 0.0,
                twice if twice < count => -1.0,
                _ => 1.0,
            })
            .collect();
        let error = Spread::of(values.iter().copied())
            .unwrap()
            .standard_error()
            .unwrap();
        let just = quantile.as_f64().unwrap() * error;
        for (factor, expected) in [
            (0.999, false),
            (1.001, true),
            (-0.999, false),
            (-1.001, true),
        ] {
            let pairs = values.iter().map(|value| (value + factor * just, 0.0));
            let paired = Paired::of(pairs).unwrap();
            assert_eq!(paired.is_clear, Some(expected), "{count} seeds, {factor}");
        }
    }
}

#[test]
fn sums_by_hand() {
    // Two seeds. Candidates 0.5 and 0.7, then 0.6 and 0.6; the second is better validated.
    let studies = [
        (1, 0.8, [(0.5, 0.1), (0.7, 0.2)]),
        (2, 0.6, [(0.6, 0.3), (0.6, 0.3)]),
    ];
    let studies = studies.map(|(seed, soup, given)| Study {
        seed,
        dense: model(Some(0.9), None),
        phases: vec![phase(
            1,
            Some(soup),
            &given.map(|(a, b)| (Some(a), Some(b))),
        )],
    });
    let summary = Summary::of(&run(studies.into()));
    let check = |who: Contender, mean: f64, deviation: f64, difference: f64, error: f64| {
        let standing = summary.phases[0].standing(&who).unwrap();
        let paired = standing.soup_minus.unwrap();
        let found = [
            standing.accuracy.mean,
            standing.accuracy.deviation.unwrap(),
            paired.mean,
            paired.standard_error.unwrap(),
        ];
        let expected = [mean, deviation, difference, error];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{}: {found}, {expected}",
                who.key()
            );
        }
    };
    check(Contender::MeanCandidate, 0.6, 0.0, 0.1, 0.1);
    check(Contender::BestCandidate, 0.65, 0.005_f64.sqrt(), 0.05, 0.05);
    check(Contender::ByValidation, 0.65, 0.005_f64.sqrt(), 0.05, 0.05);
    check(Contender::Dense, 0.9, 0.0, -0.2, 0.1);
    let best = summary.phases[0]
        .soup_minus(&Contender::BestCandidate)
        .unwrap();
    assert_eq!((best.won, best.lost, best.tied), (1, 0, 1));
}

#[test]
fn values_that_are_not_finite_are_not_measured() {
    assert_eq!(Spread::of([]), None);
    assert_eq!(Spread::of([f64::NAN, f64::INFINITY]), None);
    let one = Spread::of([f64::NAN, 0.5]).unwrap();
    assert_eq!((one.count, one.mean, one.deviation), (1, 0.5, None));
    assert_eq!(Paired::of([(0.5, f64::NAN)]), None);
}
