//! The choice of a greedy soup, by an evaluation that is only pretended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::connectivity::MismatchPolicy;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::format::safetensors::Entry;
use sms_merge::format::safetensors::Layout;
use sms_merge::format::safetensors::natural_cmp;
use sms_merge::kernel::Weights;
use sms_merge::merge::Better;
use sms_merge::merge::Certificate;
use sms_merge::merge::Destination;
use sms_merge::merge::Difference;
use sms_merge::merge::Evaluate;
use sms_merge::merge::Event;
use sms_merge::merge::Greedy;
use sms_merge::merge::GreedyError;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Merged;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::OnTie;
use sms_merge::merge::Selection;
use sms_merge::merge::choose;
use sms_merge::merge::merge;
use sms_merge::merge::recompute;
use sms_merge::merge::self_check;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Shape;

/// Elements of a row of `w`, of which the second half is pruned.
const ROW: usize = 8;

/// The value that all retained weights of a checkpoint have.
fn level(path: &Path) -> f32 {
    let checkpoint = Checkpoint::open(path, &OpenOptions::default()).unwrap();
    let tensor = &checkpoint.tensors()[checkpoint.find("w").unwrap()];
    let mut scratch = Vec::new();
    let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch);
    let bytes = bytes.unwrap();
    let element = |at: usize| f32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap());
    assert_eq!(element(ROW - 1).to_bits(), 0, "the mask");
    element(0)
}

/// A checkpoint of one matrix and one bias.
fn write(path: &Path, level: f32, n_retained: usize) {
    let entry = |name: &str, dims: &[u64]| Entry {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: Shape::new(dims.to_vec()).unwrap(),
    };
    let mut entries = vec![entry("w", &[2, ROW as u64]), entry("b", &[1])];
    entries.sort_by(natural_cmp);
    let layout = Layout::new(entries).unwrap();
    let mut bytes = layout.header(&BTreeMap::new()).unwrap();
    let row = (0..ROW).map(|at| if at < n_retained { level } else { 0.0 });
    for tensor in layout.tensors() {
        match tensor.name.as_str() {
            "b" => bytes.extend(level.to_le_bytes()),
            _ => (0..2).for_each(|_| bytes.extend(row.clone().flat_map(f32::to_le_bytes))),
        }
    }
    fs::write(path, bytes).unwrap();
}

/// Candidates, told apart by the value of their weights, and somewhere to write.
struct Bench {
    directory: tempfile::TempDir,
    paths: Vec<PathBuf>,
    interrupted: AtomicBool,
}

