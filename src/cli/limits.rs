//! How many files this process may have open: every shard of every ingredient takes one.

use std::io;
use std::process::Child;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::prlimit;
use rustix::process::setrlimit;

/// The limit that this process was started with, once it has been raised.
static FOUND: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit as far as that is permitted: what shells set by themselves, 1024, is
/// for programs that keep open files in a set of bits, select(2), which this one does not.
pub(crate) fn raise_open_files() {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: found.maximum,
        maximum: found.maximum,
    };
    if found.current != found.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        let _ = FOUND.set(found);
    }
}

/// Gives a command of the user's the limit that this process was started with.
pub(crate) fn restore_open_files(child: &Child) {
    if let Some(found) = FOUND.get() {
        // A command that has ended already needs none.
        let _ = prlimit(Some(Pid::from_child(child)), Resource::Nofile, *found);
    }
}

/// What to do where no more files can be opened; `None` after other errors.
pub(crate) fn remedy(error: &io::Error) -> Option<String> {
    if error.raw_os_error() != Some(Errno::MFILE.raw_os_error()) {
        return None;
    }
    let limit = getrlimit(Resource::Nofile).current?;
    Some(format!(
        "a process may have {limit} files open here, and every file of every ingredient takes \
         one: raise the hard limit first, as root with `ulimit -n {}`",
        limit.saturating_mul(8)
    ))
}
