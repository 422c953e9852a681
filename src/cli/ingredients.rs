//! Which checkpoints are meant: paths, patterns and lists walk in, paths in the
//! order of summation walk out.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use sms_merge::format::regular;
use sms_merge::format::regular::TEXT_LIMIT;
use sms_merge::tensor::Printable;
use thiserror::Error;

use crate::cli::args::ChoiceArguments;
use crate::cli::exit::UsageError;
use crate::cli::metrics::Metrics;
use crate::cli::metrics::MetricsError;
use crate::cli::natural::natural_cmp;
use crate::cli::text::shown;
use crate::cli::walk;
use crate::cli::walk::WalkError;

/// Why it is not clear which checkpoints are meant.
#[derive(Debug, Error)]
pub(crate) enum ChoiceError {
    /// A pattern has no match.
    #[error("`{}` matches no file", Printable(pattern))]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// A pattern is malformed.
    #[error("`{}` is neither a file nor a pattern", Printable(pattern))]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: glob::PatternError,
    },
    /// A directory on the way of a pattern cannot be listed.
    #[error("the matches of `{}` cannot be listed: `{}`", Printable(pattern), path.display())]
    Listing {
        /// The pattern.
        pattern: String,
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The user asked to stop while matches were looked for.
    #[error(
        "interrupted while the matches of `{}` were listed",
        Printable(pattern)
    )]
    Interrupted {
        /// The pattern.
        pattern: String,
    },
    /// A list of checkpoints cannot be read.
    #[error("list `{}` cannot be read", path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A list names no checkpoint.
    #[error("list `{}` names no checkpoint", path.display())]
    EmptyList {
        /// The list.
        path: PathBuf,
    },
    /// More are to be kept than there are.
    #[error("`{option} {wanted}` asks for more ingredients than the {found} given")]
    TooFew {
        /// The option.
        option: &'static str,
        /// Number to keep.
        wanted: usize,
        /// Number given.
        found: usize,
    },
    /// The metrics do not rank the ingredients.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// The checkpoints that `arguments` stand for, in order.
///
/// What exists is a path whatever its characters. Else `@list` stands for its lines
/// and a pattern for its matches. What is none of these is passed on as a path, so
/// that opening it says that it does not exist.
pub(crate) fn expand(
    arguments: &[impl AsRef<OsStr>],
    interrupted: &AtomicBool,
) -> Result<Vec<PathBuf>, ChoiceError> {
    let mut paths = Vec::new();
    for argument in arguments {
        let argument = argument.as_ref();
        match argument.as_bytes().strip_prefix(b"@") {
            Some(list) if !exists(argument) => {
                let list = Path::new(OsStr::from_bytes(list));
                let n_before = paths.len();
                for line in read_list(list)? {
                    expand_pattern(OsStr::from_bytes(&line), interrupted, &mut paths)?;
                }
                if paths.len() == n_before {
                    return Err(ChoiceError::EmptyList {
                        path: list.to_owned(),
                    });
                }
            }
            _ => expand_pattern(argument, interrupted, &mut paths)?,
        }
    }
    Ok(paths)
}

fn exists(path: &OsStr) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn read_list(list: &Path) -> Result<Vec<Vec<u8>>, ChoiceError> {
    let bytes = regular::read(list, TEXT_LIMIT).map_err(|source| ChoiceError::List {
        path: list.to_owned(),
        source,
    })?;
    let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let meant = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    Ok(meant.map(<[u8]>::to_vec).collect())
}