impl Bench {
    fn new(levels: &[f32]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |position: usize| directory.path().join(format!("{position}.st"));
        let paths: Vec<PathBuf> = (0..levels.len()).map(at).collect();
        for (path, &level) in paths.iter().zip(levels) {
            write(path, level, ROW / 2);
        }
        fs::create_dir(directory.path().join("scratch")).unwrap();
        Self {
            directory,
            paths,
            interrupted: AtomicBool::new(false),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn observer(&self) -> Observer<'_> {
        Observer {
            advance: &|_| (),
            interrupted: &self.interrupted,
        }
    }

    fn choose(
        &self,
        (better, on_tie): (Better, OnTie),
        evaluate: &mut dyn Evaluate,
    ) -> Result<Selection, GreedyError> {
        self.choose_with(options(), (better, on_tie), evaluate)
    }

    fn choose_with(
        &self,
        options: MergeOptions,
        (better, on_tie): (Better, OnTie),
        evaluate: &mut dyn Evaluate,
    ) -> Result<Selection, GreedyError> {
        let events = RefCell::new(Vec::new());
        let greedy = Greedy {
            paths: &self.paths,
            mask_file: None,
            open: OpenOptions::default(),
            options: &options,
            better,
            on_tie,
            scratch: &self.at("scratch"),
            watch: &|event| events.borrow_mut().push(event),
        };
        let chosen = choose(&greedy, evaluate, self.observer());
        let left = fs::read_dir(self.at("scratch")).unwrap().count();
        assert_eq!(left, 0, "files left in the scratch directory");
        if let Ok(chosen) = &chosen {
            let scored = chosen.candidates.iter().enumerate();
            let scored = scored.map(|(candidate, found)| Event::Scored {
                candidate,
                score: found.score,
            });
            let decided = chosen.decisions.iter().copied().map(Event::Decided);
            assert_eq!(
                events.into_inner(),
                scored.chain(decided).collect::<Vec<_>>()
            );
        }
        chosen
    }

    fn soup(&self, selection: Selection) -> Result<(PathBuf, Merged), MergeError> {
        let kept = selection.kept();
        let paths = kept.iter().map(|&position| &self.paths[position]);
        let open = |path: &PathBuf| Checkpoint::open(path, &OpenOptions::default()).unwrap();
        let options = options().with_selection(selection)?;
        let checkpoints = paths.map(open).collect();
        let ingredients = Ingredients::join(checkpoints, None, options.dtype_rule(), |_| true)?;
        let path = self.at("soup.st");
        let (existing, durability) = (Existing::Replace, Durability::Unsynced);
        let destination = Destination::resolve(&path, &ingredients, None, existing, durability)?;
        let plan = MergePlan::new(&ingredients, &options)?;
        let files = Vec::new();
        let observer = self.observer();
        let merged = merge(plan, &ingredients, &options, &destination, files, observer)?;
        Ok((path, merged))
    }

    fn verify(&self, soup: &Path, positions: &[usize]) -> Result<Vec<Difference>, MergeError> {
        let open = |path: &Path| Checkpoint::open(path, &OpenOptions::default()).unwrap();
        let soup = open(soup);
        let certificate = Certificate::of(&soup).unwrap();
        let checkpoints = positions
            .iter()
            .map(|&position| open(&self.paths[position]));
        let checkpoints = checkpoints.collect();
        recompute(
            &soup,
            &certificate,
            checkpoints,
            None,
            &2.into(),
            self.observer(),
        )
    }
}

fn options() -> MergeOptions {
    MergeOptions::new(Method::Uniform, Weights::uniform(2).unwrap())
}

const DEFAULT: (Better, OnTie) = (Better::Higher, OnTie::Keep);

/// Scores a checkpoint by its level, and counts.
struct ByLevel<F> {
    score: F,
    seen: Vec<f32>,
}

fn by_level<F: FnMut(f32) -> f64>(score: F) -> ByLevel<F> {
    ByLevel {
        score,
        seen: Vec::new(),
    }
}

impl<F: FnMut(f32) -> f64> Evaluate for ByLevel<F> {
    fn score(&mut self, checkpoint: &Path) -> Result<f64, Box<dyn Error + Send + Sync>> {
        let level = level(checkpoint);
        self.seen.push(level);
        Ok((self.score)(level))
    }
}

/// The closer to 4, the better.
fn near_four(level: f32) -> f64 {
    1.0 - f64::from((level - 4.0).abs()) / 100.0
}

#[test]
fn a_candidate_that_helps_is_kept_and_one_that_harms_is_dropped() {
    // Alone the second is best; with the third it comes to 4; the first would spoil it.
    let bench = Bench::new(&[1.0, 3.5, 4.5, 9.0]);
    let mut evaluate = by_level(near_four);
    let chosen = bench.choose(DEFAULT, &mut evaluate).unwrap();
    let tried: Vec<(usize, bool)> = chosen
        .decisions
        .iter()
        .map(|decision| (decision.candidate, decision.is_kept))
        .collect();
    assert_eq!(tried, [(1, true), (2, true), (0, false), (3, false)]);
    let soups = [4.0, (1.0 + 3.5 + 4.5) / 3.0, (3.5 + 4.5 + 9.0) / 3.0];
    let alone = [1.0, 3.5, 4.5, 9.0];
    assert_eq!(evaluate.seen, [alone.as_slice(), &soups].concat());
    let scores: Vec<f64> = chosen.decisions.iter().map(|found| found.score).collect();
    assert_eq!(scores[0], near_four(3.5));
    assert_eq!(scores[1..], soups.map(near_four));
    assert_eq!(chosen.score(), Some(1.0));
    assert_eq!(chosen.kept(), [1, 2]);
}

#[test]
fn the_soup_is_saved_and_not_the_last_candidate() {
    let bench = Bench::new(&[1.0, 3.5, 4.5, 9.0]);
    let chosen = bench.choose(DEFAULT, &mut by_level(near_four)).unwrap();
    let (path, merged) = bench.soup(chosen.clone()).unwrap();
    assert_eq!(level(&path), 4.0);
    let soup = &merged.certificate.soup;
    assert_eq!(
        (soup.method, soup.weights.as_slice()),
        (Method::Greedy, &[1.0; 2][..])
    );
    assert_eq!(soup.selection.as_ref(), Some(&chosen));
    let names: Vec<&str> = soup
        .ingredients
        .iter()
        .map(|found| found.name.as_str())
        .collect();
    assert_eq!(names, ["1.st", "2.st"]);
    let stored = Checkpoint::open(&path, &OpenOptions::default()).unwrap();
    let certificate = Certificate::of(&stored).unwrap();
    assert_eq!(certificate, merged.certificate);
    let found = self_check(stored, &certificate, &1.into(), bench.observer()).unwrap();
    assert_eq!(found.differences, []);
    for given in [&[1, 2][..], &[2, 1], &[0, 1, 2, 3], &[3, 2, 1, 0]] {
        assert_eq!(bench.verify(&path, given).unwrap(), [], "{given:?}");
    }
    for (given, recorded) in [(&[0, 1, 2][..], 2), (&[1], 2)] {
        let found = given.len();
        let expected = [Difference::IngredientCount { recorded, found }];
        assert_eq!(bench.verify(&path, given).unwrap(), expected);
    }
    // The dropped one is another now.
    write(&bench.paths[3], 8.0, ROW / 2);
    let differences = bench.verify(&path, &[0, 1, 2, 3]).unwrap();
    let is_fourth =
        |found: &Difference| matches!(found, Difference::Ingredient { position: 3, .. });
    assert!(
        differences.len() == 1 && is_fourth(&differences[0]),
        "{differences:?}"
    );
    assert_eq!(bench.verify(&path, &[1, 2]).unwrap(), []);
    write(&bench.paths[3], 8.0, ROW / 2 + 1);
    let refused = bench.verify(&path, &[0, 1, 2, 3]);
    assert!(matches!(refused, Err(MergeError::Connectivity(_))));
}

#[test]
fn one_that_is_kept_alone_is_the_soup() {
    let bench = Bench::new(&[9.0, 4.0]);
    let chosen = bench.choose(DEFAULT, &mut by_level(near_four)).unwrap();
    assert_eq!(chosen.kept(), [1]);
    let (path, merged) = bench.soup(chosen).unwrap();
    assert_eq!(level(&path), 4.0);
    assert!(!merged.needs_recalibration);
    for given in [&[1][..], &[0, 1]] {
        assert_eq!(bench.verify(&path, given).unwrap(), [], "{given:?}");
    }
}

#[test]
fn ties_are_decided_as_asked() {
    let check = |rule: (Better, OnTie), levels: &[f32], score: fn(f32) -> f64, kept: &[usize]| {
        let bench = Bench::new(levels);
        let chosen = bench.choose(rule, &mut by_level(score)).unwrap();
        assert_eq!(chosen.kept(), kept, "{rule:?} {levels:?}");
        assert_eq!((chosen.better, chosen.on_tie), rule);
    };
    let same = |_: f32| 0.5;
    check(
        (Better::Higher, OnTie::Keep),
        &[1.0, 2.0, 3.0],
        same,
        &[0, 1, 2],
    );
    check((Better::Higher, OnTie::Drop), &[1.0, 2.0, 3.0], same, &[0]);
    check((Better::Lower, OnTie::Keep), &[1.0, 2.0], same, &[0, 1]);
    check((Better::Lower, OnTie::Drop), &[1.0, 2.0], same, &[0]);
    // Zeros of either sign are equal.
    let zeros = |level: f32| if level < 2.5 { -0.0 } else { 0.0 };
    check((Better::Higher, OnTie::Drop), &[2.0, 3.0], zeros, &[0]);
    let loss = |level: f32| f64::from((level - 4.0).abs());
    check(
        (Better::Lower, OnTie::Drop),
        &[5.0, 3.0, 9.0],
        loss,
        &[0, 1],
    );
    check((Better::Higher, OnTie::Keep), &[5.0, 3.0, 9.0], loss, &[2]);
}

#[test]
fn masks_of_all_are_proved_before_anything_is_evaluated() {
    let bench = Bench::new(&[3.0, 4.0, 9.0]);
    write(&bench.paths[2], 9.0, ROW / 2 + 1);
    let mut evaluate = by_level(near_four);
    let refused = bench.choose(DEFAULT, &mut evaluate);
    let refused = refused.unwrap_err();
    assert!(matches!(
        refused,
        GreedyError::Merge(MergeError::Connectivity(_))
    ));
    let mut policy = options();
    policy.rules.policy = MismatchPolicy::Union;
    let refused = bench.choose_with(policy, DEFAULT, &mut evaluate);
    assert!(matches!(refused, Err(GreedyError::Policy { .. })));
    let alone = Bench::new(&[3.0]).choose(DEFAULT, &mut evaluate);
    let alone = alone.unwrap_err();
    assert!(matches!(
        alone,
        GreedyError::Merge(MergeError::TooFew { found: 1 })
    ));
    assert!(evaluate.seen.is_empty());
}

/// Fails, or answers what no score is, at one of the calls; may interrupt or meddle.
struct At<'a> {
    call: usize,
    seen: usize,
    act: &'a dyn Fn() -> Result<f64, Box<dyn Error + Send + Sync>>,
}

