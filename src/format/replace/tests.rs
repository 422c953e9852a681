//! Outputs appear whole or not at all, on both ways of staging.

use std::ffi::OsStr;
use std::fs;
use std::fs::Permissions;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;

use tempfile::TempDir;

use super::draft::Staging;
use super::sibling::Sibling;
use super::swap::Swap;
use super::*;

const WAYS: [Staging; 2] = [Staging::Unnamed, Staging::Named];
const CHILD: &str = "SMS_MERGE_TEST_CHILD";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn stage(path: &Path, existing: Existing, bytes: &[u8], staging: Staging) -> StagedFile {
    let target = Target::for_file(path, existing).unwrap();
    let length = bytes.len() as u64;
    let staged = StagedFile::create_as(&target, length, Durability::Synced, staging).unwrap();
    staged.write_at(bytes, 0).unwrap();
    staged
}

/// Stages `files` for the directory `path`.
fn stage_directory(path: &Path, files: &[(&str, &str)], staging: Staging) -> StagedDirectory {
    let target = Target::for_directory(path, Existing::Replace).unwrap();
    let names = files.iter().map(|(name, _)| *name);
    let staged = StagedDirectory::create_as(&target, names, Durability::Synced, staging).unwrap();
    for (name, text) in files {
        let entry = staged.file(name, text.len() as u64).unwrap();
        entry.write_at(text.as_bytes(), 0).unwrap();
    }
    staged
}

/// Runs one test of this binary again, behind the words of `wrapper`; `None` if
/// those cannot be run. A wrapper exits with 77 to say so itself.
fn child(test: &str, wrapper: &[&str], value: &Path) -> Option<()> {
    let mut words: Vec<PathBuf> = wrapper.iter().map(PathBuf::from).collect();
    words.push(std::env::current_exe().unwrap());
    let output = Command::new(&words[0])
        .args(&words[1..])
        .args([
            "--exact",
            &format!("format::replace::tests::{test}"),
            "--nocapture",
        ])
        .env(CHILD, value)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        return None;
    }
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{errors}"
    );
    Some(())
}

/// Runs one test of this binary again, in a mount namespace that the shell
/// command `mount` has set up; skips where that is not allowed.
fn with_mount(test: &str, mount: &str, directory: &Path) {
    let script = format!("{mount} || exit 77; exec \"$0\" \"$@\"");
    let own = ["unshare", "--mount", "sh", "-c", &script];
    let mapped = ["unshare", "--map-root-user", "--mount", "sh", "-c", &script];
    // `unshare` exits with 1 where namespaces are denied.
    let works = |words: &[&str]| {
        let probe = Command::new(words[0])
            .args(&words[1..words.len() - 3])
            .arg("true")
            .output();
        probe.is_ok_and(|output| output.status.success())
    };
    let done = [&own[..], &mapped[..]]
        .into_iter()
        .find(|words| works(words))
        .and_then(|words| child(test, words, directory));
    if done.is_none() {
        println!("skipped: no file system can be mounted here");
    }
}

#[test]
fn a_new_file_appears_whole() {
    for staging in WAYS {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("soup");
        let staged = stage(&path, Existing::Refuse, b"soup", staging);
        assert!(!path.exists());
        assert_eq!(
            names(directory.path()).len(),
            usize::from(staging == Staging::Named)
        );
        staged.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"soup");
        assert_eq!(names(directory.path()), ["soup"]);
    }
}

#[test]
fn a_dropped_file_leaves_nothing() {
    for staging in WAYS {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("soup");
        drop(stage(&path, Existing::Refuse, b"soup", staging));
        assert_eq!(names(directory.path()), [""; 0]);
        fs::write(&path, "old").unwrap();
        drop(stage(&path, Existing::Replace, b"soup", staging));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["soup"]);
    }
}

