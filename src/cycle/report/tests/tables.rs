//! Cells of the tables against sums by hand, and what plots are drawn from.

use super::model;
use super::phase;
use super::run;

use crate::cycle::findings::Cost;
use crate::cycle::findings::Decision;
use crate::cycle::findings::Distances;
use crate::cycle::findings::Epoch;
use crate::cycle::findings::Findings;
use crate::cycle::findings::Layer;
use crate::cycle::findings::Network;
use crate::cycle::findings::Scores;
use crate::cycle::findings::Segment;
use crate::cycle::findings::Shifted;
use crate::cycle::findings::Study;
use crate::cycle::report::Report;
use crate::cycle::report::document::Block;
use crate::cycle::report::document::Document;
use crate::cycle::report::document::Table;
use crate::cycle::report::sections::document;

/// Two seeds, one phase, two ingredients; everything is measured.
fn findings() -> Findings {
    let studies = [(3, 0.0), (5, 0.02)].map(|(seed, more)| {
        let given = [(Some(0.8 + more), Some(0.7)), (Some(0.9), Some(0.6))];
        let mut one = phase(1, Some(0.92), &given);
        one.pruned = Some(Scores {
            accuracy: Some(0.3 + more),
            ..Scores::default()
        });
        one.layers = vec![
            Layer {
                name: "a.weight".to_owned(),
                numel: 1000,
                retained: if seed == 3 { 100 } else { 300 },
            },
            Layer {
                name: "b.weight".to_owned(),
                numel: 0,
                retained: 0,
            },
        ];
        one.cost = Some(Cost {
            parameters: 500 + seed,
            multiply_adds: 1000,
            theoretical_speedup: seed as f64,
        });
        one.segments = vec![Segment {
            from: 1,
            to: 2,
            points: vec![(0.0, 0.8), (0.5, 0.83 + more), (1.0, 0.9)],
        }];
        one.distances = Some(Distances {
            l2: vec![vec![0.0, 2.0], vec![2.0, 0.0]],
            angles: vec![vec![0.0, 10.0 + 50.0 * more], vec![10.0, 0.0]],
            to_soup: vec![1.0, 1.5],
        });
        one.soup.decisions = vec![
            Decision {
                ordinal: 1,
                score: 0.7,
                before: None,
                kept: true,
            },
            Decision {
                ordinal: 2,
                score: 0.7 - more,
                before: Some(0.7),
                kept: seed == 3,
            },
        ];
        one.soup.model.scores.ece = Some(0.02 + more);
        let shifted = |accuracies: [f64; 2]| Shifted {
            corruption: "fog".to_owned(),
            accuracies: accuracies.into(),
        };
        one.soup.model.shifted = vec![shifted([0.5, 0.7])];
        one.ingredients[0].model.shifted = vec![shifted([0.1, 0.1])];
        one.ingredients[1].model.shifted = vec![shifted([0.5, 0.5 + more])];
        for ingredient in &mut one.ingredients {
            ingredient.model.curve = [(1, 0.5), (2, 0.6)]
                .map(|(epoch, validation)| Epoch {
                    epoch,
                    train_loss: Some(1.0 / epoch as f64),
                    train_accuracy: Some(0.6),
                    validation_accuracy: Some(validation + more),
                    learning_rate: Some(0.1),
                })
                .into();
        }
        Study {
            seed,
            dense: model(Some(0.95), None),
            phases: vec![one],
        }
    });
    let mut findings = run(studies.into());
    findings.network = Some(Network {
        name: "net".to_owned(),
        parameters: 2000,
        multiply_adds: 9000,
    });
    findings
}

fn collect<'a>(blocks: &'a [Block], tables: &mut Vec<&'a Table>) {
    for block in blocks {
        match block {
            Block::Table(table) => tables.push(table),
            Block::Fold(_, blocks) => collect(blocks, tables),
            _ => {}
        }
    }
}

/// The texts of all rows of a section's tables.
fn texts(document: &Document, id: &str) -> Vec<Vec<String>> {
    let section = document.sections.iter().find(|section| section.id == id);
    let mut tables = Vec::new();
    collect(&section.unwrap().blocks, &mut tables);
    let rows = tables.iter().flat_map(|table| &table.rows);
    rows.map(|row| row.iter().map(|cell| cell.text.clone()).collect())
        .collect()
}

