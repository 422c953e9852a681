//! Small networks that hold every operation, with odd sizes, strides and paddings.

use sms_merge::graph::BatchNorm;
use sms_merge::graph::Builder;
use sms_merge::graph::Conv2d;
use sms_merge::graph::Features;
use sms_merge::graph::Graph;
use sms_merge::graph::Linear;
use sms_merge::graph::NodeIdx;
use sms_merge::graph::Window;

/// Share of a new batch in the running statistics of all cases.
pub(crate) const MOMENTUM: f64 = 0.3;

/// A network and the sizes of batches that it is tried with.
pub(crate) struct Case {
    pub(crate) graph: Graph,
    pub(crate) samples: &'static [usize],
    /// Whether optimisers are tried on it; they do not know of operations.
    pub(crate) is_updated: bool,
}

/// Few samples, and a number that is a multiple of no vector.
const SAMPLES: &[usize] = &[3, 33];

fn features(channels: usize, height: usize, width: usize) -> Features {
    Features {
        channels,
        height,
        width,
    }
}

fn case(name: &str, input: Features, build: impl FnOnce(&mut Builder) -> NodeIdx) -> Case {
    let mut builder = Builder::new(name, input).unwrap();
    let last = build(&mut builder);
    let flat = builder.flatten(last).unwrap();
    builder.linear("head", flat, Linear::new(3)).unwrap();
    Case {
        graph: builder.finish().unwrap(),
        samples: SAMPLES,
        is_updated: false,
    }
}

/// A 1x1 convolution, so that gradients must pass through what follows.
fn stem(builder: &mut Builder, channels: usize) -> NodeIdx {
    let input = builder.input();
    builder
        .conv2d("stem", input, Conv2d::new(channels, 1))
        .unwrap()
}

fn convolution(
    name: &str,
    [height, width]: [usize; 2],
    (kernel, stride, padding): ([usize; 2], [usize; 2], [usize; 2]),
) -> Case {
    case(name, features(2, height, width), |builder| {
        let stem = stem(builder, 3);
        let layer = Conv2d {
            kernel,
            stride,
            padding,
            ..Conv2d::new(5, 1)
        };
        builder.conv2d("convolution", stem, layer).unwrap()
    })
}

fn max_pool(
    name: &str,
    [height, width]: [usize; 2],
    (kernel, stride, padding): ([usize; 2], [usize; 2], [usize; 2]),
) -> Case {
    case(name, features(2, height, width), |builder| {
        let stem = stem(builder, 3);
        let window = Window {
            kernel,
            stride,
            padding,
        };
        builder.max_pool(stem, window).unwrap()
    })
}

fn average_pool(
    name: &str,
    [height, width]: [usize; 2],
    (kernel, stride): ([usize; 2], [usize; 2]),
) -> Case {
    case(name, features(2, height, width), |builder| {
        let stem = stem(builder, 3);
        let window = Window {
            kernel,
            stride,
            padding: [0; 2],
        };
        builder.avg_pool(stem, window).unwrap()
    })
}

fn batch_norm() -> BatchNorm {
    BatchNorm {
        epsilon: 1e-3,
        momentum: MOMENTUM,
        ..BatchNorm::default()
    }
}

/// Every operation, on its own behind a 1x1 convolution, and some together.
pub(crate) fn all() -> Vec<Case> {
    let square = [[3; 2], [1; 2], [1; 2]];
    let mut cases = vec![
        convolution("conv 3x3", [6, 7], (square[0], square[1], square[2])),
        convolution("conv 5x5", [7, 6], ([5; 2], [1; 2], [0; 2])),
        convolution("conv stride 2", [7, 5], ([3; 2], [2; 2], [1; 2])),
        convolution("conv even stride 2", [6, 9], ([3; 2], [2; 2], [1; 2])),
        convolution("conv oblong", [5, 8], ([2, 3], [3, 2], [1, 2])),
        convolution("conv wide padding", [2, 3], ([3; 2], [2; 2], [2; 2])),
        convolution("conv 1x1 stride 2", [5, 6], ([1; 2], [2; 2], [0; 2])),
        convolution("conv of the whole map", [4, 1], ([4, 1], [1; 2], [0; 2])),
        max_pool("max-pool 2x2", [6, 4], ([2; 2], [2; 2], [0; 2])),
        max_pool("max-pool cuts an edge", [7, 5], ([2; 2], [2; 2], [0; 2])),
        max_pool("max-pool overlaps", [7, 6], ([3; 2], [2; 2], [1; 2])),
        max_pool("max-pool oblong", [5, 8], ([2, 4], [1, 3], [1, 2])),
        max_pool("max-pool skips", [7, 7], ([2; 2], [3; 2], [0; 2])),
        max_pool("max-pool of many", [18, 17], ([18, 17], [1; 2], [0; 2])),
        convolution("conv that skips far", [4, 4], ([3; 2], [9, 1], [1; 2])),
        average_pool("average-pool 2x2", [6, 4], ([2; 2], [2; 2])),
        average_pool("average-pool odd", [7, 5], ([2; 2], [2; 2])),
        average_pool("average-pool overlaps", [5, 6], ([3, 2], [1, 2])),
    ];
    cases.extend(single_pixels());
    cases.push(case("linear", features(11, 1, 1), |builder| {
        let input = builder.input();
        let hidden = builder.linear("hidden", input, Linear::new(13)).unwrap();
        builder.relu(hidden).unwrap()
    }));
    cases.push(case("linear without bias", features(1, 3, 3), |builder| {
        let input = builder.input();
        let flat = builder.flatten(input).unwrap();
        let layer = Linear {
            bias: None,
            ..Linear::new(7)
        };
        builder.linear("hidden", flat, layer).unwrap()
    }));
    cases.push(case("relu", features(2, 3, 5), |builder| {
        let stem = stem(builder, 4);
        builder.relu(stem).unwrap()
    }));
    cases.push(case("batch norm", features(2, 3, 5), |builder| {
        let stem = stem(builder, 4);
        builder.batch_norm("norm", stem, batch_norm()).unwrap()
    }));
    cases.push(Case {
        graph: vector_batch_norm(),
        samples: SAMPLES,
        is_updated: true,
    });
    cases.push(case("batch norm, relu", features(2, 5, 3), |builder| {
        let stem = stem(builder, 4);
        let norm = builder.batch_norm("norm", stem, batch_norm()).unwrap();
        builder.relu(norm).unwrap()
    }));
    cases.push(case("dropout", features(2, 3, 4), |builder| {
        let stem = stem(builder, 4);
        builder.dropout(stem, 0.4).unwrap()
    }));
    cases.push(case("global average", features(2, 5, 3), |builder| {
        let stem = stem(builder, 4);
        builder.global_avg_pool(stem).unwrap()
    }));
    cases.push(case("pad shortcut", features(2, 5, 6), |builder| {
        let stem = stem(builder, 3);
        builder.pad_shortcut(stem, 2, 1, 2).unwrap()
    }));
    cases.push(case("one node twice", features(2, 3, 3), |builder| {
        let stem = stem(builder, 3);
        let relu = builder.relu(stem).unwrap();
        let sum = builder.add(relu, stem).unwrap();
        builder.add(sum, sum).unwrap()
    }));
    cases.push(block());
    cases
}

