//! `sms-merge cycle status`: where a run stands, while it runs or not. Changes nothing.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use sms_merge::cycle::executor::Devices;
use sms_merge::cycle::executor::Local;
use sms_merge::cycle::job::last_progress;
use sms_merge::cycle::plan::Plan;
use sms_merge::cycle::recipe::Recipe;
use sms_merge::cycle::report::Report;
use sms_merge::cycle::run::Coordinator;
use sms_merge::cycle::run::Event;
use sms_merge::cycle::run::Setting;
use sms_merge::cycle::run::Standing;
use sms_merge::cycle::run::Watch;
use sms_merge::cycle::run::collect;
use sms_merge::cycle::scene::Scene;
use sms_merge::cycle::store::Receipt;
use sms_merge::cycle::store::RunDirectory;

use crate::cli::SCHEMA;
use crate::cli::args::cycle::StatusArguments;
use crate::cli::cycle::settings;
use crate::cli::cycle::show::report_text;
use crate::cli::exit::Exit;
use crate::cli::job::enter;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::note;
use crate::cli::text::shown;

#[derive(Serialize)]
struct StatusObject<'a> {
    schema: u32,
    run_directory: String,
    holder: Option<String>,
    steps: Vec<StepObject<'a>>,
    report: Option<Report<'a>>,
}

#[derive(Serialize)]
struct StepObject<'a> {
    label: &'a str,
    kind: &'static str,
    state: &'static str,
    progress: String,
}

/// Notes what is damaged.
struct Faults<'a>(&'a Plan, Vec<String>);

impl Watch for Faults<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Discarded { step, why } = *event {
            let label = &self.0.steps[step].label;
            self.1.push(format!("{label}: {why}"));
        }
    }

    fn soup(&mut self, _receipts: &[Option<&Receipt>]) {}
}

/// Shows where a run stands.
pub(super) fn run(arguments: &StatusArguments) -> anyhow::Result<Exit> {
    let run = RunDirectory::open(&arguments.run_dir)?;
    let jobs = std::fs::read_dir(run.jobs())
        .into_iter()
        .flatten()
        .flatten();
    let _ = jobs.map(|job| job.path()).any(|job| enter(&job));
    let path = run.recipe_path();
    let text = run.recipe_text();
    let text = text.with_context(|| format!("`{}` cannot be read", shown(&path)))?;
    let recipe = Recipe::parse(&text, &[])?;
    let scene = Scene::new(&recipe)?;
    let plan = Plan::new(&recipe, &scene)?;
    let holder = run.holder()?;
    let setting = Setting {
        run: &run,
        lock: None,
        recipe: &recipe,
        plan: &plan,
        given: scene
            .given
            .as_ref()
            .map(|given| given.identity())
            .transpose()?,
        settings: settings(&recipe)?,
        cores: 1,
        slots: 1,
        memory_bytes: 0,
        clock: &|| Duration::ZERO,
        wall_ms: &|| 0,
        interrupted: &AtomicBool::new(false),
    };
    let executor = Local::new(std::env::current_exe()?, 1, Devices::inherited());
    let mut coordinator = Coordinator::new(setting, executor);
    let mut faults = Faults(&plan, Vec::new());
    coordinator.look(&mut faults)?;
    let findings = collect(&recipe, &scene, &plan, &coordinator.receipts())?;
    let has_report = !findings.studies.is_empty();
    let report = has_report.then(|| Report::of(&findings));
    let steps: Vec<StepObject<'_>> = coordinator
        .standings()
        .into_iter()
        .enumerate()
        .map(|(idx, standing)| {
            let is_worked_at = holder.is_some() && standing == Standing::Ready;
            let progress = is_worked_at
                .then(|| progress(&run, &coordinator, idx))
                .flatten();
            StepObject {
                label: &plan.steps[idx].label,
                kind: plan.steps[idx].work.kind(),
                state: match (standing, &progress) {
                    (Standing::Done, _) => "done",
                    (_, Some(_)) => "running",
                    (Standing::Ready, None) => "ready",
                    _ => "waiting",
                },
                progress: progress.unwrap_or_default(),
            }
        })
        .collect();
    if arguments.report.json {
        let object = StatusObject {
            schema: SCHEMA,
            run_directory: arguments.run_dir.to_string_lossy().into_owned(),
            holder,
            steps,
            report,
        };
        text::print(&text::json(&object)?)?;
        return Ok(Exit::Done);
    }
    let directory = shown(&arguments.run_dir);
    let done = steps.iter().filter(|step| step.state == "done").count();
    let mut out = match &holder {
        Some(holder) => format!("`{directory}` is worked in by {}", Clean(holder)),
        None => format!("nobody works in `{directory}`"),
    };
    out.push_str(&format!("; {done} of {} steps are done\n", steps.len()));
    let open = steps.iter().filter(|step| {
        arguments.report.verbose || step.state == "running" || step.state == "ready"
    });
    let rows: Vec<Vec<String>> = open
        .map(|step| {
            let label = Clean(step.label).to_string();
            vec![
                label,
                step.state.to_owned(),
                Clean(&step.progress).to_string(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let columns = ["step", "state", "progress"].map(|name| (name, Column::Name));
        out.push_str(&text::table(&columns, &rows));
    }
    if let Some(report) = &report {
        out.push_str(&report_text(report));
    }
    text::print(&out)?;
    for fault in &faults.1 {
        note(&format!("warning: {}", Clean(fault)));
    }
    Ok(Exit::Done)
}

/// How far the latest attempt at a step is.
fn progress(run: &RunDirectory, coordinator: &Coordinator<'_>, step: usize) -> Option<String> {
    let key = coordinator.key(step)?;
    let latest = *run.attempt_numbers(key).ok()?.last()?;
    let found = last_progress(&run.attempt_directory(key, latest));
    Some(found.map_or_else(
        || "begun".to_owned(),
        |found| format!("step {} of {}, {}", found.step, found.steps, found.text),
    ))
}
