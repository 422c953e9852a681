//! Readable names of artefacts: links below `named/` that lead to them. They are for people:
//! no step reads them, and no digest knows them.
//!
//! Whatever else lies there stays: a directory is never followed through a link, and only a
//! link is replaced by a link.

use std::io;
use std::path::PathBuf;

use rustix::fd::OwnedFd;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::ARTEFACTS;
use super::Artefact;
use super::RunDirectory;
use super::error::Action;
use super::error::StoreError;
use super::error::system;

/// Where the names are in a run directory.
const NAMED: &str = "named";

/// A directory, and nothing that only leads to one.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Name of a link before it takes its place.
const DRAFT: &str = ".sms-merge-name";

impl RunDirectory {
    /// Where readable names are.
    pub fn named(&self) -> PathBuf {
        self.root().join(NAMED)
    }

    /// Has the file `name`, in the directory below [`RunDirectory::named`] that `parts`
    /// say, lead to an artefact; without one, a link of that name is removed.
    ///
    /// # Errors
    /// [`StoreError::System`], also where something that is no link of this has the name.
    pub fn name(
        &self,
        parts: &[String],
        name: &str,
        artefact: Option<&Artefact>,
    ) -> Result<(), StoreError> {
        let path = parts
            .iter()
            .fold(self.named(), |path, part| path.join(part));
        let Some(artefact) = artefact else {
            let removed = self.unlink(parts, name);
            return removed.map_err(system(Action::Remove, &path.join(name)));
        };
        // One step up for each part, and one for `named`.
        let target = format!(
            "{}{ARTEFACTS}/{}",
            "../".repeat(parts.len() + 1),
            artefact.file
        );
        let linked = self.link(parts, name, &target);
        linked.map_err(system(Action::Create, &path.join(name)))
    }

    fn link(&self, parts: &[String], name: &str, target: &str) -> io::Result<()> {
        let directory = self.open_named(parts, true)?.ok_or(Errno::NOENT)?;
        match rustix::fs::readlinkat(&directory, name, Vec::new()) {
            Ok(found) if found.as_bytes() == target.as_bytes() => return Ok(()),
            Ok(_) | Err(Errno::NOENT) => {}
            // It is there, and no link.
            Err(Errno::INVAL) => return Err(Errno::EXIST.into()),
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::unlinkat(&directory, DRAFT, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        rustix::fs::symlinkat(target, &directory, DRAFT)?;
        Ok(rustix::fs::renameat(&directory, DRAFT, &directory, name)?)
    }

    fn unlink(&self, parts: &[String], name: &str) -> io::Result<()> {
        let Some(directory) = self.open_named(parts, false)? else {
            return Ok(());
        };
        match rustix::fs::readlinkat(&directory, name, Vec::new()) {
            Ok(_) => Ok(rustix::fs::unlinkat(&directory, name, AtFlags::empty())?),
            Err(Errno::NOENT | Errno::INVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory below `named/` that `parts` say; `None` if it is not there and is not
    /// to be made.
    fn open_named(&self, parts: &[String], is_made: bool) -> io::Result<Option<OwnedFd>> {
        let mut directory = rustix::fs::openat(CWD, self.root(), DIRECTORY, Mode::empty())?;
        for part in std::iter::once(NAMED).chain(parts.iter().map(String::as_str)) {
            if is_made {
                match rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            directory = match rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty()) {
                Ok(opened) => opened,
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        }
        Ok(Some(directory))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::tensor::Digester;

    fn artefact(run: &RunDirectory, file: &str) -> Artefact {
        fs::write(run.artefacts().join(file), file).unwrap();
        Artefact {
            file: file.to_owned(),
            digest: Digester::new().finish(),
            bytes: file.len() as u64,
        }
    }

    fn parts() -> Vec<String> {
        vec!["seed-0".to_owned(), "phase-1".to_owned()]
    }

    #[test]
    fn names_lead_to_artefacts() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(&directory.path().join("run")).unwrap();
        let (one, two) = (artefact(&run, "one"), artefact(&run, "two"));
        let path = run.named().join("seed-0/phase-1/soup.safetensors");
        for artefact in [&one, &one, &two] {
            run.name(&parts(), "soup.safetensors", Some(artefact))
                .unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), artefact.file);
        }
        // A run directory may be moved.
        let moved = directory.path().join("moved");
        fs::rename(run.root(), &moved).unwrap();
        let path = moved.join("named/seed-0/phase-1/soup.safetensors");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        let run = RunDirectory::open(&moved).unwrap();
        for _ in 0..2 {
            run.name(&parts(), "soup.safetensors", None).unwrap();
            assert!(fs::symlink_metadata(&path).is_err());
        }
        assert!(run.artefacts().join("two").is_file());
    }

    #[test]
    fn nothing_is_written_through_links_or_over_files() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(&directory.path().join("run")).unwrap();
        let one = artefact(&run, "one");
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let is_empty = |path: &Path| fs::read_dir(path).unwrap().next().is_none();

        symlink(&outside, run.named()).unwrap();
        let refused = run.name(&parts(), "soup", Some(&one)).unwrap_err();
        assert!(matches!(
            refused,
            StoreError::System {
                action: Action::Create,
                ..
            }
        ));
        assert!(is_empty(&outside));
        fs::remove_file(run.named()).unwrap();

        fs::create_dir(run.named()).unwrap();
        symlink(&outside, run.named().join("seed-0")).unwrap();
        run.name(&parts(), "soup", Some(&one)).unwrap_err();
        assert!(is_empty(&outside));
        fs::remove_file(run.named().join("seed-0")).unwrap();

        let phase = run.named().join("seed-0/phase-1");
        fs::create_dir_all(&phase).unwrap();
        fs::write(phase.join("soup"), "mine").unwrap();
        run.name(&parts(), "soup", Some(&one)).unwrap_err();
        run.name(&parts(), "soup", None).unwrap();
        assert_eq!(fs::read_to_string(phase.join("soup")).unwrap(), "mine");

        // A link to somewhere is replaced, and what it leads to stays.
        let other = outside.join("other");
        fs::write(&other, "other").unwrap();
        symlink(&other, phase.join("dense")).unwrap();
        run.name(&parts(), "dense", Some(&one)).unwrap();
        assert_eq!(fs::read_to_string(phase.join("dense")).unwrap(), "one");
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
    }
}
