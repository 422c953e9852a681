//! Names of what computes.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

/// Kind of a device. Another kind gives other bits; which device of its kind it is does
/// not decide them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The processor.
    #[default]
    Cpu,
    /// A GPU that CUDA knows.
    Cuda,
}

impl DeviceKind {
    /// Whether it is the processor.
    pub fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }
}

/// A device: `cpu`, `cuda`, or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// A GPU by its number, counted as CUDA counts them; `None` where it is left open.
    Cuda(Option<usize>),
}

impl DeviceName {
    /// Its kind.
    pub fn kind(self) -> DeviceKind {
        match self {
            Self::Cpu => DeviceKind::Cpu,
            Self::Cuda(_) => DeviceKind::Cuda,
        }
    }
}

/// A text names no device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected `cpu`, `cuda`, or `cuda:N` with a number from 0")]
pub struct DeviceNameError;

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, DeviceNameError> {
        let number = |text: &str| {
            // `parse` alone would take a sign.
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        };
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(None)),
            _ => match text.strip_prefix("cuda:").and_then(number) {
                Some(index) => Ok(Self::Cuda(Some(index))),
                None => Err(DeviceNameError),
            },
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => out.write_str("cpu"),
            Self::Cuda(None) => out.write_str("cuda"),
            Self::Cuda(Some(index)) => write!(out, "cuda:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_and_nothing_else_is() {
        let check = |text: &str, expected: DeviceName| {
            assert_eq!(text.parse(), Ok(expected), "{text}");
            assert_eq!(expected.to_string(), text);
        };
        check("cpu", DeviceName::Cpu);
        check("cuda", DeviceName::Cuda(None));
        check("cuda:0", DeviceName::Cuda(Some(0)));
        check("cuda:12", DeviceName::Cuda(Some(12)));
        let wrong = [
            "",
            "gpu",
            "CUDA",
            "cuda:",
            "cuda:-1",
            "cuda:+1",
            "cuda:x",
            "cuda: 1",
            "cpu:0",
            "cuda:99999999999999999999",
        ];
        for text in wrong {
            assert_eq!(text.parse::<DeviceName>(), Err(DeviceNameError), "{text}");
        }
    }
}
