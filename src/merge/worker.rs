//! One thread of a pass: works through runs of tiles, and lets go of what it has read.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Extent;
use crate::checkpoint::Observer;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::map::SourceError;
use crate::kernel::cuda::Lane;
use crate::merge::MergeError;
use crate::merge::job::Job;
use crate::merge::ledger::Unit;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::Slot;
use crate::merge::plan::TileRange;
use crate::merge::sink::Run;
use crate::merge::sink::Sink;
use crate::merge::tile::Scratch;
use crate::merge::tile::Staged;
use crate::merge::tile::TileOutcome;

/// Resident bytes of mapped inputs, all workers together, after which pages that
/// have been used are let go. Letting go interrupts every core, so not too often.
const RESIDENT_BYTES: u64 = 256 << 20;

/// Bytes of a file that have been used.
struct Used<'a> {
    checkpoint: &'a Checkpoint,
    shard: usize,
    begin: u64,
    end: u64,
}

pub(super) struct Worker<'a> {
    job: &'a Job<'a>,
    scratch: Scratch,
    /// A device's, if one combines.
    lane: Option<Lane>,
    values: Run,
    masks: Run,
    /// What the current unit has read.
    used: Vec<Used<'a>>,
    /// Index in `used` of the latest entry of each reader; past the end for none.
    latest: Vec<usize>,
    /// What earlier units have read and still keep resident.
    resident: Vec<Used<'a>>,
    resident_bytes: u64,
    compared: Vec<u8>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(job: &'a Job<'a>, lane: Option<Lane>) -> Self {
        Self {
            scratch: Scratch::new(&job.backend, job.ingredients.count()),
            lane,
            values: Run::default(),
            masks: Run::default(),
            used: Vec::new(),
            latest: vec![usize::MAX; 2 * job.ingredients.count() + 1],
            resident: Vec::new(),
            resident_bytes: 0,
            compared: Vec::new(),
            job,
        }
    }

    pub(super) fn work(
        &mut self,
        tiles: &[(usize, TileRange, bool)],
        observer: Observer<'_>,
    ) -> Result<Unit, MergeError> {
        let mut found = Unit::with_capacity(tiles.len());
        let done = self.tiles(tiles, &mut found);
        // What was computed from a file that has become shorter is an accident:
        // the fault comes before any error that it may have caused.
        self.check_used()?;
        done?;
        self.values.flush(&self.job.sink)?;
        self.masks.flush(&self.job.sink)?;
        (observer.advance)(self.retire());
        Ok(found)
    }

    fn tiles(
        &mut self,
        tiles: &[(usize, TileRange, bool)],
        found: &mut Unit,
    ) -> Result<(), MergeError> {
        while found.len() < tiles.len() {
            let begin = found.len();
            let answers = self.compute(&tiles[begin..])?;
            for (&(tensor, range, is_last), answer) in tiles[begin..].iter().zip(answers) {
                let outcome = self.tile(&self.job.plan.tensors[tensor], range, answer)?;
                found.push((tensor, is_last, outcome));
            }
        }
        Ok(())
    }

    /// Lets the device compute the first of these tiles, as many as it has room for, and
    /// returns the index of each one's answer. What has none is for the processor.
    fn compute(
        &mut self,
        tiles: &[(usize, TileRange, bool)],
    ) -> Result<Vec<Option<usize>>, MergeError> {
        let Some(lane) = &mut self.lane else {
            return Ok(vec![None; tiles.len()]);
        };
        lane.clear();
        let mut answers = Vec::with_capacity(tiles.len());
        for &(tensor, range, _) in tiles {
            let planned = &self.job.plan.tensors[tensor];
            let index = lane.len();
            answers.push(
                match self.job.stage(planned, range, &mut self.scratch, lane) {
                    Staged::Taken => Some(index),
                    Staged::Refused => None,
                    Staged::Full => break,
                },
            );
        }
        if !lane.is_empty() {
            lane.run()?;
        }
        Ok(answers)
    }

    /// Works through one tile, with the device's answer of this index, if it has one.
    fn tile(
        &mut self,
        planned: &'a PlannedTensor,
        range: TileRange,
        answer: Option<usize>,
    ) -> Result<TileOutcome, MergeError> {
        let job = self.job;
        self.note_used(planned, range);
        let answer = self.lane.as_ref().zip(answer);
        let answer = answer.map(|(lane, index)| lane.answer(index));
        let place = |slot: &Slot| {
            let bits = slot.dtype.bits();
            (
                slot.offset + range.begin * bits / 8,
                (range.count * bits / 8) as usize,
            )
        };
        let shape = job.shape(planned);
        let compact = planned.compact.as_ref();
        let (offset, len) = match compact {
            Some(compact) => compact.values_place(&planned.slot, shape, range),
            None => place(&planned.slot),
        };
        let out = self.values.reserve(&planned.slot, offset, len, &job.sink)?;
        let mask_out = match (&planned.mask_slot, compact) {
            (Some(slot), _) => {
                let (offset, len) = place(slot);
                self.masks.reserve(slot, offset, len, &job.sink)?
            }
            (None, Some(compact)) if compact.has_flat_bitmask(shape) => {
                let slot = &compact.bitmask;
                let offset = slot.offset + range.begin / 8;
                let len = range.count.div_ceil(8) as usize;
                self.masks.reserve(slot, offset, len, &job.sink)?
            }
            _ => &mut [],
        };
        let outcome = job.process_tile(planned, range, &mut self.scratch, answer, out, mask_out)?;
        match (&job.sink, compact) {
            (Sink::Compare(comparison), Some(compact)) => {
                let resolved = &self.scratch.resolved[..range.count.div_ceil(64) as usize];
                let expected = (resolved, &*out);
                comparison.compare_compact(
                    planned,
                    compact,
                    range,
                    expected,
                    &mut self.compared,
                )?;
            }
            (Sink::Compare(comparison), None) => {
                comparison.compare(&planned.slot, range, out, &mut self.compared)?;
                if let Some(slot) = &planned.mask_slot {
                    comparison.compare(slot, range, mask_out, &mut self.compared)?;
                }
            }
            (Sink::Write(output), Some(compact)) if outcome.content.is_some() => {
                let resolved = &self.scratch.resolved[..range.count.div_ceil(64) as usize];
                compact.write_rows(output, &job.edges, shape, range, resolved)?;
            }
            _ => {}
        }
        Ok(outcome)
    }

    fn note_used(&mut self, planned: &PlannedTensor, range: TileRange) {
        let ingredients = self.job.ingredients;
        let parameter = &ingredients.parameters()[planned.parameter];
        for (ingredient, checkpoint) in ingredients.having(parameter).iter().enumerate() {
            let value = ingredients.value(parameter, ingredient);
            self.note(2 * ingredient, checkpoint, value, range);
            if let Some(mask) = ingredients.stored_mask(parameter, ingredient) {
                self.note(2 * ingredient + 1, checkpoint, mask, range);
            }
        }
        if let (Some(mask_file), Some(mask)) =
            (ingredients.mask_file(), ingredients.given_mask(parameter))
        {
            self.note(2 * ingredients.count(), mask_file, mask, range);
        }
    }

    /// Notes that a tile's bytes are used. `reader` numbers the streams of bytes that
    /// usually go on where they stopped.
    fn note(
        &mut self,
        reader: usize,
        checkpoint: &'a Checkpoint,
        tensor: &StoredTensor,
        range: TileRange,
    ) {
        let Some(extent) = checkpoint.extent(tensor, range.begin, range.count) else {
            return;
        };
        let Extent { shard, begin, end } = extent;
        let latest = self.used.get_mut(self.latest[reader]);
        match latest.filter(|used| used.shard == shard && used.end == begin) {
            Some(used) => used.end = end,
            None => {
                self.latest[reader] = self.used.len();
                self.used.push(Used {
                    checkpoint,
                    shard,
                    begin,
                    end,
                });
            }
        }
    }

    fn check_used(&self) -> Result<(), SourceError> {
        let mut checked: Vec<(&Checkpoint, usize)> = Vec::new();
        for used in &self.used {
            let is_same = |&(checkpoint, shard): &(&Checkpoint, usize)| {
                std::ptr::eq(checkpoint, used.checkpoint) && shard == used.shard
            };
            if !checked.iter().any(is_same) {
                checked.push((used.checkpoint, used.shard));
                used.checkpoint.shards()[used.shard]
                    .source()
                    .check_fault()?;
            }
        }
        Ok(())
    }

    /// Ends a unit: lets go of used pages if they are many, and returns the unit's bytes.
    fn retire(&mut self) -> u64 {
        let bytes = self.used.iter().map(|used| used.end - used.begin).sum();
        self.resident.append(&mut self.used);
        self.latest.fill(usize::MAX);
        self.resident_bytes += bytes;
        if self.resident_bytes > RESIDENT_BYTES / self.job.plan.threads as u64 {
            self.let_go(0);
        }
        bytes
    }

    /// Lets go of what is left after the last unit. Each worker begins with other files:
    /// what this takes the process would spend alone, at its end. Returns its lane.
    pub(super) fn finish(mut self, index: usize) -> Option<Lane> {
        if !matches!(self.job.sink, Sink::None) {
            self.let_go(index);
        }
        self.lane
    }

    /// Lets go of used pages, beginning with the files whose turn the `index` says it is.
    fn let_go(&mut self, index: usize) {
        // From the first to the last byte in one call per file. What other threads
        // read in between goes too, and comes back if they are not done with it.
        let mut spans: Vec<Used<'_>> = Vec::new();
        for used in self.resident.drain(..) {
            let span = spans.iter_mut().find(|span| {
                std::ptr::eq(span.checkpoint, used.checkpoint) && span.shard == used.shard
            });
            match span {
                Some(span) => {
                    span.begin = span.begin.min(used.begin);
                    span.end = span.end.max(used.end);
                }
                None => spans.push(used),
            }
        }
        let threads = self.job.plan.threads;
        let first = index % threads * spans.len() / threads;
        spans.rotate_left(first);
        for span in spans {
            span.checkpoint.shards()[span.shard]
                .source()
                .release(span.begin, span.end - span.begin);
        }
        self.resident_bytes = 0;
    }
}
