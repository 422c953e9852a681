//! The `sms-merge` program: signals and `argv` walk in, an exit status walks out.

mod cli;

use std::env;
use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;

use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;

/// What a shell adds to the number of a signal that ended a program.
const SIGNALLED: i32 = 128;

/// Whether a signal came, and which.
#[derive(Default)]
struct Signals {
    interrupted: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

fn main() -> ExitCode {
    let signals = Signals::default();
    if let Err(error) = signals.watch() {
        cli::refuse_to_start(&error);
        return ExitCode::FAILURE;
    }
    let argv = env::args_os().collect();
    ExitCode::from(cli::run(argv, &signals.interrupted, &signals.number))
}

impl Signals {
    /// The first signal is noted, so that the run ends itself and leaves nothing behind; a
    /// second one ends it at once. A file past `ulimit -f` becomes an error of the write.
    fn watch(&self) -> io::Result<()> {
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            // Who starts a program with `nohup` wants it to live on.
            if signal == SIGHUP && is_ignored(signal) {
                continue;
            }
            let interrupted = || Arc::clone(&self.interrupted);
            // Registered first, it sees the flag as the signal before this one left it.
            flag::register_conditional_shutdown(signal, SIGNALLED + signal, interrupted())?;
            let number = usize::try_from(signal).unwrap_or_default();
            flag::register_usize(signal, Arc::clone(&self.number), number)?;
            flag::register(signal, interrupted())?;
        }
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        Ok(())
    }
}

/// Whether whoever started this program had it ignore a signal: proc(5).
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}
