//! `sms-merge train`: arguments walk in, a trained checkpoint is written.

mod logs;
mod recipe;
mod report;
mod unwritten;
mod watch;

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::time::Instant;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::refuse_named_input;
use sms_merge::checkpoint::refuse_other_name;
use sms_merge::format::replace::Existing;
use sms_merge::format::replace::Target;
use sms_merge::graph::Graph;
use sms_merge::tensor::DeviceKind;
use sms_merge::train::Loss;
use sms_merge::train::Weights;
use sms_merge::train::card::Origin;
use sms_merge::train::card::metadata;
use sms_merge::train::compute::Compute;
use sms_merge::train::data::Assembler;
use sms_merge::train::data::Dataset;
use sms_merge::train::engine::Engine;
use sms_merge::train::engine::Masks;
use sms_merge::train::masks::masks_of_zeros;
use sms_merge::train::masks::read_masks;
use sms_merge::train::memory::Task;
use sms_merge::train::memory::require;
use sms_merge::train::record::DataRecord;
use sms_merge::train::record::FORMAT_VERSION;
use sms_merge::train::record::Record;
use sms_merge::train::record::StartRecord;
use sms_merge::train::state::is_state;
use sms_merge::train::state::read_state;
use sms_merge::train::trainer::Outcome;
use sms_merge::train::trainer::Plan;
use sms_merge::train::trainer::State;
use sms_merge::train::trainer::fit;
use sms_merge::train::trainer::measure;
use thiserror::Error;

use crate::cli::args::train::TrainArguments;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::inputs::named;
use crate::cli::learning::build_model;
use crate::cli::learning::card_of;
use crate::cli::learning::open_compute;
use crate::cli::learning::open_data;
use crate::cli::learning::record_of;
use crate::cli::outputs;
use crate::cli::outputs::refuse_same_place;
use crate::cli::progress::Steps;
use crate::cli::silence::OtherWay;
use crate::cli::silence::refuse_silence;
use crate::cli::text::shown;
use crate::cli::train::logs::Beginning;
use crate::cli::train::logs::Events;
use crate::cli::train::logs::Lines;
pub(crate) use crate::cli::train::logs::LogError;
use crate::cli::train::recipe::Circumstances;
use crate::cli::train::recipe::recipe;
use crate::cli::train::report::Report;
pub(crate) use crate::cli::train::unwritten::Unwritten;
use crate::cli::train::unwritten::probe;
use crate::cli::train::watch::Saving;
use crate::cli::train::watch::Watcher;

/// The user asked to stop.
#[derive(Debug, Error)]
#[error("interrupted after step {step} of {steps}; the state is in `{}`", state.display())]
pub(crate) struct Interrupted {
    pub(crate) step: u64,
    pub(crate) steps: u64,
    pub(crate) state: PathBuf,
}

/// What is known before the first step.
struct Training {
    dataset: Dataset,
    graph: Graph,
    weights: Weights,
    masks: Masks,
    record: Record,
}

