//! `--method greedy`: candidates and an evaluator walk in, which of them make the soup
//! walks out.

mod by_command;
#[cfg(feature = "train")]
mod embedded;

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use sms_merge::merge::Better;
use sms_merge::merge::Evaluate;
use sms_merge::merge::Event;
use sms_merge::merge::Greedy;
use sms_merge::merge::GreedyError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::Observer;
use sms_merge::merge::OnTie;
use sms_merge::merge::Selection;

use crate::cli::args::MergeArguments;
use crate::cli::args::MethodChoice;
use crate::cli::args::OnMaskMismatch;
use crate::cli::args::greedy::OnTieChoice;
use crate::cli::exit::UsageError;
use crate::cli::greedy::by_command::ByCommand;
use crate::cli::inputs::open_options;
use crate::cli::text::note;
use crate::cli::text::plural;
use crate::cli::text::shown;

pub(crate) use by_command::ScoreError;

/// Directories of other runs that may be in the way.
const MOST_TRIES: usize = 100;

/// Whether the soup is to be chosen by evaluation.
pub(crate) fn is_asked_for(arguments: &MergeArguments) -> bool {
    arguments.method == Some(MethodChoice::Greedy)
}

/// Refuses options that do not go together.
pub(crate) fn check(arguments: &MergeArguments) -> Result<(), UsageError> {
    let usage = |message: String, next: Option<&str>| {
        Err(UsageError {
            message,
            next: next.map(str::to_owned),
        })
    };
    let greedy = &arguments.greedy;
    if !is_asked_for(arguments) {
        return match greedy.given() {
            Some(option) => usage(
                format!("`{option}` is for greedy soups"),
                Some("add `--method greedy`"),
            ),
            None => Ok(()),
        };
    }
    if !arguments.from_first.from_first.is_empty() {
        let message = "which ingredient of a greedy soup is the first is not known before it is \
                       chosen, so `--from-first` is for other soups";
        return usage(message.to_owned(), Some("add `--exclude` in place of it"));
    }
    if !matches!(arguments.on_mask_mismatch, OnMaskMismatch::Error) {
        let message = "greedy soups are of one mask, so `--on-mask-mismatch` must be `error`";
        return usage(message.to_owned(), None);
    }
    if greedy.eval.is_some() {
        return match greedy.given_of_embedded() {
            Some(option) => usage(
                format!("`{option}` is for the embedded evaluator, and `--eval` takes its place"),
                None,
            ),
            None => Ok(()),
        };
    }
    if cfg!(not(feature = "train")) {
        let message = "this program was built without its evaluator";
        return usage(message.to_owned(), Some("add `--eval COMMAND`"));
    }
    let choice = &arguments.choice;
    if choice.best.is_none() && (choice.metric.is_some() || choice.lower_is_better) {
        let message = "the embedded evaluator measures accuracy; `--metric` and \
                       `--lower-is-better` are for `--eval` and `--best`";
        return usage(message.to_owned(), None);
    }
    Ok(())
}

/// Number of evaluations of a choice from so many candidates.
pub(crate) fn evaluations(n_candidates: usize) -> usize {
    2 * n_candidates - 1
}

/// How often the bytes of all candidates are read, and that of one soup are written, by
/// the merges of a choice that keeps all of them.
pub(crate) fn most_passes(n_candidates: usize) -> (f64, u64) {
    // One pass compares masks, one makes the soup, and candidate soups are of 2, 3, ...
    // of n ingredients.
    let n = n_candidates as f64;
    let candidates_read = (n * (n + 1.0) / 2.0 - 1.0) / n;
    (2.0 + candidates_read, n_candidates as u64)
}

/// Chooses which of the checkpoints at `paths` make the soup that goes to `output`.
pub(crate) fn select(
    arguments: &MergeArguments,
    paths: &[PathBuf],
    options: &MergeOptions,
    output: &Path,
    interrupted: &AtomicBool,
) -> anyhow::Result<Selection> {
    let scratch = Scratch::beside(output)?;
    let mut evaluator = evaluator(arguments, paths, &scratch, interrupted)?;
    let tells = !arguments.report.quiet && !arguments.report.json;
    let n_candidates = paths.len();
    let watch = |event: Event| {
        if tells {
            note(&line(event, paths, n_candidates));
        }
    };
    let is_loss = arguments.greedy.eval.is_some() && arguments.choice.lower_is_better;
    let greedy = Greedy {
        paths,
        mask_file: arguments.mask.mask.as_deref(),
        open: open_options(&arguments.reading),
        options,
        better: if is_loss {
            Better::Lower
        } else {
            Better::Higher
        },
        on_tie: match arguments.greedy.on_tie {
            Some(OnTieChoice::Drop) => OnTie::Drop,
            Some(OnTieChoice::Keep) | None => OnTie::Keep,
        },
        scratch: scratch.path(),
        watch: &watch,
    };
    let observer = Observer {
        advance: &|_| (),
        interrupted,
    };
    let chosen = sms_merge::merge::choose(&greedy, evaluator.as_mut(), observer);
    chosen.map_err(|error| match error {
        GreedyError::Merge(error) => error.into(),
        GreedyError::Checkpoint(error) => error.into(),
        error => error.into(),
    })
}

fn evaluator<'a>(
    arguments: &'a MergeArguments,
    paths: &[PathBuf],
    scratch: &Scratch,
    interrupted: &'a AtomicBool,
) -> anyhow::Result<Box<dyn Evaluate + 'a>> {
    if let Some(command) = &arguments.greedy.eval {
        return Ok(Box::new(ByCommand::new(
            command,
            arguments,
            scratch.path(),
            interrupted,
        )?));
    }
    #[cfg(feature = "train")]
    return Ok(Box::new(embedded::Embedded::new(
        arguments,
        paths,
        interrupted,
    )?));
    #[cfg(not(feature = "train"))]
    {
        let _ = paths;
        anyhow::bail!("there is no evaluator")
    }
}

/// What is told while it happens.
fn line(event: Event, paths: &[PathBuf], n_candidates: usize) -> String {
    match event {
        Event::Scored { candidate, score } => format!(
            "evaluated {} of {n_candidates}: `{}` scores {score}",
            candidate + 1,
            shown(&paths[candidate])
        ),
        Event::Decided(decision) => {
            let what = match decision.is_kept {
                true => "kept",
                false => "dropped",
            };
            let path = shown(&paths[decision.candidate]);
            format!(
                "{what} `{path}`: the soup with it scores {}",
                decision.score
            )
        }
    }
}

/// What a selection came to, in one line.
pub(crate) fn sentence(selection: &Selection) -> String {
    let kept = plural(selection.kept().len() as u64, "candidate");
    let score = selection.score().unwrap_or(f64::NAN);
    format!(
        "kept {kept} of {}, with a score of {score}",
        selection.candidates.len()
    )
}

/// A directory for soups while they are evaluated, gone with this value.
struct Scratch(PathBuf);

impl Scratch {
    /// Makes one where the soup will be, so that there is the same space.
    fn beside(output: &Path) -> anyhow::Result<Self> {
        let parent = output
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let process = std::process::id();
        let mut tried = 0;
        loop {
            let path = parent.join(format!(".sms-merge-candidates-{process}-{tried}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && tried < MOST_TRIES =>
                {
                    tried += 1;
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("`{}` cannot be made", shown(&path)));
                }
            }
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed holds soups that nobody asked for: no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}
