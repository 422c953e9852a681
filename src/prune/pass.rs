//! A pass over tensors: workers take runs of tiles in the order of the file.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Extent;
use crate::checkpoint::Observer;
use crate::checkpoint::StoredTensor;
use crate::prune::PruneError;
use crate::prune::subject::Subject;
use crate::prune::tile::Tile;
use crate::tensor::Shape;
use crate::tensor::tile_elements;

/// Elements after which a worker looks for its next run of tiles.
const UNIT_ELEMENTS: u64 = 1 << 18;
/// Most tiles in a run.
const UNIT_TILES: usize = 1024;
/// Resident bytes of mapped inputs, all workers together, after which pages that have
/// been used are let go.
const RESIDENT_BYTES: u64 = 256 << 20;
/// Most threads: each has scratch memory of its own.
const MOST_THREADS: usize = 16;

/// With how many threads, and under whose eyes.
#[derive(Clone, Copy)]
pub struct Effort<'a> {
    /// Worker threads, of which at most 16 work; none changes a bit of the result.
    pub threads: usize,
    /// Watches, and may end the work.
    pub observer: Observer<'a>,
}

/// What one thread does with the tiles that it takes.
pub(super) trait Visitor: Send {
    /// Works through one tile.
    fn visit(&mut self, tile: &Tile<'_>) -> Result<(), PruneError>;

    /// Hands over what was found in a parameter, before another one or the end.
    fn leave(&mut self, parameter: usize);

    /// Hands over what was kept back, after the last tile.
    fn end(&mut self) {}
}

/// How tensors are cut for the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    /// Into runs of tiles.
    Tiles,
    /// Not at all: one thread sees all of a tensor, in order.
    Tensors,
}

/// The next tile that no worker has taken.
#[derive(Default)]
struct Cursor {
    unit: usize,
    position: usize,
    begin: u64,
}

/// A tile to read: parameter, first element, and number of elements.
type Place = (usize, u64, u64);

impl Effort<'_> {
    /// Shows every tile of the given parameters to a visitor.
    ///
    /// # Errors
    /// The first error in the order of the file, and that of a file that changed.
    pub(super) fn run<V: Visitor>(
        &self,
        subject: &Subject,
        parameters: &[usize],
        grain: Grain,
        new_visitor: impl Fn() -> V + Sync,
    ) -> Result<(), PruneError> {
        let mut order = parameters.to_vec();
        order.sort_by_key(|&parameter| {
            let value = subject.value(parameter);
            (value.shard, value.offset, parameter)
        });
        let threads = self.threads.clamp(1, MOST_THREADS);
        let cursor = Mutex::new(Cursor::default());
        let failure: Mutex<Option<(usize, PruneError)>> = Mutex::new(None);
        let stop = AtomicBool::new(false);
        let work = || {
            let mut worker = Worker {
                subject,
                visitor: new_visitor(),
                current: None,
                buffers: Default::default(),
                used: Vec::new(),
                resident_bytes: 0,
                most_resident: RESIDENT_BYTES / threads as u64,
            };
            while !stop.load(Ordering::Relaxed) {
                let Some((unit, places)) = take(subject, &order, grain, &mut lock(&cursor)) else {
                    break;
                };
                let done = if self.observer.interrupted.load(Ordering::Relaxed) {
                    Err(PruneError::Interrupted)
                } else {
                    worker.work(&places, self.observer)
                };
                if let Err(error) = done {
                    stop.store(true, Ordering::Relaxed);
                    let mut failure = lock(&failure);
                    if failure.as_ref().is_none_or(|(earlier, _)| unit < *earlier) {
                        *failure = Some((unit, error));
                    }
                }
            }
            worker.leave();
            worker.visitor.end();
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Where the system permits no more threads, those there are do it all.
                if std::thread::Builder::new()
                    .spawn_scoped(scope, work)
                    .is_err()
                {
                    break;
                }
            }
            work();
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

/// Takes the next run of tiles.
fn take(
    subject: &Subject,
    order: &[usize],
    grain: Grain,
    cursor: &mut Cursor,
) -> Option<(usize, Vec<Place>)> {
    let mut places = Vec::new();
    let mut n_elements = 0;
    while let Some(&parameter) = order.get(cursor.position) {
        let shape: &Shape = &subject.parameters()[parameter].shape;
        let left = shape.numel() - cursor.begin;
        let count = match grain {
            Grain::Tiles => tile_elements(shape).min(left),
            Grain::Tensors => left,
        };
        let is_full = n_elements + count > UNIT_ELEMENTS || places.len() == UNIT_TILES;
        if !places.is_empty() && is_full {
            break;
        }
        places.push((parameter, cursor.begin, count));
        n_elements += count;
        if count == left {
            (cursor.position, cursor.begin) = (cursor.position + 1, 0);
        } else {
            cursor.begin += count;
        }
    }
    let unit = cursor.unit;
    cursor.unit += 1;
    (!places.is_empty()).then_some((unit, places))
}

/// A stretch of a file that has been read.
struct Used<'a> {
    checkpoint: &'a Checkpoint,
    shard: usize,
    begin: u64,
    end: u64,
}

