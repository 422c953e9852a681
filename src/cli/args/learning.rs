//! Options that the commands of the trainer share: model, data and engine.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use clap::ValueHint;
use sms_merge::tensor::DeviceName;

use super::thread_count;

/// Which network.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArguments {
    /// Name of a model, or a file that describes one [default: the checkpoint's own]
    ///
    /// mlp, lenet5, convnet, resnet8, resnet20, resnet56, resnet18, vgg16-bn and
    /// wideresnet20 are known by name; a path that ends in .toml or .json is a
    /// description. A checkpoint that does not say which model it is needs this; where
    /// there is no checkpoint, the data set decides.
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<String>,

    /// Option of the model, such as hidden=300,100 or widths=16,32; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub(crate) model_option: Vec<(String, String)>,
}

/// Which images.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArguments {
    /// Name of a data set, a directory, or a .st file [default: the checkpoint's own]
    ///
    /// digits are part of the program; mnist, fashion-mnist, cifar10 and cifar100 are
    /// known by name. A .st file holds the tensors `images` and `labels`. A checkpoint that
    /// does not say on which images it was trained needs this; a training that begins
    /// without a checkpoint takes the digits.
    #[arg(short, long, value_name = "DATA", value_hint = ValueHint::AnyPath)]
    pub(crate) data: Option<String>,

    /// Where the files of a known data set are
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) data_dir: Option<PathBuf>,
}

/// What computes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArguments {
    /// Where it computes: cpu, cuda or cuda:N, counted as CUDA counts
    ///
    /// A GPU needs a program that was built with `--features cuda`, and CUDA's libraries
    /// (README.md). The bits of a GPU are not those of the processor; a training is
    /// continued by --resume on the kind of device that it began on.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub(crate) device: DeviceName,

    /// What computes [default: native on the processor, candle on a GPU]
    #[arg(long, value_enum)]
    pub(crate) engine: Option<EngineChoice>,

    /// Worker threads; changes no bit of the result [default: one per core, at most 16]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub(crate) threads: Option<usize>,
}

/// `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// This program's own, on the processor: fast
    Native,
    /// candle's, for a GPU; on the processor slow, as a check
    Candle,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=');
    let (name, value) = parts.ok_or_else(|| "expected NAME=VALUE".to_owned())?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
