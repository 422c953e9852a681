//! From a selection to files: one pass reads, prunes, digests and writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use crate::checkpoint::Contents;
use crate::checkpoint::Destination;
use crate::checkpoint::MaskLayout;
use crate::checkpoint::Sidecars;
use crate::checkpoint::StagedOutput;
use crate::checkpoint::Written;
use crate::checkpoint::checkpoint_digest;
use crate::checkpoint::write_pair;
use crate::connectivity::Connectivity;
use crate::connectivity::Expectation;
use crate::connectivity::MaskTally;
use crate::connectivity::Rules;
use crate::connectivity::TensorMask;
use crate::kernel::cpu::Cpu;
use crate::prune::PruneError;
use crate::prune::Standing;
use crate::prune::histogram::Limits;
use crate::prune::output::Placed;
use crate::prune::output::carried_metadata;
use crate::prune::pass::Effort;
use crate::prune::pass::Grain;
use crate::prune::pass::lock;
use crate::prune::record::MaskEntry;
use crate::prune::record::PruningRecord;
use crate::prune::select::Selection;
use crate::prune::subject::Subject;
use crate::prune::tile::Scorer;
use crate::prune::write::Found;
use crate::prune::write::Writer;
use crate::prune::write::digest_of;
use crate::tensor::Digest;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// Where things are written; nothing is where there is neither.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs<'a> {
    /// Where the pruned checkpoint goes.
    pub checkpoint: Option<&'a Destination>,
    /// Where the masks of all prunable tensors go: one BOOL tensor of the same name each.
    pub mask: Option<&'a Destination>,
    /// How masks are stored in the checkpoint.
    pub layout: MaskLayout,
    /// Largest shard in bytes; `None` for one file.
    pub shard_bytes: Option<u64>,
}

/// A checkpoint that has been pruned.
#[derive(Debug)]
pub struct Pruned {
    /// Every parameter, in the order of their names.
    pub tensors: Vec<PrunedTensor>,
    /// The masks of the prunable tensors.
    pub connectivity: Connectivity,
    /// What the outputs say about themselves.
    pub record: PruningRecord,
    /// Files that were copied along.
    pub sidecars: Sidecars,
    /// Bytes of all files of the checkpoint, or 0.
    pub bytes_written: u64,
}

/// What became of one parameter.
#[derive(Clone, Debug)]
pub struct PrunedTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Shape,
    /// What it was to the pruning.
    pub standing: Standing,
    /// Coordinates that remained before, if it is prunable.
    pub remaining: Option<u64>,
    /// The score below which all was pruned and above which nothing was: a magnitude, a
    /// LAMP score, or the norm of the largest pruned channel.
    pub threshold: Option<f64>,
    /// Retained coordinates whose value is zero.
    pub retained_zeros: u64,
    /// Its mask, if it is prunable.
    pub mask: Option<Arc<TensorMask>>,
}

impl PrunedTensor {
    /// Coordinates that are retained now; all of a tensor that is not prunable.
    pub fn retained(&self) -> u64 {
        let mask = self.mask.as_ref();
        mask.map_or(self.shape.numel(), |mask| mask.retained)
    }
}

/// What a pass found, in terms of the outputs.
struct Done {
    tensors: Vec<PrunedTensor>,
    connectivity: Connectivity,
    record: PruningRecord,
}

/// A file or directory to write, and the room that is kept for its headers.
struct Sheet {
    placed: Placed,
    metadata: BTreeMap<String, String>,
    reserved: Vec<u64>,
}

impl Sheet {
    fn new(
        placed: Placed,
        metadata: BTreeMap<String, String>,
        longest: &PruningRecord,
    ) -> Result<Self, PruneError> {
        let reserved = placed.reserve(&metadata, longest)?;
        Ok(Self {
            placed,
            metadata,
            reserved,
        })
    }

    fn contents<'a>(&'a self, sidecars: &'a Sidecars) -> Contents<'a> {
        Contents {
            headers: &self.reserved,
            layouts: &self.placed.layouts,
            sidecars,
        }
    }

