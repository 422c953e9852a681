//! A tensor whose elements lie in a file otherwise than row-major.

use crate::checkpoint::derived::Extent;
use crate::checkpoint::map::ByteSource;
use crate::checkpoint::map::SourceError;

/// Most bytes of a file that are read at once.
const BLOCK_BYTES: u64 = 64 << 10;
/// Most elements of a file that are read for one of the tensor's.
const MOST_SKIPPED: u64 = 16;

/// One dimension of a tensor.
#[derive(Clone, Copy, Debug)]
struct Axis {
    /// Number of indices.
    dim: u64,
    /// Elements of the file from one index to the next.
    stride: u64,
    /// Elements of the tensor, row-major, from one index to the next.
    step: u64,
}

impl Axis {
    /// Elements of the file from the first index to the last.
    fn reach(&self) -> u64 {
        (self.dim - 1) * self.stride
    }
}

/// Elements at regular distances.
///
/// A stretch of the row-major order is cut into boxes, and the elements of a box are
/// read in the order of the file, so that a transposed matrix is not read element by
/// element.
#[derive(Debug)]
pub struct Strided {
    /// Bytes of an element.
    width: u64,
    /// Those of more than one index, in the order of the shape.
    axes: Vec<Axis>,
    /// Where the elements are in the file, from the first to the last.
    extent: Extent,
}

impl Strided {
    /// Elements of `width` bytes, of which the first is at byte `begin` of `shard`. None
    /// of `dims` is 0, there is a stride for each, and all elements lie within the file.
    pub(in crate::checkpoint) fn new(
        (shard, begin): (usize, u64),
        width: u64,
        dims: &[u64],
        strides: &[u64],
    ) -> Self {
        let mut step = 1;
        let mut axes: Vec<Axis> = Vec::new();
        for (&dim, &stride) in dims.iter().zip(strides).rev() {
            if dim != 1 {
                axes.push(Axis { dim, stride, step });
            }
            step *= dim;
        }
        axes.reverse();
        let reach: u64 = axes.iter().map(Axis::reach).sum();
        let end = begin + (reach + 1) * width;
        let extent = Extent { shard, begin, end };
        Self {
            width,
            axes,
            extent,
        }
    }

    /// A stretch's share of the bytes from the first element to the last. These are not
    /// the bytes that are read, but those of all stretches together.
    pub(super) fn share(&self, begin: u64, count: u64, numel: u64) -> Extent {
        let Extent {
            shard,
            begin: first,
            end,
        } = self.extent;
        let part = |element: u64| {
            let share = u128::from(end - first) * u128::from(element) / u128::from(numel.max(1));
            first + share as u64
        };
        Extent {
            shard,
            begin: part(begin),
            end: part(begin + count),
        }
    }

    /// Elements `[begin, begin + count)` of the row-major order, into `out`.
    pub(super) fn read(
        &self,
        source: &ByteSource,
        begin: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        self.read_in_blocks(source, begin, count, out, BLOCK_BYTES)
    }

    fn read_in_blocks(
        &self,
        source: &ByteSource,
        begin: u64,
        count: u64,
        out: &mut Vec<u8>,
        block_bytes: u64,
    ) -> Result<(), SourceError> {
        out.resize((count * self.width) as usize, 0);
        let mut gather = Gather {
            source,
            width: self.width,
            block_bytes,
            scratch: Vec::new(),
        };
        gather.stretch(&self.axes, self.extent.begin, begin..begin + count, out)
    }
}

/// Reads elements from a file to their places in memory.
struct Gather<'s> {
    source: &'s ByteSource,
    width: u64,
    block_bytes: u64,
    scratch: Vec<u8>,
}

