//! From arguments to a recipe.

use std::path::Path;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::graph::Graph;
use sms_merge::graph::Role;
use sms_merge::train::Weights;
use sms_merge::train::data::Augmentation;
use sms_merge::train::data::Dataset;
use sms_merge::train::engine::Decay;
use sms_merge::train::engine::Masks;
use sms_merge::train::engine::Optimizer;
use sms_merge::train::masks::masks_of_zeros;
use sms_merge::train::recipe::Average;
use sms_merge::train::recipe::Fall;
use sms_merge::train::recipe::Pace;
use sms_merge::train::recipe::Rates;
use sms_merge::train::recipe::Recipe;
use sms_merge::train::record::Record;
use sms_merge::train::schedule::Method;
use sms_merge::train::schedule::Schedule;
use sms_merge::train::schedule::lost_share;

use crate::cli::args::train::Augment;
use crate::cli::args::train::DecayChoice;
use crate::cli::args::train::OptimizerChoice;
use crate::cli::args::train::ScheduleChoice;
use crate::cli::args::train::TrainArguments;
use crate::cli::exit::UsageError;
use crate::cli::exit::quoted;
use crate::cli::learning::open_checkpoint;

/// Added to the root of the second moment, as torch does by default.
const ADAM_EPSILON: f64 = 1e-8;
/// torch's default for AdamW.
const ADAM_DECAY: f64 = 0.01;
/// torch's default for AdamW.
const ADAM_RATE: f64 = 1e-3;

/// What a recipe may depend on.
pub(super) struct Circumstances<'a> {
    pub(super) graph: &'a Graph,
    pub(super) dataset: &'a Dataset,
    pub(super) init: Option<&'a Checkpoint>,
    pub(super) record: Option<&'a Record>,
    pub(super) weights: &'a Weights,
    pub(super) masks: &'a Masks,
}

/// The recipe that the arguments ask for; what they leave open is what suits network
/// and data.
pub(super) fn recipe(
    arguments: &TrainArguments,
    circumstances: &Circumstances<'_>,
) -> anyhow::Result<Recipe> {
    let suited = Recipe::suited(circumstances.graph, circumstances.dataset);
    let (steps, rest) = (&arguments.recipe, &arguments.regularisation);
    let is_adam = steps.optimizer == OptimizerChoice::Adamw;
    let epochs = steps.epochs.unwrap_or(suited.epochs);
    let decay = if is_adam {
        ADAM_DECAY
    } else {
        suited.weight_decay
    };
    Ok(Recipe {
        epochs,
        batch_size: steps.batch_size.unwrap_or(suited.batch_size),
        optimizer: match steps.optimizer {
            OptimizerChoice::Sgd => Optimizer::Sgd {
                momentum: steps.momentum,
                nesterov: !steps.no_nesterov && (steps.nesterov || steps.momentum > 0.0),
            },
            OptimizerChoice::Adamw => Optimizer::AdamW {
                beta1: steps.betas[0],
                beta2: steps.betas[1],
                epsilon: ADAM_EPSILON,
            },
        },
        pace: pace(arguments, circumstances, &suited, epochs)?,
        weight_decay: rest.weight_decay.unwrap_or(decay),
        decay: match rest.decay {
            DecayChoice::All => Decay::All,
            DecayChoice::Weights => Decay::Weights,
        },
        label_smoothing: rest.label_smoothing,
        clip_norm: steps.clip_norm,
        augmentation: match arguments.images.augment {
            Augment::Auto => suited.augmentation,
            Augment::On => circumstances.dataset.augmentation,
            Augment::Off => Augmentation::default(),
        },
        average: match (rest.ema, rest.swa) {
            (Some(decay), _) => Average::Ema { decay },
            (None, Some(last)) => {
                // A quarter, where it is not said.
                let last = if last == 0 { epochs.div_ceil(4) } else { last };
                Average::Swa {
                    start: epochs.saturating_sub(last),
                }
            }
            (None, None) => Average::None,
        },
        seed: arguments.start.seed,
        validation_fraction: arguments.images.validation,
        validation_seed: arguments.images.validation_seed,
        limit_train: arguments.images.limit_train,
    })
}

fn pace(
    arguments: &TrainArguments,
    circumstances: &Circumstances<'_>,
    suited: &Recipe,
    epochs: u64,
) -> anyhow::Result<Pace> {
    let steps = &arguments.recipe;
    if let Some(method) = method(steps.schedule) {
        refuse_ignored(arguments)?;
        return Ok(Pace::Retraining {
            method,
            pretraining: pretraining(arguments, circumstances)?,
            lost: match method {
                Method::Allr => Some(lost(arguments, circumstances)?),
                _ => None,
            },
        });
    }
    let Pace::Curve {
        learning_rate,
        warmup_epochs,
        ..
    } = suited.pace
    else {
        unreachable!("what suits is a curve");
    };
    let learning_rate = match steps.optimizer {
        OptimizerChoice::Sgd => learning_rate,
        OptimizerChoice::Adamw => ADAM_RATE,
    };
    let warmup_epochs = if epochs > 1 { warmup_epochs } else { 0.0 };
    Ok(Pace::Curve {
        learning_rate: steps.learning_rate.unwrap_or(learning_rate),
        shape: match steps.schedule {
            ScheduleChoice::Constant => Fall::Constant,
            ScheduleChoice::Linear => Fall::Linear,
            ScheduleChoice::Step => Fall::Step {
                milestones: steps
                    .milestones
                    .clone()
                    .unwrap_or_else(|| vec![0.5 * epochs as f64, 0.75 * epochs as f64]),
                factor: steps.factor,
            },
            _ => Fall::Cosine,
        },
        warmup_epochs: steps.warmup_epochs.unwrap_or(warmup_epochs),
    })
}

