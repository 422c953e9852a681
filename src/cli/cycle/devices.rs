//! `--device` of `sms-merge cycle`: names of devices walk in, a recipe that says them walks
//! out.

use sms_merge::cycle::recipe::Recipe;
use sms_merge::tensor::DeviceKind;
use sms_merge::tensor::DeviceName;

use crate::cli::device::refuse_odd;
use crate::cli::exit::UsageError;

/// Puts the devices into the recipe, if any were named.
pub(super) fn put(asked: &[DeviceName], recipe: &mut Recipe) -> Result<(), UsageError> {
    let Some(first) = asked.first() else {
        return Ok(());
    };
    refuse_odd(asked)?;
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
}
