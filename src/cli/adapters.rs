//! A merge of adapters: arguments and open checkpoints walk in, a soup is written, and
//! a summary walks out.

mod summary;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use sms_merge::adapter::Adapter;
use sms_merge::adapter::AdapterError;
use sms_merge::adapter::Scaling;
use sms_merge::adapter::is_adapter;
use sms_merge::adapter::is_of_no_factor;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::merge::AdapterPlan;
use sms_merge::merge::AdapterSoup;
use sms_merge::merge::Destination;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::Observer;
use sms_merge::merge::PlannedModule;
use sms_merge::merge::Products;
use sms_merge::merge::merge_adapters;
use sms_merge::merge::understand;
use sms_merge::tensor::Printable;

use crate::cli::adapters::summary::Merged;
use crate::cli::adapters::summary::Outcome;
use crate::cli::args::MergeArguments;
use crate::cli::args::ReadingArguments;
use crate::cli::args::adapter::LoraChoice;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::greedy;
use crate::cli::inputs::open_options;
use crate::cli::merge::file_digests;
use crate::cli::outputs;
use crate::cli::progress::Progress;

/// Whether these checkpoints are adapters whose products are to be averaged.
///
/// # Errors
/// If what was asked for makes no sense of them.
pub(crate) fn are_meant(
    arguments: &MergeArguments,
    checkpoints: &[Checkpoint],
) -> anyhow::Result<bool> {
    let usage = |message: &str, next: Option<&str>| UsageError {
        message: message.to_owned(),
        next: next.map(str::to_owned),
    };
    let adapters = &arguments.adapters;
    let is_any = checkpoints.iter().any(is_adapter);
    match (is_any, adapters.lora) {
        (false, _) if adapters.rank.is_some() => {
            Err(usage("`--rank` is for adapters, and these are none", None).into())
        }
        (false, _) => Ok(false),
        (true, LoraChoice::Factors) if adapters.rank.is_some() => {
            let message = "`--rank` is for the products of adapters, not with `--lora factors`";
            Err(usage(message, None).into())
        }
        (true, LoraChoice::Factors) => {
            refuse_other_scales(checkpoints)?;
            Ok(false)
        }
        (true, LoraChoice::Products) if greedy::is_asked_for(arguments) => {
            let message = "`--method greedy` does not know adapters";
            let next = "merge those that you choose, with `--weights` if you like";
            Err(usage(message, Some(next)).into())
        }
        (true, LoraChoice::Products) => Ok(true),
    }
}

