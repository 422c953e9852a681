//! `sms-merge apply`: an adapter and a network walk in, the adapted network is written,
//! and what fell outside its mask walks out.

use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;
use sms_merge::adapter::Adapter;
use sms_merge::adapter::Change;
use sms_merge::adapter::Changes;
use sms_merge::adapter::is_adapter;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::kernel::Weights;
use sms_merge::merge::Applied;
use sms_merge::merge::Destination;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::apply;
use sms_merge::merge::refuse_named_input;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::OnMaskMismatch;
use crate::cli::args::apply::ApplyArguments;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::exit::quoted;
use crate::cli::inputs::join;
use crate::cli::inputs::layout;
use crate::cli::inputs::notes;
use crate::cli::inputs::open_options;
use crate::cli::inputs::patterns;
use crate::cli::inputs::rules;
use crate::cli::inputs::threads;
use crate::cli::masks::TotalObject;
use crate::cli::outputs;
use crate::cli::progress::Progress;
use crate::cli::size::human_bytes;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::note;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::shown;
use crate::cli::text::table;

/// What `--json` prints.
#[derive(Serialize)]
struct ApplyObject<'a> {
    schema: u32,
    output: Option<String>,
    bytes_written: u64,
    elapsed_secs: f64,
    adapter: String,
    network: String,
    scale: f64,
    mask: Option<TotalObject>,
    changed: Vec<ChangedObject>,
    outside_share: Option<f64>,
    retained_zeros: Option<u64>,
    sidecars: &'a [String],
    warnings: &'a [String],
}

#[derive(Serialize)]
struct ChangedObject {
    tensor: String,
    change: &'static str,
    rank: Option<u64>,
    scale: Option<f64>,
    norm: Option<f64>,
    retained_norm: Option<f64>,
}

