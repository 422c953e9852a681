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
use rustix::process::getppid;
use rustix::process::kill_process_group;
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
    /// The number belongs to no group of processes.
    #[error("{group} is no group of processes")]
    NoGroup {
        /// The number.
        group: u32,
    },
    /// The pipe to the worker fails.
    #[error("the guard of process group {group} cannot listen")]
    Listen {
        /// The group.
        group: u32,
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

/// Waits until `input` ends. If it ended without a word, whoever held the other end has
/// died, and the process group is ended by SIGKILL.
///
/// # Errors
/// [`DeathError::NoGroup`] and [`DeathError::Listen`]; after the latter the group has been
/// ended too.
pub fn guard(group: u32, mut input: impl Read) -> Result<(), DeathError> {
    // Group 1 and 0 would be everybody and oneself.
    let Some(id) = pid(group).filter(|_| group > 1) else {
        return Err(DeathError::NoGroup { group });
    };
    let mut word = [0];
    let heard = loop {
        match input.read(&mut word) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            heard => break heard,
        }
    };
    match heard {
        Ok(1..) => Ok(()),
        Ok(0) => {
            // It is no failure that nobody is left.
            let _ = kill_process_group(id, Signal::KILL);
            Ok(())
        }
        Err(source) => {
            let _ = kill_process_group(id, Signal::KILL);
            Err(DeathError::Listen { group, source })
        }
    }
}

fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_guarded_or_run() {
        for group in [0, 1, u32::MAX] {
            let refused = guard(group, io::empty());
            assert!(
                matches!(refused, Err(DeathError::NoGroup { .. })),
                "{group}"
            );
        }
        assert!(matches!(exec_words(1, &[]), DeathError::NoWord));
    }

    #[test]
    fn a_guard_that_hears_a_word_does_nothing() {
        let mut child = Command::new("sleep")
            .arg("60")
            .process_group(0)
            .spawn()
            .unwrap();
        guard(child.id(), &b"."[..]).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        guard(child.id(), io::empty()).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
