//! Workers that race for one step, disagree about its result, and are killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use sms_merge::cycle::store::Found;
use sms_merge::cycle::store::Receipt;
use sms_merge::cycle::store::RunDirectory;
use sms_merge::tensor::Digest;
use tempfile::TempDir;

use crate::key;
use crate::names;
use crate::worker;
use crate::worker::NaiveReceipt;
use crate::worker::Task;

/// Races that the store must survive.
const RACES: u64 = 300;

/// Races at the same time, each in a directory of its own.
const LANES: u64 = 3;

/// Most races until the scheme with fixed names is caught.
const NAIVE_RACES: u64 = 300;

/// Random numbers: SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
struct Random(u64);

impl Random {
    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn moment(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below(1 + end.as_micros() as u64))
    }
}

/// A worker at work, and when it is to be killed.
struct Racer {
    child: Child,
    until: Option<Instant>,
}

/// How the workers of one race ended.
#[derive(Debug, Default)]
struct Ends {
    won: usize,
    lost: usize,
    killed: usize,
}

impl Ends {
    fn add(&mut self, other: &Self) {
        self.won += other.won;
        self.lost += other.lost;
        self.killed += other.killed;
    }

    fn count(&mut self, status: ExitStatus) {
        match status.code() {
            Some(0) => self.won += 1,
            Some(worker::LOST) => self.lost += 1,
            None => self.killed += 1,
            Some(code) => panic!("a worker failed with status {code}"),
        }
    }
}

/// Starts a few workers at random moments, kills most of them at random moments, and calls
/// `meanwhile` again and again until all have ended.
fn race(
    task: Task,
    directory: &Path,
    usual: Duration,
    random: &mut Random,
    mut meanwhile: impl FnMut(&mut Random),
) -> Ends {
    let mut waiting: Vec<Instant> = (0..2 + random.below(4))
        .map(|_| Instant::now() + random.moment(usual / 2))
        .collect();
    let mut racers: Vec<Racer> = Vec::new();
    let mut ends = Ends::default();
    while !waiting.is_empty() || !racers.is_empty() {
        let now = Instant::now();
        for _ in waiting.extract_if(.., |start| *start <= now) {
            let until = random
                .chance(70)
                .then(|| Instant::now() + random.moment(usual * 3 / 2));
            let child = task.start(directory);
            racers.push(Racer { child, until });
        }
        for racer in &mut racers {
            if racer.until.is_some_and(|until| until <= now) {
                racer.child.kill().unwrap();
                racer.until = None;
            }
        }
        racers.retain_mut(|racer| match racer.child.try_wait().unwrap() {
            None => true,
            Some(status) => {
                ends.count(status);
                false
            }
        });
        meanwhile(random);
        thread::sleep(Duration::from_micros(200));
    }
    ends
}

/// How long one worker takes alone, median of five.
fn usual(task: Task) -> Duration {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let directory = TempDir::new().unwrap();
            RunDirectory::create(directory.path()).unwrap();
            let start = Instant::now();
            assert!(task.start(directory.path()).wait().unwrap().success());
            start.elapsed()
        })
        .collect();
    times.sort();
    times[2]
}

/// What is wrong with the step, if anything is.
fn faults(run: &RunDirectory) -> Vec<String> {
    let receipt = match run.receipt(&key()).unwrap() {
        Found::Missing => return Vec::new(),
        Found::Damaged { why } => return vec![why],
        Found::Whole(receipt) => receipt,
    };
    let nonce = receipt.metrics["nonce"].as_u64().unwrap();
    let mut faults = Vec::new();
    for (role, artefact) in &receipt.outputs {
        if let Some(fault) = run.check(artefact).unwrap().fault() {
            faults.push(format!("{role}: {fault}"));
        }
        if !worker::is_all_of(&run.path_of(artefact), nonce) {
            faults.push(format!("{role} is not by {nonce}"));
        }
    }
    faults
}

/// Holds what is seen now against what was seen first.
fn look(run: &RunDirectory, first: &mut Option<Receipt>, faults: &mut Vec<String>) {
    match (run.receipt(&key()).unwrap(), &*first) {
        (Found::Damaged { why }, _) => faults.push(why),
        (Found::Whole(receipt), None) => *first = Some(receipt),
        (Found::Whole(receipt), Some(first)) if receipt != *first => {
            faults.push("the receipt changed".to_owned());
        }
        (Found::Missing, Some(_)) => faults.push("the receipt vanished".to_owned()),
        _ => {}
    }
}

