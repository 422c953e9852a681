//! The house rules that a compiler does not know: which room may name which, who may
//! touch what, and how large a file gets.
//!
//! Scans text, not syntax: rules are written so that a text scan decides them.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// What each room may name besides itself. ARCHITECTURE.md gives the reasons.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("format", &["tensor"]),
    ("checkpoint", &["format", "tensor"]),
    ("connectivity", &["checkpoint", "tensor"]),
    ("kernel", &["tensor"]),
    ("adapter", &["checkpoint", "kernel", "tensor"]),
    (
        "merge",
        &[
            "adapter",
            "connectivity",
            "checkpoint",
            "kernel",
            "format",
            "tensor",
        ],
    ),
    (
        "prune",
        &["connectivity", "checkpoint", "kernel", "format", "tensor"],
    ),
    ("graph", &["tensor"]),
    (
        "train",
        &["graph", "connectivity", "checkpoint", "format", "tensor"],
    ),
    (
        "export",
        &["graph", "connectivity", "checkpoint", "format", "tensor"],
    ),
    ("cycle", LIBRARY),
    ("cli", LIBRARY),
    ("lib", LIBRARY),
];

/// The rooms of the library.
const LIBRARY: &[&str] = &[
    "tensor",
    "format",
    "checkpoint",
    "connectivity",
    "kernel",
    "adapter",
    "merge",
    "prune",
    "graph",
    "train",
    "export",
    "cycle",
];

/// Files that may contain `unsafe`.
const UNSAFE_DOORS: &[&str] = &["checkpoint/map.rs", "kernel/cuda/driver.rs"];

/// Dependencies with one door each: what a line must not contain elsewhere, and
/// beginnings of the paths that are the door.
const DOORS: &[(&str, &[&str])] = &[
    ("memmap2", &["checkpoint/map.rs", "checkpoint/map/"]),
    ("cudarc", &["kernel/cuda.rs", "kernel/cuda/"]),
    ("candle_core", &["train.rs", "train/"]),
    ("candle_nn", &["train.rs", "train/"]),
    ("clap", &["main.rs", "cli.rs", "cli/"]),
    ("clap_complete", &["main.rs", "cli.rs", "cli/"]),
    ("anyhow", &["main.rs", "cli.rs", "cli/"]),
    ("indicatif", &["main.rs", "cli.rs", "cli/"]),
    ("anstream", &["cli/terminal.rs"]),
    ("signal_hook", &["main.rs"]),
    ("twox_hash", &["tensor/digest.rs"]),
];

/// What no file contains. The printing macros panic where their stream is closed.
const NOWHERE: &[&str] = &[
    "todo!(",
    "unimplemented!(",
    "dbg!(",
    "println!(",
    "print!(",
    "eprintln!(",
    "eprint!(",
];

/// What the library does not contain: the environment, the clock and the way out
/// belong to the binary.
const NOT_IN_LIBRARY: &[&str] = &[
    "std::env",
    "env::var",
    "env::args",
    "process::exit",
    "SystemTime",
    "Instant::now",
    "io::stdout",
    "io::stderr",
];

/// Most lines of a file before its tests.
const MOST_LINES: usize = 400;

/// Tables, which may be longer.
const TABLES: &[&str] = &["cli/args.rs"];

/// The file whose format strings may take a width from a variable.
const WIDTHS_DOOR: &str = "tensor/decimals.rs";

/// A source file, by its path below `src/`.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
}

