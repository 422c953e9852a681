//! Elements of a tensor in order or transposed, block by block.

use std::sync::atomic::Ordering;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Observer;
use crate::checkpoint::StoredTensor;
use crate::export::template::TemplateError;
use crate::tensor::Digest;
use crate::tensor::Digester;
use crate::tensor::Shape;

/// Bytes that are held at once.
const BLOCK_BYTES: u64 = 4 << 20;

/// In which order elements are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Row-major, as they are stored.
    Same,
    /// Those of a matrix column by column.
    Transposed,
}

impl Order {
    /// The orders in which an exporter may have stored a tensor of this shape.
    pub(super) fn of(shape: &Shape) -> &'static [Self] {
        match shape.dims() {
            // A row or a column has one order of elements, and two shapes.
            [_, _] => &[Self::Same, Self::Transposed],
            _ => &[Self::Same],
        }
    }

    /// Dimensions of a tensor of this shape, read in this order.
    pub(super) fn dims(self, shape: &Shape) -> Vec<u64> {
        match (self, shape.dims()) {
            (Self::Transposed, &[rows, columns]) => vec![columns, rows],
            (_, dims) => dims.to_vec(),
        }
    }
}

/// Elements of one tensor, pruned ones zero.
pub(super) struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    tensor: &'a StoredTensor,
    mask: Option<&'a StoredTensor>,
    observer: Observer<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        tensor: &'a StoredTensor,
        mask: Option<&'a StoredTensor>,
        observer: Observer<'a>,
    ) -> Self {
        Self {
            checkpoint,
            tensor,
            mask,
            observer,
        }
    }

    fn width(&self) -> u64 {
        self.tensor.dtype.bits() / 8
    }

    /// Digest of all elements in an order.
    pub(super) fn digest(&self, order: Order) -> Result<Digest, TemplateError> {
        let mut digester = Digester::new();
        self.blocks(order, |bytes, _| {
            digester.update(bytes);
            Ok(())
        })?;
        Ok(digester.finish())
    }

    /// Hands out all elements in an order, with the offset in bytes of each block.
    pub(super) fn blocks(
        &self,
        order: Order,
        mut visit: impl FnMut(&[u8], u64) -> Result<(), TemplateError>,
    ) -> Result<(), TemplateError> {
        let (rows, columns) = match (order, self.tensor.shape.dims()) {
            (Order::Transposed, &[rows, columns]) => (rows, columns),
            _ => return self.stretches(visit),
        };
        let width = self.width();
        let strip = (BLOCK_BYTES / (rows * width).max(1)).clamp(1, columns.max(1));
        let mut block = Vec::new();
        let mut begin = 0;
        while begin < columns && rows > 0 {
            let count = strip.min(columns - begin);
            block.clear();
            block.resize((rows * count * width) as usize, 0);
            for row in 0..rows {
                self.read(row * columns + begin, count, |elements| {
                    for (column, element) in elements.chunks_exact(width as usize).enumerate() {
                        let place = (column as u64 * rows + row) * width;
                        block[place as usize..][..width as usize].copy_from_slice(element);
                    }
                    Ok(())
                })?;
            }
            self.after(&block)?;
            visit(&block, begin * rows * width)?;
            begin += count;
        }
        Ok(())
    }

    /// All elements as they are stored.
    fn stretches(
        &self,
        mut visit: impl FnMut(&[u8], u64) -> Result<(), TemplateError>,
    ) -> Result<(), TemplateError> {
        let width = self.width();
        let (numel, step) = (self.tensor.shape.numel(), BLOCK_BYTES / width);
        let mut begin = 0;
        while begin < numel {
            let count = step.min(numel - begin);
            self.read(begin, count, |bytes| {
                self.after(bytes)?;
                visit(bytes, begin * width)
            })?;
            begin += count;
        }
        Ok(())
    }

    /// Some elements, with zeros where the mask has them.
    fn read(
        &self,
        begin: u64,
        count: u64,
        visit: impl FnOnce(&[u8]) -> Result<(), TemplateError>,
    ) -> Result<(), TemplateError> {
        let mut scratch = Vec::new();
        let bytes = self
            .checkpoint
            .read(self.tensor, begin, count, &mut scratch)?;
        let Some(mask) = self.mask else {
            return visit(bytes);
        };
        let mut masked = bytes.to_vec();
        let mut scratch = Vec::new();
        let flags = self.checkpoint.read(mask, begin, count, &mut scratch)?;
        let flag_width = (mask.dtype.bits() / 8) as usize;
        let sign = if mask.dtype.is_float() { 0x80 } else { 0 };
        let elements = masked.chunks_exact_mut(self.width() as usize);
        for (element, flag) in elements.zip(flags.chunks_exact(flag_width)) {
            let (last, rest) = flag.split_last().unwrap_or((&0, &[]));
            if last & !sign == 0 && rest.iter().all(|&byte| byte == 0) {
                element.fill(0);
            }
        }
        visit(&masked)
    }

    /// Tells the observer, and ends where it says so or a file has lost pages.
    fn after(&self, bytes: &[u8]) -> Result<(), TemplateError> {
        (self.observer.advance)(bytes.len() as u64);
        if self.observer.interrupted.load(Ordering::Relaxed) {
            return Err(TemplateError::Interrupted);
        }
        let shards = self.checkpoint.shards();
        Ok(shards[self.tensor.shard].source().check_fault()?)
    }
}
