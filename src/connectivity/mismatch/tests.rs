use super::*;
use crate::connectivity::scan::PieceMasks;
use crate::connectivity::{NamePatterns, Rules};

/// Judges one tensor of `n` elements in rows of 64, whose participants have the given masks.
fn judge(masks: &[Vec<u64>], expectation: Expectation, rules: &Rules) -> TensorMask {
    let n_words = masks[0].len();
    let shape = Shape::new([n_words as u64, 64]).unwrap();
    let mut tally = MaskTally::new(masks.len());
    let votes = vec![1.0; masks.len()];
    let words = masks.concat();
    let mut resolved = vec![0; n_words];
    let piece = PieceMasks {
        words: &words,
        n_words,
        votes: &votes,
        is_explicit: &vec![expectation == Expectation::Explicit; masks.len()],
    };
    tally.add_piece(
        piece,
        Resolution::from(rules.policy),
        0,
        64 * n_words,
        &mut resolved,
    );
    let differ = tally.disagreements > 0;
    tally.add_tile_patterns(&resolved, differ.then_some(&words), 64 * n_words, &shape);
    TensorMask::judge(
        "fc.weight".to_owned(),
        shape,
        expectation,
        &tally,
        Digest::of(b""),
        rules,
    )
}

fn prove(masks: &[Vec<u64>], rules: &Rules) -> Result<Connectivity, Box<Mismatch>> {
    let participants: Vec<String> = (0..masks.len()).map(|index| index.to_string()).collect();
    Connectivity::prove(
        vec![Arc::new(judge(masks, Expectation::FromZeros, rules))],
        &participants,
        rules,
    )
}

/// A mask of which about one bit in ten is set, different for each seed.
fn sparse(seed: u64, n_words: usize) -> Vec<u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bit = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u64::from(state >> 33 < (1 << 31) / 10)
    };
    (0..n_words)
        .map(|_| (0..64).fold(0, |word, _| word << 1 | bit()))
        .collect()
}

fn verdict_of(masks: &[Vec<u64>]) -> Verdict {
    prove(masks, &Rules::default()).unwrap_err().verdict
}

#[test]
fn few_zeros_are_a_dense_tensor() {
    let mut almost = vec![u64::MAX; 100];
    almost[3] = !0b111;
    let masks = [vec![u64::MAX; 100], almost];
    let tensor = judge(&masks, Expectation::FromZeros, &Rules::default());
    assert!(!tensor.is_pruned && !tensor.is_mismatch());
    assert_eq!(tensor.retained, 6400);
    assert!(judge(&masks, Expectation::Pruned, &Rules::default()).is_mismatch());
}

#[test]
fn accidental_zeros_are_tolerated_up_to_one_in_1e5_retained() {
    let whole = sparse(1, 100_000);
    let retained: u32 = whole.iter().map(|word| word.count_ones()).sum();
    let without = |n: usize| {
        let mut mask = whole.clone();
        mask.iter_mut()
            .filter(|word| **word != 0)
            .take(n)
            .for_each(|word| *word &= *word - 1);
        [whole.clone(), mask]
    };
    let bound = (f64::from(retained) * DRIFT_TOLERANCE) as usize;
    assert!(bound > 3);
    let tensor = judge(&without(bound), Expectation::FromZeros, &Rules::default());
    assert!(
        tensor.is_tolerated
            && tensor.disagreements == bound as u64
            && tensor.retained == u64::from(retained)
    );
    assert!(
        judge(
            &without(bound + 1),
            Expectation::FromZeros,
            &Rules::default()
        )
        .is_mismatch()
    );
    let strict = Rules {
        strict: true,
        ..Rules::default()
    };
    assert!(judge(&without(1), Expectation::FromZeros, &strict).is_mismatch());
    // An explicit mask that differs is no accident.
    assert!(judge(&without(1), Expectation::Explicit, &Rules::default()).is_mismatch());
}

