//! Metrics on the way: numbers walk in, lines of JSON and records for TensorBoard are
//! appended to files.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde_json::Value;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::format::replace::ReplaceError;
use sms_merge::format::replace::StagedFile;
use sms_merge::format::replace::Target;
use sms_merge::format::tensorboard;
use thiserror::Error;

/// Why metrics are not recorded.
#[derive(Debug, Error)]
pub(crate) enum LogError {
    /// There is a file already.
    #[error("`{}` exists; pass `--force` to replace it, or name another file", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("metrics cannot be written to `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lines before a break cannot be kept.
    #[error("metrics cannot be written")]
    Replace(#[from] ReplaceError),
}

/// Where a log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// There is none yet.
    New,
    /// There is none, or it may be replaced.
    Anew,
    /// After these steps of a training that was interrupted.
    After(u64),
}

/// Lines of JSON.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens the file; of a training that goes on, keeps the lines up to its step.
    pub(super) fn open(path: &Path, beginning: Beginning) -> Result<Self, LogError> {
        let failed = |source| LogError::Write {
            path: path.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options.append(true);
        match beginning {
            Beginning::New => options.create_new(true),
            Beginning::Anew | Beginning::After(_) => options.create(true),
        };
        match beginning {
            Beginning::New => {}
            Beginning::Anew => {
                // A pipe or a terminal has no length to cut.
                if fs::metadata(path).is_ok_and(|found| found.is_file()) {
                    File::create(path).map_err(failed)?;
                }
            }
            Beginning::After(step) => keep_lines(path, step)?,
        }
        let file = options.open(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => LogError::Exists {
                path: path.to_owned(),
            },
            _ => failed(source),
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends an object.
    pub(super) fn write(&mut self, object: &impl Serialize) -> Result<(), LogError> {
        let write = || -> io::Result<()> {
            let mut line = serde_json::to_string(object)?;
            line.push('\n');
            self.file.write_all(line.as_bytes())
        };
        let mut write = write;
        write().map_err(|source| LogError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

/// Removes what was recorded of later steps than `step`, and the end of a line that was
/// cut off.
fn keep_lines(path: &Path, step: u64) -> Result<(), LogError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(LogError::Write {
                path: path.to_owned(),
                source,
            });
        }
    };
    let is_kept = |line: &&str| {
        let object: Option<Value> = serde_json::from_str(line).ok();
        let found = object.and_then(|object| object.get("step")?.as_u64());
        line.ends_with('\n') && found.is_some_and(|found| found <= step)
    };
    let kept: String = text.split_inclusive('\n').filter(is_kept).collect();
    if kept != text {
        let target = Target::for_file(path, Existing::Replace)?;
        let file = StagedFile::create(&target, kept.len() as u64, Durability::Unsynced)?;
        file.write_at(kept.as_bytes(), 0)?;
        file.publish()?;
    }
    Ok(())
}

/// An event file.
#[derive(Debug)]
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file in `directory`, which is created; the training begins after `step`.
    pub(super) fn create(directory: &Path, step: u64) -> Result<Self, LogError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LogError::Write { path, source }
        };
        fs::create_dir_all(directory).map_err(failed(directory))?;
        let now = wall_time();
        // TensorBoard reads files with `tfevents` in their names, in the order of these.
        let name = format!(
            "events.out.tfevents.{:010}.sms-merge.{}.{:09}",
            now.as_secs(),
            std::process::id(),
            now.subsec_nanos()
        );
        let path = directory.join(name);
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let mut events = Self {
            file: file.map_err(failed(&path))?,
            path,
        };
        events.append(&tensorboard::file_version(now.as_secs_f64()))?;
        events.append(&tensorboard::session_start(now.as_secs_f64(), step))?;
        Ok(events)
    }

    /// Appends numbers of a step.
    pub(super) fn write(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), LogError> {
        let values: Vec<(&str, f32)> = values
            .iter()
            .map(|&(tag, value)| (tag, value as f32))
            .collect();
        self.append(&tensorboard::scalars(
            wall_time().as_secs_f64(),
            step,
            &values,
        ))
    }

    fn append(&mut self, record: &[u8]) -> Result<(), LogError> {
        let written = self.file.write_all(record);
        written.map_err(|source| LogError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

/// Time since 1970; none on a clock that is set before it.
fn wall_time() -> std::time::Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_saved_state_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        let write = |beginning, steps: &[u64]| -> Result<String, LogError> {
            let mut lines = Lines::open(&path, beginning)?;
            for step in steps {
                lines.write(&serde_json::json!({ "step": step }))?;
            }
            Ok(fs::read_to_string(&path).unwrap())
        };
        let text = |steps: &[u64]| -> String {
            let lines = steps.iter().map(|step| format!("{{\"step\":{step}}}\n"));
            lines.collect()
        };
        assert_eq!(
            write(Beginning::After(3), &[1, 2, 3]).unwrap(),
            text(&[1, 2, 3])
        );
        assert!(matches!(
            write(Beginning::New, &[]),
            Err(LogError::Exists { .. })
        ));
        let mut cut = fs::read_to_string(&path).unwrap();
        cut.push_str("{\"step\":4}\n{\"step\":");
        fs::write(&path, &cut).unwrap();
        assert_eq!(
            write(Beginning::After(2), &[3, 4]).unwrap(),
            text(&[1, 2, 3, 4])
        );
        assert_eq!(write(Beginning::Anew, &[7]).unwrap(), text(&[7]));
    }
}
