//! `sms-merge verify`: a soup and its ingredients walk in, whether it is what they
//! give walks out.

mod given;

use std::sync::atomic::AtomicBool;

use serde::Serialize;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::merge::Certificate;
use sms_merge::merge::Difference;
use sms_merge::merge::Observer;
use sms_merge::merge::recompute;
use sms_merge::merge::self_check;
use sms_merge::tensor::Printable;

use crate::cli::SCHEMA;
use crate::cli::args::VerifyArguments;
use crate::cli::device::workers;
use crate::cli::exit::Exit;
use crate::cli::ingredients::expand;
use crate::cli::inputs::open_all;
use crate::cli::inputs::open_options;
use crate::cli::inputs::threads;
use crate::cli::progress::Progress;
use crate::cli::text;
use crate::cli::text::count;
use crate::cli::text::note;
use crate::cli::text::plural;
use crate::cli::text::shown;

pub(crate) use given::NotTheIngredients;

/// Differences that are shown; JSON has all.
const MOST_SHOWN: usize = 10;

/// What `--json` prints.
#[derive(Serialize)]
struct VerifyObject {
    schema: u32,
    verified: bool,
    mode: &'static str,
    n_tensors: usize,
    n_recalibrated: usize,
    not_covered: Vec<String>,
    differences: Vec<DifferenceObject>,
}

#[derive(Serialize)]
struct DifferenceObject {
    kind: &'static str,
    tensor: Option<String>,
    coordinate: Option<Vec<u64>>,
    message: String,
}

/// Checks the soup.
pub(crate) fn run(arguments: &VerifyArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let options = open_options(&arguments.reading);
    let paths = expand(&arguments.ingredients, interrupted)?;
    let soup = Checkpoint::open(&arguments.soup, &options)?;
    let certificate = Certificate::of(&soup)?;
    if !paths.is_empty() {
        let mask = arguments.mask.as_deref();
        given::refuse_other_counts(&arguments.soup, &certificate, &paths, mask)?;
    }
    let checkpoints = open_all(&paths, &options, threads(&arguments.reading))?;
    let mask = arguments.mask.as_ref();
    let mask = mask
        .map(|path| Checkpoint::open(path, &options))
        .transpose()?;
    let n_tensors = soup.weights().count();
    let n_recalibrated = certificate.recalibrated.len();
    let all = checkpoints.iter().chain(&mask);
    let bytes = match checkpoints.len() {
        0 => soup.tensor_bytes(),
        _ => all.map(Checkpoint::tensor_bytes).sum(),
    };
    let progress = Progress::new(bytes, &arguments.report);
    let observer = Observer {
        advance: &|bytes| progress.advance(bytes),
        interrupted,
    };
    let workers = workers(
        &arguments.device,
        &arguments.reading,
        &arguments.report,
        None,
    )?;
    let n_ingredients = checkpoints.len();
    let not_covered = not_covered(&soup, &certificate, n_ingredients);
    let is_sealed = certificate.is_sealed();
    let mut retained_zeros = 0;
    let names = given::names(&checkpoints);
    let differences = if checkpoints.is_empty() {
        self_check(soup, &certificate, &workers, observer).map(|found| {
            retained_zeros = found.retained_zeros;
            found.differences
        })
    } else {
        recompute(&soup, &certificate, checkpoints, mask, &workers, observer)
    };
    progress.clear();
    let differences = differences
        .map_err(|error| given::explained(error, &arguments.soup, &certificate, &names))?;
    let verified = differences.is_empty();
    if arguments.report.json {
        let object = VerifyObject {
            schema: SCHEMA,
            verified,
            mode: match n_ingredients {
                0 => "self-check",
                _ => "recomputed",
            },
            n_tensors,
            n_recalibrated,
            not_covered,
            differences: differences.iter().map(DifferenceObject::new).collect(),
        };
        text::print(&text::json(&object)?)?;
    } else {
        let soup = shown(&arguments.soup);
        let mut report = String::new();
        for difference in differences.iter().take(MOST_SHOWN) {
            report.push_str(&format!("{}\n", sentence(difference)));
        }
        if let Some(more) = differences.len().checked_sub(MOST_SHOWN + 1) {
            report.push_str(&format!("and {} more\n", more + 1));
        }
        let proved = plural(n_tensors.saturating_sub(n_recalibrated) as u64, "tensor");
        let n_tensors = plural(n_tensors as u64, "tensor");
        report.push_str(&match (verified, n_ingredients) {
            (false, _) if is_of_others(&differences) => {
                format!("`{soup}` was not made of these files\n")
            }
            (false, _) => format!("`{soup}` is not what its certificate says\n"),
            (true, 0) => format!(
                "`{soup}` is as it was written: {n_tensors}, nothing off the mask is non-zero\n"
            ),
            (true, n) => format!(
                "`{soup}`{} every bit of {proved} is what {} give\n",
                if is_sealed { " is proved:" } else { ":" },
                plural(n as u64, "ingredient")
            ),
        });
        if verified && !not_covered.is_empty() {
            report.push_str(&format!("not covered: {}\n", not_covered.join(", ")));
        }
        if verified && n_ingredients > 0 && n_recalibrated > 0 {
            report.push_str(&format!(
                "{} of batch norm were estimated again since, and are as they were then\n",
                plural(n_recalibrated as u64, "tensor")
            ));
        }
        if !(verified && arguments.report.quiet) {
            text::print(&report)?;
        }
        if verified && n_ingredients == 0 && !arguments.report.quiet {
            if retained_zeros > 0 {
                note(&format!(
                    "{} zero: their places in the mask are certified by its digest alone",
                    plural(retained_zeros, "retained weight")
                ));
            }
            note("next: name the ingredients as well, and every bit is computed again");
        }
    }
    Ok(match verified {
        true => Exit::Done,
        false => Exit::Verification,
    })
}

