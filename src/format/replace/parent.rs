//! The directory that holds an output, by descriptor: it stays the same one
//! whatever becomes of its path.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Dir;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::io::Errno;

use crate::format::replace::ReplaceError;

/// An open directory and the path it was opened by.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
}

impl Parent {
    /// The directory at `path`. Needs no permission to list it.
    pub(super) fn open(path: &Path) -> Result<Self, ReplaceError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = path.to_path_buf();
        match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(Errno::NOENT) => Err(ReplaceError::ParentMissing { path }),
            Err(Errno::NOTDIR) => Err(ReplaceError::ParentKind { path }),
            Err(source) => Err(ReplaceError::Parent {
                path,
                source: source.into(),
            }),
        }
    }

    /// Whether both are one directory.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let identity = |parent: &Self| {
            let stat = rustix::fs::fstat(&parent.fd).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let found = identity(self);
        found.is_some() && found == identity(other)
    }

    /// The directory `name` in this one, opened for listing.
    pub(super) fn child(&self, name: &OsStr) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        Ok(Self {
            fd,
            path: self.path.join(name),
        })
    }

    /// Status of what `name` is here, links not followed; `None` if nothing is.
    pub(super) fn stat(&self, name: &OsStr) -> rustix::io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is in the directory, `.` and `..` left out.
    pub(super) fn names(&self) -> rustix::io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.listable()?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_os_string());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Brings the names in this directory to the device.
    ///
    /// A directory may be writable without being readable, and then cannot be
    /// synced alone: `neighbour`, open on the same device, is the way to sync
    /// all of it.
    pub(super) fn sync(&self, neighbour: impl AsFd) -> io::Result<()> {
        let fd = match self.listable() {
            Ok(fd) => fd,
            Err(Errno::ACCESS) => return Ok(rustix::fs::syncfs(neighbour)?),
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::fsync(&fd) {
            // Some file systems have nothing to sync in a directory.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Bytes left on the device for this user.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::fstatvfs(&self.fd)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn listable(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, ".", flags, Mode::empty())
    }
}
