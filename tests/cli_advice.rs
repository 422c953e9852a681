//! What the program advises, followed: zeros that are no mask, tensors of the first
//! ingredient, quantised weights, constants, and soups held against other files.

mod files;

use std::fs;

use serde_json::Value;

use files::Bench;
use files::Tensor;
use files::read;
use files::write;

/// Numbers that are never zero, other ones for each seed.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            1.0 + (state >> 40) as f32 / (1 << 24) as f32
        })
        .collect()
}

fn dense(name: &str, shape: &[u64], seed: u64) -> Tensor {
    let n = shape.iter().product::<u64>() as usize;
    Tensor::f32(name, shape, &numbers(seed, n))
}

fn with_values(name: &str, shape: &[u64], value: impl Fn(usize) -> f32) -> Tensor {
    let n = shape.iter().product::<u64>() as usize;
    Tensor::f32(name, shape, &(0..n).map(value).collect::<Vec<_>>())
}

/// Two models of which the tensors of `odd` differ in their zeros.
fn pair(odd: [Vec<Tensor>; 2]) -> Bench {
    let bench = Bench::new();
    for (seed, (name, odd)) in [("a.st", &odd[0]), ("b.st", &odd[1])].iter().enumerate() {
        let mut tensors = vec![dense("body.weight", &[24, 32], seed as u64)];
        tensors.extend(odd.iter().cloned());
        write(&bench.at(name), &tensors, &[]);
    }
    bench
}

#[track_caller]
fn check_zeros(odd: [Vec<Tensor>; 2], cause: &str, expected: &[(&str, usize, f32)]) {
    let bench = pair(odd);
    let refused = bench.json(&["a.st", "b.st", "-o", "soup.st", "--json"], 4);
    let mismatch = &refused["error"]["mismatch"];
    assert_eq!(mismatch["zeros"][0]["cause"], cause);
    let next = refused["error"]["next"].as_str().unwrap();
    assert!(next.starts_with("add `--dense "), "{next}");
    assert!(!next.contains("sms-merge prune"), "{next}");
    let checked = bench.json(&["check", "a.st", "b.st", "--json"], 4);
    assert_eq!(checked["mismatch"]["dense"], mismatch["dense"]);

    // Both commands take the advice, and no trained weight is lost.
    bench.follow("a.st b.st -o soup.st", next, 0);
    bench.follow("check a.st b.st", next, 0);
    let soup = read(&bench.at("soup.st"));
    for &(tensor, index, value) in expected {
        assert_eq!(soup.f32(tensor)[index], value, "{tensor} {index}");
    }
    assert!(bench.run("verify soup.st a.st b.st").status.success());
}

#[test]
fn a_layer_that_was_never_trained() {
    let zero = with_values("zero conv", &[8, 8, 1, 1], |_| 0.0);
    let trained = with_values("zero conv", &[8, 8, 1, 1], |j| 1.0 + j as f32);
    check_zeros(
        [vec![trained.clone()], vec![zero.clone()]],
        "whole-tensor",
        &[("zero conv", 0, 0.5), ("zero conv", 63, 32.0)],
    );
    check_zeros(
        [vec![zero], vec![trained]],
        "whole-tensor",
        &[("zero conv", 63, 32.0)],
    );
}

#[test]
fn many_layers_that_were_never_trained_are_one_pattern() {
    let layers = |value: f32| -> Vec<Tensor> {
        let name = |layer: usize| format!("adapter.{layer}.up");
        let layer = |layer| with_values(&name(layer), &[8, 16], |_| value);
        (0..12).map(layer).collect()
    };
    let bench = pair([layers(0.0), layers(3.0)]);
    let refused = bench.json(&["a.st", "b.st", "-o", "soup.st", "--json"], 4);
    assert_eq!(
        refused["error"]["mismatch"]["dense"],
        serde_json::json!(["adapter.*.up"])
    );
    bench.follow(
        "a.st b.st -o soup.st",
        refused["error"]["next"].as_str().unwrap(),
        0,
    );
    assert_eq!(read(&bench.at("soup.st")).f32("adapter.11.up")[0], 1.5);
}

