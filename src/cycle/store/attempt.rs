//! One attempt at a step: a number of its own walks in, the one receipt of the step walks
//! out.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::cycle::store::FORMAT_VERSION;
use crate::cycle::store::Found;
use crate::cycle::store::Key;
use crate::cycle::store::Receipt;
use crate::cycle::store::RunDirectory;
use crate::cycle::store::artefact;
use crate::cycle::store::error::Action;
use crate::cycle::store::error::StoreError;
use crate::cycle::store::error::system;
use crate::cycle::store::lock;
use crate::cycle::store::make_directory;
use crate::cycle::store::names;
use crate::cycle::store::probe::give_name;
use crate::cycle::store::probe::unnamed;
use crate::cycle::store::sync_directory;
use crate::format::regular::open_unlinked;

/// Names in the directory of an attempt.
const LOCK: &str = "lock";
const LOG: &str = "log.txt";
const SCRATCH: &str = "scratch";
const UNPUBLISHED: &str = "receipt.json";

/// How often a receipt may vanish between being found in the way and being read.
const TRIES: usize = 10;

/// An attempt at a step, alive until it is dropped. Dropped unpublished, it removes its
/// artefacts.
#[derive(Debug)]
pub struct Attempt {
    run: RunDirectory,
    key: Key,
    number: u32,
    /// Locked while the attempt lives, where the file system can lock.
    alive: File,
    is_armed: bool,
}

/// What an attempt has to show.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The step for people.
    pub label: String,
    /// What kind of step it is.
    pub kind: String,
    /// The files that it made, by their roles: paths from [`Attempt::artefact`].
    pub outputs: BTreeMap<String, PathBuf>,
    /// What was measured.
    pub metrics: Value,
    /// Seconds that the attempt took.
    pub elapsed_secs: f64,
}

/// The step is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Its receipt, from now on the only one.
    pub receipt: Receipt,
    /// Whether this attempt did it, or another one that was first.
    pub is_ours: bool,
}

