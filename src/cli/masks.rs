//! Masks as people and programs see them: what was found of each tensor walks in,
//! tables and objects walk out.

mod remedy;
mod zeros;

use std::sync::Arc;

use serde::Serialize;
use sms_merge::connectivity::Mismatch;
use sms_merge::connectivity::MismatchPolicy;
use sms_merge::connectivity::Pattern;
use sms_merge::connectivity::TensorMask;
use sms_merge::connectivity::Verdict;
use sms_merge::tensor::Digest;
use sms_merge::tensor::Printable;

use crate::cli::table::table_for;
use crate::cli::terminal::Stream;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::percent;
use crate::cli::text::plural;
use crate::cli::text::table;

use zeros::ZerosObject;

pub(crate) use remedy::AnotherMask;
pub(crate) use remedy::remedy;
pub(crate) use remedy::remedy_of;

/// Pairs and tensors of a mismatch that are shown; JSON has all.
const MOST_SHOWN: usize = 8;

/// One tensor's mask, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct MaskObject {
    name: String,
    shape: Vec<u64>,
    is_pruned: bool,
    numel: u64,
    retained: u64,
    pub(crate) sparsity: f64,
    pattern: Option<Pattern>,
    broken_pattern: Option<Pattern>,
    retained_by: Vec<u64>,
    disagreements: u64,
    first_difference: Option<Vec<u64>>,
    is_tolerated: bool,
    digest: Option<Digest>,
}

impl MaskObject {
    /// What was found of `tensor`.
    pub(crate) fn new(tensor: &TensorMask) -> Self {
        Self {
            name: tensor.name.clone(),
            shape: tensor.shape.dims().to_vec(),
            is_pruned: tensor.is_pruned,
            numel: tensor.shape.numel(),
            retained: tensor.retained,
            sparsity: tensor.sparsity(),
            pattern: tensor.pattern,
            broken_pattern: tensor.broken_pattern,
            retained_by: tensor.retained_by.to_vec(),
            disagreements: tensor.disagreements,
            first_difference: tensor
                .first_difference
                .map(|index| tensor.shape.coordinate(index)),
            is_tolerated: tensor.is_tolerated,
            digest: tensor.is_pruned.then_some(tensor.digest),
        }
    }
}

/// All masks together, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct TotalObject {
    /// Digest of all masks.
    pub(crate) digest: Option<Digest>,
    numel: u64,
    retained: u64,
    pub(crate) sparsity: f64,
}

impl TotalObject {
    /// The sum over those of `tensors` that are pruned.
    pub(crate) fn new(tensors: &[Arc<TensorMask>], digest: Option<Digest>) -> Self {
        let pruned = tensors.iter().filter(|tensor| tensor.is_pruned);
        let (numel, retained) = pruned.fold((0, 0), |(numel, retained), tensor| {
            (numel + tensor.shape.numel(), retained + tensor.retained)
        });
        let sparsity = if numel == 0 {
            0.0
        } else {
            1.0 - retained as f64 / numel as f64
        };
        Self {
            digest,
            numel,
            retained,
            sparsity,
        }
    }

    /// One sentence about the masks of `n_pruned` tensors.
    pub(crate) fn sentence(&self, n_pruned: usize) -> String {
        if n_pruned == 0 {
            return "no tensor is pruned".to_owned();
        }
        format!(
            "{} pruned, sparsity {}: {} of {} weights retained",
            plural(n_pruned as u64, "tensor"),
            percent(self.sparsity),
            count(self.retained),
            count(self.numel),
        )
    }
}

/// A mismatch, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct MismatchObject {
    verdict: &'static str,
    sentence: String,
    odd: Option<usize>,
    order: Option<Vec<usize>>,
    participants: Vec<String>,
    pairs: Vec<PairObject>,
    tensors: Vec<MaskObject>,
    zeros: Vec<ZerosObject>,
    dense: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PairObject {
    first: usize,
    second: usize,
    iou: f64,
    shared: u64,
    only_first: u64,
    only_second: u64,
}

