//! The walk over a model: its graphs, their initialisers, and its functions.

use std::collections::HashMap;
use std::collections::HashSet;
use std::ops::Range;

use crate::format::onnx::read::Elements;
use crate::format::onnx::read::Initializer;
use crate::format::onnx::read::MOST_DEPTH;
use crate::format::onnx::read::MOST_TENSORS;
use crate::format::onnx::read::Message;
use crate::format::onnx::read::Model;
use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::constant::Constant;
use crate::format::onnx::read::decode::Nodes;
use crate::format::onnx::read::schema::function;
use crate::format::onnx::read::schema::graph;
use crate::format::onnx::read::schema::model;
use crate::format::onnx::read::schema::sparse;
use crate::format::onnx::read::tensor::shape;
use crate::format::onnx::read::wire::Cursor;
use crate::format::onnx::read::wire::Field;
use crate::format::onnx::read::wire::ReadAt;
use crate::format::onnx::read::wire::ReadError;
use crate::tensor::Dtype;

/// The model in `source`, of which at most `limit` bytes are no payload.
///
/// # Errors
/// [`OnnxError`] names what is wrong first, and where.
pub fn parse<S: ReadAt + ?Sized>(source: &S, limit: u64) -> Result<Model, ReadError<S::Error>> {
    let mut walker = Walker {
        cursor: Cursor::new(source, limit),
        model: Model::default(),
        names: HashSet::new(),
        locations: HashMap::new(),
        n_nodes: 0,
        nodes: Nodes::default(),
        constants: HashMap::new(),
    };
    walker.model(source.len())?;
    walker.replace_decoded()?;
    Ok(walker.model)
}

/// A walk over a model, and what has been found.
pub(super) struct Walker<'s, S: ?Sized> {
    pub(super) cursor: Cursor<'s, S>,
    pub(super) model: Model,
    pub(super) names: HashSet<String>,
    locations: HashMap<String, usize>,
    pub(super) n_nodes: usize,
    pub(super) nodes: Nodes,
    /// Constants that may be weights, by the name of an initialiser.
    pub(super) constants: HashMap<String, Constant>,
}

