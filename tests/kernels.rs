//! The kernels for NVIDIA's processors against the definition, bit for bit: their source
//! as C++ on this processor, and the PTX on a device where there is one.
//!
//! Where there is no device that part is skipped with a message; under
//! `SMS_MERGE_REQUIRE_CUDA=1` it fails instead. `SMS_MERGE_REQUIRE_GXX=1` does the same
//! for g++.
//!
//! `SMS_MERGE_STANDIN_FLAGS="-fsanitize=undefined -fno-sanitize-recover=all"` ends a kernel
//! that does what C++ leaves undefined.

#[path = "kernels/case.rs"]
mod case;
#[path = "kernels/resident.rs"]
mod resident;
mod standin;

use std::process::Command;
use std::sync::Arc;

use sms_merge::kernel::Input;
use sms_merge::kernel::Weights;
use sms_merge::kernel::cuda::Answer;
use sms_merge::kernel::cuda::Device;
use sms_merge::kernel::cuda::DeviceError;
use sms_merge::kernel::cuda::Lane;
use sms_merge::kernel::cuda::LaneBytes;
use sms_merge::kernel::cuda::MaskSource;
use sms_merge::kernel::cuda::Request;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Stream;

use case::Case;
use case::FLOATS;
use case::MaskKind;
use case::all_weights;
use case::case;
use case::compare_grams;
use case::expect;
use case::narrow;
use case::width;

/// Edges of groups, words, pieces and blocks, and the largest tile.
const LENGTHS: [usize; 16] = [
    0, 1, 7, 8, 9, 63, 64, 65, 129, 2040, 2047, 2048, 2049, 4133, 20_000, 65_536,
];

/// Set in the process that has the stand-in.
const STANDIN: &str = "SMS_MERGE_STANDIN";

/// Runs the test of this name on every device that there is: in a process of its own on
/// the stand-in, three times, and here on a GPU.
fn on_all(name: &str, test: impl Fn(&Arc<Device>)) {
    if std::env::var_os(STANDIN).is_some() {
        return test(&Device::open(0).unwrap());
    }
    if let Some(folder) = standin::folder() {
        for place in ["home", "odd", "even"] {
            let done = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(STANDIN, "1")
                .env("STANDIN_PLACE", place)
                .env("LD_LIBRARY_PATH", &folder)
                .output()
                .unwrap();
            let log = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success(), "{place}\n{log}");
            assert!(log.contains("1 passed"), "no test `{name}`");
        }
    }
    match Device::open(0) {
        Ok(device) => test(&device),
        Err(error) => {
            assert!(
                std::env::var_os("SMS_MERGE_REQUIRE_CUDA").is_none(),
                "{error}"
            );
            eprintln!("skipped on the GPU: {error}");
        }
    }
}

/// A lane that has room for every batch here.
fn start(device: &Arc<Device>, weights: &Weights) -> Lane {
    let bytes = LaneBytes {
        to: 32 << 20,
        from: 32 << 20,
    };
    Lane::new(device, bytes, weights).unwrap()
}

fn push(lane: &mut Lane, request: Request<'_>) {
    assert!(lane.push(request).unwrap(), "no room");
}

fn request<'a>(case: &'a Case, inputs: &'a [Input<'a>]) -> Request<'a> {
    Request {
        inputs,
        out_dtype: Some(case.out_dtype),
        mask: match case.kind {
            MaskKind::Dense => MaskSource::Dense,
            MaskKind::Given => MaskSource::Given(&case.mask),
            MaskKind::Zeros => MaskSource::Zeros,
        },
        gram: true,
    }
}

/// Holds an answer against the definition.
fn compare(case: &Case, weights: &Weights, answer: &Answer<'_>, about: &str) {
    let expected = expect(case, weights);
    if case.kind == MaskKind::Zeros {
        let found: Vec<u64> = answer
            .mask
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        assert_eq!(found, case.mask, "{about}");
    }
    assert_eq!(
        answer.disputed & u64::from(case.kind == MaskKind::Zeros),
        0,
        "{about}"
    );
    let out_width = width(case.out_dtype);
    let differing = answer
        .out
        .chunks(out_width)
        .zip(expected.out.chunks(out_width))
        .filter(|(found, expected)| found != expected)
        .inspect(|(found, expected)| {
            let is_left_out = answer.unsettled > 0 && found.iter().all(|&byte| byte == 0);
            assert!(is_left_out, "{about}: {found:?} is not {expected:?}");
        });
    assert!(differing.count() as u64 <= answer.unsettled, "{about}");
    if answer.unsettled == 0 {
        assert_eq!(answer.counts, expected.counts, "{about}");
    }
    compare_grams(answer.gram.as_ref().unwrap(), &expected.gram, about);
}

