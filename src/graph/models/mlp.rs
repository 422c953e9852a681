//! The multi-layer perceptron: `fc1`, `fc2`, ... with ReLU between them.

use super::ModelError;
use super::ModelSpec;
use super::options::Options;
use super::options::built;
use crate::graph::BuildError;
use crate::graph::Builder;
use crate::graph::Graph;
use crate::graph::Linear;

pub(super) fn build(spec: &ModelSpec, options: &Options<'_>) -> Result<Graph, ModelError> {
    let hidden = options.sizes("hidden")?;
    built(spec, graph(spec, &hidden))
}

fn graph(spec: &ModelSpec, hidden: &[usize]) -> Result<Graph, BuildError> {
    let mut builder = Builder::new(&spec.name, spec.input)?;
    let mut node = builder.flatten(builder.input())?;
    for (idx, &width) in hidden.iter().enumerate() {
        node = builder.linear(&format!("fc{}", idx + 1), node, Linear::new(width))?;
        node = builder.relu(node)?;
    }
    let last = format!("fc{}", hidden.len() + 1);
    builder.linear(&last, node, Linear::new(spec.classes))?;
    builder.finish()
}
