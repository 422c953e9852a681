//! Soups of models that live on a device.

use std::sync::Arc;

use sms_merge::kernel::Gram;
use sms_merge::kernel::Weights;
use sms_merge::kernel::cuda::Combiner;
use sms_merge::kernel::cuda::Device;
use sms_merge::kernel::cuda::DeviceError;
use sms_merge::kernel::cuda::Resident;
use sms_merge::kernel::cuda::ResidentError;
use sms_merge::kernel::cuda::TensorLayout;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Stream;

use crate::case::Case;
use crate::case::FLOATS;
use crate::case::MaskKind;
use crate::case::all_weights;
use crate::case::case;
use crate::case::compare_grams;
use crate::case::expect;
use crate::case::width;
use crate::on_all;

/// Edges of words and pieces, and of tiles.
const LENGTHS: [usize; 8] = [0, 1, 63, 65, 2049, 65_536, 65_537, 140_001];

/// Memory for a few tiles at a time.
fn little(device: &Arc<Device>, n_models: usize) -> u64 {
    match Combiner::new(device, n_models, 1) {
        Err(DeviceError::Limit { limit: 1, needed }) => 3 * needed,
        other => panic!("{other:?}"),
    }
}

/// The models of these tensors, and a soup that holds something else.
fn upload(device: &Arc<Device>, cases: &[Case]) -> (Resident, Vec<Resident>) {
    let layout = |dtype: &dyn Fn(&Case) -> Dtype| -> Vec<TensorLayout> {
        let tensors = cases.iter().map(|case| TensorLayout {
            n_elements: case.n_elements(),
            dtype: dtype(case),
            is_masked: case.kind == MaskKind::Zeros,
        });
        tensors.collect()
    };
    let models = (0..cases[0].inputs.len()).map(|model| {
        let layout = layout(&|case| case.inputs[model].1);
        let mut resident = Resident::zeros(device, &layout).unwrap();
        for (tensor, case) in cases.iter().enumerate() {
            resident.write(tensor, &case.inputs[model].0).unwrap();
        }
        resident
    });
    let models = models.collect();
    let mut soup = Resident::zeros(device, &layout(&|case| case.out_dtype)).unwrap();
    for (tensor, case) in cases.iter().enumerate() {
        let bytes = vec![0x55; case.n_elements() * width(case.out_dtype)];
        soup.write(tensor, &bytes).unwrap();
    }
    (soup, models)
}

/// Makes a soup and holds all of it against the definition.
fn check(device: &Arc<Device>, cases: &[Case], weights: &Weights, memory: u64) {
    let (mut soup, models) = upload(device, cases);
    let models: Vec<&Resident> = models.iter().collect();
    let mut combiner = Combiner::new(device, models.len(), memory).unwrap();
    // Twice: nothing may be left of the first time.
    let without = combiner.combine(&mut soup, &models, weights, false);
    assert_eq!(without.unwrap().gram, None);
    let found = combiner.combine(&mut soup, &models, weights, true).unwrap();
    let grams = found.gram.unwrap();
    let mut counts = [0, 0];
    for (tensor, case) in cases.iter().enumerate() {
        let about = format!("tensor {tensor}, {} {}", case.n_elements(), case.out_dtype);
        let expected = expect(case, weights);
        let mut bytes = vec![0; expected.out.len()];
        soup.read(tensor, &mut bytes).unwrap();
        assert!(bytes == expected.out, "{about}");
        compare_grams(&grams[tensor], &expected.gram, &about);
        let mask = soup.read_mask(tensor).unwrap();
        let is_masked = case.kind == MaskKind::Zeros;
        assert_eq!(mask, is_masked.then(|| case.mask.clone()), "{about}");
        counts[0] += expected.counts.retained_zeros;
        counts[1] += expected.counts.non_finite;
    }
    assert_eq!(found.counts.retained_zeros, counts[0]);
    assert_eq!(found.counts.non_finite, counts[1]);
}

