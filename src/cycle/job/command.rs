//! Steps of the user's own commands: a trainer that is told everything by a JSON file,
//! variables and placeholders, and a command that measures.

mod scores;
mod told;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::Bench;
use super::JobError;
use super::Made;
use super::finite::check_finite;
use super::unmasked::revived;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::DtypeRule;
use crate::checkpoint::Ingredients;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::rewrite;
use crate::cycle::executor::Ended;
use crate::cycle::executor::Invocation;
use crate::cycle::executor::Limits;
use crate::cycle::executor::Supervised;
use crate::cycle::executor::Template;
use crate::cycle::executor::last_lines;
use crate::cycle::findings::Scores;
use crate::cycle::measure::owned;
use crate::cycle::recipe::OnUnmasked;
use crate::cycle::work::CommandWork;
use crate::cycle::work::Measure;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::Target;
use crate::train::card::CARD_KEY;
use crate::train::card::Card;

pub use told::PLACEHOLDERS;
pub use told::TOLD_VERSION;
pub use told::Told;

/// Placeholders of a command that measures.
pub const MEASURE_PLACEHOLDERS: [&str; 1] = ["checkpoint"];

/// Lines of a failed command's output that its error shows.
const SHOWN_LINES: usize = 12;
/// Time that a command has to end itself.
const GRACE: Duration = Duration::from_secs(5);

impl Bench<'_> {
    /// Trains by the user's command, and holds what it wrote against its mask.
    pub(super) fn command(&self, work: &CommandWork, measure: &Measure) -> Result<Made, JobError> {
        let told = Told::new(self, work);
        let written = told.output.clone();
        let job = told.job.clone();
        let text = serde_json::to_string_pretty(&told).map_err(JobError::Metrics)?;
        fs::write(&job, text + "\n").map_err(|source| JobError::File { path: job, source })?;
        let command = self.run(
            &work.command,
            &PLACEHOLDERS,
            &told.places(),
            &[&told.metrics],
        )?;
        if !written.exists() {
            return Err(JobError::NoCheckpoint {
                command,
                path: written,
                log: self.attempt.log(),
            });
        }
        let mut made = Made::default();
        let card = self.gauge(measure)?.and_then(|gauge| gauge.card());
        let kept = self.keep_mask(work, &written, card.as_ref(), &mut made)?;
        let output = self.output("checkpoint");
        let reported = scores::read(&command, &told.metrics)?;
        let mut model = self
            .recalibrated(measure, &kept, &output)?
            .unwrap_or_default();
        if let Some(reported) = reported {
            model.curve = reported.epochs;
            model.scores = model.scores.or(reported.scores);
        }
        made.metrics.model = Some(model);
        made.outputs.insert("checkpoint".to_owned(), output);
        Ok(made)
    }

    /// The checkpoint that a trainer wrote, as one file that keeps to the mask and says
    /// what it is: `card`, unless the trainer said it.
    fn keep_mask(
        &self,
        work: &CommandWork,
        written: &Path,
        card: Option<&Card>,
        made: &mut Made,
    ) -> Result<PathBuf, JobError> {
        let scratch = self.attempt.scratch();
        let open = |path: &Path| Checkpoint::open(path, &OpenOptions::default());
        let checkpoint = open(written)?;
        if let Some(base) = self.optional("base") {
            // Names, shapes and types must be those of the base.
            Ingredients::join(
                vec![open(&base)?, open(written)?],
                None,
                DtypeRule::Same,
                |_| true,
            )?;
        }
        let single = scratch.join("written.st");
        let target = Target::for_file(&single, Existing::Replace)?;
        let mut metadata = owned(&checkpoint.metadata());
        if let Some(card) = card {
            let text = || card.to_text();
            metadata.entry(CARD_KEY.to_owned()).or_insert_with(text);
        }
        let nothing = std::collections::BTreeMap::new();
        let durability = Durability::Unsynced;
        rewrite(&checkpoint, &metadata, &nothing, &target, durability)?;
        check_finite(&single)?;
        let Some(mask) = self.optional("mask") else {
            return Ok(single);
        };
        let revived = revived(&single, &mask)?;
        let Some(first) = revived.first() else {
            return Ok(single);
        };
        if work.on_unmasked == OnUnmasked::Error {
            return Err(JobError::Unmasked {
                tensor: first.tensor.clone(),
                found: first.count,
                index: first.index,
                more_tensors: revived.len() - 1,
            });
        }
        made.metrics.remasked = revived.iter().map(|tensor| tensor.count).sum();
        let masked = scratch.join("masked.st");
        self.put_mask(&single, &mask, &masked)?;
        Ok(masked)
    }

    /// What the user's command says of a checkpoint.
    pub(super) fn commanded(&self, measure: &Measure, path: &Path) -> Result<Scores, JobError> {
        let Some(command) = &measure.command else {
            return Ok(Scores::default());
        };
        let before = fs::metadata(self.attempt.log()).map_or(0, |log| log.len());
        let places = [("checkpoint", path.as_os_str().to_owned())];
        let command = self.run(command, &MEASURE_PLACEHOLDERS, &places, &[])?;
        scores::printed(
            &command,
            &self.attempt.log(),
            before,
            measure.metric.as_deref(),
        )
    }

    /// Runs a command of the user's to its end. Returns its words for messages.
    fn run(
        &self,
        command: &str,
        known: &[&str],
        places: &[(&'static str, OsString)],
        watched: &[&Path],
    ) -> Result<String, JobError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| JobError::Spawn {
            command: command.to_owned(),
            source,
        };
        let template = Template::parse(command, known).map_err(|error| failed(error.into()))?;
        let words = template.fill(&places.iter().cloned().collect());
        let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let shown = shown.join(" ");
        let environment: Vec<(OsString, OsString)> = places
            .iter()
            .map(|(name, value)| {
                let variable = format!("SMS_MERGE_{}", name.to_uppercase());
                (variable.into(), value.clone())
            })
            .collect();
        let settings = &self.job.settings;
        let log = self.attempt.log();
        let here = Path::new(".");
        let invocation = Invocation {
            program: self.around.program,
            words: &words,
            environment: &environment,
            directory: settings.command_directory.as_deref().unwrap_or(here),
            log: &log,
        };
        let limits = Limits {
            wall: settings.timeout_secs.map(Duration::from_secs),
            stall: settings.stall_secs.map(Duration::from_secs),
            grace: GRACE,
        };
        let spawned = Supervised::spawn(&invocation).map_err(|error| failed(error.into()))?;
        let (clock, interrupted) = (self.around.clock, self.around.interrupted);
        let ended = spawned.wait(&limits, watched, clock, interrupted);
        match ended.map_err(|error| failed(error.into()))? {
            Ended::Success => Ok(shown),
            Ended::Interrupted => Err(JobError::Interrupted),
            ended => Err(JobError::Command {
                command: shown,
                how: ended.to_string(),
                last_lines: last_lines(&log, SHOWN_LINES).unwrap_or_default(),
                log,
            }),
        }
    }
}