#[test]
fn rows_of_added_tokens_and_columns_of_added_inputs() {
    let rows = |used: usize| {
        vec![with_values("embed", &[50, 16], |j| {
            if j / 16 < used { 2.0 } else { 0.0 }
        })]
    };
    check_zeros(
        [rows(50), rows(45)],
        "rows",
        &[("embed", 0, 2.0), ("embed", 799, 1.0)],
    );
    let columns = |used: usize| {
        let value = move |j: usize| if j % 18 / 2 < used { 2.0 } else { 0.0 };
        vec![with_values("conv.weight", &[40, 9, 2], value)]
    };
    check_zeros(
        [columns(4), columns(9)],
        "columns",
        &[("conv.weight", 0, 2.0), ("conv.weight", 17, 1.0)],
    );
}

#[test]
fn what_f16_made_zero() {
    let tiny = |parity: usize| {
        let value = move |j: usize| match j {
            j if j % 11 == 0 => 0.0,
            j if j % 7 == 0 && (j / 7) % 2 == parity => 0.0,
            j if j % 7 == 0 => 1.2e-7,
            j => 0.5 + j as f32,
        };
        vec![with_values("embed", &[50, 40], value)]
    };
    check_zeros(
        [tiny(0), tiny(1)],
        "underflow",
        &[("embed", 1, 1.5), ("embed", 7, 6e-8)],
    );
}

#[test]
fn a_mask_stays_a_mask() {
    let sparse = |seed: usize| -> Vec<Tensor> {
        let value = move |j: usize| {
            if (j * (7 + 2 * seed)) % 10 < 3 {
                1.0
            } else {
                0.0
            }
        };
        let name = |layer: usize| format!("layer.{layer}.weight");
        (0..5)
            .map(|layer| with_values(&name(layer), &[30, 41], value))
            .collect()
    };
    let bench = pair([sparse(0), sparse(1)]);
    let refused = bench.json(&["a.st", "b.st", "-o", "soup.st", "--json"], 4);
    assert_eq!(refused["error"]["mismatch"]["zeros"], serde_json::json!([]));
    assert!(
        !refused["error"]["next"]
            .as_str()
            .unwrap()
            .contains("--dense")
    );
}

#[test]
fn one_tensor_of_many_that_differs() {
    let layers = |seed: usize| -> Vec<Tensor> {
        let value = move |layer: usize, j: usize| {
            let own = if layer == 3 { seed } else { 0 };
            if (j * (7 + 2 * own)) % 10 < 3 {
                1.0
            } else {
                0.0
            }
        };
        let name = |layer: usize| format!("layer.{layer}.weight");
        let layer = |layer| with_values(&name(layer), &[30, 41], move |j| value(layer, j));
        (0..5).map(layer).collect()
    };
    let bench = pair([layers(0), layers(1)]);
    let refused = bench.json(&["a.st", "b.st", "-o", "soup.st", "--json"], 4);
    assert_eq!(refused["error"]["mismatch"]["zeros"][0]["cause"], "lone");
    let next = refused["error"]["next"].as_str().unwrap();
    assert!(next.starts_with("add `--dense layer.3.weight`"), "{next}");
    bench.follow("a.st b.st -o soup.st", next, 0);
}

