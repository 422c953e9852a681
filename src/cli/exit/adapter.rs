//! How a run ends that could not merge or apply an adapter.

use sms_merge::adapter::AdapterError;

use crate::cli::exit::Exit;
use crate::cli::exit::of_source;
use crate::cli::exit::quoted;

/// The status that an error of adapters ends the run with.
pub(super) fn of_adapter(error: &AdapterError) -> Exit {
    match error {
        AdapterError::Option { .. } => Exit::Usage,
        AdapterError::Source(error) => of_source(error),
        _ => Exit::Incompatible,
    }
}

/// What to do about one, where its message does not say it.
pub(super) fn after_adapter(error: &AdapterError) -> Option<String> {
    match error {
        AdapterError::Unmatched {
            network, modules, ..
        } => {
            let first = modules.first()?;
            Some(format!(
                "`sms-merge inspect {}` lists its names; `--exclude '{first}*'` leaves what is \
                 called so out",
                quoted(network)
            ))
        }
        AdapterError::Ambiguous { module, .. } => {
            Some(format!("`--exclude '{module}*'` leaves it out"))
        }
        AdapterError::Unpaired { path, .. }
        | AdapterError::Shapes { path, .. }
        | AdapterError::Twice { path, .. }
        | AdapterError::NotAnAdapter { path } => {
            Some(format!("sms-merge inspect {}", quoted(path)))
        }
        _ => None,
    }
}
