//! How a run of the cycle ends that could not begin, and a job that failed.

use std::error::Error;

use sms_merge::cycle::executor::DeathError;
use sms_merge::cycle::executor::DeviceError;
use sms_merge::cycle::executor::ExecutorError;
use sms_merge::cycle::job::JobError;
use sms_merge::cycle::measure::MeasureError;
use sms_merge::cycle::plan::PlanError;
use sms_merge::cycle::recipe::RecipeError;
use sms_merge::cycle::run::RunError;
use sms_merge::cycle::scene::SceneError;
use sms_merge::cycle::store::StoreError;

use crate::cli::exit::Exit;
use crate::cli::exit::train::of_data;

/// The status that an error of the cycle ends the run with, if `cause` is one that tells.
pub(super) fn exit_of(cause: &(dyn Error + 'static)) -> Option<Exit> {
    let is_usage =
        cause.is::<RecipeError>() || cause.is::<PlanError>() || cause.is::<DeviceError>();
    if is_usage {
        return Some(Exit::Usage);
    }
    if let Some(error) = cause.downcast_ref::<SceneError>() {
        return match error {
            SceneError::Options
            | SceneError::Untold(_)
            | SceneError::Fit { .. }
            | SceneError::Network(_)
            | SceneError::Description { .. } => Some(Exit::Usage),
            SceneError::Read { .. } | SceneError::Source(_) => Some(Exit::Io),
            SceneError::Data(error) => Some(of_data(error)),
            // Their sources tell.
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<RunError>() {
        return match error {
            RunError::Store(error) => Some(of_store(error)),
            RunError::Executor(error) => Some(of_executor(error)),
            _ => Some(Exit::Failed),
        };
    }
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return Some(of_store(error));
    }
    if let Some(JobError::Store(error)) = cause.downcast_ref() {
        return Some(of_store(error));
    }
    if let Some(JobError::Unmasked { .. } | JobError::MaskShape { .. }) = cause.downcast_ref() {
        return Some(Exit::Connectivity);
    }
    if let Some(MeasureError::OtherImages { .. }) = cause.downcast_ref() {
        return Some(Exit::Incompatible);
    }
    cause.is::<DeathError>().then_some(Exit::Failed)
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::NotARun { .. } | StoreError::NotAJob { .. } => Exit::Usage,
        StoreError::System { .. } | StoreError::Replace(_) => Exit::Io,
        _ => Exit::Failed,
    }
}

fn of_executor(error: &ExecutorError) -> Exit {
    match error.is_no_space() {
        true => Exit::Io,
        false => Exit::Failed,
    }
}