#[test]
fn the_first_gives_what_the_others_lack_or_have_otherwise() {
    let bench = Bench::new();
    let body = |seed| dense("body.weight", &[24, 32], seed);
    let head = [
        dense("head.weight", &[10, 16], 3),
        with_values("head.bias", &[10], |j| if j == 4 { -0.0 } else { 1.0 }),
        Tensor::i64("ids", &[1, 3], &[0, 1, 2]),
    ];
    write(&bench.at("a.st"), &[&[body(1)], &head[..]].concat(), &[]);
    let other = [
        body(2),
        dense("head.weight", &[100, 16], 4),
        with_values("ids", &[1, 3], |j| j as f32),
    ];
    write(&bench.at("b.st"), &other, &[]);

    let refused = bench.json(&["a.st", "b.st", "-o", "soup.st", "--json"], 3);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("(and 2 more: `head.weight`, `ids`)"),
        "{message}"
    );
    let next = refused["error"]["next"].as_str().unwrap();
    bench.follow("a.st b.st -o soup.st", next, 0);
    let (first, soup) = (read(&bench.at("a.st")), read(&bench.at("soup.st")));
    for name in ["head.weight", "head.bias", "ids"] {
        assert_eq!(first.bytes(name), soup.bytes(name), "{name}");
    }
    let mean = (first.f32("body.weight")[5] + read(&bench.at("b.st")).f32("body.weight")[5]) / 2.0;
    assert_eq!(soup.f32("body.weight")[5], mean);

    // It is for the record, it is proved, and it is planned.
    assert!(bench.run("verify soup.st a.st b.st").status.success());
    assert!(bench.run("verify soup.st").status.success());
    let inspected = bench.json(&["inspect", "soup.st", "--json"], 0);
    let recorded = &inspected["certificate"]["options"]["from_first"];
    assert_eq!(recorded.as_array().unwrap().len(), 3);
    let words = [
        "a.st",
        "b.st",
        "--from-first",
        "head*",
        "--from-first",
        "ids",
        "--plan",
        "--json",
    ];
    let planned = bench.json(&words, 0);
    let tensors = planned["plan"]["tensors"].as_array().unwrap();
    let action = |name: &str| {
        let found = tensors
            .iter()
            .find(|tensor| tensor["name"] == name)
            .unwrap();
        found["action"].clone()
    };
    assert_eq!(
        (action("head.bias"), action("body.weight")),
        ("from-first".into(), "average".into())
    );

    // A bit of what was taken is covered as any other.
    let mut bytes = fs::read(bench.at("soup.st")).unwrap();
    let place = soup.place("head.bias");
    bytes[place] ^= 1;
    fs::write(bench.at("flipped.st"), bytes).unwrap();
    assert_eq!(
        bench.run("verify flipped.st a.st b.st").status.code(),
        Some(6)
    );
    assert_eq!(bench.run("verify flipped.st").status.code(), Some(6));
}

#[test]
fn what_only_a_later_one_has_is_left_out_or_comes_first() {
    let bench = Bench::new();
    let body = |seed| dense("body.weight", &[24, 32], seed);
    write(&bench.at("a.st"), &[body(1)], &[]);
    write(
        &bench.at("b.st"),
        &[body(2), dense("lm head", &[8, 8], 5)],
        &[],
    );
    let refused = bench.json(&["a.st", "b.st", "-o", "soup.st", "--json"], 3);
    let next = refused["error"]["next"].as_str().unwrap();
    assert!(
        next.contains("name `b.st` first and add `--from-first 'lm head'`"),
        "{next}"
    );
    let output = bench.follow("a.st b.st -o soup.st", next, 0);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("left out: `lm head`, which `a.st` does not have"),
        "{text}"
    );
    assert!(
        bench
            .run("b.st a.st --from-first 'lm head' -o whole.st")
            .status
            .success()
    );
    assert_eq!(
        read(&bench.at("whole.st")).bytes("lm head"),
        read(&bench.at("b.st")).bytes("lm head")
    );
    // The pattern does not make the first have it.
    assert_eq!(
        bench
            .run("a.st b.st --from-first 'lm*' -o x.st")
            .status
            .code(),
        Some(3)
    );
}