impl Evaluate for At<'_> {
    fn score(&mut self, checkpoint: &Path) -> Result<f64, Box<dyn Error + Send + Sync>> {
        self.seen += 1;
        match self.seen == self.call {
            true => (self.act)(),
            false => Ok(near_four(level(checkpoint))),
        }
    }
}

#[test]
fn a_failure_leaves_nothing_and_says_where() {
    let bench = Bench::new(&[3.5, 4.5, 9.0]);
    let check = |call: usize, subject: &str| {
        let fail = || Err("no memory".into());
        let refused = bench.choose(
            DEFAULT,
            &mut At {
                call,
                seen: 0,
                act: &fail,
            },
        );
        let refused = refused.unwrap_err();
        let found = refused
            .to_string()
            .replace(&bench.at("").display().to_string(), "");
        assert_eq!(found, format!("{subject} cannot be evaluated"));
        assert_eq!(refused.source().unwrap().to_string(), "no memory");
        for score in [f64::NAN, f64::NEG_INFINITY] {
            let refused = bench.choose(
                DEFAULT,
                &mut At {
                    call,
                    seen: 0,
                    act: &|| Ok(score),
                },
            );
            assert!(
                matches!(refused, Err(GreedyError::NotFinite { .. })),
                "{score}"
            );
        }
    };
    check(1, "`0.st`");
    check(3, "`2.st`");
    check(4, "the soup of `0.st` and `1.st`");
    check(5, "the soup of `0.st`, `1.st` and `2.st`");
}

