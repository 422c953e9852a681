//! Masks compared and combined: mask files and pruned checkpoints walk in, counts and a
//! mask file walk out. One tile of each input is looked at at a time.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Contents;
use crate::checkpoint::Destination;
use crate::checkpoint::DtypeRule;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::checkpoint::Sidecars;
use crate::checkpoint::StagedOutput;
use crate::checkpoint::StoredTensor;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::format::safetensors::natural_cmp;
use crate::kernel::cpu::Cpu;
use crate::prune::PruneError;
use crate::prune::compare::Column;
use crate::prune::compare::Reader;
use crate::tensor::Arithmetic;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// What is made of several masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskOperation {
    /// What the first retains and no other does.
    Diff,
    /// What any retains.
    Union,
    /// What all retain.
    Intersect,
}

impl MaskOperation {
    pub(super) fn combine(self, first: u64, others: impl Iterator<Item = u64>) -> u64 {
        match self {
            Self::Diff => others.fold(first, |kept, bits| kept & !bits),
            Self::Union => others.fold(first, |kept, bits| kept | bits),
            Self::Intersect => others.fold(first, |kept, bits| kept & bits),
        }
    }
}

/// The masks of one tensor, compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparedMask {
    /// Name of the tensor.
    pub name: String,
    /// Its dimensions.
    pub shape: Shape,
    /// Elements that each input retains.
    pub retained_by: Vec<u64>,
    /// Elements that all inputs retain.
    pub shared: u64,
    /// Elements that any input retains.
    pub union: u64,
    /// Elements of the result.
    pub result: u64,
    /// Row-major index of the first element in which inputs differ.
    pub first_difference: Option<u64>,
}

impl ComparedMask {
    /// Elements in which inputs differ.
    pub fn differing(&self) -> u64 {
        self.union - self.shared
    }
}

/// Where an input has the mask of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Index among the checkpoint's tensors.
    pub(super) tensor: usize,
    /// Whether it is a mask, rather than values whose zeros may be one.
    pub(super) is_flags: bool,
}

/// Inputs whose masks are compared: mask files and pruned checkpoints.
#[derive(Debug)]
pub struct MaskInputs {
    inputs: Vec<(Ingredients, BTreeMap<String, Source>)>,
}

impl MaskInputs {
    /// Finds the masks that `select` picks by the names of their tensors.
    ///
    /// A mask is a tensor of BOOL or U8, one stored beside a tensor's values, or the zeros
    /// of a floating tensor of two or more dimensions, if they are more than 0.1 % of it.
    /// `X` and `X_mask` are the mask of `X`.
    ///
    /// # Errors
    /// [`PruneError::Ingredients`] if a stored mask does not fit its tensor.
    pub fn new(
        checkpoints: Vec<Checkpoint>,
        select: impl Fn(&str) -> bool,
    ) -> Result<Self, PruneError> {
        let find = |checkpoint: Checkpoint| {
            let ingredients =
                Ingredients::join(vec![checkpoint], None, DtypeRule::AnyFloat, |_| true)?;
            let mut sources = BTreeMap::new();
            for parameter in ingredients.parameters() {
                let source = parameter.sources[0];
                let value = ingredients.value(parameter, 0);
                let is_flags =
                    source.mask.is_some() || matches!(value.dtype, Dtype::Bool | Dtype::U8);
                let is_weight =
                    value.dtype.arithmetic() == Arithmetic::Average && parameter.shape.rank() >= 2;
                let name = match parameter.name.strip_suffix("_mask") {
                    Some(name) if is_flags => name,
                    _ => &parameter.name,
                };
                if (is_flags || is_weight) && select(name) {
                    let tensor = source.mask.unwrap_or(source.value);
                    sources.insert(name.to_owned(), Source { tensor, is_flags });
                }
            }
            Ok((ingredients, sources))
        };
        let inputs = checkpoints.into_iter().map(find);
        Ok(Self {
            inputs: inputs.collect::<Result<_, PruneError>>()?,
        })
    }

    /// The first input, for resolving a [`Destination`]: each is refused as an output by
    /// [`refuse_named_input`](crate::checkpoint::refuse_named_input).
    pub fn first(&self) -> Option<&Ingredients> {
        self.inputs.first().map(|(ingredients, _)| ingredients)
    }

    /// Bytes that one look at everything reads.
    pub fn bytes(&self) -> u64 {
        let checkpoints = self.inputs.iter().map(|(input, _)| &input.checkpoints()[0]);
        checkpoints.map(Checkpoint::tensor_bytes).sum()
    }

    pub(super) fn checkpoint(&self, input: usize) -> &Checkpoint {
        &self.inputs[input].0.checkpoints()[0]
    }

