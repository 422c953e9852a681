//! `sms-merge model`: a model walks in, what it costs walks out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::graph::Description;
use sms_merge::graph::FitError;
use sms_merge::graph::Graph;
use sms_merge::graph::LayerCost;
use sms_merge::graph::Role;
use sms_merge::graph::Syntax;
use sms_merge::graph::models::MODELS;
use sms_merge::kernel::Weights;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::scan;
use sms_merge::tensor::Printable;
use thiserror::Error;

use crate::cli::SCHEMA;
use crate::cli::architecture::graph;
use crate::cli::args::OnMaskMismatch;
use crate::cli::args::model::ModelArguments;
use crate::cli::args::model::Notation;
use crate::cli::exit::Exit;
use crate::cli::inputs::join;
use crate::cli::inputs::rules;
use crate::cli::inputs::threads;
use crate::cli::progress::Progress;
use crate::cli::table::prose;
use crate::cli::terminal::Stream;
use crate::cli::text;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::shown;
use crate::cli::text::table;

/// What `--list --json` prints.
#[derive(Serialize)]
struct ListObject {
    schema: u32,
    models: Vec<ListedObject>,
}

#[derive(Serialize)]
struct ListedObject {
    name: &'static str,
    about: &'static str,
    input: String,
    options: Vec<OptionObject>,
}

#[derive(Serialize)]
struct OptionObject {
    name: &'static str,
    default: &'static str,
    about: &'static str,
}

/// What `--json` prints.
#[derive(Serialize)]
struct ModelObject<'a> {
    schema: u32,
    name: &'a str,
    input: String,
    classes: usize,
    parameters: u64,
    multiply_adds: u64,
    layers: Vec<LayerObject>,
    tensors: Vec<TensorObject<'a>>,
    sparse: Option<SparseObject>,
}

#[derive(Serialize)]
struct LayerObject {
    op: &'static str,
    name: Option<String>,
    output: String,
    parameters: u64,
    multiply_adds: u64,
    retained: Option<u64>,
    sparse_multiply_adds: Option<u64>,
}

#[derive(Serialize)]
struct TensorObject<'a> {
    name: &'a str,
    shape: &'a [u64],
    role: &'static str,
}

#[derive(Serialize)]
struct SparseObject {
    checkpoint: String,
    weights: u64,
    retained: u64,
    sparsity: f64,
    multiply_adds: u64,
    speed_up: Option<f64>,
}

/// A checkpoint is not one of the model.
#[derive(Debug, Error)]
#[error("`{path}` is no checkpoint of `{model}`")]
pub(crate) struct ForeignError {
    path: String,
    model: String,
    source: FitError,
}

/// Shows a model, or the list of all.
pub(crate) fn run(arguments: &ModelArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let Some(model) = &arguments.model else {
        list(arguments.report.json)?;
        return Ok(Exit::Done);
    };
    let choice = &arguments.choice;
    let graph = graph(model, choice.input, choice.classes, &choice.options)?;
    if let Some(notation) = arguments.describe {
        let syntax = match notation {
            Notation::Toml => Syntax::Toml,
            Notation::Json => Syntax::Json,
        };
        text::print(&Description::of(&graph).to_text(syntax))?;
        return Ok(Exit::Done);
    }
    let checkpoint = arguments.checkpoint.as_deref();
    let retained = checkpoint
        .map(|path| retained(&graph, path, arguments, interrupted))
        .transpose()?;
    let object = object(&graph, checkpoint.zip(retained.as_deref()));
    if arguments.report.json {
        text::print(&text::json(&object)?)?;
    } else {
        text::print(&lines(&object, arguments.report.verbose))?;
    }
    Ok(Exit::Done)
}

