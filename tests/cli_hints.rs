//! Advice that the program prints, followed to the letter: the options in the first
//! backticks of `next:` are added to the command, or the command that stands there is run,
//! and then what was refused works.

mod files;

use std::fs;
use std::path::Path;

use files::Bench;
use files::Tensor;
use files::write;

/// A file with one layer, whose numbers are other ones for each seed.
fn layer(bench: &Bench, file: &str, name: &str, seed: usize) {
    let values: Vec<f32> = (0..24 * 32)
        .map(|j| 1.0 + ((j * 7 + seed * 3) % 11) as f32)
        .collect();
    write(
        &bench.at(file),
        &[Tensor::f32(name, &[24, 32], &values)],
        &[],
    );
}

/// A directory with the fixtures, and files that differ in what people's files differ in.
fn bench() -> Bench {
    let bench = Bench::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for name in ["a.st", "b.st", "c.st", "odd.st"] {
        fs::copy(fixtures.join(name), bench.at(name)).unwrap();
    }
    layer(&bench, "plain.st", "fc.weight", 1);
    layer(&bench, "prefixed.st", "module.fc.weight", 2);
    let ids = |dtype: &str, bytes: Vec<u8>| Tensor::raw("ids", dtype, &[4], bytes);
    let weight = |seed: u8| {
        let values: Vec<f32> = (0..64)
            .map(|j| f32::from(j + seed))
            .map(|v| v + 1.0)
            .collect();
        Tensor::f32("fc.weight", &[8, 8], &values)
    };
    write(
        &bench.at("u8_1.st"),
        &[weight(1), ids("U8", vec![1, 2, 3, 4])],
        &[],
    );
    write(
        &bench.at("u8_2.st"),
        &[weight(2), ids("U8", vec![1, 2, 3, 5])],
        &[],
    );
    write(
        &bench.at("f8_1.st"),
        &[weight(1), ids("F8_E4M3", vec![1, 2, 3, 4])],
        &[],
    );
    write(
        &bench.at("f8_2.st"),
        &[weight(2), ids("F8_E4M3", vec![1, 2, 3, 5])],
        &[],
    );
    write(
        &bench.at("f64.st"),
        &[weight(2).wide(), ids("U8", vec![1, 2, 3, 4])],
        &[],
    );
    let short = Tensor::f32("fc.weight", &[8, 8], &[1.0; 64]);
    write(&bench.at("short.st"), &[short], &[]);

    // One that drifted, in one element of a few hundred; and one that was not pruned.
    let masked = |keep: usize, back: usize, seed: usize| {
        let value = move |j: usize| match j {
            _ if j.is_multiple_of(keep) || j == back => 1.0 + ((j + seed) % 5) as f32,
            _ => 0.0,
        };
        let values: Vec<f32> = (0..64 * 64).map(value).collect();
        vec![Tensor::f32("fc.weight", &[64, 64], &values)]
    };
    write(&bench.at("parent.st"), &masked(4, 0, 0), &[]);
    write(&bench.at("drift.st"), &masked(4, 5, 1), &[]);
    write(&bench.at("unpruned.st"), &masked(1, 0, 2), &[]);
    for line in [
        "a.st b.st -o soup.st",
        "mask union a.st b.st -o mask.st",
        "a.st b.st --mask mask.st -o masked.st",
    ] {
        assert!(bench.run(line).status.success(), "{line}");
    }
    bench
}

/// Runs `line`, which is refused with `exit`, and follows what is said to do next.
#[track_caller]
fn check(line: &str, exit: i32) {
    let bench = bench();
    let output = bench.run(line);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{line}: {text}");
    let next = text
        .lines()
        .find_map(|line| line.strip_prefix("next: "))
        .unwrap_or_else(|| panic!("{line} is refused without advice: {text}"));
    bench.follow(line, next, 0);
}

#[test]
fn tensors_that_do_not_go_together() {
    check("plain.st prefixed.st -o s.st", 3);
    check("u8_1.st f64.st -o s.st", 3);
    check("u8_1.st short.st -o s.st", 3);
    check("short.st u8_1.st -o s.st", 3);
    check("check u8_1.st short.st", 3);
    check("u8_1.st u8_2.st -o s.st", 3);
    check("f8_1.st f8_2.st -o s.st", 3);
    check("a.st plain.st -o s.st", 3);
}

#[test]
fn masks_that_differ() {
    check("parent.st drift.st -o s.st", 4);
    check("parent.st unpruned.st -o s.st", 4);
}

#[test]
fn soups_and_other_files() {
    check("verify soup.st a.st", 2);
    check("verify soup.st a.st b.st c.st", 2);
    check("verify soup.st a.st plain.st", 3);
}

#[test]
fn commands_and_names() {
    check("chek a.st b.st", 2);
    check("prune a.st -o s.st", 2);
}
