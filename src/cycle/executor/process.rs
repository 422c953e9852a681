//! One command of the user, watched from its start to the end of its last process.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::process::kill_process_group;
use rustix::process::waitid;
use thiserror::Error;

use crate::cycle::executor::local::by_signal;
use crate::format::regular::open_unlinked;

/// Shortest and longest pause between two looks at a command.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A command to be run.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// This program, which has the subcommands `job exec` and `job guard`.
    pub program: &'a Path,
    /// The command's words. The first is looked up as the system does it.
    pub words: &'a [OsString],
    /// What is added to its environment.
    pub environment: &'a [(OsString, OsString)],
    /// Where it is run.
    pub directory: &'a Path,
    /// Where its output is added.
    pub log: &'a Path,
}

/// How long a command may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// From its start to its end.
    pub wall: Option<Duration>,
    /// Without a change of its log or of another watched file.
    pub stall: Option<Duration>,
    /// From being told to end to being forced to.
    pub grace: Duration,
}

/// How a command ended. Whoever it started has ended with it, unless in a session of its
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with status 0.
    Success,
    /// By itself, with another status.
    Exit(i32),
    /// By a signal that was not sent from here.
    Signal(i32),
    /// It took too long.
    WallTimeout,
    /// It was silent too long.
    StallTimeout,
    /// The flag was set.
    Interrupted,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("succeeded"),
            Self::Exit(code) => write!(f, "ended with status {code}"),
            Self::Signal(number) => f.write_str(&by_signal(*number)),
            Self::WallTimeout => f.write_str("was ended because it took too long"),
            Self::StallTimeout => f.write_str("was ended because it stalled"),
            Self::Interrupted => f.write_str("was interrupted"),
        }
    }
}

