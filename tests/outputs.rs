//! Whole runs of the binary whose output, inputs or surroundings are hostile:
//! nothing is lost, nothing is left behind, and nothing blocks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_sms-merge");
/// Far longer than any run here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// After how long running merges are disturbed; a debug build on a busy machine
/// takes longer than a release build on an idle one.
const DELAYS_MS: [u64; 8] = [60, 120, 30, 200, 90, 15, 400, 45];

/// Ingredients in a directory of their own.
fn ingredients() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for name in ["a", "b"] {
        let file = fixtures.join(format!("{name}.st"));
        fs::copy(&file, root.path().join(format!("{name}.st"))).unwrap();
        let directory = root.path().join(name);
        fs::create_dir(&directory).unwrap();
        fs::copy(&file, directory.join("model.safetensors")).unwrap();
        fs::write(directory.join("config.json"), "{}").unwrap();
    }
    root
}

fn sms_merge(directory: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.current_dir(directory).stdin(Stdio::null());
    command
}

/// The binary as the shell starts it after `setup`.
fn after(setup: &str, directory: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{setup}; exec \"$@\""), "sh", BINARY])
        .current_dir(directory)
        .stdin(Stdio::null());
    command
}

/// Waits for a run that must neither block nor panic.
fn finish(mut child: Child) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the run blocks");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    output
}

fn run(command: &mut Command, words: &[impl AsRef<OsStr>]) -> Output {
    let child = command
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    finish(child.unwrap())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn expect(output: &Output, status: i32, message: &str) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(stderr.contains(message), "expected `{message}`: {stderr}");
}

/// Everything below a directory; what a link or a special file is, not what it leads to.
fn tree(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let content = if kind.is_dir() {
                open.push(path.clone());
                b"directory".to_vec()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_vec()
            } else if kind.is_file() {
                fs::read(&path).unwrap()
            } else {
                b"special".to_vec()
            };
            found.insert(path, content);
        }
    }
    found
}

fn names(directory: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}

/// A checkpoint of one tensor of zeros, which takes no space on most file systems.
fn write_zeros(path: &Path, mebibytes: u64) {
    let rows = mebibytes << 8;
    let bytes = mebibytes << 20;
    let header =
        format!(r#"{{"w":{{"dtype":"F32","shape":[{rows},1024],"data_offsets":[0,{bytes}]}}}}"#);
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
}

/// `n` ingredients called `big0.st`, `big1.st` ...
fn big_ingredients(n: usize, mebibytes: u64) -> (TempDir, Vec<String>) {
    let root = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..n).map(|i| format!("big{i}.st")).collect();
    for name in &names {
        write_zeros(&root.path().join(name), mebibytes);
    }
    (root, names)
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let root = ingredients();
    let path = |name: &str| root.path().join(name);
    fs::create_dir(path("sub")).unwrap();
    symlink("a.st", path("link.st")).unwrap();
    fs::hard_link(path("b.st"), path("hard.st")).unwrap();
    symlink(".", path("linked")).unwrap();
    symlink("a", path("linked-a")).unwrap();
    // A directory of shards with an index, as the Hugging Face cache keeps them.
    let words = ["a.st", "b.st", "-o", "cut", "--shard-size", "16KB", "-q"];
    expect(&run(&mut sms_merge(root.path()), &words), 0, "");
    fs::rename(
        path("cut/model-00001-of-00003.safetensors"),
        path("blob.st"),
    )
    .unwrap();
    symlink("../blob.st", path("cut/model-00001-of-00003.safetensors")).unwrap();
    let mask = path("mask.st");
    fs::copy(path("a.st"), &mask).unwrap();
    fs::write(path("broken.st"), "{").unwrap();
    fs::write(
        path("metrics.json"),
        r#"{"a.st": {"x": 1}, "b.st": {"x": 2}}"#,
    )
    .unwrap();
    let absolute = path("a.st");
    let before = tree(root.path());
    let check = |inputs: &[&str], output: &str| {
        for force in [
            &[] as &[&str],
            &["--force"],
            &["--force", "--shard-size", "1KB"],
        ] {
            let words = [inputs, &["-o", output], force].concat();
            let result = run(&mut sms_merge(root.path()), &words);
            assert_eq!(
                result.status.code(),
                Some(2),
                "{words:?} {}",
                stderr(&result)
            );
            let is_cut = force.len() > 1;
            assert!(
                is_cut || stderr(&result).contains("is the input"),
                "{words:?}: {}",
                stderr(&result)
            );
            assert!(tree(root.path()) == before, "{words:?}");
        }
    };
    let files = ["a.st", "b.st"];
    check(&files, "a.st");
    check(&files, "b.st");
    check(&files, "./a.st");
    check(&files, "sub/../b.st");
    check(&files, absolute.to_str().unwrap());
    check(&files, "link.st");
    check(&files, "hard.st");
    check(&files, "linked/a.st");
    check(&files, "linked/link.st");
    check(&["link.st", "b.st"], "a.st");
    check(&["a", "b"], "a");
    check(&["a", "b"], "b/");
    check(&["a", "b"], "linked-a");
    check(&["a", "b"], "linked-a/");
    check(&["a", "b"], "a/model.safetensors");
    check(&["linked-a", "b"], "a/model.safetensors");
    check(&["a.st", "cut"], "cut");
    check(&["a.st", "cut"], "cut/model-00002-of-00003.safetensors");
    check(&["a.st", "cut"], "blob.st");
    check(&["a.st", "cut"], "cut/model.safetensors.index.json");
    check(
        &["a.st", "cut/model.safetensors.index.json"],
        "cut/model.safetensors.index.json",
    );
    check(&["a.st", "b.st", "--mask", "mask.st"], "mask.st");
    check(&["a.st", "b.st", "--mask", "mask.st"], "./linked/mask.st");
    // Nothing needs to be a checkpoint for that.
    check(&["broken.st", "b.st"], "broken.st");
    let metrics = ["--best", "2", "--metrics", "metrics.json", "--metric", "x"];
    check(&[&files, &metrics[..]].concat(), "metrics.json");
}

