//! `sms-merge mask`: mask files and pruned checkpoints walk in, how their masks differ
//! and a mask file walk out.

use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use sms_merge::checkpoint::Destination;
use sms_merge::checkpoint::Observer;
use sms_merge::checkpoint::refuse_named_input;
use sms_merge::connectivity::NamePatterns;
use sms_merge::prune::ComparedMask;
use sms_merge::prune::MaskInputs;
use sms_merge::prune::MaskOperation;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::mask::MaskCommand;
use crate::cli::args::mask::MaskCommandArguments;
use crate::cli::args::mask::MaskCommonArguments;
use crate::cli::exit::Exit;
use crate::cli::inputs::open_all;
use crate::cli::inputs::open_options;
use crate::cli::inputs::patterns;
use crate::cli::inputs::threads;
use crate::cli::outputs;
use crate::cli::progress::Progress;
use crate::cli::text;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::note;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::shown;
use crate::cli::text::table;

/// What `--json` prints.
#[derive(Serialize)]
struct MaskCommandObject {
    schema: u32,
    operation: &'static str,
    inputs: Vec<String>,
    output: Option<String>,
    same: bool,
    mask: TotalsObject,
    tensors: Vec<ComparedObject>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct TotalsObject {
    numel: u64,
    retained: Vec<u64>,
    result: u64,
    shared: u64,
    union: u64,
}

#[derive(Serialize)]
struct ComparedObject {
    name: String,
    shape: Vec<u64>,
    numel: u64,
    retained: Vec<u64>,
    result: u64,
    shared: u64,
    union: u64,
    differing: u64,
    first_difference: Option<Vec<u64>>,
}

impl ComparedObject {
    fn new(mask: &ComparedMask) -> Self {
        let coordinate = |index| mask.shape.coordinate(index);
        Self {
            name: mask.name.clone(),
            shape: mask.shape.dims().to_vec(),
            numel: mask.shape.numel(),
            retained: mask.retained_by.clone(),
            result: mask.result,
            shared: mask.shared,
            union: mask.union,
            differing: mask.differing(),
            first_difference: mask.first_difference.map(coordinate),
        }
    }
}

/// Compares or combines masks.
pub(crate) fn run(
    arguments: &MaskCommandArguments,
    interrupted: &AtomicBool,
) -> anyhow::Result<Exit> {
    match &arguments.command {
        MaskCommand::Diff(diff) => {
            let inputs = [diff.first.clone(), diff.second.clone()];
            let request = Request {
                operation: MaskOperation::Diff,
                inputs: &inputs,
                output: diff.output.as_deref(),
                common: &diff.common,
            };
            let same = request.run(interrupted)?;
            Ok(if same { Exit::Done } else { Exit::Connectivity })
        }
        MaskCommand::Union(set) | MaskCommand::Intersect(set) => {
            let operation = match &arguments.command {
                MaskCommand::Union(_) => MaskOperation::Union,
                _ => MaskOperation::Intersect,
            };
            let request = Request {
                operation,
                inputs: &set.inputs,
                output: Some(&set.output),
                common: &set.common,
            };
            request.run(interrupted)?;
            Ok(Exit::Done)
        }
    }
}

struct Request<'a> {
    operation: MaskOperation,
    inputs: &'a [PathBuf],
    output: Option<&'a Path>,
    common: &'a MaskCommonArguments,
}

