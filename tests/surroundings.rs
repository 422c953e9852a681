//! Whole runs of the binary in surroundings that are against it: files that never end, links
//! that lead in circles, small limits, signals.

use std::fs;
use std::os::unix::fs::symlink;
#[cfg(feature = "train")]
use std::os::unix::process::ExitStatusExt;
#[cfg(feature = "train")]
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sms-merge");

/// Time in which everything here must be over.
const LIMIT: Duration = Duration::from_secs(60);

/// A directory to run the binary in.
struct Bench(tempfile::TempDir);

impl Bench {
    /// With the ingredients `a.st` and `b.st`.
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        bench.write("a.st", 1, 1.0);
        bench.write("b.st", 1, 2.0);
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a checkpoint of so many tensors of one element.
    fn write(&self, name: &str, n_tensors: usize, value: f32) {
        let entries: Vec<String> = (0..n_tensors)
            .map(|idx| {
                let (begin, end) = (4 * idx, 4 * idx + 4);
                format!(
                    r#""t{idx:06}":{{"dtype":"F32","shape":[1],"data_offsets":[{begin},{end}]}}"#
                )
            })
            .collect();
        let header = format!("{{{}}}", entries.join(","));
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        (0..n_tensors).for_each(|_| file.extend(value.to_le_bytes()));
        fs::write(self.at(name), file).unwrap();
    }

    fn fifo(&self, name: &str) {
        let made = Command::new("mkfifo").arg(self.at(name)).status().unwrap();
        assert!(made.success());
    }

