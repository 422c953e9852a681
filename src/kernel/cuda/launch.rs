//! The kernels, and what they are called with.

/// A kernel, by the name that its source gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Masks and the weighted mean.
    Combine,
    /// The same where the mean is exact before it is rounded.
    CombineExact,
    /// Inner products of every piece.
    GramPieces,
    /// Their sums over every tile.
    GramTiles,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Combine,
        Self::CombineExact,
        Self::GramPieces,
        Self::GramTiles,
    ];

    /// The name in the source.
    pub fn name(self) -> &'static str {
        match self {
            Self::Combine => "combine",
            Self::CombineExact => "combine_exact",
            Self::GramPieces => "gram_pieces",
            Self::GramTiles => "gram_tiles",
        }
    }

    /// The PTX that holds it.
    pub(super) fn ptx(self) -> &'static str {
        match self {
            Self::Combine | Self::CombineExact => include_str!("combine.ptx"),
            Self::GramPieces | Self::GramTiles => include_str!("gram.ptx"),
        }
    }
}

/// One call of a kernel, in blocks of 256 threads.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which kernel.
    pub kernel: Kernel,
    /// Blocks along the first and the second dimension.
    pub grid: (u32, u32),
    /// Its parameters: every one is an address or a number of 8 bytes.
    pub parameters: Vec<u64>,
}

impl Launch {
    pub(super) fn new(kernel: Kernel, (columns, rows): (u64, u64), parameters: &[u64]) -> Self {
        Self {
            kernel,
            grid: (columns as u32, rows as u32),
            parameters: parameters.to_vec(),
        }
    }
}
