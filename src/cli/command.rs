//! A command of the user: a line of text walks in, what the command printed walks out.
//! It runs without a shell, in a process group of its own, and ends with this program.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::fs::fcntl_getfl;
use rustix::fs::fcntl_setfl;
use rustix::io::retry_on_intr;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::process::kill_process_group;
use rustix::process::waitid;
use thiserror::Error;

use crate::cli::exit::UsageError;
use crate::cli::limits;
use crate::cli::text::Clean;

/// Bytes of what a command prints that are kept: the last ones.
const MOST_PRINTED: usize = 64 << 10;

/// Bytes of what a command printed that an error shows.
const MOST_SHOWN: usize = 400;

/// Longest pause between two looks at a command that runs.
const PAUSE: Duration = Duration::from_millis(20);

/// Time that a command has to end itself once it is told to.
const GRACE: Duration = Duration::from_secs(2);

/// A command failed.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    /// It cannot be started, or not be watched.
    #[error("`{command}` cannot be run")]
    Run {
        /// The command with its arguments.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// It said that it failed.
    #[error("`{command}` failed ({status}); it printed {printed}")]
    Failed {
        /// The command with its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        printed: String,
    },
    /// It took too long.
    #[error(
        "`{command}` was stopped after {} s; it printed {printed}", limit.as_secs_f64()
    )]
    TooLong {
        /// The command with its arguments.
        command: String,
        /// Time that it had.
        limit: Duration,
        /// The end of what it printed.
        printed: String,
    },
    /// The user asked to stop.
    #[error("`{command}` was stopped")]
    Stopped {
        /// The command with its arguments.
        command: String,
    },
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The command with its arguments, as a shell would be told.
    pub(crate) command: String,
    /// The end of its standard output.
    pub(crate) printed: String,
}

/// A file that a command is told of.
pub(crate) struct Place<'a> {
    /// What `{name}` in its words stands for the file.
    pub(crate) name: &'static str,
    /// Name of the environment variable that says the same.
    pub(crate) variable: &'static str,
    /// The file.
    pub(crate) path: &'a Path,
}

/// The words of a command.
#[derive(Debug)]
pub(crate) struct CommandLine(Vec<String>);

impl CommandLine {
    /// Splits the value of an option into words, as a shell does: quotes and backslashes
    /// mean what they mean there, and nothing else does.
    ///
    /// # Errors
    /// [`UsageError`] if a quote is not closed, or there is no word.
    pub(crate) fn parse(option: &str, text: &str) -> Result<Self, UsageError> {
        let usage = |what: &str| UsageError {
            message: format!("`{option} {}` {what}", Clean(text)),
            next: None,
        };
        match shell_words::split(text) {
            Ok(words) if words.is_empty() => Err(usage("names no command")),
            Ok(words) => Ok(Self(words)),
            Err(_) => Err(usage("has a quote that is not closed")),
        }
    }

    /// Whether a word has a place for a file.
    pub(crate) fn names(&self, name: &str) -> bool {
        let place = format!("{{{name}}}");
        self.0.iter().any(|word| word.contains(&place))
    }

