//! One step of a run from its directory alone: `job.json` walks in, a receipt walks out.
//!
//! Whoever starts it, on whichever machine that shares the file system: a job reads what
//! its description names by digest, works in an attempt of its own, and publishes. The
//! first receipt of a step is the only one.

mod command;
mod error;
mod failure;
mod finite;
mod merge;
mod metrics;
mod progress;
mod prune;
mod train;
mod unmasked;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::rewrite;
use crate::cycle::measure::Gauge;
use crate::cycle::measure::owned;
use crate::cycle::scene::digest_of_files;
use crate::cycle::store::Artefact;
use crate::cycle::store::Attempt;
use crate::cycle::store::Draft;
use crate::cycle::store::Key;
use crate::cycle::store::Published;
use crate::cycle::store::RunDirectory;
use crate::cycle::work::Import;
use crate::cycle::work::Measure;
use crate::cycle::work::Work;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::Target;

pub use command::MEASURE_PLACEHOLDERS;
pub use command::PLACEHOLDERS;
pub use command::TOLD_VERSION;
pub use command::Told;
pub use error::JobError;
pub use failure::Failure;
pub use metrics::Metrics;
pub use progress::Progress;
pub use progress::last_progress;

/// Version of `job.json`.
pub const JOB_VERSION: u32 = 1;

/// Extension of checkpoints in a run directory.
const EXTENSION: &str = "st";

/// What a worker is told: the content of `job.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Version of these fields.
    pub format_version: u32,
    /// The step's key.
    pub key: Key,
    /// What the step is called.
    pub label: String,
    /// What it does.
    pub work: Work,
    /// What it reads, by role: files of the run directory.
    pub inputs: BTreeMap<String, Artefact>,
    /// What does not decide its outcome.
    pub settings: Settings,
}

/// What does not decide the outcome of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Where the files of a known data set are.
    pub data_directory: Option<PathBuf>,
    /// The checkpoint that is imported.
    pub given: Option<PathBuf>,
    /// Directory in which the user's commands are run.
    pub command_directory: Option<PathBuf>,
    /// Seconds after which the user's command is ended.
    pub timeout_secs: Option<u64>,
    /// Seconds without output after which it is ended.
    pub stall_secs: Option<u64>,
}

/// What a worker has that its job does not say.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Threads that compute; they change no bit of the outcome.
    pub threads: usize,
    /// This program, to start the user's commands with.
    pub program: &'a Path,
    /// Time that has passed.
    pub clock: &'a dyn Fn() -> Duration,
    /// Set if the job is to end.
    pub interrupted: &'a AtomicBool,
}

/// One attempt at a job.
struct Bench<'a> {
    run: &'a RunDirectory,
    job: &'a Job,
    attempt: &'a Attempt,
    around: Surroundings<'a>,
}

/// What an attempt made.
#[derive(Default)]
struct Made {
    outputs: BTreeMap<String, PathBuf>,
    metrics: Metrics,
}

/// Runs the job in `directory`, which is `jobs/<key>` of a run directory.
///
/// # Errors
/// [`JobError`]; then nothing was published, and the run directory is as it was but for
/// the attempt's own directory.
pub fn run_job(directory: &Path, around: Surroundings<'_>) -> Result<Published, JobError> {
    let done = attempt(directory, around);
    if let Err(error) = &done
        && !error.is_interruption()
    {
        Failure::of(error).write(directory);
    }
    done
}

fn attempt(directory: &Path, around: Surroundings<'_>) -> Result<Published, JobError> {
    let started = (around.clock)();
    let (run, key) = RunDirectory::of_job(directory)?;
    let job: Job = RunDirectory::read_job(directory)?;
    if job.format_version != JOB_VERSION || job.key != key {
        return Err(JobError::OtherJob {
            path: directory.to_owned(),
        });
    }
    check_names(&job)?;
    run.probe()?;
    let attempt = run.begin_attempt(&key)?;
    let bench = Bench {
        run: &run,
        job: &job,
        attempt: &attempt,
        around,
    };
    bench.check_inputs()?;
    bench.name_inputs()?;
    let made = bench.work()?;
    let metrics = serde_json::to_value(&made.metrics).map_err(JobError::Metrics)?;
    let draft = Draft {
        label: job.label.clone(),
        kind: job.work.kind().to_owned(),
        outputs: made.outputs,
        metrics,
        elapsed_secs: (around.clock)().saturating_sub(started).as_secs_f64(),
    };
    Ok(attempt.publish(draft)?)
}

