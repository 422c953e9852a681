//! A file opened for reading, by mapping or by `pread(2)`.

use std::fs::File;
use std::fs::Metadata;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::map::Mapping;
use crate::checkpoint::map::SLOTS;
use crate::checkpoint::map::SourceError;
use crate::format::replace::FileKind;

/// How bytes are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Through a read-only shared mapping: no copy.
    Mapped,
    /// By `pread(2)` into the caller's buffer.
    Pread,
}

/// Which file this is, and in which state.
///
/// The time of the last status change is no part of it: it moves when the path
/// is replaced by a newer file, which the open descriptor survives. What else it
/// tells, [`ByteSource::check_unchanged`] asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device that holds the file.
    pub device: u64,
    /// Number of the file on that device.
    pub inode: u64,
    /// Length.
    pub bytes: u64,
    /// Time of the last modification: seconds since 1970 and nanoseconds.
    pub modified: (i64, i64),
}

impl FileIdentity {
    fn new(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What moves when a file is written to and its time of modification put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    /// Time of the last change of status, which no call can set.
    changed: (i64, i64),
    /// What moves it, too, and is no change of the bytes: number of names,
    /// permissions and owner.
    others: (u64, u32, u32, u32),
}

impl Status {
    fn new(metadata: &Metadata) -> Self {
        let links = metadata.nlink();
        Self {
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            others: (links, metadata.mode(), metadata.uid(), metadata.gid()),
        }
    }
}

/// The bytes of one regular file, opened for reading.
///
/// Holds one descriptor for as long as it lives, so a path that is replaced
/// meanwhile changes nothing here.
#[derive(Debug)]
pub struct ByteSource {
    path: PathBuf,
    file: File,
    identity: FileIdentity,
    status: Status,
    mapping: Option<Mapping>,
}

impl ByteSource {
    /// The file at `path`; symbolic links are followed.
    ///
    /// Never blocks on a FIFO. [`Access::Mapped`] becomes [`Access::Pread`]
    /// where mapping is impossible: the file is empty, its file system cannot
    /// map, the address space is used up, or 8192 files are mapped already.
    ///
    /// # Errors
    /// [`SourceError::Missing`], [`SourceError::Denied`], [`SourceError::Open`]
    /// and [`SourceError::NotRegular`].
    pub fn open(path: &Path, access: Access) -> Result<Self, SourceError> {
        let failed = |source: io::Error| {
            let path = path.to_path_buf();
            match source.kind() {
                io::ErrorKind::NotFound => SourceError::Missing { path, source },
                io::ErrorKind::PermissionDenied => SourceError::Denied { path, source },
                _ => SourceError::Open { path, source },
            }
        };
        // Asked before opening, because opening a device can act on it and
        // opening a socket fails without saying why; and again afterwards,
        // because the path may have changed hands in between.
        require_regular(path, &std::fs::metadata(path).map_err(failed)?)?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        require_regular(path, &metadata)?;
        let identity = FileIdentity::new(&metadata);
        let mapping = match access {
            Access::Mapped => Mapping::new(&file, identity.bytes, &SLOTS),
            Access::Pread => None,
        };
        Ok(Self {
            path: path.to_path_buf(),
            file,
            identity,
            status: Status::new(&metadata),
            mapping,
        })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file when it was opened.
    pub fn bytes(&self) -> u64 {
        self.identity.bytes
    }

    /// Identity of the file when it was opened.
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// How bytes are in fact reached; see [`ByteSource::open`].
    pub fn access(&self) -> Access {
        match self.mapping {
            Some(_) => Access::Mapped,
            None => Access::Pread,
        }
    }

    /// Bytes `[offset, offset + len)`: borrowed from the mapping, or read into
    /// `scratch`, which then grows to `len` but never shrinks.
    ///
    /// Borrowed bytes are what the file holds when they are looked at. Call
    /// [`ByteSource::check_fault`] after using them.
    ///
    /// # Errors
    /// [`SourceError::Range`] if the range passes the end of the file,
    /// [`SourceError::Truncated`] if the file has become shorter,
    /// [`SourceError::Fault`], [`SourceError::Read`] and [`SourceError::Memory`].
    pub fn read<'a>(
        &'a self,
        offset: u64,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], SourceError> {
        let range = || SourceError::Range {
            path: self.path.clone(),
            offset,
            len: len as u64,
            bytes: self.identity.bytes,
        };
        let end = offset.checked_add(len as u64).ok_or_else(range)?;
        if end > self.identity.bytes {
            return Err(range());
        }
        if len == 0 {
            return Ok(&[]);
        }
        if let Some(mapping) = &self.mapping {
            if mapping.fault().is_some() {
                self.check_fault()?;
            }
            let start = usize::try_from(offset).map_err(|_| range())?;
            return mapping.map.get(start..start + len).ok_or_else(range);
        }
        if scratch.len() < len {
            scratch
                .try_reserve(len - scratch.len())
                .map_err(|_| SourceError::Memory {
                    path: self.path.clone(),
                    len,
                })?;
            scratch.resize(len, 0);
        }
        let bytes = &mut scratch[..len];
        self.pread(offset, bytes)?;
        Ok(bytes)
    }