impl Source<'_> {
    /// The room that the file belongs to.
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or(self.path);
        match first.strip_suffix(".rs").unwrap_or(first) {
            "main" => "cli",
            room => room,
        }
    }

    fn is_library(&self) -> bool {
        self.room() != "cli"
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Lines with their numbers, comments and the contents of strings taken out.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        code_lines(self.text)
            .into_iter()
            .enumerate()
            .map(|(idx, line)| (idx + 1, line))
    }

    /// Everything that is wrong with the file.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.text.starts_with("//!") && !self.is_test() {
            faults.push("1: begins without `//!`".to_owned());
        }
        let before_tests = self.before_tests();
        let is_long = before_tests > MOST_LINES;
        let may_be_long = self.is_test() || TABLES.contains(&self.path);
        if is_long && !may_be_long {
            faults.push(format!(
                "{MOST_LINES}: has {before_tests} lines before its tests"
            ));
        }
        let lines = self.text.lines().enumerate().take(before_tests);
        for (idx, _) in lines.filter(|(_, line)| has_width_from_data(line)) {
            let is_fault = self.path != WIDTHS_DOOR && !self.is_test();
            if is_fault {
                faults.push(format!(
                    "{}: a width that a format string takes from a variable",
                    idx + 1
                ));
            }
        }
        for (number, line) in self.code() {
            // Tests inside a file may print and read the environment.
            let is_tested = number <= before_tests && !self.is_test();
            for fault in self.line_faults(&line, is_tested) {
                faults.push(format!("{number}: {fault}"));
            }
        }
        faults
    }

    /// Number of lines before the tests, or of all lines.
    fn before_tests(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_start = |pair: &[&str]| {
            pair[0].trim() == "#[cfg(test)]"
                && pair[1].starts_with("mod ")
                && pair[1].ends_with('{')
        };
        lines.windows(2).position(is_start).unwrap_or(lines.len())
    }

    fn line_faults(&self, line: &str, is_tested: bool) -> Vec<String> {
        let mut faults = Vec::new();
        for named in named_rooms(line) {
            if !self.may_name(&named) {
                faults.push(format!("`{}` may not name `{named}`", self.room()));
            }
        }
        if line.contains("crate::{") {
            faults.push("`crate::{` hides which room is named".to_owned());
        }
        if line.contains("super::super::") {
            faults.push("`super::super` hides which room is named".to_owned());
        }
        if has_word(line, "unsafe") && !UNSAFE_DOORS.contains(&self.path) {
            faults.push("`unsafe` outside its doors".to_owned());
        }
        for (name, doors) in DOORS {
            let is_named = has_word(line, name) && !line.trim_start().starts_with("mod ");
            if is_named && !doors.iter().any(|door| self.path.starts_with(door)) {
                faults.push(format!("`{name}` outside its door"));
            }
        }
        if is_tested {
            let library_only: &[&str] = if self.is_library() {
                NOT_IN_LIBRARY
            } else {
                &[]
            };
            for pattern in NOWHERE.iter().chain(library_only) {
                if contains_item(line, pattern) {
                    faults.push(format!("`{pattern}`"));
                }
            }
        }
        faults
    }

    fn may_name(&self, named: &str) -> bool {
        let room = self.room();
        if named == room {
            return true;
        }
        let known = MAY_NAME.iter().find(|(name, _)| *name == room);
        // What is no room is an item at the root, such as a macro.
        !LIBRARY.contains(&named) && named != "cli"
            || known.is_some_and(|(_, may)| may.contains(&named))
    }
}

/// Whether a format string in a line takes a width or precision from a variable, of which
/// more than 65,535 panics: `{text:<width$}`, `{:.1$}`, `{:.*}`.
fn has_width_from_data(line: &str) -> bool {
    let is_comment = line.trim_start().starts_with("//");
    let mut places = line
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'));
    !is_comment
        && places.any(|(place, _)| {
            let spec = place.split_once(':').map_or("", |(_, spec)| spec);
            // Not the body of a macro.
            !spec.contains([' ', ':', '(']) && (spec.contains('$') || spec.contains(".*"))
        })
}

/// The rooms that follow `crate::` or `sms_merge::` in a line.
fn named_rooms(line: &str) -> Vec<String> {
    let mut named = Vec::new();
    for root in ["crate::", "sms_merge::"] {
        for (at, _) in line.match_indices(root) {
            // `$crate::` in a macro is the same root; `some_crate::` is another word.
            let before = line[..at].chars().next_back();
            if before.is_some_and(|character| character.is_alphanumeric() || character == '_') {
                continue;
            }
            let rest = &line[at + root.len()..];
            let end = rest.find(|character: char| !character.is_alphanumeric() && character != '_');
            named.push(rest[..end.unwrap_or(rest.len())].to_owned());
        }
    }
    named
}

fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether `word` stands in `line` on its own.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word_character) && !after.is_some_and(is_word_character)
    })
}

/// Whether `pattern` stands in `line`, not as the end of a longer name.
fn contains_item(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| {
        !line[..at]
            .chars()
            .next_back()
            .is_some_and(is_word_character)
    })
}

