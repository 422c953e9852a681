//! Mask words of elements: which of them are not zero.

/// [`Backend::nonzero`](crate::kernel::Backend::nonzero) for elements of a known width. A type and not a closure,
/// because only what is inlined is compiled for the instruction set.
pub(super) struct Nonzero<'a> {
    pub(super) words: &'a mut [u64],
    pub(super) bytes: &'a [u8],
    pub(super) width: usize,
    /// Bits to shift out before comparing: 1 where the top bit is a sign.
    pub(super) sign_bits: u32,
}

impl pulp::NullaryFnOnce for Nonzero<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self {
            words,
            bytes,
            width,
            sign_bits,
        } = self;
        match (width, sign_bits) {
            (1, 0) => nonzero_words(words, bytes, |b: [u8; 1]| b[0] != 0),
            (1, _) => nonzero_words(words, bytes, |b: [u8; 1]| b[0] << 1 != 0),
            (2, 0) => nonzero_words(words, bytes, |b| u16::from_le_bytes(b) != 0),
            (2, _) => nonzero_words(words, bytes, |b| u16::from_le_bytes(b) << 1 != 0),
            (4, 0) => nonzero_words(words, bytes, |b| u32::from_le_bytes(b) != 0),
            (4, _) => nonzero_words(words, bytes, |b| u32::from_le_bytes(b) << 1 != 0),
            (_, 0) => nonzero_words(words, bytes, |b| u64::from_le_bytes(b) != 0),
            (_, _) => nonzero_words(words, bytes, |b| u64::from_le_bytes(b) << 1 != 0),
        }
    }
}

#[inline(always)]
fn nonzero_words<const N: usize>(
    words: &mut [u64],
    bytes: &[u8],
    is_nonzero: impl Fn([u8; N]) -> bool,
) {
    let (blocks, rest) = bytes.as_chunks::<N>().0.as_chunks::<64>();
    let mut words = words.iter_mut();
    for (block, word) in blocks.iter().zip(words.by_ref()) {
        let mut flags = [0; 64];
        for (flag, &element) in flags.iter_mut().zip(block) {
            *flag = u8::from(is_nonzero(element));
        }
        let mut bits = 0;
        for (index, &eight) in flags.as_chunks::<8>().0.iter().enumerate() {
            bits |= pack_bits(eight) << (8 * index);
        }
        *word = bits;
    }
    if let Some(word) = words.next() {
        *word = rest.iter().rev().fold(0, |bits, &element| {
            bits << 1 | u64::from(is_nonzero(element))
        });
    }
}

/// The eight bytes of 0 or 1, gathered into eight bits.
#[inline(always)]
fn pack_bits(flags: [u8; 8]) -> u64 {
    // Byte i moves to bit 56 + i; no two partial products meet.
    u64::from_le_bytes(flags).wrapping_mul(0x0102_0408_1020_4080) >> 56
}
