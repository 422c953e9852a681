//! Temporary names beside an output, and the removal of those a killed run left.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::fs::AtFlags;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::io::retry_on_intr;

use crate::format::replace::FileKind;
use crate::format::replace::nested::MOST_DEPTH;
use crate::format::replace::parent::Parent;
use crate::format::replace::target::kind;
use crate::tensor::Digest;

/// How often to try another name, when a name is taken or swept away at once.
const ATTEMPTS: usize = 100;

/// What a sibling holds, which is also how its name ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// An unfinished output, or an old one whose successor is in place.
    Unfinished,
    /// An old directory whose successor may not be in place.
    MovedAside,
}

impl Content {
    fn suffix(self) -> &'static str {
        match self {
            Self::Unfinished => ".tmp",
            Self::MovedAside => ".old",
        }
    }
}

/// A temporary name, removed on drop with what it names.
#[derive(Debug)]
pub(super) struct Sibling {
    pub(super) parent: Arc<Parent>,
    pub(super) name: OsString,
    armed: AtomicBool,
}

impl Sibling {
    fn new(parent: &Arc<Parent>, name: OsString) -> Self {
        Self {
            parent: Arc::clone(parent),
            name,
            armed: AtomicBool::new(true),
        }
    }

    /// Nothing is removed on drop: the name is gone, or must stay.
    pub(super) fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// A new file with a name beside `output`, locked.
    pub(super) fn create_file(
        parent: &Arc<Parent>,
        output: &OsStr,
        mode: Mode,
    ) -> rustix::io::Result<(OwnedFd, Self)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        claim(parent, output, |name| {
            rustix::fs::openat(&parent.fd, name, flags, mode)
        })
    }

    /// A new directory with a name beside `output`, locked.
    pub(super) fn create_directory(
        parent: &Arc<Parent>,
        output: &OsStr,
        mode: Mode,
    ) -> rustix::io::Result<(Parent, Self)> {
        let (fd, sibling) = claim(parent, output, |name| {
            rustix::fs::mkdirat(&parent.fd, name, mode)?;
            match parent.child(name) {
                Ok(child) => Ok(child.fd),
                Err(error) => {
                    let _ = rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR);
                    Err(error)
                }
            }
        })?;
        let path = parent.path.join(&sibling.name);
        Ok((Parent { fd, path }, sibling))
    }

    /// A name beside `output` for a file that has none, locked before it is named.
    pub(super) fn name_file(
        parent: &Arc<Parent>,
        output: &OsStr,
        file: impl AsFd,
        link: impl Fn(&OsStr) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<Self> {
        // Without locks nobody can lock it either, so nobody removes it.
        let _ = lock(file);
        let (_, name) = unused(output, Content::Unfinished, link)?;
        Ok(Self::new(parent, name))
    }

    /// Removes the file or directory behind the name.
    pub(super) fn remove(&self) -> rustix::io::Result<()> {
        self.disarm();
        remove(&self.parent, &self.name)
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        if self.armed.load(Ordering::Relaxed) {
            let _ = remove(&self.parent, &self.name);
        }
    }
}

/// Moves `output` itself to a sibling name.
pub(super) fn move_aside(parent: &Arc<Parent>, output: &OsStr) -> rustix::io::Result<Sibling> {
    let (_, name) = unused(output, Content::MovedAside, |name| {
        if parent.stat(name)?.is_some() {
            return Err(Errno::EXIST);
        }
        rustix::fs::renameat(&parent.fd, output, &parent.fd, name)
    })?;
    let sibling = Sibling::new(parent, name);
    sibling.disarm();
    Ok(sibling)
}

/// Removes what killed runs left beside `output`, as far as that is possible.
pub(super) fn sweep(parent: &Parent, output: &OsStr) {
    let Ok(names) = parent.names() else {
        return;
    };
    let prefix = prefix(output);
    let output_exists = matches!(parent.stat(output), Ok(Some(_)));
    for name in names
        .iter()
        .filter(|name| name.as_bytes().starts_with(prefix.as_bytes()))
    {
        let ends = |content: Content| name.as_bytes().ends_with(content.suffix().as_bytes());
        if ends(Content::Unfinished) || (ends(Content::MovedAside) && output_exists) {
            remove_if_unowned(parent, name);
        }
    }
}

