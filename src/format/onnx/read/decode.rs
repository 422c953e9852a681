//! Nodes that decode a compact tensor when a model is loaded: recognised by what they
//! compute, whatever they are called, and replaced by the tensor that they make.
//!
//! Of the values, one after the other, each 1 of a mask takes the next and each 0 takes
//! zero: `Gather(Concat([0], values), CumSum(mask) * mask)`. With a bitmask the mask is
//! `BitwiseAnd(bytes, [1, 2, 4, .., 128]) != 0` and its elements are those of the
//! tensor. With gaps, it is `gaps != 0`, and the elements are scattered over zeros, an
//! `Expand` or a `ConstantOfShape`, to places that are the sums of the gaps so far, where
//! a gap of 0 goes on by 255 places.

use std::collections::BTreeSet;
use std::collections::HashMap;

use crate::format::onnx::read::Elements;
use crate::format::onnx::read::Initializer;
use crate::format::onnx::read::Place;
use crate::format::onnx::read::Values;
use crate::format::onnx::read::wire::ReadAt;
use crate::format::onnx::read::wire::ReadError;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// Places that a gap of 0 goes on by.
pub(super) const FARTHEST: u64 = 255;

/// Longest constant that is looked at: the bits of a byte, or the dimensions of a shape.
const MOST_BYTES: u64 = 512;

/// Number of FLOAT among ONNX's element types.
const FLOAT: i64 = 1;
/// Number of INT32.
const INT32: i64 = 6;
/// Number of INT64.
const INT64: i64 = 7;
/// Number of BOOL.
const BOOL: i64 = 9;

/// Operators of which such nodes are made.
const OPERATORS: [&str; 14] = [
    "Add",
    "BitwiseAnd",
    "Cast",
    "Concat",
    "ConstantOfShape",
    "CumSum",
    "Expand",
    "Gather",
    "Mul",
    "Reshape",
    "ScatterElements",
    "Slice",
    "Sub",
    "Unsqueeze",
];

/// A node that may be one of those.
#[derive(Debug)]
pub(super) struct Node {
    /// Where its field begins.
    pub(super) begin: u64,
    op: &'static str,
    inputs: Vec<String>,
    /// Its only attribute, a number, by name.
    attribute: Option<(String, i64)>,
}

/// The nodes of the model's graph that may decode something, by their output.
#[derive(Debug, Default)]
pub(super) struct Nodes(HashMap<String, Node>);

impl Nodes {
    /// Which of the operators this is, if it is one.
    pub(super) fn operator(op_type: &[u8]) -> Option<&'static str> {
        OPERATORS.into_iter().find(|op| op.as_bytes() == op_type)
    }

    pub(super) fn insert(
        &mut self,
        output: String,
        begin: u64,
        (op, inputs): (&'static str, Vec<String>),
        attribute: Option<(String, i64)>,
    ) {
        let node = Node {
            begin,
            op,
            inputs,
            attribute,
        };
        self.0.insert(output, node);
    }
}

/// A tensor that nodes decode.
pub(super) struct Decoded {
    /// What it is, in place of the initialisers that it is made of.
    pub(super) initializer: Initializer,
    /// Where the nodes begin that make it.
    pub(super) nodes: BTreeSet<u64>,
    /// Names of the initialisers that it is made of.
    pub(super) parts: [String; 2],
    /// Names of constants that its nodes read.
    pub(super) constants: BTreeSet<String>,
}

/// A search for one tensor that ends at a node, and what it has come across.
struct Search<'a, S: ?Sized> {
    source: &'a S,
    nodes: &'a Nodes,
    initializers: &'a HashMap<&'a str, &'a Initializer>,
    used: BTreeSet<u64>,
    constants: BTreeSet<String>,
}

/// Every tensor that nodes decode.
pub(super) fn decoded<S: ReadAt + ?Sized>(
    source: &S,
    nodes: &Nodes,
    initializers: &[Initializer],
) -> Result<Vec<Decoded>, ReadError<S::Error>> {
    let by_name: HashMap<&str, &Initializer> = initializers
        .iter()
        .map(|initializer| (initializer.name.as_str(), initializer))
        .collect();
    let mut found = Vec::new();
    for (output, node) in &nodes.0 {
        if node.op != "Reshape" {
            continue;
        }
        let mut search = Search {
            source,
            nodes,
            initializers: &by_name,
            used: BTreeSet::new(),
            constants: BTreeSet::new(),
        };
        found.extend(search.tensor(output)?);
    }
    found.sort_by(|a: &Decoded, b| a.initializer.name.cmp(&b.initializer.name));
    Ok(found)
}

/// What a search returns: `None` where the nodes are others.
type Found<T, E> = Result<Option<T>, ReadError<E>>;

/// Goes on with what was found, or returns `None`.
macro_rules! found {
    ($found:expr) => {
        match $found {
            Some(found) => found,
            None => return Ok(None),
        }
    };
}