#[test]
fn a_pattern_that_the_union_breaks_is_a_mismatch() {
    let groups = vec![0x3333_3333_3333_3333_u64; 4000];
    let mut other = groups.clone();
    other[7] = (other[7] & !0b1111) | 0b0110;
    let tensor = judge(
        &[groups.clone(), other],
        Expectation::FromZeros,
        &Rules::default(),
    );
    assert_eq!(tensor.broken_pattern, Some(Pattern { n: 2, m: 4 }));
    assert!(tensor.is_mismatch());
    // A zero within the pattern is an accident.
    let mut fewer = groups.clone();
    fewer[7] &= !1;
    let tensor = judge(&[groups, fewer], Expectation::FromZeros, &Rules::default());
    assert_eq!(
        (tensor.broken_pattern, tensor.pattern),
        (None, Some(Pattern { n: 2, m: 4 }))
    );
    assert!(tensor.is_tolerated);
}

#[test]
fn verdicts() {
    let (a, b, c) = (sparse(1, 2000), sparse(2, 2000), sparse(3, 2000));
    let dense = vec![u64::MAX; 2000];
    let mut drifted = a.clone();
    drifted[..10].fill(0);
    let mut nested = a.clone();
    nested[..1000].fill(0);
    let check = |masks: &[&Vec<u64>], expected: Verdict| {
        assert_eq!(
            verdict_of(&masks.iter().map(|&mask| mask.clone()).collect::<Vec<_>>()),
            expected
        );
    };
    check(&[&a, &b], Verdict::Independent);
    check(&[&a, &b, &c], Verdict::Independent);
    check(&[&a, &drifted], Verdict::Drift);
    check(
        &[&a, &b, &a],
        Verdict::OneOdd {
            odd: 1,
            is_dense: false,
        },
    );
    check(
        &[&dense, &a, &a],
        Verdict::OneOdd {
            odd: 0,
            is_dense: true,
        },
    );
    check(
        &[&a, &dense],
        Verdict::OneOdd {
            odd: 1,
            is_dense: true,
        },
    );
    check(&[&nested, &a], Verdict::Nested { order: vec![1, 0] });
}

#[test]
fn policies_resolve_a_mismatch_but_keep_accidental_zeros() {
    let (a, b) = (sparse(1, 2000), sparse(2, 2000));
    for policy in [
        MismatchPolicy::Intersect,
        MismatchPolicy::Union,
        MismatchPolicy::Vote,
        MismatchPolicy::First,
    ] {
        let rules = Rules {
            policy,
            ..Rules::default()
        };
        let connectivity = prove(&[a.clone(), b.clone()], &rules).unwrap();
        assert_eq!(connectivity.resolutions()[0].1, Resolution::from(policy));
        assert!(connectivity.totals().1 > 0);
    }
    let rules = Rules {
        policy: MismatchPolicy::Intersect,
        ..Rules::default()
    };
    let connectivity = prove(&[a.clone(), a.clone()], &rules).unwrap();
    assert_eq!(connectivity.resolutions()[0].1, Resolution::Any);
}

#[test]
fn agreement_of_empty_masks_is_complete() {
    assert_eq!(
        Agreement {
            shared: 0,
            only_first: 0,
            only_second: 0
        }
        .iou(),
        1.0
    );
    assert_eq!(
        Agreement {
            shared: 1,
            only_first: 1,
            only_second: 2
        }
        .iou(),
        0.25
    );
}

#[test]
fn dense_patterns_keep_a_tensor_out_of_the_comparison() {
    let rules = Rules {
        dense: NamePatterns::new(&["fc*".to_owned()]).unwrap(),
        ..Rules::default()
    };
    let shape = Shape::new([8, 8]).unwrap();
    let expectation = rules.expectation("fc.weight", crate::tensor::Dtype::F32, &shape, false);
    let masks = [sparse(1, 100), sparse(2, 100)];
    assert!(!judge(&masks, expectation, &rules).is_mismatch());
}
