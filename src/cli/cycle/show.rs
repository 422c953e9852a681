//! How a run ended, for people and programs.

use std::time::Duration;

use serde::Serialize;
use sms_merge::cycle::findings::Delivered;
use sms_merge::cycle::plan::Plan;
use sms_merge::cycle::report::COLUMNS;
use sms_merge::cycle::report::Report;
use sms_merge::cycle::report::legend;
use sms_merge::cycle::report::rows;
use sms_merge::cycle::run::Ended;

use crate::cli::SCHEMA;
use crate::cli::args::cycle::CycleArguments;
use crate::cli::cycle::deliver::Deliveries;
use crate::cli::cycle::deliver::REPORT;
use crate::cli::cycle::terms;
use crate::cli::table::prose;
use crate::cli::terminal::Stream;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::note;
use crate::cli::text::plural;
use crate::cli::text::shown;

/// How a run ended.
pub(super) struct Outcome<'a> {
    pub(super) arguments: &'a CycleArguments,
    pub(super) plan: &'a Plan,
    pub(super) ended: Ended,
    pub(super) reused: usize,
    pub(super) failures: Vec<(usize, &'a str)>,
    pub(super) delivered: &'a Deliveries,
    pub(super) elapsed: Duration,
}

#[derive(Serialize)]
struct OutcomeObject<'a> {
    schema: u32,
    run_directory: String,
    ended: &'static str,
    steps: usize,
    reused: usize,
    failures: Vec<FailureObject<'a>>,
    elapsed_secs: f64,
    files: &'a [&'static str],
    delivered: Option<Delivered>,
    report: Option<Report<'a>>,
}

#[derive(Serialize)]
struct FailureObject<'a> {
    step: &'a str,
    reason: String,
}

impl Outcome<'_> {
    pub(super) fn show(&self) -> anyhow::Result<()> {
        let has_report = self.delivered.files.contains(&REPORT);
        let report = has_report.then(|| Report::of(&self.delivered.findings));
        if self.arguments.report.json {
            let object = OutcomeObject {
                schema: SCHEMA,
                run_directory: self.arguments.run_dir.to_string_lossy().into_owned(),
                ended: match self.ended {
                    Ended::Done => "done",
                    Ended::Failed => "failed",
                    Ended::Interrupted => "interrupted",
                },
                steps: self.plan.steps.len(),
                reused: self.reused,
                failures: self
                    .failures
                    .iter()
                    .map(|&(step, reason)| FailureObject {
                        step: &self.plan.steps[step].label,
                        reason: terms::line(reason),
                    })
                    .collect(),
                elapsed_secs: self.elapsed.as_secs_f64(),
                files: &self.delivered.files,
                delivered: self.delivered.findings.delivered,
                report,
            };
            text::print(&text::json(&object)?)?;
            return Ok(());
        }
        if let Some(report) = &report
            && !self.arguments.report.quiet
        {
            text::print(&report_text(report))?;
        }
        self.show_end(has_report);
        Ok(())
    }

    fn show_end(&self, has_report: bool) {
        let directory = shown(&self.arguments.run_dir);
        match self.ended {
            Ended::Done if !self.arguments.report.quiet => {
                let secs = self.elapsed.as_secs_f64();
                if !self.failures.is_empty() {
                    self.show_failures("warning: soups were made without some ingredients");
                }
                note(&format!(
                    "{secs:.1} s; in `{directory}`: {}",
                    self.delivered.files.join(", ")
                ));
                if let Some(delivered) = &self.delivered.findings.delivered {
                    note(&format!(
                        "the soup is that of seed {}, phase {}; others have names in `{}`",
                        delivered.seed,
                        delivered.phase,
                        shown(&self.arguments.run_dir.join("named"))
                    ));
                }
            }
            Ended::Done => {}
            Ended::Failed => {
                let count = self.failures.len() as u64;
                self.show_failures(&format!("error: {} failed for good", plural(count, "step")));
                let report = match has_report {
                    true => format!("; `{directory}/{REPORT}` shows what is done"),
                    false => String::new(),
                };
                note(&format!(
                    "next: mend the cause and repeat the command, which keeps what is done{report}"
                ));
            }
            Ended::Interrupted => note(&format!(
                "interrupted; the same command goes on with what is in `{directory}`"
            )),
        }
    }

    fn show_failures(&self, headline: &str) {
        note(headline);
        for (step, why) in &self.failures {
            let label = Clean(&self.plan.steps[*step].label);
            let why = terms::line(why.lines().next().unwrap_or_default());
            note(&format!("  {label}: {}", Clean(&why)));
        }
    }
}

/// The verdict and the table of a report.
pub(super) fn report_text(report: &Report<'_>) -> String {
    let mut text = String::new();
    if let Some(unfinished) = &report.summary.unfinished {
        text.push_str(&format!("{}\n", Clean(unfinished)));
    }
    let headline = Clean(&report.summary.headline).to_string();
    text.push_str(&prose(Stream::Out, &headline));
    let rows: Vec<Vec<String>> = rows(report).into_iter().map(Vec::from).collect();
    if !rows.is_empty() {
        let columns = COLUMNS.map(|name| (name, Column::Number));
        text.push_str(&text::table(&columns, &rows));
        text.push_str(&format!("{}\n", legend(report)));
    }
    text
}