#[test]
fn every_type_and_length() {
    on_all("resident::every_type_and_length", |device| {
        let mut random = Stream::named(5, "test", "resident");
        for n_models in [1, 3, 17] {
            let mut cases = Vec::new();
            for (idx, &n) in LENGTHS.iter().enumerate() {
                // The longest tensors of all types would take the stand-in a minute.
                let (n, dtype) = (n.min(1_000_000 / n_models), FLOATS[idx % 4]);
                for kind in [MaskKind::Dense, MaskKind::Zeros] {
                    let dtypes = vec![dtype; n_models];
                    cases.push(case(&mut random, n, &dtypes, dtype, kind, false));
                }
            }
            let weights = all_weights(&mut random, n_models);
            check(device, &cases, &weights[0], 64 << 20);
            check(device, &cases, &weights[1], little(device, n_models));
        }
    });
}

#[test]
fn mixed_types() {
    on_all("resident::mixed_types", |device| {
        let mut random = Stream::named(6, "test", "resident");
        for weights in all_weights(&mut random, 4) {
            let cases: Vec<Case> = FLOATS
                .map(|out_dtype| {
                    let kind = MaskKind::Zeros;
                    case(&mut random, 777, &FLOATS, out_dtype, kind, false)
                })
                .into_iter()
                .collect();
            check(device, &cases, &weights, little(device, 4));
        }
    });
}

/// Means of enormous `f64` are settled on the processor.
#[test]
fn what_only_a_fraction_tells() {
    on_all("resident::what_only_a_fraction_tells", |device| {
        let mut random = Stream::named(7, "test", "resident");
        let dtypes = [Dtype::F64; 3];
        let mut cases: Vec<Case> = [70_000, 70_000, 100]
            .into_iter()
            .zip([MaskKind::Zeros, MaskKind::Dense, MaskKind::Dense])
            .map(|(n, kind)| case(&mut random, n, &dtypes, Dtype::F64, kind, false))
            .collect();
        for case in &mut cases[..2] {
            for (bytes, _) in &mut case.inputs {
                let elements = bytes.as_chunks_mut::<8>().0;
                for element in elements.iter_mut().skip(66_000).step_by(101) {
                    let value = f64::from_le_bytes(*element);
                    *element = (value * 1e300).to_le_bytes();
                }
            }
        }
        check(
            device,
            &cases,
            &Weights::uniform(3).unwrap(),
            little(device, 3),
        );
    });
}

#[test]
fn masks_that_differ_are_refused() {
    on_all("resident::masks_that_differ_are_refused", |device| {
        let mut random = Stream::named(8, "test", "resident");
        let dtypes = [Dtype::BF16; 2];
        let mut cases: Vec<Case> = [100, 70_000, 70_000]
            .map(|n| case(&mut random, n, &dtypes, Dtype::BF16, MaskKind::Zeros, false))
            .into_iter()
            .collect();
        // An element of the first tile of the second tensor, one of its second tile, and
        // one of the third tensor.
        for (tensor, element) in [(1, 5), (1, 69_999), (2, 64)] {
            let case = &mut cases[tensor];
            let was_zero = case.mask[element / 64] >> (element % 64) & 1 == 0;
            let value = half::bf16::from_f64(f64::from(u8::from(was_zero)));
            case.inputs[1].0[2 * element..][..2].copy_from_slice(&value.to_le_bytes());
        }
        let (mut soup, models) = upload(device, &cases);
        let models: Vec<&Resident> = models.iter().collect();
        let mut combiner = Combiner::new(device, 2, little(device, 2)).unwrap();
        let uniform = Weights::uniform(2).unwrap();
        let error = combiner
            .combine(&mut soup, &models, &uniform, false)
            .unwrap_err();
        assert!(matches!(
            error,
            ResidentError::Masks {
                tensor: 1,
                disputed: 2,
                n_elements: 70_000,
            }
        ));
        assert!(
            error
                .to_string()
                .contains("2 of 70000 coordinates of tensor 1")
        );
        // The next soup is not troubled by it.
        let first = [models[0], models[0]];
        let same = combiner.combine(&mut soup, &first, &uniform, true).unwrap();
        let grams = same.gram.unwrap();
        assert_eq!(grams.len(), 3);
        assert!(
            grams
                .iter()
                .all(|gram: &Gram| gram.get(0, 0) == gram.get(0, 1))
        );
        let mut bytes = vec![0; 140_000];
        soup.read(1, &mut bytes).unwrap();
        // Zeros of either sign come out as +0.
        let stored = cases[1].inputs[0].0.as_chunks::<2>().0;
        let found = bytes.as_chunks::<2>().0;
        assert!(found.iter().zip(stored).all(|(found, stored)| {
            let is_zero = stored[0] == 0 && stored[1] & 0x7f == 0;
            if is_zero {
                *found == [0; 2]
            } else {
                found == stored
            }
        }));
    });
}

