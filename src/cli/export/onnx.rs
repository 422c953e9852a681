//! A checkpoint walks in, an ONNX model walks out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DataTarget;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::Observer;
use sms_merge::checkpoint::OutputError;
use sms_merge::checkpoint::refuse_named_input;
use sms_merge::export::onnx::BatchNorms;
use sms_merge::export::onnx::Encoding;
use sms_merge::export::onnx::IR_VERSION;
use sms_merge::export::onnx::OPSET;
use sms_merge::export::onnx::OnnxExport;
use sms_merge::export::onnx::OnnxOptions;
use sms_merge::export::onnx::Output;
use sms_merge::export::onnx::Payloads;
use sms_merge::format::replace::Target;
use sms_merge::graph::Graph;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::architecture;
use crate::cli::args::OnMaskMismatch;
use crate::cli::args::export::ExportArguments;
use crate::cli::args::export::ExternalData;
use crate::cli::args::export::OnnxEncoding;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::inputs::open_options;
use crate::cli::inputs::rules;
use crate::cli::outputs;
use crate::cli::progress::Progress;
use crate::cli::size::human_bytes;
use crate::cli::text;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::note;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::shown;
use crate::cli::text::table;

/// Key of a checkpoint's metadata that says what its readers need, which an ONNX model
/// has no use for.
const FORMAT_KEY: &str = "format";

/// What `--json` prints.
#[derive(Serialize)]
struct ExportObject<'a> {
    schema: u32,
    output: String,
    data: Option<String>,
    bytes_written: u64,
    elapsed_secs: f64,
    model: ModelObject<'a>,
    opset: u64,
    ir_version: u64,
    encoding: &'static str,
    batch_norms: BatchNormsObject,
    mask: MaskObject,
    sizes: BTreeMap<&'static str, u64>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ModelObject<'a> {
    name: &'a str,
    input: String,
    classes: usize,
}

#[derive(Serialize)]
struct BatchNormsObject {
    kept: usize,
    folded: usize,
}

#[derive(Serialize)]
struct MaskObject {
    numel: u64,
    retained: u64,
    sparsity: f64,
}

