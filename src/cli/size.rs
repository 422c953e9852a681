//! Sizes in bytes, as text: `5GB` walks in, 5,000,000,000 walks out, and back.

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// The number of bytes that `text` stands for: a number of at least one byte, with
/// or without a unit.
///
/// Case does not matter. `5G` is refused: it means `5GB` to some and `5GiB` to others.
///
/// # Errors
/// A sentence that says what was expected.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || {
        format!("`{text}` is no size; write bytes (`5000000`) or a unit, such as `5GB` or `5GiB`")
    };
    let digits_end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let unit = unit.trim_start();
    let scale = if unit.is_empty() {
        1
    } else {
        UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|&(_, scale)| scale)
            .ok_or_else(expected)?
    };
    let bytes = scaled(number, scale).ok_or_else(expected)?;
    if bytes == 0 {
        return Err("a size is at least one byte".to_owned());
    }
    Ok(bytes)
}

/// `number` times `scale`, rounded down; exact, so that no digit is lost to a float.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.len() > 12 {
        return None;
    }
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = fraction.parse().ok()?;
    let numerator = u128::from(whole) * denominator + u128::from(fraction);
    u64::try_from(numerator * u128::from(scale) / denominator).ok()
}

/// `bytes` with a binary unit and three digits or so: `490.3 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let binary = UNITS[..4].iter().find(|&&(_, scale)| bytes >= scale);
    match binary {
        Some(&(unit, scale)) => format!("{:.1} {unit}", bytes as f64 / scale as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_size(text).ok(), expected, "{text:?}");
        };
        check("5GB", Some(5_000_000_000));
        check("5GiB", Some(5 << 30));
        check("5gib", Some(5 << 30));
        check("5 GB", Some(5_000_000_000));
        check("1.5KB", Some(1500));
        check("0.5KiB", Some(512));
        check("4096", Some(4096));
        check("1B", Some(1));
        check("2TiB", Some(2 << 40));
        check("18446744073709551615", Some(u64::MAX));
        for refused in [
            "",
            "0",
            "0.1B",
            "5G",
            "GB",
            "-5GB",
            "5GBB",
            "1.2.3GB",
            "1e9",
            ".5GB",
            "5.GB",
            "18446744073709551616",
            "20000000TB",
            "٣GB",
        ] {
            check(refused, None);
        }
    }

    #[test]
    fn sizes_are_shown() {
        let check = |bytes, expected| assert_eq!(human_bytes(bytes), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1536, "1.5 KiB");
        check(490 << 20, "490.0 MiB");
        check(u64::MAX, "16777216.0 TiB");
    }
}
