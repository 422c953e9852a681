//! What the trainings of a plan would take: a plan walks in, a time walks out.
//!
//! A few steps are timed, with as many images as keep that below a second or two, and the
//! time of the rest follows from the multiply-adds of the graph. A network that is too
//! large for that is not computed at all: a small one is, in its place.

use std::time::Duration;
use std::time::Instant;

use sms_merge::cycle::plan::Plan;
use sms_merge::cycle::scene::Images;
use sms_merge::cycle::scene::Scene;
use sms_merge::cycle::work::TrainerWork;
use sms_merge::cycle::work::Work;
use sms_merge::graph::Features;
use sms_merge::graph::Graph;
use sms_merge::graph::models;
use sms_merge::graph::models::ModelSpec;
use sms_merge::train::Objective;
use sms_merge::train::Weights;
use sms_merge::train::engine::Engine;
use sms_merge::train::engine::StepSeed;
use sms_merge::train::memory::Need;
use sms_merge::train::memory::Task;
use sms_merge::train::memory::available_bytes;
use sms_merge::train::native::Native;
use sms_merge::train::trainer;

/// Steps that are timed; of a step that took long there is no second one.
const TIMED_STEPS: u64 = 3;
const LONG: Duration = Duration::from_millis(500);

/// Most multiply-adds of a forward pass that is timed, and most bytes that it may take.
const MOST_MULTIPLY_ADDS: u64 = 2_000_000_000;
const MOST_BYTES: u64 = 256 << 20;

/// Images that the engine computes together, whether or not there are as many.
const LANES: usize = 32;

/// What the network of a plan surely takes to be trained, where this program trains it on
/// the processor; `None` where it does not.
pub(super) fn need(scene: &Scene, plan: &Plan) -> Option<(Need, usize)> {
    let network = scene.network.as_ref()?;
    let trainings = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Train(train) => match &train.trainer {
            // What is pruned takes less.
            TrainerWork::Embedded { recipe, .. } if step.inputs.is_empty() => Some(recipe),
            _ => None,
        },
        _ => None,
    });
    let needs = trainings.map(|recipe| {
        let slots = recipe.optimizer.slots();
        let samples = recipe.batch_size;
        let need = Need::of(&network.graph, samples, Task::Train { slots });
        (need, samples)
    });
    needs.max_by_key(|(need, _)| need.bytes())
}

/// Time that the trainings take if all run one after the other with all cores; `None` where
/// the user's own trainer trains.
pub(super) fn time(scene: &Scene, plan: &Plan) -> anyhow::Result<Option<Duration>> {
    let (Some(network), Some(images)) = (&scene.network, &scene.images) else {
        return Ok(None);
    };
    let mut total = 0.0;
    let mut rate = None;
    for step in &plan.steps {
        let Work::Train(train) = &step.work else {
            continue;
        };
        let TrainerWork::Embedded { recipe, .. } = &train.trainer else {
            return Ok(None);
        };
        let batch_size = recipe.batch_size;
        let secs_per_image = match rate {
            Some(secs) => secs,
            None => *rate.insert(secs_per_image(&network.graph, images, batch_size)?),
        };
        let mut recipe = recipe.as_ref().clone();
        // Only lengths are asked for; what ALLR lost is not known.
        recipe.pace = sms_merge::train::recipe::Recipe::default().pace;
        recipe.average = sms_merge::train::recipe::Average::None;
        recipe.epochs = recipe.epochs.max(2);
        let steps = trainer::Plan::new(&images.dataset, &recipe)?.steps_per_epoch() * step.epochs;
        total += secs_per_image * batch_size as f64 * steps as f64;
    }
    // More seconds than a duration holds is never.
    Ok(Some(
        Duration::try_from_secs_f64(total).unwrap_or(Duration::MAX),
    ))
}

/// Seconds of a training step for each of its images.
fn secs_per_image(graph: &Graph, images: &Images, batch_size: usize) -> anyhow::Result<f64> {
    let costs = graph.multiply_adds().max(1);
    let batch_size = batch_size.min(images.dataset.train.len()).max(1);
    let most = usize::try_from(MOST_MULTIPLY_ADDS / costs).unwrap_or(usize::MAX);
    // As many images as the training has, or fewer whole tiles of the engine.
    let samples = match most {
        most if most >= batch_size => batch_size,
        most => most / LANES * LANES,
    };
    let need = Need::of(graph, samples.max(LANES), Task::Train { slots: 1 });
    let most_bytes = available_bytes().map_or(MOST_BYTES, |left| MOST_BYTES.min(left / 4));
    if samples > 0 && need.bytes() <= most_bytes {
        return Ok(time_step(graph, samples)? / samples as f64);
    }
    let digits = Features {
        channels: 1,
        height: 28,
        width: 28,
    };
    let spec = ModelSpec::new("lenet5", digits, 10);
    let small = models::build(&spec)?;
    let secs = time_step(&small, LANES)? / LANES as f64;
    Ok(secs / small.multiply_adds().max(1) as f64 * costs as f64)
}

/// Seconds of a training step. What the images show changes no time.
fn time_step(graph: &Graph, samples: usize) -> anyhow::Result<f64> {
    let weights = Weights::initial(graph, 0);
    let masks = vec![None; graph.parameters.len()];
    let threads = sms_merge::merge::default_threads();
    let mut engine = Native::new(graph.clone(), &weights, masks, threads)?;
    let pixels: Vec<f32> = (0..samples * graph.input().numel())
        .map(|idx| (idx % 7) as f32 - 3.0)
        .collect();
    let images = sms_merge::train::engine::Images {
        pixels: &pixels,
        samples,
    };
    let labels: Vec<u32> = (0..samples)
        .map(|idx| (idx % graph.classes()) as u32)
        .collect();
    let mut best = Duration::MAX;
    for step in 0..TIMED_STEPS {
        let started = Instant::now();
        let seed = StepSeed { seed: 0, step };
        engine.backpropagate(images, &labels, &Objective::default(), seed)?;
        best = best.min(started.elapsed());
        if started.elapsed() > LONG {
            break;
        }
    }
    Ok(best.as_secs_f64())
}
