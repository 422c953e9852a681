//! What is seen while a run runs: a line per job, what is done, and how long the rest
//! takes.

use std::collections::BTreeMap;
use std::io;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use sms_merge::cycle::findings::Model;
use sms_merge::cycle::job::Metrics;
use sms_merge::cycle::plan::Plan;
use sms_merge::cycle::run::Event;
use sms_merge::cycle::run::Watch;
use sms_merge::cycle::store::Receipt;

use crate::cli::args::ReportArguments;
use crate::cli::cycle::deliver::Delivery;
use crate::cli::cycle::terms;
use crate::cli::text::Clean;
use crate::cli::text::note;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::shown;

const REDRAW: Duration = Duration::from_millis(100);

/// Lines and bars of a run, and its report as far as it has come.
pub(super) struct Bars<'a> {
    plan: &'a Plan,
    delivery: &'a Delivery<'a>,
    group: MultiProgress,
    total: ProgressBar,
    jobs: BTreeMap<usize, ProgressBar>,
    is_drawn: bool,
    shows_lines: bool,
    shows_every_step: bool,
    done: usize,
    reused: usize,
    has_begun: bool,
}

impl<'a> Bars<'a> {
    /// Nothing is drawn where nobody looks.
    pub(super) fn new(delivery: &'a Delivery<'a>, report: &ReportArguments) -> Self {
        let plan = delivery.plan;
        let shows_lines = !report.quiet && !report.json;
        let is_drawn = shows_lines && io::stderr().is_terminal();
        let target = match is_drawn {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let group = MultiProgress::with_draw_target(target);
        let total = group.add(ProgressBar::new(units(plan)));
        set_style(&total, "{wide_bar} {msg}, {eta} left");
        Self {
            plan,
            delivery,
            group,
            total,
            jobs: BTreeMap::new(),
            is_drawn,
            shows_lines,
            shows_every_step: report.verbose,
            done: 0,
            reused: 0,
            has_begun: false,
        }
    }

    /// Says what is there already.
    pub(super) fn begin(&mut self, directory: &Path) {
        let (done, steps) = (self.done, self.plan.steps.len());
        self.reused = done;
        self.has_begun = true;
        let run = shown(directory);
        if done == steps {
            self.line(&format!("`{run}` is finished: all {steps} steps are done"));
        } else if done > 0 {
            self.line(&format!(
                "`{run}` goes on: {done} of {steps} steps are done"
            ));
        } else {
            self.line(&format!("`{run}`: {}", plural(steps as u64, "step")));
        }
        // What was done before is not counted into the speed.
        self.total.reset_eta();
        if self.is_drawn {
            self.total.enable_steady_tick(REDRAW);
        }
        self.count();
    }

    /// Steps that were done before.
    pub(super) fn reused(&self) -> usize {
        self.reused
    }

    /// Removes all bars.
    pub(super) fn clear(&mut self) {
        for bar in self.jobs.values() {
            bar.finish_and_clear();
        }
        self.jobs.clear();
        self.total.finish_and_clear();
    }

    fn line(&self, line: &str) {
        if self.shows_lines {
            self.group.suspend(|| note(line));
        }
    }

    fn label(&self, step: usize) -> Clean<'a> {
        Clean(&self.plan.steps[step].label)
    }

    fn count(&self) {
        let steps = self.plan.steps.len();
        self.total
            .set_message(format!("{} of {steps} steps", self.done));
    }

    fn done(&mut self, step: usize) {
        self.done += 1;
        self.total.inc(weight(self.plan, step));
        self.count();
        if let Some(bar) = self.jobs.remove(&step) {
            bar.finish_and_clear();
            self.group.remove(&bar);
        }
    }

