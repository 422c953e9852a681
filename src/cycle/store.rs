//! The run directory: steps that are done walk in as receipts, and nothing that was
//! begun, torn, damaged or done twice is ever taken for done.
//!
//! ```text
//! recipe.toml                 the recipe as run
//! lock                        held by the coordinator while it lives
//! journal.jsonl               history, for people
//! receipts/<key>.json         what is done, and with what result
//! artefacts/<key>-<attempt>.* files that steps made
//! jobs/<key>/job.json         everything that a worker needs to know
//! jobs/<key>/<attempt>/       one attempt: its lock, its log, its scratch files
//! damaged/                    what was found damaged
//! named/                      links to artefacts, by readable names
//! ```
//!
//! - A step is known by its [`Key`], a digest of what it is made from. It is done when there
//!   is a whole receipt of that key whose artefacts are whole, and there is no other state.
//! - A receipt is published by `link(2)` from a complete and synced file: the first one
//!   wins, and the last one to come finds it. It carries a digest of its own text.
//! - Every attempt has a number that `mkdir(2)` made its own, and puts it in the names of
//!   its artefacts. So two workers on one step, on one machine or on several that share the
//!   file system, never write to one file, and a receipt names files that nobody else
//!   writes. Whoever loses removes its own files and goes on with the winner's receipt.
//! - A worker holds `flock(2)` on a file of its attempt while it lives, and the kernel frees
//!   it when it dies. So [`RunDirectory::remove_unused`] knows whose files are left over.
//!   Where a file system cannot lock, files are kept rather than removed.
//! - Artefacts are synced before the receipt that names them, and the directory that names
//!   the artefacts too: a receipt that survives a power cut finds its artefacts.
//!
//! A run directory must be on a file system with hard links, or with renames that replace
//! nothing; [`RunDirectory::probe`] says so before anything is computed. Others may be able
//! to write to it: whatever is read or written here is a regular file and no link, names
//! that come from files are held against what they may be, and lengths are bounded. Reads
//! neither the clock nor the environment, and knows nothing of what the steps do.

mod artefact;
mod attempt;
mod error;
mod journal;
mod key;
mod lock;
mod name;
mod places;
mod probe;
mod receipt;
mod sweep;

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use artefact::Artefact;
pub use artefact::ArtefactState;
pub use artefact::Content;
pub use attempt::Attempt;
pub use attempt::Draft;
pub use attempt::Published;
pub use error::Action;
pub use error::StoreError;
pub use journal::Journal;
pub use key::Key;
pub use key::KeyError;
pub use lock::Lock;
pub use receipt::Found;
pub use receipt::Receipt;
pub use sweep::Discarded;
pub use sweep::Removed;

use crate::cycle::store::error::system;
use crate::format::regular;
use crate::format::regular::TEXT_LIMIT;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::FileKind;
use crate::format::replace::StagedFile;
use crate::format::replace::Target;

/// Version of receipts and of what keys are made from: if it changes, every step is redone.
pub const FORMAT_VERSION: u32 = 1;

/// What a run directory holds at its top besides deliverables.
const RECIPE: &str = "recipe.toml";
const LOCK: &str = "lock";
const JOURNAL: &str = "journal.jsonl";
const RECEIPTS: &str = "receipts";
const ARTEFACTS: &str = "artefacts";
const JOBS: &str = "jobs";
const DAMAGED: &str = "damaged";
const PARTS: &[&str] = &[RECEIPTS, ARTEFACTS, JOBS, DAMAGED];

/// Name of a job's description in its directory.
const JOB: &str = "job.json";

