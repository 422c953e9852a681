//! How good each checkpoint is: a file of metrics walks in, one number per
//! ingredient walks out.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;
use sms_merge::format::regular;
use sms_merge::format::regular::TEXT_LIMIT;
use sms_merge::tensor::Printable;
use thiserror::Error;

/// Key under which a record names its checkpoint.
const CHECKPOINT: &str = "checkpoint";

/// Why metrics do not rank the ingredients.
#[derive(Debug, Error)]
pub(crate) enum MetricsError {
    /// The file cannot be read.
    #[error("metrics file `{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is neither JSON nor JSON lines.
    #[error("metrics file `{}` is neither JSON nor JSON lines, at line {line}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        source: serde_json::Error,
    },
    /// The file is JSON of another shape.
    #[error(
        "metrics file `{}` has an unexpected shape: entry {entry} is neither an object with \
         `checkpoint` nor a checkpoint with its metrics",
        path.display()
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// Position of the entry, from 1.
        entry: usize,
    },
    /// A checkpoint has two entries.
    #[error("metrics file `{}` has two entries for `{}`", path.display(), Printable(checkpoint))]
    Twice {
        /// The file.
        path: PathBuf,
        /// The checkpoint.
        checkpoint: String,
    },
    /// An ingredient has no entry.
    #[error("metrics file `{}` has no entry for `{}`", path.display(), ingredient.display())]
    NoEntry {
        /// The file.
        path: PathBuf,
        /// The ingredient.
        ingredient: PathBuf,
    },
    /// Two ingredients have one entry between them.
    #[error(
        "`{}` in metrics file `{}` could be `{}` or `{}`; write paths as they are given here",
        Printable(checkpoint), path.display(), first.display(), second.display()
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// The entry.
        checkpoint: String,
        /// One ingredient.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Entries have several metrics and none was named.
    #[error("`--metric` must name one of the metrics of `{}`: {}", Printable(checkpoint), names.join(", "))]
    Unnamed {
        /// The entry.
        checkpoint: String,
        /// Its metrics.
        names: Vec<String>,
    },
    /// An entry does not have the metric.
    #[error("`{}` has no metric `{}`, only {}", Printable(checkpoint), Printable(metric), names.join(", "))]
    NoMetric {
        /// The entry.
        checkpoint: String,
        /// The metric.
        metric: String,
        /// The metrics that it has.
        names: Vec<String>,
    },
    /// A metric is no finite number.
    #[error(
        "metric of `{}` is {}, expected a finite number",
        Printable(checkpoint),
        Printable(found)
    )]
    NotANumber {
        /// The entry.
        checkpoint: String,
        /// What was found.
        found: String,
    },
}

/// The entries of a metrics file.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    entries: Vec<(String, Value)>,
}

