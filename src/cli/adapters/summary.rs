//! What a merge of adapters did: its plan and its report walk in, lines for people or an
//! object for programs walk out.

use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;
use sms_merge::checkpoint::Ingredients;
use sms_merge::merge::AdapterPlan;
use sms_merge::merge::AdapterSoup;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergedModule;
use sms_merge::merge::Method;
use sms_merge::merge::PlannedModule;
use sms_merge::merge::Products;
use sms_merge::merge::Rule;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::MergeArguments;
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
struct SoupObject {
    schema: u32,
    output: Option<String>,
    bytes_written: Option<u64>,
    bytes_to_write: u64,
    elapsed_secs: f64,
    method: Method,
    ingredients: Vec<String>,
    coefficients: Vec<f64>,
    products: Option<Products>,
    modules: Vec<ModuleObject>,
    relative_error: Option<f64>,
    n_other_tensors: usize,
    sidecars: Vec<String>,
    dropped_metadata: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ModuleObject {
    name: String,
    rule: &'static str,
    /// Of each ingredient that has it, by its position.
    ranks: Vec<(usize, u64)>,
    rank: u64,
    alpha: f64,
    relative_error: Option<f64>,
}

/// What was written.
pub(super) struct Merged<'a> {
    soup: &'a AdapterSoup,
    /// Frobenius norms over all modules: of the mean, and of what it lacks.
    norm: f64,
    lost: f64,
}

impl<'a> Merged<'a> {
    pub(super) fn new(soup: &'a AdapterSoup) -> Self {
        let total = |of: fn(&MergedModule) -> f64| {
            let squares: f64 = soup
                .modules
                .iter()
                .map(|module| of(module) * of(module))
                .sum();
            squares.sqrt()
        };
        Self {
            soup,
            norm: total(|module| module.norm),
            lost: total(|module| module.lost),
        }
    }
}

/// A merge that is done, or planned.
pub(super) struct Outcome<'a> {
    pub(super) arguments: &'a MergeArguments,
    pub(super) ingredients: &'a Ingredients,
    pub(super) options: &'a MergeOptions,
    pub(super) plan: &'a AdapterPlan,
    pub(super) soup: Option<Merged<'a>>,
    pub(super) warnings: Vec<String>,
    pub(super) elapsed_secs: f64,
}