impl Attempt {
    pub(super) fn begin(run: &RunDirectory, key: &Key) -> Result<Self, StoreError> {
        let job = run.job_directory(key);
        make_directory(&job)?;
        let mut number = last_number(run, key)?.saturating_add(1);
        loop {
            let directory = run.attempt_directory(key, number);
            match fs::create_dir(&directory) {
                Ok(()) => break,
                // Somebody else took the number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number = number.saturating_add(1);
                }
                Err(error) => return Err(system(Action::Create, &directory)(error)),
            }
        }
        let directory = run.attempt_directory(key, number);
        let path = directory.join(LOCK);
        let alive = File::create_new(&path).map_err(system(Action::Create, &path))?;
        // Waits for nobody but a coordinator that looks whether it is locked. Where locks
        // are not possible nobody else can lock it either, and so nobody removes anything.
        let _ = lock::wait_for(&alive);
        let attempt = Self {
            run: run.clone(),
            key: key.clone(),
            number,
            alive,
            is_armed: true,
        };
        let scratch = attempt.scratch();
        fs::create_dir(&scratch).map_err(system(Action::Create, &scratch))?;
        Ok(attempt)
    }

    /// The step.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Which attempt at the step it is, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Where it is worked at.
    pub fn directory(&self) -> PathBuf {
        self.run.attempt_directory(&self.key, self.number)
    }

    /// Where its log belongs.
    pub fn log(&self) -> PathBuf {
        self.directory().join(LOG)
    }

    /// A directory for files that nobody needs after the attempt. It goes when the attempt
    /// is published; of an attempt that failed it stays until the next clearing up.
    pub fn scratch(&self) -> PathBuf {
        self.directory().join(SCRATCH)
    }

    /// A path among the artefacts that belongs to this attempt alone:
    /// `artefacts/<key>-<number>.<name>.<extension>`.
    pub fn artefact(&self, name: &str, extension: &str) -> PathBuf {
        let prefix = artefact::prefix(&self.key, self.number);
        self.run
            .artefacts()
            .join(format!("{prefix}{name}.{extension}"))
    }

    /// Publishes the receipt of the step, unless there is one already.
    ///
    /// Digests and syncs the outputs first. If somebody else was first, removes this
    /// attempt's artefacts, checks theirs, and returns their receipt.
    ///
    /// # Errors
    /// [`StoreError::Foreign`], [`StoreError::NoFile`] and [`StoreError::Unsealable`] if the
    /// draft cannot become a receipt; [`StoreError::DamagedWinner`] if the receipt that is
    /// there, or an artefact of it, is damaged; [`StoreError::NoLinks`],
    /// [`StoreError::Unstable`] and [`StoreError::System`].
    pub fn publish(mut self, draft: Draft) -> Result<Published, StoreError> {
        let receipt = self.receipt(draft)?;
        let unpublished = self.write_receipt(&receipt)?;
        sync_directory(&self.run.artefacts())?;
        let published = self.link(&unpublished, receipt)?;
        // The receipt has its name; what is left over here bothers nobody.
        let _ = fs::remove_file(&unpublished);
        let _ = fs::remove_dir_all(self.scratch());
        Ok(published)
    }

    fn receipt(&self, draft: Draft) -> Result<Receipt, StoreError> {
        let mut outputs = BTreeMap::new();
        for (role, path) in draft.outputs {
            let name = self.own_name(&path)?;
            outputs.insert(role, artefact::seal(&path, name)?);
        }
        Ok(Receipt {
            format_version: FORMAT_VERSION,
            key: self.key.clone(),
            label: draft.label,
            kind: draft.kind,
            outputs,
            metrics: draft.metrics,
            attempt: self.number,
            elapsed_secs: draft.elapsed_secs,
        })
    }

    /// The name of an artefact, if it is one of this attempt.
    fn own_name(&self, path: &Path) -> Result<String, StoreError> {
        let artefacts = self.run.artefacts();
        let prefix = artefact::prefix(&self.key, self.number);
        let name = path.file_name().and_then(|name| name.to_str());
        match name.filter(|name| name.starts_with(&prefix)) {
            Some(name) if path.parent() == Some(&artefacts) => Ok(name.to_owned()),
            _ => Err(StoreError::Foreign {
                path: path.to_path_buf(),
                expected: artefacts.join(prefix).display().to_string(),
            }),
        }
    }

    /// Writes and syncs the receipt, under a name that nobody looks at.
    fn write_receipt(&self, receipt: &Receipt) -> Result<PathBuf, StoreError> {
        let path = self.directory().join(UNPUBLISHED);
        let text = receipt.seal().map_err(|source| StoreError::Encode {
            path: path.clone(),
            source,
        })?;
        // Numbers that JSON cannot say become null, which is not what was meant.
        let why = match Receipt::open(text.as_bytes(), &self.key) {
            Ok(read) if read == *receipt => None,
            Ok(_) => Some("it reads differently".to_owned()),
            Err(why) => Some(why),
        };
        if let Some(why) = why {
            return Err(StoreError::Unsealable { path, why });
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(system(Action::Create, &path))?;
        file.write_all(text.as_bytes())
            .map_err(system(Action::Write, &path))?;
        file.sync_all().map_err(system(Action::Sync, &path))?;
        Ok(path)
    }

    /// Gives the receipt its name, or finds whose receipt has it.
    fn link(&mut self, unpublished: &Path, receipt: Receipt) -> Result<Published, StoreError> {
        let path = self.run.receipt_path(&self.key);
        for _ in 0..TRIES {
            // From here on a receipt may name the artefacts, even if the system reports a
            // failure: what a network file system says twice fails the second time.
            self.is_armed = false;
            match give_name(unpublished, &path) {
                Ok(()) => {
                    sync_directory(&self.run.receipts())?;
                    return Ok(Published {
                        receipt,
                        is_ours: true,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(unnamed(&path, error)),
            }
            match self.run.receipt(&self.key)? {
                Found::Missing => {}
                Found::Damaged { why } => return Err(StoreError::DamagedWinner { path, why }),
                Found::Whole(winner) if winner.attempt == self.number => {
                    sync_directory(&self.run.receipts())?;
                    return Ok(Published {
                        receipt: winner,
                        is_ours: true,
                    });
                }
                Found::Whole(winner) => {
                    self.is_armed = true;
                    self.check_winner(&winner)?;
                    return Ok(Published {
                        receipt: winner,
                        is_ours: false,
                    });
                }
            }
        }
        Err(StoreError::Unstable { path })
    }

    fn check_winner(&self, winner: &Receipt) -> Result<(), StoreError> {
        for artefact in winner.outputs.values() {
            if let Some(why) = self.run.check(artefact)?.fault() {
                return Err(StoreError::DamagedWinner {
                    path: self.run.path_of(artefact),
                    why,
                });
            }
        }
        Ok(())
    }

    /// Removes everything that this attempt made among the artefacts.
    fn remove_artefacts(&self) -> Result<(), StoreError> {
        let prefix = artefact::prefix(&self.key, self.number);
        let artefacts = self.run.artefacts();
        for name in names(&artefacts)? {
            if name.starts_with(&prefix) {
                let path = artefacts.join(name);
                fs::remove_file(&path).map_err(system(Action::Remove, &path))?;
            }
        }
        Ok(())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_armed {
            // What stays is removed when a coordinator clears up.
            let _ = self.remove_artefacts();
        }
        lock::free(&self.alive);
    }
}

/// The largest number that an attempt at the step has, or left in the name of an artefact.
fn last_number(run: &RunDirectory, key: &Key) -> Result<u32, StoreError> {
    let made = names(&run.artefacts())?
        .iter()
        .filter_map(|name| artefact::maker(name))
        .filter(|(maker, _)| maker == key)
        .map(|(_, number)| number)
        .max();
    let begun = run.attempt_numbers(key)?.last().copied();
    Ok(made.max(begun).unwrap_or(0))
}

/// Whether the process that makes an attempt is surely dead.
pub(super) fn is_dead(run: &RunDirectory, key: &Key, attempt: u32) -> bool {
    let path = run.attempt_directory(key, attempt).join(LOCK);
    match open_unlinked(OpenOptions::new().write(true), &path) {
        Ok(file) => lock::is_free(&file),
        // An attempt makes its lock before anything else, so somebody took it away.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Where an attempt has its scratch files.
pub(super) fn scratch(run: &RunDirectory, key: &Key, attempt: u32) -> PathBuf {
    run.attempt_directory(key, attempt).join(SCRATCH)
}