/// Whether what was given is not what the soup was made of: what differs else follows from
/// that.
fn is_of_others(differences: &[Difference]) -> bool {
    let is_other = |one: &Difference| {
        matches!(
            one,
            Difference::Ingredient { .. }
                | Difference::MaskFile
                | Difference::IngredientCount { .. }
        )
    };
    differences.iter().any(is_other)
}

/// What no digest of the certificate covers and no ingredient tells.
fn not_covered(soup: &Checkpoint, certificate: &Certificate, n_ingredients: usize) -> Vec<String> {
    let mut found = Vec::new();
    if !certificate.is_sealed() {
        let what = match (n_ingredients, soup.model()) {
            (0, None) => "metadata and the certificate's own text",
            (0, Some(_)) => "graph, metadata and the certificate's own text",
            _ => "the certificate's own text",
        };
        found.push(format!("{what} (an older version wrote this soup)"));
    }
    let beside = soup.companions();
    let names = beside.iter().take(MOST_SHOWN);
    found.extend(names.map(|name| format!("`{}`", Printable(name))));
    if let Some(more) = beside.len().checked_sub(MOST_SHOWN + 1) {
        found.push(format!("{} more files", more + 1));
    }
    found
}

impl DifferenceObject {
    fn new(difference: &Difference) -> Self {
        let (kind, tensor) = match difference {
            Difference::Element { tensor, .. } => ("element", Some(tensor)),
            Difference::Missing { tensor } => ("missing", Some(tensor)),
            Difference::Extra { tensor } => ("extra", Some(tensor)),
            Difference::Content { tensor } => ("content", Some(tensor)),
            Difference::Mask { tensor, .. } => ("mask", Some(tensor)),
            Difference::Record { tensor } => ("record", Some(tensor)),
            Difference::Ingredient { .. } => ("ingredient", None),
            Difference::IngredientCount { .. } => ("ingredient-count", None),
            Difference::MaskFile => ("mask-file", None),
            Difference::Seal { .. } => ("seal", None),
            Difference::Metadata { .. } => ("metadata", None),
            Difference::Graph { .. } => ("graph", None),
            Difference::Certificate { .. } => ("certificate", None),
        };
        Self {
            kind,
            tensor: tensor.cloned(),
            coordinate: match difference {
                Difference::Element { shape, index, .. } => Some(shape.coordinate(*index)),
                _ => None,
            },
            message: sentence(difference),
        }
    }
}

fn sentence(difference: &Difference) -> String {
    match difference {
        Difference::Element {
            tensor,
            shape,
            index,
        } => format!(
            "`{}` first differs at {:?}: its bits there are not what the ingredients give",
            Printable(tensor),
            shape.coordinate(*index)
        ),
        Difference::Missing { tensor } => format!(
            "`{}` is missing, or has another type or shape",
            Printable(tensor)
        ),
        Difference::Extra { tensor } => format!("`{}` should not be there", Printable(tensor)),
        Difference::Ingredient {
            name,
            path,
            recorded,
            found,
            ..
        } => {
            let is_named = path.file_name().is_some_and(|own| own == name.as_str());
            let what = match is_named {
                true => "has changed since, or is another file of that name".to_owned(),
                false => format!("is not `{}`, which the certificate names", Printable(name)),
            };
            format!(
                "`{}` {what}: its digest is {found}, and that of the ingredient {recorded}",
                shown(path)
            )
        }
        Difference::IngredientCount { recorded, found } => {
            format!("{found} ingredients were given, and the certificate names {recorded}")
        }
        Difference::MaskFile => {
            "the mask file is not the one that the certificate names".to_owned()
        }
        Difference::Content { tensor } => {
            format!("`{}` does not hold what was written", Printable(tensor))
        }
        Difference::Mask {
            tensor,
            expected,
            found,
        } => format!(
            "`{}` has {} non-zero weights, and its certified mask {}",
            Printable(tensor),
            count(*found),
            count(*expected)
        ),
        Difference::Record { tensor } => format!(
            "the certificate's record of `{}` is not what the ingredients give",
            Printable(tensor)
        ),
        Difference::Seal { file } => format!(
            "`{}` does not fit its seal: its certificate, other metadata or graph is not what was \
             written",
            shown(file)
        ),
        Difference::Metadata { key } => format!(
            "the metadata `{}` is not what the ingredients give",
            Printable(key)
        ),
        Difference::Graph { place } => {
            format!("the graph is not that of the first ingredient: it differs in {place}")
        }
        Difference::Certificate { what } => {
            format!("{what} in the certificate does not fit the rest of it")
        }
    }
}
