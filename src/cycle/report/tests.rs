mod page;
mod sample;
mod sums;
mod tables;
mod words;
mod xml;

use crate::cycle::findings::Findings;
use crate::cycle::findings::Ingredient;
use crate::cycle::findings::Model;
use crate::cycle::findings::Phase;
use crate::cycle::findings::Scores;
use crate::cycle::findings::Soup;
use crate::cycle::findings::Study;

/// A model of which only accuracies are known.
fn model(accuracy: Option<f64>, validation_accuracy: Option<f64>) -> Model {
    Model {
        scores: Scores {
            accuracy,
            validation_accuracy,
            ..Scores::default()
        },
        ..Model::default()
    }
}

/// A phase of which only accuracies are known: of the soup, and test and validation of
/// the ingredients.
fn phase(number: u32, soup: Option<f64>, ingredients: &[(Option<f64>, Option<f64>)]) -> Phase {
    let sparsity = 1.0 - 0.5_f64.powi(number as i32);
    let ingredients = ingredients.iter().enumerate();
    Phase {
        phase: number,
        target: sparsity,
        sparsity,
        layers: Vec::new(),
        cost: None,
        pruned: None,
        ingredients: ingredients
            .map(|(idx, &(test, validation))| Ingredient {
                ordinal: idx + 1,
                varied: Default::default(),
                coefficient: 1.0,
                model: model(test, validation),
            })
            .collect(),
        soup: Soup {
            method: "uniform".to_owned(),
            model: model(soup, None),
            decisions: Vec::new(),
            missing: Vec::new(),
        },
        baselines: Default::default(),
        distances: None,
        segments: Vec::new(),
    }
}

/// A run of these studies, with as many phases as the longest has.
fn run(studies: Vec<Study>) -> Findings {
    let longest = studies.iter().map(|study| study.phases.len()).max();
    Findings {
        format_version: 1,
        tool: String::new(),
        title: String::new(),
        recipe: String::new(),
        network: None,
        data: None,
        n_ingredients: 2,
        n_phases: longest.unwrap_or(0),
        n_seeds: studies.len(),
        studies,
        delivered: None,
        computing_secs: 0.0,
    }
}
