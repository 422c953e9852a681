//! An evaluator that is a command of the user: a checkpoint walks in, the number that
//! the command prints walks out.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;
use sms_merge::merge::Evaluate;
use thiserror::Error;

use crate::cli::args::MergeArguments;
use crate::cli::command::CommandLine;
use crate::cli::command::Place;
use crate::cli::command::Ran;
use crate::cli::command::excerpt;
use crate::cli::exit::UsageError;
use crate::cli::metrics;
use crate::cli::metrics::MetricsError;

/// What a command printed is no score.
#[derive(Debug, Error)]
pub(crate) enum ScoreError {
    /// It is neither a number nor an object.
    #[error(
        "`{command}` printed {printed}, and its last line is neither a number nor a JSON object"
    )]
    Unreadable {
        /// The command with its arguments.
        command: String,
        /// The end of what it printed.
        printed: String,
    },
    /// It lacks the metric, or the metric is no finite number.
    #[error(transparent)]
    Metric(#[from] MetricsError),
    /// A recalibration wrote nothing.
    #[error("`{command}` ended well and wrote no `{output}`")]
    NoOutput {
        /// The command with its arguments.
        command: String,
        /// What it should have written.
        output: String,
    },
}

/// Evaluates checkpoints by a command.
pub(super) struct ByCommand<'a> {
    eval: CommandLine,
    recalibrate: Option<CommandLine>,
    metric: Option<&'a str>,
    limit: Option<Duration>,
    scratch: PathBuf,
    interrupted: &'a AtomicBool,
}

impl<'a> ByCommand<'a> {
    pub(super) fn new(
        eval: &str,
        arguments: &'a MergeArguments,
        scratch: &Path,
        interrupted: &'a AtomicBool,
    ) -> Result<Self, UsageError> {
        let parse = |text: &String| {
            let line = CommandLine::parse("--recalibrate", text)?;
            match line.names("output") {
                true => Ok(line),
                false => Err(UsageError {
                    message: "`--recalibrate` must say where to write".to_owned(),
                    next: Some("name `{checkpoint}` and `{output}` in the command".to_owned()),
                }),
            }
        };
        Ok(Self {
            eval: CommandLine::parse("--eval", eval)?,
            recalibrate: arguments
                .greedy
                .recalibrate
                .as_ref()
                .map(parse)
                .transpose()?,
            metric: arguments.choice.metric.as_deref(),
            limit: arguments.greedy.eval_timeout.map(Duration::from_secs),
            scratch: scratch.to_owned(),
            interrupted,
        })
    }

    fn measure(&self, checkpoint: &Path) -> Result<f64, Box<dyn Error + Send + Sync>> {
        let ran = self
            .eval
            .run(&[place(checkpoint)], self.limit, self.interrupted)?;
        Ok(score(&ran, self.metric)?)
    }
}

fn place(checkpoint: &Path) -> Place<'_> {
    Place {
        name: "checkpoint",
        variable: "SMS_MERGE_CHECKPOINT",
        path: checkpoint,
    }
}

impl Evaluate for ByCommand<'_> {
    fn score(&mut self, checkpoint: &Path) -> Result<f64, Box<dyn Error + Send + Sync>> {
        let Some(recalibrate) = &self.recalibrate else {
            return self.measure(checkpoint);
        };
        // What can read the checkpoint can then read this.
        let output = match checkpoint.is_dir() {
            true => self.scratch.join("recalibrated"),
            false => self.scratch.join("recalibrated.safetensors"),
        };
        let written = Place {
            name: "output",
            variable: "SMS_MERGE_OUTPUT",
            path: &output,
        };
        let places = [place(checkpoint), written];
        let ran = recalibrate.run(&places, self.limit, self.interrupted)?;
        if !output.exists() {
            let output = output.display().to_string();
            let command = ran.command;
            return Err(ScoreError::NoOutput { command, output }.into());
        }
        let score = self.measure(&output);
        match output.is_dir() {
            true => fs::remove_dir_all(&output)?,
            false => fs::remove_file(&output)?,
        }
        score
    }
}

