//! What a person sees: tables on a terminal of 80 columns, colours, quiet runs, the version,
//! and what programs are told of a wrong command line.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::termios::tcsetwinsize;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

const COLUMNS: u16 = 80;

fn sms_merge(directory: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
    command
        .args(words)
        .current_dir(directory)
        .stdin(Stdio::null());
    // Whatever the tests themselves run under.
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "CI"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm");
    command
}

fn run(directory: &Path, words: &[&str]) -> Output {
    sms_merge(directory, words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Which stream a terminal shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Output,
    Errors,
}

/// What a terminal of [`COLUMNS`] columns is sent, and the exit status.
fn on_terminal(mut command: Command, shown: Shown) -> (String, i32) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: COLUMNS,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&slave, size).unwrap();
    match shown {
        Shown::Output => command.stdout(slave).stderr(Stdio::null()),
        Shown::Errors => command.stdout(Stdio::null()).stderr(slave),
    };
    let mut child = command.spawn().unwrap();
    // Its copy of the terminal's other end: while that is open, reading does not end.
    drop(command);

    let mut terminal = File::from(master);
    let mut sent = Vec::new();
    let mut buffer = [0; 4096];
    // Once nobody has it open, reading from it fails.
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        sent.extend(&buffer[..count]);
    }
    let status = child.wait().unwrap().code().unwrap();
    (text(&sent).replace("\r\n", "\n"), status)
}

/// The lines that stay, without what a bar drew and took away before them.
fn lines(sent: &str) -> Vec<&str> {
    sent.lines()
        .map(|line| line.rsplit("\u{1b}[2K").next().unwrap_or(line))
        .map(|line| line.rsplit('\r').next().unwrap_or(line))
        .collect()
}

/// Writes F32 tensors in which all but every tenth weight of matrices is zero.
fn write(path: &Path, shapes: &[(String, Vec<usize>)], first: usize) {
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, shape)| {
            let numel: usize = shape.iter().product();
            let value = |idx: usize| match shape.len() > 1 && !(idx + first).is_multiple_of(10) {
                true => 0.0_f32,
                false => 1.0 + idx as f32,
            };
            (0..numel)
                .flat_map(|idx| value(idx).to_le_bytes())
                .collect()
        })
        .collect();
    let tensors = shapes.iter().zip(&data).map(|((name, shape), data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).unwrap();
        (name.clone(), view)
    });
    let tensors: BTreeMap<String, TensorView<'_>> = tensors.collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).unwrap();
}

/// The names of a Llama of two layers, with shapes that are long to write.
fn llama() -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![
        ("lm_head.weight".to_owned(), vec![12_000, 16]),
        ("model.embed_tokens.weight".to_owned(), vec![12_000, 16]),
        ("model.norm.weight".to_owned(), vec![16]),
    ];
    for layer in [0, 1] {
        for (name, shape) in [
            ("input_layernorm", vec![16]),
            ("post_attention_layernorm", vec![16]),
            ("mlp.down_proj", vec![16, 12_000]),
            ("self_attn.q_proj", vec![16, 16]),
            ("self_attn.k_proj", vec![16, 16]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    shapes
}

/// Three checkpoints with long names: two share a mask, the third has another.
fn bench() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, first) in [
        ("an-ingredient-with-a-long-name-of-seed-1.safetensors", 0),
        ("an-ingredient-with-a-long-name-of-seed-2.safetensors", 0),
        ("an-ingredient-with-another-mask-seed-3.safetensors", 5),
    ] {
        write(&directory.path().join(name), &llama(), first);
    }
    directory
}

const FIRST: &str = "an-ingredient-with-a-long-name-of-seed-1.safetensors";
const SECOND: &str = "an-ingredient-with-a-long-name-of-seed-2.safetensors";
const ODD: &str = "an-ingredient-with-another-mask-seed-3.safetensors";

/// Whether a line belongs to a table: sentences are as long as they are.
fn is_of_table(line: &str) -> bool {
    let marks = ["`", ": ", "; ", "metadata "];
    !marks.iter().any(|mark| line.contains(mark))
}