fn expand_pattern(
    argument: &OsStr,
    interrupted: &AtomicBool,
    paths: &mut Vec<PathBuf>,
) -> Result<(), ChoiceError> {
    let pattern = match argument.to_str() {
        Some(text) if text.contains(['*', '?', '[']) && !exists(argument) => text,
        _ => {
            paths.push(PathBuf::from(argument));
            return Ok(());
        }
    };
    let mut found = walk::matches(pattern, interrupted).map_err(|error| {
        let pattern = pattern.to_owned();
        match error {
            WalkError::Pattern(source) => ChoiceError::Pattern { pattern, source },
            WalkError::List { path, source } => ChoiceError::Listing {
                pattern,
                path,
                source,
            },
            WalkError::Interrupted => ChoiceError::Interrupted { pattern },
        }
    })?;
    if found.is_empty() {
        return Err(ChoiceError::NoMatch {
            pattern: pattern.to_owned(),
        });
    }
    let bytes = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
    found.sort_by(|a, b| natural_cmp(&bytes(a), &bytes(b)));
    paths.append(&mut found);
    Ok(())
}

/// Refuses the name of a metric where nothing is ranked by it.
pub(crate) fn refuse_idle_metric(
    choice: &ChoiceArguments,
    is_greedy: bool,
) -> Result<(), UsageError> {
    if choice.best.is_some() || is_greedy {
        return Ok(());
    }
    let given = [
        ("--metric", choice.metric.is_some()),
        ("--lower-is-better", choice.lower_is_better),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => Err(UsageError {
            message: format!("`{option}` says by what ingredients are ranked, and none are"),
            next: Some("add `--best N` or `--method greedy`".to_owned()),
        }),
        None => Ok(()),
    }
}

/// Those of `paths` that `--last` or `--best` keeps, in the order given.
///
/// The order is the order of summation, so it is not changed by the ranking: the
/// soup of the same ingredients is the same whatever chose them.
pub(crate) fn choose(
    paths: Vec<PathBuf>,
    choice: &ChoiceArguments,
) -> Result<Vec<PathBuf>, ChoiceError> {
    let found = paths.len();
    let too_few = |option, wanted| ChoiceError::TooFew {
        option,
        wanted,
        found,
    };
    if let Some(last) = choice.last {
        let skipped = found.checked_sub(last).ok_or(too_few("--last", last))?;
        return Ok(paths.into_iter().skip(skipped).collect());
    }
    let (Some(best), Some(file)) = (choice.best, &choice.metrics) else {
        return Ok(paths);
    };
    if best > found {
        return Err(too_few("--best", best));
    }
    let metrics = Metrics::read(file)?;
    let values = metrics.of_each(&paths, choice.metric.as_deref())?;
    let kept = best_positions(&values, best, choice.lower_is_better);
    Ok(kept
        .into_iter()
        .map(|position| paths[position].clone())
        .collect())
}

/// Positions of the `n` best values, ascending; of equal values, the first given.
fn best_positions(values: &[f64], n: usize, lower_is_better: bool) -> Vec<usize> {
    let mut ranked: Vec<usize> = (0..values.len()).collect();
    ranked.sort_by(|&a, &b| {
        let order = values[a].total_cmp(&values[b]);
        if lower_is_better {
            order
        } else {
            order.reverse()
        }
    });
    ranked.truncate(n);
    ranked.sort_unstable();
    ranked
}

