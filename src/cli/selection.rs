//! What is said of the tensors that are not averaged: those that are left out, and those
//! that are codes.

use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::IngredientsError;
use sms_merge::checkpoint::Pick;
use sms_merge::merge::MergeOptions;
use sms_merge::tensor::Printable;

use crate::cli::text::plural;
use crate::cli::text::shown;

/// Names of tensors that are shown.
const MOST_NAMED: usize = 4;

/// Names to show, and how many more there are.
fn named(names: &[&str]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(MOST_NAMED)
        .map(|name| format!("`{}`", Printable(name)))
        .collect();
    match names.len().saturating_sub(MOST_NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What there is to say of tensors that the soup lacks.
pub(crate) fn left_out(ingredients: &Ingredients, options: &MergeOptions) -> Vec<String> {
    if options.exclude.is_empty() && options.include.is_empty() {
        return Vec::new();
    }
    let first = &ingredients.checkpoints()[0];
    let all = ingredients.left_out();
    let (own, foreign): (Vec<&str>, Vec<&str>) = all.iter().map(String::as_str).partition(|name| {
        first.find(name).is_some() || first.find(&format!("{name}_orig")).is_some()
    });
    let mut lines = Vec::new();
    if !own.is_empty() {
        let instead = match options.exclude.is_empty() {
            true => "",
            false => "; `--from-first` in place of `--exclude` keeps those of the first ingredient",
        };
        lines.push(format!(
            "left out: {}; the soup is not a whole model, and what loads it may refuse it or \
             fill them with random numbers{instead}",
            named(&own)
        ));
    }
    if !foreign.is_empty() {
        lines.push(format!(
            "left out: {}, which `{}` does not have",
            named(&foreign),
            shown(first.path())
        ));
    }
    lines
}

/// What there is to say of codes, which are copied.
pub(crate) fn quantised(ingredients: &Ingredients) -> Option<String> {
    if ingredients.count() < 2 {
        return None;
    }
    let codes = || {
        let parameters = ingredients.parameters().iter();
        parameters.filter(|one| one.pick == Pick::Everyone && one.quantiser.is_some())
    };
    let quantiser = codes().next()?.quantiser?;
    Some(format!(
        "{} quantised {quantiser} are copied, not averaged: they must be the same in every \
         ingredient",
        plural(codes().count() as u64, "tensor")
    ))
}

/// The error with remedies that a greedy soup can take: it has no first ingredient before
/// it is chosen.
pub(crate) fn without_from_first(mut error: anyhow::Error) -> anyhow::Error {
    if let Some(IngredientsError::Different {
        remedy: Some(remedy),
        ..
    }) = error.downcast_mut()
    {
        let patterns = std::mem::take(&mut remedy.first_gives);
        remedy.only_other.splice(0..0, patterns);
    }
    error
}
