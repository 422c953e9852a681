//! What a cycle says when something is wrong: the keys of a recipe, and no option that
//! `sms-merge cycle` lacks.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::bench::Bench;
use crate::bench::SMALL;
use crate::trainer::TRAIN;
use crate::trainer::recipe;
use crate::trainer::script;

/// Words that begin with `--`, but for those of whole command lines in backticks.
fn options(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        for (idx, part) in line.split('`').enumerate() {
            if idx % 2 == 1 && !part.starts_with("--") {
                continue;
            }
            for word in part.split(|c: char| c.is_whitespace() || c == '=' || c == ',') {
                let word = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
                if word.len() > 2 && word.starts_with("--") {
                    found.insert(word.to_owned());
                }
            }
        }
    }
    found
}

/// Runs a cycle that must fail, and returns what it said.
#[track_caller]
fn refused(bench: &Bench, words: &[&str]) -> String {
    let mut command = bench.command(&[&["cycle", "r.toml"], words].concat());
    command.env("SMS_MERGE", env!("CARGO_BIN_EXE_sms-merge"));
    let output = command.output().unwrap();
    let parts = [output.stdout, output.stderr].map(|part| String::from_utf8(part).unwrap());
    let text = parts.concat();
    assert!(!output.status.success(), "{words:?} {text}");

    let help = bench.run(&["cycle", "--help"], 0);
    let own = options(&String::from_utf8(help.stdout).unwrap().replace('`', ""));
    assert!(
        own.contains("--run-dir") && !own.contains("--key"),
        "{own:?}"
    );
    let named = options(&text);
    let lacking: Vec<&String> = named.difference(&own).collect();
    assert!(lacking.is_empty(), "{words:?} {lacking:?}\n{text}");
    text
}

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

