//! Which tensors are prunable: a name, an element type and a shape walk in.
//!
//! The rule: weights of linear layers and of convolutions in one, two or three
//! dimensions, first and last layer included. That is an F16, BF16, F32 or F64 tensor
//! of 2 to 5 dimensions whose last name component contains `weight` or `kernel`, and
//! no component of which names a norm, an embedding or a bias. Patterns override it.

use crate::checkpoint::Ingredients;
use crate::connectivity::NamePatterns;
use crate::prune::PruneError;
use crate::tensor::Arithmetic;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// Dimensions of the weights of linear layers (2) and convolutions (3, 4 and 5).
const RANKS: std::ops::RangeInclusive<usize> = 2..=5;

/// What a tensor is to a pruning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is pruned.
    Prunable,
    /// A pattern leaves it out.
    Excluded,
    /// Its elements have no magnitude here.
    Dtype,
    /// It has fewer than 2 or more than 5 dimensions.
    Rank,
    /// Its name says that it is a norm's.
    Norm,
    /// Its name says that it is an embedding's.
    Embedding,
    /// Its name says that it is a bias.
    Bias,
    /// Its name does not say that it is a weight.
    NoWeight,
}

impl Standing {
    /// Word for it in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prunable => "prunable",
            Self::Excluded => "excluded",
            Self::Dtype => "dtype",
            Self::Rank => "rank",
            Self::Norm => "norm",
            Self::Embedding => "embedding",
            Self::Bias => "bias",
            Self::NoWeight => "no weight",
        }
    }
}

/// The rule, with the patterns that override it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunableRule {
    /// Tensors that are prunable whatever the rule says.
    pub include: NamePatterns,
    /// Tensors that are not, whatever anything else says.
    pub exclude: NamePatterns,
}

impl PrunableRule {
    /// What the tensor is to a pruning.
    pub fn standing(&self, name: &str, dtype: Dtype, shape: &Shape) -> Standing {
        if self.exclude.matches(name) {
            Standing::Excluded
        } else if dtype.arithmetic() != Arithmetic::Average {
            Standing::Dtype
        } else if self.include.matches(name) {
            Standing::Prunable
        } else if !RANKS.contains(&shape.rank()) {
            Standing::Rank
        } else {
            by_name(name)
        }
    }

    /// What each parameter of the checkpoint is to a pruning.
    pub(super) fn standings(&self, ingredients: &Ingredients) -> Result<Vec<Standing>, PruneError> {
        let parameters = ingredients.parameters();
        let names = parameters.iter().map(|parameter| parameter.name.as_str());
        for (list, patterns) in [("include", &self.include), ("exclude", &self.exclude)] {
            if let Some(pattern) = patterns.unused(names.clone()) {
                let pattern = pattern.to_owned();
                return Err(PruneError::UnusedPattern { list, pattern });
            }
        }
        parameters
            .iter()
            .map(|parameter| {
                let dtype = ingredients.value(parameter, 0).dtype;
                let standing = self.standing(&parameter.name, dtype, &parameter.shape);
                if standing == Standing::Dtype && self.include.matches(&parameter.name) {
                    let tensor = parameter.name.clone();
                    return Err(PruneError::Dtype {
                        tensor,
                        found: dtype,
                    });
                }
                Ok(standing)
            })
            .collect()
    }
}

fn by_name(name: &str) -> Standing {
    let name = name.to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or(&name);
    let mut components = name.split(['.', '/', ':']);
    if last.contains("bias") {
        Standing::Bias
    } else if components.clone().any(is_norm) {
        Standing::Norm
    } else if components.any(is_embedding) {
        Standing::Embedding
    } else if last.contains("weight") || last.contains("kernel") {
        Standing::Prunable
    } else {
        Standing::NoWeight
    }
}

/// `bn1`, `batch_norm`, `LayerNorm`, `ln_f`, `norm2`.
fn is_norm(component: &str) -> bool {
    let is_numbered = |stem: &str| {
        let rest = component.strip_prefix(stem);
        rest.is_some_and(|rest| {
            rest.is_empty()
                || rest.starts_with('_')
                || rest.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    component.contains("norm") || is_numbered("bn") || is_numbered("ln")
}

/// `embeddings`, `pos_embed`, `embed_tokens`, and what GPT-2 and T5 call theirs.
fn is_embedding(component: &str) -> bool {
    component.contains("embed") || matches!(component, "wte" | "wpe" | "shared")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prunable() {
        let rule = PrunableRule::default();
        let check = |name, dims: &[u64], expected| {
            let shape = Shape::new(dims).unwrap();
            assert_eq!(rule.standing(name, Dtype::F32, &shape), expected, "{name}");
        };
        check("fc1.weight", &[3, 4], Standing::Prunable);
        check("conv1.weight", &[3, 4, 3, 3], Standing::Prunable);
        check("encoder.conv.weight", &[3, 4, 3], Standing::Prunable);
        check("conv3d.weight", &[3, 4, 3, 3, 3], Standing::Prunable);
        check("lstm.weight_ih_l0", &[3, 4], Standing::Prunable);
        check("attn.in_proj_weight", &[3, 4], Standing::Prunable);
        check("dense.kernel", &[3, 4], Standing::Prunable);
        check("lm_head.weight", &[3, 4], Standing::Prunable);
        check("downsample.0.weight", &[3, 4, 1, 1], Standing::Prunable);
        check("weight", &[3, 4], Standing::Prunable);
        check("fc1.bias", &[3], Standing::Rank);
        check("attn.bias", &[1, 1, 4, 4], Standing::Bias);
        check("attn.relative_position_bias_table", &[9, 4], Standing::Bias);
        check("bn1.weight", &[3], Standing::Rank);
        check("bn1.weight", &[3, 4], Standing::Norm);
        check("encoder.LayerNorm.weight", &[3, 4], Standing::Norm);
        check("h.0.ln_1.weight", &[3, 4], Standing::Norm);
        check("linear.weight", &[3, 4], Standing::Prunable);
        check("lnet.weight", &[3, 4], Standing::Prunable);
        check("word_embeddings.weight", &[3, 4], Standing::Embedding);
        check("transformer.wte.weight", &[3, 4], Standing::Embedding);
        check("model.embed_tokens.weight", &[3, 4], Standing::Embedding);
        check("pos_embed", &[1, 3, 4], Standing::Embedding);
        check("cls_token", &[1, 1, 4], Standing::NoWeight);
        check("mixer.A_log", &[3, 4], Standing::NoWeight);
        check("weight", &[1, 1, 1, 1, 1, 1], Standing::Rank);
    }

    #[test]
    fn patterns_override_and_excluding_wins() {
        let patterns = |text: &str| NamePatterns::new(&[text.to_owned()]).unwrap();
        let rule = PrunableRule {
            include: patterns("embed*"),
            exclude: patterns("*head*"),
        };
        let check = |name, dtype, expected| {
            let shape = Shape::new([3, 4]).unwrap();
            assert_eq!(rule.standing(name, dtype, &shape), expected, "{name}");
        };
        check("embed.weight", Dtype::F16, Standing::Prunable);
        check("embed.head", Dtype::F32, Standing::Excluded);
        check("head.weight", Dtype::F64, Standing::Excluded);
        check("fc.weight", Dtype::I64, Standing::Dtype);
        check("fc.weight", Dtype::F8E4M3, Standing::Dtype);
        let scalar = Shape::new([]).unwrap();
        assert_eq!(
            rule.standing("embed", Dtype::F32, &scalar),
            Standing::Prunable
        );
    }
}
