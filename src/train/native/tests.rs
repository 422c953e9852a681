use super::Kernels;
use super::Native;
use crate::graph::Features;
use crate::graph::Graph;
use crate::graph::Role;
use crate::graph::models;
use crate::graph::models::ModelSpec;
use crate::tensor::Mask;
use crate::tensor::Stream;
use crate::train::Objective;
use crate::train::Weights;
use crate::train::engine::Decay;
use crate::train::engine::Engine;
use crate::train::engine::Images;
use crate::train::engine::Masks;
use crate::train::engine::Optimizer;
use crate::train::engine::StepSeed;
use crate::train::engine::Update;

fn graph(name: &str, channels: usize, side: usize) -> Graph {
    let input = Features {
        channels,
        height: side,
        width: side,
    };
    models::build(&ModelSpec::new(name, input, 10)).unwrap()
}

fn masks(graph: &Graph, density: f64) -> Masks {
    let mask = |numel: usize, name: &str| {
        let mut stream = Stream::named(5, "test", name);
        Mask::from_fn(numel, |_| stream.uniform() < density)
    };
    graph
        .parameters
        .iter()
        .map(|parameter| {
            let is_pruned = parameter.role == Role::Weight;
            is_pruned.then(|| mask(parameter.shape.numel() as usize, &parameter.name))
        })
        .collect()
}

/// Instruction sets of this machine.
fn archs() -> Vec<pulp::Arch> {
    let best = pulp::Arch::new();
    let mut archs = vec![best, pulp::Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    archs.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    archs
}

/// Losses and weights after three steps on 37 images.
fn train(
    graph: &Graph,
    arch: pulp::Arch,
    n_threads: usize,
    kernels: Kernels,
    density: f64,
) -> (Vec<u64>, Vec<Vec<u32>>) {
    let weights = Weights::initial(graph, 1);
    let masks = masks(graph, density);
    let mut engine =
        Native::with_kernels(graph.clone(), &weights, masks, n_threads, kernels).unwrap();
    engine.network.arch = arch;
    let mut stream = Stream::named(5, "test", "batch");
    let numel = 37 * graph.input().numel();
    let pixels: Vec<f32> = (0..numel)
        .map(|_| (stream.uniform() - 0.5) as f32)
        .collect();
    let labels: Vec<u32> = (0..37).map(|_| stream.below(10) as u32).collect();
    let images = Images {
        pixels: &pixels,
        samples: 37,
    };
    let losses = (0..3).map(|step| {
        let seed = StepSeed { seed: 1, step };
        let objective = Objective::default();
        let loss = engine
            .backpropagate(images, &labels, &objective, seed)
            .unwrap();
        let update = Update {
            optimizer: Optimizer::Sgd {
                momentum: 0.9,
                nesterov: true,
            },
            learning_rate: 0.05,
            weight_decay: 1e-3,
            decay: Decay::All,
            gradient_scale: 1.0,
            step,
        };
        engine.update(&update).unwrap();
        loss.sum.to_bits()
    });
    let losses = losses.collect();
    let bits = |values: &Vec<f32>| values.iter().map(|value| value.to_bits()).collect();
    let weights = engine.weights().unwrap();
    (losses, weights.values.iter().map(bits).collect())
}

#[test]
fn neither_threads_nor_instruction_set_change_a_bit() {
    let check = |graph: &Graph, kernels: Kernels, density: f64| {
        let expected = train(graph, pulp::Arch::new(), 1, kernels, density);
        assert_ne!(expected.0[0], expected.0[1], "training moves the loss");
        for arch in archs() {
            // Without instructions for it, a fused multiply-add is slow.
            let is_slow = matches!(arch, pulp::Arch::Scalar);
            let n_threads: &[usize] = if is_slow { &[2] } else { &[1, 2, 5] };
            for &n_threads in n_threads {
                let found = train(graph, arch, n_threads, kernels, density);
                assert!(
                    found == expected,
                    "{}, {arch:?}, {n_threads} threads, {kernels:?}",
                    graph.name
                );
            }
        }
    };
    check(&graph("lenet5", 1, 12), Kernels::Dense, 1.0);
    check(&graph("lenet5", 1, 12), Kernels::Sparse, 0.2);
    check(&graph("resnet8", 3, 4), Kernels::Dense, 1.0);
    check(&graph("resnet8", 3, 4), Kernels::Sparse, 0.2);
}

#[test]
fn sparse_convolutions_give_the_bits_of_dense_ones() {
    // The head is the only linear layer, and nothing depends on its gradient before the
    // first update.
    let graph = graph("resnet8", 3, 8);
    let head = graph
        .parameters
        .iter()
        .position(|parameter| parameter.shape.rank() == 2);
    let check = |density: f64| {
        let gradients = |kernels: Kernels| {
            let weights = Weights::initial(&graph, 1);
            let masks = masks(&graph, density);
            let mut engine =
                Native::with_kernels(graph.clone(), &weights, masks, 2, kernels).unwrap();
            let pixels: Vec<f32> = (0..33 * 192).map(|idx| (idx % 7) as f32 - 3.0).collect();
            let images = Images {
                pixels: &pixels,
                samples: 33,
            };
            let seed = StepSeed { seed: 1, step: 0 };
            let loss = engine
                .backpropagate(images, &[3; 33], &Objective::default(), seed)
                .unwrap();
            let mut gradients = engine.gradients().unwrap();
            gradients.remove(head.unwrap());
            (loss.sum.to_bits(), gradients)
        };
        let (dense, sparse) = (gradients(Kernels::Dense), gradients(Kernels::Sparse));
        assert_eq!(dense.0, sparse.0);
        assert_eq!(dense.1, sparse.1);
    };
    check(0.05);
    check(0.5);
    check(1.0);
}