/// The lines of `text` without comments and without what stands in quotes.
fn code_lines(text: &str) -> Vec<String> {
    enum State {
        Code,
        Text,
        /// A raw string that ends in a quote and this many hashes.
        Raw(usize),
        /// A block comment, nested this deep.
        Comment(usize),
    }
    let mut state = State::Code;
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut code = String::new();
        let mut rest = line;
        while let Some(character) = rest.chars().next() {
            let mut taken = character.len_utf8();
            match &mut state {
                State::Code if rest.starts_with("//") => break,
                State::Code if rest.starts_with("/*") => {
                    (state, taken) = (State::Comment(1), 2);
                }
                State::Code if character == '"' => {
                    code.push('"');
                    state = State::Text;
                }
                State::Code => match (raw_start(rest, &code), char_literal(rest)) {
                    (Some((hashes, length)), _) => (state, taken) = (State::Raw(hashes), length),
                    (None, Some(length)) => taken = length,
                    (None, None) => code.push(character),
                },
                State::Text if character == '\\' => {
                    taken = rest.chars().take(2).map(char::len_utf8).sum();
                }
                State::Text if character == '"' => {
                    code.push('"');
                    state = State::Code;
                }
                State::Raw(hashes) => {
                    let end = format!("\"{}", "#".repeat(*hashes));
                    if rest.starts_with(&end) {
                        taken = end.len();
                        state = State::Code;
                    }
                }
                State::Comment(depth) if rest.starts_with("/*") => {
                    *depth += 1;
                    taken = 2;
                }
                State::Comment(depth) if rest.starts_with("*/") => {
                    taken = 2;
                    *depth -= 1;
                    if *depth == 0 {
                        state = State::Code;
                    }
                }
                State::Text | State::Comment(_) => {}
            }
            rest = &rest[taken..];
        }
        lines.push(code);
    }
    lines
}

/// Hashes and length of the start of a raw string.
fn raw_start(rest: &str, before: &str) -> Option<(usize, usize)> {
    if before.ends_with(|character| is_word_character(character) && character != 'b') {
        return None;
    }
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..]
        .starts_with('"')
        .then_some((hashes, hashes + 2))
}

/// Length of a character literal; `None` for a lifetime and anything else.
fn char_literal(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    let mut characters = inner.chars();
    if characters.next()? == '\\' {
        let escaped = characters.next()?;
        let from = 1 + escaped.len_utf8();
        return inner[from..].find('\'').map(|end| 1 + from + end + 1);
    }
    let first = inner.chars().next()?;
    inner[first.len_utf8()..]
        .starts_with('\'')
        .then_some(2 + first.len_utf8())
}

