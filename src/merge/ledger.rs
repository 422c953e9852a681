//! Tiles finish in any order and are entered in one: that of the output.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::Ingredients;
use crate::checkpoint::checkpoint_digest;
use crate::connectivity::DENSE_ZERO_FRACTION;
use crate::connectivity::DRIFT_TOLERANCE;
use crate::connectivity::Expectation;
use crate::connectivity::MaskTally;
use crate::connectivity::MismatchPolicy;
use crate::connectivity::Rules;
use crate::connectivity::TensorMask;
use crate::kernel::Counts;
use crate::kernel::Gram;
use crate::merge::distance::DistanceTally;
use crate::merge::plan::MergePlan;
use crate::merge::tile::TileOutcome;
use crate::tensor::Digest;
use crate::tensor::DigestList;

/// What was found of one tensor.
#[derive(Clone, Debug)]
pub struct TensorOutcome {
    /// Its mask; `None` if it could have none.
    pub mask: Option<Arc<TensorMask>>,
    /// Elements that the resolved mask retains in each tile.
    pub(super) retained_by_tile: Vec<u64>,
    /// Digests of each ingredient's values.
    pub values: Box<[Digest]>,
    /// Digests of each ingredient's stored mask.
    pub stored_masks: Box<[Option<Digest>]>,
    /// Digest of the mask in the mask file.
    pub given_mask: Option<Digest>,
    /// Digest of the soup's values; `None` if none were computed.
    pub content: Option<Digest>,
    /// Digest of the soup's stored mask.
    pub mask_content: Option<Digest>,
    /// Retained coordinates of the soup that are zero or not finite.
    pub counts: Counts,
}

/// What was found in one pass over all ingredients.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every parameter, in the order of the plan.
    pub tensors: Vec<TensorOutcome>,
    /// Digest of what was read of each ingredient.
    pub ingredients: Vec<Digest>,
    /// Digest of what was read of the mask file.
    pub mask_file: Option<Digest>,
    /// What was counted of distances, over retained coordinates of weights.
    pub distances: Option<DistanceTally>,
}

/// Digests under construction of the one tensor whose tiles are being entered.
struct OpenTensor {
    index: usize,
    tally: Option<MaskTally>,
    retained_by_tile: Vec<u64>,
    mask: DigestList,
    values: Vec<DigestList>,
    stored_masks: Vec<Option<DigestList>>,
    given_mask: Option<DigestList>,
    content: Option<DigestList>,
    mask_content: Option<DigestList>,
    counts: Counts,
    gram: Option<Gram>,
}

impl OpenTensor {
    fn new(index: usize, first: &TileOutcome) -> Self {
        Self {
            index,
            tally: first
                .tally
                .as_ref()
                .map(|tally| MaskTally::new(tally.n_participants())),
            retained_by_tile: Vec::new(),
            mask: DigestList::default(),
            values: first.values.iter().map(|_| DigestList::default()).collect(),
            stored_masks: first
                .stored_masks
                .iter()
                .map(|mask| mask.map(|_| DigestList::default()))
                .collect(),
            given_mask: first.given_mask.map(|_| DigestList::default()),
            content: first.content.map(|_| DigestList::default()),
            mask_content: first.mask_content.map(|_| DigestList::default()),
            counts: Counts::default(),
            gram: None,
        }
    }

    fn enter(&mut self, tile: &TileOutcome) {
        if let (Some(sum), Some(tally)) = (&mut self.tally, &tile.tally) {
            sum.merge(tally);
            self.retained_by_tile.push(tally.retained);
        }
        let push = |list: &mut Option<DigestList>, digest: Option<Digest>| match digest {
            Some(digest) => list.iter_mut().for_each(|list| list.push(digest)),
            // A tile that was not computed leaves no digest of the whole.
            None => *list = None,
        };
        if let Some(mask) = tile.mask {
            self.mask.push(mask);
        }
        self.values
            .iter_mut()
            .zip(&tile.values)
            .for_each(|(list, &digest)| list.push(digest));
        self.stored_masks
            .iter_mut()
            .zip(&tile.stored_masks)
            .for_each(|(list, &digest)| push(list, digest));
        push(&mut self.given_mask, tile.given_mask);
        push(&mut self.content, tile.content);
        push(&mut self.mask_content, tile.mask_content);
        self.counts.retained_zeros += tile.counts.retained_zeros;
        self.counts.non_finite += tile.counts.non_finite;
        match (&mut self.gram, &tile.gram) {
            (Some(sum), Some(gram)) => sum.add(gram),
            (sum @ None, gram) => sum.clone_from(gram),
            (Some(_), None) => {}
        }
    }
}

/// A run of tiles that one worker took: tensor index, whether it is the tensor's
/// last tile, and what was found.
pub(super) type Unit = Vec<(usize, bool, TileOutcome)>;

