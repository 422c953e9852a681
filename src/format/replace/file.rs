//! One output file, staged and published.

use crate::format::replace::Durability;
use crate::format::replace::ReplaceError;
use crate::format::replace::Target;
use crate::format::replace::draft::Draft;
use crate::format::replace::draft::Request;
use crate::format::replace::draft::Staging;
use crate::format::replace::sibling::sweep;

/// A file of known length that gets its name when it is complete. Dropped
/// unpublished, it leaves nothing.
#[derive(Debug)]
pub struct StagedFile {
    target: Target,
    draft: Draft,
    durability: Durability,
}

impl StagedFile {
    /// A file of `bytes` zeros, its space reserved where the file system can.
    ///
    /// Removes what a killed run for the same output left behind.
    ///
    /// # Errors
    /// [`ReplaceError::NoSpace`], [`ReplaceError::TooLarge`] and
    /// [`ReplaceError::Create`].
    pub fn create(
        target: &Target,
        bytes: u64,
        durability: Durability,
    ) -> Result<Self, ReplaceError> {
        Self::create_as(target, bytes, durability, Staging::Unnamed)
    }

    pub(super) fn create_as(
        target: &Target,
        bytes: u64,
        durability: Durability,
        staging: Staging,
    ) -> Result<Self, ReplaceError> {
        sweep(&target.parent, &target.name);
        let draft = Draft::create(Request {
            parent: target.parent.clone(),
            output: target.name.clone(),
            path: target.path().to_path_buf(),
            bytes,
            predecessor: target.predecessor,
            staging,
        })?;
        Ok(Self {
            target: target.clone(),
            draft,
            durability,
        })
    }

    /// Writes all of `bytes` at `offset`. Threads may write at the same time.
    ///
    /// `bytes` may be mapped from a file that is being truncated; then zeros
    /// may be written, and the mapping's own check says so.
    ///
    /// # Errors
    /// [`ReplaceError::Beyond`], [`ReplaceError::NoSpace`],
    /// [`ReplaceError::TooLarge`] and [`ReplaceError::Write`].
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), ReplaceError> {
        self.draft.write_at(bytes, offset)
    }

    /// Length.
    pub fn bytes(&self) -> u64 {
        self.draft.bytes()
    }

    /// Fills `buffer` with what has been written from `offset`.
    ///
    /// # Errors
    /// [`ReplaceError::ReadBack`].
    pub fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReplaceError> {
        self.draft.read_into(offset, buffer)
    }

    /// Puts the file in its place. Bytes never written are zeros.
    ///
    /// # Errors
    /// [`ReplaceError::Appeared`] if the place was empty and no longer is,
    /// whatever [`Existing`](crate::format::replace::Existing) says: what was
    /// not there was not agreed to be replaced. [`ReplaceError::WrongKind`],
    /// [`ReplaceError::Sync`], [`ReplaceError::NoSpace`] and
    /// [`ReplaceError::Publish`]; after all of these the place holds what it
    /// held. After [`ReplaceError::SyncParent`] it holds the new file.
    pub fn publish(self) -> Result<(), ReplaceError> {
        let synced = self.durability == Durability::Synced;
        self.draft.finish(synced)?;
        match self.target.predecessor {
            None => self.draft.place(&self.target.parent, &self.target.name)?,
            Some(_) => self.draft.replace(&self.target.name)?,
        }
        if synced {
            let path = self.target.path().to_path_buf();
            self.draft
                .sync_parent()
                .map_err(|source| ReplaceError::SyncParent { path, source })?;
        }
        Ok(())
    }
}