#[test]
fn an_existing_output_needs_force() {
    let root = ingredients();
    let soup = root.path().join("soup.st");
    fs::write(&soup, "old").unwrap();
    let directory = root.path().join("soup");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("model.safetensors"), "old").unwrap();
    let before = tree(root.path());
    let check = |words: &[&str], message| {
        expect(&run(&mut sms_merge(root.path()), words), 2, message);
        assert!(tree(root.path()) == before);
    };
    check(&["a.st", "b.st", "-o", "soup.st"], "--force");
    check(&["a", "b", "-o", "soup"], "--force");
    let words = ["a.st", "b.st", "-o", "soup.st", "--force"];
    expect(&run(&mut sms_merge(root.path()), &words), 0, "");
    assert_ne!(fs::read(&soup).unwrap(), b"old");
    // A directory with anything else in it is no old soup.
    fs::write(directory.join("thesis.tex"), "years of work").unwrap();
    let words = ["a", "b", "-o", "soup", "--force"];
    expect(&run(&mut sms_merge(root.path()), &words), 2, "thesis.tex");
    fs::remove_file(directory.join("thesis.tex")).unwrap();
    expect(&run(&mut sms_merge(root.path()), &words), 0, "");
    assert_eq!(names(&directory), ["config.json", "model.safetensors"]);
}

#[test]
fn links_stay_links() {
    let root = ingredients();
    let path = |name: &str| root.path().join(name);
    fs::create_dir(path("elsewhere")).unwrap();
    fs::write(path("elsewhere/old.st"), "old").unwrap();
    symlink("elsewhere/old.st", path("link.st")).unwrap();
    symlink("elsewhere/new.st", path("dangling.st")).unwrap();
    symlink("nowhere/new.st", path("lost.st")).unwrap();
    let merge = |output: &str| {
        let words = ["a.st", "b.st", "-o", output, "--force", "-q"];
        run(&mut sms_merge(root.path()), &words)
    };
    expect(&merge("link.st"), 0, "");
    expect(&merge("dangling.st"), 0, "");
    expect(
        &merge("lost.st"),
        5,
        "nowhere` does not exist; create it first",
    );
    for link in ["link.st", "dangling.st", "lost.st"] {
        assert!(path(link).is_symlink());
    }
    let soup = fs::read(path("elsewhere/old.st")).unwrap();
    assert!(soup.len() > 10_000);
    assert!(fs::read(path("elsewhere/new.st")).unwrap() == soup);
    assert_eq!(names(&path("elsewhere")), ["new.st", "old.st"]);
}

