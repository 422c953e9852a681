//! A graph of ours walks in, a graph of ONNX walks out.

use std::collections::BTreeSet;

use super::BatchNorms;
use super::Encoding;
use super::OnnxError;
use super::OnnxOptions;
use super::Output;
use super::assembly::Assembly;
use super::assembly::Lowered;
use super::census::Planned;
use super::decode::Decoder;
use super::fold::Folds;
use crate::format::onnx::note::NOTE_VERSION;
use crate::format::onnx::note::Note;
use crate::format::onnx::write::Attribute;
use crate::format::onnx::write::Data;
use crate::format::onnx::write::Dim;
use crate::format::onnx::write::Element;
use crate::format::onnx::write::Value;
use crate::graph::Features;
use crate::graph::Graph;
use crate::graph::Node;
use crate::graph::NodeIdx;
use crate::graph::Op;
use crate::graph::ParameterIdx;

/// What ends are called that lie behind everything.
const FAR_END: i64 = i64::MAX;

/// Number of dimensions that a value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// (batch, channels).
    Vector,
    /// (batch, channels, height, width).
    Map,
}

/// The result of a node of ours in the graph of ONNX.
#[derive(Clone, Debug)]
struct Wire {
    name: String,
    rank: Rank,
}

struct Lowering<'a, 'g> {
    graph: &'g Graph,
    folds: &'g Folds,
    encoding: Encoding,
    assembly: Assembly<'a>,
    /// One per node so far.
    wires: Vec<Wire>,
    n_batch_norms: usize,
}

/// The graph of ONNX, without the elements of its parameters.
pub(super) fn lower<'a>(
    graph: &Graph,
    planned: &'a [Option<Planned<'a>>],
    folds: &Folds,
    options: &'a OnnxOptions,
) -> Result<Lowered, OnnxError> {
    let names: BTreeSet<String> = graph
        .parameters
        .iter()
        .map(|parameter| parameter.name.clone())
        .collect();
    let mut lowering = Lowering {
        graph,
        folds,
        encoding: options.encoding,
        assembly: Assembly::new(planned, &options.payloads, names),
        wires: Vec::with_capacity(graph.nodes.len()),
        n_batch_norms: 0,
    };
    lowering.assembly.graph.name.clone_from(&graph.name);
    for idx in 0..graph.nodes.len() {
        let wire = lowering.node(idx)?;
        lowering.wires.push(wire);
    }
    lowering.output(options.output);
    let note = Note {
        format_version: NOTE_VERSION,
        encoding: options.encoding.name().to_owned(),
        folded_batch_norm: options.batch_norms == BatchNorms::Fold,
        tensors: std::mem::take(&mut lowering.assembly.encoded),
    };
    Ok(lowering.assembly.finish(note, lowering.n_batch_norms))
}

impl Lowering<'_, '_> {
    fn node(&mut self, idx: NodeIdx) -> Result<Wire, OnnxError> {
        let node = &self.graph.nodes[idx];
        match node.op {
            Op::Input => Ok(self.input(node.output)),
            Op::Conv2d { .. } => self.convolution(idx),
            Op::Linear { weight, bias } => {
                let input = self.vector(node.inputs[0]);
                let mut inputs = vec![input, self.parameter(weight)?];
                inputs.extend(self.bias(idx, bias)?);
                let transposed = vec![("transB", Attribute::Int(1))];
                Ok(self.add(idx, "Gemm", &inputs, transposed, Rank::Vector))
            }
            Op::BatchNorm { .. } => self.batch_norm(idx),
            Op::Relu => {
                let input = self.wires[node.inputs[0]].clone();
                Ok(self.add(idx, "Relu", &[input.name], Vec::new(), input.rank))
            }
            Op::Add => {
                let [left, right] = [node.inputs[0], node.inputs[1]];
                let ranks = [self.wires[left].rank, self.wires[right].rank];
                let (operands, rank) = match ranks {
                    [Rank::Map, Rank::Map] => ([self.map(left), self.map(right)], Rank::Map),
                    _ => ([self.vector(left), self.vector(right)], Rank::Vector),
                };
                Ok(self.add(idx, "Add", &operands, Vec::new(), rank))
            }
            Op::MaxPool {
                kernel,
                stride,
                padding,
            } => {
                let input = self.map(node.inputs[0]);
                let attributes = window(kernel, stride, padding);
                Ok(self.add(idx, "MaxPool", &[input], attributes, Rank::Map))
            }
            Op::AvgPool { kernel, stride } => {
                let input = self.map(node.inputs[0]);
                let attributes = window(kernel, stride, [0, 0]);
                Ok(self.add(idx, "AveragePool", &[input], attributes, Rank::Map))
            }
            Op::GlobalAvgPool => {
                let input = self.map(node.inputs[0]);
                Ok(self.add(idx, "GlobalAveragePool", &[input], Vec::new(), Rank::Map))
            }
            Op::PadShortcut {
                stride,
                before,
                after,
            } => Ok(self.pad_shortcut(idx, stride, before, after)),
            Op::Flatten => Ok(Wire {
                name: self.vector(node.inputs[0]),
                rank: Rank::Vector,
            }),
            // Exported models do not train.
            Op::Dropout { .. } => Ok(self.wires[node.inputs[0]].clone()),
        }
    }

