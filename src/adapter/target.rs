//! Which weights of a network an adapter changes.
//!
//! peft puts `base_model.model.` before names, diffusers the part of a pipeline, and a
//! network is often saved without the beginning of its names, or with another. kohya writes
//! `_` for every dot. So names are compared as they are, and else with one beginning put
//! before all of them, or taken off all of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::adapter::error::AdapterError;
use crate::adapter::names::Naming;
use crate::adapter::pairs::Adapter;
use crate::adapter::pairs::Module;
use crate::adapter::scaling::PEFT_PREFIX;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Parameter;
use crate::tensor::Arithmetic;
use crate::tensor::Shape;

/// Beginnings of kohya's names: which part of a pipeline.
const KOHYA_PREFIXES: [&str; 7] = [
    "lora_unet_",
    "lora_te1_",
    "lora_te2_",
    "lora_te3_",
    "lora_te_",
    "lora_transformer_",
    "lycoris_",
];

/// What becomes of one tensor of a network.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A product is added.
    Product {
        /// Where its factors are.
        module: &'a Module,
        /// Whether the weight is `(in, out)`.
        is_transposed: bool,
    },
    /// What the second factor of a module adds is added.
    Bias {
        /// The module, for its scale.
        module: &'a Module,
        /// Index of the tensor that is added.
        tensor: usize,
    },
    /// Other values take its place.
    Replaced {
        /// Index of the tensor that has them.
        tensor: usize,
    },
}

/// What an adapter changes, by index of the network's parameters.
pub type Changes<'a> = BTreeMap<usize, Change<'a>>;

/// A tensor that an adapter changes, by the name that it has there.
struct Wanted<'a> {
    /// Name for messages.
    module: &'a str,
    /// What the network's name should be, `_` standing for dots where `is_flat`.
    name: String,
    is_flat: bool,
    change: Change<'a>,
}