#[test]
fn new_outputs_respect_the_umask() {
    let root = ingredients();
    for (umask, file, directory) in [("022", 0o644, 0o755), ("077", 0o600, 0o700)] {
        let setup = format!("umask {umask}");
        let soup = format!("{umask}.st");
        let words = ["a.st", "b.st", "-o", soup.as_str()];
        expect(&run(&mut after(&setup, root.path()), &words), 0, "");
        assert_eq!(mode(&root.path().join(&soup)), file);
        let words = ["a", "b", "-o", umask, "--shard-size", "16KB"];
        expect(&run(&mut after(&setup, root.path()), &words), 0, "");
        let soup = root.path().join(umask);
        assert_eq!(mode(&soup), directory);
        for name in names(&soup) {
            assert_eq!(mode(&soup.join(name)), file);
        }
    }
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let root = ingredients();
    let path = |name: &str| root.path().join(name);
    let made = Command::new("mkfifo").arg(path("fifo")).status().unwrap();
    assert!(made.success());
    fs::create_dir(path("empty")).unwrap();
    let before = tree(root.path());
    let check = |words: &[&str], status: i32| {
        let started = Instant::now();
        let output = run(&mut sms_merge(root.path()), words);
        assert!(started.elapsed() < Duration::from_secs(20), "{words:?}");
        assert_eq!(
            output.status.code(),
            Some(status),
            "{words:?} {}",
            stderr(&output)
        );
        assert!(tree(root.path()) == before, "{words:?}");
    };
    for special in ["fifo", "/dev/null", "/dev/zero"] {
        for reader in ["merge", "check"] {
            let output: &[&str] = if reader == "merge" {
                &["-o", "s.st"]
            } else {
                &[]
            };
            check(&[&[reader, special, "b.st"], output].concat(), 5);
            check(&[&[reader, "a.st", special], output].concat(), 5);
        }
        check(&["a.st", "b.st", "-o", "s.st", "--mask", special], 5);
        check(&["inspect", special], 5);
        check(&["a.st", "b.st", "-o", special], 2);
        check(&["a.st", "b.st", "-o", special, "--force"], 2);
        check(
            &["a", "b", "-o", special, "--force", "--shard-size", "1KB"],
            2,
        );
    }
    check(&["empty", "b.st", "-o", "s.st"], 3);
    check(&["a.st", "b.st", "-o", "a.st/s.st"], 5);
    check(&["a.st", "b.st", "-o", "missing/s.st"], 5);
    check(&["a.st", "b.st", "-o", ""], 2);
    check(&["a.st", "b.st", "-o", "/"], 2);
    check(&["a.st", "b.st", "-o", ".."], 2);
    // Safetensors that are called something else, and standard output.
    for name in ["s.pt", "s.bin", "s.onnx", "-"] {
        check(&["a.st", "b.st", "-o", name], 2);
    }
    assert!(
        fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );
}

#[test]
fn names_of_any_bytes_and_255_of_them_are_fine() {
    let root = ingredients();
    let long = |first: u8, end: &str| {
        let mut name = vec![first; 255 - end.len()];
        name.extend(end.as_bytes());
        OsString::from_vec(name)
    };
    let strange = |end: &[u8]| OsString::from_vec([b"\xff\n\x1b[2J", end].concat());
    let merge = |first: &OsStr, second: &OsStr, output: &OsStr, more: &[&str]| {
        let mut words = vec![first, second, OsStr::new("-o"), output];
        words.extend(more.iter().map(OsStr::new));
        let result = run(&mut sms_merge(root.path()), &words);
        expect(&result, 0, "");
        for bytes in [&result.stdout, &result.stderr] {
            assert!(
                !bytes.contains(&0x1b) && !bytes.contains(&0xff),
                "{result:?}"
            );
        }
        let mut verify = vec![OsStr::new("verify"), output];
        if !root.path().join(output).is_dir() {
            verify.extend([first, second]);
        }
        expect(&run(&mut sms_merge(root.path()), &verify), 0, "");
    };
    let (a, b) = (long(b'a', ".st"), strange(b".st"));
    fs::rename(root.path().join("a.st"), root.path().join(&a)).unwrap();
    fs::rename(root.path().join("b.st"), root.path().join(&b)).unwrap();
    merge(&a, &b, &long(b's', ".st"), &[]);
    merge(&a, &b, &long(b's', ".st"), &["--force"]);
    merge(&b, &a, &strange(b"soup.st"), &[]);
    merge(&b, &a, &strange(b"soup.st"), &["--force", "--json"]);
    merge(&a, &b, &long(b'\xfe', ""), &["--shard-size", "16KB"]);
    merge(
        &a,
        &b,
        &long(b'\xfe', ""),
        &["--shard-size", "30KB", "--force"],
    );
    assert!(
        names(root.path())
            .iter()
            .all(|name| !name.as_bytes().starts_with(b".sms"))
    );
}

