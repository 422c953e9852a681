//! Who does the work: directories of jobs walk in, ended processes walk out. What a job
//! achieved is not theirs to say: that is in its receipt.
//!
//! [`Local`] starts workers of this program on this machine. An executor has three verbs,
//! `submit`, `poll` and `cancel`, and knows of a job only its directory, because
//! `job run DIR` is all that it takes to run one, here or on another machine that shares
//! the file system. A batch system would be a second executor behind the same verbs, and an
//! enum of the two what the coordinator holds.
//!
//! A worker is supervised from above and supervises the user's own commands itself, with
//! [`Supervised`]. Nobody outlives who started it, whatever ends that one, SIGKILL too:
//!
//! - A worker asks the kernel for SIGKILL at the death of the coordinator: [`end_with`].
//! - A command is started by `job exec`, which asks for the same and then becomes the
//!   command: [`exec_words`].
//! - What a command starts is in its process group. Of that nobody tells the kernel, so the
//!   group is led by a guard (`job guard`), which waits at a pipe whose other end the worker
//!   holds, and ends the group when that closes: [`guard`].
//!
//! No process is started through a shell. Reads neither the clock nor the environment.

mod backoff;
mod death;
mod devices;
mod local;
mod memory;
mod process;
mod tail;
mod template;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use backoff::backoff;
pub use death::DeathError;
pub use death::end_with;
pub use death::exec_words;
pub use death::guard;
pub use devices::DeviceError;
pub use devices::Devices;
pub use local::Local;
pub use local::Start;
pub use process::Ended;
pub use process::Invocation;
pub use process::Limits;
pub use process::ProcessError;
pub use process::Supervised;
pub use tail::last_lines;
pub use template::Template;
pub use template::TemplateError;

/// What a job is asked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has not ended.
    Running,
    /// It has ended.
    Exited {
        /// Whether it says that it succeeded.
        success: bool,
        /// How it ended, for people.
        description: String,
    },
}

/// Why jobs cannot be started or watched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The log of a job cannot be opened.
    #[error("log `{}` cannot be written", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The worker cannot be started.
    #[error("worker `{}` cannot be started", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not say whether a worker has ended.
    #[error("worker {process} cannot be watched")]
    Watch {
        /// Its number.
        process: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The ticket is not one of this executor.
    #[error("no job was submitted under ticket {number}")]
    UnknownTicket {
        /// Its number.
        number: u64,
    },
}

impl ExecutorError {
    /// Whether the device is full or the user's quota is.
    pub fn is_no_space(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Log { source, .. } if full.contains(&source.kind()))
    }
}