fn source_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&root, &mut files);
    files.sort();
    let mut faults = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
        let source = Source { path, text: &text };
        faults.extend(
            source
                .faults()
                .into_iter()
                .map(|fault| format!("src/{path}:{fault}")),
        );
    }
    assert!(files.len() > 20, "the sources were not found");
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn what_the_scan_rejects() {
    let check = |path: &str, code: &str, expected: &str| {
        let text = format!("//! Doc.\n{code}\n");
        let source = Source { path, text: &text };
        assert_eq!(source.faults(), [format!("2: {expected}")], "{path} {code}");
    };
    let import = "use crate::merge::Merged;";
    check("kernel/cpu.rs", import, "`kernel` may not name `merge`");
    for code in [
        r#"fn f() { format!("{text:<width$}"); }"#,
        r#"fn f() { format!("{}{:>1$}", a, b); }"#,
        r#"fn f() { format!("{:.*}", a, b); }"#,
        r#"fn f() { format!("{value:.digits$}"); }"#,
    ] {
        let expected = "a width that a format string takes from a variable";
        check("merge/draft.rs", code, expected);
    }
    check(
        "tensor.rs",
        "fn f(x: crate::format::X) {}",
        "`tensor` may not name `format`",
    );
    check(
        "merge/plan.rs",
        "use crate::cycle::Run;",
        "`merge` may not name `cycle`",
    );
    check(
        "graph/node.rs",
        "pub(crate) use crate::kernel;",
        "`graph` may not name `kernel`",
    );
    check(
        "novel/a.rs",
        "use crate::tensor::Shape;",
        "`novel` may not name `tensor`",
    );
    check(
        "merge.rs",
        "use crate::cli::text;",
        "`merge` may not name `cli`",
    );
    let grouped = "`crate::{` hides which room is named";
    let text = "//! Doc.\nuse crate::{tensor, format};\n";
    let source = Source {
        path: "cycle.rs",
        text,
    };
    assert!(source.faults().contains(&format!("2: {grouped}")));
    let escape = "`super::super` hides which room is named";
    check("merge/plan.rs", "use super::super::cycle;", escape);
    let code = "unsafe { f() }";
    check("kernel/cpu.rs", code, "`unsafe` outside its doors");
    check(
        "checkpoint/map/source.rs",
        code,
        "`unsafe` outside its doors",
    );
    check(
        "merge/run.rs",
        "use memmap2::Mmap;",
        "`memmap2` outside its door",
    );
    check(
        "merge.rs",
        "use anyhow::Result;",
        "`anyhow` outside its door",
    );
    check(
        "cli/text.rs",
        "let x = twox_hash::f();",
        "`twox_hash` outside its door",
    );
    check(
        "tensor.rs",
        "use candle_core::Tensor;",
        "`candle_core` outside its door",
    );
    check("kernel.rs", "cudarc::f();", "`cudarc` outside its door");
    check("tensor.rs", "println!(\"\");", "`println!(`");
    check("cli/text.rs", "eprintln!(\"\");", "`eprintln!(`");
    check("merge.rs", "todo!()", "`todo!(`");
    check("merge.rs", "dbg!(x);", "`dbg!(`");
    check("merge.rs", "let now = SystemTime::now();", "`SystemTime`");
    check("merge.rs", "std::process::exit(1);", "`process::exit`");
    check("train/a.rs", "use std::env;", "`std::env`");
}

#[test]
fn what_the_scan_accepts() {
    let check = |path: &str, code: &str| {
        let text = format!("//! Doc.\n{code}\n");
        let source = Source { path, text: &text };
        assert_eq!(source.faults(), Vec::<String>::new(), "{path} {code}");
    };
    check("merge/plan.rs", "use crate::kernel::Weights;");
    check(
        "merge/plan.rs",
        r#"fn f() { format!("{a:>8} ${b} {c:.2}"); }"#,
    );
    check("tensor/decimals.rs", r#"fn f() { format!("{a:.b$}"); }"#);
    check(
        "checkpoint/map/source.rs",
        "use crate::format::replace::FileKind;",
    );
    check("checkpoint/map.rs", "use memmap2::Mmap; unsafe { f() }");
    check("main.rs", "use std::env; use signal_hook::flag;");
    check("cli/merge.rs", "use sms_merge::merge::merge;");
    check(
        "merge/plan.rs",
        "let x = \"unsafe { println!( } use crate::cycle::\";",
    );
    check("merge/plan.rs", "let x = r#\"\"todo!(\"#; // dbg!( unsafe");
    check(
        "merge/plan.rs",
        "/* unsafe /* */ unsafe */ let c = ('\"', '\\'', 'x');",
    );
    check(
        "merge/plan.rs",
        "fn f<'a>(x: &'a str) -> &'a str { x } // 'unsafe'",
    );
    check("merge/plan.rs", "let is_unsafe_code = memmap2_like;");
    check(
        "tensor.rs",
        "#[cfg(test)]\nmod tests {\n    fn f() { println!(\"\"); }\n}",
    );
}

#[test]
fn files_without_a_doc_or_too_long_are_rejected() {
    let source = Source {
        path: "tensor.rs",
        text: "use std::fmt;\n",
    };
    assert_eq!(source.faults(), ["1: begins without `//!`"]);
    let lines = |n: usize| format!("//! Doc.\n{}", "\n".repeat(n - 1));
    let tests = "#[cfg(test)]\nmod tests {\n\n\n}\n";
    let check = |text: &str, n_faults: usize| {
        let source = Source {
            path: "tensor.rs",
            text,
        };
        assert_eq!(source.faults().len(), n_faults);
    };
    check(&lines(400), 0);
    check(&lines(401), 1);
    check(&(lines(400) + tests), 0);
    check(&(lines(401) + tests), 1);
}
