//! What must hold of every soup, on random checkpoints.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::format::safetensors::Entry;
use sms_merge::format::safetensors::Layout;
use sms_merge::format::safetensors::natural_cmp;
use sms_merge::kernel::Weights;
use sms_merge::merge::Destination;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Merged;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::merge;
use sms_merge::tensor::Arithmetic;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Shape;

type Tensors = BTreeMap<String, (Dtype, Vec<u64>, Vec<u8>)>;

fn write(path: &Path, tensors: &Tensors) {
    let mut entries: Vec<Entry> = tensors
        .iter()
        .map(|(name, (dtype, dims, _))| Entry {
            name: name.clone(),
            dtype: *dtype,
            shape: Shape::new(dims.clone()).unwrap(),
        })
        .collect();
    entries.sort_by(natural_cmp);
    let layout = Layout::new(entries).unwrap();
    let mut bytes = layout.header(&BTreeMap::new()).unwrap();
    for tensor in layout.tensors() {
        bytes.extend(&tensors[&tensor.name].2);
    }
    std::fs::write(path, bytes).unwrap();
}

/// The stored bytes of every tensor.
fn read(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let checkpoint = Checkpoint::open(path, &OpenOptions::default()).unwrap();
    let read = |tensor: &sms_merge::checkpoint::StoredTensor| {
        let mut scratch = Vec::new();
        let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch);
        (tensor.name.clone(), bytes.unwrap().to_vec())
    };
    checkpoint.tensors().iter().map(read).collect()
}

fn soup(
    directory: &Path,
    ingredients: &[Tensors],
    threads: usize,
) -> Result<(PathBuf, Merged), MergeError> {
    let n = ingredients.len();
    let paths: Vec<PathBuf> = (0..n).map(|i| directory.join(format!("{i}.st"))).collect();
    for (path, tensors) in paths.iter().zip(ingredients) {
        write(path, tensors);
    }
    let mut options = MergeOptions::new(Method::Uniform, Weights::uniform(n)?);
    options.workers.threads = threads;
    options.allow_non_finite = true;
    let open = |path: &PathBuf| Checkpoint::open(path, &OpenOptions::default()).unwrap();
    let ingredients = Ingredients::join(
        paths.iter().map(open).collect(),
        None,
        DtypeRule::Same,
        |_| true,
    )?;
    let output = directory.join("soup.st");
    let destination = Destination::resolve(
        &output,
        &ingredients,
        None,
        Existing::Replace,
        Durability::Unsynced,
    )?;
    let plan = MergePlan::new(&ingredients, &options)?;
    let observer = Observer {
        advance: &|_| (),
        interrupted: &AtomicBool::new(false),
    };
    let merged = merge(
        plan,
        &ingredients,
        &options,
        &destination,
        Vec::new(),
        observer,
    )?;
    Ok((output, merged))
}

