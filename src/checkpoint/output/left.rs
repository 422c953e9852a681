//! What stays behind of the files beside weights, and why: names and limits walk in,
//! reasons walk out.

use std::fmt;

/// Longest file that is copied: a tokenizer of 250,000 words takes 35 MB.
pub(super) const MOST_FILE_BYTES: u64 = 128 << 20;
/// Most bytes that are copied, of all files.
pub(super) const MOST_BYTES: u64 = 512 << 20;
/// Most files that are copied: each is open until the output is published.
pub(super) const MOST_FILES: usize = 256;

/// Ends of the names of files of weights.
const WEIGHT_ENDINGS: [&str; 18] = [
    ".safetensors",
    ".st",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".tar",
    ".h5",
    ".keras",
    ".msgpack",
    ".gguf",
    ".ggml",
    ".tflite",
    ".pb",
    ".ot",
    ".pdparams",
    ".distcp",
    ".flashpack",
];
/// What stands within the names of files of weights, and of their indices.
const WEIGHT_PARTS: [&str; 4] = [".onnx", ".ckpt.", ".safetensors.index.", ".bin.index."];
/// Names of what trainers leave beside a model, and beginnings of such names.
///
/// Source: `trainer.py` of transformers 5.24; DeepSpeed 0.18; PyTorch Lightning 2.6.
const LEFTOVERS: [&str; 10] = [
    "trainer_state.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "test_results.json",
    "predict_results.json",
    "zero_to_fp32.py",
    "latest",
    "runs",
    "wandb",
];
const LEFTOVER_BEGINNINGS: [&str; 9] = [
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "training_args",
    "events.out.tfevents",
    "global_step",
    "checkpoint-",
    "lightning_logs",
];

/// Why a file stays behind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftReason {
    /// They are weights: those of the first ingredient alone.
    Weights,
    /// They are folders that have some, which belong to the model and are merged apart.
    Folder,
    /// A training left them.
    Training,
    /// They are hidden, or somebody's cache.
    Hidden,
    /// Their names are no text.
    Name,
    /// They are longer than what is copied.
    Large,
    /// There are more of them than are copied.
    Many,
    /// They are links out of the folder, links that lead nowhere, or no regular files.
    Stray(String),
}

impl fmt::Display for LeftReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights => f.write_str("other weights"),
            Self::Folder => f.write_str("with weights of its own, to be merged by itself"),
            Self::Training => f.write_str("of its training"),
            Self::Hidden => f.write_str("hidden"),
            Self::Name => f.write_str("not named in UTF-8"),
            Self::Large => write!(f, "longer than {} MiB", MOST_FILE_BYTES >> 20),
            Self::Many => write!(f, "beyond {MOST_FILES} files or {} MiB", MOST_BYTES >> 20),
            Self::Stray(what) => f.write_str(what),
        }
    }
}

/// Why a file or folder of this name stays behind.
pub(super) fn by_name(name: &str) -> Option<LeftReason> {
    let lower = name.to_ascii_lowercase();
    let begins = |beginning: &&str| lower.starts_with(*beginning);
    if name.starts_with('.') || name == "__pycache__" {
        Some(LeftReason::Hidden)
    } else if LEFTOVERS.contains(&name) || LEFTOVER_BEGINNINGS.iter().any(begins) {
        Some(LeftReason::Training)
    } else if WEIGHT_ENDINGS.iter().any(|ending| lower.ends_with(ending))
        || WEIGHT_PARTS.iter().any(|part| lower.contains(part))
    {
        Some(LeftReason::Weights)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_stays_behind() {
        let check = |expected: Option<LeftReason>, names: &[&str]| {
            for name in names {
                assert_eq!(by_name(name), expected, "{name}");
            }
        };
        check(
            None,
            &[
                "config.json",
                "tokenizer.model",
                "vocab.txt",
                "LICENSE",
                "README.md",
                "chat_template.jinja",
                "modeling_x.py",
                "1_Pooling",
                "merges.txt",
                "qwen.tiktoken",
                "voice.npy",
                "spiece.model",
                "binary.txt",
            ],
        );
        check(
            Some(LeftReason::Weights),
            &[
                "model.safetensors",
                "consolidated.00.pth",
                "tf_model.h5",
                "model.onnx_data",
                "model.onnx.data",
                "model-Q4.GGUF",
                "pytorch_model.bin.index.json",
                "model.safetensors.index.fp16.json",
                "model.ckpt.index",
            ],
        );
        check(
            Some(LeftReason::Training),
            &[
                "optimizer.pt",
                "optimizer.bin",
                "scheduler.pt",
                "rng_state_0.pth",
                "training_args.bin",
                "trainer_state.json",
                "global_step500",
                "checkpoint-500",
                "events.out.tfevents.1.host",
                "runs",
            ],
        );
        check(
            Some(LeftReason::Hidden),
            &[".gitattributes", ".git", "__pycache__"],
        );
    }
}
