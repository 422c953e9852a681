//! Two models side by side: whether their graphs compute the same, and where they
//! first do not.
//!
//! Compared is everything but initialisers whose type is read, which are held against
//! each other as tensors, and text that decides nothing: names of nodes and graphs,
//! documentation, metadata, names and versions of the writer, and the shapes that a
//! writer inferred for values within the graph.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::format::onnx::read::MOST_DEPTH;
use crate::format::onnx::read::Model;
use crate::format::onnx::read::difference::GraphDifference;
use crate::format::onnx::read::difference::Step;
use crate::format::onnx::read::schema::attribute;
use crate::format::onnx::read::schema::function;
use crate::format::onnx::read::schema::graph;
use crate::format::onnx::read::schema::model;
use crate::format::onnx::read::schema::node;
use crate::format::onnx::read::schema::tensor;
use crate::format::onnx::read::schema::value_info;
use crate::format::onnx::read::tensor::is_read;
use crate::format::onnx::read::wire::Cursor;
use crate::format::onnx::read::wire::Field;
use crate::format::onnx::read::wire::ReadAt;
use crate::format::onnx::read::wire::ReadError;
use crate::format::onnx::read::wire::Value;

/// Bytes that are compared at a time.
const BLOCK_BYTES: u64 = 4096;

/// Longest text from a model that is shown.
const MOST_SHOWN: u64 = 80;

/// The first place where the graphs of two models differ; `None` if they compute the
/// same with the same initialisers. Both have been parsed, with this `limit`.
///
/// # Errors
/// What the sources say, and [`ReadError::Onnx`] if a file has changed since it was parsed.
pub fn first_difference<S: ReadAt + ?Sized>(
    (first, first_model): (&S, &Model),
    (other, other_model): (&S, &Model),
    limit: u64,
) -> Result<Option<GraphDifference>, ReadError<S::Error>> {
    // Fields are looked at twice: once to find them, once within.
    let limit = limit.saturating_mul(2 * MOST_DEPTH as u64);
    let mut pair = Pair {
        cursors: [Cursor::new(first, limit), Cursor::new(other, limit)],
        decoders: [&first_model.decoders, &other_model.decoders],
        steps: Vec::new(),
    };
    let ranges = [0..first.len(), 0..other.len()];
    let same = pair.message(Kind::Model, ranges)?;
    Ok((!same).then_some(GraphDifference { steps: pair.steps }))
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    ValueInfo,
    Tensor,
}

impl Kind {
    /// What a field of this message holds, if that is a message that is looked into.
    fn inner(self, number: u32) -> Option<Self> {
        match (self, number) {
            (Self::Model, model::GRAPH) => Some(Self::Graph),
            (Self::Model, model::FUNCTIONS) => Some(Self::Function),
            (Self::Function, function::NODE) | (Self::Graph, graph::NODE) => Some(Self::Node),
            (Self::Graph, graph::INPUT | graph::OUTPUT) => Some(Self::ValueInfo),
            (Self::Graph, graph::INITIALIZER) => Some(Self::Tensor),
            (Self::Node, node::ATTRIBUTE) => Some(Self::Attribute),
            (Self::Attribute, attribute::G | attribute::GRAPHS) => Some(Self::Graph),
            (Self::Attribute, attribute::T | attribute::TENSORS) => Some(Self::Tensor),
            _ => None,
        }
    }

    /// Whether a field decides nothing of what is computed.
    fn ignores(self, number: u32) -> bool {
        match self {
            Self::Model => matches!(
                number,
                model::PRODUCER_NAME
                    | model::PRODUCER_VERSION
                    | model::MODEL_VERSION
                    | model::DOC_STRING
                    | model::METADATA_PROPS
            ),
            Self::Function => matches!(
                number,
                function::DOC_STRING | function::VALUE_INFO | function::METADATA_PROPS
            ),
            // Sparse initialisers always have a type that is read.
            Self::Graph => matches!(
                number,
                graph::NAME
                    | graph::DOC_STRING
                    | graph::VALUE_INFO
                    | graph::SPARSE_INITIALIZER
                    | graph::METADATA_PROPS
            ),
            Self::Node => matches!(number, node::NAME | node::DOC_STRING | node::METADATA_PROPS),
            Self::Attribute => number == attribute::DOC_STRING,
            Self::ValueInfo => {
                matches!(number, value_info::DOC_STRING | value_info::METADATA_PROPS)
            }
            Self::Tensor => matches!(number, tensor::DOC_STRING | tensor::METADATA_PROPS),
        }
    }

