//! Names that differ by what programs put before them, and how to take it off.

use std::collections::BTreeSet;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::convention::Located;
use crate::checkpoint::names::strip_recipe;

/// What wrappers put before every name: DataParallel and AveragedModel, torch.compile,
/// and the usual attribute of a LightningModule.
const KNOWN: [&str; 3] = ["module.", "_orig_mod.", "model."];
/// Most prefixes one after the other.
const MOST: usize = 3;
/// Counter that `torch.optim.swa_utils.AveragedModel` keeps beside the model.
const COUNTER: &str = "n_averaged";

/// What makes the names of two checkpoints the same, if prefixes are all that differs.
/// What was taken off `checkpoint` already is taken off again.
pub(super) fn prefixes_apart(
    checkpoint: &Checkpoint,
    first: &Located<'_>,
    other: &Located<'_>,
) -> Option<String> {
    let names = |located: &Located<'_>| -> Vec<String> {
        let names = located.names().filter(|name| *name != COUNTER);
        names.map(str::to_owned).collect()
    };
    let (first_names, other_names) = (names(first), names(other));
    if first_names.len() != other_names.len() || first_names == other_names {
        return None;
    }
    let found = apart(&first_names, &other_names)?;
    let differ = match found.as_slice() {
        [prefix] => format!("the names differ only by the prefix `{prefix}`"),
        _ => "the names differ only by prefixes".to_owned(),
    };
    let mut recipe = strip_recipe(&checkpoint.prefixes_and(found.iter().map(String::as_str)));
    if first.get(COUNTER).is_some() != other.get(COUNTER).is_some() {
        recipe += " --exclude ";
        recipe += COUNTER;
    }
    let ending = match found.len() {
        1 if !recipe.contains(" --") => "takes it off",
        _ => "makes them the same",
    };
    Some(format!("{differ}: `{recipe}` {ending}"))
}

/// The fewest prefixes without which the names are the same.
fn apart(first: &[String], other: &[String]) -> Option<Vec<String>> {
    let mut candidates: Vec<String> = KNOWN.map(str::to_owned).to_vec();
    candidates.extend(more_before(first, other));
    candidates.extend(more_before(other, first));
    candidates.extend(common_before(first));
    candidates.extend(common_before(other));
    let letters = |names: &[String], prefixes: &[&String]| -> usize {
        names.iter().map(|name| strip(name, prefixes).len()).sum()
    };
    let same = |prefixes: &[&String]| {
        // Most sequences are told apart without a list of names.
        if letters(first, prefixes) != letters(other, prefixes) {
            return false;
        }
        let first = stripped(first, prefixes);
        first.is_some() && first == stripped(other, prefixes)
    };
    (1..=MOST).find_map(|length| sequence(&candidates, length, &mut Vec::new(), &same))
}

/// What stands before the first of the long names that ends in one of the short ones.
fn more_before(long: &[String], short: &[String]) -> Option<String> {
    let first = long.first()?;
    // Dots from the front, so that the shortest prefix is found.
    let mut dots = first.match_indices('.').map(|(at, _)| at + 1);
    let is_known: BTreeSet<&str> = short.iter().map(String::as_str).collect();
    let at = dots.find(|&at| is_known.contains(&first[at..]))?;
    Some(first[..at].to_owned())
}

/// The first component of all names, if it is the same.
fn common_before(names: &[String]) -> Option<String> {
    let first = names.first()?;
    let begin = &first[..=first.find('.')?];
    let is_common = names.iter().all(|name| name.starts_with(begin));
    is_common.then(|| begin.to_owned())
}

/// The first sequence of candidates of that length, none of them twice, of which `same` is
/// true.
fn sequence(
    candidates: &[String],
    length: usize,
    chosen: &mut Vec<usize>,
    same: &impl Fn(&[&String]) -> bool,
) -> Option<Vec<String>> {
    let texts: Vec<&String> = chosen.iter().map(|&at| &candidates[at]).collect();
    if chosen.len() == length {
        return same(&texts).then(|| texts.into_iter().cloned().collect());
    }
    (0..candidates.len()).find_map(|at| {
        if chosen.contains(&at) {
            return None;
        }
        chosen.push(at);
        let found = sequence(candidates, length, chosen, same);
        chosen.pop();
        found
    })
}

/// The names without these prefixes, taken off one after the other where they are there;
/// `None` if two become the same.
fn stripped<'n>(names: &'n [String], prefixes: &[&String]) -> Option<BTreeSet<&'n str>> {
    let stripped: BTreeSet<&str> = names.iter().map(|name| strip(name, prefixes)).collect();
    (stripped.len() == names.len()).then_some(stripped)
}

/// A name without these prefixes.
fn strip<'n>(name: &'n str, prefixes: &[&String]) -> &'n str {
    prefixes.iter().fold(name, |name, prefix| {
        let rest = name.strip_prefix(prefix.as_str());
        rest.filter(|rest| !rest.is_empty()).unwrap_or(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_found_one_after_the_other() {
        let check = |first: &[&str], other: &[&str], expected: Option<&[&str]>| {
            let owned = |names: &[&str]| -> Vec<String> {
                names.iter().map(|name| (*name).to_owned()).collect()
            };
            let (first, other) = (owned(first), owned(other));
            assert_eq!(apart(&first, &other), expected.map(owned));
        };
        check(&["module.a", "module.b"], &["a", "b"], Some(&["module."]));
        check(&["net.fc.a"], &["fc.a"], Some(&["net."]));
        check(
            &["_orig_mod.module.a"],
            &["module.a"],
            Some(&["_orig_mod."]),
        );
        check(
            &["_orig_mod.module.a"],
            &["a"],
            Some(&["_orig_mod.module."]),
        );
        check(
            &["module._orig_mod.a"],
            &["model.a"],
            Some(&["module.", "_orig_mod.", "model."]),
        );
        check(
            &["net.a", "net.b"],
            &["module.a", "module.b"],
            Some(&["module.", "net."]),
        );
        check(&["a"], &["b"], None);
        check(&["module.a", "a"], &["a", "b"], None);
    }
}
