//! A merge of adapters: arguments and open checkpoints walk in, a soup is written, and
//! a summary walks out.

use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;
use sms_merge::adapter::Adapter;
use sms_merge::adapter::AdapterError;
use sms_merge::adapter::is_adapter;
use sms_merge::adapter::is_of_no_factor;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::Ingredients;
use sms_merge::merge::AdapterPlan;
use sms_merge::merge::AdapterSoup;
use sms_merge::merge::Destination;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::PlannedModule;
use sms_merge::merge::Products;
use sms_merge::merge::Rule;
use sms_merge::merge::merge_adapters;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::MergeArguments;
use crate::cli::args::adapter::LoraChoice;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::greedy;
use crate::cli::inputs::open_options;
use crate::cli::merge::file_digests;
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

/// Whether these checkpoints are adapters whose products are to be averaged.
///
/// # Errors
/// If what was asked for makes no sense of them.
pub(crate) fn are_meant(
    arguments: &MergeArguments,
    checkpoints: &[Checkpoint],
) -> anyhow::Result<bool> {
    let usage = |message: &str, next: Option<&str>| UsageError {
        message: message.to_owned(),
        next: next.map(str::to_owned),
    };
    let adapters = &arguments.adapters;
    let is_any = checkpoints.iter().any(is_adapter);
    match (is_any, adapters.lora) {
        (false, _) if adapters.rank.is_some() => {
            Err(usage("`--rank` is for adapters, and these are none", None).into())
        }
        (false, _) => Ok(false),
        (true, LoraChoice::Factors) if adapters.rank.is_some() => {
            let message = "`--rank` is for the products of adapters, not with `--lora factors`";
            Err(usage(message, None).into())
        }
        (true, LoraChoice::Factors) => {
            refuse_other_scales(checkpoints)?;
            Ok(false)
        }
        (true, LoraChoice::Products) if greedy::is_asked_for(arguments) => {
            let message = "`--method greedy` does not know adapters";
            let next = "merge those that you choose, with `--weights` if you like";
            Err(usage(message, Some(next)).into())
        }
        (true, LoraChoice::Products) => Ok(true),
    }
}