/// Trains, and writes the outcome.
pub(crate) fn run(arguments: &TrainArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let existing = outputs::existing(arguments.saving.force);
    let durability = outputs::durability(arguments.saving.no_sync);
    let state_path = state_path(arguments);
    refuse_inputs(arguments, &state_path)?;
    refuse_other_name(&arguments.output)?;
    let output = Target::for_file(&arguments.output, existing)?;
    let compute = open_compute(&arguments.engine)?;
    let Training {
        dataset,
        graph,
        weights,
        mut masks,
        record,
    } = Training::new(arguments, &compute)?;
    let plan = Plan::new(&dataset, &record.recipe)?;
    let resumed = match &arguments.saving.resume {
        None => None,
        Some(path) => {
            let path = path.as_deref().unwrap_or(&state_path);
            let file = Checkpoint::open(path, &OpenOptions::default())?;
            let (state, stored) = read_state(&graph, &record, plan.steps(), &file)?;
            masks = stored;
            Some(state)
        }
    };
    let target = state_target(arguments, &state_path, existing)?;
    probe(&graph, &record, [&output, &target])?;
    let mut engine = compute.engine(graph.clone(), &weights, masks.clone())?;
    let saving = Saving {
        graph: &graph,
        masks: &masks,
        record: &record,
        target,
        durability,
        every: arguments.saving.save_every,
    };
    let mut watcher = watcher(arguments, &saving, &plan, resumed.as_ref(), started)?;
    let state = resumed.as_ref();
    let outcome = fit(engine.as_mut(), &plan, state, &mut watcher, interrupted);
    watcher.progress.clear();
    let outcome = match outcome? {
        Outcome::Done(weights) => weights,
        Outcome::Interrupted(state) => {
            let saved = |error| Unwritten::state(&saving, &state, &state_path, error);
            saving.save(&state).map_err(saved)?;
            return Err(Interrupted {
                step: state.step,
                steps: plan.steps(),
                state: state_path,
            }
            .into());
        }
    };
    let written = outcome.write(&graph, &metadata(&record), &output, durability);
    written.map_err(|error| {
        let state = watcher.has_saved.then_some(state_path.as_path());
        Unwritten::outcome(&saving, &outcome, &arguments.output, state, error)
    })?;
    let is_own_state = matches!(&arguments.saving.resume, Some(None));
    if watcher.has_saved || is_own_state {
        // The outcome is in place, so nothing is lost with the state, nor if it stays.
        let _ = std::fs::remove_file(&state_path);
    }
    let measured = measure_outcome(engine.as_mut(), &plan, &dataset, interrupted)?;
    if let Some((_, test)) = measured {
        watcher.end(plan.steps(), test)?;
    }
    let report = Report {
        arguments,
        graph: &graph,
        masks: &masks,
        record: &record,
        plan: &plan,
        resumed_at: resumed.as_ref().map(|state| state.step),
        last: watcher.last,
        measured,
        images_per_sec: watcher.images_per_sec(),
        elapsed: started.elapsed(),
    };
    report.show()?;
    Ok(match measured {
        Some(_) => Exit::Done,
        None => Exit::Interrupted,
    })
}

impl Training {
    /// Reads what is to be read, and settles what is left open.
    fn new(arguments: &TrainArguments, compute: &Compute) -> anyhow::Result<Self> {
        let start = &arguments.start;
        let open = |path| Checkpoint::open(path, &named(&start.names));
        let init = start.init.as_deref().map(open).transpose()?;
        let before = init.as_ref().map(record_of).transpose()?.flatten();
        let card = init.as_ref().map(card_of).transpose()?.flatten();
        let origin = match &init {
            None => Origin::New,
            Some(init) => {
                let (model, data) = (&arguments.model, &arguments.data);
                refuse_silence(init.path(), card.as_ref(), model, data, OtherWay::None)?;
                Origin::of_checkpoint(card.as_ref())
            }
        };
        let dataset = open_data(&arguments.data, origin)?;
        let (graph, model) = build_model(&arguments.model, origin, &dataset)?;
        if compute.kind() == DeviceKind::Cpu {
            let task = match (&init, &start.mask) {
                (None, None) => Task::Train { slots: 1 },
                // What is pruned has no gradient.
                _ => Task::Predict,
            };
            require(&graph, arguments.recipe.batch_size.unwrap_or(1), task)?;
        }
        let weights = match &init {
            Some(init) => Weights::read(&graph, init)?,
            None => Weights::initial(&graph, start.seed),
        };
        if let Some(init) = &init {
            weights.check_finite(&graph, init.path())?;
        }
        let masks = match &start.mask {
            Some(path) => read_masks(&graph, &open(path)?)?,
            None if init.is_some() && !start.dense => masks_of_zeros(&graph, &weights),
            None => vec![None; graph.parameters.len()],
        };
        let circumstances = Circumstances {
            graph: &graph,
            dataset: &dataset,
            init: init.as_ref(),
            record: before.as_ref(),
            weights: &weights,
            masks: &masks,
        };
        let recipe = recipe(arguments, &circumstances)?;
        let plan = Plan::new(&dataset, &recipe)?;
        let record = Record {
            format_version: FORMAT_VERSION,
            tool: format!("sms-merge {}", env!("CARGO_PKG_VERSION")),
            engine: compute.name().to_owned(),
            model,
            data: DataRecord::new(&dataset),
            start: StartRecord::new(&graph, &weights, &masks),
            steps_per_epoch: plan.steps_per_epoch(),
            recipe,
        };
        Ok(Self {
            dataset,
            graph,
            weights,
            masks,
            record,
        })
    }
}

/// Where the state is saved: beside the output unless it is said.
fn state_path(arguments: &TrainArguments) -> PathBuf {
    arguments.saving.state.clone().unwrap_or_else(|| {
        let mut path = OsString::from(&arguments.output);
        path.push(".state");
        PathBuf::from(path)
    })
}

