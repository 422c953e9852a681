//! `sms-merge cycle`: a recipe walks in, a run directory with soups and a report walks out.

mod bars;
mod deliver;
mod devices;
mod estimate;
mod init;
mod plan;
mod show;
mod status;
pub(crate) mod terms;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use sms_merge::cycle::executor::Devices;
use sms_merge::cycle::executor::Local;
use sms_merge::cycle::job::Settings;
use sms_merge::cycle::plan::Plan;
use sms_merge::cycle::recipe::Recipe;
use sms_merge::cycle::run::Coordinator;
use sms_merge::cycle::run::Ended;
use sms_merge::cycle::run::Setting;
use sms_merge::cycle::scene::Scene;
use sms_merge::cycle::store::RunDirectory;
use sms_merge::format::regular;
use sms_merge::format::regular::TEXT_LIMIT;
use sms_merge::merge::default_threads;
use sms_merge::tensor::DeviceKind;
use sms_merge::train::device::check_built;

use crate::cli::args::cycle::CycleArguments;
use crate::cli::args::cycle::CycleCommand;
use crate::cli::cycle::bars::Bars;
use crate::cli::cycle::deliver::Delivery;
use crate::cli::exit::Exit;
use crate::cli::text::note;
use crate::cli::text::shown;

/// What is run where no recipe is named.
const DEMONSTRATION: &str = include_str!("../../examples/digits.toml");

/// Runs the cycle, or says what it would do.
pub(crate) fn run(arguments: &CycleArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    if let Some(CycleCommand::Status(arguments)) = &arguments.command {
        return status::run(arguments);
    }
    if let Some(file) = &arguments.init {
        return init::run(file.as_deref(), &arguments.report);
    }
    let started = Instant::now();
    let text = recipe_text(arguments)?;
    let mut recipe = Recipe::parse(&text, &arguments.set)?;
    devices::put(&arguments.device, &mut recipe)?;
    let scene = Scene::new(&recipe)?;
    let plan = Plan::new(&recipe, &scene)?;
    let cores = arguments.threads.unwrap_or_else(default_threads);
    let permitted = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let devices = Devices::choose(permitted.as_deref(), &recipe.run.devices)?;
    // More than one job on a GPU is for those who know that it has the memory.
    let together = match recipe.device {
        DeviceKind::Cpu => cores,
        DeviceKind::Cuda => devices.count().max(1),
    };
    let slots = arguments.jobs.or(recipe.run.jobs).unwrap_or(together);
    if arguments.plan {
        plan::show(arguments, &recipe, &scene, &plan, slots)?;
        return Ok(Exit::Done);
    }
    check_built(recipe.device)?;
    if let (DeviceKind::Cpu, Some((need, samples))) = (recipe.device, estimate::need(&scene, &plan))
    {
        need.require(samples)?;
    }
    let run = RunDirectory::create(&arguments.run_dir)?;
    let lock = run.lock(&holder())?;
    run.probe()?;
    run.write_top("recipe.toml", recipe.to_text().as_bytes())?;
    let setting = Setting {
        run: &run,
        lock: Some(&lock),
        recipe: &recipe,
        plan: &plan,
        given: scene
            .given
            .as_ref()
            .map(|given| given.identity())
            .transpose()?,
        settings: settings(&recipe)?,
        cores,
        slots,
        memory_bytes: recipe
            .run
            .memory_bytes
            .unwrap_or_else(|| scene.memory_bytes(&recipe)),
        clock: &|| started.elapsed(),
        wall_ms: &wall_ms,
        interrupted,
    };
    let executor = Local::new(std::env::current_exe()?, slots, devices);
    let mut coordinator = Coordinator::new(setting, executor);
    let delivery = Delivery {
        run: &run,
        recipe: &recipe,
        scene: &scene,
        plan: &plan,
    };
    let mut bars = Bars::new(&delivery, &arguments.report);
    coordinator.look(&mut bars)?;
    bars.begin(&arguments.run_dir);
    let ended = coordinator.go(&mut bars);
    bars.clear();
    let ended = ended?;
    let receipts = coordinator.receipts();
    let delivered = delivery.deliver(&receipts)?;
    let outcome = show::Outcome {
        arguments,
        plan: &plan,
        ended,
        reused: bars.reused(),
        failures: coordinator.failures(),
        delivered: &delivered,
        elapsed: started.elapsed(),
    };
    outcome.show()?;
    Ok(match ended {
        Ended::Done => Exit::Done,
        Ended::Failed => Exit::Failed,
        Ended::Interrupted => Exit::Interrupted,
    })
}

/// The recipe that is named, or that of the run that is there, or the demonstration.
fn recipe_text(arguments: &CycleArguments) -> anyhow::Result<String> {
    let unread = |path: &Path| format!("recipe `{}` cannot be read", shown(path));
    if let Some(path) = &arguments.recipe {
        return regular::read_text(path, TEXT_LIMIT).with_context(|| unread(path));
    }
    match RunDirectory::open(&arguments.run_dir) {
        Ok(run) if fs::symlink_metadata(run.recipe_path()).is_ok() => {
            let text = run.recipe_text();
            text.with_context(|| unread(&run.recipe_path()))
        }
        _ => {
            if !arguments.report.quiet && !arguments.report.json {
                note("no recipe: this is the demonstration; `sms-merge cycle --help` says more");
            }
            Ok(DEMONSTRATION.to_owned())
        }
    }
}

fn settings(recipe: &Recipe) -> anyhow::Result<Settings> {
    let trainer = recipe.trainer.as_ref();
    // Workers may be started elsewhere: paths are those of this directory.
    let absolute = |path: &Path| std::path::absolute(path);
    let directory = recipe.data.directory.as_deref().map(absolute);
    Ok(Settings {
        data_directory: directory.transpose()?,
        given: None,
        command_directory: Some(std::env::current_dir()?),
        timeout_secs: trainer.and_then(|trainer| trainer.timeout_secs),
        stall_secs: trainer.and_then(|trainer| trainer.stall_secs),
    })
}

/// Who holds the lock, for those who find it held.
fn holder() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("process {} on {}", std::process::id(), host.trim())
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