/// Exports.
pub(super) fn run(arguments: &ExportArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let mask = arguments.mask.mask.as_deref();
    let inputs = || [arguments.checkpoint.as_path()].into_iter().chain(mask);
    refuse_named_input(&arguments.output, inputs())?;
    let target = target(arguments, &arguments.output)?;
    // Readers look beside the model itself, whatever links lead to it.
    let data = data_target(arguments, &target)?;
    for path in data.iter().flat_map(DataTarget::paths) {
        refuse_named_input(path, inputs())?;
    }
    let beside = data.as_ref().map(DataTarget::target);
    for target in std::iter::once(&target).chain(beside) {
        target.probe(0).map_err(OutputError::from)?;
    }
    let options = open_options(&arguments.reading);
    let checkpoint = Checkpoint::open(&arguments.checkpoint, &options)?;
    let mask = mask
        .map(|path| Checkpoint::open(path, &options))
        .transpose()?;
    refuse_shards(arguments, data.as_ref(), &checkpoint, mask.as_ref())?;
    let graph = graph(arguments, &checkpoint)?;
    let options = onnx_options(arguments, (target.path(), data.as_ref()), &checkpoint)?;
    let ingredients = Ingredients::join(vec![checkpoint], mask, DtypeRule::AnyFloat, |_| true)?;

    // Once to count, once to write.
    let bytes = 2 * ingredients.checkpoints()[0].tensor_bytes();
    let progress = Progress::new(bytes, &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let durability = outputs::durability(arguments.no_sync);
    let export = OnnxExport::plan(&graph, &ingredients, &options, observer)?;
    let bytes_written = export.write(&target, data.as_ref(), durability, observer)?;
    progress.clear();

    let (pruned, numel) = export.pruned();
    let object = ExportObject {
        schema: SCHEMA,
        output: arguments.output.to_string_lossy().into_owned(),
        data: data.map(|data| data.target().path().to_string_lossy().into_owned()),
        bytes_written,
        elapsed_secs: started.elapsed().as_secs_f64(),
        model: ModelObject {
            name: &graph.name,
            input: graph.input().to_string(),
            classes: graph.classes(),
        },
        opset: OPSET,
        ir_version: IR_VERSION,
        encoding: options.encoding.name(),
        batch_norms: BatchNormsObject {
            kept: export.kept_batch_norms(),
            folded: export.folded_batch_norms(),
        },
        mask: MaskObject {
            numel,
            retained: numel - pruned,
            sparsity: match numel {
                0 => 0.0,
                _ => pruned as f64 / numel as f64,
            },
        },
        sizes: export
            .sizes()
            .iter()
            .map(|(encoding, bytes)| (encoding.name(), *bytes))
            .collect(),
        warnings: warnings(options.encoding, export.sizes()),
    };
    if arguments.report.json {
        text::print(&text::json(&object)?)?;
    } else if !arguments.report.quiet {
        text::print(&lines(&object, export.sizes()))?;
        for warning in &object.warnings {
            note(&format!("warning: {warning}"));
        }
    }
    Ok(Exit::Done)
}

/// The file that the weights of a model go to, if they go to one of their own.
fn data_target(
    arguments: &ExportArguments,
    model: &Target,
) -> Result<Option<DataTarget>, OutputError> {
    let existing = outputs::existing(arguments.force);
    let is_file = matches!(arguments.onnx.external_data, Some(ExternalData::File));
    is_file
        .then(|| DataTarget::beside(model, existing))
        .transpose()
}

fn target(arguments: &ExportArguments, path: &Path) -> Result<Target, OutputError> {
    let existing = outputs::existing(arguments.force);
    Ok(Target::for_file(path, existing)?)
}

/// Refuses an output that is a file of the inputs.
fn refuse_shards(
    arguments: &ExportArguments,
    data: Option<&DataTarget>,
    checkpoint: &Checkpoint,
    mask: Option<&Checkpoint>,
) -> Result<(), OutputError> {
    let beside = data.into_iter().flat_map(DataTarget::paths);
    for output in [arguments.output.as_path()].into_iter().chain(beside) {
        let files = [checkpoint].into_iter().chain(mask).flat_map(|checkpoint| {
            let shards = checkpoint.shards().iter();
            shards
                .map(|shard| shard.source().path())
                .chain(checkpoint.index())
        });
        refuse_named_input(output, files)?;
    }
    Ok(())
}

fn onnx_options(
    arguments: &ExportArguments,
    (model, data): (&Path, Option<&DataTarget>),
    checkpoint: &Checkpoint,
) -> anyhow::Result<OnnxOptions> {
    let parent = model.parent();
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    Ok(OnnxOptions {
        encoding: match arguments.onnx.onnx_encoding {
            OnnxEncoding::Dense => Encoding::Dense,
            OnnxEncoding::Bitmask => Encoding::Bitmask,
            OnnxEncoding::Delta => Encoding::Delta,
            OnnxEncoding::SparseInitializer => Encoding::SparseInitializer,
        },
        batch_norms: match arguments.onnx.fold_batch_norm {
            true => BatchNorms::Fold,
            false => BatchNorms::Keep,
        },
        output: match arguments.onnx.softmax {
            true => Output::Probabilities,
            false => Output::Logits,
        },
        payloads: match arguments.onnx.external_data {
            None => Payloads::Inside,
            Some(ExternalData::Checkpoint) => Payloads::Checkpoint {
                directory: parent.unwrap_or(Path::new(".")).to_owned(),
            },
            Some(ExternalData::File) => Payloads::File {
                name: data.map_or("", DataTarget::name).to_owned(),
            },
        },
        rules: rules(&arguments.mask, OnMaskMismatch::Error)?,
        metadata: model_metadata(checkpoint),
    })
}

/// What a model keeps of a checkpoint's metadata.
pub(crate) fn model_metadata(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let metadata = checkpoint.metadata().into_iter();
    metadata
        .filter(|(key, _)| *key != FORMAT_KEY)
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The network that is asked for, or that the checkpoint says it is.
fn graph(arguments: &ExportArguments, checkpoint: &Checkpoint) -> anyhow::Result<Graph> {
    let choice = &arguments.choice;
    match &arguments.model {
        Some(model) => architecture::graph(model, choice.input, choice.classes, &choice.options),
        None => recorded(arguments, checkpoint),
    }
}

#[cfg(feature = "train")]
fn recorded(arguments: &ExportArguments, checkpoint: &Checkpoint) -> anyhow::Result<Graph> {
    let Some(card) = crate::cli::learning::card_of(checkpoint)? else {
        return Err(unknown(arguments));
    };
    let mut record = card.model;
    let choice = &arguments.choice;
    if let Some(input) = choice.input {
        record.input = [input.channels, input.height, input.width];
    }
    record.classes = choice.classes.unwrap_or(record.classes);
    record.options.extend(choice.options.iter().cloned());
    crate::cli::learning::rebuild(&record)
}

#[cfg(not(feature = "train"))]
fn recorded(arguments: &ExportArguments, _: &Checkpoint) -> anyhow::Result<Graph> {
    Err(unknown(arguments))
}

fn unknown(arguments: &ExportArguments) -> anyhow::Error {
    UsageError {
        message: format!(
            "`{}` does not say which model it is; name it with `--model`",
            shown(&arguments.checkpoint)
        ),
        next: Some(
            "`sms-merge model --list` lists the models, `sms-merge model --help` says how a file \
             describes another; `--template MODEL.onnx --source CHECKPOINT` takes the graph that \
             your framework exported"
                .to_owned(),
        ),
    }
    .into()
}

fn warnings(encoding: Encoding, sizes: &[(Encoding, u64)]) -> Vec<String> {
    let bytes = |encoding| {
        sizes
            .iter()
            .find(|size| size.0 == encoding)
            .map(|size| size.1)
    };
    let (own, dense) = (bytes(encoding), bytes(Encoding::Dense));
    let smallest = sizes.iter().min_by_key(|size| size.1).map(|size| size.0);
    match (own > dense, smallest) {
        (true, Some(smallest)) => vec![format!(
            "the encoding `{}` takes more bytes than `dense` at this sparsity; `{}` takes the \
             fewest",
            encoding.name(),
            smallest.name()
        )],
        _ => Vec::new(),
    }
}

fn lines(object: &ExportObject<'_>, sizes: &[(Encoding, u64)]) -> String {
    let model = &object.model;
    let BatchNormsObject { kept, folded } = object.batch_norms;
    let mut lines = format!(
        "`{}`: {} for images of {} and {} classes, {}\nopset {}, IR version {}",
        shown(Path::new(&object.output)),
        Printable(model.name),
        model.input,
        model.classes,
        human_bytes(object.bytes_written),
        object.opset,
        object.ir_version,
    );
    if kept + folded > 0 {
        let norms = plural((kept + folded) as u64, "batch norm");
        lines.push_str(&match (kept, folded) {
            (_, 0) => format!("; {norms} kept"),
            (0, _) => format!("; {norms} folded"),
            (kept, _) => format!("; {norms}, of which {kept} kept: no layer stands before them"),
        });
    }
    let mask = &object.mask;
    if mask.numel == 0 {
        lines.push_str("; nothing is pruned\n");
        return lines;
    }
    lines.push_str(&format!(
        "; {} of {} weights pruned\n\n",
        percent(mask.sparsity),
        count(mask.numel)
    ));
    let dense = object.sizes[Encoding::Dense.name()];
    let rows = sizes.iter().map(|(encoding, bytes)| {
        let chosen = match encoding.name() == object.encoding {
            true => " (written)",
            false => "",
        };
        vec![
            format!("{}{chosen}", encoding.name()),
            count(*bytes),
            percent(*bytes as f64 / dense as f64),
        ]
    });
    let columns = [
        ("encoding", Column::Name),
        ("bytes", Column::Number),
        ("of dense", Column::Number),
    ];
    lines.push_str(&table(&columns, &rows.collect::<Vec<_>>()));
    lines
}
