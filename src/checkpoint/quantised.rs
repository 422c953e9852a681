//! Weights that are stored as integers or in 8 bits and fewer, with scales beside them:
//! names and types of tensors walk in, those that belong together walk out.
//!
//! Such tensors are codes. The mean of two codes is the code of something else, and so
//! is the mean of two scales, so none of them is averaged alone.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::tensor::Arithmetic;
use crate::tensor::Dtype;

/// Longest `config.json` that is looked at.
const CONFIG_LIMIT: u64 = 1 << 20;

/// Elements from which integers of a model that says it is quantised are taken for codes:
/// shorter tensors are counters.
const FEWEST_CODES: u64 = 16;

/// Who quantised a weight. Shown as what follows "quantised".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantiser {
    /// GPTQ: `qweight`, `qzeros`, `scales`, `g_idx`. Source: arXiv:2210.17323.
    Gptq,
    /// AWQ: `qweight`, `qzeros`, `scales`. Source: arXiv:2306.00978.
    Awq,
    /// bitsandbytes in 4 or 8 bits: `absmax`, `quant_state`, `SCB`.
    BitsAndBytes,
    /// compressed-tensors: `weight_packed` and `weight_scale`.
    CompressedTensors,
    /// 8-bit floats or integers with `weight_scale` or `weight_scale_inv`.
    Scaled,
    /// EETQ: 8-bit integers with `weight_scales`.
    Eetq,
    /// HQQ: `W_q` and its `meta`.
    Hqq,
    /// optimum-quanto: `weight._data` and `weight._scale`.
    Quanto,
    /// torchao: `_weight_qdata` and `_weight_scale`.
    Torchao,
    /// MXFP4: `_blocks` and `_scales`.
    Mxfp4,
    /// MLX: 32-bit words with `scales` and `biases`.
    Mlx,
    /// AQLM: `codes` and `codebooks`. Source: arXiv:2401.06118.
    Aqlm,
    /// Another, which `config.json` names.
    Other,
}

impl fmt::Display for Quantiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gptq => "by GPTQ",
            Self::Awq => "by AWQ",
            Self::BitsAndBytes => "by bitsandbytes",
            Self::CompressedTensors => "by compressed-tensors",
            Self::Scaled => "to 8 bits or fewer",
            Self::Eetq => "by EETQ",
            Self::Hqq => "by HQQ",
            Self::Quanto => "by quanto",
            Self::Torchao => "by torchao",
            Self::Mxfp4 => "to MXFP4",
            Self::Mlx => "by MLX",
            Self::Aqlm => "by AQLM",
            Self::Other => "as `config.json` says",
        })
    }
}

impl Quantiser {
    /// How plain weights are had again. Only calls that exist are named.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::BitsAndBytes => {
                "dequantise each first, as transformers does by \
                 `from_pretrained(MODEL).dequantize().save_pretrained(PLAIN)`, and merge those"
            }
            Self::CompressedTensors => {
                "dequantise each first, as transformers does by `from_pretrained(MODEL, \
                 quantization_config=CompressedTensorsConfig(run_compressed=False))` and \
                 `save_pretrained(PLAIN)`, and merge those"
            }
            Self::Mxfp4 => {
                "dequantise each first, as transformers does by `from_pretrained(MODEL, \
                 quantization_config=Mxfp4Config(dequantize=True))` and \
                 `save_pretrained(PLAIN)`, and merge those"
            }
            Self::Mlx => {
                "dequantise each first, as `mlx_lm.convert --dequantize` does, and merge those"
            }
            _ => {
                "dequantise each first, or merge the models from before they were quantised \
                 and quantise the soup"
            }
        }
    }

    /// By the `quant_method` of `config.json`.
    fn from_method(method: &str) -> Self {
        match method {
            "gptq" => Self::Gptq,
            "awq" => Self::Awq,
            "bitsandbytes" => Self::BitsAndBytes,
            "compressed-tensors" => Self::CompressedTensors,
            "fp8" | "fbgemm_fp8" => Self::Scaled,
            "eetq" => Self::Eetq,
            "hqq" => Self::Hqq,
            "quanto" => Self::Quanto,
            "torchao" => Self::Torchao,
            "mxfp4" => Self::Mxfp4,
            "aqlm" => Self::Aqlm,
            _ => Self::Other,
        }
    }
}

/// The quantised tensors of a checkpoint, by name: the codes, and the scales and other
/// tensors without which codes mean nothing.
pub(super) fn quantised(checkpoint: &Checkpoint) -> BTreeMap<&str, Quantiser> {
    let mut parts = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        if !is_code(tensor) {
            continue;
        }
        if let Some((quantiser, base, ends)) = by_name(tensor, checkpoint) {
            parts.insert(tensor.name.as_str(), quantiser);
            let after = checkpoint.tensors();
            let begin = after.partition_point(|other| other.name.as_str() < base.as_str());
            let siblings = after[begin..]
                .iter()
                .take_while(|other| other.name.starts_with(base.as_str()));
            for sibling in siblings {
                let end = &sibling.name[base.len()..];
                if ends.iter().any(|part| is_part(end, part)) {
                    parts.insert(sibling.name.as_str(), quantiser);
                }
            }
        }
    }

    // Names that are not known: only what the model says of itself tells.
    let is_unknown = |tensor: &&StoredTensor| {
        let is_index = matches!(tensor.dtype, Dtype::Bool | Dtype::I64 | Dtype::U64);
        is_code(tensor)
            && !is_index
            && tensor.shape.numel() >= FEWEST_CODES
            && !parts.contains_key(tensor.name.as_str())
    };
    let unknown: Vec<&StoredTensor> = checkpoint.tensors().iter().filter(is_unknown).collect();
    if !unknown.is_empty()
        && let Some(quantiser) = checkpoint.directory().and_then(declared)
    {
        parts.extend(unknown.iter().map(|code| (code.name.as_str(), quantiser)));
    }
    parts
}

