//! Weights that a model holds as constants: a `Constant` node whose floats a layer takes
//! as its weights is an initialiser by another name. Other constants, masks and shapes and
//! tables of positions, are part of the graph.

use std::ops::Range;

use crate::format::onnx::read::Elements;
use crate::format::onnx::read::Initializer;
use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::graph::Walker;
use crate::format::onnx::read::graph::message;
use crate::format::onnx::read::schema::attribute;
use crate::format::onnx::read::schema::sparse;
use crate::format::onnx::read::tensor::TensorMessage;
use crate::format::onnx::read::wire::Field;
use crate::format::onnx::read::wire::ReadAt;
use crate::format::onnx::read::wire::ReadError;
use crate::tensor::Arithmetic;
use crate::tensor::Shape;

/// Operators whose inputs of floats are weights, if they are constants.
const LAYERS: [&[u8]; 12] = [
    b"BatchNormalization",
    b"Conv",
    b"ConvTranspose",
    b"GRU",
    b"Gemm",
    b"GroupNormalization",
    b"InstanceNormalization",
    b"LSTM",
    b"LayerNormalization",
    b"MatMul",
    b"PRelu",
    b"RNN",
];

/// Operators that add a bias or scale by one, which is a list.
const ELEMENTWISE: [&[u8]; 4] = [b"Add", b"Div", b"Mul", b"Sub"];

/// Longest name of an operator that is looked at.
const MOST_NAME: u64 = 32;

/// What a node says of itself, by its places.
#[derive(Debug, Default)]
pub(super) struct NodeParts {
    pub(super) op_type: Range<u64>,
    pub(super) inputs: Vec<Range<u64>>,
    pub(super) outputs: Vec<Range<u64>>,
    pub(super) attributes: Vec<Field>,
    /// Whether its operator is of another domain.
    pub(super) is_foreign: bool,
}

/// A constant of floats that may turn out to be a layer's weights.
#[derive(Debug)]
pub(super) struct Constant {
    node: Field,
    /// The message around the node.
    within: usize,
    attribute: Field,
    tensor: Field,
    /// Whether it has at most one dimension of more than one index.
    is_list: bool,
}

impl<S: ReadAt + ?Sized> Walker<'_, S> {
    /// Keeps a node in mind if it is a constant of floats, and makes initialisers of those
    /// that it takes as weights.
    pub(super) fn note_constants(
        &mut self,
        node: &Field,
        parts: &NodeParts,
        (within, path): (usize, &str),
    ) -> Result<(), ReadError<S::Error>> {
        let len = parts.op_type.end - parts.op_type.start;
        if parts.is_foreign || len > MOST_NAME {
            return Ok(());
        }
        let op_type = self.cursor.bytes(parts.op_type.clone())?;
        let op_type = op_type.as_slice();
        if op_type == b"Constant" {
            return self.keep_constant(node, parts, (within, path));
        }
        let is_layer = LAYERS.contains(&op_type);
        if self.constants.is_empty() || !(is_layer || ELEMENTWISE.contains(&op_type)) {
            return Ok(());
        }
        for input in &parts.inputs {
            let name = self.cursor.text(input.clone())?;
            let name = format!("{path}{name}");
            let constant = self.constants.get(&name);
            if constant.is_some_and(|constant| is_layer || constant.is_list)
                && let Some(constant) = self.constants.remove(&name)
            {
                self.constant_initializer(constant, name)?;
            }
        }
        Ok(())
    }

    fn keep_constant(
        &mut self,
        node: &Field,
        parts: &NodeParts,
        (within, path): (usize, &str),
    ) -> Result<(), ReadError<S::Error>> {
        let ([output], [attribute]) = (parts.outputs.as_slice(), parts.attributes.as_slice())
        else {
            return Ok(());
        };
        let Some(tensor) = self.constant_tensor(attribute.bytes()?)? else {
            return Ok(());
        };
        let Some(is_list) = self.is_list(&tensor)? else {
            return Ok(());
        };
        self.cursor.spend(path.len() as u64)?;
        let name = format!("{path}{}", self.cursor.text(output.clone())?);
        let constant = Constant {
            node: node.clone(),
            within,
            attribute: attribute.clone(),
            tensor,
            is_list,
        };
        self.constants.insert(name, constant);
        Ok(())
    }

    /// The tensor that is the value of an attribute, dense or sparse.
    fn constant_tensor(&mut self, range: Range<u64>) -> Result<Option<Field>, ReadError<S::Error>> {
        self.cursor.seek(range.start);
        let mut found = None;
        while let Some(field) = self.cursor.field(range.end)? {
            let is_tensor = matches!(field.number, attribute::T | attribute::SPARSE_TENSOR);
            if is_tensor && found.replace(field).is_some() {
                return Ok(None);
            }
        }
        Ok(found)
    }

    /// Whether floats have but one dimension of several indices; `None` of what is no
    /// float that is averaged, and of a single number.
    fn is_list(&mut self, field: &Field) -> Result<Option<bool>, ReadError<S::Error>> {
        let (values, dims) = match field.number {
            attribute::T => {
                let tensor = self.tensor(message(field, None)?)?;
                let dims = tensor.dims.clone();
                (Some(tensor), dims)
            }
            _ => self.sparse_values(field)?,
        };
        let dtype = values.map(|values| values.dtype()).transpose()?.flatten();
        let is_float = dtype.is_some_and(|dtype| dtype.arithmetic() == Arithmetic::Average);
        let numel = Shape::new(dims.as_slice()).map_or(0, |shape| shape.numel());
        let n_long = dims.iter().filter(|&&dim| dim > 1).count();
        Ok((is_float && numel > 1).then_some(n_long <= 1))
    }

    /// The values and the dimensions of a sparse tensor.
    fn sparse_values(
        &mut self,
        field: &Field,
    ) -> Result<(Option<TensorMessage>, Vec<u64>), ReadError<S::Error>> {
        let Range { start, end } = field.bytes()?;
        let (mut values, mut dims) = (None, Vec::new());
        self.cursor.seek(start);
        while let Some(inner) = self.cursor.field(end)? {
            let after = self.cursor.at();
            match inner.number {
                sparse::VALUES => values = Some(self.tensor(message(&inner, None)?)?),
                sparse::DIMS => self.dims(&inner.value, &mut dims)?,
                _ => {}
            }
            self.cursor.seek(after);
        }
        Ok((values, dims))
    }

    fn constant_initializer(
        &mut self,
        constant: Constant,
        name: String,
    ) -> Result<(), ReadError<S::Error>> {
        let node = self.enter(&constant.node, Some(constant.within))?;
        let attribute = self.enter(&constant.attribute, Some(node))?;
        if constant.tensor.number == attribute::SPARSE_TENSOR {
            self.sparse_initializer(&constant.tensor, attribute, ("", Some(&name)))?;
        } else {
            let tensor = self.tensor(message(&constant.tensor, Some(attribute))?)?;
            if !self.names.insert(name.clone()) {
                return Err(OnnxError::TensorTwice { tensor: name }.into());
            }
            let Some(dtype) = tensor.dtype()? else {
                return Ok(());
            };
            let shape = tensor.shape()?;
            let values = self.values(tensor, (dtype, shape.numel()), &name)?;
            self.push(Initializer {
                name,
                dtype,
                shape,
                elements: Elements::Dense(values),
            })?;
        }
        self.model.decoders.insert(constant.node.begin);
        Ok(())
    }
}
