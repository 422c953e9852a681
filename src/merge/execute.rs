//! The pass over the bytes: workers take runs of tiles in the order of the output.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::checkpoint::Observer;
use crate::kernel::cuda::Lane;
use crate::merge::MergeError;
use crate::merge::job::Job;
use crate::merge::ledger::Ledger;
use crate::merge::ledger::Outcome;
use crate::merge::plan::PlannedTensor;
use crate::merge::plan::TileRange;
use crate::merge::sink::lock;
use crate::merge::worker::Worker;
use crate::tensor::tile_elements;

/// Stored elements after which a worker looks for its next run of tiles: 1 MiB of F32,
/// so that the threads seldom meet at the output file's lock.
pub(super) const UNIT_ELEMENTS: u64 = 1 << 18;
/// Most tiles in a run: bounds what a worker holds of many small tensors.
pub(super) const UNIT_TILES: usize = 1024;

/// The next tile that no worker has taken.
#[derive(Default)]
struct Cursor {
    unit: usize,
    tensor: usize,
    begin: u64,
}

impl Job<'_> {
    /// Reads everything once.
    ///
    /// # Errors
    /// The first error in the order of the output, whichever thread met it. A
    /// mismatch of masks that is certain before that comes first.
    pub(super) fn run(&self, observer: Observer<'_>) -> Result<Outcome, MergeError> {
        let lanes = self.lanes()?;
        // While a device has the tiles of one worker, another makes use of the core.
        let n_workers = lanes.as_ref().map_or(self.plan.threads, Vec::len);
        let lanes = Mutex::new(lanes.unwrap_or_default());
        let used = Mutex::new(Vec::new());
        let was_doomed = self.is_doomed.load(Ordering::Relaxed);
        let cursor = Mutex::new(Cursor::default());
        let ledger = Mutex::new(Ledger::new(
            self.ingredients,
            self.plan,
            &self.options.rules,
        ));
        let failure: Mutex<Option<(usize, MergeError)>> = Mutex::new(None);
        let stop = AtomicBool::new(false);
        let n_finished = AtomicUsize::new(0);
        let work = || {
            let mut worker = Worker::new(self, lock(&lanes).pop());
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
            let lane = worker.finish(n_finished.fetch_add(1, Ordering::Relaxed));
            lock(&used).extend(lane);
        };
        std::thread::scope(|scope| {
            for _ in 1..n_workers {
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
        let ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let (None, Some(accelerator)) = (&failure, &self.options.workers.accelerator) {
            accelerator.keep(used.into_inner().unwrap_or_else(PoisonError::into_inner));
        }
        match failure {
            // A later unit was computed before the mismatch was known: with fewer
            // threads it would not have been. All masks are read again for the report.
            Some((unit, error)) if ledger.is_doomed_before(unit) && !was_doomed => {
                if matches!(
                    error,
                    MergeError::Source(_) | MergeError::Device(_) | MergeError::Interrupted
                ) {
                    return Err(error);
                }
                self.is_doomed.store(true, Ordering::Relaxed);
                self.run(observer)
            }
            Some((_, error)) => Err(error),
            None => Ok(ledger.finish()),
        }
    }

    /// A lane for each worker, if devices combine.
    fn lanes(&self) -> Result<Option<Vec<Lane>>, MergeError> {
        let Some(accelerator) = &self.options.workers.accelerator else {
            return Ok(None);
        };
        // No more than there are runs.
        let mut cursor = Cursor::default();
        let runs = std::iter::from_fn(|| self.take(&mut cursor));
        let n_runs = runs.take(2 * self.plan.threads).count();
        Ok(Some(accelerator.lanes(self, n_runs)?))
    }

    /// Elements that the first ingredient stores of a tile of so many, about: of a
    /// compact one the retained ones, and one for 32 bits of the mask.
    fn stored_elements(&self, planned: &PlannedTensor, count: u64) -> u64 {
        let parameter = &self.ingredients.parameters()[planned.parameter];
        let Some(compact) = self.ingredients.value(parameter, 0).compact() else {
            return count;
        };
        let retained = compact.retained() as f64 / parameter.shape.numel().max(1) as f64;
        (retained * count as f64) as u64 + count / 32
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
            let n_stored = self.stored_elements(planned, count);
            if n_elements > 0 && n_elements + n_stored > UNIT_ELEMENTS {
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
            n_elements += n_stored;
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
}