#[test]
fn an_interruption_ends_the_choice() {
    for call in 1..=5 {
        let bench = Bench::new(&[3.5, 4.5, 9.0]);
        let stop = || {
            bench.interrupted.store(true, Ordering::Relaxed);
            Err("told to stop".into())
        };
        let mut evaluate = At {
            call,
            seen: 0,
            act: &stop,
        };
        let refused = bench.choose(DEFAULT, &mut evaluate).unwrap_err();
        assert!(matches!(
            refused,
            GreedyError::Merge(MergeError::Interrupted)
        ));
        assert_eq!(evaluate.seen, call);
    }
}

#[test]
fn what_changes_after_it_was_judged_is_refused() {
    let bench = Bench::new(&[3.5, 4.5]);
    // While the second is evaluated the first becomes another.
    let meddle = || {
        write(&bench.paths[0], 5.0, ROW / 2);
        Ok(1.0)
    };
    let refused = bench.choose(
        DEFAULT,
        &mut At {
            call: 2,
            seen: 0,
            act: &meddle,
        },
    );
    let Err(GreedyError::Merge(MergeError::NotAsJudged { path })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(path, bench.paths[0]);
    let chosen = bench.choose(DEFAULT, &mut by_level(near_four)).unwrap();
    write(&bench.paths[1], 4.0, ROW / 2);
    let refused = bench.soup(chosen);
    assert!(matches!(refused, Err(MergeError::NotAsJudged { path }) if path == bench.paths[1]));
    assert!(!bench.at("soup.st").exists());
}

#[test]
fn a_certificate_whose_decisions_do_not_follow_is_refused() {
    let bench = Bench::new(&[1.0, 3.5, 4.5, 9.0]);
    let chosen = bench.choose(DEFAULT, &mut by_level(near_four)).unwrap();
    let (path, _) = bench.soup(chosen).unwrap();
    let soup = || Checkpoint::open(&path, &OpenOptions::default()).unwrap();
    let check = |change: &dyn Fn(&mut Certificate)| {
        let mut certificate = Certificate::of(&soup()).unwrap();
        change(&mut certificate);
        let expected = [Difference::Certificate {
            what: "the selection of the ingredients",
        }];
        let found = self_check(soup(), &certificate, &1.into(), bench.observer()).unwrap();
        assert_eq!(found.differences, expected);
        let kept = [1, 2].map(|kept| Checkpoint::open(&bench.paths[kept], &OpenOptions::default()));
        let kept = kept.into_iter().map(Result::unwrap).collect();
        let found = recompute(
            &soup(),
            &certificate,
            kept,
            None,
            &1.into(),
            bench.observer(),
        )
        .unwrap();
        assert_eq!(found, expected);
    };
    check(&|certificate| certificate.soup.selection = None);
    check(&|certificate| certificate.soup.method = Method::Uniform);
    check(&|certificate| {
        let selection = certificate.soup.selection.as_mut().unwrap();
        selection.decisions[2].score = 1.0;
    });
    check(&|certificate| {
        let selection = certificate.soup.selection.as_mut().unwrap();
        selection.candidates[3].score = 1.0;
    });
}

#[test]
fn directories_are_evaluated_as_directories() {
    let mut bench = Bench::new(&[3.5, 4.5]);
    for path in &mut bench.paths {
        let directory = path.with_extension("");
        fs::create_dir(&directory).unwrap();
        fs::rename(&path, directory.join("model.safetensors")).unwrap();
        fs::write(directory.join("config.json"), "{}").unwrap();
        *path = directory;
    }
    struct Look;
    impl Evaluate for Look {
        fn score(&mut self, checkpoint: &Path) -> Result<f64, Box<dyn Error + Send + Sync>> {
            assert_eq!(fs::read_to_string(checkpoint.join("config.json"))?, "{}");
            Ok(near_four(level(checkpoint)))
        }
    }
    let chosen = bench.choose(DEFAULT, &mut Look).unwrap();
    assert_eq!((chosen.kept(), chosen.score()), (vec![0, 1], Some(1.0)));
}
