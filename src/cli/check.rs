//! `sms-merge check`: checkpoints walk in, whether they share one connectivity walks
//! out.

use std::sync::atomic::AtomicBool;

use serde::Serialize;
use sms_merge::adapter::is_adapter;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::kernel::Weights;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::refuse_idle_exclusions;
use sms_merge::merge::scan;

use crate::cli::SCHEMA;
use crate::cli::adapters::join_others;
use crate::cli::args::CheckArguments;
use crate::cli::args::OnMaskMismatch;
use crate::cli::device::workers;
use crate::cli::exit::Exit;
use crate::cli::ingredients::choose;
use crate::cli::ingredients::expand;
use crate::cli::ingredients::refuse_idle_metric;
use crate::cli::ingredients::repeated;
use crate::cli::inputs::join_opened;
use crate::cli::inputs::notes;
use crate::cli::inputs::open_all;
use crate::cli::inputs::open_options;
use crate::cli::inputs::rules;
use crate::cli::inputs::select;
use crate::cli::inputs::threads;
use crate::cli::masks;
use crate::cli::masks::MaskObject;
use crate::cli::masks::MismatchObject;
use crate::cli::masks::TotalObject;
use crate::cli::masks::masks_text;
use crate::cli::progress::Progress;
use crate::cli::terminal::Stream;
use crate::cli::text;
use crate::cli::text::note;
use crate::cli::text::plural;

/// What `--json` prints.
#[derive(Serialize)]
struct CheckObject {
    schema: u32,
    shared: bool,
    participants: Vec<String>,
    mask: TotalObject,
    tensors: Vec<MaskObject>,
    mismatch: Option<MismatchObject>,
    warnings: Vec<String>,
}

/// Compares the masks of all ingredients.
pub(crate) fn run(arguments: &CheckArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    refuse_idle_metric(&arguments.choice, false)?;
    let paths = expand(&arguments.ingredients.ingredients, interrupted)?;
    let paths = choose(paths, &arguments.choice)?;
    let mut warnings = repeated(&paths);
    let mask = arguments.mask.mask.as_deref();
    if paths.len() + usize::from(mask.is_some()) < 2 {
        return Err(MergeError::TooFew { found: paths.len() }.into());
    }
    let uniform = Weights::uniform(paths.len()).map_err(MergeError::Weights)?;
    let mut options = MergeOptions::new(Method::Uniform, uniform);
    options.rules = rules(&arguments.mask, OnMaskMismatch::Error)?;
    options.distances = false;
    select(&arguments.selection, &arguments.from_first, &mut options)?;
    let (reading, dtypes) = (&arguments.reading, DtypeRule::AnyFloat);
    let checkpoints = open_all(&paths, &open_options(reading), threads(reading))?;
    let ingredients = if checkpoints.iter().any(is_adapter) {
        warnings.push(
            "these are adapters, whose factors have no mask: only their other tensors were compared"
                .to_owned(),
        );
        join_others(checkpoints, mask, reading, dtypes, &options)?
    } else {
        join_opened(checkpoints, mask, reading, dtypes, &options)?
    };
    refuse_idle_exclusions(&ingredients, &options)?;
    warnings.extend(notes(&ingredients));
    options.workers = workers(
        &arguments.device,
        &arguments.reading,
        &arguments.report,
        None,
    )?;
    let plan = MergePlan::new(&ingredients, &options)?;
    let progress = Progress::new(plan.bytes_to_read, &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let scanned = scan(plan, &ingredients, &options, observer);
    progress.clear();
    let connectivity = scanned?.connectivity;
    let (tensors, digest, mismatch) = match &connectivity {
        Ok(connectivity) => (connectivity.tensors(), Some(connectivity.digest()), None),
        Err(mismatch) => (&*mismatch.tensors, None, Some(mismatch)),
    };
    let total = TotalObject::new(tensors, digest);
    if arguments.report.json {
        let all = ingredients.mask_file().into_iter();
        let object = CheckObject {
            schema: SCHEMA,
            shared: mismatch.is_none(),
            participants: all
                .chain(ingredients.checkpoints())
                .map(|checkpoint| checkpoint.path().to_string_lossy().into_owned())
                .collect(),
            mask: total,
            tensors: tensors
                .iter()
                .map(|tensor| MaskObject::new(tensor))
                .collect(),
            mismatch: mismatch.map(|mismatch| MismatchObject::new(mismatch)),
            warnings,
        };
        text::print(&text::json(&object)?)?;
    } else {
        let n_pruned = tensors.iter().filter(|mask| mask.is_pruned).count();
        let is_quiet = arguments.report.quiet;
        let mut report = String::new();
        if !is_quiet {
            report = masks_text(Stream::Out, tensors, arguments.report.verbose);
            report.push('\n');
        }
        match mismatch {
            Some(mismatch) => report.push_str(&masks::mismatch_text(mismatch)),
            None if is_quiet => {}
            None => report.push_str(&format!(
                "{} share one connectivity: {}\n",
                plural(paths.len() as u64, "ingredient"),
                total.sentence(n_pruned)
            )),
        }
        text::print(&report)?;
        if !is_quiet {
            for warning in &warnings {
                note(&format!("warning: {warning}"));
            }
        }
        if let Some(mismatch) = mismatch {
            note(&format!("next: {}", masks::remedy(mismatch)));
            if !is_quiet {
                note(masks::policies().trim_end());
            }
        }
    }
    Ok(match mismatch {
        None => Exit::Done,
        Some(_) => Exit::Connectivity,
    })
}