/// Why a command cannot be started or watched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Its log cannot be opened.
    #[error("log `{}` cannot be written", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A process cannot be started.
    #[error("`{}` cannot be started in `{}`", program.display(), directory.display())]
    Spawn {
        /// This program.
        program: PathBuf,
        /// Where it was to be started.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not say whether it has ended.
    #[error("process {process} cannot be watched")]
    Watch {
        /// Its number.
        process: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// A command that runs, in a process group that a guard leads. Dropped, everything in the
/// group is ended by force.
///
/// It ends with the thread that started it, so that must be one that lives as long.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    guard: Guard,
    log: PathBuf,
}

impl Supervised {
    /// Starts a command, without a shell. It has nothing to read, and what it prints goes
    /// to the log. A command that cannot be found fails, and the log says so.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn spawn(invocation: &Invocation<'_>) -> Result<Self, ProcessError> {
        let path = invocation.log.to_path_buf();
        let opened = open_unlinked(OpenOptions::new().append(true).create(true), &path);
        let logs = opened.and_then(|log| Ok((log.try_clone()?, log)));
        let (output, errors) = logs.map_err(|source| ProcessError::Log { path, source })?;
        let failed = |source| ProcessError::Spawn {
            program: invocation.program.to_path_buf(),
            directory: invocation.directory.to_path_buf(),
            source,
        };
        // The guard comes first: there is no moment at which the command has none.
        let mut guard = Guard::start(invocation.program).map_err(failed)?;
        let mut command = Command::new(invocation.program);
        command.args(["job", "exec", "--parent"]);
        command.arg(process::id().to_string());
        command.arg("--").args(invocation.words);
        command.envs(invocation.environment.iter().cloned());
        command.current_dir(invocation.directory);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        command.process_group(guard.group().as_raw_pid());
        match command.spawn() {
            Ok(child) => Ok(Self {
                child,
                guard,
                log: invocation.log.to_path_buf(),
            }),
            Err(error) => {
                let _ = guard.end();
                Err(failed(error))
            }
        }
    }

    /// Waits until the command ends, or makes it. `watched` are files whose growth shows
    /// that it is at work, besides its log; they need not exist. `clock` tells the time
    /// that has passed.
    ///
    /// A command that has to end is told to, with SIGTERM to its group, and forced to after
    /// the grace. What is left of its group when it has ended is ended by force.
    ///
    /// # Errors
    /// [`ProcessError::Watch`]; the command has been ended then.
    pub fn wait(
        mut self,
        limits: &Limits,
        watched: &[&Path],
        clock: &dyn Fn() -> Duration,
        interrupted: &AtomicBool,
    ) -> Result<Ended, ProcessError> {
        let reason = self.watch(limits, watched, clock, interrupted)?;
        if reason.is_some() {
            let _ = kill_process_group(self.guard.group(), Signal::TERM);
            let told = clock();
            while clock().saturating_sub(told) < limits.grace && !self.has_ended()? {
                thread::sleep(LONGEST_PAUSE.min(limits.grace));
            }
        }
        let process = self.child.id();
        let ended = self.end();
        let status = ended.map_err(|source| ProcessError::Watch { process, source })?;
        Ok(
            reason.unwrap_or_else(|| match (status.code(), status.signal()) {
                (Some(0), _) => Ended::Success,
                (Some(code), _) => Ended::Exit(code),
                (None, signal) => Ended::Signal(signal.unwrap_or_default()),
            }),
        )
    }

    /// Waits until the command has ended, `None`, or has to.
    fn watch(
        &self,
        limits: &Limits,
        watched: &[&Path],
        clock: &dyn Fn() -> Duration,
        interrupted: &AtomicBool,
    ) -> Result<Option<Ended>, ProcessError> {
        let started = clock();
        let mut files = vec![self.log.as_path()];
        files.extend(watched);
        let mut traces = traces(&files);
        let mut changed = started;
        let mut pause = SHORTEST_PAUSE;
        loop {
            if self.has_ended()? {
                return Ok(None);
            }
            if interrupted.load(Ordering::Relaxed) {
                return Ok(Some(Ended::Interrupted));
            }
            let now = clock();
            let is_past = |limit: Option<Duration>, since| {
                limit.is_some_and(|limit| now.saturating_sub(since) >= limit)
            };
            if is_past(limits.wall, started) {
                return Ok(Some(Ended::WallTimeout));
            }
            if limits.stall.is_some() {
                let found = self::traces(&files);
                if found != traces {
                    (traces, changed) = (found, now);
                }
                if is_past(limits.stall, changed) {
                    return Ok(Some(Ended::StallTimeout));
                }
            }
            thread::sleep(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Whether the command has ended. Others of its group may not have.
    fn has_ended(&self) -> Result<bool, ProcessError> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::Pid(Pid::from_child(&self.child)), options) {
                Ok(ended) => return Ok(ended.is_some()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(ProcessError::Watch {
                        process: self.child.id(),
                        source: errno.into(),
                    });
                }
            }
        }
    }

    /// Ends what is left of the group, and forgets the command.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.guard.end()?;
        self.child.wait()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// How long each file is, and when it changed; `None` where there is none.
fn traces(files: &[&Path]) -> Vec<Option<(u64, i64, i64)>> {
    let trace = |path: &&Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    };
    files.iter().map(trace).collect()
}

/// A process that ends its group when this process dies. As it leads the group, the group's
/// number is nobody else's before the guard has been reaped.
#[derive(Debug)]
struct Guard {
    child: Child,
    is_over: bool,
}

impl Guard {
    fn start(program: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        // It waits at a pipe whose other end this process holds, in `child`.
        command.args(["job", "guard"]).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.process_group(0).spawn()?;
        Ok(Self {
            child,
            is_over: false,
        })
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Ends the group, the guard too. A second time it does nothing.
    fn end(&mut self) -> io::Result<()> {
        if !self.is_over {
            self.is_over = true;
            // It is no failure that nobody is left.
            let _ = kill_process_group(self.group(), Signal::KILL);
            self.child.wait()?;
        }
        Ok(())
    }
}