/// Runs on a terminal and into a pipe. Lines of tables fit the terminal, and nothing of what
/// the pipe was sent is missing there.
#[track_caller]
fn check_fits(directory: &Path, words: &[&str], shown: Shown, expected: i32) {
    let (sent, status) = on_terminal(sms_merge(directory, words), shown);
    assert_eq!(status, expected, "{words:?}\n{sent}");
    let seen = lines(&sent);
    for line in seen.iter().filter(|line| is_of_table(line)) {
        let width = line.chars().count();
        assert!(width <= usize::from(COLUMNS), "{words:?}: {width}: {line}");
    }

    let output = run(directory, words);
    let whole = text(match shown {
        Shown::Output => &output.stdout,
        Shown::Errors => &output.stderr,
    });
    // Every sign, whatever the lines: names may be broken.
    let signs = |lines: &[&str]| {
        // Above the last table of a run stands a sentence of several lines.
        let first = lines.iter().position(|line| line.starts_with("phase "));
        let of_tables = lines[first.unwrap_or(0)..]
            .iter()
            .filter(|line| is_of_table(line));
        let mut signs: Vec<char> = of_tables.flat_map(|line| line.chars()).collect();
        signs.retain(|sign| !sign.is_whitespace());
        signs.sort_unstable();
        String::from_iter(signs)
    };
    let in_pipe = signs(&whole.lines().collect::<Vec<_>>());
    assert!(!in_pipe.is_empty(), "{words:?}");
    assert_eq!(signs(&seen), in_pipe, "{words:?}\n{sent}");
}

#[test]
fn tables_fit_80_columns_and_lose_nothing() {
    let bench = bench();
    let directory = bench.path();
    let check = |words: &[&str], expected| check_fits(directory, words, Shown::Output, expected);
    check(&["inspect", FIRST], 0);
    check(&["check", FIRST, SECOND, "-v"], 0);
    check(&["mask", "diff", FIRST, SECOND, "-v"], 0);
    check(&["mask", "diff", FIRST, ODD], 4);
    check(&[FIRST, SECOND, "-o", "soup.st", "--plan"], 0);
    check(
        &["prune", FIRST, "--of-remaining", "0.5", "--plan", "-v"],
        0,
    );
    check(&["model", "resnet20"], 0);
    let (sent, _) = on_terminal(sms_merge(directory, &["model", "--list"]), Shown::Output);
    assert!(
        lines(&sent).iter().all(|line| line.chars().count() <= 80),
        "{sent}"
    );
    check(&["model", "vgg16-bn", "-v"], 0);
    let (sent, status) = on_terminal(sms_merge(directory, &["check", FIRST, ODD]), Shown::Output);
    assert_eq!(status, 4);
    let long = |line: &&&str| is_of_table(line) && line.chars().count() > 80;
    assert_eq!(lines(&sent).iter().find(long), None);

    // What goes to standard error is laid out for the terminal there.
    let check = |words: &[&str], expected| check_fits(directory, words, Shown::Errors, expected);
    let layout = ["--layout", "compressed-tensors", "--force"];
    check(
        &[&["export", FIRST, "-o", "small.st"], layout.as_slice()].concat(),
        0,
    );
    check(&[FIRST, SECOND, "-o", "soup.st", "-v", "--force"], 0);
}

