//! How a run ends that could not prune.

use sms_merge::prune::PruneError;

use crate::cli::exit::Exit;
use crate::cli::exit::of_ingredients;
use crate::cli::exit::of_output;
use crate::cli::exit::of_source;

/// The status that an error of pruning ends the run with.
pub(super) fn of_prune(error: &PruneError) -> Exit {
    match error {
        PruneError::Ingredients(error) => of_ingredients(error),
        PruneError::Source(error) => of_source(error),
        PruneError::Output(error) => of_output(error),
        PruneError::Fraction { .. }
        | PruneError::Phase { .. }
        | PruneError::UnusedPattern { .. }
        | PruneError::Pattern { .. } => Exit::Usage,
        PruneError::Interrupted => Exit::Interrupted,
        PruneError::Layout(_) | PruneError::Kernel(_) => Exit::Failed,
        _ => Exit::Incompatible,
    }
}