    fn start(&self, program: &str, words: &[&str]) -> Child {
        Command::new(program)
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs the binary, which must end by itself, and returns what it said.
    #[track_caller]
    fn check(&self, words: &[&str], exit: i32) -> String {
        text(end(self.start(PROGRAM, words)), exit)
    }

    /// The same after the lines of a shell, such as `ulimit`.
    #[track_caller]
    fn check_after(&self, before: &str, words: &str, exit: i32) -> String {
        let line = format!("{before}\nexec {PROGRAM} {words}");
        text(end(self.start("bash", &["-c", &line])), exit)
    }
}

#[track_caller]
fn end(mut child: Child) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("it did not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

#[track_caller]
fn text(output: Output, exit: i32) -> String {
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{said}");
    said
}

#[test]
fn texts_are_regular_files_of_bounded_length() {
    let bench = Bench::new();
    bench.fifo("fifo");
    fs::create_dir(bench.at("directory")).unwrap();
    let huge = fs::File::create(bench.at("huge")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let cases = [
        ("fifo", "it is a fifo"),
        ("/dev/zero", "it is a device"),
        ("directory", "it is a directory"),
        ("huge", "it has 1099511627776 bytes"),
    ];
    for (name, expected) in cases {
        let said = bench.check(&["check", &format!("@{name}")], 5);
        assert!(said.contains(expected), "{said}");
        let best = ["merge", "a.st", "b.st", "-o", "s.st", "--best", "1"];
        let said = bench.check(&[&best[..], &["--metrics", name]].concat(), 5);
        assert!(said.contains(expected), "{said}");
    }
    // What a shell makes of a command is a pipe without a name.
    let said = bench.check_after("", "check @<(echo a.st; echo b.st)", 0);
    assert!(said.contains("2 ingredients"), "{said}");
}

#[cfg(feature = "train")]
#[test]
fn recipes_and_descriptions_are_regular_files() {
    let bench = Bench::new();
    bench.fifo("fifo");
    for name in ["fifo.toml", "zero.json"] {
        let target = if name == "fifo.toml" {
            "fifo"
        } else {
            "/dev/zero"
        };
        symlink(target, bench.at(name)).unwrap();
        let said = bench.check(&["model", name], 5);
        assert!(said.contains("expected a regular file"), "{said}");
        let said = bench.check(&["cycle", name, "--plan"], 5);
        assert!(said.contains("expected a regular file"), "{said}");
        fs::write(bench.at("r.toml"), format!("[model]\nname = \"{name}\"\n")).unwrap();
        let said = bench.check(&["cycle", "r.toml", "--plan"], 5);
        assert!(said.contains("expected a regular file"), "{said}");
    }
}

#[test]
fn links_in_circles_are_walked_once() {
    let bench = Bench::new();
    fs::create_dir_all(bench.at("loop/a")).unwrap();
    fs::rename(bench.at("a.st"), bench.at("loop/a/a.st")).unwrap();
    fs::rename(bench.at("b.st"), bench.at("loop/b.st")).unwrap();
    symlink("..", bench.at("loop/a/up")).unwrap();
    symlink(".", bench.at("loop/self")).unwrap();
    symlink("a.st", bench.at("loop/a/best.st")).unwrap();
    let said = bench.check_after("ulimit -v 4000000", "check 'loop/**/*.st'", 0);
    assert!(said.contains("2 ingredients share"), "{said}");
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn as_many_files_are_opened_as_the_hard_limit_permits() {
    let bench = Bench::new();
    for idx in 0..100 {
        bench.write(&format!("i{idx:03}.st"), 1, idx as f32);
    }
    let said = bench.check_after("ulimit -S -n 64", "check 'i*.st'", 0);
    assert!(said.contains("100 ingredients"), "{said}");
    let said = bench.check_after("ulimit -n 64", "check 'i*.st'", 5);
    assert!(
        said.contains("next: a process may have 64 files open"),
        "{said}"
    );
    // A command of the user's has the limit that the user has.
    let greedy =
        "a.st b.st -o s.st --method greedy --eval 'bash -c \"ulimit -S -n\" {soup}' --json";
    let said = bench.check_after("ulimit -S -n 64", greedy, 0);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(said.contains("64.0"), "{report}");
}

/// Starts a greedy merge whose command waits, and sends it a signal.
fn interrupted(before: &str, signal: Signal, command: &str) -> (Bench, Output) {
    let bench = Bench::new();
    let line = format!(
        "{before}\nexec {PROGRAM} a.st b.st -o s.st --method greedy --eval 'bash -c \"{command}\" \
         {{soup}}'"
    );
    let child = bench.start("bash", &["-c", &line]);
    let started = Instant::now();
    while !bench.at("begun").exists() {
        assert!(started.elapsed() < LIMIT, "nothing was evaluated");
        thread::sleep(Duration::from_millis(2));
    }
    kill_process(Pid::from_child(&child), signal).unwrap();
    let output = end(child);
    (bench, output)
}

#[test]
fn a_signal_leaves_nothing_and_its_number() {
    let wait = "touch begun; sleep 1000";
    for (signal, exit) in [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)] {
        let (bench, output) = interrupted("", signal, wait);
        assert_eq!(output.status.code(), Some(exit), "{:?}", output.status);
        let mut left: Vec<String> = fs::read_dir(bench.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["a.st", "b.st", "begun"]);
    }
}

#[test]
fn a_hang_up_that_is_ignored_stays_ignored() {
    let (bench, output) = interrupted("trap '' HUP", Signal::HUP, "touch begun; sleep .1; echo 1");
    assert_eq!(output.status.code(), Some(0), "{:?}", output.status);
    assert!(bench.at("s.st").exists());
}

#[test]
fn files_without_tensors_are_inspected_and_not_merged() {
    let bench = Bench::new();
    fs::write(bench.at("empty.st"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
    let header = br#"{"__metadata__":{"made":"by hand"}}"#;
    let mut noted = (header.len() as u64).to_le_bytes().to_vec();
    noted.extend(header);
    fs::write(bench.at("noted.st"), noted).unwrap();
    fs::create_dir(bench.at("sharded")).unwrap();
    fs::write(
        bench.at("sharded/model.safetensors.index.json"),
        r#"{"metadata":{},"weight_map":{}}"#,
    )
    .unwrap();
    // A model of ONNX with a graph that is called `g` and has nothing in it.
    fs::write(
        bench.at("empty.onnx"),
        b"\x08\x08\x3a\x03\x12\x01g\x42\x02\x10\x11",
    )
    .unwrap();
    // A dict of pickle protocol 2, as torch wrote one before 1.6: magic, version, system,
    // the dict, and no storages.
    let long = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let rest = b"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian\x88X\n\0\0\0type_sizes}u.\x80\x02}.\x80\x02].";
    fs::write(bench.at("empty.pt"), [&long[..], &rest[..]].concat()).unwrap();
    for name in ["empty.st", "noted.st", "sharded", "empty.onnx", "empty.pt"] {
        let said = bench.check(&["inspect", name], 0);
        assert!(said.contains(&format!("{name}: ")), "{said}");
        assert!(said.contains("no tensors"), "{said}");
        assert_eq!(
            said.contains("made = by hand"),
            name == "noted.st",
            "{said}"
        );
        let said = bench.check(&["inspect", name, "--json"], 0);
        let object: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(object["tensors"], serde_json::json!([]));
        bench.check(&["merge", name, name, "-o", "s.st"], 3);
        assert!(!bench.at("s.st").exists());
    }
    // What is no checkpoint is none.
    fs::write(bench.at("number.pt"), b"\x80\x02K\x01.").unwrap();
    bench.check(&["inspect", "number.pt"], 3);
}

#[test]
fn a_large_header_takes_memory_in_proportion() {
    let bench = Bench::new();
    bench.write("many.st", 60_000, 1.0);
    let header_kib = fs::metadata(bench.at("many.st")).unwrap().len() / 1024;
    for words in ["inspect many.st", "inspect many.st --json"] {
        // Nobody tells how much a process took that has ended; a bound tells enough.
        let most = 200_000 + 40 * header_kib;
        let words = format!("{words} --threads 1 > /dev/null");
        bench.check_after(&format!("ulimit -v {most}"), &words, 0);
    }
}

/// Outputs that cannot be written, whatever is computed for them.
#[cfg(feature = "train")]
#[test]
fn what_cannot_be_written_is_told_before_anything_is_computed() {
    let bench = Bench::new();
    let long = ["train", "--epochs", "1000000", "--model", "mlp"];
    for (output, exit, expected) in [
        ("/proc/x.st", 5, "`/proc/x.st` cannot be created"),
        ("none/x.st", 5, "directory `none` does not exist"),
    ] {
        let said = bench.check(&[&long[..], &["-o", output]].concat(), exit);
        assert!(said.contains(expected), "{said}");
        let state = ["-o", "x.st", "--state", output];
        let said = bench.check(&[&long[..], &state].concat(), exit);
        assert!(said.contains(expected), "{said}");
        let metrics = ["-o", "x.st", "--metrics", output];
        bench.check(&[&long[..], &metrics].concat(), 5);
        let said = bench.check(&["merge", "a.st", "b.st", "-o", output], exit);
        assert!(said.contains(expected), "{said}");
    }
    let few = [
        "train",
        "--epochs",
        "1",
        "--limit-train",
        "64",
        "--model",
        "mlp",
    ];
    bench.check(&[&few[..], &["-o", "x.st"]].concat(), 0);
    let commands: [&[&str]; 5] = [
        &["prune", "x.st", "--sparsity", "0.5", "-o", "/proc/x.st"],
        &["recalibrate", "x.st", "-o", "/proc/x.st"],
        &["eval", "x.st", "--confusion", "/proc/x.svg"],
        &["export", "x.st", "-o", "/proc/x.onnx"],
        &["export", "x.st", "-o", "/proc/x.safetensors"],
    ];
    for words in commands {
        let said = bench.check(words, 5);
        assert!(said.contains("cannot be created"), "{said}");
    }
    // Nothing was evaluated.
    let eval = ["--method", "greedy", "--eval", "touch evaluated {soup}"];
    let greedy = ["merge", "a.st", "b.st", "-o", "/proc/x.st"];
    let said = bench.check(&[&greedy[..], &eval].concat(), 5);
    assert!(said.contains("cannot be created"), "{said}");
    assert!(!bench.at("evaluated").exists());
}

/// Trains until the directory of the output is gone.
#[cfg(feature = "train")]
#[test]
fn what_was_trained_is_not_lost_with_its_place() {
    let bench = Bench::new();
    for name in ["out", "tmp"] {
        fs::create_dir(bench.at(name)).unwrap();
    }
    let words = "train --epochs 60 --limit-train 512 --model mlp --metrics m.jsonl -o out/x.st";
    let line = format!(
        "TMPDIR={} exec {PROGRAM} {words}",
        bench.at("tmp").display()
    );
    let child = bench.start("bash", &["-c", &line]);
    let started = Instant::now();
    while fs::metadata(bench.at("m.jsonl")).map_or(0, |found| found.len()) == 0 {
        assert!(started.elapsed() < LIMIT, "nothing was recorded");
        thread::sleep(Duration::from_millis(1));
    }
    fs::remove_dir(bench.at("out")).unwrap();
    let said = text(end(child), 5);
    assert!(
        said.contains("cannot be written to `out/x.st`: it is in"),
        "{said}"
    );
    let next = said.lines().find_map(|line| {
        let (_, command) = line.strip_prefix("next: ")?.split_once(", mv ")?;
        Some(format!("mv {command}"))
    });
    fs::create_dir(bench.at("out")).unwrap();
    let moved = bench.start("bash", &["-c", &next.unwrap()]);
    assert_eq!(end(moved).status.into_raw(), 0);
    let said = bench.check(&["eval", "out/x.st"], 0);
    assert!(said.contains("out/x.st") || said.contains("x.st"), "{said}");
}

#[cfg(feature = "train")]
#[test]
fn networks_that_do_not_fit_are_refused_with_numbers() {
    let bench = Bench::new();
    // Weights of 3.6 GB, of which no byte is made.
    let huge = ["--model", "mlp", "--model-option", "hidden=30000,30000"];
    let said = bench.check_after(
        "ulimit -v 4000000",
        &format!("train -o x.st {}", huge.join(" ")),
        5,
    );
    assert!(said.contains("bytes of memory at least"), "{said}");
    let recipe = "[model]\nname = \"mlp\"\noptions = { hidden = \"30000,30000\" }\n";
    fs::write(bench.at("r.toml"), recipe).unwrap();
    let started = Instant::now();
    let said = bench.check_after("ulimit -v 4000000", "cycle r.toml --plan", 0);
    assert!(said.contains("hours of training"), "{said}");
    assert!(said.contains("warning: a training takes"), "{said}");
    assert!(started.elapsed() < LIMIT / 2);
    let said = bench.check_after("ulimit -v 4000000", "cycle r.toml", 5);
    assert!(said.contains("bytes of memory at least"), "{said}");
    assert!(!bench.at("sms-run").exists());
}

/// A path that nothing outside a run directory may be reached by.
#[cfg(feature = "train")]
#[test]
fn what_others_put_into_a_run_directory_is_not_followed() {
    const RECIPE: &str = "[model]\nname = \"mlp\"\noptions = { hidden = \"8\" }\n\
        [data]\nlimit_train = 64\n[pretraining]\nepochs = 1\n[pruning]\nsparsity = 0.5\n\
        [retraining]\nepochs = 1\n[ingredients]\ncount = 2\n[run]\nretries = 0\n";
    let bench = Bench::new();
    fs::write(bench.at("r.toml"), RECIPE).unwrap();
    fs::write(bench.at("victim"), "kept").unwrap();
    let cycle = |exit| bench.check(&["cycle", "r.toml", "--run-dir", "run", "-q"], exit);
    let prepare = || {
        let _ = fs::remove_dir_all(bench.at("run"));
        for part in ["receipts", "artefacts", "jobs", "damaged"] {
            fs::create_dir_all(bench.at("run").join(part)).unwrap();
        }
    };
    let kept = || assert_eq!(fs::read(bench.at("victim")).unwrap(), b"kept");
    for name in [
        "lock",
        "recipe.toml",
        "report.html",
        "soup.safetensors",
        "journal.jsonl",
    ] {
        prepare();
        symlink("../victim", bench.at("run").join(name)).unwrap();
        let said = cycle(5);
        assert!(said.contains("a symbolic link"), "{name}: {said}");
        kept();
    }
    for part in ["receipts", "artefacts", "jobs"] {
        prepare();
        fs::create_dir(bench.at("elsewhere")).unwrap();
        fs::remove_dir(bench.at("run").join(part)).unwrap();
        symlink("../elsewhere", bench.at("run").join(part)).unwrap();
        let said = cycle(5);
        assert!(said.contains("a symbolic link"), "{part}: {said}");
        assert_eq!(fs::read_dir(bench.at("elsewhere")).unwrap().count(), 0);
        fs::remove_dir(bench.at("elsewhere")).unwrap();
    }
    // A whole run, whose files are changed then.
    let _ = fs::remove_dir_all(bench.at("run"));
    cycle(0);
    let first = |part: &str| -> PathBuf {
        let mut entries: Vec<PathBuf> = fs::read_dir(bench.at("run").join(part))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        entries.remove(0)
    };
    let receipt = first("receipts");
    fs::remove_file(&receipt).unwrap();
    bench.fifo(
        receipt
            .strip_prefix(bench.0.path())
            .unwrap()
            .to_str()
            .unwrap(),
    );
    bench.check(&["cycle", "status", "run"], 0);
    cycle(0);
    check_job(&bench, &first("jobs"));
    kept();
}

/// Changes `job.json` and runs it.
#[cfg(feature = "train")]
fn check_job(bench: &Bench, job: &Path) {
    let file = job.join("job.json");
    let whole = fs::read_to_string(&file).unwrap();
    let artefact = r#"{"file":"FILE","digest":"DIGEST","bytes":4}"#;
    let digest = sms_merge::tensor::Digest::of(b"kept").to_string();
    let key = job.file_name().unwrap().to_str().unwrap();
    let good = format!("{key}-1.checkpoint.st");
    for (role, name) in [
        ("../../../../out", good.as_str()),
        ("base", "../../victim"),
        ("base", &format!("{key}-1.x/../../../victim")),
    ] {
        let mut object: serde_json::Value = serde_json::from_str(&whole).unwrap();
        let input = artefact.replace("FILE", name).replace("DIGEST", &digest);
        object["inputs"][role] = serde_json::from_str(&input).unwrap();
        fs::write(&file, object.to_string()).unwrap();
        let said = bench.check(&["job", "run", job.to_str().unwrap()], 1);
        assert!(said.contains("cannot be used: its "), "{said}");
    }
    fs::remove_file(&file).unwrap();
    bench.fifo(file.strip_prefix(bench.0.path()).unwrap().to_str().unwrap());
    let said = bench.check(&["job", "run", job.to_str().unwrap()], 5);
    assert!(said.contains("it is a fifo"), "{said}");
}
