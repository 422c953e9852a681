//! The updates of [`Rule`] on the device: the same operations in the same order, each
//! rounded separately.

use candle_core::Tensor;

use crate::train::Rule;
use crate::train::engine::Update;

use super::CandleEngine;

impl CandleEngine {
    /// Changes all learned parameters by their gradients.
    pub(super) fn step(&mut self, update: &Update) -> candle_core::Result<()> {
        let n_slots = update.optimizer.slots();
        self.slots.resize(n_slots, vec![None; self.values.len()]);
        for parameter in 0..self.values.len() {
            if let Some(rule) = Rule::new(update, self.graph.parameters[parameter].role) {
                self.step_parameter(parameter, rule)?;
            }
        }
        Ok(())
    }

    fn step_parameter(&mut self, parameter: usize, rule: Rule) -> candle_core::Result<()> {
        let Some(variable) = self.values[parameter].clone() else {
            return Ok(());
        };
        let value = variable.as_detached_tensor();
        let or_zeros = |tensor: &Option<Tensor>| match tensor {
            Some(tensor) => Ok(tensor.clone()),
            None => value.zeros_like(),
        };
        let gradient = or_zeros(&self.gradients[parameter])?;
        let mut slots = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            slots.push(or_zeros(&slot[parameter])?);
        }
        let value = apply(rule, &value, &gradient, &mut slots)?;
        variable.set(&self.masked(parameter, value)?)?;
        for (slot, tensor) in slots.into_iter().enumerate() {
            self.slots[slot][parameter] = Some(self.masked(parameter, tensor)?);
        }
        Ok(())
    }
}

/// The new values of a tensor; its slots are changed.
fn apply(
    rule: Rule,
    value: &Tensor,
    gradient: &Tensor,
    slots: &mut [Tensor],
) -> candle_core::Result<Tensor> {
    match (rule, slots) {
        (
            Rule::Sgd {
                scale,
                decay,
                momentum,
                nesterov,
                rate,
            },
            [memory],
        ) => {
            let direction = (times(gradient, scale)? + times(value, decay)?)?;
            *memory = (times(memory, momentum)? + &direction)?;
            let direction = if nesterov {
                (direction + times(memory, momentum)?)?
            } else {
                memory.clone()
            };
            value - times(&direction, rate)?
        }
        (
            Rule::AdamW {
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
            let gradient = times(gradient, scale)?;
            *mean = (&*mean + times(&(&gradient - &*mean)?, first)?)?;
            let squares = (times(&gradient, second)? * &gradient)?;
            *square = (times(square, beta2)? + squares)?;
            let root = Tensor::full(root, value.dims(), value.device())?;
            let scaled = ((square.sqrt()? / root)? + f64::from(epsilon))?;
            times(value, kept)? - (times(mean, rate)? / scaled)?
        }
        (rule, slots) => candle_core::bail!("{} slots for {rule:?}", slots.len()),
    }
}

fn times(tensor: &Tensor, factor: f32) -> candle_core::Result<Tensor> {
    tensor.affine(f64::from(factor), 0.0)
}
