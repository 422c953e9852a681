//! Selections against plain sorting, on checkpoints that are small enough for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use half::bf16;
use half::f16;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Destination;
use crate::checkpoint::MaskLayout;
use crate::checkpoint::Observer;
use crate::checkpoint::OpenOptions;
use crate::connectivity::NamePatterns;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::prune::histogram::Limits;
use crate::prune::select::select_within;
use crate::tensor::Dtype;
use crate::tensor::Shape;
use crate::tensor::Stream;

/// A tensor to write.
struct Given {
    name: &'static str,
    dtype: Dtype,
    dims: Vec<u64>,
    values: Vec<f64>,
}

impl Given {
    fn new(name: &'static str, dtype: Dtype, dims: &[u64], values: Vec<f64>) -> Self {
        assert_eq!(values.len() as u64, dims.iter().product::<u64>());
        let dims = dims.to_vec();
        Self {
            name,
            dtype,
            dims,
            values,
        }
    }

    /// Random values, no two of them related.
    fn random(name: &'static str, dtype: Dtype, dims: &[u64]) -> Self {
        let mut stream = Stream::named(1, "test", name);
        let n = dims.iter().product();
        let draw = |_| {
            let sum: f64 = (0..4).map(|_| stream.uniform() - 0.5).sum();
            sum * 2_f64.powi(stream.below(7) as i32 - 3)
        };
        Self::new(name, dtype, dims, (0..n).map(draw).collect())
    }

    fn bytes(&self) -> Vec<u8> {
        let element = |&value: &f64| match self.dtype {
            Dtype::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
            Dtype::F64 => value.to_le_bytes().to_vec(),
            Dtype::Bool => vec![u8::from(value != 0.0)],
            _ => (value as i64).to_le_bytes().to_vec(),
        };
        self.values.iter().flat_map(element).collect()
    }

    /// The magnitudes as they are stored.
    fn stored(&self) -> Vec<f64> {
        let stored = |&value: &f64| match self.dtype {
            Dtype::F16 => f16::from_f64(value).to_f64(),
            Dtype::BF16 => bf16::from_f64(value).to_f64(),
            Dtype::F32 => f64::from(value as f32),
            _ => value,
        };
        self.values
            .iter()
            .map(|value| stored(value).abs())
            .collect()
    }
}

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, tensors: &[Given]) -> Checkpoint {
        let entry = |tensor: &Given| Entry {
            name: tensor.name.to_owned(),
            dtype: tensor.dtype,
            shape: Shape::new(tensor.dims.clone()).unwrap(),
        };
        let layout = Layout::new(tensors.iter().map(entry).collect()).unwrap();
        let mut bytes = layout.header(&BTreeMap::new()).unwrap();
        tensors
            .iter()
            .for_each(|tensor| bytes.extend(tensor.bytes()));
        fs::write(self.at(name), bytes).unwrap();
        self.open(name)
    }

    fn open(&self, name: &str) -> Checkpoint {
        Checkpoint::open(&self.at(name), &OpenOptions::default()).unwrap()
    }

    /// Applies a selection, and returns the masks that were written, by name.
    fn masks(&self, subject: &Subject, selection: &Selection) -> BTreeMap<String, Vec<bool>> {
        let _ = fs::remove_file(self.at("mask.st"));
        let _ = fs::remove_file(self.at("pruned.st"));
        let destination = |path: &Path| {
            let (existing, durability) = (Existing::Refuse, Durability::Unsynced);
            Destination::resolve(path, subject.ingredients(), None, existing, durability).unwrap()
        };
        let mask = destination(&self.at("mask.st"));
        let checkpoint = destination(&self.at("pruned.st"));
        let outputs = Outputs {
            checkpoint: Some(&checkpoint),
            mask: Some(&mask),
            layout: MaskLayout::Keep,
            shard_bytes: None,
        };
        apply(subject, selection, outputs, effort(2)).unwrap();
        let masks = read(&self.open("mask.st"));
        let flags = |(name, bytes): (String, Vec<u8>)| {
            (name, bytes.iter().map(|&byte| byte == 1).collect())
        };
        masks.into_iter().map(flags).collect()
    }
}

fn read(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<u8>> {
    let read = |tensor: &crate::checkpoint::StoredTensor| {
        let mut scratch = Vec::new();
        let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch);
        (tensor.name.clone(), bytes.unwrap().to_vec())
    };
    checkpoint.tensors().iter().map(read).collect()
}