impl Metrics {
    /// Reads JSON or JSON lines: an object of checkpoints, or objects that each name
    /// their `checkpoint`.
    pub(crate) fn read(path: &Path) -> Result<Self, MetricsError> {
        let text = regular::read_text(path, TEXT_LIMIT).map_err(|source| MetricsError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, MetricsError> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        let shape = |entry: usize| MetricsError::Shape {
            path: path.to_owned(),
            entry: entry + 1,
        };
        for (position, value) in parse_values(path, text)?.into_iter().enumerate() {
            let Value::Object(mut fields) = value else {
                return Err(shape(position));
            };
            match fields.remove(CHECKPOINT) {
                Some(Value::String(checkpoint)) => {
                    entries.push((checkpoint, Value::Object(fields)));
                }
                Some(_) => return Err(shape(position)),
                None => entries.extend(fields),
            }
        }
        for (position, (checkpoint, value)) in entries.iter().enumerate() {
            if matches!(value, Value::Array(_)) {
                return Err(shape(position));
            }
            if entries[..position]
                .iter()
                .any(|(other, _)| other == checkpoint)
            {
                return Err(MetricsError::Twice {
                    path: path.to_owned(),
                    checkpoint: checkpoint.clone(),
                });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            entries,
        })
    }

    /// The metric of each of `ingredients`, in their order.
    pub(crate) fn of_each(
        &self,
        ingredients: &[PathBuf],
        metric: Option<&str>,
    ) -> Result<Vec<f64>, MetricsError> {
        let mut taken: Vec<Option<&Path>> = vec![None; self.entries.len()];
        let mut values = Vec::with_capacity(ingredients.len());
        for ingredient in ingredients {
            let entry = self
                .entry(ingredient)
                .ok_or_else(|| MetricsError::NoEntry {
                    path: self.path.clone(),
                    ingredient: ingredient.clone(),
                })?;
            let (checkpoint, value) = &self.entries[entry];
            if let Some(first) = taken[entry].filter(|&first| first != ingredient) {
                return Err(MetricsError::Ambiguous {
                    path: self.path.clone(),
                    checkpoint: checkpoint.clone(),
                    first: first.to_owned(),
                    second: ingredient.clone(),
                });
            }
            taken[entry] = Some(ingredient);
            values.push(number(checkpoint, value, metric)?);
        }
        Ok(values)
    }

    /// The entry of an ingredient: by its path, else its file name, else its stem.
    fn entry(&self, ingredient: &Path) -> Option<usize> {
        let names = [
            Some(ingredient.as_os_str()),
            ingredient.file_name(),
            ingredient.file_stem(),
        ];
        names.into_iter().flatten().find_map(|name| {
            let name = name.to_str()?;
            self.entries
                .iter()
                .position(|(checkpoint, _)| checkpoint == name)
        })
    }
}

/// The metric in `value`, which is what `checkpoint` is said to have: a number, or an
/// object with several. A name that begins with `/` may be a path through nested ones.
///
/// # Errors
/// [`MetricsError`] if there is no such metric, or it is no finite number.
pub(crate) fn number(
    checkpoint: &str,
    value: &Value,
    metric: Option<&str>,
) -> Result<f64, MetricsError> {
    let value = match (value, metric) {
        (Value::Object(fields), metric) => {
            let names = || {
                fields
                    .keys()
                    .map(|name| format!("`{}`", Printable(name)))
                    .collect()
            };
            let metric = metric.ok_or_else(|| MetricsError::Unnamed {
                checkpoint: checkpoint.to_owned(),
                names: names(),
            })?;
            let found = fields.get(metric).or_else(|| value.pointer(metric));
            found.ok_or_else(|| MetricsError::NoMetric {
                checkpoint: checkpoint.to_owned(),
                metric: metric.to_owned(),
                names: names(),
            })?
        }
        (value, _) => value,
    };
    let number = value.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| MetricsError::NotANumber {
        checkpoint: checkpoint.to_owned(),
        found: value.to_string(),
    })
}

/// A JSON value, in which what Python writes and JSON does not know is text.
pub(crate) fn value(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(&quote_non_finite(text))
}

/// The objects of a file: of one array, one object, or one per line.
fn parse_values(path: &Path, text: &str) -> Result<Vec<Value>, MetricsError> {
    let text = quote_non_finite(text);
    let whole = match serde_json::from_str::<Value>(&text) {
        Ok(Value::Array(values)) => return Ok(values),
        Ok(value) => return Ok(vec![value]),
        Err(error) => error,
    };
    let lines = text.lines().enumerate();
    let meant = lines.filter(|(_, line)| !line.trim().is_empty());
    let values: Result<Vec<Value>, (usize, serde_json::Error)> = meant
        .map(|(idx, line)| serde_json::from_str(line).map_err(|error| (idx + 1, error)))
        .collect();
    values.map_err(|(line, error)| {
        // A file whose very first line is no value of its own is not meant as lines.
        let (line, source) = if line == 1 {
            (whole.line(), whole)
        } else {
            (line, error)
        };
        MetricsError::Json {
            path: path.to_owned(),
            line,
            source,
        }
    })
}

