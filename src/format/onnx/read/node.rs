//! The walk over a node: to the graphs within its attributes, and past the rest, of which
//! a comparison looks at names.

use std::ops::Range;

use crate::format::onnx::read::MOST_NODES;
use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::constant::NodeParts;
use crate::format::onnx::read::graph::Walker;
use crate::format::onnx::read::graph::message;
use crate::format::onnx::read::schema::attribute;
use crate::format::onnx::read::schema::node;
use crate::format::onnx::read::wire::Field;
use crate::format::onnx::read::wire::ReadAt;
use crate::format::onnx::read::wire::ReadError;

impl<S: ReadAt + ?Sized> Walker<'_, S> {
    pub(super) fn node(
        &mut self,
        field: &Field,
        within: usize,
        path: &str,
        depth: usize,
    ) -> Result<(), ReadError<S::Error>> {
        self.n_nodes += 1;
        if self.n_nodes > MOST_NODES {
            return Err(OnnxError::TooManyNodes.into());
        }
        let Range { start, end } = field.bytes()?;
        let mut parts = NodeParts::default();
        let mut attributes = Vec::new();
        self.cursor.seek(start);
        while let Some(inner) = self.cursor.field(end)? {
            let after = self.cursor.at();
            match inner.number {
                node::INPUT => parts.inputs.push(inner.bytes()?),
                node::OUTPUT => parts.outputs.push(inner.bytes()?),
                // A comparison names a node that differs by it.
                node::OP_TYPE => parts.op_type = inner.bytes()?,
                node::DOMAIN => parts.is_foreign = !inner.bytes()?.is_empty(),
                node::ATTRIBUTE if self.holds_graphs(inner.bytes()?)? => attributes.push(inner),
                node::ATTRIBUTE => parts.attributes.push(inner),
                _ => {}
            }
            self.cursor.seek(after);
        }
        if attributes.is_empty() {
            self.note_constants(field, &parts, (within, path))?;
            // Functions have paths, and so have the graphs of nodes.
            return match path.is_empty() {
                true => self.note_node(field),
                false => Ok(()),
            };
        }
        let output = parts.outputs.into_iter().next();
        let output = output.map(|range| self.cursor.text(range)).transpose()?;
        let output = output.unwrap_or_default();
        let node = self.enter(field, Some(within))?;
        for inner in attributes {
            self.cursor.spend(path.len() as u64)?;
            let attribute = self.enter(&inner, Some(node))?;
            self.attribute(attribute, &format!("{path}{output}."), depth)?;
        }
        Ok(())
    }

    /// Whether an attribute holds graphs. Tensors in it are looked at, because they
    /// are compared byte by byte, which bytes in another file escape.
    fn holds_graphs(&mut self, range: Range<u64>) -> Result<bool, ReadError<S::Error>> {
        let mut holds = false;
        self.cursor.seek(range.start);
        while let Some(field) = self.cursor.field(range.end)? {
            let after = self.cursor.at();
            match field.number {
                attribute::NAME => _ = field.bytes()?,
                attribute::G | attribute::GRAPHS => holds = true,
                attribute::T | attribute::TENSORS => {
                    let tensor = self.tensor(message(&field, None)?)?;
                    if tensor.is_external() {
                        let at = tensor.begin();
                        return Err(OnnxError::ExternalConstant { at }.into());
                    }
                }
                _ => {}
            }
            self.cursor.seek(after);
        }
        Ok(holds)
    }

    fn attribute(
        &mut self,
        within: usize,
        path: &str,
        depth: usize,
    ) -> Result<(), ReadError<S::Error>> {
        let Range { start, end } = self.model.messages[within].content.clone();
        let mut name = String::new();
        let mut graphs = Vec::new();
        self.cursor.seek(start);
        while let Some(field) = self.cursor.field(end)? {
            match field.number {
                attribute::NAME => name = self.cursor.text(field.bytes()?)?,
                attribute::G | attribute::GRAPHS => graphs.push(field),
                _ => {}
            }
        }
        for (idx, field) in graphs.iter().enumerate() {
            // A path is repeated for each graph in it, so a long one counts each time.
            self.cursor.spend(path.len() as u64)?;
            let path = match field.number {
                attribute::G => format!("{path}{name}."),
                _ => format!("{path}{name}[{idx}]."),
            };
            let graph = self.enter(field, Some(within))?;
            self.graph(graph, &path, depth + 1)?;
        }
        Ok(())
    }
}