/// A directory that holds a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// The run directory at `path`, made if there is none.
    ///
    /// # Errors
    /// [`StoreError::NotARun`] if there is something else, even a directory that holds
    /// nothing but a stranger's file: a run would not be told from it. A recipe may lie
    /// there. [`StoreError::System`].
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        match fs::metadata(path) {
            Ok(_) if is_run(path) => {}
            Ok(metadata) if metadata.is_dir() => refuse_foreign(path)?,
            Ok(_) => return Err(not_a_run(path, "is no directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system(Action::Inspect, path)(error)),
        }
        for part in PARTS {
            make_directory(&path.join(part))?;
        }
        Self::open(path)
    }

    /// The run directory at `path`.
    ///
    /// # Errors
    /// [`StoreError::NotARun`] if there is none, and [`StoreError::System`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let root = fs::canonicalize(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => not_a_run(path, "does not exist"),
            _ => system(Action::Inspect, path)(error),
        })?;
        if !is_run(&root) {
            return Err(not_a_run(path, &format!("has no directory `{RECEIPTS}`")));
        }
        Ok(Self { root })
    }

    /// The run directory that a job's directory belongs to, and the job's step.
    ///
    /// # Errors
    /// [`StoreError::NotAJob`] if `directory` is not `jobs/<key>` in a run directory, and
    /// [`StoreError::System`].
    pub fn of_job(directory: &Path) -> Result<(Self, Key), StoreError> {
        let path = fs::canonicalize(directory).map_err(system(Action::Inspect, directory))?;
        let no_job = || StoreError::NotAJob {
            path: directory.to_path_buf(),
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let key = name.and_then(|name| name.parse().ok()).ok_or_else(no_job)?;
        let jobs = path.parent().filter(|jobs| jobs.ends_with(JOBS));
        let root = jobs.and_then(Path::parent).ok_or_else(no_job)?;
        Ok((Self::open(root)?, key))
    }

    /// Its absolute path, links followed.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the lock for as long as the result lives. `holder` says to others who has it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] with the text of whoever has it, and [`StoreError::System`].
    pub fn lock(&self, holder: &str) -> Result<Lock, StoreError> {
        Lock::take(&self.lock_path(), &self.root, holder)
    }

    /// What the holder of the lock says of itself; `None` if no coordinator is at work.
    ///
    /// # Errors
    /// [`StoreError::System`].
    pub fn holder(&self) -> Result<Option<String>, StoreError> {
        lock::holder(&self.lock_path())
    }

    /// The journal.
    pub fn journal(&self) -> Journal {
        Journal::new(self.root.join(JOURNAL))
    }

    /// What there is in the place of the receipt of `key`.
    ///
    /// # Errors
    /// [`StoreError::System`] if the system does not let it be read. That it is damaged is
    /// no error.
    pub fn receipt(&self, key: &Key) -> Result<Found, StoreError> {
        let path = self.receipt_path(key);
        match regular::read_unlinked(&path, receipt::MOST_BYTES) {
            Ok(bytes) => Ok(match Receipt::open(&bytes, key) {
                Ok(receipt) => Found::Whole(receipt),
                Err(why) => Found::Damaged { why },
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
            // It is too long, or no regular file.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge
                ) =>
            {
                Ok(Found::Damaged {
                    why: error.to_string(),
                })
            }
            Err(error) => Err(system(Action::Read, &path)(error)),
        }
    }

    /// Holds an artefact against its receipt: its length, then every byte.
    ///
    /// # Errors
    /// [`StoreError::System`] if the system does not let it be read. That it is missing or
    /// damaged is no error.
    pub fn check(&self, artefact: &Artefact) -> Result<ArtefactState, StoreError> {
        artefact::check(&self.path_of(artefact), artefact)
    }

    /// Writes `job.json` of a step, whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::Encode`], [`StoreError::Replace`] and [`StoreError::System`].
    pub fn write_job(&self, key: &Key, job: &impl Serialize) -> Result<(), StoreError> {
        let directory = self.job_directory(key);
        make_directory(&directory)?;
        let path = directory.join(JOB);
        let mut bytes = serde_json::to_vec_pretty(job).map_err(|source| StoreError::Encode {
            path: path.clone(),
            source,
        })?;
        bytes.push(b'\n');
        self.write(&path, &bytes)
    }

    /// The job that `directory` describes, of a type that knows its own version.
    ///
    /// # Errors
    /// [`StoreError::Job`] and [`StoreError::System`].
    pub fn read_job<T: DeserializeOwned>(directory: &Path) -> Result<T, StoreError> {
        let path = directory.join(JOB);
        let read = regular::read_unlinked(&path, TEXT_LIMIT);
        let bytes = read.map_err(system(Action::Read, &path))?;
        serde_json::from_slice(&bytes).map_err(|source| StoreError::Job { path, source })
    }

    /// Replaces a file at the top, such as the recipe or a report: whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::Replace`] and [`StoreError::System`].
    pub fn write_top(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(&self.root.join(name), bytes)
    }

    /// A file that has these bytes already is left alone.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        match regular::read_unlinked(path, TEXT_LIMIT) {
            Ok(found) if found == bytes => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A report may be as long as it is.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {}
            Err(error) => return Err(system(Action::Read, path)(error)),
        }
        let target = Target::for_unlinked_file(path, Existing::Replace)?;
        let file = StagedFile::create(&target, bytes.len() as u64, Durability::Synced)?;
        file.write_at(bytes, 0)?;
        Ok(file.publish()?)
    }

    /// How often the step was begun.
    ///
    /// # Errors
    /// [`StoreError::System`].
    pub fn attempts(&self, key: &Key) -> Result<usize, StoreError> {
        Ok(self.attempt_numbers(key)?.len())
    }

    /// The numbers of the attempts at a step, the first first.
    ///
    /// # Errors
    /// [`StoreError::System`].
    pub fn attempt_numbers(&self, key: &Key) -> Result<Vec<u32>, StoreError> {
        let number = |name: &String| {
            let number: u32 = name.parse().ok()?;
            (number.to_string() == *name).then_some(number)
        };
        let mut numbers: Vec<u32> = names(&self.job_directory(key))?
            .iter()
            .filter_map(number)
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Begins another attempt at a step.
    ///
    /// # Errors
    /// [`StoreError::System`].
    pub fn begin_attempt(&self, key: &Key) -> Result<Attempt, StoreError> {
        Attempt::begin(self, key)
    }

    /// The recipe as run.
    ///
    /// # Errors
    /// What the system says, or that it is no regular file of a sensible length.
    pub fn recipe_text(&self) -> io::Result<String> {
        regular::read_text_unlinked(&self.recipe_path(), TEXT_LIMIT)
    }

    /// Where a file at the top goes that replaces one of the same name. Nobody else's link
    /// leads it out of the directory.
    ///
    /// # Errors
    /// [`StoreError::Replace`] if a link, or anything but a regular file, is there.
    pub fn top_target(&self, name: &str) -> Result<Target, StoreError> {
        let path = self.root.join(name);
        Ok(Target::for_unlinked_file(&path, Existing::Replace)?)
    }
}

