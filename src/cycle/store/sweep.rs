//! Clearing up: what is damaged is put aside, what nobody needs is removed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::cycle::store::ArtefactState;
use crate::cycle::store::Found;
use crate::cycle::store::Key;
use crate::cycle::store::Lock;
use crate::cycle::store::RunDirectory;
use crate::cycle::store::artefact;
use crate::cycle::store::attempt;
use crate::cycle::store::error::Action;
use crate::cycle::store::error::StoreError;
use crate::cycle::store::error::system;
use crate::cycle::store::lock;
use crate::cycle::store::make_directory;
use crate::cycle::store::names;
use crate::format::regular::open_unlinked;

/// Names of files under construction: see `format::replace`.
const UNFINISHED_BEGIN: &str = ".sms-merge-";
const UNFINISHED_END: &str = ".tmp";

/// A step that is to be done again, for the journal.
#[must_use = "what was found damaged belongs in the journal"]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Discarded {
    /// The step.
    pub key: Key,
    /// Why its result is not believed.
    pub why: String,
    /// Where the receipt and damaged artefacts are now, by their former names.
    pub moved: BTreeMap<PathBuf, PathBuf>,
}

/// What was cleared up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Number of files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl RunDirectory {
    /// Takes back that a step is done: its receipt is moved to `damaged/`, and so are those
    /// of its artefacts that are damaged. A step without a receipt is left as it is.
    ///
    /// # Errors
    /// [`StoreError::System`].
    pub fn discard(&self, key: &Key, why: &str) -> Result<Discarded, StoreError> {
        let mut paths = Vec::new();
        match self.receipt(key)? {
            Found::Missing => {}
            Found::Damaged { .. } => paths.push(self.receipt_path(key)),
            Found::Whole(receipt) => {
                for artefact in receipt.outputs.values() {
                    if let ArtefactState::Damaged { .. } = self.check(artefact)? {
                        paths.push(self.path_of(artefact));
                    }
                }
                // Last: as long as it is there, what it names is found again.
                paths.push(self.receipt_path(key));
            }
        }
        let mut moved = BTreeMap::new();
        for path in paths {
            let place = self.put_aside(&path)?;
            moved.insert(path, place);
        }
        Ok(Discarded {
            key: key.clone(),
            why: why.to_owned(),
            moved,
        })
    }

    /// Moves a file to `damaged/`, beside what was moved there under its name before.
    fn put_aside(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let directory = self.damaged();
        make_directory(&directory)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut place = directory.join(&*name);
        let mut count = 1;
        while fs::symlink_metadata(&place).is_ok() {
            count += 1;
            place = directory.join(format!("{name}.{count}"));
        }
        fs::rename(path, &place).map_err(system(Action::Move, path))?;
        Ok(place)
    }

    /// Removes artefacts that no whole receipt names, scratch files, and files under
    /// construction, if their makers are dead: what killed and failed workers left.
    ///
    /// Files whose names are in `keep` stay. Nothing is taken from a worker that still
    /// runs, here or on another machine that shares the file system and its locks: see the
    /// module. Needs the lock of this directory, so that nobody moves receipts meanwhile.
    ///
    /// # Errors
    /// [`StoreError::System`].
    pub fn remove_unused(
        &self,
        _held: &Lock,
        keep: &BTreeSet<String>,
    ) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        self.remove_artefacts(keep, &mut removed)?;
        self.remove_scratch(&mut removed)?;
        Ok(removed)
    }

    fn remove_artefacts(
        &self,
        keep: &BTreeSet<String>,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let artefacts = self.artefacts();
        // The order matters. What is listed was made by an attempt that held its lock by
        // then; if it holds it no longer it is dead; and if it published a receipt before
        // it died, that receipt is there when receipts are read after all deaths are known.
        let mut leftovers: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        let mut dead: BTreeMap<(Key, u32), bool> = BTreeMap::new();
        for name in names(&artefacts)? {
            if is_unfinished(&name) {
                remove_if_unlocked(&artefacts.join(name), removed)?;
                continue;
            }
            let Some((key, number)) = artefact::maker(&name) else {
                continue;
            };
            let is_dead = *dead
                .entry((key.clone(), number))
                .or_insert_with(|| attempt::is_dead(self, &key, number));
            if is_dead && !keep.contains(&name) {
                leftovers.entry(key).or_default().push(name);
            }
        }
        for (key, files) in leftovers {
            let named: BTreeSet<String> = match self.receipt(&key)? {
                Found::Missing => BTreeSet::new(),
                // What a damaged receipt names is decided when it is discarded.
                Found::Damaged { .. } => continue,
                Found::Whole(receipt) => receipt
                    .outputs
                    .into_values()
                    .map(|artefact| artefact.file)
                    .collect(),
            };
            for file in files.into_iter().filter(|file| !named.contains(file)) {
                remove(&artefacts.join(file), removed)?;
            }
        }
        Ok(())
    }

    fn remove_scratch(&self, removed: &mut Removed) -> Result<(), StoreError> {
        for name in names(&self.jobs())? {
            let Ok(key) = name.parse::<Key>() else {
                continue;
            };
            for number in self.attempt_numbers(&key)? {
                // Made under the lock: if it is there, only a dead attempt is not locked.
                let scratch = attempt::scratch(self, &key, number);
                if scratch.is_dir() && attempt::is_dead(self, &key, number) {
                    remove_directory(&scratch, removed)?;
                }
            }
        }
        Ok(())
    }
}

fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED_BEGIN) && name.ends_with(UNFINISHED_END)
}

/// Removes a file under construction, unless its maker lives and so holds its lock.
fn remove_if_unlocked(path: &Path, removed: &mut Removed) -> Result<(), StoreError> {
    match open_unlinked(OpenOptions::new().write(true), path) {
        Ok(file) if lock::try_lock(&file).is_ok() => remove(path, removed),
        Ok(_) => Ok(()),
        // What is no regular file is none of ours.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(system(Action::Inspect, path)(error)),
    }
}

/// Removes a file, if it is still there, and counts it.
fn remove(path: &Path, removed: &mut Removed) -> Result<(), StoreError> {
    let bytes = fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
    match fs::remove_file(path) {
        Ok(()) => {
            removed.files += 1;
            removed.bytes += bytes;
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system(Action::Remove, path)(error)),
    }
}

/// Removes a directory with everything in it, and counts its files.
fn remove_directory(path: &Path, removed: &mut Removed) -> Result<(), StoreError> {
    for name in names(path)? {
        let path = path.join(name);
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if is_directory {
            remove_directory(&path, removed)?;
        } else {
            remove(&path, removed)?;
        }
    }
    // Names that are no text are not counted, and go all the same.
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(system(Action::Remove, path)(error))
        }
        _ => Ok(()),
    }
}
