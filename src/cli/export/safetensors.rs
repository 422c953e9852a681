//! A checkpoint in another layout: arguments walk in, a copy is written, and its sizes
//! walk out.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::format::compact::CompactKind;
use sms_merge::kernel::Weights;
use sms_merge::merge::Copied;
use sms_merge::merge::Destination;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::PlannedTensor;
use sms_merge::merge::copy;
use sms_merge::merge::refuse_named_input;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::LayoutChoice;
use crate::cli::args::OnMaskMismatch;
use crate::cli::args::export::ExportArguments;
use crate::cli::beside;
use crate::cli::beside::LeftObject;
use crate::cli::exit::Exit;
use crate::cli::inputs::join;
use crate::cli::inputs::layout;
use crate::cli::inputs::rules;
use crate::cli::inputs::threads;
use crate::cli::masks::TotalObject;
use crate::cli::outputs;
use crate::cli::progress::Progress;
use crate::cli::size::human_bytes;
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

/// What `--json` prints.
#[derive(Serialize)]
struct ExportObject<'a> {
    schema: u32,
    output: String,
    bytes_read: u64,
    bytes_written: u64,
    n_files: usize,
    elapsed_secs: f64,
    layout: &'static str,
    mask: TotalObject,
    tensors: Vec<TensorObject>,
    certificate: &'static str,
    sparsity_config: Option<serde_json::Value>,
    sidecars: &'a [String],
    sidecars_left: Vec<LeftObject<'a>>,
    config_changes: &'a [String],
    config_open: &'a [String],
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct TensorObject {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    stored_as: &'static str,
    bytes_before: u64,
    bytes: u64,
    retained_zeros: u64,
}

/// Copies a checkpoint.
pub(super) fn run(arguments: &ExportArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let inputs = std::iter::once(&arguments.checkpoint).chain(&arguments.mask.mask);
    refuse_named_input(&arguments.output, inputs.map(std::path::PathBuf::as_path))?;
    let weights = Weights::uniform(1).map_err(MergeError::Weights)?;
    let mut options = MergeOptions::new(Method::Uniform, weights);
    options.rules = rules(&arguments.mask, OnMaskMismatch::Error)?;
    options.layout = layout(arguments.layout.layout);
    options.shard_bytes = arguments.layout.shard_size;
    options.workers.threads = threads(&arguments.reading);
    let source = join(
        std::slice::from_ref(&arguments.checkpoint),
        arguments.mask.mask.as_deref(),
        &arguments.reading,
        DtypeRule::Same,
        &options,
    )?;
    let existing = outputs::existing(arguments.force);
    let durability = outputs::durability(arguments.no_sync);
    let shard_bytes = arguments.layout.shard_size;
    let output = &arguments.output;
    let destination = Destination::resolve(output, &source, shard_bytes, existing, durability)?;
    destination.probe(0)?;
    let total: u64 = source.checkpoints()[0].tensor_bytes();
    let progress = Progress::new(2 * total, &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let copied = copy(&source, options, &destination, observer);
    progress.clear();
    let export = Export {
        arguments,
        source: &source,
        copied: &copied?,
        elapsed_secs: started.elapsed().as_secs_f64(),
    };
    export.show()?;
    Ok(Exit::Done)
}

/// The name of a layout on the command line.
fn layout_name(layout: LayoutChoice) -> &'static str {
    match layout {
        LayoutChoice::Keep => "keep",
        LayoutChoice::Dense => "dense",
        LayoutChoice::Bitmask => "bitmask",
        LayoutChoice::CompressedTensors => "compressed-tensors",
        LayoutChoice::TorchPrune => "torch-prune",
    }
}

struct Export<'a> {
    arguments: &'a ExportArguments,
    source: &'a Ingredients,
    copied: &'a Copied,
    elapsed_secs: f64,
}

