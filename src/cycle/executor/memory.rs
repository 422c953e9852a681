//! Whether there is memory for one more worker.

use std::fs;

/// What a worker that runs will need, and how to find what it has taken.
pub(super) struct Claim {
    /// Process number of the worker.
    pub(super) process: u32,
    /// Bytes that it will have taken at most.
    pub(super) bytes: u64,
}

/// Whether `bytes` more can be promised. Of the claims, what is not taken yet is still to
/// come, and is not free. Where the system does not say what is free, everything fits.
pub(super) fn fits(bytes: u64, claims: &[Claim]) -> bool {
    let Some(available) = available_bytes() else {
        return true;
    };
    let to_come: u64 = claims
        .iter()
        .map(|claim| claim.bytes.saturating_sub(resident_bytes(claim.process)))
        .fold(0, u64::saturating_add);
    bytes.saturating_add(to_come) <= available
}

/// Bytes that can be taken without swapping: of the machine, or of the control group where
/// that has less.
fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| field(&text, "MemAvailable:")?.checked_mul(1024));
    match (machine, group_bytes()) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

/// What is left of the limit of this process's control group, of version 2.
fn group_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup{path}/{name}")).ok();
    left(
        &read("memory.max")?,
        &read("memory.current")?,
        &read("memory.stat").unwrap_or_default(),
    )
}

/// What is left of a limit. Pages of files that nobody uses are given back when needed.
fn left(limit: &str, current: &str, stat: &str) -> Option<u64> {
    // The limit is the word `max` where there is none.
    let limit: u64 = limit.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let inactive = field(stat, "inactive_file").unwrap_or(0);
    Some(limit.saturating_sub(current.saturating_sub(inactive)))
}

/// Memory of a process and of everything that it started, as far as the system tells.
fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let own = field(&status, "VmRSS:").map_or(0, |kib| kib.saturating_mul(1024));
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    let children = tasks.into_iter().flatten().flatten().flat_map(|task| {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let numbers = children.split_whitespace().map(str::to_owned);
        numbers.collect::<Vec<_>>()
    });
    children
        .filter_map(|number| number.parse().ok())
        .map(resident_bytes)
        .fold(own, u64::saturating_add)
}

/// The number behind a name, in lines of names and numbers.
fn field(text: &str, name: &str) -> Option<u64> {
    let words = text.lines().map(|line| {
        let mut words = line.split_whitespace();
        (words.next(), words.next())
    });
    let found = words.into_iter().find(|(first, _)| *first == Some(name));
    found?.1?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_names() {
        let text = "MemTotal:  8 kB\nMemAvailable:    5 kB\nSwap:\nBad: x\n";
        let check = |name, expected| assert_eq!(field(text, name), expected, "{name}");
        check("MemTotal:", Some(8));
        check("MemAvailable:", Some(5));
        check("Mem", None);
        check("Swap:", None);
        check("Bad:", None);
    }

    #[test]
    fn limits_of_groups() {
        let stat = "anon 10\ninactive_file 30\n";
        let check = |limit, current, stat, expected| {
            assert_eq!(left(limit, current, stat), expected);
        };
        check("100\n", "60\n", stat, Some(70));
        check("100\n", "60\n", "", Some(40));
        check("100\n", "20\n", stat, Some(100));
        check("50\n", "90\n", "", Some(0));
        check("max\n", "60\n", stat, None);
        check("", "60\n", stat, None);
    }

    #[test]
    fn promises_count_until_they_are_taken() {
        let available = available_bytes().unwrap();
        let claim = |process, bytes| Claim { process, bytes };
        // No process has the number 0.
        assert!(fits(1, &[]));
        assert!(!fits(u64::MAX, &[]));
        assert!(!fits(1, &[claim(0, available.saturating_mul(2))]));
        assert!(fits(1, &[claim(0, 1), claim(0, 1)]));
        // This process has taken what it claims.
        let taken = resident_bytes(process::id());
        assert!(taken > 100_000, "{taken}");
        assert!(fits(1, &[claim(process::id(), taken / 2)]));
    }
}
