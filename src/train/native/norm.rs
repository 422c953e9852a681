//! Batch normalisation of maps, with the sum and the rectifier that may follow it.
//!
//! Statistics are formed per channel: lanes of one line in `f32`, everything else in
//! `f64`, in the order of tiles.

use rayon::prelude::*;

use super::lanes::Batch;
use super::lanes::Deposit;
use super::lanes::LANES;
use super::lanes::Layout;
use super::lanes::Row;

/// Mean and biased variance of one channel over a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moments {
    pub(super) mean: f64,
    pub(super) variance: f64,
}

/// How a channel is normalised: `(x - mean) * scale + shift`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Affine {
    pub(super) mean: f32,
    pub(super) inverse_deviation: f32,
    pub(super) scale: f32,
    pub(super) shift: f32,
}

/// What follows the normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rectify {
    Yes,
    No,
}

/// A batch norm over maps of one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub(super) arch: pulp::Arch,
    pub(super) source: Layout,
    pub(super) target: Layout,
    pub(super) batch: Batch,
}

/// Adds up lanes: each line's in `f32`, then in `f64`.
struct LaneSums([f64; LANES]);

impl LaneSums {
    fn new() -> Self {
        Self([0.0; LANES])
    }

    fn add(&mut self, line: &Row) {
        for (sum, &value) in self.0.iter_mut().zip(&line.0) {
            *sum += f64::from(value);
        }
    }

    fn total(&self, n_lanes: usize) -> f64 {
        self.0[..n_lanes].iter().sum()
    }
}

impl Norm {
    /// Values of one channel in the batch.
    pub(super) fn count(&self) -> usize {
        self.batch.samples * self.source.plane.height * self.source.plane.width
    }

    /// Moments of every channel.
    pub(super) fn moments(&self, source: &[Row]) -> Vec<Moments> {
        (0..self.source.channels)
            .into_par_iter()
            .map(|channel| {
                let count = self.count() as f64;
                let mean = self.sum(source, channel, 0.0, Power::First) / count;
                let near = mean as f32;
                // The mean is rounded to f32 for the second pass; what that shifts is
                // taken out again.
                let rest = mean - f64::from(near);
                let squares = self.sum(source, channel, near, Power::Second) / count;
                Moments {
                    mean,
                    variance: (squares - rest * rest).max(0.0),
                }
            })
            .collect()
    }

    fn sum(&self, source: &[Row], channel: usize, from: f32, power: Power) -> f64 {
        let plane_rows = self.source.plane.rows();
        let tiles = source.chunks_exact(self.source.rows());
        let mut sum = 0.0;
        for (tile, rows) in tiles.enumerate() {
            let plane = &rows[channel * plane_rows..][..plane_rows];
            let mut lanes = LaneSums::new();
            for y in 0..self.source.plane.height {
                let line = &plane[self.source.plane.line(y)];
                lanes.add(&self.arch.dispatch(LineSum { line, from, power }));
            }
            sum += lanes.total(self.batch.lanes(tile));
        }
        sum
    }

    /// `target = (source - mean) * scale + shift`, plus `addend` if there is one.
    pub(super) fn normalise(
        &self,
        affine: &[Affine],
        source: &[Row],
        addend: Option<(&[Row], Layout)>,
        rectify: Rectify,
        target: &mut [Row],
    ) {
        let plane_rows = self.target.plane.rows();
        target
            .par_chunks_exact_mut(plane_rows)
            .enumerate()
            .for_each(|(idx, target)| {
                let affine = affine[idx % self.target.channels];
                let source = plane_of(source, self.source, idx);
                let addend = addend.map(|(rows, layout)| (plane_of(rows, layout, idx), layout));
                for y in 0..self.target.plane.height {
                    self.arch.dispatch(NormaliseLine {
                        affine,
                        source: &source[self.source.plane.line(y)],
                        addend: addend.map(|(rows, layout)| &rows[layout.plane.line(y)]),
                        rectify,
                        target: &mut target[self.target.plane.line(y)],
                    });
                }
            });
    }

    /// Gradient of scale and shift, (sum of delta * normalised, sum of delta) per
    /// channel. Where a rectifier followed, `delta` becomes 0 where `output` is not
    /// positive.
    pub(super) fn reduce(
        &self,
        affine: &[Affine],
        source: &[Row],
        output: Option<&[Row]>,
        delta: &mut [Row],
    ) -> Vec<(f64, f64)> {
        let plane_rows = self.target.plane.rows();
        let sums: Vec<(f64, f64)> = delta
            .par_chunks_exact_mut(plane_rows)
            .enumerate()
            .map(|(idx, delta)| {
                let affine = affine[idx % self.target.channels];
                let source = plane_of(source, self.source, idx);
                let output = output.map(|rows| plane_of(rows, self.target, idx));
                let (mut products, mut plain) = (LaneSums::new(), LaneSums::new());
                for y in 0..self.target.plane.height {
                    let line = self.target.plane.line(y);
                    let (product, sum) = self.arch.dispatch(ReduceLine {
                        mean: affine.mean,
                        source: &source[self.source.plane.line(y)],
                        output: output.map(|rows| &rows[line.clone()]),
                        delta: &mut delta[line],
                    });
                    products.add(&product);
                    plain.add(&sum);
                }
                let n_lanes = self.batch.lanes(idx / self.target.channels);
                let inverse = f64::from(affine.inverse_deviation);
                (products.total(n_lanes) * inverse, plain.total(n_lanes))
            })
            .collect();
        let mut totals = vec![(0.0, 0.0); self.target.channels];
        for (idx, (product, sum)) in sums.into_iter().enumerate() {
            let total = &mut totals[idx % self.target.channels];
            total.0 += product;
            total.1 += sum;
        }
        totals
    }