/// Whether a tensor can hold codes.
fn is_code(tensor: &StoredTensor) -> bool {
    let is_other = matches!(tensor.dtype, Dtype::Bool | Dtype::C64);
    tensor.mask_of.is_none() && tensor.dtype.arithmetic() != Arithmetic::Average && !is_other
}

/// Whether the end of a name is a part; one that ends with `*` stands for all that begin
/// with it.
fn is_part(end: &str, part: &str) -> bool {
    match part.strip_suffix('*') {
        Some(begin) => end.starts_with(begin),
        None => end == part,
    }
}

/// What codes are called, of which other tensors one must be there, who makes them, and
/// what ends the names of all parts.
type Kind = (
    &'static str,
    &'static [&'static str],
    Quantiser,
    &'static [&'static str],
);

const KINDS: &[Kind] = &[
    (
        "qweight",
        &["scales"],
        Quantiser::Gptq,
        &["qzeros", "scales", "g_idx"],
    ),
    (
        "weight_packed",
        &["weight_scale"],
        Quantiser::CompressedTensors,
        &["weight_*", "input_*"],
    ),
    (
        "weight",
        &["SCB"],
        Quantiser::BitsAndBytes,
        &["SCB", "weight_format"],
    ),
    (
        "weight",
        &["weight_scales"],
        Quantiser::Eetq,
        &["weight_scales"],
    ),
    (
        "weight",
        &["weight_scale", "weight_scale_inv", "scale_weight"],
        Quantiser::Scaled,
        &["weight_*", "scale_*", "input_*"],
    ),
    ("weight", &["biases"], Quantiser::Mlx, &["scales", "biases"]),
    (
        "W_q",
        &["scale", "meta", "meta.scale"],
        Quantiser::Hqq,
        &["meta*", "scale*", "zero*", "nbits", "group_size", "shape"],
    ),
    ("_data", &["_scale"], Quantiser::Quanto, &["_*"]),
    (
        "_weight_qdata",
        &["_weight_scale"],
        Quantiser::Torchao,
        &["_weight_*"],
    ),
    (
        "codes",
        &["codebooks"],
        Quantiser::Aqlm,
        &["codebooks", "scales"],
    ),
];

/// Ends of what bitsandbytes puts beside a weight of 4 bits.
const FOUR_BIT_PARTS: &[&str] = &[
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".quant_state.*",
];

/// Who made codes of a tensor, if it is called as codes are and its scales are there; what
/// its parts' names begin with, and their ends.
fn by_name(
    tensor: &StoredTensor,
    checkpoint: &Checkpoint,
) -> Option<(Quantiser, String, &'static [&'static str])> {
    let name = tensor.name.as_str();
    let has = |base: &str, end: &str| checkpoint.find(&format!("{base}{end}")).is_some();
    let (module, last) = match name.rfind('.') {
        Some(dot) => name.split_at(dot + 1),
        None => ("", name),
    };
    let is_kind = |kind: &&Kind| kind.0 == last && kind.1.iter().any(|needed| has(module, needed));
    if let Some((.., quantiser, ends)) = KINDS.iter().find(is_kind) {
        let is_awq = last == "qweight" && has(module, "qzeros") && !has(module, "g_idx");
        let quantiser = if is_awq { Quantiser::Awq } else { *quantiser };
        return Some((quantiser, module.to_owned(), ends));
    }
    if has(name, ".absmax") {
        return Some((Quantiser::BitsAndBytes, name.to_owned(), FOUR_BIT_PARTS));
    }
    let base = name.strip_suffix("_blocks")?;
    has(base, "_scales").then(|| (Quantiser::Mxfp4, base.to_owned(), &["_scales"] as &[_]))
}

/// Who quantised the model of a directory, if its `config.json` says that someone did.
fn declared(directory: &Path) -> Option<Quantiser> {
    let path = directory.join("config.json");
    // A pipe is not waited for.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(CONFIG_LIMIT).read_to_string(&mut text).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let quantisation = config.get("quantization_config")?;
    let method = quantisation.get("quant_method")?.as_str()?;

    // That library stores weights that are sparse and not quantised, too.
    let groups = quantisation.get("config_groups");
    let has_groups = groups
        .and_then(serde_json::Value::as_object)
        .is_some_and(|groups| !groups.is_empty());
    (method != "compressed-tensors" || has_groups).then(|| Quantiser::from_method(method))
}