#[test]
fn a_replaced_file_keeps_its_mode_and_breaks_hard_links() {
    for staging in WAYS {
        for old_mode in [0o640, 0o400, 0o777] {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("soup");
            let linked = directory.path().join("linked");
            fs::write(&path, "old").unwrap();
            fs::hard_link(&path, &linked).unwrap();
            set_mode(&path, old_mode);
            stage(&path, Existing::Replace, b"new", staging)
                .publish()
                .unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(fs::read(&linked).unwrap(), b"old");
            assert_eq!(mode(&path), old_mode);
            assert_eq!(names(directory.path()), ["linked", "soup"]);
        }
    }
}

#[test]
fn what_appeared_meanwhile_is_left_alone() {
    for staging in WAYS {
        for existing in [Existing::Refuse, Existing::Replace] {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("soup");
            let staged = stage(&path, existing, b"new", staging);
            fs::write(&path, "other").unwrap();
            let error = staged.publish().unwrap_err();
            assert!(matches!(error, ReplaceError::Appeared { .. }), "{error:?}");
            assert_eq!(error.kind(), Failure::Refused);
            assert_eq!(fs::read(&path).unwrap(), b"other");
            assert_eq!(names(directory.path()), ["soup"]);
        }
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("soup");
        fs::write(&path, "old").unwrap();
        let staged = stage(&path, Existing::Replace, b"new", staging);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = staged.publish().unwrap_err();
        assert!(matches!(error, ReplaceError::WrongKind { .. }), "{error:?}");
        assert_eq!(names(directory.path()), ["soup"]);
    }
}

#[test]
fn any_name_will_do() {
    let long = "x".repeat(255);
    for name in [OsStr::new(&long), OsStr::from_bytes(b"\xff\xfe soup\n")] {
        for staging in WAYS {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join(name);
            stage(&path, Existing::Refuse, b"1", staging)
                .publish()
                .unwrap();
            stage(&path, Existing::Replace, b"2", staging)
                .publish()
                .unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"2");
            fs::remove_file(&path).unwrap();
            for text in ["1", "2"] {
                stage_directory(&path, &[("a", text)], staging)
                    .publish()
                    .unwrap();
                assert_eq!(fs::read_to_string(path.join("a")).unwrap(), text);
            }
            assert_eq!(names(directory.path()).len(), 1);
        }
    }
}

#[test]
fn links_are_followed_and_stay() {
    for staging in WAYS {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("far")).unwrap();
        let link = directory.path().join("link");
        symlink("second", &link).unwrap();
        symlink("far/soup", directory.path().join("second")).unwrap();
        let soup = directory.path().join("far/soup");
        for (existing, text) in [(Existing::Refuse, "1"), (Existing::Replace, "2")] {
            let target = Target::for_file(&link, existing).unwrap();
            assert_eq!(target.path(), soup);
            let old = fs::metadata(&soup).ok().map(|old| (old.dev(), old.ino()));
            assert_eq!(target.existing(), old);
            stage(&link, existing, text.as_bytes(), staging)
                .publish()
                .unwrap();
            assert!(link.is_symlink());
            assert_eq!(fs::read_to_string(&soup).unwrap(), text);
        }
        assert_eq!(names(directory.path()), ["far", "link", "second"]);
        assert_eq!(names(&directory.path().join("far")), ["soup"]);
    }
}

