//! The journal: what happened, for people. State is never read from it.

use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::cycle::store::error::Action;
use crate::cycle::store::error::StoreError;
use crate::cycle::store::error::system;
use crate::format::regular;
use crate::format::regular::Links;
use crate::format::regular::open_unlinked;

/// A file of JSON objects, one a line, the oldest first.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one more line, with one call to the system.
    ///
    /// A last line without an end, of a writer that was killed or found the disk full, is
    /// left as it is, and the event goes to a line of its own. Not synced: of what is lost
    /// in a power cut nothing else depends.
    ///
    /// # Errors
    /// [`StoreError::Encode`] and [`StoreError::System`].
    pub fn append(&self, event: &impl Serialize) -> Result<(), StoreError> {
        let mut line = Vec::new();
        if self.is_torn().map_err(system(Action::Read, &self.path))? {
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, event).map_err(|source| StoreError::Encode {
            path: self.path.clone(),
            source,
        })?;
        line.push(b'\n');
        let mut options = OpenOptions::new();
        let options = options.append(true).create(true);
        let mut file =
            open_unlinked(options, &self.path).map_err(system(Action::Create, &self.path))?;
        file.write_all(&line)
            .map_err(system(Action::Write, &self.path))
    }

    /// Whether the last line has no end.
    fn is_torn(&self) -> io::Result<bool> {
        let file = match regular::open(&self.path, Links::Refuse) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(at) = file.metadata()?.len().checked_sub(1) else {
            return Ok(false);
        };
        let mut last = [b'\n'];
        // Nothing is read if the file was cut meanwhile.
        let _ = file.read_at(&mut last, at)?;
        Ok(last != [b'\n'])
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_torn_last_line_stays_alone() {
        let directory = TempDir::new().unwrap();
        let check = |before: &[u8], expected: &[u8]| {
            let journal = Journal::new(directory.path().join("journal.jsonl"));
            fs::write(journal.path(), before).unwrap();
            journal.append(&json!({"event": "a\nb"})).unwrap();
            journal.append(&json!([2])).unwrap();
            assert_eq!(fs::read(journal.path()).unwrap(), expected);
        };
        check(b"", b"{\"event\":\"a\\nb\"}\n[2]\n");
        check(b"[1]\n", b"[1]\n{\"event\":\"a\\nb\"}\n[2]\n");
        check(b"[1]\n{\"ev", b"[1]\n{\"ev\n{\"event\":\"a\\nb\"}\n[2]\n");
        check(b"[1]\n\0\0", b"[1]\n\0\0\n{\"event\":\"a\\nb\"}\n[2]\n");
    }

    #[test]
    fn a_journal_begins_by_itself() {
        let directory = TempDir::new().unwrap();
        let journal = Journal::new(directory.path().join("journal.jsonl"));
        journal.append(&json!({"event": "started"})).unwrap();
        let text = fs::read_to_string(journal.path()).unwrap();
        assert_eq!(text, "{\"event\":\"started\"}\n");
    }
}
