//! Whether there is memory for one more worker.

use std::fs;

use crate::train::memory::available_bytes;
use crate::train::memory::field;

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

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

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
