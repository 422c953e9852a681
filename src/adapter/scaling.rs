//! Where the scale of an adapter's products is said.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;

use crate::adapter::config::CONFIG_NAME;
use crate::adapter::config::Config;
use crate::adapter::error::AdapterError;
use crate::adapter::names::Naming;
use crate::checkpoint::Checkpoint;

/// Key in the metadata of a file under which diffusers puts configurations of peft, one
/// for each part of a pipeline, as one JSON object.
pub const DIFFUSERS_KEY: &str = "lora_adapter_metadata";

/// What peft puts before names of the network's modules.
pub(super) const PEFT_PREFIX: &str = "base_model.model.";

/// Where the scale of products is said.
#[derive(Clone, Debug)]
pub enum Scaling {
    /// In `adapter_config.json`.
    Config(Box<PeftConfig>),
    /// In tensors called `alpha`; without one it is the rank, so that the scale is 1.
    Alphas,
    /// In the metadata, as diffusers does it: by the part of a pipeline. The scale of a
    /// part that is not there is 1.
    Parts(BTreeMap<String, PeftConfig>),
}

/// A configuration of peft.
#[derive(Clone, Debug)]
pub struct PeftConfig(Config);

impl PeftConfig {
    /// All of it, as JSON.
    pub fn all(&self) -> &Map<String, Value> {
        &self.0.all
    }
}

impl Scaling {
    /// Where the scale of a checkpoint with factors of this naming is said.
    pub(super) fn find(
        checkpoint: &Checkpoint,
        naming: Naming,
        has_alpha: bool,
        is_peft: bool,
    ) -> Result<Self, AdapterError> {
        if has_alpha || naming == Naming::Kohya {
            return Ok(Self::Alphas);
        }
        if let Some(text) = checkpoint.metadata().get(DIFFUSERS_KEY) {
            return parts(text, checkpoint).map(Self::Parts);
        }
        if naming == Naming::Diffusers {
            return Ok(Self::Alphas);
        }
        match Config::read(&config_path(checkpoint))? {
            Some(config) => Ok(Self::Config(Box::new(PeftConfig(config)))),
            None if is_peft => Err(AdapterError::NoConfig {
                path: checkpoint.path().to_owned(),
            }),
            // A file of diffusers without metadata: alpha is the rank.
            None => Ok(Self::Parts(BTreeMap::new())),
        }
    }

    /// The rank that is said of a module, its alpha, and what alpha is divided by;
    /// nothing where the tensors say it.
    pub(super) fn of(&self, module: &str) -> Option<(u64, f64, f64)> {
        match self {
            Self::Config(config) => {
                let name = module.strip_prefix(PEFT_PREFIX).unwrap_or(module);
                Some(config.0.scale_of(name))
            }
            Self::Alphas => None,
            Self::Parts(parts) => {
                let (part, name) = module.split_once('.')?;
                Some(parts.get(part)?.0.scale_of(name))
            }
        }
    }

    /// Whether weights are stored as `(in, out)`.
    pub(super) fn is_transposed(&self) -> bool {
        match self {
            Self::Config(config) => config.0.is_transposed,
            _ => false,
        }
    }
}

/// Where the configuration of an adapter is.
fn config_path(checkpoint: &Checkpoint) -> PathBuf {
    let beside = || {
        let parent = checkpoint.path().parent();
        parent.map(std::path::Path::to_owned).unwrap_or_default()
    };
    let directory = checkpoint.directory().map(std::path::Path::to_owned);
    directory.unwrap_or_else(beside).join(CONFIG_NAME)
}

/// The configurations of the parts of a pipeline.
fn parts(
    text: &str,
    checkpoint: &Checkpoint,
) -> Result<BTreeMap<String, PeftConfig>, AdapterError> {
    let path = checkpoint.path();
    let wrong = |reason: &str| AdapterError::Config {
        path: path.to_owned(),
        reason: format!("the metadata `{DIFFUSERS_KEY}` {reason}"),
    };
    let Ok(Value::Object(flat)) = serde_json::from_str(text) else {
        return Err(wrong("is no JSON object"));
    };
    let mut parts: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (key, value) in flat {
        let Some((part, key)) = key.split_once('.') else {
            return Err(wrong("has a key without a part of a pipeline"));
        };
        let part = parts.entry(part.to_owned()).or_default();
        part.insert(key.to_owned(), value);
    }
    let configs = parts.into_iter().map(|(part, all)| {
        let config = Config::new(all, path)?;
        Ok((part, PeftConfig(config)))
    });
    configs.collect()
}