/// Adds the adapter, or says what that would do.
pub(crate) fn run(arguments: &ApplyArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let path = only_adapter(arguments)?;
    if !arguments.scale.is_finite() {
        return Err(usage("`--scale` takes a finite number".to_owned(), None).into());
    }
    if let Some(output) = &arguments.output {
        let inputs = [path, &arguments.to]
            .into_iter()
            .chain(&arguments.mask.mask);
        refuse_named_input(output, inputs.map(PathBuf::as_path))?;
    }
    let checkpoint = Checkpoint::open(path, &open_options(&arguments.reading))?;
    let adapter = understand(arguments, &checkpoint)?;
    let weights = Weights::uniform(1).map_err(MergeError::Weights)?;
    let mut options = MergeOptions::new(Method::Uniform, weights);
    options.rules = rules(&arguments.mask, OnMaskMismatch::Error)?;
    options.layout = layout(arguments.layout);
    options.shard_bytes = arguments.shard_size;
    options.workers.threads = threads(&arguments.reading);
    let network = join(
        std::slice::from_ref(&arguments.to),
        arguments.mask.mask.as_deref(),
        &arguments.reading,
        DtypeRule::Same,
        &options,
    )?;
    refuse_adapter_as_network(arguments, &network)?;
    let changes = adapter.changes(&checkpoint, &network)?;
    let warnings: Vec<String> = notes(&network).collect();
    let outcome = |applied: Option<&Applied>| {
        Outcome {
            arguments,
            path,
            network: &network,
            changes: &changes,
            applied,
            warnings: &warnings,
            elapsed_secs: started.elapsed().as_secs_f64(),
        }
        .show()
    };
    let Some(output) = arguments.output.as_ref().filter(|_| !arguments.plan) else {
        // What the rules name must be there.
        MergePlan::new(&network, &options)?;
        outcome(None)?;
        return Ok(Exit::Done);
    };

    let destination = Destination::resolve(
        output,
        &network,
        arguments.shard_size,
        outputs::existing(arguments.force),
        outputs::durability(arguments.no_sync),
    )?;
    let bytes = network.checkpoints()[0].tensor_bytes();
    let progress = Progress::new(2 * bytes, &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let scale = arguments.scale;
    let inputs = (&checkpoint, &adapter);
    let applied = apply(inputs, &network, scale, options, &destination, observer);
    progress.clear();
    outcome(Some(&applied?))?;
    Ok(Exit::Done)
}

fn usage(message: String, next: Option<String>) -> UsageError {
    UsageError { message, next }
}

/// The adapter, if it is one.
fn only_adapter(arguments: &ApplyArguments) -> Result<&PathBuf, UsageError> {
    match arguments.adapter.as_slice() {
        [path] => Ok(path),
        all => {
            let names: Vec<String> = all.iter().map(|path| quoted(path)).collect();
            let ones = vec!["1"; all.len()].join(",");
            Err(usage(
                format!("expected one adapter, found {}", all.len()),
                Some(format!(
                    "`sms-merge {} -w {ones} --no-normalize -o sum/` makes one of them that adds \
                     what all add; without `-w` and `--no-normalize` it adds their mean",
                    names.join(" ")
                )),
            ))
        }
    }
}

/// The adapter's modules that the user wants.
fn understand(arguments: &ApplyArguments, checkpoint: &Checkpoint) -> anyhow::Result<Adapter> {
    let include = patterns("--include", &arguments.selection.include)?;
    let exclude = patterns("--exclude", &arguments.selection.exclude)?;
    let names = checkpoint
        .tensors()
        .iter()
        .map(|tensor| tensor.name.as_str());
    for (option, patterns) in [("--include", &include), ("--exclude", &exclude)] {
        if let Some(pattern) = patterns.unused(names.clone()) {
            let pattern = pattern.to_owned();
            return Err(MergeError::UnusedPattern { option, pattern }.into());
        }
    }
    let is_wanted =
        |name: &str| (include.is_empty() || include.matches(name)) && !exclude.matches(name);
    Ok(Adapter::open(checkpoint, is_wanted).map_err(MergeError::from)?)
}

/// Refuses a network that is an adapter itself: the two were exchanged.
fn refuse_adapter_as_network(
    arguments: &ApplyArguments,
    network: &Ingredients,
) -> Result<(), UsageError> {
    if !is_adapter(&network.checkpoints()[0]) {
        return Ok(());
    }
    let to = shown(&arguments.to);
    Err(usage(
        format!("`--to {to}` is an adapter; expected the network that the adapter changes"),
        None,
    ))
}

struct Outcome<'a> {
    arguments: &'a ApplyArguments,
    path: &'a Path,
    network: &'a Ingredients,
    changes: &'a Changes<'a>,
    applied: Option<&'a Applied>,
    warnings: &'a [String],
    elapsed_secs: f64,
}

