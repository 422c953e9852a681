//! What to do about masks that differ: a mismatch walks in, one line walks out.

use std::path::Path;

use sms_merge::connectivity::Mismatch;
use sms_merge::connectivity::Verdict;
use sms_merge::connectivity::ZeroCause;
use sms_merge::tensor::Printable;
use thiserror::Error;

use super::name;
use super::zeros;
use crate::cli::exit::quoted;
use crate::cli::exit::repeated;

/// The error of a command that takes one checkpoint and a mask, and no policy for a
/// mismatch.
#[derive(Debug, Error)]
#[error("the mask is not that of the checkpoint")]
pub(crate) struct AnotherMask(#[source] pub(crate) anyhow::Error);

/// What to do about an error that is a mismatch, in one line.
pub(crate) fn remedy_of(error: &anyhow::Error, mismatch: &Mismatch) -> String {
    match error.is::<AnotherMask>() {
        true => "leave `--mask` out, or give the mask that the checkpoint was pruned with; \
                 `sms-merge prune --from-mask` prunes it by another"
            .to_owned(),
        false => remedy(mismatch),
    }
}

/// What to do about a mismatch, in one line.
pub(crate) fn remedy(mismatch: &Mismatch) -> String {
    let of_masks = of_masks(mismatch);
    if mismatch.accidents.is_empty() {
        return of_masks;
    }
    let dense = repeated("--dense", &zeros::patterns(mismatch));
    let n_accidents = mismatch.accidents.len();
    let (which, keeps) = match n_accidents {
        1 => {
            let tensor = &mismatch.tensors[mismatch.accidents[0].tensor];
            (format!("`{}`", Printable(&tensor.name)), "its weights")
        }
        _ => ("these tensors".to_owned(), "their weights"),
    };
    let averages = format!("add `{dense}`, which takes {which} for dense and averages all {keeps}");
    if mismatch.differing().count() > n_accidents {
        return format!("{averages}; for the other tensors, {of_masks}");
    }

    // What a layer that was never trained or underflow left is no mask to prune by.
    let is = |cause: ZeroCause| {
        let mut all = mismatch.accidents.iter();
        all.any(|accident| accident.cause == cause)
    };
    if is(ZeroCause::Lone) {
        format!("{averages}; if its zeros are a mask, {of_masks}")
    } else if is(ZeroCause::Rows) || is(ZeroCause::Columns) {
        format!("{averages}; if whole rows were pruned, choose a mask with `--on-mask-mismatch`")
    } else {
        averages
    }
}

/// What to do where masks are masks.
fn of_masks(mismatch: &Mismatch) -> String {
    let path = |who: usize| {
        let path = mismatch.participants.get(who).map_or("", String::as_str);
        quoted(Path::new(path))
    };
    match &mismatch.verdict {
        Verdict::OneOdd { odd, .. } if mismatch.participants.len() > 2 => format!(
            "leave `{}` out, or choose a mask with `--on-mask-mismatch`",
            name(mismatch, *odd)
        ),
        Verdict::OneOdd { odd, .. } => format!(
            "`sms-merge prune {} --from-mask {} -o pruned.st` prunes the one as the other is, to \
             be retrained; or choose a mask with `--on-mask-mismatch`",
            path(*odd),
            path(1 - odd)
        ),
        Verdict::Drift => "add `--on-mask-mismatch union`, which retains what any ingredient \
                           retains, or another policy"
            .to_owned(),
        Verdict::Nested { .. } => "merge ingredients of one phase, or choose a mask with \
                                   `--on-mask-mismatch`"
            .to_owned(),
        Verdict::Independent => "retrain from one pruned parent, or choose a mask with \
                                 `--on-mask-mismatch`"
            .to_owned(),
    }
}
