//! In what ingredients differ: lists walk in, one set of choices per ingredient walks out.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use super::Recipe;
use crate::train::choices::Choices;
use crate::train::choices::ScheduleName;

/// Values that ingredients take in turn, or in every combination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Varied {
    /// Factors of the weight decay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weight_decay: Vec<f64>,
    /// Lengths of the retraining.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<u64>,
    /// Largest learning rates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learning_rate: Vec<f64>,
    /// Schedules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<ScheduleName>,
    /// Shares of each label that are spread over all classes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_smoothing: Vec<f64>,
    /// Whether every combination is taken, in place of the first values, the second ones
    /// and so on.
    pub grid: bool,
}

/// One ingredient of every phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingredient {
    /// Its seed, if the recipe names one.
    pub seed: Option<u64>,
    /// How it is trained: what is open is as in the retraining.
    pub training: Choices,
    /// In what it differs from others, as text.
    pub varied: BTreeMap<String, String>,
}

/// A list of a [`Varied`]: its name, its values as text, and what they do.
struct Axis<'a> {
    name: &'static str,
    len: usize,
    text: Box<dyn Fn(usize) -> String + 'a>,
    set: Box<dyn Fn(&mut Choices, usize) + 'a>,
}

/// An axis of a list and the choice of the same name.
macro_rules! axis {
    ($varied:expr, $field:ident) => {
        Axis {
            name: stringify!($field),
            len: $varied.$field.len(),
            text: Box::new(|idx| text(&$varied.$field[idx])),
            set: Box::new(|choices, idx| choices.$field = Some($varied.$field[idx])),
        }
    };
}

/// A value as it stands in a recipe, without quotes.
fn text(value: &impl Serialize) -> String {
    let value = toml::Value::try_from(value);
    value.map_or_else(
        |_| String::new(),
        |value| value.to_string().trim_matches('"').to_owned(),
    )
}

impl Varied {
    fn axes(&self) -> Vec<Axis<'_>> {
        let all = [
            axis!(self, weight_decay),
            axis!(self, epochs),
            axis!(self, learning_rate),
            axis!(self, schedule),
            axis!(self, label_smoothing),
        ];
        all.into_iter().filter(|axis| axis.len > 0).collect()
    }

    /// Number of ingredients that the lists ask for by themselves, if they do.
    pub(super) fn count(&self) -> Option<usize> {
        let lengths = self.axes().into_iter().map(|axis| axis.len);
        if self.grid {
            lengths.reduce(usize::saturating_mul)
        } else {
            lengths.max()
        }
    }

    /// What the `idx`th ingredient takes.
    fn ingredient(&self, idx: usize) -> (Choices, BTreeMap<String, String>) {
        let (mut training, mut varied) = (Choices::default(), BTreeMap::new());
        let mut rest = idx;
        for axis in self.axes() {
            // Of a grid, the first list changes fastest.
            let at = rest % axis.len;
            if self.grid {
                rest /= axis.len;
            }
            (axis.set)(&mut training, at);
            varied.insert(axis.name.to_owned(), (axis.text)(at));
        }
        (training, varied)
    }
}

impl Recipe {
    /// Number of ingredients of a soup.
    pub fn n_ingredients(&self) -> usize {
        const DEFAULT: usize = 3;
        let ingredients = &self.ingredients;
        if !ingredients.each.is_empty() {
            return ingredients.each.len();
        }
        let asked = ingredients.count.or_else(|| ingredients.vary.count());
        asked.unwrap_or(DEFAULT)
    }

    /// The ingredients of every phase, in the order in which they are summed.
    pub fn ingredients(&self) -> Vec<Ingredient> {
        let ingredients = &self.ingredients;
        if ingredients.each.is_empty() {
            return (0..self.n_ingredients())
                .map(|idx| {
                    let (training, varied) = ingredients.vary.ingredient(idx);
                    Ingredient {
                        seed: None,
                        training,
                        varied,
                    }
                })
                .collect();
        }
        ingredients
            .each
            .iter()
            .map(|each| {
                let said = toml::Table::try_from(each).unwrap_or_default();
                let varied = said.iter().map(|(key, value)| (key.clone(), text(value)));
                Ingredient {
                    seed: each.seed,
                    training: each.training.clone(),
                    varied: varied.collect(),
                }
            })
            .collect()
    }
}
