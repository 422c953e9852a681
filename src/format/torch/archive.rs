//! The directory of a zip archive whose entries are stored as they are: its last bytes
//! walk in, the places of entries walk out.
//!
//! Stricter than zip is: the directory must end where the end record begins, agree with
//! what stands before each entry, and leave no two entries a byte in common. So the file
//! has one meaning, whoever reads it.
//!
//! Source: PKWARE APPNOTE 6.3.10, section 4.3; `PyTorchStreamWriter` in
//! `caffe2/serialize/inline_container.cc` of torch 2.15.

mod entry;

use std::ops::Range;

use crate::format::torch::ArchiveError;
use crate::format::torch::Names;
use crate::format::torch::Storage;
use crate::format::torch::archive::entry::ENTRY_BYTES;
use crate::format::torch::archive::entry::parse_entry;
use crate::format::torch::archive::entry::u16_at;
use crate::format::torch::archive::entry::u32_at;
use crate::format::torch::archive::entry::u64_at;

pub use entry::Entry;

/// Bytes of the end record. A comment behind it is not expected.
const END_BYTES: usize = 22;
/// Bytes of the record that says where the end record of 64 bits is.
const LOCATOR_BYTES: usize = 20;
/// Bytes of the end record of 64 bits.
const END64_BYTES: usize = 56;
/// Bytes at the end of a file that [`find_directory`] can make use of.
pub const TAIL_BYTES: usize = END64_BYTES + LOCATOR_BYTES + END_BYTES;

const END: [u8; 4] = *b"PK\x05\x06";
const LOCATOR: [u8; 4] = *b"PK\x06\x07";
const END64: [u8; 4] = *b"PK\x06\x06";

const PICKLE: &str = "data.pkl";

/// Where the directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Its bytes in the file.
    pub range: Range<u64>,
    n_entries: u64,
}

/// The directory of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Sorted by name.
    entries: Vec<Entry>,
}

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// What `torch.save` wrote, in the folder of that name.
    Torch(String),
    /// Something else: `.npz`, `.keras`.
    Other,
}

/// Where the directory is, from the last [`TAIL_BYTES`] bytes of a file, or all if there
/// are fewer. `limit` is the number of bytes that a directory may have.
///
/// # Errors
/// [`ArchiveError`] if there is no end record, or it does not agree with the file.
pub fn find_directory(tail: &[u8], file_bytes: u64, limit: u64) -> Result<Directory, ArchiveError> {
    let (before, end) = split_end::<END_BYTES>(tail, END).ok_or(ArchiveError::NoEnd)?;
    let field16 = |at| u64::from(u16_at(&end, at));
    let field32 = |at| u64::from(u32_at(&end, at));
    if field16(20) != 0 {
        return Err(ArchiveError::NoEnd);
    }
    let mut disks = [field16(4), field16(6)];
    let mut n_entries = [field16(8), field16(10)];
    let (mut bytes, mut begin) = (field32(12), field32(16));
    let mut directory_end = file_bytes - END_BYTES as u64;
    if let Some((before, locator)) = split_end::<LOCATOR_BYTES>(before, LOCATOR) {
        let Some((_, end64)) = split_end::<END64_BYTES>(before, END64) else {
            return Err(ArchiveError::NoEnd);
        };
        directory_end -= (LOCATOR_BYTES + END64_BYTES) as u64;
        let is_placed = u64_at(&locator, 8) == directory_end;
        if !is_placed || u64_at(&end64, 4) != END64_BYTES as u64 - 12 {
            return Err(ArchiveError::NoEnd);
        }
        let same = |what, short: u64, long: u64, most: u64| {
            let is_same = short == long || short == most;
            is_same
                .then_some(())
                .ok_or(ArchiveError::Directory { what })
        };
        let count = u64_at(&end64, 32);
        let most16 = u16::MAX.into();
        let most32 = u32::MAX.into();
        same("has two numbers of entries", n_entries[1], count, most16)?;
        same("has two lengths", bytes, u64_at(&end64, 40), most32)?;
        same("is in two places", begin, u64_at(&end64, 48), most32)?;
        disks = [u32_at(&end64, 16), u32_at(&end64, 20)].map(u64::from);
        n_entries = [u64_at(&end64, 24), count];
        (bytes, begin) = (u64_at(&end64, 40), u64_at(&end64, 48));
    }
    if disks != [0, 0] || n_entries[0] != n_entries[1] {
        return Err(ArchiveError::Split);
    }
    if begin.checked_add(bytes) != Some(directory_end) {
        let what = "ends elsewhere than where the end begins";
        return Err(ArchiveError::Directory { what });
    }
    if bytes > limit {
        let found = bytes;
        return Err(ArchiveError::DirectoryLimit { found, limit });
    }
    if n_entries[0] > bytes / ENTRY_BYTES as u64 {
        let what = "has more entries than bytes for them";
        return Err(ArchiveError::Directory { what });
    }
    Ok(Directory {
        range: begin..directory_end,
        n_entries: n_entries[0],
    })
}

