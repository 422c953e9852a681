//! What a soup of adapters will be, as data: a rule for each module, and places.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::adapter::Adapter;
use crate::adapter::AdapterError;
use crate::adapter::Module;
use crate::adapter::is_adapter;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::checkpoint::MaskLayout;
use crate::checkpoint::Observer;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::format::safetensors::natural_cmp;
use crate::kernel::Weights;
use crate::merge::MergeError;
use crate::merge::adapters::rule::plan_module;
use crate::merge::options::MergeOptions;
use crate::merge::plan::MergePlan;
use crate::merge::run::resolve_plan;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// What a soup of adapters will be.
#[derive(Debug)]
pub struct AdapterPlan {
    /// Its modules, by name.
    pub modules: Vec<PlannedModule>,
    /// What becomes of tensors that belong to no factor.
    pub plain: MergePlan,
    /// The ingredients, understood.
    pub adapters: Vec<Adapter>,
    /// Bytes that are read of factors.
    pub factor_bytes: u64,
}

/// What becomes of one module.
#[derive(Clone, Debug)]
pub struct PlannedModule {
    /// Its name.
    pub name: String,
    /// How its factors come about.
    pub rule: Rule,
    /// Rank of its product.
    pub rank: u64,
    /// Its scale is this divided by the rank.
    pub alpha: f64,
    /// The ingredients that have it.
    pub members: Vec<Member>,
    pub(super) down: Piece,
    pub(super) up: Piece,
    pub(super) bias: Option<Piece>,
    pub(super) alpha_tensor: Option<Piece>,
}

/// An ingredient's part in a module.
#[derive(Clone, Debug)]
pub struct Member {
    /// Index of the ingredient.
    pub ingredient: usize,
    /// The product.
    pub module: Module,
    /// What the second factor is multiplied by to be part of the soup's.
    pub coefficient: f64,
}

/// How the factors of a module come about.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Those of the ingredients beside each other.
    Stacked,
    /// The first factor, which all ingredients share, and the mean of the second ones.
    SharedDown(Weights),
    /// The second factor, which all ingredients share, and the mean of the first ones.
    SharedUp(Weights),
    /// The largest parts of the stacked ones.
    Truncated,
}

impl Rule {
    /// The word for it in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stacked => "stacked",
            Self::SharedDown(_) => "shared-down",
            Self::SharedUp(_) => "shared-up",
            Self::Truncated => "truncated",
        }
    }
}

/// A tensor of the soup.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Shape,
    pub(super) offset: u64,
}

impl AdapterPlan {
    /// Plans a soup of the adapters in `ingredients`, which were joined without their
    /// factors. Reads the factors, to find those that are the same in all.
    ///
    /// # Errors
    /// [`MergeError`] if the products have no mean, or an option makes no sense here.
    pub fn new(
        ingredients: &Ingredients,
        options: &MergeOptions,
        observer: Observer<'_>,
    ) -> Result<Self, MergeError> {
        refuse_options(options)?;
        let checkpoints = ingredients.checkpoints();
        let adapters = understand(checkpoints, options)?;
        let mut names: BTreeSet<&String> = BTreeSet::new();
        names.extend(adapters.iter().flat_map(|adapter| adapter.modules.keys()));
        let mut modules = Vec::with_capacity(names.len());
        for name in names {
            modules.push(plan_module(name, checkpoints, &adapters, options)?);
        }

        let plain = MergePlan::new(ingredients, &plain_options(options))?;
        let plain = resolve_plan(plain, ingredients, &plain_options(options), observer)?;
        let mut plan = Self {
            factor_bytes: factor_bytes(checkpoints, &adapters),
            modules,
            plain,
            adapters,
        };
        plan.place()?;
        Ok(plan)
    }

