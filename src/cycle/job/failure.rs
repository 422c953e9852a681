//! Why an attempt failed, as its worker leaves it for the coordinator.

use std::error::Error;
use std::fs;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use super::JobError;
use crate::format::regular::TEXT_LIMIT;
use crate::format::regular::open_unlinked;
use crate::format::regular::read_text_unlinked;

/// Name of the file in a job's directory.
const NAME: &str = "failure.json";

/// Why the last attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened.
    pub message: String,
    /// Why, the nearest cause first.
    pub causes: Vec<String>,
    /// Whether another attempt would fail in the same way.
    pub is_permanent: bool,
}

impl Failure {
    /// What is told of an error.
    pub fn of(error: &JobError) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Self {
            message: error.to_string(),
            causes,
            is_permanent: error.is_permanent(),
        }
    }

    /// Leaves it in the job's directory. Where that cannot be written, the coordinator
    /// tells of the exit status instead.
    pub(super) fn write(&self, directory: &Path) {
        if let Ok(text) = serde_json::to_string_pretty(self) {
            // What is there is removed, so that nothing is written through it.
            Self::forget(directory);
            let mut options = OpenOptions::new();
            let options = options.write(true).create_new(true);
            let file = open_unlinked(options, &directory.join(NAME));
            let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
        }
    }

    /// What the last attempt left, if it left anything.
    pub fn read(directory: &Path) -> Option<Self> {
        let text = read_text_unlinked(&directory.join(NAME), TEXT_LIMIT).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Removes what an earlier attempt left.
    pub fn forget(directory: &Path) {
        let _ = fs::remove_file(directory.join(NAME));
    }
}
