//! What can be said to `sms-merge merge --method greedy`.

use std::path::Path;

use clap::Args;
use clap::ValueEnum;
use clap::ValueHint;

#[cfg(feature = "train")]
use super::eval::SplitArguments;
#[cfg(feature = "train")]
use super::learning;

/// How ingredients are chosen by evaluation.
#[derive(Debug, Args)]
#[command(next_help_heading = "Greedy soup")]
pub(crate) struct GreedyArguments {
    /// Command that prints how good a checkpoint is [default: the embedded evaluator]
    ///
    /// Split into words as a shell does, and run without one. `{checkpoint}` stands for
    /// the path of the checkpoint, which $SMS_MERGE_CHECKPOINT holds too; other braces
    /// stand for themselves. All that it prints on standard output, or else the last
    /// line that is not empty, is a number or a JSON object of which --metric names an
    /// entry (such as accuracy, or /models/0/accuracy in nested ones). Ingredients are
    /// evaluated where they are, soups in a directory beside the output that is removed
    /// at the end.
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString)]
    pub(crate) eval: Option<String>,

    /// Stop a command of --eval or --recalibrate after so many seconds, and fail
    #[arg(long, value_name = "SECONDS", requires = "eval")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) eval_timeout: Option<u64>,

    /// Command that estimates batch norm's statistics again, before each evaluation
    ///
    /// It reads `{checkpoint}` and writes `{output}`, also $SMS_MERGE_CHECKPOINT and
    /// $SMS_MERGE_OUTPUT. --eval is then given what it wrote, of ingredients and soups
    /// alike. Without this, the statistics of soups are the averages that a merge writes,
    /// and a command of --eval that needs better ones must estimate them itself. The
    /// embedded evaluator does.
    #[arg(long, value_name = "COMMAND", requires = "eval")]
    #[arg(value_hint = ValueHint::CommandString)]
    pub(crate) recalibrate: Option<String>,

    /// What becomes of an ingredient with which the soup is exactly as good [default: keep]
    #[arg(long, value_name = "RULE", value_enum)]
    pub(crate) on_tie: Option<OnTieChoice>,

    #[cfg(feature = "train")]
    #[command(flatten)]
    pub(crate) embedded: EmbeddedArguments,
}

/// How the embedded evaluator evaluates.
#[cfg(feature = "train")]
#[derive(Debug, Args)]
#[command(next_help_heading = "Greedy soup")]
pub(crate) struct EmbeddedArguments {
    /// What computes [default: native]
    #[arg(long, value_enum)]
    pub(crate) engine: Option<learning::EngineChoice>,

    #[command(flatten)]
    pub(crate) split: SplitArguments,

    #[command(flatten)]
    pub(crate) model: learning::ModelArguments,

    #[command(flatten)]
    pub(crate) data: learning::DataArguments,
}

impl GreedyArguments {
    /// One of these options that was given, if any was.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let own = [
            ("--eval", self.eval.is_some()),
            ("--on-tie", self.on_tie.is_some()),
        ];
        let own = own.into_iter().find(|(_, is_given)| *is_given);
        own.map(|(name, _)| name)
            .or_else(|| self.given_of_embedded())
    }

    /// The images of the embedded evaluator, if they are said to be somewhere.
    pub(crate) fn data(&self) -> Option<&Path> {
        #[cfg(feature = "train")]
        return self.embedded.data.data.as_deref().map(Path::new);
        #[cfg(not(feature = "train"))]
        None
    }

    /// One of the options of the embedded evaluator that was given, if any was.
    #[cfg(feature = "train")]
    pub(crate) fn given_of_embedded(&self) -> Option<&'static str> {
        let embedded = &self.embedded;
        let all = [
            ("--engine", embedded.engine.is_some()),
            ("--validation", embedded.split.validation.is_some()),
            (
                "--validation-seed",
                embedded.split.validation_seed.is_some(),
            ),
            ("--model", embedded.model.model.is_some()),
            ("--model-option", !embedded.model.model_option.is_empty()),
            ("--data", embedded.data.data.is_some()),
            ("--data-dir", embedded.data.data_dir.is_some()),
        ];
        let given = all.into_iter().find(|(_, is_given)| *is_given);
        given.map(|(name, _)| name)
    }

    /// One of the options of the embedded evaluator that was given: there are none.
    #[cfg(not(feature = "train"))]
    pub(crate) fn given_of_embedded(&self) -> Option<&'static str> {
        None
    }
}

/// `--on-tie`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnTieChoice {
    /// It is kept: at least as good is enough
    Keep,
    /// It is dropped: the soup must become better
    Drop,
}
