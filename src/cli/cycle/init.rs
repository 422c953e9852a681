//! `sms-merge cycle --init`: a recipe walks out that names every key.

use std::path::Path;

use sms_merge::checkpoint::OutputError;
use sms_merge::cycle::recipe::TEMPLATE;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::format::replace::ReplaceError;
use sms_merge::format::replace::StagedFile;
use sms_merge::format::replace::Target;

use crate::cli::args::ReportArguments;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::exit::quoted;
use crate::cli::text;
use crate::cli::text::note;
use crate::cli::text::shown;

/// Prints the recipe, or writes it to a file that is not there yet.
pub(super) fn run(file: Option<&Path>, report: &ReportArguments) -> anyhow::Result<Exit> {
    let Some(path) = file else {
        text::print(TEMPLATE)?;
        return Ok(Exit::Done);
    };
    write(path).map_err(|error| match error {
        // There is no `--force`: what is there may be a recipe that somebody wrote.
        ReplaceError::Exists { .. } => anyhow::Error::from(UsageError {
            message: format!("`{}` exists, and `--init` replaces no file", shown(path)),
            next: Some("name a file that does not exist".to_owned()),
        }),
        error => OutputError::from(error).into(),
    })?;
    if !report.quiet {
        note(&format!("wrote `{}`", shown(path)));
        note(&format!("next: sms-merge cycle {} --plan", quoted(path)));
    }
    Ok(Exit::Done)
}

fn write(path: &Path) -> Result<(), ReplaceError> {
    let target = Target::for_file(path, Existing::Refuse)?;
    let bytes = TEMPLATE.as_bytes();
    let file = StagedFile::create(&target, bytes.len() as u64, Durability::Synced)?;
    file.write_at(bytes, 0)?;
    file.publish()
}
