//! Options that say where a merge computes.

use std::str::FromStr;

use clap::Args;
use sms_merge::tensor::DeviceName;
use sms_merge::tensor::DeviceNameError;

use super::parse_size;

/// Where it computes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device")]
pub(crate) struct DeviceArguments {
    /// Where it computes: cpu, cuda, cuda:N, cuda:N,cuda:M, or auto; changes no bit of the result
    ///
    /// A GPU needs NVIDIA's driver, 525 or later, and nothing else; `cuda` is the first that
    /// CUDA counts. `auto` takes it where that was measured to be faster than the
    /// processor, and falls back where there is none; --verbose says what it took and why.
    #[arg(
        long,
        value_name = "DEVICE",
        value_delimiter = ',',
        default_value = "cpu"
    )]
    pub(crate) device: Vec<DeviceChoice>,

    /// Most memory to take of each GPU, and as much of the processor's
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "512MiB")]
    pub(crate) device_memory: u64,
}

/// One name of `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// What is faster.
    Auto,
    /// This one.
    Named(DeviceName),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => {
                let name = text.parse().map(Self::Named);
                name.map_err(|error: DeviceNameError| format!("{error}, or `auto`"))
            }
        }
    }
}
