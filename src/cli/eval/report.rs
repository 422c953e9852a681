//! What is said of an evaluation: tables for people, an object for programs.

use std::path::Path;

use serde::Serialize;
use sms_merge::train::data::Dataset;
use sms_merge::train::data::Samples;
use sms_merge::train::data::Severity;
use sms_merge::train::evaluate::Evaluation;
use sms_merge::train::record::ModelRecord;

use crate::cli::SCHEMA;
use crate::cli::advice::recalibrate_command;
use crate::cli::args::eval::EvalArguments;
use crate::cli::args::eval::Part;
use crate::cli::eval::Outcome;
use crate::cli::eval::Subject;
use crate::cli::eval::shifted::BySeverity;
use crate::cli::eval::shifted::Shifted;
use crate::cli::exit::quoted;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::shown;
use crate::cli::text::table;

/// Classes that are shown without `--verbose`: of more, those with the lowest accuracy.
const MOST_CLASSES: usize = 20;

/// What the ensemble is called.
const ENSEMBLE: &str = "ensemble";

/// Everything that is known.
pub(super) struct Report<'a> {
    pub(super) arguments: &'a EvalArguments,
    pub(super) dataset: &'a Dataset,
    pub(super) samples: &'a Samples,
    pub(super) subjects: &'a [Subject],
    pub(super) outcome: &'a Outcome,
    pub(super) shifted: &'a [Shifted],
}

/// What `--json` prints.
#[derive(Serialize)]
pub(super) struct EvalObject<'a> {
    schema: u32,
    data: DataObject<'a>,
    models: Vec<ModelObject<'a>>,
    ensemble: Option<&'a Evaluation>,
    ood: Option<ShiftedObject<'a>>,
    confusion: Option<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct DataObject<'a> {
    name: &'a str,
    part: &'static str,
    images: usize,
    class_names: &'a [String],
}

#[derive(Serialize)]
struct ModelObject<'a> {
    path: String,
    model: &'a ModelRecord,
    n_prunable: u64,
    n_retained: u64,
    evaluation: &'a Evaluation,
}

#[derive(Serialize)]
struct ShiftedObject<'a> {
    seed: u64,
    severities: [u8; 5],
    corruptions: &'a [Shifted],
}

/// The options of an evaluation that say what its checkpoints are, as words of a shell:
/// another command on them needs the same.
fn repeated(arguments: &EvalArguments) -> Vec<String> {
    let option = |name: &str, value: &str| format!("{name} {}", quoted(Path::new(value)));
    let (names, model, data) = (&arguments.names, &arguments.model, &arguments.data);
    let directory = data.data_dir.as_deref();
    let directory = directory.map(|path| format!("--data-dir {}", quoted(path)));

    let key = names.key.iter().map(|key| option("--key", key));
    let prefix = names.strip_prefix.iter();
    let prefix = prefix.map(|prefix| option("--strip-prefix", prefix));
    let name = model.model.iter().map(|name| option("--model", name));
    let options = model.model_option.iter();
    let options = options.map(|(key, value)| option("--model-option", &format!("{key}={value}")));
    let images = data.data.iter().map(|name| option("--data", name));
    let words = key.chain(prefix).chain(name).chain(options);
    words.chain(images).chain(directory).collect()
}