impl Outcome<'_> {
    fn show(&self) -> anyhow::Result<()> {
        let report = &self.arguments.report;
        if report.json {
            text::print(&text::json(&self.object())?)?;
            return Ok(());
        }
        if self.applied.is_none() || report.verbose {
            text::print(&self.table())?;
        }
        if report.quiet {
            return Ok(());
        }
        self.lines().iter().for_each(|line| note(line));
        for warning in self.warnings {
            note(&format!("warning: {}", Clean(warning)));
        }
        Ok(())
    }

    fn total(&self) -> Option<TotalObject> {
        let connectivity = &self.applied?.copied.connectivity;
        Some(TotalObject::new(
            connectivity.tensors(),
            Some(connectivity.digest()),
        ))
    }

    /// The part of the squared norm of all that is added which pruned coordinates lack.
    fn outside_share(&self) -> Option<f64> {
        let changed = self.applied?.changed.iter();
        let (all, retained) = changed.fold((0.0, 0.0), |(all, retained), changed| {
            let square = |norm: f64| norm * norm;
            (
                all + square(changed.norm),
                retained + square(changed.retained_norm),
            )
        });
        Some(if all > 0.0 {
            (1.0 - retained / all).max(0.0)
        } else {
            0.0
        })
    }

    fn retained_zeros(&self) -> Option<u64> {
        let tensors = &self.applied?.copied.outcome.tensors;
        Some(
            tensors
                .iter()
                .map(|found| found.counts.retained_zeros)
                .sum(),
        )
    }

    fn changed(&self) -> Vec<ChangedObject> {
        let changes = self.changes.iter().enumerate();
        changes
            .map(|(place, (&index, change))| {
                // Both are in the order of the parameters.
                let found = self.applied.and_then(|applied| applied.changed.get(place));
                let (change, module) = match change {
                    Change::Product { module, .. } => ("product", Some(module)),
                    Change::Bias { .. } => ("bias", None),
                    Change::Replaced { .. } => ("replaced", None),
                };
                ChangedObject {
                    tensor: self.network.parameters()[index].name.clone(),
                    change,
                    rank: module.map(|module| module.rank),
                    scale: module.map(|module| module.scale()),
                    norm: found.map(|found| found.norm),
                    retained_norm: found.map(|found| found.retained_norm),
                }
            })
            .collect()
    }

    fn object(&self) -> ApplyObject<'_> {
        let lossy = |path: &Path| path.to_string_lossy().into_owned();
        let output = self.arguments.output.as_deref();
        let copied = self.applied.map(|applied| &applied.copied);
        ApplyObject {
            schema: SCHEMA,
            output: output.filter(|_| self.applied.is_some()).map(lossy),
            bytes_written: copied.map_or(0, |copied| copied.bytes_written),
            elapsed_secs: self.elapsed_secs,
            adapter: lossy(self.path),
            network: lossy(&self.arguments.to),
            scale: self.arguments.scale,
            mask: self.total(),
            changed: self.changed(),
            outside_share: self.outside_share(),
            retained_zeros: self.retained_zeros(),
            sidecars: copied.map_or(&[], |copied| copied.sidecars.copied.as_slice()),
            warnings: self.warnings,
        }
    }

    fn table(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.4}"));
        let changed = self.changed();
        let rows: Vec<Vec<String>> = changed
            .iter()
            .map(|changed| {
                vec![
                    Printable(&changed.tensor).to_string(),
                    changed.change.to_owned(),
                    changed
                        .rank
                        .map_or_else(String::new, |rank| rank.to_string()),
                    changed
                        .scale
                        .map_or_else(String::new, |scale| (scale as f32).to_string()),
                    number(changed.norm),
                    number(changed.retained_norm),
                ]
            })
            .collect();
        let columns = [
            ("tensor", Column::Name),
            ("change", Column::Name),
            ("rank", Column::Number),
            ("scale", Column::Number),
            ("norm", Column::Number),
            ("in the mask", Column::Number),
        ];
        table(&columns, &rows)
    }

    fn lines(&self) -> Vec<String> {
        let (adapter, network) = (shown(self.path), shown(&self.arguments.to));
        let tensors = plural(self.changes.len() as u64, "tensor");
        let (Some(applied), Some(output)) = (self.applied, &self.arguments.output) else {
            return vec![format!(
                "would add `{adapter}` to {tensors} of `{network}`; nothing was written"
            )];
        };
        let copied = &applied.copied;
        let pruned = copied.connectivity.tensors().iter();
        let n_pruned = pruned.filter(|mask| mask.is_pruned).count();
        let mut lines = vec![
            format!("added `{adapter}` to {tensors} of `{network}`"),
            format!(
                "{} of the squared norm of what it adds fell outside the mask and was left out",
                percent(self.outside_share().unwrap_or_default())
            ),
        ];
        lines.extend(self.total().map(|total| total.sentence(n_pruned)));
        lines.push(format!(
            "wrote `{}`, {} in {:.2} s",
            shown(output),
            human_bytes(copied.bytes_written),
            self.elapsed_secs
        ));
        if let Some(zeros @ 1..) = self.retained_zeros() {
            lines.push(format!(
                "{} zero and stays in the mask, which zeros do not tell any more",
                plural(zeros, "retained weight")
            ));
        }
        lines
    }
}
