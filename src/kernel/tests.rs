use super::cpu::Cpu;
use super::reference::Reference;
use super::{Backend, Counts, Gram, Input, KernelError, Normalization, PIECE, Weights};
use crate::tensor::Dtype;
use proptest::prelude::*;

const FLOATS: [Dtype; 4] = [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64];

/// What a combination gives: the bytes, the counts, the inner products.
type Combined = (Vec<u8>, Counts, Gram);

fn combine<B: Backend>(
    backend: &B,
    out_dtype: Dtype,
    inputs: &[(Vec<u8>, Dtype)],
    weights: &Weights,
    mask: Option<&[u64]>,
) -> Combined {
    let inputs: Vec<Input<'_>> = inputs
        .iter()
        .map(|(bytes, dtype)| Input {
            bytes,
            dtype: *dtype,
        })
        .collect();
    let n = inputs[0].bytes.len() / super::float_bytes(inputs[0].dtype).unwrap();
    let mut out = vec![0xaa; n * super::float_bytes(out_dtype).unwrap()];
    let mut gram = Gram::zero(inputs.len());
    let mut workspace = backend.workspace(inputs.len());
    let counts = backend
        .combine(
            &mut workspace,
            &mut out,
            out_dtype,
            &inputs,
            weights,
            mask,
            Some(&mut gram),
        )
        .unwrap();
    (out, counts, gram)
}