impl<S: ReadAt + ?Sized> Walker<'_, S> {
    fn model(&mut self, end: u64) -> Result<(), ReadError<S::Error>> {
        let mut has_graph = false;
        while let Some(field) = self.cursor.field(end)? {
            let after = self.cursor.at();
            match field.number {
                model::GRAPH => {
                    if has_graph {
                        let (at, number) = (field.begin, field.number);
                        let message = "model";
                        return Err(OnnxError::FieldTwice {
                            at,
                            number,
                            message,
                        }
                        .into());
                    }
                    has_graph = true;
                    let graph = self.enter(&field, None)?;
                    self.graph(graph, "", 0)?;
                }
                model::FUNCTIONS => {
                    let function = self.enter(&field, None)?;
                    self.function(function)?;
                }
                model::METADATA_PROPS => {
                    let (key, value) = self.entry(field.bytes()?)?;
                    let range = field.begin..after;
                    self.model.metadata_fields.push((key.clone(), range));
                    self.model.metadata.insert(key, value);
                }
                _ => {}
            }
            self.cursor.seek(after);
        }
        if has_graph {
            Ok(())
        } else {
            Err(OnnxError::NoGraph.into())
        }
    }

    /// Notes a message that may hold initialisers.
    pub(super) fn enter(
        &mut self,
        field: &Field,
        parent: Option<usize>,
    ) -> Result<usize, OnnxError> {
        self.model.messages.push(message(field, parent)?);
        Ok(self.model.messages.len() - 1)
    }

    fn function(&mut self, within: usize) -> Result<(), ReadError<S::Error>> {
        let Range { start, end } = self.model.messages[within].content.clone();
        let (mut name, mut domain) = (String::new(), String::new());
        self.cursor.seek(start);
        while let Some(field) = self.cursor.field(end)? {
            match field.number {
                function::NAME => name = self.cursor.text(field.bytes()?)?,
                function::DOMAIN => domain = self.cursor.text(field.bytes()?)?,
                _ => {}
            }
        }
        let path = format!("{domain}::{name}.");
        self.cursor.seek(start);
        while let Some(field) = self.cursor.field(end)? {
            let after = self.cursor.at();
            if field.number == function::NODE {
                self.node(&field, within, &path, 0)?;
            }
            self.cursor.seek(after);
        }
        Ok(())
    }

    pub(super) fn graph(
        &mut self,
        within: usize,
        path: &str,
        depth: usize,
    ) -> Result<(), ReadError<S::Error>> {
        if depth >= MOST_DEPTH {
            return Err(OnnxError::TooDeep.into());
        }
        let Range { start, end } = self.model.messages[within].content.clone();
        self.cursor.seek(start);
        while let Some(field) = self.cursor.field(end)? {
            let after = self.cursor.at();
            match field.number {
                graph::NODE => self.node(&field, within, path, depth)?,
                graph::INITIALIZER => self.initializer(&field, within, path)?,
                graph::SPARSE_INITIALIZER => {
                    self.sparse_initializer(&field, within, (path, None))?;
                }
                graph::INPUT | graph::OUTPUT => self.skim(&field)?,
                _ => {}
            }
            self.cursor.seek(after);
        }
        Ok(())
    }

    /// Steps through a message that only a comparison looks into, which expects to find
    /// fields there.
    fn skim(&mut self, field: &Field) -> Result<(), ReadError<S::Error>> {
        let Range { start, end } = field.bytes()?;
        self.cursor.seek(start);
        while self.cursor.field(end)?.is_some() {}
        Ok(())
    }

    fn initializer(
        &mut self,
        field: &Field,
        within: usize,
        path: &str,
    ) -> Result<(), ReadError<S::Error>> {
        let tensor = self.tensor(message(field, Some(within))?)?;
        if tensor.name.is_empty() {
            return Err(OnnxError::Unnamed { at: field.begin }.into());
        }
        let name = self.name(path, &tensor.name)?;
        let Some(dtype) = tensor.dtype()? else {
            if tensor.is_external() {
                return Err(OnnxError::ExternalConstant { at: field.begin }.into());
            }
            return Ok(());
        };
        let shape = tensor.shape()?;
        let values = self.values(tensor, (dtype, shape.numel()), &name)?;
        self.push(Initializer {
            name,
            dtype,
            shape,
            elements: Elements::Dense(values),
        })
    }

    /// A sparse tensor, called `given` or as its values are.
    pub(super) fn sparse_initializer(
        &mut self,
        field: &Field,
        within: usize,
        (path, given): (&str, Option<&str>),
    ) -> Result<(), ReadError<S::Error>> {
        let own = self.enter(field, Some(within))?;
        let end = self.model.messages[own].content.end;
        let (mut values, mut places, mut dims) = (None, None, Vec::new());
        self.cursor.seek(self.model.messages[own].content.start);
        while let Some(inner) = self.cursor.field(end)? {
            let after = self.cursor.at();
            match inner.number {
                sparse::VALUES | sparse::INDICES => {
                    let tensor = self.tensor(message(&inner, Some(own))?)?;
                    let part = match inner.number {
                        sparse::VALUES => &mut values,
                        _ => &mut places,
                    };
                    if part.replace(tensor).is_some() {
                        let (at, number) = (inner.begin, inner.number);
                        let message = "sparse tensor";
                        return Err(OnnxError::FieldTwice {
                            at,
                            number,
                            message,
                        }
                        .into());
                    }
                }
                sparse::DIMS => self.dims(&inner.value, &mut dims)?,
                _ => {}
            }
            self.cursor.seek(after);
        }
        let name = values.as_ref().map_or("", |values| values.name.as_str());
        let name = given.unwrap_or(name);
        if name.is_empty() {
            return Err(OnnxError::Unnamed { at: field.begin }.into());
        }
        let name = self.name(path, name)?;
        let unfit = |what| OnnxError::Sparse {
            tensor: name.clone(),
            what,
        };
        let (Some(values), Some(places)) = (values, places) else {
            return Err(unfit("lacks its places").into());
        };
        let Some(dtype) = values.dtype()? else {
            return Err(unfit("has elements of a type that is not read").into());
        };
        let shape = shape(&dims, &name)?;
        let count = match *values.dims {
            [count] => count,
            _ => return Err(unfit("has values that are no list").into()),
        };
        if count > shape.numel() {
            return Err(unfit("has more values than elements").into());
        }
        if places.dtype()? != Some(Dtype::I64) {
            return Err(unfit("has places that are not INT64").into());
        }
        let n_coordinates = match *places.dims {
            [n] if n == count => None,
            [n, rank] if n == count && rank == shape.rank() as u64 => Some(rank),
            _ => return Err(unfit("has more or fewer places than values").into()),
        };
        let Some(n_places) = count.checked_mul(n_coordinates.unwrap_or(1)) else {
            return Err(unfit("has more places than can be counted").into());
        };
        let values = self.values(values, (dtype, count), &name)?;
        let places = self.values(places, (Dtype::I64, n_places), &name)?;
        self.push(Initializer {
            name,
            dtype,
            shape,
            elements: Elements::Sparse {
                values,
                places,
                are_coordinates: n_coordinates.is_some(),
            },
        })
    }

    /// The name of an initialiser with its path, which no other may have.
    fn name(&mut self, path: &str, name: &str) -> Result<String, OnnxError> {
        self.cursor.spend(path.len() as u64)?;
        let name = format!("{path}{name}");
        if self.names.insert(name.clone()) {
            Ok(name)
        } else {
            Err(OnnxError::TensorTwice { tensor: name })
        }
    }

    pub(super) fn push(&mut self, initializer: Initializer) -> Result<(), ReadError<S::Error>> {
        if self.model.initializers.len() >= MOST_TENSORS {
            return Err(OnnxError::TooManyTensors.into());
        }
        self.model.initializers.push(initializer);
        Ok(())
    }

    /// Index of a file beside the model.
    pub(super) fn location(&mut self, location: &str) -> usize {
        if let Some(&known) = self.locations.get(location) {
            return known;
        }
        let index = self.model.locations.len();
        self.model.locations.push(location.to_owned());
        self.locations.insert(location.to_owned(), index);
        index
    }
}

pub(super) fn message(field: &Field, parent: Option<usize>) -> Result<Message, OnnxError> {
    Ok(Message {
        begin: field.begin,
        number: field.number,
        content: field.bytes()?,
        parent,
    })
}
