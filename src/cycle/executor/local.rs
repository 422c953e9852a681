//! Workers on this machine.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::process::kill_process_group;
use rustix::process::waitid;

use crate::cycle::executor::Devices;
use crate::cycle::executor::ExecutorError;
use crate::cycle::executor::Status;
use crate::cycle::executor::Ticket;
use crate::cycle::executor::devices;
use crate::cycle::executor::memory;
use crate::cycle::executor::memory::Claim;
use crate::format::regular::open_unlinked;

/// Name of a worker's log in its job's directory.
const LOG: &str = "log.txt";

/// How often a worker that was told to end is looked at before it is forced to, and the
/// pause between: five seconds.
const LOOKS: usize = 250;
const PAUSE: Duration = Duration::from_millis(20);

/// A job to be started.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Its directory, `jobs/<key>` of a run directory.
    pub directory: &'a Path,
    /// Threads that it may compute with.
    pub threads: usize,
    /// Bytes of memory that it will take at most, as far as is known; 0 if nothing is.
    pub memory_bytes: u64,
}

/// Starts `program job run --threads N --parent P DIR` for each job, P being this process.
///
/// Workers have their own process groups, so that what the user types reaches the
/// coordinator alone; nothing to read; and `log.txt` of the job's directory for their
/// output. They end with the thread that submitted them, so that must be one that lives as
/// long as they do. Dropping this ends them, too.
#[derive(Debug)]
pub struct Local {
    program: PathBuf,
    slots: usize,
    devices: Devices,
    submitted: u64,
    running: BTreeMap<Ticket, Worker>,
    ended: BTreeMap<Ticket, Status>,
}

/// A worker that runs.
#[derive(Debug)]
struct Worker {
    child: Child,
    slot: usize,
    memory_bytes: u64,
}

impl Local {
    /// Workers of `program`, at most `slots` at a time and at least one, which are dealt
    /// the `devices` in turn.
    pub fn new(program: PathBuf, slots: usize, devices: Devices) -> Self {
        Self {
            program,
            slots: slots.max(1),
            devices,
            submitted: 0,
            running: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    /// Starts a job. `None` if there is no slot for it, or not enough memory beside the
    /// jobs that run; where none runs there always is.
    ///
    /// # Errors
    /// [`ExecutorError`].
    pub fn submit(&mut self, start: &Start<'_>) -> Result<Option<Ticket>, ExecutorError> {
        self.reap()?;
        let is_free = |slot: &usize| self.running.values().all(|worker| worker.slot != *slot);
        let Some(slot) = (0..self.slots).find(is_free) else {
            return Ok(None);
        };
        if !self.running.is_empty() && !memory::fits(start.memory_bytes, &self.claims()) {
            return Ok(None);
        }
        let worker = Worker {
            child: self.spawn(start, slot)?,
            slot,
            memory_bytes: start.memory_bytes,
        };
        self.submitted += 1;
        let ticket = Ticket(self.submitted);
        self.running.insert(ticket, worker);
        Ok(Some(ticket))
    }

    /// Where a job stands.
    ///
    /// # Errors
    /// [`ExecutorError`].
    pub fn poll(&mut self, ticket: &Ticket) -> Result<Status, ExecutorError> {
        self.reap()?;
        if self.running.contains_key(ticket) {
            return Ok(Status::Running);
        }
        let status = self.ended.get(ticket).cloned();
        status.ok_or(ExecutorError::UnknownTicket { number: ticket.0 })
    }

    /// Tells a job to end itself, and does not wait for it. It keeps its slot until it has.
    pub fn cancel(&mut self, ticket: &Ticket) {
        if let Some(worker) = self.running.get(ticket) {
            signal(&worker.child, Signal::TERM);
        }
    }

    /// Ends every job: tells them to, and forces those that have not ended themselves after
    /// five seconds. Afterwards none runs.
    pub fn end(&mut self) {
        for worker in self.running.values() {
            signal(&worker.child, Signal::TERM);
        }
        for _ in 0..LOOKS {
            // A worker that cannot be watched is forced to end below.
            let _ = self.reap();
            if self.running.is_empty() {
                return;
            }
            thread::sleep(PAUSE);
        }
        for worker in self.running.values() {
            signal(&worker.child, Signal::KILL);
        }
        for (ticket, mut worker) in std::mem::take(&mut self.running) {
            let ended = worker.child.wait();
            let description = ended.map_or_else(|error| error.to_string(), manner);
            let status = Status::Exited {
                success: false,
                description,
            };
            self.ended.insert(ticket, status);
        }
    }

    fn spawn(&self, start: &Start<'_>, slot: usize) -> Result<Child, ExecutorError> {
        let path = start.directory.join(LOG);
        let opened = open_unlinked(OpenOptions::new().append(true).create(true), &path);
        let logs = opened.and_then(|log| Ok((log.try_clone()?, log)));
        let (output, errors) = logs.map_err(|source| ExecutorError::Log { path, source })?;
        let mut command = Command::new(&self.program);
        command.args(["job", "run", "--threads"]);
        command.arg(start.threads.to_string());
        command.arg("--parent").arg(process::id().to_string());
        command.arg(start.directory);
        if let Some(device) = self.devices.of_slot(slot) {
            command.env(devices::VARIABLE, device);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let spawned = command.process_group(0).spawn();
        spawned.map_err(|source| ExecutorError::Spawn {
            program: self.program.clone(),
            source,
        })
    }

    /// Notes which workers have ended.
    fn reap(&mut self) -> Result<(), ExecutorError> {
        let tickets: Vec<Ticket> = self.running.keys().copied().collect();
        for ticket in tickets {
            let Some(worker) = self.running.get_mut(&ticket) else {
                continue;
            };
            let process = worker.child.id();
            let ended = ended(&mut worker.child);
            let ended = ended.map_err(|source| ExecutorError::Watch { process, source })?;
            if let Some(status) = ended {
                self.running.remove(&ticket);
                let status = Status::Exited {
                    success: status.success(),
                    description: manner(status),
                };
                self.ended.insert(ticket, status);
            }
        }
        Ok(())
    }

    fn claims(&self) -> Vec<Claim> {
        let workers = self.running.values();
        workers
            .map(|worker| Claim {
                process: worker.child.id(),
                bytes: worker.memory_bytes,
            })
            .collect()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end();
    }
}

/// How a process ended, as what is said of it.
fn manner(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, signal) => by_signal(signal.unwrap_or_default()),
    }
}

/// How a process ended that a signal ended.
pub(super) fn by_signal(signal: i32) -> String {
    let mut text = format!("was ended by {}", ExitStatus::from_raw(signal));
    if signal == Signal::KILL.as_raw() {
        text.push_str(
            ", as the system ends a process when memory runs out; smaller batches and fewer jobs \
             at a time take less",
        );
    }
    text
}

/// How a worker ended, if it has. What it left in its group has ended then, too.
fn ended(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    // Not forgotten yet, so that its number, which is that of its group, is nobody else's.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(Pid::from_child(child)), options) {
        Ok(None) | Err(Errno::INTR) => Ok(None),
        Ok(Some(_)) => {
            signal(child, Signal::KILL);
            child.wait().map(Some)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Tells a worker's group, whose number nobody else can have before the worker is reaped.
fn signal(child: &Child, signal: Signal) {
    // It is no failure that nobody is left.
    let _ = kill_process_group(Pid::from_child(child), signal);
}