#[test]
fn unfit_places_are_refused() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("file"), "").unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    fs::write(at("directory/file"), "").unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(at("fifo"))
            .status()
            .unwrap()
            .success()
    );
    symlink("fifo", at("to_fifo")).unwrap();
    symlink("loop", at("loop")).unwrap();
    let check = |path: PathBuf, file: &str, folder: &str| {
        for existing in [Existing::Refuse, Existing::Replace] {
            let describe = |result: Result<Target, ReplaceError>| match result {
                Ok(_) => "fine".to_owned(),
                Err(ReplaceError::WrongKind { found, .. }) => found.to_string(),
                Err(error) => {
                    let text = format!("{error:?}");
                    text.split(' ').next().unwrap_or_default().to_owned()
                }
            };
            let exists = |expected: &str| match (expected, existing) {
                ("exists", Existing::Refuse) => "Exists".to_owned(),
                ("exists", Existing::Replace) => "fine".to_owned(),
                _ => expected.to_owned(),
            };
            assert_eq!(
                describe(Target::for_file(&path, existing)),
                exists(file),
                "{path:?}"
            );
            let found = describe(Target::for_directory(&path, existing));
            assert_eq!(found, exists(folder), "{path:?}");
        }
    };
    check(at("new"), "fine", "fine");
    check(at("new/"), "a directory", "fine");
    check(at("file"), "exists", "a regular file");
    check(at("file/"), "a regular file", "a regular file");
    check(at("directory"), "a directory", "exists");
    check(at("directory/"), "a directory", "exists");
    check(at("empty"), "a directory", "fine");
    check(at("fifo"), "a fifo", "a fifo");
    check(at("to_fifo"), "a fifo", "a fifo");
    check(PathBuf::from("/dev/null"), "a device", "a device");
    check(at("loop"), "Resolve", "Resolve");
    check(at("missing/new"), "ParentMissing", "ParentMissing");
    check(at("file/new"), "ParentKind", "ParentKind");
    check(PathBuf::new(), "NoName", "NoName");
    check(PathBuf::from("/"), "a directory", "NoName");
    check(at("missing/.."), "NoName", "NoName");
    let error = Target::for_file(&at("file"), Existing::Refuse).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("exists; pass `--force` to replace it")
    );
    assert!(
        Target::for_file(&at("new"), Existing::Refuse)
            .unwrap()
            .free_bytes()
            .unwrap()
            > 0
    );
}

#[test]
fn writes_stay_within_the_reserved_length() {
    let directory = TempDir::new().unwrap();
    let staged = stage(
        &directory.path().join("soup"),
        Existing::Refuse,
        b"1234",
        WAYS[0],
    );
    staged.write_at(b"", 4).unwrap();
    for (bytes, offset) in [(&b"5"[..], 4), (b"12345", 0), (b"", 5), (b"1", u64::MAX)] {
        let error = staged.write_at(bytes, offset).unwrap_err();
        assert!(
            matches!(error, ReplaceError::Beyond { bytes: 4, .. }),
            "{error:?}"
        );
    }
}

#[test]
fn threads_write_at_the_same_time() {
    for staging in WAYS {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("soup");
        let staged = stage(&path, Existing::Refuse, &[0; 80_000], staging);
        thread::scope(|scope| {
            for thread in 0..8_u8 {
                let staged = &staged;
                scope.spawn(move || {
                    for block in 0..100 {
                        let offset = u64::from(thread) * 100 + block * 800;
                        staged.write_at(&[thread + 1; 100], offset).unwrap();
                    }
                });
            }
        });
        staged.publish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(
            bytes
                .iter()
                .enumerate()
                .all(|(i, &byte)| usize::from(byte) == i / 100 % 8 + 1)
        );
    }
}

#[test]
fn the_umask_is_respected() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else {
        let directory = TempDir::new().unwrap();
        child("the_umask_is_respected", &["env"], directory.path()).unwrap();
        return;
    };
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    for (staging, name) in WAYS.into_iter().zip(["unnamed", "named"]) {
        let path = directory.join(name);
        stage(&path, Existing::Refuse, b"soup", staging)
            .publish()
            .unwrap();
        assert_eq!(mode(&path), 0o640);
        let path = directory.join(format!("{name} directory"));
        let sidecar = directory.join("sidecar");
        fs::write(&sidecar, "{}").unwrap();
        set_mode(&sidecar, 0o777);
        let target = Target::for_directory(&path, Existing::Refuse).unwrap();
        let staged =
            StagedDirectory::create_as(&target, ["a"], Durability::Unsynced, staging).unwrap();
        staged.copy_in("a", &sidecar).unwrap();
        staged.publish().unwrap();
        assert_eq!((mode(&path), mode(&path.join("a"))), (0o750, 0o640));
    }
}