    /// The word for a field of this message.
    fn part(self, number: u32) -> &'static str {
        match (self, number) {
            (Self::Model, model::IR_VERSION) => "the IR version",
            (Self::Model, model::GRAPH) => "the graph",
            (Self::Model, model::OPSET_IMPORT) => "the operator sets",
            (Self::Model, model::FUNCTIONS) => "a function",
            (Self::Function | Self::Graph, graph::NODE | function::NODE) => "a node",
            (Self::Graph, graph::INPUT) => "an input of the graph",
            (Self::Graph, graph::OUTPUT) => "an output of the graph",
            (Self::Graph, graph::INITIALIZER) => "an initialiser that is not averaged",
            (Self::Node, node::INPUT) => "an input",
            (Self::Node, node::OUTPUT) => "an output",
            (Self::Node, node::OP_TYPE) => "the operator",
            (Self::Node, node::DOMAIN) => "the operator's domain",
            (Self::Node, node::ATTRIBUTE) => "an attribute",
            (Self::Attribute, attribute::T | attribute::TENSORS) => "a constant",
            (Self::Model, _) => "a field of the model",
            (Self::Graph, _) => "a field of the graph",
            (Self::Function, _) => "a field of the function",
            _ => "its value",
        }
    }
}

/// Two models that are walked in step.
struct Pair<'s, S: ?Sized> {
    cursors: [Cursor<'s, S>; 2],
    /// Where nodes begin that decode an initialiser, and are no part of what is computed.
    decoders: [&'s BTreeSet<u64>; 2],
    /// The way to the difference; empty as long as there is none.
    steps: Vec<Step>,
}

impl<S: ReadAt + ?Sized> Pair<'_, S> {
    /// Whether two messages are the same. If not, the way there is in `steps`.
    fn message(
        &mut self,
        kind: Kind,
        ranges: [Range<u64>; 2],
    ) -> Result<bool, ReadError<S::Error>> {
        let mut places = ranges.clone().map(|range| range.start);
        let mut n_nodes = 0;
        loop {
            let mut fields = [None, None];
            for side in 0..2 {
                self.cursors[side].seek(places[side]);
                fields[side] = self.next(side, kind, ranges[side].end)?;
                places[side] = self.cursors[side].at();
            }
            let (first, other) = match fields {
                [None, None] => return Ok(true),
                [Some(first), Some(other)] if first.number == other.number => (first, other),
                [Some(found), None] | [None, Some(found)] => {
                    self.steps.push(Step::Missing(kind.part(found.number)));
                    return Ok(false);
                }
                [Some(found), Some(other)] => {
                    // In the order of the numbers, the lower one is what the other lacks.
                    let number = found.number.min(other.number);
                    self.steps.push(Step::Missing(kind.part(number)));
                    return Ok(false);
                }
            };
            if !self.fields(kind, [&first, &other], n_nodes)? {
                return Ok(false);
            }
            n_nodes += usize::from(kind.inner(first.number) == Some(Kind::Node));
        }
    }

    /// The next field of a message that decides something.
    fn next(
        &mut self,
        side: usize,
        kind: Kind,
        end: u64,
    ) -> Result<Option<Field>, ReadError<S::Error>> {
        let cursor = &mut self.cursors[side];
        while let Some(field) = cursor.field(end)? {
            let after = cursor.at();
            let is_averaged = kind == Kind::Graph
                && field.number == graph::INITIALIZER
                && is_read(cursor, field.bytes()?)?;
            cursor.seek(after);
            let decodes = kind == Kind::Graph && self.decoders[side].contains(&field.begin);
            if !is_averaged && !decodes && !kind.ignores(field.number) {
                return Ok(Some(field));
            }
        }
        Ok(None)
    }

    /// Whether two fields of one number are the same.
    fn fields(
        &mut self,
        kind: Kind,
        fields: [&Field; 2],
        n_nodes: usize,
    ) -> Result<bool, ReadError<S::Error>> {
        let number = fields[0].number;
        if let Some(inner) = kind.inner(number) {
            let ranges = [fields[0].bytes()?, fields[1].bytes()?];
            let n_steps = self.steps.len();
            if self.message(inner, ranges.clone())? {
                return Ok(true);
            }
            let step = self.step(inner, ranges, n_nodes, kind.part(number))?;
            if let Some(step) = step {
                self.steps.insert(n_steps, step);
            }
            return Ok(false);
        }
        let same = match (&fields[0].value, &fields[1].value) {
            (Value::Varint(first), Value::Varint(other)) => first == other,
            (Value::Fixed32(first), Value::Fixed32(other)) => self.same(*first, *other, 4)?,
            (Value::Fixed64(first), Value::Fixed64(other)) => self.same(*first, *other, 8)?,
            (Value::Bytes(first), Value::Bytes(other)) => {
                let len = first.end - first.start;
                len == other.end - other.start && self.same(first.start, other.start, len)?
            }
            _ => false,
        };
        if !same {
            // That an attribute's value differs is said by naming the attribute.
            let says_nothing = matches!(kind, Kind::Attribute | Kind::Tensor | Kind::ValueInfo);
            if !says_nothing {
                self.steps.push(Step::Part(kind.part(number)));
            }
        }
        Ok(same)
    }

    fn step(
        &mut self,
        inner: Kind,
        ranges: [Range<u64>; 2],
        idx: usize,
        part: &'static str,
    ) -> Result<Option<Step>, ReadError<S::Error>> {
        let number = match inner {
            Kind::Node => node::OP_TYPE,
            Kind::Attribute => attribute::NAME,
            Kind::Function => function::NAME,
            // The graph of a model or an attribute goes without saying.
            Kind::Graph => return Ok(None),
            _ => return Ok(Some(Step::Part(part))),
        };
        let [first, other] = ranges;
        let first = self.text(0, first, number)?;
        let other = self.text(1, other, number)?;
        let other = Some(other).filter(|other| *other != first);
        Ok(Some(match inner {
            Kind::Node => Step::Node {
                idx,
                op_type: first,
                other,
            },
            Kind::Attribute => Step::Attribute { name: first, other },
            _ => Step::Function { name: first },
        }))
    }

    /// A text field of a message, cut if it is long.
    fn text(
        &mut self,
        side: usize,
        range: Range<u64>,
        number: u32,
    ) -> Result<String, ReadError<S::Error>> {
        let cursor = &mut self.cursors[side];
        cursor.seek(range.start);
        while let Some(field) = cursor.field(range.end)? {
            if field.number == number {
                let mut text = field.bytes()?;
                text.end = text.end.min(text.start + MOST_SHOWN);
                let bytes = cursor.bytes(text)?;
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Ok(String::new())
    }

    /// Whether `len` bytes of both are the same.
    fn same(&mut self, first: u64, other: u64, len: u64) -> Result<bool, ReadError<S::Error>> {
        let mut done = 0;
        let mut buffers = [[0; BLOCK_BYTES as usize]; 2];
        while done < len {
            let count = (len - done).min(BLOCK_BYTES);
            for (side, begin) in [first, other].into_iter().enumerate() {
                let buffer = &mut buffers[side][..count as usize];
                let source = self.cursors[side].source();
                source
                    .read_at(begin + done, buffer)
                    .map_err(ReadError::Source)?;
            }
            if buffers[0][..count as usize] != buffers[1][..count as usize] {
                return Ok(false);
            }
            done += count;
        }
        Ok(true)
    }
}
