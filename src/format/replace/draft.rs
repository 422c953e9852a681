//! A file under construction: it has its bytes, but not yet its name.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FallocateFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::format::replace::FileKind;
use crate::format::replace::ReplaceError;
use crate::format::replace::parent::Parent;
use crate::format::replace::sibling::Sibling;
use crate::format::replace::target::Predecessor;
use crate::format::replace::target::kind;

/// Bytes copied at a time where a slice cannot be written directly.
const BOUNCE_BYTES: usize = 1 << 16;

/// Where a file waits for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Staging {
    /// Nowhere, or under a sibling name where that is impossible.
    Unnamed,
    /// Under a sibling name.
    #[cfg_attr(not(test), expect(dead_code, reason = "asked for by tests only"))]
    Named,
}

/// A file of known length without its name; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Draft {
    parent: Arc<Parent>,
    /// Name that siblings are named after.
    output: OsString,
    /// Path in messages.
    path: PathBuf,
    file: File,
    sibling: Option<Sibling>,
    bytes: u64,
    predecessor: Option<Predecessor>,
}

/// What a draft is made for.
pub(super) struct Request {
    pub(super) parent: Arc<Parent>,
    pub(super) output: OsString,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) predecessor: Option<Predecessor>,
    pub(super) staging: Staging,
}

impl Draft {
    /// An empty file with its length reserved.
    pub(super) fn create(request: Request) -> Result<Self, ReplaceError> {
        let Request {
            parent,
            output,
            path,
            bytes,
            predecessor,
            staging,
        } = request;
        // What replaces a private file must not be readable in the meantime.
        let mode = match predecessor {
            Some(_) => Mode::RUSR | Mode::WUSR,
            None => Mode::from_raw_mode(0o666),
        };
        let unnamed = match staging {
            Staging::Unnamed => unnamed(&parent, mode),
            Staging::Named => None,
        };
        let (file, sibling) = match unnamed {
            Some(file) => (file, None),
            None => match Sibling::create_file(&parent, &output, mode) {
                Ok((fd, sibling)) => (File::from(fd), Some(sibling)),
                Err(source) => {
                    return Err(ReplaceError::Create {
                        path,
                        source: source.into(),
                    });
                }
            },
        };
        let draft = Self {
            parent,
            output,
            path,
            file,
            sibling,
            bytes,
            predecessor,
        };
        draft.reserve()?;
        Ok(draft)
    }

