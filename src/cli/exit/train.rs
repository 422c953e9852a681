//! How a run of the trainer ends.

use std::error::Error;

use sms_merge::checkpoint::RewriteError;
use sms_merge::format::replace::ReplaceError;
use sms_merge::graph::DescriptionError;
use sms_merge::graph::models::ModelError;
use sms_merge::train::WeightsError;
use sms_merge::train::card::CardError;
use sms_merge::train::data::DataError;
use sms_merge::train::device::DeviceError;
use sms_merge::train::engine::EngineError;
use sms_merge::train::evaluate::EvaluateError;
use sms_merge::train::masks::MaskError;
use sms_merge::train::recalibrate::RecalibrateError;
use sms_merge::train::recipe::RecipeError;
use sms_merge::train::record::RecordError;
use sms_merge::train::state::StateError;
use sms_merge::train::trainer::FitError;

use crate::cli::eval::Stopped;
use crate::cli::exit::Exit;
use crate::cli::exit::of_checkpoint;
use crate::cli::exit::of_replace;
use crate::cli::exit::of_source;
use crate::cli::train::Interrupted;
use crate::cli::train::LogError;
use crate::cli::train::Unwritten;

/// The status that an error of the trainer ends the run with, if `cause` is one that
/// tells.
pub(super) fn exit_of(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if cause.is::<Interrupted>() || cause.is::<Stopped>() {
        return Some(Exit::Interrupted);
    }
    if let Some(error) = cause.downcast_ref::<DataError>() {
        return Some(of_data(error));
    }
    if let Some(error) = cause.downcast_ref::<DeviceError>() {
        return Some(match error {
            DeviceError::NotBuilt => Exit::Usage,
            _ => Exit::Failed,
        });
    }
    if let Some(error) = cause.downcast_ref::<EvaluateError>() {
        return Some(match error {
            EvaluateError::Image { .. } | EvaluateError::Classes { .. } => Exit::Incompatible,
            EvaluateError::NonFinite { .. } | EvaluateError::Engine(_) => Exit::Failed,
        });
    }
    if let Some(error) = cause.downcast_ref::<RecalibrateError>() {
        return Some(match error {
            RecalibrateError::NoBatch { .. } => Exit::Usage,
            RecalibrateError::Value { .. } | RecalibrateError::Engine { .. } => Exit::Failed,
        });
    }
    if let Some(error) = cause.downcast_ref::<RewriteError>() {
        return Some(match error {
            RewriteError::Source(error) => of_source(error),
            RewriteError::Output(error) => of_replace(error),
            RewriteError::Model { .. } => Exit::Incompatible,
            RewriteError::Layout(_) | RewriteError::Length { .. } => Exit::Failed,
        });
    }
    if let Some(error) = cause.downcast_ref::<FitError>() {
        return of_fit(error);
    }
    if let Some(error) = cause.downcast_ref::<WeightsError>() {
        return Some(match error {
            WeightsError::Source(error) => of_source(error),
            WeightsError::Output(error) => of_replace(error),
            _ => Exit::Incompatible,
        });
    }
    if let Some(error) = cause.downcast_ref::<LogError>() {
        return Some(match error {
            LogError::Exists { .. } => Exit::Usage,
            LogError::Replace(error) => of_replace(error),
            LogError::Write { .. } => Exit::Io,
        });
    }
    if let Some(error) = cause.downcast_ref::<ReplaceError>() {
        return Some(of_replace(error));
    }
    if cause.downcast_ref::<EngineError>().is_some_and(is_memory) {
        return Some(Exit::Io);
    }
    if let Some(error) = cause.downcast_ref::<StateError>() {
        return Some(match error {
            StateError::Source(error) => of_source(error),
            _ => Exit::Incompatible,
        });
    }
    if let Some(error) = cause.downcast_ref::<MaskError>() {
        return Some(match error {
            MaskError::Source(_) => Exit::Io,
            _ => Exit::Incompatible,
        });
    }
    if cause.is::<RecordError>() || cause.is::<CardError>() {
        return Some(Exit::Incompatible);
    }
    let is_usage =
        cause.is::<ModelError>() || cause.is::<DescriptionError>() || cause.is::<RecipeError>();
    is_usage.then_some(Exit::Usage)
}

pub(super) fn of_data(error: &DataError) -> Exit {
    match error {
        DataError::Unknown { .. }
        | DataError::DirectoryUnused { .. }
        | DataError::Part { .. }
        | DataError::Fraction { .. } => Exit::Usage,
        DataError::Missing { .. }
        | DataError::Directory { .. }
        | DataError::Source(_)
        | DataError::Memory { .. } => Exit::Io,
        DataError::Checkpoint(error) => of_checkpoint(error),
        _ => Exit::Incompatible,
    }
}

/// `None` where a cause says more.
fn of_fit(error: &FitError) -> Option<Exit> {
    match error {
        FitError::Recipe(_) | FitError::Data(_) | FitError::Watch { .. } => None,
        FitError::NoImages | FitError::Shape { .. } => Some(Exit::Incompatible),
        FitError::Engine { source, .. } if is_memory(source) => Some(Exit::Io),
        FitError::NonFinite { .. } | FitError::Engine { .. } => Some(Exit::Failed),
    }
}

fn is_memory(error: &EngineError) -> bool {
    matches!(error, EngineError::Memory { .. })
}

/// What to run next.
pub(super) fn next_of(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(DeviceError::NotBuilt) = cause.downcast_ref() {
        return Some(
            "build it with `cargo build --release --features cuda` (README.md)".to_owned(),
        );
    }
    if let Some(unwritten) = cause.downcast_ref::<Unwritten>() {
        return unwritten.next();
    }
    cause
        .is::<Interrupted>()
        .then(|| "repeat the command with `--resume`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_decide_where_the_trainer_only_passes_them_on() {
        let check = |error: anyhow::Error, expected| {
            assert_eq!(crate::cli::exit::exit_of(&error), expected, "{error:?}");
        };
        let field = RecipeError::Field {
            field: "epochs",
            expected: "more",
            found: 0.0,
        };
        check(FitError::Recipe(field).into(), Exit::Usage);
        let full = LogError::Write {
            path: "a".into(),
            source: std::io::ErrorKind::StorageFull.into(),
        };
        let watch = FitError::Watch {
            step: 3,
            source: full.into(),
        };
        check(watch.into(), Exit::Io);
        check(FitError::NoImages.into(), Exit::Incompatible);
        let infinite = FitError::NonFinite {
            what: "the loss",
            value: f64::NAN,
            step: 1,
            epoch: 1,
            learning_rate: 0.5,
        };
        check(infinite.into(), Exit::Failed);
        let interrupted = Interrupted {
            step: 1,
            steps: 2,
            state: "a.state".into(),
        };
        check(interrupted.into(), Exit::Interrupted);
        check(DeviceError::NotBuilt.into(), Exit::Usage);
        let absent = DeviceError::Open {
            index: 3,
            source: "invalid device ordinal".into(),
        };
        check(absent.into(), Exit::Failed);
    }
}