#[cfg(feature = "train")]
#[test]
fn tables_of_the_trainer_fit_80_columns() {
    let bench = tempfile::tempdir().unwrap();
    let directory = bench.path();
    let recipe = "seeds = [0, 1]\n[model]\nname = \"mlp\"\noptions = { hidden = \"8\" }\n\
                  [data]\nlimit_train = 200\n[pretraining]\nepochs = 1\n[pruning]\nphases = 2\n\
                  [retraining]\nepochs = 1\n[ingredients]\ncount = 2\n";
    std::fs::write(directory.join("r.toml"), recipe).unwrap();
    check_fits(directory, &["data", "digits"], Shown::Output, 0);
    check_fits(directory, &["cycle", "r.toml", "--plan"], Shown::Output, 0);
    let status = run(directory, &["cycle", "r.toml", "-q"]).status;
    assert!(status.success());
    check_fits(directory, &["cycle", "r.toml"], Shown::Output, 0);
    check_fits(directory, &["cycle", "status", "-v"], Shown::Output, 0);
    let name = "sms-run/named/seed-0/phase-1/ingredient-1.safetensors";
    let other = "sms-run/named/seed-1/phase-2/imp-m-times-prune.safetensors";
    check_fits(directory, &["eval", name], Shown::Output, 0);
    let (sent, _) = on_terminal(sms_merge(directory, &["inspect", name]), Shown::Output);
    let seen = lines(&sent).into_iter();
    let metadata: Vec<&str> = seen.filter(|line| line.starts_with("metadata ")).collect();
    assert_eq!(metadata.len(), 3, "{sent}");
    assert!(
        metadata.iter().all(|line| line.chars().count() <= 80),
        "{sent}"
    );
    check_fits(
        directory,
        &["eval", name, other, name, "--ood"],
        Shown::Output,
        0,
    );
    let train = ["train", "-o", "a.st", "--model-option", "hidden=8"];
    let train = [&train, ["-e", "1", "--limit-train", "200", "-f"].as_slice()].concat();
    check_fits(directory, &train, Shown::Errors, 0);
    check_fits(
        directory,
        &["export", "sms-run/soup.safetensors", "-o", "a.onnx", "-f"],
        Shown::Output,
        0,
    );
}

#[test]
fn labels_and_help_are_coloured_on_terminals_alone() {
    let bench = tempfile::tempdir().unwrap();
    let wrong = ["check", "missing-1.st", "missing-2.st"];
    let red = "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m";
    let with = |name: &str, value: &str, words: &[&str]| {
        let mut command = sms_merge(bench.path(), words);
        command.env(name, value);
        command
    };
    let shown = |name, value| on_terminal(with(name, value, &wrong), Shown::Errors).0;
    assert!(shown("NAME", "").starts_with(red));
    for (name, value) in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
        let sent = shown(name, value);
        assert!(sent.starts_with("error:"), "{name}: {sent}");
        assert!(!sent.contains('\u{1b}'), "{name}: {sent}");
    }
    let help = |name, value| on_terminal(with(name, value, &["--help"]), Shown::Output).0;
    assert!(help("NAME", "").contains("\u{1b}[1m"));
    assert!(!help("NO_COLOR", "1").contains('\u{1b}'));

    // Into a pipe nothing is coloured, unless that is forced; JSON never is.
    let output = run(bench.path(), &wrong);
    assert!(!text(&output.stderr).contains('\u{1b}'));
    assert!(!text(&run(bench.path(), &["--help"]).stdout).contains('\u{1b}'));
    let forced = with("CLICOLOR_FORCE", "1", &wrong).output().unwrap();
    assert!(text(&forced.stderr).starts_with(red));
    let json = [&wrong, ["--json"].as_slice()].concat();
    let forced = with("CLICOLOR_FORCE", "1", &json).output().unwrap();
    assert!(!text(&forced.stdout).contains('\u{1b}'));
    assert!(forced.stderr.is_empty());
    serde_json::from_slice::<Value>(&forced.stdout).unwrap();
}

#[test]
fn quiet_runs_say_nothing_but_what_is_wrong() {
    let bench = bench();
    let directory = bench.path();
    let merged = run(directory, &[FIRST, SECOND, "-o", "soup.st", "-q"]);
    assert!(merged.status.success());
    for words in [
        &["check", FIRST, SECOND, "-q"] as &[&str],
        &["verify", "soup.st", "-q"],
        &["verify", "soup.st", FIRST, SECOND, "-q"],
        &["mask", "diff", FIRST, SECOND, "-q"],
    ] {
        let output = run(directory, words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert_eq!(text(&output.stdout), "", "{words:?}");
        assert_eq!(text(&output.stderr), "", "{words:?}");
    }
    let check = |words: &[&str], status: i32, expected: &str| {
        let output = run(directory, words);
        assert_eq!(output.status.code(), Some(status), "{words:?}");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains(expected), "{words:?}: {said}");
    };
    check(&["check", FIRST, ODD, "-q"], 4, "masks differ in 8 of 8");
    check(&["mask", "diff", FIRST, ODD, "-q"], 4, "differ");
    let mut bytes = std::fs::read(directory.join("soup.st")).unwrap();
    *bytes.last_mut().unwrap() ^= 0x40;
    std::fs::write(directory.join("soup.st"), bytes).unwrap();
    check(
        &["verify", "soup.st", "-q"],
        6,
        "is not what its certificate says",
    );
}

