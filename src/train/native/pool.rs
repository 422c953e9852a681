//! Max and average pooling, forwards and backwards.

use rayon::prelude::*;

use super::lanes::LANES;
use super::lanes::Layout;
use super::lanes::Row;
use super::window::Window;

/// A pooling of maps of one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    pub(super) window: Window,
    pub(super) source: Layout,
    pub(super) target: Layout,
}

/// Which element of a window each lane took.
pub(super) type Choice = [u32; LANES];

impl Pool {
    /// The elements of the window of target (y, x): their place in the window, and in
    /// the source plane.
    fn window(&self, y: usize, x: usize) -> impl Iterator<Item = (usize, usize)> {
        let Window {
            kernel,
            stride,
            padding,
        } = self.window;
        let plane = self.source.plane;
        let places = (0..kernel[0]).flat_map(move |ky| (0..kernel[1]).map(move |kx| (ky, kx)));
        places.enumerate().filter_map(move |(idx, (ky, kx))| {
            let source_y = (y * stride[0] + ky).checked_sub(padding[0])?;
            let source_x = (x * stride[1] + kx).checked_sub(padding[1])?;
            let is_inside = source_y < plane.height && source_x < plane.width;
            is_inside.then(|| (idx, plane.at(source_y, source_x)))
        })
    }

    /// The largest element of each window; of equal ones the first, and the last NaN of
    /// several. `choices` has one entry per target row.
    pub(super) fn max(
        &self,
        arch: pulp::Arch,
        source: &[Row],
        target: &mut [Row],
        choices: &mut [Choice],
    ) {
        self.for_each_plane(target, choices, |idx, target, choices| {
            let source = self.source_plane(source, idx);
            for y in 0..self.target.plane.height {
                for x in 0..self.target.plane.width {
                    let place = self.target.plane.at(y, x);
                    let (best, choice) = (&mut target[place], &mut choices[place]);
                    let mut window = self.window(y, x);
                    if let Some((idx, first)) = window.next() {
                        *best = source[first];
                        *choice = [idx as u32; LANES];
                    }
                    for (idx, next) in window {
                        arch.dispatch(Larger {
                            value: &source[next],
                            idx: idx as u32,
                            best,
                            choice,
                        });
                    }
                }
            }
        });
    }

    /// Hands each gradient to the element that was taken.
    pub(super) fn max_backward(&self, delta: &[Row], choices: &[Choice], target: &mut [Row]) {
        let target_rows = self.target.plane.rows();
        target
            .par_chunks_exact_mut(self.source.plane.rows())
            .enumerate()
            .for_each(|(idx, target)| {
                let delta = &delta[idx * target_rows..][..target_rows];
                let choices = &choices[idx * target_rows..][..target_rows];
                for y in 0..self.target.plane.height {
                    for x in 0..self.target.plane.width {
                        let place = self.target.plane.at(y, x);
                        for (idx, source) in self.window(y, x) {
                            let taken = delta[place].0.iter().zip(&choices[place]);
                            for (sum, (&delta, &choice)) in target[source].0.iter_mut().zip(taken) {
                                *sum += if choice as usize == idx { delta } else { 0.0 };
                            }
                        }
                    }
                }
            });
    }

    /// The mean of each window.
    pub(super) fn average(&self, source: &[Row], target: &mut [Row]) {
        let scale = 1.0 / self.window.n_taps() as f32;
        target
            .par_chunks_exact_mut(self.target.plane.rows())
            .enumerate()
            .for_each(|(idx, target)| {
                let source = self.source_plane(source, idx);
                for y in 0..self.target.plane.height {
                    for x in 0..self.target.plane.width {
                        let sum = &mut target[self.target.plane.at(y, x)];
                        *sum = Row::ZERO;
                        for (_, place) in self.window(y, x) {
                            for (sum, &value) in sum.0.iter_mut().zip(&source[place].0) {
                                *sum += value;
                            }
                        }
                        sum.0.iter_mut().for_each(|sum| *sum *= scale);
                    }
                }
            });
    }

    /// Spreads each gradient evenly over its window.
    pub(super) fn average_backward(&self, delta: &[Row], target: &mut [Row]) {
        let scale = 1.0 / self.window.n_taps() as f32;
        let target_rows = self.target.plane.rows();
        target
            .par_chunks_exact_mut(self.source.plane.rows())
            .enumerate()
            .for_each(|(idx, target)| {
                let delta = &delta[idx * target_rows..][..target_rows];
                for y in 0..self.target.plane.height {
                    for x in 0..self.target.plane.width {
                        let delta = &delta[self.target.plane.at(y, x)];
                        for (_, place) in self.window(y, x) {
                            for (sum, &delta) in target[place].0.iter_mut().zip(&delta.0) {
                                *sum += delta * scale;
                            }
                        }
                    }
                }
            });
    }

    fn source_plane<'a>(&self, source: &'a [Row], idx: usize) -> &'a [Row] {
        let rows = self.source.plane.rows();
        &source[idx * rows..][..rows]
    }

    fn for_each_plane(
        &self,
        target: &mut [Row],
        choices: &mut [Choice],
        work: impl Fn(usize, &mut [Row], &mut [Choice]) + Sync,
    ) {
        let rows = self.target.plane.rows();
        target
            .par_chunks_exact_mut(rows)
            .zip(choices.par_chunks_exact_mut(rows))
            .enumerate()
            .for_each(|(idx, (target, choices))| work(idx, target, choices));
    }
}

/// Takes `value` where it is larger than the best so far, or not a number.
struct Larger<'a> {
    value: &'a Row,
    idx: u32,
    best: &'a mut Row,
    choice: &'a mut Choice,
}

impl pulp::NullaryFnOnce for Larger<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let lanes = self.best.0.iter_mut().zip(self.choice);
        for ((best, choice), &value) in lanes.zip(&self.value.0) {
            let is_larger = value > *best || value.is_nan();
            *best = if is_larger { value } else { *best };
            *choice = if is_larger { self.idx } else { *choice };
        }
    }
}
