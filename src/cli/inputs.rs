//! From arguments to the library's terms: checkpoints that are open, and rules.

use std::path::Path;
use std::path::PathBuf;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::CheckpointError;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::MaskLayout;
use sms_merge::checkpoint::Note;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::map::Access;
use sms_merge::connectivity::MismatchPolicy;
use sms_merge::connectivity::NamePatterns;
use sms_merge::connectivity::Rules;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::default_threads;

use crate::cli::args::FromFirstArguments;
use crate::cli::args::LayoutChoice;
use crate::cli::args::MaskArguments;
use crate::cli::args::NameArguments;
use crate::cli::args::OnMaskMismatch;
use crate::cli::args::ReadingArguments;
use crate::cli::args::SelectionArguments;
use crate::cli::exit::UsageError;
use crate::cli::selection;
use crate::cli::text::Clean;

/// Puts what `--include`, `--exclude` and `--from-first` say into the options.
pub(crate) fn select(
    arguments: &SelectionArguments,
    from_first: &FromFirstArguments,
    options: &mut MergeOptions,
) -> Result<(), UsageError> {
    options.include = patterns("--include", &arguments.include)?;
    options.exclude = patterns("--exclude", &arguments.exclude)?;
    options.from_first = patterns("--from-first", &from_first.from_first)?;
    Ok(())
}

/// How masks are stored.
pub(crate) fn layout(choice: LayoutChoice) -> MaskLayout {
    match choice {
        LayoutChoice::Keep => MaskLayout::Keep,
        LayoutChoice::Dense => MaskLayout::Dense,
        LayoutChoice::Bitmask => MaskLayout::Bitmask,
        LayoutChoice::CompressedTensors => MaskLayout::CompressedTensors,
        LayoutChoice::TorchPrune => MaskLayout::TorchPrune,
    }
}

/// How masks are read and compared.
pub(crate) fn rules(
    arguments: &MaskArguments,
    policy: OnMaskMismatch,
) -> Result<Rules, UsageError> {
    Ok(Rules {
        policy: match policy {
            OnMaskMismatch::Error => MismatchPolicy::Error,
            OnMaskMismatch::Intersect => MismatchPolicy::Intersect,
            OnMaskMismatch::Union => MismatchPolicy::Union,
            OnMaskMismatch::Vote => MismatchPolicy::Vote,
            OnMaskMismatch::First => MismatchPolicy::First,
        },
        strict: arguments.strict,
        prunable: patterns("--prunable", &arguments.prunable)?,
        dense: patterns("--dense", &arguments.dense)?,
    })
}

/// Compiles the patterns of an option.
pub(crate) fn patterns(option: &str, texts: &[String]) -> Result<NamePatterns, UsageError> {
    NamePatterns::new(texts).map_err(|(text, error)| UsageError {
        message: format!("`{option} {text}` is no pattern: {error}"),
        next: None,
    })
}

/// How files are opened.
pub(crate) fn open_options(arguments: &ReadingArguments) -> OpenOptions {
    OpenOptions {
        access: if arguments.no_mmap {
            Access::Pread
        } else {
            Access::Mapped
        },
        header_limit: arguments.max_header_bytes,
        ..named(&arguments.names)
    }
}

/// How files are opened, as far as names are concerned.
pub(crate) fn named(arguments: &NameArguments) -> OpenOptions {
    OpenOptions {
        key: arguments.key.clone(),
        strip_prefixes: arguments.strip_prefix.clone(),
        ..OpenOptions::default()
    }
}

/// Number of worker threads.
pub(crate) fn threads(arguments: &ReadingArguments) -> usize {
    arguments.threads.unwrap_or_else(default_threads)
}

/// Opens checkpoints and joins the tensors that the options select, with a mask file if
/// one is given.
pub(crate) fn join(
    paths: &[PathBuf],
    mask: Option<&Path>,
    reading: &ReadingArguments,
    dtypes: DtypeRule,
    merge_options: &MergeOptions,
) -> anyhow::Result<Ingredients> {
    let checkpoints = open_all(paths, &open_options(reading), threads(reading))?;
    join_opened(checkpoints, mask, reading, dtypes, merge_options)
}

/// The same of checkpoints that are open.
pub(crate) fn join_opened(
    checkpoints: Vec<Checkpoint>,
    mask: Option<&Path>,
    reading: &ReadingArguments,
    dtypes: DtypeRule,
    merge_options: &MergeOptions,
) -> anyhow::Result<Ingredients> {
    let options = open_options(reading);
    let mask = mask.map(|path| Checkpoint::open(path, &options));
    let pick = |name: &str| merge_options.pick(name);
    let joined = Ingredients::join_picked(checkpoints, mask.transpose()?, dtypes, pick)?;
    Ok(joined)
}

/// What there is to say of the checkpoints, what is the same of several in one warning.
pub(crate) fn notes(ingredients: &Ingredients) -> impl Iterator<Item = String> + use<> {
    let notes = ingredients.checkpoints().iter().flat_map(Checkpoint::notes);
    let notes = Note::gather(notes).into_iter();
    notes
        .map(|note| Clean(&note.to_string()).to_string())
        .chain(selection::quantised(ingredients))
}

/// Opens checkpoints, several at a time: a header of 100,000 tensors takes a while.
pub(crate) fn open_all(
    paths: &[PathBuf],
    options: &OpenOptions,
    threads: usize,
) -> Result<Vec<Checkpoint>, CheckpointError> {
    let open = |paths: &[PathBuf]| -> Result<Vec<Checkpoint>, CheckpointError> {
        let opened = paths.iter().map(|path| Checkpoint::open(path, options));
        opened.collect()
    };
    let mut parts = paths.chunks(paths.len().div_ceil(threads.max(1)).max(1));
    let Some(first) = parts.next() else {
        return Ok(Vec::new());
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = parts
            .map(|part| {
                let worker = std::thread::Builder::new().spawn_scoped(scope, || open(part));
                (part, worker)
            })
            .collect();
        let mut checkpoints = open(first)?;
        for (part, worker) in workers {
            // Where the system permits no more threads, this one does the work.
            checkpoints.extend(match worker.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(opened)) => opened?,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(_) => open(part)?,
            });
        }
        Ok(checkpoints)
    })
}
