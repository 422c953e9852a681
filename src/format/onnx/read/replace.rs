//! Which initialisers are parts of others: nodes that may decode a tensor are kept while
//! a model is walked, and what they decode takes the place of its parts.

use std::collections::HashSet;
use std::ops::Range;

use crate::format::onnx::read::Elements;
use crate::format::onnx::read::MOST_DEPTH;
use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::decode::Nodes;
use crate::format::onnx::read::decode::decoded;
use crate::format::onnx::read::graph::Walker;
use crate::format::onnx::read::schema::attribute;
use crate::format::onnx::read::schema::graph;
use crate::format::onnx::read::schema::model;
use crate::format::onnx::read::schema::node;
use crate::format::onnx::read::wire::Field;
use crate::format::onnx::read::wire::ReadAt;
use crate::format::onnx::read::wire::ReadError;

impl<S: ReadAt + ?Sized> Walker<'_, S> {
    /// Keeps a node of the model's graph if it may be one that decodes.
    pub(super) fn note_node(&mut self, field: &Field) -> Result<(), ReadError<S::Error>> {
        let Range { start, end } = field.bytes()?;
        let (mut operator, mut inputs, mut outputs, mut attributes) =
            (None, Vec::new(), Vec::new(), Vec::new());
        self.cursor.seek(start);
        while let Some(inner) = self.cursor.field(end)? {
            let after = self.cursor.at();
            match inner.number {
                node::INPUT => inputs.push(inner.bytes()?),
                node::OUTPUT => outputs.push(inner.bytes()?),
                node::ATTRIBUTE => attributes.push(inner.bytes()?),
                node::OP_TYPE => {
                    let op_type = self.cursor.bytes(inner.bytes()?)?;
                    operator = Nodes::operator(&op_type);
                }
                // Operators of other domains are others.
                node::DOMAIN if !inner.bytes()?.is_empty() => return Ok(()),
                _ => {}
            }
            self.cursor.seek(after);
        }
        let (Some(op), [output]) = (operator, outputs.as_slice()) else {
            return Ok(());
        };
        if inputs.len() > 3 || attributes.len() > 1 {
            return Ok(());
        }
        let attribute = match attributes.pop() {
            Some(range) => Some(self.number_attribute(range)?),
            None => None,
        };
        let inputs = inputs.into_iter().map(|range| self.cursor.text(range));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let output = self.cursor.text(output.clone())?;
        self.nodes
            .insert(output, field.begin, (op, inputs), attribute);
        Ok(())
    }

    /// Name and number of an attribute; 0 if it holds something else.
    fn number_attribute(
        &mut self,
        range: Range<u64>,
    ) -> Result<(String, i64), ReadError<S::Error>> {
        let (mut name, mut number) = (String::new(), 0);
        self.cursor.seek(range.start);
        while let Some(field) = self.cursor.field(range.end)? {
            match field.number {
                attribute::NAME => name = self.cursor.text(field.bytes()?)?,
                attribute::I => number = field.varint()?.cast_signed(),
                _ => {}
            }
        }
        Ok((name, number))
    }

    /// Puts tensors that nodes decode in place of the initialisers that they are made
    /// of, and of the constants that nothing else reads.
    pub(super) fn replace_decoded(&mut self) -> Result<(), ReadError<S::Error>> {
        let source = self.cursor.source();
        let decoded = decoded(source, &self.nodes, &self.model.initializers)?;
        if decoded.is_empty() {
            return Ok(());
        }
        let mut parts = HashSet::new();
        let mut constants = HashSet::new();
        for decoded in decoded {
            let tensor = decoded.initializer.name.clone();
            if !self.names.insert(tensor.clone()) {
                return Err(OnnxError::TensorTwice { tensor }.into());
            }
            let [values, places] = decoded.parts;
            if !parts.insert(values) {
                let what = "shares its values with another";
                return Err(OnnxError::Sparse { tensor, what }.into());
            }
            parts.insert(places);
            constants.extend(decoded.constants);
            self.model.decoders.extend(decoded.nodes);
            self.model.initializers.push(decoded.initializer);
        }
        let graphs = self.model.messages.iter();
        let graph = graphs
            .clone()
            .position(|message| message.parent.is_none() && message.number == model::GRAPH);
        if let Some(graph) = graph {
            let range = self.model.messages[graph].content.clone();
            // A second walk, so the bytes of the first no longer count.
            self.cursor.forget_spent();
            self.keep_read(range, &mut constants, 0)?;
        }
        let is_gone = |name: &str| parts.contains(name) || constants.contains(name);
        self.model
            .initializers
            .retain(|initializer| match initializer.elements {
                Elements::Dense(_) => !is_gone(&initializer.name),
                _ => true,
            });
        Ok(())
    }

    /// Takes those names out of `constants` that a node reads which decodes nothing, or
    /// that are outputs.
    fn keep_read(
        &mut self,
        range: Range<u64>,
        constants: &mut HashSet<String>,
        depth: usize,
    ) -> Result<(), ReadError<S::Error>> {
        if depth > 3 * MOST_DEPTH {
            return Err(OnnxError::TooDeep.into());
        }
        // Graphs hold nodes, nodes attributes, and attributes graphs.
        let (names, inner): (&[u32], &[u32]) = match depth % 3 {
            // The name of an output has the number of a node's input.
            0 => (&[], &[graph::NODE, graph::OUTPUT]),
            1 => (&[node::INPUT], &[node::ATTRIBUTE]),
            _ => (&[], &[attribute::G, attribute::GRAPHS]),
        };
        self.cursor.seek(range.start);
        while let Some(field) = self.cursor.field(range.end)? {
            let after = self.cursor.at();
            let decodes = depth == 0 && self.model.decoders.contains(&field.begin);
            if names.contains(&field.number) {
                let name = self.cursor.text(field.bytes()?)?;
                constants.remove(&name);
            } else if inner.contains(&field.number) && !decodes {
                self.keep_read(field.bytes()?, constants, depth + 1)?;
            }
            self.cursor.seek(after);
        }
        Ok(())
    }
}