/// Refuses means of factors whose products are scaled in different ways. Of what kind of
/// adapter they are does not matter.
fn refuse_other_scales(checkpoints: &[Checkpoint]) -> anyhow::Result<()> {
    let mut first: Option<(&Checkpoint, Adapter)> = None;
    for checkpoint in checkpoints {
        let adapter = match Adapter::open(checkpoint, |_| true) {
            Ok(adapter) => adapter,
            Err(AdapterError::Foreign { .. } | AdapterError::NoConfig { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some((first_checkpoint, known)) = &first else {
            first = Some((checkpoint, adapter));
            continue;
        };
        for (name, module) in &adapter.modules {
            let scale = module.scale();
            let known = known.modules.get(name).map(|module| module.scale());
            if known.is_some_and(|known| known != scale) {
                return Err(AdapterError::Mixed {
                    first: first_checkpoint.path().to_owned(),
                    other: checkpoint.path().to_owned(),
                    reason: format!(
                        "`{}` is scaled by {} and {scale}, and one scale has to fit the mean \
                         factors; leave `--lora factors` out",
                        Printable(name),
                        known.unwrap_or_default(),
                    ),
                }
                .into());
            }
        }
    }
    Ok(())
}

/// Merges adapters, or says what that would do.
pub(crate) fn run(
    arguments: &MergeArguments,
    checkpoints: Vec<Checkpoint>,
    mut options: MergeOptions,
    mut warnings: Vec<String>,
    interrupted: &AtomicBool,
) -> anyhow::Result<Exit> {
    let started = Instant::now();
    options.adapters = Some(match arguments.adapters.rank {
        Some(rank) => Products::Rank {
            rank: u64::from(rank),
        },
        None => Products::Exact,
    });
    options.workers = crate::cli::inputs::threads(&arguments.reading).into();
    let mask = arguments.mask.mask.as_ref();
    let mask = mask.map(|path| Checkpoint::open(path, &open_options(&arguments.reading)));
    let is_joined = |name: &str| options.selects(name) && is_of_no_factor(name);
    let dtypes = options.dtype_rule();
    let ingredients = Ingredients::join_part(checkpoints, mask.transpose()?, dtypes, is_joined)?;
    let destination = arguments
        .output
        .as_ref()
        .filter(|_| !arguments.plan)
        .map(|output| {
            let existing = outputs::existing(arguments.force);
            let durability = outputs::durability(arguments.no_sync);
            let shard_bytes = arguments.shard_size;
            Destination::resolve_soup(output, &ingredients, shard_bytes, existing, durability)
        });
    let destination = destination.transpose()?;
    let idle = Observer {
        advance: &|_| {},
        interrupted,
    };
    let plan = AdapterPlan::new(&ingredients, &options, idle)?;
    warnings.extend(self::warnings(&plan, &ingredients));
    let show = |soup: Option<&AdapterSoup>, warnings: Vec<String>| {
        Outcome {
            arguments,
            ingredients: &ingredients,
            options: &options,
            plan: &plan,
            soup: soup.map(Merged::new),
            warnings,
            elapsed_secs: started.elapsed().as_secs_f64(),
        }
        .show()
    };
    let Some(destination) = destination else {
        show(None, warnings)?;
        return Ok(Exit::Done);
    };

    let files = match arguments.sha256 {
        true => file_digests(&ingredients)?,
        false => Vec::new(),
    };
    let bytes = plan.plain.bytes_to_read + plan.plain.bytes_to_write;
    let progress = Progress::new(bytes, &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let soup = merge_adapters(&plan, &ingredients, &options, &destination, files, observer);
    progress.clear();
    show(Some(&soup?), warnings)?;
    Ok(Exit::Done)
}

/// What there is to say of the adapters before they are merged.
fn warnings(plan: &AdapterPlan, ingredients: &Ingredients) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_partial = |module: &&PlannedModule| {
        let mut adapters = plan.adapters.iter();
        !adapters.all(|adapter| adapter.modules.contains_key(&module.name))
    };
    let partial: Vec<&PlannedModule> = plan.modules.iter().filter(is_partial).collect();
    if let Some(first) = partial.first() {
        let adapters = plan.adapters.iter();
        let n_with = adapters
            .filter(|adapter| adapter.modules.contains_key(&first.name))
            .count();
        let more = match partial.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        warnings.push(format!(
            "`{}`{more} is in {n_with} of {} adapters: in the others its product counts as zero",
            Printable(&first.name),
            ingredients.count()
        ));
    }
    let bases: Vec<_> = plan.adapters.iter().map(base_of).collect();
    if let Some(other) = bases.iter().find(|base| **base != bases[0])
        && let (Some(first), Some(other)) = (&bases[0], other)
    {
        warnings.push(format!(
            "the adapters name different networks, `{}` and `{}`: only adapters of one network \
             have a mean",
            Printable(first),
            Printable(other)
        ));
    }
    warnings
}

/// The network that an adapter's configuration names.
fn base_of(adapter: &Adapter) -> Option<String> {
    use sms_merge::adapter::Scaling;
    let Scaling::Config(config) = &adapter.scaling else {
        return None;
    };
    let name = config.all().get("base_model_name_or_path")?;
    name.as_str().map(str::to_owned)
}

/// What was written.
struct Merged<'a> {
    soup: &'a AdapterSoup,
    /// Frobenius norms over all modules: of the mean, and of what it lacks.
    norm: f64,
    lost: f64,
}

impl<'a> Merged<'a> {
    fn new(soup: &'a AdapterSoup) -> Self {
        let total = |of: fn(&sms_merge::merge::MergedModule) -> f64| {
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

struct Outcome<'a> {
    arguments: &'a MergeArguments,
    ingredients: &'a Ingredients,
    options: &'a MergeOptions,
    plan: &'a AdapterPlan,
    soup: Option<Merged<'a>>,
    warnings: Vec<String>,
    elapsed_secs: f64,
}

impl Outcome<'_> {
    fn show(&self) -> anyhow::Result<()> {
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