fn effort(threads: usize) -> Effort<'static> {
    static INTERRUPTED: AtomicBool = AtomicBool::new(false);
    let observer = Observer {
        advance: &|_| (),
        interrupted: &INTERRUPTED,
    };
    Effort { threads, observer }
}

/// Many ties: a few values only.
fn tied(name: &'static str, dtype: Dtype, dims: &[u64]) -> Given {
    let mut stream = Stream::named(2, "test", name);
    let n = dims.iter().product();
    let draw = |_| (stream.below(8) as f64 - 3.75) / 4.0;
    Given::new(name, dtype, dims, (0..n).map(draw).collect())
}

fn mixed(last: Dtype) -> Vec<Given> {
    vec![
        Given::random("a.weight", Dtype::F32, &[70, 90]),
        Given::random("b.weight", Dtype::BF16, &[40, 20, 3, 3]),
        tied("c.weight", Dtype::F16, &[50, 60]),
        Given::random("d.weight", last, &[90, 1000]),
        tied("e.weight", Dtype::F32, &[30, 7]),
    ]
}

/// What sorting retains: of all (score, tensor, index) that are ranked together, the
/// first `n` go.
fn sorted_away(scores: &[(usize, Vec<f64>)], n: usize) -> Vec<(usize, usize)> {
    let mut all: Vec<(f64, usize, usize)> = Vec::new();
    for (tensor, scores) in scores {
        let indexed = scores.iter().enumerate();
        all.extend(indexed.map(|(index, &score)| (score, *tensor, index)));
    }
    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
    all[..n]
        .iter()
        .map(|&(_, tensor, index)| (tensor, index))
        .collect()
}

/// LAMP scores, the sums taken from the largest weight down.
fn lamp_scores(magnitudes: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..magnitudes.len()).collect();
    order.sort_by(|&a, &b| magnitudes[b].total_cmp(&magnitudes[a]));
    let mut scores = vec![0.0; magnitudes.len()];
    let mut sum = 0.0;
    for run in order.chunk_by(|&a, &b| magnitudes[a] == magnitudes[b]) {
        let square = magnitudes[run[0]] * magnitudes[run[0]];
        sum += square * run.len() as f64;
        for &index in run {
            scores[index] = if square == 0.0 { 0.0 } else { square / sum };
        }
    }
    scores
}

fn expected(tensors: &[Given], groups: &[(Vec<usize>, usize)], is_lamp: bool) -> Vec<Vec<bool>> {
    let mut masks: Vec<Vec<bool>> = tensors.iter().map(|t| vec![true; t.values.len()]).collect();
    for (members, n) in groups {
        let score = |&tensor: &usize| {
            let magnitudes = tensors[tensor].stored();
            let scores = if is_lamp {
                lamp_scores(&magnitudes)
            } else {
                magnitudes
            };
            (tensor, scores)
        };
        let scores: Vec<_> = members.iter().map(score).collect();
        for (tensor, index) in sorted_away(&scores, *n) {
            masks[tensor][index] = false;
        }
    }
    masks
}

/// All limits and numbers of threads must give what sorting gives.
fn check(tensors: &[Given], target: Target, expected: &[Vec<bool>]) {
    let bench = Bench::new();
    let checkpoint = bench.write("dense.st", tensors);
    let subject = Subject::new(checkpoint, None, &PrunableRule::default()).unwrap();
    let tiny = |cell_bytes, gathered| Limits {
        cell_bytes,
        gathered,
    };
    let all = [
        Limits::default(),
        tiny(0, 0),
        tiny(80 * 1000, 0),
        tiny(80 * 300, 2000),
    ];
    for (limits, threads) in all.into_iter().zip([1, 3, 2, 1]) {
        let selection = select_within(&subject, &target, limits, effort(threads)).unwrap();
        let masks = bench.masks(&subject, &selection);
        for (tensor, expected) in tensors.iter().zip(expected) {
            let found = &masks[tensor.name];
            let differing: Vec<usize> = (0..found.len())
                .filter(|&index| found[index] != expected[index])
                .collect();
            assert!(
                differing.is_empty(),
                "{target:?} {limits:?} {}: {} differ, from {:?}",
                tensor.name,
                differing.len(),
                differing.first()
            );
        }
    }
}

fn weights(sparsity: f64, distribution: Distribution) -> Target {
    Target::Weights {
        amount: Amount::Sparsity(sparsity),
        distribution,
    }
}

const NUMEL: [usize; 5] = [6300, 7200, 3000, 90_000, 210];

