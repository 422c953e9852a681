//! A network again, with an adapter added to it inside its masks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Serialize;

use crate::adapter::Adapter;
use crate::adapter::Changes;
use crate::adapter::Delta;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Destination;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::checkpoint::RECALIBRATION_KEY;
use crate::checkpoint::checkpoint_digest;
use crate::kernel::Input;
use crate::kernel::store;
use crate::kernel::value_at;
use crate::merge::MergeError;
use crate::merge::copy::Copied;
use crate::merge::copy::copy_with;
use crate::merge::options::MergeOptions;
use crate::merge::plan::TileRange;
use crate::merge::recalibrated::content_digest;
use crate::tensor::Digest;
use crate::tensor::Dtype;

/// Key in `__metadata__` of which adapter was added to a network; its value is one JSON
/// object. What makes another checkpoint of it drops it: it is not true of that one.
pub const APPLICATION_KEY: &str = "sms_apply";

/// A network with an adapter added to it, that has been written.
#[derive(Debug)]
pub struct Applied {
    /// What was written.
    pub copied: Copied,
    /// What was added, in the order of the network's parameters.
    pub changed: Vec<Changed>,
}

/// What was added to one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// Its name.
    pub tensor: String,
    /// Frobenius norm of what the adapter would add to a dense network.
    pub norm: f64,
    /// That of the part which the mask retains.
    pub retained_norm: f64,
}

/// Adds an adapter to a network: `w + delta` where the mask retains, `+0` elsewhere.
///
/// `delta` is `scale` times what the adapter adds; both it and the sum are computed in
/// `f64`, and rounded once to the type that is stored. Tensors that the adapter has whole
/// take the place of the network's, inside the mask. Masks are found, stored and refused
/// as by [`copy`](super::copy()); a mask that zeros tell keeps the places where a sum is
/// zero.
///
/// # Errors
/// [`MergeError`]; then the destination holds what it held.
pub fn apply(
    (adapter, understood): (&Checkpoint, &Adapter),
    network: &Ingredients,
    scale: f64,
    options: MergeOptions,
    destination: &Destination,
    observer: Observer<'_>,
) -> Result<Applied, MergeError> {
    let changes = understood.changes(adapter, network)?;
    let record = Record {
        tool: concat!("sms-merge ", env!("CARGO_PKG_VERSION")),
        adapter: adapter.display_name(),
        adapter_digest: adapter_digest(adapter)?,
        network: network.checkpoints()[0].display_name(),
        scale,
        n_changed: changes.len(),
        mask: Digest::of(b""),
    };
    let additions = Additions {
        adapter,
        changes,
        scale,
        record,
        loaded: Mutex::new(Vec::new()),
        squares: Mutex::new(BTreeMap::new()),
    };
    let copied = copy_with(network, options, destination, observer, Some(&additions))?;
    let changed = additions
        .totals()
        .into_iter()
        .map(|(parameter, (all, retained))| Changed {
            tensor: network.parameters()[parameter].name.clone(),
            norm: all.sqrt(),
            retained_norm: retained.sqrt(),
        });
    Ok(Applied {
        changed: changed.collect(),
        copied,
    })
}

/// What a file says of the adapter that was added to it.
#[derive(Debug, Clone, Serialize)]
struct Record {
    tool: &'static str,
    adapter: String,
    adapter_digest: Digest,
    network: String,
    scale: f64,
    n_changed: usize,
    mask: Digest,
}

/// Digest of all tensors of an adapter.
fn adapter_digest(adapter: &Checkpoint) -> Result<Digest, MergeError> {
    let mut scratch = Vec::new();
    let mut digests = Vec::with_capacity(adapter.tensors().len());
    for tensor in adapter.tensors() {
        let bytes = adapter.read(tensor, 0, tensor.shape.numel(), &mut scratch)?;
        digests.push(content_digest(bytes, &tensor.shape, tensor.dtype.bits()));
    }
    adapter.check_unchanged()?;
    let tensors = adapter.tensors().iter().zip(digests);
    Ok(checkpoint_digest(tensors.map(|(tensor, digest)| {
        (tensor.name.as_str(), tensor.dtype, &tensor.shape, digest)
    })))
}

/// Products in memory at a time: a pass goes through tensors one after the other, so that
/// threads are in few at a time.
const MOST_LOADED: usize = 4;

