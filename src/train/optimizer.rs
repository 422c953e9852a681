//! The update of a weight, as scalar arithmetic: weights, gradients and the optimiser's
//! memory walk in and are changed.
//!
//! In `f32`, in torch's order of operations; multiplication and addition are rounded
//! separately, where torch fuses some of them. Elements do not know of each other, so
//! that threads may take any part of a tensor and no bit depends on the parts.

use crate::graph::Role;
use crate::tensor::zero_pruned;
use crate::train::engine::Decay;
use crate::train::engine::Optimizer;
use crate::train::engine::Update;

/// Elements that share a word of a mask.
const WORD: usize = 64;

impl Optimizer {
    /// Numbers that are remembered of each learned weight.
    pub fn slots(&self) -> usize {
        match self {
            Self::Sgd { .. } => 1,
            Self::AdamW { .. } => 2,
        }
    }
}

/// An [`Update`] for one tensor, its constants worked out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// `d = scale·g + decay·w`, `m = momentum·m + d`, then `w -= rate·m`, or
    /// `w -= rate·(d + momentum·m)` with Nesterov's momentum.
    ///
    /// Source: <https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html>.
    Sgd {
        /// Factor of the gradient.
        scale: f32,
        /// Factor of the weight that is added to the gradient.
        decay: f32,
        /// Share of the last direction.
        momentum: f32,
        /// Whether to look ahead along the momentum.
        nesterov: bool,
        /// Learning rate.
        rate: f32,
    },
    /// `w *= kept`, `m += first·(g - m)`, `v = beta2·v + second·g·g`, then
    /// `w -= rate·m / (√v / root + epsilon)`, of `g` times `scale`.
    ///
    /// Source: <https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html>.
    AdamW {
        /// Factor of the gradient.
        scale: f32,
        /// What decay leaves of a weight.
        kept: f32,
        /// 1 - beta1.
        first: f32,
        /// Share of the last second moment.
        beta2: f32,
        /// 1 - beta2.
        second: f32,
        /// Learning rate over the bias of the first moment.
        rate: f32,
        /// Root of the bias of the second moment.
        root: f32,
        /// Added to the root of the second moment.
        epsilon: f32,
    },
}

impl Rule {
    /// The rule for a tensor of the given role; `None` if gradients do not change it.
    pub fn new(update: &Update, role: Role) -> Option<Self> {
        if !role.is_learned() {
            return None;
        }
        let decays = match update.decay {
            Decay::All => true,
            Decay::Weights => role == Role::Weight,
        };
        let decay = if decays { update.weight_decay } else { 0.0 };
        let (scale, rate) = (update.gradient_scale as f32, update.learning_rate);
        Some(match update.optimizer {
            Optimizer::Sgd { momentum, nesterov } => Self::Sgd {
                scale,
                decay: decay as f32,
                momentum: momentum as f32,
                nesterov,
                rate: rate as f32,
            },
            Optimizer::AdamW {
                beta1,
                beta2,
                epsilon,
            } => {
                // The power of `libm` has the same bits on every machine.
                let steps = update.step as f64 + 1.0;
                let bias1 = 1.0 - libm::pow(beta1, steps);
                let bias2 = 1.0 - libm::pow(beta2, steps);
                Self::AdamW {
                    scale,
                    kept: (1.0 - rate * decay) as f32,
                    first: (1.0 - beta1) as f32,
                    beta2: beta2 as f32,
                    second: (1.0 - beta2) as f32,
                    rate: (rate / bias1) as f32,
                    root: libm::sqrt(bias2) as f32,
                    epsilon: epsilon as f32,
                }
            }
        })
    }

