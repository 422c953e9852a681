//! Jobs: started while there is room, looked after until they end.

use std::fs;
use std::time::Duration;

use super::Active;
use super::Coordinator;
use super::Done;
use super::Prepared;
use super::RunError;
use super::State;
use super::event::Event;
use super::event::Watch;
use crate::cycle::executor::Start;
use crate::cycle::executor::Status;
use crate::cycle::executor::backoff;
use crate::cycle::job::Failure;
use crate::cycle::job::last_progress;
use crate::cycle::recipe::Keep;
use crate::cycle::store::ArtefactState;
use crate::cycle::work::Work;

impl Coordinator<'_> {
    /// Starts what can be started.
    pub(super) fn start(&mut self, watch: &mut dyn Watch) -> Result<(), RunError> {
        let now = (self.setting.clock)();
        let is_running = |state: &&State| matches!(state, State::Running(_));
        let running = self.states.iter().filter(is_running).count();
        let ready: Vec<usize> = (0..self.states.len())
            .filter(|&idx| match &self.states[idx] {
                State::Ready(prepared) => prepared.not_before <= now,
                _ => false,
            })
            .collect();
        let room = self.setting.slots.saturating_sub(running);
        // Fewer jobs than slots share all cores: threads change no bit of the outcome.
        let jobs = (running + ready.len()).clamp(1, self.setting.slots.max(1));
        let threads = (self.setting.cores / jobs).max(1);
        for idx in ready.into_iter().take(room) {
            if self.has_inputs(idx, watch)? && !self.start_step(idx, threads, watch)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the files that a step reads are there. Those that are not are made again.
    fn has_inputs(&mut self, idx: usize, watch: &mut dyn Watch) -> Result<bool, RunError> {
        let mut lost = Vec::new();
        for input in &self.setting.plan.steps[idx].inputs {
            let Some(artefact) = self.artefact(input.step, input.output) else {
                continue;
            };
            if self.setting.run.check(artefact)? != ArtefactState::Whole {
                lost.push(input.step);
            }
        }
        for &step in &lost {
            // Two outputs of one step may both be lost.
            let State::Done(done) = &self.states[step] else {
                continue;
            };
            let key = done.key.clone();
            let discarded = self
                .setting
                .run
                .discard(&key, "a file of it is needed again")?;
            self.note("missing", step, Some(&key), Some(discarded.why.clone()))?;
            watch.event(&Event::Missing { step });
            self.states[step] = State::Waiting;
            self.reset_readers(step);
        }
        Ok(lost.is_empty())
    }

    /// Starts a job; `false` if there is no room for it now.
    fn start_step(
        &mut self,
        idx: usize,
        threads: usize,
        watch: &mut dyn Watch,
    ) -> Result<bool, RunError> {
        let State::Ready(prepared) = &self.states[idx] else {
            return Ok(true);
        };
        let key = prepared.job.key.clone();
        let run = self.setting.run;
        run.write_job(&key, &prepared.job)?;
        let directory = run.job_directory(&key);
        Failure::forget(&directory);
        let start = Start {
            directory: &directory,
            threads,
            memory_bytes: self.setting.memory_bytes,
        };
        let Some(ticket) = self.executor.submit(&start)? else {
            return Ok(false);
        };
        let tries = self.tries.entry(idx).or_insert(0);
        *tries += 1;
        let attempt = *tries;
        self.note("started", idx, Some(&key), None)?;
        let ready = std::mem::replace(&mut self.states[idx], State::Waiting);
        if let State::Ready(prepared) = ready {
            self.states[idx] = State::Running(Active {
                key,
                prepared,
                ticket,
            });
        }
        watch.event(&Event::Started {
            step: idx,
            attempt,
            threads,
        });
        Ok(true)
    }

    /// Looks after the running jobs.
    pub(super) fn watch_jobs(&mut self, watch: &mut dyn Watch) -> Result<(), RunError> {
        for idx in 0..self.states.len() {
            let State::Running(active) = &self.states[idx] else {
                continue;
            };
            let key = active.key.clone();
            match self.executor.poll(&active.ticket)? {
                Status::Running => {
                    let run = self.setting.run;
                    let latest = run.attempts(&key)? as u32;
                    let directory = run.attempt_directory(&key, latest);
                    if let Some(progress) = last_progress(&directory) {
                        watch.event(&Event::Progress {
                            step: idx,
                            progress,
                        });
                    }
                }
                Status::Exited { description, .. } => {
                    let active = std::mem::replace(&mut self.states[idx], State::Waiting);
                    if let State::Running(active) = active {
                        self.ended(idx, active, &description, watch)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A job has ended: only a receipt means that its step is done.
    fn ended(
        &mut self,
        idx: usize,
        active: Active,
        description: &str,
        watch: &mut dyn Watch,
    ) -> Result<(), RunError> {
        let Active { key, prepared, .. } = active;
        if let Some(receipt) = self.receipt(idx, &key, watch)? {
            self.note("done", idx, Some(&key), None)?;
            watch.event(&Event::Finished {
                step: idx,
                receipt: &receipt,
            });
            self.states[idx] = State::Done(Box::new(Done { key, receipt }));
            return self.remove_unneeded(idx);
        }
        let directory = self.setting.run.job_directory(&key);
        let failure = Failure::read(&directory);
        let is_permanent = failure.as_ref().is_some_and(|failure| failure.is_permanent);
        let why = match failure {
            Some(failure) => {
                let causes = failure.causes.iter().map(|cause| format!(": {cause}"));
                failure.message + &causes.collect::<String>()
            }
            None => format!(
                "the job {description}; its output is below `{}`",
                directory.display()
            ),
        };
        let tries = self.tries.get(&idx).copied().unwrap_or(1);
        let run = &self.setting.recipe.run;
        let is_tried_again = !is_permanent && tries <= run.retries;
        let base = Duration::try_from_secs_f64(run.backoff_secs).unwrap_or_default();
        let pause = is_tried_again.then(|| backoff(tries, base));
        self.note("failed", idx, Some(&key), Some(why.clone()))?;
        watch.event(&Event::Failed {
            step: idx,
            why: &why,
            retry_secs: pause.map(|pause| pause.as_secs_f64()),
        });
        self.states[idx] = match pause {
            Some(pause) => State::Ready(Box::new(Prepared {
                not_before: (self.setting.clock)() + pause,
                ..*prepared
            })),
            None => State::Failed(why),
        };
        Ok(())
    }

    /// With `keep = "soups"`, removes what the step that is done was the last to read.
    fn remove_unneeded(&self, idx: usize) -> Result<(), RunError> {
        if self.setting.recipe.run.keep == Keep::All {
            return Ok(());
        }
        let steps = &self.setting.plan.steps;
        for input in &steps[idx].inputs {
            let is_kept = match &steps[input.step].work {
                Work::Import(_) | Work::Merge(_) => true,
                // The dense network has no base.
                Work::Train(_) => steps[input.step].inputs.is_empty(),
                Work::Prune(_) | Work::Reprune(_) => input.output == "mask",
            };
            let is_done = |&reader: &usize| matches!(self.states[reader], State::Done(_));
            if is_kept || !self.readers[input.step].iter().all(is_done) {
                continue;
            }
            if let Some(artefact) = self.artefact(input.step, input.output) {
                // If it stays, it only takes room.
                let _ = fs::remove_file(self.setting.run.path_of(artefact));
            }
        }
        Ok(())
    }
}
