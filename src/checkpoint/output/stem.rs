//! What the weights of an output directory are called: as those of the first ingredient
//! are, because its library looks for that name.

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::format::shard_index::shard_name;

/// Names of files of torch whose library calls its safetensors otherwise, and how: those
/// of transformers, open_clip and adapters. All others keep their names; diffusers' and
/// PEFT's do.
///
/// Source: `WEIGHTS_NAME` and `SAFE_WEIGHTS_NAME` of transformers 5.24, open_clip 3 and
/// adapters 1.2.
const RENAMED: [(&str, &str); 3] = [
    ("pytorch_model", "model"),
    ("pytorch_adapter", "adapter"),
    ("open_clip_pytorch_model", "open_clip_model"),
];

/// Endings of files of weights.
const ENDINGS: [&str; 6] = [".safetensors", ".st", ".bin", ".pt", ".pth", ".ckpt"];

/// The name of weights without its ending: `model`, or `model.fp16` of the variant `fp16`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stem {
    base: String,
    /// With the dot before it, or empty.
    variant: String,
}

impl Default for Stem {
    fn default() -> Self {
        Self {
            base: "model".to_owned(),
            variant: String::new(),
        }
    }
}

impl Stem {
    /// The stem of an output of these ingredients: of the first if it is a directory, and
    /// of all if they are files of one name. Files that differ in their names are called
    /// as their user likes, which no library looks for.
    pub(super) fn of(ingredients: &Ingredients) -> Self {
        let checkpoints = ingredients.checkpoints();
        let name = |checkpoint: &Checkpoint| weights_name(checkpoint).map(str::to_owned);
        let Some(first) = checkpoints.first() else {
            return Self::default();
        };
        let own = name(first);
        let is_shared = || checkpoints.len() > 1 && checkpoints.iter().all(|one| name(one) == own);
        let is_conventional = first.directory().is_some() || first.index().is_some() || is_shared();
        let stem = own.filter(|_| is_conventional);
        stem.and_then(|name| Self::parse(&name)).unwrap_or_default()
    }

    /// The stem of a file of weights, of a shard, or of an index.
    fn parse(name: &str) -> Option<Self> {
        let (stem, variant) = match name.strip_suffix(".json") {
            // transformers and diffusers: `model.safetensors.index.fp16.json`.
            Some(index) => {
                let (file, variant) = index.rsplit_once(".index")?;
                (without_ending(file)?, variant)
            }
            None => (without_shard(without_ending(name)?), ""),
        };
        // A variant of one file stands before its ending.
        let (base, variant) = match (known_base(stem), variant) {
            (Some(base), "") => stem.split_at(base.len()),
            _ => (stem, variant),
        };
        let renamed = RENAMED.iter().find(|(torch, _)| {
            let rest = base.strip_prefix(torch);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        });
        let base = match renamed.filter(|_| !name.contains(".safetensors")) {
            Some((torch, ours)) => format!("{ours}{}", &base[torch.len()..]),
            None => base.to_owned(),
        };
        (!base.is_empty()).then(|| Self {
            base,
            variant: variant.to_owned(),
        })
    }

    /// Name of the only file.
    pub(super) fn single(&self) -> String {
        let Self { base, variant } = self;
        format!("{base}{variant}.safetensors")
    }

    /// Name of one of several files.
    pub(super) fn shard(&self, shard: usize, n_shards: usize) -> String {
        let Self { base, variant } = self;
        shard_name(&format!("{base}{variant}"), shard, n_shards)
    }

    /// Name of the index of several files.
    pub(super) fn index(&self) -> String {
        let Self { base, variant } = self;
        format!("{base}.safetensors.index{variant}.json")
    }
}

/// Name of the index or, without one, of the only file.
fn weights_name(checkpoint: &Checkpoint) -> Option<&str> {
    let file = || match checkpoint.shards() {
        [only] => Some(only.source().path()),
        _ => None,
    };
    let path: Option<&Path> = checkpoint.index().or_else(file);
    path?.file_name()?.to_str()
}