#[test]
fn masks_of_the_first_are_kept_in_every_layout() {
    let bench = Bench::new();
    let masked = |rows: u64, keep: usize| {
        let value = move |j: usize| {
            if j.is_multiple_of(keep) {
                1.0 + j as f32
            } else {
                -0.0
            }
        };
        with_values("head.weight", &[rows, 64], value)
    };
    let body = |seed| dense("body.weight", &[24, 32], seed);
    write(&bench.at("a.st"), &[body(1), masked(40, 4)], &[]);
    write(&bench.at("b.st"), &[body(2), masked(30, 3)], &[]);
    for layout in [
        "keep",
        "dense",
        "bitmask",
        "torch-prune",
        "compressed-tensors",
    ] {
        let merge = format!("a.st b.st --from-first head.weight --layout {layout} -f -o soup.st");
        assert!(bench.run(&merge).status.success(), "{layout}");
        assert!(
            bench.run("verify soup.st a.st b.st").status.success(),
            "{layout}"
        );
        assert!(bench.run("verify soup.st").status.success(), "{layout}");
        let inspected = bench.json(&["inspect", "soup.st", "--json"], 0);
        assert_eq!(inspected["mask"]["retained"], 640, "{layout}");
    }
    // Compact ingredients, and ones with masks beside them.
    for layout in ["bitmask", "torch-prune"] {
        for name in ["a", "b"] {
            let export = format!("export {name}.st --layout {layout} -f -o {name}2.st");
            assert!(bench.run(&export).status.success(), "{layout}");
        }
        let merge = "a2.st b2.st --from-first head.weight -f -o soup.st";
        assert!(bench.run(merge).status.success(), "{layout}");
        assert!(
            bench.run("verify soup.st a2.st b2.st").status.success(),
            "{layout}"
        );
    }
}

#[test]
fn patterns_that_match_nothing_are_errors() {
    let bench = pair([vec![], vec![]]);
    for option in [
        "--exclude",
        "--from-first",
        "--include",
        "--dense",
        "--prunable",
    ] {
        for command in ["merge a.st b.st -o x.st", "check a.st b.st"] {
            let some = if option == "--include" {
                "--include 'body*'"
            } else {
                ""
            };
            let output = bench.run(&format!("{command} {some} {option} 'no_such*'"));
            assert_eq!(output.status.code(), Some(2), "{command} {option}");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                text.contains(&format!("`{option} no_such*` matches no tensor")),
                "{text}"
            );
        }
    }
}

#[test]
fn the_same_infinity_everywhere_is_a_constant() {
    let mask = |dtype: &str| {
        let value = |j: usize| {
            if j % 4 > j / 4 {
                f32::NEG_INFINITY
            } else {
                0.5
            }
        };
        let tensor = with_values("mask", &[4, 4], value);
        match dtype {
            "F32" => tensor,
            "F64" => tensor.wide(),
            _ => tensor.brain(),
        }
    };
    for dtype in ["F32", "F64", "BF16"] {
        let bench = pair([vec![mask(dtype)], vec![mask(dtype)]]);
        for options in [
            "",
            "-w 1,0",
            "-w 2,-1",
            "--no-mmap",
            "--layout bitmask --prunable mask",
        ] {
            let output = bench.run(&format!("a.st b.st {options} -f -o soup.st"));
            assert!(output.status.success(), "{dtype} {options}");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!text.contains("NaN"), "{text}");
            assert!(
                bench.run("verify soup.st a.st b.st").status.success(),
                "{dtype} {options}"
            );
        }
        assert!(bench.run("a.st b.st -f -o soup.st").status.success());
        assert_eq!(
            read(&bench.at("soup.st")).bytes("mask"),
            read(&bench.at("a.st")).bytes("mask"),
            "{dtype}"
        );
        let object = bench.json(&["a.st", "b.st", "-f", "-o", "soup.st", "--json"], 0);
        let l2 = object["distances"]["pairs"][0]["l2"].as_f64().unwrap();
        assert!(l2.is_finite() && l2 > 0.0, "{l2}");
    }
    // Anything else is refused as ever.
    let other = |value: f32| {
        vec![with_values("mask", &[4, 4], |j| {
            if j == 5 { value } else { 1.0 }
        })]
    };
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for (first, second) in [(inf, -inf), (inf, 1.0), (1.0, inf), (nan, nan), (inf, nan)] {
        let bench = pair([other(first), other(second)]);
        let output = bench.run("a.st b.st -o soup.st");
        assert_eq!(output.status.code(), Some(3), "{first} {second}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("at index 5"), "{text}");
    }
}