/// A residual block that halves the map, as in ResNet.
fn block() -> Case {
    let convolution = |out_channels, kernel: usize, stride| Conv2d {
        stride: [stride; 2],
        padding: [kernel / 2; 2],
        bias: None,
        ..Conv2d::new(out_channels, kernel)
    };
    let mut case = case("residual block", features(3, 5, 7), |builder| {
        let input = builder.input();
        let first = builder.conv2d("0", input, convolution(3, 3, 1)).unwrap();
        let first = builder.batch_norm("1", first, batch_norm()).unwrap();
        let first = builder.relu(first).unwrap();
        let second = builder.conv2d("2", first, convolution(4, 3, 2)).unwrap();
        let second = builder.batch_norm("3", second, batch_norm()).unwrap();
        let short = builder.conv2d("4", first, convolution(4, 1, 2)).unwrap();
        let short = builder.batch_norm("5", short, batch_norm()).unwrap();
        let sum = builder.add(second, short).unwrap();
        let sum = builder.relu(sum).unwrap();
        builder.global_avg_pool(sum).unwrap()
    });
    case.samples = &[1, 5];
    case.is_updated = true;
    case
}

/// Maps of one pixel that no flatten follows: a convolution of the whole map before a
/// linear layer, a padded one between linear layers, and one that gives the logits.
fn single_pixels() -> Vec<Case> {
    let whole = |name: &str, build: &dyn Fn(&mut Builder, NodeIdx)| {
        let mut builder = Builder::new(name, features(1, 5, 4)).unwrap();
        let input = builder.input();
        let layer = Conv2d {
            kernel: [5, 4],
            ..Conv2d::new(6, 5)
        };
        let whole = builder.conv2d("whole", input, layer).unwrap();
        let whole = builder.relu(whole).unwrap();
        build(&mut builder, whole);
        Case {
            graph: builder.finish().unwrap(),
            samples: SAMPLES,
            is_updated: false,
        }
    };
    let padded = |outputs: usize| Conv2d {
        padding: [1, 1],
        ..Conv2d::new(outputs, 3)
    };
    vec![
        whole("conv before linear", &|builder, whole| {
            builder.linear("head", whole, Linear::new(3)).unwrap();
        }),
        whole("conv between linear", &|builder, whole| {
            let hidden = builder.linear("hidden", whole, Linear::new(5)).unwrap();
            let hidden = builder.conv2d("middle", hidden, padded(4)).unwrap();
            builder.linear("head", hidden, Linear::new(3)).unwrap();
        }),
        whole("conv as head", &|builder, whole| {
            builder.conv2d("head", whole, padded(3)).unwrap();
        }),
    ]
}

/// Batch norm of vectors: one value per channel and sample.
pub(crate) fn vector_batch_norm() -> Graph {
    let case = case("batch norm of vectors", features(4, 1, 1), |builder| {
        let input = builder.input();
        let hidden = builder.linear("hidden", input, Linear::new(6)).unwrap();
        builder.batch_norm("norm", hidden, batch_norm()).unwrap()
    });
    case.graph
}

/// One number, three hidden units with ReLU, two logits without bias.
pub(crate) fn relu_alone() -> Graph {
    let mut builder = Builder::new("relu", Features::vector(1)).unwrap();
    let input = builder.input();
    let hidden = builder.linear("hidden", input, Linear::new(3)).unwrap();
    let relu = builder.relu(hidden).unwrap();
    let head = Linear {
        bias: None,
        ..Linear::new(2)
    };
    builder.linear("head", relu, head).unwrap();
    builder.finish().unwrap()
}

/// Two maps of 2x2, added with weights, their maximum, two logits without bias.
pub(crate) fn pool_alone() -> Graph {
    let mut builder = Builder::new("pool", features(2, 2, 2)).unwrap();
    let input = builder.input();
    let layer = Conv2d {
        bias: None,
        ..Conv2d::new(1, 1)
    };
    let sum = builder.conv2d("sum", input, layer).unwrap();
    let pool = builder.max_pool(sum, Window::square(2)).unwrap();
    let head = Linear {
        bias: None,
        ..Linear::new(2)
    };
    builder.linear("head", pool, head).unwrap();
    builder.finish().unwrap()
}
