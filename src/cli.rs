//! The command line: `argv` walks in, an exit status walks out. The only door to
//! clap, anyhow and indicatif. Decides nothing about a soup.

mod adapters;
mod advice;
mod apply;
mod architecture;
mod args;
mod argv;
mod beside;
mod check;
mod command;
mod completions;
#[cfg(feature = "train")]
mod cycle;
#[cfg(feature = "train")]
mod data;
mod device;
#[cfg(feature = "train")]
mod eval;
mod exit;
mod export;
mod greedy;
#[cfg(feature = "train")]
mod images;
mod ingredients;
mod inputs;
mod inspect;
#[cfg(feature = "train")]
mod job;
#[cfg(feature = "train")]
mod learning;
mod limits;
mod mask;
mod masks;
mod merge;
mod metrics;
mod model;
mod natural;
mod outputs;
mod plan;
mod progress;
mod prune;
mod pruned;
#[cfg(feature = "train")]
mod recalibrate;
mod selection;
#[cfg(feature = "train")]
mod silence;
mod size;
mod summary;
mod table;
mod terminal;
mod text;
#[cfg(feature = "train")]
mod train;
mod usage;
mod verify;
mod walk;

use std::ffi::OsString;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use clap::Parser;
use serde::Serialize;

use crate::cli::args::Arguments;
use crate::cli::args::Command;
use crate::cli::exit::ErrorObject;
use crate::cli::exit::Exit;
use crate::cli::masks::AnotherMask;
use crate::cli::verify::NotTheIngredients;

/// Version of the objects that `--json` prints.
const SCHEMA: u32 = 1;

/// What `--json` prints of a run that failed.
#[derive(Serialize)]
struct Failure<'a> {
    schema: u32,
    error: &'a ErrorObject,
}

/// Runs what `argv` asks for, and returns the exit status. `interrupted` is set by a
/// signal, whose number is then in `signal`.
pub(crate) fn run(argv: Vec<OsString>, interrupted: &AtomicBool, signal: &AtomicUsize) -> u8 {
    let signal = || u8::try_from(signal.load(Ordering::Relaxed)).unwrap_or_default();
    let wants_json = argv.iter().any(|word| word == "--json");
    let mut is_of_recipe = false;
    let done = argv::with_command(argv).map_err(anyhow::Error::from);
    let done = done.and_then(|argv| match Arguments::try_parse_from(&argv) {
        Ok(arguments) => {
            is_of_recipe = follows_recipe(&arguments.command);
            dispatch(&arguments.command, interrupted)
        }
        Err(error) => usage::refuse(&error, &argv, wants_json),
    });
    match done {
        Ok(exit) => exit.code_after(signal()),
        Err(error) => {
            if let Some(mismatch) = exit::mismatch_of(&error)
                && !wants_json
            {
                text::note(&masks::mismatch_text(mismatch));
            }
            let object = in_terms(ErrorObject::new(&error, signal()), is_of_recipe);
            let exit = report(&object, wants_json);
            let is_about_policy = !error.is::<AnotherMask>() && !error.is::<NotTheIngredients>();
            let has_policy = is_about_policy && !is_of_recipe;
            if exit == Exit::Connectivity.code() && has_policy && !wants_json {
                text::note(masks::policies().trim_end());
            }
            exit
        }
    }
}

/// Whether a command does what a recipe says, and has none of the options of others.
#[cfg(feature = "train")]
fn follows_recipe(command: &Command) -> bool {
    matches!(command, Command::Cycle(_) | Command::Job(_))
}

/// No command does without the trainer.
#[cfg(not(feature = "train"))]
fn follows_recipe(_command: &Command) -> bool {
    false
}

/// A failure in the words of its command.
fn in_terms(error: ErrorObject, is_of_recipe: bool) -> ErrorObject {
    #[cfg(feature = "train")]
    if is_of_recipe {
        return cycle::terms::in_recipe(error);
    }
    let _ = is_of_recipe;
    error
}

/// The error of a command that has no policy for masks that differ.
fn of_one_mask(error: anyhow::Error) -> anyhow::Error {
    match exit::mismatch_of(&error) {
        Some(_) => AnotherMask(error).into(),
        None => error,
    }
}

fn dispatch(command: &Command, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    // What these start, the user's trainers too, inherits their limits.
    #[cfg(feature = "train")]
    let starts_others = matches!(command, Command::Cycle(_) | Command::Job(_));
    #[cfg(not(feature = "train"))]
    let starts_others = false;
    if !starts_others {
        limits::raise_open_files();
    }
    match command {
        Command::Merge(arguments) => merge::run(arguments, interrupted),
        Command::Check(arguments) => check::run(arguments, interrupted),
        Command::Inspect(arguments) => inspect::run(arguments, interrupted),
        Command::Verify(arguments) => verify::run(arguments, interrupted),
        Command::Prune(arguments) => prune::run(arguments, interrupted),
        Command::Apply(arguments) => apply::run(arguments, interrupted).map_err(of_one_mask),
        Command::Export(arguments) => export::run(arguments, interrupted).map_err(of_one_mask),
        Command::Mask(arguments) => mask::run(arguments, interrupted),
        Command::Model(arguments) => model::run(arguments, interrupted).map_err(of_one_mask),
        #[cfg(feature = "train")]
        Command::Data(arguments) => data::run(arguments),
        #[cfg(feature = "train")]
        Command::Train(arguments) => train::run(arguments, interrupted),
        #[cfg(feature = "train")]
        Command::Eval(arguments) => eval::run(arguments, interrupted),
        #[cfg(feature = "train")]
        Command::Recalibrate(arguments) => recalibrate::run(arguments, interrupted),
        #[cfg(feature = "train")]
        Command::Cycle(arguments) => cycle::run(arguments, interrupted),
        #[cfg(feature = "train")]
        Command::Job(arguments) => job::run(arguments, interrupted),
        Command::Completions(arguments) => completions::run(arguments),
    }
}

/// Says that the program could not be set up.
pub(crate) fn refuse_to_start(error: &std::io::Error) {
    text::note(&format!("error: signals cannot be handled: {error}"));
}

/// Tells of a failure and returns the exit status.
fn report(error: &ErrorObject, wants_json: bool) -> u8 {
    if wants_json {
        let failure = Failure {
            schema: SCHEMA,
            error,
        };
        // If even this cannot be printed, the lines below say what happened.
        if let Ok(text) = text::json(&failure)
            && text::print(&text).is_ok()
        {
            return error.exit;
        }
    }
    error.lines().iter().for_each(|line| text::note(line));
    error.exit
}
