//! How a run ends: errors walk in, an exit status and lines for people (or an object
//! for programs) walk out.

mod adapter;
#[cfg(feature = "train")]
mod cycle;
mod export;
mod graph;
mod ingredients;
mod prune;
#[cfg(feature = "train")]
mod train;
mod words;

use std::io;

use serde::Serialize;
use sms_merge::adapter::AdapterError;
use sms_merge::checkpoint::CheckpointError;
use sms_merge::checkpoint::IngredientsError;
use sms_merge::checkpoint::OutputError;
use sms_merge::checkpoint::map::SourceError;
use sms_merge::connectivity::Mismatch;
use sms_merge::export::onnx::OnnxError;
use sms_merge::export::template::TemplateError;
use sms_merge::format::replace::Failure;
use sms_merge::format::replace::ReplaceError;
use sms_merge::graph::models::ModelError;
use sms_merge::kernel::cuda::DeviceError;
use sms_merge::merge::CertificateError;
use sms_merge::merge::MergeError;
use sms_merge::prune::PruneError;
use thiserror::Error;

use crate::cli::architecture::ArchitectureError;
use crate::cli::command::CommandError;
use crate::cli::greedy::ScoreError;
use crate::cli::ingredients::ChoiceError;
use crate::cli::limits;
use crate::cli::masks;
use crate::cli::masks::MismatchObject;
use crate::cli::metrics::MetricsError;
use crate::cli::model::ForeignError;
use crate::cli::text::Clean;
use crate::cli::text::StdoutError;
use crate::cli::usage;
use crate::cli::verify::NotTheIngredients;

pub(crate) use words::quoted;
pub(in crate::cli) use words::repeated;
pub(in crate::cli) use words::word;

/// What a shell adds to the number of a signal that ended a program.
const SIGNALLED: u8 = 128;

/// Number of the signal that Ctrl-C sends.
const SIGINT: u8 = 2;

/// How a run ended. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done,
    /// It is not, and no other status fits.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The inputs do not go together, or are no checkpoints.
    Incompatible,
    /// The ingredients do not share one connectivity.
    Connectivity,
    /// Reading or writing failed, or space ran out.
    Io,
    /// A soup is not what it should be.
    Verification,
    /// The user asked to stop.
    Interrupted,
}

impl Exit {
    /// The number that the system is told.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Incompatible => 3,
            Self::Connectivity => 4,
            Self::Io => 5,
            Self::Verification => 6,
            Self::Interrupted => SIGNALLED + SIGINT,
        }
    }

    /// The number after a signal, 0 if there was none: what a shell says of a program that
    /// the signal ended.
    pub(crate) fn code_after(self, signal: u8) -> u8 {
        match self {
            Self::Interrupted if signal > 0 => SIGNALLED.saturating_add(signal),
            _ => self.code(),
        }
    }

    /// The word for it in JSON.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Incompatible => "incompatible",
            Self::Connectivity => "connectivity",
            Self::Io => "io",
            Self::Verification => "verification",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A command line that clap accepts and that still makes no sense.
#[derive(Debug, Error)]
#[error("{message}")]
pub(crate) struct UsageError {
    /// What is wrong.
    pub(crate) message: String,
    /// What to run instead.
    pub(crate) next: Option<String>,
}

/// A failure as an object for programs.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorObject {
    /// Word for the exit status.
    pub(crate) kind: &'static str,
    /// What happened.
    pub(crate) message: String,
    /// Why, the nearest cause first.
    pub(crate) causes: Vec<String>,
    /// Exit status.
    pub(crate) exit: u8,
    /// What to run next, if that is known.
    pub(crate) next: Option<String>,
    /// The argument that is wrong, of a command line that is.
    pub(crate) argument: Option<String>,
    /// How masks differ, if that is the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mismatch: Option<MismatchObject>,
}

impl ErrorObject {
    /// Everything that is known about `error`, after a signal, 0 if there was none.
    pub(crate) fn new(error: &anyhow::Error, signal: u8) -> Self {
        let exit = exit_of(error);
        let mut messages = error.chain().map(ToString::to_string);
        Self {
            kind: exit.kind(),
            message: messages.next().unwrap_or_default(),
            causes: messages.collect(),
            exit: exit.code_after(signal),
            next: next_of(error),
            argument: usage::argument_of(exit, error),
            mismatch: mismatch_of(error).map(MismatchObject::new),
        }
    }

    /// The lines for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("error: {}", Clean(&self.message))];
        for cause in &self.causes {
            lines.push(format!("  caused by: {}", Clean(cause)));
        }
        if let Some(next) = &self.next {
            lines.push(format!("next: {}", Clean(next)));
        }
        lines
    }
}