#[test]
fn read_only_places_are_refused() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else {
        let directory = TempDir::new().unwrap();
        set_mode(directory.path(), 0o555);
        // Root writes everywhere: become somebody else.
        let other = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ];
        let same = ["env"];
        let wrapper = if rustix::process::geteuid().is_root() {
            &other[..]
        } else {
            &same[..]
        };
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let old = directory.path().join("old");
        fs::create_dir(&old).unwrap();
        set_mode(&old, 0o555);
        set_mode(directory.path(), 0o555);
        if child("read_only_places_are_refused", wrapper, directory.path()).is_none() {
            println!("skipped: `setpriv` cannot be run");
        }
        set_mode(directory.path(), 0o755);
        return;
    };
    let target = Target::for_file(&directory.join("soup"), Existing::Refuse).unwrap();
    for staging in WAYS {
        let error = StagedFile::create_as(&target, 1, Durability::Synced, staging).unwrap_err();
        assert!(matches!(error, ReplaceError::Create { .. }), "{error:?}");
    }
    let target = Target::for_directory(&directory.join("old"), Existing::Replace).unwrap();
    let error = StagedDirectory::create(&target, ["a"], Durability::Synced).unwrap_err();
    assert!(matches!(error, ReplaceError::ReadOnly { .. }), "{error:?}");
}

#[test]
fn a_full_disk_is_named_as_such() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else {
        let directory = TempDir::new().unwrap();
        let mount = format!("mount -t tmpfs -o size=1m none \"${CHILD}\"");
        with_mount("a_full_disk_is_named_as_such", &mount, directory.path());
        return;
    };
    let path = directory.join("soup");
    fs::write(&path, "old").unwrap();
    let target = Target::for_file(&path, Existing::Replace).unwrap();
    let free = target.free_bytes().unwrap();
    assert!(free < 1 << 20);
    for staging in WAYS {
        let needed = 2 << 20;
        let error =
            StagedFile::create_as(&target, needed, Durability::Synced, staging).unwrap_err();
        assert_eq!(error.kind(), Failure::Space);
        match error {
            ReplaceError::NoSpace {
                needed: n, free: f, ..
            } => assert_eq!((n, f), (needed, free)),
            other => panic!("{other:?}"),
        }
        assert_eq!(names(&directory), ["soup"]);
        let fits = StagedFile::create_as(&target, free / 2, Durability::Synced, staging).unwrap();
        fits.write_at(&vec![1; free as usize / 2], 0).unwrap();
        drop(fits);
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_file_past_the_permitted_size_is_named_as_such() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else {
        let directory = TempDir::new().unwrap();
        let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
        let test = "a_file_past_the_permitted_size_is_named_as_such";
        child(test, &["sh", "-c", script], directory.path()).unwrap();
        return;
    };
    let target = Target::for_file(&directory.join("soup"), Existing::Refuse).unwrap();
    for staging in WAYS {
        let error =
            StagedFile::create_as(&target, 1 << 20, Durability::Synced, staging).unwrap_err();
        assert!(
            matches!(
                error,
                ReplaceError::TooLarge {
                    bytes: 0x10_0000,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(error.kind(), Failure::Space);
        assert_eq!(names(&directory), [""; 0]);
    }
}

#[test]
fn without_proc_files_are_staged_by_name() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else {
        let directory = TempDir::new().unwrap();
        let mount = "mount -t tmpfs none /proc";
        with_mount(
            "without_proc_files_are_staged_by_name",
            mount,
            directory.path(),
        );
        return;
    };
    let path = directory.join("soup");
    let staged = stage(&path, Existing::Refuse, b"soup", Staging::Unnamed);
    assert_eq!(names(&directory).len(), 1);
    staged.publish().unwrap();
    assert_eq!(names(&directory), ["soup"]);
}

#[test]
fn a_killed_run_leaves_nothing_that_the_next_one_keeps() {
    const TEST: &str = "a_killed_run_leaves_nothing_that_the_next_one_keeps";
    let Some(value) = std::env::var_os(CHILD) else {
        for staging in WAYS {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("soup");
            let mut run = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    &format!("format::replace::tests::{TEST}"),
                    "--nocapture",
                ])
                .env(CHILD, &path)
                .env("SMS_MERGE_TEST_STAGING", format!("{staging:?}"))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().contains("staged")));
            let live = usize::from(staging == Staging::Named);
            assert_eq!(names(directory.path()).len(), live);
            // A run at work keeps its file from the next one.
            let target = Target::for_file(&path, Existing::Refuse).unwrap();
            drop(StagedFile::create(&target, 1, Durability::Unsynced).unwrap());
            assert_eq!(names(directory.path()).len(), live);
            run.kill().unwrap();
            run.wait().unwrap();
            assert_eq!(names(directory.path()).len(), live);
            let staged = StagedFile::create(&target, 1, Durability::Unsynced).unwrap();
            assert_eq!(names(directory.path()), [""; 0]);
            staged.publish().unwrap();
        }
        return;
    };
    let named = std::env::var("SMS_MERGE_TEST_STAGING").unwrap() == "Named";
    let _staged = stage(
        Path::new(&value),
        Existing::Refuse,
        b"soup",
        WAYS[usize::from(named)],
    );
    println!("staged");
    thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn only_the_output_s_own_leftovers_are_swept() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("soup");
    let soup = stage(&path, Existing::Refuse, b"1", Staging::Named);
    let prefix = names(directory.path())[0]
        .rsplit_once('-')
        .unwrap()
        .0
        .to_owned();
    drop(soup);
    let at = |name: String| directory.path().join(name);
    fs::write(at(format!("{prefix}-900.tmp")), "").unwrap();
    fs::write(at(format!("{prefix}-901.else")), "").unwrap();
    fs::create_dir(at(format!("{prefix}-902.tmp"))).unwrap();
    fs::write(at(format!("{prefix}-902.tmp")).join("a"), "").unwrap();
    fs::create_dir(at(format!("{prefix}-903.old"))).unwrap();
    fs::write(at(".sms-merge-0123456789abcdef-1-1.tmp".to_owned()), "").unwrap();
    let kept = ["903.old", "901.else", "1-1.tmp"];
    let staged = stage(&path, Existing::Refuse, b"1", Staging::Unnamed);
    let found = names(directory.path());
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        kept.iter()
            .all(|end| found.iter().any(|name| name.ends_with(end))),
        "{found:?}"
    );
    staged.publish().unwrap();
    // Once an output has the name again, what was moved aside for it goes.
    drop(stage(&path, Existing::Replace, b"1", Staging::Unnamed));
    assert_eq!(names(directory.path()).len(), 3);
    assert!(!at(format!("{prefix}-903.old")).exists());
}

