//! How a finished directory takes its name, and an old one makes room.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::AtFlags;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::format::replace::Durability;
use crate::format::replace::FileKind;
use crate::format::replace::ReplaceError;
use crate::format::replace::StagedDirectory;
use crate::format::replace::Target;
use crate::format::replace::nested::MOST_DEPTH;
use crate::format::replace::parent::Parent;
use crate::format::replace::sibling::Sibling;
use crate::format::replace::sibling::move_aside;
use crate::format::replace::target::kind;

/// How an old directory makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swap {
    /// In one step, or as below where the file system cannot.
    Exchange,
    /// In two renames.
    #[cfg_attr(not(test), expect(dead_code, reason = "asked for by tests only"))]
    MoveAside,
}

impl StagedDirectory {
    /// Syncs the name and removes the old directory: after that order no power
    /// cut leaves neither.
    pub(super) fn settle(&self, new: &Parent, old: Option<Sibling>) -> Result<(), ReplaceError> {
        let path = || self.target.path().to_path_buf();
        let parent = &self.target.parent;
        let synced = match self.durability {
            Durability::Unsynced => Ok(()),
            Durability::Synced => parent.sync(&new.fd),
        };
        if let Some(old) = old {
            old.remove().map_err(|source| ReplaceError::Leftover {
                path: path(),
                leftover: parent.path.join(&old.name),
                source: source.into(),
            })?;
        }
        synced.map_err(|source| ReplaceError::SyncParent {
            path: path(),
            source,
        })
    }

