//! `--device` of what merges: names of devices walk in, what computes walks out.

use std::num::NonZeroUsize;

use sms_merge::kernel::cuda::DeviceError;
use sms_merge::merge::Accelerator;
use sms_merge::merge::MergeError;
use sms_merge::merge::Workers;
use sms_merge::tensor::DeviceName;

use crate::cli::args::ReadingArguments;
use crate::cli::args::ReportArguments;
use crate::cli::args::device::DeviceArguments;
use crate::cli::args::device::DeviceChoice;
use crate::cli::exit::UsageError;
use crate::cli::inputs::threads;
use crate::cli::text::Clean;
use crate::cli::text::note;

/// Opens what was asked for. `measured` is the number of ingredients whose pairwise
/// distances are measured, if any are.
pub(crate) fn workers(
    arguments: &DeviceArguments,
    reading: &ReadingArguments,
    report: &ReportArguments,
    measured: Option<NonZeroUsize>,
) -> anyhow::Result<Workers> {
    let mut workers = Workers::from(threads(reading));
    workers.accelerator = match arguments.device.as_slice() {
        [DeviceChoice::Auto] => {
            let memory = arguments.device_memory;
            let (accelerator, reason) =
                choose(measured, |indices| Accelerator::open(indices, memory));
            if report.verbose {
                note(&format!("device: {}", Clean(&reason)));
            }
            accelerator
        }
        choices => {
            let names = choices.iter().map(|choice| match choice {
                DeviceChoice::Named(name) => Ok(*name),
                DeviceChoice::Auto => Err(UsageError {
                    message: "`auto` stands alone".to_owned(),
                    next: Some("name devices, or `auto`, not both".to_owned()),
                }),
            });
            let names = names.collect::<Result<Vec<DeviceName>, _>>()?;
            refuse_odd(&names)?;
            let indices = indices(&names);
            let open = || Accelerator::open(&indices, arguments.device_memory);
            let opened = (!indices.is_empty()).then(open).transpose();
            opened.map_err(MergeError::Device)?
        }
    };
    Ok(workers)
}

/// What `auto` takes, and why.
fn choose(
    measured: Option<NonZeroUsize>,
    open: impl FnOnce(&[usize]) -> Result<Accelerator, DeviceError>,
) -> (Option<Accelerator>, String) {
    if !Accelerator::is_faster(measured) {
        let reason = "cpu: on one GPU this was measured to take as long or longer";
        return (None, reason.to_owned());
    }
    match open(&[0]) {
        Ok(accelerator) => {
            let names = names_of(&accelerator).join(", ");
            (Some(accelerator), names)
        }
        Err(error) => (None, format!("cpu: {error}")),
    }
}

/// Names of the GPUs that combine, if any do.
pub(crate) fn device_names(workers: &Workers) -> Vec<String> {
    workers.accelerator.as_ref().map_or_else(Vec::new, names_of)
}

fn names_of(accelerator: &Accelerator) -> Vec<String> {
    accelerator.devices().map(ToString::to_string).collect()
}

/// Refuses names that do not go together.
pub(crate) fn refuse_odd(asked: &[DeviceName]) -> Result<(), UsageError> {
    for (idx, name) in asked.iter().enumerate() {
        let (message, next) = if asked[..idx].contains(name) {
            (format!("`{name}` is named twice"), "name each device once")
        } else if name.kind() != asked[0].kind() {
            (
                format!("`{}` and `{name}` do not go together", asked[0]),
                "name devices of one kind",
            )
        } else if idx > 0 && asked[..=idx].contains(&DeviceName::Cuda(None)) {
            (
                "`cuda` stands alone".to_owned(),
                "leave the numbers out, or number all",
            )
        } else {
            continue;
        };
        return Err(UsageError {
            message,
            next: Some(next.to_owned()),
        });
    }
    Ok(())
}

/// Indices of the GPUs among them.
fn indices(names: &[DeviceName]) -> Vec<usize> {
    let index = |name: &DeviceName| match name {
        DeviceName::Cuda(index) => Some(index.unwrap_or(0)),
        DeviceName::Cpu => None,
    };
    names.iter().filter_map(index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<DeviceName> {
        text.split(',').map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn devices_that_do_not_go_together_are_refused() {
        let check = |asked: &str, expected: &str| {
            let error = refuse_odd(&names(asked)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check("cuda,cpu", "`cuda` and `cpu` do not go together");
        check("cpu,cuda:0", "`cpu` and `cuda:0` do not go together");
        check("cuda:0,cuda:1,cuda:0", "`cuda:0` is named twice");
        check("cuda,cuda:1", "`cuda` stands alone");
        check("cuda:1,cuda", "`cuda` stands alone");
        check("cpu,cpu", "`cpu` is named twice");
    }

    #[test]
    fn gpus_are_numbered() {
        assert!(indices(&names("cpu")).is_empty());
        assert_eq!(indices(&names("cuda")), [0]);
        assert_eq!(indices(&names("cuda:2,cuda:0")), [2, 0]);
    }

    #[test]
    fn auto_falls_back_and_says_why() {
        let none = |_: &[usize]| Err(DeviceError::NoDriver);
        let many = NonZeroUsize::new(1000);
        let (accelerator, reason) = choose(many, none);
        assert!(accelerator.is_none());
        assert!(
            reason.starts_with("cpu: there is no CUDA driver here"),
            "{reason}"
        );
        let (accelerator, reason) = choose(None, |_| unreachable!());
        assert!(accelerator.is_none());
        assert!(reason.contains("measured"), "{reason}");
    }
}
