//! What artefacts are called in `named/`: a plan and its receipts walk in, links walk out.

use std::collections::BTreeMap;

use crate::cycle::plan::Plan;
use crate::cycle::store::Artefact;
use crate::cycle::store::Receipt;
use crate::cycle::store::RunDirectory;
use crate::cycle::store::StoreError;

/// Ending of a checkpoint's name.
const CHECKPOINT: &str = ".safetensors";

/// A place in `named/`: directories, and the name of a step there.
type Place = (Vec<String>, String);

/// Gives each artefact that is there its names, such as
/// `named/seed-1/phase-2/ingredient-3.safetensors`, and takes away names of those that are
/// not there any more.
///
/// # Errors
/// [`StoreError::System`] of the first name that cannot be given; others are given still.
pub fn name_artefacts(
    run: &RunDirectory,
    plan: &Plan,
    receipts: &[Option<&Receipt>],
) -> Result<(), StoreError> {
    let mut first = Ok(());
    for ((parts, name), step) in places(plan) {
        let Some(receipt) = receipts.get(step).copied().flatten() else {
            continue;
        };
        for (output, artefact) in &receipt.outputs {
            let file = file_name(&name, output, artefact);
            let is_there = run.path_of(artefact).symlink_metadata().is_ok();
            let named = run.name(&parts, &file, is_there.then_some(artefact));
            first = first.and(named);
        }
    }
    first
}

/// The step of each place. A baseline that shares the step of an ingredient has a place of
/// its own.
fn places(plan: &Plan) -> BTreeMap<Place, usize> {
    let steps = plan.steps.iter().enumerate();
    let mut places: BTreeMap<Place, usize> = steps
        .map(|(step, found)| (place(&found.label), step))
        .collect();
    for study in &plan.studies {
        for phase in &study.phases {
            // The ensemble is measured by the soup's step and leaves nothing.
            let baselines = phase
                .baselines
                .iter()
                .filter(|(_, step)| **step != phase.soup);
            for (name, &step) in baselines {
                let parts = vec![
                    format!("seed-{}", study.seed),
                    format!("phase-{}", phase.phase),
                ];
                places.entry((parts, (*name).to_owned())).or_insert(step);
            }
        }
    }
    places
}

/// `seed 0, phase 2, IMP m times, prune` is `seed-0/phase-2` and `imp-m-times-prune`.
fn place(label: &str) -> Place {
    let mut parts: Vec<String> = label.split(", ").map(word).collect();
    let is_directory = |part: &String| part.starts_with("seed-") || part.starts_with("phase-");
    let count = parts.iter().take_while(|part| is_directory(part)).count();
    let name = parts.split_off(count).join("-");
    (parts, name)
}

/// Letters, digits and hyphens.
fn word(text: &str) -> String {
    let sign = |sign: char| match sign.is_ascii_alphanumeric() {
        true => sign.to_ascii_lowercase(),
        false => '-',
    };
    text.chars().map(sign).collect()
}

/// `soup.safetensors` of a checkpoint; of anything else `prune-mask.safetensors`, after the
/// ending of the artefact.
fn file_name(name: &str, output: &str, artefact: &Artefact) -> String {
    let ending = match artefact.file.rsplit_once('.') {
        Some((_, "st")) => CHECKPOINT.to_owned(),
        Some((_, ending)) if ending != output => format!(".{}", word(ending)),
        _ => String::new(),
    };
    match output {
        "checkpoint" => format!("{name}{ending}"),
        _ => format!("{name}-{}{ending}", word(output)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Digester;

    #[test]
    fn labels_become_places() {
        let check = |label: &str, directories: &str, name: &str| {
            let (parts, found) = place(label);
            assert_eq!(
                (parts.join("/").as_str(), found.as_str()),
                (directories, name)
            );
        };
        check("seed 0, pretraining", "seed-0", "pretraining");
        check(
            "seed 12, phase 2, ingredient 3",
            "seed-12/phase-2",
            "ingredient-3",
        );
        check(
            "seed 0, phase 1, IMP m times, prune",
            "seed-0/phase-1",
            "imp-m-times-prune",
        );
        check("seed 0, phase 1, ../x", "seed-0/phase-1", "---x");
    }

    #[test]
    fn files_are_called_by_what_they_hold() {
        let check = |output: &str, file: &str, expected: &str| {
            let artefact = Artefact {
                file: file.to_owned(),
                digest: Digester::new().finish(),
                bytes: 0,
            };
            assert_eq!(file_name("prune", output, &artefact), expected);
        };
        check("checkpoint", "0a-1.checkpoint.st", "prune.safetensors");
        check("mask", "0a-1.mask.st", "prune-mask.safetensors");
        check("log", "0a-1.log.json", "prune-log.json");
        check("mask", "0a-1.mask", "prune-mask");
    }
}