impl<'a, S: ReadAt + ?Sized> Search<'a, S> {
    fn tensor(&mut self, name: &str) -> Found<Decoded, S::Error> {
        let [elements, dims] = found!(self.inputs(name, "Reshape"));
        let dims = found!(self.numbers(dims)?);
        let dims: Option<Vec<u64>> = dims.iter().map(|&dim| dim.try_into().ok()).collect();
        let shape = found!(dims.and_then(Shape::new));
        let (values_name, places_name, bitmask, index) = match self.nodes.0.get(elements) {
            Some(node) if node.op == "Gather" => {
                let (values, mask) = found!(self.gathered(elements)?);
                let (bitmask, index) = found!(self.bits(mask, shape.numel())?);
                (values, bitmask, true, index)
            }
            Some(node) if node.op == "ScatterElements" => {
                let (values, gaps, index) = found!(self.scattered(elements, shape.numel())?);
                (values, gaps, false, index)
            }
            _ => return Ok(None),
        };
        // Sums of fewer bits than the tensor has elements would wrap.
        let is_wide = index == INT64 || i32::try_from(shape.numel()).is_ok();
        let values = found!(self.list(values_name));
        let places = found!(self.list(places_name));
        let is_float = matches!(
            values.dtype,
            Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64
        );
        let n_bytes = match bitmask {
            true => shape.numel().div_ceil(8),
            false => places.count,
        };
        if places.dtype != Dtype::U8 || places.count != n_bytes || !is_float || !is_wide {
            return Ok(None);
        }
        let elements = match bitmask {
            true => Elements::Bitmask {
                values: values.clone(),
                bitmask: places.clone(),
            },
            false => Elements::Gaps {
                values: values.clone(),
                gaps: places.clone(),
            },
        };
        Ok(Some(Decoded {
            initializer: Initializer {
                name: name.to_owned(),
                dtype: values.dtype,
                shape,
                elements,
            },
            nodes: std::mem::take(&mut self.used),
            parts: [values_name.to_owned(), places_name.to_owned()],
            constants: std::mem::take(&mut self.constants),
        }))
    }

    /// Names of the values and of the mask by which they are gathered.
    fn gathered(&mut self, name: &str) -> Found<(&'a str, &'a str), S::Error> {
        let [table, sources] = found!(self.inputs(name, "Gather"));
        let [zero, cast] = found!(self.inputs_with(table, "Concat", Some(("axis", 0))));
        if !self.is_bytes(zero, Dtype::F32, &[0; 4])? {
            return Ok(None);
        }
        let is_cast = |node: &Node| node.op == "Cast";
        let values = match self.nodes.0.get(cast).is_some_and(is_cast) {
            true => found!(self.cast(cast, FLOAT)),
            false => cast,
        };
        let [ranks, mask] = found!(self.inputs(sources, "Mul"));
        let [summed, axis] = found!(self.inputs(ranks, "CumSum"));
        if summed != mask || !self.is_zero(axis)? {
            return Ok(None);
        }
        Ok(Some((values, mask)))
    }

    /// Name of the bitmask that a mask is read from, and the type of its numbers.
    fn bits(&mut self, mask: &'a str, numel: u64) -> Found<(&'a str, i64), S::Error> {
        let mut padded = mask;
        if self
            .nodes
            .0
            .get(mask)
            .is_some_and(|node| node.op == "Slice")
        {
            let [inner, begin, end] = found!(self.inputs(mask, "Slice"));
            let begins = self.numbers(begin)?.as_deref() == Some(&[0]);
            let ends = self.numbers(end)?;
            let ends = matches!(ends.as_deref(), Some(&[end]) if u64::try_from(end) == Ok(numel));
            if !begins || !ends {
                return Ok(None);
            }
            padded = inner;
        } else if !numel.is_multiple_of(8) {
            return Ok(None);
        }
        let [rows, flat] = found!(self.inputs(padded, "Reshape"));
        if self.numbers(flat)?.as_deref() != Some(&[-1]) {
            return Ok(None);
        }
        let (flags, index) = found!(self.cast_to_index(rows));
        let bits = found!(self.cast(flags, BOOL));
        let [column, each_bit] = found!(self.inputs(bits, "BitwiseAnd"));
        let each: Vec<u8> = (0..8).map(|bit| 1 << bit).collect();
        if !self.is_bytes(each_bit, Dtype::U8, &each)? {
            return Ok(None);
        }
        let [bitmask, axis] = found!(self.inputs(column, "Unsqueeze"));
        if self.numbers(axis)?.as_deref() != Some(&[1]) {
            return Ok(None);
        }
        Ok(Some((bitmask, index)))
    }

