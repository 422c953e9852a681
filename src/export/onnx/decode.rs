//! Weights in the graph: as they are, cast to single precision, or with the nodes that
//! decode them.
//!
//! The nodes depend on constants alone, so that a reader computes them once, when it
//! loads the model. Values are cast before they are put in their places: there are fewer
//! of them, and readers have fewer operators for F16 and BF16 than for F32.

use super::Encoding;
use super::OnnxError;
use super::assembly::Assembly;
use super::assembly::Part;
use super::census::FARTHEST;
use super::census::Found;
use super::census::Planned;
use crate::format::onnx::note::EncodedTensor;
use crate::format::onnx::write::Attribute;
use crate::format::onnx::write::Element;
use crate::format::onnx::write::SparseTensor;
use crate::format::onnx::write::Tensor;
use crate::graph::Parameter;
use crate::graph::ParameterIdx;

/// Element type of places inside a tensor while it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Int32,
    Int64,
}

impl Index {
    /// The narrowest in which every place, and their number, can be counted.
    fn of(numel: u64) -> Self {
        match i32::try_from(numel) {
            Ok(_) => Self::Int32,
            Err(_) => Self::Int64,
        }
    }

    fn element(self) -> Element {
        match self {
            Self::Int32 => Element::Int32,
            Self::Int64 => Element::Int64,
        }
    }

    /// A list of one number.
    fn constant(self, assembly: &mut Assembly<'_>, base: &'static str, number: u8) -> String {
        let bytes = match self {
            Self::Int32 => i32::from(number).to_le_bytes().to_vec(),
            Self::Int64 => i64::from(number).to_le_bytes().to_vec(),
        };
        assembly.constant(base, self.element(), &[1], bytes)
    }
}

/// One parameter on its way into the graph.
pub(super) struct Decoder<'a, 'g> {
    pub(super) assembly: &'g mut Assembly<'a>,
    pub(super) idx: ParameterIdx,
    pub(super) parameter: &'g Parameter,
}