impl Export<'_> {
    fn show(&self) -> anyhow::Result<()> {
        let report = &self.arguments.report;
        if report.json {
            text::print(&text::json(&self.object())?)?;
        } else if !report.quiet {
            self.lines().iter().for_each(|line| note(line));
            let sidecars = &self.copied.sidecars;
            let lines = beside::lines(sidecars, &self.arguments.output);
            let unread = beside::unread(&self.copied.plan, sidecars, &self.arguments.output);
            lines.iter().chain(&unread).for_each(|line| note(line));
            for warning in self.warnings() {
                note(&format!("warning: {}", Clean(&warning)));
            }
        }
        Ok(())
    }

    fn total(&self) -> TotalObject {
        let connectivity = &self.copied.connectivity;
        TotalObject::new(connectivity.tensors(), Some(connectivity.digest()))
    }

    /// What readers of a format of compressed-tensors have to be told.
    fn config(&self) -> Option<serde_json::Value> {
        let written = self.copied.plan.written(self.source);
        written.sparse.map(|sparse| sparse.quantization_config())
    }

    fn certificate(&self) -> &'static str {
        match (self.copied.was_certified, self.copied.is_certified) {
            (_, true) => "carried",
            (true, false) => "dropped",
            (false, false) => "none",
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.certificate() == "dropped" {
            warnings.push(
                "the certificate of the soup is left out: it does not hold, or the places of \
                 retained weights that are zero are not known; `sms-merge verify` tells"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Bytes of all files of the source.
    fn bytes_read(&self) -> u64 {
        let shards = self.source.checkpoints()[0].shards().iter();
        shards.map(|shard| shard.source().bytes()).sum()
    }

    fn tensors(&self) -> Vec<TensorObject> {
        let planned = self.copied.plan.tensors.iter();
        let all = planned.zip(&self.copied.outcome.tensors);
        all.map(|(planned, found)| {
            let parameter = &self.source.parameters()[planned.parameter];
            let (bytes_before, bytes) = self.copied.stored_bytes(self.source, planned);
            TensorObject {
                name: parameter.name.clone(),
                dtype: planned.slot.dtype.name(),
                shape: parameter.shape.dims().to_vec(),
                stored_as: stored_as(planned),
                bytes_before,
                bytes,
                retained_zeros: found.counts.retained_zeros,
            }
        })
        .collect()
    }

    fn object(&self) -> ExportObject<'_> {
        let lossy = |path: &Path| path.to_string_lossy().into_owned();
        ExportObject {
            schema: SCHEMA,
            output: lossy(&self.arguments.output),
            bytes_read: self.bytes_read(),
            bytes_written: self.copied.bytes_written,
            n_files: self.copied.plan.layouts.len(),
            elapsed_secs: self.elapsed_secs,
            layout: layout_name(self.arguments.layout.layout),
            mask: self.total(),
            tensors: self.tensors(),
            certificate: self.certificate(),
            sparsity_config: self.config(),
            sidecars: &self.copied.sidecars.copied,
            sidecars_left: beside::left_objects(&self.copied.sidecars),
            config_changes: &self.copied.sidecars.config.changed,
            config_open: &self.copied.sidecars.config.open,
            warnings: self.warnings(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let share = |bytes: u64, before: u64| match before {
            0 => String::new(),
            before => percent(bytes as f64 / before as f64),
        };
        let tensors = self.tensors();
        let rows: Vec<Vec<String>> = tensors
            .iter()
            .map(|tensor| {
                vec![
                    Printable(&tensor.name).to_string(),
                    tensor.stored_as.to_owned(),
                    count(tensor.bytes_before),
                    count(tensor.bytes),
                    share(tensor.bytes, tensor.bytes_before),
                ]
            })
            .collect();
        let columns = [
            ("tensor", Column::Name),
            ("stored as", Column::Name),
            ("bytes before", Column::Number),
            ("bytes", Column::Number),
            ("share", Column::Number),
        ];
        let (before, after) = (self.bytes_read(), self.copied.bytes_written);
        let table = table_for(Stream::Error, &columns, &rows);
        let mut lines: Vec<String> = table.lines().map(str::to_owned).collect();
        let n_pruned = self.copied.connectivity.tensors().iter();
        let n_pruned = n_pruned.filter(|mask| mask.is_pruned).count();
        lines.push(self.total().sentence(n_pruned));
        lines.push(format!(
            "{} in {}: {}, {} of the checkpoint's {}",
            shown(&self.arguments.output),
            plural(self.copied.plan.layouts.len() as u64, "file"),
            human_bytes(after),
            share(after, before),
            human_bytes(before),
        ));
        lines
    }
}

/// The word for how a parameter is stored in the copy.
fn stored_as(planned: &PlannedTensor) -> &'static str {
    match (&planned.compact, &planned.mask_slot) {
        (Some(compact), _) => match compact.kind {
            CompactKind::Bitmask => "bitmask",
            CompactKind::CompressedTensors => "compressed-tensors",
            CompactKind::Sparse24 => "sparse-24-bitmask",
        },
        (None, Some(mask))
            if mask.name.ends_with("_mask") && planned.slot.name.ends_with("_orig") =>
        {
            "torch-prune"
        }
        (None, Some(_)) => "values and mask",
        (None, None) => "plain",
    }
}