#[test]
fn every_type_length_and_mask() {
    on_all("every_type_length_and_mask", |device| {
        let mut random = Stream::named(1, "test", "kernels");
        // 17 and 33 ingredients make more than one square of pairs.
        for n_ingredients in [1, 2, 3, 17, 33] {
            let weights = all_weights(&mut random, n_ingredients);
            for weights in weights.iter().take(if n_ingredients > 3 { 1 } else { 3 }) {
                let lengths: &[usize] = if n_ingredients > 5 {
                    &LENGTHS[9..13]
                } else {
                    &LENGTHS
                };
                let mut cases = Vec::new();
                for dtype in FLOATS {
                    for &n in lengths {
                        let kinds = [MaskKind::Dense, MaskKind::Given, MaskKind::Zeros];
                        for kind in kinds.into_iter().take(if n > 5000 { 1 } else { 3 }) {
                            let dtypes = vec![dtype; n_ingredients];
                            cases.push(case(&mut random, n, &dtypes, dtype, kind, n < 5000));
                        }
                    }
                }
                check_all(device, weights, &cases);
            }
        }
    });
}

/// Computes the cases in batches of several tiles, and compares each.
fn check_all(device: &Arc<Device>, weights: &Weights, cases: &[Case]) {
    for cases in cases.chunks(16) {
        let mut lane = start(device, weights);
        for case in cases {
            push(&mut lane, request(case, &case.inputs()));
        }
        lane.run().unwrap();
        for (index, case) in cases.iter().enumerate() {
            let about = format!(
                "{} inputs of {} {} to {}, {:?}",
                case.inputs.len(),
                case.n_elements(),
                case.inputs[0].1,
                case.out_dtype,
                case.kind
            );
            compare(case, weights, &lane.answer(index), &about);
        }
    }
}

#[test]
fn mixed_types() {
    on_all("mixed_types", |device| {
        let mut random = Stream::named(2, "test", "kernels");
        for weights in all_weights(&mut random, 4) {
            let mut cases = Vec::new();
            for out_dtype in FLOATS {
                for inputs in [
                    FLOATS,
                    [Dtype::F16, Dtype::F32, Dtype::BF16, Dtype::F32],
                    [Dtype::BF16; 4],
                    [Dtype::F32; 4],
                ] {
                    let kinds = [MaskKind::Dense, MaskKind::Given];
                    for kind in kinds {
                        cases.push(case(&mut random, 777, &inputs, out_dtype, kind, true));
                    }
                }
            }
            check_all(device, &weights, &cases);
        }
    });
}

/// All bit patterns of halves; and `f64` at, just below and just above every point where
/// rounding to a half changes.
#[test]
fn every_half_and_every_tie() {
    on_all("every_half_and_every_tie", |device| {
        let weights = Weights::uniform(1).unwrap();
        let single = |bytes: Vec<u8>, dtype, out_dtype| Case {
            mask: vec![0; (bytes.len() / width(dtype)).div_ceil(64)],
            inputs: vec![(bytes, dtype)],
            out_dtype,
            kind: MaskKind::Dense,
        };
        let patterns: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut cases = Vec::new();
        for (dtype, widen) in [
            (
                Dtype::F16,
                (|bits| half::f16::from_bits(bits).to_f64()) as fn(u16) -> f64,
            ),
            (Dtype::BF16, |bits| half::bf16::from_bits(bits).to_f64()),
        ] {
            let mut ties = Vec::new();
            for bits in 0..0x7c00_u16 {
                let tie = f64::midpoint(widen(bits), widen(bits + 1));
                for value in [tie.next_down(), tie, tie.next_up()] {
                    ties.push(if bits % 3 == 0 { -value } else { value });
                }
            }
            for ties in ties.chunks(65_536) {
                let bytes = ties.iter().flat_map(|tie| tie.to_le_bytes()).collect();
                cases.push(single(bytes, Dtype::F64, dtype));
            }
            cases.push(single(patterns.clone(), dtype, dtype));
            cases.push(single(patterns.clone(), dtype, Dtype::F32));
        }
        check_all(device, &weights, &cases);
    });
}

/// Means in the middle between two elements of a narrow type, and beside it by less than
/// an `f64` holds: numbers of few bits, and specks.
#[test]
fn means_next_to_ties_are_rounded_once() {
    on_all("means_next_to_ties_are_rounded_once", |device| {
        let mut random = Stream::named(5, "test", "kernels");
        for n_ingredients in [2, 3, 4] {
            for weights in all_weights(&mut random, n_ingredients) {
                let mut cases = Vec::new();
                for out_dtype in FLOATS {
                    let mut bytes = || {
                        let value = |random: &mut Stream| match random.below(8) {
                            0 => 0.0,
                            1 | 2 => (random.uniform() - 0.5) * 2_f64.powi(-80),
                            3 => f64::from_bits(random.below(1 << 20)),
                            _ => (random.below(1 << 14) as f64 - 8192.0) / 4096.0,
                        };
                        let values = (0..3000).map(|_| value(&mut random));
                        values.flat_map(f64::to_le_bytes).collect::<Vec<u8>>()
                    };
                    cases.push(Case {
                        inputs: (0..n_ingredients).map(|_| (bytes(), Dtype::F64)).collect(),
                        out_dtype,
                        mask: vec![0; 3000_usize.div_ceil(64)],
                        kind: MaskKind::Dense,
                    });
                }
                check_all(device, &weights, &cases);
            }
        }
    });
}

