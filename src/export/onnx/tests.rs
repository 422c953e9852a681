//! Encodings against masks and weights that were written, bit by bit; and every way to
//! fail.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::DataTarget;
use crate::checkpoint::DtypeRule;
use crate::checkpoint::OpenOptions;
use crate::format::replace::Existing;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::graph::BatchNorm;
use crate::graph::Builder;
use crate::graph::Features;
use crate::graph::Linear;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// Inputs and outputs of the network, so that a gap can pass 255.
const INPUTS: usize = 37;
const OUTPUTS: usize = 19;

fn graph() -> Graph {
    let mut builder = Builder::new("small", Features::vector(INPUTS)).unwrap();
    let layer = Linear {
        bias: None,
        ..Linear::new(OUTPUTS)
    };
    let node = builder.linear("fc", builder.input(), layer).unwrap();
    builder
        .batch_norm("bn", node, BatchNorm::default())
        .unwrap();
    builder.finish().unwrap()
}

/// Whether the first weight with this index is retained: runs, long gaps, both ends.
fn is_retained(index: usize) -> bool {
    matches!(index, 0 | 5..12 | 300 | 301 | 702) || index.is_multiple_of(97)
}

/// A weight; every third one is zero, retained or not.
fn weight(index: usize) -> f32 {
    match index % 3 {
        0 => 0.0,
        _ => index as f32 - 350.5,
    }
}

/// A tensor to write: name, type, dimensions and bytes.
type Stored = (&'static str, Dtype, Vec<u64>, Vec<u8>);

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    let values = values.into_iter();
    values.flat_map(f32::to_le_bytes).collect()
}

fn norms(variance: f32) -> Vec<Stored> {
    let channels = vec![OUTPUTS as u64];
    let of = |value: f32| floats([value; OUTPUTS]);
    vec![
        ("bn.weight", Dtype::F32, channels.clone(), of(3.0)),
        ("bn.bias", Dtype::F32, channels.clone(), of(0.5)),
        ("bn.running_mean", Dtype::F32, channels.clone(), of(-2.0)),
        ("bn.running_var", Dtype::F32, channels, of(variance)),
        ("bn.num_batches_tracked", Dtype::I64, vec![], vec![0; 8]),
    ]
}

/// Weights that are not zero off their mask, and the mask, as torch stores them.
fn masked() -> Vec<Stored> {
    let dims = vec![OUTPUTS as u64, INPUTS as u64];
    let numel = INPUTS * OUTPUTS;
    let flags = (0..numel).map(|index| u8::from(is_retained(index)));
    let mut tensors = norms(0.25);
    let values = floats((0..numel).map(weight));
    tensors.push(("fc.weight_orig", Dtype::F32, dims.clone(), values));
    tensors.push(("fc.weight_mask", Dtype::Bool, dims, flags.collect()));
    tensors
}

/// Weights that are zero off their mask.
fn plain(dtype: Dtype, bytes_of: impl Fn(f32) -> Vec<u8>, variance: f32) -> Vec<Stored> {
    let dims = vec![OUTPUTS as u64, INPUTS as u64];
    let value = |index| {
        if is_retained(index) {
            weight(index)
        } else {
            0.0
        }
    };
    let values = (0..INPUTS * OUTPUTS).flat_map(|index| bytes_of(value(index)));
    let mut tensors = norms(variance);
    tensors.push(("fc.weight", dtype, dims, values.collect()));
    tensors
}

