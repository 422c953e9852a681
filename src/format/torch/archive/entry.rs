//! One entry of an archive: what the directory says of it, and whether what stands
//! before its bytes agrees.

use std::ops::Range;

use crate::format::torch::ArchiveError;

/// Bytes of a directory entry before its name.
pub(super) const ENTRY_BYTES: usize = 46;
/// Bytes before the name in front of an entry's bytes.
const LOCAL_BYTES: usize = 30;

const ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// Number of the field that holds what 32 bits cannot.
const FIELD64: u16 = 1;
/// Flags of entries that are encrypted, or whose local headers are.
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
/// Flag of entries whose length and checksum stand behind their bytes.
const LENGTH_BEHIND: u16 = 1 << 3;

/// An entry that is stored as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) name: String,
    flags: u16,
    method: u16,
    checksum: u32,
    pub(super) bytes: u64,
    /// Where its local header begins.
    pub(super) begin: u64,
    /// Where what follows in the file begins.
    pub(super) limit: u64,
}

/// The entry at the front of `bytes`, and what follows it.
pub(super) fn parse_entry(bytes: &[u8]) -> Result<(Entry, &[u8]), &'static str> {
    let cut_short = "is cut short";
    let (fixed, rest) = bytes.split_first_chunk::<ENTRY_BYTES>().ok_or(cut_short)?;
    if fixed[..4] != ENTRY {
        return Err("does not begin as an entry does");
    }
    let len = |at| usize::from(u16_at(fixed, at));
    let (name, rest) = rest.split_at_checked(len(28)).ok_or(cut_short)?;
    let (fields, rest) = rest.split_at_checked(len(30)).ok_or(cut_short)?;
    let (_comment, rest) = rest.split_at_checked(len(32)).ok_or(cut_short)?;
    let name = std::str::from_utf8(name).map_err(|_| "has a name that is not UTF-8")?;
    let mut wide = field64(fields).ok_or("has extra fields that are cut short")?;
    let mut widened = |short: u32| -> Result<u64, &'static str> {
        if short < u32::MAX {
            return Ok(short.into());
        }
        let (long, rest) = wide
            .split_first_chunk::<8>()
            .ok_or("lacks its length or place")?;
        wide = rest;
        Ok(u64::from_le_bytes(*long))
    };
    // In this order, and only where 32 bits do not do.
    let bytes = widened(u32_at(fixed, 24))?;
    let compressed = widened(u32_at(fixed, 20))?;
    let begin = widened(u32_at(fixed, 42))?;
    let method = u16_at(fixed, 10);
    if method == 0 && compressed != bytes {
        return Err("is stored as it is, in more or fewer bytes than it has");
    }
    if u16_at(fixed, 34) != 0 {
        return Err("is in another file");
    }
    let entry = Entry {
        name: name.to_owned(),
        flags: u16_at(fixed, 8),
        method,
        checksum: u32_at(fixed, 16),
        bytes: compressed,
        begin,
        limit: 0,
    };
    Ok((entry, rest))
}

/// The content of the field for what 32 bits cannot hold, empty if there is none; `None`
/// if the fields are cut short.
fn field64(mut fields: &[u8]) -> Option<&[u8]> {
    while !fields.is_empty() {
        let (head, rest) = fields.split_first_chunk::<4>()?;
        let (content, rest) = rest.split_at_checked(usize::from(u16_at(head, 2)))?;
        if u16_at(head, 0) == FIELD64 {
            return Some(content);
        }
        fields = rest;
    }
    Some(&[])
}

impl Entry {
    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first byte that cannot be its own, if that can be counted.
    pub(super) fn least_end(&self) -> Option<u64> {
        let least = (LOCAL_BYTES + self.name.len()) as u64;
        self.begin.checked_add(least)?.checked_add(self.bytes)
    }

    /// Checks that its bytes are stored as they are.
    pub(super) fn require_stored(&self) -> Result<(), ArchiveError> {
        let entry = || self.name.clone();
        if self.flags & ENCRYPTED != 0 {
            return Err(ArchiveError::Encrypted { entry: entry() });
        }
        if self.method != 0 {
            return Err(ArchiveError::Compressed { entry: entry() });
        }
        Ok(())
    }

    /// Where what [`range`](Self::range) asks for is.
    pub fn local_range(&self) -> Range<u64> {
        self.begin..self.begin + (LOCAL_BYTES + self.name.len()) as u64
    }

    /// Where its bytes are, from the bytes at [`local_range`](Self::local_range).
    ///
    /// # Errors
    /// [`ArchiveError`] if it is compressed or encrypted, or these bytes say otherwise
    /// than the directory.
    pub fn range(&self, local: &[u8]) -> Result<Range<u64>, ArchiveError> {
        let entry = || self.name.clone();
        let differs = |what| ArchiveError::Local {
            entry: entry(),
            what,
        };
        self.require_stored()?;
        let Some((fixed, name)) = local.split_first_chunk::<LOCAL_BYTES>() else {
            return Err(differs("beginning"));
        };
        if fixed[..4] != LOCAL {
            return Err(differs("beginning"));
        }
        let name_len = usize::from(u16_at(fixed, 26));
        if name_len != self.name.len() || name != self.name.as_bytes() {
            return Err(differs("name"));
        }
        if u16_at(fixed, 8) != self.method || u16_at(fixed, 6) & ENCRYPTED != 0 {
            return Err(differs("method"));
        }
        let is_behind = u16_at(fixed, 6) & LENGTH_BEHIND != 0;
        let is_same = |at| {
            let found = u64::from(u32_at(fixed, at));
            found == self.bytes || found == u64::from(u32::MAX) || (is_behind && found == 0)
        };
        if !is_same(18) || !is_same(22) {
            return Err(differs("length"));
        }
        let begin = self.local_range().end + u64::from(u16_at(fixed, 28));
        let end = begin.checked_add(self.bytes);
        match end.filter(|&end| end <= self.limit) {
            Some(end) => Ok(begin..end),
            None => Err(ArchiveError::Overlap { entry: entry() }),
        }
    }

    /// Checks that it is no longer than the caller wants to read.
    ///
    /// # Errors
    /// [`ArchiveError::EntryLimit`].
    pub fn require_within(&self, limit: u64) -> Result<(), ArchiveError> {
        if self.bytes > limit {
            return Err(ArchiveError::EntryLimit {
                entry: self.name.clone(),
                found: self.bytes,
                limit,
            });
        }
        Ok(())
    }

    /// Checks that these are the bytes that were written.
    ///
    /// # Errors
    /// [`ArchiveError::Checksum`].
    pub fn check(&self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let is_whole = bytes.len() as u64 == self.bytes && crc32(bytes) == self.checksum;
        is_whole.then_some(()).ok_or(ArchiveError::Checksum {
            entry: self.name.clone(),
        })
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The checksum of zip archives.
///
/// Source: ISO 3309, polynomial 0xedb88320 with the lowest bit first.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut sum = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = (sum >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(sum & 1));
                bit += 1;
            }
            table[byte] = sum;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (sum >> 8) ^ TABLE[usize::from((sum as u8) ^ byte)]
    })
}