impl Outcome<'_> {
    /// Shows it as the user asked.
    pub(super) fn show(&self) -> anyhow::Result<()> {
        let report = &self.arguments.report;
        if report.json {
            text::print(&text::json(&self.object())?)?;
            return Ok(());
        }
        if self.soup.is_none() || report.verbose {
            text::print(&self.table())?;
        }
        if report.quiet {
            return Ok(());
        }
        self.lines().iter().for_each(|line| note(line));
        for warning in self.all_warnings() {
            note(&format!("warning: {}", Clean(&warning)));
        }
        Ok(())
    }

    fn all_warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        let Some(Merged { soup, .. }) = &self.soup else {
            return warnings;
        };
        for name in &soup.sidecars.differing {
            warnings.push(format!(
                "`{name}` differs between ingredients; the first one's was copied"
            ));
        }
        if !soup.dropped_metadata.is_empty() {
            let keys = soup.dropped_metadata.iter();
            let keys: Vec<String> = keys.map(|key| format!("`{}`", Printable(key))).collect();
            warnings.push(format!(
                "metadata in which ingredients differ was left out: {}",
                keys.join(", ")
            ));
        }
        warnings
    }

    /// The share of a truncated product that is lost.
    fn relative_error(&self, index: usize) -> Option<f64> {
        let is_cut = matches!(self.plan.modules[index].rule, Rule::Truncated);
        let found = self.soup.as_ref().filter(|_| is_cut)?.soup.modules[index];
        Some(ratio(found.lost, found.norm))
    }

    fn object(&self) -> SoupObject {
        let lossy = |path: &Path| path.to_string_lossy().into_owned();
        let soup = self.soup.as_ref();
        let output: Option<&PathBuf> = self.arguments.output.as_ref();
        SoupObject {
            schema: SCHEMA,
            output: output.filter(|_| soup.is_some()).map(|path| lossy(path)),
            bytes_written: soup.map(|merged| merged.soup.bytes_written),
            bytes_to_write: self.plan.plain.bytes_to_write,
            elapsed_secs: self.elapsed_secs,
            method: self.options.method,
            ingredients: self
                .ingredients
                .checkpoints()
                .iter()
                .map(|checkpoint| lossy(checkpoint.path()))
                .collect(),
            coefficients: self.options.weights.coefficients(),
            products: self.options.adapters,
            modules: self
                .plan
                .modules
                .iter()
                .enumerate()
                .map(|(index, module)| ModuleObject {
                    name: module.name.clone(),
                    rule: module.rule.name(),
                    ranks: ranks(module),
                    rank: module.rank,
                    alpha: module.alpha,
                    relative_error: self.relative_error(index),
                })
                .collect(),
            relative_error: soup.map(|merged| ratio(merged.lost, merged.norm)),
            n_other_tensors: self.plan.plain.tensors.len(),
            sidecars: soup.map_or_else(Vec::new, |merged| merged.soup.sidecars.copied.clone()),
            dropped_metadata: soup
                .map_or_else(Vec::new, |merged| merged.soup.dropped_metadata.clone()),
            warnings: self.all_warnings(),
        }
    }

    fn table(&self) -> String {
        let modules = self.plan.modules.iter().enumerate();
        let rows: Vec<Vec<String>> = modules
            .map(|(index, module)| {
                let ranks: Vec<String> = ranks(module)
                    .iter()
                    .map(|(_, rank)| rank.to_string())
                    .collect();
                vec![
                    Printable(&module.name).to_string(),
                    module.rule.name().to_owned(),
                    ranks.join("+"),
                    module.rank.to_string(),
                    (module.alpha as f32).to_string(),
                    self.relative_error(index)
                        .map_or_else(String::new, |error| format!("{error:.2e}")),
                ]
            })
            .collect();
        let columns = [
            ("module", Column::Name),
            ("factors", Column::Name),
            ("ranks", Column::Name),
            ("rank", Column::Number),
            ("alpha", Column::Number),
            ("error", Column::Number),
        ];
        table(&columns, &rows)
    }

    fn lines(&self) -> Vec<String> {
        let n_modules = self.plan.modules.len() as u64;
        let Some(merged) = &self.soup else {
            return vec![format!(
                "would merge the products of {} from {}: {} to write; nothing was written",
                plural(n_modules, "module"),
                plural(self.ingredients.count() as u64, "adapter"),
                human_bytes(self.plan.plain.bytes_to_write),
            )];
        };
        let output = self.arguments.output.as_deref().unwrap_or(Path::new(""));
        let mut lines = vec![format!(
            "merged {} into `{}`: {} in {:.2} s",
            plural(self.ingredients.count() as u64, "adapter"),
            shown(output),
            human_bytes(merged.soup.bytes_written),
            self.elapsed_secs,
        )];
        let ranks = self.plan.modules.iter().map(|module| module.rank);
        let (least, most) = (ranks.clone().min().unwrap_or(0), ranks.max().unwrap_or(0));
        let rank = match least == most {
            true => format!("rank {most}"),
            false => format!("ranks {least} to {most}"),
        };
        lines.push(match merged.norm > 0.0 {
            false => format!(
                "averaged the products of {}, not the factors: {rank}, exact but for rounding",
                plural(n_modules, "module")
            ),
            true => format!(
                "averaged the products of {}, not the factors, and cut them to {rank}",
                plural(n_modules, "module")
            ),
        });
        if merged.norm > 0.0 {
            lines.push(self.loss(merged));
        }
        if !merged.soup.sidecars.copied.is_empty() {
            lines.push(format!(
                "copied from the first ingredient: {}",
                Clean(&merged.soup.sidecars.copied.join(", "))
            ));
        }
        lines
    }

    /// What truncation lost, in all and at worst.
    fn loss(&self, merged: &Merged<'_>) -> String {
        let errors = (0..self.plan.modules.len()).filter_map(|index| {
            Some((self.relative_error(index)?, &self.plan.modules[index].name))
        });
        let worst = errors.max_by(|(a, _), (b, _)| a.total_cmp(b));
        let worst = worst.map_or_else(String::new, |(error, name)| {
            format!(", at worst {} in `{}`", percent(error), Printable(name))
        });
        format!(
            "relative error of the products {}{worst} (Frobenius norm)",
            percent(ratio(merged.lost, merged.norm))
        )
    }
}

fn ranks(module: &PlannedModule) -> Vec<(usize, u64)> {
    let members = module.members.iter();
    members
        .map(|member| (member.ingredient, member.module.rank))
        .collect()
}

/// A part of a whole that may be zero.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
