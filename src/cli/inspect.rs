//! `sms-merge inspect`: a checkpoint walks in, what it holds and where it comes from
//! walks out.

mod empty;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use sms_merge::checkpoint::Convention;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::StoredTensor;
use sms_merge::connectivity::TensorMask;
use sms_merge::format::compact::CompactKind;
use sms_merge::kernel::Weights;
use sms_merge::merge::CERTIFICATE_KEY;
use sms_merge::merge::Certificate;
use sms_merge::merge::CertificateError;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::Scanned;
use sms_merge::merge::SoupRecord;
use sms_merge::merge::scan;
use sms_merge::prune::PRUNING_KEY;
use sms_merge::prune::PruningRecord;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::InspectArguments;
use crate::cli::args::OnMaskMismatch;
use crate::cli::exit::Exit;
use crate::cli::greedy;
use crate::cli::inputs::join;
use crate::cli::inputs::notes;
use crate::cli::inputs::rules;
use crate::cli::inputs::threads;
use crate::cli::masks::MaskObject;
use crate::cli::masks::TotalObject;
use crate::cli::progress::Progress;
use crate::cli::size::human_bytes;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::shown;
use crate::cli::text::table;

/// Tensors of a table; a checkpoint with more has several tables.
const MOST_ROWS: usize = 10_000;
/// Generations of soups of soups that are shown.
const MOST_GENERATIONS: usize = 16;

/// What `--json` prints.
#[derive(Serialize)]
struct InspectObject<'a> {
    schema: u32,
    path: String,
    bytes: u64,
    shards: Vec<ShardObject>,
    tensors: Vec<TensorObject>,
    mask: TotalObject,
    metadata: BTreeMap<&'a str, &'a str>,
    certificate: Option<&'a Certificate>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ShardObject {
    path: String,
    bytes: u64,
}

#[derive(Serialize)]
struct TensorObject {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    numel: u64,
    bytes: u64,
    stored_as: &'static str,
    mask: Option<MaskObject>,
}