fn remove_if_unowned(parent: &Parent, name: &OsStr) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(Some(stat)) = parent.stat(name) else {
        return;
    };
    if !matches!(kind(&stat), FileKind::File | FileKind::Directory) {
        return;
    }
    let Ok(fd) = rustix::fs::openat(&parent.fd, name, flags, Mode::empty()) else {
        return;
    };
    // Whoever is at work holds the lock. After it is taken the name must still
    // be that of the locked file, not of one published or renamed meanwhile.
    if lock(&fd).is_ok() && is_named(parent, name, &fd) == Ok(true) {
        let _ = remove(parent, name);
    }
}

/// `.sms-merge-<hash>-`, the same length for every output.
fn prefix(output: &OsStr) -> String {
    // The lower half serves as well as any 64 bits: a collision costs nothing,
    // because what is in use is locked.
    let digest = Digest::of(output.as_bytes()).to_string();
    format!(".sms-merge-{}-", &digest[digest.len() / 2..])
}

/// Tries names until `take` does not find one in use.
fn unused<T>(
    output: &OsStr,
    content: Content,
    take: impl Fn(&OsStr) -> rustix::io::Result<T>,
) -> rustix::io::Result<(T, OsString)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..ATTEMPTS {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let (prefix, process) = (prefix(output), process::id());
        let name = OsString::from(format!("{prefix}{process}-{count}{}", content.suffix()));
        match take(&name) {
            Err(Errno::EXIST) => {}
            result => return Ok((result?, name)),
        }
    }
    Err(Errno::EXIST)
}

/// Makes something with a temporary name and locks it.
fn claim(
    parent: &Arc<Parent>,
    output: &OsStr,
    make: impl Fn(&OsStr) -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<(OwnedFd, Sibling)> {
    let ((fd, sibling), _) = unused(output, Content::Unfinished, |name| {
        let fd = make(name)?;
        // Removes the name again if it cannot be looked at.
        let sibling = Sibling::new(parent, name.to_os_string());
        // Another run that sweeps may get the lock first, and then removes the
        // name: try the next one.
        let locked = lock(&fd);
        if locked == Err(Errno::WOULDBLOCK) || !is_named(parent, name, &fd)? {
            sibling.disarm();
            return Err(Errno::EXIST);
        }
        Ok((fd, sibling))
    })?;
    Ok((fd, sibling))
}

/// Locks a file unless another process has; a signal that comes meanwhile changes nothing.
fn lock(file: impl AsFd) -> rustix::io::Result<()> {
    let file = file.as_fd();
    retry_on_intr(|| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive))
}

/// Whether `name` is the name of the open file.
fn is_named(parent: &Parent, name: &OsStr, fd: &OwnedFd) -> rustix::io::Result<bool> {
    let open = rustix::fs::fstat(fd)?;
    let named = parent.stat(name)?;
    Ok(named.is_some_and(|named| (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)))
}

/// Removes a file, or a directory with its folders.
fn remove(parent: &Parent, name: &OsStr) -> rustix::io::Result<()> {
    remove_within(parent, name, MOST_DEPTH)
}

/// Removes what no more than so many folders lie within one another in.
fn remove_within(parent: &Parent, name: &OsStr, depth: usize) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        result => return result,
    }
    if depth == 0 {
        return Err(Errno::LOOP);
    }
    let directory = parent.child(name)?;
    // A replaced directory may have been made read-only after the new one
    // inherited its permissions; failing shows in `unlinkat`.
    let _ = rustix::fs::fchmod(&directory.fd, Mode::RWXU);
    for entry in directory.names()? {
        remove_within(&directory, &entry, depth - 1)?;
    }
    rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR)
}
