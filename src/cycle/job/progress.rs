//! How far an attempt is: lines that a worker appends, for those who watch it. No state
//! depends on them.

use std::cell::Cell;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::format::regular;
use crate::format::regular::Links;

/// Name of the file in an attempt's directory.
const NAME: &str = "progress.jsonl";
/// Time between two lines.
const INTERVAL: Duration = Duration::from_millis(250);
/// Bytes at the end of the file in which its last line is looked for.
const TAIL_BYTES: u64 = 1 << 12;

/// How far an attempt is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// How it goes, for people.
    pub text: String,
}

/// Appends lines, not too often.
pub(super) struct Reporter<'a> {
    file: Option<File>,
    clock: &'a dyn Fn() -> Duration,
    last: Cell<Option<Duration>>,
}

impl<'a> Reporter<'a> {
    /// Of the attempt in `directory`. Where no file can be written, nobody is told.
    pub(super) fn new(directory: &Path, clock: &'a dyn Fn() -> Duration) -> Self {
        let mut options = OpenOptions::new();
        let options = options.append(true).create(true);
        let file = regular::open_unlinked(options, &directory.join(NAME));
        Self {
            file: file.ok(),
            clock,
            last: Cell::new(None),
        }
    }

    /// Tells of some progress, unless it was told of a moment ago.
    pub(super) fn tell(&self, progress: impl FnOnce() -> Progress) {
        let now = (self.clock)();
        let is_early = self.last.get().is_some_and(|last| now < last + INTERVAL);
        if let (Some(mut file), false) = (self.file.as_ref(), is_early) {
            self.last.set(Some(now));
            if let Ok(mut line) = serde_json::to_string(&progress()) {
                line.push('\n');
                // Watching is a courtesy: a full disk shows where results are written.
                let _ = file.write_all(line.as_bytes());
            }
        }
    }
}

/// How far the attempt in `directory` was when it last told; `None` if it has not.
pub fn last_progress(directory: &Path) -> Option<Progress> {
    let tail = tail(&directory.join(NAME)).ok()?;
    let text = String::from_utf8_lossy(&tail);
    // The last line may be cut off.
    let whole = text.rsplit_once('\n')?.0;
    let line = whole.rsplit('\n').next()?;
    serde_json::from_str(line).ok()
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = regular::open(path, Links::Refuse)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_whole_line_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(last_progress(directory.path()), None);
        let now = Cell::new(Duration::ZERO);
        let clock = || now.get();
        let reporter = Reporter::new(directory.path(), &clock);
        let progress = |step| Progress {
            step,
            steps: 9,
            text: "a".to_owned(),
        };
        reporter.tell(|| progress(1));
        reporter.tell(|| progress(2));
        assert_eq!(last_progress(directory.path()), Some(progress(1)));
        now.set(Duration::from_secs(1));
        reporter.tell(|| progress(3));
        assert_eq!(last_progress(directory.path()), Some(progress(3)));
        let path = directory.path().join(NAME);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"step\":");
        fs::write(&path, text).unwrap();
        assert_eq!(last_progress(directory.path()), Some(progress(3)));
    }
}
