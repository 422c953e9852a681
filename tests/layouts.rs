//! Compact layouts, end to end: what is stored in one is the same in every other, and a
//! soup of compact ingredients is the compact soup.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::map::Access;
use sms_merge::connectivity::MismatchPolicy;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::format::safetensors::Entry;
use sms_merge::format::safetensors::Layout;
use sms_merge::format::safetensors::natural_cmp;
use sms_merge::kernel::Weights;
use sms_merge::merge::Certificate;
use sms_merge::merge::Copied;
use sms_merge::merge::Destination;
use sms_merge::merge::MaskLayout;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::copy;
use sms_merge::merge::merge;
use sms_merge::merge::recompute;
use sms_merge::merge::self_check;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Shape;
use sms_merge::tensor::Stream;

/// What one file holds: element type, dimensions and bytes, by name.
type Tensors = BTreeMap<String, (Dtype, Vec<u64>, Vec<u8>)>;

const COMPACT: [MaskLayout; 3] = [
    MaskLayout::Bitmask,
    MaskLayout::CompressedTensors,
    MaskLayout::TorchPrune,
];

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

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, &OpenOptions::default()).unwrap()
}

/// The tensors that a file holds, parts and all.
fn stored(path: &Path) -> Tensors {
    let checkpoint = open(path);
    let tensors = checkpoint.stored_tensors().iter();
    tensors
        .map(|tensor| {
            let mut scratch = Vec::new();
            let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch);
            let bytes = bytes.unwrap().to_vec();
            let dims = tensor.shape.dims().to_vec();
            (tensor.name.clone(), (tensor.dtype, dims, bytes))
        })
        .collect()
}

const WIDE: &[u64] = &[300, 301];

/// Checkpoints that share one mask: matrices and kernels of every kind of row, one
/// tensor of several tiles, biases, and a count.
fn ingredients(n_ingredients: usize, dtype: Dtype, seed: u64) -> Vec<Tensors> {
    let shapes: [(&str, &[u64]); 6] = [
        ("conv.weight", &[5, 3, 3, 3]),
        ("fc.weight", &[7, 13]),
        ("wide.weight", WIDE),
        ("head.weight", &[4, 64]),
        ("gate", &[6, 10]),
        ("fc.bias", &[7]),
    ];
    let width = (dtype.bits() / 8) as usize;
    let of_one = |ingredient: usize| {
        let mut tensors = Tensors::new();
        for (name, dims) in shapes {
            let numel: u64 = dims.iter().product();
            let mut mask = Stream::named(seed, "mask", name);
            let mut values = Stream::named(seed + 1 + ingredient as u64, "values", name);
            let is_masked = name != "fc.bias";
            let element = |_| {
                let draw = mask.bits();
                let is_retained = draw.is_multiple_of(4) || !is_masked;
                // One sign in all ingredients, so that no mean is zero.
                let sign = if draw >> 8 & 1 == 1 { -1.0 } else { 1.0 };
                let value = sign * (values.bits() % 1000 + 1) as f64 / 512.0;
                let value = if is_retained { value } else { 0.0 };
                let bytes = match dtype {
                    Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
                    Dtype::BF16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
                    _ => value.to_le_bytes().to_vec(),
                };
                assert_eq!(bytes.len(), width);
                bytes
            };
            let bytes = (0..numel).flat_map(element).collect();
            tensors.insert(name.to_owned(), (dtype, dims.to_vec(), bytes));
        }
        let count = 5_i64.to_le_bytes().to_vec();
        tensors.insert("steps".to_owned(), (Dtype::I64, vec![], count));
        tensors
    };
    (0..n_ingredients).map(of_one).collect()
}

fn observer(interrupted: &AtomicBool) -> Observer<'_> {
    Observer {
        advance: &|_| (),
        interrupted,
    }
}

fn destination(path: &Path, ingredients: &Ingredients) -> Destination {
    let (existing, durability) = (Existing::Replace, Durability::Unsynced);
    Destination::resolve(path, ingredients, None, existing, durability).unwrap()
}

fn options(n_ingredients: usize, layout: MaskLayout, threads: usize) -> MergeOptions {
    let weights = Weights::uniform(n_ingredients).unwrap();
    let mut options = MergeOptions::new(Method::Uniform, weights);
    (options.layout, options.workers.threads) = (layout, threads);
    options
}