/// `n_ingredients` checkpoints that share one mask: F32, F16 and BF16 matrices of
/// several tiles and of one element, a bias, and a counter.
fn ingredients(n_ingredients: usize, seed: u64) -> Vec<Tensors> {
    let mut state = seed | 1;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut all = vec![Tensors::new(); n_ingredients];
    for (name, dtype, dims) in [
        ("a.weight", Dtype::F32, vec![300, 257]),
        ("b.weight", Dtype::BF16, vec![40, 8, 3, 3]),
        ("c.weight", Dtype::F16, vec![70, 1000]),
        ("d.bias", Dtype::F32, vec![33]),
        ("e.weight", Dtype::F64, vec![7, 9]),
        ("f.weight", Dtype::F32, vec![1, 1]),
    ] {
        let numel: u64 = dims.iter().product();
        let is_retained: Vec<bool> = (0..numel)
            .map(|_| dims.len() == 1 || next() < 0.2)
            .collect();
        for tensors in &mut all {
            let bytes = is_retained.iter().flat_map(|&retained| {
                // Far enough from zero that F16 keeps it: a zero would not be retained.
                let centred = next() - 0.5;
                let away = centred + 1e-4_f32.copysign(centred);
                let value = if retained { away } else { 0.0 };
                match dtype {
                    Dtype::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
                    Dtype::BF16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
                    Dtype::F32 => value.to_le_bytes().to_vec(),
                    _ => f64::from(value).to_le_bytes().to_vec(),
                }
            });
            tensors.insert(name.to_owned(), (dtype, dims.clone(), bytes.collect()));
        }
    }
    for (index, tensors) in all.iter_mut().enumerate() {
        let counter = (
            Dtype::I64,
            vec![],
            (index as i64 * 100).to_le_bytes().to_vec(),
        );
        tensors.insert("bn.num_batches_tracked".to_owned(), counter);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn neither_order_nor_threads_change_a_bit(
        n_ingredients in 2_usize..6,
        seed in any::<u64>(),
        rotation in 1_usize..5,
        threads in 2_usize..9,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut all = ingredients(n_ingredients, seed);
        let (path, first) = soup(directory.path(), &all, 1).unwrap();
        let expected = read(&path);
        let whole_file = std::fs::read(&path).unwrap();
        soup(directory.path(), &all, threads).unwrap();
        prop_assert_eq!(&whole_file, &std::fs::read(&path).unwrap());
        all.rotate_left(rotation % n_ingredients);
        let (_, rotated) = soup(directory.path(), &all, threads).unwrap();
        prop_assert_eq!(expected, read(&path));
        prop_assert_eq!(first.connectivity.digest(), rotated.connectivity.digest());
    }

    #[test]
    fn the_mask_walks_out_as_it_walked_in(n_ingredients in 2_usize..5, seed in any::<u64>()) {
        let directory = tempfile::tempdir().unwrap();
        let all = ingredients(n_ingredients, seed);
        let (path, merged) = soup(directory.path(), &all, 2).unwrap();
        let found = read(&path);
        for (name, (dtype, _, bytes)) in &all[0] {
            if dtype.arithmetic() != Arithmetic::Average || name.ends_with("bias") {
                continue;
            }
            let width = (dtype.bits() / 8) as usize;
            let is_zero = |element: &[u8]| element.iter().all(|&byte| byte == 0);
            let pruned = bytes.chunks(width).map(is_zero);
            let soup_zeros = found[name].chunks(width).map(is_zero);
            let revived = pruned.clone().zip(soup_zeros.clone()).filter(|&(pruned, zero)| pruned && !zero).count();
            prop_assert_eq!(revived, 0);
            let vanished = pruned.zip(soup_zeros).filter(|&(pruned, zero)| !pruned && zero).count();
            let index = merged.plan.tensors.iter().position(|planned| planned.slot.name == *name).unwrap();
            let counted = merged.outcome.tensors[index].counts.retained_zeros;
            prop_assert!(vanished as u64 <= counted, "{} zeros, {} counted", vanished, counted);
        }
    }
}

/// One tensor of each type, all bit patterns of a byte in turn; no zeros, so that
/// floating matrices count as dense.
fn every_dtype() -> Tensors {
    let tensor = |&dtype: &Dtype| {
        let numel = 256 * 8 / dtype.bits().min(8);
        let bytes = (0..numel * dtype.bits() / 8).map(|index| match dtype {
            Dtype::Bool => (index % 2) as u8,
            _ => (index.wrapping_mul(37) % 255) as u8 + 1,
        });
        (
            dtype.name().to_owned(),
            (dtype, vec![numel / 4, 4], bytes.collect()),
        )
    };
    Dtype::ALL.iter().map(tensor).collect()
}

/// The checkpoint with every NaN the one that soups have.
fn with_canonical_nans(mut tensors: Tensors) -> Tensors {
    for (dtype, _, bytes) in tensors.values_mut() {
        match dtype {
            Dtype::F16 => bytes.as_chunks_mut().0.iter_mut().for_each(|bytes| {
                if half::f16::from_le_bytes(*bytes).is_nan() {
                    *bytes = [0x00, 0x7e];
                }
            }),
            Dtype::BF16 => bytes.as_chunks_mut().0.iter_mut().for_each(|bytes| {
                if half::bf16::from_le_bytes(*bytes).is_nan() {
                    *bytes = [0xc0, 0x7f];
                }
            }),
            Dtype::F32 => bytes.as_chunks_mut().0.iter_mut().for_each(|bytes| {
                if f32::from_le_bytes(*bytes).is_nan() {
                    *bytes = [0, 0, 0xc0, 0x7f];
                }
            }),
            Dtype::F64 => bytes.as_chunks_mut().0.iter_mut().for_each(|bytes| {
                if f64::from_le_bytes(*bytes).is_nan() {
                    *bytes = [0, 0, 0, 0, 0, 0, 0xf8, 0x7f];
                }
            }),
            _ => {}
        }
    }
    tensors
}

#[test]
fn copies_merge_to_themselves_for_every_dtype_and_2_to_16_copies() {
    let checkpoint = with_canonical_nans(every_dtype());
    assert_eq!(checkpoint.len(), 22);
    for n_copies in 2..=16 {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = soup(directory.path(), &vec![checkpoint.clone(); n_copies], 2).unwrap();
        for (name, bytes) in read(&path) {
            assert_eq!(bytes, checkpoint[&name].2, "{name} of {n_copies} copies");
        }
    }
}

#[test]
fn opposite_weights_stay_in_the_mask() {
    let directory = tempfile::tempdir().unwrap();
    let tensors = |values: [f32; 4]| {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Tensors::from([("w".to_owned(), (Dtype::F32, vec![2, 2], bytes))])
    };
    let all = [
        tensors([1.0, 0.0, 2.0, -0.0]),
        tensors([-1.0, -0.0, 4.0, 0.0]),
    ];
    let (path, merged) = soup(directory.path(), &all, 1).unwrap();
    let expected: Vec<u8> = [0.0_f32, 0.0, 3.0, 0.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(read(&path)["w"], expected);
    assert_eq!(merged.connectivity.totals(), (4, 2));
    assert_eq!(merged.outcome.tensors[0].counts.retained_zeros, 1);
    let record = merged.certificate.tensors["w"].mask.as_ref().unwrap();
    assert_eq!((record.retained, record.retained_zeros), (2, 1));
}
