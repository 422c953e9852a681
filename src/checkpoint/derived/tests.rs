use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::CompactError;
use crate::checkpoint::ContentError;
use crate::checkpoint::Convention;
use crate::checkpoint::DtypeRule;
use crate::checkpoint::Ingredients;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::map::Access;
use crate::checkpoint::map::SourceError;
use crate::format::compact::BITMASK_KEY;
use crate::format::compact::BitmaskRecord;
use crate::format::compact::CompactKind;
use crate::format::compact::part_entries;
use crate::format::safetensors::Entry;
use crate::format::safetensors::Layout;
use crate::tensor::Dtype;
use crate::tensor::Shape;
use crate::tensor::Stream;

/// A tensor with its elements and what it retains.
struct Tensor {
    entry: Entry,
    elements: Vec<Vec<u8>>,
    retained: Vec<bool>,
}

impl Tensor {
    /// Bytes in use are all different, but for retained zeros.
    fn random(name: &str, dtype: Dtype, dims: &[u64], seed: u64) -> Self {
        let shape = Shape::new(dims).unwrap();
        let mut stream = Stream::named(seed, "compact", name);
        let width = (dtype.bits() / 8) as usize;
        let numel = shape.numel() as usize;
        let retained: Vec<bool> = (0..numel)
            .map(|_| stream.bits().is_multiple_of(5))
            .collect();
        let element = |&is_retained: &bool| {
            let bytes = stream.bits().to_le_bytes()[..width].to_vec();
            if is_retained && !bytes[0].is_multiple_of(8) {
                bytes
            } else {
                vec![0; width]
            }
        };
        let elements = retained.iter().map(element).collect();
        let name = name.to_owned();
        Self {
            entry: Entry { name, dtype, shape },
            elements,
            retained,
        }
    }

    /// The bytes of its parts, written down from the description of the layouts.
    fn parts(&self, kind: CompactKind) -> Vec<Vec<u8>> {
        let retained = self.retained.iter().zip(&self.elements);
        let values: Vec<u8> = retained
            .filter(|(is_retained, _)| **is_retained)
            .flat_map(|(_, element)| element.clone())
            .collect();
        let numel = self.elements.len();
        let row = match kind {
            CompactKind::Bitmask => numel,
            CompactKind::CompressedTensors | CompactKind::Sparse24 => {
                *self.entry.shape.dims().last().unwrap() as usize
            }
        };
        let (mut bitmask, mut offsets, mut before) = (Vec::new(), Vec::new(), 0_i64);
        for row in self.retained.chunks(row.max(1)) {
            offsets.extend(before.to_le_bytes());
            before += row.iter().filter(|is_retained| **is_retained).count() as i64;
            for byte in row.chunks(8) {
                let bits = byte.iter().rev();
                bitmask.push(bits.fold(0_u8, |bits, &bit| bits << 1 | u8::from(bit)));
            }
        }
        let dims = self.entry.shape.dims().iter();
        let shape = dims.flat_map(|&dim| (dim as i64).to_le_bytes()).collect();
        match kind {
            CompactKind::Bitmask => vec![values, bitmask],
            CompactKind::CompressedTensors => vec![values, bitmask, shape, offsets],
            CompactKind::Sparse24 => vec![values, bitmask, shape],
        }
    }

    fn n_retained(&self) -> u64 {
        self.retained.iter().filter(|retained| **retained).count() as u64
    }
}

/// Writes a file of these tensors, with this metadata.
fn write(path: &Path, tensors: &[(Entry, Vec<u8>)], metadata: &BTreeMap<String, String>) {
    let entries = tensors.iter().map(|(entry, _)| entry.clone()).collect();
    let mut bytes = Layout::new(entries).unwrap().header(metadata).unwrap();
    tensors
        .iter()
        .for_each(|(_, own)| bytes.extend_from_slice(own));
    fs::write(path, bytes).unwrap();
}

fn record(tensors: &[&Tensor]) -> BTreeMap<String, String> {
    let entries = tensors.iter().map(|tensor| &tensor.entry);
    let record =
        BitmaskRecord::new(entries.map(|entry| (entry.name.as_str(), entry.dtype, &entry.shape)));
    BTreeMap::from([(BITMASK_KEY.to_owned(), record.to_json())])
}

/// The parts of a tensor, with their entries.
fn stored(tensor: &Tensor, kind: CompactKind) -> Vec<(Entry, Vec<u8>)> {
    let entries = part_entries(kind, &tensor.entry, tensor.n_retained()).unwrap();
    entries.into_iter().zip(tensor.parts(kind)).collect()
}

fn open(path: &Path, access: Access) -> Result<Checkpoint, CheckpointError> {
    let options = OpenOptions {
        access,
        ..OpenOptions::default()
    };
    Checkpoint::open(path, &options)
}

