//! A run under way: a plan and a run directory walk in, receipts and events walk out.
//!
//! What is done is what receipts say. The coordinator looks which steps have none, starts
//! jobs for those whose inputs are there, and looks again when a job has ended. It
//! believes nothing else: not exit statuses, not its own memory of an earlier run.

mod collect;
mod error;
mod event;
mod names;
mod settle;
mod start;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cycle::executor::Local;
use crate::cycle::executor::Ticket;
use crate::cycle::job::Job;
use crate::cycle::job::Settings;
use crate::cycle::plan::Plan;
use crate::cycle::recipe::Recipe;
use crate::cycle::store::Artefact;
use crate::cycle::store::Key;
use crate::cycle::store::Lock;
use crate::cycle::store::Receipt;
use crate::cycle::store::RunDirectory;
use crate::tensor::Digest;

pub use collect::collect;
pub use error::RunError;
pub use event::Event;
pub use event::Watch;
pub use names::name_artefacts;

/// Time between two looks at running jobs.
const PAUSE: Duration = Duration::from_millis(20);

/// What a coordinator works with.
pub struct Setting<'a> {
    /// Where.
    pub run: &'a RunDirectory,
    /// That nobody else does; without it nothing is changed.
    pub lock: Option<&'a Lock>,
    /// What for.
    pub recipe: &'a Recipe,
    /// The steps.
    pub plan: &'a Plan,
    /// Digest of the checkpoint that is given, if one is.
    pub given: Option<(PathBuf, Digest)>,
    /// What does not decide the outcome of any step.
    pub settings: Settings,
    /// Cores that jobs share.
    pub cores: usize,
    /// Jobs at a time.
    pub slots: usize,
    /// Bytes of memory that a job takes at most, as far as is known.
    pub memory_bytes: u64,
    /// Time that has passed.
    pub clock: &'a dyn Fn() -> Duration,
    /// Milliseconds since 1970, for the journal.
    pub wall_ms: &'a dyn Fn() -> u64,
    /// Set if the run is to end.
    pub interrupted: &'a AtomicBool,
}

/// Where a step stands.
enum State {
    /// Its inputs are not there.
    Waiting,
    /// It can be started.
    Ready(Box<Prepared>),
    /// A job works at it.
    Running(Active),
    /// There is a receipt.
    Done(Box<Done>),
    /// It failed for good.
    Failed(String),
    /// A step that it reads of did.
    Blocked,
}

/// A step whose inputs are known.
struct Prepared {
    job: Job,
    /// Not to be started before this time.
    not_before: Duration,
}

/// A step that is done.
struct Done {
    key: Key,
    receipt: Receipt,
}

/// A step that a job works at.
struct Active {
    key: Key,
    prepared: Box<Prepared>,
    ticket: Ticket,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every step is done, but for ingredients that failed for good where the recipe lets
    /// soups do without them.
    Done,
    /// Some steps failed for good; all that do not need them are done.
    Failed,
    /// By the flag.
    Interrupted,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// What it reads is not there.
    Waiting,
    /// It can be started.
    Ready,
    /// A job of this coordinator works at it.
    Running,
    /// It is done.
    Done,
    /// It failed for good, or a step that it reads of did.
    Failed,
}

/// Starts jobs until nothing is left to do.
pub struct Coordinator<'a> {
    setting: Setting<'a>,
    executor: Local,
    readers: Vec<Vec<usize>>,
    states: Vec<State>,
    /// How often each step was tried in this run.
    tries: BTreeMap<usize, u32>,
}

impl<'a> Coordinator<'a> {
    /// Nothing is started yet.
    pub fn new(setting: Setting<'a>, executor: Local) -> Self {
        Self {
            readers: setting.plan.readers(),
            states: setting.plan.steps.iter().map(|_| State::Waiting).collect(),
            setting,
            executor,
            tries: BTreeMap::new(),
        }
    }