fn without_ending(name: &str) -> Option<&str> {
    ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))
}

/// `model` of `model-00001-of-00002`.
fn without_shard(stem: &str) -> &str {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = stem.rsplit_once("-of-");
    let parts = parts.and_then(|(rest, last)| Some((rest.rsplit_once('-')?, last)));
    match parts {
        Some(((stem, number), last)) if is_number(number) && is_number(last) => stem,
        _ => stem,
    }
}

/// What stands before the variant in a stem: variants follow names without dots.
fn known_base(stem: &str) -> Option<&str> {
    let (base, variant) = stem.rsplit_once('.')?;
    let is_word = |text: &str| {
        let mut bytes = text.bytes();
        bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let is_variant = variant.starts_with(|c: char| c.is_ascii_alphabetic()) && is_word(variant);
    (is_variant && is_word(base) && base.contains("model")).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_called_as_their_library_expects() {
        let check = |name: &str, single: &str, index: &str| {
            let stem = Stem::parse(name).unwrap();
            assert_eq!((stem.single(), stem.index()), (single.into(), index.into()));
        };
        let model = "model.safetensors.index.json";
        check("model.safetensors", "model.safetensors", model);
        check("model.safetensors.index.json", "model.safetensors", model);
        check("pytorch_model.bin", "model.safetensors", model);
        check("pytorch_model.bin.index.json", "model.safetensors", model);
        check(
            "model-00001-of-00002.safetensors",
            "model.safetensors",
            model,
        );
        check(
            "pytorch_model-00001-of-00001.bin",
            "model.safetensors",
            model,
        );
        let adapter = "adapter_model.safetensors";
        check(adapter, adapter, "adapter_model.safetensors.index.json");
        check(
            "adapter_model.bin",
            adapter,
            "adapter_model.safetensors.index.json",
        );
        let unet = "diffusion_pytorch_model.safetensors";
        let unet_index = "diffusion_pytorch_model.safetensors.index.json";
        check("diffusion_pytorch_model.bin", unet, unet_index);
        check(unet_index, unet, unet_index);
        let half = "diffusion_pytorch_model.fp16.safetensors";
        let half_index = "diffusion_pytorch_model.safetensors.index.fp16.json";
        check(half, half, half_index);
        check(half_index, half, half_index);
        check(
            "pytorch_model.fp16.bin",
            "model.fp16.safetensors",
            "model.safetensors.index.fp16.json",
        );
        check(
            "open_clip_pytorch_model.bin",
            "open_clip_model.safetensors",
            "open_clip_model.safetensors.index.json",
        );
        check(
            "pytorch_model_head.bin",
            "model_head.safetensors",
            "model_head.safetensors.index.json",
        );
        // The names of one's own are kept, whatever they say.
        check(
            "last.ckpt",
            "last.safetensors",
            "last.safetensors.index.json",
        );
        check(
            "epoch=3-loss=0.12.ckpt",
            "epoch=3-loss=0.12.safetensors",
            "epoch=3-loss=0.12.safetensors.index.json",
        );
        check(
            "pytorch_model.safetensors",
            "pytorch_model.safetensors",
            "pytorch_model.safetensors.index.json",
        );
        check(
            "pytorch_lora_weights.bin",
            "pytorch_lora_weights.safetensors",
            "pytorch_lora_weights.safetensors.index.json",
        );
        check(
            "consolidated.00.pth",
            "consolidated.00.safetensors",
            "consolidated.00.safetensors.index.json",
        );
        for name in [".safetensors", "config.json", "model.onnx", "model"] {
            assert_eq!(Stem::parse(name), None, "{name}");
        }
        let half = Stem::parse(half).unwrap();
        assert_eq!(
            half.shard(0, 2),
            "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"
        );
    }
}
