//! Where things lie in a run directory. Names walk in, paths walk out; no file is looked at.

use std::path::PathBuf;

use super::ARTEFACTS;
use super::Artefact;
use super::DAMAGED;
use super::JOBS;
use super::Key;
use super::LOCK;
use super::RECEIPTS;
use super::RECIPE;
use super::RunDirectory;

impl RunDirectory {
    /// Where the recipe is.
    pub fn recipe_path(&self) -> PathBuf {
        self.root.join(RECIPE)
    }

    /// Where the lock is.
    pub fn lock_path(&self) -> PathBuf {
        self.root.join(LOCK)
    }

    /// Where the receipts are.
    pub fn receipts(&self) -> PathBuf {
        self.root.join(RECEIPTS)
    }

    /// Where the receipt of a step is.
    pub fn receipt_path(&self, key: &Key) -> PathBuf {
        self.receipts().join(format!("{key}.json"))
    }

    /// Where the artefacts are.
    pub fn artefacts(&self) -> PathBuf {
        self.root.join(ARTEFACTS)
    }

    /// Where an artefact is.
    pub fn path_of(&self, artefact: &Artefact) -> PathBuf {
        self.artefacts().join(&artefact.file)
    }

    /// Where the jobs are.
    pub fn jobs(&self) -> PathBuf {
        self.root.join(JOBS)
    }

    /// Where a step is worked at.
    pub fn job_directory(&self, key: &Key) -> PathBuf {
        self.jobs().join(key.as_str())
    }

    /// Where an attempt at a step is worked at.
    pub fn attempt_directory(&self, key: &Key, attempt: u32) -> PathBuf {
        self.job_directory(key).join(attempt.to_string())
    }

    /// Where damaged files are moved.
    pub fn damaged(&self) -> PathBuf {
        self.root.join(DAMAGED)
    }
}