    fn input(&mut self, image: Features) -> Wire {
        let name = self.assembly.name("input");
        let mut dims = vec![Dim::Any("batch"), Dim::Size(image.channels as u64)];
        let rank = match image.pixels() {
            1 => Rank::Vector,
            _ => Rank::Map,
        };
        if rank == Rank::Map {
            dims.push(Dim::Size(image.height as u64));
            dims.push(Dim::Size(image.width as u64));
        }
        let value = Value {
            name: name.clone(),
            dims,
        };
        self.assembly.graph.inputs.push(value);
        Wire { name, rank }
    }

    fn convolution(&mut self, idx: NodeIdx) -> Result<Wire, OnnxError> {
        let node = &self.graph.nodes[idx];
        let Op::Conv2d {
            weight,
            bias,
            kernel,
            stride,
            padding,
        } = node.op
        else {
            unreachable!("called for convolutions");
        };
        let input = self.map(node.inputs[0]);
        let mut inputs = vec![input, self.parameter(weight)?];
        inputs.extend(self.bias(idx, bias)?);
        let attributes = window(kernel, stride, padding);
        Ok(self.add(idx, "Conv", &inputs, attributes, Rank::Map))
    }

    fn batch_norm(&mut self, idx: NodeIdx) -> Result<Wire, OnnxError> {
        let node = &self.graph.nodes[idx];
        let input = self.wires[node.inputs[0]].clone();
        let Op::BatchNorm {
            weight,
            bias,
            running_mean,
            running_var,
            epsilon,
            ..
        } = node.op
        else {
            unreachable!("called for batch norms");
        };
        if self.folds.is_folded(idx) {
            return Ok(input);
        }
        self.n_batch_norms += 1;
        let mut inputs = vec![input.name];
        for parameter in [weight, bias, running_mean, running_var] {
            inputs.push(self.parameter(parameter)?);
        }
        let epsilon = vec![("epsilon", Attribute::Float(epsilon as f32))];
        Ok(self.add(idx, "BatchNormalization", &inputs, epsilon, input.rank))
    }

    /// Every `stride`-th row and column, and channels of zeros around.
    fn pad_shortcut(&mut self, idx: NodeIdx, stride: usize, before: usize, after: usize) -> Wire {
        let mut name = self.map(self.graph.nodes[idx].inputs[0]);
        if stride > 1 {
            let stride = stride as i64;
            let ranges = [
                name,
                self.assembly.numbers("sms.starts", &[0, 0]),
                self.assembly.numbers("sms.ends", &[FAR_END, FAR_END]),
                self.assembly.numbers("sms.axes", &[2, 3]),
                self.assembly.numbers("sms.steps", &[stride, stride]),
            ];
            name = self.add(idx, "Slice", &ranges, Vec::new(), Rank::Map).name;
        }
        let (before, after) = (before as i64, after as i64);
        let pads = [0, before, 0, 0, 0, after, 0, 0];
        let pads = self.assembly.numbers("sms.pads", &pads);
        self.add(idx, "Pad", &[name, pads], Vec::new(), Rank::Map)
    }

