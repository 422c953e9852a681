//! The files that a pattern matches: a pattern walks in, paths walk out.
//!
//! What parts of a name match is the crate `glob`'s; the walk is here, because that of the
//! crate follows links that lead back to where it is, until a path has become too long:
//! two such links make a tree without an end. Here a directory is listed once for each part
//! of the pattern, by whatever ways it is reached, and by its own path rather than by a
//! link.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use glob::MatchOptions;
use glob::Pattern;
use glob::PatternError;

/// How names are matched. Hidden ones are told apart by [`Part::matches`].
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum WalkError {
    /// The pattern is malformed.
    Pattern(PatternError),
    /// A directory cannot be listed.
    List {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The user asked to stop.
    Interrupted,
}

/// What stands between two slashes of a pattern.
enum Part {
    /// A name.
    Name(String),
    /// A pattern of names.
    Names(Pattern),
    /// `**`: this directory and all below it.
    Below,
}

impl Part {
    /// Whether a name matches. One that begins with a dot must be asked for by a dot, as
    /// in a shell; one that is no text matches no pattern.
    fn matches(&self, name: &OsStr) -> bool {
        let is_hidden = name.as_bytes().starts_with(b".");
        match (self, name.to_str()) {
            (Self::Names(pattern), Some(name)) => {
                let is_asked_for = pattern.as_str().starts_with('.');
                (is_asked_for || !is_hidden) && pattern.matches_with(name, OPTIONS)
            }
            (Self::Below, _) => !is_hidden,
            _ => false,
        }
    }
}

/// A directory that is still to be looked at, and the part of the pattern that what is in
/// it has to match.
struct Visit {
    directory: PathBuf,
    part: usize,
}

struct Walk<'a> {
    parts: Vec<Part>,
    /// Whether a match must be a directory: the pattern ends in a slash.
    needs_directory: bool,
    /// Those whose paths have no link, the next one last.
    visits: Vec<Visit>,
    /// Those behind links, looked at when no other is left.
    behind_links: Vec<Visit>,
    /// Device and inode of directories that were looked at, with the part.
    visited: HashSet<(usize, u64, u64)>,
    found: Vec<PathBuf>,
    interrupted: &'a AtomicBool,
}

/// The paths that match, in no order. Where `**` leads to a file by several names, as links
/// to it are, one of them is taken: its own.
pub(super) fn matches(pattern: &str, interrupted: &AtomicBool) -> Result<Vec<PathBuf>, WalkError> {
    // For the position of what is wrong.
    Pattern::new(pattern).map_err(WalkError::Pattern)?;
    let parts = parts(pattern).map_err(WalkError::Pattern)?;
    let has_below = parts.iter().any(|part| matches!(part, Part::Below));
    let root = match pattern.starts_with('/') {
        true => "/",
        false => "",
    };
    let mut walk = Walk {
        parts,
        needs_directory: pattern.ends_with('/'),
        visits: Vec::new(),
        behind_links: Vec::new(),
        visited: HashSet::new(),
        found: Vec::new(),
        interrupted,
    };
    walk.advance(PathBuf::from(root), 0);
    while let Some(visit) = walk.visits.pop().or_else(|| walk.behind_links.pop()) {
        walk.visit(&visit)?;
    }
    match has_below {
        true => Ok(each_once(walk.found)),
        false => Ok(walk.found),
    }
}

fn parts(pattern: &str) -> Result<Vec<Part>, PatternError> {
    let mut parts: Vec<Part> = Vec::new();
    for text in pattern.split('/').filter(|text| !text.is_empty()) {
        match text {
            "**" if matches!(parts.last(), Some(Part::Below)) => {}
            "**" => parts.push(Part::Below),
            text if text.contains(['*', '?', '[']) => parts.push(Part::Names(Pattern::new(text)?)),
            text => parts.push(Part::Name(text.to_owned())),
        }
    }
    Ok(parts)
}

impl Walk<'_> {
    /// Notes that `path` matches all parts before `part`: it is found, or looked into.
    /// Names need no listing, so that a directory on the way need not be readable.
    fn advance(&mut self, mut path: PathBuf, mut part: usize) {
        while let Some(Part::Name(name)) = self.parts.get(part) {
            path.push(name);
            part += 1;
            if fs::symlink_metadata(&path).is_err() {
                return;
            }
        }
        if part == self.parts.len() {
            if !self.needs_directory || path.is_dir() {
                self.found.push(path);
            }
            return;
        }
        let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
        let visit = Visit {
            directory: path,
            part,
        };
        match is_link {
            true => self.behind_links.push(visit),
            false => self.visits.push(visit),
        }
    }

    /// Looks into a directory, unless that was done for this part of the pattern.
    fn visit(&mut self, visit: &Visit) -> Result<(), WalkError> {
        let Visit { directory, part } = visit;
        let here = match directory.as_os_str().is_empty() {
            true => Path::new("."),
            false => directory,
        };
        let Some(found) = fs::metadata(here).ok().filter(fs::Metadata::is_dir) else {
            return Ok(());
        };
        if !self.visited.insert((*part, found.dev(), found.ino())) {
            return Ok(());
        }
        let is_below = matches!(self.parts[*part], Part::Below);
        if is_below {
            self.advance(directory.clone(), part + 1);
        }
        let failed = |source| WalkError::List {
            path: here.to_owned(),
            source,
        };
        let mut behind_links = Vec::new();
        for entry in fs::read_dir(here).map_err(failed)? {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(WalkError::Interrupted);
            }
            let entry = entry.map_err(failed)?;
            if !self.parts[*part].matches(&entry.file_name()) {
                continue;
            }
            let path = directory.join(entry.file_name());
            match entry.file_type() {
                _ if !is_below => self.advance(path, part + 1),
                Ok(kind) if kind.is_dir() => self.visits.push(Visit {
                    directory: path,
                    part: *part,
                }),
                // Only those to directories are followed, when their turn has come.
                Ok(kind) if kind.is_symlink() => behind_links.push(Visit {
                    directory: path,
                    part: *part,
                }),
                _ => {}
            }
        }
        self.behind_links.append(&mut behind_links);
        Ok(())
    }
}