impl MismatchObject {
    /// What is known of `mismatch`.
    pub(crate) fn new(mismatch: &Mismatch) -> Self {
        let (odd, order) = match &mismatch.verdict {
            Verdict::OneOdd { odd, .. } => (Some(*odd), None),
            Verdict::Nested { order } => (None, Some(order.clone())),
            Verdict::Drift | Verdict::Independent => (None, None),
        };
        let pairs = mismatch.pairwise.pairs();
        Self {
            verdict: match &mismatch.verdict {
                Verdict::OneOdd { is_dense: true, .. } => "one-unpruned",
                Verdict::OneOdd { .. } => "one-odd",
                Verdict::Drift => "drift",
                Verdict::Nested { .. } => "nested",
                Verdict::Independent => "independent",
            },
            sentence: zeros::sentence(mismatch).unwrap_or_else(|| sentence(mismatch)),
            odd,
            order,
            participants: mismatch.participants.clone(),
            pairs: pairs
                .map(|(first, second, agreement)| PairObject {
                    first,
                    second,
                    iou: agreement.iou(),
                    shared: agreement.shared,
                    only_first: agreement.only_first,
                    only_second: agreement.only_second,
                })
                .collect(),
            tensors: mismatch.differing().map(MaskObject::new).collect(),
            zeros: zeros::objects(mismatch),
            dense: zeros::patterns(mismatch),
        }
    }
}

/// A participant, to show.
pub(super) fn name(mismatch: &Mismatch, who: usize) -> String {
    let name = mismatch.participants.get(who);
    name.map_or("?".to_owned(), |name| Clean(name).to_string())
}

/// The verdict in one sentence.
fn sentence(mismatch: &Mismatch) -> String {
    let name = |who: usize| name(mismatch, who);
    match &mismatch.verdict {
        Verdict::OneOdd {
            odd,
            is_dense: true,
        } => format!("`{}` is not pruned where the others are", name(*odd)),
        Verdict::OneOdd { odd, .. } => {
            format!("`{}` is the odd one: all others share one mask", name(*odd))
        }
        Verdict::Drift => "the masks agree nearly everywhere and drifted apart in places: \
                           weights became zero, or pruned ones came back"
            .to_owned(),
        Verdict::Nested { order } => {
            let names: Vec<String> = order
                .iter()
                .map(|&who| format!("`{}` ({:.1} % pruned)", name(who), sparsity(mismatch, who)))
                .collect();
            format!(
                "the masks contain one another, as phases of one run at several sparsities \
                 do; the densest first: {}",
                names.join(", ")
            )
        }
        Verdict::Independent => "the masks were chosen independently: the ingredients do not \
                                 come from one pruned parent"
            .to_owned(),
    }
}

/// Per cent that a participant prunes of the tensors that any prunes.
fn sparsity(mismatch: &Mismatch, who: usize) -> f64 {
    let pruned = mismatch.tensors.iter().filter(|tensor| tensor.is_pruned);
    let (numel, retained) = pruned.fold((0, 0), |(numel, retained), tensor| {
        (
            numel + tensor.shape.numel(),
            retained + tensor.retained_by[who],
        )
    });
    100.0 * (1.0 - retained as f64 / numel.max(1) as f64)
}

/// The policies that make a mask of masks that differ.
pub(crate) fn policies() -> String {
    MismatchPolicy::REMEDIES
        .iter()
        .map(|(policy, effect)| format!("  --on-mask-mismatch {:<10} {effect}\n", policy.name()))
        .collect()
}

