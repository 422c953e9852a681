//! Scratch.
use super::convolve::*; use super::lanes::*; use super::linear::*; use super::weight_gradient::*; use super::window::*;
use crate::graph::Features;
use std::time::Instant;
fn best(f: &mut dyn FnMut()) -> f64 { let mut b = f64::MAX; for _ in 0..7 { let t = Instant::now(); f(); b = b.min(t.elapsed().as_secs_f64()); } b }
fn fill(n: usize) -> Vec<Row> { (0..n).map(|i| { let mut r = Row::ZERO; for l in 0..LANES { r.0[l] = ((i * 37 + l * 11) % 97) as f32 / 97.0 - 0.5; } r }).collect() }
#[test]
fn speed() {
    let arch = pulp::Arch::new();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
    for (ci, co, hw, k, s, p) in [(1, 6, 28, 5, 1, 2), (6, 16, 14, 5, 1, 0), (3, 16, 32, 3, 1, 1), (16, 16, 32, 3, 1, 1), (16, 32, 32, 3, 2, 1), (32, 32, 16, 3, 1, 1), (64, 64, 8, 3, 1, 1)] {
        let w = Window { kernel: [k, k], stride: [s, s], padding: [p, p] };
        let o = (hw + 2 * p - k) / s + 1;
        let src = Layout::new(Features { channels: ci, height: hw, width: hw }, w.input_border());
        let dst = Layout::new(Features { channels: co, height: o, width: o }, w.output_border());
        let x = fill(src.rows() * 4); let mut y = fill(dst.rows() * 4); let mut dx = fill(src.rows() * 4);
        let wt: Vec<f32> = (0..ci * co * k * k).map(|i| (i % 13) as f32 / 13.0 - 0.5).collect();
        let mut panels = vec![]; let flops = (ci * co * k * k * o * o * 128 * 2) as f64 / 1e9;
        let f = w.forward(); let b = w.backward();
        let t = best(&mut || Convolution { phases: &f, n_taps: k * k, source: src, target: dst, bias: &[], store: Store::Relu }.run(arch, |o, c, t| wt[(o * ci + c) * k * k + t], &mut panels, &x, &mut y));
        let t2 = best(&mut || Convolution { phases: &b, n_taps: k * k, source: dst, target: src, bias: &[], store: Store::Plain }.run(arch, |c, o, t| wt[(o * ci + c) * k * k + t], &mut panels, &y, &mut dx));
        let mut g = vec![0.0; wt.len()]; let mut partials = vec![];
        let t3 = best(&mut || WeightGradient { phase: &f[0], n_taps: k * k, source: src, delta: dst }.run(arch, &x, &y, &mut partials, &mut g));
        eprintln!("conv {ci}x{hw} -> {co} k{k} s{s}: fwd {:.2} ms {:.0} GF  dx {:.2} ms {:.0} GF  dw {:.2} ms {:.0} GF", t * 1e3, flops / t, t2 * 1e3, flops / t2, t3 * 1e3, flops / t3);
    }
    for (i, o) in [(784, 2048), (2048, 2048), (2048, 10), (400, 120)] {
        let x = fill(i * 4); let mut y = fill(o * 4); let mut dx = fill(i * 4);
        let wt: Vec<f32> = (0..i * o).map(|i| (i % 13) as f32 / 13.0 - 0.5).collect(); let mut g = vec![0.0; wt.len()];
        let flops = (i * o * 128 * 2) as f64 / 1e9; let mut sc = vec![]; let mut tu = vec![];
        let t = best(&mut || Product { n_source: i, n_target: o, bias: &[], store: Store::Relu }.run(arch, pack_rows(&wt, i), &mut sc, &x, &mut y));
        let t2 = best(&mut || Product { n_source: o, n_target: i, bias: &[], store: Store::Plain }.run(arch, pack_columns(&wt, i), &mut sc, &y, &mut dx));
        let t3 = best(&mut || weight_gradient(arch, i, o, &x, &y, &mut tu, &mut g));
        eprintln!("linear {i} -> {o}: fwd {:.2} ms {:.0} GF  dx {:.2} ms {:.0} GF  dw {:.2} ms {:.0} GF", t * 1e3, flops / t, t2 * 1e3, flops / t2, t3 * 1e3, flops / t3);
    }
    });
}
