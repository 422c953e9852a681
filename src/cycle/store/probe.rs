//! Whether a run can work in its directory, found out before anything is computed.

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::fs::CWD;
use rustix::fs::RenameFlags;
use rustix::fs::renameat_with;
use rustix::io::Errno;

use crate::cycle::store::RunDirectory;
use crate::cycle::store::error::Action;
use crate::cycle::store::error::StoreError;
use crate::cycle::store::error::system;
use crate::format::replace::Existing;
use crate::format::replace::Target;

/// Bytes that are written to find out whether the disk is full.
const BYTES: u64 = 4096;

impl RunDirectory {
    /// Makes files wherever steps will make some, and gives one a name as a receipt is given
    /// its own; all are removed again.
    ///
    /// # Errors
    /// [`StoreError::NoLinks`] if no receipt could be published on this file system;
    /// [`StoreError::Replace`] and [`StoreError::System`] if nothing can be written.
    pub fn probe(&self) -> Result<(), StoreError> {
        let parts = [self.receipts(), self.artefacts(), self.jobs()];
        for directory in parts.iter().chain([&self.root]) {
            // The name is never given.
            let path = directory.join("probe");
            Target::for_unlinked_file(&path, Existing::Replace)?.probe(BYTES)?;
        }
        self.probe_names(give_name)
    }

    fn probe_names(
        &self,
        give_name: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let unpublished = unused(&self.jobs())?;
        let published = unpublished.with_extension("published");
        let given = give_name(&unpublished, &published);
        let _ = fs::remove_file(&unpublished);
        let _ = fs::remove_file(&published);
        given.map_err(|error| unnamed(&published, error))
    }
}

/// A new file with a name of its own, which is no key of a job.
fn unused(directory: &Path) -> Result<PathBuf, StoreError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".sms-merge-{}-{count}.probe", process::id()));
        match File::create_new(&path) {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(system(Action::Create, &path)(error)),
        }
    }
}

/// Gives a file a name that nothing has, in one step: by a second link, or, where the file
/// system has none, as exFAT and vfat do not, by a rename that replaces nothing.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if something has the name, and what the system says.
pub(super) fn give_name(unpublished: &Path, path: &Path) -> io::Result<()> {
    name_by(|from, to| fs::hard_link(from, to), unpublished, path)
}

fn name_by(
    link: impl Fn(&Path, &Path) -> io::Result<()>,
    unpublished: &Path,
    path: &Path,
) -> io::Result<()> {
    match link(unpublished, path) {
        Err(error) if is_without_links(&error) => {
            let renamed = renameat_with(CWD, unpublished, CWD, path, RenameFlags::NOREPLACE);
            renamed.map_err(|errno| match errno {
                // It has neither: links are what people have heard of.
                Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => error,
                errno => errno.into(),
            })
        }
        result => result,
    }
}

/// What it means that a receipt cannot be given its name.
pub(super) fn unnamed(path: &Path, source: io::Error) -> StoreError {
    match is_without_links(&source) {
        true => StoreError::NoLinks {
            path: path.to_owned(),
            source,
        },
        false => system(Action::Publish, path)(source),
    }
}

/// Whether the file system has no hard links: link(2).
fn is_without_links(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What exFAT says.
    fn no_link(_: &Path, _: &Path) -> io::Result<()> {
        Err(Errno::PERM.into())
    }

    fn entries(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn names_are_given_once_with_and_without_links() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, link) in [("linked", true), ("renamed", false)] {
            fs::write(at("a"), "first").unwrap();
            let give = |from: &Path| match link {
                true => give_name(from, &at(name)),
                false => name_by(no_link, from, &at(name)),
            };
            give(&at("a")).unwrap();
            fs::write(at("b"), "second").unwrap();
            let taken = give(&at("b")).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(at(name)).unwrap(), b"first");
        }
    }

    #[test]
    fn a_file_system_without_either_is_refused_and_nothing_stays() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(&directory.path().join("run")).unwrap();
        run.probe().unwrap();
        run.probe_names(|from, to| name_by(no_link, from, to))
            .unwrap();
        let refused = run.probe_names(no_link);
        assert!(matches!(refused, Err(StoreError::NoLinks { .. })));
        for part in [run.jobs(), run.receipts(), run.artefacts()] {
            assert_eq!(entries(&part), 0, "{part:?}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(&directory.path().join("run")).unwrap();
        let mode = |mode| {
            fs::set_permissions(run.artefacts(), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o555);
        // Root may write everywhere.
        if File::create_new(run.artefacts().join("a")).is_err() {
            assert!(matches!(run.probe(), Err(StoreError::Replace(_))));
        }
        mode(0o755);
    }
}