impl Gather<'_> {
    /// A stretch of the row-major order of `axes`, of which the first element is at byte
    /// `origin`.
    fn stretch(
        &mut self,
        axes: &[Axis],
        origin: u64,
        stretch: std::ops::Range<u64>,
        out: &mut [u8],
    ) -> Result<(), SourceError> {
        let Some((first, rest)) = axes.split_first() else {
            return self.whole_box(&[], origin, out);
        };
        let at = |index: u64| origin + index * first.stride * self.width;
        let (begin, end) = (stretch.start, stretch.end);
        // Indices of the first axis whose elements are all in the stretch.
        let (low, high) = (begin.div_ceil(first.step), end / first.step);
        if low > high {
            let base = high * first.step;
            return self.stretch(rest, at(high), begin - base..end - base, out);
        }
        let (head, out) = out.split_at_mut(((low * first.step - begin) * self.width) as usize);
        let (middle, tail) = out.split_at_mut(((high - low) * first.step * self.width) as usize);
        let places = [at(low.saturating_sub(1)), at(low), at(high)];
        if !head.is_empty() {
            let base = (low - 1) * first.step;
            self.stretch(rest, places[0], begin - base..first.step, head)?;
        }
        if !middle.is_empty() {
            let dim = high - low;
            let axes = [&[Axis { dim, ..*first }], rest].concat();
            self.whole_box(&axes, places[1], middle)?;
        }
        if !tail.is_empty() {
            let base = high * first.step;
            self.stretch(rest, places[2], 0..end - base, tail)?;
        }
        Ok(())
    }

    /// All elements of `axes`, in the order of the file.
    fn whole_box(&mut self, axes: &[Axis], origin: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let mut axes: Vec<Axis> = axes.iter().copied().filter(|axis| axis.dim > 1).collect();
        axes.sort_by_key(|axis| std::cmp::Reverse(axis.stride));
        // The last axes are read together as long as they lie close together.
        let mut n_outer = axes.len();
        let (mut elements, mut span) = (1, 1);
        while let Some(axis) = n_outer.checked_sub(1).map(|last| axes[last]) {
            let (more, longer) = (elements * axis.dim, span + axis.reach());
            let is_dense = longer <= more.saturating_mul(MOST_SKIPPED);
            if longer * self.width > self.block_bytes || !is_dense {
                break;
            }
            (elements, span, n_outer) = (more, longer, n_outer - 1);
        }
        let (outer, inner) = axes.split_at(n_outer);
        let mut outer = Odometer::new(outer);
        // Of an axis that is too long to be read whole, as much as can be.
        let piece = match outer.axes.last() {
            Some(last) if inner.is_empty() && last.stride <= MOST_SKIPPED => {
                (self.block_bytes / self.width / last.stride.max(1)).max(1)
            }
            _ => 1,
        };
        loop {
            let (from, to) = outer.place();
            let begin = origin + from * self.width;
            let left = outer.left_of_last();
            if piece == 1 {
                self.block(inner, begin, span, &mut out[(to * self.width) as usize..])?;
                if !outer.advance(1) {
                    return Ok(());
                }
                continue;
            }
            let last = outer.axes[outer.axes.len() - 1];
            let dim = piece.min(left);
            let part = Axis { dim, ..last };
            let span = part.reach() + 1;
            self.block(&[part], begin, span, &mut out[(to * self.width) as usize..])?;
            if !outer.advance(dim) {
                return Ok(());
            }
        }
    }

    /// All elements of `axes`, which lie within `span` elements of the file.
    fn block(
        &mut self,
        axes: &[Axis],
        begin: u64,
        span: u64,
        out: &mut [u8],
    ) -> Result<(), SourceError> {
        let width = self.width as usize;
        let bytes = self
            .source
            .read(begin, span as usize * width, &mut self.scratch)?;
        let Some((run, outer)) = axes.split_last() else {
            out[..width].copy_from_slice(bytes);
            return Ok(());
        };
        let mut outer = Odometer::new(outer);
        loop {
            let (from, to) = outer.place();
            let (from, to) = (
                &bytes[from as usize * width..],
                &mut out[to as usize * width..],
            );
            copy_run(from, to, run, width);
            if !outer.advance(1) {
                return Ok(());
            }
        }
    }
}

/// Copies the elements of one axis.
fn copy_run(from: &[u8], to: &mut [u8], run: &Axis, width: usize) {
    let dim = run.dim as usize;
    if (run.stride, run.step) == (1, 1) {
        to[..dim * width].copy_from_slice(&from[..dim * width]);
        return;
    }
    match width {
        1 => scatter::<1>(from, to, run),
        2 => scatter::<2>(from, to, run),
        4 => scatter::<4>(from, to, run),
        8 => scatter::<8>(from, to, run),
        _ => {
            let (stride, step) = (run.stride as usize * width, run.step as usize * width);
            for idx in 0..dim {
                to[idx * step..][..width].copy_from_slice(&from[idx * stride..][..width]);
            }
        }
    }
}

fn scatter<const WIDTH: usize>(from: &[u8], to: &mut [u8], run: &Axis) {
    let (from, to) = (from.as_chunks::<WIDTH>().0, to.as_chunks_mut::<WIDTH>().0);
    let from = from.iter().step_by((run.stride as usize).max(1));
    let to = to.iter_mut().step_by(run.step as usize);
    if run.stride == 0 {
        let first = from.into_iter().next().copied().unwrap_or([0; WIDTH]);
        to.take(run.dim as usize).for_each(|to| *to = first);
        return;
    }
    for (to, from) in to.zip(from).take(run.dim as usize) {
        *to = *from;
    }
}

/// Indices of several axes, the last of which turns fastest.
struct Odometer<'a> {
    axes: &'a [Axis],
    indices: Vec<u64>,
}

impl<'a> Odometer<'a> {
    fn new(axes: &'a [Axis]) -> Self {
        Self {
            axes,
            indices: vec![0; axes.len()],
        }
    }