/// Retained elements of each parameter of the graph, in its order.
fn retained(
    graph: &Graph,
    path: &Path,
    arguments: &ModelArguments,
    interrupted: &AtomicBool,
) -> anyhow::Result<Vec<u64>> {
    let uniform = Weights::uniform(1).map_err(MergeError::Weights)?;
    let mut options = MergeOptions::new(Method::Uniform, uniform);
    options.rules = rules(&arguments.mask, OnMaskMismatch::Error)?;
    options.workers.threads = threads(&arguments.reading);
    options.distances = false;
    let ingredients = join(
        &[path.to_owned()],
        arguments.mask.mask.as_deref(),
        &arguments.reading,
        DtypeRule::AnyFloat,
        &options,
    )?;
    let parameters = ingredients.parameters().iter();
    let tensors = parameters.map(|parameter| {
        let stored = ingredients.value(parameter, 0);
        (parameter.name.as_str(), &stored.shape)
    });
    graph
        .check_tensors(tensors)
        .map_err(|source| ForeignError {
            path: shown(path),
            model: graph.name.clone(),
            source,
        })?;
    let plan = MergePlan::new(&ingredients, &options)?;
    let progress = Progress::new(plan.bytes_to_read, &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let scanned = scan(plan, &ingredients, &options, observer);
    progress.clear();
    let scanned = scanned?;
    let planned = scanned.plan.tensors.iter();
    let found: BTreeMap<&str, u64> = planned
        .zip(&scanned.outcome.tensors)
        .filter_map(|(planned, outcome)| {
            let mask = outcome.mask.as_ref().filter(|mask| mask.is_pruned)?;
            let parameter = &ingredients.parameters()[planned.parameter];
            Some((parameter.name.as_str(), mask.retained))
        })
        .collect();
    let parameters = graph.parameters.iter();
    let counts = parameters.map(|parameter| {
        let numel = parameter.shape.numel();
        found.get(parameter.name.as_str()).copied().unwrap_or(numel)
    });
    Ok(counts.collect())
}

fn object<'a>(graph: &'a Graph, sparse: Option<(&Path, &[u64])>) -> ModelObject<'a> {
    let costs = graph.costs().into_iter().map(|cost| (cost.node, cost));
    let costs: BTreeMap<usize, LayerCost> = costs.collect();
    let layers = graph.nodes.iter().enumerate().map(|(idx, node)| {
        let cost = costs.get(&idx);
        let kept = cost
            .zip(sparse)
            .map(|(cost, (_, retained))| (retained[cost.weight], cost.places));
        LayerObject {
            op: node.op.name(),
            name: graph.module(idx).map(str::to_owned),
            output: node.output.to_string(),
            parameters: node
                .op
                .parameters()
                .map(|parameter| &graph.parameters[parameter])
                .filter(|parameter| parameter.role.is_learned())
                .map(|parameter| parameter.shape.numel())
                .sum(),
            multiply_adds: cost.map_or(0, |cost| cost.multiply_adds),
            retained: kept.map(|(retained, _)| retained),
            sparse_multiply_adds: kept.map(|(retained, places)| retained * places),
        }
    });
    let tensors = graph.parameters.iter().map(|parameter| TensorObject {
        name: &parameter.name,
        shape: parameter.shape.dims(),
        role: role(parameter.role),
    });
    ModelObject {
        schema: SCHEMA,
        name: &graph.name,
        input: graph.input().to_string(),
        classes: graph.classes(),
        parameters: graph.learned(),
        multiply_adds: graph.multiply_adds(),
        layers: layers.collect(),
        tensors: tensors.collect(),
        sparse: sparse.map(|(path, retained)| sparse_object(graph, path, retained)),
    }
}

