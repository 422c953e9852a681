//! `--device` of `sms-merge cycle`: names of devices walk in, a recipe that says them walks
//! out.

use sms_merge::cycle::recipe::Recipe;
use sms_merge::train::device::DeviceKind;
use sms_merge::train::device::DeviceName;

use crate::cli::exit::UsageError;

/// Puts the devices into the recipe, if any were named.
pub(super) fn put(asked: &[DeviceName], recipe: &mut Recipe) -> Result<(), UsageError> {
    let Some(first) = asked.first() else {
        return Ok(());
    };
    check(asked)?;
    recipe.device = first.kind();
    let numbers: Vec<String> = asked
        .iter()
        .filter_map(|name| match name {
            DeviceName::Cuda(Some(index)) => Some(index.to_string()),
            DeviceName::Cuda(None) | DeviceName::Cpu => None,
        })
        .collect();
    if recipe.device == DeviceKind::Cuda {
        recipe.run.devices = numbers;
    }
    Ok(())
}

/// Refuses names that do not go together.
fn check(asked: &[DeviceName]) -> Result<(), UsageError> {
    for (idx, name) in asked.iter().enumerate() {
        let (message, next) = if asked[..idx].contains(name) {
            let next = "name each device once; `--jobs` says how many jobs there are at a time";
            (format!("`{name}` is named twice"), next)
        } else if name.kind() != asked[0].kind() {
            let next = "name devices of one kind: the bits of another kind are others";
            (
                format!("`{}` and `{name}` do not go together", asked[0]),
                next,
            )
        } else if idx > 0 && asked[..=idx].contains(&DeviceName::Cuda(None)) {
            let next = "leave the numbers out, or number all";
            ("`cuda` stands for every GPU that there is".to_owned(), next)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<DeviceName> {
        text.split(',').map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn devices_replace_those_of_the_recipe() {
        let check = |asked: &[DeviceName], kind, devices: &[&str]| {
            let text = "device = \"cuda\"\n[run]\ndevices = [\"5\"]";
            let mut recipe = Recipe::parse(text, &[]).unwrap();
            put(asked, &mut recipe).unwrap();
            assert_eq!(recipe.device, kind);
            assert_eq!(recipe.run.devices, devices);
        };
        check(&[], DeviceKind::Cuda, &["5"]);
        check(&names("cuda"), DeviceKind::Cuda, &[]);
        check(&names("cuda:1,cuda:0"), DeviceKind::Cuda, &["1", "0"]);
        // Those of the recipe may be for a trainer of the user's.
        check(&names("cpu"), DeviceKind::Cpu, &["5"]);
    }

    #[test]
    fn devices_that_do_not_go_together_are_refused() {
        let check = |asked: &str, expected: &str| {
            let error = put(&names(asked), &mut Recipe::default()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check("cuda,cpu", "`cuda` and `cpu` do not go together");
        check("cpu,cuda:0", "`cpu` and `cuda:0` do not go together");
        check("cuda:0,cuda:1,cuda:0", "`cuda:0` is named twice");
        check("cuda,cuda:1", "`cuda` stands for every GPU that there is");
        check("cuda:1,cuda", "`cuda` stands for every GPU that there is");
        check("cpu,cpu", "`cpu` is named twice");
    }
}
