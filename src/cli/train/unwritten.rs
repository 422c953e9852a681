//! Where an output cannot be written: that is found out before the first step, and what was
//! trained is put elsewhere if it is found out at the end all the same.

use std::path::Path;
use std::path::PathBuf;

use sms_merge::format::replace::Existing;
use sms_merge::format::replace::ReplaceError;
use sms_merge::format::replace::Target;
use sms_merge::graph::Graph;
use sms_merge::train::Weights;
use sms_merge::train::WeightsError;
use sms_merge::train::card::metadata;
use sms_merge::train::record::Record;
use sms_merge::train::state::write_state;
use sms_merge::train::trainer::State;
use thiserror::Error;

use crate::cli::exit::quoted;
use crate::cli::text::shown;
use crate::cli::train::watch::Saving;

/// What was trained is not where it was to be.
#[derive(Debug, Error)]
#[error("{}", self.sentence())]
pub(crate) struct Unwritten {
    what: &'static str,
    /// Where it was to be.
    path: PathBuf,
    /// Where it is instead.
    rescued: Option<PathBuf>,
    /// The last state that was saved before.
    state: Option<PathBuf>,
    source: WeightsError,
}

impl Unwritten {
    /// Puts the outcome of a training elsewhere, if that is possible.
    pub(super) fn outcome(
        saving: &Saving<'_>,
        outcome: &Weights,
        path: &Path,
        state: Option<&Path>,
        source: WeightsError,
    ) -> Self {
        let write = |target: &Target| {
            let metadata = metadata(saving.record);
            outcome.write(saving.graph, &metadata, target, saving.durability)
        };
        Self {
            what: "the trained checkpoint",
            path: path.to_owned(),
            rescued: rescue(path, write),
            state: state.map(Path::to_owned),
            source,
        }
    }

    /// Puts the state of a training elsewhere, if that is possible.
    pub(super) fn state(
        saving: &Saving<'_>,
        state: &State,
        path: &Path,
        source: WeightsError,
    ) -> Self {
        let write = |target: &Target| {
            let (graph, masks) = (saving.graph, saving.masks);
            write_state(
                graph,
                state,
                masks,
                saving.record,
                target,
                saving.durability,
            )
        };
        Self {
            what: "the state",
            path: path.to_owned(),
            rescued: rescue(path, write),
            state: None,
            source,
        }
    }

    fn sentence(&self) -> String {
        let (what, path) = (self.what, shown(&self.path));
        let rest = match (&self.rescued, &self.state) {
            (Some(rescued), _) => format!("it is in `{}` instead", shown(rescued)),
            (None, Some(state)) => format!("it is lost but for the state in `{}`", shown(state)),
            (None, None) => "it is lost".to_owned(),
        };
        format!("{what} cannot be written to `{path}`: {rest}")
    }

    /// What to run next.
    pub(crate) fn next(&self) -> Option<String> {
        match (&self.rescued, &self.state) {
            (Some(rescued), _) => Some(format!(
                "when there is room again, mv {} {}",
                quoted(rescued),
                quoted(&self.path)
            )),
            (None, Some(_)) => Some("repeat the command with `--resume`".to_owned()),
            (None, None) => None,
        }
    }
}

/// Writes to the directory for temporary files. `None` if that fails, too.
fn rescue(path: &Path, write: impl Fn(&Target) -> Result<(), WeightsError>) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy();
    let name = format!("sms-merge-{}-{name}", std::process::id());
    let place = std::env::temp_dir().join(name);
    let target = Target::for_file(&place, Existing::Refuse).ok()?;
    write(&target).ok()?;
    Some(place)
}

/// Checks, before the first step, that checkpoint and state can be written.
pub(super) fn probe(
    graph: &Graph,
    record: &Record,
    targets: [&Target; 2],
) -> Result<(), ReplaceError> {
    // F32, and I64 for each count of batches; a header has a hundred bytes for a tensor.
    let numbers = graph.parameters.iter().map(|it| 8 + 4 * it.shape.numel());
    let text: usize = metadata(record).values().map(String::len).sum();
    let bytes = numbers.sum::<u64>() + text as u64;
    targets.iter().try_for_each(|target| target.probe(bytes))
}