#[test]
fn tables_hold_what_was_found() {
    let findings = findings();
    let document = document(&Report::of(&findings));
    let check = |id: &str, row: usize, expected: &[&str]| {
        assert_eq!(texts(&document, id)[row], expected, "{id}, row {row}");
    };
    check("accuracy", 0, &["soup", "92.00 ± 0.00"]);
    check("accuracy", 1, &["mean candidate", "85.50 ± 0.71"]);
    check("accuracy", 2, &["best candidate", "90.00 ± 0.00"]);
    check("accuracy", 3, &["best by validation", "81.00 ± 1.41"]);
    check("accuracy", 5, &["before retraining", "31.00 ± 1.41"]);
    check("accuracy", 6, &["seeds with a soup", "2"]);
    let worse = ["dense", "−3.00", "0.00", "0", "2", "0", "worse"];
    check("differences", 3, &worse);
    // 13 standard errors, where Student's t of two seeds is 12.7.
    let better = ["mean candidate", "+6.50", "0.50", "2", "0", "0", "better"];
    check("differences", 0, &better);
    // The midpoints are 2 points below the straight line, and on it.
    check(
        "segments",
        0,
        &["1", "2", "−1.00", "1.00", "2.00", "seed 3, 1 to 2"],
    );
    check("distances", 0, &["1", "2", "2.000", "10.50", "1.250"]);
    check("greedy", 0, &["1", "2", "2.0", "1.5"]);
    check("calibration", 0, &["soup", "3.00 ± 1.41"]);
    // The best candidate is the second ingredient.
    let fog = ["fog", "60.00 ± 0.00", "50.50 ± 0.71", "+9.50", "0.50"];
    check("corrupted", 1, &fog);
    check("layers", 0, &["a.weight", "1,000", "200", "", "80.00"]);
    check("layers", 1, &["b.weight", "0", "0", "", "–"]);
    check("cost", 0, &["dense", "0.00", "2,000", "9,000", "1.00 ×"]);
    check("cost", 1, &["1", "50.00", "504", "1,000", "4.00 ×"]);
    check(
        "curves",
        0,
        &["1", "2.0", "1.0000", "0.5000", "60.00", "51.00", "61.00"],
    );
    let decision = ["2", "70.00", "68.00", "−2.00", "dropped"];
    assert!(
        texts(&document, "details")
            .iter()
            .any(|row| *row == decision)
    );
}

#[test]
fn what_favours_whom_is_said() {
    let findings = findings();
    let report = Report::of(&findings);
    for text in [report.html(), report.markdown()] {
        assert!(text.contains("that favours the soup's opponent"));
        assert!(text.contains("a bound, not a measurement"));
        assert!(text.contains("not corrected for the number of comparisons"));
    }
}

#[test]
fn a_loss_points_down() {
    let draw = |soup: f64| {
        let mut findings = findings();
        for study in &mut findings.studies {
            study.phases[0].soup.model.scores.accuracy = Some(soup);
        }
        let page = Report::of(&findings).html();
        let read = super::xml::read(&page).unwrap();
        let bar = |element: &&super::xml::Element| element.attribute("class") == Some("column");
        let column = read.elements.iter().find(bar).unwrap();
        let zero = |element: &&super::xml::Element| element.attribute("class") == Some("zero");
        let zero = read
            .elements
            .iter()
            .find(zero)
            .unwrap()
            .attribute("d")
            .unwrap()
            .to_owned();
        let zero: f64 = zero[zero.find(' ').unwrap() + 1..zero.find('H').unwrap()]
            .parse()
            .unwrap();
        let number = |name: &str| column.attribute(name).unwrap().parse::<f64>().unwrap();
        (number("y") - zero, number("height"))
    };
    let (top, height) = draw(0.88);
    assert!(top == 0.0 && height > 50.0, "{top}, {height}");
    let (top, height) = draw(0.93);
    assert!(
        (top + height).abs() < 0.2 && height > 50.0,
        "{top}, {height}"
    );
    assert_eq!(draw(0.9), (0.0, 0.0));
}