#[test]
fn what_does_not_go_together_is_refused() {
    on_all("resident::what_does_not_go_together_is_refused", |device| {
        let tensor = |n_elements, dtype| TensorLayout {
            n_elements,
            dtype,
            is_masked: true,
        };
        let new = |layout: &[TensorLayout]| Resident::zeros(device, layout);
        assert!(matches!(
            new(&[tensor(1, Dtype::I32)]),
            Err(ResidentError::Kernel(_))
        ));
        for n_elements in [1 << 40, 1 << 61, usize::MAX] {
            assert!(matches!(
                new(&[tensor(8, Dtype::F64), tensor(n_elements, Dtype::F64)]),
                Err(ResidentError::Device(DeviceError::Memory { .. }))
            ));
        }
        let [mut soup, short, other] = [
            vec![tensor(8, Dtype::F32), tensor(8, Dtype::F32)],
            vec![tensor(8, Dtype::F32)],
            vec![tensor(8, Dtype::F32), tensor(9, Dtype::F16)],
        ]
        .map(|layout| new(&layout).unwrap());
        let like = new(soup.layout()).unwrap();
        // Models are apart, and so are their tensors.
        let places = [&soup, &like].map(|model| [model.address(0), model.address(1)]);
        let mut places = places.concat();
        places.sort_unstable();
        assert!(places.iter().all(|place| place % 256 == 0));
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 32));
        assert!(soup.write(0, &[0; 31]).is_err());
        assert!(soup.read(1, &mut [0; 33]).is_err());
        assert!(matches!(
            Combiner::new(device, 2, 1000),
            Err(DeviceError::Limit { limit: 1000, .. })
        ));
        let mut combiner = Combiner::new(device, 2, little(device, 2)).unwrap();
        let uniform = Weights::uniform(2).unwrap();
        let mut refused = |soup: &mut Resident, models: &[&Resident]| {
            combiner
                .combine(soup, models, &uniform, true)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(&mut soup, &[&like, &short]),
            "model 1 has 1 tensors, and the soup 2"
        );
        assert_eq!(
            refused(&mut soup, &[&other, &like]),
            "tensor 1 of model 0 has 9 elements, and the soup's 8"
        );
        assert!(refused(&mut soup, &[&like]).contains("list of models"));
        // All zeros are all pruned, and a model without tensors has a soup without any.
        let found = combiner.combine(&mut soup, &[&like, &like], &uniform, true);
        assert_eq!(found.unwrap().counts.retained_zeros, 0);
        let mut nothing = new(&[]).unwrap();
        let empty = new(&[]).unwrap();
        let found = combiner.combine(&mut nothing, &[&empty, &empty], &uniform, true);
        assert_eq!(found.unwrap().gram, Some(Vec::new()));
    });
}