fn sparse_object(graph: &Graph, path: &Path, retained: &[u64]) -> SparseObject {
    let weights = || {
        let parameters = graph.parameters.iter().zip(retained);
        parameters.filter(|(parameter, _)| parameter.role == Role::Weight)
    };
    let numel: u64 = weights()
        .map(|(parameter, _)| parameter.shape.numel())
        .sum();
    let kept: u64 = weights().map(|(_, retained)| retained).sum();
    let multiply_adds = graph.sparse_multiply_adds(retained);
    SparseObject {
        checkpoint: shown(path),
        weights: numel,
        retained: kept,
        sparsity: 1.0 - kept as f64 / numel as f64,
        multiply_adds,
        speed_up: (multiply_adds > 0).then(|| graph.multiply_adds() as f64 / multiply_adds as f64),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Weight => "weight",
        Role::Bias => "bias",
        Role::Scale => "scale",
        Role::Shift => "shift",
        Role::RunningMean => "running-mean",
        Role::RunningVariance => "running-variance",
        Role::BatchCount => "batch-count",
    }
}

fn lines(object: &ModelObject<'_>, is_verbose: bool) -> String {
    let mut columns = vec![
        ("layer", Column::Name),
        ("op", Column::Name),
        ("output", Column::Name),
        ("parameters", Column::Number),
        ("multiply-adds", Column::Number),
    ];
    if object.sparse.is_some() {
        columns.push(("retained", Column::Number));
        columns.push(("sparse multiply-adds", Column::Number));
    }
    let number = |number: Option<u64>| number.map_or(String::new(), count);
    let layers = object.layers.iter();
    let rows: Vec<Vec<String>> = layers
        .filter(|layer| is_verbose || layer.parameters > 0)
        .map(|layer| {
            let mut row = vec![
                layer.name.clone().unwrap_or_default(),
                layer.op.to_owned(),
                layer.output.clone(),
                number(Some(layer.parameters).filter(|&parameters| parameters > 0)),
                number(Some(layer.multiply_adds).filter(|&number| number > 0)),
            ];
            if object.sparse.is_some() {
                row.push(number(layer.retained));
                row.push(number(layer.sparse_multiply_adds));
            }
            row
        })
        .collect();
    let mut lines = table(&columns, &rows);
    lines.push_str(&format!(
        "\n{} for images of {} and {} classes\n{}, {} per image\n",
        Printable(object.name),
        object.input,
        object.classes,
        plural(object.parameters, "parameter"),
        plural(object.multiply_adds, "multiply-add"),
    ));
    if let Some(sparse) = &object.sparse {
        let speed_up = match sparse.speed_up {
            Some(factor) => format!("theoretical speed-up {factor:.2}"),
            None => "nothing is left to compute".to_owned(),
        };
        lines.push_str(&format!(
            "{}: {} of {} weights retained (sparsity {}), {} per image, {speed_up}\n",
            sparse.checkpoint,
            count(sparse.retained),
            count(sparse.weights),
            percent(sparse.sparsity),
            plural(sparse.multiply_adds, "multiply-add"),
        ));
    }
    lines
}

fn list(is_json: bool) -> anyhow::Result<()> {
    if is_json {
        let models = MODELS.iter().map(|model| ListedObject {
            name: model.name,
            about: model.about,
            input: model.input.to_string(),
            options: model
                .options
                .iter()
                .map(|option| OptionObject {
                    name: option.name,
                    default: option.default,
                    about: option.about,
                })
                .collect(),
        });
        let object = ListObject {
            schema: SCHEMA,
            models: models.collect(),
        };
        text::print(&text::json(&object)?)?;
        return Ok(());
    }
    let mut lines = String::new();
    let mut say = |line: String| lines.push_str(&prose(Stream::Out, &line));
    for model in MODELS {
        say(format!(
            "{} (made for images of {})",
            model.name, model.input
        ));
        say(format!("  {}", model.about));
        for option in model.options {
            let (name, default) = (option.name, option.default);
            say(format!("  --option {name}={default}: {}", option.about));
        }
    }
    say(String::new());
    say(
        "Options are shown with their defaults. A model can also be a file: `sms-merge model \
         --help` says how."
            .to_owned(),
    );
    text::print(&lines)?;
    Ok(())
}