/// Files as quantisers write them, by the names and types of their tensors.
fn quantised(kind: &str, seed: u8) -> Vec<Tensor> {
    let codes = |name: &str, dtype: &str, shape: &[u64]| {
        let n = shape.iter().product::<u64>() as usize;
        let width = if dtype == "I32" || dtype == "U32" {
            4
        } else {
            1
        };
        let bytes = (0..n * width).map(|j| (j as u8).wrapping_mul(31) ^ seed);
        Tensor::raw(name, dtype, shape, bytes.collect())
    };
    let scales = |name: &str| dense(name, &[4, 8], seed.into());
    match kind {
        "GPTQ" => vec![
            codes("l.qweight", "I32", &[8, 8]),
            codes("l.qzeros", "I32", &[4, 1]),
            scales("l.scales"),
            codes("l.g_idx", "I32", &[8]),
        ],
        "AWQ" => vec![
            codes("l.qweight", "I32", &[8, 8]),
            codes("l.qzeros", "I32", &[4, 1]),
            scales("l.scales"),
        ],
        "bitsandbytes" => vec![
            codes("l.weight", "U8", &[64, 1]),
            scales("l.weight.absmax"),
            scales("l.weight.quant_map"),
            codes("l.weight.quant_state.bitsandbytes__nf4", "U8", &[19]),
        ],
        "by bitsandbytes" => vec![codes("l.weight", "I8", &[8, 8]), scales("l.SCB")],
        "compressed-tensors" => vec![
            codes("l.weight_packed", "I32", &[8, 8]),
            scales("l.weight_scale"),
            Tensor::i64("l.weight_shape", &[2], &[8, 64]),
        ],
        "8 bits" => vec![
            codes("l.weight", "F8_E4M3", &[8, 8]),
            scales("l.weight_scale_inv"),
        ],
        "EETQ" => vec![codes("l.weight", "I8", &[8, 8]), scales("l.weight_scales")],
        "HQQ" => vec![
            codes("l.W_q", "U8", &[8, 8]),
            scales("l.scale"),
            scales("l.zero"),
        ],
        "quanto" => vec![
            codes("l.weight._data", "I8", &[8, 8]),
            scales("l.weight._scale"),
        ],
        "torchao" => vec![
            codes("l._weight_qdata", "I8", &[8, 8]),
            scales("l._weight_scale"),
        ],
        "MXFP4" => vec![
            codes("l.up_blocks", "U8", &[8, 8]),
            codes("l.up_scales", "U8", &[8, 1]),
        ],
        "MLX" => vec![
            codes("l.weight", "U32", &[8, 8]),
            scales("l.scales"),
            scales("l.biases"),
        ],
        "AQLM" => vec![
            codes("l.codes", "I8", &[8, 8]),
            scales("l.codebooks"),
            scales("l.scales"),
        ],
        kind => panic!("{kind}"),
    }
}

const KINDS: [&str; 13] = [
    "GPTQ",
    "AWQ",
    "bitsandbytes",
    "by bitsandbytes",
    "compressed-tensors",
    "8 bits",
    "EETQ",
    "HQQ",
    "quanto",
    "torchao",
    "MXFP4",
    "MLX",
    "AQLM",
];