/// What is added to the tensors of one checkpoint.
pub(super) struct Additions<'a> {
    adapter: &'a Checkpoint,
    changes: Changes<'a>,
    scale: f64,
    record: Record,
    loaded: Mutex<Vec<(usize, Arc<Delta>)>>,
    /// By parameter and first element of a tile, the squares that are added: all of them,
    /// and those inside the mask.
    squares: Mutex<BTreeMap<(usize, u64), (f64, f64)>>,
}

/// A tile of a tensor as it is stored.
pub(super) struct Stored<'a> {
    pub(super) path: &'a Path,
    pub(super) name: &'a str,
    pub(super) dtype: Dtype,
    pub(super) bytes: &'a [u8],
    /// Which elements there are, if not all.
    pub(super) packed: Option<&'a [u64]>,
}

impl Additions<'_> {
    /// The bytes of a tile with what is added inside `mask`, or inside what is stored;
    /// `None` if nothing is added to the tensor.
    pub(super) fn changed(
        &self,
        parameter: usize,
        range: TileRange,
        stored: Stored<'_>,
        mask: Option<&[u64]>,
    ) -> Result<Option<Vec<u8>>, MergeError> {
        let Some(delta) = self.load(parameter)? else {
            return Ok(None);
        };
        let count = range.count as usize;
        let has = |words: Option<&[u64]>, j: usize| {
            words.is_none_or(|words| words[j / 64] >> (j % 64) & 1 == 1)
        };
        let input = Input {
            bytes: stored.bytes,
            dtype: stored.dtype,
        };
        let mut values = vec![0.0; count];
        let present = (0..count).filter(|&j| has(stored.packed, j)).enumerate();
        present.for_each(|(place, j)| values[j] = value_at(input, place));
        let mut added = vec![0.0; count];
        delta.apply(range.begin as usize, &mut values, &mut added);

        let mut changed = stored.bytes.to_vec();
        let mut squares = (0.0, 0.0);
        let mut place = 0;
        for (j, added) in added.into_iter().enumerate() {
            squares.0 += added * added;
            if !has(stored.packed, j) {
                continue;
            }
            if has(mask, j) {
                squares.1 += added * added;
                let value = store(&mut changed, stored.dtype, place, values[j]);
                if !value.is_finite() && value_at(input, place).is_finite() {
                    return Err(MergeError::Overflow {
                        path: stored.path.to_owned(),
                        tensor: stored.name.to_owned(),
                        index: range.begin + j as u64,
                        value: values[j],
                        dtype: stored.dtype,
                    });
                }
            }
            place += 1;
        }
        let mut all = self.squares.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((parameter, range.begin), squares);
        Ok(Some(changed))
    }

    /// What is added to a parameter, from memory or from the adapter.
    fn load(&self, parameter: usize) -> Result<Option<Arc<Delta>>, MergeError> {
        let Some(change) = self.changes.get(&parameter) else {
            return Ok(None);
        };
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = loaded.iter();
        if let Some((_, delta)) = known.find(|(index, _)| *index == parameter) {
            return Ok(Some(Arc::clone(delta)));
        }
        let delta = Arc::new(Delta::read(self.adapter, change, self.scale)?);
        if loaded.len() == MOST_LOADED {
            loaded.remove(0);
        }
        loaded.push((parameter, Arc::clone(&delta)));
        Ok(Some(delta))
    }

    /// By parameter the sums of squares, added in the order of the elements.
    fn totals(&self) -> BTreeMap<usize, (f64, f64)> {
        let mut totals: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        let squares = self.squares.lock().unwrap_or_else(PoisonError::into_inner);
        for (&(parameter, _), &(all, retained)) in &*squares {
            let total = totals.entry(parameter).or_default();
            (total.0, total.1) = (total.0 + all, total.1 + retained);
        }
        totals
    }

    /// Says in the metadata what was added, and inside which masks; what was true of the
    /// network alone goes.
    pub(super) fn note(&self, metadata: &mut BTreeMap<String, String>, mask: Digest) {
        metadata.remove(RECALIBRATION_KEY);
        let record = Record {
            mask,
            ..self.record.clone()
        };
        let text = serde_json::to_string(&record);
        let text = text.expect("strings and numbers have a JSON form");
        metadata.insert(APPLICATION_KEY.to_owned(), text);
    }
}
