//! A graph to layers, and layers to values: what is a default is left out.

use super::CLASSES;
use super::Description;
use super::IMAGE;
use super::Kind;
use super::Layer;
use super::Value;
use super::Width;
use crate::graph::BatchNorm;
use crate::graph::Conv2d;
use crate::graph::Graph;
use crate::graph::Initialiser;
use crate::graph::Linear;
use crate::graph::NodeIdx;
use crate::graph::Op;
use crate::graph::ParameterIdx;
use crate::graph::Start;
use crate::graph::Window;

use std::collections::BTreeSet;

pub(super) fn description(graph: &Graph) -> Description {
    // Nodes that a layer takes which does not stand right behind them need a name.
    let mut named: BTreeSet<NodeIdx> = BTreeSet::new();
    for (idx, node) in graph.nodes.iter().enumerate() {
        if node.inputs.len() > 1 || node.inputs.first().is_some_and(|input| input + 1 != idx) {
            named.extend(&node.inputs);
        }
    }
    let modules: BTreeSet<&str> = (0..graph.nodes.len())
        .filter_map(|idx| graph.module(idx))
        .collect();
    let names: Vec<Option<String>> = (0..graph.nodes.len())
        .map(|idx| name(graph, &modules, idx, named.contains(&idx)))
        .collect();
    let layers = graph.nodes.iter().enumerate().skip(1).map(|(idx, node)| {
        let is_next = node.inputs.len() == 1 && node.inputs[0] + 1 == idx;
        let inputs = node.inputs.iter().filter(|_| !is_next);
        Layer {
            name: names[idx].clone(),
            inputs: inputs
                .map(|&input| names[input].clone().unwrap_or_default())
                .collect(),
            kind: kind(graph, idx),
        }
    });
    Description {
        name: graph.name.clone(),
        input: Some(graph.input()),
        classes: Some(graph.classes()),
        layers: layers.collect(),
    }
}

/// Name of a node: that of its module, or one made up where it is needed.
fn name(graph: &Graph, modules: &BTreeSet<&str>, idx: NodeIdx, is_needed: bool) -> Option<String> {
    if let Some(module) = graph.module(idx) {
        return Some(module.to_owned());
    }
    match graph.nodes[idx].op {
        Op::Input => Some(IMAGE.to_owned()),
        _ if is_needed => {
            // A module may have this name already: an underscore more makes another.
            let mut name = format!("{}{idx}", graph.nodes[idx].op.name());
            while modules.contains(name.as_str()) {
                name.push('_');
            }
            Some(name)
        }
        _ => None,
    }
}

fn kind(graph: &Graph, idx: NodeIdx) -> Kind {
    let node = &graph.nodes[idx];
    let is_last = idx + 1 == graph.nodes.len();
    match node.op {
        Op::Conv2d {
            weight,
            bias,
            kernel,
            stride,
            padding,
        } => {
            let layer = Conv2d {
                out_channels: node.output.channels,
                kernel,
                stride,
                padding,
                weight: start(graph, weight, weight),
                bias: bias.map(|bias| start(graph, weight, bias)),
            };
            Kind::Conv2d(layer, Width::Stated)
        }
        Op::Linear { weight, bias } => {
            let width = if is_last {
                Width::Classes
            } else {
                Width::Stated
            };
            let layer = Linear {
                out_features: if is_last { 0 } else { node.output.channels },
                weight: start(graph, weight, weight),
                bias: bias.map(|bias| start(graph, weight, bias)),
            };
            Kind::Linear(layer, width)
        }
        Op::BatchNorm {
            weight,
            bias,
            epsilon,
            momentum,
            ..
        } => Kind::BatchNorm(BatchNorm {
            epsilon,
            momentum,
            weight: graph.parameters[weight].initialiser,
            bias: graph.parameters[bias].initialiser,
        }),
        Op::Input | Op::Flatten => Kind::Flatten,
        Op::Relu => Kind::Relu,
        Op::Add => Kind::Add,
        Op::MaxPool {
            kernel,
            stride,
            padding,
        } => Kind::MaxPool(Window {
            kernel,
            stride,
            padding,
        }),
        Op::AvgPool { kernel, stride } => Kind::AvgPool(Window {
            kernel,
            stride,
            padding: [0; 2],
        }),
        Op::GlobalAvgPool => Kind::GlobalAvgPool,
        Op::PadShortcut {
            stride,
            before,
            after,
        } => Kind::PadShortcut {
            stride,
            before,
            after,
        },
        Op::Dropout { probability } => Kind::Dropout { probability },
    }
}

/// The word for the initialiser of `parameter`, of the layer with this weight.
fn start(graph: &Graph, weight: ParameterIdx, parameter: ParameterIdx) -> Start {
    let found = graph.parameters[parameter].initialiser;
    let dims = graph.parameters[weight].shape.dims();
    let taps: u64 = dims.iter().skip(2).product();
    let fan = |dim: usize| (dims.get(dim).copied().unwrap_or(1) * taps) as usize;
    [Start::Torch, Start::HeFanIn, Start::HeFanOut]
        .into_iter()
        .find(|start| start.initialiser(fan(1), fan(0)) == found)
        .unwrap_or(Start::Exactly(found))
}