/// The entries, from the bytes of the directory.
///
/// # Errors
/// [`ArchiveError`] names the first entry at fault.
pub fn parse_directory(bytes: &[u8], directory: &Directory) -> Result<Archive, ArchiveError> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    for number in 0..directory.n_entries {
        let wrong = |what| ArchiveError::Entry { number, what };
        let (entry, after) = parse_entry(rest).map_err(wrong)?;
        entries.push(entry);
        rest = after;
    }
    if !rest.is_empty() {
        let what = "has fewer entries than bytes for them";
        return Err(ArchiveError::Directory { what });
    }
    refuse_overlaps(&mut entries, directory.range.start)?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(ArchiveError::EntryTwice {
            entry: pair[0].name.clone(),
        }),
        None => Ok(Archive { entries }),
    }
}

/// Sorts entries by place, notes what follows each, and refuses those that reach into it.
fn refuse_overlaps(entries: &mut [Entry], directory_begin: u64) -> Result<(), ArchiveError> {
    entries.sort_unstable_by_key(|entry| entry.begin);
    let mut limit = directory_begin;
    for entry in entries.iter_mut().rev() {
        entry.limit = limit;
        if entry.least_end().is_none_or(|end| end > limit) {
            return Err(ArchiveError::Overlap {
                entry: entry.name.clone(),
            });
        }
        limit = entry.begin;
    }
    Ok(())
}

impl Archive {
    /// What the archive is.
    ///
    /// # Errors
    /// [`ArchiveError::Several`] and [`ArchiveError::Script`].
    pub fn kind(&self) -> Result<ArchiveKind, ArchiveError> {
        let folder = |entry: &'_ Entry| -> Option<usize> {
            let folder = entry.name.strip_suffix(PICKLE)?.strip_suffix('/')?;
            (!folder.contains('/')).then_some(folder.len())
        };
        let mut pickles = self.entries.iter().filter(|entry| folder(entry).is_some());
        let Some(pickle) = pickles.next() else {
            return Ok(ArchiveKind::Other);
        };
        if pickles.next().is_some() {
            let all = self.entries.iter().filter(|entry| folder(entry).is_some());
            return Err(ArchiveError::Several {
                found: all.map(|entry| entry.name.as_str()).collect::<Names>(),
            });
        }
        let folder = folder(pickle).map(|len| &pickle.name[..len]);
        let folder = folder.unwrap_or_default().to_owned();
        // What `torch.jit.save` writes beside the pickle of the module.
        match self.find(&folder, "constants.pkl") {
            Some(_) => Err(ArchiveError::Script),
            None => Ok(ArchiveKind::Torch(folder)),
        }
    }

    /// The pickle of the checkpoint in `folder`.
    ///
    /// # Errors
    /// [`ArchiveError::Missing`].
    pub fn pickle(&self, folder: &str) -> Result<&Entry, ArchiveError> {
        self.require(folder, PICKLE)
    }

    /// The record of the byte order, which early versions did not write.
    pub fn byte_order(&self, folder: &str) -> Option<&Entry> {
        self.find(folder, "byteorder")
    }

    /// The bytes of a storage.
    ///
    /// # Errors
    /// [`ArchiveError::Missing`], [`ArchiveError::StorageBytes`], and if it is compressed
    /// or encrypted.
    pub fn storage(&self, folder: &str, storage: &Storage) -> Result<&Entry, ArchiveError> {
        let entry = self.require(folder, &format!("data/{}", storage.key))?;
        entry.require_stored()?;
        if storage.bytes() != Some(entry.bytes) {
            return Err(ArchiveError::StorageBytes {
                entry: entry.name.clone(),
                expected: storage.bytes(),
                found: entry.bytes,
            });
        }
        Ok(entry)
    }

    fn require(&self, folder: &str, name: &str) -> Result<&Entry, ArchiveError> {
        let missing = || ArchiveError::Missing {
            entry: format!("{folder}/{name}"),
        };
        self.find(folder, name).ok_or_else(missing)
    }

    fn find(&self, folder: &str, name: &str) -> Option<&Entry> {
        let name = format!("{folder}/{name}");
        let found = self.entries.binary_search_by(|entry| entry.name.cmp(&name));
        found.ok().map(|at| &self.entries[at])
    }
}

/// Refuses numbers with the highest byte first, from the record of the byte order.
///
/// # Errors
/// [`ArchiveError::BigEndian`] and [`ArchiveError::ByteOrder`].
pub fn check_byte_order(record: &[u8]) -> Result<(), ArchiveError> {
    match record {
        b"little" => Ok(()),
        b"big" => Err(ArchiveError::BigEndian),
        _ => Err(ArchiveError::ByteOrder),
    }
}

/// The last `N` bytes, if they begin with `signature`, and what stands before them.
fn split_end<const N: usize>(bytes: &[u8], signature: [u8; 4]) -> Option<(&[u8], [u8; N])> {
    let (before, end) = bytes.split_last_chunk::<N>()?;
    end.starts_with(&signature).then_some((before, *end))
}