fn export(from: &Path, to: &Path, layout: MaskLayout, threads: usize) -> Copied {
    let source = Ingredients::join(vec![open(from)], None, DtypeRule::Same, |_| true).unwrap();
    let interrupted = AtomicBool::new(false);
    let destination = destination(to, &source);
    let options = options(1, layout, threads);
    copy(&source, options, &destination, observer(&interrupted)).unwrap()
}

fn soup_with(
    paths: &[PathBuf],
    to: &Path,
    options: &MergeOptions,
    access: Access,
) -> Result<(), MergeError> {
    let open_options = OpenOptions {
        access,
        ..OpenOptions::default()
    };
    let checkpoints = paths
        .iter()
        .map(|path| Checkpoint::open(path, &open_options).unwrap())
        .collect();
    let joined = Ingredients::join(checkpoints, None, DtypeRule::Same, |_| true).unwrap();
    let interrupted = AtomicBool::new(false);
    let plan = MergePlan::new(&joined, options)?;
    let destination = destination(to, &joined);
    let files = Vec::new();
    merge(
        plan,
        &joined,
        options,
        &destination,
        files,
        observer(&interrupted),
    )
    .map(|_| ())
}

fn soup(paths: &[PathBuf], to: &Path, layout: MaskLayout, threads: usize) {
    let options = options(paths.len(), layout, threads);
    soup_with(paths, to, &options, Access::Mapped).unwrap();
}

/// Fails if a soup is not what its certificate and its ingredients say.
fn check_proof(soup: &Path, ingredients: &[PathBuf]) {
    let certificate = Certificate::of(&open(soup)).unwrap();
    let interrupted = AtomicBool::new(false);
    let watch = observer(&interrupted);
    let found = self_check(open(soup), &certificate, &2.into(), watch).unwrap();
    assert!(
        found.differences.is_empty(),
        "{soup:?} {:?}",
        found.differences
    );
    let checkpoints = ingredients.iter().map(|path| open(path)).collect();
    let found = recompute(
        &open(soup),
        &certificate,
        checkpoints,
        None,
        &2.into(),
        watch,
    )
    .unwrap();
    assert!(found.is_empty(), "{soup:?} {found:?}");
}

/// Files of dense ingredients and of their compact copies.
struct Kitchen {
    directory: tempfile::TempDir,
    dense: Vec<PathBuf>,
    compact: Vec<PathBuf>,
}

