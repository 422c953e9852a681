//! What is given beside a soup, held against what its certificate names: so that a wrong
//! command line is not taken for a wrong soup.

use std::path::Path;
use std::path::PathBuf;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::IngredientsError;
use sms_merge::merge::Certificate;
use sms_merge::merge::MergeError;
use sms_merge::tensor::Printable;
use thiserror::Error;

use crate::cli::exit::UsageError;
use crate::cli::exit::quoted;
use crate::cli::text::plural;
use crate::cli::text::shown;

/// Names of ingredients that a message shows.
const MOST_NAMED: usize = 8;

/// The given files do not go together, or not as the certificate says.
#[derive(Debug, Error)]
#[error("{message}")]
pub(crate) struct NotTheIngredients {
    message: String,
    /// What to run instead.
    pub(crate) next: String,
    source: anyhow::Error,
}

/// Refuses other numbers of ingredients and mask files than the certificate names.
pub(super) fn refuse_other_counts(
    soup: &Path,
    certificate: &Certificate,
    paths: &[PathBuf],
    mask: Option<&Path>,
) -> Result<(), UsageError> {
    let record = &certificate.soup;
    let n_candidates = record.selection.as_ref().map(|all| all.candidates.len());
    let is_right = paths.len() == record.ingredients.len() || Some(paths.len()) == n_candidates;
    if !is_right {
        let were = plural(record.ingredients.len() as u64, "ingredient");
        return Err(UsageError {
            message: format!(
                "`{}` was made of {were}, and {} given; its certificate names {}",
                shown(soup),
                match paths.len() {
                    1 => "1 is".to_owned(),
                    many => format!("{many} are"),
                },
                recorded(certificate)
            ),
            next: Some(format!("`{}`", command(soup, certificate, paths, mask))),
        });
    }
    let (message, next) = match (mask, &certificate.options.mask_file) {
        (None, Some(_)) => ("with a mask file, and none is given", "add `--mask FILE`"),
        (Some(_), None) => ("without a mask file", "leave `--mask` out"),
        _ => return Ok(()),
    };
    Err(UsageError {
        message: format!("`{}` was made {message}", shown(soup)),
        next: Some(next.to_owned()),
    })
}

/// The names that a certificate lists.
fn recorded(certificate: &Certificate) -> String {
    let all = &certificate.soup.ingredients;
    let names = all.iter().take(MOST_NAMED);
    let names: Vec<String> = names
        .map(|one| format!("`{}`", Printable(&one.name)))
        .collect();
    match all.len().saturating_sub(MOST_NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// The command line with the ingredients that the certificate names: where one of that name
/// is given, else beside those that are.
fn command(
    soup: &Path,
    certificate: &Certificate,
    paths: &[PathBuf],
    mask: Option<&Path>,
) -> String {
    let place = |name: &str| {
        let given = paths
            .iter()
            .find(|path| path.file_name() == Some(name.as_ref()));
        let beside = || {
            let all = paths.iter().map(PathBuf::as_path).chain([soup]);
            all.filter_map(|path| Some(path.parent()?.join(name)))
                .find(|path| path.exists())
        };
        given
            .cloned()
            .or_else(beside)
            .unwrap_or_else(|| name.into())
    };
    let ingredients = certificate.soup.ingredients.iter();
    let words = ingredients.map(|one| format!(" {}", quoted(&place(&one.name))));
    let mask = mask.map(|mask| format!(" --mask {}", quoted(mask)));
    format!(
        "sms-merge verify {}{}{}",
        quoted(soup),
        words.collect::<String>(),
        mask.unwrap_or_default()
    )
}

/// An error of ingredients that cannot be merged, with what the certificate names.
pub(super) fn explained(
    error: MergeError,
    soup: &Path,
    certificate: &Certificate,
    names: &[String],
) -> anyhow::Error {
    let is_of_inputs = matches!(
        &error,
        MergeError::Ingredients(
            IngredientsError::Different { .. }
                | IngredientsError::Quantised { .. }
                | IngredientsError::Graph { .. }
                | IngredientsError::ModelAndOther { .. }
        ) | MergeError::Connectivity(_)
            | MergeError::IntegerMismatch { .. }
            | MergeError::OpaqueMismatch { .. }
            | MergeError::Quantised { .. }
    );
    if !is_of_inputs {
        return error.into();
    }
    let is_foreign = |name: &&String| {
        let mut all = certificate.soup.ingredients.iter();
        !all.any(|one| one.name == **name)
    };
    let message = match names.iter().find(is_foreign) {
        Some(name) => format!(
            "the certificate of `{}` does not name `{}` as an ingredient; it names {}",
            shown(soup),
            Printable(name),
            recorded(certificate)
        ),
        None => format!(
            "these files are not the ingredients that `{}` was made of",
            shown(soup)
        ),
    };
    NotTheIngredients {
        message,
        next: format!(
            "name the ingredients that it was made of; `sms-merge verify {}` holds it against its \
             certificate alone",
            quoted(soup)
        ),
        source: error.into(),
    }
    .into()
}

/// Names of checkpoints, as certificates have them.
pub(super) fn names(checkpoints: &[Checkpoint]) -> Vec<String> {
    checkpoints.iter().map(Checkpoint::display_name).collect()
}
