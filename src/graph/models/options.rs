//! Options of a model, as text: names are checked at once, values where they are read.

use super::Model;
use super::ModelError;
use crate::graph::BuildError;
use crate::graph::Graph;
use crate::graph::models::ModelSpec;

use std::collections::BTreeMap;

/// Options of a model whose names are known.
pub(super) struct Options<'a> {
    model: &'a Model,
    values: &'a BTreeMap<String, String>,
}

impl<'a> Options<'a> {
    /// # Errors
    /// [`ModelError::UnknownOption`].
    pub(super) fn new(
        model: &'a Model,
        values: &'a BTreeMap<String, String>,
    ) -> Result<Self, ModelError> {
        for name in values.keys() {
            if !model.options.iter().any(|option| option.name == name) {
                return Err(ModelError::unknown_option(model, name));
            }
        }
        Ok(Self { model, values })
    }

    /// The value of an option, or its default.
    pub(super) fn text(&self, name: &str) -> &str {
        let default = || {
            let option = self.model.options.iter().find(|option| option.name == name);
            option.map_or("", |option| option.default)
        };
        self.values.get(name).map_or_else(default, String::as_str)
    }

    /// A positive whole number.
    pub(super) fn size(&self, name: &str) -> Result<usize, ModelError> {
        let found = self.text(name);
        size(found).ok_or_else(|| self.wrong(name, "a whole number from 1 to 1000000"))
    }

    /// Positive whole numbers with commas between them; `none` for no number.
    pub(super) fn sizes(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        let found = self.text(name);
        if found == "none" {
            return Ok(Vec::new());
        }
        let sizes: Option<Vec<usize>> = found.split(',').map(size).collect();
        sizes.filter(|sizes| sizes.len() <= 64).ok_or_else(|| {
            self.wrong(
                name,
                "at most 64 whole numbers from 1 to 1000000, such as `300,100`",
            )
        })
    }

    /// A number in [0, 1).
    pub(super) fn probability(&self, name: &str) -> Result<f64, ModelError> {
        let found = self.text(name).trim().parse::<f64>().ok();
        found
            .filter(|found| (0.0..1.0).contains(found))
            .ok_or_else(|| self.wrong(name, "a number in [0, 1)"))
    }

    pub(super) fn wrong(&self, name: &str, expected: &'static str) -> ModelError {
        ModelError::OptionValue {
            model: self.model.name.to_owned(),
            option: name.to_owned(),
            found: self.text(name).to_owned(),
            expected,
        }
    }
}

fn size(text: &str) -> Option<usize> {
    let number = text.trim().parse().ok()?;
    (1..=1_000_000).contains(&number).then_some(number)
}

/// A graph, or why `spec` has none.
pub(super) fn built(
    spec: &ModelSpec,
    graph: Result<Graph, BuildError>,
) -> Result<Graph, ModelError> {
    graph.map_err(|source| ModelError::Build {
        model: spec.name.clone(),
        input: spec.input.to_string(),
        classes: spec.classes,
        source: Box::new(source),
    })
}
