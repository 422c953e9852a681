//! The pass over the bytes: workers take runs of tiles in the order of the output.

use crate::checkpoint::Ingredients;
use crate::kernel::cpu::Cpu;
use crate::merge::MergeError;
use crate::merge::ledger::Ledger;
use crate::merge::ledger::Outcome;
use crate::merge::options::MergeOptions;
use crate::merge::plan::MergePlan;
use crate::merge::plan::PlannedTensor;
use crate::merge::sink::Sink;
use crate::merge::sink::lock;
use crate::merge::tile::TileRange;
use crate::merge::worker::Worker;
use crate::tensor::Shape;
use crate::tensor::tile_elements;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// Watches a pass and may end it.
#[derive(Clone, Copy)]
pub struct Observer<'a> {
    /// Is told of every stretch of bytes that has been read. Called by all threads.
    pub advance: &'a (dyn Fn(u64) + Sync),
    /// Ends the pass once set.
    pub interrupted: &'a AtomicBool,
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