#[test]
fn a_checkpoint_to_begin_with_is_spoken_of_in_the_recipes_words() {
    let bench = Bench::new();
    let linear = "schedule = \"linear\"\nlearning_rate = 0.05";
    bench.recipe("r.toml", &SMALL.replace("schedule = \"llr\"", linear));
    let check = |path: &Path, expected: &[&str]| {
        let checkpoint = format!("pretraining.checkpoint={:?}", path.display().to_string());
        let text = refused(&bench, &["--set", &checkpoint]);
        for expected in expected {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    };
    let export = "`sms-merge export FILE --layout dense --key KEY --strip-prefix PREFIX -o net.st`";
    check(&fixtures("torch/wrapped_net.pt"), &["`net`", export]);
    check(&fixtures("torch/parallel.pt"), &["`module."]);
    // A header that passes the limit.
    let long = bench.at("long.st");
    fs::write(&long, 90_000_000_u64.to_le_bytes()).unwrap();
    let file = fs::File::options().write(true).open(&long).unwrap();
    file.set_len(100_000_000).unwrap();
    check(
        &long,
        &["`sms-merge export FILE --layout dense --max-header-bytes BYTES"],
    );
    // Whatever else can be wrong with a file.
    for name in ["malformed", "torch/hostile"] {
        let mut files: Vec<PathBuf> = fs::read_dir(fixtures(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        assert!(files.len() > 5);
        files.iter().for_each(|path| check(path, &[]));
    }
}

#[test]
fn what_a_recipe_leaves_open_is_asked_for_by_its_keys() {
    let bench = Bench::new();
    let text = SMALL
        .replace("name = \"mlp\"", "")
        .replace("name = \"digits\"", "");
    let text = text.replace("options = { hidden = \"16\" }", "");
    bench.recipe("r.toml", &text);
    let bytes = fs::read(fixtures("torch/model.st")).unwrap();
    fs::write(bench.at("foreign.st"), bytes).unwrap();
    let check = |words: &[&str], expected: &[&str]| {
        let text = refused(&bench, words);
        for expected in expected {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert!(!bench.at("sms-run").exists());
    };
    let foreign = ["--set", "pretraining.checkpoint=\"foreign.st\""];
    let both = "set `model.name` and `data.name`";
    check(&foreign, &["`foreign.st` does not say which network", both]);
    let named = [&foreign[..], &["--set", "model.name=\"mlp\""]].concat();
    check(
        &named,
        &["does not say which images it knows: set `data.name`"],
    );
    let trainer = ["--set", "trainer.command=\"true\""];
    let own = "the checkpoints of `trainer.command` do not say";
    check(&trainer, &[own, both, "`evaluation.command`"]);

    check(
        &["--set", "data.name=\"mnist\""],
        &["name it with `data.directory`"],
    );
    let unused = [
        "--set",
        "data.name=\"digits\"",
        "--set",
        "data.directory=\"x\"",
    ];
    check(&unused, &["leave `data.directory` out"]);
}

#[test]
fn patterns_and_weights_are_those_of_the_recipe() {
    let bench = Bench::new();
    bench.recipe("r.toml", SMALL);
    refused(&bench, &["--set", "pruning.exclude=[\"conv*\"]"]);
    refused(&bench, &["--set", "pruning.include=[\"conv*\"]"]);
    refused(&bench, &["--set", "pruning.exclude=[\"*\"]"]);
    refused(
        &bench,
        &[
            "--set",
            "pruning.pattern=\"7:8\"",
            "--set",
            "pruning.include=[\"*\"]",
        ],
    );
    let weights = ["--set", "merge.weights=[1.0,-1.0]"];
    let weighted = ["--set", "merge.method=\"weighted\""];
    refused(&bench, &[&weighted[..], &weights].concat());
    refused(&bench, &["--run-dir", "r.toml"]);
    fs::create_dir(bench.at("mine")).unwrap();
    fs::write(bench.at("mine/photo.jpg"), "x").unwrap();
    refused(&bench, &["--run-dir", "mine"]);
}

/// The tensors of a checkpoint, each with its type, shape and bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Writes `from` again as `change` makes it.
fn changed(from: &Path, to: &Path, change: &dyn Fn(&mut Tensors)) {
    let bytes = fs::read(from).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = file
        .iter()
        .map(|(name, tensor)| {
            let parts = (
                tensor.dtype(),
                tensor.shape().to_vec(),
                tensor.data().to_vec(),
            );
            (name.to_owned(), parts)
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, to).unwrap();
}

#[test]
fn what_a_trainer_wrote_is_spoken_of_in_the_recipes_words() {
    let bench = Bench::new();
    let words = [
        "train",
        "-q",
        "--model",
        "mlp",
        "--model-option",
        "hidden=16",
    ];
    let short = ["--limit-train", "64", "--epochs", "1", "-o", "net.st"];
    bench.run(&[&words[..], &short].concat(), 0);

    let check = |name: &str, change: &dyn Fn(&mut Tensors), expected: &[&str]| {
        changed(&bench.at("net.st"), &bench.at("wrong.st"), change);
        let copy =
            "if [ -n \"$SMS_MERGE_BASE\" ]; then cp wrong.st \"$SMS_MERGE_OUTPUT\"; exit 0; fi\n";
        let text = TRAIN.replace("set -e\n", &format!("set -e\n{copy}"));
        let train = script(&bench, "train.sh", &text);
        recipe(&bench, &train, "[run]\nretries = 0");
        let text = refused(&bench, &["--run-dir", name]);
        for expected in expected {
            assert!(text.contains(expected), "{name}: {expected}: {text}");
        }
        // A job by hand says the same, and so does an object for programs.
        let object = refused(&bench, &["--run-dir", name, "--json"]);
        assert!(object.contains("\"failures\""), "{object}");
        let jobs = fs::read_dir(bench.at(name).join("jobs")).unwrap();
        for job in jobs.map(|job| job.unwrap().path()) {
            if job.join("failure.json").exists() {
                let mut command = bench.command(&["job", "run", job.to_str().unwrap()]);
                let output = command.env("SMS_MERGE", "false").output().unwrap();
                let text = String::from_utf8(output.stderr).unwrap();
                let own = ["--run-dir".to_owned()];
                let named = options(&text);
                assert!(named.iter().all(|name| own.contains(name)), "{text}");
            }
        }
    };

    let base = "a trainer writes the tensors of its `base`";
    check(
        "missing",
        &|all| drop(all.remove("fc2.bias")),
        &["`fc2.bias`", base],
    );
    check(
        "more",
        &|all| {
            let bias = all["fc2.bias"].clone();
            all.insert("head.bias".to_owned(), bias);
        },
        &["`head.bias`", base],
    );
    check(
        "prefix",
        &|all| {
            *all = std::mem::take(all)
                .into_iter()
                .map(|(name, parts)| (format!("module.{name}"), parts))
                .collect();
        },
        &["`module.`"],
    );
    check(
        "type",
        &|all| {
            for (dtype, _, bytes) in all.values_mut() {
                *dtype = Dtype::F16;
                bytes.truncate(bytes.len() / 2);
            }
        },
        &[base],
    );
    check(
        "shape",
        &|all| {
            let bias = all.get_mut("fc2.bias").unwrap();
            bias.1[0] -= 1;
            bias.2.truncate(bias.2.len() - 4);
        },
        &["`fc2.bias`"],
    );
    check(
        "nan",
        &|all| {
            let bias = all.get_mut("fc2.bias").unwrap();
            bias.2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        },
        &["NaN"],
    );
    // All weights: no mask was kept.
    check(
        "mask",
        &|_| (),
        &["the trainer revived pruned weights", "trainer.on_unmasked"],
    );
}
