//! Artefacts: files that steps make, which never change once a receipt names them.

use std::fmt;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use serde::Deserialize;
use serde::Serialize;

use crate::cycle::store::Key;
use crate::cycle::store::error::Action;
use crate::cycle::store::error::StoreError;
use crate::cycle::store::error::system;
use crate::tensor::Digest;
use crate::tensor::Digester;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A file among the artefacts, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// Its name among the artefacts.
    pub file: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Artefact {
    /// Whether its name is one that an attempt gives, and so leads to nowhere else.
    pub fn is_named_well(&self) -> bool {
        maker(&self.file).is_some()
    }
}

/// Whether an artefact is what its receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtefactState {
    /// Every byte is.
    Whole,
    /// There is no such file.
    Missing,
    /// It is not.
    Damaged {
        /// What the receipt says.
        expected: Content,
        /// What is there.
        found: Content,
    },
}

/// What tells one content from another, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A regular file of some length.
    File,
    /// Something else than a regular file.
    NoFile,
    /// Length in bytes.
    Bytes(u64),
    /// Digest of the bytes.
    Digest(Digest),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("a regular file"),
            Self::NoFile => f.write_str("something else"),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Digest(digest) => write!(f, "digest {digest}"),
        }
    }
}

impl ArtefactState {
    /// What is wrong, for a journal or a message; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Missing => Some("it is missing".to_owned()),
            Self::Damaged { expected, found } => {
                Some(format!("expected {expected}, found {found}"))
            }
        }
    }
}

/// Beginning of the names of everything that an attempt makes, `<key>-<attempt>.`.
pub(super) fn prefix(key: &Key, attempt: u32) -> String {
    format!("{key}-{attempt}.")
}

/// The step and the attempt that made the artefact of this name; `None` for other files.
pub(super) fn maker(name: &str) -> Option<(Key, u32)> {
    let (key, rest) = name.split_once('-')?;
    let (attempt, _) = rest.split_once('.')?;
    let (key, number) = (key.parse().ok()?, attempt.parse().ok()?);
    if name.contains(['/', '\0']) {
        return None;
    }
    // `+1` and `01` are numbers too, but not names that an attempt gives.
    name.starts_with(&prefix(&key, number))
        .then_some((key, number))
}

/// Opens a regular file to read; `None` if it is something else. A link or a pipe is not
/// followed or waited for.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(fd) => {
            let file = File::from(fd);
            let is_file = file.metadata()?.is_file();
            Ok(is_file.then_some(file))
        }
    }
}

/// Bytes of a file, and how many there are.
fn digest(file: &mut File) -> io::Result<(Digest, u64)> {
    let mut digester = Digester::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((digester.finish(), bytes)),
            Ok(n) => {
                digester.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Digests a finished file and brings it to the device.
pub(super) fn seal(path: &Path, name: String) -> Result<Artefact, StoreError> {
    let no_file = || StoreError::NoFile {
        path: path.to_path_buf(),
    };
    let mut file = open(path)
        .map_err(system(Action::Read, path))?
        .ok_or_else(no_file)?;
    file.sync_all().map_err(system(Action::Sync, path))?;
    let (digest, bytes) = digest(&mut file).map_err(system(Action::Read, path))?;
    Ok(Artefact {
        file: name,
        digest,
        bytes,
    })
}

/// Holds a file against what is known of it: its length first, then every byte.
pub(super) fn check(path: &Path, artefact: &Artefact) -> Result<ArtefactState, StoreError> {
    let damaged = |expected, found| ArtefactState::Damaged { expected, found };
    let mut file = match open(path) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(damaged(Content::File, Content::NoFile)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ArtefactState::Missing),
        Err(error) => return Err(system(Action::Read, path)(error)),
    };
    let expected = Content::Bytes(artefact.bytes);
    let metadata = file.metadata().map_err(system(Action::Inspect, path))?;
    if metadata.len() != artefact.bytes {
        return Ok(damaged(expected, Content::Bytes(metadata.len())));
    }
    let (digest, bytes) = digest(&mut file).map_err(system(Action::Read, path))?;
    if bytes != artefact.bytes {
        return Ok(damaged(expected, Content::Bytes(bytes)));
    }
    if digest != artefact.digest {
        let expected = Content::Digest(artefact.digest);
        return Ok(damaged(expected, Content::Digest(digest)));
    }
    Ok(ArtefactState::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_makers() {
        let digits = "0123456789abcdef0123456789abcdef";
        let check = |rest: &str, expected: Option<u32>| {
            let found = maker(&format!("{digits}{rest}"));
            assert_eq!(found.map(|(_, attempt)| attempt), expected, "{rest}");
        };
        check("-1.checkpoint.st", Some(1));
        check("-12.mask", Some(12));
        check("-1", None);
        check("-01.mask", None);
        check("-+1.mask", None);
        check("-x.mask", None);
        check(".mask", None);
        check("-1.a/../../mask", None);
        check("-1./etc/passwd", None);
        assert_eq!(maker(".sms-merge-1-2.tmp"), None);
    }
}