    fn bytes(&self) -> u64 {
        self.reserved.iter().sum::<u64>() + self.placed.data_bytes()
    }

    fn write_headers(
        &self,
        output: &StagedOutput<'_>,
        record: &PruningRecord,
    ) -> Result<(), PruneError> {
        let headers = self
            .placed
            .headers(&self.metadata, record, &self.reserved)?;
        for (shard, bytes) in headers.into_iter().enumerate() {
            output.write_header(shard, &bytes)?;
        }
        Ok(())
    }
}

/// Applies a selection to the subject that it was made for, and writes what comes of it.
///
/// Tensors that are not prunable are copied byte for byte; pruned coordinates become
/// `+0`. Metadata is kept, less the certificate of a soup, which is no longer true, and
/// a [`PruningRecord`] is added. The outputs appear whole or not at all, and a mask never
/// stands beside a checkpoint that it does not belong to: an old one goes before the new
/// checkpoint comes.
///
/// # Errors
/// [`PruneError`]; then the destinations hold what they held.
pub fn apply(
    subject: &Subject,
    selection: &Selection,
    outputs: Outputs<'_>,
    effort: Effort<'_>,
) -> Result<Pruned, PruneError> {
    let pass = Application {
        subject,
        selection,
        layout: outputs.layout,
        effort,
    };
    let longest = pass.longest_record();
    let checkpoint = Sheet::new(
        Placed::checkpoint(subject, outputs.layout, outputs.shard_bytes)?,
        carried_metadata(subject),
        &longest,
    )?;
    let format = [("format".to_owned(), "pt".to_owned())];
    let mask = Sheet::new(Placed::masks(subject)?, format.into(), &longest)?;
    // What is compact in the subject is not in the output.
    let written = Written::default();
    let sidecars = match outputs.checkpoint {
        Some(destination) => destination.sidecars(subject.ingredients(), &written)?,
        None => Sidecars::default(),
    };
    for (sheet, destination) in [(&checkpoint, outputs.checkpoint), (&mask, outputs.mask)] {
        if let Some(destination) = destination {
            destination.require_space(sheet.bytes())?;
        }
    }
    let none = Sidecars::default();
    let contents = (checkpoint.contents(&sidecars), mask.contents(&none));
    let done = match (outputs.checkpoint, outputs.mask) {
        (None, None) => pass.run(None, None),
        (Some(place), None) => place.write(&contents.0, |staged| {
            pass.run(Some((&checkpoint, staged)), None)
        }),
        (None, Some(place)) => {
            place.write(&contents.1, |staged| pass.run(None, Some((&mask, staged))))
        }
        (Some(place), Some(mask_place)) => {
            let pair = ((place, &contents.0), (mask_place, &contents.1));
            write_pair(pair.0, pair.1, |staged, masks| {
                pass.run(Some((&checkpoint, staged)), Some((&mask, masks)))
            })
        }
    }?;
    Ok(Pruned {
        tensors: done.tensors,
        connectivity: done.connectivity,
        record: done.record,
        sidecars,
        bytes_written: outputs.checkpoint.map_or(0, |_| checkpoint.bytes()),
    })
}

struct Application<'a> {
    subject: &'a Subject,
    selection: &'a Selection,
    layout: MaskLayout,
    effort: Effort<'a>,
}

