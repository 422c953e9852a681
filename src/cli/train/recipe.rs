//! From arguments to a recipe.

use std::path::Path;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::graph::Graph;
use sms_merge::train::Weights;
use sms_merge::train::choices;
use sms_merge::train::choices::Choices;
use sms_merge::train::choices::Ignored;
use sms_merge::train::choices::OptimizerName;
use sms_merge::train::choices::ScheduleName;
use sms_merge::train::data::Dataset;
use sms_merge::train::engine::Decay;
use sms_merge::train::engine::Masks;
use sms_merge::train::lost::lost;
use sms_merge::train::recipe::Pace;
use sms_merge::train::recipe::Rates;
use sms_merge::train::recipe::Recipe;
use sms_merge::train::record::Record;
use sms_merge::train::schedule::Method;
use sms_merge::train::schedule::Schedule;

use crate::cli::args::train::Augment;
use crate::cli::args::train::DecayChoice;
use crate::cli::args::train::OptimizerChoice;
use crate::cli::args::train::ScheduleChoice;
use crate::cli::args::train::TrainArguments;
use crate::cli::exit::UsageError;
use crate::cli::exit::quoted;
use crate::cli::inputs::named;

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
    let choices = choices(arguments);
    refuse_ignored(&choices)?;
    let method = choices.schedule.and_then(ScheduleName::method);
    let pretraining = match method {
        None => None,
        Some(_) => Some(pretraining(arguments, circumstances)?),
    };
    let lost = match method {
        Some(Method::Allr) => Some(share_lost(arguments, circumstances)?),
        _ => None,
    };
    Ok(choices.recipe(&choices::Circumstances {
        graph: circumstances.graph,
        dataset: circumstances.dataset,
        augment: match arguments.images.augment {
            Augment::Auto => choices::Augment::Auto,
            Augment::On => choices::Augment::On,
            Augment::Off => choices::Augment::Off,
        },
        validation_fraction: arguments.images.validation,
        validation_seed: arguments.images.validation_seed,
        limit_train: arguments.images.limit_train,
        seed: arguments.start.seed,
        pretraining: pretraining.as_ref(),
        lost,
    }))
}

fn choices(arguments: &TrainArguments) -> Choices {
    let (steps, rest) = (&arguments.recipe, &arguments.regularisation);
    Choices {
        epochs: steps.epochs,
        batch_size: steps.batch_size,
        optimizer: Some(match steps.optimizer {
            OptimizerChoice::Sgd => OptimizerName::Sgd,
            OptimizerChoice::Adamw => OptimizerName::AdamW,
        }),
        momentum: steps.momentum,
        nesterov: (steps.nesterov || steps.no_nesterov).then_some(steps.nesterov),
        betas: steps.betas,
        schedule: Some(schedule(steps.schedule)),
        learning_rate: steps.learning_rate,
        warmup_epochs: steps.warmup_epochs,
        milestones: steps.milestones.clone(),
        factor: steps.factor,
        weight_decay: rest.weight_decay,
        decay: Some(match rest.decay {
            DecayChoice::All => Decay::All,
            DecayChoice::Weights => Decay::Weights,
        }),
        label_smoothing: Some(rest.label_smoothing),
        clip_norm: steps.clip_norm,
        ema: rest.ema,
        swa: rest.swa,
    }
}

fn schedule(choice: ScheduleChoice) -> ScheduleName {
    match choice {
        ScheduleChoice::Cosine => ScheduleName::Cosine,
        ScheduleChoice::Linear => ScheduleName::Linear,
        ScheduleChoice::Step => ScheduleName::Step,
        ScheduleChoice::Constant => ScheduleName::Constant,
        ScheduleChoice::Ft => ScheduleName::Ft,
        ScheduleChoice::Lrw => ScheduleName::Lrw,
        ScheduleChoice::Slr => ScheduleName::Slr,
        ScheduleChoice::Clr => ScheduleName::Clr,
        ScheduleChoice::Llr => ScheduleName::Llr,
        ScheduleChoice::Allr => ScheduleName::Allr,
    }
}

/// What would have no effect is refused.
fn refuse_ignored(choices: &Choices) -> Result<(), UsageError> {
    let Some(Ignored { field, why }) = choices.ignored().next() else {
        return Ok(());
    };
    let option = match field {
        "nesterov" if choices.nesterov == Some(false) => "no-nesterov".to_owned(),
        _ => field.replace('_', "-"),
    };
    let next = match field {
        "learning_rate" | "warmup_epochs" => "leave it out, or use `--schedule linear`",
        "milestones" | "factor" => "leave it out, or use `--schedule step`",
        _ => "leave it out",
    };
    Err(UsageError {
        message: format!("`--{option}` has no effect: {why}"),
        next: Some(next.to_owned()),
    })
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
fn share_lost(
    arguments: &TrainArguments,
    circumstances: &Circumstances<'_>,
) -> anyhow::Result<f64> {
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
    let names = named(&arguments.start.names);
    let before = Weights::read(graph, &Checkpoint::open(parent, &names)?)?;
    let found = lost(graph, &before, circumstances.weights, circumstances.masks);
    found.share.ok_or_else(|| {
        let error = UsageError {
            message: format!(
                "`{}` retains {} weights and the mask {}: nothing was pruned",
                parent.display(),
                found.before,
                found.after
            ),
            next: Some(format!("sms-merge inspect {}", quoted(parent))),
        };
        error.into()
    })
}