    /// Gives factors and all else places in one file.
    fn place(&mut self) -> Result<(), MergeError> {
        let plain = self.plain.layouts.iter().flat_map(Layout::tensors);
        let mut entries: Vec<Entry> = plain
            .map(|tensor| Entry {
                name: tensor.name.clone(),
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
            })
            .collect();
        entries.extend(self.pieces().map(|piece| Entry {
            name: piece.name.clone(),
            dtype: piece.dtype,
            shape: piece.shape.clone(),
        }));
        entries.sort_by(natural_cmp);
        let layout = Layout::new(entries)?;
        let places = layout.tensors().iter();
        let places: BTreeMap<&str, u64> = places
            .map(|tensor| (tensor.name.as_str(), tensor.begin))
            .collect();
        let offset = |name: &str| places.get(name).copied().unwrap_or_default();
        for planned in &mut self.plain.tensors {
            planned.slot.offset = offset(&planned.slot.name);
            if let Some(slot) = &mut planned.mask_slot {
                slot.offset = offset(&slot.name);
            }
        }
        for module in &mut self.modules {
            for piece in module.pieces_mut() {
                piece.offset = offset(&piece.name);
            }
        }
        self.plain.tensors.sort_by_key(|tensor| tensor.slot.offset);
        self.plain.bytes_to_write = layout.data_bytes();
        self.plain.layouts = vec![layout];
        Ok(())
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.modules.iter().flat_map(PlannedModule::pieces)
    }
}

impl PlannedModule {
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        let others = self.bias.iter().chain(&self.alpha_tensor);
        [&self.down, &self.up].into_iter().chain(others)
    }

    fn pieces_mut(&mut self) -> impl Iterator<Item = &mut Piece> {
        let others = self.bias.iter_mut().chain(&mut self.alpha_tensor);
        [&mut self.down, &mut self.up].into_iter().chain(others)
    }
}

/// Options for what belongs to no factor: names were selected when it was joined.
pub(super) fn plain_options(options: &MergeOptions) -> MergeOptions {
    MergeOptions {
        include: Default::default(),
        exclude: Default::default(),
        distances: false,
        ..options.clone()
    }
}

fn refuse_options(options: &MergeOptions) -> Result<(), AdapterError> {
    let refused = [
        (
            options.shard_bytes.is_some(),
            "`--shard-size`",
            "is not for adapters, which are read from one file",
        ),
        (
            !matches!(options.layout, MaskLayout::Keep | MaskLayout::Dense),
            "`--layout`",
            "is not for adapters, whose factors are dense",
        ),
        (
            options.selection.is_some(),
            "`--method greedy`",
            "is not for adapters; choose them yourself, and give weights",
        ),
    ];
    match refused.into_iter().find(|(is_refused, ..)| *is_refused) {
        None => Ok(()),
        Some((_, what, reason)) => Err(AdapterError::Option { what, reason }),
    }
}

/// The adapters, which must say their scales in one way.
///
/// # Errors
/// [`AdapterError`] if one is none, or of another kind than the first.
pub fn understand(
    checkpoints: &[Checkpoint],
    options: &MergeOptions,
) -> Result<Vec<Adapter>, AdapterError> {
    let mut adapters: Vec<Adapter> = Vec::with_capacity(checkpoints.len());
    for checkpoint in checkpoints {
        let mixed = |reason: &str| AdapterError::Mixed {
            first: checkpoints[0].path().to_owned(),
            other: checkpoint.path().to_owned(),
            reason: reason.to_owned(),
        };
        if !is_adapter(checkpoint) {
            return Err(AdapterError::NotAnAdapter {
                path: checkpoint.path().to_owned(),
            });
        }
        let adapter = Adapter::open(checkpoint, |name| options.selects(name))?;
        if let Some(first) = adapters.first() {
            let kind = std::mem::discriminant(&first.scaling);
            if kind != std::mem::discriminant(&adapter.scaling) {
                return Err(mixed("they say their scales in different places"));
            }
            if first.is_transposed != adapter.is_transposed {
                return Err(mixed("`fan_in_fan_out` of their configurations differs"));
            }
        }
        adapters.push(adapter);
    }
    Ok(adapters)
}

fn factor_bytes(checkpoints: &[Checkpoint], adapters: &[Adapter]) -> u64 {
    let of = |(checkpoint, adapter): (&Checkpoint, &Adapter)| -> u64 {
        let modules = adapter.modules.values();
        let indices = modules.flat_map(|module| [module.down, module.up]);
        indices
            .map(|index| checkpoint.tensors()[index].stored_bytes())
            .sum()
    };
    checkpoints.iter().zip(adapters).map(of).sum()
}
