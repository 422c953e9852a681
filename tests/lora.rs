//! Soups of adapters, and adapters added to pruned networks, against what peft makes of
//! them (`fixtures/lora/`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use half::bf16;
use half::f16;
use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

/// Modules of the adapters `a` and `b`.
const MODULES: [&str; 5] = ["emb", "block.q", "block.k", "conv", "point"];

struct Bench(TempDir);

/// A tensor in `f64`.
#[derive(Clone, Debug, PartialEq)]
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

type Arrays = BTreeMap<String, Array>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/lora")
        .join(name)
}

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program; words that begin with `:` are fixtures.
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        for word in words {
            match word.strip_prefix(':') {
                Some(name) => command.arg(fixture(name)),
                None => command.arg(word),
            };
        }
        command.current_dir(self.0.path()).output().unwrap()
    }

    #[track_caller]
    fn expect(&self, words: &[&str], exit: i32) -> String {
        let output = self.run(words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{words:?} {text}");
        text
    }

    #[track_caller]
    fn json(&self, words: &[&str], exit: i32) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{words:?} {text}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Copies an adapter of the fixtures, and changes its tensors and configuration.
    fn copy(
        &self,
        from: &str,
        to: &str,
        change: impl FnOnce(&mut Arrays),
        said: impl FnOnce(&mut Value),
    ) {
        fs::create_dir(self.at(to)).unwrap();
        let mut arrays = read(&weights_of(&fixture(from)));
        change(&mut arrays);
        write(&self.at(to).join("adapter_model.safetensors"), &arrays);
        let text = fs::read_to_string(fixture(from).join("adapter_config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        said(&mut config);
        fs::write(self.at(to).join("adapter_config.json"), config.to_string()).unwrap();
    }

    /// Products of an adapter that peft would load, by module.
    fn products(&self, name: &str) -> Arrays {
        products(&self.at(name))
    }
}

/// The only file of weights in a directory.
fn weights_of(directory: &Path) -> PathBuf {
    let entries = fs::read_dir(directory).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|end| end == "safetensors");
    paths.find(is_weights).expect("a file of weights")
}

fn read(path: &Path) -> Arrays {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let array = |view: &TensorView<'_>| {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F64 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| f64::from_le_bytes(*b))
                .collect(),
            Dtype::F32 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| f64::from(f32::from_le_bytes(*b)))
                .collect(),
            Dtype::BF16 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| bf16::from_le_bytes(*b).to_f64())
                .collect(),
            Dtype::F16 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| f16::from_le_bytes(*b).to_f64())
                .collect(),
            Dtype::BOOL | Dtype::U8 => data.iter().map(|&b| f64::from(b)).collect(),
            other => panic!("{other:?}"),
        };
        Array {
            shape: view.shape().to_vec(),
            values,
        }
    };
    let all = tensors.iter();
    all.map(|(name, view)| (name.to_owned(), array(&view)))
        .collect()
}