struct Worker<'a, V> {
    subject: &'a Subject,
    visitor: V,
    /// The parameter that the visitor is in.
    current: Option<usize>,
    buffers: [Vec<u8>; 3],
    /// The stretches that stay resident, one per file.
    used: Vec<Used<'a>>,
    resident_bytes: u64,
    most_resident: u64,
}

impl<'a, V: Visitor> Worker<'a, V> {
    fn work(&mut self, places: &[Place], observer: Observer<'_>) -> Result<(), PruneError> {
        let mut bytes = 0;
        let mut done = Ok(());
        for &(parameter, begin, count) in places {
            if self.current != Some(parameter) {
                self.leave();
                self.current = Some(parameter);
            }
            // A tile is at most what a shape says; a whole tensor is cut here.
            let shape = &self.subject.parameters()[parameter].shape;
            let end = begin + count;
            done = self.tiles(parameter, begin, end, tile_elements(shape), &mut bytes);
            if done.is_err() {
                break;
            }
        }
        // What was computed from a file that has become shorter is an accident: the
        // fault comes before any error that it may have caused.
        for used in &self.used {
            used.checkpoint.shards()[used.shard]
                .source()
                .check_fault()?;
        }
        done?;
        self.resident_bytes += bytes;
        if self.resident_bytes > self.most_resident {
            for used in self.used.drain(..) {
                used.checkpoint.shards()[used.shard]
                    .source()
                    .release(used.begin, used.end - used.begin);
            }
            self.resident_bytes = 0;
        }
        (observer.advance)(bytes);
        Ok(())
    }

    /// Reads the tiles from `begin` to `end`; an empty tensor has one empty tile.
    fn tiles(
        &mut self,
        parameter: usize,
        mut begin: u64,
        end: u64,
        tile: u64,
        bytes: &mut u64,
    ) -> Result<(), PruneError> {
        loop {
            let count = tile.min(end - begin);
            *bytes += self.tile(parameter, begin, count)?;
            begin += count;
            if begin == end {
                return Ok(());
            }
        }
    }

    /// Reads a tile and shows it to the visitor; its bytes.
    fn tile(&mut self, parameter: usize, begin: u64, count: u64) -> Result<u64, PruneError> {
        let subject = self.subject;
        let checkpoint = subject.checkpoint();
        let mut bytes = 0;
        let mut note = |checkpoint: &'a Checkpoint, tensor: &StoredTensor| {
            let Some(Extent { shard, begin, end }) = checkpoint.extent(tensor, begin, count) else {
                return;
            };
            bytes += end - begin;
            let known = self
                .used
                .iter_mut()
                .find(|used| std::ptr::eq(used.checkpoint, checkpoint) && used.shard == shard);
            match known {
                Some(used) => {
                    (used.begin, used.end) = (used.begin.min(begin), used.end.max(end));
                }
                None => self.used.push(Used {
                    checkpoint,
                    shard,
                    begin,
                    end,
                }),
            }
        };
        let [values, stored, given] = &mut self.buffers;
        let value = subject.value(parameter);
        note(checkpoint, value);
        let values = checkpoint.read(value, begin, count, values)?;
        let stored = match subject.stored_mask(parameter) {
            Some(mask) => {
                note(checkpoint, mask);
                Some(checkpoint.read(mask, begin, count, stored)?)
            }
            None => None,
        };
        let mask_file = subject.ingredients().mask_file();
        let given = match mask_file.zip(subject.given_mask(parameter)) {
            Some((mask_file, mask)) => {
                note(mask_file, mask);
                Some(mask_file.read(mask, begin, count, given)?)
            }
            None => None,
        };
        self.visitor.visit(&Tile {
            parameter,
            begin,
            count: count as usize,
            values,
            stored,
            given,
        })?;
        Ok(bytes)
    }

    fn leave(&mut self) {
        if let Some(parameter) = self.current.take() {
            self.visitor.leave(parameter);
        }
    }
}

/// The value behind a mutex, also where a worker panicked: its panic is resumed when
/// the threads are joined.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