fn save(path: &Path, tensors: Vec<Stored>) {
    let entries = tensors.iter().map(|(name, dtype, dims, _)| Entry {
        name: (*name).to_owned(),
        dtype: *dtype,
        shape: Shape::new(dims.clone()).unwrap(),
    });
    let layout = Layout::new(entries.collect()).unwrap();
    let mut bytes = layout.header(&BTreeMap::new()).unwrap();
    tensors.iter().for_each(|tensor| bytes.extend(&tensor.3));
    fs::write(path, bytes).unwrap();
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn new(tensors: Vec<Stored>) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        save(&bench.at("model.st"), tensors);
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes `model.onnx`, and `model.onnx.data` if asked for.
    fn export(&self, options: &OnnxOptions) -> Result<Vec<u8>, OnnxError> {
        self.export_of(&graph(), &self.at("model.st"), options, false)
    }

    fn export_of(
        &self,
        graph: &Graph,
        path: &Path,
        options: &OnnxOptions,
        is_interrupted: bool,
    ) -> Result<Vec<u8>, OnnxError> {
        let open = |path: &Path| Checkpoint::open(path, &OpenOptions::default()).unwrap();
        let mask = self.at("mask.st");
        let mask = mask.exists().then(|| open(&mask));
        let ingredients =
            Ingredients::join(vec![open(path)], mask, DtypeRule::AnyFloat, |_| true).unwrap();
        let interrupted = AtomicBool::new(is_interrupted);
        let observer = Observer {
            advance: &|_| {},
            interrupted: &interrupted,
        };
        let export = OnnxExport::plan(graph, &ingredients, options, observer)?;
        let target = |name: &str| Target::for_file(&self.at(name), Existing::Replace).unwrap();
        // With an older model there, the data would get another name.
        let _ = fs::remove_file(self.at("model.onnx"));
        let data = DataTarget::beside(&target("model.onnx"), Existing::Replace).unwrap();
        export.write(
            &target("model.onnx"),
            Some(&data),
            Durability::Unsynced,
            observer,
        )?;
        Ok(fs::read(self.at("model.onnx")).unwrap())
    }
}

/// The fields of a message: a number, or bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let (value, length) = match key & 7 {
            0 => (varint(&mut bytes), 0),
            2 => (0, varint(&mut bytes) as usize),
            5 => (0, 4),
            other => panic!("wire type {other}"),
        };
        let (own, rest) = bytes.split_at(length);
        fields.push((key >> 3, value, own));
        bytes = rest;
    }
    fields
}

/// The only message with this number.
fn only(bytes: &[u8], field: u64) -> &[u8] {
    let found: Vec<&[u8]> = all(bytes, field);
    assert_eq!(found.len(), 1, "field {field}");
    found[0]
}

fn all(bytes: &[u8], field: u64) -> Vec<&[u8]> {
    let fields = fields(bytes);
    let found = fields.into_iter().filter(|found| found.0 == field);
    found.map(|found| found.2).collect()
}

/// Element type and bytes of an initialiser, sparse ones as `name` and `name.indices`.
fn initializer(model: &[u8], name: &str) -> (u64, Vec<u8>) {
    let graph = only(model, 7);
    let mut tensors = all(graph, 5);
    for sparse in all(graph, 15) {
        tensors.push(only(sparse, 1));
        tensors.push(only(sparse, 2));
    }
    let tensor = tensors
        .into_iter()
        .find(|tensor| only(tensor, 8) == name.as_bytes())
        .unwrap_or_else(|| panic!("no `{name}`"));
    let element = fields(tensor).into_iter().find(|field| field.0 == 2);
    (element.unwrap().1, only(tensor, 9).to_vec())
}

fn encoded(encoding: Encoding) -> OnnxOptions {
    OnnxOptions {
        encoding,
        ..OnnxOptions::default()
    }
}

