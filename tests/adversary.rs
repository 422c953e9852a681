//! Whole runs of the binary on inputs made to mislead it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

/// Name, element type, dimensions and bytes of a tensor.
type Tensor<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

fn write(path: &Path, tensors: &[Tensor<'_>]) {
    let mut end = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            let begin = end;
            end += bytes.len();
            format!(
                r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
            )
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    tensors.iter().for_each(|(.., bytes)| file.extend(bytes));
    fs::write(path, file).unwrap();
}

/// The bytes of one tensor that [`write`] or the binary wrote.
fn read(path: &Path, name: &str) -> Vec<u8> {
    let file = fs::read(path).unwrap();
    let header_bytes = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + header_bytes]).unwrap();
    let at = |index: usize| header[name]["data_offsets"][index].as_u64().unwrap() as usize;
    file[8 + header_bytes..][at(0)..at(1)].to_vec()
}

fn f32_bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Runs the binary in a directory of its own.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, tensors: &[Tensor<'_>]) {
        write(&self.0.path().join(name), tensors);
    }

    fn run(&self, words: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sms-merge"))
            .args(words.split(' '))
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// Runs, checks the exit status and returns what was said on standard error.
    fn check(&self, words: &str, status: i32) -> String {
        let output = self.run(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{words}: {said}");
        said
    }

    fn tensor(&self, file: &str, name: &str) -> Vec<u8> {
        read(&self.0.path().join(file), name)
    }
}

#[test]
fn masks_that_zeros_do_not_tell_are_verified() {
    let bench = Bench::new();
    let gain = |scale: f32| f32_bytes((0..8).map(|i| if i % 2 == 0 { scale } else { -0.0 }));
    bench.write("a.st", &[("gain", "F32", &[8], gain(1.0))]);
    bench.write("b.st", &[("gain", "F32", &[8], gain(2.0))]);
    bench.write(
        "mask.st",
        &[("gain", "BOOL", &[8], vec![1, 0, 1, 0, 1, 0, 1, 0])],
    );
    for option in ["--prunable gain", "--mask mask.st"] {
        bench.check(&format!("a.st b.st -o soup.st --force {option}"), 0);
        bench.check("verify soup.st", 0);
        assert_eq!(bench.tensor("soup.st", "gain")[4..8], [0; 4]);
    }
}

#[test]
fn a_pruned_running_variance_keeps_its_mask() {
    let bench = Bench::new();
    let statistics = |mean: f32| {
        let variance = f32_bytes([1.0, 0.0, 1.0]);
        [
            (
                "bn.running_mean",
                "F32",
                &[3usize] as &[usize],
                f32_bytes([mean; 3]),
            ),
            ("bn.running_var", "F32", &[3], variance),
        ]
    };
    bench.write("a.st", &statistics(1.0));
    bench.write("b.st", &statistics(3.0));
    bench.check("a.st b.st -o soup.st --prunable *_var", 0);
    assert_eq!(
        bench.tensor("soup.st", "bn.running_var"),
        f32_bytes([1.0, 0.0, 1.0])
    );
}

#[test]
fn a_soup_of_many_generations_is_verified() {
    let bench = Bench::new();
    let weight = |scale: f32| f32_bytes((0..16).map(|i| scale * i as f32));
    bench.write("0.st", &[("w", "F32", &[4, 4], weight(1.0))]);
    bench.write("base.st", &[("w", "F32", &[4, 4], weight(2.0))]);
    for generation in 0..44 {
        bench.check(
            &format!("{generation}.st base.st --no-sync -o {}.st", generation + 1),
            0,
        );
    }
    bench.check("verify 44.st", 0);
    bench.check("verify 44.st 43.st base.st", 0);
}

#[test]
fn a_mismatch_comes_before_what_later_tensors_hold() {
    let bench = Bench::new();
    let n = 1 << 20;
    let mask =
        |phase: u32| f32_bytes((0..n as u32).map(|i| if i % 3 == phase { 0.0 } else { 1.0 }));
    let with_nan = || f32_bytes((0..n).map(|i| if i == 0 { f32::NAN } else { 1.0 }));
    for (name, phase) in [("a.st", 0), ("b.st", 1)] {
        let later = ("b", "F32", &[n] as &[usize], with_nan());
        bench.write(name, &[("a", "F32", &[1024, n / 1024], mask(phase)), later]);
    }
    for threads in [1, 2, 8, 8, 8] {
        bench.check(&format!("a.st b.st -o soup.st --threads {threads}"), 4);
    }
}

#[test]
fn what_is_not_averaged_is_not_masked() {
    let bench = Bench::new();
    for (dtype, n_bytes) in [("F4", 4), ("F6_E2M3", 6), ("C64", 64), ("I8", 8)] {
        bench.write("a.st", &[("q", dtype, &[2, 4], vec![0; n_bytes])]);
        bench.write("mask.st", &[("q", "U8", &[2, 4], vec![1; 8])]);
        let said = bench.check("a.st a.st -o soup.st --mask mask.st", 3);
        assert!(said.contains(&format!("`q`, which is {dtype}")), "{said}");
    }
    bench.write("a.st", &[("q", "F8_E4M3", &[1], vec![0])]);
    bench.write("b.st", &[("q", "F32", &[1], vec![0; 4])]);
    let said = bench.check("a.st b.st -o soup.st", 3);
    assert!(!said.contains("--dtype"), "{said}");
}

#[test]
fn masks_in_unknown_forms_are_refused() {
    let bench = Bench::new();
    let weight = || {
        (
            "c.weight",
            "F32",
            &[4usize, 4] as &[usize],
            f32_bytes([1.0; 16]),
        )
    };
    for name in [
        "c.pre_ops.0.op._binary_filter_pruning_mask",
        "__nncf_hooks.post_hooks.c:weight__0.0.mask",
        "__nncf_hooks.post_hooks.d:weight__0.0.binary_mask",
        "d._weight_mask",
    ] {
        bench.write(
            "a.st",
            &[weight(), (name, "F32", &[4, 4], f32_bytes([1.0; 16]))],
        );
        let said = bench.check("a.st a.st -o soup.st", 3);
        assert!(said.contains(name), "{said}");
        bench.check("inspect a.st", 0);
        bench.check(&format!("a.st a.st -o soup.st --force --exclude {name}"), 0);
    }
}

#[test]
fn movement_sparsity_masks_biases_too() {
    let bench = Bench::new();
    let tensors = [
        (
            "c.bias",
            "F32",
            &[2usize] as &[usize],
            f32_bytes([3.0, 4.0]),
        ),
        (
            "c.pre_ops.0.op.bias_ctx._binary_mask",
            "F32",
            &[2],
            f32_bytes([0.0, 1.0]),
        ),
        (
            "c.pre_ops.0.op.weight_ctx._binary_mask",
            "F32",
            &[2, 2],
            f32_bytes([1.0, 0.0, 1.0, 0.0]),
        ),
        ("c.weight", "F32", &[2, 2], f32_bytes([1.0, 2.0, 3.0, 4.0])),
    ];
    bench.write("a.st", &tensors);
    bench.check("a.st a.st -o soup.st", 0);
    assert_eq!(bench.tensor("soup.st", "c.bias"), f32_bytes([0.0, 4.0]));
    assert_eq!(
        bench.tensor("soup.st", "c.weight"),
        f32_bytes([1.0, 0.0, 3.0, 0.0])
    );
}

#[test]
fn an_accidental_zero_beside_a_stored_mask_is_tolerated() {
    let bench = Bench::new();
    let n = 300_000;
    let is_retained = |i: usize| i.is_multiple_of(2);
    let dense = f32_bytes((0..n).map(|i| 1.0 + i as f32));
    let mask = |also: usize| {
        (0..n)
            .map(|i| u8::from(is_retained(i) && i != also))
            .collect()
    };
    let pair = |also| {
        [
            (
                "w_orig",
                "F32",
                &[3usize, 100_000] as &[usize],
                dense.clone(),
            ),
            ("w_mask", "U8", &[3, 100_000], mask(also)),
        ]
    };
    let zeroed = f32_bytes((0..n).map(|i| {
        if is_retained(i) && i != 100_000 {
            1.0
        } else {
            0.0
        }
    }));
    bench.write("pair.st", &pair(1));
    bench.write("other.st", &pair(100_000));
    bench.write("plain.st", &[("w", "F32", &[3, 100_000], zeroed)]);
    bench.check("pair.st plain.st -o soup.st", 0);
    bench.check("pair.st plain.st -o strict.st --strict", 4);
    // A mask that is stored says so on purpose.
    bench.check("pair.st other.st -o other-soup.st", 4);
    bench.check("pair.st plain.st other.st -o other-soup.st", 4);
}

#[test]
fn false_certificates_are_not_proved() {
    let bench = Bench::new();
    let weight = |scale: f32| f32_bytes((0..16).map(|i| scale * (i % 3) as f32));
    bench.write("a.st", &[("w", "F32", &[4, 4], weight(1.0))]);
    bench.write("b.st", &[("w", "F32", &[4, 4], weight(2.0))]);
    bench.check("a.st b.st -o soup.st", 0);
    bench.check("verify soup.st a.st b.st", 0);
    let soup = fs::read(bench.0.path().join("soup.st")).unwrap();
    for (from, to) in [
        (r#"\"retained_zeros\":0"#, r#"\"retained_zeros\":1"#),
        (r#"\"retained\":10"#, r#"\"retained\":11"#),
        (r#"\"prunable\":16"#, r#"\"prunable\":17"#),
        (r#"\"prunable\":[]"#, r#"\"prunable\":[\"x\"]"#),
        (r#"\"weights\":[1.0,1.0]"#, r#"\"weights\":[1.0]"#),
    ] {
        let header_bytes = u64::from_le_bytes(soup[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&soup[8..8 + header_bytes]).unwrap();
        assert!(header.contains(from), "{from}: {header}");
        let header = header.replacen(from, to, 1);
        let mut forged = (header.len() as u64).to_le_bytes().to_vec();
        forged.extend(header.as_bytes());
        forged.extend(&soup[8 + header_bytes..]);
        fs::write(bench.0.path().join("forged.st"), forged).unwrap();
        bench.check("verify forged.st a.st b.st", 6);
    }
}
