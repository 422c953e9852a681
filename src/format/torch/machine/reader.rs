//! Numbers and text of a pickle, by their widths.

use crate::format::torch::PickleError;
use crate::format::torch::machine::LONGEST_NAME;

/// The bytes of a pickle, read from the front.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Number of bytes that have been read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let taken = taken.ok_or_else(|| self.cut_short())?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let taken = self.take(N as u64)?;
        Ok(*taken.first_chunk().expect("N bytes were taken"))
    }

    pub(super) fn u8(&mut self) -> Result<u64, PickleError> {
        self.array().map(|[byte]| byte.into())
    }

    pub(super) fn u32(&mut self) -> Result<u64, PickleError> {
        self.array().map(|bytes| u32::from_le_bytes(bytes).into())
    }

    pub(super) fn u64(&mut self) -> Result<u64, PickleError> {
        self.array().map(u64::from_le_bytes)
    }

    fn utf8(&mut self, len: u64) -> Result<&'a str, PickleError> {
        let offset = self.at;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| PickleError::NotUtf8 { offset })
    }

    /// Text up to the end of the line, which is not a part of it.
    pub(super) fn line(&mut self) -> Result<&'a str, PickleError> {
        let rest = &self.bytes[self.at..];
        let searched = &rest[..rest.len().min(LONGEST_NAME + 1)];
        let Some(len) = searched.iter().position(|&byte| byte == b'\n') else {
            return Err(if searched.len() > LONGEST_NAME {
                PickleError::LongName {
                    limit: LONGEST_NAME,
                    offset: self.at,
                }
            } else {
                self.cut_short()
            });
        };
        let line = self.utf8(len as u64)?;
        self.at += 1;
        Ok(line)
    }

    /// The bytes up to the end of the line, however far that is.
    pub(super) fn long_line(&mut self) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..len.ok_or_else(|| self.cut_short())?];
        self.at += line.len() + 1;
        Ok(line)
    }

    fn cut_short(&self) -> PickleError {
        PickleError::CutShort {
            found: self.bytes.len() as u64,
        }
    }
}