#[test]
fn encodings_hold_what_the_mask_retains() {
    let bench = Bench::new(masked());
    let numel = INPUTS * OUTPUTS;
    let retained: Vec<usize> = (0..numel).filter(|&index| is_retained(index)).collect();
    let zeros = retained.iter().filter(|&&index| weight(index) == 0.0);
    assert!(zeros.count() > 3, "retained zeros are stored as values");
    let values = floats(retained.iter().map(|&index| weight(index)));

    let model = bench.export(&encoded(Encoding::Dense)).unwrap();
    let masked = (0..numel).map(|index| {
        if is_retained(index) {
            weight(index)
        } else {
            0.0
        }
    });
    assert_eq!(initializer(&model, "fc.weight"), (1, floats(masked)));

    let model = bench.export(&encoded(Encoding::Bitmask)).unwrap();
    assert_eq!(initializer(&model, "fc.weight.values"), (1, values.clone()));
    let (element, bits) = initializer(&model, "fc.weight.bitmask");
    let set = (0..8 * bits.len()).filter(|bit| bits[bit / 8] >> (bit % 8) & 1 == 1);
    assert_eq!((element, set.collect::<Vec<_>>()), (2, retained.clone()));
    assert_eq!(bits.len(), numel.div_ceil(8));

    let model = bench.export(&encoded(Encoding::Delta)).unwrap();
    assert_eq!(initializer(&model, "fc.weight.values"), (1, values.clone()));
    let (element, gaps) = initializer(&model, "fc.weight.gaps");
    let mut place = 0;
    let places = gaps.iter().filter_map(|&gap| {
        place += if gap == 0 { 255 } else { usize::from(gap) };
        (gap != 0).then_some(place - 1)
    });
    assert_eq!((element, places.collect::<Vec<_>>()), (2, retained.clone()));

    let model = bench.export(&encoded(Encoding::SparseInitializer)).unwrap();
    assert_eq!(initializer(&model, "fc.weight"), (1, values));
    let (element, indices) = initializer(&model, "fc.weight.indices");
    let indices = indices.as_chunks::<8>().0.iter();
    let indices = indices.map(|&index| u64::from_le_bytes(index) as usize);
    assert_eq!((element, indices.collect::<Vec<_>>()), (7, retained));
}

#[test]
fn a_given_mask_wins_over_zeros() {
    let bench = Bench::new(plain(
        Dtype::F32,
        |value| value.to_le_bytes().to_vec(),
        0.25,
    ));
    let dims = vec![OUTPUTS as u64, INPUTS as u64];
    let flags = |is_set: fn(usize) -> bool| {
        let flags = (0..INPUTS * OUTPUTS).map(|index| u8::from(is_set(index)));
        vec![("fc.weight", Dtype::U8, dims.clone(), flags.collect())]
    };
    save(&bench.at("mask.st"), flags(is_retained));
    let model = bench.export(&encoded(Encoding::Bitmask)).unwrap();
    let (_, values) = initializer(&model, "fc.weight.values");
    let retained = (0..INPUTS * OUTPUTS).filter(|&index| is_retained(index));
    assert_eq!(values.len(), 4 * retained.count());

    save(&bench.at("mask.st"), flags(|index| index > 5));
    let error = bench.export(&encoded(Encoding::Bitmask)).unwrap_err();
    assert!(
        matches!(error, OnnxError::OffMask { index: 5, .. }),
        "{error}"
    );

    let mut mask = flags(is_retained);
    mask[0].3[700] = 2;
    save(&bench.at("mask.st"), mask);
    let error = bench.export(&OnnxOptions::default()).unwrap_err();
    assert!(
        matches!(error, OnnxError::NotAMask { index: 700, .. }),
        "{error}"
    );
}