/// Makes a directory, unless it is there. A link to one is refused: whoever put it there
/// decides where files go.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(metadata) => {
            let found = FileKind::from(metadata.file_type());
            let text = format!("it is {found}, expected {}", FileKind::Directory);
            let source = io::Error::new(io::ErrorKind::InvalidInput, text);
            Err(system(Action::Inspect, path)(source))
        }
        Err(_) => fs::create_dir_all(path).map_err(system(Action::Create, path)),
    }
}

/// Whether there is a run directory at `path`.
fn is_run(path: &Path) -> bool {
    path.join(RECEIPTS).is_dir()
}

fn not_a_run(path: &Path, found: &str) -> StoreError {
    StoreError::NotARun {
        path: path.to_path_buf(),
        found: found.to_owned(),
    }
}

/// Refuses a directory with something in it that no run put there.
fn refuse_foreign(path: &Path) -> Result<(), StoreError> {
    let is_own = |name: &str| PARTS.contains(&name) || [RECIPE, LOCK, JOURNAL].contains(&name);
    match names(path)?.iter().find(|name| !is_own(name)) {
        None => Ok(()),
        Some(name) => Err(not_a_run(path, &format!("holds `{name}`"))),
    }
}

/// Names in a directory, in their order, none if there is no directory. Names that are no
/// text are shown with replacement characters, and so belong to no step.
fn names(path: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(system(Action::List, path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(system(Action::List, path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Brings the names in a directory to the device.
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    match synced {
        // Some file systems have nothing to sync in a directory.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        result => result.map_err(system(Action::Sync, path)),
    }
}