/// The score that a command printed: all of it, or else its last line that is not
/// empty, is a number or an object that holds the metric.
fn score(ran: &Ran, metric: Option<&str>) -> Result<f64, ScoreError> {
    let printed = ran.printed.trim();
    let last = printed.lines().next_back().unwrap_or_default().trim();
    let value = [printed, last].into_iter().find_map(value);
    match value {
        Some(value) => Ok(metrics::number(&ran.command, &value, metric)?),
        None => Err(ScoreError::Unreadable {
            command: ran.command.clone(),
            printed: excerpt(printed),
        }),
    }
}

/// A number or an object. Words for what is no number become texts.
fn value(text: &str) -> Option<Value> {
    match metrics::value(text) {
        Ok(value @ (Value::Number(_) | Value::Object(_))) => Some(value),
        // Python's `nan` and `.5` are no JSON.
        _ => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Some(Value::from(number)),
            Ok(_) => Some(Value::from(text)),
            Err(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(printed: &str, metric: Option<&str>) -> Result<f64, String> {
        let ran = Ran {
            command: "evaluate".to_owned(),
            printed: printed.to_owned(),
        };
        score(&ran, metric).map_err(|error| error.to_string())
    }

    #[test]
    fn scores_that_are_read() {
        let check = |printed, metric, expected| {
            assert_eq!(told(printed, metric), Ok(expected), "{printed}");
        };
        check("0.9312\n", None, 0.9312);
        check("epoch 1\n100 %\n0.9312\n\n", None, 0.9312);
        check(" -1e-3 ", None, -0.001);
        check(".5", None, 0.5);
        check("7", Some("accuracy"), 7.0);
        check("{\"accuracy\": 0.5, \"loss\": NaN}", Some("accuracy"), 0.5);
        check("loading\r\n{\"accuracy\": 1}\r\n", Some("accuracy"), 1.0);
        check(
            "{\n  \"accuracy\": 0.25,\n  \"n\": 1\n}\n",
            Some("accuracy"),
            0.25,
        );
        let nested = "{\"models\": [{\"evaluation\": {\"accuracy\": 0.75}}]}";
        check(nested, Some("/models/0/evaluation/accuracy"), 0.75);
        check("{\"/a\": 1, \"a\": 2}", Some("/a"), 1.0);
    }

    #[test]
    fn what_is_no_score() {
        let check = |printed, metric, expected: &str| {
            let found = told(printed, metric).unwrap_err();
            assert_eq!(found, expected, "{printed}");
        };
        let unreadable = |printed: &str| {
            format!(
                "`evaluate` printed {printed}, and its last line is neither a number nor a JSON \
                 object"
            )
        };
        check("", None, &unreadable("nothing"));
        check("\n \n", None, &unreadable("nothing"));
        check("0.5\ndone", None, &unreadable("`0.5\\ndone`"));
        check("93.1%", None, &unreadable("`93.1%`"));
        check("[0.5]", None, &unreadable("`[0.5]`"));
        check("\"0.5\"", None, &unreadable("`\"0.5\"`"));
        check(
            "nan",
            None,
            "metric of `evaluate` is \"nan\", expected a finite number",
        );
        check(
            "-inf",
            None,
            "metric of `evaluate` is \"-inf\", expected a finite number",
        );
        check(
            "NaN",
            None,
            "metric of `evaluate` is \"NaN\", expected a finite number",
        );
        check(
            "{\"accuracy\": NaN}",
            Some("accuracy"),
            "metric of `evaluate` is \"NaN\", expected a finite number",
        );
        check(
            "{\"accuracy\": 0.5, \"loss\": 1}",
            None,
            "`--metric` must name one of the metrics of `evaluate`: `accuracy`, `loss`",
        );
        check(
            "{\"accuracy\": 0.5}",
            Some("f1"),
            "`evaluate` has no metric `f1`, only `accuracy`",
        );
    }
}
