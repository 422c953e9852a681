//! How long to wait before a failed job is tried again.

use std::time::Duration;

/// Longest pause.
const MOST: Duration = Duration::from_secs(600);

/// The pause after this many failed tries: `base` after the first, twice as long after each
/// further one, ten minutes at most; none before any.
pub fn backoff(tries: u32, base: Duration) -> Duration {
    let Some(doublings) = tries.checked_sub(1) else {
        return Duration::ZERO;
    };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_end() {
        let check = |tries, base_secs, expected_secs| {
            let pause = backoff(tries, Duration::from_secs(base_secs));
            assert_eq!(pause, Duration::from_secs(expected_secs), "after {tries}");
        };
        check(0, 2, 0);
        check(1, 2, 2);
        check(2, 2, 4);
        check(5, 2, 32);
        check(9, 2, 512);
        check(10, 2, 600);
        check(32, 2, 600);
        check(33, 2, 600);
        check(u32::MAX, 2, 600);
        check(u32::MAX, u64::MAX, 600);
        check(1, 3600, 600);
        check(40, 0, 0);
    }
}
