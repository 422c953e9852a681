//! The pass over the bytes: workers take runs of tiles in the order of the output.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::map::SourceError;
use crate::kernel::cpu::Cpu;
use crate::kernel::first_difference;
use crate::merge::MergeError;
use crate::merge::ledger::Ledger;
use crate::merge::ledger::Outcome;
use crate::merge::ledger::Unit;
use crate::merge::options::MergeOptions;
use crate::merge::output::StagedOutput;
use crate::merge::plan::MergePlan;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::Slot;
use crate::merge::tile::Scratch;
use crate::merge::tile::TileRange;
use crate::tensor::Shape;
use crate::tensor::tile_elements;

/// Watches a pass and may end it.
#[derive(Clone, Copy)]
pub struct Observer<'a> {
    /// Is told of every stretch of bytes that has been read. Called by all threads.
    pub advance: &'a (dyn Fn(u64) + Sync),
    /// Ends the pass once set.
    pub interrupted: &'a AtomicBool,
}

/// Where the soup's bytes go.
pub(super) enum Sink<'a> {
    /// Nowhere: nothing is combined.
    None,
    /// Into staged files.
    Write(&'a StagedOutput<'a>),
    /// Into a comparison with a soup that exists.
    Compare(Comparison<'a>),
}

/// A soup that exists, and where it first differs.
pub(super) struct Comparison<'a> {
    pub(super) soup: &'a Checkpoint,
    /// Shard and offset of the first difference in the plan's order, with the
    /// tensor's name and the element's index.
    pub(super) first: Mutex<Option<((usize, u64), String, u64)>>,
}

/// One pass: what is read, what is done with it, and where it goes.
pub(super) struct Job<'a> {
    pub(super) ingredients: &'a Ingredients,
    pub(super) plan: &'a MergePlan,
    pub(super) options: &'a MergeOptions,
    pub(super) backend: Cpu,
    pub(super) sink: Sink<'a>,
    /// Voting weight of each participant: none for a mask file, then the ingredients'.
    pub(super) votes: Vec<f64>,
    /// Set once a mismatch of masks is certain: what is left is only compared.
    is_doomed: AtomicBool,
}

/// Elements after which a worker looks for its next run of tiles: 1 MiB of F32, so
/// that the threads seldom meet at the output file's lock.
const UNIT_ELEMENTS: u64 = 1 << 18;
/// Most tiles in a run: bounds what a worker holds of many small tensors.
const UNIT_TILES: usize = 1024;
/// Most bytes of output that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
/// Resident bytes of mapped inputs, all workers together, after which pages that
/// have been used are let go. Letting go interrupts every core, so not too often.
const RESIDENT_BYTES: u64 = 256 << 20;

