//! Numbers that the user's commands print or write.

use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::cycle::findings::Epoch;
use crate::cycle::findings::Scores;
use crate::cycle::job::JobError;
use crate::format::regular;
use crate::format::regular::Links;
use crate::format::regular::TEXT_LIMIT;

/// Bytes at the end of what a command printed in which its last line is looked for.
const TAIL_BYTES: u64 = 1 << 16;
/// The metric where none is named.
const ACCURACY: &str = "accuracy";

/// What a trainer says of its outcome.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reported {
    #[serde(flatten)]
    pub(super) scores: Scores,
    /// An entry per epoch.
    pub(super) epochs: Vec<Epoch>,
}

/// What a trainer wrote as its metrics; `None` if it wrote none.
pub(super) fn read(command: &str, path: &Path) -> Result<Option<Reported>, JobError> {
    let text = match regular::read_text(path, TEXT_LIMIT) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(JobError::File {
                path: path.to_owned(),
                source,
            });
        }
    };
    let reported = serde_json::from_str(&text);
    reported.map(Some).map_err(|error| JobError::NoNumber {
        command: command.to_owned(),
        why: format!("`{}`: {error}", path.display()),
    })
}

/// What a command printed to the end of `log`, which held `before` bytes before: a number
/// or a JSON object on its last line.
pub(super) fn printed(
    command: &str,
    log: &Path,
    before: u64,
    metric: Option<&str>,
) -> Result<Scores, JobError> {
    let text = tail(log, before).map_err(|source| JobError::File {
        path: log.to_owned(),
        source,
    })?;
    scores(&text, metric).map_err(|why| JobError::NoNumber {
        command: command.to_owned(),
        why,
    })
}

fn tail(log: &Path, before: u64) -> io::Result<String> {
    let mut file = regular::open(log, Links::Refuse)?;
    let bytes = file.metadata()?.len();
    let begin = bytes.saturating_sub(TAIL_BYTES).max(before);
    file.seek(SeekFrom::Start(begin))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

/// The scores that the last line holds: a number, or an object with the metric, whose
/// other scores are taken along.
fn scores(text: &str, metric: Option<&str>) -> Result<Scores, String> {
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    let last = last.ok_or("it printed nothing")?;
    let number = |value: f64| match value.is_finite() {
        true => Ok(value),
        false => Err(format!("it printed {value}, expected a finite number")),
    };
    if let Ok(value) = last.parse::<f64>() {
        return Ok(Scores {
            accuracy: Some(number(value)?),
            ..Scores::default()
        });
    }
    let object: Value = serde_json::from_str(last).map_err(|_| {
        let shown: String = last.chars().take(100).collect();
        format!("its last line is `{shown}`, expected a number or a JSON object")
    })?;
    let name = metric.unwrap_or(ACCURACY);
    let value = object.get(name).and_then(Value::as_f64);
    let value = value.ok_or_else(|| format!("its JSON object has no number `{name}`"))?;
    let others: Option<Scores> = serde_json::from_value(object).ok();
    Ok(Scores {
        accuracy: Some(number(value)?),
        ..others.unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_read() {
        let check = |text: &str, metric, expected: Result<f64, &str>| {
            let found = scores(text, metric).map(|scores| scores.accuracy.unwrap());
            assert_eq!(found, expected.map_err(str::to_owned), "{text}");
        };
        check("0.5", None, Ok(0.5));
        check("loading\n 0.25 \n\n", None, Ok(0.25));
        check("{\"accuracy\": 0.75, \"loss\": 1}", None, Ok(0.75));
        check("{\"top5\": 0.9}", Some("top5"), Ok(0.9));
        check("", None, Err("it printed nothing"));
        check("nan", None, Err("it printed NaN, expected a finite number"));
        check(
            "{\"a\": 1}",
            None,
            Err("its JSON object has no number `accuracy`"),
        );
        check(
            "done",
            None,
            Err("its last line is `done`, expected a number or a JSON object"),
        );
    }
}
