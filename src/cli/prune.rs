//! `sms-merge prune`: a checkpoint and a target walk in, a pruned checkpoint is written,
//! a table walks out.

use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::Destination;
use sms_merge::checkpoint::MaskLayout;
use sms_merge::checkpoint::Observer;
use sms_merge::checkpoint::refuse_named_input;
use sms_merge::prune::Amount;
use sms_merge::prune::ChannelDistribution;
use sms_merge::prune::Distribution;
use sms_merge::prune::Effort;
use sms_merge::prune::Outputs;
use sms_merge::prune::PrunableRule;
use sms_merge::prune::Pruned;
use sms_merge::prune::Subject;
use sms_merge::prune::Target;
use sms_merge::prune::apply;
use sms_merge::prune::select;
use sms_merge::tensor::Printable;

use crate::cli::args::LayoutChoice;
use crate::cli::args::prune::DistributionChoice;
use crate::cli::args::prune::PatternChoice;
use crate::cli::args::prune::PruneArguments;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::inputs::open_options;
use crate::cli::inputs::patterns;
use crate::cli::inputs::threads;
use crate::cli::outputs;
use crate::cli::outputs::refuse_same_place;
use crate::cli::progress::Progress;
use crate::cli::pruned::Outcome;
use crate::cli::text::count;

/// Prunes, or says what would be pruned.
pub(crate) fn run(arguments: &PruneArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let target = target(arguments)?;
    let outputs = [&arguments.output, &arguments.mask_out];
    refuse_inputs(arguments, outputs.into_iter().flatten())?;
    let subject = open(arguments)?;
    let destination = |path: &PathBuf, shard_bytes| {
        let existing = outputs::existing(arguments.force);
        let durability = outputs::durability(arguments.no_sync);
        Destination::resolve(
            path,
            subject.ingredients(),
            shard_bytes,
            existing,
            durability,
        )
    };
    let wanted = |path: &Option<PathBuf>| path.clone().filter(|_| !arguments.plan);
    let checkpoint = wanted(&arguments.output);
    let checkpoint = checkpoint.map(|path| destination(&path, arguments.shard_size));
    let mask = wanted(&arguments.mask_out).map(|path| destination(&path, None));
    let (checkpoint, mask) = (checkpoint.transpose()?, mask.transpose()?);
    if let Some(checkpoint) = &checkpoint {
        checkpoint.probe(subject.checkpoint().tensor_bytes())?;
    }
    if let Some(mask) = &mask {
        mask.probe(0)?;
    }
    let bytes = subject.checkpoint().tensor_bytes() * passes(&target);
    let progress = Progress::new(bytes, &arguments.report);
    let effort = Effort {
        threads: threads(&arguments.reading),
        observer: Observer {
            advance: &|bytes| progress.advance(bytes),
            interrupted,
        },
    };
    let outputs = Outputs {
        checkpoint: checkpoint.as_ref(),
        mask: mask.as_ref(),
        layout: layout(arguments)?,
        shard_bytes: arguments.shard_size,
    };
    let pruned = select(&subject, &target, effort)
        .and_then(|selection| apply(&subject, &selection, outputs, effort));
    progress.clear();
    let pruned = pruned?;
    let outcome = Outcome {
        arguments,
        target,
        pruned: &pruned,
        warnings: warnings(&pruned),
        elapsed_secs: started.elapsed().as_secs_f64(),
    };
    outcome.show()?;
    Ok(Exit::Done)
}

/// How masks are stored. A pruned checkpoint is written tile by tile as it is pruned,
/// and made compact by an export.
fn layout(arguments: &PruneArguments) -> Result<MaskLayout, UsageError> {
    match arguments.layout {
        LayoutChoice::Keep => Ok(MaskLayout::Keep),
        LayoutChoice::Dense => Ok(MaskLayout::Dense),
        LayoutChoice::Bitmask | LayoutChoice::CompressedTensors | LayoutChoice::TorchPrune => {
            Err(UsageError {
                message: "a pruned checkpoint is written dense, or as its input is".to_owned(),
                next: Some(
                    "give `--mask-out MASK.st` in place of `--layout`, then `sms-merge export PRUNED.st \
                     --mask MASK.st --layout LAYOUT -o OUTPUT.st`"
                        .to_owned(),
                ),
            })
        }
    }
}

/// About how often all bytes are read, for the progress bar.
fn passes(target: &Target) -> u64 {
    match target {
        Target::Given | Target::Pattern(_) => 2,
        Target::Channels { .. } => 3,
        Target::Weights { distribution, .. } => match distribution {
            Distribution::Random { .. } => 6,
            Distribution::Lamp => 5,
            _ => 4,
        },
    }
}

