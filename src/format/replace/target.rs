//! Where an output goes: symbolic links followed, surprises refused.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::Stat;
use rustix::fs::Uid;

use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::FileKind;
use crate::format::replace::ReplaceError;
use crate::format::replace::StagedFile;
use crate::format::replace::parent::Parent;

/// The most symbolic links to follow, as Linux does: path_resolution(7).
const MAX_LINKS: usize = 40;

/// A place for an output, looked up once: later changes of the path or of its
/// links do not move it.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) parent: Arc<Parent>,
    pub(super) name: OsString,
    pub(super) predecessor: Option<Predecessor>,
    /// Whether what it replaces may be replaced because it is an empty directory.
    pub(super) must_be_empty: bool,
    path: PathBuf,
}

/// What an output replaces, as far as it lives on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Predecessor {
    device: u64,
    inode: u64,
    mode: Mode,
    owner: Uid,
    group: Gid,
}

impl Predecessor {
    pub(super) fn new(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: Mode::from_raw_mode(stat.st_mode),
            owner: Uid::from_raw(stat.st_uid),
            group: Gid::from_raw(stat.st_gid),
        }
    }

    /// Gives an open file or directory the owner, as far as this user may, and
    /// the permission bits.
    pub(super) fn bequeath(&self, fd: impl std::os::fd::AsFd) -> rustix::io::Result<()> {
        // Owner first, because changing it clears bits of the mode. Only root
        // can give files away; for others a group may still be possible.
        if rustix::fs::fchown(&fd, Some(self.owner), Some(self.group)).is_err() {
            let _ = rustix::fs::fchown(&fd, None, Some(self.group));
        }
        rustix::fs::fchmod(&fd, self.mode)
    }
}

impl Target {
    /// A place for one file.
    ///
    /// Symbolic links are followed, dangling ones too: it is the file they
    /// point at that is created or replaced.
    ///
    /// # Errors
    /// [`ReplaceError::NoName`], [`ReplaceError::Resolve`],
    /// [`ReplaceError::ParentMissing`], [`ReplaceError::ParentKind`] and
    /// [`ReplaceError::Parent`] if there is no such place;
    /// [`ReplaceError::WrongKind`] if it holds anything but a regular file;
    /// [`ReplaceError::Exists`] if it holds one that may not be replaced.
    pub fn for_file(path: &Path, existing: Existing) -> Result<Self, ReplaceError> {
        Self::new(path, existing, FileKind::File)
    }

    /// A place for a directory of files; otherwise as [`Target::for_file`]. An empty
    /// directory is replaced whatever `existing` says.
    ///
    /// # Errors
    /// As for [`Target::for_file`].
    pub fn for_directory(path: &Path, existing: Existing) -> Result<Self, ReplaceError> {
        Self::new(path, existing, FileKind::Directory)
    }

