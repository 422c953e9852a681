//! `sms-merge export --template`: a soup and a model of the user walk in, the model with
//! the soup's weights walks out.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::Observer;
use sms_merge::checkpoint::refuse_named_input;
use sms_merge::export::template::Filling;
use sms_merge::export::template::fill_template;
use sms_merge::export::template::match_template;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::export::ExportArguments;
use crate::cli::exit::Exit;
use crate::cli::inputs::open_all;
use crate::cli::inputs::open_options;
use crate::cli::inputs::patterns;
use crate::cli::inputs::threads;
use crate::cli::outputs;
use crate::cli::progress::Progress;
use crate::cli::size::human_bytes;
use crate::cli::text;
use crate::cli::text::note;
use crate::cli::text::plural;
use crate::cli::text::shown;

/// Names of kept initialisers that are shown; JSON has all.
const MOST_SHOWN: usize = 8;

/// What `--json` prints.
#[derive(Serialize)]
struct TemplateObject<'a> {
    schema: u32,
    output: String,
    bytes_written: u64,
    elapsed_secs: f64,
    replaced: Vec<ReplacedObject<'a>>,
    kept: &'a [String],
}

#[derive(Serialize)]
struct ReplacedObject<'a> {
    initializer: &'a str,
    tensor: &'a str,
    transposed: bool,
}

/// Puts the weights of a checkpoint into a model.
pub(super) fn run(
    arguments: &ExportArguments,
    model: &Path,
    interrupted: &AtomicBool,
) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let sources = &arguments.template.source;
    let inputs = [arguments.checkpoint.as_path(), model].into_iter();
    refuse_named_input(
        &arguments.output,
        inputs.chain(sources.iter().map(|path| path.as_path())),
    )?;
    let keep = patterns("--keep", &arguments.template.keep)?;
    let options = open_options(&arguments.reading);
    let soup = Checkpoint::open(&arguments.checkpoint, &options)?;
    let template = Checkpoint::open(model, &options)?;
    let sources = open_all(sources, &options, threads(&arguments.reading))?;
    let soup = Ingredients::join(vec![soup], None, DtypeRule::Same, |_| true)?;
    let read = sources.iter().map(Checkpoint::tensor_bytes).sum::<u64>();
    let progress = Progress::new(read + 2 * template.tensor_bytes(), &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let existing = outputs::existing(arguments.force);
    let durability = outputs::durability(arguments.no_sync);
    let filled = match_template(&soup, &template, &sources, &keep, observer).and_then(|filling| {
        let how = (existing, durability);
        let output = &arguments.output;
        let bytes = fill_template(&soup, &template, &filling, output, how, observer)?;
        Ok((filling, bytes))
    });
    progress.clear();
    let (filling, bytes_written) = filled?;
    if arguments.report.json {
        let object = TemplateObject {
            schema: SCHEMA,
            output: arguments.output.to_string_lossy().into_owned(),
            bytes_written,
            elapsed_secs: started.elapsed().as_secs_f64(),
            replaced: filling.replaced.iter().map(replaced_object).collect(),
            kept: &filling.kept,
        };
        text::print(&text::json(&object)?)?;
    } else if !arguments.report.quiet {
        show(arguments, &filling, bytes_written);
    }
    Ok(Exit::Done)
}

fn replaced_object(replacement: &sms_merge::export::template::Replacement) -> ReplacedObject<'_> {
    ReplacedObject {
        initializer: &replacement.initializer,
        tensor: &replacement.tensor,
        transposed: replacement.is_transposed(),
    }
}

fn show(arguments: &ExportArguments, filling: &Filling, bytes_written: u64) {
    let replaced = &filling.replaced;
    let transposed = replaced.iter().filter(|one| one.is_transposed()).count();
    let n_replaced = plural(replaced.len() as u64, "initialiser");
    note(&format!(
        "`{}`: {n_replaced} replaced, {transposed} of them transposed; {}",
        shown(&arguments.output),
        human_bytes(bytes_written)
    ));
    if !filling.kept.is_empty() {
        let names: Vec<String> = filling
            .kept
            .iter()
            .take(MOST_SHOWN)
            .map(|name| format!("`{}`", Printable(name)))
            .collect();
        let more = filling.kept.len() - names.len();
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        note(&format!("kept as constants: {}{more}", names.join(", ")));
    }
}