/// The status that `error` ends the run with: that of the outermost error known here.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(|cause| {
            if let Some(error) = cause.downcast_ref::<ChoiceError>() {
                return Some(of_choice(error));
            }
            if let Some(error) = cause.downcast_ref::<CheckpointError>() {
                return Some(of_checkpoint(error));
            }
            if let Some(error) = cause.downcast_ref::<IngredientsError>() {
                return Some(of_ingredients(error));
            }
            if let Some(error) = cause.downcast_ref::<MergeError>() {
                return Some(of_merge(error));
            }
            if let Some(error) = cause.downcast_ref::<AdapterError>() {
                return Some(adapter::of_adapter(error));
            }
            if let Some(error) = cause.downcast_ref::<PruneError>() {
                return Some(prune::of_prune(error));
            }
            if let Some(error) = cause.downcast_ref::<TemplateError>() {
                return Some(export::of_template(error));
            }
            if let Some(error) = cause.downcast_ref::<OnnxError>() {
                return Some(export::of_onnx(error));
            }
            if let Some(error) = cause.downcast_ref::<OutputError>() {
                return Some(of_output(error));
            }
            if let Some(error) = cause.downcast_ref::<CertificateError>() {
                return Some(of_certificate(error));
            }
            if let Some(error) = cause.downcast_ref::<ArchitectureError>() {
                return Some(error.exit());
            }
            if let Some(error) = cause.downcast_ref::<CommandError>() {
                return Some(match error {
                    CommandError::Stopped { .. } => Exit::Interrupted,
                    _ => Exit::Failed,
                });
            }
            if cause.is::<ScoreError>() {
                return Some(Exit::Failed);
            }
            if cause.is::<ModelError>() {
                return Some(Exit::Usage);
            }
            if cause.is::<ForeignError>() {
                return Some(Exit::Incompatible);
            }
            #[cfg(feature = "train")]
            if let Some(exit) = cycle::exit_of(cause).or_else(|| train::exit_of(cause)) {
                return Some(exit);
            }
            if let Some(error) = cause.downcast_ref::<SourceError>() {
                return Some(of_source(error));
            }
            let is_io = cause.is::<StdoutError>() || cause.is::<io::Error>();
            if is_io {
                return Some(Exit::Io);
            }
            cause.is::<UsageError>().then_some(Exit::Usage)
        })
        .unwrap_or(Exit::Failed)
}

fn of_choice(error: &ChoiceError) -> Exit {
    match error {
        ChoiceError::NoMatch { .. }
        | ChoiceError::Listing { .. }
        | ChoiceError::List { .. }
        | ChoiceError::Metrics(MetricsError::Read { .. }) => Exit::Io,
        ChoiceError::Interrupted { .. } => Exit::Interrupted,
        _ => Exit::Usage,
    }
}

fn of_checkpoint(error: &CheckpointError) -> Exit {
    match error {
        CheckpointError::Source(error) => of_source(error),
        CheckpointError::Beside { source, .. } | CheckpointError::MissingShard { source, .. } => {
            of_source(source)
        }
        CheckpointError::List { .. } => Exit::Io,
        _ => Exit::Incompatible,
    }
}

fn of_source(error: &SourceError) -> Exit {
    match error {
        SourceError::Content { .. } => Exit::Incompatible,
        _ => Exit::Io,
    }
}

fn of_ingredients(error: &IngredientsError) -> Exit {
    match error {
        IngredientsError::None | IngredientsError::Nothing => Exit::Usage,
        IngredientsError::Source(error) => of_source(error),
        _ => Exit::Incompatible,
    }
}