/// What the options ask for.
fn target(arguments: &PruneArguments) -> anyhow::Result<Target> {
    let refuse = |message: String| {
        Err(anyhow::Error::from(UsageError {
            message,
            next: Some("sms-merge prune --help".to_owned()),
        }))
    };
    if arguments.from_mask.is_some() {
        return Ok(Target::Given);
    }
    let amount = match (arguments.sparsity, arguments.of_remaining) {
        (Some(sparsity), _) => Some(Amount::Sparsity(sparsity)),
        (None, Some(fraction)) => Some(Amount::OfRemaining(fraction)),
        (None, None) => None,
    };
    let distribution = arguments.distribution;
    let (n, m) = match (arguments.pattern, amount) {
        (PatternChoice::Groups(n, m), _) => (n, m),
        (_, None) => {
            return refuse("say how much: `--sparsity 0.9`, or `--of-remaining 0.5`".into());
        }
        (PatternChoice::Unstructured, Some(amount)) => {
            let distribution = match distribution {
                None | Some(DistributionChoice::Global) => Distribution::Global,
                Some(DistributionChoice::Uniform) => Distribution::Uniform,
                Some(DistributionChoice::Erk) => Distribution::Erk,
                Some(DistributionChoice::Lamp) => Distribution::Lamp,
                Some(DistributionChoice::Random) => Distribution::Random {
                    seed: arguments.seed,
                },
            };
            return Ok(Target::Weights {
                amount,
                distribution,
            });
        }
        (PatternChoice::Channels, Some(amount)) => {
            let distribution = match distribution {
                None | Some(DistributionChoice::Uniform) => ChannelDistribution::Uniform,
                Some(DistributionChoice::Global) => ChannelDistribution::Global,
                Some(_) => {
                    return refuse(
                        "`--pattern channels` is spread by `--distribution uniform` or `global`"
                            .into(),
                    );
                }
            };
            return Ok(Target::Channels {
                amount,
                distribution,
            });
        }
    };
    let pattern = Target::checked_pattern(n, m)?;
    if amount.is_some() || distribution.is_some() {
        return refuse(format!(
            "`--pattern {n}:{m}` says by itself what is pruned; leave `--sparsity`, \
             `--of-remaining` and `--distribution` out"
        ));
    }
    Ok(pattern)
}

/// Refuses outputs that are inputs or one another.
fn refuse_inputs<'a>(
    arguments: &PruneArguments,
    outputs: impl Iterator<Item = &'a PathBuf>,
) -> anyhow::Result<()> {
    let places = [
        ("checkpoint", &arguments.output),
        ("mask", &arguments.mask_out),
    ];
    let places = places.into_iter();
    refuse_same_place(places.filter_map(|(what, path)| Some((what, path.as_deref()?))))?;
    let masks = [&arguments.mask, &arguments.from_mask];
    let inputs: Vec<&Path> = std::iter::once(&arguments.checkpoint)
        .chain(masks.into_iter().flatten())
        .map(PathBuf::as_path)
        .collect();
    for output in outputs {
        refuse_named_input(output, inputs.iter().copied())?;
    }
    Ok(())
}

fn open(arguments: &PruneArguments) -> anyhow::Result<Subject> {
    let options = open_options(&arguments.reading);
    let checkpoint = Checkpoint::open(&arguments.checkpoint, &options)?;
    if let Some(mask) = &arguments.from_mask {
        let mask = Checkpoint::open(mask, &options)?;
        return Ok(Subject::with_mask(checkpoint, mask)?);
    }
    let mask = arguments.mask.as_ref();
    let mask = mask.map(|path| Checkpoint::open(path, &options));
    let rule = PrunableRule {
        include: patterns("--include", &arguments.include)?,
        exclude: patterns("--exclude", &arguments.exclude)?,
    };
    Ok(Subject::new(checkpoint, mask.transpose()?, &rule)?)
}

/// What a user should know and did not ask for.
fn warnings(pruned: &Pruned) -> Vec<String> {
    let mut warnings = Vec::new();
    for tensor in &pruned.tensors {
        if tensor.retained() == 0 && tensor.shape.numel() > 0 {
            let name = Printable(&tensor.name);
            warnings.push(format!("`{name}` retains no weight"));
        }
    }
    let zeros: u64 = pruned
        .tensors
        .iter()
        .map(|tensor| tensor.retained_zeros)
        .sum();
    if zeros > 0 {
        warnings.push(format!(
            "{} zero: a mask read from zeros lacks them, the one of `--mask-out` does not",
            match zeros {
                1 => "1 retained weight is".to_owned(),
                _ => format!("{} retained weights are", count(zeros)),
            }
        ));
    }
    warnings
}
