//! What can be said of adapters that are merged.

use clap::Args;
use clap::ValueEnum;

/// How adapters are merged.
#[derive(Debug, Args)]
#[command(next_help_heading = "Adapters")]
pub(crate) struct AdapterArguments {
    /// What is averaged of low-rank adapters (LoRA)
    ///
    /// Adapters of peft, kohya and diffusers are told by the names of their tensors.
    /// `factors` averages each factor by itself, which is another adapter than the mean:
    /// for adapters of one rank and scale that started from the same factors.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) lora: LoraChoice,

    /// Cut products to this rank [default: none, so that the mean is exact]
    ///
    /// The mean of adapters has a rank that is the sum of their ranks. It is cut by its
    /// singular values; what is lost is printed.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rank: Option<u32>,
}

/// `--lora`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoraChoice {
    /// What they add to a network: factors stand side by side
    #[default]
    Products,
    /// Their factors, one by one
    Factors,
}