/// What differs, for people.
pub(crate) fn mismatch_text(mismatch: &Mismatch) -> String {
    let mut pairs: Vec<_> = mismatch.pairwise.pairs().collect();
    pairs.sort_by(|a, b| a.2.iou().total_cmp(&b.2.iou()));
    let pair_rows: Vec<Vec<String>> = pairs
        .iter()
        .take(MOST_SHOWN)
        .map(|&(first, second, agreement)| {
            vec![
                name(mismatch, first),
                name(mismatch, second),
                format!("{:.4}", agreement.iou()),
                count(agreement.only_first),
                count(agreement.only_second),
            ]
        })
        .collect();
    let mut tensors: Vec<&TensorMask> = mismatch.differing().collect();
    tensors.sort_by(|a, b| share(b).total_cmp(&share(a)));
    let tensor_rows: Vec<Vec<String>> = tensors
        .iter()
        .take(MOST_SHOWN)
        .map(|tensor| {
            let first = tensor.first_difference.unwrap_or_default();
            let least = tensor
                .pairwise
                .as_ref()
                .and_then(|pairwise| pairwise.least());
            let pattern = tensor.broken_pattern.map(|pattern| pattern.to_string());
            vec![
                Printable(&tensor.name).to_string(),
                count(tensor.shape.numel()),
                count(tensor.disagreements),
                least.map_or(String::new(), |(.., agreement)| {
                    format!("{:.4}", agreement.iou())
                }),
                format!("{:?}", tensor.shape.coordinate(first)),
                pattern.unwrap_or_default(),
            ]
        })
        .collect();
    let n_differing = tensors.len();
    let n_pruned = mismatch
        .tensors
        .iter()
        .filter(|tensor| tensor.is_pruned)
        .count();
    let mut text = format!(
        "masks differ in {n_differing} of {}: {}\n\n",
        plural(n_pruned as u64, "pruned tensor"),
        zeros::sentence(mismatch).unwrap_or_else(|| sentence(mismatch))
    );
    let pair_columns = [
        ("first", Column::Name),
        ("second", Column::Name),
        ("IoU", Column::Number),
        ("only in first", Column::Number),
        ("only in second", Column::Number),
    ];
    text.push_str(&table(&pair_columns, &pair_rows));
    text.push_str(&and_more(pairs.len(), "pair"));
    text.push('\n');
    let tensor_columns = [
        ("tensor", Column::Name),
        ("numel", Column::Number),
        ("differ", Column::Number),
        ("least IoU", Column::Number),
        ("first at", Column::Name),
        ("broken n:m", Column::Name),
    ];
    text.push_str(&table(&tensor_columns, &tensor_rows));
    text.push_str(&and_more(n_differing, "tensor"));
    text
}

fn and_more(found: usize, noun: &str) -> String {
    match found.checked_sub(MOST_SHOWN) {
        Some(more) if more > 0 => format!("and {}\n", plural(more as u64, &format!("more {noun}"))),
        _ => String::new(),
    }
}

/// Disagreements as a part of what any ingredient retains.
fn share(tensor: &TensorMask) -> f64 {
    let most = tensor.retained_by.iter().copied().max().unwrap_or(0).max(1);
    tensor.disagreements as f64 / most as f64
}

/// What was found of each of `tensors`, for people. Dense ones are left out unless
/// `show_dense`. Fits `stream`.
pub(crate) fn masks_text(stream: Stream, tensors: &[Arc<TensorMask>], show_dense: bool) -> String {
    let shown = tensors
        .iter()
        .filter(|tensor| tensor.is_pruned || show_dense);
    let rows: Vec<Vec<String>> = shown
        .map(|tensor| {
            let pattern = tensor.pattern.map(|pattern| pattern.to_string());
            let differ = match tensor.is_pruned {
                true => tensor.disagreements,
                false => 0,
            };
            vec![
                Printable(&tensor.name).to_string(),
                tensor.shape.to_string(),
                count(tensor.shape.numel()),
                count(tensor.retained),
                match tensor.is_pruned {
                    true => percent(tensor.sparsity()),
                    false => "dense".to_owned(),
                },
                pattern.unwrap_or_default(),
                match differ {
                    0 => String::new(),
                    differ if tensor.is_tolerated => format!("{} accidental", count(differ)),
                    differ => count(differ),
                },
            ]
        })
        .collect();
    let columns = [
        ("tensor", Column::Name),
        ("shape", Column::Name),
        ("numel", Column::Number),
        ("retained", Column::Number),
        ("sparsity", Column::Number),
        ("n:m", Column::Name),
        ("differ", Column::Number),
    ];
    table_for(stream, &columns, &rows)
}
