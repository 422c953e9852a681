//! x
use crate::cli::args::MaskCommandArguments;
use crate::cli::exit::Exit;
use std::sync::atomic::AtomicBool;
pub(crate) fn run(_: &MaskCommandArguments, _: &AtomicBool) -> anyhow::Result<Exit> {
    Ok(Exit::Done)
}
