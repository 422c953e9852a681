//! What a training did: lines for people or an object for programs walk out.

use std::time::Duration;

use serde::Serialize;
use sms_merge::graph::Graph;
use sms_merge::graph::Role;
use sms_merge::train::Loss;
use sms_merge::train::engine::Masks;
use sms_merge::train::recipe::Recipe;
use sms_merge::train::record::DataRecord;
use sms_merge::train::record::ModelRecord;
use sms_merge::train::record::Record;
use sms_merge::train::trainer::EpochReport;
use sms_merge::train::trainer::Plan;

use crate::cli::SCHEMA;
use crate::cli::args::train::TrainArguments;
use crate::cli::learning::engine_threads;
use crate::cli::table::table_for;
use crate::cli::terminal::Stream;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::note;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::shown;
use crate::cli::train::watch::LossObject;

/// A training whose outcome is in place.
pub(super) struct Report<'a> {
    pub(super) arguments: &'a TrainArguments,
    pub(super) graph: &'a Graph,
    pub(super) masks: &'a Masks,
    pub(super) record: &'a Record,
    pub(super) plan: &'a Plan<'a>,
    pub(super) resumed_at: Option<u64>,
    pub(super) last: Option<EpochReport>,
    /// On held-out and on test images.
    pub(super) measured: Option<(Option<Loss>, Loss)>,
    pub(super) images_per_sec: f64,
    pub(super) elapsed: Duration,
}

/// What `--json` prints.
#[derive(Serialize)]
struct TrainObject<'a> {
    schema: u32,
    output: String,
    model: &'a ModelRecord,
    data: &'a DataRecord,
    recipe: &'a Recipe,
    engine: &'a str,
    n_threads: usize,
    n_parameters: u64,
    n_prunable: u64,
    n_retained: u64,
    steps: u64,
    steps_per_epoch: u64,
    resumed_at: Option<u64>,
    train: Option<LossObject>,
    validation: Option<LossObject>,
    test: Option<LossObject>,
    elapsed_secs: f64,
    images_per_sec: f64,
}

impl Report<'_> {
    pub(super) fn show(&self) -> anyhow::Result<()> {
        let report = &self.arguments.report;
        if report.json {
            text::print(&text::json(&self.object())?)?;
        } else if !report.quiet {
            self.lines().iter().for_each(|line| note(line));
        }
        Ok(())
    }

    /// Elements of the weights that can be pruned, and those that are retained.
    fn prunable(&self) -> (u64, u64) {
        let parameters = self.graph.parameters.iter().zip(self.masks);
        let weights = parameters.filter(|(parameter, _)| parameter.role == Role::Weight);
        weights.fold((0, 0), |(all, retained), (parameter, mask)| {
            let numel = parameter.shape.numel();
            let kept = mask.as_ref().map_or(numel, |mask| mask.retained() as u64);
            (all + numel, retained + kept)
        })
    }

    fn n_parameters(&self) -> u64 {
        let parameters = self.graph.parameters.iter();
        let learned = parameters.filter(|parameter| parameter.role.is_learned());
        learned.map(|parameter| parameter.shape.numel()).sum()
    }

    fn object(&self) -> TrainObject<'_> {
        let (n_prunable, n_retained) = self.prunable();
        let (validation, test) = match self.measured {
            Some((validation, test)) => (validation, Some(test)),
            None => (None, None),
        };
        TrainObject {
            schema: SCHEMA,
            output: self.arguments.output.to_string_lossy().into_owned(),
            model: &self.record.model,
            data: &self.record.data,
            recipe: &self.record.recipe,
            engine: &self.record.engine,
            n_threads: engine_threads(&self.arguments.engine),
            n_parameters: self.n_parameters(),
            n_prunable,
            n_retained,
            steps: self.plan.steps(),
            steps_per_epoch: self.record.steps_per_epoch,
            resumed_at: self.resumed_at,
            train: self.last.map(|epoch| LossObject::new(epoch.train)),
            validation: validation.map(LossObject::new),
            test: test.map(LossObject::new),
            elapsed_secs: self.elapsed.as_secs_f64(),
            images_per_sec: self.images_per_sec,
        }
    }

    fn lines(&self) -> Vec<String> {
        let (n_prunable, n_retained) = self.prunable();
        let mut rows = Vec::new();
        let mut push = |name: &str, loss: Option<Loss>| {
            rows.extend(loss.map(|loss| {
                vec![
                    name.to_owned(),
                    count(loss.samples),
                    format!("{:.4}", loss.mean()),
                    percent(loss.accuracy()),
                ]
            }));
        };
        push("train, last epoch", self.last.map(|epoch| epoch.train));
        push(
            "validation",
            self.measured.and_then(|(held_out, _)| held_out),
        );
        push("test", self.measured.map(|(_, test)| test));
        let columns = [
            ("images", Column::Name),
            ("count", Column::Number),
            ("loss", Column::Number),
            ("accuracy", Column::Number),
        ];
        let table = table_for(Stream::Error, &columns, &rows);
        let mut lines: Vec<String> = table.lines().map(str::to_owned).collect();
        let sparsity = if n_retained < n_prunable {
            let pruned = 1.0 - n_retained as f64 / n_prunable as f64;
            format!(", {} of the weights pruned", percent(pruned))
        } else {
            String::new()
        };
        lines.push(format!(
            "trained `{}` ({}{sparsity}) on `{}` in {:.1} s, {} images/s: `{}`",
            Clean(&self.record.model.name),
            plural(self.n_parameters(), "parameter"),
            Clean(&self.record.data.name),
            self.elapsed.as_secs_f64(),
            count(self.images_per_sec as u64),
            shown(&self.arguments.output),
        ));
        if self.measured.is_none() {
            lines.push("interrupted before it was evaluated: the output is complete".to_owned());
        }
        lines
    }
}
