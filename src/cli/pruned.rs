//! What a pruning did, as people and programs see it: a table and sentences, or an object.

use std::path::PathBuf;

use serde::Serialize;
use sms_merge::connectivity::Pattern;
use sms_merge::prune::Pruned;
use sms_merge::prune::PrunedTensor;
use sms_merge::prune::Target;
use sms_merge::tensor::Digest;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::prune::PruneArguments;
use crate::cli::beside;
use crate::cli::beside::LeftObject;
use crate::cli::masks::TotalObject;
use crate::cli::size::human_bytes;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::note;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::shown;
use crate::cli::text::table;

/// What `--json` prints.
#[derive(Serialize)]
struct PruneObject<'a> {
    schema: u32,
    output: Option<String>,
    mask_output: Option<String>,
    bytes_written: u64,
    elapsed_secs: f64,
    target: Target,
    mask: TotalObject,
    tensors: Vec<TensorObject<'a>>,
    sidecars: &'a [String],
    sidecars_left: Vec<LeftObject<'a>>,
    config_changes: &'a [String],
    config_open: &'a [String],
    warnings: &'a [String],
}

#[derive(Serialize)]
struct TensorObject<'a> {
    name: &'a str,
    dtype: &'static str,
    shape: &'a [u64],
    standing: &'static str,
    numel: u64,
    remaining: Option<u64>,
    retained: u64,
    sparsity: f64,
    threshold: Option<f64>,
    retained_zeros: u64,
    pattern: Option<Pattern>,
    digest: Option<Digest>,
}

impl<'a> TensorObject<'a> {
    fn new(tensor: &'a PrunedTensor) -> Self {
        let mask = tensor.mask.as_deref();
        Self {
            name: &tensor.name,
            dtype: tensor.dtype.name(),
            shape: tensor.shape.dims(),
            standing: tensor.standing.name(),
            numel: tensor.shape.numel(),
            remaining: tensor.remaining,
            retained: tensor.retained(),
            sparsity: mask.map_or(0.0, |mask| mask.sparsity()),
            threshold: tensor.threshold,
            retained_zeros: tensor.retained_zeros,
            pattern: mask.and_then(|mask| mask.pattern),
            digest: mask.map(|mask| mask.digest),
        }
    }
}

/// A pruning that is done.
pub(crate) struct Outcome<'a> {
    pub(crate) arguments: &'a PruneArguments,
    pub(crate) target: Target,
    pub(crate) pruned: &'a Pruned,
    pub(crate) warnings: Vec<String>,
    pub(crate) elapsed_secs: f64,
}

impl Outcome<'_> {
    /// Shows it as the user asked.
    pub(crate) fn show(&self) -> anyhow::Result<()> {
        let report = &self.arguments.report;
        if report.json {
            text::print(&text::json(&self.object())?)?;
            return Ok(());
        }
        if report.quiet {
            return Ok(());
        }
        text::print(&self.table())?;
        self.summary().iter().for_each(|line| note(line));
        for warning in &self.warnings {
            note(&format!("warning: {}", Clean(warning)));
        }
        Ok(())
    }

    fn total(&self) -> TotalObject {
        let connectivity = &self.pruned.connectivity;
        TotalObject::new(connectivity.tensors(), Some(connectivity.digest()))
    }

    fn object(&self) -> PruneObject<'_> {
        let path = |path: &Option<PathBuf>| {
            let path = path.as_ref().filter(|_| !self.arguments.plan);
            path.map(|path| path.to_string_lossy().into_owned())
        };
        PruneObject {
            schema: SCHEMA,
            output: path(&self.arguments.output),
            mask_output: path(&self.arguments.mask_out),
            bytes_written: self.pruned.bytes_written,
            elapsed_secs: self.elapsed_secs,
            target: self.target,
            mask: self.total(),
            tensors: self.pruned.tensors.iter().map(TensorObject::new).collect(),
            sidecars: &self.pruned.sidecars.copied,
            sidecars_left: beside::left_objects(&self.pruned.sidecars),
            config_changes: &self.pruned.sidecars.config.changed,
            config_open: &self.pruned.sidecars.config.open,
            warnings: &self.warnings,
        }
    }

    fn table(&self) -> String {
        let is_shown =
            |tensor: &&PrunedTensor| tensor.mask.is_some() || self.arguments.report.verbose;
        let rows: Vec<Vec<String>> = self
            .pruned
            .tensors
            .iter()
            .filter(is_shown)
            .map(|tensor| {
                let mask = tensor.mask.as_ref();
                let pattern = mask.and_then(|mask| mask.pattern);
                vec![
                    Printable(&tensor.name).to_string(),
                    tensor.dtype.to_string(),
                    tensor.shape.to_string(),
                    count(tensor.shape.numel()),
                    count(tensor.retained()),
                    mask.map_or(tensor.standing.name().to_owned(), |mask| {
                        percent(mask.sparsity())
                    }),
                    tensor
                        .threshold
                        .map_or(String::new(), |threshold| format!("{threshold:.4e}")),
                    pattern.map_or(String::new(), |pattern| pattern.to_string()),
                ]
            })
            .collect();
        let columns = [
            ("tensor", Column::Name),
            ("dtype", Column::Name),
            ("shape", Column::Name),
            ("numel", Column::Number),
            ("retained", Column::Number),
            ("sparsity", Column::Number),
            ("threshold", Column::Number),
            ("n:m", Column::Name),
        ];
        table(&columns, &rows)
    }

    fn summary(&self) -> Vec<String> {
        let pruned = self.pruned;
        let sentence = self.total().sentence(pruned.connectivity.tensors().len());
        let input = shown(&self.arguments.checkpoint);
        if self.arguments.plan {
            return vec![format!(
                "would prune `{input}`: {sentence}; nothing was written"
            )];
        }
        let mut lines = vec![format!("pruned `{input}`: {sentence}")];
        let secs = format!("{:.2} s", self.elapsed_secs);
        if let Some(output) = &self.arguments.output {
            let (output, bytes) = (shown(output), human_bytes(pruned.bytes_written));
            let sidecars = match pruned.sidecars.copied.len() as u64 {
                0 => String::new(),
                copied => format!(", with {}", plural(copied, "other file")),
            };
            lines.push(format!("wrote `{output}`, {bytes} in {secs}{sidecars}"));
        }
        if let Some(output) = &self.arguments.output {
            lines.extend(beside::lines(&pruned.sidecars, output));
        }
        if let Some(mask) = &self.arguments.mask_out {
            lines.push(format!("wrote the masks to `{}`", shown(mask)));
        }
        lines
    }
}
