//! Processes that end with whoever started them, whatever ends that one.
//!
//! The kernel sends a process its death signal when the *thread* that started it ends, not
//! only when the process does: prctl(2), `PR_SET_PDEATHSIG`. So whoever starts workers or
//! commands must do it from a thread that lives as long as they do. The wish is lost, too,
//! when the thread that uttered it ends, and kept when it becomes another program, unless
//! that one has rights of its own, such as a set-user-ID bit.

use std::ffi::OsString;
use std::io;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::Stdio;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::getpgrp;
use rustix::process::getpid;
use rustix::process::getppid;
use rustix::process::kill_current_process_group;
use rustix::process::set_parent_process_death_signal;
use thiserror::Error;

/// Why a process cannot end with the one that started it, or become another.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeathError {
    /// The kernel does not do it.
    #[error("this process cannot be made to end with process {parent}")]
    Unsupported {
        /// The process that started this one.
        parent: u32,
        /// What the system said.
        source: io::Error,
    },
    /// It is too late.
    #[error("process {parent}, which started this one, has ended")]
    Orphan {
        /// The process that started this one.
        parent: u32,
    },
    /// There is no word.
    #[error("there is no command to run")]
    NoWord,
    /// The command cannot be run.
    #[error("`{program}` cannot be run")]
    Exec {
        /// Its first word.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The process does not lead its group.
    #[error("this process leads no process group that it could end")]
    NotLeading,
    /// The group cannot be ended.
    #[error("this process group cannot be guarded")]
    Guard {
        /// What the system said.
        source: io::Error,
    },
}

/// Makes this process end, by SIGKILL, with the process `parent` that started it. Must be
/// called by a thread that lives on, such as the first one.
///
/// # Errors
/// [`DeathError::Orphan`] if that one has ended already, and [`DeathError::Unsupported`].
pub fn end_with(parent: u32) -> Result<(), DeathError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| {
        DeathError::Unsupported {
            parent,
            source: errno.into(),
        }
    })?;
    // The parent may have ended before the kernel was asked; then somebody else is it now.
    if getppid() == pid(parent) {
        Ok(())
    } else {
        Err(DeathError::Orphan { parent })
    }
}

/// Makes this process end with `parent`, and turns it into the command. It keeps its
/// output and its group, and has nothing to read.
///
/// Returns only if that fails: [`DeathError`].
pub fn exec_words(parent: u32, words: &[OsString]) -> DeathError {
    let Some((program, arguments)) = words.split_first() else {
        return DeathError::NoWord;
    };
    if let Err(error) = end_with(parent) {
        return error;
    }
    let source = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .exec();
    DeathError::Exec {
        program: program.to_string_lossy().into_owned(),
        source,
    }
}

/// Waits until `input` ends, which is when everybody who held its other end has let go of
/// it or died. Then ends the process group that this process leads, by SIGKILL, and with it
/// this process.
///
/// Returns only if that fails: [`DeathError`].
pub fn guard(mut input: impl Read) -> DeathError {
    // Otherwise the group is that of whoever started this process.
    if getpgrp() != getpid() {
        return DeathError::NotLeading;
    }
    let mut bytes = [0; 64];
    let heard = loop {
        match input.read(&mut bytes) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever cannot listen any more cannot guard either.
            Err(error) => break Err(error),
        }
    };
    let ended = kill_current_process_group(Signal::KILL);
    DeathError::Guard {
        source: heard.err().unwrap_or_else(|| match ended {
            Ok(()) => io::ErrorKind::Other.into(),
            Err(errno) => errno.into(),
        }),
    }
}

fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_no_command() {
        assert!(matches!(exec_words(1, &[]), DeathError::NoWord));
    }
}
