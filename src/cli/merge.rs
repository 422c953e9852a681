//! `sms-merge merge`: arguments walk in, a soup is written, a summary walks out.

use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::Ingredients;
use sms_merge::kernel::Normalization;
use sms_merge::kernel::Weights;
use sms_merge::merge::Destination;
use sms_merge::merge::FileDigest;
use sms_merge::merge::IntegerPolicy;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::refuse_idle_exclusions;
use sms_merge::merge::refuse_named_input;
use sms_merge::merge::sha256;
use sms_merge::tensor::Dtype;

use crate::cli::adapters;
use crate::cli::args::FloatType;
use crate::cli::args::Measure;
use crate::cli::args::MergeArguments;
use crate::cli::args::MethodChoice;
use crate::cli::args::OnIntegerMismatch;
use crate::cli::device::workers;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::greedy;
use crate::cli::ingredients::choose;
use crate::cli::ingredients::expand;
use crate::cli::ingredients::refuse_idle_metric;
use crate::cli::ingredients::repeated;
use crate::cli::inputs::join;
use crate::cli::inputs::join_opened;
use crate::cli::inputs::layout;
use crate::cli::inputs::notes;
use crate::cli::inputs::open_all;
use crate::cli::inputs::open_options;
use crate::cli::inputs::rules;
use crate::cli::inputs::select;
use crate::cli::inputs::threads;
use crate::cli::outputs;
use crate::cli::plan;
use crate::cli::progress::Progress;
use crate::cli::selection;
use crate::cli::summary::Summary;
use crate::cli::text::note;
use crate::cli::text::shown;

/// A warning if the output's name is that of a checkpoint of torch.
fn other_format(output: &Path) -> Option<String> {
    let extension = output.extension()?.to_str()?;
    let is_torch = ["pt", "pth", "bin", "ckpt"].contains(&extension);
    is_torch.then(|| {
        format!(
            "`{}` is a safetensors file, which `torch.load` does not read whatever its name",
            shown(output)
        )
    })
}

/// Merges, or says what a merge would do.
pub(crate) fn run(arguments: &MergeArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let started = Instant::now();
    greedy::check(arguments)?;
    refuse_idle_metric(&arguments.choice, greedy::is_asked_for(arguments))?;
    let paths = expand(&arguments.ingredients.ingredients, interrupted)?;
    let paths = choose(paths, &arguments.choice)?;
    let mut warnings = repeated(&paths);
    if paths.len() < 2 {
        return Err(MergeError::TooFew { found: paths.len() }.into());
    }
    let mut options = options(arguments, paths.len())?;
    if let Some(output) = &arguments.output {
        let files = [&arguments.mask.mask, &arguments.choice.metrics];
        let inputs = paths.iter().chain(files.into_iter().flatten());
        let inputs = inputs.map(PathBuf::as_path).chain(arguments.greedy.data());
        refuse_named_input(output, inputs)?;
    }
    let reading = open_options(&arguments.reading);
    let checkpoints = open_all(&paths, &reading, threads(&arguments.reading))?;
    if adapters::are_meant(arguments, &checkpoints)? {
        if !options.from_first.is_empty() {
            return Err(UsageError {
                message: "`--from-first` is not for adapters, whose products are averaged"
                    .to_owned(),
                next: Some("leave `--from-first` out".to_owned()),
            }
            .into());
        }
        return adapters::run(arguments, checkpoints, options, warnings, interrupted);
    }
    let mask = arguments.mask.mask.as_deref();
    let dtypes = options.dtype_rule();
    let opened = join_opened(checkpoints, mask, &arguments.reading, dtypes, &options);
    let mut ingredients = match greedy::is_asked_for(arguments) {
        true => opened.map_err(selection::without_from_first)?,
        false => opened?,
    };
    refuse_idle_exclusions(&ingredients, &options)?;
    warnings.extend(notes(&ingredients));
    warnings.extend(selection::left_out(&ingredients, &options));
    warnings.extend(arguments.output.as_deref().and_then(other_format));
    // A plan writes nothing, whatever is in the output's place.
    let existing = outputs::existing(arguments.force || arguments.plan);
    let durability = outputs::durability(arguments.no_sync);
    let destination = arguments.output.as_ref().map(|output| {
        let shard_bytes = arguments.shard_size;
        Destination::resolve_soup(output, &ingredients, shard_bytes, existing, durability)
    });
    let destination = destination.transpose()?;
    // A device takes a while to open: what is wrong with the files is told before.
    let measured = options
        .distances
        .then(|| NonZeroUsize::new(ingredients.count()));
    options.workers = workers(
        &arguments.device,
        &arguments.reading,
        &arguments.report,
        measured.flatten(),
    )?;
    let mut planned = MergePlan::new(&ingredients, &options)?;
    let destination = match destination {
        Some(destination) if !arguments.plan => destination,
        _ => {
            plan::show(&planned, &ingredients, &options, arguments)?;
            return Ok(Exit::Done);
        }
    };
    destination.probe(0)?;
    if greedy::is_asked_for(arguments) {
        let output = destination.path();
        let selection = greedy::select(arguments, &paths, &options, output, interrupted)?;
        let kept = selection.kept().into_iter().map(|kept| paths[kept].clone());
        let kept: Vec<PathBuf> = kept.collect();
        options = options
            .with_selection(selection)
            .map_err(MergeError::Weights)?;
        ingredients = open(arguments, &kept, &options)?;
        planned = MergePlan::new(&ingredients, &options)?;
    }
    let files = match arguments.sha256 {
        true => file_digests(&ingredients)?,
        false => Vec::new(),
    };
    let progress = Progress::new(
        planned.bytes_to_read * plan::passes(&planned, &ingredients, &options),
        &arguments.report,
    );
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let merged = sms_merge::merge::merge(
        planned,
        &ingredients,
        &options,
        &destination,
        files,
        observer,
    );
    progress.clear();
    let merged = match merged {
        Ok(merged) => merged,
        Err(error) => {
            if !arguments.report.quiet && !arguments.report.json {
                warnings
                    .iter()
                    .for_each(|warning| note(&format!("warning: {warning}")));
            }
            return Err(error.into());
        }
    };
    let summary = Summary {
        merged: &merged,
        ingredients: &ingredients,
        options: &options,
        output: destination.path(),
        data: destination.data_path(),
        elapsed: started.elapsed(),
        warnings,
    };
    summary.show(&arguments.report)?;
    // The process ends here: taking 100,000 tensors apart piece by piece would take a
    // fifth of the time of merging them.
    std::mem::forget((merged, ingredients));
    Ok(Exit::Done)
}