#[test]
fn codes_are_copied_or_refused() {
    for kind in KINDS {
        let bench = pair([quantised(kind, 1), quantised(kind, 1)]);
        for policy in ["error", "first", "max"] {
            let merge = format!("a.st b.st --on-integer-mismatch {policy} -f -o soup.st");
            let output = bench.run(&merge);
            assert!(output.status.success(), "{kind} {policy}");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                text.contains(kind) && text.contains("copied, not averaged"),
                "{text}"
            );
        }
        let (first, soup) = (read(&bench.at("a.st")), read(&bench.at("soup.st")));
        for tensor in quantised(kind, 1) {
            assert_eq!(
                first.bytes(&tensor.name),
                soup.bytes(&tensor.name),
                "{kind}"
            );
        }
        assert!(
            bench.run("verify soup.st a.st b.st").status.success(),
            "{kind}"
        );
        assert!(bench.run("verify soup.st").status.success(), "{kind}");
        assert!(
            bench
                .run("a.st b.st --dtype f16 -f -o half.st")
                .status
                .success(),
            "{kind}"
        );

        // Codes that differ, and scales alone.
        let mut scales_alone = quantised(kind, 1);
        let last = scales_alone.len() - 1;
        let scales = (0..=last).rev().find(|&j| scales_alone[j].dtype == "F32");
        let other = scales.unwrap_or(last);
        scales_alone[other] = quantised(kind, 2)[other].clone();
        for second in [quantised(kind, 2), scales_alone] {
            let bench = pair([quantised(kind, 1), second]);
            for policy in ["error", "first", "max"] {
                let merge = format!("a.st b.st --on-integer-mismatch {policy} -o soup.st");
                let output = bench.run(&merge);
                assert_eq!(output.status.code(), Some(3), "{kind} {policy}");
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(text.contains("dequantise each first"), "{text}");
                assert!(!text.contains("`max`"), "{text}");
            }
            let parts = "--from-first 'l.*' -f -o soup.st";
            assert!(
                bench.run(&format!("a.st b.st {parts}")).status.success(),
                "{kind}"
            );
        }
        // One of the two is not quantised.
        let bench = pair([quantised(kind, 1), vec![dense("l.weight", &[8, 8], 3)]]);
        let output = bench.run("a.st b.st -o soup.st");
        assert_eq!(output.status.code(), Some(3), "{kind}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("dequantise each first"), "{kind}: {text}");
    }
}

#[test]
fn plain_tensors_are_no_codes() {
    let plain = |seed| {
        vec![
            dense("l.scales", &[4, 8], seed),
            dense("l.weight", &[4, 8], seed),
            dense("l.weight_scale", &[4, 8], seed),
            dense("norm.scale", &[8], seed),
            Tensor::i64("position_ids", &[1, 40], &(0..40).collect::<Vec<i64>>()),
        ]
    };
    let bench = pair([plain(1), plain(2)]);
    assert!(bench.run("a.st b.st -o soup.st").status.success());
    let (a, b) = (read(&bench.at("a.st")), read(&bench.at("b.st")));
    let soup = read(&bench.at("soup.st"));
    for name in ["l.scales", "l.weight", "l.weight_scale", "norm.scale"] {
        let mean = (f64::from(a.f32(name)[3]) + f64::from(b.f32(name)[3])) / 2.0;
        assert_eq!(soup.f32(name)[3], mean as f32, "{name}");
    }
}

