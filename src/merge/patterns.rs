//! Patterns that match nothing: a slip of the keyboard, which changes nothing and is not
//! noticed.

use crate::checkpoint::Ingredients;
use crate::connectivity::NamePatterns;
use crate::merge::MergeError;
use crate::merge::options::MergeOptions;

/// Refuses a pattern of `exclude` that matches no tensor of any ingredient.
///
/// Not part of [`MergePlan::new`](crate::merge::MergePlan::new): some of the ingredients may be what is kept of more, of
/// which one had the tensor.
///
/// # Errors
/// [`MergeError::UnusedPattern`].
pub fn refuse_idle_exclusions(
    ingredients: &Ingredients,
    options: &MergeOptions,
) -> Result<(), MergeError> {
    if options.exclude.is_empty() {
        return Ok(());
    }
    let left_out = ingredients.left_out();
    match options.exclude.unused(left_out.iter().map(String::as_str)) {
        None => Ok(()),
        Some(pattern) => Err(MergeError::UnusedPattern {
            option: "--exclude",
            pattern: pattern.to_owned(),
        }),
    }
}

/// Refuses a pattern that matches no tensor of the soup.
pub(super) fn refuse_unused_patterns(
    ingredients: &Ingredients,
    options: &MergeOptions,
) -> Result<(), MergeError> {
    let names = ingredients
        .parameters()
        .iter()
        .map(|parameter| parameter.name.as_str());
    let unused = |option, patterns: &NamePatterns| match patterns.unused(names.clone()) {
        Some(pattern) => Err(MergeError::UnusedPattern {
            option,
            pattern: pattern.to_owned(),
        }),
        None => Ok(()),
    };
    unused("--prunable", &options.rules.prunable)?;
    unused("--dense", &options.rules.dense)?;
    unused("--include", &options.include)?;
    unused("--from-first", &options.from_first)
}
