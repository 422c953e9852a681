//! Sections about who trains, how jobs are run and what is left of them.

use serde::Deserialize;
use serde::Serialize;

/// The user's own trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trainer {
    /// The command; `{placeholders}` stand for what `job.json` says.
    pub command: String,
    /// Seconds after which a job is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<u64>,
    /// Seconds without output after which a job is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_secs: Option<u64>,
    /// What happens if a job revived pruned weights.
    #[serde(default)]
    pub on_unmasked: OnUnmasked,
    /// Passed on as it is.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub parameters: toml::Table,
}

/// What happens if a job revived pruned weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnmasked {
    /// The run stops.
    #[default]
    Error,
    /// They are pruned again, with a warning.
    Remask,
}

/// How jobs are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Jobs at a time; where it is open, one per core, or one per GPU if those compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<usize>,
    /// Times that a failed job is tried again.
    pub retries: u32,
    /// Seconds before the first of these, doubled for each further one.
    pub backoff_secs: f64,
    /// Devices that jobs are given in turn, as values of `CUDA_VISIBLE_DEVICES`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Memory that a job takes; no further job begins where less is available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What stays on disk.
    pub keep: Keep,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            jobs: None,
            retries: 1,
            backoff_secs: 1.0,
            devices: Vec::new(),
            memory_bytes: None,
            keep: Keep::default(),
        }
    }
}

/// What stays on disk once it is not needed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Soups, dense networks and masks.
    Soups,
    /// Everything.
    #[default]
    All,
}