    fn reserve(&self) -> Result<(), ReplaceError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let create = |source| ReplaceError::Create {
            path: self.path.clone(),
            source,
        };
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, self.bytes) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                // The file system cannot reserve: space may run out later.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    let result = self.file.set_len(self.bytes);
                    return result.map_err(|source| self.space_or(source, create));
                }
                Err(source) => return Err(self.space_or(source.into(), create)),
            }
        }
    }

    /// Writes all of `bytes` at `offset`, from any thread.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), ReplaceError> {
        let len = bytes.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.bytes) {
            let path = self.path.clone();
            return Err(ReplaceError::Beyond {
                path,
                offset,
                len,
                bytes: self.bytes,
            });
        }
        let mut written = 0;
        while written < bytes.len() {
            let position = offset + written as u64;
            let failed = |source| ReplaceError::Write {
                path: self.path.clone(),
                offset: position,
                source,
            };
            match self.write_some(&bytes[written..], position) {
                Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.space_or(source, failed)),
            }
        }
        Ok(())
    }

    /// Length.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills `buffer` with what has been written from `offset`.
    pub(super) fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReplaceError> {
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|source| ReplaceError::ReadBack {
            path: self.path.clone(),
            offset,
            source,
        })
    }

    fn write_some(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.file.write_at(bytes, offset) {
            // The bytes are mapped from a file that has been truncated. Touched
            // here instead of in the kernel, they reach the mapping's guard,
            // which will report the truncation.
            Err(error) if error.raw_os_error() == Some(Errno::FAULT.raw_os_error()) => {
                let copy = bytes[..bytes.len().min(BOUNCE_BYTES)].to_vec();
                self.file.write_at(&copy, offset)
            }
            result => result,
        }
    }

    /// Settles permissions, and brings the bytes to the device if asked to.
    pub(super) fn finish(&self, synced: bool) -> Result<(), ReplaceError> {
        if let Some(predecessor) = self.predecessor {
            predecessor
                .bequeath(&self.file)
                .map_err(|source| self.unpublished(source))?;
        }
        if synced {
            let failed = |source| ReplaceError::Sync {
                path: self.path.clone(),
                source,
            };
            self.file
                .sync_all()
                .map_err(|source| self.space_or(source, failed))?;
        }
        Ok(())
    }

    /// Gives the file a name that nothing has.
    pub(super) fn place(&self, directory: &Parent, name: &OsStr) -> Result<(), ReplaceError> {
        let result = match &self.sibling {
            None => self.link(directory, name),
            Some(sibling) => place_sibling(sibling, directory, name),
        };
        match result {
            Err(Errno::EXIST) => Err(ReplaceError::Appeared {
                path: self.path.clone(),
            }),
            result => result.map_err(|source| self.unpublished(source)),
        }
    }

    /// Gives the file the name of a regular file, which loses it.
    pub(super) fn replace(&self, name: &OsStr) -> Result<(), ReplaceError> {
        let named;
        let sibling = match &self.sibling {
            Some(sibling) => sibling,
            None => {
                let link = |name: &OsStr| self.link(&self.parent, name);
                named = Sibling::name_file(&self.parent, &self.output, &self.file, link)
                    .map_err(|source| self.unpublished(source))?;
                &named
            }
        };
        // Renaming would displace a device or a FIFO just as well.
        let stat = self
            .parent
            .stat(name)
            .map_err(|source| self.unpublished(source))?;
        if let Some(found) = stat
            .as_ref()
            .map(kind)
            .filter(|&kind| kind != FileKind::File)
        {
            let path = self.path.clone();
            return Err(ReplaceError::WrongKind {
                path,
                expected: FileKind::File,
                found,
            });
        }
        rustix::fs::renameat(&self.parent.fd, &sibling.name, &self.parent.fd, name)
            .map_err(|source| self.unpublished(source))?;
        sibling.disarm();
        Ok(())
    }

    /// Brings the names in the directory around the file to the device.
    pub(super) fn sync_parent(&self) -> io::Result<()> {
        self.parent.sync(&self.file)
    }

    fn link(&self, directory: &Parent, name: &OsStr) -> rustix::io::Result<()> {
        let path = descriptor_path(&self.file);
        rustix::fs::linkat(CWD, path, &directory.fd, name, AtFlags::SYMLINK_FOLLOW)
    }

    fn unpublished(&self, source: Errno) -> ReplaceError {
        let failed = |source| ReplaceError::Publish {
            path: self.path.clone(),
            source,
        };
        self.space_or(source.into(), failed)
    }

    fn space_or(
        &self,
        source: io::Error,
        otherwise: impl FnOnce(io::Error) -> ReplaceError,
    ) -> ReplaceError {
        space_or(&self.parent, &self.path, self.bytes, source, otherwise)
    }
}

/// Names a failure for lack of space as such, and any other as `otherwise` does.
pub(super) fn space_or(
    parent: &Parent,
    path: &Path,
    bytes: u64,
    source: io::Error,
    otherwise: impl FnOnce(io::Error) -> ReplaceError,
) -> ReplaceError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let free = parent.free_bytes().unwrap_or(0);
            ReplaceError::NoSpace {
                path,
                needed: bytes,
                free,
                source,
            }
        }
        io::ErrorKind::FileTooLarge => ReplaceError::TooLarge {
            path,
            bytes,
            source,
        },
        _ => otherwise(source),
    }
}

/// A file without a name that can be given one later, where the system can.
///
/// Any failure means "no": a real one comes back when a named file is tried.
fn unnamed(parent: &Parent, mode: Mode) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(&parent.fd, ".", flags, mode).ok()?);
    let open = file.metadata().ok()?;
    let through_proc = std::fs::metadata(descriptor_path(&file)).ok()?;
    let same = (open.dev(), open.ino()) == (through_proc.dev(), through_proc.ino());
    same.then_some(file)
}

fn descriptor_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn place_sibling(sibling: &Sibling, directory: &Parent, name: &OsStr) -> rustix::io::Result<()> {
    let from = &sibling.parent.fd;
    let to = &directory.fd;
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(from, &sibling.name, to, name, flags) {
        // The file system cannot refuse to replace; a hard link can, and the
        // temporary name goes when the draft is dropped.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match rustix::fs::linkat(from, &sibling.name, to, name, AtFlags::empty()) {
                // It has no hard links either: look, then rename.
                Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK) => {
                    if directory.stat(name)?.is_some() {
                        return Err(Errno::EXIST);
                    }
                    rustix::fs::renameat(from, &sibling.name, to, name)?;
                }
                result => return result,
            }
        }
        result => result?,
    }
    sibling.disarm();
    Ok(())
}