#[test]
fn a_full_disk_is_an_error() {
    let root = ingredients();
    fs::create_dir(root.path().join("disk")).unwrap();
    // In a mount namespace of its own, so that nothing stays mounted.
    let check = |size: &str, words: &str| {
        let script = format!(
            "mount -t tmpfs -o size={size} tmpfs disk || exit 99
             echo old > disk/kept
             \"$0\" a.st b.st {words} -o disk/soup
             status=$?
             ls -A disk >&2
             exit $status"
        );
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", &script, BINARY])
            .current_dir(root.path());
        let output = match command.output() {
            Ok(output) if output.status.code() != Some(99) => output,
            other => {
                println!("skipped: a small disk cannot be mounted: {other:?}");
                return;
            }
        };
        if stderr(&output).starts_with("unshare:") {
            println!("skipped: {}", stderr(&output));
            return;
        }
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(5), "{stderr}");
        let is_told = stderr.contains("free") || stderr.contains("No space left");
        assert!(is_told && !stderr.contains("panicked"), "{stderr}");
        assert_eq!(stderr.lines().last(), Some("kept"), "{stderr}");
    };
    check("16k", "");
    check("16k", "--no-sync --no-mmap");
    check("36k", "--shard-size 16KB");
    // Enough bytes, but no inode for a file.
    check("1m,nr_inodes=2", "");
    check("1m,nr_inodes=4", "--shard-size 16KB");
}