/// Enters tiles in the order of the output, whatever order they finish in.
pub(super) struct Ledger<'a> {
    ingredients: &'a Ingredients,
    plan: &'a MergePlan,
    rules: &'a Rules,
    next_unit: usize,
    early: BTreeMap<usize, Unit>,
    open: Option<OpenTensor>,
    tensors: Vec<TensorOutcome>,
    distances: Option<DistanceTally>,
    /// The unit that made a mismatch of masks certain.
    doomed_by: Option<usize>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(ingredients: &'a Ingredients, plan: &'a MergePlan, rules: &'a Rules) -> Self {
        Self {
            ingredients,
            plan,
            rules,
            next_unit: 0,
            early: BTreeMap::new(),
            open: None,
            tensors: Vec::with_capacity(plan.tensors.len()),
            distances: None,
            doomed_by: None,
        }
    }

    /// Takes a finished unit. Returns which unit made a mismatch of masks certain, if
    /// one of those entered did.
    pub(super) fn enter(&mut self, unit: usize, tiles: Unit) -> Option<usize> {
        self.early.insert(unit, tiles);
        while let Some(tiles) = self.early.remove(&self.next_unit) {
            for (tensor, is_last, tile) in tiles {
                self.enter_tile(tensor, is_last, tile);
            }
            self.next_unit += 1;
        }
        self.doomed_by
    }

    /// Whether the units before `unit` made a mismatch of masks certain.
    pub(super) fn is_doomed_before(&self, unit: usize) -> bool {
        self.doomed_by.is_some_and(|doomed_by| doomed_by < unit)
    }

    fn enter_tile(&mut self, index: usize, is_last: bool, tile: TileOutcome) {
        let open = self
            .open
            .get_or_insert_with(|| OpenTensor::new(index, &tile));
        debug_assert_eq!(open.index, index);
        open.enter(&tile);
        if self.doomed_by.is_none() && self.is_mismatch_certain(index) {
            self.doomed_by = Some(self.next_unit);
        }
        if is_last && let Some(open) = self.open.take() {
            let gram = open.gram.clone();
            let outcome = self.close(open);
            if let Some(gram) = gram {
                self.add_distances(index, &gram, outcome.mask.as_deref());
            }
            self.tensors.push(outcome);
        }
    }

    /// Whether the tensor being entered differs whatever the rest of it holds.
    fn is_mismatch_certain(&self, index: usize) -> bool {
        let planned = &self.plan.tensors[index];
        let Some(tally) = self.open.as_ref().and_then(|open| open.tally.as_ref()) else {
            return false;
        };
        let numel = self.ingredients.parameters()[planned.parameter]
            .shape
            .numel() as f64;
        let most_zeros = tally
            .retained_by
            .iter()
            .map(|by| tally.numel - by)
            .max()
            .unwrap_or(0);
        let is_pruned = planned.expectation != Expectation::FromZeros
            || most_zeros as f64 > DENSE_ZERO_FRACTION * numel;
        self.rules.policy == MismatchPolicy::Error
            && is_pruned
            && tally.disagreements as f64 > DRIFT_TOLERANCE * numel
    }

    fn add_distances(&mut self, index: usize, gram: &Gram, mask: Option<&TensorMask>) {
        let shape = &self.ingredients.parameters()[self.plan.tensors[index].parameter].shape;
        let retained = mask.map_or(shape.numel(), |mask| mask.retained);
        let n_ingredients = self.ingredients.count();
        self.distances
            .get_or_insert_with(|| DistanceTally::new(n_ingredients))
            .add(gram, shape.rank(), retained);
    }

    fn close(&self, open: OpenTensor) -> TensorOutcome {
        let planned = &self.plan.tensors[open.index];
        let parameter = &self.ingredients.parameters()[planned.parameter];
        let mask = open.tally.map(|tally| {
            let (name, shape) = (parameter.name.clone(), parameter.shape.clone());
            TensorMask::judge(
                name,
                shape,
                planned.expectation,
                &tally,
                open.mask.finish(),
                self.rules,
            )
        });
        let finish = |list: Option<DigestList>| list.map(|list| list.finish());
        TensorOutcome {
            mask: mask.map(Arc::new),
            retained_by_tile: open.retained_by_tile,
            values: open.values.iter().map(DigestList::finish).collect(),
            stored_masks: open.stored_masks.into_iter().map(finish).collect(),
            given_mask: finish(open.given_mask),
            content: finish(open.content),
            mask_content: finish(open.mask_content),
            counts: open.counts,
        }
    }

    /// What was found, once every unit has been entered.
    pub(super) fn finish(self) -> Outcome {
        let ingredients =
            (0..self.ingredients.count())
                .map(|ingredient| {
                    let stored = self.plan.tensors.iter().zip(&self.tensors).flat_map(
                        |(planned, outcome)| {
                            let parameter = &self.ingredients.parameters()[planned.parameter];
                            // Nothing is read of others where the first one gives a tensor.
                            let digest = outcome.values.get(ingredient);
                            let value = digest.map(|&digest| {
                                (self.ingredients.value(parameter, ingredient), digest)
                            });
                            let mask = value.and_then(|_| {
                                let mask = self.ingredients.stored_mask(parameter, ingredient);
                                mask.zip(outcome.stored_masks[ingredient])
                            });
                            value.into_iter().chain(mask)
                        },
                    );
                    checkpoint_digest(stored.map(|(tensor, digest)| {
                        (tensor.name.as_str(), tensor.dtype, &tensor.shape, digest)
                    }))
                })
                .collect();
        let given = self
            .plan
            .tensors
            .iter()
            .zip(&self.tensors)
            .filter_map(|(planned, outcome)| {
                let mask = self
                    .ingredients
                    .given_mask(&self.ingredients.parameters()[planned.parameter])?;
                Some((
                    mask.name.as_str(),
                    mask.dtype,
                    &mask.shape,
                    outcome.given_mask?,
                ))
            });
        let mask_file = self
            .ingredients
            .mask_file()
            .map(|_| checkpoint_digest(given));
        Outcome {
            ingredients,
            mask_file,
            distances: self.distances,
            tensors: self.tensors,
        }
    }
}