/// Those paths that are not further names of one file: of several, one that is no link.
fn each_once(mut found: Vec<PathBuf>) -> Vec<PathBuf> {
    let is_link = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|it| it.is_symlink());
    found.sort_by_cached_key(|path| (is_link(path), path.clone()));
    let mut known = HashSet::new();
    found.retain(|path| match fs::metadata(path) {
        // Two names without a link between them are two files to their owner.
        Ok(it) => known.insert((it.dev(), it.ino())) || !is_link(path),
        Err(_) => true,
    });
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes files in a directory of their own, and the directories around them.
    fn tree(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        directory
    }

    fn found(root: &Path, pattern: &str) -> Vec<String> {
        let pattern = format!("{}/{pattern}", root.display());
        let found = matches(&pattern, &AtomicBool::new(false)).unwrap();
        let names = found.iter().map(|path| {
            let name = path.strip_prefix(root).unwrap();
            name.to_str().unwrap().to_owned()
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn patterns_mean_what_they_meant() {
        let tree = tree(&[
            "a.st",
            "b.st",
            "c.bin",
            ".hidden.st",
            "run/a.st",
            "run/deep/a.st",
            "run/deep/er/a.st",
            ".git/a.st",
            "run/.old/a.st",
        ]);
        let root = tree.path();
        let odd = std::ffi::OsString::from_vec(b"odd\xff.st".to_vec());
        fs::write(root.join(odd), "").unwrap();
        // The crate's own walk, which panics at names that are no text, for comparison.
        let check = |pattern: &str, expected: &[&str]| {
            assert_eq!(found(root, pattern), expected, "{pattern}");
        };
        check("*.st", &["a.st", "b.st"]);
        check("?.[!s]*", &["c.bin"]);
        check(".h*.st", &[".hidden.st"]);
        check("*/a.st", &["run/a.st"]);
        check("*/", &["run"]);
        check(
            "r*/**/a.st",
            &["run/a.st", "run/deep/a.st", "run/deep/er/a.st"],
        );
        check("**/er/*", &["run/deep/er/a.st"]);
        check("**/**/er/**/*.st", &["run/deep/er/a.st"]);
        check("**/deep/*.st", &["run/deep/a.st"]);
        check("run/**", &["run", "run/deep", "run/deep/er"]);
        check("run/.old/*.st", &["run/.old/a.st"]);
        check("*/.o*/*.st", &["run/.old/a.st"]);
        check("run/../*.bin", &["run/../c.bin"]);
        check("a.st/*", &[]);
        check("none/**/*.st", &[]);
    }

    #[test]
    fn links_that_lead_back_end_and_files_are_found_once() {
        let tree = tree(&["a/one.st", "z/two.st"]);
        let root = tree.path();
        symlink("..", root.join("a/up")).unwrap();
        symlink(".", root.join("self")).unwrap();
        symlink("z", root.join("b")).unwrap();
        symlink("one.st", root.join("a/best.st")).unwrap();
        symlink("nowhere", root.join("a/dangling.st")).unwrap();
        let all = ["a/dangling.st", "a/one.st", "z/two.st"];
        assert_eq!(found(root, "**/*.st"), all);
        assert_eq!(found(root, "**/**/**/*.st"), all);
        assert_eq!(found(root, "a/**/z/*.st"), ["a/up/z/two.st"]);
        // Without `**` names count, as in a shell.
        let names = ["a/best.st", "a/dangling.st", "a/one.st"];
        assert_eq!(found(root, "a/*.st"), names);
        assert_eq!(found(root, "?/two.st"), ["b/two.st", "z/two.st"]);
        // Hard links are files.
        fs::hard_link(root.join("a/one.st"), root.join("a/three.st")).unwrap();
        assert_eq!(found(root, "a/**/o*.st"), ["a/one.st"]);
        assert_eq!(found(root, "**/t*.st"), ["a/three.st", "z/two.st"]);
    }

    #[test]
    fn a_signal_ends_a_walk() {
        let tree = tree(&["a.st"]);
        let pattern = format!("{}/**/*.st", tree.path().display());
        let ended = matches(&pattern, &AtomicBool::new(true));
        assert!(matches!(ended, Err(WalkError::Interrupted)));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["a[.st", "a**/b", "***/b"] {
            let refused = matches(pattern, &AtomicBool::new(false));
            assert!(matches!(refused, Err(WalkError::Pattern(_))), "{pattern}");
        }
    }
}