fn open(
    arguments: &MergeArguments,
    paths: &[PathBuf],
    options: &MergeOptions,
) -> anyhow::Result<Ingredients> {
    let mask = arguments.mask.mask.as_deref();
    join(
        paths,
        mask,
        &arguments.reading,
        options.dtype_rule(),
        options,
    )
}

fn options(arguments: &MergeArguments, n_ingredients: usize) -> anyhow::Result<MergeOptions> {
    let usage = |message: &str| UsageError {
        message: message.to_owned(),
        next: None,
    };
    match (arguments.method, &arguments.weights) {
        (Some(MethodChoice::Weighted), None) => {
            return Err(usage("`--method weighted` needs `--weights`").into());
        }
        (Some(MethodChoice::Uniform | MethodChoice::Greedy), Some(_)) => {
            return Err(usage("`--weights` are for `--method weighted`").into());
        }
        _ => {}
    }
    let (method, weights) = match &arguments.weights {
        None => (Method::Uniform, Weights::uniform(n_ingredients)),
        Some(values) if values.len() != n_ingredients => {
            return Err(MergeError::WeightCount {
                expected: n_ingredients,
                found: values.len(),
            }
            .into());
        }
        Some(values) => {
            let normalization = match arguments.no_normalize {
                true => Normalization::AsGiven,
                false => Normalization::SumToOne,
            };
            (
                Method::Weighted,
                Weights::new(values.clone(), normalization),
            )
        }
    };
    let mut options = MergeOptions::new(method, weights.map_err(MergeError::Weights)?);
    options.rules = rules(&arguments.mask, arguments.on_mask_mismatch)?;
    select(&arguments.selection, &arguments.from_first, &mut options)?;
    options.dtype = arguments.dtype.map(|dtype| match dtype {
        FloatType::F16 => Dtype::F16,
        FloatType::Bf16 => Dtype::BF16,
        FloatType::F32 => Dtype::F32,
        FloatType::F64 => Dtype::F64,
    });
    options.integers = match arguments.on_integer_mismatch {
        OnIntegerMismatch::Error => IntegerPolicy::Error,
        OnIntegerMismatch::First => IntegerPolicy::First,
        OnIntegerMismatch::Max => IntegerPolicy::Max,
    };
    options.allow_non_finite = arguments.allow_non_finite;
    options.layout = layout(arguments.layout);
    options.shard_bytes = arguments.shard_size;
    options.distances = match arguments.distances {
        Measure::Auto => options.distances,
        Measure::On => true,
        Measure::Off => false,
    };
    Ok(options)
}

/// SHA-256 of the files of each ingredient.
pub(super) fn file_digests(ingredients: &Ingredients) -> anyhow::Result<Vec<Vec<FileDigest>>> {
    let of_file = |path: &std::path::Path| -> anyhow::Result<FileDigest> {
        let digest = sha256(path);
        let name = path.file_name().unwrap_or_default();
        Ok(FileDigest {
            name: name.to_string_lossy().into_owned(),
            sha256: digest.with_context(|| format!("`{}` cannot be digested", path.display()))?,
        })
    };
    let of_checkpoint = |checkpoint: &Checkpoint| {
        let shards = checkpoint.shards().iter();
        shards.map(|shard| of_file(shard.source().path())).collect()
    };
    ingredients
        .checkpoints()
        .iter()
        .map(of_checkpoint)
        .collect()
}