    /// A place for one file in a directory that others may write to: a link in its place
    /// is refused, not followed.
    ///
    /// # Errors
    /// As for [`Target::for_file`]; [`ReplaceError::WrongKind`] for a link, too.
    pub fn for_unlinked_file(path: &Path, existing: Existing) -> Result<Self, ReplaceError> {
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
            return Err(ReplaceError::WrongKind {
                path: path.to_path_buf(),
                expected: FileKind::File,
                found: FileKind::Link,
            });
        }
        Self::for_file(path, existing)
    }

    /// Checks that a file of so many bytes can be made here: one is made, without a name
    /// where that is possible, and removed. Whoever works for hours asks this first.
    ///
    /// # Errors
    /// [`ReplaceError::NoSpace`], [`ReplaceError::TooLarge`] and [`ReplaceError::Create`].
    pub fn probe(&self, bytes: u64) -> Result<(), ReplaceError> {
        StagedFile::create(self, bytes, Durability::Unsynced).map(drop)
    }

    /// The path, with the links at its end followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is where another is, by whatever names they were given.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.name == other.name && self.parent.is_same(&other.parent)
    }

    /// Device and inode of the output that will be replaced.
    pub fn existing(&self) -> Option<(u64, u64)> {
        self.predecessor.map(|old| (old.device, old.inode))
    }

    /// Bytes left for this user on the device that will hold the output.
    ///
    /// # Errors
    /// [`ReplaceError::Parent`].
    pub fn free_bytes(&self) -> Result<u64, ReplaceError> {
        self.parent
            .free_bytes()
            .map_err(|source| ReplaceError::Parent {
                path: self.parent.path.clone(),
                source,
            })
    }

    fn new(given: &Path, existing: Existing, expected: FileKind) -> Result<Self, ReplaceError> {
        let resolve = |source| ReplaceError::Resolve {
            path: given.to_path_buf(),
            source,
        };
        let wrong_kind = |found| ReplaceError::WrongKind {
            path: given.to_path_buf(),
            expected,
            found,
        };
        // Follows links the way the system does: into `/proc`, say, where a
        // link's text is no path.
        let metadata = match fs::metadata(given) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                if given.as_os_str().as_bytes().ends_with(b"/") {
                    return Err(wrong_kind(FileKind::File));
                }
                let path = given.parent().unwrap_or(given).to_path_buf();
                return Err(ReplaceError::ParentKind { path });
            }
            Err(error) => return Err(resolve(error)),
        };
        if let Some(metadata) = &metadata {
            let found = FileKind::from(metadata.file_type());
            if found != expected {
                return Err(wrong_kind(found));
            }
        }
        if expected == FileKind::File && given.as_os_str().as_bytes().ends_with(b"/") {
            return Err(wrong_kind(FileKind::Directory));
        }
        let (directory, name) = follow(given)?;
        let parent = Parent::open(&directory)?;
        let stat = parent
            .stat(&name)
            .map_err(|source| resolve(source.into()))?;
        let predecessor = stat.as_ref().map(Predecessor::new);
        let identity = predecessor.map(|old| (old.device, old.inode));
        if identity != metadata.map(|metadata| (metadata.dev(), metadata.ino())) {
            // The links changed meanwhile, or their text is no path.
            let text = "its symbolic links lead to no stable path";
            return Err(resolve(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let path = if directory == Path::new(".") && !given.starts_with(".") {
            PathBuf::from(&name)
        } else {
            directory.join(&name)
        };
        let must_be_empty = predecessor.is_some() && existing == Existing::Refuse;
        let is_empty = || parent.child(&name).and_then(|child| child.names());
        if must_be_empty
            && !(expected == FileKind::Directory && is_empty().is_ok_and(|names| names.is_empty()))
        {
            return Err(ReplaceError::Exists { path });
        }
        Ok(Self {
            parent: Arc::new(parent),
            name,
            predecessor,
            must_be_empty,
            path,
        })
    }
}

/// Directory and name after following the links at the end of `given`.
fn follow(given: &Path) -> Result<(PathBuf, OsString), ReplaceError> {
    let mut path = given.to_path_buf();
    for _ in 0..=MAX_LINKS {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            break;
        };
        let directory = if directory == Path::new("") {
            Path::new(".")
        } else {
            directory
        };
        // Rebuilt without trailing slashes, which would follow the link.
        let plain = directory.join(name);
        match fs::read_link(&plain) {
            Ok(destination) => path = directory.join(destination),
            // Not a link, or nothing at all.
            Err(_) => return Ok((directory.to_path_buf(), name.to_os_string())),
        }
    }
    Err(ReplaceError::NoName {
        path: given.to_path_buf(),
    })
}

/// What a status says the file is.
pub(super) fn kind(stat: &Stat) -> FileKind {
    FileKind::from(FileType::from_raw_mode(stat.st_mode))
}

/// Whether a name may stand for a file within an output directory.
pub(super) fn is_plain(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(|byte| matches!(byte, b'/' | 0))
}