/// Reads every tensor once and shows what was found.
pub(crate) fn run(arguments: &InspectArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let uniform = Weights::uniform(1).map_err(MergeError::Weights)?;
    let mut options = MergeOptions::new(Method::Uniform, uniform);
    options.rules = rules(&arguments.mask, OnMaskMismatch::Error)?;
    options.workers.threads = threads(&arguments.reading);
    options.distances = false;
    let joined = join(
        std::slice::from_ref(&arguments.checkpoint),
        arguments.mask.mask.as_deref(),
        &arguments.reading,
        DtypeRule::AnyFloat,
        &options,
    );
    let ingredients = match joined {
        Err(error) if empty::is_empty(&error) => return empty::show(arguments),
        joined => joined?,
    };
    let plan = MergePlan::new(&ingredients, &options)?;
    let progress = Progress::new(plan.bytes_to_read, &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let scanned = scan(plan, &ingredients, &options, observer);
    progress.clear();
    let scanned = scanned?;
    let checkpoint = &ingredients.checkpoints()[0];
    let (certificate, warning) = match Certificate::of(checkpoint) {
        Ok(certificate) => (Some(certificate), None),
        Err(CertificateError::Missing { .. }) => (None, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let inspection = Inspection {
        ingredients: &ingredients,
        scanned: &scanned,
        certificate: certificate.as_ref(),
        warnings: warning.into_iter().chain(notes(&ingredients)).collect(),
    };
    if arguments.report.json {
        text::print(&text::json(&inspection.object())?)?;
    } else {
        inspection.print_tensors()?;
        text::print(&inspection.text(arguments.report.verbose))?;
        if !arguments.report.quiet {
            for warning in &inspection.warnings {
                text::note(&format!("warning: {}", Clean(warning)));
            }
        }
    }
    Ok(Exit::Done)
}

struct Inspection<'a> {
    ingredients: &'a Ingredients,
    scanned: &'a Scanned,
    certificate: Option<&'a Certificate>,
    warnings: Vec<String>,
}

impl Inspection<'_> {
    fn masks(&self) -> Vec<Arc<TensorMask>> {
        let outcomes = self.scanned.outcome.tensors.iter();
        outcomes
            .filter_map(|outcome| outcome.mask.clone())
            .collect()
    }

    fn total(&self) -> TotalObject {
        let proof = self.scanned.connectivity.as_ref();
        TotalObject::new(
            &self.masks(),
            proof.ok().map(|connectivity| connectivity.digest()),
        )
    }

    fn tensors(&self) -> Vec<TensorObject> {
        let planned = self.scanned.plan.tensors.iter();
        let all = planned.zip(&self.scanned.outcome.tensors);
        all.map(|(planned, outcome)| {
            let parameter = &self.ingredients.parameters()[planned.parameter];
            let stored = self.ingredients.value(parameter, 0);
            TensorObject {
                name: parameter.name.clone(),
                dtype: stored.dtype.name(),
                shape: stored.shape.dims().to_vec(),
                numel: stored.shape.numel(),
                bytes: stored.stored_bytes()
                    + self
                        .ingredients
                        .stored_mask(parameter, 0)
                        .map_or(0, StoredTensor::stored_bytes),
                stored_as: match parameter.sources[0].convention {
                    Convention::Plain => "plain",
                    Convention::TorchPrune => "torch-prune",
                    Convention::Nncf => "nncf",
                    Convention::ModelOpt => "modelopt",
                    Convention::TorchSparse => "torch-sparse",
                    Convention::Compact(CompactKind::Bitmask) => "bitmask",
                    Convention::Compact(CompactKind::CompressedTensors | CompactKind::Sparse24) => {
                        "compressed-tensors"
                    }
                },
                mask: outcome.mask.as_deref().map(MaskObject::new),
            }
        })
        .collect()
    }

    fn bytes(&self) -> u64 {
        let shards = self.ingredients.checkpoints()[0].shards().iter();
        shards.map(|shard| shard.source().bytes()).sum()
    }

    fn object(&self) -> InspectObject<'_> {
        let checkpoint = &self.ingredients.checkpoints()[0];
        let shards = checkpoint.shards().iter();
        InspectObject {
            schema: SCHEMA,
            path: checkpoint.path().to_string_lossy().into_owned(),
            bytes: self.bytes(),
            shards: shards
                .map(|shard| ShardObject {
                    path: shard.source().path().to_string_lossy().into_owned(),
                    bytes: shard.source().bytes(),
                })
                .collect(),
            tensors: self.tensors(),
            mask: self.total(),
            metadata: checkpoint.metadata(),
            certificate: self.certificate,
            warnings: self.warnings.clone(),
        }
    }

    /// Shows the tensors, by tables of so many that their text takes little memory.
    fn print_tensors(&self) -> anyhow::Result<()> {
        let n_tensors = self.scanned.plan.tensors.len();
        let mut begin = 0;
        while begin == 0 || begin < n_tensors {
            let end = n_tensors.min(begin + MOST_ROWS);
            text::print(&self.rows(begin..end))?;
            begin = end.max(1);
        }
        Ok(())
    }

    /// A table of some of the tensors.
    fn rows(&self, range: Range<usize>) -> String {
        let tensors = self.scanned.plan.tensors[range.clone()].iter();
        let rows: Vec<Vec<String>> = tensors
            .zip(&self.scanned.outcome.tensors[range])
            .map(|(planned, outcome)| {
                let parameter = &self.ingredients.parameters()[planned.parameter];
                let stored = self.ingredients.value(parameter, 0);
                let mask = outcome.mask.as_ref().filter(|mask| mask.is_pruned);
                let pattern = mask.and_then(|mask| mask.pattern);
                vec![
                    Printable(&parameter.name).to_string(),
                    stored.dtype.to_string(),
                    stored.shape.to_string(),
                    count(stored.shape.numel()),
                    mask.map_or(String::new(), |mask| count(mask.retained)),
                    mask.map_or("dense".to_owned(), |mask| percent(mask.sparsity())),
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
            ("n:m", Column::Name),
        ];
        table(&columns, &rows)
    }

    /// What there is to say of the whole.
    fn text(&self, is_verbose: bool) -> String {
        let checkpoint = &self.ingredients.checkpoints()[0];
        let masks = self.masks();
        let n_pruned = masks.iter().filter(|mask| mask.is_pruned).count();
        let mut lines = format!(
            "\n{}: {} in {} and {}\n{}\n",
            shown(checkpoint.path()),
            human_bytes(self.bytes()),
            plural(checkpoint.shards().len() as u64, "file"),
            plural(self.scanned.plan.tensors.len() as u64, "tensor"),
            self.total().sentence(n_pruned)
        );
        let pruning = PruningRecord::of(checkpoint);
        let is_told =
            |key: &str| key == CERTIFICATE_KEY || (key == PRUNING_KEY && pruning.is_some());
        for (key, value) in checkpoint.metadata() {
            if !is_told(key) {
                let line = format!("metadata {} = {}", Printable(key), Printable(value));
                lines.push_str(&format!("{}\n", text::cut(&line, is_verbose)));
            }
        }
        if let Some(pruning) = &pruning {
            lines.push_str(&origin(pruning));
        }
        if let Some(certificate) = self.certificate {
            lines.push_str(&lineage(certificate));
        }
        lines
    }
}

/// How a mask came about.
fn origin(pruning: &PruningRecord) -> String {
    format!(
        "pruned by {} from {} ({})\nmask {}: {} of {} prunable weights retained\n",
        Clean(&pruning.tool),
        Printable(&pruning.source),
        pruning.source_digest,
        pruning.mask,
        count(pruning.retained),
        count(pruning.prunable)
    )
}

/// How a soup came about, and its ingredients that are soups in turn.
fn lineage(certificate: &Certificate) -> String {
    let zeros: u64 = certificate
        .tensors
        .values()
        .filter_map(|tensor| Some(tensor.mask.as_ref()?.retained_zeros))
        .sum();
    let mut lines = format!("soup by {}\n", Clean(&certificate.tool));
    lines.push_str(&format!(
        "mask {}: {} of {} weights retained, {} of them zero\n",
        certificate.soup.mask,
        count(certificate.retained),
        count(certificate.prunable),
        count(zeros)
    ));
    if !certificate.recalibrated.is_empty() {
        lines.push_str("statistics of batch norm were estimated again after the merge\n");
    } else if certificate.options.batch_norm_pooled {
        lines.push_str("statistics of batch norm were averaged and need estimating again\n");
    }
    generation(&certificate.soup, 0, &mut lines);
    lines
}

fn generation(soup: &SoupRecord, depth: usize, lines: &mut String) {
    let indent = "  ".repeat(depth);
    if depth == MOST_GENERATIONS {
        lines.push_str(&format!("{indent}...\n"));
        return;
    }
    let how = if soup.normalized {
        ""
    } else {
        ", not normalised"
    };
    let method = match soup.method {
        Method::Uniform => "uniform",
        Method::Weighted => "weighted",
        Method::Greedy => "greedy",
    };
    lines.push_str(&format!(
        "{indent}{method} soup of {}{how}\n",
        plural(soup.ingredients.len() as u64, "ingredient")
    ));
    if let Some(selection) = &soup.selection {
        lines.push_str(&format!("{indent}  {}\n", greedy::sentence(selection)));
        for decision in selection.decisions.iter().filter(|tried| !tried.is_kept) {
            let dropped = selection.candidates.get(decision.candidate);
            let name = dropped.map_or("", |dropped| &dropped.name);
            lines.push_str(&format!(
                "{indent}  dropped {}: with it {}\n",
                Printable(name),
                decision.score
            ));
        }
    }
    for (position, ingredient) in soup.ingredients.iter().enumerate() {
        let weight = soup.weights.get(position).copied().unwrap_or(f64::NAN);
        let name = Printable(&ingredient.name);
        lines.push_str(&format!(
            "{indent}  {weight} x {name} ({})\n",
            ingredient.digest
        ));
        for file in &ingredient.files {
            let (name, digest) = (Printable(&file.name), Clean(&file.sha256));
            lines.push_str(&format!("{indent}    SHA-256 of {name}: {digest}\n"));
        }
        if let Some(soup) = &ingredient.soup {
            generation(soup, depth + 2, lines);
        }
    }
}