fn method(schedule: ScheduleChoice) -> Option<Method> {
    Some(match schedule {
        ScheduleChoice::Ft => Method::Ft,
        ScheduleChoice::Lrw => Method::Lrw,
        ScheduleChoice::Slr => Method::Slr,
        ScheduleChoice::Clr => Method::Clr,
        ScheduleChoice::Llr => Method::Llr,
        ScheduleChoice::Allr => Method::Allr,
        _ => return None,
    })
}

/// A retraining takes its rates from elsewhere: what would have no effect is refused.
fn refuse_ignored(arguments: &TrainArguments) -> Result<(), UsageError> {
    let steps = &arguments.recipe;
    let given = [
        (steps.learning_rate.is_some(), "--learning-rate"),
        (steps.warmup_epochs.is_some(), "--warmup-epochs"),
        (steps.milestones.is_some(), "--milestones"),
    ];
    match given.iter().find(|(is_given, _)| *is_given) {
        None => Ok(()),
        Some((_, option)) => Err(UsageError {
            message: format!(
                "`{option}` has no effect: this schedule takes its rates from the training of \
                 --init"
            ),
            next: Some("leave it out, or use `--schedule linear`".to_owned()),
        }),
    }
}

/// The learning rates of the training that `--init` came out of; through a retraining,
/// those of the first training.
fn pretraining(
    arguments: &TrainArguments,
    circumstances: &Circumstances<'_>,
) -> anyhow::Result<Schedule> {
    let rewarm = "use `--schedule linear --learning-rate RATE`, which falls from RATE to 0";
    let Some(record) = circumstances.record else {
        let message = match &arguments.start.init {
            None => "this schedule retrains a checkpoint: there is no `--init`".to_owned(),
            Some(path) => format!(
                "`{}` does not say how it was trained, so there are no learning rates to take up",
                path.display()
            ),
        };
        let next = Some(rewarm.to_owned());
        return Err(UsageError { message, next }.into());
    };
    if let Pace::Retraining { pretraining, .. } = &record.recipe.pace {
        return Ok(pretraining.clone());
    }
    match record.recipe.rates(record.steps_per_epoch)? {
        Rates::Schedule(schedule) => Ok(schedule),
        Rates::Retraining(_) => unreachable!("that was looked for before"),
    }
}

/// What pruning took away of the parent's weights.
fn lost(arguments: &TrainArguments, circumstances: &Circumstances<'_>) -> anyhow::Result<f64> {
    let Some(parent) = &arguments.start.parent else {
        let init = circumstances
            .init
            .map_or(Path::new("pruned.st"), Checkpoint::path);
        return Err(UsageError {
            message: format!(
                "`--schedule allr` needs the weights before the pruning of `{}`",
                init.display()
            ),
            next: Some("add `--parent CHECKPOINT`, or use `--schedule llr`".to_owned()),
        }
        .into());
    };
    let graph = circumstances.graph;
    let before = Weights::read(graph, &open_checkpoint(parent)?)?;
    let parent_masks = masks_of_zeros(graph, &before);
    let retained = |masks: &Masks| -> u64 {
        let parameters = graph.parameters.iter().zip(masks);
        parameters
            .filter(|(parameter, _)| parameter.role == Role::Weight)
            .map(|(parameter, mask)| {
                let numel = parameter.shape.numel();
                mask.as_ref().map_or(numel, |mask| mask.retained() as u64)
            })
            .sum()
    };
    let (left, kept) = (retained(&parent_masks), retained(circumstances.masks));
    if kept >= left {
        return Err(UsageError {
            message: format!(
                "`{}` retains {left} weights and the mask {kept}: nothing was pruned",
                parent.display()
            ),
            next: Some(format!("sms-merge inspect {}", quoted(parent))),
        }
        .into());
    }
    let tensors = graph.parameters.iter().zip(&before.values);
    let tensors = tensors
        .zip(circumstances.weights.values.iter().zip(circumstances.masks))
        .filter(|((parameter, _), _)| parameter.role == Role::Weight);
    let pruned: Vec<(&[f32], Vec<f32>)> = tensors
        .map(|((_, before), (after, mask))| {
            let mut after = after.clone();
            if let Some(mask) = mask {
                mask.apply(&mut after);
            }
            (before.as_slice(), after)
        })
        .collect();
    let pairs = pruned
        .iter()
        .map(|(before, after)| (*before, after.as_slice()));
    Ok(lost_share(pairs, 1.0 - kept as f64 / left as f64))
}
