//! Layers to nodes: names of inputs become places.

use super::Description;
use super::DescriptionError;
use super::IMAGE;
use super::Kind;
use super::Layer;
use super::Width;
use super::parse::place;
use crate::graph::BuildError;
use crate::graph::Builder;
use crate::graph::Conv2d;
use crate::graph::Features;
use crate::graph::Graph;
use crate::graph::Linear;
use crate::graph::NodeIdx;
use crate::graph::spelling::hint;

use std::collections::BTreeMap;

pub(super) fn graph(
    description: &Description,
    input: Option<Features>,
    classes: Option<usize>,
) -> Result<Graph, DescriptionError> {
    let layers = &description.layers;
    let names = names(layers)?;
    let input = input.ok_or(DescriptionError::NoInput)?;
    let wrong = |source| DescriptionError::Build { source };
    let mut builder = Builder::new(&description.name, input).map_err(wrong)?;
    // The node of a layer stands one behind its place: the image is in front.
    for (idx, layer) in layers.iter().enumerate() {
        let mut inputs = Vec::with_capacity(layer.inputs.len());
        for name in &layer.inputs {
            inputs.push(operand(layers, &names, idx, name)?);
        }
        if inputs.is_empty() {
            inputs.push(idx);
        }
        builder.relabel(&place(idx, layer.name.as_deref()));
        node(&mut builder, layer, &inputs, classes)?;
    }
    let graph = builder.finish().map_err(wrong)?;
    match classes {
        Some(expected) if expected != graph.classes() => Err(DescriptionError::Classes {
            expected,
            found: graph.classes(),
        }),
        _ => Ok(graph),
    }
}

/// Places of the layers that have names.
fn names(layers: &[Layer]) -> Result<BTreeMap<&str, usize>, DescriptionError> {
    let mut names = BTreeMap::new();
    for (idx, layer) in layers.iter().enumerate() {
        let Some(name) = layer.name.as_deref() else {
            continue;
        };
        if name == IMAGE || names.insert(name, idx).is_some() {
            return Err(DescriptionError::LayerTwice {
                layer: name.to_owned(),
            });
        }
    }
    Ok(names)
}

/// The node that layer `idx` calls `name`.
fn operand(
    layers: &[Layer],
    names: &BTreeMap<&str, usize>,
    idx: usize,
    name: &str,
) -> Result<NodeIdx, DescriptionError> {
    if name == IMAGE {
        return Ok(0);
    }
    let Some(&found) = names.get(name) else {
        let known: Vec<&str> = names.keys().copied().collect();
        return Err(DescriptionError::UnknownInput {
            place: place(idx, layers[idx].name.as_deref()),
            found: name.to_owned(),
            hint: hint(name, &known),
        });
    };
    if found < idx {
        return Ok(found + 1);
    }
    Err(match cycle(layers, names, idx, found) {
        Some(layers) => DescriptionError::Cycle { layers },
        None => DescriptionError::Order {
            place: place(idx, layers[idx].name.as_deref()),
            found: name.to_owned(),
        },
    })
}

/// The way from layer `idx` over the input `found` back to `idx`, if there is one.
fn cycle(
    layers: &[Layer],
    names: &BTreeMap<&str, usize>,
    idx: usize,
    found: usize,
) -> Option<Vec<String>> {
    let call = |idx: usize| match &layers[idx].name {
        Some(name) => name.clone(),
        None => format!("layer {}", idx + 1),
    };
    let mut came_from = BTreeMap::from([(found, idx)]);
    let mut open = vec![found];
    while let Some(at) = open.pop() {
        if at == idx {
            let mut way = vec![call(idx)];
            let mut step = came_from[&idx];
            while step != idx {
                way.push(call(step));
                step = came_from[&step];
            }
            way.push(call(idx));
            way.reverse();
            return Some(way);
        }
        let inputs = &layers[at].inputs;
        let before = at.checked_sub(1).filter(|_| inputs.is_empty());
        let named = inputs.iter().filter_map(|name| names.get(name.as_str()));
        for next in named.copied().chain(before) {
            came_from.entry(next).or_insert_with(|| {
                open.push(next);
                at
            });
        }
    }
    None
}

fn node(
    builder: &mut Builder,
    layer: &Layer,
    inputs: &[NodeIdx],
    classes: Option<usize>,
) -> Result<NodeIdx, DescriptionError> {
    let input = inputs[0];
    let name = layer.name.as_deref().unwrap_or_default();
    let size = |stated: usize, width: Width| match width {
        Width::Stated => Ok(stated),
        Width::Classes => classes.ok_or(DescriptionError::NoClasses),
    };
    let built = match layer.kind {
        Kind::Conv2d(layer, width) => {
            let out_channels = size(layer.out_channels, width)?;
            let layer = Conv2d {
                out_channels,
                ..layer
            };
            builder.conv2d(name, input, layer)
        }
        Kind::Linear(layer, width) => {
            let out_features = size(layer.out_features, width)?;
            let layer = Linear {
                out_features,
                ..layer
            };
            builder.linear(name, input, layer)
        }
        Kind::BatchNorm(layer) => builder.batch_norm(name, input, layer),
        Kind::Relu => builder.relu(input),
        Kind::Add => builder.add(input, inputs[1]),
        Kind::MaxPool(window) => builder.max_pool(input, window),
        Kind::AvgPool(window) => builder.avg_pool(input, window),
        Kind::GlobalAvgPool => builder.global_avg_pool(input),
        Kind::PadShortcut {
            stride,
            before,
            after,
        } => builder.pad_shortcut(input, stride, before, after),
        Kind::Flatten => builder.flatten(input),
        Kind::Dropout { probability } => builder.dropout(input, probability),
    };
    built.map_err(|source: BuildError| DescriptionError::Build { source })
}