/// Refuses a job whose inputs would be read or named outside the run directory: whoever may
/// write there may have written `job.json`.
fn check_names(job: &Job) -> Result<(), JobError> {
    for (role, artefact) in &job.inputs {
        let is_role = !role.is_empty() && role.bytes().all(is_plain);
        let fault = match (is_role, artefact.is_named_well()) {
            (false, _) => "its role is no name of letters, digits, `-` and `_`",
            (_, false) => "its file is not named as artefacts are",
            (true, true) => continue,
        };
        return Err(JobError::Input {
            role: role.clone(),
            path: PathBuf::from(&artefact.file),
            fault: fault.to_owned(),
        });
    }
    Ok(())
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Gives a file a further name by a link, or a copy where the file system has no links.
fn put_name(from: &Path, path: &Path) -> io::Result<()> {
    match symlink(from, path) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS)
            ) =>
        {
            fs::copy(from, path).map(drop)
        }
        result => result,
    }
}

impl Bench<'_> {
    fn work(&self) -> Result<Made, JobError> {
        match &self.job.work {
            Work::Import(import) => self.import(import),
            Work::Train(train) => self.train(train),
            Work::Prune(prune) => self.prune(prune),
            Work::Merge(merge) => self.merge(merge),
            Work::Reprune(reprune) => self.reprune(reprune),
        }
    }

    /// Holds every input against its digest before a byte of it is used.
    fn check_inputs(&self) -> Result<(), JobError> {
        for (role, artefact) in &self.job.inputs {
            if let Some(fault) = self.run.check(artefact)?.fault() {
                return Err(JobError::Input {
                    role: role.clone(),
                    path: self.run.path_of(artefact),
                    fault,
                });
            }
        }
        Ok(())
    }

    /// Gives every input a name that does not tell which attempt made it: soups record the
    /// names of their ingredients, and attempts must not change a byte.
    fn name_inputs(&self) -> Result<(), JobError> {
        for (role, artefact) in &self.job.inputs {
            let (from, path) = (self.run.path_of(artefact), self.named(role));
            put_name(&from, &path).map_err(|source| JobError::File { path, source })?;
        }
        Ok(())
    }

    fn named(&self, role: &str) -> PathBuf {
        self.attempt.scratch().join(format!("{role}.{EXTENSION}"))
    }

    /// Where an input is, if the job has it.
    fn optional(&self, role: &str) -> Option<PathBuf> {
        let is_there = self.job.inputs.contains_key(role);
        is_there.then(|| self.named(role))
    }

    /// Where an input is.
    fn input(&self, role: &str) -> Result<PathBuf, JobError> {
        self.optional(role).ok_or_else(|| JobError::NoInput {
            role: role.to_owned(),
        })
    }

    /// The ingredients, in their order.
    fn ingredients(&self) -> Result<Vec<PathBuf>, JobError> {
        let prefix = "ingredient-";
        let mut found: Vec<(usize, PathBuf)> = Vec::new();
        for role in self.job.inputs.keys() {
            let number = role.strip_prefix(prefix);
            if let Some(number) = number.and_then(|text| text.parse().ok()) {
                found.push((number, self.input(role)?));
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Where an output goes.
    fn output(&self, name: &str) -> PathBuf {
        self.attempt.artefact(name, EXTENSION)
    }

    fn gauge<'b>(&'b self, measure: &'b Measure) -> Result<Option<Gauge<'b>>, JobError> {
        let directory = self.job.settings.data_directory.as_deref();
        let (threads, interrupted) = (self.around.threads, self.around.interrupted);
        Ok(Gauge::open(measure, directory, threads, interrupted)?)
    }

    /// Copies the user's checkpoint into the run directory: one file, as safetensors.
    fn import(&self, import: &Import) -> Result<Made, JobError> {
        let given = self.job.settings.given.as_deref();
        let given = given.ok_or_else(|| JobError::NoInput {
            role: "given".to_owned(),
        })?;
        let checkpoint = Checkpoint::open(given, &OpenOptions::default())?;
        let parameters = serde_json::to_value(&self.job.work).map_err(JobError::Metrics)?;
        let digest = digest_of_files(&checkpoint)?;
        let digests = BTreeMap::from([("given".to_owned(), digest)]);
        if Key::of(self.job.work.kind(), &parameters, &digests) != self.job.key {
            return Err(JobError::OtherGiven {
                path: given.to_owned(),
            });
        }
        let output = self.output("checkpoint");
        let target = Target::for_file(&output, Existing::Refuse)?;
        let metadata = owned(&checkpoint.metadata());
        let nothing = BTreeMap::new();
        rewrite(
            &checkpoint,
            &metadata,
            &nothing,
            &target,
            Durability::Unsynced,
        )?;
        let mut made = Made::default();
        made.metrics.model = self.measured(&import.measure, &output)?;
        made.outputs.insert("checkpoint".to_owned(), output);
        Ok(made)
    }
}