#[test]
fn a_config_tells_of_codes_with_other_names() {
    let codes = |seed: u8| {
        let bytes = (0..64).map(|j| j ^ seed).collect();
        vec![Tensor::raw("l.strange", "U8", &[64], bytes)]
    };
    let check = |config: Value, seeds: [u8; 2], expected: &str, exit: i32| {
        let bench = Bench::new();
        for (name, seed) in ["a", "b"].iter().zip(seeds) {
            fs::create_dir(bench.at(name)).unwrap();
            let mut tensors = codes(seed);
            tensors.push(dense("norm.weight", &[8, 8], 1));
            write(&bench.at(name).join("model.safetensors"), &tensors, &[]);
            fs::write(bench.at(name).join("config.json"), config.to_string()).unwrap();
        }
        let output = bench.run("a b -o soup");
        assert_eq!(output.status.code(), Some(exit), "{config}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(expected), "{config}: {text}");
    };
    let config =
        |method: &str| serde_json::json!({"quantization_config": {"quant_method": method}});
    check(config("spqr"), [1, 2], "quantised as `config.json` says", 3);
    check(config("gptq"), [1, 2], "quantised by GPTQ", 3);
    check(config("gptq"), [1, 1], "copied, not averaged", 0);
    // Sparse and not quantised, and nothing at all.
    check(
        config("compressed-tensors"),
        [1, 2],
        "integers are not averaged",
        3,
    );
    check(
        serde_json::json!({}),
        [1, 2],
        "integers are not averaged",
        3,
    );
    check(
        serde_json::json!([1]),
        [1, 2],
        "integers are not averaged",
        3,
    );
}

#[test]
fn a_soup_held_against_other_files() {
    let bench = pair([vec![], vec![]]);
    write(
        &bench.at("c.st"),
        &[dense("body.weight", &[24, 32], 7)],
        &[],
    );
    assert!(bench.run("a.st b.st c.st -o soup.st").status.success());
    for words in [
        &["a.st"][..],
        &["a.st", "b.st"],
        &["a.st", "b.st", "c.st", "c.st"],
    ] {
        let all: Vec<&str> = ["verify", "soup.st"]
            .iter()
            .chain(words)
            .chain(&["--json"])
            .copied()
            .collect();
        let refused = bench.json(&all, 2);
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.contains("was made of 3 ingredients"), "{message}");
        assert!(
            message.contains("names `a.st`, `b.st`, `c.st`"),
            "{message}"
        );
        let next = refused["error"]["next"].as_str().unwrap();
        bench.follow("", next, 0);
    }
    // A wrong one is named before what follows from it.
    fs::copy(bench.at("a.st"), bench.at("d.st")).unwrap();
    let refused = bench.json(&["verify", "soup.st", "a.st", "b.st", "d.st", "--json"], 6);
    assert_eq!(refused["differences"][0]["kind"], "ingredient");
    let message = refused["differences"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("`d.st` is not `c.st`, which the certificate names"),
        "{message}"
    );
    // One that does not even go with the others.
    write(&bench.at("e.st"), &[dense("body.weight", &[2, 2], 7)], &[]);
    let refused = bench.json(&["verify", "soup.st", "a.st", "b.st", "e.st", "--json"], 3);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("does not name `e.st` as an ingredient"),
        "{message}"
    );
    let output = bench.run("verify soup.st a.st b.st c.st --mask a.st");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn what_is_not_there_is_no_slip_of_the_pen() {
    let bench = pair([vec![], vec![]]);
    for command in [
        "merge a.st 'no*.st' -o x.st",
        "merge a.st no.st -o x.st",
        "merge a.st no/ -o x.st",
        "merge a.st b.st -o no/x.st",
        "merge a.st b.st -o a.st/x.st",
        "merge a.st b.st --mask no.st -o x.st",
        "merge @no.txt -o x.st",
        "check a.st 'no*.st'",
        "check a.st no.st",
        "inspect no.st",
        "inspect 'no*.st'",
        "verify no.st",
        "prune no.st --sparsity 0.5 -o x.st",
        "prune a.st --from-mask no.st -o x.st",
        "prune a.st --sparsity 0.5 -o no/x.st",
        "mask union a.st no.st -o x.st",
        "mask union a.st 'no*.st' -o x.st",
        "export no.st -o x.st --layout dense",
        "export a.st -o no/x.st --layout dense",
        "model no.toml",
    ] {
        let output = bench.run(command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{command}: {text}");
    }
}