    /// Gradient with respect to the source, from the sums of [`reduce`](Self::reduce).
    pub(super) fn differentiate(
        &self,
        affine: &[Affine],
        sums: &[(f64, f64)],
        source: &[Row],
        delta: &[Row],
        deposit: Deposit,
        target: &mut [Row],
    ) {
        let plane_rows = self.source.plane.rows();
        let count = self.count() as f64;
        target
            .par_chunks_exact_mut(plane_rows)
            .enumerate()
            .for_each(|(idx, target)| {
                let channel = idx % self.source.channels;
                let affine = affine[channel];
                let (product, sum) = sums[channel];
                let source = plane_of(source, self.source, idx);
                let delta = plane_of(delta, self.target, idx);
                let n_lanes = self.batch.lanes(idx / self.source.channels);
                for y in 0..self.source.plane.height {
                    self.arch.dispatch(DifferentiateLine {
                        affine,
                        slope: (product / count * f64::from(affine.inverse_deviation)) as f32,
                        offset: (sum / count) as f32,
                        source: &source[self.source.plane.line(y)],
                        delta: &delta[self.target.plane.line(y)],
                        deposit,
                        n_lanes,
                        target: &mut target[self.source.plane.line(y)],
                    });
                }
            });
    }
}

/// Plane number `idx` of a buffer, counted through all tiles.
fn plane_of(rows: &[Row], layout: Layout, idx: usize) -> &[Row] {
    let plane_rows = layout.plane.rows();
    &rows[idx * plane_rows..][..plane_rows]
}

#[derive(Clone, Copy)]
enum Power {
    First,
    Second,
}

struct LineSum<'a> {
    line: &'a [Row],
    from: f32,
    power: Power,
}

impl pulp::NullaryFnOnce for LineSum<'_> {
    type Output = Row;

    #[inline(always)]
    fn call(self) -> Row {
        let mut sums = Row::ZERO;
        match self.power {
            Power::First => {
                for row in self.line {
                    for (sum, &value) in sums.0.iter_mut().zip(&row.0) {
                        *sum += value;
                    }
                }
            }
            Power::Second => {
                for row in self.line {
                    for (sum, &value) in sums.0.iter_mut().zip(&row.0) {
                        let distance = value - self.from;
                        *sum += distance * distance;
                    }
                }
            }
        }
        sums
    }
}

struct NormaliseLine<'a> {
    affine: Affine,
    source: &'a [Row],
    addend: Option<&'a [Row]>,
    rectify: Rectify,
    target: &'a mut [Row],
}

impl pulp::NullaryFnOnce for NormaliseLine<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Affine {
            mean, scale, shift, ..
        } = self.affine;
        let rectify = |value: f32| match self.rectify {
            Rectify::Yes if value < 0.0 => 0.0,
            _ => value,
        };
        match self.addend {
            None => {
                for (target, source) in self.target.iter_mut().zip(self.source) {
                    for (target, &value) in target.0.iter_mut().zip(&source.0) {
                        *target = rectify((value - mean) * scale + shift);
                    }
                }
            }
            Some(addend) => {
                let rows = self.source.iter().zip(addend);
                for (target, (source, addend)) in self.target.iter_mut().zip(rows) {
                    let values = source.0.iter().zip(&addend.0);
                    for (target, (&value, &addend)) in target.0.iter_mut().zip(values) {
                        *target = rectify((value - mean) * scale + shift + addend);
                    }
                }
            }
        }
    }
}

struct ReduceLine<'a> {
    mean: f32,
    source: &'a [Row],
    output: Option<&'a [Row]>,
    delta: &'a mut [Row],
}

impl pulp::NullaryFnOnce for ReduceLine<'_> {
    type Output = (Row, Row);

    #[inline(always)]
    fn call(self) -> (Row, Row) {
        let (mut products, mut sums) = (Row::ZERO, Row::ZERO);
        if let Some(output) = self.output {
            for (delta, output) in self.delta.iter_mut().zip(output) {
                for (delta, &output) in delta.0.iter_mut().zip(&output.0) {
                    *delta = if output > 0.0 { *delta } else { 0.0 };
                }
            }
        }
        for (delta, source) in self.delta.iter().zip(self.source) {
            for lane in 0..LANES {
                products.0[lane] += delta.0[lane] * (source.0[lane] - self.mean);
                sums.0[lane] += delta.0[lane];
            }
        }
        (products, sums)
    }
}

struct DifferentiateLine<'a> {
    affine: Affine,
    slope: f32,
    offset: f32,
    source: &'a [Row],
    delta: &'a [Row],
    deposit: Deposit,
    n_lanes: usize,
    target: &'a mut [Row],
}

impl pulp::NullaryFnOnce for DifferentiateLine<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Affine { mean, scale, .. } = self.affine;
        let rows = self.source.iter().zip(self.delta);
        for (target, (source, delta)) in self.target.iter_mut().zip(rows) {
            let values = source.0.iter().zip(&delta.0);
            for (target, (&value, &delta)) in target.0.iter_mut().zip(values) {
                let change = (delta - self.offset - (value - mean) * self.slope) * scale;
                *target = match self.deposit {
                    Deposit::Set => change,
                    Deposit::Add => *target + change,
                };
            }
            // Lanes without an image have no gradient.
            target.0[self.n_lanes..].fill(0.0);
        }
    }
}
