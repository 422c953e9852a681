//! Tensors whose bytes are made of what a file holds when they are read.
//!
//! A checkpoint shows logical tensors: a name, an element type, a shape and bytes of
//! that shape. Of most the bytes stand in a file as they are ([`Content::Plain`]). Of
//! others [`Checkpoint::read`](super::Checkpoint::read) makes them, stretch by stretch,
//! so that nothing above this room sees a difference:
//!
//! - a compact tensor is two of them, values ([`Content::Values`]) and mask
//!   ([`Content::Mask`]), of one [`Compact`];
//! - a sparse tensor of torch's is two of them as well ([`Content::Listed`] and
//!   [`Content::ListedMask`]), of one [`Listed`];
//! - the elements of a view of torch's lie at regular distances ([`Content::Strided`]);
//! - what is small, or has no better form, is held in memory ([`Content::Owned`]).
//!
//! **A new format** adds an opener to `checkpoint/open.rs`, which is chosen by the first
//! bytes of a file, and where its tensors lie otherwise than row-major, a variant of
//! [`Content`] with its arms in `read` and `extent`. `read` must fill `scratch` by one
//! stretch and never hold more than that; what it finds wrong with the file is a
//! [`ContentError`](super::ContentError). A tensor that is the mask of another by the
//! format says so in [`StoredTensor::mask_of`](super::StoredTensor::mask_of); that mask
//! is explicit, which means that a retained zero stays retained.

mod compact;
mod listed;
mod resolve;
mod strided;

use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::map::SourceError;
use crate::format::compact::BitmaskRecord;
use crate::format::compact::CompactKind;
use crate::format::onnx::read::Scattered;
use crate::format::onnx::read::Values;

pub use compact::Compact;
pub(super) use listed::List;
pub use listed::Listed;
pub(super) use resolve::ResolveError;
pub(super) use resolve::resolve;
pub use strided::Strided;

/// Where the bytes of a tensor come from.
#[derive(Clone, Debug)]
pub enum Content {
    /// A stretch of a file, as it is.
    Plain,
    /// Retained values, spread over the shape; zeros elsewhere.
    Values(Arc<Compact>),
    /// The mask of such a tensor, as BOOL.
    Mask(Arc<Compact>),
    /// Elements of a file in another order than row-major.
    Strided(Arc<Strided>),
    /// Elements of a model that lie in no fixed places.
    Fields(Arc<Values>),
    /// Retained values of a model with a list of their places; zeros elsewhere.
    Scattered(Arc<Scattered>),
    /// The mask of such a tensor, as BOOL.
    ScatteredMask(Arc<Scattered>),
    /// Stored elements of torch with a list of their places; zeros elsewhere.
    Listed(Arc<Listed>),
    /// The mask of such a tensor, as BOOL.
    ListedMask(Arc<Listed>),
    /// Memory.
    Owned(Arc<[u8]>),
}

/// A stretch of a shard's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Index of the shard.
    pub shard: usize,
    /// Offset of the first byte in the file.
    pub begin: u64,
    /// Offset of the byte after the last.
    pub end: u64,
}

impl StoredTensor {
    /// Bytes that the tensor takes in its file.
    pub fn stored_bytes(&self) -> u64 {
        match &self.content {
            Content::Plain | Content::Strided(_) => self.bytes,
            Content::Values(compact) => compact.value_bytes(),
            Content::Mask(compact) => compact.mask_bytes(),
            Content::Fields(values) => values.bytes(),
            Content::Scattered(scattered) => scattered.values().bytes(),
            Content::ScatteredMask(scattered) => scattered.place_bytes(),
            Content::Listed(listed) => listed.value_bytes(),
            Content::ListedMask(listed) => listed.place_bytes(),
            Content::Owned(_) => 0,
        }
    }

    /// What the tensor is made of, if it is stored compact: merged and digested as it is,
    /// without the zeros between. Weights that the graph of a model decodes are not.
    pub fn compact(&self) -> Option<&Compact> {
        match &self.content {
            Content::Values(compact) | Content::Mask(compact) if !compact.is_decoded => {
                Some(compact)
            }
            _ => None,
        }
    }
}

