//! Round trips, and what is refused.

use super::*;
use crate::graph::BuildError;
use crate::graph::Builder;
use crate::graph::Initialiser;
use crate::graph::Start;
use crate::graph::models;
use crate::graph::models::ModelSpec;

const SMALL: &str = r#"
name = "small"
input = "1x8x8"
classes = 3

[[layers]]
op = "conv2d"
name = "conv1"
channels = 4
kernel = 3
padding = 1

[[layers]]
op = "relu"
name = "first"

[[layers]]
op = "conv2d"
name = "conv2"
channels = 4
kernel = [3, 1]
padding = [1, 0]
bias = false

[[layers]]
op = "add"
name = "sum"
input = ["conv2", "first"]

[[layers]]
op = "global-avg-pool"

[[layers]]
op = "linear"
name = "fc"
features = "classes"
"#;

fn graph(text: &str) -> Result<Graph, DescriptionError> {
    Description::parse(text, Syntax::Toml)?.build(None, None)
}

fn small() -> Graph {
    graph(SMALL).unwrap()
}

fn check_round_trip(graph: &Graph) {
    let description = Description::of(graph);
    for syntax in [Syntax::Toml, Syntax::Json] {
        let text = description.to_text(syntax);
        let read =
            Description::parse(&text, syntax).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(read, description, "{text}");
        assert_eq!(read.build(None, None).unwrap(), *graph, "{text}");
    }
    let line = serde_json::to_string(&description).unwrap();
    assert!(!line.contains('\n'));
    assert_eq!(
        Description::parse(&line, Syntax::Json).unwrap(),
        description
    );
}

#[test]
fn built_in_models_survive_the_way_there_and_back() {
    for model in models::MODELS {
        let spec = ModelSpec::new(model.name, model.input, 10);
        check_round_trip(&models::build(&spec).unwrap());
        for option in model.options {
            let other = match option.name {
                "shortcut" => "B",
                "stem" => "cifar",
                "dropout" => "0",
                _ => "5",
            };
            let mut spec = spec.clone();
            spec.options
                .insert(option.name.to_owned(), other.to_owned());
            check_round_trip(&models::build(&spec).unwrap());
        }
    }
}

#[test]
fn what_no_default_is_survives_too() {
    let input = Features {
        channels: 2,
        height: 12,
        width: 10,
    };
    let mut builder = Builder::new("odd \"name\"\n", input).unwrap();
    let layer = Conv2d {
        out_channels: 3,
        kernel: [3, 2],
        stride: [2, 1],
        padding: [1, 0],
        weight: Start::Exactly(Initialiser::Normal { deviation: 0.01 }),
        bias: Some(Start::Exactly(Initialiser::Constant(0.0))),
    };
    let mut node = builder.conv2d("relu3", 0, layer).unwrap();
    let norm = BatchNorm {
        epsilon: 1e-3,
        momentum: 1.0,
        weight: Initialiser::Uniform { bound: 0.5 },
        bias: Initialiser::Constant(-1.0),
    };
    node = builder.batch_norm("norm", node, norm).unwrap();
    let past = builder.relu(node).unwrap();
    let left = builder.pad_shortcut(past, 1, 1, 2).unwrap();
    let right = builder.pad_shortcut(past, 1, 2, 1).unwrap();
    node = builder.add(right, left).unwrap();
    let window = Window {
        kernel: [2, 3],
        stride: [1, 2],
        padding: [1, 0],
    };
    node = builder.max_pool(node, window).unwrap();
    let window = Window {
        padding: [0; 2],
        ..window
    };
    node = builder.avg_pool(node, window).unwrap();
    node = builder.flatten(node).unwrap();
    node = builder.dropout(node, 0.25).unwrap();
    let head = Linear {
        out_features: 7,
        weight: Start::HeFanOut,
        bias: None,
    };
    builder.linear("head", node, head).unwrap();
    check_round_trip(&builder.finish().unwrap());
}