    /// Gives the finished directory a name that nothing has.
    pub(super) fn place(&self, sibling: &Sibling) -> Result<(), ReplaceError> {
        let fd = &self.target.parent.fd;
        let (from, to) = (&sibling.name, &self.target.name);
        let appeared = || ReplaceError::Appeared {
            path: self.target.path().to_path_buf(),
        };
        let result = match rustix::fs::renameat_with(fd, from, fd, to, RenameFlags::NOREPLACE) {
            // The file system cannot refuse: look, then rename, which refuses
            // everything but an empty directory by itself.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                match self.target.parent.stat(to) {
                    Ok(Some(_)) => return Err(appeared()),
                    _ => rustix::fs::renameat(fd, from, fd, to),
                }
            }
            result => result,
        };
        match result {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => Err(appeared()),
            Err(source) => Err(self.unpublished(source)),
            Ok(()) => {
                sibling.disarm();
                Ok(())
            }
        }
    }

    /// Gives the finished directory the name of an old one, which is returned
    /// under a name of its own.
    pub(super) fn replace(
        &self,
        sibling: Sibling,
        swap: Swap,
    ) -> Result<Option<Sibling>, ReplaceError> {
        let fd = &self.target.parent.fd;
        let (from, to) = (&sibling.name, &self.target.name);
        let exchange = || rustix::fs::renameat_with(fd, from, fd, to, RenameFlags::EXCHANGE);
        let result = match swap {
            Swap::Exchange => exchange(),
            Swap::MoveAside => Err(Errno::NOSYS),
        };
        match result {
            Ok(()) => {}
            Err(Errno::NOENT) => return self.place(&sibling).map(|()| None),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return self.replace_in_two_steps(&sibling).map(Some);
            }
            Err(source) => return Err(self.unpublished(source)),
        }
        // Only now can nothing new come in by the old directory's path.
        if let Err(error) = self.check_holds_checkpoint(from) {
            return match exchange() {
                Ok(()) => Err(error),
                Err(source) => {
                    sibling.disarm();
                    Err(self.stranded(&sibling, source))
                }
            };
        }
        Ok(Some(sibling))
    }

    fn replace_in_two_steps(&self, sibling: &Sibling) -> Result<Sibling, ReplaceError> {
        let parent = &self.target.parent;
        let old =
            move_aside(parent, &self.target.name).map_err(|source| self.unpublished(source))?;
        let result = self
            .check_holds_checkpoint(&old.name)
            .and_then(|()| self.place(sibling));
        let Err(error) = result else {
            return Ok(old);
        };
        match rustix::fs::renameat(&parent.fd, &old.name, &parent.fd, &self.target.name) {
            Ok(()) => Err(error),
            Err(source) => Err(self.stranded(&old, source)),
        }
    }

    /// Refuses to replace a directory that is read-only or holds foreign files.
    pub(super) fn check_replaceable(&self) -> Result<(), ReplaceError> {
        let Target { parent, name, .. } = &self.target;
        self.check_holds_checkpoint(name)?;
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        match rustix::fs::accessat(&parent.fd, name, access, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => {
                let path = self.target.path().to_path_buf();
                Err(ReplaceError::ReadOnly {
                    path,
                    source: source.into(),
                })
            }
        }
    }

    /// Agrees that the directory called `name` holds nothing but what the new
    /// one also has, or what a checkpoint consists of. A missing one agrees.
    fn check_holds_checkpoint(&self, name: &OsStr) -> Result<(), ReplaceError> {
        let path = self.target.path();
        let failed = |source: Errno| ReplaceError::Parent {
            path: path.to_path_buf(),
            source: source.into(),
        };
        let directory = match self.target.parent.child(name) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(()),
            Err(source) => return Err(failed(source)),
        };
        self.check_folder(&directory, "", MOST_DEPTH)
    }

    /// The same of a folder of it, whose name ends in a slash unless it is empty.
    fn check_folder(&self, folder: &Parent, name: &str, depth: usize) -> Result<(), ReplaceError> {
        let path = self.target.path();
        let failed = |source: Errno| ReplaceError::Parent {
            path: path.to_path_buf(),
            source: source.into(),
        };
        for entry in folder.names().map_err(failed)? {
            let foreign = || ReplaceError::Foreign {
                path: path.join(name).join(&entry),
            };
            if self.target.must_be_empty {
                return Err(ReplaceError::Appeared {
                    path: path.join(name).join(&entry),
                });
            }
            let kind = folder.stat(&entry).map_err(failed)?.as_ref().map(kind);
            match kind {
                None | Some(FileKind::File | FileKind::Link) => {
                    if !self.is_expected(name, &entry) {
                        return Err(foreign());
                    }
                }
                Some(FileKind::Directory) if depth > 0 => {
                    let inner = entry.to_str().map(|entry| format!("{name}{entry}/"));
                    let inner = inner.filter(|inner| self.has_names_in(inner));
                    let inner = inner.ok_or_else(foreign)?;
                    let child = folder.child(&entry).map_err(failed)?;
                    self.check_folder(&child, &inner, depth - 1)?;
                }
                Some(_) => return Err(foreign()),
            }
        }
        Ok(())
    }

    fn is_expected(&self, folder: &str, name: &OsStr) -> bool {
        let bytes = name.as_bytes();
        let is_index = || {
            let text = name.to_str().unwrap_or_default();
            text.contains(".safetensors.index.") && text.ends_with(".json")
        };
        let is_weights = || bytes.ends_with(b".safetensors") || is_index();
        let is_named = || {
            let name = name.to_str().map(|name| format!("{folder}{name}"));
            name.is_some_and(|name| self.names.contains(&name))
        };
        (folder.is_empty() && is_weights()) || is_named()
    }

    /// Whether the new directory has files in this folder.
    fn has_names_in(&self, folder: &str) -> bool {
        let from = self.names.range(folder.to_owned()..);
        from.take(1).any(|name| name.starts_with(folder))
    }

    fn stranded(&self, old: &Sibling, source: Errno) -> ReplaceError {
        ReplaceError::Stranded {
            path: self.target.path().to_path_buf(),
            leftover: self.target.parent.path.join(&old.name),
            source: source.into(),
        }
    }
}