#[test]
fn a_directory_appears_whole_and_is_replaced_whole() {
    for staging in WAYS {
        for swap in [Swap::Exchange, Swap::MoveAside] {
            let outer = TempDir::new().unwrap();
            let path = outer.path().join("soup");
            let first = [
                ("config.json", "{}"),
                ("m-1.safetensors", "1"),
                ("m-2.safetensors", "2"),
            ];
            let staged = stage_directory(&path, &first, staging);
            assert!(!path.exists());
            staged.publish_as(swap).unwrap();
            let expected = ["config.json", "m-1.safetensors", "m-2.safetensors"];
            assert_eq!(names(&path), expected);
            set_mode(&path, 0o2750);
            set_mode(&path.join("config.json"), 0o600);
            let link = outer.path().join("link");
            symlink("soup", &link).unwrap();

            drop(stage_directory(&link, &[("config.json", "[]")], staging));
            assert_eq!(names(&path), expected);
            assert_eq!(names(outer.path()), ["link", "soup"]);

            let second = [("config.json", "[]"), ("m.safetensors", "3")];
            stage_directory(&link, &second, staging)
                .publish_as(swap)
                .unwrap();
            assert_eq!(names(&path), ["config.json", "m.safetensors"]);
            assert_eq!(fs::read_to_string(path.join("config.json")).unwrap(), "[]");
            assert_eq!(
                (mode(&path), mode(&path.join("config.json"))),
                (0o2750, 0o600)
            );
            assert_eq!(names(outer.path()), ["link", "soup"]);
        }
    }
}

