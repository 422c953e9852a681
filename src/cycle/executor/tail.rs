//! The end of a log, however long the log is.

use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;

use crate::format::regular;
use crate::format::regular::Links;

/// Bytes that are read.
const MOST_BYTES: u64 = 64 << 10;

/// Characters of a line that are kept.
const MOST_CHARACTERS: usize = 400;

/// The last `n_lines` lines of a log that are not empty, as a terminal would leave them:
/// of a line that was written over, the last version. Control characters are not cleaned.
///
/// Reads the last 64 KiB, whatever the length. Long lines lose their ends.
///
/// # Errors
/// What the system says of reading it.
pub fn last_lines(log: &Path, n_lines: usize) -> io::Result<Vec<String>> {
    let mut file = regular::open(log, Links::Refuse)?;
    let from = file.metadata()?.len().saturating_sub(MOST_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    // A log that grows meanwhile is not followed.
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(shown).collect();
    // The first line may lack its beginning; it serves only if there is no other.
    let is_cut = from > 0 && lines.len() > 1;
    let whole = lines[usize::from(is_cut)..].iter();
    let mut last: Vec<String> = whole
        .rev()
        .filter(|line| !line.is_empty())
        .take(n_lines)
        .map(|line| shortened(line))
        .collect();
    last.reverse();
    Ok(last)
}

/// What stays of a line that returns to its beginning, as progress bars do.
fn shown(line: &str) -> &str {
    let line = line.trim_end();
    line.rsplit('\r').next().unwrap_or(line)
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_lines_of_logs() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log.txt");
        let check = |bytes: &[u8], expected: &[&str]| {
            fs::write(&log, bytes).unwrap();
            assert_eq!(last_lines(&log, 2).unwrap(), expected);
        };
        check(b"", &[]);
        check(b"\n\n", &[]);
        check(b"a", &["a"]);
        check(b"a\nb\nc\n", &["b", "c"]);
        check(b"a\n\nb\n\n  \n", &["a", "b"]);
        check(b"a\r\nb\r\n", &["a", "b"]);
        check(b"  1%\r 50%\r100%\nlost\n", &["100%", "lost"]);
        check(b"  1%\r 50%\r\n", &[" 50%"]);
        check(b"\xffa\n", &["\u{fffd}a"]);
        let long = "é".repeat(MOST_CHARACTERS + 1);
        let short = format!("{}...", "é".repeat(MOST_CHARACTERS));
        check(long.as_bytes(), &[&short]);
        let lines = "0123456789abcde\n".repeat(10_000);
        check(lines.as_bytes(), &["0123456789abcde"; 2]);
        // One line that is longer than what is read.
        let endless = vec![b'x'; 1 << 20];
        fs::write(&log, endless).unwrap();
        let found = last_lines(&log, 2).unwrap();
        assert_eq!(found, [format!("{}...", "x".repeat(MOST_CHARACTERS))]);
        assert!(last_lines(&directory.path().join("none"), 2).is_err());
    }
}
