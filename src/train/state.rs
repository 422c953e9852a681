//! States of a training as files: a [`State`] with its masks and the record of the
//! training walk in, a safetensors file walks out; and back.
//!
//! Weights have the names of the model, what belongs to them has these names with a
//! prefix: `optimizer.0.fc1.weight`, `average.fc1.weight`, `mask.fc1.weight`.

mod error;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::format::replace::Durability;
use crate::format::replace::Target;
use crate::graph::Graph;
use crate::train::Loss;
use crate::train::NamedTensor;
use crate::train::Values;
use crate::train::WeightsError;
use crate::train::engine::Masks;
use crate::train::record::RECORD_KEY;
use crate::train::record::Record;
use crate::train::trainer::State;
use crate::train::write_tensors;

pub use error::StateError;
pub use read::read_state;

/// Key of the position in `__metadata__`; its value is one JSON object.
const STATE_KEY: &str = "sms_train_state";

/// Version of its fields and of the names of the tensors.
const FORMAT_VERSION: u32 = 1;

/// Where a training is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Position {
    format_version: u32,
    step: u64,
    /// Bits of the sum of losses: decimal digits could change the last one.
    loss_sum_bits: u64,
    correct: u64,
    samples: u64,
    n_slots: usize,
    n_averaged: u64,
}

impl Position {
    fn of(state: &State) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            step: state.step,
            loss_sum_bits: state.tally.sum.to_bits(),
            correct: state.tally.correct,
            samples: state.tally.samples,
            n_slots: state.optimizer.slots.len(),
            n_averaged: state.average.count,
        }
    }

    fn tally(&self) -> Loss {
        Loss {
            sum: f64::from_bits(self.loss_sum_bits),
            correct: self.correct,
            samples: self.samples,
        }
    }
}

/// Whether a checkpoint says that it is the state of a training.
pub fn is_state(checkpoint: &Checkpoint) -> bool {
    checkpoint.metadata().contains_key(STATE_KEY)
}

/// Writes the state of the training that `record` describes.
///
/// # Errors
/// [`WeightsError::Output`]; [`WeightsError::Length`] if the state is not the graph's.
pub fn write_state(
    graph: &Graph,
    state: &State,
    masks: &Masks,
    record: &Record,
    target: &Target,
    durability: Durability,
) -> Result<(), WeightsError> {
    let mut tensors = state.weights.tensors(graph);
    let parameters = || graph.parameters.iter().enumerate();
    for (idx, parameter) in parameters() {
        let mut push = |prefix: &str, values| {
            tensors.push(NamedTensor {
                name: format!("{prefix}.{}", parameter.name),
                shape: parameter.shape.clone(),
                values,
            });
        };
        for (slot, values) in state.optimizer.slots.iter().enumerate() {
            if parameter.role.is_learned() {
                push(&format!("optimizer.{slot}"), Values::F32(&values[idx]));
            }
        }
        if state.average.count > 0 && !state.average.values[idx].is_empty() {
            push("average", Values::F64(&state.average.values[idx]));
        }
        if let Some(mask) = &masks[idx] {
            push("mask", Values::Mask(mask));
        }
    }
    let position = serde_json::to_string(&Position::of(state));
    let position = position.expect("numbers have a JSON form");
    let metadata = BTreeMap::from([
        (RECORD_KEY.to_owned(), record.to_text()),
        (STATE_KEY.to_owned(), position),
    ]);
    write_tensors(tensors, &metadata, target, durability)
}
