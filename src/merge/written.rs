//! What a plan writes, as far as a model's configuration speaks of it.

use std::collections::BTreeMap;

use crate::checkpoint::Ingredients;
use crate::checkpoint::SparseFormat;
use crate::checkpoint::Written;
use crate::format::compact::CompactKind;
use crate::merge::plan::MergePlan;
use crate::tensor::Arithmetic;
use crate::tensor::Dtype;

impl MergePlan {
    /// What is written once all has a place.
    pub fn written(&self, ingredients: &Ingredients) -> Written {
        Written {
            dtype: self.changed_dtype(ingredients),
            sparse: self.sparse_format(ingredients),
        }
    }

    /// The element type of most weights, if some have another one than in the first
    /// ingredient.
    fn changed_dtype(&self, ingredients: &Ingredients) -> Option<Dtype> {
        let mut is_changed = false;
        let mut elements: BTreeMap<&str, (u64, Dtype)> = BTreeMap::new();
        for planned in &self.tensors {
            let parameter = &ingredients.parameters()[planned.parameter];
            let dtype = planned.slot.dtype;
            if dtype.arithmetic() != Arithmetic::Average {
                continue;
            }
            is_changed |= dtype != ingredients.value(parameter, 0).dtype;
            elements.entry(dtype.name()).or_insert((0, dtype)).0 += parameter.shape.numel();
        }
        let most = elements.into_values().max_by_key(|(count, _)| *count);
        most.map(|(_, dtype)| dtype).filter(|_| is_changed)
    }

    /// The format of weights that readers of compressed-tensors decompress.
    fn sparse_format(&self, ingredients: &Ingredients) -> Option<SparseFormat> {
        let mut format: Option<SparseFormat> = None;
        let (mut retained, mut numel) = (0, 0);
        for planned in &self.tensors {
            let compact = planned.compact.as_ref();
            let compact = compact.filter(|compact| compact.kind != CompactKind::Bitmask);
            let Some(compact) = compact else { continue };
            let own = &mut format.get_or_insert_with(|| SparseFormat {
                kind: compact.kind,
                modules: Vec::new(),
                sparsity: 0.0,
            });
            // A file of both formats is read by the rule of the more general one.
            if compact.kind == CompactKind::CompressedTensors {
                own.kind = compact.kind;
            }
            let shape = &ingredients.parameters()[planned.parameter].shape;
            retained += compact.ranks.last().copied().unwrap_or(shape.numel());
            numel += shape.numel();
            let module = planned.slot.name.strip_suffix(".weight");
            own.modules.extend(module.map(str::to_owned));
        }
        if let Some(format) = &mut format {
            format.sparsity = 1.0 - retained as f64 / numel.max(1) as f64;
            format.modules.sort();
        }
        format
    }
}
