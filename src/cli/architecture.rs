//! From a name or a file to a graph.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use sms_merge::format::regular;
use sms_merge::graph::Description;
use sms_merge::graph::DescriptionError;
use sms_merge::graph::Features;
use sms_merge::graph::Graph;
use sms_merge::graph::Syntax;
use sms_merge::graph::models;
use sms_merge::graph::models::ModelSpec;
use thiserror::Error;

use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;

/// Largest description that is read; that of ResNet-56 takes 16 kB.
const MOST_BYTES: u64 = 16 << 20;

/// Classes of a model where nothing else is said.
const CLASSES: usize = 10;

/// A file gives no graph.
#[derive(Debug, Error)]
pub(crate) enum ArchitectureError {
    /// It cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no text, or far too long.
    #[error("`{}` is no description of a model; expected UTF-8 text of at most 16 MiB", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Its text describes no model.
    #[error("`{}` describes no model", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: DescriptionError,
    },
}

impl ArchitectureError {
    /// The status that a run ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Read { .. } => Exit::Io,
            Self::NotText { .. } | Self::Description { .. } => Exit::Usage,
        }
    }
}

/// The graph of `model`, which is the name of a model that ships with the program, or
/// the path of a description. What is `None` is the model's or the file's choice.
pub(crate) fn graph(
    model: &OsStr,
    input: Option<Features>,
    classes: Option<usize>,
    options: &[(String, String)],
) -> anyhow::Result<Graph> {
    let path = Path::new(model);
    let syntax = syntax(path);
    if let Some(syntax) = syntax {
        if let Some((name, _)) = options.first() {
            return Err(UsageError {
                message: format!("`--option {name}` is for models that ship with the program"),
                next: Some("change the file instead".to_owned()),
            }
            .into());
        }
        return Ok(described(path, syntax, input, classes)?);
    }
    let name = model.to_string_lossy();
    let Some(known) = models::find(&name) else {
        let hint = path.exists().then_some(());
        let spec = ModelSpec::new(&name, Features::vector(1), CLASSES);
        return match (models::build(&spec), hint) {
            (Err(_), Some(())) => Err(UsageError {
                message: format!("`{name}` is no model, and a file must end in .toml or .json"),
                next: Some("sms-merge model --list".to_owned()),
            }
            .into()),
            (result, _) => Ok(result?),
        };
    };
    let mut spec = ModelSpec::new(
        known.name,
        input.unwrap_or(known.input),
        classes.unwrap_or(CLASSES),
    );
    let mut given = BTreeMap::new();
    for (name, value) in options {
        if given.insert(name.clone(), value.clone()).is_some() {
            return Err(UsageError {
                message: format!("`--option {name}` is given twice"),
                next: None,
            }
            .into());
        }
    }
    spec.options = given;
    Ok(models::build(&spec)?)
}

/// How a file describes a network, by its extension; `None` for a name.
pub(crate) fn syntax(path: &Path) -> Option<Syntax> {
    match path.extension()?.to_str()? {
        "toml" => Some(Syntax::Toml),
        "json" => Some(Syntax::Json),
        _ => None,
    }
}

/// The graph that a file describes. What is `None` is the file's choice.
pub(crate) fn described(
    path: &Path,
    syntax: Syntax,
    input: Option<Features>,
    classes: Option<usize>,
) -> Result<Graph, ArchitectureError> {
    let text = regular::read_text(path, MOST_BYTES).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge => ArchitectureError::NotText {
            path: path.to_owned(),
        },
        _ => ArchitectureError::Read {
            path: path.to_owned(),
            source,
        },
    })?;
    Description::parse(&text, syntax)
        .and_then(|description| description.build(input, classes))
        .map_err(|source| ArchitectureError::Description {
            path: path.to_owned(),
            source,
        })
}