#[test]
fn a_description_gives_the_graph_that_it_says() {
    let graph = small();
    let names: Vec<&str> = graph
        .parameters
        .iter()
        .map(|parameter| parameter.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "conv1.weight",
            "conv1.bias",
            "conv2.weight",
            "fc.weight",
            "fc.bias"
        ]
    );
    assert_eq!(graph.parameters[2].shape.dims(), [4, 4, 3, 1]);
    assert_eq!(graph.nodes[4].inputs, [3, 2]);
    assert_eq!((graph.name.as_str(), graph.classes()), ("small", 3));
    assert_eq!(
        graph.parameters[2].initialiser,
        Initialiser::Uniform {
            bound: 1.0 / 12_f64.sqrt()
        }
    );
}

#[test]
fn input_and_classes_can_be_others() {
    let description = Description::parse(SMALL, Syntax::Toml).unwrap();
    let input = "3x9x5".parse().unwrap();
    let graph = description.build(Some(input), Some(7)).unwrap();
    assert_eq!((graph.input(), graph.classes()), (input, 7));

    let without = SMALL
        .replace("input = \"1x8x8\"", "")
        .replace("classes = 3", "");
    let check = |input, classes, expected: &str| {
        let description = Description::parse(&without, Syntax::Toml).unwrap();
        let error = description.build(input, classes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(None, Some(3), "does not say its `input`");
    check(Some(input), None, "does not say its `classes`");
    let fixed = SMALL.replace("features = \"classes\"", "features = 3");
    let description = Description::parse(&fixed, Syntax::Toml).unwrap();
    let error = description.build(None, Some(4)).unwrap_err();
    assert!(
        matches!(
            error,
            DescriptionError::Classes {
                expected: 4,
                found: 3
            }
        ),
        "{error}"
    );
}

/// The whole chain of an error, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[test]
fn what_is_wrong_is_named() {
    let check = |from: &str, to: &str, expected: &str| {
        assert!(SMALL.contains(from), "{from}");
        let error = graph(&SMALL.replacen(from, to, 1)).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(expected), "{text}");
    };
    check("name = \"small\"", "", "the description lacks `name`");
    check(
        "name = \"small\"",
        "name = 3",
        "`name` of the description is 3; expected a text",
    );
    check(
        "classes = 3",
        "clases = 3",
        "the description has no key `clases` (did you mean `classes`?); expected one of name,",
    );
    check("1x8x8", "8x8", "`input` of the description is \"8x8\"");
    check(
        "padding = 1",
        "pading = 1",
        "layer `conv1` has no key `pading` (did you mean `padding`?)",
    );
    check("kernel = 3", "", "layer `conv1` lacks `kernel`");
    check(
        "kernel = 3",
        "kernel = 0",
        "the kernel of layer `conv1` is 0",
    );
    check(
        "kernel = 3",
        "kernel = -3",
        "`kernel` of layer `conv1` is -3",
    );
    check(
        "kernel = 3",
        "kernel = [3]",
        "is a list of 1; expected a whole number or a list of two",
    );
    check(
        "kernel = 3",
        "kernel = 11",
        "the window of layer `conv1` is 11x11",
    );
    check(
        "channels = 4",
        "channels = \"many\"",
        "is \"many\"; expected a whole number or \"classes\"",
    );
    check(
        "channels = 4",
        "channels = 9223372036854775807",
        "make it smaller",
    );
    check(
        "op = \"relu\"",
        "op = \"rely\"",
        "layer `first` has the unknown op `rely` (did you mean `relu`?)",
    );
    check(
        "op = \"relu\"",
        "op = \"linear\"\nfeatures = 4",
        "layer `first` takes a vector, found 4x8x8",
    );
    check("name = \"conv1\"", "", "layer 1 (conv2d) lacks `name`");
    check(
        "name = \"conv1\"",
        "name = \"conv 1\"",
        "\"conv 1\" is no name of a layer",
    );
    check(
        "name = \"conv1\"",
        "name = \"conv2\"",
        "two layers are called `conv2`",
    );
    check(
        "name = \"conv1\"",
        "name = \"input\"",
        "two layers are called `input`",
    );
    check(
        "\"conv2\", \"first\"",
        "\"conv2\", \"frist\"",
        "no layer is called so (did you mean `first`?)",
    );
    check(
        "\"conv2\", \"first\"",
        "\"conv2\"",
        "layer `sum` takes 2 inputs, found 1",
    );
    check(
        "\"conv2\", \"first\"",
        "\"conv2\", \"input\"",
        "takes two inputs of one shape, found 4x8x8 and 1x8x8",
    );
    check(
        "\"conv2\", \"first\"",
        "\"conv2\", \"fc\"",
        "each other's output: sum -> fc -> layer 5 -> sum",
    );
    check(
        "\"conv2\", \"first\"",
        "\"sum\", \"first\"",
        "each other's output: sum -> sum",
    );
    check(
        "op = \"global-avg-pool\"",
        "op = \"relu\"\nname = \"lost\"\n[[layers]]\nop = \"global-avg-pool\"\ninput = \"sum\"",
        "nothing takes the output of layer `lost`",
    );
    check(
        "op = \"global-avg-pool\"",
        "op = \"relu\"",
        "layer `fc` takes a vector",
    );
    check(
        "bias = false",
        "bias = \"zero\"",
        "`bias` of layer `conv2` is \"zero\"",
    );
    check(
        "bias = false",
        "init = { normal = 1, uniform = 2 }",
        "`init` of layer `conv2` is a table",
    );
    check("bias = false", "init = nan", "`init` of layer `conv2`");
    check(
        "bias = false",
        "bias = 1979-05-27",
        "`bias` of layer `conv2`",
    );
    check("bias = false", "stride = 2\nstride = 2", "not valid TOML");
    check(
        "name = \"sum\"\ninput",
        "name = \"sum\"\ninputs",
        "layer `sum` has no key `inputs` (did you mean `input`?)",
    );
}

#[test]
fn a_layer_behind_is_no_cycle() {
    let text = r#"
        name = "order"
        input = "4"
        [[layers]]
        op = "relu"
        name = "a"
        input = "c"
        [[layers]]
        op = "relu"
        name = "b"
        input = "a"
        [[layers]]
        op = "relu"
        name = "c"
        input = "input"
    "#;
    let error = graph(text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer `a` takes the output of `c`, which stands behind it; swap them"
    );
}

#[test]
fn texts_that_are_no_description_are_refused() {
    let check = |text: &str, syntax, expected: &str| {
        let error = Description::parse(text, syntax).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(expected), "{text}");
    };
    check("name =", Syntax::Toml, "not valid TOML");
    check("{", Syntax::Json, "not valid JSON");
    check("[1]", Syntax::Json, "expected a table with `name`");
    check("null", Syntax::Json, "not valid JSON");
    check(
        r#"{"name": "a", "name": "b"}"#,
        Syntax::Json,
        "key \"name\" appears twice",
    );
    check(
        r#"{"name": "a", "layers": []}"#,
        Syntax::Json,
        "expected a list of layers",
    );
    check(
        r#"{"name": "a", "layers": [3]}"#,
        Syntax::Json,
        "is 3 at place 1",
    );
    check(
        r#"{"name": 18446744073709551615}"#,
        Syntax::Json,
        "passes 2^63",
    );
    check(&"[".repeat(100_000), Syntax::Json, "recursion");
    check(
        &format!("a = {}", "[".repeat(100_000)),
        Syntax::Toml,
        "TOML",
    );
    check("", Syntax::Toml, "lacks `name`");
}

#[test]
fn errors_of_the_builder_keep_the_name_of_the_layer() {
    let error =
        graph(&SMALL.replace("op = \"relu\"", "op = \"dropout\"\nprobability = 1")).unwrap_err();
    let DescriptionError::Build { source } = error else {
        panic!("{error}");
    };
    assert!(
        matches!(&source, BuildError::Range { layer, .. } if layer == "layer `first`"),
        "{source}"
    );
}
