use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::OpenOptions;
use crate::format::replace::Existing;
use crate::graph::Features;
use crate::graph::Role;
use crate::graph::models::ModelSpec;
use crate::graph::models::build;
use crate::tensor::Mask;
use crate::tensor::Stream;
use crate::train::Weights;
use crate::train::average::Running;
use crate::train::engine::OptimizerState;
use crate::train::record::tests::record;

/// A network with batch norm.
fn graph() -> Graph {
    let input = Features {
        channels: 1,
        height: 8,
        width: 8,
    };
    let mut spec = ModelSpec::new("convnet", input, 3);
    spec.options.insert("widths".to_owned(), "2,3".to_owned());
    build(&spec).unwrap()
}

/// A state of numbers that decimal digits could not keep.
fn state(graph: &Graph, n_slots: usize, n_averaged: u64) -> State {
    let mut stream = Stream::named(1, "test", "state");
    let mut weights = Weights::initial(graph, 5);
    let values = weights.values.clone();
    let is_learned = |idx: usize| graph.parameters[idx].role.is_learned();
    let mut slot = || -> Vec<Vec<f32>> {
        let values = values.iter().enumerate();
        values
            .map(|(idx, values)| {
                let numbers = values.iter().filter(|_| is_learned(idx));
                numbers.map(|_| stream.uniform() as f32).collect()
            })
            .collect()
    };
    let slots = (0..n_slots).map(|_| slot()).collect();
    for (parameter, count) in graph.parameters.iter().zip(&mut weights.counts) {
        if parameter.role == Role::BatchCount {
            *count = 7;
        }
    }
    weights.values[0][0] = -0.0;
    let averages = values.iter().map(|values| {
        let widened = values.iter().map(|&value| f64::from(value) / 3.0);
        widened.collect()
    });
    State {
        step: 13,
        tally: Loss {
            sum: 0.1 + 0.2,
            correct: 5,
            samples: 40,
        },
        weights,
        optimizer: OptimizerState { slots },
        average: Running {
            values: if n_averaged > 0 {
                averages.collect()
            } else {
                Vec::new()
            },
            count: n_averaged,
        },
    }
}

fn masks(graph: &Graph) -> Masks {
    let parameters = graph.parameters.iter();
    parameters
        .map(|parameter| {
            let numel = parameter.shape.numel() as usize;
            (parameter.name == "conv2.weight" || parameter.name == "fc.weight")
                .then(|| Mask::from_fn(numel, |idx| idx % 3 == 1))
        })
        .collect()
}

fn write(path: &Path, graph: &Graph, state: &State) {
    let target = Target::for_file(path, Existing::Replace).unwrap();
    let masks = masks(graph);
    write_state(
        graph,
        state,
        &masks,
        &record(),
        &target,
        Durability::Unsynced,
    )
    .unwrap();
}

fn read(path: &Path, graph: &Graph) -> Result<(State, Masks), StateError> {
    let file = Checkpoint::open(path, &OpenOptions::default()).unwrap();
    read_state(graph, &record(), 110, &file)
}

#[test]
fn states_are_files_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.state");
    let graph = graph();
    let masks = masks(&graph);
    assert_eq!(masks.iter().flatten().count(), 2);
    for (n_slots, n_averaged) in [(0, 0), (1, 0), (2, 3)] {
        let state = state(&graph, n_slots, n_averaged);
        write(&path, &graph, &state);
        let (found, found_masks) = read(&path, &graph).unwrap();
        assert_eq!(found, state);
        assert_eq!(found.weights.values[0][0].to_bits(), (-0.0_f32).to_bits());
        assert_eq!(found_masks, masks);
    }
}

/// The file with its tensors and metadata changed, by the safetensors crate.
fn change(
    path: &Path,
    keep: impl Fn(&str) -> bool,
    more: &[(&str, safetensors::Dtype, Vec<usize>, &[u8])],
    metadata: impl Fn(&mut std::collections::HashMap<String, String>),
) {
    let bytes = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut pairs = header.metadata().clone().unwrap_or_default();
    metadata(&mut pairs);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut views: BTreeMap<String, TensorView<'_>> = tensors
        .tensors()
        .into_iter()
        .filter(|(name, _)| keep(name))
        .collect();
    for (name, dtype, shape, bytes) in more {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        views.insert((*name).to_owned(), view);
    }
    let bytes = safetensors::serialize(views, Some(pairs)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn files_that_are_no_state_of_this_training_are_refused() {
    use safetensors::Dtype::BF16;
    use safetensors::Dtype::F32;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.state");
    let graph = graph();
    let state = state(&graph, 1, 1);
    let position = |field: &'static str, value: &'static str| {
        move |pairs: &mut std::collections::HashMap<String, String>| {
            let text = pairs.get_mut(STATE_KEY).unwrap();
            let mut object: serde_json::Value = serde_json::from_str(text).unwrap();
            object[field] = serde_json::from_str(value).unwrap();
            *text = object.to_string();
        }
    };
    let all = |_: &str| true;
    let none: &[(&str, safetensors::Dtype, Vec<usize>, &[u8])] = &[];
    let check = |mutate: &dyn Fn(&Path), expected: &str| {
        write(&path, &graph, &state);
        mutate(&path);
        let error = read(&path, &graph).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(
        &|path| change(path, all, none, |pairs| drop(pairs.remove(STATE_KEY))),
        "is not the state of a training",
    );
    check(
        &|path| {
            change(path, all, none, |pairs| {
                let text = pairs.get_mut(RECORD_KEY).unwrap();
                *text = text.replace("0.0005", "0.001");
            });
        },
        "is the state of another training: `recipe.weight_decay` is 0.001 there and 0.0005 here",
    );
    check(
        &|path| change(path, all, none, position("format_version", "2")),
        "has version 2, expected 1",
    );
    check(
        &|path| change(path, all, none, position("step", "-1")),
        "is malformed",
    );
    check(
        &|path| change(path, all, none, position("step", "111")),
        "is at step 111 of 110",
    );
    check(
        &|path| change(path, all, none, position("n_slots", "1000000000000")),
        "lacks tensor `optimizer.2.",
    );
    check(
        &|path| change(path, all, none, position("n_slots", "2")),
        "lacks tensor `optimizer.1.",
    );
    check(
        &|path| change(path, |name| name != "average.fc.bias", none, |_| ()),
        "lacks tensor `average.fc.bias`",
    );
    let extra = [("extra", F32, vec![1], &[0; 4][..])];
    check(
        &|path| change(path, all, &extra, |_| ()),
        "tensors, expected ",
    );
    let narrow = [("fc.bias", BF16, vec![3], &[0; 6][..])];
    check(
        &|path| change(path, all, &narrow, |_| ()),
        "tensor `fc.bias` of the state",
    );
    let short = [("optimizer.0.fc.bias", F32, vec![2], &[0; 8][..])];
    check(
        &|path| change(path, all, &short, |_| ()),
        "is F32 [2], expected F32 [3]",
    );
}