/// A warning for each file that is given more than once, by whatever name.
pub(crate) fn repeated(paths: &[PathBuf]) -> Vec<String> {
    let identities: Vec<Option<(u64, u64)>> = paths
        .iter()
        .map(|path| {
            fs::metadata(path)
                .ok()
                .map(|metadata| (metadata.dev(), metadata.ino()))
        })
        .collect();
    let earlier = |later: usize| {
        (0..later).find(|&earlier| {
            identities[earlier].is_some() && identities[earlier] == identities[later]
        })
    };
    (1..paths.len())
        .filter_map(|later| {
            let (first, second) = (shown(&paths[earlier(later)?]), shown(&paths[later]));
            Some(if first == second {
                format!("`{first}` is given more than once, and counts each time")
            } else {
                format!("`{first}` and `{second}` are the same file, which counts twice")
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn patterns_lists_and_literal_names() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in [
            "step-10.st",
            "step-2.st",
            "step-1.st",
            "a[1].st",
            "@b.st",
            ".step-3.st",
        ] {
            fs::write(at(name), "").unwrap();
        }
        fs::write(
            directory.path().join(OsStr::from_bytes(b"step-\xff.st")),
            "",
        )
        .unwrap();
        let list = format!(
            "# ingredients\n\n  {}  \r\n{}\n",
            at("step-2.st").display(),
            at("a[[]1].st").display()
        );
        fs::write(at("list.txt"), list).unwrap();
        let check = |argument: &str, expected: &[&str]| {
            let (at_sign, name) = match argument.strip_prefix("@/") {
                Some(name) => ("@", name),
                None => ("", argument),
            };
            let argument = format!("{at_sign}{}", at(name).display());
            let expected: Vec<PathBuf> = expected.iter().map(|name| at(name)).collect();
            assert_eq!(
                expand(&[argument.as_str()], &AtomicBool::new(false)).unwrap(),
                expected,
                "{argument}"
            );
        };
        check("step-*.st", &["step-1.st", "step-2.st", "step-10.st"]);
        check("step-?.st", &["step-1.st", "step-2.st"]);
        check(".step*", &[".step-3.st"]);
        check("a[1].st", &["a[1].st"]);
        check("@b.st", &["@b.st"]);
        check("missing.st", &["missing.st"]);
        check("@/list.txt", &["step-2.st", "a[1].st"]);
    }

    #[test]
    fn names_need_not_be_text() {
        let name = std::ffi::OsString::from_vec(b"a\xff*.st".to_vec());
        let found = expand(&[&name], &AtomicBool::new(false)).unwrap();
        assert_eq!(found, [PathBuf::from(&name)]);
    }

    #[test]
    fn what_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        fs::write(at("empty.txt"), "# nothing\n").unwrap();
        let refuse = |argument: String| expand(&[argument], &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(refuse(at("*.st")), ChoiceError::NoMatch { .. }));
        assert!(matches!(refuse(at("a[.st")), ChoiceError::Pattern { .. }));
        let list = refuse(format!("@{}", at("none.txt")));
        assert!(matches!(list, ChoiceError::List { .. }));
        let list = refuse(format!("@{}", at("empty.txt")));
        assert!(matches!(list, ChoiceError::EmptyList { .. }));
    }

    #[test]
    fn the_best_keep_their_order() {
        let check = |values: &[f64], n, lower, expected: &[usize]| {
            assert_eq!(best_positions(values, n, lower), expected);
        };
        check(&[0.1, 0.9, 0.5], 2, false, &[1, 2]);
        check(&[0.1, 0.9, 0.5], 2, true, &[0, 2]);
        check(&[0.5, 0.5, 0.5], 2, false, &[0, 1]);
        check(&[0.5, 0.5, 0.5], 2, true, &[0, 1]);
        check(&[3.0, 1.0], 2, false, &[0, 1]);
    }

    #[test]
    fn the_last_and_too_few() {
        let paths = || ["a", "b", "c"].map(PathBuf::from).to_vec();
        let choice = |last| ChoiceArguments {
            last: Some(last),
            best: None,
            metrics: None,
            metric: None,
            lower_is_better: false,
        };
        assert_eq!(choose(paths(), &choice(2)).unwrap(), paths()[1..]);
        let refused = choose(paths(), &choice(4)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`--last 4` asks for more ingredients than the 3 given"
        );
    }

    #[test]
    fn a_file_given_twice_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("a"), "").unwrap();
        fs::write(at("b"), "").unwrap();
        fs::hard_link(at("a"), at("c")).unwrap();
        let check = |names: &[&str], expected| {
            let paths: Vec<PathBuf> = names.iter().map(|name| at(name)).collect();
            assert_eq!(repeated(&paths).len(), expected, "{names:?}");
        };
        check(&["a", "b"], 0);
        check(&["a", "a"], 1);
        check(&["a", "b", "c"], 1);
        check(&["missing", "missing"], 0);
    }
}