#[test]
fn global_is_what_sorting_gives() {
    for last in [Dtype::F32, Dtype::F64] {
        let tensors = mixed(last);
        for sparsity in [0.0, 1e-5, 0.37, 0.5, 0.9, 0.999, 0.999_999] {
            let n = (sparsity * NUMEL.iter().sum::<usize>() as f64).round_ties_even() as usize;
            let expected = expected(&tensors, &[((0..5).collect(), n)], false);
            check(&tensors, weights(sparsity, Distribution::Global), &expected);
        }
    }
}

#[test]
fn uniform_is_what_sorting_gives() {
    let tensors = mixed(Dtype::F32);
    for sparsity in [0.0, 0.35, 0.5, 0.95] {
        let n = |numel: usize| (sparsity * numel as f64).round_ties_even() as usize;
        let groups: Vec<_> = (0..5)
            .map(|tensor| (vec![tensor], n(NUMEL[tensor])))
            .collect();
        let expected = expected(&tensors, &groups, false);
        check(
            &tensors,
            weights(sparsity, Distribution::Uniform),
            &expected,
        );
    }
}

#[test]
fn lamp_is_what_sorting_gives() {
    for last in [Dtype::F32, Dtype::F64] {
        let tensors = mixed(last);
        for sparsity in [0.0, 1e-5, 0.37, 0.8, 0.98] {
            let n = (sparsity * NUMEL.iter().sum::<usize>() as f64).round_ties_even() as usize;
            let expected = expected(&tensors, &[((0..5).collect(), n)], true);
            check(&tensors, weights(sparsity, Distribution::Lamp), &expected);
        }
    }
}

#[test]
fn all_equal_weights_go_by_index() {
    let tensors = [
        Given::new("a.weight", Dtype::F32, &[200, 400], vec![0.5; 80_000]),
        Given::new("b.weight", Dtype::F32, &[200, 400], vec![-0.5; 80_000]),
    ];
    let cut = |tensor: usize, n: usize| (0..80_000).map(|i| 80_000 * tensor + i >= n).collect();
    for distribution in [Distribution::Global, Distribution::Lamp] {
        for (sparsity, n) in [(0.25, 40_000), (0.75, 120_000), (0.5, 80_000)] {
            let expected = [cut(0, n), cut(1, n)];
            check(&tensors, weights(sparsity, distribution), &expected);
        }
    }
}

#[test]
fn random_counts_nests_and_is_even() {
    let bench = Bench::new();
    let tensors = mixed(Dtype::F32);
    let open = |name: &str| Subject::new(bench.open(name), None, &PrunableRule::default()).unwrap();
    bench.write("dense.st", &tensors);
    let random = |sparsity| weights(sparsity, Distribution::Random { seed: 7 });
    let tiny = Limits {
        cell_bytes: 0,
        gathered: 0,
    };
    let dense = open("dense.st");
    let half = select(&dense, &random(0.5), effort(2)).unwrap();
    let same = select_within(&dense, &random(0.5), tiny, effort(1)).unwrap();
    let masks = bench.masks(&dense, &same);
    assert_eq!(masks, bench.masks(&dense, &half));
    let count = |mask: &[bool]| mask.iter().filter(|&&bit| bit).count();
    assert_eq!(
        masks.values().map(|mask| count(mask)).sum::<usize>(),
        53_355
    );
    // Zeros go first; of 90,000 others half remain, give or take 5 deviations of 150.
    assert!(count(&masks["d.weight"]).abs_diff(45_000) < 750);
    let other = select(
        &dense,
        &weights(0.5, Distribution::Random { seed: 8 }),
        effort(2),
    )
    .unwrap();
    assert_ne!(masks, bench.masks(&dense, &other));
    fs::rename(bench.at("pruned.st"), bench.at("half.st")).unwrap();
    let before = bench.masks(&dense, &half);
    fs::rename(bench.at("pruned.st"), bench.at("half.st")).unwrap();
    let again = open("half.st");
    let more = select(&again, &random(0.8), effort(2)).unwrap();
    let after = bench.masks(&again, &more);
    assert_eq!(
        after.values().map(|mask| count(mask)).sum::<usize>(),
        21_342
    );
    let nested = |name: &String, mask: &Vec<bool>| {
        mask.iter()
            .zip(&before[name])
            .all(|(after, before)| *before || !after)
    };
    assert!(after.iter().all(|(name, mask)| nested(name, mask)));
    // With one seed, pruning further in one step or in two is the same.
    let direct = select(&dense, &random(0.8), effort(2)).unwrap();
    assert_eq!(after, bench.masks(&dense, &direct));
}

