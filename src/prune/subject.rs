//! A checkpoint to prune: which of its tensors are prunable, and where they lie.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::DtypeRule;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Parameter;
use crate::checkpoint::StoredTensor;
use crate::prune::PrunableRule;
use crate::prune::PruneError;
use crate::prune::Standing;
use crate::prune::score::Width;
use crate::tensor::Dtype;

/// An open checkpoint, with a mask file if one is given, and what is prunable of it.
#[derive(Debug)]
pub struct Subject {
    ingredients: Ingredients,
    standings: Vec<Standing>,
}

impl Subject {
    /// Takes a checkpoint, and what its masks are if a file says so.
    ///
    /// Without `mask`, a tensor's mask is the one stored beside it, else its zeros if
    /// they are more than 0.1 % of it, else it is dense.
    ///
    /// # Errors
    /// [`PruneError`] if a pattern matches nothing, nothing is prunable, or the mask
    /// file does not fit.
    pub fn new(
        checkpoint: Checkpoint,
        mask: Option<Checkpoint>,
        rule: &PrunableRule,
    ) -> Result<Self, PruneError> {
        let ingredients = Ingredients::join(vec![checkpoint], mask, DtypeRule::AnyFloat, |_| true)?;
        let standings = rule.standings(&ingredients)?;
        let subject = Self {
            ingredients,
            standings,
        };
        if subject.prunable().is_empty() {
            return Err(PruneError::NothingPrunable {
                path: subject.checkpoint().path().to_owned(),
            });
        }
        Ok(subject)
    }

    /// A checkpoint of which the tensors are pruned that a mask file names.
    ///
    /// # Errors
    /// [`PruneError`] if nothing is named, or the mask file does not fit.
    pub fn with_mask(checkpoint: Checkpoint, mask: Checkpoint) -> Result<Self, PruneError> {
        let ingredients =
            Ingredients::join(vec![checkpoint], Some(mask), DtypeRule::AnyFloat, |_| true)?;
        let standing = |parameter: &Parameter| match parameter.given_mask {
            Some(_) => Standing::Prunable,
            None => Standing::Excluded,
        };
        let subject = Self {
            standings: ingredients.parameters().iter().map(standing).collect(),
            ingredients,
        };
        if subject.prunable().is_empty() {
            return Err(PruneError::NothingPrunable {
                path: subject.checkpoint().path().to_owned(),
            });
        }
        Ok(subject)
    }

    /// The checkpoint and the mask file, joined.
    pub fn ingredients(&self) -> &Ingredients {
        &self.ingredients
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.ingredients.checkpoints()[0]
    }

    /// The parameters, sorted by name.
    pub fn parameters(&self) -> &[Parameter] {
        self.ingredients.parameters()
    }

    /// What each parameter is to the pruning.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// Indices of the prunable parameters, in the order of their names.
    pub fn prunable(&self) -> Vec<usize> {
        let all = self.standings.iter().enumerate();
        all.filter(|(_, standing)| **standing == Standing::Prunable)
            .map(|(index, _)| index)
            .collect()
    }

    /// The tensor of values of a parameter.
    pub(super) fn value(&self, parameter: usize) -> &StoredTensor {
        self.ingredients.value(&self.parameters()[parameter], 0)
    }

    /// The mask stored beside a parameter's values.
    pub(super) fn stored_mask(&self, parameter: usize) -> Option<&StoredTensor> {
        self.ingredients
            .stored_mask(&self.parameters()[parameter], 0)
    }

    /// The mask that the mask file has for a parameter.
    pub(super) fn given_mask(&self, parameter: usize) -> Option<&StoredTensor> {
        self.ingredients.given_mask(&self.parameters()[parameter])
    }

    /// Whether a mask says what of a parameter is pruned, rather than its zeros.
    pub(super) fn has_explicit_mask(&self, parameter: usize) -> bool {
        self.stored_mask(parameter).is_some() || self.given_mask(parameter).is_some()
    }

    /// The narrowest width in which all prunable magnitudes are exact.
    pub(super) fn width(&self) -> Width {
        let is_double = |parameter: &usize| self.value(*parameter).dtype == Dtype::F64;
        match self.prunable().iter().any(is_double) {
            true => Width::Double,
            false => Width::Single,
        }
    }

    /// Checks that no file has changed since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<(), PruneError> {
        self.checkpoint().check_unchanged()?;
        if let Some(mask_file) = self.ingredients.mask_file() {
            mask_file.check_unchanged()?;
        }
        Ok(())
    }
}