/// Bit equality of everything; NaN products are all alike.
fn same(a: &Combined, b: &Combined) -> bool {
    let products = (0..a.2.n_ingredients()).all(|i| {
        (0..=i).all(|k| {
            let (a, b) = (a.2.get(i, k), b.2.get(i, k));
            a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
        })
    });
    a.0 == b.0 && a.1 == b.1 && products
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn the_comparison_rejects_what_differs() {
    let gram = Gram::zero(1);
    let of = |values: &[f32]| (bytes_of(values), Counts::default(), gram.clone());
    assert!(same(&of(&[1.0, f32::NAN]), &of(&[1.0, f32::NAN])));
    for (a, b) in [
        (of(&[0.0]), of(&[-0.0])),
        (of(&[1.0]), of(&[f32::NAN])),
        (of(&[f32::INFINITY]), of(&[f32::NAN])),
        (of(&[f32::NAN]), of(&[-f32::NAN])),
        (of(&[1.0]), of(&[1.0, 1.0])),
        (of(&[1.0]), of(&[1.000_000_1])),
    ] {
        assert!(!same(&a, &b), "{a:?} {b:?}");
    }
}

#[test]
fn mean_of_pruned_and_retained() {
    let inputs = [
        (bytes_of(&[1.0, 9.0, 3.0, -0.0]), Dtype::F32),
        (bytes_of(&[2.0, 9.0, -3.0, -0.0]), Dtype::F32),
    ];
    let weights = Weights::uniform(2).unwrap();
    let masked = combine(&Reference, Dtype::F32, &inputs, &weights, Some(&[0b0101]));
    assert_eq!(masked.0, bytes_of(&[1.5, 0.0, 0.0, 0.0]));
    assert_eq!(
        masked.1,
        Counts {
            retained_zeros: 1,
            non_finite: 0
        }
    );
    assert_eq!(
        (masked.2.get(0, 0), masked.2.get(1, 0), masked.2.get(1, 1)),
        (10.0, -7.0, 13.0)
    );
    let dense = combine(&Reference, Dtype::F32, &inputs, &weights, None);
    assert_eq!(dense.0, bytes_of(&[1.5, 9.0, 0.0, -0.0]));
}

#[test]
fn zeros_of_both_signs_are_pruned_and_subnormals_are_not() {
    let check = |dtype, bytes: &[u8], expected| {
        let mut words = [0];
        Reference.nonzero(&mut words, dtype, bytes).unwrap();
        assert_eq!(words[0], expected, "{dtype}");
    };
    check(Dtype::F16, &[0, 0, 0, 0x80, 1, 0], 0b100);
    check(Dtype::F32, &bytes_of(&[0.0, -0.0, 1e-45]), 0b100);
    check(
        Dtype::F64,
        &[[0; 8], (-0.0_f64).to_le_bytes(), [1, 0, 0, 0, 0, 0, 0, 0]].concat(),
        0b100,
    );
    check(Dtype::I8, &[0, 0x80, 1], 0b110);
}

#[test]
fn lengths_and_types_are_checked() {
    let weights = Weights::uniform(1).unwrap();
    let bytes = vec![0; 4 * (PIECE + 1)];
    let check = |backend_error: Result<Counts, KernelError>| assert!(backend_error.is_err());
    let run = |out: usize, dtype, input: usize, mask: Option<&[u64]>| {
        let inputs = [Input {
            bytes: &bytes[..input],
            dtype,
        }];
        let mut cpu = Cpu::new().workspace(1);
        check(Cpu::new().combine(
            &mut cpu,
            &mut vec![0; out],
            dtype,
            &inputs,
            &weights,
            mask,
            None,
        ));
        check(Reference.combine(
            &mut (),
            &mut vec![0; out],
            dtype,
            &inputs,
            &weights,
            mask,
            None,
        ));
    };
    run(4 * (PIECE + 1), Dtype::F32, 4 * (PIECE + 1), None);
    run(8, Dtype::F32, 4, None);
    run(8, Dtype::F32, 8, Some(&[0, 0]));
    run(8, Dtype::I32, 8, None);
    assert!(Cpu::new().nonzero(&mut [0], Dtype::F4, &[0]).is_err());
    assert!(Reference.nonzero(&mut [0, 0], Dtype::F32, &[0; 4]).is_err());
}

fn arbitrary_case() -> impl Strategy<
    Value = (
        Dtype,
        Vec<(Vec<u8>, Dtype)>,
        Vec<f64>,
        Option<Vec<u64>>,
        bool,
    ),
> {
    (1_usize..6, 0_usize..200, any::<bool>()).prop_flat_map(|(n_ingredients, n, normalize)| {
        let dtype = prop::sample::select(&FLOATS[..]);
        let input = dtype.clone().prop_flat_map(move |dtype| {
            let width = super::float_bytes(dtype).unwrap();
            // Bits of every kind: mostly plain numbers, some zeros, some specials.
            let element = prop_oneof![
                6 => (-4.0_f64..4.0).prop_map(move |value| narrow(value, dtype)),
                3 => Just(vec![0; width]),
                1 => prop::collection::vec(any::<u8>(), width),
            ];
            (
                prop::collection::vec(element, n).prop_map(|elements| elements.concat()),
                Just(dtype),
            )
        });
        (
            dtype,
            prop::collection::vec(input, n_ingredients),
            prop::collection::vec(prop_oneof![Just(1.0), 0.0_f64..3.0], n_ingredients),
            prop::option::of(
                prop::collection::vec(any::<u64>(), n.div_ceil(64)).prop_map(move |mut mask| {
                    if let Some(last) = mask.last_mut().filter(|_| n % 64 != 0) {
                        *last &= (1 << (n % 64)) - 1;
                    }
                    mask
                }),
            ),
            Just(normalize),
        )
    })
}

fn narrow(value: f64, dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
        Dtype::BF16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
        Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_processor_gives_the_bits_of_the_definition(
        (out_dtype, inputs, values, mask, normalize) in arbitrary_case(),
    ) {
        let normalization = if normalize { Normalization::SumToOne } else { Normalization::AsGiven };
        let Ok(weights) = Weights::new(values, normalization) else { return Ok(()) };
        let expected = combine(&Reference, out_dtype, &inputs, &weights, mask.as_deref());
        let found = combine(&Cpu::new(), out_dtype, &inputs, &weights, mask.as_deref());
        prop_assert!(same(&expected, &found), "{expected:?}\n{found:?}");
    }

    #[test]
    fn masks_agree_with_the_definition(
        dtype in prop::sample::select(Dtype::ALL),
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(0x80), any::<u8>()], 0..1500),
    ) {
        let width = (dtype.bits() / 8).max(1) as usize;
        let bytes = &bytes[..bytes.len() / width * width];
        let n_words = (bytes.len() / width).div_ceil(64);
        let (mut expected, mut found) = (vec![7; n_words], vec![9; n_words]);
        let known = Reference.nonzero(&mut expected, dtype, bytes);
        prop_assert_eq!(known.is_ok(), Cpu::new().nonzero(&mut found, dtype, bytes).is_ok());
        if known.is_ok() {
            prop_assert_eq!(expected, found);
        }
    }

    #[test]
    fn averaging_copies_changes_nothing(
        dtype in prop::sample::select(&FLOATS[..]),
        n_copies in 2_usize..=16,
        seeds in prop::collection::vec(prop_oneof![any::<u64>(), Just(0), Just(1 << 63), Just(0x8000)], 1..50),
        weights in prop::collection::vec(0.01_f64..5.0, 16),
        uniform in any::<bool>(),
    ) {
        let width = super::float_bytes(dtype).unwrap();
        let canonical = |seed: u64| combine(&Reference, dtype, &[(seed.to_le_bytes()[..width].to_vec(), dtype)], &Weights::uniform(1).unwrap(), None).0;
        let bytes: Vec<u8> = seeds.iter().flat_map(|&seed| canonical(seed)).collect();
        let inputs = vec![(bytes.clone(), dtype); n_copies];
        let weights = if uniform {
            Weights::uniform(n_copies).unwrap()
        } else {
            Weights::new(weights[..n_copies].to_vec(), Normalization::SumToOne).unwrap()
        };
        let single = Weights::uniform(1).unwrap();
        let copy = combine(&Reference, dtype, &inputs[..1], &single, None);
        let soup = combine(&Reference, dtype, &inputs, &weights, None);
        let bits = |combined: &Combined| (combined.0.clone(), combined.1, Gram::zero(1));
        prop_assert!(same(&bits(&copy), &bits(&soup)));
        prop_assert!(same(&(bytes, copy.1, Gram::zero(1)), &bits(&copy)));
    }
}