/// Writes arrays in F32.
fn write(path: &Path, arrays: &Arrays) {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = arrays
        .iter()
        .map(|(name, array)| {
            let values = array.values.iter().map(|&value| value as f32);
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            (name.clone(), array.shape.clone(), bytes)
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn expected() -> Arrays {
    read(&fixture("expected.st"))
}

/// What peft computes of an adapter: `alpha / rank * B A`, in the shape of the weight.
fn products(directory: &Path) -> Arrays {
    let text = fs::read_to_string(directory.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let arrays = read(&weights_of(directory));
    let mut out = Arrays::new();
    for (name, down) in &arrays {
        let (module, up, is_embedding) = match name.split_once(".lora_") {
            Some((module, "A.weight")) => (module, format!("{module}.lora_B.weight"), false),
            Some((module, "embedding_A")) => (module, format!("{module}.lora_embedding_B"), true),
            _ => continue,
        };
        let module = module.strip_prefix("base_model.model.").unwrap();
        let of = |key: &str, default: &str| {
            let patterns = config[key].as_object().unwrap().iter();
            let mut matching = patterns.filter(|(pattern, _)| {
                let name = pattern.replace('\\', "");
                match name.strip_prefix('^') {
                    Some(name) => name == module,
                    None => module == name || module.ends_with(&format!(".{name}")),
                }
            });
            let found = matching.next().map(|(_, value)| value);
            found.unwrap_or(&config[default]).as_f64().unwrap()
        };
        let (rank, alpha) = (of("rank_pattern", "r"), of("alpha_pattern", "lora_alpha"));
        assert_eq!(down.shape[0] as f64, rank, "{name}");
        let scale = match config["use_rslora"].as_bool().unwrap() {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        };
        out.insert(
            module.to_owned(),
            product(down, &arrays[&up], scale, is_embedding),
        );
    }
    out
}

fn product(down: &Array, up: &Array, scale: f64, is_embedding: bool) -> Array {
    let (rank, outputs) = (down.shape[0], up.shape[0]);
    let inputs = down.values.len() / rank;
    let mut values = vec![0.0; outputs * inputs];
    for i in 0..outputs {
        for j in 0..inputs {
            let terms = (0..rank).map(|k| up.values[i * rank + k] * down.values[k * inputs + j]);
            let place = if is_embedding {
                j * outputs + i
            } else {
                i * inputs + j
            };
            values[place] = scale * terms.sum::<f64>();
        }
    }
    let shape = match is_embedding {
        true => vec![inputs, outputs],
        false => [&[outputs], &down.shape[1..]].concat(),
    };
    Array { shape, values }
}

/// The weighted sum of arrays.
fn sum(parts: &[(f64, &Array)]) -> Array {
    let mut out = Array {
        shape: parts[0].1.shape.clone(),
        values: vec![0.0; parts[0].1.values.len()],
    };
    for (weight, part) in parts {
        assert_eq!(part.shape, out.shape);
        let values = out.values.iter_mut().zip(&part.values);
        values.for_each(|(out, value)| *out += weight * value);
    }
    out
}

fn norm(array: &Array) -> f64 {
    array
        .values
        .iter()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
}

/// The norm of a difference, relative to that of what is expected.
fn error(found: &Array, expected: &Array) -> f64 {
    norm(&sum(&[(1.0, found), (-1.0, expected)])) / norm(expected)
}

#[track_caller]
fn assert_near(found: &Array, expected: &Array, most: f64) {
    let error = error(found, expected);
    assert!(error <= most, "{error}");
    assert!(norm(expected) > 0.0);
}

/// Half an ulp of F32, relative: what one rounding of a factor costs at most.
const ROUNDING: f64 = 1.0 / 16_777_216.0;

fn delta(expected: &Arrays, adapter: &str, module: &str) -> Array {
    expected[&format!("delta.{adapter}.{module}.weight")].clone()
}

#[test]
fn the_oracle_tells_another_scale() {
    let expected = expected();
    for adapter in ["a", "b"] {
        for (module, found) in products(&fixture(adapter)) {
            assert_near(&found, &delta(&expected, adapter, &module), 1e-12);
            let doubled = sum(&[(2.0, &found)]);
            assert!(error(&doubled, &delta(&expected, adapter, &module)) > 0.9);
        }
    }
}

#[test]
fn products_are_averaged_and_not_factors() {
    let bench = Bench::new();
    let text = bench.expect(&[":a", ":b", "-o", "soup"], 0);
    assert!(
        text.contains("averaged the products of 5 modules, not the factors"),
        "{text}"
    );
    let (expected, found) = (expected(), bench.products("soup"));
    assert_eq!(found.len(), MODULES.len());
    for module in MODULES {
        let (a, b) = (delta(&expected, "a", module), delta(&expected, "b", module));
        assert_near(&found[module], &sum(&[(0.5, &a), (0.5, &b)]), ROUNDING);
    }
    let head = "base_model.model.head.weight";
    let soup = read(&weights_of(&bench.at("soup")));
    let heads = ["a", "b"].map(|name| read(&weights_of(&fixture(name)))[head].clone());
    assert_near(
        &soup[head],
        &sum(&[(0.5, &heads[0]), (0.5, &heads[1])]),
        ROUNDING,
    );
    bench.expect(&["verify", "soup", ":a", ":b"], 0);
    bench.expect(&["verify", "soup", ":b", ":a"], 0);
    bench.expect(&["verify", "soup"], 0);
}

#[test]
fn weights_count() {
    let bench = Bench::new();
    bench.expect(&[":a", ":b", "-w", "3,1", "-o", "soup"], 0);
    bench.expect(
        &[":a", ":b", "-w", "1,1", "--no-normalize", "-o", "total"],
        0,
    );
    bench.expect(&[":a", ":b", "-w", "1,0", "-o", "first"], 0);
    bench.expect(&[":a", ":b", "-w", "2,-1", "-o", "beyond"], 0);
    let expected = expected();
    for module in MODULES {
        let (a, b) = (delta(&expected, "a", module), delta(&expected, "b", module));
        let check = |name: &str, weights: (f64, f64)| {
            let found = &bench.products(name)[module];
            assert_near(found, &sum(&[(weights.0, &a), (weights.1, &b)]), ROUNDING);
        };
        check("soup", (0.75, 0.25));
        check("total", (1.0, 1.0));
        check("first", (1.0, 0.0));
        check("beyond", (2.0, -1.0));
    }
    // What has no weight takes no rank.
    let factor = "base_model.model.block.k.lora_A.weight";
    assert_eq!(read(&weights_of(&bench.at("first")))[factor].shape, [2, 8]);
    for (name, mut ingredients) in [("total", [":a", ":b"]), ("beyond", [":a", ":b"])] {
        bench.expect(&["verify", name, ingredients[0], ingredients[1]], 0);
        ingredients.reverse();
        bench.expect(&["verify", name, ingredients[0], ingredients[1]], 0);
    }
}

#[test]
fn copies_are_merged_into_themselves() {
    let bench = Bench::new();
    bench.expect(&[":a", ":a", ":a", "-o", "soup"], 0);
    let (own, found) = (fixture("a"), bench.at("soup"));
    assert_eq!(read(&weights_of(&found)), read(&weights_of(&own)));
    assert_eq!(products(&found), products(&own));
}

#[test]
fn adapters_that_share_a_factor_keep_their_rank() {
    let bench = Bench::new();
    let scale_factor = |arrays: &mut Arrays, part: &str, by: f64| {
        for (name, array) in arrays.iter_mut().filter(|(name, _)| name.contains(part)) {
            assert!(name.contains("lora_"));
            array.values.iter_mut().for_each(|value| *value *= by);
        }
    };
    bench.copy("a", "ups", |arrays| scale_factor(arrays, "B", 3.0), |_| {});
    bench.copy(
        "a",
        "downs",
        |arrays| scale_factor(arrays, "_A", 3.0),
        |_| {},
    );
    let double = |config: &mut Value| {
        config["lora_alpha"] = 8.into();
        config["alpha_pattern"]["block.k"] = 10.into();
    };
    bench.copy("a", "alpha", |_| {}, double);
    for (other, by) in [("ups", 2.0), ("downs", 2.0), ("alpha", 1.5)] {
        bench.expect(&[":a", other, "-o", "soup", "-f"], 0);
        let (found, own) = (bench.products("soup"), products(&fixture("a")));
        for module in MODULES {
            assert_near(&found[module], &sum(&[(by, &own[module])]), ROUNDING);
        }
        let factor = "base_model.model.conv.lora_A.weight";
        assert_eq!(
            read(&weights_of(&bench.at("soup")))[factor].shape,
            [2, 3, 3, 3]
        );
        bench.expect(&["verify", "soup", ":a", other], 0);
    }
}

#[test]
fn equal_scales_round_nothing() {
    let bench = Bench::new();
    for (name, by) in [("two", -3.0), ("three", 7.0)] {
        let change = |arrays: &mut Arrays| {
            for (name, array) in arrays.iter_mut().filter(|(name, _)| name.contains("lora_")) {
                let by = if name.contains("A") { by } else { by + 1.0 };
                array.values.iter_mut().for_each(|value| *value += by);
            }
        };
        bench.copy("a", name, change, |_| {});
    }
    bench.expect(&[":a", "two", "three", "-o", "soup"], 0);
    let soup = read(&weights_of(&bench.at("soup")));
    let own = [fixture("a"), bench.at("two"), bench.at("three")].map(|at| read(&weights_of(&at)));
    let up = "base_model.model.block.k.lora_B.weight";
    let rows = (0..8).flat_map(|row| {
        let part = |arrays: &Arrays| arrays[up].values[2 * row..2 * row + 2].to_vec();
        own.iter().flat_map(part).collect::<Vec<f64>>()
    });
    assert_eq!(soup[up].values, rows.collect::<Vec<f64>>());
    let text = fs::read_to_string(bench.at("soup/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&6.into(), &4.into())
    );
}

#[test]
fn a_module_that_one_lacks_is_zero_there() {
    let bench = Bench::new();
    let text = bench.expect(&[":a", ":c", "-o", "soup"], 0);
    assert!(text.contains("is in 1 of 2 adapters"), "{text}");
    let (expected, found) = (expected(), bench.products("soup"));
    for module in MODULES {
        let a = delta(&expected, "a", module);
        let other = delta(&expected, "c", module);
        assert_near(&found[module], &sum(&[(0.5, &a), (0.5, &other)]), ROUNDING);
    }
    bench.expect(&["verify", "soup", ":a", ":c"], 0);
    let text = fs::read_to_string(bench.at("soup/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let targets = config["target_modules"].as_array().unwrap();
    assert_eq!(targets.len(), MODULES.len());
    assert!(
        MODULES
            .iter()
            .all(|module| targets.contains(&(*module).into()))
    );
}

#[test]
fn products_are_cut_to_a_rank() {
    let bench = Bench::new();
    let report = bench.json(&[":a", ":b", "--rank", "3", "-o", "soup"], 0);
    let (expected, found) = (expected(), bench.products("soup"));
    for (module, of) in MODULES.iter().zip(report["modules"].as_array().unwrap()) {
        assert_eq!(of["rank"], 3, "{module}");
    }
    for of in report["modules"].as_array().unwrap() {
        let name = of["name"].as_str().unwrap();
        let module = name.strip_prefix("base_model.model.").unwrap();
        let (a, b) = (delta(&expected, "a", module), delta(&expected, "b", module));
        let lost = expected[&format!("rank3.{module}")].values[0];
        let told = of["relative_error"].as_f64().unwrap();
        assert!((told - lost).abs() < 1e-6, "{module} {told} {lost}");
        let measured = error(&found[module], &sum(&[(0.5, &a), (0.5, &b)]));
        assert!((measured - told).abs() < 1e-9, "{module} {measured} {told}");
    }
    bench.expect(
        &[":a", ":b", "--rank", "3", "-o", "again", "--threads", "1"],
        0,
    );
    let bytes = |name: &str| fs::read(weights_of(&bench.at(name))).unwrap();
    assert!(bytes("soup") == bytes("again"));
    bench.expect(&["verify", "soup", ":a", ":b"], 0);
    // Nothing is cut where there is room.
    let report = bench.json(&[":a", ":b", "--rank", "64", "-o", "whole"], 0);
    assert_eq!(report["relative_error"], 0.0);
    assert_eq!(read(&weights_of(&bench.at("whole"))), {
        bench.expect(&[":a", ":b", "-o", "exact"], 0);
        read(&weights_of(&bench.at("exact")))
    });
}

/// Products of a file with `alpha` tensors, or with none.
fn flat_products(path: &Path, down: &str, up: &str) -> Arrays {
    let arrays = read(path);
    let names = arrays.keys().filter_map(|name| name.strip_suffix(down));
    names
        .map(|module| {
            let (down, up) = (
                &arrays[&format!("{module}{down}")],
                &arrays[&format!("{module}{up}")],
            );
            let rank = down.shape[0] as f64;
            let alpha = arrays.get(&format!("{module}.alpha"));
            let scale = alpha.map_or(1.0, |alpha| alpha.values[0] / rank);
            (module.to_owned(), product(down, up, scale, false))
        })
        .collect()
}

#[test]
fn files_of_kohya_keep_their_form() {
    let bench = Bench::new();
    let (a, c) = (":kohya_a.safetensors", ":kohya_c.safetensors");
    bench.expect(&[a, c, "-o", "soup.safetensors"], 0);
    let of = |path: &Path| flat_products(path, ".lora_down.weight", ".lora_up.weight");
    let found = of(&bench.at("soup.safetensors"));
    let (a_own, c_own) = (of(&fixture(&a[1..])), of(&fixture(&c[1..])));
    for (module, found) in &found {
        let mut parts = vec![(0.5, &a_own[module])];
        parts.extend(c_own.get(module).map(|own| (0.5, own)));
        // One rounding to F16.
        assert_near(found, &sum(&parts), 1.0 / 2048.0);
    }
    bench.expect(&["verify", "soup.safetensors", a, c], 0);
    let shown = bench.json(&["inspect", "soup.safetensors"], 0);
    let said = &shown["metadata"];
    assert_eq!(said["ss_tag"], "x");
    assert_eq!(said["ss_network_dim"], "Dynamic");
    assert!(said.get("sshs_model_hash").is_none());
    bench.expect(&[a, a, a, "-o", "self.st"], 0);
    assert_eq!(read(&bench.at("self.st")), read(&fixture(&a[1..])));
}

#[test]
fn files_of_diffusers_have_the_scale_that_diffusers_takes() {
    let bench = Bench::new();
    bench.expect(&[":unet_a", ":unet_b", "-o", "soup"], 0);
    let of = |path: &Path| flat_products(path, ".lora_A.weight", ".lora_B.weight");
    let found = of(&weights_of(&bench.at("soup")));
    let (a, b) = (
        of(&weights_of(&fixture("unet_a"))),
        of(&weights_of(&fixture("unet_b"))),
    );
    assert_eq!(found.len(), 8);
    for (module, found) in &found {
        // Alpha is 2 of rank 2, and 6 of rank 3.
        assert_near(
            found,
            &sum(&[(0.5, &a[module]), (1.0, &b[module])]),
            ROUNDING,
        );
    }
    bench.expect(&["verify", "soup", ":unet_a", ":unet_b"], 0);
    let shown = bench.json(&["inspect", "soup"], 0);
    assert!(shown["metadata"].get("lora_adapter_metadata").is_none());
}

#[test]
fn another_scale_or_factor_is_not_proved() {
    let bench = Bench::new();
    bench.expect(&[":a", ":b", "-o", "soup"], 0);
    let config = bench.at("soup/adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut said: Value = serde_json::from_str(&text).unwrap();
    said["lora_alpha"] = 1.into();
    fs::write(&config, said.to_string()).unwrap();
    bench.expect(&["verify", "soup", ":a", ":b"], 6);
    bench.expect(&["verify", "soup"], 6);
    fs::write(&config, &text).unwrap();
    bench.expect(&["verify", "soup", ":a", ":b"], 0);

    let path = weights_of(&bench.at("soup"));
    let whole = fs::read(&path).unwrap();
    for at in [whole.len() - 1, whole.len() - 700, 900] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let code = |words: &[&str]| bench.run(words).status.code();
        assert_ne!(code(&["verify", "soup", ":a", ":b"]), Some(0), "{at}");
        assert_ne!(code(&["verify", "soup"]), Some(0), "{at}");
    }
    fs::write(&path, &whole).unwrap();
    bench.expect(&["verify", "soup", ":a", ":c"], 6);
}

#[test]
fn factors_are_averaged_only_when_asked_and_of_one_scale() {
    let bench = Bench::new();
    bench.copy(
        "a",
        "other",
        |_| {},
        |config| config["lora_alpha"] = 32.into(),
    );
    let text = bench.expect(&[":a", "other", "--lora", "factors", "-o", "soup"], 3);
    assert!(text.contains("is scaled by"), "{text}");
    let change = |arrays: &mut Arrays| {
        let arrays = arrays.values_mut();
        arrays.for_each(|array| array.values.iter_mut().for_each(|value| *value += 1.0));
    };
    bench.copy("a", "moved", change, |_| {});
    bench.expect(&[":a", "moved", "--lora", "factors", "-o", "soup"], 0);
    let (own, found) = (
        read(&weights_of(&fixture("a"))),
        read(&weights_of(&bench.at("soup"))),
    );
    for (name, array) in &own {
        let moved = array
            .values
            .iter()
            .map(|value| f64::from((value + 1.0) as f32));
        let mean = array
            .values
            .iter()
            .zip(moved)
            .map(|(a, b)| f64::from(((a + b) / 2.0) as f32));
        assert_eq!(found[name].values, mean.collect::<Vec<f64>>(), "{name}");
    }
    bench.expect(&["verify", "soup", ":a", "moved"], 0);
    bench.expect(&[":loha", ":loha", "--lora", "factors", "-o", "loha"], 0);
}

#[test]
fn what_makes_no_sense_of_adapters_is_refused() {
    let bench = Bench::new();
    let check = |words: &[&str], exit, message: &str| {
        let text = bench.expect(words, exit);
        assert!(text.contains(message), "{words:?} {text}");
        assert!(!bench.at("x").exists() && !bench.at("x.st").exists());
    };
    check(
        &[":loha", ":loha", "-o", "x"],
        3,
        "belongs to a LoHa adapter",
    );
    check(
        &[":lokr", ":lokr", "-o", "x"],
        3,
        "belongs to a LoKr adapter",
    );
    check(
        &[":dora", ":dora", "-o", "x"],
        3,
        "belongs to a DoRA adapter",
    );
    check(&[":a", ":b", "-o", "x.st"], 2, "write it to a directory");
    check(
        &[":a", ":b", "-o", "x", "--shard-size", "1kB"],
        2,
        "`--shard-size` is not for adapters",
    );
    check(
        &[":a", ":b", "-o", "x", "--layout", "bitmask"],
        2,
        "`--layout` is not for adapters",
    );
    check(
        &[
            ":a", ":b", "-o", "x", "--method", "greedy", "--eval", "true",
        ],
        2,
        "does not know adapters",
    );
    check(
        &[":net.st", ":net.st", "-o", "x", "--rank", "2"],
        2,
        "`--rank` is for adapters",
    );
    check(
        &[":a", ":kohya_a.safetensors", "-o", "x"],
        3,
        "in different places",
    );
    check(&[":a", ":net.st", "-o", "x"], 3, "");
    check(&[":a", ":b", "-o", "x", "--rank", "0"], 2, "--rank");
    check(
        &[":a", ":b", "-o", "x", "--rank", "2", "--lora", "factors"],
        2,
        "not with `--lora factors`",
    );
    bench.copy("a", "half", |_| {}, |_| {});
    fs::remove_file(bench.at("half/adapter_config.json")).unwrap();
    check(
        &[":a", "half", "-o", "x"],
        3,
        "no adapter_config.json beside it",
    );
}

#[test]
fn a_plan_of_adapters_writes_nothing() {
    let bench = Bench::new();
    let report = bench.json(&[":a", ":b", "-o", "soup", "--plan"], 0);
    assert_eq!(report["output"], Value::Null);
    assert_eq!(report["modules"][0]["rank"], 5);
    let output = bench.run(&[":a", ":b", "--plan"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("stacked"));
    assert_eq!(fs::read_dir(bench.0.path()).unwrap().count(), 0);
}

/// The network `network` with what peft adds to it, inside the mask that its zeros are.
fn check_applied(found: &Arrays, network: &Arrays, whole: impl Fn(&str) -> Array, most: f64) {
    let mut n_pruned = 0;
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        network.keys().collect::<Vec<_>>()
    );
    for (name, found) in found {
        let (own, whole) = (&network[name], whole(name));
        let zeros = own.values.iter().filter(|&&value| value == 0.0).count();
        let is_pruned = own.shape.len() > 1 && zeros > 0;
        for (j, (found, whole)) in found.values.iter().zip(&whole.values).enumerate() {
            if is_pruned && own.values[j] == 0.0 {
                assert!(*found == 0.0 && found.is_sign_positive(), "{name} {j}");
                n_pruned += 1;
            } else {
                assert!(
                    (found - whole).abs() <= most * whole.abs() + 1e-15,
                    "{name} {j}"
                );
            }
        }
    }
    assert!(n_pruned > 0);
}

#[test]
fn an_adapter_is_added_inside_the_mask() {
    let bench = Bench::new();
    let expected = expected();
    let whole = |what: &str| {
        let (what, expected) = (what.to_owned(), expected.clone());
        move |name: &str| expected[&format!("{what}.{name}")].clone()
    };
    let check = |words: &[&str], network: &str, what: &str, most: f64| {
        bench.expect(&[&["apply"], words, &["-o", "out.st", "-f"]].concat(), 0);
        check_applied(
            &read(&bench.at("out.st")),
            &read(&fixture(network)),
            whole(what),
            most,
        );
    };
    check(&[":a", "--to", ":net.st"], "net.st", "merged.a", ROUNDING);
    // Tensors that the adapter has whole are gone towards, where peft takes them.
    let half = [
        "apply", ":a", "--to", ":net.st", "--scale", "0.5", "-o", "half.st",
    ];
    bench.expect(&half, 0);
    let network = read(&fixture("net.st"));
    let toward = |name: &str| match name.starts_with("head.") {
        true => sum(&[(0.5, &network[name]), (0.5, &whole("merged.a")(name))]),
        false => whole("half.a")(name),
    };
    check_applied(
        &read(&bench.at("half.st")),
        &network,
        toward,
        2.0 * ROUNDING,
    );
    check(
        &[":a", "--to", ":net_bf16.st"],
        "net_bf16.st",
        "bf16.a",
        1.0 / 256.0,
    );
    check(
        &[":gpt", "--to", ":gpt.st"],
        "gpt.st",
        "merged.gpt",
        ROUNDING,
    );
    let bytes = fs::read(bench.at("out.st")).unwrap();
    bench.expect(
        &[
            "apply",
            ":gpt",
            "--to",
            ":gpt.st",
            "-o",
            "one.st",
            "--threads",
            "1",
        ],
        0,
    );
    assert!(bytes == fs::read(bench.at("one.st")).unwrap());
}

#[test]
fn masks_are_carried_however_they_are_stored() {
    let bench = Bench::new();
    bench.expect(&["apply", ":a", "--to", ":net.st", "-o", "out.st"], 0);
    let expected = read(&bench.at("out.st"));
    for layout in ["bitmask", "torch-prune", "compressed-tensors"] {
        bench.expect(
            &[
                "export", ":net.st", "-o", "net.st", "--layout", layout, "-f",
            ],
            0,
        );
        // From the layout, to it, and kept in it.
        bench.expect(
            &[
                "apply", ":a", "--to", "net.st", "-o", "a.st", "-f", "--layout", "dense",
            ],
            0,
        );
        assert_eq!(read(&bench.at("a.st")), expected, "{layout}");
        bench.expect(
            &[
                "apply", ":a", "--to", ":net.st", "-o", "b.st", "-f", "--layout", layout,
            ],
            0,
        );
        bench.expect(&["apply", ":a", "--to", "net.st", "-o", "c.st", "-f"], 0);
        for name in ["b.st", "c.st"] {
            bench.expect(
                &["export", name, "-o", "d.st", "-f", "--layout", "dense"],
                0,
            );
            assert_eq!(read(&bench.at("d.st")), expected, "{layout} {name}");
        }
    }
    // A mask that zeros do not tell: `--dense` and `--prunable` decide.
    let arguments = [
        "apply", ":a", "--to", ":net.st", "-o", "dense.st", "--dense", "*",
    ];
    bench.expect(&arguments, 0);
    let dense = read(&bench.at("dense.st"));
    let merged = by_peft("merged.a");
    for (name, found) in &dense {
        let near = found.values.iter().zip(&merged[name].values);
        let mut near = near.map(|(found, whole)| (found - whole).abs() <= 1e-6);
        assert!(near.all(|is_near| is_near), "{name}");
    }
}

/// What peft makes of an adapter and a network.
fn by_peft(what: &str) -> Arrays {
    let all = expected().into_iter();
    all.filter_map(|(name, array)| {
        let name = name.strip_prefix(what)?.strip_prefix('.')?;
        Some((name.to_owned(), array))
    })
    .collect()
}

#[test]
fn a_given_mask_decides() {
    let bench = Bench::new();
    let mut masks = Arrays::new();
    let network = read(&fixture("net.st"));
    let name = "block.k.weight";
    let mut mask = network[name].clone();
    // All that is retained, and one that is zero.
    mask.values
        .iter_mut()
        .for_each(|value| *value = f64::from(u8::from(*value != 0.0)));
    let revived = mask.values.iter().position(|&value| value == 0.0).unwrap();
    mask.values[revived] = 1.0;
    masks.insert(name.to_owned(), mask);
    write(&bench.at("mask.st"), &masks);
    let arguments = [
        "apply", ":a", "--to", ":net.st", "--mask", "mask.st", "-o", "out.st",
    ];
    bench.expect(&arguments, 0);
    let found = &read(&bench.at("out.st"))[name];
    let whole = &by_peft("merged.a")[name];
    let zeros = found.values.iter().filter(|&&value| value == 0.0).count();
    assert_eq!(
        zeros,
        network[name]
            .values
            .iter()
            .filter(|&&value| value == 0.0)
            .count()
            - 1
    );
    assert!((found.values[revived] - whole.values[revived]).abs() < 1e-6);
}

#[test]
fn modules_are_found_by_their_names() {
    let bench = Bench::new();
    let kohya = ":kohya_a.safetensors";
    bench.expect(&["apply", kohya, "--to", ":net.st", "-o", "flat.st"], 0);
    bench.expect(&["apply", ":a", "--to", ":net.st", "-o", "own.st"], 0);
    let (flat, own) = (read(&bench.at("flat.st")), read(&bench.at("own.st")));
    for module in ["block.q", "block.k", "conv"] {
        let name = format!("{module}.weight");
        assert_near(&flat[&name], &own[&name], 1e-3);
    }

    // With a beginning that all names have, or lack.
    let network = read(&fixture("net.st"));
    let begun = network
        .iter()
        .map(|(name, array)| (format!("model.{name}"), array.clone()));
    write(&bench.at("begun.st"), &begun.collect());
    for adapter in [":a", kohya] {
        bench.expect(
            &["apply", adapter, "--to", "begun.st", "-o", "out.st", "-f"],
            0,
        );
        let found = read(&bench.at("out.st"));
        let expected = if adapter == kohya { &flat } else { &own };
        for (name, array) in &found {
            assert_eq!(array, &expected[name.strip_prefix("model.").unwrap()]);
        }
    }
    let rename = |arrays: &mut Arrays| {
        let old = std::mem::take(arrays).into_iter();
        let renamed = old.map(|(name, array)| {
            let name = name.replace("base_model.model.", "base_model.model.transformer.");
            (name, array)
        });
        arrays.extend(renamed);
    };
    bench.copy("a", "longer", rename, |_| {});
    bench.expect(
        &["apply", "longer", "--to", ":net.st", "-o", "out.st", "-f"],
        0,
    );
    assert_eq!(read(&bench.at("out.st")), own);
}

#[test]
fn what_does_not_fit_a_network_is_named() {
    let bench = Bench::new();
    let check = |words: &[&str], exit, message: &str| {
        let text = bench.expect(&[&["apply"], words, &["-o", "x.st"]].concat(), exit);
        assert!(text.contains(message), "{words:?} {text}");
        assert!(!bench.at("x.st").exists());
    };
    check(&[":a", "--to", ":gpt.st"], 3, "of which");
    check(
        &[":a", ":b", "--to", ":net.st"],
        2,
        "expected one adapter, found 2",
    );
    check(
        &[":a", "--to", ":b"],
        2,
        "is an adapter; expected the network",
    );
    check(&[":net.st", "--to", ":net.st"], 3, "is no adapter");
    check(&[":dora", "--to", ":net.st"], 3, "DoRA");
    check(
        &[":a", "--to", ":net.st", "--exclude", "nothing"],
        2,
        "matches no tensor",
    );
    check(&[":a", "--to", ":net.st", "--scale", "inf"], 2, "finite");
    check(
        &[":a", "--to", ":net.st", "--dense", "nothing"],
        2,
        "matches no tensor",
    );

    let mut network = read(&fixture("net.st"));
    let lost = network.remove("conv.weight").unwrap();
    write(&bench.at("less.st"), &network);
    let remedy = "`--exclude 'base_model.model.conv*'`";
    check(&[":a", "--to", "less.st"], 3, remedy);
    let rest = ["apply", ":a", "--to", "less.st", "-o", "rest.st"];
    let exclude = ["--exclude", "base_model.model.conv*"];
    bench.expect(&[&rest[..], &exclude].concat(), 0);
    let turned = Array {
        shape: vec![3, 6, 3, 3],
        ..lost.clone()
    };
    network.insert("conv.weight".to_owned(), turned);
    write(&bench.at("turned.st"), &network);
    check(&[":a", "--to", "turned.st"], 3, "makes a change of");
    network.insert("conv.weight".to_owned(), lost);
    network.insert(
        "block_q.weight".to_owned(),
        network["block.q.weight"].clone(),
    );
    write(&bench.at("two.st"), &network);
    let remedy = "next: `--exclude 'lora_unet_block_q*'` leaves it out";
    check(&[":kohya_a.safetensors", "--to", "two.st"], 3, remedy);
    let rest = ["apply", ":kohya_a.safetensors", "--to", "two.st"];
    let exclude = ["-o", "two-out.st", "--exclude", "lora_unet_block_q*"];
    bench.expect(&[&rest[..], &exclude].concat(), 0);

    // Several are one by the remedy.
    let sum = [":a", ":b", "-w", "1,1", "--no-normalize", "-o", "sum/"];
    bench.expect(&sum, 0);
    bench.expect(&["apply", "sum/", "--to", ":net.st", "-o", "sum.st"], 0);
}

#[test]
fn masks_of_what_is_no_factor_are_checked() {
    let bench = Bench::new();
    let report = bench.json(&["check", ":a", ":b"], 0);
    let names: Vec<&str> = report["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| tensor["name"].as_str().unwrap())
        .collect();
    assert!(
        names.iter().all(|name| name.contains(".head.")),
        "{names:?}"
    );
    assert!(report["warnings"][0].as_str().unwrap().contains("adapters"));
}

#[test]
fn sums_that_a_type_cannot_hold_are_refused() {
    let bench = Bench::new();
    let text = bench.expect(
        &[
            "apply", ":a", "--to", ":net.st", "-o", "x.st", "--scale", "1e39",
        ],
        3,
    );
    assert!(text.contains("which F32 cannot hold"), "{text}");
    assert!(!bench.at("x.st").exists());
    let change = |arrays: &mut Arrays| {
        let name = "base_model.model.conv.lora_A.weight";
        arrays.get_mut(name).unwrap().values[1] = f64::NAN;
    };
    bench.copy("a", "nan", change, |_| {});
    let text = bench.expect(&["apply", "nan", "--to", ":net.st", "-o", "x.st"], 3);
    assert!(text.contains("is NaN at index 1"), "{text}");
    bench.expect(&["nan", ":a", "-o", "soup"], 3);
    assert!(!bench.at("soup").exists());
    bench.expect(&["nan", ":a", "-o", "soup", "--allow-non-finite"], 0);
}

#[test]
fn a_directory_keeps_its_files_and_says_what_was_added() {
    let bench = Bench::new();
    fs::create_dir(bench.at("net")).unwrap();
    fs::copy(fixture("net.st"), bench.at("net/model.safetensors")).unwrap();
    fs::write(bench.at("net/config.json"), "{}").unwrap();
    let report = bench.json(&["apply", ":a", "--to", "net", "-o", "out"], 0);
    assert_eq!(report["sidecars"], serde_json::json!(["config.json"]));
    let outside = report["outside_share"].as_f64().unwrap();
    assert!(outside > 0.1 && outside < 0.9, "{outside}");
    assert_eq!(report["changed"].as_array().unwrap().len(), 7);
    assert!(bench.at("out/config.json").exists());
    let shown = bench.json(&["inspect", "out"], 0);
    let record: Value =
        serde_json::from_str(shown["metadata"]["sms_apply"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&record["adapter"], &record["scale"]),
        (&"a".into(), &1.0.into())
    );
    assert_eq!(record["mask"], report["mask"]["digest"]);
    // A soup of such networks is not what was added to one of them.
    bench.expect(&["apply", ":b", "--to", "net", "-o", "other"], 0);
    bench.expect(&["out", "other", "-o", "soup"], 0);
    let shown = bench.json(&["inspect", "soup"], 0);
    assert!(shown["metadata"].get("sms_apply").is_none());
    bench.expect(&["verify", "soup", "out", "other"], 0);

    let names = || fs::read_dir(bench.0.path()).unwrap().count();
    let before = names();
    bench.expect(&["apply", ":a", "--to", "net", "--plan"], 0);
    bench.expect(&["apply", ":a", "--to", "net", "-o", "out"], 2);
    bench.expect(&["apply", ":a", "--to", "net", "-o", "net"], 2);
    assert_eq!(names(), before);
}

#[test]
fn a_soup_of_adapters_is_added_like_any_other() {
    let bench = Bench::new();
    bench.expect(&[":a", ":b", "-o", "soup"], 0);
    bench.expect(&["apply", "soup", "--to", ":net.st", "-o", "soup.st"], 0);
    for name in ["a", "b"] {
        let (adapter, output) = (format!(":{name}"), format!("{name}.st"));
        bench.expect(&["apply", &adapter, "--to", ":net.st", "-o", &output], 0);
    }
    bench.expect(&["a.st", "b.st", "-o", "mean.st"], 0);
    let (soup, mean) = (read(&bench.at("soup.st")), read(&bench.at("mean.st")));
    for (name, found) in &soup {
        assert_near(found, &mean[name], 4.0 * ROUNDING);
    }
}
