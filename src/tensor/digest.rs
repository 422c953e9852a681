//! Digests of contents: short names for bytes, the same for any thread count.

use std::fmt;

use super::Shape;

use twox_hash::XxHash3_128;

/// XXH3 (128 bits) of some content, written as 32 hexadecimal digits.
///
/// Detects accidents, not adversaries. Source: <https://github.com/Cyan4973/xxHash>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(u128);

impl Digest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_128::oneshot(bytes))
    }

    /// Its 16 bytes, little-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// The digest that its 32 hexadecimal digits stand for, or `None`.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits
            .then(|| u128::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text
            .as_chunks_mut::<2>()
            .0
            .iter_mut()
            .zip(self.0.to_be_bytes())
        {
            *pair = [
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom("a digest has 32 hexadecimal digits"))
    }
}

/// A digest under construction, of bytes or of other digests.
#[derive(Default)]
pub struct Digester(twox_hash::xxhash3_128::Hasher);

impl Digester {
    /// A digest of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Continues with `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// Continues with the 16 little-endian bytes of a digest.
    pub fn push(&mut self, digest: Digest) {
        self.update(&digest.to_bytes());
    }

    /// Continues with the length of `text` as 8 little-endian bytes, and `text`.
    pub fn push_text(&mut self, text: &str) {
        self.update(&(text.len() as u64).to_le_bytes());
        self.update(text.as_bytes());
    }

    /// Digest of everything so far.
    pub fn finish(&self) -> Digest {
        Digest(self.0.finish_128())
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digester({})", self.finish())
    }
}

/// Digests of consecutive parts, and the digest of them all.
#[derive(Clone, Debug, Default)]
pub struct DigestList(Vec<u8>);

impl DigestList {
    /// Continues with the 16 little-endian bytes of a digest.
    pub fn push(&mut self, digest: Digest) {
        self.0.extend(digest.0.to_le_bytes());
    }

    /// Digest of the digests.
    pub fn finish(&self) -> Digest {
        Digest::of(&self.0)
    }
}

/// Most elements of a tile.
pub const TILE_ELEMENTS: u64 = 1 << 16;

/// Elements per tile: the unit in which a tensor is read, combined and digested.
///
/// A multiple of 64 times the elements that share an (output, input) pair, so
/// that neither mask words nor groups of an n:m pattern straddle two tiles. A
/// function of the shape alone. The content digest of a tensor is the digest of
/// the digests of its tiles, in order.
pub fn tile_elements(shape: &Shape) -> u64 {
    let unit = 64_u64.saturating_mul(shape.kernel_numel());
    if (1..=TILE_ELEMENTS).contains(&unit) {
        TILE_ELEMENTS / unit * unit
    } else {
        TILE_ELEMENTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let digest = Digest::of(b"soup");
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        for text in [
            "",
            "+0000000000000000000000000000000",
            "g0000000000000000000000000000000",
            "00",
        ] {
            assert_eq!(Digest::from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn known_value() {
        // From python-xxhash 3.8: xxhash.xxh3_128_hexdigest(b"").
        assert_eq!(
            Digest::of(b"").to_string(),
            "99aa06d3014798d86001c324468d497f"
        );
    }

    #[test]
    fn tiles_hold_whole_words_and_groups() {
        let check = |dims: &[u64], expected| {
            assert_eq!(tile_elements(&Shape::new(dims).unwrap()), expected)
        };
        check(&[], TILE_ELEMENTS);
        check(&[512, 512], TILE_ELEMENTS);
        check(&[64, 64, 3, 3], 65_536 / 576 * 576);
        check(&[64, 64, 2048], TILE_ELEMENTS);
        check(&[64, 64, 0], TILE_ELEMENTS);
    }
}
