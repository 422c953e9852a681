//! Which accelerators workers may use.

use thiserror::Error;

/// What a process may see of the accelerators, as CUDA takes it.
pub(super) const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// Accelerators that workers are dealt, one each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices(Vec<String>);

/// A device was asked for that this process may not use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("device {asked} does not exist: `{VARIABLE}` permits {permitted}, counted from 0")]
pub struct DeviceError {
    /// The device that was asked for.
    pub asked: String,
    /// Number of devices that are permitted.
    pub permitted: usize,
}

impl Devices {
    /// No device is dealt: workers see what this process sees.
    pub fn inherited() -> Self {
        Self::default()
    }

    /// The devices that were `asked` for, or all that are permitted.
    ///
    /// `permitted` is the value of `CUDA_VISIBLE_DEVICES`, if it has one: names separated by
    /// commas, of which CUDA takes those in front of the first `-1`. Where it has one, the
    /// numbers that are asked for count what it permits, as they do for CUDA.
    ///
    /// # Errors
    /// [`DeviceError`] if a device is asked for that is not permitted.
    pub fn choose(permitted: Option<&str>, asked: &[String]) -> Result<Self, DeviceError> {
        let permitted: Option<Vec<String>> = permitted.map(|names| {
            names
                .split(',')
                .map(|name| name.trim().to_owned())
                .take_while(|name| !name.is_empty() && name != "-1")
                .collect()
        });
        let Some(permitted) = permitted else {
            return Ok(Self(asked.to_vec()));
        };
        if asked.is_empty() {
            return Ok(Self(permitted));
        }
        let choose = |asked: &String| {
            let by_number = asked.parse().ok().and_then(|at: usize| permitted.get(at));
            let by_name = || permitted.iter().find(|name| *name == asked);
            let found = match asked.parse::<usize>() {
                Ok(_) => by_number,
                Err(_) => by_name(),
            };
            found.cloned().ok_or_else(|| DeviceError {
                asked: asked.clone(),
                permitted: permitted.len(),
            })
        };
        asked.iter().map(choose).collect::<Result<_, _>>().map(Self)
    }

    /// Number of devices that are dealt.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The device of a worker's slot: slots take turns. `None` if none is dealt.
    pub(super) fn of_slot(&self, slot: usize) -> Option<&str> {
        let turn = slot.checked_rem(self.0.len())?;
        self.0.get(turn).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_take_turns_among_what_is_permitted() {
        let check = |permitted: Option<&str>, asked: &[&str], expected: [Option<&str>; 4]| {
            let asked: Vec<String> = asked.iter().map(|&name| name.to_owned()).collect();
            let devices = Devices::choose(permitted, &asked).unwrap();
            assert_eq!([0, 1, 2, 3].map(|slot| devices.of_slot(slot)), expected);
        };
        check(None, &[], [None; 4]);
        check(None, &["0", "1"], ["0", "1", "0", "1"].map(Some));
        check(Some("2,5,7"), &[], ["2", "5", "7", "2"].map(Some));
        check(Some("2,5,7"), &["2", "0"], ["7", "2", "7", "2"].map(Some));
        check(Some("GPU-a, GPU-b"), &["GPU-b"], ["GPU-b"; 4].map(Some));
        check(Some("3,-1,4"), &[], ["3"; 4].map(Some));
        check(Some(""), &[], [None; 4]);
    }

    #[test]
    fn what_is_not_permitted_is_refused() {
        let check = |permitted, asked: &str, n_permitted| {
            let refused = Devices::choose(Some(permitted), &[asked.to_owned()]);
            let expected = DeviceError {
                asked: asked.to_owned(),
                permitted: n_permitted,
            };
            assert_eq!(refused, Err(expected));
        };
        check("2,5", "2", 2);
        check("", "0", 0);
        check("GPU-a", "GPU-b", 1);
        assert_eq!(Devices::inherited().of_slot(3), None);
    }
}