/// One race in a fresh run directory, while a coordinator looks and clears up.
fn race_in_the_store(usual: Duration, random: &mut Random) -> (Ends, Vec<String>) {
    let directory = TempDir::new().unwrap();
    let run = RunDirectory::create(directory.path()).unwrap();
    let (mut first, mut wrong) = (None, Vec::new());
    let ends = race(Task::Work, directory.path(), usual, random, |random| {
        look(&run, &mut first, &mut wrong);
        if random.chance(10) {
            let lock = run.lock("the race").unwrap();
            run.remove_unused(&lock, &BTreeSet::new()).unwrap();
        }
    });
    look(&run, &mut first, &mut wrong);
    wrong.extend(faults(&run));
    if ends.won > 0 && first.is_none() {
        wrong.push("somebody won, and there is no receipt".to_owned());
    }
    if ends.won > 1 {
        wrong.push(format!("{} workers won", ends.won));
    }
    let lock = run.lock("the race").unwrap();
    run.remove_unused(&lock, &BTreeSet::new()).unwrap();
    wrong.extend(faults(&run));
    let named: Vec<String> = first
        .iter()
        .flat_map(|receipt| receipt.outputs.values().map(|output| output.file.clone()))
        .collect();
    let left = names(&run.artefacts());
    if left != named {
        wrong.push(format!("{left:?} is left, and {named:?} is needed"));
    }
    // Whatever happened, the step can still be done.
    let status = Task::Work.start(directory.path()).wait().unwrap();
    let expected = first.is_some().then_some(worker::LOST).or(Some(0));
    if status.code() != expected {
        wrong.push(format!("the step ends with {status}, not {expected:?}"));
    }
    look(&run, &mut first, &mut wrong);
    wrong.extend(faults(&run));
    (ends, wrong)
}

/// What happened in some races.
#[derive(Debug, Default)]
struct Tally {
    ends: Ends,
    undecided: usize,
    inconsistent: usize,
}

/// Races one after the other, with what is random drawn from `seed`.
fn races(n_races: u64, seed: u64, usual: Duration) -> Tally {
    let mut random = Random(seed);
    let mut tally = Tally::default();
    for race in 0..n_races {
        let (ends, wrong) = race_in_the_store(usual, &mut random);
        tally.ends.add(&ends);
        tally.undecided += usize::from(ends.won == 0);
        if !wrong.is_empty() {
            tally.inconsistent += 1;
            println!("race {race} of seed {seed}: {wrong:?}");
        }
    }
    tally
}

#[test]
fn racing_and_dying_workers_leave_one_consistent_result() {
    let usual = usual(Task::Work);
    let mut all = Tally::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..LANES)
            .map(|seed| scope.spawn(move || races(RACES / LANES, seed, usual)))
            .collect();
        for thread in threads {
            let tally = thread.join().unwrap();
            all.ends.add(&tally.ends);
            all.undecided += tally.undecided;
            all.inconsistent += tally.inconsistent;
        }
    });
    println!("{RACES} races: {all:?}");
    println!("inconsistent = {}", all.inconsistent);
    assert_eq!(all.inconsistent, 0);
    // Otherwise the races were none.
    let Ends { won, lost, killed } = all.ends;
    assert!(killed > 100 && lost > 50 && won > 50, "{all:?}");
}

/// Whether the receipt of the scheme with fixed names tells the truth.
fn is_naively_consistent(directory: &Path) -> bool {
    let Ok(bytes) = fs::read(directory.join("receipt")) else {
        return true;
    };
    let receipt: NaiveReceipt = serde_json::from_slice(&bytes).unwrap();
    let files = ["checkpoint", "mask"].map(|name| directory.join(name));
    files.iter().zip(&receipt.digests).all(|(path, digest)| {
        Digest::of(&fs::read(path).unwrap()) == *digest && worker::is_all_of(path, receipt.nonce)
    })
}

#[test]
fn the_races_catch_names_that_workers_share() {
    let usual = usual(Task::WorkNaively);
    let mut random = Random(1);
    let mut inconsistent = 0;
    let mut races = 0;
    while races < NAIVE_RACES && inconsistent < 3 {
        let directory = TempDir::new().unwrap();
        race(
            Task::WorkNaively,
            directory.path(),
            usual,
            &mut random,
            |_| {},
        );
        inconsistent += usize::from(!is_naively_consistent(directory.path()));
        races += 1;
    }
    println!("with fixed names, {races} races: inconsistent = {inconsistent}");
    assert!(inconsistent > 0);
}

#[test]
fn the_comparison_rejects_what_is_inconsistent() {
    let directory = TempDir::new().unwrap();
    let run = RunDirectory::create(directory.path()).unwrap();
    assert!(Task::Work.start(directory.path()).wait().unwrap().success());
    assert_eq!(faults(&run), Vec::<String>::new());
    let receipt = crate::whole(&run);
    let mask = run.path_of(&receipt.outputs["mask"]);
    let text = fs::read_to_string(&mask).unwrap();
    fs::write(&mask, text.replacen(|digit| digit != '0', "0", 1)).unwrap();
    assert_eq!(faults(&run).len(), 2);
    let mut first = Some(receipt.clone());
    let mut wrong = Vec::new();
    first.as_mut().unwrap().metrics = Value::Null;
    look(&run, &mut first, &mut wrong);
    fs::remove_file(run.receipt_path(&key())).unwrap();
    look(&run, &mut first, &mut wrong);
    assert_eq!(wrong, ["the receipt changed", "the receipt vanished"]);
}
