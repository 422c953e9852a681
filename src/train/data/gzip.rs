//! Files that may be compressed: a path walks in, checked bytes walk out.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::checkpoint::map::Access;
use crate::checkpoint::map::ByteSource;
use crate::train::data::DataError;

/// No compressed byte stands for more bytes than this.
/// Source: zlib's technical details, <https://zlib.net/zlib_tech.html>.
const MOST_EXPANSION: u64 = 1032;

/// Bytes that are asked for at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A header and what follows it.
pub(super) struct Content<H> {
    /// What was read from the first bytes.
    pub(super) header: H,
    /// All bytes after the header.
    pub(super) body: Vec<u8>,
}

/// What a header says of the file.
pub(super) trait Header: Sized {
    /// Bytes of the longest header.
    const BYTES: usize;

    /// Reads the first bytes; fewer than [`BYTES`](Self::BYTES) if the file is shorter.
    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, DataError>;

    /// Bytes that follow.
    fn body_bytes(&self) -> u64;
}

/// Reads a header, and then as many bytes as it asks for. No more memory is taken than
/// the file can fill, whatever the header says.
pub(super) fn read_file<H: Header>(path: &Path) -> Result<Content<H>, DataError> {
    let source = ByteSource::open(path, Access::Mapped)?;
    let len = usize::try_from(source.bytes()).map_err(|_| DataError::Memory {
        path: path.to_owned(),
        bytes: source.bytes(),
    })?;
    let mut scratch = Vec::new();
    let content = read_bytes(path, source.read(0, len, &mut scratch)?);
    // A file that was cut meanwhile is the better explanation of what was found in it.
    source.check_unchanged()?;
    content
}

/// As [`read_file`], of bytes that are in memory; `path` is only for messages.
pub(super) fn read_bytes<H: Header>(path: &Path, stored: &[u8]) -> Result<Content<H>, DataError> {
    let len = stored.len() as u64;
    if stored.starts_with(&[0x1f, 0x8b]) {
        let most = len.saturating_mul(MOST_EXPANSION);
        let fits = |expected| {
            let path = path.to_owned();
            (expected <= most)
                .then_some(())
                .ok_or(DataError::Oversized {
                    path,
                    expected,
                    stored: len,
                })
        };
        read(path, MultiGzDecoder::new(stored), fits)
    } else {
        read(path, stored, |expected| {
            (expected <= len)
                .then_some(())
                .ok_or_else(|| DataError::Truncated {
                    path: path.to_owned(),
                    expected,
                    found: len,
                })
        })
    }
}

/// `fits` says whether the file can hold so many bytes.
fn read<H: Header>(
    path: &Path,
    mut input: impl Read,
    fits: impl Fn(u64) -> Result<(), DataError>,
) -> Result<Content<H>, DataError> {
    let mut first = Vec::new();
    append(path, &mut input, &mut first, H::BYTES, 0)?;
    let header = H::parse(path, &first)?;
    let expected = header.body_bytes().saturating_add(H::BYTES as u64);
    fits(expected)?;
    let no_memory = || DataError::Memory {
        path: path.to_owned(),
        bytes: expected,
    };
    let body_bytes = usize::try_from(header.body_bytes()).map_err(|_| no_memory())?;
    let mut body = Vec::new();
    body.try_reserve_exact(body_bytes)
        .map_err(|_| no_memory())?;
    append(path, &mut input, &mut body, body_bytes, first.len())?;
    if body.len() < body_bytes {
        return Err(DataError::Truncated {
            path: path.to_owned(),
            expected,
            found: (first.len() + body.len()) as u64,
        });
    }
    // Reading on to the end is also what checks the sums of a gzip file.
    let mut rest = Vec::new();
    append(path, &mut input, &mut rest, 1, first.len() + body.len())?;
    if !rest.is_empty() {
        return Err(DataError::TrailingBytes {
            path: path.to_owned(),
            expected,
        });
    }
    Ok(Content { header, body })
}

/// Adds up to `count` bytes, of which `before` came earlier in the file.
fn append(
    path: &Path,
    input: &mut impl Read,
    bytes: &mut Vec<u8>,
    count: usize,
    before: usize,
) -> Result<(), DataError> {
    while bytes.len() < count {
        let begin = bytes.len();
        bytes.resize(count.min(begin + CHUNK_BYTES), 0);
        let mut filled = begin;
        while filled < bytes.len() {
            match input.read(&mut bytes[filled..]) {
                Ok(0) => {
                    bytes.truncate(filled);
                    return Ok(());
                }
                Ok(found) => filled += found,
                Err(source) if source.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(DataError::Gzip {
                        path: path.to_owned(),
                        bytes: (before + filled) as u64,
                        source,
                    });
                }
            }
        }
    }
    Ok(())
}