impl Adapter {
    /// Finds the parameters of a network of one checkpoint that the adapter changes.
    ///
    /// # Errors
    /// [`AdapterError`] names what is not found, is not one tensor, or does not fit.
    pub fn changes<'a>(
        &'a self,
        adapter: &'a Checkpoint,
        network: &Ingredients,
    ) -> Result<Changes<'a>, AdapterError> {
        let wanted = self.wanted(adapter);
        let names = Names::new(network.parameters());
        let places = names.place(&wanted).map_err(|unplaced| {
            let (path, network) = (
                adapter.path().to_owned(),
                network.checkpoints()[0].path().to_owned(),
            );
            match unplaced {
                Unplaced::Missing(modules) => AdapterError::Unmatched {
                    path,
                    network,
                    modules,
                },
                Unplaced::Several(module, tensors) => AdapterError::Ambiguous {
                    path,
                    network,
                    module,
                    tensors,
                },
            }
        })?;
        let mut changes = Changes::new();
        for (wanted, index) in wanted.iter().zip(places) {
            let change = self.fit(wanted, adapter, network, index)?;
            if changes.insert(index, change).is_some() {
                let tensor = network.parameters()[index].name.clone();
                return Err(AdapterError::Ambiguous {
                    path: adapter.path().to_owned(),
                    network: network.checkpoints()[0].path().to_owned(),
                    module: wanted.module.to_owned(),
                    tensors: vec![tensor],
                });
            }
        }
        Ok(changes)
    }

    fn wanted<'a>(&'a self, adapter: &'a Checkpoint) -> Vec<Wanted<'a>> {
        let mut wanted = Vec::new();
        for (name, module) in &self.modules {
            let is_flat = module.naming == Naming::Kohya && !name.contains('.');
            let of = |last: &str| match is_flat {
                true => {
                    let mut prefixes = KOHYA_PREFIXES.iter();
                    let rest = prefixes.find_map(|prefix| name.strip_prefix(prefix));
                    format!("{}.{last}", rest.unwrap_or(name))
                }
                false => {
                    let name = name.strip_prefix(PEFT_PREFIX).unwrap_or(name);
                    format!("{name}.{last}")
                }
            };
            let change = Change::Product {
                module,
                is_transposed: module.naming == Naming::PeftEmbedding,
            };
            wanted.push(Wanted {
                module: name,
                name: of("weight"),
                is_flat,
                change,
            });
            if let Some(tensor) = module.bias {
                wanted.push(Wanted {
                    module: name,
                    name: of("bias"),
                    is_flat,
                    change: Change::Bias { module, tensor },
                });
            }
        }
        for &tensor in &self.others {
            let name = adapter.tensors()[tensor].name.as_str();
            let bare = name.strip_prefix(PEFT_PREFIX).unwrap_or(name);
            wanted.push(Wanted {
                module: name,
                name: bare.replace(".base_layer.", "."),
                is_flat: false,
                change: Change::Replaced { tensor },
            });
        }
        wanted
    }

    /// The change, if it fits the tensor. A weight's shape says which way round it is; of
    /// a square one the configuration does.
    fn fit<'a>(
        &self,
        wanted: &Wanted<'a>,
        adapter: &Checkpoint,
        network: &Ingredients,
        index: usize,
    ) -> Result<Change<'a>, AdapterError> {
        let parameter = &network.parameters()[index];
        let value = network.value(parameter, 0);
        if value.dtype.arithmetic() != Arithmetic::Average {
            return Err(AdapterError::FactorDtype {
                path: network.checkpoints()[0].path().to_owned(),
                tensor: parameter.name.clone(),
                dtype: value.dtype,
            });
        }
        let expected = parameter.shape.dims();
        let shape_of = |tensor: usize| adapter.tensors()[tensor].shape.dims();
        let (found, change) = match wanted.change {
            Change::Product {
                module,
                is_transposed,
            } => {
                let outputs = shape_of(module.up)[0];
                let inputs = &shape_of(module.down)[1..];
                let upright = [&[outputs], inputs].concat();
                let across: Vec<u64> = upright.iter().rev().copied().collect();
                let is = |dims: &[u64]| without_ones(dims) == without_ones(expected);
                let is_transposed = is_transposed
                    || match upright[..] {
                        [outputs, inputs] if outputs == inputs => self.is_transposed,
                        [_, _] => !is(&upright) && is(&across),
                        _ => false,
                    };
                let found = if is_transposed { across } else { upright };
                let change = Change::Product {
                    module,
                    is_transposed,
                };
                (found, change)
            }
            Change::Bias { tensor, .. } | Change::Replaced { tensor } => {
                (shape_of(tensor).to_vec(), wanted.change)
            }
        };
        if without_ones(&found) == without_ones(expected) {
            return Ok(change);
        }
        Err(AdapterError::TargetShape {
            path: adapter.path().to_owned(),
            module: wanted.module.to_owned(),
            found: Shape::new(found).unwrap_or_else(|| parameter.shape.clone()),
            tensor: parameter.name.clone(),
            expected: parameter.shape.clone(),
        })
    }
}

/// Dimensions without the ones at the end: a convolution of one pixel is a matrix.
fn without_ones(dims: &[u64]) -> &[u64] {
    let end = dims
        .iter()
        .rposition(|&dim| dim != 1)
        .map_or(0, |at| at + 1);
    &dims[..end]
}

/// Why names do not fit.
enum Unplaced {
    /// Of these modules there is nothing.
    Missing(Vec<String>),
    /// One module could be several tensors.
    Several(String, Vec<String>),
}

/// The names of a network: as they are, and with `_` for the dots of the module.
struct Names<'a> {
    parameters: &'a [Parameter],
    dotted: BTreeMap<&'a str, usize>,
    flat: BTreeMap<String, Vec<usize>>,
}

/// A change of beginnings that makes an adapter's names those of a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Beginning {
    Same,
    Added(String),
    Removed(String),
}

impl Beginning {
    fn of(&self, name: &str) -> Option<String> {
        match self {
            Self::Same => Some(name.to_owned()),
            Self::Added(prefix) => Some(format!("{prefix}{name}")),
            Self::Removed(prefix) => name.strip_prefix(prefix.as_str()).map(str::to_owned),
        }
    }
}

