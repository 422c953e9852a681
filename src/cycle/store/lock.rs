//! The lock of a run directory: one coordinator at a time.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::cycle::store::error::Action;
use crate::cycle::store::error::StoreError;
use crate::cycle::store::error::system;
use crate::format::regular;
use crate::format::regular::Links;
use crate::format::regular::open_unlinked;

/// Longest text that is read from a lock.
const MOST_BYTES: u64 = 4096;

/// How often to try, and the pause between. Whoever only looks holds the lock for an
/// instant; a coordinator holds it for as long as it lives.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// A held lock; dropping it, or the death of the process in any way, frees it.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock at `path` for the run directory `root`. The file stays when the lock
    /// is freed: if it were removed, two could lock two files of that name.
    pub(super) fn take(path: &Path, root: &Path, holder: &str) -> Result<Self, StoreError> {
        let file = open(path).map_err(system(Action::Lock, path))?;
        for attempt in 1.. {
            match try_lock(&file) {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => {
                    return Err(system(Action::Lock, path)(source));
                }
                Err(TryLockError::WouldBlock) if attempt < TRIES => thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::Locked {
                        path: root.to_path_buf(),
                        holder: named(&file).map_err(system(Action::Read, path))?,
                    });
                }
            }
        }
        file.write_all_at(holder.as_bytes(), 0)
            .and_then(|()| file.set_len(holder.len() as u64))
            .map_err(system(Action::Write, path))?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Only a text for people, which means nothing while nobody holds the lock.
        let _ = self.file.set_len(0);
        free(&self.file);
    }
}

/// What the holder of the lock at `path` says of itself; `None` if nobody holds it.
pub(super) fn holder(path: &Path) -> Result<Option<String>, StoreError> {
    let file = match regular::open(path, Links::Refuse) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system(Action::Read, path)(error)),
    };
    let locked = loop {
        match file.try_lock_shared() {
            Err(TryLockError::Error(source)) if is_interruption(&source) => {}
            locked => break locked,
        }
    };
    match locked {
        Ok(()) => {
            free(&file);
            Ok(None)
        }
        Err(TryLockError::WouldBlock) => {
            let text = named(&file).map_err(system(Action::Read, path))?;
            Ok(Some(text))
        }
        Err(TryLockError::Error(source)) => Err(system(Action::Lock, path)(source)),
    }
}

/// Whether nobody holds a lock on the file.
pub(super) fn is_free(file: &File) -> bool {
    let is_free = try_lock(file).is_ok();
    if is_free {
        free(file);
    }
    is_free
}

/// Takes the lock if nobody holds it, whatever signals come meanwhile.
pub(super) fn try_lock(file: &File) -> Result<(), TryLockError> {
    loop {
        match file.try_lock() {
            Err(TryLockError::Error(source)) if is_interruption(&source) => {}
            result => return result,
        }
    }
}

/// Waits for the lock, whatever signals come meanwhile.
pub(super) fn wait_for(file: &File) -> io::Result<()> {
    loop {
        match file.lock() {
            Err(source) if is_interruption(&source) => {}
            result => return result,
        }
    }
}

fn is_interruption(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

/// Frees a lock that this process holds. Closing the file is not enough: a process that is
/// being started has the file too, until it runs its own program.
pub(super) fn free(file: &File) {
    // It fails where locks are not possible, and there it holds none.
    let _ = file.unlock();
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    open_unlinked(&mut options, path)
}

/// The text in a lock.
fn named(file: &File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(if text.is_empty() {
        "another process, which has not said its name".to_owned()
    } else {
        text
    })
}
