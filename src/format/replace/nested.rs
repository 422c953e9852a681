//! Folders within an output directory: names with slashes walk in, open folders walk out.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::format::replace::parent::Parent;
use crate::format::replace::target::is_plain;

/// Most folders that lie within one another, in an output and in what is removed.
pub(super) const MOST_DEPTH: usize = 16;

/// Whether a name may stand for a file within an output directory: plain names with
/// slashes between them.
pub(super) fn is_plain_path(name: &str) -> bool {
    name.split('/').count() <= MOST_DEPTH && name.split('/').all(|part| is_plain(OsStr::new(part)))
}

/// The folder that a name leads to, empty for the directory itself, and what follows.
pub(super) fn parts(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

/// The folders of a directory under construction, made when they are first asked for.
pub(super) struct Folders<'a> {
    root: &'a Parent,
    mode: Mode,
    made: BTreeMap<String, Parent>,
}

impl<'a> Folders<'a> {
    pub(super) fn new(root: &'a Parent, mode: Mode) -> Self {
        Self {
            root,
            mode,
            made: BTreeMap::new(),
        }
    }

    /// The folder of this name, empty for the directory itself.
    pub(super) fn of(&mut self, name: &str) -> rustix::io::Result<&Parent> {
        // Each folder is made in the one before it, so that none is named by a long path.
        let ends = name.match_indices('/').map(|(end, _)| end);
        for end in ends.chain([name.len()]).filter(|&end| end > 0) {
            let (outer, inner) = parts(&name[..end]);
            if self.made.contains_key(&name[..end]) {
                continue;
            }
            let outer = self.made.get(outer).unwrap_or(self.root);
            match rustix::fs::mkdirat(&outer.fd, inner, self.mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            let made = outer.child(OsStr::new(inner))?;
            self.made.insert(name[..end].to_owned(), made);
        }
        Ok(self.made.get(name).unwrap_or(self.root))
    }

    /// All folders, each before the one that holds it, the directory itself last.
    pub(super) fn deepest_first(&self) -> impl Iterator<Item = &Parent> {
        self.made.values().rev().chain([self.root])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_down_only() {
        for name in ["a", "a/b", "1_Pooling/config.json", "..a/.b"] {
            assert!(is_plain_path(name), "{name}");
        }
        let deep = ["d"; MOST_DEPTH + 1].join("/");
        for name in ["", "/a", "a/", "a//b", "../a", "a/..", "./a", deep.as_str()] {
            assert!(!is_plain_path(name), "{name}");
        }
        assert_eq!(parts("a/b/c"), ("a/b", "c"));
        assert_eq!(parts("c"), ("", "c"));
    }

    #[test]
    fn folders_are_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = Parent::open(directory.path()).unwrap();
        let mut folders = Folders::new(&root, Mode::RWXU);
        for name in ["a/b", "a", "", "a/b/c", "a/b"] {
            folders.of(name).unwrap();
        }
        assert!(directory.path().join("a/b/c").is_dir());
        let paths: Vec<_> = folders.deepest_first().map(|folder| &folder.path).collect();
        let expected = ["a/b/c", "a/b", "a"].map(|name| directory.path().join(name));
        assert_eq!(paths[..3], expected.iter().collect::<Vec<_>>());
        assert_eq!(paths[3], directory.path());
    }
}