#[test]
fn phases_prune_what_one_step_prunes() {
    let bench = Bench::new();
    bench.write("dense.st", &mixed(Dtype::F32));
    let open = |name: &str| Subject::new(bench.open(name), None, &PrunableRule::default()).unwrap();
    let dense = open("dense.st");
    let direct = select(&dense, &weights(0.9, Distribution::Global), effort(2)).unwrap();
    let direct = bench.masks(&dense, &direct);
    let first = select(&dense, &weights(0.6, Distribution::Global), effort(2)).unwrap();
    bench.masks(&dense, &first);
    fs::rename(bench.at("pruned.st"), bench.at("first.st")).unwrap();
    let pruned = open("first.st");
    let second = select(&pruned, &weights(0.9, Distribution::Global), effort(2)).unwrap();
    assert_eq!(bench.masks(&pruned, &second), direct);
    let too_dense = select(&pruned, &weights(0.5, Distribution::Global), effort(1));
    assert!(matches!(
        too_dense.unwrap_err(),
        PruneError::AlreadySparser {
            tensor: None,
            numel: 106_710,
            pruned: 64_026,
            allowed: 53_355
        }
    ));
    let target = Target::Weights {
        amount: Amount::OfRemaining(0.75),
        distribution: Distribution::Global,
    };
    let quarter = select(&pruned, &target, effort(1)).unwrap();
    assert_eq!(bench.masks(&pruned, &quarter), direct);
}

#[test]
fn channels_go_whole() {
    let bench = Bench::new();
    // Sums of squares: 5, 25, 5, 1 and 2 * 12, 2 * 0.5, 0.
    let tensors = [
        Given::new(
            "a.weight",
            Dtype::F32,
            &[4, 2],
            vec![1.0, 2.0, 3.0, 4.0, -2.0, 1.0, 0.0, 1.0],
        ),
        Given::new(
            "b.weight",
            Dtype::F16,
            &[3, 1, 1, 2],
            vec![4.0, 2.0, 0.5, 0.5, 0.0, 0.0],
        ),
    ];
    let checkpoint = bench.write("dense.st", &tensors);
    let subject = Subject::new(checkpoint, None, &PrunableRule::default()).unwrap();
    let check = |amount, distribution, a: [u8; 4], b: [u8; 3]| {
        let target = Target::Channels {
            amount,
            distribution,
        };
        let selection = select(&subject, &target, effort(2)).unwrap();
        let masks = bench.masks(&subject, &selection);
        let wide = |channels: &[u8], kept: &[bool]| -> Vec<bool> {
            let both = channels.iter().flat_map(|&bit| [bit == 1; 2]);
            both.zip(kept).map(|(bit, kept)| bit && *kept).collect()
        };
        // More than 0.1 % of both tensors is zero, so their zeros are pruned already.
        let kept_a = [true, true, true, true, true, true, false, true];
        assert_eq!(
            masks["a.weight"],
            wide(&a, &kept_a),
            "{amount:?} {distribution:?}"
        );
        assert_eq!(
            masks["b.weight"],
            wide(&b, &[true; 6]),
            "{amount:?} {distribution:?}"
        );
    };
    let half = Amount::OfRemaining(0.5);
    check(half, ChannelDistribution::Uniform, [0, 1, 1, 0], [1, 0, 0]);
    check(half, ChannelDistribution::Global, [0, 1, 1, 0], [1, 0, 0]);
    let most = Amount::Sparsity(0.7);
    // Five of seven channels in all, of which one is empty already; three of four and two of three.
    check(most, ChannelDistribution::Global, [0, 1, 0, 0], [1, 0, 0]);
    check(most, ChannelDistribution::Uniform, [0, 1, 0, 0], [1, 0, 0]);
}

#[test]
fn zeros_of_dense_tensors_go_first_and_those_of_pruned_ones_are_gone() {
    let mut values = vec![1.0; 4000];
    values[3000] = 0.0;
    let bench = Bench::new();
    bench.write(
        "dense.st",
        &[Given::new("a.weight", Dtype::F32, &[40, 100], values)],
    );
    let subject = Subject::new(bench.open("dense.st"), None, &PrunableRule::default()).unwrap();
    for distribution in [Distribution::Global, Distribution::Random { seed: 0 }] {
        let target = weights(1.0 / 4000.0, distribution);
        let selection = select(&subject, &target, effort(1)).unwrap();
        assert_eq!(selection.remaining, [4000]);
        let mask = &bench.masks(&subject, &selection)["a.weight"];
        assert_eq!(mask.iter().position(|bit| !bit), Some(3000));
        assert_eq!(mask.iter().filter(|bit| !**bit).count(), 1);
    }
}