    /// Elements before this one in the file, and in memory.
    fn place(&self) -> (u64, u64) {
        let pairs = self.axes.iter().zip(&self.indices);
        pairs.fold((0, 0), |(from, to), (axis, index)| {
            (from + axis.stride * index, to + axis.step * index)
        })
    }

    /// Indices of the last axis that are left, this one included.
    fn left_of_last(&self) -> u64 {
        match (self.axes.last(), self.indices.last()) {
            (Some(axis), Some(index)) => axis.dim - index,
            _ => 1,
        }
    }

    /// Turns the last axis by `count`; whether there is another place.
    fn advance(&mut self, count: u64) -> bool {
        let mut count = count;
        for (axis, index) in self.axes.iter().zip(&mut self.indices).rev() {
            *index += count;
            if *index < axis.dim {
                return true;
            }
            (*index, count) = (0, 1);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::map::Access;

    /// Element after element, as the shape and the strides say.
    fn one_by_one(
        file: &[u8],
        begin: usize,
        width: usize,
        dims: &[u64],
        strides: &[u64],
    ) -> Vec<u8> {
        let numel: u64 = dims.iter().product();
        let element = |index: u64| {
            let mut rest = index;
            let mut at = 0;
            for (dim, stride) in dims.iter().zip(strides).rev() {
                at += rest % dim * stride;
                rest /= dim;
            }
            let at = begin + at as usize * width;
            file[at..at + width].to_vec()
        };
        (0..numel).flat_map(element).collect()
    }

    fn check(width: u64, dims: &[u64], strides: &[u64], block_bytes: u64) {
        let begin = 5;
        let reach: u64 = dims
            .iter()
            .zip(strides)
            .map(|(dim, by)| (dim - 1) * by)
            .sum();
        let file_bytes = begin + (reach + 1) * width;
        let file: Vec<u8> = (0..file_bytes).map(|byte| (byte * 7 % 251) as u8).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        fs::write(&path, &file).unwrap();
        let expected = one_by_one(&file, begin as usize, width as usize, dims, strides);
        let strided = Strided::new((0, begin), width, dims, strides);
        let numel: u64 = dims.iter().product();
        for access in [Access::Mapped, Access::Pread] {
            let source = ByteSource::open(&path, access).unwrap();
            for stretch in [1, 2, 7, numel.div_ceil(3), numel] {
                let mut found = Vec::new();
                let mut out = vec![0xff; 3];
                let mut from = 0;
                while from < numel {
                    let count = stretch.min(numel - from);
                    strided
                        .read_in_blocks(&source, from, count, &mut out, block_bytes)
                        .unwrap();
                    found.extend_from_slice(&out);
                    from += count;
                }
                assert!(found == expected, "{width} {dims:?} {strides:?} {stretch}");
            }
        }
    }

    #[test]
    fn elements_come_in_the_order_of_the_shape() {
        for block_bytes in [1, 16, 100, BLOCK_BYTES] {
            check(4, &[], &[], block_bytes);
            check(4, &[1], &[9], block_bytes);
            check(4, &[3, 5], &[1, 3], block_bytes);
            check(2, &[2, 3, 4, 5], &[60, 1, 15, 3], block_bytes);
            check(8, &[7], &[2], block_bytes);
            check(1, &[6], &[40], block_bytes);
            check(16, &[3, 2], &[1, 3], block_bytes);
            // Elements that are shared.
            check(4, &[2, 3], &[0, 1], block_bytes);
            check(4, &[3, 2], &[1, 0], block_bytes);
            check(4, &[3, 3], &[1, 1], block_bytes);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_order_of_any_slice_is_read(
            axes in prop::collection::vec((1_u64..6, 1_u64..4), 1..5),
            order in any::<prop::sample::Index>(),
            width in prop::sample::select(vec![1_u64, 2, 4, 8]),
            block_bytes in 1_u64..300,
        ) {
            // Slices of a row-major tensor, and its axes turned around by some places.
            let mut step = 1;
            let mut axes: Vec<(u64, u64)> = axes
                .into_iter()
                .map(|(dim, skip)| {
                    let stride = step * skip;
                    step = stride * dim;
                    (dim, stride)
                })
                .collect();
            let n_axes = axes.len();
            axes.rotate_left(order.index(n_axes));
            let (dims, strides): (Vec<u64>, Vec<u64>) = axes.into_iter().unzip();
            check(width, &dims, &strides, block_bytes);
        }
    }

    #[test]
    fn shares_follow_each_other_and_cover_all() {
        let strided = Strided::new((2, 100), 4, &[3, 5], &[1, 3]);
        let (first, second) = (strided.share(0, 4, 15), strided.share(4, 11, 15));
        assert_eq!((first.shard, first.begin), (2, 100));
        assert_eq!(first.end, second.begin);
        assert_eq!(second.end, 160);
    }
}
