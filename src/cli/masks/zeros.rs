//! Zeros that may be no mask: what was found of them walks in, a sentence, objects and the
//! options that take them for weights walk out.

use serde::Serialize;
use sms_merge::connectivity::Accident;
use sms_merge::connectivity::Mismatch;
use sms_merge::connectivity::ZeroCause;
use sms_merge::tensor::Printable;
use sms_merge::tensor::cover;

use super::name;
use crate::cli::text::plural;

/// A tensor whose zeros may be no mask, for programs.
#[derive(Debug, Serialize)]
pub(super) struct ZerosObject {
    tensor: String,
    cause: &'static str,
    zero_in: Vec<usize>,
}

/// All tensors whose zeros may be no mask.
pub(super) fn objects(mismatch: &Mismatch) -> Vec<ZerosObject> {
    let object = |accident: &Accident| ZerosObject {
        tensor: mismatch.tensors[accident.tensor].name.clone(),
        cause: match accident.cause {
            ZeroCause::Whole => "whole-tensor",
            ZeroCause::Rows => "rows",
            ZeroCause::Columns => "columns",
            ZeroCause::Underflow => "underflow",
            ZeroCause::Lone => "lone",
        },
        zero_in: accident.zero_in.clone(),
    };
    mismatch.accidents.iter().map(object).collect()
}

/// Patterns for `--dense` that match these tensors, and no other that is pruned.
pub(super) fn patterns(mismatch: &Mismatch) -> Vec<String> {
    let is_accident = |index: usize| {
        let mut accidents = mismatch.accidents.iter();
        accidents.any(|accident| accident.tensor == index)
    };
    let mut wanted = Vec::new();
    let mut others = Vec::new();
    for (index, tensor) in mismatch.tensors.iter().enumerate() {
        match is_accident(index) {
            true => wanted.push(tensor.name.as_str()),
            false if tensor.is_pruned => others.push(tensor.name.as_str()),
            false => {}
        }
    }
    cover(&wanted, &others)
}

/// Whether all tensors that differ do so in zeros that are no mask by the look of them.
pub(super) fn are_all(mismatch: &Mismatch) -> bool {
    let accidents = &mismatch.accidents;
    let is_plain = |accident: &Accident| accident.cause != ZeroCause::Lone;
    accidents.len() == mismatch.differing().count() && accidents.iter().all(is_plain)
}

/// What the zeros look like, in one sentence, if that says all about the mismatch.
pub(super) fn sentence(mismatch: &Mismatch) -> Option<String> {
    let first = mismatch.accidents.first().filter(|_| are_all(mismatch))?;
    let tensor = Printable(&mismatch.tensors[first.tensor].name);
    let names: Vec<String> = first
        .zero_in
        .iter()
        .map(|&who| format!("`{}`", name(mismatch, who)))
        .collect();
    let place = match names.len() {
        1..=3 => names.join(", "),
        many => plural(many as u64, "ingredient"),
    };
    let looks = match first.cause {
        ZeroCause::Whole => format!("`{tensor}` is zero as a whole in {place}"),
        ZeroCause::Rows => format!("whole rows of `{tensor}` are zero in {place}"),
        ZeroCause::Columns => format!("whole columns of `{tensor}` are zero in {place}"),
        ZeroCause::Underflow | ZeroCause::Lone => format!(
            "where only some ingredients have a zero in `{tensor}`, the others have numbers \
             below 1e-6, as after a conversion to F16"
        ),
    };
    let more = match mismatch.accidents.len() - 1 {
        0 => String::new(),
        more => format!(" (and {} of the kind)", plural(more as u64, "more tensor")),
    };
    Some(format!("these zeros may be no mask: {looks}{more}"))
}