/// Puts quotes round `NaN` and `Infinity`, which Python writes and JSON does not
/// know, so that only an ingredient whose metric it is gets refused.
fn quote_non_finite(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    let mut rest = text;
    let mut is_string = false;
    while let Some(character) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"]
            .into_iter()
            .find(|word| !is_string && rest.starts_with(word));
        let taken = match (word, character) {
            (Some(word), _) => {
                quoted.extend(["\"", word, "\""]);
                rest = &rest[word.len()..];
                continue;
            }
            (None, '\\') if is_string => rest.chars().take(2).map(char::len_utf8).sum(),
            (None, character) => character.len_utf8(),
        };
        is_string ^= character == '"';
        quoted.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str, names: &[&str], metric: Option<&str>) -> Result<Vec<f64>, String> {
        let paths: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        Metrics::parse(Path::new("m"), text)
            .and_then(|metrics| metrics.of_each(&paths, metric))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn shapes_that_are_read() {
        let check = |text: &str| {
            let found = values(text, &["run/a.st", "run/b.st"], Some("accuracy"));
            assert_eq!(found, Ok(vec![0.5, 1.0]), "{text}");
        };
        check(r#"{"run/a.st": {"accuracy": 0.5}, "run/b.st": {"accuracy": 1}}"#);
        check(r#"{"a.st": {"accuracy": 0.5, "loss": NaN}, "b.st": {"accuracy": 1}}"#);
        check(r#"{"a": 0.5, "b": 1, "c": "missing", "NaN \" NaN": 0}"#);
        check(r#"[{"checkpoint": "a", "accuracy": 0.5}, {"checkpoint": "b.st", "accuracy": 1}]"#);
        check(
            "{\"checkpoint\": \"a\", \"accuracy\": 0.5}\n\n{\"checkpoint\": \"b\", \"accuracy\": 1}\n",
        );
        check("{\"a\": {\"accuracy\": 0.5}}\n{\"b\": {\"accuracy\": 1}}");
    }

    #[test]
    fn the_fuller_name_wins() {
        let text = r#"{"a": 1, "a.st": 2, "x/a.st": 3}"#;
        assert_eq!(values(text, &["x/a.st"], None), Ok(vec![3.0]));
        assert_eq!(values(text, &["y/a.st"], None), Ok(vec![2.0]));
        assert_eq!(values(text, &["a.safetensors"], None), Ok(vec![1.0]));
    }

    #[test]
    fn what_is_refused() {
        let check = |text: &str, names: &[&str], metric, expected: &str| {
            assert_eq!(values(text, names, metric), Err(expected.to_owned()));
        };
        check(
            "{",
            &["a"],
            None,
            "metrics file `m` is neither JSON nor JSON lines, at line 1",
        );
        check(
            "{\"a\": 1}\n{",
            &["a"],
            None,
            "metrics file `m` is neither JSON nor JSON lines, at line 2",
        );
        let shape = "metrics file `m` has an unexpected shape: entry 1 is neither an object with \
                     `checkpoint` nor a checkpoint with its metrics";
        check("3", &["a"], None, shape);
        check("[[1]]", &["a"], None, shape);
        check(r#"{"a": [1]}"#, &["a"], None, shape);
        check(r#"{"checkpoint": 3}"#, &["a"], None, shape);
        check(
            "{\"a\": 1}\n{\"a\": 2}",
            &["a"],
            None,
            "metrics file `m` has two entries for `a`",
        );
        check(
            r#"{"a": 1}"#,
            &["b"],
            None,
            "metrics file `m` has no entry for `b`",
        );
        check(
            r#"{"a": 1}"#,
            &["x/a", "y/a"],
            None,
            "`a` in metrics file `m` could be `x/a` or `y/a`; write paths as they are given here",
        );
        check(
            r#"{"a": {"accuracy": 1}}"#,
            &["a"],
            None,
            "`--metric` must name one of the metrics of `a`: `accuracy`",
        );
        check(
            r#"{"a": {"accuracy": 1}}"#,
            &["a"],
            Some("loss"),
            "`a` has no metric `loss`, only `accuracy`",
        );
        check(
            r#"{"a": {"loss": NaN}}"#,
            &["a"],
            Some("loss"),
            "metric of `a` is \"NaN\", expected a finite number",
        );
        check(
            r#"{"a": true}"#,
            &["a"],
            None,
            "metric of `a` is true, expected a finite number",
        );
    }
}