#[test]
fn stretches_of_compact_tensors_are_what_was_stored() {
    let directory = tempfile::tempdir().unwrap();
    let shapes: [&[u64]; 9] = [
        &[7],
        &[0, 3],
        &[3, 10],
        &[64, 64],
        &[5, 4, 3, 3],
        &[1, 70_000],
        &[300, 301],
        &[9, 1],
        &[2, 65_536],
    ];
    for (seed, dims) in shapes.into_iter().enumerate() {
        for dtype in [Dtype::BF16, Dtype::F32, Dtype::F64] {
            let tensor = Tensor::random("m.weight", dtype, dims, seed as u64);
            for kind in [CompactKind::Bitmask, CompactKind::CompressedTensors] {
                let path = directory.path().join("a.safetensors");
                let metadata = match kind {
                    CompactKind::Bitmask => record(&[&tensor]),
                    _ => BTreeMap::new(),
                };
                write(&path, &stored(&tensor, kind), &metadata);
                for access in [Access::Mapped, Access::Pread] {
                    let what = format!("{dims:?} {dtype} {kind:?} {access:?}");
                    check_stretches(&open(&path, access).unwrap(), &tensor, kind, &what);
                }
            }
        }
    }
}

fn check_stretches(checkpoint: &Checkpoint, tensor: &Tensor, kind: CompactKind, what: &str) {
    let mut tensors: Vec<_> = checkpoint.tensors().iter().collect();
    tensors.sort_by_key(|tensor| tensor.mask_of.is_some());
    let [value, mask] = tensors[..] else {
        panic!("{what}: {tensors:?}");
    };
    let Entry { name, dtype, shape } = &tensor.entry;
    assert_eq!(
        (&value.name, value.dtype, &value.shape),
        (name, *dtype, shape),
        "{what}"
    );
    assert_eq!((mask.dtype, &mask.shape), (Dtype::Bool, shape), "{what}");
    let numel = shape.numel();
    let mut scratch = Vec::new();
    for (begin, end) in [
        (0, numel),
        (numel / 3, numel / 2),
        (1, 1),
        (63, 70),
        (5, numel),
    ] {
        let (begin, end) = (begin.min(numel), end.min(numel).max(begin.min(numel)));
        let places = begin as usize..end as usize;
        let expected = tensor.elements[places.clone()].concat();
        let found = checkpoint
            .read(value, begin, end - begin, &mut scratch)
            .unwrap();
        assert!(found == expected, "{what} {begin} {end}");
        let flags: Vec<u8> = tensor.retained[places]
            .iter()
            .map(|&bit| bit.into())
            .collect();
        let found = checkpoint
            .read(mask, begin, end - begin, &mut scratch)
            .unwrap();
        assert!(found == flags, "{what} {begin} {end}");
    }
    let extent = checkpoint.extent(value, 0, numel).unwrap();
    assert_eq!(extent.end - extent.begin, value.stored_bytes(), "{what}");
    let ingredients =
        |checkpoint| Ingredients::join(vec![checkpoint], None, DtypeRule::Same, |_| true);
    let path = checkpoint.path();
    let joined = ingredients(open(path, Access::Mapped).unwrap()).unwrap();
    let [parameter] = joined.parameters() else {
        panic!("{what}: {:?}", joined.parameters());
    };
    assert_eq!((&parameter.name, &parameter.shape), (name, shape), "{what}");
    assert_eq!(
        parameter.sources[0].convention,
        Convention::Compact(kind),
        "{what}"
    );
    assert_eq!(
        joined.stored_mask(parameter, 0).unwrap().name,
        mask.name,
        "{what}"
    );
}

/// Changes the stored parts, and expects an error from opening or from reading all.
fn refused(
    kind: CompactKind,
    change: impl Fn(&mut Vec<(Entry, Vec<u8>)>, &mut BTreeMap<String, String>),
) -> CheckpointError {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.safetensors");
    let tensor = Tensor::random("m.weight", Dtype::F32, &[30, 13], 3);
    let mut parts = stored(&tensor, kind);
    let mut metadata = match kind {
        CompactKind::Bitmask => record(&[&tensor]),
        _ => BTreeMap::new(),
    };
    change(&mut parts, &mut metadata);
    write(&path, &parts, &metadata);
    let checkpoint = match open(&path, Access::Mapped) {
        Err(error) => return error,
        Ok(checkpoint) => checkpoint,
    };
    let mut errors = checkpoint.tensors().iter().filter_map(|tensor| {
        let all = tensor.shape.numel();
        checkpoint.read(tensor, 0, all, &mut Vec::new()).err()
    });
    errors
        .next()
        .expect("something is wrong with the file")
        .into()
}

macro_rules! check_refused {
    ($kind:expr, $pattern:pat, $change:expr) => {
        let error = refused($kind, $change);
        assert!(matches!(&error, $pattern), "{error:?}");
    };
}

macro_rules! header {
    ($pattern:pat) => {
        CheckpointError::Compact {
            source: $pattern,
            ..
        }
    };
}

macro_rules! content {
    ($pattern:pat) => {
        CheckpointError::Source(SourceError::Content {
            source: $pattern,
            ..
        })
    };
}

fn set(metadata: &mut BTreeMap<String, String>, text: &str) {
    metadata.insert(BITMASK_KEY.to_owned(), text.to_owned());
}

