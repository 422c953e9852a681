//! The certificate of a soup whose batch-norm statistics were estimated again: it
//! certifies the new ones, and says which they are.

use std::collections::BTreeMap;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::checkpoint_digest;
use crate::merge::certificate::Certificate;
use crate::tensor::Digest;
use crate::tensor::DigestList;
use crate::tensor::Shape;
use crate::tensor::tile_elements;

/// Last parts of the names of what a recalibration may change.
const STATISTICS: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];

/// Whether a tensor of this name holds statistics of batch norm.
pub(super) fn is_statistic(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    STATISTICS.contains(&last)
}

impl Certificate {
    /// The certificate with the content of `replaced`, tensors of `soup`, whose bytes are
    /// given. All else stays certified as it was.
    pub fn recalibrated(mut self, soup: &Checkpoint, replaced: &BTreeMap<String, Vec<u8>>) -> Self {
        // A certificate that does not hold is not made to hold.
        let is_sound = self.content_of(soup) == self.content;
        for (name, bytes) in replaced {
            let tensor = soup.find(name).map(|idx| &soup.tensors()[idx]);
            let record = self.tensors.get_mut(name);
            if let (Some(tensor), Some(record)) = (tensor, record) {
                record.content = content_digest(bytes, &tensor.shape, tensor.dtype.bits());
            }
            if !self.recalibrated.contains(name) {
                self.recalibrated.push(name.clone());
            }
        }
        self.recalibrated.sort_unstable();
        if is_sound {
            self.content = self.content_of(soup);
        }
        self
    }

    /// As the value of [`CERTIFICATE_KEY`](super::CERTIFICATE_KEY), for a soup of one
    /// file.
    pub fn to_text(&self) -> String {
        self.to_json(|_| true)
    }

    /// Digest of the content that is recorded of the tensors of `soup`.
    pub(super) fn content_of(&self, soup: &Checkpoint) -> Digest {
        checkpoint_digest(self.tensors.iter().filter_map(|(name, record)| {
            let tensor = &soup.tensors()[soup.find(name)?];
            let content = record.content;
            Some((tensor.name.as_str(), tensor.dtype, &tensor.shape, content))
        }))
    }
}

/// Digest of the content of a tensor that is in memory.
pub(super) fn content_digest(bytes: &[u8], shape: &Shape, bits: u64) -> Digest {
    let tile_bytes = (tile_elements(shape) * bits / 8).max(1) as usize;
    let mut tiles = DigestList::default();
    for tile in bytes.chunks(tile_bytes) {
        tiles.push(Digest::of(tile));
    }
    tiles.finish()
}
