//! Numbers and text of a width that only data knows. A format string takes 65,535 at
//! most and panics beyond, so none but the one here takes its width from a variable.

/// Digits after which every `f64` is spelled out exactly.
const MOST_DIGITS: usize = 1074;

/// `value` with so many digits after the point.
pub fn decimals(value: f64, digits: usize) -> String {
    let digits = digits.min(MOST_DIGITS);
    format!("{value:.digits$}")
}

/// `text` with spaces before it, to be `width` characters wide.
pub fn right_aligned(text: &str, width: usize) -> String {
    let padding = width.saturating_sub(text.chars().count());
    format!("{}{text}", " ".repeat(padding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_width_is_too_large() {
        assert_eq!(decimals(0.5, 2), "0.50");
        assert_eq!(decimals(0.5, usize::MAX).len(), MOST_DIGITS + 2);
        assert_eq!(right_aligned("é1", 4), "  é1");
        assert_eq!(right_aligned("12345", 4), "12345");
        assert_eq!(right_aligned("1", 100_000).len(), 100_000);
    }
}
