//! An ONNX graph under construction: names stay unique, constants are shared, and the
//! place of every payload is known.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use super::OnnxError;
use super::Payloads;
use super::census::Planned;
use crate::checkpoint::Content;
use crate::format::onnx::note::EncodedTensor;
use crate::format::onnx::note::Note;
use crate::format::onnx::write::Attribute;
use crate::format::onnx::write::Data;
use crate::format::onnx::write::Element;
use crate::format::onnx::write::FileLayout;
use crate::format::onnx::write::Graph;
use crate::format::onnx::write::Node;
use crate::format::onnx::write::Tensor;
use crate::graph::ParameterIdx;

/// Offsets in the second file are multiples of this, so that readers may map elements.
const ALIGNMENT: u64 = 64;

/// What of a parameter a payload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All elements.
    Elements,
    /// Retained elements.
    Values,
    /// One bit per element.
    Bitmask,
    /// Distances of retained elements.
    Gaps,
    /// Indices of retained elements.
    Indices,
}

/// Bytes that are written after the rest of the file.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    /// Whose.
    pub(super) parameter: ParameterIdx,
    /// What of it.
    pub(super) part: Part,
    /// Where in the second file, if it goes there.
    pub(super) outside: Option<Range<u64>>,
}

/// Where the bytes of a payload go.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Inside(Range<u64>),
    Outside(Range<u64>),
}

/// A model without the elements of its parameters.
#[derive(Debug)]
pub(super) struct Lowered {
    pub(super) graph: Graph,
    pub(super) payloads: Vec<Payload>,
    /// Bytes of the second file.
    pub(super) data_bytes: u64,
    pub(super) note: Note,
    /// Batch norms that are left.
    pub(super) n_batch_norms: usize,
}

impl Lowered {
    /// Where each payload goes.
    pub(super) fn places(&self, layout: &FileLayout) -> Vec<Place> {
        let mut inside: BTreeMap<usize, Range<u64>> = layout.payloads.iter().cloned().collect();
        let places = self.payloads.iter().enumerate().map(|(idx, payload)| {
            match (&payload.outside, inside.remove(&idx)) {
                (Some(place), _) => Place::Outside(place.clone()),
                (None, place) => Place::Inside(place.expect("a payload inside has a hole")),
            }
        });
        places.collect()
    }
}

/// A graph under construction.
pub(super) struct Assembly<'a> {
    pub(super) planned: &'a [Option<Planned<'a>>],
    pub(super) graph: Graph,
    pub(super) encoded: BTreeMap<String, EncodedTensor>,
    stored_in: &'a Payloads,
    names: BTreeSet<String>,
    constants: BTreeMap<(&'static str, Vec<u8>), String>,
    payloads: Vec<Payload>,
    data_bytes: u64,
}

