//! What one pass over the bytes works on, shared by its threads.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::checkpoint::Ingredients;
use crate::kernel::cpu::Cpu;
use crate::merge::apply::Additions;
use crate::merge::options::MergeOptions;
use crate::merge::plan::MergePlan;
use crate::merge::plan::PlannedTensor;
use crate::merge::rows::Edges;
use crate::merge::sink::Sink;
use crate::tensor::Shape;

/// One pass: what is read, what is done with it, and where it goes.
pub(super) struct Job<'a> {
    pub(super) ingredients: &'a Ingredients,
    pub(super) plan: &'a MergePlan,
    pub(super) options: &'a MergeOptions,
    pub(super) backend: Cpu,
    pub(super) sink: Sink<'a>,
    /// Voting weight of each participant: none for a mask file, then the ingredients'.
    pub(super) votes: Vec<f64>,
    /// Set once a mismatch of masks is certain: what is left is only compared.
    pub(super) is_doomed: AtomicBool,
    /// Bytes of bitmasks that two tiles share.
    pub(super) edges: Edges,
    /// What is added to tensors of one checkpoint, inside its masks.
    pub(super) additions: Option<&'a Additions<'a>>,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        ingredients: &'a Ingredients,
        plan: &'a MergePlan,
        options: &'a MergeOptions,
        sink: Sink<'a>,
    ) -> Self {
        let weights = options.weights.values();
        let can_vote =
            weights.len() == ingredients.count() && weights.iter().all(|&weight| weight >= 0.0);
        let votes = (0..ingredients.count()).map(|i| if can_vote { weights[i] } else { 1.0 });
        Self {
            votes: ingredients
                .mask_file()
                .map(|_| 0.0)
                .into_iter()
                .chain(votes)
                .collect(),
            ingredients,
            plan,
            options,
            backend: Cpu::new(),
            sink,
            is_doomed: AtomicBool::new(false),
            edges: Edges::default(),
            additions: None,
        }
    }

    /// The same pass, with something added to what is written.
    pub(super) fn adding(self, additions: Option<&'a Additions<'a>>) -> Self {
        Self { additions, ..self }
    }

    /// Whether the soup is computed, rather than masks compared only.
    pub(super) fn writes(&self) -> bool {
        match self.sink {
            Sink::None => false,
            Sink::Write(_) => !self.is_doomed.load(Ordering::Relaxed),
            Sink::Compare(_) => true,
        }
    }

    /// Shape of a tensor of the plan.
    pub(super) fn shape(&self, planned: &PlannedTensor) -> &'a Shape {
        &self.ingredients.parameters()[planned.parameter].shape
    }
}