    /// Fills `buffer` with the bytes from `offset`.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        if self.mapping.is_none() {
            let end = offset.checked_add(buffer.len() as u64);
            if end.is_some_and(|end| end <= self.identity.bytes) {
                return self.pread(offset, buffer);
            }
        }
        let mut scratch = Vec::new();
        buffer.copy_from_slice(self.read(offset, buffer.len(), &mut scratch)?);
        Ok(())
    }

    fn pread(&self, offset: u64, bytes: &mut [u8]) -> Result<(), SourceError> {
        match self.file.read_exact_at(bytes, offset) {
            Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Err(SourceError::Truncated {
                    path: self.path.clone(),
                    expected: self.identity.bytes,
                    found: self.identity_now()?.bytes,
                })
            }
            result => result.map_err(|source| SourceError::Read {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Agrees that the mapped bytes read so far were the file's.
    ///
    /// Asks the file for its length too, because the part of the last page
    /// behind a new end reads as zeros without any fault. Always agrees under
    /// [`Access::Pread`], where [`ByteSource::read`] itself fails.
    ///
    /// # Errors
    /// [`SourceError::Truncated`] or [`SourceError::Fault`].
    pub fn check_fault(&self) -> Result<(), SourceError> {
        let Some(mapping) = &self.mapping else {
            return Ok(());
        };
        let fault = mapping.fault();
        let found = self.identity_now()?.bytes;
        let path = || self.path.clone();
        if found < self.identity.bytes {
            return Err(SourceError::Truncated {
                path: path(),
                expected: self.identity.bytes,
                found,
            });
        }
        match fault {
            Some(offset) => Err(SourceError::Fault {
                path: path(),
                offset,
            }),
            None => Ok(()),
        }
    }

    /// Agrees that the file was neither written to nor resized since it was
    /// opened, as far as its length and times tell.
    ///
    /// It is the open file that is asked, not the path: a path that now names
    /// a newer file is fine, because the bytes read are the old one's. So is a
    /// new name, owner or permission, all of which move the time of the last
    /// change of status; where nothing else has moved it, bytes were written and
    /// the time of modification was put back.
    ///
    /// # Errors
    /// [`SourceError::Changed`], [`SourceError::PutBack`], and what
    /// [`ByteSource::check_fault`] says.
    pub fn check_unchanged(&self) -> Result<(), SourceError> {
        self.check_fault()?;
        let metadata = self.metadata_now()?;
        let found = FileIdentity::new(&metadata);
        if found != self.identity {
            return Err(SourceError::Changed {
                path: self.path.clone(),
                expected: self.identity,
                found,
            });
        }
        let status = Status::new(&metadata);
        let is_explained = status.others != self.status.others || self.is_elsewhere();
        if status.changed != self.status.changed && !is_explained {
            return Err(SourceError::PutBack {
                path: self.path.clone(),
                expected: self.status.changed,
                found: status.changed,
            });
        }
        Ok(())
    }

    /// Whether the path names another file now, or none: the open one was renamed or
    /// replaced.
    fn is_elsewhere(&self) -> bool {
        std::fs::metadata(&self.path).map_or(true, |metadata| {
            let own = (self.identity.device, self.identity.inode);
            (metadata.dev(), metadata.ino()) != own
        })
    }

    /// Drops the resident pages of a range that will not be read again soon,
    /// rounded outward to whole pages. They come back if they are read again,
    /// so slices that are still borrowed stay right.
    pub fn release(&self, offset: u64, len: u64) {
        let Some(mapping) = &self.mapping else {
            return;
        };
        let end = offset.saturating_add(len).min(self.identity.bytes);
        let (Ok(start), Ok(end)) = (usize::try_from(offset), usize::try_from(end)) else {
            return;
        };
        if start < end {
            mapping.release(start, end - start);
        }
    }

    fn identity_now(&self) -> Result<FileIdentity, SourceError> {
        Ok(FileIdentity::new(&self.metadata_now()?))
    }

    fn metadata_now(&self) -> Result<Metadata, SourceError> {
        self.file.metadata().map_err(|source| SourceError::Read {
            path: self.path.clone(),
            source,
        })
    }
}

fn require_regular(path: &Path, metadata: &Metadata) -> Result<(), SourceError> {
    match FileKind::from(metadata.file_type()) {
        FileKind::File => Ok(()),
        found => Err(SourceError::NotRegular {
            path: path.to_path_buf(),
            found,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::sync::Barrier;
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::format::replace::Durability;
    use crate::format::replace::Existing;
    use crate::format::replace::StagedFile;
    use crate::format::replace::Target;

    const BOTH: [Access; 2] = [Access::Mapped, Access::Pread];

    fn set_len(path: &Path, bytes: u64) {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(bytes)
            .unwrap();
    }

    /// Byte `i` of the files below: never 0, so that zero pages show.
    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8 + 1).collect()
    }

    #[test]
    fn both_ways_read_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, pattern(70_001)).unwrap();
        let link = directory.path().join("link");
        symlink("a", &link).unwrap();
        for access in BOTH {
            let source = ByteSource::open(&link, access).unwrap();
            assert_eq!(source.access(), access);
            assert_eq!(source.bytes(), 70_001);
            assert_eq!(source.path(), link);
            let mut scratch = Vec::new();
            assert_eq!(
                source.read(0, 70_001, &mut scratch).unwrap(),
                pattern(70_001)
            );
            source.release(4_097, 60_000);
            source.release(70_000, u64::MAX);
            source.release(u64::MAX, 1);
            assert_eq!(
                source.read(4_000, 300, &mut scratch).unwrap(),
                &pattern(4_300)[4_000..]
            );
            source.check_fault().unwrap();
            source.check_unchanged().unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arbitrary_ranges_agree(
            content in proptest::collection::vec(any::<u8>(), 0..10_000),
            ranges in proptest::collection::vec((0_u64..11_000, 0_usize..11_000), 1..20),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a");
            fs::write(&path, &content).unwrap();
            let sources = BOTH.map(|access| ByteSource::open(&path, access).unwrap());
            let mut scratch = Vec::new();
            for (offset, len) in ranges {
                let expected = content.get(offset as usize..offset as usize + len);
                for source in &sources {
                    source.release(offset, len as u64);
                    match source.read(offset, len, &mut scratch) {
                        Ok(found) => prop_assert_eq!(Some(found), expected),
                        Err(SourceError::Range { .. }) => prop_assert_eq!(None, expected),
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        }
    }

    #[test]
    fn ranges_outside_the_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, b"12345").unwrap();
        for access in BOTH {
            let source = ByteSource::open(&path, access).unwrap();
            for (offset, len) in [(5, 1), (0, 6), (6, 0), (u64::MAX, 1), (1, usize::MAX)] {
                let result = source
                    .read(offset, len, &mut Vec::new())
                    .map(<[u8]>::to_vec);
                assert!(
                    matches!(result, Err(SourceError::Range { bytes: 5, .. })),
                    "{offset} {len}: {result:?}"
                );
            }
        }
    }

    #[test]
    fn an_empty_file_has_nothing_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, b"").unwrap();
        for access in BOTH {
            let source = ByteSource::open(&path, access).unwrap();
            assert_eq!(source.read(0, 0, &mut Vec::new()).unwrap(), b"");
            source.release(0, 1);
            source.check_unchanged().unwrap();
        }
    }

    #[test]
    fn only_regular_files_open() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let link = directory.path().join("link");
        symlink("fifo", &link).unwrap();
        let check = |path: &Path, expected| {
            for access in BOTH {
                match ByteSource::open(path, access) {
                    Err(SourceError::NotRegular { found, .. }) => assert_eq!(found, expected),
                    other => panic!("{path:?}: {other:?}"),
                }
            }
        };
        check(directory.path(), FileKind::Directory);
        check(&fifo, FileKind::Fifo);
        check(&link, FileKind::Fifo);
        check(&socket, FileKind::Socket);
        check(Path::new("/dev/null"), FileKind::Device);
    }

    #[test]
    fn missing_files_say_so() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let link = directory.path().join("link");
        symlink("missing", &link).unwrap();
        for path in [&missing, &link] {
            let error = ByteSource::open(path, Access::Mapped).unwrap_err();
            assert!(matches!(error, SourceError::Missing { .. }), "{error:?}");
            assert_eq!(
                error.to_string(),
                format!("`{}` does not exist", path.display())
            );
        }
    }

    #[test]
    fn a_forbidden_file_is_denied() {
        const CHILD: &str = "SMS_MERGE_TEST_DENIED";
        if let Some(path) = std::env::var_os(CHILD) {
            let error = ByteSource::open(Path::new(&path), Access::Mapped).unwrap_err();
            assert!(matches!(error, SourceError::Denied { .. }), "{error:?}");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("a");
        fs::write(&path, b"1").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let executable = std::env::current_exe().unwrap();
        // Root reads everything: become somebody else.
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(executable);
            command
        } else {
            Command::new(executable)
        };
        let test = "checkpoint::map::source::tests::a_forbidden_file_is_denied";
        match command.args(["--exact", test]).env(CHILD, &path).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(text.contains("1 passed"), "{text}");
            }
            Err(error) => println!("skipped: `setpriv` cannot be run: {error}"),
        }
    }

    #[test]
    fn truncation_under_pread_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, pattern(9_000)).unwrap();
        let source = ByteSource::open(&path, Access::Pread).unwrap();
        set_len(&path, 5_000);
        let mut scratch = Vec::new();
        assert_eq!(source.read(0, 5_000, &mut scratch).unwrap(), pattern(5_000));
        let error = source.read(1_000, 8_000, &mut scratch).unwrap_err();
        assert!(
            matches!(
                error,
                SourceError::Truncated {
                    expected: 9_000,
                    found: 5_000,
                    ..
                }
            ),
            "{error:?}"
        );
    }

    #[test]
    fn truncation_under_a_mapping_is_an_error_in_every_thread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let len = 64 * 4_096_usize + 17;
        let expected = pattern(len);
        for round in 0..120_usize {
            // To a page boundary, past one, into the last page, and to nothing.
            let new_len = [4_096 * 3, 4_096 * 5 + 100, len as u64 - 10, 0][round % 4];
            fs::write(&path, &expected).unwrap();
            let source = ByteSource::open(&path, Access::Mapped).unwrap();
            assert_eq!(source.access(), Access::Mapped);
            let barrier = Barrier::new(5);
            thread::scope(|scope| {
                for thread in 0..4 {
                    let (source, barrier, expected) = (&source, &barrier, &expected);
                    scope.spawn(move || {
                        let mut scratch = Vec::new();
                        barrier.wait();
                        while let Ok(bytes) = source.read(0, len, &mut scratch) {
                            // Half of the threads start at the end.
                            let pages = bytes.chunks(4_096).zip(expected.chunks(4_096));
                            let same = if thread % 2 == 0 {
                                pages.into_iter().all(|(a, b)| a == b)
                            } else {
                                pages.rev().all(|(a, b)| a == b)
                            };
                            if let Err(error) = source.check_fault() {
                                assert!(
                                    matches!(error, SourceError::Truncated { found, .. }
                                        if found == new_len),
                                    "{error:?}"
                                );
                                break;
                            }
                            assert!(same, "wrong bytes passed for right");
                            source.release(0, len as u64);
                        }
                    });
                }
                barrier.wait();
                set_len(&path, new_len);
            });
            assert!(source.check_fault().is_err());
            assert!(source.check_unchanged().is_err());
        }
    }

    #[test]
    fn a_fault_in_one_file_leaves_the_others_alone() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = directory.path().join(name);
            fs::write(&path, pattern(20_000)).unwrap();
            ByteSource::open(&path, Access::Mapped).unwrap()
        };
        let (first, second, third) = (open("a"), open("b"), open("c"));
        drop(first);
        set_len(second.path(), 0);
        let mut scratch = Vec::new();
        let bytes = second.read(0, 20_000, &mut scratch).unwrap();
        assert_eq!(bytes[10_000], 0);
        assert!(second.check_fault().is_err());
        // Growing back does not heal: the zero pages stay.
        set_len(second.path(), 20_000);
        let error = second.check_fault().unwrap_err();
        assert!(
            matches!(error, SourceError::Fault { offset: 10_000, .. }),
            "{error:?}"
        );
        let mut scratch = Vec::new();
        assert!(second.read(0, 1, &mut scratch).is_err());
        assert_eq!(
            third.read(0, 20_000, &mut scratch).unwrap(),
            pattern(20_000)
        );
        third.check_unchanged().unwrap();
    }

    #[test]
    fn truncated_bytes_are_written_and_then_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let len = 300_000;
        fs::write(&path, pattern(len)).unwrap();
        let source = ByteSource::open(&path, Access::Mapped).unwrap();
        let target = Target::for_file(&directory.path().join("b"), Existing::Refuse).unwrap();
        let staged = StagedFile::create(&target, len as u64, Durability::Unsynced).unwrap();
        let mut scratch = Vec::new();
        let bytes = source.read(0, len, &mut scratch).unwrap();
        set_len(&path, 5_000);
        staged.write_at(bytes, 0).unwrap();
        let error = source.check_fault().unwrap_err();
        assert!(
            matches!(error, SourceError::Truncated { found: 5_000, .. }),
            "{error:?}"
        );
    }

    #[test]
    fn a_written_file_has_changed_and_a_replaced_path_has_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, pattern(100)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        for access in BOTH {
            let source = ByteSource::open(&path, access).unwrap();
            let other = directory.path().join("b");
            fs::write(&other, b"other").unwrap();
            let kept = directory.path().join("kept");
            fs::hard_link(&path, &kept).unwrap();
            fs::rename(&other, &path).unwrap();
            source.check_unchanged().unwrap();
            assert_eq!(source.read(0, 100, &mut Vec::new()).unwrap(), pattern(100));
            assert_ne!(
                source.identity(),
                ByteSource::open(&path, access).unwrap().identity()
            );
            fs::rename(&kept, &path).unwrap();

            file.write_all_at(b"!", 0).unwrap();
            let error = source.check_unchanged().unwrap_err();
            assert!(matches!(error, SourceError::Changed { .. }), "{error:?}");
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
            file.write_all_at(&pattern(1), 0).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
    }

    #[test]
    fn a_time_of_modification_that_is_put_back_hides_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, pattern(100)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for access in BOTH {
            let source = ByteSource::open(&path, access).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            // Clocks of file systems tick every few milliseconds.
            thread::sleep(std::time::Duration::from_millis(30));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            source.check_unchanged().unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            file.write_all_at(b"!", 0).unwrap();
            file.set_modified(modified).unwrap();
            let error = source.check_unchanged().unwrap_err();
            assert!(matches!(error, SourceError::PutBack { .. }), "{error:?}");
        }
    }
}
