//! Shapes, names and counts against what the literature and torch say.

use super::*;
use crate::graph::BuildError;

fn spec(name: &str) -> ModelSpec {
    let model = find(name).unwrap();
    ModelSpec::new(name, model.input, 10)
}

fn with(name: &str, options: &[(&str, &str)]) -> ModelSpec {
    let mut spec = spec(name);
    for (key, value) in options {
        spec.options.insert((*key).to_owned(), (*value).to_owned());
    }
    spec
}

#[test]
fn costs_are_the_published_ones() {
    let check = |spec: &ModelSpec, parameters: u64, multiply_adds: u64| {
        let graph = build(spec).unwrap();
        assert_eq!(graph.learned(), parameters, "{spec:?}");
        assert_eq!(graph.multiply_adds(), multiply_adds, "{spec:?}");
    };
    // LeCun et al., 1998, count 266,610 parameters of LeNet-300-100; without hidden
    // layers there is one weight per pixel and class.
    check(&spec("mlp"), 266_610, 266_200);
    check(&with("mlp", &[("hidden", "none")]), 7_850, 7_840);
    // 61,706 and 416,520: torch's tutorial network on 32x32.
    check(&spec("lenet5"), 61_706, 416_520);
    // He et al.: 0.27 M and 0.85 M; akamaster lists 269,722 and 853,018 for option A.
    check(&spec("resnet8"), 75_290, 12_239_488);
    check(&spec("resnet20"), 269_722, 40_551_040);
    check(&spec("resnet56"), 853_018, 125_485_696);
    // chenyaofo/pytorch-cifar-models: 40.81 M and 125.75 M with option B.
    check(&with("resnet20", &[("shortcut", "B")]), 272_474, 40_813_184);
    check(
        &with("resnet56", &[("shortcut", "B")]),
        855_770,
        125_747_840,
    );
    // kuangliu/pytorch-cifar lists 14,728,266.
    check(&spec("vgg16-bn"), 14_728_266, 313_201_664);
    // torchvision: 11,689,512 and 1.814 G.
    let input = IMAGENET;
    let resnet18 = ModelSpec::new("resnet18", input, 1000);
    check(&resnet18, 11_689_512, 1_814_073_344);
    // Zagoruyko and Komodakis, table 4: 26.8 M for WRN-22-10.
    let wide = build(&spec("wideresnet20")).unwrap().learned();
    assert_eq!(wide / 100_000, 268);
}

#[test]
fn sparse_costs_count_retained_weights_at_each_place() {
    let graph = build(&spec("lenet5")).unwrap();
    let mut retained: Vec<u64> = graph
        .parameters
        .iter()
        .map(|parameter| parameter.shape.numel())
        .collect();
    assert_eq!(graph.sparse_multiply_adds(&retained), graph.multiply_adds());
    // One weight of `conv1` is used at each of the 28x28 places, one of `fc1` once.
    retained[0] -= 1;
    retained[4] -= 1;
    assert_eq!(
        graph.multiply_adds() - graph.sparse_multiply_adds(&retained),
        28 * 28 + 1
    );
    assert_eq!(graph.sparse_multiply_adds(&[]), 0);
}

#[test]
fn names_are_those_of_torch() {
    let names = |spec: &ModelSpec| -> Vec<String> {
        let graph = build(spec).unwrap();
        graph
            .parameters
            .into_iter()
            .map(|parameter| parameter.name)
            .collect()
    };
    assert_eq!(
        names(&with("mlp", &[("hidden", "7")])),
        ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    );
    assert_eq!(
        names(&with("resnet8", &[("shortcut", "B")]))[18..30],
        [
            "layer2.0.conv1.weight",
            "layer2.0.bn1.weight",
            "layer2.0.bn1.bias",
            "layer2.0.bn1.running_mean",
            "layer2.0.bn1.running_var",
            "layer2.0.bn1.num_batches_tracked",
            "layer2.0.conv2.weight",
            "layer2.0.bn2.weight",
            "layer2.0.bn2.bias",
            "layer2.0.bn2.running_mean",
            "layer2.0.bn2.running_var",
            "layer2.0.bn2.num_batches_tracked",
        ]
    );
}