/// Refuses means of factors whose products are scaled in different ways. Of what kind of
/// adapter they are does not matter.
fn refuse_other_scales(checkpoints: &[Checkpoint]) -> anyhow::Result<()> {
    let mut first: Option<(&Checkpoint, Adapter)> = None;
    for checkpoint in checkpoints {
        let adapter = match Adapter::open(checkpoint, |_| true) {
            Ok(adapter) => adapter,
            Err(AdapterError::Foreign { .. } | AdapterError::NoConfig { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some((first_checkpoint, known)) = &first else {
            first = Some((checkpoint, adapter));
            continue;
        };
        for (name, module) in &adapter.modules {
            let scale = module.scale();
            let known = known.modules.get(name).map(|module| module.scale());
            if known.is_some_and(|known| known != scale) {
                return Err(AdapterError::Mixed {
                    first: first_checkpoint.path().to_owned(),
                    other: checkpoint.path().to_owned(),
                    reason: format!(
                        "`{}` is scaled by {} and {scale}, and one scale has to fit the mean \
                         factors; leave `--lora factors` out",
                        Printable(name),
                        known.unwrap_or_default(),
                    ),
                }
                .into());
            }
        }
    }
    Ok(())
}

/// Joins the tensors of adapters that belong to no factor, of which there may be none.
pub(crate) fn join_others(
    checkpoints: Vec<Checkpoint>,
    mask: Option<&Path>,
    reading: &ReadingArguments,
    dtypes: DtypeRule,
    options: &MergeOptions,
) -> anyhow::Result<Ingredients> {
    let mask = mask.map(|path| Checkpoint::open(path, &open_options(reading)));
    let is_joined = |name: &str| options.selects(name) && is_of_no_factor(name);
    let mask = mask.transpose()?;
    Ok(Ingredients::join_part(
        checkpoints,
        mask,
        dtypes,
        is_joined,
    )?)
}

/// Merges adapters, or says what that would do.
pub(crate) fn run(
    arguments: &MergeArguments,
    checkpoints: Vec<Checkpoint>,
    mut options: MergeOptions,
    mut warnings: Vec<String>,
    interrupted: &AtomicBool,
) -> anyhow::Result<Exit> {
    let started = Instant::now();
    options.adapters = Some(match arguments.adapters.rank {
        Some(rank) => Products::Rank {
            rank: u64::from(rank),
        },
        None => Products::Exact,
    });
    options.workers = crate::cli::inputs::threads(&arguments.reading).into();
    let mask = arguments.mask.mask.as_deref();
    // Of what kind they are is told before how their tensors differ.
    understand(&checkpoints, &options)?;
    let dtypes = options.dtype_rule();
    let ingredients = join_others(checkpoints, mask, &arguments.reading, dtypes, &options)?;
    let destination = arguments
        .output
        .as_ref()
        .filter(|_| !arguments.plan)
        .map(|output| {
            let existing = outputs::existing(arguments.force);
            let durability = outputs::durability(arguments.no_sync);
            let shard_bytes = arguments.shard_size;
            Destination::resolve_soup(output, &ingredients, shard_bytes, existing, durability)
        });
    let destination = destination.transpose()?;
    let idle = Observer {
        advance: &|_| {},
        interrupted,
    };
    let plan = AdapterPlan::new(&ingredients, &options, idle)?;
    warnings.extend(self::warnings(&plan, &ingredients));
    let show = |soup: Option<&AdapterSoup>, warnings: Vec<String>| {
        Outcome {
            arguments,
            ingredients: &ingredients,
            options: &options,
            plan: &plan,
            soup: soup.map(Merged::new),
            warnings,
            elapsed_secs: started.elapsed().as_secs_f64(),
        }
        .show()
    };
    let Some(destination) = destination else {
        show(None, warnings)?;
        return Ok(Exit::Done);
    };

    let files = match arguments.sha256 {
        true => file_digests(&ingredients)?,
        false => Vec::new(),
    };
    let bytes = plan.plain.bytes_to_read + plan.plain.bytes_to_write;
    let progress = Progress::new(bytes, &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let soup = merge_adapters(&plan, &ingredients, &options, &destination, files, observer);
    progress.clear();
    show(Some(&soup?), warnings)?;
    Ok(Exit::Done)
}

/// What there is to say of the adapters before they are merged.
fn warnings(plan: &AdapterPlan, ingredients: &Ingredients) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_partial = |module: &&PlannedModule| {
        let mut adapters = plan.adapters.iter();
        !adapters.all(|adapter| adapter.modules.contains_key(&module.name))
    };
    let partial: Vec<&PlannedModule> = plan.modules.iter().filter(is_partial).collect();
    if let Some(first) = partial.first() {
        let adapters = plan.adapters.iter();
        let n_with = adapters
            .filter(|adapter| adapter.modules.contains_key(&first.name))
            .count();
        let more = match partial.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        warnings.push(format!(
            "`{}`{more} is in {n_with} of {} adapters: in the others its product counts as zero",
            Printable(&first.name),
            ingredients.count()
        ));
    }
    let bases: Vec<_> = plan.adapters.iter().map(base_of).collect();
    if let Some(other) = bases.iter().find(|base| **base != bases[0])
        && let (Some(first), Some(other)) = (&bases[0], other)
    {
        warnings.push(format!(
            "the adapters name different networks, `{}` and `{}`: only adapters of one network \
             have a mean",
            Printable(first),
            Printable(other)
        ));
    }
    warnings
}

/// The network that an adapter's configuration names.
fn base_of(adapter: &Adapter) -> Option<String> {
    let Scaling::Config(config) = &adapter.scaling else {
        return None;
    };
    let name = config.all().get("base_model_name_or_path")?;
    name.as_str().map(str::to_owned)
}
