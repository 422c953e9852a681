//! Files that go beside the weights of a model: found in the directory of the first
//! ingredient and its folders, and held against those of the others.
//!
//! Whatever belongs to the model goes along, but for other weights and what its training
//! left: those are the first ingredient's alone. What stays behind is named.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::checkpoint::beside::Folder;
use crate::checkpoint::beside::Stray;
use crate::checkpoint::output::config::ConfigChanges;
use crate::checkpoint::output::config::Written;
use crate::checkpoint::output::config::agree;
use crate::checkpoint::output::left::LeftReason;
use crate::checkpoint::output::left::MOST_BYTES;
use crate::checkpoint::output::left::MOST_FILE_BYTES;
use crate::checkpoint::output::left::MOST_FILES;
use crate::checkpoint::output::left::by_name;
use crate::format::replace::ReplaceError;
use crate::format::replace::StagedDirectory;

/// What says of weights how they are stored.
const CONFIG_NAME: &str = "config.json";

/// Longest configuration that is read.
const MOST_CONFIG_BYTES: u64 = 16 << 20;
/// Most names that are looked at.
const MOST_NAMES: usize = 4096;
/// Most folders that lie within one another.
const MOST_DEPTH: usize = 8;
/// Bytes that are compared at once.
const BLOCK_BYTES: usize = 1 << 16;

/// Files of the first ingredient's directory that go with its weights.
#[derive(Debug, Default)]
pub struct Sidecars {
    /// Names of the files that are copied, with slashes where they lie in folders.
    pub copied: Vec<String>,
    /// Those of them that another ingredient lacks or has otherwise.
    pub differing: Vec<String>,
    /// Names of the files and folders that are not, and why.
    pub left: Vec<(String, LeftReason)>,
    /// What became of `config.json`.
    pub config: ConfigChanges,
    /// Lengths of the files that are copied.
    lengths: BTreeMap<String, u64>,
    /// Files with a text of their own, by name.
    pub(super) given: BTreeMap<String, String>,
    directory: Option<(PathBuf, Folder)>,
    /// The text of `config.json`, if it is another than the first ingredient's.
    config_text: Option<String>,
}

impl Sidecars {
    /// Finds what goes with the weights of the ingredients whose first is `first`, and
    /// looks what has to be said of them.
    pub(super) fn find(
        directory: &Path,
        ingredients: &Ingredients,
        written: &Written,
    ) -> Result<Self, ReplaceError> {
        let failed = |source| ReplaceError::Copy {
            path: directory.to_owned(),
            source,
        };
        let folder = Folder::new(directory).map_err(failed)?;
        let checkpoints = ingredients.checkpoints();
        let mut walk = Walk {
            directory,
            folder: &folder,
            own: checkpoints.first().map(own_names).unwrap_or_default(),
            n_names: 0,
        };
        let mut found = walk.look("", 0)?;
        found.limit();
        let others = checkpoints.iter().skip(1);
        let others: Vec<Option<Folder>> = others
            .filter_map(Checkpoint::directory)
            .map(|other| Folder::new(other).ok())
            .collect();
        let differs = |name: &String| {
            let is_same = |other: &Option<Folder>| {
                let other = other.as_ref();
                other.is_some_and(|other| is_same(&folder, other, Path::new(name)))
            };
            !others.iter().all(is_same)
        };
        let copied: Vec<String> = found.files.keys().cloned().collect();
        let mut sidecars = Self {
            differing: copied
                .iter()
                .filter(|name| differs(name))
                .cloned()
                .collect(),
            copied,
            left: found.left,
            config: ConfigChanges::default(),
            lengths: found.files,
            given: BTreeMap::new(),
            directory: None,
            config_text: None,
        };
        sidecars.agree(&folder, directory, written)?;
        sidecars.directory = Some((directory.to_owned(), folder));
        Ok(sidecars)
    }

    /// What has to be said where nothing goes along.
    pub(super) fn none(written: &Written) -> Self {
        Self {
            config: ConfigChanges::without_text(written),
            ..Self::default()
        }
    }

    /// Makes `config.json` agree with what is written.
    fn agree(
        &mut self,
        folder: &Folder,
        directory: &Path,
        written: &Written,
    ) -> Result<(), ReplaceError> {
        let Some(&length) = self.lengths.get(CONFIG_NAME) else {
            self.config = ConfigChanges::without_text(written);
            return Ok(());
        };
        let mut text = String::new();
        if length <= MOST_CONFIG_BYTES {
            let failed = |source| ReplaceError::Copy {
                path: directory.join(CONFIG_NAME),
                source,
            };
            let (file, _) = open(folder, directory, CONFIG_NAME)?;
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes).map_err(failed)?;
            text = String::from_utf8(bytes).unwrap_or_default();
        }
        (self.config_text, self.config) = agree(text, written);
        Ok(())
    }

    /// Has a file written with this text; one of that name is not copied then.
    pub(crate) fn give(&mut self, name: &str, text: String) {
        self.copied.retain(|copied| copied != name);
        self.differing.retain(|differing| differing != name);
        self.lengths.remove(name);
        self.given.insert(name.to_owned(), text);
    }

    /// Puts the files into an output directory.
    pub(super) fn copy_into(&self, staged: &StagedDirectory) -> Result<(), ReplaceError> {
        for (name, text) in &self.given {
            let entry = staged.file(name, text.len() as u64)?;
            entry.write_at(text.as_bytes(), 0)?;
        }
        let Some((directory, folder)) = &self.directory else {
            return Ok(());
        };
        for (name, &expected) in &self.lengths {
            if let Some(text) = self.config_text.as_ref().filter(|_| name == CONFIG_NAME) {
                let entry = staged.file(name, text.len() as u64)?;
                entry.write_at(text.as_bytes(), 0)?;
                continue;
            }
            let path = directory.join(name);
            let (mut file, found) = open(folder, directory, name)?;
            if found != expected {
                return Err(ReplaceError::CopyLength {
                    path,
                    expected,
                    found,
                });
            }
            staged.copy_open(name, &mut file, (&path, expected))?;
        }
        Ok(())
    }
}