impl<'a> Assembly<'a> {
    /// An empty graph; `names` are taken.
    pub(super) fn new(
        planned: &'a [Option<Planned<'a>>],
        stored_in: &'a Payloads,
        names: BTreeSet<String>,
    ) -> Self {
        Self {
            planned,
            graph: Graph::default(),
            encoded: BTreeMap::new(),
            stored_in,
            names,
            constants: BTreeMap::new(),
            payloads: Vec::new(),
            data_bytes: 0,
        }
    }

    /// The graph with everything else that has been settled.
    pub(super) fn finish(self, note: Note, n_batch_norms: usize) -> Lowered {
        Lowered {
            graph: self.graph,
            payloads: self.payloads,
            data_bytes: self.data_bytes,
            note,
            n_batch_norms,
        }
    }

    /// `base`, or that with a number where it is taken; taken from now on.
    pub(super) fn name(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        name
    }

    /// Adds a node whose result is called `output` if that is free; returns its name.
    pub(super) fn node(
        &mut self,
        op: &'static str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<(&'static str, Attribute)>,
    ) -> String {
        let output = self.name(output);
        self.node_named(op, inputs, output.clone(), attributes);
        output
    }

    /// Adds a node whose result has a name that was taken for it.
    pub(super) fn node_named(
        &mut self,
        op: &'static str,
        inputs: &[&str],
        output: String,
        attributes: Vec<(&'static str, Attribute)>,
    ) {
        self.graph.nodes.push(Node {
            op,
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            output,
            attributes,
        });
    }

    /// A small constant, which all who ask for the same have in common.
    pub(super) fn constant(
        &mut self,
        base: &'static str,
        element: Element,
        dims: &[u64],
        bytes: Vec<u8>,
    ) -> String {
        let key = (base, bytes);
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.name(base);
        self.initializer(name.clone(), element, dims, Data::Inline(key.1.clone()));
        self.constants.insert(key, name.clone());
        name
    }

    /// A list of whole numbers.
    pub(super) fn numbers(&mut self, base: &'static str, numbers: &[i64]) -> String {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        self.constant(
            base,
            Element::Int64,
            &[numbers.len() as u64],
            bytes.collect(),
        )
    }

    /// Adds a constant.
    pub(super) fn initializer(&mut self, name: String, element: Element, dims: &[u64], data: Data) {
        self.graph.initializers.push(Tensor {
            name,
            element,
            dims: dims.to_vec(),
            data,
        });
    }

    /// Where a part of a parameter is that takes `bytes` bytes.
    pub(super) fn payload(
        &mut self,
        parameter: ParameterIdx,
        part: Part,
        bytes: u64,
    ) -> Result<Data, OnnxError> {
        // Some readers refuse external data of no length.
        if bytes == 0 {
            return Ok(Data::Inline(Vec::new()));
        }
        let mut outside = None;
        let data = match self.stored_in {
            Payloads::Inside => Data::Streamed(self.payloads.len()),
            Payloads::Checkpoint { directory } => {
                return in_checkpoint(self.planned(parameter), directory);
            }
            Payloads::File { name } => {
                let offset = self.data_bytes.next_multiple_of(ALIGNMENT);
                self.data_bytes = offset + bytes;
                outside = Some(offset..offset + bytes);
                Data::External {
                    location: name.clone(),
                    offset,
                }
            }
        };
        self.payloads.push(Payload {
            parameter,
            part,
            outside,
        });
        Ok(data)
    }

    /// A parameter that is computed with.
    pub(super) fn planned(&self, parameter: ParameterIdx) -> &'a Planned<'a> {
        self.planned[parameter]
            .as_ref()
            .expect("what is computed with was read")
    }
}

/// A parameter where it is in the checkpoint.
fn in_checkpoint(planned: &Planned<'_>, directory: &Path) -> Result<Data, OnnxError> {
    let stored = planned.source.stored();
    let refuse = |reason| OnnxError::NotInCheckpoint {
        tensor: stored.name.clone(),
        reason,
    };
    if planned.scale.is_some() {
        return Err(refuse("a batch norm is folded into it"));
    }
    if planned.source.has_stored_mask() && planned.found.is_pruned {
        return Err(refuse("its mask is stored beside it"));
    }
    if !matches!(stored.content, Content::Plain) {
        return Err(refuse("its elements do not lie there one after the other"));
    }
    Ok(Data::External {
        location: location(planned.source.shard().source().path(), directory)?,
        offset: stored.offset,
    })
}

/// Path of a file relative to the directory of the model, as readers want it: no link,
/// and not upward.
fn location(path: &Path, directory: &Path) -> Result<String, OnnxError> {
    let unreferable = |reason| OnnxError::Unreferable {
        path: path.to_owned(),
        reason,
    };
    if path.is_symlink() {
        return Err(unreferable("it is a link, and readers of ONNX follow none"));
    }
    let (Ok(whole), Ok(directory)) = (fs::canonicalize(path), fs::canonicalize(directory)) else {
        return Err(unreferable("its directory cannot be found"));
    };
    let Ok(relative) = whole.strip_prefix(&directory) else {
        return Err(OnnxError::NotBeside {
            path: path.to_owned(),
            directory,
        });
    };
    let text = relative.to_str().map(str::to_owned);
    text.ok_or_else(|| unreferable("its name is not UTF-8"))
}