    /// What the graph gives.
    fn output(&mut self, output: Output) {
        let last = self.graph.nodes.len() - 1;
        let logits = self.vector(last);
        let name = match output {
            Output::Logits => self.assembly.name("logits"),
            Output::Probabilities => self.assembly.name("probabilities"),
        };
        match output {
            Output::Probabilities => {
                let axis = vec![("axis", Attribute::Int(1))];
                let inputs = [logits.as_str()];
                self.assembly
                    .node_named("Softmax", &inputs, name.clone(), axis);
            }
            Output::Logits => {
                let mut nodes = self.assembly.graph.nodes.iter_mut().rev();
                match nodes.find(|node| node.output == logits) {
                    // Nothing else takes what the last layer gives.
                    Some(node) => node.output.clone_from(&name),
                    None => {
                        let inputs = [logits.as_str()];
                        let none = Vec::new();
                        self.assembly
                            .node_named("Identity", &inputs, name.clone(), none);
                    }
                }
            }
        }
        let classes = Dim::Size(self.graph.classes() as u64);
        self.assembly.graph.outputs.push(Value {
            name,
            dims: vec![Dim::Any("batch"), classes],
        });
    }

    /// The parameter in single precision.
    fn parameter(&mut self, idx: ParameterIdx) -> Result<String, OnnxError> {
        let mut decoder = Decoder {
            assembly: &mut self.assembly,
            idx,
            parameter: &self.graph.parameters[idx],
        };
        decoder.add(self.encoding)
    }

    /// What a layer adds, if anything.
    fn bias(
        &mut self,
        layer: NodeIdx,
        bias: Option<ParameterIdx>,
    ) -> Result<Option<String>, OnnxError> {
        let Some(folded) = self.folds.bias(layer) else {
            return bias.map(|bias| self.parameter(bias)).transpose();
        };
        let name = match bias {
            Some(bias) => self.graph.parameters[bias].name.clone(),
            None => {
                let module = self.graph.module(layer).unwrap_or("layer");
                self.assembly.name(&format!("{module}.bias"))
            }
        };
        let bytes = folded.iter().flat_map(|value| value.to_le_bytes());
        let data = Data::Inline(bytes.collect());
        let dims = [folded.len() as u64];
        self.assembly
            .initializer(name.clone(), Element::Float, &dims, data);
        Ok(Some(name))
    }

    /// Adds what a node computes, named after its module.
    fn add(
        &mut self,
        idx: NodeIdx,
        op: &'static str,
        inputs: &[String],
        attributes: Vec<(&'static str, Attribute)>,
        rank: Rank,
    ) -> Wire {
        let base = match self.graph.module(idx) {
            Some(module) => format!("/{module}"),
            None => format!("/{}_{idx}", self.graph.nodes[idx].op.name()),
        };
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        Wire {
            name: self.assembly.node(op, &inputs, &base, attributes),
            rank,
        }
    }

    /// What a node gives, as (batch, features).
    fn vector(&mut self, idx: NodeIdx) -> String {
        let wire = self.wires[idx].clone();
        if wire.rank == Rank::Vector {
            return wire.name;
        }
        let name = format!("{}/flat", wire.name);
        let axis = vec![("axis", Attribute::Int(1))];
        self.assembly.node("Flatten", &[&wire.name], &name, axis)
    }

    /// What a node gives, as (batch, channels, height, width).
    fn map(&mut self, idx: NodeIdx) -> String {
        let wire = self.wires[idx].clone();
        if wire.rank == Rank::Map {
            return wire.name;
        }
        let Node { output, .. } = &self.graph.nodes[idx];
        // The first 0 keeps the size of the batch.
        let dims = [0, output.channels, output.height, output.width];
        let shape = self
            .assembly
            .numbers("sms.map", &dims.map(|dim| dim as i64));
        let name = format!("{}/map", wire.name);
        self.assembly
            .node("Reshape", &[&wire.name, &shape], &name, Vec::new())
    }
}

fn window(
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Vec<(&'static str, Attribute)> {
    let ints = |sizes: &[usize]| Attribute::Ints(sizes.iter().map(|&size| size as i64).collect());
    let [rows, columns] = padding;
    vec![
        ("kernel_shape", ints(&kernel)),
        ("strides", ints(&stride)),
        ("pads", ints(&[rows, columns, rows, columns])),
    ]
}