#[test]
fn every_model_takes_grey_and_colour_and_any_number_of_classes() {
    for model in MODELS {
        for channels in [1, 3] {
            for classes in [2, 10, 100] {
                let input = Features {
                    channels,
                    ..model.input
                };
                let graph = build(&ModelSpec::new(model.name, input, classes)).unwrap();
                assert_eq!(graph.input(), input, "{}", model.name);
                assert_eq!(graph.classes(), classes, "{}", model.name);
            }
        }
    }
}

#[test]
fn what_cannot_be_built_says_why() {
    let check = |spec: ModelSpec, expected: &str| {
        let error = build(&spec).unwrap_err();
        let text = match &error {
            ModelError::Build { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        assert!(text.contains(expected), "{text}");
    };
    let named = |name: &str| ModelSpec::new(name, GREY, 10);
    check(
        named("lenet-5"),
        "no model is called `lenet-5` (did you mean `lenet5`?)",
    );
    check(named("\u{1b}[31m"), "no model is called");
    check(
        with("mlp", &[("widths", "3")]),
        "`mlp` has no option `widths`; it has hidden",
    );
    check(with("mlp", &[("hiden", "3")]), "(did you mean `hidden`?)");
    check(with("lenet5", &[("hidden", "3")]), "it has no options");
    for value in ["", "0", "-1", "3,,4", "1e3", "99999999999999999999", "x"] {
        check(
            with("mlp", &[("hidden", value)]),
            "expected at most 64 whole numbers",
        );
    }
    check(with("resnet8", &[("shortcut", "C")]), "expected `A` or `B`");
    check(with("resnet8", &[("width", "1000000")]), "make it smaller");
    check(with("convnet", &[("widths", "none")]), "at least one");

    let digits = Features {
        height: 8,
        width: 8,
        ..GREY
    };
    check(
        ModelSpec::new("lenet5", digits, 10),
        "the window of `conv2` is 5x5",
    );
    check(ModelSpec::new("mlp", GREY, 1), "at least 2 numbers");
    check(
        ModelSpec::new("mlp", GREY, 0),
        "is 0; it must be at least 1",
    );
    let empty = Features {
        channels: 0,
        ..GREY
    };
    check(ModelSpec::new("mlp", empty, 10), "a size of input is 0");
    let huge = Features {
        channels: usize::MAX,
        height: usize::MAX,
        width: 3,
    };
    check(ModelSpec::new("convnet", huge, 10), "make it smaller");
}

#[test]
fn lenet_gives_small_images_a_border() {
    let map = |spec: &ModelSpec| {
        let graph = build(spec).unwrap();
        graph.nodes[6].output
    };
    let expected = Features {
        channels: 16,
        height: 5,
        width: 5,
    };
    assert_eq!(map(&spec("lenet5")), expected);
    assert_eq!(map(&ModelSpec::new("lenet5", COLOUR, 10)), expected);
}

#[test]
fn option_a_pads_on_both_sides() {
    let graph = build(&spec("resnet8")).unwrap();
    let pads: Vec<_> = graph
        .nodes
        .iter()
        .filter_map(|node| match node.op {
            crate::graph::Op::PadShortcut {
                stride,
                before,
                after,
            } => Some((stride, before, after, node.output)),
            _ => None,
        })
        .collect();
    let map = |channels, side| Features {
        channels,
        height: side,
        width: side,
    };
    assert_eq!(pads, [(2, 8, 8, map(32, 16)), (2, 16, 16, map(64, 8))]);
}

#[test]
fn errors_of_the_builder_name_the_layer() {
    let error = build(&ModelSpec::new("mlp", GREY, 1)).unwrap_err();
    let ModelError::Build { source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(
        *source,
        BuildError::Output {
            layer: "`fc3`".to_owned(),
            found: Features::vector(1)
        }
    );
}
