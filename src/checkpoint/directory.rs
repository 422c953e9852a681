//! Which file of a directory is its checkpoint.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::INDEX_NAME;
use crate::checkpoint::SINGLE_NAME;

/// Endings of the files that may be a directory's checkpoint, and of each the name that
/// is preferred. Those of torch come last: they often stand beside the same tensors as
/// safetensors.
///
/// Source: `modeling_utils.py` of transformers 4.57.
const CANDIDATES: [(&[&str], &str); 4] = [
    (&[".safetensors.index.json"], INDEX_NAME),
    (&[".safetensors"], SINGLE_NAME),
    (&[".bin.index.json"], "pytorch_model.bin.index.json"),
    (&[".bin", ".pt", ".pth"], "pytorch_model.bin"),
];

/// The shard index or file that is the checkpoint of a directory.
pub(super) fn find_in_directory(directory: &Path) -> Result<PathBuf, CheckpointError> {
    let list_error = |source| CheckpointError::List {
        path: directory.to_owned(),
        source,
    };
    let mut candidates = CANDIDATES.map(|_| Vec::new());
    for entry in fs::read_dir(directory).map_err(list_error)? {
        let path = entry.map_err(list_error)?.path();
        let kind = CANDIDATES
            .iter()
            .position(|(endings, _)| endings.iter().any(|ending| has_suffix(&path, ending)));
        if let Some(kind) = kind {
            candidates[kind].push(path);
        }
    }
    for (mut candidates, (_, preferred)) in candidates.into_iter().zip(CANDIDATES) {
        candidates.sort();
        if let Some(found) = candidates
            .iter()
            .find(|path| path.file_name() == Some(preferred.as_ref()))
        {
            return Ok(found.clone());
        }
        match candidates.as_slice() {
            [] => {}
            [only] => return Ok(only.clone()),
            several => {
                return Err(CheckpointError::AmbiguousDirectory {
                    path: directory.to_owned(),
                    found: several
                        .iter()
                        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                        .collect(),
                });
            }
        }
    }
    Err(CheckpointError::EmptyDirectory {
        path: directory.to_owned(),
    })
}

/// Whether the last component of a path ends so.
pub(super) fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().ends_with(suffix.as_bytes()))
}
