//! Which neighbours a convolution reads, forwards and backwards.
//!
//! Forwards, output (y, x) reads input (y * stride + dy, x * stride + dx) for every tap.
//! Backwards, an input reads outputs; with a stride, inputs of different remainders
//! read different taps, so there is one phase per remainder. Both are the same loop
//! over [`Phase`]s.

/// Kernel, stride and padding of a convolution; pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
}

/// One neighbour: the place in the kernel, and where it lies from the centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tap {
    pub(super) idx: usize,
    pub(super) offset: [isize; 2],
}

/// Targets `start + step * n` read sources `n * stride + offset` of each tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) start: [usize; 2],
    pub(super) step: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) taps: Vec<Tap>,
}

impl Window {
    /// Places in the kernel.
    pub(super) fn n_taps(self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// How outputs read inputs: one phase.
    pub(super) fn forward(self) -> Vec<Phase> {
        let taps = self.taps(|axis, place| Some(place as isize - self.padding[axis] as isize));
        vec![Phase {
            start: [0, 0],
            step: [1, 1],
            stride: self.stride,
            taps,
        }]
    }

    /// How inputs of the given height and width read outputs: one phase per remainder by
    /// the stride that such an input has.
    pub(super) fn backward(self, size: [usize; 2]) -> Vec<Phase> {
        let [rows, columns] = [0, 1].map(|axis| self.stride[axis].min(size[axis]));
        let starts = (0..rows).flat_map(|y| (0..columns).map(move |x| [y, x]));
        starts
            .map(|start| Phase {
                start,
                step: self.stride,
                stride: [1, 1],
                taps: self.taps(|axis, place| {
                    let distance = (start[axis] + self.padding[axis]) as isize - place as isize;
                    let stride = self.stride[axis] as isize;
                    (distance % stride == 0).then_some(distance / stride)
                }),
            })
            .collect()
    }

    fn taps(self, offset: impl Fn(usize, usize) -> Option<isize>) -> Vec<Tap> {
        let places = (0..self.kernel[0]).flat_map(|y| (0..self.kernel[1]).map(move |x| [y, x]));
        let taps = places.enumerate().filter_map(|(idx, [y, x])| {
            let offset = [offset(0, y)?, offset(1, x)?];
            Some(Tap { idx, offset })
        });
        let mut taps: Vec<Tap> = taps.collect();
        // Ascending addresses are fetched ahead; descending ones were twice as slow.
        taps.sort_by_key(|tap| tap.offset);
        taps
    }

    /// Border that the input needs, so that outputs read zeros beyond its edge.
    pub(super) fn input_border(self) -> usize {
        self.padding[0].max(self.padding[1])
    }

    /// Border that the output's gradient needs, so that inputs read zeros beyond its
    /// edge.
    pub(super) fn output_border(self) -> usize {
        let reach = |axis: usize| {
            let past = (self.kernel[axis] - 1).saturating_sub(self.padding[axis]);
            past.div_ceil(self.stride[axis])
        };
        reach(0).max(reach(1))
    }
}

/// Number of elements of an axis of `length` in the phase that starts at `start`.
pub(super) fn count(length: usize, start: usize, step: usize) -> usize {
    length.saturating_sub(start).div_ceil(step)
}