impl Application<'_> {
    /// Reads everything once and writes what there is a place for.
    fn run(
        &self,
        checkpoint: Option<(&Sheet, &StagedOutput<'_>)>,
        mask: Option<(&Sheet, &StagedOutput<'_>)>,
    ) -> Result<Done, PruneError> {
        let subject = self.subject;
        let backend = Cpu::new();
        let scorer = Scorer {
            subject,
            width: subject.width(),
            score: self.selection.score,
            are_zeros_pruned: &self.selection.are_zeros_pruned,
            backend: &backend,
            limits: Limits::default(),
        };
        let n_parameters = subject.parameters().len();
        let found: Vec<Mutex<Found>> = (0..n_parameters).map(|_| Mutex::default()).collect();
        let all: Vec<usize> = (0..n_parameters).collect();
        self.effort.run(subject, &all, Grain::Tiles, || {
            Writer::new(
                &scorer,
                self.selection,
                self.layout,
                checkpoint.map(|(sheet, staged)| (&sheet.placed, staged)),
                mask.map(|(sheet, staged)| (&sheet.placed, staged)),
                &found,
            )
        })?;
        let found = found
            .into_iter()
            .map(|found| std::mem::take(&mut *lock(&found)))
            .collect();
        let done = self.conclude(found)?;
        for (sheet, staged) in checkpoint.into_iter().chain(mask) {
            sheet.write_headers(staged, &done.record)?;
        }
        subject.check_unchanged()?;
        if self.effort.observer.interrupted.load(Ordering::Relaxed) {
            return Err(PruneError::Interrupted);
        }
        Ok(done)
    }

    fn conclude(&self, found: Vec<Found>) -> Result<Done, PruneError> {
        let subject = self.subject;
        let rules = Rules::default();
        let mut tensors = Vec::with_capacity(found.len());
        let mut contents = Vec::with_capacity(found.len());
        let mut entries = BTreeMap::new();
        for (index, mut found) in found.into_iter().enumerate() {
            let parameter = &subject.parameters()[index];
            let value = subject.value(index);
            let stored = subject.stored_mask(index);
            let digests = [Some(value), stored]
                .into_iter()
                .zip([&mut found.values, &mut found.stored_masks]);
            for (tensor, digests) in digests {
                if let Some(tensor) = tensor {
                    let digest = digest_of(digests);
                    contents.push((tensor.name.as_str(), tensor.dtype, &tensor.shape, digest));
                }
            }
            let standing = subject.standings()[index];
            let is_prunable = standing == Standing::Prunable;
            let mask = is_prunable.then(|| {
                let tally = found.tally.unwrap_or_else(|| MaskTally::new(1));
                Arc::new(TensorMask::judge(
                    parameter.name.clone(),
                    parameter.shape.clone(),
                    Expectation::Pruned,
                    &tally,
                    digest_of(&mut found.masks),
                    &rules,
                ))
            });
            if let Some(mask) = &mask {
                let entry = MaskEntry {
                    mask: mask.digest,
                    retained: mask.retained,
                    retained_zeros: found.retained_zeros,
                };
                entries.insert(parameter.name.clone(), entry);
            }
            tensors.push(PrunedTensor {
                name: parameter.name.clone(),
                dtype: value.dtype,
                shape: parameter.shape.clone(),
                standing,
                remaining: is_prunable.then(|| self.selection.remaining[index]),
                threshold: self.selection.thresholds[index],
                retained_zeros: found.retained_zeros,
                mask,
            });
        }
        let masks = tensors.iter().filter_map(|tensor| tensor.mask.clone());
        let name = subject.checkpoint().display_name();
        // One participant agrees with itself.
        let connectivity = Connectivity::prove(masks.collect(), &[name], &rules)
            .expect("a single mask per tensor cannot differ");
        let record = PruningRecord::new(
            subject.checkpoint(),
            checkpoint_digest(contents.into_iter()),
            self.selection.target,
            connectivity.digest(),
            connectivity.totals(),
            entries,
        );
        Ok(Done {
            tensors,
            connectivity,
            record,
        })
    }

    /// A record that no other is longer than: digests have one length, and counts are
    /// at their longest where everything is retained.
    fn longest_record(&self) -> PruningRecord {
        let open = Digest::of(b"");
        let entry = |parameter: usize| {
            let parameter = &self.subject.parameters()[parameter];
            let numel = parameter.shape.numel();
            let entry = MaskEntry {
                mask: open,
                retained: numel,
                retained_zeros: numel,
            };
            (parameter.name.clone(), entry)
        };
        let entries: BTreeMap<String, MaskEntry> =
            self.subject.prunable().into_iter().map(entry).collect();
        let numel = entries.values().map(|entry| entry.retained).sum();
        let checkpoint = self.subject.checkpoint();
        let target = self.selection.target;
        PruningRecord::new(checkpoint, open, target, open, (numel, numel), entries)
    }
}