impl<'a> Names<'a> {
    fn new(parameters: &'a [Parameter]) -> Self {
        let mut flat: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, parameter) in parameters.iter().enumerate() {
            flat.entry(flattened(&parameter.name))
                .or_default()
                .push(index);
        }
        Self {
            parameters,
            dotted: parameters
                .iter()
                .enumerate()
                .map(|(index, parameter)| (parameter.name.as_str(), index))
                .collect(),
            flat,
        }
    }

    /// The parameters that have a name.
    fn find(&self, name: &str, is_flat: bool) -> &[usize] {
        match is_flat {
            true => self.flat.get(name).map_or(&[], Vec::as_slice),
            false => self.dotted.get(name).map_or(&[], std::slice::from_ref),
        }
    }

    /// The parameter of each tensor that is wanted.
    fn place(&self, wanted: &[Wanted<'_>]) -> Result<Vec<usize>, Unplaced> {
        let missing = |beginning: &Beginning| -> Vec<usize> {
            let is_missing = |wanted: &Wanted<'_>| {
                let name = beginning.of(&wanted.name);
                name.is_none_or(|name| self.find(&name, wanted.is_flat).is_empty())
            };
            let all = wanted.iter().enumerate();
            all.filter(|(_, wanted)| is_missing(wanted))
                .map(|(index, _)| index)
                .collect()
        };
        let unmatched = missing(&Beginning::Same);
        let fitting: Vec<Beginning> = match unmatched.first() {
            None => vec![Beginning::Same],
            // What all names need, the first needs.
            Some(_) => {
                let all = self.beginnings(&wanted[0]).into_iter();
                all.filter(|beginning| missing(beginning).is_empty())
                    .collect()
            }
        };
        let Some(beginning) = fitting.first() else {
            let modules: BTreeSet<&str> = unmatched
                .iter()
                .map(|&index| wanted[index].module)
                .collect();
            let modules = modules.into_iter().map(str::to_owned);
            return Err(Unplaced::Missing(modules.collect()));
        };
        let several = |wanted: &Wanted<'_>, found: &[usize]| {
            let tensors = found
                .iter()
                .map(|&index| self.parameters[index].name.clone());
            Unplaced::Several(wanted.module.to_owned(), tensors.collect())
        };
        let found = |beginning: &Beginning, wanted: &Wanted<'_>| {
            let name = beginning.of(&wanted.name).unwrap_or_default();
            self.find(&name, wanted.is_flat).to_vec()
        };
        if fitting.len() > 1 {
            let all = fitting
                .iter()
                .flat_map(|beginning| found(beginning, &wanted[0]));
            return Err(several(&wanted[0], &all.collect::<Vec<_>>()));
        }
        let places = wanted
            .iter()
            .map(|wanted| match found(beginning, wanted)[..] {
                [index] => Ok(index),
                ref all => Err(several(wanted, all)),
            });
        places.collect()
    }

    /// Changes of the beginning with which one name is found.
    fn beginnings(&self, wanted: &Wanted<'_>) -> BTreeSet<Beginning> {
        let separator = if wanted.is_flat { '_' } else { '.' };
        let mut all = BTreeSet::new();
        let mut note = |name: &str| {
            let prefix = name.strip_suffix(wanted.name.as_str());
            if let Some(prefix) = prefix.filter(|prefix| prefix.ends_with(separator)) {
                all.insert(Beginning::Added(prefix.to_owned()));
            }
        };
        match wanted.is_flat {
            true => self.flat.keys().for_each(|name| note(name)),
            false => self.dotted.keys().for_each(|name| note(name)),
        }
        for (at, _) in wanted.name.match_indices(separator) {
            let (prefix, rest) = wanted.name.split_at(at + 1);
            if !self.find(rest, wanted.is_flat).is_empty() {
                all.insert(Beginning::Removed(prefix.to_owned()));
            }
        }
        all
    }
}

/// A name with `_` for the dots of its module, as kohya writes it.
fn flattened(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((module, last)) => format!("{}.{last}", module.replace('.', "_")),
        None => name.to_owned(),
    }
}
