//! Files beside a model: opened only where they are regular ones that belong to it.
//!
//! A folder that came from elsewhere may hold links to anything, devices and pipes. What
//! is read of it, or copied, has to lie in the folder itself once all links have been
//! followed, or among the blobs of the Hugging Face cache that the folder is part of:
//! there `snapshots/REVISION/config.json` is a link to `../../blobs/HASH`.

use std::fmt;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::map::Access;
use crate::checkpoint::map::ByteSource;
use crate::format::replace::FileKind;

/// Most folders of a snapshot of the cache that lie within one another.
const MOST_DEPTH: usize = 8;

/// A folder, by the name that no link is part of.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Where the cache keeps what the folder's links lead to.
    blobs: Option<PathBuf>,
}

/// Why a file is not opened.
#[derive(Debug)]
pub(crate) enum Stray {
    /// It is a link out of the folder.
    Outside,
    /// It is no regular file.
    Kind(FileKind),
    /// It cannot be looked at.
    Failed(io::Error),
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("a link out of the folder"),
            Self::Kind(kind) => kind.fmt(f),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl Folder {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        })?;
        let snapshot = path.ancestors().take(MOST_DEPTH).find(|outer| {
            let holder = outer.parent().and_then(Path::file_name);
            holder == Some("snapshots".as_ref())
        });
        let repository = snapshot.and_then(|snapshot| snapshot.parent()?.parent());
        // Not followed: a link in its place leads out of the cache.
        let blobs = repository.map(|repository| repository.join("blobs"));
        Ok(Self { path, blobs })
    }

    /// Whether a path without links is one of the folder's files, or of its cache's.
    fn owns(&self, path: &Path) -> bool {
        let is_blob = |blobs: &PathBuf| path.parent() == Some(blobs);
        path.starts_with(&self.path) || self.blobs.as_ref().is_some_and(is_blob)
    }

    /// Where a name in the folder leads once all links are followed.
    fn find(&self, name: &Path) -> Result<PathBuf, Stray> {
        let found = fs::canonicalize(self.path.join(name)).map_err(Stray::Failed)?;
        match self.owns(&found) {
            true => Ok(found),
            false => Err(Stray::Outside),
        }
    }

    /// The regular file that a name in the folder leads to, open, and its length.
    pub(crate) fn open(&self, name: &Path) -> Result<(File, u64), Stray> {
        let require_file = |metadata: &fs::Metadata| match metadata.file_type().into() {
            FileKind::File => Ok(()),
            found => Err(Stray::Kind(found)),
        };
        let path = self.find(name)?;
        // Opening a device may do something, so it is looked at before.
        require_file(&fs::symlink_metadata(&path).map_err(Stray::Failed)?)?;
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path)
            .map_err(Stray::Failed)?;
        let metadata = file.metadata().map_err(Stray::Failed)?;
        require_file(&metadata)?;
        Ok((file, metadata.len()))
    }
}

/// Opens a file beside a model that the model names.
pub(crate) fn open_beside(
    model: &Path,
    file: &Path,
    access: Access,
) -> Result<ByteSource, CheckpointError> {
    refuse_outside(model, file)?;
    ByteSource::open(file, access).map_err(|source| CheckpointError::Beside {
        model: model.to_owned(),
        source: Box::new(source),
    })
}

/// Refuses to follow a link from beside a model to a file that does not belong to it:
/// what a folder from elsewhere links to is not its own. A model that is a link itself may
/// have its files beside what it leads to.
fn refuse_outside(model: &Path, file: &Path) -> Result<(), CheckpointError> {
    // What cannot be found is reported by whoever opens it.
    let Ok(found) = fs::canonicalize(file) else {
        return Ok(());
    };
    let is_own = |model: &Path| {
        let folder = Folder::new(model.parent().unwrap_or(Path::new("")));
        folder.is_ok_and(|folder| folder.owns(&found))
    };
    if is_own(model) || fs::canonicalize(model).is_ok_and(|model| is_own(&model)) {
        return Ok(());
    }
    Err(CheckpointError::BesideOutside {
        model: model.to_owned(),
        file: file.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_belongs_to_the_folder_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in [
            "m/sub",
            "hub/blobs",
            "hub/snapshots/r/sub",
            "evil/snapshots/r",
        ] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["m/own", "m/sub/own", "secret", "hub/blobs/hash", "hub/refs"] {
            fs::write(at(file), "text").unwrap();
        }
        symlink("own", at("m/inner")).unwrap();
        symlink("../secret", at("m/outer")).unwrap();
        symlink("..", at("m/up")).unwrap();
        symlink("/dev/zero", at("m/zero")).unwrap();
        symlink("nowhere", at("m/dangling")).unwrap();
        symlink("../../blobs/hash", at("hub/snapshots/r/cached")).unwrap();
        symlink("../../../blobs/hash", at("hub/snapshots/r/sub/cached")).unwrap();
        symlink("../../refs", at("hub/snapshots/r/other")).unwrap();
        symlink(root.path(), at("evil/blobs")).unwrap();
        symlink("../../blobs/secret", at("evil/snapshots/r/cached")).unwrap();
        symlink("m", at("link")).unwrap();
        let check = |folder: &str, name: &str, expected: Result<u64, &str>| {
            let opened = Folder::new(&at(folder)).unwrap().open(Path::new(name));
            match (opened, expected) {
                (Ok((_, found)), Ok(expected)) => assert_eq!(found, expected, "{name}"),
                (Err(stray), Err(words)) => {
                    assert!(stray.to_string().contains(words), "{name}: {stray}");
                }
                (found, _) => panic!("{folder}/{name}: {found:?}"),
            }
        };
        for (folder, name) in [
            ("m", "own"),
            ("m", "sub/own"),
            ("m", "inner"),
            ("link", "own"),
            ("hub/snapshots/r", "cached"),
            ("hub/snapshots/r", "sub/cached"),
            ("hub/snapshots/r/sub", "cached"),
        ] {
            check(folder, name, Ok(4));
        }
        let outside = Err("a link out of the folder");
        check("m", "outer", outside);
        check("m", "up/secret", outside);
        check("m", "zero", outside);
        check("hub/snapshots/r", "other", outside);
        check("evil/snapshots/r", "cached", outside);
        check("m", "sub", Err("a directory"));
        check("m", "dangling", Err("No such file"));
        check("m", "absent", Err("No such file"));
        check("/dev", "null", Err("a device"));
    }
}