#[test]
fn masks_that_differ_are_counted() {
    on_all("masks_that_differ_are_counted", |device| {
        let mut random = Stream::named(3, "test", "kernels");
        for dtype in FLOATS {
            let mut case = case(
                &mut random,
                5000,
                &[dtype; 3],
                dtype,
                MaskKind::Zeros,
                false,
            );
            let other = &mut case.inputs[2].0;
            let mut n_disputed = 0;
            for j in (0..5000).step_by(97) {
                // A one where there was a zero, and a zero where there was another number.
                let was_zero = case.mask[j / 64] >> (j % 64) & 1 == 0;
                let value = narrow(f64::from(u8::from(was_zero)), dtype);
                other[j * width(dtype)..][..width(dtype)].copy_from_slice(&value);
                n_disputed += 1;
            }
            let weights = Weights::uniform(3).unwrap();
            for out_dtype in [None, Some(dtype)] {
                let mut lane = start(device, &weights);
                push(
                    &mut lane,
                    Request {
                        out_dtype,
                        ..request(&case, &case.inputs())
                    },
                );
                lane.run().unwrap();
                assert_eq!(lane.answer(0).disputed, n_disputed);
                assert_eq!(lane.answer(0).out.is_empty(), out_dtype.is_none());
            }
        }
    });
}

/// Weights of trained networks are settled on the device: only ties, cancellation and
/// the edges of the format are left to the processor.
#[test]
fn plain_numbers_need_no_fraction() {
    on_all("plain_numbers_need_no_fraction", |device| {
        let mut random = Stream::named(4, "test", "kernels");
        for n_ingredients in [2, 3, 4, 7] {
            let bytes = |random: &mut Stream| {
                let values = (0..20_000).map(|_| random.uniform() - 0.5);
                values.flat_map(f64::to_le_bytes).collect::<Vec<u8>>()
            };
            let case = Case {
                inputs: (0..n_ingredients)
                    .map(|_| (bytes(&mut random), Dtype::F64))
                    .collect(),
                out_dtype: Dtype::F64,
                mask: vec![0; 20_000_usize.div_ceil(64)],
                kind: MaskKind::Dense,
            };
            let weights = Weights::uniform(n_ingredients).unwrap();
            let mut lane = start(device, &weights);
            push(&mut lane, request(&case, &case.inputs()));
            lane.run().unwrap();
            assert_eq!(lane.answer(0).unsettled, 0, "{n_ingredients}");
            compare(&case, &weights, &lane.answer(0), "plain F64");
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_all("what_does_not_fit_is_refused", |device| {
        let weights = Weights::uniform(1).unwrap();
        let inputs = [Input {
            bytes: &[0; 8],
            dtype: Dtype::F32,
        }];
        let mut lane = start(device, &weights);
        push(
            &mut lane,
            Request {
                inputs: &inputs,
                out_dtype: Some(Dtype::F32),
                mask: MaskSource::Dense,
                gram: false,
            },
        );
        lane.run().unwrap();
        assert_eq!(lane.answer(0).out, [0; 8]);
        assert!(lane.answer(0).gram.is_none());
    });
    // Without a machine: lengths and types are checked before anything is sent.
    let buffer = sms_merge::kernel::cuda::Buffer {
        address: 0x1000,
        bytes: 1024,
    };
    let mut batch =
        sms_merge::kernel::cuda::Batch::new(buffer, buffer, &Weights::uniform(2).unwrap());
    let mut push = |lengths: [usize; 2], dtype, mask: &[u64]| {
        let bytes = [0; 4096];
        let inputs = lengths.map(|length| Input {
            bytes: &bytes[..length],
            dtype,
        });
        batch.push(
            &mut [0; 1024],
            Request {
                inputs: &inputs,
                out_dtype: Some(Dtype::F32),
                mask: MaskSource::Given(mask),
                gram: true,
            },
        )
    };
    assert!(push([4, 8], Dtype::F32, &[0]).is_err());
    assert!(push([8, 8], Dtype::I32, &[0]).is_err());
    assert!(push([8, 8], Dtype::F32, &[]).is_err());
    assert_eq!(push([8, 8], Dtype::F32, &[3]).ok(), Some(true));
    assert_eq!(push([2048, 2048], Dtype::F32, &[3; 8]).ok(), Some(false));
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let error = Device::open(9999).unwrap_err();
    let text = error.to_string();
    match error {
        DeviceError::NoDriver => assert!(text.contains("libcuda") && text.contains("--device cpu")),
        _ => assert!(text.contains("cuda:9999"), "{text}"),
    }
}
