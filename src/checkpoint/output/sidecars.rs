//! Files that go beside the weights of a model: found in the directory of the first
//! ingredient, and held against those of the others.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::format::replace::ReplaceError;

/// Ends of the names of files that belong beside the weights of a model.
const SIDECAR_SUFFIXES: [&str; 6] = [".json", ".txt", ".model", ".jinja", ".tiktoken", ".py"];
/// Ends of the names of files that describe how weights are cut into shards.
const INDEX_SUFFIX: &str = ".index.json";

/// Files of the first ingredient's directory that go with its weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecars {
    /// Names of the files that are copied.
    pub copied: Vec<String>,
    /// Those of them that another ingredient lacks or has otherwise.
    pub differing: Vec<String>,
    pub(super) directory: PathBuf,
    /// Files with a text of their own, by name.
    pub(super) given: BTreeMap<String, String>,
}

impl Sidecars {
    pub(super) fn find(directory: &Path, ingredients: &Ingredients) -> Result<Self, ReplaceError> {
        let mut copied = sidecar_names(directory).map_err(|source| ReplaceError::Copy {
            path: directory.to_owned(),
            source,
        })?;
        copied.sort();
        let others = || {
            ingredients
                .checkpoints()
                .iter()
                .skip(1)
                .filter_map(Checkpoint::directory)
        };
        let differs = |name: &&String| {
            let own = fs::read(directory.join(name)).ok();
            others().any(|other| own.is_none() || fs::read(other.join(name)).ok() != own)
        };
        let differing = copied.iter().filter(differs).cloned().collect();
        Ok(Self {
            copied,
            differing,
            directory: directory.to_owned(),
            given: BTreeMap::new(),
        })
    }

    /// Has a file written with this text; one of that name is not copied then.
    pub(crate) fn give(&mut self, name: &str, text: String) {
        self.copied.retain(|copied| copied != name);
        self.differing.retain(|differing| differing != name);
        self.given.insert(name.to_owned(), text);
    }
}

/// Names of a directory's regular files that belong beside weights, in no order.
fn sidecar_names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let is_sidecar = SIDECAR_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
            && !name.ends_with(INDEX_SUFFIX);
        if !is_sidecar {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() => names.push(name),
            // A link that leads nowhere names no file.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(names)
}
