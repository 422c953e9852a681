//! What a network costs on images that it is not trained on.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::train::Loss;
use crate::train::Objective;
use crate::train::data::Assembler;
use crate::train::data::Batch;
use crate::train::engine::Engine;
use crate::train::engine::EngineError;

/// Loss (without smoothing) and accuracy on the images `indices`, never varied, in
/// batches of `batch_size`; `None` if `interrupted` was set.
///
/// # Errors
/// What the engine says.
pub fn measure(
    engine: &mut dyn Engine,
    assembler: &Assembler<'_>,
    indices: &[u32],
    batch_size: usize,
    interrupted: &AtomicBool,
) -> Result<Option<Loss>, EngineError> {
    let classes = engine.graph().classes();
    let objective = Objective::default();
    let mut batch = Batch::default();
    let mut total = Loss::default();
    for indices in indices.chunks(batch_size.max(1)) {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(None);
        }
        assembler.fill(indices, None, &mut batch);
        let logits = engine.predict(batch.images())?;
        let (loss, _) = objective.gradient(&logits, &batch.labels, classes);
        total.add(loss);
    }
    Ok(Some(total))
}