#[test]
fn a_read_only_directory_is_an_error() {
    let root = ingredients();
    let closed = root.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("old.st"), "old").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The build's own directory may be closed to others.
    let binary = root.path().join("sms-merge");
    fs::copy(BINARY, &binary).unwrap();
    let is_root = root.path().metadata().unwrap().uid() == 0;
    for output in ["closed/new.st", "closed/old.st", "closed/new"] {
        let mut command = if is_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            command.arg(&binary);
            command
        } else {
            Command::new(&binary)
        };
        command.args(["a.st", "b.st", "--force", "-o", output]);
        if output.ends_with("new") {
            command.args(["--shard-size", "16KB"]);
        }
        match command.current_dir(root.path()).output() {
            Ok(result) => expect(&result, 5, "ermission denied"),
            Err(error) => println!("skipped: `setpriv` cannot be run: {error}"),
        }
        assert_eq!(names(&closed), ["old.st"]);
        assert_eq!(fs::read(closed.join("old.st")).unwrap(), b"old");
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn standard_output_may_be_closed_full_or_broken() {
    let root = ingredients();
    let merge = |output: &'static str| ["a.st", "b.st", "-o", output, "--json"];
    expect(&run(&mut sms_merge(root.path()), &merge("open.st")), 0, "");
    let soup = fs::read(root.path().join("open.st")).unwrap();
    // What is opened next must not be taken for a closed stream.
    let closed = run(
        &mut after("exec <&- >&- 2>&-", root.path()),
        &merge("closed.st"),
    );
    expect(&closed, 0, "");
    assert!(fs::read(root.path().join("closed.st")).unwrap() == soup);
    expect(
        &run(
            &mut after("exec >&-", root.path()),
            &["check", "a.st", "b.st"],
        ),
        0,
        "",
    );
    for words in [
        &merge("full.st") as &[&str],
        &["check", "a.st", "b.st"],
        &["check", "a.st", "b.st", "--json"],
        &["inspect", "a.st"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut command = after("exec >/dev/full", root.path());
        expect(
            &run(&mut command, words),
            5,
            "standard output cannot be written",
        );
    }
    assert!(fs::read(root.path().join("full.st")).unwrap() == soup);
    // Nobody reads what is said: the status still tells.
    let mut command = after("exec 2>/dev/full", root.path());
    expect(&run(&mut command, &["check", "a.st", "none.st"]), 5, "");
    for words in [
        &["check", "a.st", "b.st"] as &[&str],
        &["inspect", "a.st", "--json"],
    ] {
        let mut command = after("sleep 0.1", root.path());
        command
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        expect(&finish(child), 0, "");
    }
}

#[test]
fn limits_of_the_system_are_errors() {
    let root = ingredients();
    let merge = |setup: &str, words: &[&str]| {
        let before = tree(root.path());
        let output = run(&mut after(setup, root.path()), words);
        assert!(tree(root.path()) == before, "{setup} {words:?}");
        output
    };
    // In blocks of 512 bytes, or of 1024 where `sh` is bash.
    let file_limit = "ulimit -f 8";
    let file = ["a.st", "b.st", "-o", "soup.st"];
    expect(&merge(file_limit, &file), 5, "permits no file as large");
    let shards = ["a", "b", "-o", "soup", "--shard-size", "16KB"];
    expect(&merge(file_limit, &shards), 5, "permits no file as large");
    let cut = ["a.st", "b.st", "-o", "cut", "--shard-size", "1KB", "-q"];
    expect(&run(&mut sms_merge(root.path()), &cut), 0, "");
    assert!(names(&root.path().join("cut")).len() > 6);
    let open_limit = "ulimit -n 9";
    let cut = ["a.st", "b.st", "-o", "new", "--shard-size", "1KB"];
    expect(&merge(open_limit, &cut), 5, "Too many open files");
    let cut = ["cut", "a.st", "-o", "soup.st"];
    expect(&merge(open_limit, &cut), 5, "Too many open files");
    // Inputs that cannot be mapped are read.
    let words = ["a.st", "b.st", "-o", "mapped.st"];
    expect(&run(&mut sms_merge(root.path()), &words), 0, "");
    let (big, names) = big_ingredients(2, 600);
    let words: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .chain(["--threads", "1"])
        .collect();
    let check = [&["check"] as &[&str], &words].concat();
    let output = run(&mut after("ulimit -v 400000", big.path()), &check);
    expect(&output, 0, "");
}

#[test]
fn shards_of_an_older_soup_do_not_stay() {
    let root = ingredients();
    let soup = root.path().join("soup");
    let merge = |shard_bytes: &[&str]| {
        let words = [&["a", "b", "-o", "soup", "--force"] as &[&str], shard_bytes].concat();
        expect(&run(&mut sms_merge(root.path()), &words), 0, "");
        expect(
            &run(&mut sms_merge(root.path()), &["verify", "soup", "a", "b"]),
            0,
            "",
        );
        names(&soup)
    };
    let many = merge(&["--shard-size", "2KB"]);
    let three = merge(&["--shard-size", "16KB"]);
    assert!(many.len() > three.len());
    assert_eq!(
        three,
        [
            "config.json",
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json"
        ]
    );
    assert_eq!(merge(&[]), ["config.json", "model.safetensors"]);
    assert_eq!(merge(&["--shard-size", "16KB"]), three);
}

#[test]
fn runs_agree_to_the_byte() {
    let root = ingredients();
    let other = ingredients();
    let mut files = Vec::new();
    let mut directories = Vec::new();
    for place in [&root, &other] {
        let input = |name: &str| place.path().join(name).into_os_string();
        for (i, more) in [
            &["--threads", "1"] as &[&str],
            &["--threads", "2"],
            &["--threads", "7"],
            &["--threads", "7", "--no-mmap"],
            &["--no-sync", "--distances", "off"],
            &["--sha256"],
            &["--sha256", "--threads", "3"],
        ]
        .into_iter()
        .enumerate()
        {
            let output = format!("soup{i}.st");
            let mut words = vec![
                input("a.st"),
                input("b.st"),
                "-o".into(),
                output.clone().into(),
            ];
            words.extend(more.iter().map(OsString::from));
            expect(&run(&mut sms_merge(root.path()), &words), 0, "");
            let soup = root.path().join(output);
            files.push((more.contains(&"--sha256"), fs::read(&soup).unwrap()));
            fs::remove_file(soup).unwrap();
            let mut words = vec![input("a"), input("b"), "-o".into(), "soup".into()];
            words.extend(["--shard-size", "16KB"].map(OsString::from));
            words.extend(more.iter().map(OsString::from));
            expect(&run(&mut sms_merge(root.path()), &words), 0, "");
            let soup = root.path().join("soup");
            directories.push((more.contains(&"--sha256"), tree(&soup)));
            fs::remove_dir_all(soup).unwrap();
        }
    }
    for has_digests in [false, true] {
        let mut same = files.iter().filter(|(has, _)| *has == has_digests);
        let first = same.next().unwrap();
        assert!(same.all(|soup| soup == first));
        let mut same = directories.iter().filter(|(has, _)| *has == has_digests);
        let first = same.next().unwrap();
        assert!(same.all(|soup| soup == first));
    }
}

/// How a run ended that was disturbed.
enum Hit {
    /// As it must.
    Right,
    /// Before it had begun to read, so that it met something else.
    Early,
    Wrong,
}

/// Starts merges of big ingredients and disturbs them after several delays, until
/// three were hit. Whatever happens, a failed run leaves nothing.
fn disturb(
    mebibytes: u64,
    more: &[&str],
    act: impl Fn(&Path, &Child),
    judge: impl Fn(&Output) -> Hit,
) {
    let (root, ingredients) = big_ingredients(3, mebibytes);
    let names_before = names(root.path());
    let mut n_hits = 0;
    for delay_ms in DELAYS_MS {
        let mut command = sms_merge(root.path());
        command
            .args(&ingredients)
            .args(["-o", "soup.st", "--no-sync"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        act(root.path(), &child);
        let output = finish(child);
        if output.status.success() {
            fs::remove_file(root.path().join("soup.st")).unwrap();
        } else {
            match judge(&output) {
                Hit::Right => n_hits += 1,
                Hit::Early => {}
                Hit::Wrong => panic!("{}: {}", output.status, stderr(&output)),
            }
        }
        assert_eq!(names(root.path()), names_before, "{}", stderr(&output));
        for name in &ingredients {
            write_zeros(&root.path().join(name), mebibytes);
        }
        if n_hits == 3 {
            break;
        }
    }
    println!("{n_hits} runs were hit");
    assert!(n_hits > 0, "no run was hit");
}

fn kill(child: &Child, signal: &str) {
    // A run that has ended by itself is no failure here.
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {}", child.id())])
        .output();
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        for more in [&["--no-mmap", "--threads", "1"] as &[&str], &[]] {
            disturb(
                96,
                more,
                |_, child| kill(child, signal),
                |output| match output.status.code() {
                    Some(found) if found == status => Hit::Right,
                    // The handler was not there yet.
                    None => Hit::Early,
                    _ => Hit::Wrong,
                },
            );
        }
    }
}

#[test]
fn an_ingredient_truncated_during_the_merge_is_an_error() {
    for more in [&[] as &[&str], &["--no-mmap"], &["--threads", "1"]] {
        disturb(
            200,
            more,
            |root, _| {
                let file = File::options()
                    .write(true)
                    .open(root.join("big1.st"))
                    .unwrap();
                file.set_len(1 << 20).unwrap();
            },
            |output| match output.status.code() {
                Some(5) if stderr(output).contains("was truncated while it was read") => Hit::Right,
                // The header of a shorter file does not fit it.
                Some(3) if stderr(output).contains("bad header") => Hit::Early,
                _ => Hit::Wrong,
            },
        );
    }
}

#[test]
fn an_ingredient_modified_during_the_merge_is_an_error() {
    for more in [&[] as &[&str], &["--no-mmap"]] {
        disturb(
            96,
            more,
            |root, _| {
                let file = File::options()
                    .write(true)
                    .open(root.join("big2.st"))
                    .unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            },
            |output| match output.status.code() {
                Some(5) if stderr(output).contains("changed while it was read") => Hit::Right,
                _ => Hit::Wrong,
            },
        );
    }
}
