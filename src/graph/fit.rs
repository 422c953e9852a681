//! Whether tensors are those of a graph: names and shapes walk in.

use super::Graph;
use super::Role;
use crate::tensor::Printable;
use crate::tensor::Shape;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use thiserror::Error;

/// How tensors differ from those of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FitError {
    /// Tensors of the graph are not there.
    #[error("tensor `{tensor}` of `{model}` is missing{}; {hint}", more(*others))]
    Missing {
        /// The first one.
        tensor: String,
        /// How many others are missing.
        others: usize,
        /// The graph.
        model: String,
        /// What may be the reason, and what to do.
        hint: String,
    },
    /// Tensors are there that the graph has not.
    #[error("tensor `{}` is not one of `{model}`{}; {hint}", Printable(tensor), more(*others))]
    Unexpected {
        /// The first one.
        tensor: String,
        /// How many others there are.
        others: usize,
        /// The graph.
        model: String,
        /// What may be the reason, and what to do.
        hint: String,
    },
    /// A tensor has another shape.
    #[error(
        "tensor `{tensor}` has shape {found}, expected {expected} of `{model}`; is it a model \
         with other widths, another input or other classes?"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Shape,
        /// Shape in the graph.
        expected: Shape,
        /// The graph.
        model: String,
    },
}

/// How many more there are, in words.
fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    }
}

impl Graph {
    /// Checks that tensors with these names and shapes are the parameters and
    /// statistics of this graph, no more and no less. The count of batches of a batch norm
    /// may be missing: nothing is computed with it, and exported models have none.
    ///
    /// # Errors
    /// [`FitError`] names the first difference.
    pub fn check_tensors<'a>(
        &self,
        tensors: impl IntoIterator<Item = (&'a str, &'a Shape)>,
    ) -> Result<(), FitError> {
        let found: BTreeMap<&str, &Shape> = tensors.into_iter().collect();
        let expected: BTreeSet<&str> = self
            .parameters
            .iter()
            .map(|parameter| parameter.name.as_str())
            .collect();
        let mut unexpected = found
            .keys()
            .copied()
            .filter(|name| !expected.contains(name))
            .peekable();
        let mut missing = self
            .parameters
            .iter()
            .filter(|parameter| parameter.role != Role::BatchCount)
            .map(|parameter| parameter.name.as_str())
            .filter(|name| !found.contains_key(name));
        if let Some(tensor) = missing.next() {
            return Err(FitError::Missing {
                tensor: tensor.to_owned(),
                others: missing.count(),
                model: self.name.clone(),
                hint: reason(tensor, unexpected.peek().copied(), &found),
            });
        }
        if let Some(tensor) = unexpected.next() {
            return Err(FitError::Unexpected {
                tensor: tensor.to_owned(),
                others: unexpected.count(),
                model: self.name.clone(),
                hint: "is it a checkpoint of another model, or of other options?".to_owned(),
            });
        }
        for parameter in &self.parameters {
            let Some(&shape) = found.get(parameter.name.as_str()) else {
                continue;
            };
            if *shape != parameter.shape {
                return Err(FitError::Shape {
                    tensor: parameter.name.clone(),
                    found: shape.clone(),
                    expected: parameter.shape.clone(),
                    model: self.name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Why a tensor may be missing.
fn reason(missing: &str, unexpected: Option<&str>, found: &BTreeMap<&str, &Shape>) -> String {
    let suffix = format!(".{missing}");
    if let Some(longer) = found.keys().find(|name| name.ends_with(&suffix)) {
        let prefix = &longer[..=longer.len() - suffix.len()];
        return format!(
            "names begin with `{0}`: save the `state_dict` of the model inside the wrapper, or \
             take that off with `--strip-prefix {0}`",
            Printable(prefix)
        );
    }
    if found.contains_key(format!("{missing}_orig").as_str()) {
        return "masks are stored as torch's `nn.utils.prune` does: call `prune.remove` before \
                you save"
            .to_owned();
    }
    match unexpected {
        Some(unexpected) => format!(
            "there is `{}` instead: is it a checkpoint of another model, or of other options?",
            Printable(unexpected)
        ),
        None => "is it a checkpoint of another model, or only a part of one?".to_owned(),
    }
}
