//! Small files that people and programs write: recipes, lists, records. A path walks in,
//! its bytes walk out, if they are those of a regular file and no more than was agreed.
//!
//! Nothing here waits: a fifo that nobody writes to, a device without an end and a file
//! of a terabyte are refused by what they are. Only a pipe without a name, as a shell
//! makes of `<(command)`, is read like a file, because whoever names it has just made it.
//!
//! What belongs to a directory that others may write to is opened with [`Links::Refuse`].

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::format::replace::FileKind;

/// Most bytes of a text that a person writes, or that a program writes for people: a list
/// of a million paths takes a third of it.
pub const TEXT_LIMIT: u64 = 64 << 20;

/// Type of the file system that pipes without a name are on: `PIPEFS_MAGIC`, statfs(2).
const PIPE_FS: u64 = 0x5049_5045;

/// What is done with a path whose last name is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// It is followed.
    Follow,
    /// It is refused: somebody else may have put it there.
    Refuse,
}

/// All bytes of a regular file, or of a pipe without a name.
///
/// # Errors
/// What the system says; [`io::ErrorKind::InvalidInput`] if it is something else, and
/// [`io::ErrorKind::FileTooLarge`] if it has more than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_all(open(path, Links::Follow)?, limit)
}

/// As [`read`], for a text.
///
/// # Errors
/// As for [`read`], and [`io::ErrorKind::InvalidData`] if it is no UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    text(read(path, limit)?)
}

/// All bytes of a regular file that is no link.
///
/// # Errors
/// As for [`read`].
pub fn read_unlinked(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_all(open(path, Links::Refuse)?, limit)
}

/// As [`read_unlinked`], for a text.
///
/// # Errors
/// As for [`read_text`].
pub fn read_text_unlinked(path: &Path, limit: u64) -> io::Result<String> {
    text(read_unlinked(path, limit)?)
}

/// Opens to read: a regular file, or a pipe without a name where links are followed.
///
/// # Errors
/// As for [`read`].
pub fn open(path: &Path, links: Links) -> io::Result<File> {
    // A device may act on being opened, and a socket fails without saying why.
    let found = match links {
        Links::Follow => std::fs::metadata(path),
        Links::Refuse => std::fs::symlink_metadata(path),
    };
    let found = FileKind::from(found?.file_type());
    let may_be_pipe = links == Links::Follow && found == FileKind::Fifo;
    if found != FileKind::File && !may_be_pipe {
        return Err(irregular(found));
    }
    let file = open_with(OpenOptions::new().read(true), path, links)?;
    match FileKind::from(file.metadata()?.file_type()) {
        FileKind::File => Ok(file),
        FileKind::Fifo if may_be_pipe && is_nameless(&file)? => {
            // From here on whoever reads waits for the writer, which is alive.
            let flags = rustix::fs::fcntl_getfl(&file)?;
            rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
            Ok(file)
        }
        found => Err(irregular(found)),
    }
}

/// Opens a regular file, which is no link, as `options` say: to append, say.
///
/// # Errors
/// As for [`read`].
pub fn open_unlinked(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(irregular(FileKind::from(metadata.file_type())));
        }
        _ => {}
    }
    let file = open_with(options, path, Links::Refuse)?;
    match FileKind::from(file.metadata()?.file_type()) {
        FileKind::File => Ok(file),
        found => Err(irregular(found)),
    }
}

fn open_with(options: &mut OpenOptions, path: &Path, links: Links) -> io::Result<File> {
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if links == Links::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    let opened = options.custom_flags(flags.bits().cast_signed()).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(errno) if links == Links::Refuse && errno == Errno::LOOP.raw_os_error() => {
            irregular(FileKind::Link)
        }
        // A fifo without a reader, opened to write.
        Some(errno) if errno == Errno::NXIO.raw_os_error() => irregular(FileKind::Fifo),
        _ => error,
    })
}

/// Whether a fifo has no name in a directory, so that only processes that were given it
/// have it.
fn is_nameless(fifo: &File) -> io::Result<bool> {
    let found = rustix::fs::fstatfs(fifo)?.f_type;
    Ok(u64::try_from(found).is_ok_and(|found| found == PIPE_FS))
}

fn irregular(found: FileKind) -> io::Error {
    let text = format!("it is {found}, expected {}", FileKind::File);
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn read_all(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let too_large = |found: &str| {
        let text = format!("it has {found} bytes, expected {limit} at most");
        io::Error::new(io::ErrorKind::FileTooLarge, text)
    };
    let told = file.metadata()?.len();
    if told > limit {
        return Err(too_large(&told.to_string()));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        found if found > limit => Err(too_large(&format!("more than {limit}"))),
        _ => Ok(bytes),
    }
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = format!("it is no text in UTF-8, from byte {at} on");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    fn fifo(path: &Path) {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn only_regular_files_of_bounded_length_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        fifo(&at("fifo"));
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let check = |path: &Path, links, expected: Result<&str, &str>| {
            let found = open(path, links).and_then(|file| read_all(file, 5));
            let found = found.map_err(|error| error.to_string());
            match expected {
                Ok(text) => assert_eq!(found.unwrap(), text.as_bytes(), "{path:?}"),
                Err(why) => assert!(found.unwrap_err().contains(why), "{path:?}"),
            }
        };
        for links in [Links::Follow, Links::Refuse] {
            check(&at("file"), links, Ok("12345"));
            check(&at("directory"), links, Err("it is a directory"));
            check(&at("fifo"), links, Err("it is a fifo"));
            check(&at("socket"), links, Err("it is a socket"));
            check(Path::new("/dev/zero"), links, Err("it is a device"));
            check(&at("absent"), links, Err("No such file"));
        }
        check(&at("link"), Links::Follow, Ok("12345"));
        check(&at("link"), Links::Refuse, Err("it is a symbolic link"));
        check(&at("dangling"), Links::Follow, Err("No such file"));
        check(&at("dangling"), Links::Refuse, Err("it is a symbolic link"));
        let long = read(&at("file"), 4).unwrap_err();
        assert_eq!(long.kind(), io::ErrorKind::FileTooLarge);
        // A file that does not tell its length beforehand.
        let long = read(Path::new("/proc/self/status"), 4).unwrap_err();
        assert_eq!(long.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_pipe_without_a_name_is_read_to_its_end_and_not_further_than_agreed() {
        let check = |bytes: &[u8], limit, expected: Option<&[u8]>| {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(bytes).unwrap();
            drop(writer);
            let path = format!("/dev/fd/{}", reader.as_raw_fd());
            let found = read(Path::new(&path), limit);
            assert_eq!(found.ok().as_deref(), expected);
            let unlinked = read_unlinked(Path::new(&path), limit).unwrap_err();
            assert!(unlinked.to_string().contains("a symbolic link"));
        };
        check(b"", 3, Some(b""));
        check(b"abc", 3, Some(b"abc"));
        check(b"abcd", 3, None);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("victim"), "kept").unwrap();
        symlink("victim", at("link")).unwrap();
        symlink("made", at("dangling")).unwrap();
        fifo(&at("fifo"));
        for name in ["link", "dangling", "fifo"] {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            open_unlinked(&mut options, &at(name)).unwrap_err();
        }
        assert_eq!(fs::read(at("victim")).unwrap(), b"kept");
        assert!(!at("made").exists());
        let mut options = OpenOptions::new();
        let made = open_unlinked(options.append(true).create(true), &at("new"));
        made.unwrap().write_all(b"a").unwrap();
        assert_eq!(fs::read(at("new")).unwrap(), b"a");
    }
}