    /// Changes `values` and `slots` (the optimiser's memory, as many slices as
    /// [`Optimizer::slots`]) by `gradient`. All have the same length.
    ///
    /// `retained` are the words of a [`Mask`](crate::tensor::Mask), beginning at the
    /// first of `values`: what is pruned becomes `+0` in values and slots, whatever was
    /// there. A tensor may be cut at multiples of 64 elements.
    ///
    /// # Panics
    /// If a length or the number of slots is another.
    pub fn apply(
        &self,
        values: &mut [f32],
        gradient: &[f32],
        slots: &mut [&mut [f32]],
        retained: Option<&[u64]>,
    ) {
        if let Some(words) = retained {
            let expected = values.len().div_ceil(WORD);
            assert_eq!(words.len(), expected, "one bit per value");
        }
        for slot in slots.iter() {
            assert_eq!(slot.len(), values.len(), "one number per value");
        }
        assert_eq!(gradient.len(), values.len(), "one gradient per value");
        match (*self, &mut *slots) {
            (
                Self::Sgd {
                    scale,
                    decay,
                    momentum,
                    nesterov,
                    rate,
                },
                [memory],
            ) => {
                let elements = values.iter_mut().zip(gradient).zip(memory.iter_mut());
                for ((value, gradient), memory) in elements {
                    let direction = gradient * scale + decay * *value;
                    *memory = momentum * *memory + direction;
                    let ahead = direction + momentum * *memory;
                    *value -= rate * if nesterov { ahead } else { *memory };
                }
            }
            (
                Self::AdamW {
                    scale,
                    kept,
                    first,
                    beta2,
                    second,
                    rate,
                    root,
                    epsilon,
                },
                [mean, square],
            ) => {
                let memory = mean.iter_mut().zip(square.iter_mut());
                for ((value, gradient), (mean, square)) in
                    values.iter_mut().zip(gradient).zip(memory)
                {
                    let gradient = gradient * scale;
                    *mean += first * (gradient - *mean);
                    *square = beta2 * *square + second * gradient * gradient;
                    let scaled = square.sqrt() / root + epsilon;
                    *value = kept * *value - rate * *mean / scaled;
                }
            }
            (rule, slots) => panic!("{} slots for {rule:?}", slots.len()),
        }
        if let Some(words) = retained {
            zero_pruned(values, words);
            for slot in slots.iter_mut() {
                zero_pruned(slot, words);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::tensor::Mask;

    /// torch's own steps; `fixtures/optimizer/make.py` wrote them.
    const GOLDEN: &str = include_str!("../../fixtures/optimizer/golden.json");

    /// Largest difference from torch, relative to the largest number of a tensor: torch
    /// fuses multiplications with additions, so the last bits differ.
    const TOLERANCE: f32 = 1e-6;

    fn floats(bits: &Value) -> Vec<f32> {
        let bits = bits.as_array().unwrap().iter();
        bits.map(|bits| f32::from_bits(bits.as_u64().unwrap() as u32))
            .collect()
    }

    fn difference(found: &[f32], expected: &[f32]) -> f32 {
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let worst = found
            .iter()
            .zip(expected)
            .map(|(found, expected)| (found - expected).abs() / largest)
            .fold(0.0_f32, f32::max);
        assert!(found.iter().all(|value| value.is_finite()));
        worst
    }

    fn optimizer(case: &Value) -> Optimizer {
        let options = &case["options"];
        if case["optimizer"] == "sgd" {
            Optimizer::Sgd {
                momentum: options["momentum"].as_f64().unwrap_or(0.0),
                nesterov: options["nesterov"].as_bool().unwrap_or(false),
            }
        } else {
            Optimizer::AdamW {
                beta1: options["betas"][0].as_f64().unwrap_or(0.9),
                beta2: options["betas"][1].as_f64().unwrap_or(0.999),
                epsilon: options["eps"].as_f64().unwrap_or(1e-8),
            }
        }
    }

    fn assert_pruned(mask: &Mask, values: &[f32], what: &Value) {
        for (idx, value) in values.iter().enumerate() {
            let is_plus_zero = value.to_bits() == 0;
            assert!(mask.is_retained(idx) || is_plus_zero, "{idx} of {what}");
        }
    }

    /// Steps of the case, the tensor cut at `cut`; values after each step and the
    /// memory at the end.
    fn run(
        golden: &Value,
        case: &Value,
        mask: &Mask,
        cut: usize,
    ) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let optimizer = optimizer(case);
        let mut values = floats(&golden["start"]);
        let mut slots = vec![vec![0.0_f32; values.len()]; optimizer.slots()];
        let mut trajectory = Vec::new();
        mask.apply(&mut values);
        let rates = case["rates"].as_array().unwrap().iter();
        for (step, rate) in rates.enumerate() {
            let update = Update {
                optimizer,
                learning_rate: rate.as_f64().unwrap(),
                weight_decay: case["options"]["weight_decay"].as_f64().unwrap_or(0.0),
                decay: Decay::Weights,
                // The gradients are doubled, and halved again without rounding.
                gradient_scale: 0.5,
                step: step as u64,
            };
            let mut gradient = floats(&golden["gradients"][step]);
            for (idx, gradient) in gradient.iter_mut().enumerate() {
                *gradient *= 2.0;
                // What stands at a pruned place must not matter.
                if !mask.is_retained(idx) {
                    *gradient = [f32::NAN, f32::INFINITY, -1.0][idx % 3];
                }
            }
            let rule = Rule::new(&update, Role::Weight).unwrap();
            let mut begin = 0;
            for end in [cut, values.len()] {
                let words = &mask.words()[begin / WORD..end.div_ceil(WORD)];
                let mut parts: Vec<&mut [f32]> =
                    slots.iter_mut().map(|slot| &mut slot[begin..end]).collect();
                let (values, gradient) = (&mut values[begin..end], &gradient[begin..end]);
                rule.apply(values, gradient, &mut parts, Some(words));
                begin = end;
            }
            assert_pruned(mask, &values, case);
            slots
                .iter()
                .for_each(|slot| assert_pruned(mask, slot, case));
            trajectory.push(values.clone());
        }
        (trajectory, slots)
    }

    #[test]
    fn steps_are_those_of_torch() {
        let golden: Value = serde_json::from_str(GOLDEN).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 14);
        for case in cases {
            let bits = golden["mask"].as_array().unwrap();
            let is_masked = case["masked"] == true;
            let mask = Mask::from_fn(bits.len(), |idx| !is_masked || bits[idx] == 1);
            let (trajectory, slots) = run(&golden, case, &mask, WORD);
            for (values, expected) in trajectory.iter().zip(case["values"].as_array().unwrap()) {
                let worst = difference(values, &floats(expected));
                assert!(worst < TOLERANCE, "{worst} {}", case["options"]);
            }
            for (slot, expected) in slots.iter().zip(case["slots"].as_array().unwrap()) {
                let worst = difference(slot, &floats(expected));
                assert!(worst < TOLERANCE, "{worst} {}", case["options"]);
            }
            assert_eq!((trajectory, slots), run(&golden, case, &mask, 0));
        }
    }

    #[test]
    fn the_comparison_tells_one_rule_from_another() {
        let golden: Value = serde_json::from_str(GOLDEN).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        let mask = Mask::dense(golden["mask"].as_array().unwrap().len());
        let ends: Vec<Vec<f32>> = cases[..7]
            .iter()
            .map(|case| run(&golden, case, &mask, 0).0.pop().unwrap())
            .collect();
        for (first, a) in ends.iter().enumerate() {
            for b in &ends[..first] {
                assert!(difference(a, b) > 100.0 * TOLERANCE);
            }
        }
    }

    #[test]
    fn roles_decide_what_changes_and_what_decays() {
        let check = |decay, role, expected: Option<f32>| {
            let update = Update {
                optimizer: Optimizer::Sgd {
                    momentum: 0.0,
                    nesterov: false,
                },
                learning_rate: 0.5,
                weight_decay: 0.5,
                decay,
                gradient_scale: 1.0,
                step: 0,
            };
            let found = Rule::new(&update, role).map(|rule| {
                let mut value = [1.0];
                rule.apply(&mut value, &[0.0], &mut [&mut [0.0]], None);
                value[0]
            });
            assert_eq!(found, expected, "{decay:?} {role:?}");
        };
        check(Decay::All, Role::Weight, Some(0.75));
        check(Decay::All, Role::Bias, Some(0.75));
        check(Decay::All, Role::Shift, Some(0.75));
        check(Decay::All, Role::RunningMean, None);
        check(Decay::Weights, Role::Weight, Some(0.75));
        check(Decay::Weights, Role::Bias, Some(1.0));
        check(Decay::Weights, Role::Scale, Some(1.0));
        check(Decay::Weights, Role::BatchCount, None);
    }
}