impl Checkpoint {
    /// What the metadata says of the tensors in our bitmask layout; `None` if there are
    /// none.
    pub(crate) fn bitmask_record(&self) -> Option<BitmaskRecord> {
        let is_bitmask = |tensor: &&StoredTensor| match &tensor.content {
            Content::Values(compact) => compact.kind == CompactKind::Bitmask,
            _ => false,
        };
        let tensors = self.tensors().iter().filter(is_bitmask);
        let parts = tensors.map(|tensor| (tensor.name.as_str(), tensor.dtype, &tensor.shape));
        let record = BitmaskRecord::new(parts);
        (!record.tensors.is_empty()).then_some(record)
    }

    /// Elements `[begin, begin + count)` of a tensor: borrowed from the mapping, or put
    /// into `scratch`. `begin` and `count` must be whole bytes of a sub-byte type.
    ///
    /// # Errors
    /// [`SourceError`] if the file has become shorter, cannot be read, or holds something
    /// that no tensor can be made of.
    pub fn read<'a>(
        &'a self,
        tensor: &StoredTensor,
        begin: u64,
        count: u64,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], SourceError> {
        let bits = tensor.dtype.bits();
        let (offset, len) = (begin * bits / 8, (count * bits / 8) as usize);
        match &tensor.content {
            Content::Plain => {
                let source = self.shards[tensor.shard].source();
                return source.read(tensor.offset + offset, len, scratch);
            }
            Content::Values(compact) => compact.read_values(self, begin, count, scratch)?,
            Content::Mask(compact) => compact.read_mask(self, begin, count, scratch)?,
            Content::Strided(strided) => {
                let source = self.shards[tensor.shard].source();
                strided.read(source, begin, count, scratch)?;
            }
            Content::Fields(values) => self.read_fields(values, begin, count, scratch)?,
            Content::Scattered(scattered) => {
                self.read_scattered(scattered, begin, count, scratch)?;
            }
            Content::ScatteredMask(scattered) => {
                self.read_scattered_mask(scattered, begin, count, scratch)?;
            }
            Content::Listed(listed) => listed.read_values(self, begin..begin + count, scratch)?,
            Content::ListedMask(listed) => listed.read_mask(self, begin..begin + count, scratch)?,
            Content::Owned(bytes) => {
                scratch.clear();
                scratch.extend_from_slice(&bytes[offset as usize..][..len]);
            }
        }
        Ok(scratch)
    }

    /// The retained ones of some elements of a tensor that is stored compact, with the
    /// mask words of these elements in `words`; `None` of any other tensor.
    ///
    /// # Errors
    /// As [`read`](Self::read). Whoever uses the values has to look for faults of their
    /// [`extent`](Self::extent).
    pub fn read_retained<'a>(
        &'a self,
        tensor: &StoredTensor,
        begin: u64,
        count: u64,
        words: &mut Vec<u64>,
        scratch: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, SourceError> {
        match &tensor.content {
            Content::Values(compact) => compact
                .read_stretch(self, begin, count, words, scratch)
                .map(Some),
            _ => Ok(None),
        }
    }

    /// The bytes that [`read`](Self::read) of these elements takes from a file: to watch
    /// for faults and to let go of. Stretches of one tensor that follow each other have
    /// extents that do.
    pub fn extent(&self, tensor: &StoredTensor, begin: u64, count: u64) -> Option<Extent> {
        match &tensor.content {
            Content::Plain => {
                let bits = tensor.dtype.bits();
                Some(Extent {
                    shard: tensor.shard,
                    begin: tensor.offset + begin * bits / 8,
                    end: tensor.offset + (begin + count) * bits / 8,
                })
            }
            // What cannot be told here is an error when it is read.
            Content::Values(compact) => compact.value_extent(self, begin, count).ok(),
            Content::Mask(compact) => Some(compact.mask_extent(begin, count)),
            Content::Strided(strided) => Some(strided.share(begin, count, tensor.shape.numel())),
            // Reading these watches for faults itself.
            Content::Fields(_) | Content::Scattered(_) | Content::ScatteredMask(_) => None,
            Content::Listed(_) | Content::ListedMask(_) | Content::Owned(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