    fn path(&self, input: usize) -> &Path {
        self.checkpoint(input).path()
    }

    pub(super) fn tensor(&self, input: usize, source: &Source) -> &StoredTensor {
        &self.checkpoint(input).tensors()[source.tensor]
    }

    /// Compares all masks, and writes what the operation makes of them, if there is a
    /// destination.
    ///
    /// # Errors
    /// [`PruneError`] if an input lacks a tensor that another has a mask for, or something
    /// cannot be read or written; then the destination holds what it held.
    pub fn combine(
        &self,
        operation: MaskOperation,
        destination: Option<&Destination>,
        observer: Observer<'_>,
    ) -> Result<Vec<ComparedMask>, PruneError> {
        let mut reader = Reader {
            inputs: self,
            backend: Cpu::new(),
            observer,
            scratch: Vec::new(),
        };
        let columns = self.columns(&mut reader)?;
        let entry = |column: &Column| Entry {
            name: column.name.clone(),
            dtype: Dtype::Bool,
            shape: column.shape.clone(),
        };
        let mut entries: Vec<Entry> = columns.iter().map(entry).collect();
        entries.sort_by(natural_cmp);
        let layout = Layout::new(entries)?;
        let offsets: BTreeMap<&str, u64> = layout
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor.begin))
            .collect();
        let mut compare_all = |staged: Option<&StagedOutput<'_>>| {
            let compare = |column: &Column| {
                let place = staged.map(|staged| (staged, offsets[column.name.as_str()]));
                reader.compare(column, operation, place)
            };
            let compared = columns.iter().map(compare).collect::<Result<Vec<_>, _>>()?;
            for (ingredients, _) in &self.inputs {
                ingredients.checkpoints()[0].check_unchanged()?;
            }
            Ok(compared)
        };
        let Some(destination) = destination else {
            return compare_all(None);
        };
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let header = layout.header(&metadata)?;
        let reserved = [header.len() as u64];
        destination.require_space(reserved[0] + layout.data_bytes())?;
        let contents = Contents {
            headers: &reserved,
            layouts: std::slice::from_ref(&layout),
            sidecars: &Sidecars::default(),
        };
        destination.write(&contents, |staged| {
            staged.write_header(0, &header)?;
            compare_all(Some(staged))
        })
    }

    /// The tensors that have a mask in some input, with their sources in every input.
    fn columns(&self, reader: &mut Reader<'_>) -> Result<Vec<Column>, PruneError> {
        let mut masked = BTreeSet::new();
        let mut are_dense = BTreeSet::new();
        for (input, (_, sources)) in self.inputs.iter().enumerate() {
            for (name, source) in sources {
                if source.is_flags || reader.has_zeros(input, source)? {
                    masked.insert(name.as_str());
                } else {
                    are_dense.insert((input, name.as_str()));
                }
            }
        }
        if masked.is_empty() {
            return Err(PruneError::NoMask);
        }
        let column = |name: &str| {
            let mut sources: Vec<Option<Source>> = Vec::with_capacity(self.inputs.len());
            let mut shape: Option<Shape> = None;
            for (input, (_, own)) in self.inputs.iter().enumerate() {
                let Some(source) = own.get(name) else {
                    let has = |(_, sources): &(Ingredients, BTreeMap<String, Source>)| {
                        sources.contains_key(name)
                    };
                    let first = self.inputs.iter().position(has).unwrap_or(input);
                    return Err(PruneError::MissingTensor {
                        tensor: name.to_owned(),
                        path: self.path(first).to_owned(),
                        lacking: self.path(input).to_owned(),
                    });
                };
                let found = &self.tensor(input, source).shape;
                match &shape {
                    Some(expected) if expected != found => {
                        return Err(PruneError::Shape {
                            tensor: name.to_owned(),
                            path: self.path(input).to_owned(),
                            expected: expected.clone(),
                            found: found.clone(),
                        });
                    }
                    Some(_) => {}
                    None => shape = Some(found.clone()),
                }
                let is_dense = are_dense.contains(&(input, name));
                sources.push((!is_dense).then(|| source.clone()));
            }
            let shape = shape.ok_or(PruneError::NoMask)?;
            Ok(Column {
                name: name.to_owned(),
                shape,
                sources,
            })
        };
        masked.into_iter().map(column).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_combined() {
        let check = |operation: MaskOperation, expected| {
            let others = [0b1010, 0b1000].into_iter();
            assert_eq!(operation.combine(0b1101, others), expected, "{operation:?}");
        };
        check(MaskOperation::Diff, 0b0101);
        check(MaskOperation::Union, 0b1111);
        check(MaskOperation::Intersect, 0b1000);
    }
}
