//! States from files: everything is checked before it is believed.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::map::SourceError;
use crate::graph::Graph;
use crate::graph::Parameter;
use crate::graph::Role;
use crate::tensor::Dtype;
use crate::tensor::Mask;
use crate::train::Weights;
use crate::train::average::Running;
use crate::train::engine::Masks;
use crate::train::engine::OptimizerState;
use crate::train::record::RECORD_KEY;
use crate::train::record::Record;
use crate::train::record::RecordError;
use crate::train::state::FORMAT_VERSION;
use crate::train::state::Position;
use crate::train::state::STATE_KEY;
use crate::train::state::StateError;
use crate::train::trainer::State;

/// Most numbers that an optimiser remembers of each weight.
const MOST_SLOTS: usize = 2;

/// The state in a file, and the masks of its training, which must be the one that
/// `record` describes and have `steps` steps.
///
/// # Errors
/// [`StateError`] says what is wrong with the file, or in what the trainings differ.
pub fn read_state(
    graph: &Graph,
    record: &Record,
    steps: u64,
    file: &Checkpoint,
) -> Result<(State, Masks), StateError> {
    let path = || file.path().to_owned();
    let metadata = file.metadata();
    let texts = metadata.get(STATE_KEY).zip(metadata.get(RECORD_KEY));
    let (position, text) = texts.ok_or_else(|| StateError::NoState { path: path() })?;
    let malformed = |source| StateError::Malformed {
        path: path(),
        source,
    };
    let position: Position = serde_json::from_str(position).map_err(malformed)?;
    if position.format_version != FORMAT_VERSION {
        return Err(StateError::Version {
            path: path(),
            expected: FORMAT_VERSION,
            found: position.format_version,
        });
    }
    match record.difference(text) {
        Ok(None) => {}
        Ok(Some(difference)) => {
            return Err(StateError::Other {
                path: path(),
                field: difference.field,
                expected: difference.expected,
                found: difference.found,
            });
        }
        Err(RecordError::Malformed(source)) => return Err(malformed(source)),
        Err(RecordError::Version { .. }) => return Err(StateError::NoState { path: path() }),
    }
    if position.n_slots > MOST_SLOTS {
        return Err(StateError::Missing {
            path: path(),
            tensor: format!("optimizer.{MOST_SLOTS}.{}", graph.parameters[0].name),
        });
    }
    if position.step > steps {
        return Err(StateError::Step {
            path: path(),
            steps,
            found: position.step,
        });
    }
    let mut reader = Reader {
        file,
        n_tensors: 0,
        scratch: Vec::new(),
    };
    let state = reader.state(graph, &position)?;
    let masks = reader.masks(graph)?;
    if reader.n_tensors != file.tensors().len() {
        return Err(StateError::Count {
            path: path(),
            expected: reader.n_tensors,
            found: file.tensors().len(),
        });
    }
    file.check_unchanged()?;
    Ok((state, masks))
}

struct Reader<'a> {
    file: &'a Checkpoint,
    /// Tensors that have been read.
    n_tensors: usize,
    scratch: Vec<u8>,
}

impl Reader<'_> {
    fn state(&mut self, graph: &Graph, position: &Position) -> Result<State, StateError> {
        let mut weights = Weights {
            values: Vec::new(),
            counts: Vec::new(),
        };
        let mut optimizer = OptimizerState {
            slots: vec![Vec::new(); position.n_slots],
        };
        let mut average = Running {
            values: Vec::new(),
            count: position.n_averaged,
        };
        for parameter in &graph.parameters {
            let name = &parameter.name;
            let is_count = parameter.role == Role::BatchCount;
            if is_count {
                let counts = self.numbers(name, parameter, Dtype::I64, i64::from_le_bytes)?;
                weights.counts.push(counts[0]);
                weights.values.push(Vec::new());
            } else {
                let values = self.numbers(name, parameter, Dtype::F32, f32::from_le_bytes)?;
                weights.counts.push(0);
                weights.values.push(values);
            }
            for (slot, values) in optimizer.slots.iter_mut().enumerate() {
                let name = format!("optimizer.{slot}.{name}");
                values.push(if parameter.role.is_learned() {
                    self.numbers(&name, parameter, Dtype::F32, f32::from_le_bytes)?
                } else {
                    Vec::new()
                });
            }
            if position.n_averaged > 0 {
                let name = format!("average.{name}");
                average.values.push(if is_count {
                    Vec::new()
                } else {
                    self.numbers(&name, parameter, Dtype::F64, f64::from_le_bytes)?
                });
            }
        }
        Ok(State {
            step: position.step,
            tally: position.tally(),
            weights,
            optimizer,
            average,
        })
    }

    fn masks(&mut self, graph: &Graph) -> Result<Masks, StateError> {
        let parameters = graph.parameters.iter();
        let masks = parameters.map(|parameter| {
            let name = format!("mask.{}", parameter.name);
            let is_stored = self.file.find(&name).is_some();
            if parameter.role != Role::Weight || !is_stored {
                return Ok(None);
            }
            let bytes = self.numbers(&name, parameter, Dtype::Bool, u8::from_le_bytes)?;
            Ok(Some(Mask::from_fn(bytes.len(), |idx| bytes[idx] != 0)))
        });
        masks.collect()
    }

    /// The elements of a tensor that must have the parameter's shape.
    fn numbers<const WIDTH: usize, T>(
        &mut self,
        name: &str,
        parameter: &Parameter,
        dtype: Dtype,
        decode: fn([u8; WIDTH]) -> T,
    ) -> Result<Vec<T>, StateError> {
        let file = self.file;
        let found = file.find(name).ok_or_else(|| StateError::Missing {
            path: file.path().to_owned(),
            tensor: name.to_owned(),
        })?;
        let tensor = &file.tensors()[found];
        if tensor.dtype != dtype || tensor.shape != parameter.shape {
            return Err(StateError::Tensor {
                path: file.path().to_owned(),
                tensor: name.to_owned(),
                expected: dtype,
                found: tensor.dtype,
                expected_shape: parameter.shape.clone(),
                found_shape: tensor.shape.clone(),
            });
        }
        self.n_tensors += 1;
        Ok(self.elements(tensor, decode)?)
    }

    fn elements<const WIDTH: usize, T>(
        &mut self,
        tensor: &StoredTensor,
        decode: fn([u8; WIDTH]) -> T,
    ) -> Result<Vec<T>, SourceError> {
        let numel = tensor.shape.numel();
        let bytes = self.file.read(tensor, 0, numel, &mut self.scratch)?;
        let (elements, _) = bytes.as_chunks::<WIDTH>();
        Ok(elements.iter().copied().map(decode).collect())
    }
}
