//! Several files that appear together, as one directory.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::format::replace::Durability;
use crate::format::replace::FileKind;
use crate::format::replace::ReplaceError;
use crate::format::replace::Target;
use crate::format::replace::draft::Draft;
use crate::format::replace::draft::Request;
use crate::format::replace::draft::Staging;
use crate::format::replace::draft::space_or;
use crate::format::replace::parent::Parent;
use crate::format::replace::sibling::Sibling;
use crate::format::replace::sibling::move_aside;
use crate::format::replace::sibling::sweep;
use crate::format::replace::target::Predecessor;
use crate::format::replace::target::is_plain;
use crate::format::replace::target::kind;

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// How an old directory makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swap {
    /// In one step, or as below where the file system cannot.
    Exchange,
    /// In two renames.
    #[cfg_attr(not(test), expect(dead_code, reason = "asked for by tests only"))]
    MoveAside,
}

/// A directory of files that get their names together. Dropped unpublished, it
/// leaves nothing.
///
/// Each file holds a descriptor until then, so `ulimit -n` bounds their number.
#[derive(Debug)]
pub struct StagedDirectory {
    target: Target,
    names: BTreeSet<String>,
    drafts: Mutex<BTreeMap<String, Arc<Draft>>>,
    durability: Durability,
    staging: Staging,
}

/// One file of a [`StagedDirectory`], which cannot be published while a thread
/// may still write to it.
#[derive(Clone, Debug)]
pub struct StagedEntry<'directory> {
    draft: Arc<Draft>,
    directory: PhantomData<&'directory StagedDirectory>,
}

impl StagedEntry<'_> {
    /// Writes all of `bytes` at `offset`. Threads may write at the same time.
    ///
    /// # Errors
    /// As for [`StagedFile::write_at`](crate::format::replace::StagedFile::write_at).
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), ReplaceError> {
        self.draft.write_at(bytes, offset)
    }
}

