//! What every layer has in common: names, operands, shapes, parameters.

use super::BuildError;
use super::Builder;
use super::Features;
use super::Initialiser;
use super::MOST_ELEMENTS;
use super::Node;
use super::NodeIdx;
use super::Op;
use super::Parameter;
use super::ParameterIdx;
use super::Role;
use super::Start;
use super::Window;
use crate::tensor::Shape;

impl Builder {
    /// What errors call a layer.
    pub(super) fn called(&self, label: &str) -> String {
        self.label.clone().unwrap_or_else(|| label.to_owned())
    }

    /// What errors call the next node where it has no name.
    pub(super) fn numbered(&self, op: &str) -> String {
        format!("`{op}` (node {})", self.nodes.len())
    }

    /// Shape of an operand.
    pub(super) fn operand(&self, label: &str, input: NodeIdx) -> Result<Features, BuildError> {
        let node = self.nodes.get(input).ok_or_else(|| BuildError::Input {
            layer: self.called(label),
            found: input,
            expected: self.nodes.len(),
        })?;
        Ok(node.output)
    }

    pub(super) fn positive(
        &self,
        label: &str,
        what: &'static str,
        sizes: &[usize],
    ) -> Result<(), BuildError> {
        if sizes.contains(&0) {
            return Err(BuildError::Zero {
                layer: self.called(label),
                what,
            });
        }
        Ok(())
    }

    pub(super) fn within(
        &self,
        label: &str,
        what: &'static str,
        found: impl std::fmt::Display,
        is_within: bool,
        expected: &'static str,
    ) -> Result<(), BuildError> {
        if !is_within {
            return Err(BuildError::Range {
                layer: self.called(label),
                what,
                found: found.to_string(),
                expected,
            });
        }
        Ok(())
    }

    /// Shape of what a sliding window gives.
    pub(super) fn slide(
        &self,
        label: &str,
        from: Features,
        channels: usize,
        window: Window,
    ) -> Result<Features, BuildError> {
        let Window {
            kernel,
            stride,
            padding,
        } = window;
        self.positive(label, "the kernel", &kernel)?;
        self.positive(label, "the stride", &stride)?;
        let padded = |size: usize, padding: usize| {
            padding
                .checked_mul(2)
                .and_then(|both| size.checked_add(both))
                .ok_or_else(|| BuildError::TooLarge {
                    layer: self.called(label),
                })
        };
        let rows = padded(from.height, padding[0])?;
        let columns = padded(from.width, padding[1])?;
        if rows < kernel[0] || columns < kernel[1] {
            return Err(BuildError::Window {
                layer: self.called(label),
                kernel: format!("{}x{}", kernel[0], kernel[1]),
                found: format!("{rows}x{columns}"),
            });
        }
        Ok(Features {
            channels,
            height: (rows - kernel[0]) / stride[0] + 1,
            width: (columns - kernel[1]) / stride[1] + 1,
        })
    }

    /// Registers the bias of a layer, if it has one.
    pub(super) fn bias(
        &mut self,
        layer: &str,
        numel: usize,
        start: Option<Start>,
        fan_in: usize,
        fan_out: usize,
    ) -> Result<Option<ParameterIdx>, BuildError> {
        start
            .map(|start| {
                let initialiser = start.initialiser(fan_in, fan_out);
                self.parameter(layer, "bias", &[numel], Role::Bias, initialiser)
            })
            .transpose()
    }

    /// Registers a parameter.
    pub(super) fn parameter(
        &mut self,
        layer: &str,
        suffix: &str,
        dims: &[usize],
        role: Role,
        initialiser: Initialiser,
    ) -> Result<ParameterIdx, BuildError> {
        if !is_name(layer) {
            return Err(BuildError::Name {
                found: layer.to_owned(),
            });
        }
        let name = format!("{layer}.{suffix}");
        let dims: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        let too_large = || BuildError::TooLarge {
            layer: format!("`{name}`"),
        };
        let shape = Shape::new(dims).ok_or_else(too_large)?;
        self.n_elements = self
            .n_elements
            .checked_add(shape.numel())
            .filter(|&n_elements| n_elements <= MOST_ELEMENTS)
            .ok_or_else(too_large)?;
        if !self.names.insert(name.clone()) {
            return Err(BuildError::Twice { parameter: name });
        }
        self.parameters.push(Parameter {
            name,
            shape,
            role,
            initialiser,
        });
        Ok(self.parameters.len() - 1)
    }

    /// A layer whose output has the shape of its input.
    pub(super) fn elementwise(
        &mut self,
        name: &str,
        op: Op,
        input: NodeIdx,
    ) -> Result<NodeIdx, BuildError> {
        let label = self.numbered(name);
        let from = self.operand(&label, input)?;
        self.push(&label, op, &[input], from)
    }

    pub(super) fn push(
        &mut self,
        label: &str,
        op: Op,
        inputs: &[NodeIdx],
        output: Features,
    ) -> Result<NodeIdx, BuildError> {
        let Features {
            channels,
            height,
            width,
        } = output;
        self.positive(label, "a size", &[channels, height, width])?;
        let numel = [channels, height, width]
            .iter()
            .try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
        let label = self.called(label);
        if numel.is_none_or(|numel| numel > MOST_ELEMENTS) {
            return Err(BuildError::TooLarge { layer: label });
        }
        self.label = None;
        self.labels.push(label);
        self.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
            output,
        });
        Ok(self.nodes.len() - 1)
    }
}

/// Whether torch could call a module so, and a safetensors reader a tensor.
fn is_name(name: &str) -> bool {
    name.split('.').all(|part| {
        !part.is_empty()
            && part
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "_-".contains(letter))
    })
}
