//! The `sms-merge` program: signals and `argv` walk in, an exit status walks out.

mod cli;

use std::env;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;

/// Status of a run that is ended by a second signal, before it could end itself.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    if let Err(error) = watch_signals(&interrupted) {
        cli::refuse_to_start(&error);
        return ExitCode::FAILURE;
    }
    ExitCode::from(cli::run(env::args_os().collect(), &interrupted))
}

/// The first signal sets `interrupted`, so that the run ends itself and leaves
/// nothing behind; a second one ends it at once. A file past `ulimit -f` becomes an
/// error of the write.
fn watch_signals(interrupted: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // Registered first, it sees the flag as the signal before this one left it.
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(interrupted))?;
        flag::register(signal, Arc::clone(interrupted))?;
    }
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}
