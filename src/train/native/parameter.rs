//! One learned tensor: values, gradient, optimiser memory and mask.

use rayon::prelude::*;

use super::sparse::Pattern;
use super::sparse::PatternKind;
use crate::graph::Role;
use crate::tensor::Mask;
use crate::tensor::zero_pruned;
use crate::train::Rule;

/// Elements that one thread updates at a time, a multiple of a mask's 64.
const CHUNK: usize = 1 << 14;

/// A parameter or statistic of the network.
///
/// Where there is a pattern, values, gradient and slots hold the retained elements only.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub(super) role: Role,
    /// Not kept where there is a pattern, which says the same.
    mask: Option<Mask>,
    pub(super) pattern: Option<Pattern>,
    pub(super) values: Vec<f32>,
    /// As long as the values if the parameter is learned.
    pub(super) gradient: Vec<f32>,
    /// The optimiser's memory; empty before the first update.
    pub(super) slots: Vec<Vec<f32>>,
}

impl Parameter {
    pub(super) fn new(
        role: Role,
        mask: Option<Mask>,
        pattern: Option<Pattern>,
        values: &[f32],
    ) -> Self {
        let mut parameter = Self {
            role,
            mask: mask.filter(|_| pattern.is_none()),
            pattern,
            values: Vec::new(),
            gradient: Vec::new(),
            slots: Vec::new(),
        };
        parameter.set_values(values);
        if role.is_learned() {
            parameter.gradient = vec![0.0; parameter.values.len()];
        }
        parameter
    }

    /// Replaces the values; pruned ones become `+0`.
    pub(super) fn set_values(&mut self, values: &[f32]) {
        self.values = self.compact(values);
        if let Some(mask) = &self.mask {
            mask.apply(&mut self.values);
        }
    }

    /// Replaces the optimiser's memory; what is pruned becomes `+0`.
    pub(super) fn set_slots<'a>(&mut self, slots: impl Iterator<Item = &'a Vec<f32>>) {
        self.slots = slots.map(|slot| self.compact(slot)).collect();
        if let Some(mask) = &self.mask {
            self.slots.iter_mut().for_each(|slot| mask.apply(slot));
        }
    }

    /// How the layer is computed sparsely, if it is.
    pub(super) fn pattern_kind(&self) -> Option<&PatternKind> {
        self.pattern.as_ref().map(|pattern| &pattern.kind)
    }

    /// Numbers of the whole tensor as this parameter keeps them.
    pub(super) fn compact(&self, values: &[f32]) -> Vec<f32> {
        match &self.pattern {
            Some(pattern) if !values.is_empty() => pattern.compact(values),
            _ => values.to_vec(),
        }
    }

    /// Numbers that this parameter keeps, for the whole tensor.
    pub(super) fn expand(&self, kept: &[f32]) -> Vec<f32> {
        match &self.pattern {
            Some(pattern) if kept.len() == self.values.len() => pattern.expand(kept),
            _ => kept.to_vec(),
        }
    }

    /// Zeroes the gradient of what is pruned.
    pub(super) fn mask_gradient(&mut self) {
        let Some(mask) = &self.mask else { return };
        let chunks = self.gradient.par_chunks_mut(CHUNK);
        let words = mask.words().par_chunks(CHUNK / 64);
        chunks
            .zip(words)
            .for_each(|(gradient, words)| zero_pruned(gradient, words));
    }

    /// Changes the values by the gradient.
    pub(super) fn update(&mut self, rule: &Rule, n_slots: usize) {
        let numel = self.values.len();
        self.slots.resize_with(n_slots, || vec![0.0; numel]);
        let mut slots: Vec<_> = self
            .slots
            .iter_mut()
            .map(|slot| slot.chunks_mut(CHUNK))
            .collect();
        let words = self.mask.as_ref().map(Mask::words);
        let chunks: Vec<_> = self
            .values
            .chunks_mut(CHUNK)
            .zip(self.gradient.chunks(CHUNK))
            .enumerate()
            .map(|(idx, (values, gradient))| {
                let slots: Vec<&mut [f32]> = slots.iter_mut().filter_map(Iterator::next).collect();
                let first = idx * CHUNK / 64;
                let retained = words.map(|words| &words[first..first + values.len().div_ceil(64)]);
                (values, gradient, slots, retained)
            })
            .collect();
        chunks
            .into_par_iter()
            .for_each(|(values, gradient, mut slots, retained)| {
                rule.apply(values, gradient, &mut slots, retained);
            });
    }

    /// Sum of the squares of the gradient: of each chunk in `f64`, then of the chunks in
    /// order.
    pub(super) fn squared_gradient(&self) -> f64 {
        let sums: Vec<f64> = self
            .gradient
            .par_chunks(CHUNK)
            .map(|chunk| {
                chunk
                    .iter()
                    .map(|&value| f64::from(value) * f64::from(value))
                    .sum()
            })
            .collect();
        sums.into_iter().sum()
    }
}