/// The next tile that no worker has taken.
#[derive(Default)]
struct Cursor {
    unit: usize,
    tensor: usize,
    begin: u64,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        ingredients: &'a Ingredients,
        plan: &'a MergePlan,
        options: &'a MergeOptions,
        sink: Sink<'a>,
    ) -> Self {
        let weights = options.weights.values();
        let can_vote =
            weights.len() == ingredients.count() && weights.iter().all(|&weight| weight >= 0.0);
        let votes = (0..ingredients.count()).map(|i| if can_vote { weights[i] } else { 1.0 });
        Self {
            votes: ingredients
                .mask_file()
                .map(|_| 0.0)
                .into_iter()
                .chain(votes)
                .collect(),
            ingredients,
            plan,
            options,
            backend: Cpu::new(),
            sink,
            is_doomed: AtomicBool::new(false),
        }
    }

    /// Whether the soup is computed, rather than masks compared only.
    pub(super) fn writes(&self) -> bool {
        match self.sink {
            Sink::None => false,
            Sink::Write(_) => !self.is_doomed.load(Ordering::Relaxed),
            Sink::Compare(_) => true,
        }
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// The first error in the order of the output, whichever thread met it. A
    /// mismatch of masks that is certain before that comes first.
    pub(super) fn run(&self, observer: Observer<'_>) -> Result<Outcome, MergeError> {
        let was_doomed = self.is_doomed.load(Ordering::Relaxed);
        let cursor = Mutex::new(Cursor::default());
        let ledger = Mutex::new(Ledger::new(
            self.ingredients,
            self.plan,
            &self.options.rules,
        ));
        let failure: Mutex<Option<(usize, MergeError)>> = Mutex::new(None);
        let stop = AtomicBool::new(false);
        let work = || {
            let mut worker = Worker::new(self);
            while !stop.load(Ordering::Relaxed) {
                let Some((unit, tiles)) = self.take(&mut lock(&cursor)) else {
                    break;
                };
                let done = if observer.interrupted.load(Ordering::Relaxed) {
                    Err(MergeError::Interrupted)
                } else {
                    worker.work(&tiles, observer)
                };
                match done {
                    Ok(found) => {
                        if lock(&ledger).enter(unit, found).is_some() {
                            self.is_doomed.store(true, Ordering::Relaxed);
                        }
                    }
                    Err(error) => {
                        stop.store(true, Ordering::Relaxed);
                        let mut failure = lock(&failure);
                        if failure.as_ref().is_none_or(|(earlier, _)| unit < *earlier) {
                            *failure = Some((unit, error));
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.plan.threads {
                scope.spawn(work);
            }
            work();
        });
        let ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            // A later unit was computed before the mismatch was known: with fewer
            // threads it would not have been. All masks are read again for the report.
            Some((unit, error)) if ledger.is_doomed_before(unit) && !was_doomed => {
                if matches!(error, MergeError::Source(_) | MergeError::Interrupted) {
                    return Err(error);
                }
                self.is_doomed.store(true, Ordering::Relaxed);
                self.run(observer)
            }
            Some((_, error)) => Err(error),
            None => Ok(ledger.finish()),
        }
    }

    /// Takes the next run of tiles: tensor index, range, and whether it is the last.
    fn take(&self, cursor: &mut Cursor) -> Option<(usize, Vec<(usize, TileRange, bool)>)> {
        let mut tiles = Vec::new();
        let mut n_elements = 0;
        while n_elements < UNIT_ELEMENTS && tiles.len() < UNIT_TILES {
            let Some(planned) = self.plan.tensors.get(cursor.tensor) else {
                break;
            };
            let shape = self.shape(planned);
            let count = tile_elements(shape).min(shape.numel() - cursor.begin);
            let end = cursor.begin + count;
            let is_last = end == shape.numel();
            if n_elements > 0 && n_elements + count > UNIT_ELEMENTS {
                break;
            }
            tiles.push((
                cursor.tensor,
                TileRange {
                    begin: cursor.begin,
                    count,
                },
                is_last,
            ));
            n_elements += count;
            (cursor.tensor, cursor.begin) = if is_last {
                (cursor.tensor + 1, 0)
            } else {
                (cursor.tensor, end)
            };
        }
        let unit = cursor.unit;
        cursor.unit += 1;
        (!tiles.is_empty()).then_some((unit, tiles))
    }

    fn shape(&self, planned: &PlannedTensor) -> &'a Shape {
        &self.ingredients.parameters()[planned.parameter].shape
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked has already doomed the pass: its panic is resumed
    // when the threads are joined.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of the output that follow each other, gathered for one write.
#[derive(Default)]
struct Run {
    shard: usize,
    offset: u64,
    bytes: Vec<u8>,
    len: usize,
}

impl Run {
    /// Room for `len` more bytes at this place, after writing what does not adjoin.
    fn reserve(
        &mut self,
        slot: &Slot,
        offset: u64,
        len: usize,
        sink: &Sink<'_>,
    ) -> Result<&mut [u8], MergeError> {
        let adjoins = self.shard == slot.shard && self.offset + self.len as u64 == offset;
        if self.len > 0 && (!adjoins || self.len + len > WRITE_BYTES) {
            self.flush(sink)?;
        }
        if self.len == 0 {
            (self.shard, self.offset) = (slot.shard, offset);
        }
        if self.bytes.len() < self.len + len {
            self.bytes.resize(self.len + len, 0);
        }
        let start = self.len;
        self.len += len;
        Ok(&mut self.bytes[start..][..len])
    }

    fn flush(&mut self, sink: &Sink<'_>) -> Result<(), MergeError> {
        let bytes = &self.bytes[..std::mem::take(&mut self.len)];
        match sink {
            Sink::Write(staged) if !bytes.is_empty() => {
                Ok(staged.write_at(self.shard, bytes, self.offset)?)
            }
            _ => Ok(()),
        }
    }
}

/// Bytes of a file that have been used.
struct Used<'a> {
    checkpoint: &'a Checkpoint,
    shard: usize,
    begin: u64,
    end: u64,
}

struct Worker<'a> {
    job: &'a Job<'a>,
    scratch: Scratch,
    values: Run,
    masks: Run,
    /// What the current unit has read.
    used: Vec<Used<'a>>,
    /// What earlier units have read and still keep resident.
    resident: Vec<Used<'a>>,
    resident_bytes: u64,
    compared: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(job: &'a Job<'a>) -> Self {
        Self {
            scratch: Scratch::new(&job.backend, job.ingredients.count()),
            values: Run::default(),
            masks: Run::default(),
            used: Vec::new(),
            resident: Vec::new(),
            resident_bytes: 0,
            compared: Vec::new(),
            job,
        }
    }

    fn work(
        &mut self,
        tiles: &[(usize, TileRange, bool)],
        observer: Observer<'_>,
    ) -> Result<Unit, MergeError> {
        let mut found = Unit::with_capacity(tiles.len());
        let done: Result<(), MergeError> =
            tiles.iter().try_for_each(|&(tensor, range, is_last)| {
                let outcome = self.tile(&self.job.plan.tensors[tensor], range)?;
                found.push((tensor, is_last, outcome));
                Ok(())
            });
        // What was computed from a file that has become shorter is an accident:
        // the fault comes before any error that it may have caused.
        self.check_used()?;
        done?;
        self.values.flush(&self.job.sink)?;
        self.masks.flush(&self.job.sink)?;
        (observer.advance)(self.retire());
        Ok(found)
    }

    fn tile(
        &mut self,
        planned: &'a PlannedTensor,
        range: TileRange,
    ) -> Result<crate::merge::tile::TileOutcome, MergeError> {
        let job = self.job;
        self.note_used(planned, range);
        let place = |slot: &Slot| {
            let bits = slot.dtype.bits();
            (
                slot.offset + range.begin * bits / 8,
                (range.count * bits / 8) as usize,
            )
        };
        let (offset, len) = place(&planned.slot);
        let out = self.values.reserve(&planned.slot, offset, len, &job.sink)?;
        let mask_out = match &planned.mask_slot {
            Some(slot) => {
                let (offset, len) = place(slot);
                self.masks.reserve(slot, offset, len, &job.sink)?
            }
            None => &mut [],
        };
        let outcome = job.process_tile(planned, range, &mut self.scratch, out, mask_out)?;
        if let Sink::Compare(comparison) = &job.sink {
            comparison.compare(&planned.slot, range, out, &mut self.compared)?;
            if let Some(slot) = &planned.mask_slot {
                comparison.compare(slot, range, mask_out, &mut self.compared)?;
            }
        }
        Ok(outcome)
    }

    fn note_used(&mut self, planned: &PlannedTensor, range: TileRange) {
        let ingredients = self.job.ingredients;
        let parameter = &ingredients.parameters()[planned.parameter];
        for (ingredient, checkpoint) in ingredients.checkpoints().iter().enumerate() {
            self.note(checkpoint, ingredients.value(parameter, ingredient), range);
            if let Some(mask) = ingredients.stored_mask(parameter, ingredient) {
                self.note(checkpoint, mask, range);
            }
        }
        if let (Some(mask_file), Some(mask)) =
            (ingredients.mask_file(), ingredients.given_mask(parameter))
        {
            self.note(mask_file, mask, range);
        }
    }

    fn note(&mut self, checkpoint: &'a Checkpoint, tensor: &StoredTensor, range: TileRange) {
        let bits = tensor.dtype.bits();
        let begin = tensor.offset + range.begin * bits / 8;
        let end = begin + range.count * bits / 8;
        let adjoining = self.used.iter_mut().find(|used| {
            std::ptr::eq(used.checkpoint, checkpoint)
                && used.shard == tensor.shard
                && used.end == begin
        });
        match adjoining {
            Some(used) => used.end = end,
            None => self.used.push(Used {
                checkpoint,
                shard: tensor.shard,
                begin,
                end,
            }),
        }
    }

    fn check_used(&self) -> Result<(), SourceError> {
        self.used
            .iter()
            .try_for_each(|used| used.checkpoint.shards()[used.shard].source().check_fault())
    }

    /// Ends a unit: lets go of used pages if they are many, and returns the unit's bytes.
    fn retire(&mut self) -> u64 {
        let bytes = self.used.iter().map(|used| used.end - used.begin).sum();
        self.resident.append(&mut self.used);
        self.resident_bytes += bytes;
        if self.resident_bytes > RESIDENT_BYTES / self.job.plan.threads as u64 {
            for used in self.resident.drain(..) {
                used.checkpoint.shards()[used.shard]
                    .source()
                    .release(used.begin, used.end - used.begin);
            }
            self.resident_bytes = 0;
        }
        bytes
    }
}

impl Comparison<'_> {
    fn compare(
        &self,
        slot: &Slot,
        range: TileRange,
        expected: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), MergeError> {
        let Some(index) = self.soup.find(&slot.name) else {
            return Ok(());
        };
        let found = self.soup.read(
            &self.soup.tensors()[index],
            range.begin,
            range.count,
            scratch,
        )?;
        if let Some(element) = first_difference(expected, found, slot.dtype.bits()) {
            let place = (slot.shard, slot.offset + range.begin);
            let mut first = lock(&self.first);
            if first.as_ref().is_none_or(|(earlier, ..)| place < *earlier) {
                *first = Some((place, slot.name.clone(), range.begin + element));
            }
        }
        Ok(())
    }
}
