//! Tiles to compute, and what the definition says of them.

use sms_merge::kernel::Backend;
use sms_merge::kernel::Counts;
use sms_merge::kernel::Gram;
use sms_merge::kernel::Input;
use sms_merge::kernel::Normalization;
use sms_merge::kernel::PIECE;
use sms_merge::kernel::Weights;
use sms_merge::kernel::reference::Reference;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Stream;
use sms_merge::tensor::TILE_ELEMENTS;

pub(crate) const FLOATS: [Dtype; 4] = [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MaskKind {
    Dense,
    Given,
    Zeros,
}

/// A tile to compute, with its bytes.
pub(crate) struct Case {
    pub(crate) inputs: Vec<(Vec<u8>, Dtype)>,
    pub(crate) out_dtype: Dtype,
    pub(crate) mask: Vec<u64>,
    pub(crate) kind: MaskKind,
}

impl Case {
    pub(crate) fn inputs(&self) -> Vec<Input<'_>> {
        let inputs = self.inputs.iter();
        inputs
            .map(|(bytes, dtype)| Input {
                bytes,
                dtype: *dtype,
            })
            .collect()
    }

    pub(crate) fn n_elements(&self) -> usize {
        self.inputs[0].0.len() / width(self.inputs[0].1)
    }
}

pub(crate) fn width(dtype: Dtype) -> usize {
    (dtype.bits() / 8) as usize
}

pub(crate) fn narrow(value: f64, dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
        Dtype::BF16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
        Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

/// An element: plain numbers, some neighbours, and rarely any bits at all.
pub(crate) fn element(random: &mut Stream, dtype: Dtype, specials: bool) -> Vec<u8> {
    match random.below(16) {
        0 if specials => random.bits().to_le_bytes()[..width(dtype)].to_vec(),
        1 => narrow(1.0 + random.below(8) as f64 / 1024.0, dtype),
        _ => loop {
            // Never a zero, which would prune in one input only.
            let bytes = narrow(random.uniform() * 8.0 - 4.0, dtype);
            if bytes.iter().any(|&byte| byte & 0x7f != 0) {
                break bytes;
            }
        },
    }
}

pub(crate) fn case(
    random: &mut Stream,
    n: usize,
    dtypes: &[Dtype],
    out_dtype: Dtype,
    kind: MaskKind,
    specials: bool,
) -> Case {
    let mut mask: Vec<u64> = (0..n.div_ceil(64))
        .map(|_| random.bits() & random.bits())
        .collect();
    if let Some(last) = mask.last_mut().filter(|_| !n.is_multiple_of(64)) {
        *last &= (1 << (n % 64)) - 1;
    }
    let inputs = dtypes.iter().map(|&dtype| {
        let elements = (0..n).flat_map(|j| {
            if kind == MaskKind::Zeros && mask[j / 64] >> (j % 64) & 1 == 0 {
                // Zeros of either sign.
                let mut zero = vec![0; width(dtype)];
                zero[width(dtype) - 1] = (random.below(2) as u8) << 7;
                return zero;
            }
            // A special could be a zero, and so a dispute.
            element(random, dtype, specials && kind != MaskKind::Zeros)
        });
        (elements.collect(), dtype)
    });
    Case {
        inputs: inputs.collect(),
        out_dtype,
        mask,
        kind,
    }
}

/// What the definition says of a tile.
pub(crate) struct Expected {
    pub(crate) out: Vec<u8>,
    pub(crate) counts: Counts,
    pub(crate) gram: Gram,
}

pub(crate) fn expect(case: &Case, weights: &Weights) -> Expected {
    let n = case.n_elements();
    let out_width = width(case.out_dtype);
    let mut expected = Expected {
        out: vec![0xaa; n * out_width],
        counts: Counts::default(),
        gram: Gram::zero(case.inputs.len()),
    };
    let mut tile = expected.gram.clone();
    for begin in (0..n).step_by(PIECE) {
        if begin > 0 && begin.is_multiple_of(TILE_ELEMENTS as usize) {
            expected.gram.add(&tile);
            tile = Gram::zero(case.inputs.len());
        }
        let end = n.min(begin + PIECE);
        let inputs: Vec<Input<'_>> = case
            .inputs()
            .into_iter()
            .map(|input| Input {
                bytes: &input.bytes[begin * width(input.dtype)..end * width(input.dtype)],
                dtype: input.dtype,
            })
            .collect();
        let mask = &case.mask[begin / 64..end.div_ceil(64)];
        let found = Reference
            .combine(
                &mut (),
                &mut expected.out[begin * out_width..end * out_width],
                case.out_dtype,
                &inputs,
                weights,
                (case.kind != MaskKind::Dense).then_some(mask),
                Some(&mut tile),
            )
            .unwrap();
        expected.counts.retained_zeros += found.retained_zeros;
        expected.counts.non_finite += found.non_finite;
    }
    expected.gram.add(&tile);
    expected
}

/// Fails unless inner products are the same bits. NaN are all alike.
pub(crate) fn compare_grams(found: &Gram, expected: &Gram, about: &str) {
    for i in 0..expected.n_ingredients() {
        for k in 0..=i {
            let (found, expected) = (found.get(i, k), expected.get(i, k));
            let is_same =
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            assert!(is_same, "{about}: <{i}, {k}> {found:e} is not {expected:e}");
        }
    }
}

pub(crate) fn all_weights(random: &mut Stream, n_ingredients: usize) -> Vec<Weights> {
    let values = (0..n_ingredients).map(|_| random.uniform() * 3.0).collect();
    let signed = (0..n_ingredients).map(|_| random.uniform() - 0.4).collect();
    vec![
        Weights::uniform(n_ingredients).unwrap(),
        Weights::new(values, Normalization::SumToOne).unwrap(),
        Weights::new(signed, Normalization::AsGiven).unwrap(),
    ]
}
