//! The file beside a model that holds its weights: one that no older model reads.
//!
//! A model and the file beside it cannot take their names in one step. So the file gets a
//! name that the model it replaces does not know, and has it first: whoever is killed in
//! between leaves the old model with its old weights. Once the new model is in place, the
//! old weights go.

use std::fs;
use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::OutputError;
use crate::format::replace::Existing;
use crate::format::replace::ReplaceError;
use crate::format::replace::StagedFile;
use crate::format::replace::Target;

/// Names that are tried: two are enough, one for the old model and one for the new, and
/// more where something else took one.
const MOST_NAMES: usize = 9;

/// A place for the weights of a model.
#[derive(Clone, Debug)]
pub struct DataTarget {
    target: Target,
    name: String,
    model: PathBuf,
    /// Files of older models of this name.
    stale: Vec<PathBuf>,
}

impl DataTarget {
    /// A place beside `model`: `NAME.data`, or `NAME.2.data` and so on where there is a
    /// model that may read that one.
    ///
    /// # Errors
    /// [`OutputError::ModelName`] if the model's name is no text, and
    /// [`OutputError::Replace`] if there is no such place.
    pub fn beside(model: &Target, existing: Existing) -> Result<Self, OutputError> {
        let name = model.path().file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| OutputError::ModelName {
            path: model.path().to_owned(),
        })?;
        let names = (1..=MOST_NAMES).map(|number| match number {
            1 => format!("{name}.data"),
            number => format!("{name}.{number}.data"),
        });
        let names: Vec<String> = names.collect();
        let path = |name: &String| model.path().with_file_name(name);
        let found = names
            .iter()
            .map(|name| look(&path(name)))
            .collect::<Result<Vec<_>, _>>()?;
        // Without an older model, what has the first name is read by none.
        let free = match model.existing() {
            None => Some(0),
            Some(_) => found.iter().position(Option::is_none),
        };
        let Some(free) = free else {
            let path = path(&names[0]);
            return Err(ReplaceError::Exists { path }.into());
        };
        let own = &names[free];
        let others = names.iter().zip(&found).filter(|(name, _)| *name != own);
        let files = others.filter(|(_, found)| found.as_ref().is_some_and(Metadata::is_file));
        let stale = match existing {
            Existing::Replace => files.map(|(name, _)| path(name)).collect(),
            Existing::Refuse => Vec::new(),
        };
        Ok(Self {
            target: Target::for_file(&path(own), existing)?,
            name: own.clone(),
            model: model.path().to_owned(),
            stale,
        })
    }

    /// The place.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What the model calls the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of the file, and those of the files that go once the model is in place:
    /// none of them may be an input.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let stale = self.stale.iter().map(PathBuf::as_path);
        [self.target.path()].into_iter().chain(stale)
    }

    /// Removes the weights of older models, once the new one is in place.
    ///
    /// # Errors
    /// [`ReplaceError::Leftover`].
    fn remove_stale(&self) -> Result<(), ReplaceError> {
        for leftover in &self.stale {
            match fs::remove_file(leftover) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(ReplaceError::Leftover {
                        path: self.model.clone(),
                        leftover: leftover.clone(),
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a path names, links not followed; `None` if nothing does.
fn look(path: &Path) -> Result<Option<Metadata>, ReplaceError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReplaceError::Resolve {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Gives a model its name after the file beside it, if it has one, and removes the weights
/// of the older model. A failure leaves nothing.
///
/// # Errors
/// [`ReplaceError`]; the new model is in place if it [says so](ReplaceError::is_in_place).
pub(crate) fn publish_model(
    model: StagedFile,
    data: Option<(&DataTarget, StagedFile)>,
) -> Result<(), ReplaceError> {
    let Some((data, staged)) = data else {
        return model.publish();
    };
    staged.publish()?;
    match model.publish() {
        Err(error) if !error.is_in_place() => {
            // No model names it.
            let _ = fs::remove_file(data.target.path());
            Err(error)
        }
        done => {
            data.remove_stale()?;
            done
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_model_keeps_its_weights_until_the_new_one_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let data = |existing| {
            let model = Target::for_file(&at("m.onnx"), existing)?;
            DataTarget::beside(&model, existing)
        };
        let first = data(Existing::Refuse).unwrap();
        assert_eq!(first.name(), "m.onnx.data");
        fs::write(at("m.onnx.data"), "").unwrap();
        assert!(data(Existing::Refuse).is_err());
        assert_eq!(data(Existing::Replace).unwrap().name(), "m.onnx.data");

        // The two names change places.
        fs::write(at("m.onnx"), "").unwrap();
        let second = data(Existing::Replace).unwrap();
        assert_eq!(second.name(), "m.onnx.2.data");
        assert_eq!(second.paths().nth(1), Some(at("m.onnx.data").as_path()));
        fs::write(at("m.onnx.2.data"), "").unwrap();
        second.remove_stale().unwrap();
        second.remove_stale().unwrap();
        let third = data(Existing::Replace).unwrap();
        assert_eq!(third.name(), "m.onnx.data");
        third.remove_stale().unwrap();
        assert!(!at("m.onnx.2.data").exists());

        for number in 2..=MOST_NAMES {
            fs::create_dir(at(&format!("m.onnx.{number}.data"))).unwrap();
        }
        fs::write(at("m.onnx.data"), "").unwrap();
        assert!(data(Existing::Replace).is_err());
    }
}