    /// Runs the command to its end, with its standard error passed through. Processes
    /// that it leaves behind in its group are ended.
    ///
    /// # Errors
    /// [`CommandError`], also if it ends with another status than 0.
    pub(crate) fn run(
        &self,
        places: &[Place<'_>],
        limit: Option<Duration>,
        interrupted: &AtomicBool,
    ) -> Result<Ran, CommandError> {
        let words: Vec<OsString> = self.0.iter().map(|word| filled(word, places)).collect();
        let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let command = Clean(&shell_words::join(shown)).to_string();
        let failed = |source| CommandError::Run {
            command: command.clone(),
            source,
        };
        let mut running = Command::new(&words[0]);
        running.args(&words[1..]);
        running.envs(places.iter().map(|place| (place.variable, place.path)));
        running.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = running.process_group(0).spawn().map_err(failed)?;
        limits::restore_open_files(&child);
        let mut running = Running::new(child).map_err(failed)?;
        let end = running.watch(limit, interrupted);
        // Whatever came of it, nothing of it may stay.
        let status = running.end(matches!(end, Ok(End::Itself)));
        let (end, status) = (end.map_err(failed)?, status.map_err(failed)?);
        let printed = String::from_utf8_lossy(&running.printed).into_owned();
        match end {
            End::Itself if status.success() => Ok(Ran { command, printed }),
            End::Itself => Err(CommandError::Failed {
                command,
                status,
                printed: excerpt(&printed),
            }),
            End::TooLong(limit) => Err(CommandError::TooLong {
                command,
                limit,
                printed: excerpt(&printed),
            }),
            End::Stopped => Err(CommandError::Stopped { command }),
        }
    }
}

/// A word with files put in.
fn filled(word: &str, places: &[Place<'_>]) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = word;
    // From left to right, so that a file whose name has braces is not filled in again.
    while let Some(character) = rest.chars().next() {
        let place = places.iter().find_map(|place| {
            let after = rest.strip_prefix('{')?.strip_prefix(place.name)?;
            Some((place.path, after.strip_prefix('}')?))
        });
        match place {
            Some((path, after)) => {
                bytes.extend(OsStr::as_bytes(path.as_os_str()));
                rest = after;
            }
            None => {
                let taken = character.len_utf8();
                bytes.extend(&rest.as_bytes()[..taken]);
                rest = &rest[taken..];
            }
        }
    }
    OsString::from_vec(bytes)
}

/// The end of what a command printed, in quotes.
pub(crate) fn excerpt(printed: &str) -> String {
    let printed = printed.trim();
    if printed.is_empty() {
        return "nothing".to_owned();
    }
    let from = printed.len().saturating_sub(MOST_SHOWN);
    let from = (from..printed.len()).find(|&at| printed.is_char_boundary(at));
    let end = &printed[from.unwrap_or_default()..];
    let more = if end.len() < printed.len() { "..." } else { "" };
    format!("`{more}{}`", Clean(end))
}

/// Why a command ended.
enum End {
    Itself,
    TooLong(Duration),
    Stopped,
}

/// A command that runs.
struct Running {
    child: Child,
    group: Pid,
    stdout: Option<ChildStdout>,
    printed: Vec<u8>,
}

impl Running {
    fn new(mut child: Child) -> io::Result<Self> {
        let stdout = child.stdout.take();
        let group = Pid::from_child(&child);
        let running = Self {
            child,
            group,
            stdout,
            printed: Vec::new(),
        };
        if let Some(stdout) = &running.stdout {
            // What holds the pipe open for ever must not hold this program.
            let set = fcntl_getfl(stdout);
            let set = set.and_then(|flags| fcntl_setfl(stdout, flags | OFlags::NONBLOCK));
            if let Err(error) = set {
                let mut running = running;
                running.end(false)?;
                return Err(error.into());
            }
        }
        Ok(running)
    }

    /// Waits until the command ends, or has to.
    fn watch(&mut self, limit: Option<Duration>, interrupted: &AtomicBool) -> io::Result<End> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let has_read = self.read()?;
            if self.has_ended()? {
                return Ok(End::Itself);
            }
            if interrupted.load(Ordering::Relaxed) {
                return Ok(End::Stopped);
            }
            if let Some(limit) = limit.filter(|&limit| started.elapsed() >= limit) {
                return Ok(End::TooLong(limit));
            }
            if !has_read {
                std::thread::sleep(pause);
                pause = (2 * pause).min(PAUSE);
            }
        }
    }