fn of_merge(error: &MergeError) -> Exit {
    match error {
        MergeError::TooFew { .. }
        | MergeError::WeightCount { .. }
        | MergeError::Weights(_)
        | MergeError::OutputDtype { .. }
        | MergeError::Model { .. }
        | MergeError::Device(DeviceError::Limit { .. })
        | MergeError::UnusedPattern { .. } => Exit::Usage,
        MergeError::Ingredients(error) => of_ingredients(error),
        MergeError::NotAMask { .. }
        | MergeError::Hollow { .. }
        | MergeError::NonFinite { .. }
        | MergeError::IntegerMismatch { .. }
        | MergeError::Quantised { .. }
        | MergeError::OpaqueMismatch { .. } => Exit::Incompatible,
        MergeError::Connectivity(_) => Exit::Connectivity,
        MergeError::NotAsJudged { .. } => Exit::Io,
        MergeError::Adapter(error) => adapter::of_adapter(error),
        MergeError::Overflow { .. } => Exit::Incompatible,
        MergeError::Source(error) => of_source(error),
        MergeError::Output(error) => of_output(error),
        MergeError::Interrupted => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

fn of_output(error: &OutputError) -> Exit {
    match error {
        OutputError::Replace(error) => of_replace(error),
        OutputError::Space { .. } => Exit::Io,
        OutputError::Template(error) => of_source(error),
        OutputError::OffMask { .. } => Exit::Connectivity,
        _ => Exit::Usage,
    }
}

/// A directory that is not there is no slip of the pen in the command line, wherever it is
/// named.
fn of_replace(error: &ReplaceError) -> Exit {
    match error {
        ReplaceError::ParentMissing { .. } | ReplaceError::ParentKind { .. } => Exit::Io,
        error if error.kind() == Failure::Refused => Exit::Usage,
        _ => Exit::Io,
    }
}

fn of_certificate(error: &CertificateError) -> Exit {
    match error {
        CertificateError::Malformed { .. } => Exit::Verification,
        _ => Exit::Incompatible,
    }
}

/// How masks differ, if that is what `error` is about.
pub(crate) fn mismatch_of(error: &anyhow::Error) -> Option<&Mismatch> {
    match error.chain().find_map(|cause| cause.downcast_ref()) {
        Some(MergeError::Connectivity(mismatch)) => Some(mismatch),
        _ => None,
    }
}

/// What to run next, where an error has a remedy that its message does not say.
fn next_of(error: &anyhow::Error) -> Option<String> {
    if let Some(error) = error.downcast_ref::<NotTheIngredients>() {
        return Some(error.next.clone());
    }
    if let Some(mismatch) = mismatch_of(error) {
        return Some(masks::remedy_of(error, mismatch));
    }
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<UsageError>() {
            return error.next.clone();
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return limits::remedy(error);
        }
        if let Some(error) = cause.downcast_ref::<IngredientsError>() {
            return ingredients::next_of(error);
        }
        if let Some(MergeError::Adapter(error)) = cause.downcast_ref() {
            return adapter::after_adapter(error);
        }
        if let Some(error) = cause.downcast_ref::<MergeError>()
            && let Some(next) = ingredients::after_merge(error)
        {
            return Some(next);
        }
        if let Some(error) = cause.downcast_ref() {
            return adapter::after_adapter(error);
        }
        #[cfg(feature = "train")]
        if let Some(next) = train::next_of(cause) {
            return Some(next);
        }
        if let Some(CheckpointError::AmbiguousDirectory { path, found }) = cause.downcast_ref() {
            let first = path.join(found.first()?);
            return Some(format!("sms-merge inspect {}", quoted(&first)));
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::path::PathBuf;

    use anyhow::Context;

    use super::*;

    #[test]
    fn errors_end_with_their_status() {
        let check = |error: anyhow::Error, expected| assert_eq!(exit_of(&error), expected);
        let missing = || SourceError::Missing {
            path: PathBuf::from("a"),
            source: io::ErrorKind::NotFound.into(),
        };
        check(missing().into(), Exit::Io);
        check(CheckpointError::Source(missing()).into(), Exit::Io);
        check(
            Err::<(), _>(missing()).context("context").unwrap_err(),
            Exit::Io,
        );
        let empty = CheckpointError::EmptyDirectory {
            path: PathBuf::from("a"),
            sharded: None,
        };
        check(empty.into(), Exit::Incompatible);
        check(IngredientsError::Nothing.into(), Exit::Usage);
        let unread = ArchitectureError::Read {
            path: PathBuf::from("a.toml"),
            source: io::ErrorKind::NotFound.into(),
        };
        check(unread.into(), Exit::Io);
        let not_text = ArchitectureError::NotText {
            path: PathBuf::from("a.toml"),
        };
        check(not_text.into(), Exit::Usage);
        check(anyhow::anyhow!("something else"), Exit::Failed);
    }

    #[test]
    fn lines_are_clean_and_end_with_what_to_do() {
        let error = ErrorObject {
            kind: "failed",
            message: "`a\u{1b}[2J`\nerror: forged".to_owned(),
            causes: vec!["b".to_owned()],
            exit: 1,
            next: Some("sms-merge --help".to_owned()),
            argument: None,
            mismatch: None,
        };
        assert_eq!(
            error.lines(),
            [
                r"error: `a\u{1b}[2J`\nerror: forged",
                "  caused by: b",
                "next: sms-merge --help"
            ]
        );
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        let check = |path: &str, expected| assert_eq!(quoted(Path::new(path)), expected);
        check("run/a-1.st", "run/a-1.st");
        check("my soup.st", "'my soup.st'");
        check("it's", r"'it'\''s'");
        check("", "''");
    }
}
