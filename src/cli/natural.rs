//! The order in which people count: `step-2` before `step-10`.

use std::cmp::Ordering;

/// Compares byte by byte, except that runs of ASCII digits compare as numbers.
///
/// Numbers that are equal but written differently (`7`, `007`) are told apart by
/// their bytes at the very end, so that only equal names are equal.
pub(crate) fn natural_cmp(a: &[u8], b: &[u8]) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        let (Some(&first_a), Some(&first_b)) = (rest_a.first(), rest_b.first()) else {
            return rest_a.len().cmp(&rest_b.len()).then_with(|| a.cmp(b));
        };
        let order = if first_a.is_ascii_digit() && first_b.is_ascii_digit() {
            let (number_a, number_b) = (take_number(&mut rest_a), take_number(&mut rest_b));
            let by_length = number_a.len().cmp(&number_b.len());
            by_length.then_with(|| number_a.cmp(number_b))
        } else {
            (rest_a, rest_b) = (&rest_a[1..], &rest_b[1..]);
            first_a.cmp(&first_b)
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Takes the digits at the start of `rest` and returns them without leading zeros.
fn take_number<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_in_order() {
        let sorted = [
            "",
            "0",
            "00",
            "1",
            "07",
            "7",
            "10",
            "a",
            "a1",
            "a1b",
            "a2",
            "a010",
            "a10",
            "a11b2",
            "a11b10",
            "b",
            "step-2.st",
            "step-10.st",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (k, b) in sorted.iter().enumerate() {
                let found = natural_cmp(a.as_bytes(), b.as_bytes());
                assert_eq!(found, i.cmp(&k), "{a:?} {b:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[01a.]{0,6}", b in "[01a.]{0,6}", c in "[01a.]{0,6}") {
            let (a, b, c) = (a.as_bytes(), b.as_bytes(), c.as_bytes());
            prop_assert_eq!(natural_cmp(a, b), natural_cmp(b, a).reverse());
            prop_assert_eq!(natural_cmp(a, b).is_eq(), a == b);
            if natural_cmp(a, b).is_le() && natural_cmp(b, c).is_le() {
                prop_assert!(natural_cmp(a, c).is_le());
            }
        }
    }
}
