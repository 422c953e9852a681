//! Where a value lies on an axis, and which round values are named there.

use crate::tensor::decimals;

/// A linear map from values to coordinates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// Least and greatest value; the first is less.
    pub(super) domain: (f64, f64),
    /// Their coordinates.
    pub(super) range: (f64, f64),
}

/// Room beyond the outermost values, as a share of what lies between them.
const MARGIN: f64 = 0.06;

impl Scale {
    /// A scale round finite values, with a margin. Of no values, or of one value only, an
    /// interval of length 1.
    pub(super) fn round(values: impl Iterator<Item = f64>, range: (f64, f64)) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        let (low, high) = if low > high { (0.0, 0.0) } else { (low, high) };
        let margin = if high > low {
            MARGIN * (high - low)
        } else {
            0.5
        };
        Self {
            domain: (low - margin, high + margin),
            range,
        }
    }

    /// Coordinate of `value`.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (low, high) = self.domain;
        let (start, end) = self.range;
        let share = (value - low) / (high - low);
        if share.is_finite() {
            start + share * (end - start)
        } else {
            start
        }
    }

    /// At most `most` multiples of 1, 2 or 5 times a power of ten that lie on the axis, and
    /// their texts.
    pub(super) fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let (low, high) = self.domain;
        let length = high - low;
        if !length.is_finite() || length <= 0.0 {
            return Vec::new();
        }
        let mut exponent = (length / most.max(1) as f64).log10().floor() as i32 - 1;
        // From steps that are too small to one that is not.
        loop {
            for factor in [1.0, 2.0, 5.0] {
                let step = factor * 10_f64.powi(exponent);
                let first = (low / step).ceil();
                let last = (high / step).floor();
                let number = last - first + 1.0;
                // Below 2^53, where whole numbers end, or there are no ticks to name.
                if !number.is_finite() || first.abs().max(last.abs()) > 9e15 {
                    return Vec::new();
                }
                if number <= most as f64 {
                    let digits = usize::try_from(-exponent).unwrap_or(0);
                    let count = number.max(0.0) as usize;
                    return (0..count)
                        .map(|idx| {
                            let value = (first + idx as f64) * step;
                            (value, tick(value, digits))
                        })
                        .collect();
                }
            }
            exponent += 1;
        }
    }
}

/// `value` with a true minus sign, and no sign at 0.
fn tick(value: f64, digits: usize) -> String {
    let text = decimals(value, digits);
    let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'-' | b'.'));
    if is_zero {
        return text.trim_start_matches('-').to_owned();
    }
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let check = |domain: (f64, f64), most: usize, expected: &[&str]| {
            let scale = Scale {
                domain,
                range: (0.0, 1.0),
            };
            let texts: Vec<String> = scale.ticks(most).into_iter().map(|tick| tick.1).collect();
            assert_eq!(texts, expected, "{domain:?}");
        };
        check((0.0, 10.0), 6, &["0", "2", "4", "6", "8", "10"]);
        check((0.0, 1.0), 3, &["0.0", "0.5", "1.0"]);
        check((96.93, 97.61), 5, &["97.0", "97.2", "97.4", "97.6"]);
        check((-0.31, 0.22), 5, &["−0.2", "0.0", "0.2"]);
        check(
            (-1.5e-9, 1.5e-9),
            3,
            &["−0.000000001", "0.000000000", "0.000000001"],
        );
        check((-2500.0, 700.0), 4, &["−2000", "−1000", "0"]);
        check((0.0, f64::INFINITY), 4, &[]);
        check((1.0, 1.0), 4, &[]);
        check((1e300, 1e300 + 1e285), 4, &[]);
    }

    #[test]
    fn values_are_placed() {
        let scale = Scale {
            domain: (10.0, 20.0),
            range: (100.0, 0.0),
        };
        assert_eq!(scale.at(10.0), 100.0);
        assert_eq!(scale.at(20.0), 0.0);
        assert_eq!(scale.at(12.5), 75.0);
        let alone = Scale::round([3.0].into_iter(), (0.0, 8.0));
        assert_eq!(alone.at(3.0), 4.0);
        let nothing = Scale::round([f64::NAN].into_iter(), (0.0, 8.0));
        assert!(nothing.at(0.0).is_finite());
        let both = Scale::round([0.0, 100.0, f64::INFINITY].into_iter(), (0.0, 8.0));
        assert_eq!(both.domain, (-6.0, 106.0));
    }
}