impl StagedDirectory {
    /// A directory that will hold exactly the files `names`.
    ///
    /// They are asked for at once, because they decide whether an existing
    /// directory may be replaced: it must hold nothing but files with these
    /// names, `*.safetensors` and `*.safetensors.index.json`.
    ///
    /// # Errors
    /// [`ReplaceError::EntryName`] if a name is no plain file name,
    /// [`ReplaceError::Foreign`] if the directory to be replaced holds anything
    /// else, [`ReplaceError::ReadOnly`] if it may not be written, and
    /// [`ReplaceError::Parent`] if it cannot be listed.
    pub fn create<'a>(
        target: &Target,
        names: impl IntoIterator<Item = &'a str>,
        durability: Durability,
    ) -> Result<Self, ReplaceError> {
        Self::create_as(target, names, durability, Staging::Unnamed)
    }

    pub(super) fn create_as<'a>(
        target: &Target,
        names: impl IntoIterator<Item = &'a str>,
        durability: Durability,
        staging: Staging,
    ) -> Result<Self, ReplaceError> {
        let names: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
        if let Some(name) = names
            .iter()
            .find(|name| !is_plain(OsStr::new(name.as_str())))
        {
            return Err(ReplaceError::EntryName { name: name.clone() });
        }
        let directory = Self {
            target: target.clone(),
            names,
            drafts: Mutex::default(),
            durability,
            staging,
        };
        if target.predecessor.is_some() {
            directory.check_replaceable()?;
        }
        sweep(&target.parent, &target.name);
        Ok(directory)
    }

    /// A file of `bytes` zeros that will have this name in the directory.
    ///
    /// # Errors
    /// [`ReplaceError::Undeclared`], [`ReplaceError::Duplicate`], and as for
    /// [`StagedFile::create`](crate::format::replace::StagedFile::create).
    pub fn file(&self, name: &str, bytes: u64) -> Result<StagedEntry<'_>, ReplaceError> {
        let path = || self.target.path().to_path_buf();
        if !self.names.contains(name) {
            return Err(ReplaceError::Undeclared {
                path: path(),
                name: name.to_owned(),
            });
        }
        let mut drafts = self.drafts.lock().unwrap_or_else(PoisonError::into_inner);
        if drafts.contains_key(name) {
            return Err(ReplaceError::Duplicate {
                path: path(),
                name: name.to_owned(),
            });
        }
        let draft = Arc::new(Draft::create(Request {
            parent: self.target.parent.clone(),
            output: self.target.name.clone(),
            path: path().join(name),
            bytes,
            predecessor: self.predecessor_of(OsStr::new(name)),
            staging: self.staging,
        })?);
        drafts.insert(name.to_owned(), Arc::clone(&draft));
        Ok(StagedEntry {
            draft,
            directory: PhantomData,
        })
    }

    /// Copies the file at `from` to the directory; its mode stays behind.
    ///
    /// # Errors
    /// [`ReplaceError::WrongKind`] if it is no regular file,
    /// [`ReplaceError::Copy`], [`ReplaceError::CopyLength`], and as for
    /// [`StagedDirectory::file`] and [`StagedEntry::write_at`].
    pub fn copy_in(&self, name: &str, from: &Path) -> Result<(), ReplaceError> {
        let failed = |source| ReplaceError::Copy {
            path: from.to_path_buf(),
            source,
        };
        let require_file = |metadata: &std::fs::Metadata| match metadata.file_type().into() {
            FileKind::File => Ok(()),
            found => {
                let expected = FileKind::File;
                Err(ReplaceError::WrongKind {
                    path: from.to_path_buf(),
                    expected,
                    found,
                })
            }
        };
        require_file(&std::fs::metadata(from).map_err(failed)?)?;
        let mut file: File = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(from)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        require_file(&metadata)?;
        let expected = metadata.len();
        let entry = self.file(name, expected)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut found = 0;
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            if found + count as u64 > expected {
                found += count as u64;
                break;
            }
            entry.write_at(&buffer[..count], found)?;
            found += count as u64;
        }
        if found != expected {
            return Err(ReplaceError::CopyLength {
                path: from.to_path_buf(),
                expected,
                found,
            });
        }
        Ok(())
    }

    /// Puts the directory in its place.
    ///
    /// # Errors
    /// [`ReplaceError::Unstaged`] if a file is missing,
    /// [`ReplaceError::Appeared`] if the place was empty and no longer is,
    /// [`ReplaceError::Foreign`] if a foreign file has appeared in the old
    /// directory, [`ReplaceError::Sync`], [`ReplaceError::NoSpace`] and
    /// [`ReplaceError::Publish`]; after all of these the place holds what it
    /// held. After [`ReplaceError::SyncParent`] and [`ReplaceError::Leftover`]
    /// it holds the new directory.
    pub fn publish(self) -> Result<(), ReplaceError> {
        self.publish_as(Swap::Exchange)
    }

    pub(super) fn publish_as(mut self, swap: Swap) -> Result<(), ReplaceError> {
        let synced = self.durability == Durability::Synced;
        let drafts = std::mem::take(
            self.drafts
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if let Some(name) = self.names.iter().find(|&name| !drafts.contains_key(name)) {
            let path = self.target.path().to_path_buf();
            return Err(ReplaceError::Unstaged {
                path,
                name: name.clone(),
            });
        }
        if self.target.predecessor.is_some() {
            self.check_replaceable()?;
        }
        for draft in drafts.values() {
            draft.finish(synced)?;
        }
        let mode = match self.target.predecessor {
            Some(_) => Mode::RWXU,
            None => Mode::from_raw_mode(0o777),
        };
        let target = &self.target;
        let (directory, sibling) = Sibling::create_directory(&target.parent, &target.name, mode)
            .map_err(|source| self.unpublished(source))?;
        for (name, draft) in &drafts {
            draft.place(&directory, OsStr::new(name))?;
        }
        if let Some(predecessor) = target.predecessor {
            predecessor
                .bequeath(&directory.fd)
                .map_err(|source| self.unpublished(source))?;
        }
        if synced {
            match rustix::fs::fsync(&directory.fd) {
                Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(source) => {
                    let path = target.path().to_path_buf();
                    return Err(ReplaceError::Sync {
                        path,
                        source: source.into(),
                    });
                }
            }
        }
        let old = match target.predecessor {
            None => self.place(&sibling).map(|()| None)?,
            Some(_) => self.replace(sibling, swap)?,
        };
        self.settle(&directory, old)
    }

    /// Syncs the name and removes the old directory: after that order no power
    /// cut leaves neither.
    fn settle(&self, new: &Parent, old: Option<Sibling>) -> Result<(), ReplaceError> {
        let path = || self.target.path().to_path_buf();
        let parent = &self.target.parent;
        let synced = match self.durability {
            Durability::Unsynced => Ok(()),
            Durability::Synced => parent.sync().or_else(|_| Ok(rustix::fs::syncfs(&new.fd)?)),
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
    fn place(&self, sibling: &Sibling) -> Result<(), ReplaceError> {
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
    fn replace(&self, sibling: Sibling, swap: Swap) -> Result<Option<Sibling>, ReplaceError> {
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
    fn check_replaceable(&self) -> Result<(), ReplaceError> {
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
        for entry in directory.names().map_err(failed)? {
            let kind = directory.stat(&entry).map_err(failed)?.as_ref().map(kind);
            let is_file = matches!(kind, None | Some(FileKind::File | FileKind::Link));
            if !is_file || !self.is_expected(&entry) {
                return Err(ReplaceError::Foreign {
                    path: path.join(entry),
                });
            }
        }
        Ok(())
    }

    fn is_expected(&self, name: &OsStr) -> bool {
        let bytes = name.as_bytes();
        bytes.ends_with(b".safetensors")
            || bytes.ends_with(b".safetensors.index.json")
            || name.to_str().is_some_and(|name| self.names.contains(name))
    }

    /// The file of the old directory whose permissions the new one keeps.
    fn predecessor_of(&self, name: &OsStr) -> Option<Predecessor> {
        self.target.predecessor?;
        let old = self.target.parent.child(&self.target.name).ok()?;
        let stat = old.stat(name).ok()??;
        (kind(&stat) == FileKind::File).then(|| Predecessor::new(&stat))
    }

    fn unpublished(&self, source: Errno) -> ReplaceError {
        let Target { parent, .. } = &self.target;
        let path = self.target.path();
        let failed = |source| ReplaceError::Publish {
            path: path.to_path_buf(),
            source,
        };
        space_or(parent, path, 0, source.into(), failed)
    }

    fn stranded(&self, old: &Sibling, source: Errno) -> ReplaceError {
        ReplaceError::Stranded {
            path: self.target.path().to_path_buf(),
            leftover: self.target.parent.path.join(&old.name),
            source: source.into(),
        }
    }
}
