//! An old output that leaves its place before the new one comes, because another output
//! that goes with it is replaced first.

use rustix::io::Errno;

use crate::format::replace::Durability;
use crate::format::replace::ReplaceError;
use crate::format::replace::Target;
use crate::format::replace::sibling::Sibling;
use crate::format::replace::sibling::move_aside;
use crate::format::replace::sibling::sweep;

/// What was in a place, under a temporary name.
#[derive(Debug)]
pub struct Retired {
    target: Target,
    old: Option<Sibling>,
}

impl Target {
    /// Moves what is in this place to a temporary name, from where it is put back or
    /// removed.
    ///
    /// # Errors
    /// [`ReplaceError::Publish`] and [`ReplaceError::SyncParent`]; after the first the place
    /// holds what it held.
    pub fn retire(&self, durability: Durability) -> Result<Retired, ReplaceError> {
        let path = || self.path().to_path_buf();
        let mut retired = Retired {
            target: self.clone(),
            old: None,
        };
        if self.predecessor.is_none() {
            return Ok(retired);
        }
        match move_aside(&self.parent, &self.name) {
            Ok(old) => retired.old = Some(old),
            Err(Errno::NOENT) => {}
            Err(source) => {
                let source = source.into();
                return Err(ReplaceError::Publish {
                    path: path(),
                    source,
                });
            }
        }
        if durability == Durability::Synced
            && let Err(source) = self.parent.sync(&self.parent.fd)
        {
            retired.restore()?;
            return Err(ReplaceError::SyncParent {
                path: path(),
                source,
            });
        }
        Ok(retired)
    }
}

impl Retired {
    /// Puts it back.
    ///
    /// # Errors
    /// [`ReplaceError::Stranded`].
    pub fn restore(self) -> Result<(), ReplaceError> {
        let parent = &self.target.parent;
        let Some(old) = &self.old else { return Ok(()) };
        let back = rustix::fs::renameat(&parent.fd, &old.name, &parent.fd, &self.target.name);
        back.map_err(|source| self.stranded(source.into()))
    }

    /// Removes it, because its successor is in place.
    ///
    /// # Errors
    /// [`ReplaceError::Leftover`].
    pub fn remove(self) -> Result<(), ReplaceError> {
        if let Some(old) = &self.old {
            old.remove().map_err(|source| ReplaceError::Leftover {
                path: self.target.path().to_path_buf(),
                leftover: self.target.parent.path.join(&old.name),
                source: source.into(),
            })?;
        }
        // A killed run may have left one too, which nothing missed until now.
        sweep(&self.target.parent, &self.target.name);
        Ok(())
    }

    /// What is said of it where its successor did not take its place and it must not.
    pub fn strand(self, why: ReplaceError) -> ReplaceError {
        match self.old {
            None => why,
            Some(_) => self.stranded(std::io::Error::other(why)),
        }
    }

    fn stranded(&self, source: std::io::Error) -> ReplaceError {
        let parent = &self.target.parent.path;
        let leftover = self.old.as_ref().map(|old| parent.join(&old.name));
        ReplaceError::Stranded {
            path: self.target.path().to_path_buf(),
            leftover: leftover.unwrap_or_default(),
            source,
        }
    }
}
