//! Which steps are done, and which can be started: what receipts say.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Coordinator;
use super::Done;
use super::Prepared;
use super::RunError;
use super::State;
use super::event::Event;
use super::event::Line;
use super::event::Watch;
use crate::cycle::job::JOB_VERSION;
use crate::cycle::job::Job;
use crate::cycle::plan::Step;
use crate::cycle::store::ArtefactState;
use crate::cycle::store::Found;
use crate::cycle::store::Key;
use crate::cycle::store::Receipt;
use crate::cycle::work::Work;
use crate::tensor::Digest;

/// What becomes of ingredients that are not there yet, where a soup may do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// They are waited for.
    Awaited,
    /// They are left out.
    Spared,
}

/// What the inputs of a step allow.
enum Inputs {
    /// Some are not there yet.
    Missing,
    /// Some never will be.
    Never,
    /// All that it needs.
    There(Box<Job>),
}

impl Coordinator<'_> {
    /// Brings all states up to date, in the order of the plan: each step reads only of
    /// steps before it.
    pub(super) fn settle(&mut self, watch: &mut dyn Watch) -> Result<(), RunError> {
        for idx in 0..self.states.len() {
            if !matches!(self.states[idx], State::Waiting) {
                continue;
            }
            match self.inputs(idx, Open::Awaited)? {
                Inputs::Missing if self.setting.lock.is_none() => self.look_back(idx, watch)?,
                Inputs::Missing => {}
                Inputs::Never => self.states[idx] = State::Blocked,
                Inputs::There(job) => self.settle_step(idx, job, watch)?,
            }
        }
        Ok(())
    }

    /// Finds a soup that was made without ingredients that failed for good: who only looks
    /// does not know that they did.
    fn look_back(&mut self, idx: usize, watch: &mut dyn Watch) -> Result<(), RunError> {
        let Inputs::There(job) = self.inputs(idx, Open::Spared)? else {
            return Ok(());
        };
        let key = job.key;
        if let Some(receipt) = self.receipt(idx, &key, watch)? {
            self.states[idx] = State::Done(Box::new(Done { key, receipt }));
        }
        Ok(())
    }

    fn settle_step(
        &mut self,
        idx: usize,
        job: Box<Job>,
        watch: &mut dyn Watch,
    ) -> Result<(), RunError> {
        let key = job.key.clone();
        if let Some(receipt) = self.receipt(idx, &key, watch)? {
            watch.event(&Event::Reused {
                step: idx,
                receipt: &receipt,
            });
            self.states[idx] = State::Done(Box::new(Done { key, receipt }));
        } else {
            self.states[idx] = State::Ready(Box::new(Prepared {
                job: *job,
                not_before: Duration::ZERO,
            }));
        }
        Ok(())
    }

    /// The receipt of a step, if there is one and no file that it names is damaged. What is
    /// damaged is moved aside.
    pub(super) fn receipt(
        &mut self,
        idx: usize,
        key: &Key,
        watch: &mut dyn Watch,
    ) -> Result<Option<Receipt>, RunError> {
        let run = self.setting.run;
        let why = match run.receipt(key)? {
            Found::Missing => return Ok(None),
            Found::Damaged { why } => format!("its receipt is damaged: {why}"),
            Found::Whole(receipt) => {
                let mut fault = None;
                for artefact in receipt.outputs.values() {
                    let state = run.check(artefact)?;
                    // What is not there may have been removed because nobody needs it.
                    if state != ArtefactState::Missing
                        && let Some(found) = state.fault()
                    {
                        fault = Some(format!("`{}` is damaged: {found}", artefact.file));
                    }
                }
                match fault {
                    None => return Ok(Some(receipt)),
                    Some(fault) => fault,
                }
            }
        };
        if self.setting.lock.is_some() {
            let discarded = run.discard(key, &why)?;
            self.note("discarded", idx, Some(key), Some(discarded.why.clone()))?;
        }
        watch.event(&Event::Discarded {
            step: idx,
            why: &why,
        });
        Ok(None)
    }

    /// The job of a step, if all that it reads is there.
    fn inputs(&self, idx: usize, open: Open) -> Result<Inputs, RunError> {
        let step = &self.setting.plan.steps[idx];
        let mut inputs = BTreeMap::new();
        let mut ordinals = Vec::new();
        let mut missing = 0;
        for input in &step.inputs {
            let ordinal = input.role.strip_prefix("ingredient-");
            let is_spared = step.min_ingredients.is_some() && ordinal.is_some();
            match &self.states[input.step] {
                State::Done(_) => {}
                State::Failed(_) | State::Blocked if is_spared => {
                    missing += 1;
                    continue;
                }
                State::Failed(_) | State::Blocked => return Ok(Inputs::Never),
                _ if is_spared && open == Open::Spared => {
                    missing += 1;
                    continue;
                }
                State::Waiting | State::Ready(_) | State::Running(_) => return Ok(Inputs::Missing),
            }
            let Some(artefact) = self.artefact(input.step, input.output) else {
                return Ok(Inputs::Never);
            };
            inputs.insert(input.role.clone(), artefact.clone());
            ordinals.extend(ordinal.and_then(|text| text.parse::<usize>().ok()));
        }
        if missing > 0 && ordinals.len() < step.min_ingredients.unwrap_or(usize::MAX) {
            return Ok(Inputs::Never);
        }
        let mut work = step.work.clone();
        if let Work::Merge(merge) = &mut work {
            merge.ordinals = ordinals;
        }
        self.job(step, work, inputs).map(Inputs::There)
    }

    fn job(
        &self,
        step: &Step,
        work: Work,
        inputs: BTreeMap<String, crate::cycle::store::Artefact>,
    ) -> Result<Box<Job>, RunError> {
        let named = inputs.iter();
        let mut digests: BTreeMap<String, Digest> = named
            .map(|(role, artefact)| (role.clone(), artefact.digest))
            .collect();
        let mut settings = self.setting.settings.clone();
        if let (Work::Import(_), Some((path, digest))) = (&work, &self.setting.given) {
            digests.insert("given".to_owned(), *digest);
            settings.given = Some(path.clone());
        }
        let parameters = serde_json::to_value(&work).map_err(|source| RunError::Metrics {
            label: step.label.clone(),
            source,
        })?;
        Ok(Box::new(Job {
            format_version: JOB_VERSION,
            key: Key::of(work.kind(), &parameters, &digests),
            label: step.label.clone(),
            work,
            inputs,
            settings,
        }))
    }

    /// Looks again at everything that reads of a step, directly or not.
    pub(super) fn reset_readers(&mut self, idx: usize) {
        let mut open = self.readers[idx].clone();
        while let Some(reader) = open.pop() {
            if let State::Running(active) = &self.states[reader] {
                self.executor.cancel(&active.ticket);
            }
            if !matches!(self.states[reader], State::Waiting) {
                self.states[reader] = State::Waiting;
                open.extend(self.readers[reader].iter().copied());
            }
        }
    }

    /// Writes a line of the journal.
    pub(super) fn note(
        &self,
        event: &'static str,
        idx: usize,
        key: Option<&Key>,
        detail: Option<String>,
    ) -> Result<(), RunError> {
        let line = Line {
            time_ms: (self.setting.wall_ms)(),
            event,
            step: &self.setting.plan.steps[idx].label,
            key: key.map(ToString::to_string),
            detail,
        };
        Ok(self.setting.run.journal().append(&line)?)
    }
}