pub(super) fn value(description: &Description) -> Value {
    let mut fields = Table::default();
    fields.push("name", Value::text(&description.name));
    if let Some(input) = description.input {
        fields.push("input", Value::Text(input.to_string()));
    }
    if let Some(classes) = description.classes {
        fields.push("classes", Value::size(classes));
    }
    let layers = description.layers.iter().map(layer).collect();
    fields.push("layers", Value::List(layers));
    Value::Table(fields.0)
}

#[derive(Default)]
struct Table(Vec<(String, Value)>);

impl Table {
    fn push(&mut self, key: &str, value: Value) {
        self.0.push((key.to_owned(), value));
    }

    /// Adds what is not the default.
    fn differing(&mut self, key: &str, value: Value, usual: &Value) {
        if value != *usual {
            self.push(key, value);
        }
    }
}

fn layer(layer: &Layer) -> Value {
    let mut fields = Table::default();
    fields.push("op", Value::text(layer.kind.op()));
    if let Some(name) = &layer.name {
        fields.push("name", Value::text(name));
    }
    match &layer.inputs[..] {
        [] => {}
        [input] => fields.push("input", Value::text(input)),
        inputs => {
            let names = inputs.iter().map(|name| Value::text(name)).collect();
            fields.push("input", Value::List(names));
        }
    }
    kind_fields(&layer.kind, &mut fields);
    Value::Table(fields.0)
}

fn kind_fields(kind: &Kind, fields: &mut Table) {
    let one = Value::Integer(1);
    let zero = Value::Integer(0);
    match kind {
        Kind::Conv2d(layer, size) => {
            fields.push("channels", width(layer.out_channels, *size));
            fields.push("kernel", pair(layer.kernel));
            fields.differing("stride", pair(layer.stride), &one);
            fields.differing("padding", pair(layer.padding), &zero);
            starts(layer.weight, layer.bias, fields);
        }
        Kind::Linear(layer, size) => {
            fields.push("features", width(layer.out_features, *size));
            starts(layer.weight, layer.bias, fields);
        }
        Kind::BatchNorm(layer) => {
            let usual = BatchNorm::default();
            let number = Value::Number;
            fields.differing("epsilon", number(layer.epsilon), &number(usual.epsilon));
            fields.differing("momentum", number(layer.momentum), &number(usual.momentum));
            fields.differing(
                "scale",
                initialiser(layer.weight),
                &initialiser(usual.weight),
            );
            fields.differing("shift", initialiser(layer.bias), &initialiser(usual.bias));
        }
        Kind::MaxPool(window) | Kind::AvgPool(window) => {
            fields.push("kernel", pair(window.kernel));
            fields.differing("stride", pair(window.stride), &pair(window.kernel));
            fields.differing("padding", pair(window.padding), &zero);
        }
        Kind::PadShortcut {
            stride,
            before,
            after,
        } => {
            fields.differing("stride", Value::size(*stride), &one);
            fields.differing("before", Value::size(*before), &zero);
            fields.differing("after", Value::size(*after), &zero);
        }
        Kind::Dropout { probability } => fields.push("probability", Value::Number(*probability)),
        Kind::Relu | Kind::Add | Kind::GlobalAvgPool | Kind::Flatten => {}
    }
}

fn starts(weight: Start, bias: Option<Start>, fields: &mut Table) {
    fields.differing("init", word(weight), &word(Start::Torch));
    let bias = bias.map_or(Value::Flag(false), word);
    fields.differing("bias", bias, &word(Start::Torch));
}

fn width(stated: usize, width: Width) -> Value {
    match width {
        Width::Stated => Value::size(stated),
        Width::Classes => Value::text(CLASSES),
    }
}

fn pair([vertical, horizontal]: [usize; 2]) -> Value {
    if vertical == horizontal {
        return Value::size(vertical);
    }
    Value::List(vec![Value::size(vertical), Value::size(horizontal)])
}

fn word(start: Start) -> Value {
    match start {
        Start::Torch => Value::text("torch"),
        Start::HeFanIn => Value::text("he-fan-in"),
        Start::HeFanOut => Value::text("he-fan-out"),
        Start::Exactly(exactly) => initialiser(exactly),
    }
}

fn initialiser(initialiser: Initialiser) -> Value {
    let table = |key: &str, number| Value::Table(vec![(key.to_owned(), Value::Number(number))]);
    match initialiser {
        Initialiser::Constant(constant) => Value::Number(constant),
        Initialiser::Normal { deviation } => table("normal", deviation),
        Initialiser::Uniform { bound } => table("uniform", bound),
    }
}
