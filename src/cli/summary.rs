//! What a merge did: its report walks in, lines for people or an object for programs
//! walk out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sms_merge::checkpoint::Ingredients;
use sms_merge::connectivity::MismatchPolicy;
use sms_merge::connectivity::TensorMask;
use sms_merge::kernel::Normalization;
use sms_merge::merge::Distances;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::Merged;
use sms_merge::merge::Method;
use sms_merge::merge::Selection;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::advice;
use crate::cli::args::ReportArguments;
use crate::cli::beside;
use crate::cli::beside::LeftObject;
use crate::cli::device::device_names;
use crate::cli::greedy;
use crate::cli::masks::MaskObject;
use crate::cli::masks::TotalObject;
use crate::cli::masks::masks_text;
use crate::cli::plan::action_word;
use crate::cli::size::human_bytes;
use crate::cli::table::table_for;
use crate::cli::terminal::Stream;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::note;
use crate::cli::text::plural;
use crate::cli::text::shown;

/// Ingredients whose coefficients are shown.
const MOST_COEFFICIENTS: usize = 16;

/// A soup that has been written, and what is to be said of it.
pub(crate) struct Summary<'a> {
    pub(crate) merged: &'a Merged,
    pub(crate) ingredients: &'a Ingredients,
    pub(crate) options: &'a MergeOptions,
    pub(crate) output: &'a Path,
    /// The file beside a model that holds its weights.
    pub(crate) data: Option<&'a Path>,
    pub(crate) elapsed: Duration,
    /// Warnings from before the merge.
    pub(crate) warnings: Vec<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct SummaryObject<'a> {
    schema: u32,
    output: String,
    bytes_written: u64,
    n_files: usize,
    elapsed_secs: f64,
    method: Method,
    ingredients: Vec<String>,
    coefficients: Vec<f64>,
    is_normalized: bool,
    selection: Option<SelectionObject<'a>>,
    on_mask_mismatch: MismatchPolicy,
    mask: TotalObject,
    tensors: Vec<TensorObject>,
    distances: Option<&'a Distances>,
    needs_recalibration: bool,
    sidecars: &'a [String],
    sidecars_left: Vec<LeftObject<'a>>,
    config_changes: &'a [String],
    config_open: &'a [String],
    devices: Vec<String>,
    dropped_metadata: &'a [String],
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct SelectionObject<'a> {
    #[serde(flatten)]
    selection: &'a Selection,
    /// Of the soup.
    score: Option<f64>,
}

#[derive(Serialize)]
struct TensorObject {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    action: &'static str,
    retained_zeros: u64,
    non_finite: u64,
    mask: Option<MaskObject>,
}