    fn finished(&self, step: usize, receipt: &Receipt) {
        let metrics: Option<Metrics> = serde_json::from_value(receipt.metrics.clone()).ok();
        let found = metrics.as_ref().and_then(|metrics| metrics.model.as_ref());
        let found = found.map_or(String::new(), |model| format!(": {}", accuracy(model)));
        let secs = receipt.elapsed_secs;
        self.line(&format!("{}{found}, {secs:.1} s", self.label(step)));
        if let Some(remasked) = metrics.map(|metrics| metrics.remasked).filter(|&n| n > 0) {
            self.line(&format!(
                "warning: {}: the trainer revived {}, which were pruned again",
                self.label(step),
                plural(remasked, "pruned weight")
            ));
        }
    }
}

/// The accuracies of a model as words.
fn accuracy(model: &Model) -> String {
    let scores = &model.scores;
    let share = |value: f64| match (0.0..=1.0).contains(&value) {
        true => percent(value),
        // What a user's command measures need not be a share.
        false => format!("{value}"),
    };
    match (scores.accuracy, scores.validation_accuracy) {
        (Some(test), Some(validation)) => {
            format!("test {}, validation {}", share(test), share(validation))
        }
        (Some(test), None) => share(test),
        (None, Some(validation)) => format!("validation {}", share(validation)),
        (None, None) => "done".to_owned(),
    }
}

/// What a step counts in the total: a training is most of the work.
fn weight(plan: &Plan, step: usize) -> u64 {
    10 * plan.steps[step].epochs + 5
}

fn units(plan: &Plan) -> u64 {
    (0..plan.steps.len()).map(|step| weight(plan, step)).sum()
}

fn set_style(bar: &ProgressBar, template: &str) {
    // A template is only wrong if it was written wrongly here; then there is a plainer bar.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

impl Watch for Bars<'_> {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Reused { step, .. } => {
                self.done(step);
                if self.has_begun && self.shows_every_step {
                    self.line(&format!("{}: done before", self.label(step)));
                }
            }
            Event::Discarded { step, why } => {
                let (label, why) = (self.label(step), Clean(why));
                self.line(&format!("warning: {label}: {why}; it is done again"));
            }
            Event::Missing { step } => {
                self.done = self.done.saturating_sub(1);
                let label = self.label(step);
                self.line(&format!(
                    "{label}: a file of it is needed again; it is done again"
                ));
            }
            Event::Started { step, .. } => {
                let bar = ProgressBar::new(self.plan.steps[step].epochs.max(1));
                let bar = self.group.insert_before(&self.total, bar);
                set_style(&bar, "{prefix} {wide_bar} {msg}");
                bar.set_prefix(self.label(step).to_string());
                self.jobs.insert(step, bar);
            }
            Event::Progress { step, ref progress } => {
                if let Some(bar) = self.jobs.get(&step) {
                    bar.set_length(progress.steps);
                    bar.set_position(progress.step);
                    bar.set_message(Clean(&progress.text).to_string());
                }
            }
            Event::Finished { step, receipt } => {
                self.done(step);
                self.finished(step, receipt);
            }
            Event::Failed {
                step,
                why,
                retry_secs,
            } => {
                if let Some(bar) = self.jobs.remove(&step) {
                    bar.finish_and_clear();
                    self.group.remove(&bar);
                }
                let next = match retry_secs {
                    Some(secs) => format!("; it is tried again in {secs:.1} s"),
                    None => String::new(),
                };
                let label = self.label(step);
                let why = terms::line(why);
                let mut lines = why.lines();
                let first = lines.next().unwrap_or_default();
                self.line(&format!("failed: {label}: {}{next}", Clean(first)));
                for line in lines {
                    self.line(&Clean(line).to_string());
                }
            }
        }
    }

    fn soup(&mut self, receipts: &[Option<&Receipt>]) {
        self.group.suspend(|| self.delivery.name(receipts));
        if let Err(error) = self.delivery.report(receipts) {
            let error = Clean(&format!("{error:#}")).to_string();
            self.line(&format!("warning: the report is not up to date: {error}"));
        }
    }
}