#[test]
fn stored_types_are_kept() {
    let f16 = |value: f32| half::f16::from_f32(value).to_le_bytes().to_vec();
    let bf16 = |value: f32| half::bf16::from_f32(value).to_le_bytes().to_vec();
    let f64 = |value: f32| f64::from(value).to_le_bytes().to_vec();
    let check = |dtype, bytes_of: &dyn Fn(f32) -> Vec<u8>, element| {
        let bench = Bench::new(plain(dtype, bytes_of, 0.25));
        let model = bench.export(&OnnxOptions::default()).unwrap();
        let stored = plain(dtype, bytes_of, 0.25).pop().unwrap().3;
        assert_eq!(initializer(&model, "fc.weight"), (element, stored.clone()));
        let model = bench.export(&encoded(Encoding::Bitmask)).unwrap();
        let (found, values) = initializer(&model, "fc.weight.values");
        let width = bytes_of(0.0).len();
        // Zeros are the mask: what is stored is what is not zero.
        let nonzero = stored.chunks(width).filter(|value| *value != bytes_of(0.0));
        assert_eq!(
            (found, values),
            (element, nonzero.flatten().copied().collect())
        );
    };
    check(Dtype::F16, &f16, 10);
    check(Dtype::BF16, &bf16, 16);
    check(Dtype::F64, &f64, 11);
}

#[test]
fn folded_weights_are_scaled_once() {
    let f16 = |value: f32| half::f16::from_f32(value).to_le_bytes().to_vec();
    let options = OnnxOptions {
        batch_norms: BatchNorms::Fold,
        ..OnnxOptions::default()
    };
    let bench = Bench::new(plain(Dtype::F16, f16, 0.25));
    let model = bench.export(&options).unwrap();
    let scale = 3.0 / (0.25_f64 + 1e-5).sqrt();
    let scaled = (0..INPUTS * OUTPUTS).map(|index| {
        let value = if is_retained(index) {
            weight(index)
        } else {
            0.0
        };
        (half::f16::from_f32(value).to_f64() * scale) as f32
    });
    assert_eq!(initializer(&model, "fc.weight"), (1, floats(scaled)));
    let bias = (2.0 * scale + 0.5) as f32;
    assert_eq!(initializer(&model, "fc.bias"), (1, floats([bias; OUTPUTS])));
    let operators: Vec<&[u8]> = all(only(&model, 7), 1)
        .into_iter()
        .map(|node| only(node, 4))
        .collect();
    assert_eq!(operators, [b"Gemm"]);

    let bench = Bench::new(plain(Dtype::F16, f16, -1.0));
    let error = bench.export(&options).unwrap_err();
    assert!(
        matches!(error, OnnxError::Fold { channel: 0, .. }),
        "{error}"
    );
    // The scale fits into single precision, and the scaled weight does not.
    let mut tensors = plain(Dtype::F64, |_| 1e300_f64.to_le_bytes().to_vec(), 0.25);
    tensors[0].3 = floats([1e30; OUTPUTS]);
    let error = Bench::new(tensors).export(&options).unwrap_err();
    assert!(
        matches!(error, OnnxError::FoldedWeight { channel: 18, .. }),
        "{error}"
    );
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let f32 = |value: f32| value.to_le_bytes().to_vec();
    let bench = Bench::new(plain(Dtype::F32, f32, 0.25));
    let check = |bench: &Bench, options: &OnnxOptions, expected: fn(&OnnxError) -> bool| {
        let error = bench.export(options).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert!(!bench.at("model.onnx").exists(), "{error:?}");
    };
    let outside = |beside: &Bench, encoding, batch_norms| OnnxOptions {
        encoding,
        batch_norms,
        payloads: Payloads::Checkpoint {
            directory: beside.0.path().to_owned(),
        },
        ..OnnxOptions::default()
    };
    let keep = BatchNorms::Keep;
    check(
        &bench,
        &outside(&bench, Encoding::SparseInitializer, keep),
        |error| matches!(error, OnnxError::SparseOutside),
    );
    check(&bench, &outside(&bench, Encoding::Delta, keep), |error| {
        matches!(error, OnnxError::EncodedOutside { .. })
    });
    check(
        &bench,
        &outside(&bench, Encoding::Dense, BatchNorms::Fold),
        |error| matches!(error, OnnxError::NotInCheckpoint { .. }),
    );
    let other = Bench::new(masked());
    check(&other, &outside(&other, Encoding::Dense, keep), |error| {
        matches!(error, OnnxError::NotInCheckpoint { .. })
    });
    let other = Bench::new(plain(Dtype::F32, f32, 0.25));
    check(&other, &outside(&bench, Encoding::Dense, keep), |error| {
        matches!(error, OnnxError::NotBeside { .. })
    });
    fs::rename(bench.at("model.st"), bench.at("real.st")).unwrap();
    std::os::unix::fs::symlink("real.st", bench.at("model.st")).unwrap();
    check(&bench, &outside(&bench, Encoding::Dense, keep), |error| {
        matches!(error, OnnxError::Unreferable { .. })
    });

    let mut tensors = norms(0.25);
    tensors.push(("fc.weight", Dtype::F32, vec![2, 2], vec![0; 16]));
    check(&Bench::new(tensors), &OnnxOptions::default(), |error| {
        matches!(error, OnnxError::Fit { .. })
    });
    let bytes = Bench::new(plain(Dtype::U8, |_| vec![1], 0.25));
    check(&bytes, &OnnxOptions::default(), |error| {
        matches!(
            error,
            OnnxError::Dtype {
                found: Dtype::U8,
                ..
            }
        )
    });
    let interrupted = bench.export_of(
        &graph(),
        &bench.at("model.st"),
        &OnnxOptions::default(),
        true,
    );
    assert!(matches!(interrupted, Err(OnnxError::Interrupted)));
}

