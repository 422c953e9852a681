//! Merges with `--device cuda` on the stand-in for the driver: the bytes of the processor,
//! and errors that say what to do.

mod standin;

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

const INGREDIENTS: [&str; 3] = ["fixtures/a.st", "fixtures/b.st", "fixtures/c.st"];

/// A folder for outputs, and the stand-in's.
struct Bench {
    scratch: tempfile::TempDir,
    driver: PathBuf,
}

impl Bench {
    /// `None`, with a message, where there is no g++.
    fn new() -> Option<Self> {
        Some(Self {
            driver: standin::folder()?,
            scratch: tempfile::tempdir().unwrap(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn run(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sms-merge"))
            .args(arguments)
            .env("LD_LIBRARY_PATH", &self.driver)
            .envs(settings.iter().copied())
            .output()
            .unwrap()
    }

    /// Merges on the processor and on devices, and compares the files.
    fn compare(&self, arguments: &[&str], device: &str, settings: &[(&str, &str)]) {
        let soup = |device: &str| {
            let path = self.path(&device.replace(':', "-"));
            let mut all = arguments.to_vec();
            let text = path.to_str().unwrap();
            all.extend(["--force", "--device", device, "-o", text]);
            let done = self.run(&all, settings);
            let log = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{all:?}: {log}");
            assert_eq!(log.contains("stand-in"), device != "cpu", "{log}");
            std::fs::read(path).unwrap()
        };
        assert!(soup("cpu") == soup(device), "{arguments:?} on {device}");
    }
}

fn words<'a>(ingredients: &[&'a str], more: &'a str) -> Vec<&'a str> {
    ingredients
        .iter()
        .copied()
        .chain(more.split_whitespace())
        .collect()
}

#[test]
fn a_soup_has_the_same_bytes_from_a_device() {
    let Some(bench) = Bench::new() else { return };
    for more in [
        "",
        "--dtype f16",
        "--dtype bf16",
        "--dtype f64 --distances on",
        "-w 0.5,0.3,-0.1 --no-normalize",
        "--layout bitmask",
        "--layout torch-prune",
        "--no-mmap --threads 1",
    ] {
        bench.compare(&words(&INGREDIENTS, more), "cuda", &[]);
        let odd = [("STANDIN_PLACE", "odd")];
        bench.compare(&words(&INGREDIENTS, more), "cuda", &odd);
    }
    let two = [("STANDIN_DEVICES", "2")];
    bench.compare(&INGREDIENTS, "cuda:1,cuda:0", &two);
}

#[test]
fn ingredients_that_store_masks_have_the_same_bytes_from_a_device() {
    let Some(bench) = Bench::new() else { return };
    for layout in ["bitmask", "torch-prune", "compressed-tensors"] {
        let stored = INGREDIENTS.map(|ingredient| {
            let name = Path::new(ingredient).file_name().unwrap().to_str().unwrap();
            let path = bench.path(&format!("{layout}-{name}"));
            let text = path.to_str().unwrap().to_owned();
            let arguments = ["export", ingredient, "-o", &text, "--layout", layout];
            let done = bench.run(&arguments, &[]);
            assert!(done.status.success(), "{done:?}");
            text
        });
        let stored = stored.each_ref().map(String::as_str);
        for more in ["", "--layout dense", "--layout bitmask --dtype bf16"] {
            bench.compare(&words(&stored, more), "cuda", &[]);
        }
    }
}

#[test]
fn a_device_proves_and_refuses_as_the_processor_does() {
    let Some(bench) = Bench::new() else { return };
    let soup = bench.path("soup.st");
    let soup = soup.to_str().unwrap();
    let merged = bench.run(&words(&INGREDIENTS, &format!("-o {soup}")), &[]);
    assert!(merged.status.success());
    for arguments in [
        words(&["verify", soup], ""),
        [&["verify", soup][..], &INGREDIENTS].concat(),
        [&["check"][..], &INGREDIENTS].concat(),
        [&["check", "fixtures/odd.st"][..], &INGREDIENTS].concat(),
        [&["merge", "--plan", "fixtures/odd.st"][..], &INGREDIENTS].concat(),
    ] {
        let run = |device| bench.run(&[&arguments[..], &["--device", device]].concat(), &[]);
        let (cpu, cuda) = (run("cpu"), run("cuda"));
        assert_eq!(cpu.status.code(), cuda.status.code(), "{arguments:?}");
        if !arguments.contains(&"--plan") {
            assert_eq!(cpu.stdout, cuda.stdout, "{arguments:?}");
        }
    }
}

#[test]
fn devices_that_fail_are_named_and_nothing_is_written() {
    let Some(bench) = Bench::new() else { return };
    let output = bench.path("soup.st");
    let check = |more: &str, settings: &[(&str, &str)], code: i32, expected: &str| {
        let more = format!("{more} -o {}", output.display());
        let done = bench.run(&words(&INGREDIENTS, &more), settings);
        let log = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{log}");
        assert!(log.contains(expected), "{log}");
        assert!(!output.exists());
    };
    check(
        "--device cuda:1",
        &[],
        1,
        "no device cuda:1: the driver has 1",
    );
    check(
        "--device cuda",
        &[("STANDIN_DEVICES", "0")],
        1,
        "no device cuda:0",
    );
    check(
        "--device cuda",
        &[("STANDIN_CAPABILITY", "7")],
        1,
        "compute capability 7.0",
    );
    check(
        "--device cuda",
        &[("STANDIN_MEMORY", "9999")],
        1,
        "bytes of free memory",
    );
    let few = "--device cuda --device-memory 10KB";
    check(few, &[], 2, "bytes of device memory are too few");
    let lost = [("STANDIN_FAIL", "cuLaunchKernel:1:719")];
    check("--device cuda", &lost, 1, "cuda:0 failed to start a kernel");
    let lost = [("STANDIN_FAIL", "cuEventSynchronize:1:700")];
    check("--device cuda", &lost, 1, "nothing was written");
    check("--device auto,cpu", &[], 2, "`auto` stands alone");
}

/// Candidates that are turned down one after the other are tried with the same buffers.
#[test]
fn later_passes_take_the_buffers_of_earlier_ones() {
    let Some(bench) = Bench::new() else { return };
    let path = bench.path("greedy.st");
    // Ingredients are better than every soup: trials are all of two.
    let evaluate = "sh -c 'case $1 in fixtures/*) echo 0.5;; *) echo 0.1;; esac' - {checkpoint}";
    let mut arguments = words(&INGREDIENTS, "--method greedy --device cuda --force -o");
    arguments.extend([path.to_str().unwrap(), "--eval", evaluate]);
    // A lane has two pinned buffers, and one lane each have the proof of all masks, both
    // trials together, and the soup of the one ingredient that is left.
    let with = |n_buffers| {
        let failure = format!("cuMemHostAlloc:{}:2", n_buffers + 1);
        let done = bench.run(&arguments, &[("STANDIN_FAIL", &failure)]);
        done.status.success()
    };
    assert!(with(6));
    assert!(!with(5));
}