    /// Looks which steps are done, and starts nothing. With the lock, results that are
    /// damaged are moved aside.
    ///
    /// # Errors
    /// [`RunError`] if the run directory cannot be read.
    pub fn look(&mut self, watch: &mut dyn Watch) -> Result<(), RunError> {
        self.settle(watch)
    }

    /// Works until every step is done or cannot be. Must be called by a thread that lives
    /// as long as the jobs.
    ///
    /// # Errors
    /// [`RunError::NotLocked`], and others if the run directory cannot be used; jobs are
    /// ended then.
    pub fn go(&mut self, watch: &mut dyn Watch) -> Result<Ended, RunError> {
        let ended = self.work(watch);
        self.executor.end();
        ended
    }

    fn work(&mut self, watch: &mut dyn Watch) -> Result<Ended, RunError> {
        // What killed workers left is cleared up before new ones begin.
        let lock = self.setting.lock.ok_or(RunError::NotLocked)?;
        self.setting.run.remove_unused(lock, &BTreeSet::new())?;
        let mut soups = None;
        loop {
            self.settle(watch)?;
            let found = self.soups();
            if soups.replace(found).is_some_and(|before| found > before) {
                watch.soup(&self.receipts());
            }
            if self.setting.interrupted.load(Ordering::Relaxed) {
                return Ok(Ended::Interrupted);
            }
            self.start(watch)?;
            let is_busy = self
                .states
                .iter()
                .any(|state| matches!(state, State::Running(_) | State::Ready(_) | State::Waiting));
            if !is_busy {
                return Ok(match self.is_complete() {
                    true => Ended::Done,
                    false => Ended::Failed,
                });
            }
            self.watch_jobs(watch)?;
            std::thread::sleep(PAUSE);
        }
    }

    /// Number of soups that are there.
    fn soups(&self) -> usize {
        let studies = self.setting.plan.studies.iter();
        let phases = studies.flat_map(|study| &study.phases);
        phases
            .filter(|phase| matches!(self.states[phase.soup], State::Done(_)))
            .count()
    }

    /// Whether every step is done, or only read by steps that are done without it.
    fn is_complete(&self) -> bool {
        let mut complete = vec![false; self.states.len()];
        // Steps read of steps before them.
        for idx in (0..self.states.len()).rev() {
            let readers = &self.readers[idx];
            let is_spared = !readers.is_empty() && readers.iter().all(|&reader| complete[reader]);
            complete[idx] = matches!(self.states[idx], State::Done(_)) || is_spared;
        }
        complete.into_iter().all(|complete| complete)
    }

    /// The receipts, by step; `None` where there is none.
    pub fn receipts(&self) -> Vec<Option<&Receipt>> {
        let states = self.states.iter();
        states
            .map(|state| match state {
                State::Done(done) => Some(&done.receipt),
                _ => None,
            })
            .collect()
    }

    /// The steps that failed for good, and why.
    pub fn failures(&self) -> Vec<(usize, &str)> {
        let states = self.states.iter().enumerate();
        states
            .filter_map(|(idx, state)| match state {
                State::Failed(why) => Some((idx, why.as_str())),
                _ => None,
            })
            .collect()
    }

    /// Where each step stands.
    pub fn standings(&self) -> Vec<Standing> {
        let states = self.states.iter();
        states
            .map(|state| match state {
                State::Waiting => Standing::Waiting,
                State::Ready(_) => Standing::Ready,
                State::Running(_) => Standing::Running,
                State::Done(_) => Standing::Done,
                State::Failed(_) | State::Blocked => Standing::Failed,
            })
            .collect()
    }

    /// The key of a step, if it is known.
    pub fn key(&self, step: usize) -> Option<&Key> {
        match &self.states[step] {
            State::Ready(prepared) => Some(&prepared.job.key),
            State::Running(active) => Some(&active.key),
            State::Done(done) => Some(&done.key),
            State::Waiting | State::Failed(_) | State::Blocked => None,
        }
    }

    fn artefact(&self, step: usize, output: &str) -> Option<&Artefact> {
        match &self.states[step] {
            State::Done(done) => done.receipt.outputs.get(output),
            _ => None,
        }
    }
}
