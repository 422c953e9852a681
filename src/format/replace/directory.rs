//! Several files that appear together, as one directory.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::format::replace::Durability;
use crate::format::replace::FileKind;
use crate::format::replace::ReplaceError;
use crate::format::replace::Target;
use crate::format::replace::draft::Draft;
use crate::format::replace::draft::Request;
use crate::format::replace::draft::Staging;
use crate::format::replace::draft::space_or;
use crate::format::replace::nested::Folders;
use crate::format::replace::nested::is_plain_path;
use crate::format::replace::nested::parts;
use crate::format::replace::parent::Parent;
use crate::format::replace::sibling::Sibling;
use crate::format::replace::sibling::sweep;
use crate::format::replace::swap::Swap;
use crate::format::replace::target::Predecessor;
use crate::format::replace::target::kind;

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// A directory of files that get their names together. Dropped unpublished, it
/// leaves nothing.
///
/// Each file holds a descriptor until then, so `ulimit -n` bounds their number.
#[derive(Debug)]
pub struct StagedDirectory {
    pub(super) target: Target,
    pub(super) names: BTreeSet<String>,
    drafts: Mutex<BTreeMap<String, Arc<Draft>>>,
    pub(super) durability: Durability,
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
    /// A directory that will hold exactly the files `names`; those with slashes in them
    /// lie in folders of it.
    ///
    /// They are asked for at once, because they decide whether an existing
    /// directory may be replaced: it must hold nothing but files with these
    /// names, `*.safetensors` and their indices. One that may not be replaced must be
    /// empty, and still be so when the new one takes its place.
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
        if let Some(name) = names.iter().find(|name| !is_plain_path(name)) {
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
            predecessor: self.predecessor_of(name),
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
        self.copy_open(name, &mut file, (from, metadata.len()))
    }

    /// Copies an open file of a known length to the directory; `from` is its path in
    /// messages.
    ///
    /// # Errors
    /// As for [`copy_in`](Self::copy_in).
    pub fn copy_open(
        &self,
        name: &str,
        file: &mut File,
        (from, expected): (&Path, u64),
    ) -> Result<(), ReplaceError> {
        let failed = |source| ReplaceError::Copy {
            path: from.to_path_buf(),
            source,
        };
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
        let mut folders = Folders::new(&directory, mode);
        for (name, draft) in &drafts {
            let (folder, name) = parts(name);
            let folder = folders
                .of(folder)
                .map_err(|source| self.unpublished(source))?;
            draft.place(folder, OsStr::new(name))?;
        }
        for folder in folders.deepest_first() {
            self.finish_folder(folder, synced)?;
        }
        let old = match target.predecessor {
            None => self.place(&sibling).map(|()| None)?,
            Some(_) => self.replace(sibling, swap)?,
        };
        self.settle(&directory, old)
    }

    /// Settles the permissions of the new directory or of a folder of it, and brings its
    /// names to the device if asked to.
    fn finish_folder(&self, folder: &Parent, synced: bool) -> Result<(), ReplaceError> {
        if let Some(predecessor) = self.target.predecessor {
            predecessor
                .bequeath(&folder.fd)
                .map_err(|source| self.unpublished(source))?;
        }
        if !synced {
            return Ok(());
        }
        match rustix::fs::fsync(&folder.fd) {
            Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(source) => Err(ReplaceError::Sync {
                path: self.target.path().to_path_buf(),
                source: source.into(),
            }),
        }
    }

    /// The file of the old directory whose permissions the new one keeps.
    fn predecessor_of(&self, name: &str) -> Option<Predecessor> {
        self.target.predecessor?;
        let mut folder = self.target.parent.child(&self.target.name).ok()?;
        let (folders, name) = parts(name);
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            folder = folder.child(OsStr::new(part)).ok()?;
        }
        let stat = folder.stat(OsStr::new(name)).ok()??;
        (kind(&stat) == FileKind::File).then(|| Predecessor::new(&stat))
    }

    pub(super) fn unpublished(&self, source: Errno) -> ReplaceError {
        let Target { parent, .. } = &self.target;
        let path = self.target.path();
        let failed = |source| ReplaceError::Publish {
            path: path.to_path_buf(),
            source,
        };
        space_or(parent, path, 0, source.into(), failed)
    }
}
