//! Layers that work on their retained weights alone.
//!
//! Weights, gradients and optimiser memory of such a layer are *compact*: one number per
//! retained coordinate, in row-major order. A sum meets its terms in the order of the
//! dense layer, so a dense and a sparse convolution, and the outputs of both kinds of
//! linear layer, agree to the bit.

pub(super) mod convolve;
pub(super) mod linear;
pub(super) mod weight_gradient;

use super::engine::Kernels;
use super::window::Window;
use crate::tensor::Mask;

/// Share of retained weights below which a convolution is done sparsely.
/// Measured: `cargo bench --bench train`.
const CONVOLUTION_DENSITY: f64 = 0.4;

/// Share of retained weights below which a linear layer is done sparsely.
const LINEAR_DENSITY: f64 = 0.15;

/// Retained weights of one layer, and the orders in which its kernels read them.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// Row-major places of the retained weights, ascending.
    pub(super) positions: Vec<u32>,
    /// Elements of the whole tensor.
    pub(super) numel: usize,
    pub(super) kind: PatternKind,
}

/// The layer that a pattern belongs to.
#[derive(Clone, Debug)]
pub(super) enum PatternKind {
    Convolution {
        forward: convolve::Routes,
        backward: convolve::Routes,
    },
    Linear {
        forward: linear::Routes,
        backward: linear::Routes,
    },
}

impl Pattern {
    /// The pattern of a convolution's mask, if it is sparse enough. `inputs` and
    /// `outputs` are the maps that it reads and writes.
    pub(super) fn of_convolution(
        mask: &Mask,
        kernels: Kernels,
        window: Window,
        inputs: super::lanes::Layout,
        outputs: super::lanes::Layout,
    ) -> Option<Self> {
        let positions = positions(mask, kernels, CONVOLUTION_DENSITY)?;
        let n_taps = window.n_taps();
        let split = |position: u32| {
            let position = position as usize;
            let (channels, tap) = (position / n_taps, position % n_taps);
            (channels / inputs.channels, channels % inputs.channels, tap)
        };
        let places: Vec<_> = positions.iter().map(|&position| split(position)).collect();
        let turned: Vec<_> = places.iter().map(|&(o, i, tap)| (i, o, tap)).collect();
        let size = [inputs.plane.height, inputs.plane.width];
        let kind = PatternKind::Convolution {
            forward: convolve::Routes::new(&places, &window.forward(), inputs, outputs),
            backward: convolve::Routes::new(&turned, &window.backward(size), outputs, inputs),
        };
        Some(Self {
            positions,
            numel: mask.numel(),
            kind,
        })
    }

    /// The pattern of a linear layer's mask, if it is sparse enough.
    pub(super) fn of_linear(
        mask: &Mask,
        kernels: Kernels,
        n_inputs: usize,
        n_outputs: usize,
    ) -> Option<Self> {
        let positions = positions(mask, kernels, LINEAR_DENSITY)?;
        let places: Vec<_> = positions
            .iter()
            .map(|&position| (position as usize / n_inputs, position as usize % n_inputs))
            .collect();
        let turned: Vec<_> = places.iter().map(|&(o, i)| (i, o)).collect();
        let kind = PatternKind::Linear {
            forward: linear::Routes::new(&places, n_outputs, n_inputs),
            backward: linear::Routes::new(&turned, n_inputs, n_outputs),
        };
        Some(Self {
            positions,
            numel: mask.numel(),
            kind,
        })
    }

    /// The retained elements of a tensor.
    pub(super) fn compact(&self, values: &[f32]) -> Vec<f32> {
        let positions = self.positions.iter();
        positions
            .map(|&position| values[position as usize])
            .collect()
    }

    /// The whole tensor, `+0` where it is pruned.
    pub(super) fn expand(&self, compact: &[f32]) -> Vec<f32> {
        let mut values = vec![0.0; self.numel];
        for (&position, &value) in self.positions.iter().zip(compact) {
            values[position as usize] = value;
        }
        values
    }
}

/// Retained places, if they are few enough and can be counted in 32 bits.
fn positions(mask: &Mask, kernels: Kernels, density: f64) -> Option<Vec<u32>> {
    let is_sparse = match kernels {
        Kernels::ByDensity => (mask.retained() as f64) < density * mask.numel() as f64,
        Kernels::Dense => false,
        Kernels::Sparse => true,
    };
    let is_small = u32::try_from(mask.numel()).is_ok();
    (is_sparse && is_small).then(|| mask.positions().map(|position| position as u32).collect())
}
