//! `sms-merge job`: one step of a run, in a process of its own.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use sms_merge::cycle::executor::end_with;
use sms_merge::cycle::executor::exec_words;
use sms_merge::cycle::executor::guard;
use sms_merge::cycle::job::Job;
use sms_merge::cycle::job::JobError;
use sms_merge::cycle::job::Surroundings;
use sms_merge::cycle::job::run_job;
use sms_merge::cycle::store::RunDirectory;
use sms_merge::merge::default_threads;

use crate::cli::args::cycle::JobArguments;
use crate::cli::args::cycle::JobCommand;
use crate::cli::args::cycle::JobRunArguments;
use crate::cli::exit::ErrorObject;
use crate::cli::exit::Exit;
use crate::cli::text;

/// What a shell says of a command that it cannot start.
const NOT_FOUND: i32 = 127;

/// Runs a job, or becomes the user's command.
pub(crate) fn run(arguments: &JobArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    match &arguments.command {
        JobCommand::Run(arguments) => run_one(arguments, interrupted),
        JobCommand::Exec(arguments) => {
            let error = exec_words(arguments.parent, &arguments.words);
            text::note(&ErrorObject::new(&error.into(), 0).lines().join("\n"));
            std::process::exit(NOT_FOUND);
        }
        JobCommand::Guard => Err(guard(std::io::stdin().lock()).into()),
    }
}

/// Goes to where the run of a job was started, if that is here: relative paths of its recipe
/// begin there.
pub(crate) fn enter(job: &Path) -> bool {
    let job: Option<Job> = RunDirectory::read_job(job).ok();
    let from = job.and_then(|job| job.settings.command_directory);
    from.is_some_and(|from| std::env::set_current_dir(from).is_ok())
}

fn run_one(arguments: &JobRunArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    if let Some(parent) = arguments.parent {
        end_with(parent)?;
    }
    let started = Instant::now();
    let program = std::env::current_exe()?;
    let directory = std::path::absolute(&arguments.directory)?;
    enter(&directory);
    let published = run_job(
        &directory,
        Surroundings {
            threads: arguments.threads.unwrap_or_else(default_threads),
            program: &program,
            clock: &|| started.elapsed(),
            interrupted,
        },
    );
    match published {
        Ok(published) => {
            let label = text::Clean(&published.receipt.label).to_string();
            let words = match published.is_ours {
                true => "done",
                false => "was done by another attempt",
            };
            text::print(&format!("{label}: {words}\n"))?;
            Ok(Exit::Done)
        }
        Err(error) if JobError::is_interruption(&error) => Ok(Exit::Interrupted),
        Err(error) => Err(error.into()),
    }
}