impl Report<'_> {
    pub(super) fn object(&self) -> EvalObject<'_> {
        let images = &self.arguments.images;
        let pairs = self.subjects.iter().zip(&self.outcome.models);
        let confusion = self.arguments.confusion.as_ref();
        EvalObject {
            schema: SCHEMA,
            data: DataObject {
                name: &self.dataset.name,
                part: self.part(),
                images: self.samples.len(),
                class_names: &self.dataset.class_names,
            },
            models: pairs
                .map(|(subject, evaluation)| ModelObject {
                    path: subject.path.to_string_lossy().into_owned(),
                    model: &subject.model,
                    n_prunable: subject.n_prunable,
                    n_retained: subject.n_retained,
                    evaluation,
                })
                .collect(),
            ensemble: self.outcome.ensemble.as_ref(),
            ood: images.ood.then(|| ShiftedObject {
                seed: images.seed,
                severities: Severity::ALL.map(Severity::number),
                corruptions: self.shifted,
            }),
            confusion: confusion.map(|path| path.to_string_lossy().into_owned()),
            warnings: self.warnings(),
        }
    }

    fn part(&self) -> &'static str {
        match self.arguments.images.on {
            Part::Test => "test",
            Part::Validation => "validation",
            Part::Train => "train",
        }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let stale = self
            .subjects
            .iter()
            .filter(|subject| subject.is_uncalibrated);
        let mut warnings: Vec<String> = stale
            .map(|subject| {
                let words = repeated(self.arguments);
                format!(
                    "the running statistics of `{}` were averaged, which says little of it; \
                     first {}",
                    shown(&subject.path),
                    match subject.is_onnx {
                        true => "average and recalibrate the checkpoint that it was exported from"
                            .to_owned(),
                        false => format!("`{}`", recalibrate_command(&subject.path, &words)),
                    }
                )
            })
            .collect();
        if self.subjects.len() > 1 && self.outcome.ensemble.is_none() {
            let text = "the checkpoints do not tell the same number of classes apart: no ensemble";
            warnings.push(text.to_owned());
        }
        warnings
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} of `{}` ({})\n\n",
            plural(self.samples.len() as u64, "image"),
            Clean(&self.dataset.name),
            self.part()
        );
        text.push_str(&self.summary());
        text.push('\n');
        text.push_str(&self.classes());
        if !self.shifted.is_empty() {
            text.push_str("\nAccuracy on corrupted images");
            text.push_str(match self.subjects.len() {
                1 => ", by severity\n\n",
                _ => ", mean over five severities\n\n",
            });
            text.push_str(&self.corruptions());
        }
        if let Some(path) = &self.arguments.confusion {
            text.push_str(&format!("\nconfusion matrix: {}\n", shown(path)));
        }
        text
    }

    /// One line per checkpoint, and one for the ensemble.
    fn summary(&self) -> String {
        let columns = [
            ("checkpoint", Column::Name),
            ("model", Column::Name),
            ("sparsity", Column::Number),
            ("accuracy", Column::Number),
            ("loss", Column::Number),
            ("ECE", Column::Number),
            ("MCE", Column::Number),
            ("worst class", Column::Name),
        ];
        let metrics = |evaluation: &Evaluation| {
            let worst = evaluation.worst_class.zip(evaluation.worst_class_accuracy);
            let worst = worst.map_or_else(String::new, |(class, accuracy)| {
                format!("{} ({})", self.class(class), percent(accuracy))
            });
            [
                percent(evaluation.accuracy),
                format!("{:.4}", evaluation.loss),
                percent(evaluation.ece),
                percent(evaluation.mce),
                worst,
            ]
        };
        let mut rows = Vec::new();
        for (idx, (subject, evaluation)) in
            self.subjects.iter().zip(&self.outcome.models).enumerate()
        {
            let name = match self.subjects.len() {
                1 => shown(&subject.path),
                _ => format!("{}  {}", idx + 1, shown(&subject.path)),
            };
            let pruned = (subject.n_prunable - subject.n_retained) as f64;
            let sparsity = percent(pruned / subject.n_prunable.max(1) as f64);
            let model = Clean(&subject.model.name).to_string();
            let mut row = vec![name, model, sparsity];
            row.extend(metrics(evaluation));
            rows.push(row);
        }
        if let Some(evaluation) = &self.outcome.ensemble {
            let mut row = vec![ENSEMBLE.to_owned(), String::new(), String::new()];
            row.extend(metrics(evaluation));
            rows.push(row);
        }
        table(&columns, &rows)
    }

    fn class(&self, class: usize) -> String {
        let name = self.dataset.class_names.get(class);
        name.map_or_else(|| class.to_string(), |name| Clean(name).to_string())
    }

    /// Classes that are shown, in their order.
    fn shown_classes(&self) -> Vec<usize> {
        let main = &self.outcome.main().classes;
        let mut classes: Vec<usize> = (0..main.len())
            .filter(|&class| main[class].samples > 0 || main[class].predicted > 0)
            .collect();
        if classes.len() > MOST_CLASSES && !self.arguments.report.verbose {
            let accuracy = |class: &usize| main[*class].accuracy.unwrap_or(1.0);
            classes.sort_by(|a, b| accuracy(a).total_cmp(&accuracy(b)));
            classes.truncate(MOST_CLASSES);
            classes.sort_unstable();
        }
        classes
    }

    fn classes(&self) -> String {
        let main = self.outcome.main();
        let classes = self.shown_classes();
        let percent_of = |share: Option<f64>| share.map_or_else(String::new, percent);
        let mut columns = vec![("class", Column::Name), ("images", Column::Number)];
        let numbers: Vec<String> = (1..=self.subjects.len()).map(|n| n.to_string()).collect();
        if let [_] = self.subjects {
            columns.extend([
                ("accuracy", Column::Number),
                ("precision", Column::Number),
                ("most often mistaken for", Column::Name),
            ]);
        } else {
            columns.extend(
                numbers
                    .iter()
                    .map(|number| (number.as_str(), Column::Number)),
            );
            if self.outcome.ensemble.is_some() {
                columns.push((ENSEMBLE, Column::Number));
            }
        }
        let mut rows = Vec::with_capacity(classes.len());
        for &class in &classes {
            let report = main.classes[class];
            let mut row = vec![self.class(class), count(report.samples)];
            if let [_] = self.subjects {
                let mistaken = report.mistaken_for.map_or_else(String::new, |other| {
                    format!("{} ({})", self.class(other), count(report.mistakes))
                });
                row.extend([
                    percent_of(report.accuracy),
                    percent_of(report.precision),
                    mistaken,
                ]);
            } else {
                let all = self.outcome.models.iter().chain(&self.outcome.ensemble);
                row.extend(all.map(|evaluation| {
                    let report = evaluation.classes.get(class);
                    percent_of(report.and_then(|report| report.accuracy))
                }));
            }
            rows.push(row);
        }
        let mut text = table(&columns, &rows);
        let hidden = main
            .classes
            .iter()
            .filter(|class| class.samples > 0)
            .count();
        if let Some(hidden) = hidden.checked_sub(classes.len()).filter(|&n| n > 0) {
            let hidden = plural(hidden as u64, "more class").replace("classs", "classes");
            text.push_str(&format!("and {hidden}, with higher accuracy (--verbose)\n"));
        }
        text
    }

    fn corruptions(&self) -> String {
        let severities = Severity::ALL.map(|severity| severity.number().to_string());
        let numbers: Vec<String> = (1..=self.subjects.len()).map(|n| n.to_string()).collect();
        let mut columns = vec![("corruption", Column::Name)];
        let is_single = self.subjects.len() == 1;
        if is_single {
            columns.extend(severities.iter().map(|n| (n.as_str(), Column::Number)));
            columns.push(("mean", Column::Number));
        } else {
            columns.extend(numbers.iter().map(|n| (n.as_str(), Column::Number)));
            if self.outcome.ensemble.is_some() {
                columns.push((ENSEMBLE, Column::Number));
            }
        }
        let cells = |shifted: &Shifted| -> Vec<f64> {
            if let (true, [model]) = (is_single, shifted.models.as_slice()) {
                let mean = std::iter::once(&model.mean_accuracy);
                return model.accuracy.iter().chain(mean).copied().collect();
            }
            let all = shifted.models.iter().chain(&shifted.ensemble);
            all.map(|found: &BySeverity| found.mean_accuracy).collect()
        };
        let table_cells: Vec<Vec<f64>> = self.shifted.iter().map(cells).collect();
        let mut rows: Vec<Vec<String>> = self
            .shifted
            .iter()
            .zip(&table_cells)
            .map(|(shifted, cells)| {
                let name = std::iter::once(shifted.name.to_owned());
                name.chain(cells.iter().map(|&share| percent(share)))
                    .collect()
            })
            .collect();
        let mut mean = vec!["mean".to_owned()];
        for column in 0..columns.len() - 1 {
            let sum: f64 = table_cells.iter().map(|cells| cells[column]).sum();
            mean.push(percent(sum / table_cells.len() as f64));
        }
        rows.push(mean);
        table(&columns, &rows)
    }
}
