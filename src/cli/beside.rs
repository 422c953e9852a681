//! What is said of the files beside a checkpoint: which go along, which do not and why,
//! and what became of `config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sms_merge::checkpoint::LeftReason;
use sms_merge::checkpoint::Sidecars;
use sms_merge::format::compact::CompactKind;
use sms_merge::merge::MergePlan;
use sms_merge::merge::PlannedTensor;
use sms_merge::tensor::Printable;

use crate::cli::text::shown;

/// Names of one kind that are shown; JSON has all.
const MOST_SHOWN: usize = 12;

/// What `--json` prints of a file that stays behind.
#[derive(Serialize)]
pub(crate) struct LeftObject<'a> {
    name: &'a str,
    reason: String,
}

/// What stays behind, for programs.
pub(crate) fn left_objects(sidecars: &Sidecars) -> Vec<LeftObject<'_>> {
    let left = sidecars.left.iter();
    left.map(|(name, reason)| LeftObject {
        name,
        reason: reason.to_string(),
    })
    .collect()
}

/// Which files were copied, in one line.
pub(crate) fn copied(sidecars: &Sidecars) -> Option<String> {
    let names: Vec<&str> = sidecars.copied.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| format!("copied from the first ingredient: {}", list(&names)))
}

/// What people are told beyond that.
pub(crate) fn lines(sidecars: &Sidecars, output: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let changed = &sidecars.config.changed;
    if !changed.is_empty() {
        let config = output.join("config.json");
        lines.push(format!("in `{}`, {}", shown(&config), changed.join("; ")));
    }
    lines.extend(sidecars.config.open.iter().cloned());
    let mut by_reason: BTreeMap<&LeftReason, Vec<&str>> = BTreeMap::new();
    for (name, reason) in &sidecars.left {
        by_reason.entry(reason).or_default().push(name);
    }
    let groups: Vec<String> = by_reason
        .into_iter()
        .map(|(reason, names)| format!("{} ({reason})", list(&names)))
        .collect();
    if !groups.is_empty() {
        lines.push(format!("not copied: {}", groups.join("; ")));
    }
    lines
}

/// What is said of weights in the layout that no other program reads, where a
/// configuration lets others try.
pub(crate) fn unread(plan: &MergePlan, sidecars: &Sidecars, output: &Path) -> Option<String> {
    let is_own = |tensor: &PlannedTensor| {
        let compact = tensor.compact.as_ref();
        compact.is_some_and(|compact| compact.kind == CompactKind::Bitmask)
    };
    let has_config = sidecars.copied.iter().any(|name| name == "config.json");
    (has_config && plan.tensors.iter().any(is_own)).then(|| {
        format!(
            "no other library reads the layout `bitmask`: `sms-merge export {} --layout dense -o \
             DIRECTORY` writes one that it reads",
            shown(output)
        )
    })
}

fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(MOST_SHOWN)
        .map(|name| Printable(name).to_string())
        .collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