impl<'a> Decoder<'a, '_> {
    /// Adds the parameter in an encoding; returns the name of its F32 elements.
    pub(super) fn add(&mut self, encoding: Encoding) -> Result<String, OnnxError> {
        let planned = self.planned();
        let encoding = match (encoding, planned.found) {
            (
                _,
                Found {
                    is_pruned: false, ..
                },
            ) => Encoding::Dense,
            // OpenVINO scatters no empty list.
            (Encoding::Delta, Found { retained: 0, .. }) => Encoding::Bitmask,
            _ => encoding,
        };
        if encoding != Encoding::Dense {
            let dtype = match planned.scale {
                Some(_) => "F32",
                None => planned.source.dtype().name(),
            };
            let encoded = EncodedTensor {
                encoding: encoding.name().to_owned(),
                dtype: dtype.to_owned(),
                shape: self.parameter.shape.dims().to_vec(),
            };
            let name = self.parameter.name.clone();
            self.assembly.encoded.insert(name, encoded);
        }
        match encoding {
            Encoding::Dense => self.dense(),
            Encoding::Bitmask => self.bitmask(),
            Encoding::Delta => self.delta(),
            Encoding::SparseInitializer => self.sparse(),
        }
    }

    fn planned(&self) -> &'a Planned<'a> {
        self.assembly.planned(self.idx)
    }

    fn dense(&mut self) -> Result<String, OnnxError> {
        let name = self.parameter.name.clone();
        let dims = self.parameter.shape.dims();
        let (element, numel) = (self.planned().element(), self.parameter.shape.numel());
        let data = self
            .assembly
            .payload(self.idx, Part::Elements, numel * element.bytes())?;
        self.assembly.initializer(name.clone(), element, dims, data);
        Ok(self.cast(name))
    }

    fn sparse(&mut self) -> Result<String, OnnxError> {
        let name = self.parameter.name.clone();
        let retained = self.planned().found.retained;
        let values = self.tensor(Part::Values, name.clone(), self.planned().element())?;
        let indices = self.inner("indices");
        let indices = self.tensor(Part::Indices, indices, Element::Int64)?;
        debug_assert_eq!(indices.dims, [retained]);
        self.assembly.graph.sparse_initializers.push(SparseTensor {
            dims: self.parameter.shape.dims().to_vec(),
            values,
            indices,
        });
        Ok(self.cast(name))
    }

    fn bitmask(&mut self) -> Result<String, OnnxError> {
        let numel = self.parameter.shape.numel();
        let index = Index::of(numel);
        let table = self.table()?;
        let bitmask = self.initializer(Part::Bitmask, "bitmask", Element::Uint8)?;
        let one = self.assembly.numbers("sms.one", &[1]);
        let column = self.node("Unsqueeze", &[&bitmask, &one], "column");
        let each_bit: Vec<u8> = (0..8).map(|bit| 1 << bit).collect();
        let each_bit = self
            .assembly
            .constant("sms.bits", Element::Uint8, &[8], each_bit);
        let bits = self.node("BitwiseAnd", &[&column, &each_bit], "bits");
        let flags = self.cast_to(&bits, Element::Bool, "flags");
        let rows = self.cast_to(&flags, index.element(), "rows");
        let flat = self.assembly.numbers("sms.flat", &[-1]);
        let mut mask = self.node("Reshape", &[&rows, &flat], "padded_mask");
        if !numel.is_multiple_of(8) {
            let begin = self.assembly.numbers("sms.begin", &[0]);
            let end = self.numel();
            mask = self.node("Slice", &[&mask, &begin, &end], "mask");
        }
        let elements = self.gather(&table, &mask);
        Ok(self.reshape(&elements))
    }

    fn delta(&mut self) -> Result<String, OnnxError> {
        let index = Index::of(self.parameter.shape.numel());
        let table = self.table()?;
        let gaps = self.initializer(Part::Gaps, "gaps", Element::Uint8)?;
        let steps = self.cast_to(&gaps, index.element(), "steps");
        let flags = self.cast_to(&gaps, Element::Bool, "flags");
        let mask = self.cast_to(&flags, index.element(), "mask");
        let one = index.constant(self.assembly, "sms.unit", 1);
        let farthest = index.constant(self.assembly, "sms.farthest", FARTHEST as u8);
        let skips = self.node("Sub", &[&one, &mask], "skips");
        let far = self.node("Mul", &[&skips, &farthest], "far");
        let distances = self.node("Add", &[&steps, &far], "distances");
        let axis = self.axis();
        let next = self.node("CumSum", &[&distances, &axis], "next");
        let places = self.node("Sub", &[&next, &one], "places");
        let updates = self.gather(&table, &mask);
        // A ConstantOfShape without a value is of F64 to tract, against ONNX.
        let (zero, numel) = (self.zero(), self.numel());
        let zeros = self.node("Expand", &[&zero, &numel], "zeros");
        let elements = self.node("ScatterElements", &[&zeros, &places, &updates], "scattered");
        Ok(self.reshape(&elements))
    }

    /// A zero, then the values in F32.
    fn table(&mut self) -> Result<String, OnnxError> {
        let element = self.planned().element();
        let mut values = self.initializer(Part::Values, "values", element)?;
        if element != Element::Float {
            values = self.cast_to(&values, Element::Float, "values.float");
        }
        let zero = self.zero();
        let name = self.inner("table");
        let axis = vec![("axis", Attribute::Int(0))];
        Ok(self.assembly.node("Concat", &[&zero, &values], &name, axis))
    }

    /// A list of one zero in F32.
    fn zero(&mut self) -> String {
        self.assembly
            .constant("sms.zero", Element::Float, &[1], vec![0; 4])
    }

    /// For each 1 in `mask` the next of the values, for each 0 zero.
    fn gather(&mut self, table: &str, mask: &str) -> String {
        let axis = self.axis();
        let ranks = self.node("CumSum", &[mask, &axis], "ranks");
        let sources = self.node("Mul", &[&ranks, mask], "sources");
        self.node("Gather", &[table, &sources], "elements")
    }

    /// The elements in the parameter's shape, under its name.
    fn reshape(&mut self, elements: &str) -> String {
        let dims = self.parameter.shape.dims().iter();
        let dims: Vec<i64> = dims.map(|&dim| dim.cast_signed()).collect();
        let shape = self.assembly.numbers("sms.shape", &dims);
        // The name is the parameter's own, which is taken.
        let name = self.parameter.name.clone();
        self.assembly
            .node_named("Reshape", &[elements, &shape], name.clone(), Vec::new());
        name
    }

    fn initializer(
        &mut self,
        part: Part,
        ending: &str,
        element: Element,
    ) -> Result<String, OnnxError> {
        let name = self.inner(ending);
        let name = self.assembly.name(&name);
        let tensor = self.tensor(part, name.clone(), element)?;
        self.assembly.graph.initializers.push(tensor);
        Ok(name)
    }

    fn tensor(&mut self, part: Part, name: String, element: Element) -> Result<Tensor, OnnxError> {
        let found = self.planned().found;
        let length = match part {
            Part::Elements => self.parameter.shape.numel(),
            Part::Values | Part::Indices => found.retained,
            Part::Bitmask => self.parameter.shape.numel().div_ceil(8),
            Part::Gaps => found.gaps,
        };
        let data = self
            .assembly
            .payload(self.idx, part, length * element.bytes())?;
        Ok(Tensor {
            name,
            element,
            dims: vec![length],
            data,
        })
    }

    /// `name`, or what it is in single precision.
    fn cast(&mut self, name: String) -> String {
        match self.planned().element() {
            Element::Float => name,
            _ => self.cast_to(&name, Element::Float, "float"),
        }
    }

    fn cast_to(&mut self, input: &str, element: Element, ending: &str) -> String {
        let name = self.inner(ending);
        let to = vec![("to", Attribute::Int(element as i64))];
        self.assembly.node("Cast", &[input], &name, to)
    }

    fn node(&mut self, op: &'static str, inputs: &[&str], ending: &str) -> String {
        let name = self.inner(ending);
        self.assembly.node(op, inputs, &name, Vec::new())
    }

    fn axis(&mut self) -> String {
        self.assembly
            .constant("sms.axis", Element::Int64, &[], vec![0; 8])
    }

    /// The number of elements, as a list.
    fn numel(&mut self) -> String {
        let numel = self.parameter.shape.numel().cast_signed();
        self.assembly.numbers("sms.numel", &[numel])
    }

    /// A name that begins with the parameter's.
    fn inner(&self, ending: &str) -> String {
        format!("{}.{ending}", self.parameter.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_a_type_that_holds_them() {
        assert_eq!(Index::of(0), Index::Int32);
        assert_eq!(Index::of((1 << 31) - 1), Index::Int32);
        assert_eq!(Index::of(1 << 31), Index::Int64);
    }
}