#[test]
fn a_directory_with_foreign_files_is_not_replaced() {
    for swap in [Swap::Exchange, Swap::MoveAside] {
        let outer = TempDir::new().unwrap();
        let path = outer.path().join("soup");
        fs::create_dir(&path).unwrap();
        let target = Target::for_directory(&path, Existing::Replace).unwrap();
        let check = |result: Result<(), ReplaceError>, name: &str| match result {
            Err(ReplaceError::Foreign { path: foreign }) => assert_eq!(foreign, path.join(name)),
            other => panic!("{other:?}"),
        };
        let create = || StagedDirectory::create(&target, ["a"], Durability::Unsynced).map(drop);
        fs::write(path.join("thesis.tex"), "").unwrap();
        check(create(), "thesis.tex");
        fs::remove_file(path.join("thesis.tex")).unwrap();
        fs::create_dir(path.join("a")).unwrap();
        check(create(), "a");
        fs::remove_dir(path.join("a")).unwrap();
        // Also where it comes late.
        let staged = stage_directory(&path, &[("a", "1")], Staging::Unnamed);
        fs::write(path.join("late"), "").unwrap();
        check(staged.publish_as(swap), "late");
        assert_eq!(names(&path), ["late"]);
        assert_eq!(names(outer.path()), ["soup"]);
    }
}

#[test]
fn a_foreign_file_that_comes_last_undoes_the_exchange() {
    for swap in [Swap::Exchange, Swap::MoveAside] {
        let outer = TempDir::new().unwrap();
        let path = outer.path().join("soup");
        fs::create_dir(&path).unwrap();
        let staged = stage_directory(&path, &[("a", "1")], Staging::Unnamed);
        fs::write(path.join("late"), "late").unwrap();
        let target = Target::for_directory(&path, Existing::Replace).unwrap();
        let (new, sibling) =
            Sibling::create_directory(&target.parent, &target.name, rustix::fs::Mode::RWXU)
                .unwrap();
        fs::write(new.path.join("a"), "1").unwrap();
        // As `publish` does, but past its own look at the old directory.
        let error = staged.replace(sibling, swap).unwrap_err();
        assert!(matches!(error, ReplaceError::Foreign { .. }), "{error:?}");
        assert_eq!(names(&path), ["late"]);
        assert_eq!(names(outer.path()), ["soup"]);
    }
}

#[test]
fn a_directory_that_appeared_meanwhile_is_left_alone() {
    for staging in WAYS {
        let outer = TempDir::new().unwrap();
        let path = outer.path().join("soup");
        let staged = stage_directory(&path, &[("a", "1")], staging);
        fs::create_dir(&path).unwrap();
        let error = staged.publish().unwrap_err();
        assert!(matches!(error, ReplaceError::Appeared { .. }), "{error:?}");
        assert_eq!(names(&path), [""; 0]);
        assert_eq!(names(outer.path()), ["soup"]);
    }
}

#[test]
fn a_directory_holds_what_was_announced() {
    let outer = TempDir::new().unwrap();
    let target = Target::for_directory(&outer.path().join("soup"), Existing::Refuse).unwrap();
    let create = |names: &[&str]| {
        StagedDirectory::create(&target, names.iter().copied(), Durability::Unsynced)
    };
    for name in ["", ".", "..", "../b", "a/", "/a", "a\0"] {
        let error = create(&[name]).unwrap_err();
        assert!(matches!(error, ReplaceError::EntryName { .. }), "{error:?}");
    }
    let staged = create(&["a", "b"]).unwrap();
    staged.file("a", 0).unwrap();
    let error = staged.file("a", 0).unwrap_err();
    assert!(matches!(error, ReplaceError::Duplicate { .. }), "{error:?}");
    let error = staged.file("c", 0).unwrap_err();
    assert!(
        matches!(error, ReplaceError::Undeclared { .. }),
        "{error:?}"
    );
    let error = staged.copy_in("b", outer.path()).unwrap_err();
    assert!(matches!(error, ReplaceError::WrongKind { .. }), "{error:?}");
    let error = staged
        .copy_in("b", &outer.path().join("missing"))
        .unwrap_err();
    assert!(matches!(error, ReplaceError::Copy { .. }), "{error:?}");
    let error = staged.publish().unwrap_err();
    assert!(matches!(error, ReplaceError::Unstaged { .. }), "{error:?}");
    assert_eq!(names(outer.path()), [""; 0]);
}