/// A file that was there a moment ago.
fn open(folder: &Folder, directory: &Path, name: &str) -> Result<(File, u64), ReplaceError> {
    folder.open(Path::new(name)).map_err(|stray| {
        let source = match stray {
            Stray::Failed(error) => error,
            stray => io::Error::other(stray.to_string()),
        };
        let path = directory.join(name);
        ReplaceError::Copy { path, source }
    })
}

/// Names of the files that the first ingredient is made of.
fn own_names(checkpoint: &Checkpoint) -> BTreeSet<PathBuf> {
    let shards = checkpoint.shards().iter();
    let paths = shards.map(|shard| shard.source().path());
    let paths = paths.chain(checkpoint.index());
    paths
        .filter_map(|path| path.file_name().map(PathBuf::from))
        .collect()
}

/// Whether two folders have the same file under a name. Files of other lengths are not
/// read.
fn is_same(first: &Folder, second: &Folder, name: &Path) -> bool {
    let (Ok((mut first, length)), Ok((mut second, other))) = (first.open(name), second.open(name))
    else {
        return false;
    };
    let mut left = length;
    let (mut own, mut others) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    while length == other && left > 0 {
        let n_bytes = left.min(BLOCK_BYTES as u64) as usize;
        let (own, others) = (&mut own[..n_bytes], &mut others[..n_bytes]);
        let is_read = first.read_exact(own).is_ok() && second.read_exact(others).is_ok();
        if !is_read || own != others {
            return false;
        }
        left -= n_bytes as u64;
    }
    length == other
}

/// What was found in a folder.
#[derive(Default)]
struct Found {
    /// Files that go along, with their lengths.
    files: BTreeMap<String, u64>,
    left: Vec<(String, LeftReason)>,
    has_weights: bool,
}

impl Found {
    /// Leaves behind what there is too much of.
    fn limit(&mut self) {
        let (mut n_files, mut bytes) = (0, 0);
        let left = &mut self.left;
        self.files.retain(|name, length| {
            let is_within = n_files < MOST_FILES && bytes + *length <= MOST_BYTES;
            match is_within {
                true => (n_files, bytes) = (n_files + 1, bytes + *length),
                false => left.push((name.clone(), LeftReason::Many)),
            }
            is_within
        });
    }
}

struct Walk<'a> {
    directory: &'a Path,
    folder: &'a Folder,
    /// What the checkpoint itself is made of.
    own: BTreeSet<PathBuf>,
    n_names: usize,
}

impl Walk<'_> {
    /// Looks through a folder, whose name ends in a slash unless it is empty.
    fn look(&mut self, name: &str, depth: usize) -> Result<Found, ReplaceError> {
        let path = self.directory.join(name);
        let failed = |source| ReplaceError::Copy {
            path: path.clone(),
            source,
        };
        let mut entries = Vec::new();
        let mut found = Found::default();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            self.n_names += 1;
            if self.n_names > MOST_NAMES {
                found.left.push((format!("{name}..."), LeftReason::Many));
                break;
            }
            entries.push((entry.file_name(), entry.file_type().map_err(failed)?));
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (file_name, file_type) in entries {
            if name.is_empty() && self.own.contains(Path::new(&file_name)) {
                continue;
            }
            let Some(text) = file_name.to_str() else {
                let lossy = format!("{name}{}", file_name.to_string_lossy());
                found.left.push((lossy, LeftReason::Name));
                continue;
            };
            let whole = format!("{name}{text}");
            match by_name(text) {
                Some(reason) => {
                    found.has_weights |= reason == LeftReason::Weights;
                    let slash = if file_type.is_dir() { "/" } else { "" };
                    found.left.push((format!("{whole}{slash}"), reason));
                }
                None if file_type.is_dir() => self.enter(&mut found, whole, depth)?,
                None => self.take(&mut found, whole)?,
            }
        }
        Ok(found)
    }

    /// Adds a folder, unless it has weights: those that belong to it are not made here.
    fn enter(&mut self, found: &mut Found, name: String, depth: usize) -> Result<(), ReplaceError> {
        let name = format!("{name}/");
        if depth == MOST_DEPTH {
            found.left.push((name, LeftReason::Many));
            return Ok(());
        }
        let inner = self.look(&name, depth + 1)?;
        if inner.has_weights {
            found.left.push((name, LeftReason::Folder));
        } else {
            found.files.extend(inner.files);
            found.left.extend(inner.left);
        }
        Ok(())
    }

    /// Adds a file, if it is one of the model's.
    fn take(&self, found: &mut Found, name: String) -> Result<(), ReplaceError> {
        match self.folder.open(Path::new(&name)) {
            Ok((_, length)) if length > MOST_FILE_BYTES => {
                found.left.push((name, LeftReason::Large));
            }
            Ok((_, length)) => {
                found.files.insert(name, length);
            }
            Err(Stray::Failed(source)) if source.kind() == io::ErrorKind::NotFound => {
                let reason = "a link that leads nowhere".to_owned();
                found.left.push((name, LeftReason::Stray(reason)));
            }
            Err(Stray::Failed(source)) => {
                let path = self.directory.join(name);
                return Err(ReplaceError::Copy { path, source });
            }
            Err(stray) => {
                let reason = LeftReason::Stray(stray.to_string());
                found.left.push((name, reason));
            }
        }
        Ok(())
    }
}