    /// Names of the values and of the gaps by which they are scattered, and the type of
    /// the places.
    fn scattered(&mut self, name: &str, numel: u64) -> Found<(&'a str, &'a str, i64), S::Error> {
        let [zeros, places, updates] = found!(self.inputs(name, "ScatterElements"));
        let count = match self.inputs(zeros, "Expand") {
            Some([zero, count]) if self.is_bytes(zero, Dtype::F32, &[0; 4])? => count,
            Some(_) => return Ok(None),
            None => {
                let [count] = found!(self.inputs(zeros, "ConstantOfShape"));
                count
            }
        };
        let count = self.numbers(count)?;
        if !matches!(count.as_deref(), Some(&[count]) if u64::try_from(count) == Ok(numel)) {
            return Ok(None);
        }
        let (values, mask) = found!(self.gathered(updates)?);
        let (flags, index) = found!(self.cast_to_index(mask));
        let gaps = found!(self.cast(flags, BOOL));
        let [next, one] = found!(self.inputs(places, "Sub"));
        let [distances, axis] = found!(self.inputs(next, "CumSum"));
        let [steps, far] = found!(self.inputs(distances, "Add"));
        let [skips, farthest] = found!(self.inputs(far, "Mul"));
        let [one_too, mask_too] = found!(self.inputs(skips, "Sub"));
        let (gaps_too, index_too) = found!(self.cast_to_index(steps));
        let are_same = mask_too == mask && gaps_too == gaps && index_too == index;
        let are_constants = self.numbers(one)?.as_deref() == Some(&[1])
            && self.numbers(one_too)?.as_deref() == Some(&[1])
            && self.numbers(farthest)?.as_deref() == Some(&[FARTHEST as i64]);
        if !are_same || !are_constants || !self.is_zero(axis)? {
            return Ok(None);
        }
        Ok(Some((values, gaps, index)))
    }

    /// Inputs of a node without attributes, which is one of those looked for from now on.
    fn inputs<const N: usize>(&mut self, output: &str, op: &str) -> Option<[&'a str; N]> {
        self.inputs_with(output, op, None)
    }

    fn inputs_with<const N: usize>(
        &mut self,
        output: &str,
        op: &str,
        attribute: Option<(&str, i64)>,
    ) -> Option<[&'a str; N]> {
        let node = self.nodes.0.get(output).filter(|node| node.op == op)?;
        let found = node.attribute.as_ref();
        if found.map(|(name, number)| (name.as_str(), *number)) != attribute {
            return None;
        }
        let inputs: &[String; N] = node.inputs.as_slice().try_into().ok()?;
        self.used.insert(node.begin);
        Some(inputs.each_ref().map(String::as_str))
    }

    fn cast(&mut self, output: &str, to: i64) -> Option<&'a str> {
        let [input] = self.inputs_with(output, "Cast", Some(("to", to)))?;
        Some(input)
    }

    /// The input of a cast to whole numbers, and to which.
    fn cast_to_index(&mut self, output: &str) -> Option<(&'a str, i64)> {
        let casts = [INT32, INT64].into_iter();
        let mut found = casts.filter_map(|to| Some((self.cast(output, to)?, to)));
        found.next()
    }

    /// Elements of an initialiser of one dimension.
    fn list(&self, name: &str) -> Option<&'a Values> {
        let initializer = self.initializers.get(name)?;
        match &initializer.elements {
            Elements::Dense(values) if initializer.shape.rank() == 1 => Some(values),
            _ => None,
        }
    }

    /// Bytes of a small constant, with their type.
    fn constant(&mut self, name: &str) -> Found<(Dtype, Vec<u8>), S::Error> {
        let initializer = found!(self.initializers.get(name));
        let values = match &initializer.elements {
            Elements::Dense(values) => values,
            _ => return Ok(None),
        };
        let is_far = matches!(values.place, Place::External { .. });
        if is_far || values.bytes() > MOST_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; values.bytes() as usize];
        values.read(|_| self.source, 0, &mut bytes)?;
        self.constants.insert(name.to_owned());
        Ok(Some((values.dtype, bytes)))
    }

    fn is_bytes(
        &mut self,
        name: &str,
        dtype: Dtype,
        bytes: &[u8],
    ) -> Result<bool, ReadError<S::Error>> {
        let found = self.constant(name)?;
        Ok(found.is_some_and(|(of, found)| of == dtype && found == bytes))
    }

    /// Whole numbers of a small constant.
    fn numbers(&mut self, name: &str) -> Found<Vec<i64>, S::Error> {
        let (dtype, bytes) = found!(self.constant(name)?);
        Ok(match dtype {
            Dtype::I64 => {
                let numbers = bytes.as_chunks::<8>().0.iter();
                Some(numbers.map(|&bytes| i64::from_le_bytes(bytes)).collect())
            }
            Dtype::I32 => {
                let numbers = bytes.as_chunks::<4>().0.iter();
                Some(
                    numbers
                        .map(|&bytes| i32::from_le_bytes(bytes).into())
                        .collect(),
                )
            }
            _ => None,
        })
    }

    /// Whether a constant is the axis 0.
    fn is_zero(&mut self, name: &str) -> Result<bool, ReadError<S::Error>> {
        Ok(self.numbers(name)?.as_deref() == Some(&[0]))
    }
}