impl Summary<'_> {
    /// Prints the object, or tells people on standard error.
    pub(crate) fn show(&self, report: &ReportArguments) -> anyhow::Result<()> {
        if report.json {
            text::print(&text::json(&self.object())?)?;
        } else if !report.quiet {
            self.lines(report).iter().for_each(|line| note(line));
            for warning in self.warnings() {
                note(&format!("warning: {}", Clean(&warning)));
            }
        }
        Ok(())
    }

    fn masks(&self) -> &[Arc<TensorMask>] {
        self.merged.connectivity.tensors()
    }

    fn total(&self) -> TotalObject {
        TotalObject::new(self.masks(), Some(self.merged.connectivity.digest()))
    }

    fn object(&self) -> SummaryObject<'_> {
        let merged = self.merged;
        let lossy = |path: &Path| path.to_string_lossy().into_owned();
        let checkpoints = self.ingredients.checkpoints().iter();
        let tensors = merged.plan.tensors.iter().zip(&merged.outcome.tensors);
        SummaryObject {
            schema: SCHEMA,
            output: lossy(self.output),
            bytes_written: merged.bytes_written,
            n_files: merged.plan.layouts.len(),
            elapsed_secs: self.elapsed.as_secs_f64(),
            method: self.options.method,
            ingredients: checkpoints
                .map(|checkpoint| lossy(checkpoint.path()))
                .collect(),
            coefficients: self.options.weights.coefficients(),
            is_normalized: self.options.weights.normalization() == Normalization::SumToOne,
            selection: self
                .options
                .selection
                .as_ref()
                .map(|selection| SelectionObject {
                    score: selection.score(),
                    selection,
                }),
            on_mask_mismatch: self.options.rules.policy,
            mask: self.total(),
            tensors: tensors
                .map(|(planned, outcome)| TensorObject {
                    name: planned.slot.name.clone(),
                    dtype: planned.slot.dtype.name(),
                    shape: self.ingredients.parameters()[planned.parameter]
                        .shape
                        .dims()
                        .to_vec(),
                    action: action_word(planned.action),
                    retained_zeros: outcome.counts.retained_zeros,
                    non_finite: outcome.counts.non_finite,
                    mask: outcome.mask.as_deref().map(MaskObject::new),
                })
                .collect(),
            distances: merged.distances.as_ref(),
            needs_recalibration: merged.needs_recalibration,
            sidecars: &merged.sidecars.copied,
            sidecars_left: beside::left_objects(&merged.sidecars),
            config_changes: &merged.sidecars.config.changed,
            config_open: &merged.sidecars.config.open,
            devices: device_names(&self.options.workers),
            dropped_metadata: &merged.dropped_metadata,
            warnings: self.warnings(),
        }
    }

    fn lines(&self, report: &ReportArguments) -> Vec<String> {
        let merged = self.merged;
        let mut lines = vec![format!(
            "merged {} into `{}`: {} in {:.2} s{}",
            plural(self.ingredients.count() as u64, "ingredient"),
            shown(self.output),
            human_bytes(merged.bytes_written),
            self.elapsed.as_secs_f64(),
            match device_names(&self.options.workers).join(", ") {
                devices if devices.is_empty() => devices,
                devices => format!(" on {devices}"),
            }
        )];
        if self.options.method == Method::Weighted {
            lines.push(self.coefficients());
        }
        if let Some(selection) = &self.options.selection {
            lines.push(greedy::sentence(selection));
        }
        let n_pruned = self.masks().iter().filter(|mask| mask.is_pruned).count();
        lines.push(self.total().sentence(n_pruned));
        if report.verbose {
            let masks = masks_text(Stream::Error, self.masks(), true);
            lines.extend(masks.lines().map(str::to_owned));
        }
        if let Some(distances) = &merged.distances {
            lines.push(self.spread(distances));
            if report.verbose {
                lines.extend(self.pairs(distances).lines().map(str::to_owned));
            }
        }
        if let Some(data) = self.data {
            lines.push(format!("its weights are in `{}`", shown(data)));
        }
        lines.extend(beside::copied(&merged.sidecars));
        lines.extend(beside::lines(&merged.sidecars, self.output));
        lines.extend(beside::unread(&merged.plan, &merged.sidecars, self.output));
        lines
    }

    fn coefficients(&self) -> String {
        let weights = &self.options.weights;
        let all = weights.coefficients();
        let shown: Vec<String> = all
            .iter()
            .take(MOST_COEFFICIENTS)
            .map(f64::to_string)
            .collect();
        let more = if all.len() > shown.len() { ", ..." } else { "" };
        let how = match weights.normalization() {
            Normalization::SumToOne => {
                format!("weights divided by their sum, {}", weights.divisor())
            }
            Normalization::AsGiven => "weights as given".to_owned(),
        };
        format!("coefficients {}{more} ({how})", shown.join(", "))
    }

    /// How far apart the ingredients are, in one line.
    fn spread(&self, distances: &Distances) -> String {
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let angle = most(&mut distances.pairs.iter().map(|pair| pair.angle_degrees));
        let l2 = most(&mut distances.pairs.iter().map(|pair| pair.l2));
        let centre = most(&mut distances.to_barycentre.iter().copied());
        format!(
            "ingredients are at most {l2:.4} apart (L2 over retained weights), {angle:.2} degrees; \
             at most {centre:.4} from the soup"
        )
    }

    fn pairs(&self, distances: &Distances) -> String {
        let name = |who: usize| shown(self.ingredients.checkpoints()[who].path());
        let rows: Vec<Vec<String>> = distances
            .pairs
            .iter()
            .map(|pair| {
                vec![
                    name(pair.first),
                    name(pair.second),
                    format!("{:.6}", pair.l2),
                    format!("{:.3}", pair.angle_degrees),
                ]
            })
            .collect();
        let columns = [
            ("first", Column::Name),
            ("second", Column::Name),
            ("L2", Column::Number),
            ("degrees", Column::Number),
        ];
        table_for(Stream::Error, &columns, &rows)
    }

    /// Everything that the user should know before using the soup.
    fn warnings(&self) -> Vec<String> {
        let merged = self.merged;
        let mut warnings = self.warnings.clone();
        warnings.extend(self.mask_warnings());
        let outcomes = &merged.outcome.tensors;
        let is_pruned =
            |mask: &Option<Arc<TensorMask>>| mask.as_ref().is_some_and(|mask| mask.is_pruned);
        let zeros: u64 = outcomes
            .iter()
            .filter(|outcome| is_pruned(&outcome.mask))
            .map(|outcome| outcome.counts.retained_zeros)
            .sum();
        if zeros > 0 {
            warnings.push(format!(
                "{} averaged to zero and stayed in the mask; the metadata counts them",
                plural(zeros, "retained weight")
            ));
        }
        let non_finite: u64 = outcomes
            .iter()
            .map(|outcome| outcome.counts.non_finite)
            .sum();
        if non_finite > 0 {
            let elements = plural(non_finite, "element");
            warnings.push(format!("{elements} of the soup are NaN or infinite"));
        }
        let furthest = merged.distances.as_ref().and_then(Distances::implausible);
        if let Some(pair) = furthest {
            let name = |who: usize| self.ingredients.checkpoints()[who].path().to_string_lossy();
            warnings.push(format!(
                "`{}` and `{}` have nothing in common in {:.0} % of the weights in which they \
                 differ (cosine below 0.1): networks that do not come from one pruned parent \
                 must not be averaged",
                name(pair.first),
                name(pair.second),
                100.0 * pair.unrelated_share
            ));
        }
        if merged.needs_recalibration {
            let below = match self.options.weights.is_convex() {
                true => "",
                false => " (with these weights variances can be negative)",
            };
            let advice =
                advice::after_merge(self.ingredients, &merged.dropped_metadata, self.output);
            warnings.push(format!(
                "running statistics of batch norm were averaged{below}; {advice}"
            ));
        }
        for name in &merged.sidecars.differing {
            warnings.push(format!(
                "`{name}` differs between ingredients; the first one's was copied"
            ));
        }
        if !merged.dropped_metadata.is_empty() {
            let keys: Vec<String> = merged
                .dropped_metadata
                .iter()
                .map(|key| format!("`{}`", Printable(key)))
                .collect();
            warnings.push(format!(
                "metadata in which ingredients differ was left out: {}",
                keys.join(", ")
            ));
        }
        warnings
    }

    fn mask_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let pruned = || self.masks().iter().filter(|mask| mask.is_pruned);
        if pruned().next().is_none() {
            warnings.push("no tensor is pruned: this is a dense soup".to_owned());
        }
        let tolerated = pruned().filter(|mask| mask.is_tolerated);
        let accidental: u64 = tolerated.map(|mask| mask.disagreements).sum();
        if accidental > 0 {
            warnings.push(format!(
                "{} in only some ingredients, taken for retained; `--strict` refuses them",
                plural(accidental, "accidental zero")
            ));
        }
        let resolved = pruned().filter(|mask| mask.is_mismatch()).count();
        if resolved > 0 {
            warnings.push(format!(
                "masks differed in {} and were made one by `{}`",
                plural(resolved as u64, "tensor"),
                self.merged.connectivity.policy().name()
            ));
        }
        warnings
    }
}