#[test]
fn malformed_records_and_parts_are_refused() {
    let ours = CompactKind::Bitmask;
    let theirs = CompactKind::CompressedTensors;
    check_refused!(ours, header!(CompactError::Record { .. }), |_, metadata| {
        set(metadata, "[]")
    });
    check_refused!(
        ours,
        header!(CompactError::Version { found: 2 }),
        |_, metadata| {
            set(metadata, r#"{"version":2,"tensors":{}}"#);
        }
    );
    check_refused!(ours, header!(CompactError::Shape { .. }), |_, metadata| {
        let shape = "[4294967296,4294967296]";
        set(
            metadata,
            &format!(r#"{{"version":1,"tensors":{{"m":{{"dtype":"F32","shape":{shape}}}}}}}"#),
        );
    });
    for dtype in ["I8", "Q4"] {
        check_refused!(ours, header!(CompactError::Dtype { .. }), |_, metadata| {
            let text =
                format!(r#"{{"version":1,"tensors":{{"m":{{"dtype":"{dtype}","shape":[3]}}}}}}"#);
            set(metadata, &text);
        });
    }
    for kind in [ours, theirs] {
        check_refused!(kind, header!(CompactError::Twice { .. }), |parts, _| {
            let shape = Shape::new([1]).unwrap();
            let (name, dtype) = ("m.weight".to_owned(), Dtype::F32);
            parts.push((Entry { name, dtype, shape }, vec![0; 4]));
        });
        check_refused!(kind, header!(CompactError::Part { .. }), |parts, _| {
            parts[1].0.dtype = Dtype::I8;
        });
        check_refused!(kind, header!(CompactError::Part { .. }), |parts, _| {
            parts[1].0.shape = Shape::new([1, parts[1].1.len() as u64]).unwrap();
        });
        check_refused!(kind, content!(ContentError::Count { .. }), |parts, _| {
            let last_row = parts[1].1.len() - 2;
            parts[1].1[last_row] ^= 1;
        });
    }
    check_refused!(ours, header!(CompactError::Missing { .. }), |parts, _| {
        parts.pop();
    });
    check_refused!(ours, header!(CompactError::Part { .. }), |parts, _| {
        parts[0].0.dtype = Dtype::I32;
    });
    check_refused!(ours, header!(CompactError::Part { .. }), |parts, _| {
        parts[0] = (parts[0].0.clone(), vec![1; 400 * 4]);
        parts[0].0.shape = Shape::new([400]).unwrap();
    });
    check_refused!(theirs, header!(CompactError::Dtype { .. }), |parts, _| {
        parts[0].0.dtype = Dtype::I32;
    });
    check_refused!(theirs, header!(CompactError::Missing { .. }), |parts, _| {
        parts.remove(2);
    });
    check_refused!(theirs, header!(CompactError::Part { .. }), |parts, _| {
        parts[2].0.dtype = Dtype::U64;
    });
    check_refused!(theirs, header!(CompactError::Shape { .. }), |parts, _| {
        parts[2].1[7] = 0x80;
    });
    check_refused!(
        ours,
        content!(ContentError::Padding { row: 0, .. }),
        |parts, _| {
            // 390 elements leave two bits of the last byte.
            *parts[1].1.last_mut().unwrap() |= 0x80;
        }
    );
    check_refused!(
        theirs,
        content!(ContentError::Padding { row: 2, .. }),
        |parts, _| {
            parts[1].1[5] |= 0x20;
        }
    );
    check_refused!(
        theirs,
        content!(ContentError::RowOffset { row: 29, .. }),
        |parts, _| {
            let last = parts[3].1.len() - 8;
            parts[3].1[last] ^= 1;
        }
    );
}

#[test]
fn shards_that_declare_one_tensor_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let tensor = Tensor::random("m.weight", Dtype::F32, &[3, 4], 1);
    let [values, bitmask] = &stored(&tensor, CompactKind::Bitmask)[..] else {
        panic!("two parts");
    };
    let metadata = record(&[&tensor]);
    let write_shard = |name: &str, part: &(Entry, Vec<u8>), metadata: &BTreeMap<_, _>| {
        write(
            &directory.path().join(name),
            std::slice::from_ref(part),
            metadata,
        );
    };
    write_shard("a.safetensors", values, &metadata);
    write_shard("b.safetensors", bitmask, &BTreeMap::new());
    let index = directory.path().join("model.safetensors.index.json");
    let text = r#"{"metadata":{},"weight_map":{"m.weight.values":"a.safetensors",
        "m.weight.bitmask":"b.safetensors"}}"#;
    fs::write(&index, text).unwrap();
    // The parts of a tensor may lie in two shards, and one of them declares it.
    let checkpoint = open(&index, Access::Mapped).unwrap();
    check_stretches(&checkpoint, &tensor, CompactKind::Bitmask, "two shards");
    write_shard("b.safetensors", bitmask, &metadata);
    let error = open(&index, Access::Mapped).unwrap_err();
    assert!(
        matches!(error, header!(CompactError::DeclaredTwice { .. })),
        "{error:?}"
    );
}