#[test]
fn more_than_two_gibibytes_are_refused() {
    let (inputs, outputs) = (16_400, 16_400);
    let mut builder = Builder::new("large", Features::vector(inputs)).unwrap();
    let layer = Linear {
        bias: None,
        ..Linear::new(outputs)
    };
    builder.linear("fc", builder.input(), layer).unwrap();
    let graph = builder.finish().unwrap();
    let bench = Bench(tempfile::tempdir().unwrap());
    let entry = Entry {
        name: "fc.weight".to_owned(),
        dtype: Dtype::F64,
        shape: Shape::new([outputs as u64, inputs as u64]).unwrap(),
    };
    let layout = Layout::new(vec![entry]).unwrap();
    let header = layout.header(&BTreeMap::new()).unwrap();
    let path = bench.at("model.st");
    fs::write(&path, &header).unwrap();
    // Zeros that take no space: everything is pruned.
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(header.len() as u64 + layout.data_bytes())
        .unwrap();
    let options = OnnxOptions::default();
    let error = bench.export_of(&graph, &path, &options, false).unwrap_err();
    assert!(
        matches!(error, OnnxError::TooLarge { found } if found > MOST_BYTES),
        "{error}"
    );
}

#[test]
fn weights_are_found_in_the_checkpoint() {
    let bench = Bench::new(plain(
        Dtype::F32,
        |value| value.to_le_bytes().to_vec(),
        0.25,
    ));
    let options = OnnxOptions {
        payloads: Payloads::Checkpoint {
            directory: bench.0.path().to_owned(),
        },
        ..OnnxOptions::default()
    };
    let model = bench.export(&options).unwrap();
    let checkpoint = fs::read(bench.at("model.st")).unwrap();
    let tensors = all(only(&model, 7), 5);
    let weight = tensors
        .into_iter()
        .find(|tensor| only(tensor, 8) == b"fc.weight")
        .unwrap();
    let entries: Vec<&str> = all(weight, 13)
        .into_iter()
        .map(|entry| str::from_utf8(only(entry, 2)).unwrap())
        .collect();
    let [location, offset, length] = entries[..] else {
        panic!("{entries:?}");
    };
    assert_eq!(location, "model.st");
    let (offset, length) = (offset.parse().unwrap(), length.parse::<usize>().unwrap());
    let stored = plain(Dtype::F32, |value| value.to_le_bytes().to_vec(), 0.25);
    assert_eq!(checkpoint[offset..][..length], stored.last().unwrap().3);
}