impl Kitchen {
    fn new(n_ingredients: usize, dtype: Dtype, seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (mut dense, mut compact) = (Vec::new(), Vec::new());
        for (index, tensors) in ingredients(n_ingredients, dtype, seed).iter().enumerate() {
            dense.push(directory.path().join(format!("dense{index}.st")));
            compact.push(directory.path().join(format!("compact{index}.st")));
            write(&dense[index], tensors);
            export(&dense[index], &compact[index], MaskLayout::Bitmask, 1);
        }
        Self {
            directory,
            dense,
            compact,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]

    #[test]
    fn every_layout_holds_every_bit(seed in any::<u32>(), which in 0_usize..3) {
        let dtype = [Dtype::F32, Dtype::BF16, Dtype::F64][which];
        let kitchen = Kitchen::new(1, dtype, seed.into());
        let dense = stored(&kitchen.dense[0]);
        for layout in COMPACT {
            let (one, four) = (kitchen.at("one.st"), kitchen.at("four.st"));
            export(&kitchen.dense[0], &one, layout, 1);
            export(&kitchen.dense[0], &four, layout, 4);
            prop_assert!(std::fs::read(&one).unwrap() == std::fs::read(&four).unwrap());
            prop_assert!(stored(&one) != dense, "{layout:?}");
            let back = kitchen.at("back.st");
            export(&one, &back, MaskLayout::Dense, 2);
            prop_assert!(stored(&back) == dense, "{layout:?}");
            for other in COMPACT {
                let (there, again) = (kitchen.at("there.st"), kitchen.at("again.st"));
                export(&one, &there, other, 2);
                export(&there, &again, layout, 2);
                prop_assert!(stored(&again) == stored(&one), "{layout:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_soup_of_compact_ingredients_is_the_compact_soup(
        seed in any::<u32>(),
        n_ingredients in 2_usize..5,
        which in 0_usize..3,
    ) {
        let dtype = [Dtype::F32, Dtype::BF16, Dtype::F64][which];
        let kitchen = Kitchen::new(n_ingredients, dtype, seed.into());
        let (dense, expected) = (kitchen.at("dense.st"), kitchen.at("expected.st"));
        soup(&kitchen.dense, &dense, MaskLayout::Keep, 2);
        check_proof(&dense, &kitchen.dense);
        let export_of = export(&dense, &expected, MaskLayout::Bitmask, 2);
        let mut mixed = kitchen.compact.clone();
        mixed[1] = kitchen.dense[1].clone();
        let found = kitchen.at("found.st");
        for paths in [&kitchen.compact, &kitchen.dense, &mixed] {
            for (layout, threads) in [(MaskLayout::Bitmask, 1), (MaskLayout::Bitmask, 4)] {
                soup(paths, &found, layout, threads);
                let zeros = export_of.outcome.tensors.iter();
                let zeros: u64 = zeros.map(|tensor| tensor.counts.retained_zeros).sum();
                prop_assert_eq!(zeros, 0);
                prop_assert!(stored(&found) == stored(&expected));
                check_proof(&found, paths);
            }
            // Without being told, the soup is stored as the first ingredient is.
            let keeps = if paths[0] == kitchen.compact[0] { &expected } else { &dense };
            for access in [Access::Mapped, Access::Pread] {
                let options = options(n_ingredients, MaskLayout::Keep, 2);
                soup_with(paths, &found, &options, access).unwrap();
                prop_assert!(stored(&found) == stored(keeps));
            }
            for layout in [MaskLayout::Dense, MaskLayout::TorchPrune, MaskLayout::CompressedTensors] {
                let exported = kitchen.at("exported.st");
                export(&dense, &exported, layout, 1);
                soup(paths, &found, layout, 3);
                prop_assert!(stored(&found) == stored(&exported), "{layout:?}");
                check_proof(&found, paths);
            }
        }
    }
}

#[test]
fn a_certificate_follows_a_soup_into_every_layout() {
    let kitchen = Kitchen::new(3, Dtype::F32, 11);
    let soup_path = kitchen.at("soup.st");
    soup(&kitchen.dense, &soup_path, MaskLayout::Keep, 2);
    for layout in COMPACT.into_iter().chain([MaskLayout::Dense]) {
        let exported = kitchen.at("exported.st");
        let copied = export(&soup_path, &exported, layout, 2);
        assert!(copied.was_certified && copied.is_certified, "{layout:?}");
        check_proof(&exported, &kitchen.dense);
        let bytes = std::fs::metadata(&exported).unwrap().len();
        assert_eq!(copied.bytes_written, bytes, "{layout:?}");
    }
    // A soup that was changed keeps no certificate.
    let mut bytes = std::fs::read(&soup_path).unwrap();
    let at = bytes.len() - 9;
    bytes[at] ^= 1;
    std::fs::write(&soup_path, bytes).unwrap();
    let copied = export(
        &soup_path,
        &kitchen.at("changed.st"),
        MaskLayout::Bitmask,
        1,
    );
    assert!(copied.was_certified && !copied.is_certified);
    assert!(Certificate::of(&open(&kitchen.at("changed.st"))).is_err());
}

/// A bitmask file of one F32 tensor, some of whose retained weights are zero.
fn with_zeros(path: &Path, values: &[f32], bits: u8) {
    let list = |len: usize| vec![len as u64];
    let bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let tensors = Tensors::from([
        (
            "w.weight.values".to_owned(),
            (Dtype::F32, list(values.len()), bytes),
        ),
        (
            "w.weight.bitmask".to_owned(),
            (Dtype::U8, list(1), vec![bits]),
        ),
    ]);
    write(path, &tensors);
    let file = std::fs::read(path).unwrap();
    let record =
        r#"{\"version\":1,\"tensors\":{\"w.weight\":{\"dtype\":\"F32\",\"shape\":[2,4]}}}"#;
    let metadata = format!(r#"{{"__metadata__":{{"sms_bitmask":"{record}"}},"#);
    let header_bytes = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let (header, data) = file[8..].split_at(header_bytes);
    let header = format!("{metadata}{}", std::str::from_utf8(&header[1..]).unwrap());
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn retained_zeros_stay_retained_in_every_layout_and_through_a_merge() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (first, second) = (at("a.st"), at("b.st"));
    with_zeros(&first, &[0.0, 1.5, -0.0], 0b1001_0001);
    with_zeros(&second, &[0.0, 2.5, -0.0], 0b1001_0001);
    for layout in COMPACT {
        let (other, back) = (at("other.st"), at("back.st"));
        let copied = export(&first, &other, layout, 1);
        assert_eq!(
            copied.outcome.tensors[0].counts.retained_zeros, 2,
            "{layout:?}"
        );
        export(&other, &back, MaskLayout::Bitmask, 1);
        let signs = &stored(&back)["w.weight.values"].2;
        assert_eq!(signs[8..], (-0.0_f32).to_le_bytes(), "{layout:?}");
        assert_eq!(stored(&back), stored(&first), "{layout:?}");
    }
    let soup_path = at("soup.st");
    let paths = [first.clone(), second];
    soup(&paths, &soup_path, MaskLayout::Keep, 1);
    let found = stored(&soup_path);
    let expected: Vec<u8> = [0.0_f32, 2.0, -0.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(found["w.weight.values"].2, expected);
    assert_eq!(found["w.weight.bitmask"].2, [0b1001_0001]);
    check_proof(&soup_path, &paths);
    let certificate = Certificate::of(&open(&soup_path)).unwrap();
    let record = certificate.tensors["w.weight"].mask.as_ref().unwrap();
    assert_eq!((record.retained, record.retained_zeros), (3, 2));
}

#[test]
fn compact_masks_that_differ_are_a_mismatch_or_resolved() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let paths = [at("a.st"), at("b.st")];
    with_zeros(&paths[0], &[1.0, 2.0, 3.0], 0b1001_0001);
    with_zeros(&paths[1], &[5.0, 6.0, 7.0], 0b1001_0010);
    let mut options = options(2, MaskLayout::Keep, 1);
    let found = soup_with(&paths, &at("soup.st"), &options, Access::Mapped);
    assert!(
        matches!(found, Err(MergeError::Connectivity(_))),
        "{found:?}"
    );
    assert!(!at("soup.st").exists());
    for (policy, bits, values) in [
        (MismatchPolicy::Intersect, 0b1001_0000, vec![4.0_f32, 5.0]),
        (MismatchPolicy::Union, 0b1001_0011, vec![0.5, 2.5, 4.0, 5.0]),
        (MismatchPolicy::First, 0b1001_0001, vec![0.5, 4.0, 5.0]),
    ] {
        options.rules.policy = policy;
        soup_with(&paths, &at("soup.st"), &options, Access::Mapped).unwrap();
        let found = stored(&at("soup.st"));
        let expected: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(found["w.weight.bitmask"].2, [bits], "{policy:?}");
        assert_eq!(found["w.weight.values"].2, expected, "{policy:?}");
        check_proof(&at("soup.st"), &paths);
    }
}

#[test]
fn values_that_are_not_finite_are_refused_at_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let paths = [at("a.st"), at("b.st")];
    with_zeros(&paths[0], &[1.0, 2.0, 3.0], 0b1001_0001);
    with_zeros(&paths[1], &[5.0, 6.0, f32::NAN], 0b1001_0001);
    let options = options(2, MaskLayout::Keep, 1);
    let error = soup_with(&paths, &at("soup.st"), &options, Access::Mapped).unwrap_err();
    assert!(
        matches!(&error, MergeError::NonFinite { index: 7, path: Some(path), .. } if *path == paths[1]),
        "{error:?}"
    );
}

#[test]
fn shards_and_masks_of_compact_files_are_found() {
    let kitchen = Kitchen::new(2, Dtype::F32, 5);
    let source =
        |path: &Path| Ingredients::join(vec![open(path)], None, DtypeRule::Same, |_| true).unwrap();
    let joined = source(&kitchen.dense[0]);
    let interrupted = AtomicBool::new(false);
    let mut options = options(1, MaskLayout::Bitmask, 2);
    options.shard_bytes = Some(2000);
    let output = kitchen.at("shards/");
    let (existing, durability) = (Existing::Refuse, Durability::Unsynced);
    let destination =
        Destination::resolve(&output, &joined, Some(2000), existing, durability).unwrap();
    let copied = copy(&joined, options, &destination, observer(&interrupted)).unwrap();
    assert!(
        copied.plan.layouts.len() > 2,
        "{}",
        copied.plan.layouts.len()
    );
    let back = kitchen.at("back.st");
    export(&output, &back, MaskLayout::Dense, 1);
    assert!(stored(&back) == stored(&kitchen.dense[0]));
    // As a mask file, a compact checkpoint is its masks.
    let masked = Ingredients::join(
        vec![open(&kitchen.dense[1])],
        Some(open(&output)),
        DtypeRule::Same,
        |name| name.ends_with(".weight") || name == "gate",
    )
    .unwrap();
    assert!(
        masked
            .parameters()
            .iter()
            .all(|parameter| parameter.given_mask.is_some())
    );
    let given = masked.given_mask(&masked.parameters()[0]).unwrap();
    assert_eq!(given.dtype, Dtype::Bool);
}
