//! What to do about averaged statistics of batch norm: a checkpoint walks in, a sentence
//! with a command that works as it stands walks out.

use std::path::Path;
#[cfg(feature = "train")]
use std::path::PathBuf;

use sms_merge::checkpoint::Ingredients;

#[cfg(feature = "train")]
use crate::cli::exit::quoted;
use crate::cli::text::shown;

/// Names that are tried for an output before the last is taken as it is.
#[cfg(feature = "train")]
const MOST_NAMES: usize = 100;

/// What to do with the soup at `output` before it is used. `dropped` are the keys of
/// metadata that it does not have because its ingredients differ in them.
pub(crate) fn after_merge(ingredients: &Ingredients, dropped: &[String], output: &Path) -> String {
    let is_onnx = output.extension().is_some_and(|end| end == "onnx");
    if is_onnx {
        return "average the checkpoints that the models were exported from, estimate the \
                statistics of their soup on training data, and export that: in an ONNX model they \
                cannot be estimated again"
            .to_owned();
    }

    #[cfg(feature = "train")]
    if let Some(card) = card_of_soup(ingredients, dropped) {
        let (words, condition) = data_words(&card);
        return format!(
            "estimate them again on training data before the soup is used, by `{}`{condition}",
            recalibrate_command(output, &words)
        );
    }
    #[cfg(not(feature = "train"))]
    let _ = (ingredients, dropped);
    format!(
        "estimate them again on training data before the soup is used: in PyTorch, load `{}` into \
         the model and call `torch.optim.swa_utils.update_bn(loader, model)`, whose `loader` gives \
         the training data",
        shown(output)
    )
}

/// What the soup says of itself, if all ingredients say the same.
#[cfg(feature = "train")]
fn card_of_soup(
    ingredients: &Ingredients,
    dropped: &[String],
) -> Option<sms_merge::train::card::Card> {
    use sms_merge::train::card::CARD_KEY;
    use sms_merge::train::card::Card;

    let mut checkpoints = ingredients.checkpoints().iter();
    let all_say = checkpoints.all(|checkpoint| checkpoint.metadata().contains_key(CARD_KEY));
    if !all_say || dropped.iter().any(|key| key == CARD_KEY) {
        return None;
    }
    let first = ingredients.checkpoints().first()?;
    Card::of(&first.metadata()).ok().flatten()
}

/// What a command must say of the images of a card, and what may be needed besides.
#[cfg(feature = "train")]
fn data_words(card: &sms_merge::train::card::Card) -> (Vec<String>, String) {
    use sms_merge::train::data::Known;

    let name = card.data.name.as_str();
    match Known::from_name(name) {
        Some(Known::Digits) => (Vec::new(), String::new()),
        Some(_) => {
            let condition = format!(
                " (with `--data-dir DIRECTORY` where `{name}` is in no place that is known)"
            );
            (Vec::new(), condition)
        }
        None => {
            let path = Path::new(name);
            let condition = match path.exists() {
                true => String::new(),
                false => " (`--data` names the place where these images are now)".to_owned(),
            };
            (vec!["--data".to_owned(), quoted(path)], condition)
        }
    }
}

/// The command that recalibrates `checkpoint` into a file that is not there yet. `words`
/// are options as a shell takes them.
#[cfg(feature = "train")]
pub(crate) fn recalibrate_command(checkpoint: &Path, words: &[String]) -> String {
    let output = free_name(checkpoint);
    let mut command = format!(
        "sms-merge recalibrate {} -o {}",
        quoted(checkpoint),
        quoted(&output)
    );
    for word in words {
        command.push(' ');
        command.push_str(word);
    }
    command
}

/// A name beside the checkpoint that nothing has yet.
#[cfg(feature = "train")]
fn free_name(checkpoint: &Path) -> PathBuf {
    let is_safetensors = |end: &&str| ["st", "safetensors"].contains(end);
    let extension = checkpoint.extension().and_then(|end| end.to_str());
    let end = extension.filter(is_safetensors);
    let stem = match end {
        Some(_) => checkpoint.file_stem(),
        None => checkpoint.file_name(),
    };
    let stem = stem.map_or_else(|| "soup".into(), |stem| stem.to_string_lossy());
    let named = |suffix: &str| {
        let end = end.unwrap_or("safetensors");
        checkpoint.with_file_name(format!("{stem}-recalibrated{suffix}.{end}"))
    };
    let numbered = (2..MOST_NAMES).map(|number| format!("-{number}"));
    let mut suffixes = std::iter::once(String::new()).chain(numbered);
    let free = suffixes.find(|suffix| !named(suffix).exists());
    named(&free.unwrap_or_default())
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn outputs_of_a_command_are_not_there_yet() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let check = |name: &str, expected: &str| {
            assert_eq!(free_name(&at(name)), at(expected), "{name}");
        };
        check("soup.st", "soup-recalibrated.st");
        check("a.b.safetensors", "a.b-recalibrated.safetensors");
        check("soup", "soup-recalibrated.safetensors");
        check("v1.5", "v1.5-recalibrated.safetensors");
        fs::write(at("soup-recalibrated.st"), "").unwrap();
        check("soup.st", "soup-recalibrated-2.st");
        let spaced = recalibrate_command(Path::new("my soup.st"), &["--data x".to_owned()]);
        let expected = "sms-merge recalibrate 'my soup.st' -o 'my soup-recalibrated.st' --data x";
        assert_eq!(spaced, expected);
    }
}