#[test]
fn the_version_names_the_commit() {
    let bench = tempfile::tempdir().unwrap();
    let shown = text(&run(bench.path(), &["--version"]).stdout);
    let rest = shown.trim_end().strip_prefix("sms-merge ").unwrap();
    let (version, commit) = rest.split_once(' ').unwrap_or((rest, ""));
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let git = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    // Sources that were unpacked from a package have no git beside them.
    let is_checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists();
    match git {
        Ok(output) if is_checkout && output.status.success() => {
            let head = text(&output.stdout);
            let commit = commit.trim_matches(['(', ')']);
            let (commit, day) = commit.split_once(", ").unwrap();
            let commit = commit.trim_end_matches("-dirty");
            assert!(commit.len() >= 7 && head.starts_with(commit), "{shown}");
            assert_eq!(day.len(), "2026-01-31".len(), "{shown}");
        }
        _ => println!("skipped: there is no git, or no checkout"),
    }
}

#[test]
fn the_bytes_of_a_soup_do_not_depend_on_the_commit() {
    let bench = bench();
    let directory = bench.path();
    assert!(
        run(directory, &[FIRST, SECOND, "-o", "soup.st", "-q"])
            .status
            .success()
    );
    let output = run(directory, &["inspect", "soup.st", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tool = concat!("sms-merge ", env!("CARGO_PKG_VERSION"));
    assert_eq!(object["certificate"]["tool"], tool);
}

#[test]
fn programs_are_told_which_argument_is_wrong() {
    let bench = tempfile::tempdir().unwrap();
    let check = |words: &[&str], argument: Value| {
        let output = run(bench.path(), words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        let error = &object["error"];
        assert_eq!(error["kind"], "usage", "{words:?}");
        assert_eq!(error["argument"], argument, "{words:?}: {error}");
    };
    check(&["a.st", "b.st", "--json"], "--output".into());
    check(
        &["a.st", "b.st", "-o", "c.st", "--frist", "--json"],
        "--frist".into(),
    );
    check(&["check", "--json"], "INGREDIENT".into());
    check(
        &["check", "a.st", "b.st", "--threads", "0", "--json"],
        "--threads".into(),
    );
    check(&["verify", "--json"], "SOUP".into());
    // What clap does not know, the program says.
    check(
        &["check", "a.st", "b.st", "--metric", "x", "--json"],
        "--metric".into(),
    );
}

#[cfg(feature = "train")]
#[test]
fn a_recipe_is_printed_or_written_and_never_replaced() {
    let bench = tempfile::tempdir().unwrap();
    let directory = bench.path();
    let printed = run(directory, &["cycle", "--init"]);
    assert!(printed.status.success() && printed.stderr.is_empty());
    let written = run(directory, &["cycle", "--init", "r.toml"]);
    assert!(written.status.success() && written.stdout.is_empty());
    assert!(text(&written.stderr).contains("next: sms-merge cycle r.toml --plan"));
    let path = directory.join("r.toml");
    assert_eq!(std::fs::read(&path).unwrap(), printed.stdout);
    let planned = run(directory, &["cycle", "r.toml", "--plan"]);
    assert!(planned.status.success());
    assert!(text(&planned.stdout).contains("25 steps"));

    std::fs::write(&path, "mine").unwrap();
    let refused = run(directory, &["cycle", "--init", "r.toml"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("`r.toml` exists"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert!(!directory.join("sms-run").exists());
}
