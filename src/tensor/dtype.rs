//! Element types of the safetensors format, with their widths and what a merge may do with them.

use std::fmt;

/// What a merge may do with the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Averaged: F16, BF16, F32, F64.
    Average,
    /// Compared, or reduced by a named rule: booleans and integers.
    Integer,
    /// Copied when identical in every ingredient: FP8 and smaller, complex.
    Opaque,
}

macro_rules! dtypes {
    ($($variant:ident, $name:literal, $bits:literal, $arithmetic:ident;)*) => {
        /// Element type of a tensor.
        ///
        /// The order of the variants is the order in which safetensors'
        /// `serialize` sorts: a later variant is written earlier.
        ///
        /// Source: safetensors 0.8.0, <https://github.com/huggingface/safetensors>.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum Dtype { $($variant,)* }

        impl Dtype {
            /// Every element type, in the order of the variants.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name in a safetensors header, such as `BF16`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Width of one element in bits; below 8 for packed types.
            pub fn bits(self) -> u64 {
                match self { $(Self::$variant => $bits,)* }
            }

            /// What a merge may do with elements of this type.
            pub fn arithmetic(self) -> Arithmetic {
                match self { $(Self::$variant => Arithmetic::$arithmetic,)* }
            }
        }
    };
}

dtypes! {
    Bool, "BOOL", 8, Integer;
    F4, "F4", 4, Opaque;
    F6E2M3, "F6_E2M3", 6, Opaque;
    F6E3M2, "F6_E3M2", 6, Opaque;
    U8, "U8", 8, Integer;
    I8, "I8", 8, Integer;
    F8E5M2, "F8_E5M2", 8, Opaque;
    F8E4M3, "F8_E4M3", 8, Opaque;
    F8E8M0, "F8_E8M0", 8, Opaque;
    F8E4M3Fnuz, "F8_E4M3FNUZ", 8, Opaque;
    F8E5M2Fnuz, "F8_E5M2FNUZ", 8, Opaque;
    I16, "I16", 16, Integer;
    U16, "U16", 16, Integer;
    F16, "F16", 16, Average;
    BF16, "BF16", 16, Average;
    I32, "I32", 32, Integer;
    U32, "U32", 32, Integer;
    F32, "F32", 32, Average;
    C64, "C64", 64, Opaque;
    F64, "F64", 64, Average;
    I64, "I64", 64, Integer;
    U64, "U64", 64, Integer;
}

impl Dtype {
    /// The element type that a header calls `name`, or `None`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.name() == name)
    }

    /// Whether elements are signed floating-point numbers, with a zero of each sign.
    pub fn is_float(self) -> bool {
        !matches!(self.arithmetic(), Arithmetic::Integer) && self != Self::F8E8M0
    }

    /// Bytes that `numel` elements take, or `None` if that is not a whole
    /// number of bytes or does not fit.
    pub fn byte_len(self, numel: u64) -> Option<u64> {
        let bits = numel.checked_mul(self.bits())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_there_are_22() {
        assert_eq!(Dtype::ALL.len(), 22);
        for &dtype in Dtype::ALL {
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(Dtype::from_name("f32"), None);
    }

    #[test]
    fn byte_lengths_are_whole_or_refused() {
        assert_eq!(Dtype::F32.byte_len(3), Some(12));
        assert_eq!(Dtype::F4.byte_len(3), None);
        assert_eq!(Dtype::F4.byte_len(4), Some(2));
        assert_eq!(Dtype::F6E2M3.byte_len(4), Some(3));
        assert_eq!(Dtype::F64.byte_len(u64::MAX / 8), None);
    }
}