/// Refuses to write to what is read, and two outputs in one place.
fn refuse_inputs(arguments: &TrainArguments, state: &Path) -> anyhow::Result<()> {
    let start = &arguments.start;
    let given = [&start.init, &start.mask, &start.parent]
        .into_iter()
        .flatten();
    let named = [&arguments.data.data, &arguments.model.model];
    let named = named.into_iter().flatten().map(PathBuf::from);
    let inputs: Vec<PathBuf> = given.cloned().chain(named).collect();
    let inputs = || inputs.iter().map(PathBuf::as_path);
    let resumed = arguments.saving.resume.iter().flatten();
    refuse_named_input(
        &arguments.output,
        inputs().chain(resumed.map(PathBuf::as_path)),
    )?;
    refuse_named_input(state, inputs())?;
    let metrics = arguments.logging.metrics.as_deref();
    if let Some(metrics) = metrics {
        refuse_named_input(metrics, inputs())?;
    }
    let places = [
        ("checkpoint", Some(arguments.output.as_path())),
        ("state", Some(state)),
        ("metrics", metrics),
    ];
    let places = places.into_iter();
    refuse_same_place(places.filter_map(|(what, path)| Some((what, path?))))?;
    Ok(())
}

/// Where states go. One that is there already belongs to a training that was broken
/// off, and is not overwritten by another unless that is asked for; what is no state
/// never is.
fn state_target(
    arguments: &TrainArguments,
    path: &Path,
    existing: Existing,
) -> anyhow::Result<Target> {
    let is_resumed = arguments.saving.resume.is_some();
    let open = || Checkpoint::open(path, &OpenOptions::default());
    let is_state = || open().is_ok_and(|file| is_state(&file));
    let refusal = if !path.exists() {
        None
    } else if !is_state() {
        Some((
            "is there, and is no state of a training",
            "name another file with `--state`",
        ))
    } else if !is_resumed && existing == Existing::Refuse {
        Some((
            "is the state of a training that was broken off",
            "add `--resume` to go on, or `--force` to begin anew",
        ))
    } else {
        None
    };
    match refusal {
        Some((what, next)) => Err(UsageError {
            message: format!("`{}` {what}", shown(path)),
            next: Some(next.to_owned()),
        }
        .into()),
        None => Ok(Target::for_file(path, Existing::Replace)?),
    }
}

fn watcher<'a>(
    arguments: &TrainArguments,
    saving: &'a Saving<'a>,
    plan: &Plan<'_>,
    resumed: Option<&State>,
    started: Instant,
) -> anyhow::Result<Watcher<'a>> {
    let step = resumed.map_or(0, |state| state.step);
    let beginning = match resumed {
        Some(state) => Beginning::After(state.step),
        None if arguments.saving.force => Beginning::Anew,
        None => Beginning::New,
    };
    let logging = &arguments.logging;
    let lines = logging.metrics.as_deref();
    let events = logging.tensorboard.as_deref();
    Ok(Watcher {
        saving,
        lines: lines.map(|path| Lines::open(path, beginning)).transpose()?,
        events: events.map(|path| Events::create(path, step)).transpose()?,
        log_every: logging.log_every as u64,
        epochs: saving.record.recipe.epochs,
        images: 0,
        computing: Duration::ZERO,
        epoch_images: 0,
        epoch_time: Duration::ZERO,
        last: None,
        has_saved: false,
        progress: Steps::new(step, plan.steps(), &arguments.report),
        resting: Instant::now(),
        started,
    })
}

/// What the outcome costs on the held-out images, if there are any, and on the test
/// images; `None` if interrupted.
fn measure_outcome(
    engine: &mut dyn Engine,
    plan: &Plan<'_>,
    dataset: &Dataset,
    interrupted: &AtomicBool,
) -> anyhow::Result<Option<(Option<Loss>, Loss)>> {
    const BATCH: usize = 256;
    let normalisation = &dataset.normalisation;
    let held_out = &plan.split().validation;
    let train = Assembler::new(&dataset.train, normalisation);
    let test = Assembler::new(&dataset.test, normalisation);
    let Some(validation) = measure(engine, &train, held_out, BATCH, interrupted)? else {
        return Ok(None);
    };
    let indices = dataset.test.indices();
    let test = measure(engine, &test, &indices, BATCH, interrupted)?;
    let validation = (validation.samples > 0).then_some(validation);
    Ok(test.map(|test| (validation, test)))
}