#[test]
fn what_is_not_finite_is_named() {
    let check = |dtype, bad: f64| {
        let bench = Bench::new();
        let mut tensors = mixed(Dtype::F32);
        tensors[1].values[4321] = f64::NAN;
        tensors[1] = Given::random("z.bias", Dtype::F32, &[2]);
        let mut values = vec![0.25; 100_000];
        values[99_998] = bad;
        tensors.push(Given::new("f.weight", dtype, &[1000, 100], values));
        let subject = Subject::new(
            bench.write("dense.st", &tensors),
            None,
            &PrunableRule::default(),
        );
        let target = weights(0.5, Distribution::Global);
        let error = select(&subject.unwrap(), &target, effort(2)).unwrap_err();
        let PruneError::NonFinite {
            tensor,
            index,
            coordinate,
            value,
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (tensor.as_str(), index, coordinate),
            ("f.weight", 99_998, vec![999, 98])
        );
        assert!(value == bad || (value.is_nan() && bad.is_nan()), "{value}");
    };
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64] {
        check(dtype, f64::NAN);
        check(dtype, f64::INFINITY);
        check(dtype, f64::NEG_INFINITY);
    }
}

#[test]
fn a_given_mask_may_not_revive_what_a_stored_one_prunes() {
    let bench = Bench::new();
    let orig = Given::new(
        "fc.weight_orig",
        Dtype::F32,
        &[2, 2],
        vec![1.0, 2.0, 3.0, 4.0],
    );
    let stored = Given::new(
        "fc.weight_mask",
        Dtype::F32,
        &[2, 2],
        vec![1.0, 0.0, 1.0, 1.0],
    );
    bench.write("torch.st", &[orig, stored]);
    let select_given = |flags: [f64; 4]| {
        let given = Given::new("fc.weight", Dtype::Bool, &[2, 2], flags.to_vec());
        let mask = bench.write("given.st", &[given]);
        let subject = Subject::with_mask(bench.open("torch.st"), mask).unwrap();
        let selection = select(&subject, &Target::Given, effort(1));
        selection.map(|selection| bench.masks(&subject, &selection))
    };
    let masks = select_given([1.0, 0.0, 0.0, 1.0]).unwrap();
    assert_eq!(masks["fc.weight"], [true, false, false, true]);
    let written = read(&bench.open("pruned.st"));
    assert_eq!(
        written.keys().collect::<Vec<_>>(),
        ["fc.weight_mask", "fc.weight_orig"]
    );
    let bytes = |values: [f32; 4]| values.map(f32::to_le_bytes).concat();
    assert_eq!(written["fc.weight_orig"], bytes([1.0, 0.0, 0.0, 4.0]));
    assert_eq!(written["fc.weight_mask"], bytes([1.0, 0.0, 0.0, 1.0]));
    let error = select_given([1.0, 1.0, 0.0, 0.0]).unwrap_err();
    assert!(matches!(error, PruneError::Revived { tensor, index: 1 } if tensor == "fc.weight"));
}

#[test]
fn patterns_that_match_nothing_and_tensors_without_a_magnitude_are_refused() {
    let bench = Bench::new();
    let ints = Given::new("ids.weight", Dtype::I64, &[2, 2], vec![1.0; 4]);
    bench.write("dense.st", &[ints]);
    let patterns = |text: &str| NamePatterns::new(&[text.to_owned()]).unwrap();
    let subject = |rule: &PrunableRule| Subject::new(bench.open("dense.st"), None, rule);
    let error = subject(&PrunableRule::default()).unwrap_err();
    assert!(matches!(error, PruneError::NothingPrunable { .. }));
    let mut rule = PrunableRule {
        include: patterns("ids*"),
        ..PrunableRule::default()
    };
    let error = subject(&rule).unwrap_err();
    assert!(matches!(
        error,
        PruneError::Dtype {
            found: Dtype::I64,
            ..
        }
    ));
    rule.exclude = patterns("head*");
    let error = subject(&rule).unwrap_err();
    assert!(matches!(
        error,
        PruneError::UnusedPattern {
            list: "exclude",
            ..
        }
    ));
}
