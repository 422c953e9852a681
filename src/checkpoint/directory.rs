//! Which file of a directory is its checkpoint.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::INDEX_NAME;
use crate::checkpoint::SINGLE_NAME;

/// Endings of the files that may be a directory's checkpoint, and of each the name that
/// is preferred. Those of torch come last: they often stand beside the same tensors as
/// safetensors. `.ckpt` is Lightning's; of several none is preferred.
///
/// Source: `modeling_utils.py` of transformers 4.57.
const CANDIDATES: [(&[&str], &str); 6] = [
    (&[".safetensors.index.json"], INDEX_NAME),
    (&[".safetensors"], SINGLE_NAME),
    (&[".st"], "model.st"),
    (&[".bin.index.json"], "pytorch_model.bin.index.json"),
    (&[".bin", ".pt", ".pth"], "pytorch_model.bin"),
    (&[".ckpt"], ""),
];

/// The files of a directory that may be its checkpoint, a list of each kind.
struct Listing {
    candidates: [Vec<PathBuf>; CANDIDATES.len()],
    sharded: Option<Sharded>,
}

/// Who wrote a directory of parts that are no tensors of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharded {
    /// `torch.distributed.checkpoint`.
    Torch,
    /// DeepSpeed.
    DeepSpeed,
}

impl Sharded {
    /// What to do with the directory.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Torch => {
                "it is a distributed checkpoint of torch: `python -m \
                 torch.distributed.checkpoint.format_utils dcp_to_torch DIRECTORY FILE` \
                 joins its parts to a file"
            }
            Self::DeepSpeed => {
                "it is a checkpoint of DeepSpeed: the script `zero_to_fp32.py`, which \
                 DeepSpeed puts into it, joins its parts to a file"
            }
        }
    }
}

impl Listing {
    fn new(directory: &Path) -> Result<Self, CheckpointError> {
        let list_error = |source| CheckpointError::List {
            path: directory.to_owned(),
            source,
        };
        let mut listing = Self {
            candidates: CANDIDATES.map(|_| Vec::new()),
            sharded: None,
        };
        for entry in fs::read_dir(directory).map_err(list_error)? {
            let path = entry.map_err(list_error)?.path();
            let kind = CANDIDATES
                .iter()
                .position(|(endings, _)| endings.iter().any(|ending| ends_so(&path, ending)));
            if let Some(kind) = kind {
                listing.candidates[kind].push(path);
                continue;
            }
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            if name.ends_with(b".distcp") {
                listing.sharded = Some(Sharded::Torch);
            } else if name == b"zero_to_fp32.py" || name.starts_with(b"global_step") {
                listing.sharded = Some(Sharded::DeepSpeed);
            }
        }
        listing.candidates.iter_mut().for_each(|files| files.sort());
        Ok(listing)
    }

    /// The file of a kind that is preferred, else the only one.
    fn pick(&self, kind: usize) -> Option<&PathBuf> {
        let preferred = CANDIDATES[kind].1;
        let files = &self.candidates[kind];
        let mut named = files.iter();
        named
            .find(|path| path.file_name() == Some(preferred.as_ref()))
            .or(match files.as_slice() {
                [only] => Some(only),
                _ => None,
            })
    }
}

/// The shard index or file that is the checkpoint of a directory.
pub(super) fn find_in_directory(directory: &Path) -> Result<PathBuf, CheckpointError> {
    let listing = Listing::new(directory)?;
    for (kind, files) in listing.candidates.iter().enumerate() {
        if files.is_empty() {
            continue;
        }
        if let Some(found) = listing.pick(kind)
            && n_shards(found).is_none_or(|(_, n_shards)| n_shards < 2)
        {
            return Ok(found.clone());
        }
        return Err(ambiguous(directory, files));
    }
    Err(CheckpointError::EmptyDirectory {
        path: directory.to_owned(),
        sharded: listing.sharded,
    })
}

/// Other files of a directory that may be its checkpoint, when `file` cannot be.
pub(super) fn others(directory: &Path, file: Option<&Path>) -> Vec<PathBuf> {
    let Ok(listing) = Listing::new(directory) else {
        return Vec::new();
    };
    let picked = (0..CANDIDATES.len()).filter_map(|kind| listing.pick(kind));
    let is_whole = |path: &&PathBuf| n_shards(path).is_none_or(|(_, n_shards)| n_shards < 2);
    let others = picked.filter(|path| Some(path.as_path()) != file && is_whole(path));
    others.cloned().collect()
}

fn ambiguous(directory: &Path, files: &[PathBuf]) -> CheckpointError {
    let names = files
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let path = directory.to_owned();
    let shards: Option<Vec<(String, u64)>> = files.iter().map(|path| n_shards(path)).collect();
    let index = shards.as_deref().and_then(|shards| shards.first());
    match index.filter(|(_, n_shards)| *n_shards > 1) {
        Some((index, n_shards)) => CheckpointError::ShardsWithoutIndex {
            path,
            found: files.len(),
            expected: *n_shards,
            index: index.clone(),
            usable: None,
        },
        None => CheckpointError::AmbiguousDirectory {
            path,
            found: names.collect(),
        },
    }
}

/// Name of the index of a file that is called like one of several shards, and how many
/// there are: of `model-00001-of-00003.safetensors`, `model.safetensors.index.json` and 3.
fn n_shards(path: &Path) -> Option<(String, u64)> {
    let name = path.file_name()?.to_str()?;
    let (stem, ending) = name.rsplit_once('.')?;
    let (stem, n_shards) = stem.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(n_shards))
        .then(|| {
            Some((
                format!("{stem}.{ending}.index.json"),
                n_shards.parse().ok()?,
            ))
        })
        .flatten()
}

/// Whether a path ends so, or as the index of a variant does: that of `fp16` is
/// `model.safetensors.index.fp16.json`.
///
/// Source: `_add_variant` of transformers 5.24 and diffusers 0.42.
fn ends_so(path: &Path, ending: &str) -> bool {
    let is_variant = || {
        let name = path.file_name().and_then(|name| name.to_str());
        let (file, rest) = name?.rsplit_once(".index.")?;
        let variant = rest.strip_suffix(".json")?;
        (!variant.contains('.')).then(|| format!("{file}.index.json").ends_with(ending))
    };
    has_suffix(path, ending) || is_variant().unwrap_or(false)
}

/// Whether the last component of a path ends so.
pub(super) fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().ends_with(suffix.as_bytes()))
}