    /// Whether the command has ended. It is not forgotten yet, so that no other process
    /// can get its number.
    fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = retry_on_intr(|| waitid(WaitId::Pid(self.group), options));
        Ok(ended?.is_some())
    }

    /// Takes what was printed. False if there was nothing.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let Some(stdout) = &mut self.stdout else {
            return Ok(false);
        };
        match stdout.read(&mut buffer) {
            Ok(0) => self.stdout = None,
            Ok(n) => {
                self.printed.extend(&buffer[..n]);
                let excess = self.printed.len().saturating_sub(MOST_PRINTED);
                self.printed.drain(..excess);
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(false)
    }

    /// Ends the whole group, if need be by force.
    fn end(&mut self, has_ended: bool) -> io::Result<ExitStatus> {
        if !has_ended {
            let _ = kill_process_group(self.group, Signal::TERM);
            let told = Instant::now();
            while told.elapsed() < GRACE && !self.has_ended()? {
                self.read()?;
                std::thread::sleep(PAUSE);
            }
        }
        // It is no failure that nobody is left.
        let _ = kill_process_group(self.group, Signal::KILL);
        let status = self.child.wait()?;
        while self.read()? {}
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, path: &Path, limit: Option<Duration>) -> Result<Ran, CommandError> {
        let place = Place {
            name: "checkpoint",
            variable: "SMS_MERGE_TESTED",
            path,
        };
        let line = CommandLine::parse("--eval", text).unwrap();
        line.run(&[place], limit, &AtomicBool::new(false))
    }

    #[test]
    fn words_are_split_and_filled_without_a_shell() {
        let check = |text: &str, path: &str, expected: &str| {
            assert_eq!(run(text, Path::new(path), None).unwrap().printed, expected);
        };
        check(
            "printf %s- a 'b c' \"d\\\"e\" f\\ g",
            "x",
            "a-b c-d\"e-f g-",
        );
        check(
            "printf %s- {checkpoint} p={checkpoint}.st",
            "a b",
            "a b-p=a b.st-",
        );
        check("printf %s- {checkpoint}", "{checkpoint}", "{checkpoint}-");
        check(
            "printf %s- {checkpoint {other} '$HOME' '*' ';'",
            "x",
            "{checkpoint-{other}-$HOME-*-;-",
        );
        check("sh -c 'printf %s \"$SMS_MERGE_TESTED\"'", "a b", "a b");
        check("cat", "x", "");
        let bytes = Path::new(OsStr::from_bytes(b"a\xff"));
        let ran = run("printf %s {checkpoint}", bytes, None).unwrap();
        assert_eq!(
            (ran.printed.as_str(), ran.command.as_str()),
            ("a\u{fffd}", "printf '%s' a\u{fffd}")
        );
    }

    #[test]
    fn what_cannot_be_split() {
        let check = |text, expected: &str| {
            let refused = CommandLine::parse("--eval", text).unwrap_err();
            assert_eq!(refused.to_string(), format!("`--eval {text}` {expected}"));
        };
        check("a 'b", "has a quote that is not closed");
        check("  ", "names no command");
    }

    #[test]
    fn failures_are_told() {
        let path = Path::new("a.st");
        let told = |text: &str| run(text, path, None).unwrap_err().to_string();
        let failed = told("sh -c 'echo 0.5; echo no memory; exit 3' {checkpoint}");
        let expected = "`sh -c 'echo 0.5; echo no memory; exit 3' a.st` failed (exit status: 3); \
                        it printed `0.5\\nno memory`";
        assert_eq!(failed, expected);
        assert!(told("sh -c 'kill -9 $$'").contains("signal: 9"));
        assert_eq!(
            told("/nonexistent/program"),
            "`/nonexistent/program` cannot be run"
        );
    }

    #[test]
    fn only_the_end_of_what_is_printed_is_kept() {
        let ran = run(
            "sh -c 'yes | head -c 1000000; echo; echo 0.25'",
            Path::new("x"),
            None,
        );
        let printed = ran.unwrap().printed;
        assert_eq!(printed.len(), MOST_PRINTED);
        assert!(
            printed.ends_with("y\n\n0.25\n"),
            "{:?}",
            &printed[printed.len() - 20..]
        );
    }

    #[test]
    fn nothing_outlives_its_command() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pids");
        let is_gone = |line: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{line}/stat"));
            // A zombie waits for a parent that may be slow to look.
            stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
        };
        let check = |text: &str, limit, expected: &str| {
            let started = Instant::now();
            let ran = run(text, &file, limit);
            let told = ran.map_or_else(|error| error.to_string(), |ran| ran.printed);
            assert!(told.contains(expected), "{told}");
            assert!(started.elapsed() < Duration::from_secs(20));
            let pids = std::fs::read_to_string(&file).unwrap();
            assert!(!pids.is_empty());
            for _ in 0..100 {
                if pids.lines().all(is_gone) {
                    return;
                }
                std::thread::sleep(PAUSE);
            }
            panic!("some of {pids} are still there after {text}");
        };
        // One that is left behind and holds the pipe.
        check(
            "sh -c 'sleep 60 & echo $! > {checkpoint}; echo 0.5'",
            None,
            "0.5",
        );
        let short = Some(Duration::from_millis(300));
        let obedient = "sh -c 'sleep 60 & echo $$ $! | tr \" \" \"\\n\" > {checkpoint}; wait'";
        check(obedient, short, "was stopped after 0.3 s");
        let stubborn =
            "sh -c 'trap \"\" TERM; echo $$ > {checkpoint}; echo deaf; sleep 60; sleep 60'";
        check(stubborn, short, "it printed `deaf`");
    }

    #[test]
    fn an_interruption_stops_it() {
        let line = CommandLine::parse("--eval", "sleep 60").unwrap();
        let interrupted = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| line.run(&[], None, &interrupted));
            std::thread::sleep(Duration::from_millis(100));
            interrupted.store(true, Ordering::Relaxed);
            let stopped = running.join().unwrap();
            assert!(
                matches!(stopped, Err(CommandError::Stopped { .. })),
                "{stopped:?}"
            );
        });
    }
}
