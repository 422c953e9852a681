//! Batch norm folded into the layer before it.
//!
//! `bn(Wx + b) = (s W) x + (b - mean) s + shift` with `s = scale / sqrt(var + epsilon)`,
//! in f64.

use std::collections::BTreeMap;

use super::OnnxError;
use super::census::Planned;
use crate::checkpoint::Observer;
use crate::graph::Graph;
use crate::graph::NodeIdx;
use crate::graph::Op;
use crate::graph::ParameterIdx;

/// Folded batch norms.
#[derive(Clone, Debug, Default)]
pub(super) struct Folds {
    /// By the batch norm, which does nothing any more.
    layers: BTreeMap<NodeIdx, NodeIdx>,
    /// By the layer that does its work: what it adds to each channel.
    biases: BTreeMap<NodeIdx, Vec<f32>>,
}

impl Folds {
    /// Number of folded batch norms.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether a batch norm is folded into another layer.
    pub(super) fn is_folded(&self, batch_norm: NodeIdx) -> bool {
        self.layers.contains_key(&batch_norm)
    }

    /// What a layer adds that a batch norm is folded into.
    pub(super) fn bias(&self, layer: NodeIdx) -> Option<&[f32]> {
        self.biases.get(&layer).map(Vec::as_slice)
    }
}

/// Folds every batch norm that can be: into a layer that has weights and whose output
/// nothing else takes.
pub(super) fn fold(
    graph: &Graph,
    planned: &mut [Option<Planned<'_>>],
    observer: Observer<'_>,
) -> Result<Folds, OnnxError> {
    let mut folds = Folds::default();
    for (idx, node) in graph.nodes.iter().enumerate() {
        let Op::BatchNorm {
            weight: gain,
            bias: shift,
            running_mean,
            running_var,
            epsilon,
            ..
        } = node.op
        else {
            continue;
        };
        let layer = node.inputs[0];
        let (Op::Conv2d { weight, bias, .. } | Op::Linear { weight, bias }) = graph.nodes[layer].op
        else {
            continue;
        };
        let inputs = graph.nodes.iter().flat_map(|node| &node.inputs);
        if inputs.filter(|&&input| input == layer).count() > 1 {
            continue;
        }
        let read = |parameter: ParameterIdx| {
            let planned = planned[parameter].as_ref();
            let planned = planned.expect("what is computed with was read");
            planned.source.to_f64(observer)
        };
        let variances = read(running_var)?;
        let gains = read(gain)?.into_iter().zip(variances);
        let scales: Vec<f64> = gains
            .map(|(gain, variance)| gain / (variance + epsilon).sqrt())
            .collect();
        let before = match bias {
            Some(bias) => read(bias)?,
            None => vec![0.0; scales.len()],
        };
        let (means, shifts) = (read(running_mean)?, read(shift)?);
        let biases: Vec<f64> = (0..scales.len())
            .map(|channel| (before[channel] - means[channel]) * scales[channel] + shifts[channel])
            .collect();
        for numbers in [&scales, &biases] {
            if let Some(channel) = numbers
                .iter()
                .position(|&number| !(number as f32).is_finite())
            {
                return Err(OnnxError::Fold {
                    tensor: graph.parameters[weight].name.clone(),
                    channel,
                    found: numbers[channel],
                });
            }
        }
        if let Some(planned) = &mut planned[weight] {
            planned.scale = Some(scales);
        }
        let biases = biases.into_iter().map(|bias| bias as f32).collect();
        folds.layers.insert(idx, layer);
        folds.biases.insert(layer, biases);
    }
    Ok(folds)
}