impl Request<'_> {
    /// Does it, and returns whether all inputs have the same masks.
    fn run(&self, interrupted: &AtomicBool) -> anyhow::Result<bool> {
        let common = self.common;
        let paths = self.inputs.iter().map(PathBuf::as_path);
        if let Some(output) = self.output {
            refuse_named_input(output, paths)?;
        }
        let include = patterns("--include", &common.selection.include)?;
        let exclude = patterns("--exclude", &common.selection.exclude)?;
        let options = open_options(&common.reading);
        let checkpoints = open_all(self.inputs, &options, threads(&common.reading))?;
        let inputs = MaskInputs::new(checkpoints, |name| selects(&include, &exclude, name))?;
        let destination = self.output.zip(inputs.first());
        let destination = destination.map(|(output, first)| {
            let existing = outputs::existing(common.force);
            let durability = outputs::durability(common.no_sync);
            Destination::resolve(output, first, None, existing, durability)
        });
        let progress = Progress::new(2 * inputs.bytes(), &common.report);
        let observer = Observer {
            advance: &|bytes| progress.advance(bytes),
            interrupted,
        };
        let compared = inputs.combine(self.operation, destination.transpose()?.as_ref(), observer);
        progress.clear();
        let compared = compared?;
        let same = compared.iter().all(|mask| mask.differing() == 0);
        self.show(&compared, same)?;
        Ok(same)
    }

    fn show(&self, compared: &[ComparedMask], same: bool) -> anyhow::Result<()> {
        let report = &self.common.report;
        if report.json {
            text::print(&text::json(&self.object(compared, same))?)?;
            return Ok(());
        }
        if report.quiet {
            if self.operation == MaskOperation::Diff && !same {
                note(&self.sentence(compared, same));
            }
            return Ok(());
        }
        text::print(&self.table(compared))?;
        note(&self.sentence(compared, same));
        if let Some(output) = self.output {
            note(&format!("wrote `{}`", shown(output)));
        }
        Ok(())
    }

    fn totals(&self, compared: &[ComparedMask]) -> TotalsObject {
        let sum = |of: &dyn Fn(&ComparedMask) -> u64| compared.iter().map(of).sum();
        TotalsObject {
            numel: sum(&|mask| mask.shape.numel()),
            retained: (0..self.inputs.len())
                .map(|input| sum(&|mask| mask.retained_by[input]))
                .collect(),
            result: sum(&|mask| mask.result),
            shared: sum(&|mask| mask.shared),
            union: sum(&|mask| mask.union),
        }
    }

    fn object(&self, compared: &[ComparedMask], same: bool) -> MaskCommandObject {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        MaskCommandObject {
            schema: SCHEMA,
            operation: match self.operation {
                MaskOperation::Diff => "diff",
                MaskOperation::Union => "union",
                MaskOperation::Intersect => "intersect",
            },
            inputs: self.inputs.iter().map(|path| text(path)).collect(),
            output: self.output.map(text),
            same,
            mask: self.totals(compared),
            tensors: compared.iter().map(ComparedObject::new).collect(),
            warnings: Vec::new(),
        }
    }

    fn table(&self, compared: &[ComparedMask]) -> String {
        let is_diff = self.operation == MaskOperation::Diff;
        let is_shown =
            |mask: &&ComparedMask| !is_diff || mask.differing() > 0 || self.common.report.verbose;
        let rows: Vec<Vec<String>> = compared
            .iter()
            .filter(is_shown)
            .map(|mask| {
                let mut row = vec![
                    Printable(&mask.name).to_string(),
                    mask.shape.to_string(),
                    count(mask.shape.numel()),
                ];
                if is_diff {
                    let only = |input: usize| count(mask.retained_by[input] - mask.shared);
                    let first = mask.first_difference;
                    let first = first.map(|index| format!("{:?}", mask.shape.coordinate(index)));
                    row.extend([
                        count(mask.shared),
                        only(0),
                        only(1),
                        first.unwrap_or_default(),
                    ]);
                } else {
                    let numel = mask.shape.numel().max(1) as f64;
                    row.extend([
                        count(mask.shared),
                        count(mask.union),
                        count(mask.result),
                        percent(1.0 - mask.result as f64 / numel),
                    ]);
                }
                row
            })
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        let columns: &[_] = if is_diff {
            &[
                ("tensor", Column::Name),
                ("shape", Column::Name),
                ("numel", Column::Number),
                ("shared", Column::Number),
                ("only first", Column::Number),
                ("only second", Column::Number),
                ("first difference", Column::Name),
            ]
        } else {
            &[
                ("tensor", Column::Name),
                ("shape", Column::Name),
                ("numel", Column::Number),
                ("all retain", Column::Number),
                ("any retains", Column::Number),
                ("result", Column::Number),
                ("sparsity", Column::Number),
            ]
        };
        table(columns, &rows)
    }

    fn sentence(&self, compared: &[ComparedMask], same: bool) -> String {
        let totals = self.totals(compared);
        let tensors = plural(compared.len() as u64, "tensor");
        if same {
            return format!(
                "the masks are the same: {tensors}, {} of {} weights retained",
                count(totals.shared),
                count(totals.numel)
            );
        }
        let n_differing = compared.iter().filter(|mask| mask.differing() > 0).count();
        let iou = totals.shared as f64 / totals.union.max(1) as f64;
        format!(
            "the masks of {n_differing} of {tensors} differ: all retain {}, any retains {} ({} shared)",
            count(totals.shared),
            count(totals.union),
            percent(iou)
        )
    }
}

fn selects(include: &NamePatterns, exclude: &NamePatterns, name: &str) -> bool {
    (include.is_empty() || include.matches(name)) && !exclude.matches(name)
}
