use std::fs;

use tempfile::TempDir;

use super::*;
use crate::format::safetensors::Entry;
use crate::format::safetensors::HeaderError;
use crate::format::safetensors::Layout;
use crate::format::sniff::Foreign;

fn file(names: &[&str], metadata: &[(&str, &str)]) -> Vec<u8> {
    let entry = |name: &&str| Entry {
        name: (*name).to_owned(),
        dtype: Dtype::F32,
        shape: Shape::new([2]).unwrap(),
    };
    let layout = Layout::new(names.iter().map(entry).collect()).unwrap();
    let metadata = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let mut bytes = layout.header(&metadata.collect()).unwrap();
    bytes.extend((0..layout.data_bytes()).map(|byte| byte as u8));
    bytes
}

fn directory(files: &[(&str, Vec<u8>)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    directory
}

fn index(places: &[(&str, &str)]) -> Vec<u8> {
    let weight_map: BTreeMap<&str, &str> = places.iter().copied().collect();
    let text = serde_json::json!({"metadata": {"total_size": 8}, "weight_map": weight_map});
    text.to_string().into_bytes()
}

fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(path, &OpenOptions::default())
}

#[test]
fn the_checkpoint_of_a_directory() {
    let check = |files: &[&'static str], expected: &[&str]| {
        let holds = |&name: &&'static str| match name {
            "shard.safetensors" => (name, file(&["indexed"], &[])),
            _ if name.ends_with(".json") => (name, index(&[("indexed", "shard.safetensors")])),
            _ => (name, file(&[name], &[])),
        };
        let directory = directory(&files.iter().map(holds).collect::<Vec<_>>());
        let checkpoint = open(directory.path()).unwrap();
        let names: Vec<&str> = checkpoint
            .tensors()
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect();
        assert_eq!(names, expected, "{files:?}");
        assert_eq!(checkpoint.directory(), Some(directory.path()));
    };
    check(&["only.safetensors"], &["only.safetensors"]);
    check(
        &["a.safetensors", "model.safetensors"],
        &["model.safetensors"],
    );
    check(&["only.st"], &["only.st"]);
    check(&["only.ckpt"], &["only.ckpt"]);
    check(&["a.st", "b.safetensors", "c.ckpt"], &["b.safetensors"]);
    check(
        &["shard.safetensors", "model.safetensors.index.json"],
        &["indexed"],
    );
    check(
        &[
            "shard.safetensors",
            "x.safetensors",
            "y.safetensors.index.json",
        ],
        &["indexed"],
    );
}

#[test]
fn directories_without_one_checkpoint_are_refused() {
    let empty = directory(&[("config.json", b"{}".to_vec())]);
    assert!(matches!(
        open(empty.path()),
        Err(CheckpointError::EmptyDirectory { .. })
    ));
    let several = directory(&[("a.safetensors", vec![]), ("b.safetensors", vec![])]);
    let Err(CheckpointError::AmbiguousDirectory { found, .. }) = open(several.path()) else {
        panic!("two candidates were accepted");
    };
    assert_eq!(found, ["a.safetensors", "b.safetensors"]);
    let shards = [
        ("m-00001-of-00002.bin", vec![]),
        ("m-00002-of-00002.bin", vec![]),
    ];
    for n_shards in [1, 2] {
        let Err(CheckpointError::ShardsWithoutIndex {
            found,
            expected: 2,
            index,
            usable: None,
            ..
        }) = open(directory(&shards[..n_shards]).path())
        else {
            panic!("shards without an index were accepted");
        };
        assert_eq!((found, index.as_str()), (n_shards, "m.bin.index.json"));
    }
    for (file, expected) in [
        ("__0_0.distcp", Sharded::Torch),
        ("zero_to_fp32.py", Sharded::DeepSpeed),
    ] {
        let Err(CheckpointError::EmptyDirectory { sharded, .. }) =
            open(directory(&[(file, vec![])]).path())
        else {
            panic!("parts were taken for a checkpoint");
        };
        assert_eq!(sharded, Some(expected));
    }
}

#[test]
fn a_stale_index_names_what_can_be_used() {
    let stale = (
        "model.safetensors.index.json",
        index(&[("a", "gone.safetensors")]),
    );
    let check = |others: &[(&str, Vec<u8>)], expected: Option<&str>| {
        let directory = directory(&[std::slice::from_ref(&stale), others].concat());
        let Err(CheckpointError::MissingShard {
            shard,
            missing: 1,
            total: 1,
            usable,
            ..
        }) = open(directory.path())
        else {
            panic!("a stale index was accepted");
        };
        assert_eq!(shard, "gone.safetensors");
        assert_eq!(usable, expected.map(|name| directory.path().join(name)));
        if let Some(usable) = usable {
            open(&usable).unwrap();
        }
    };
    check(&[], None);
    // Neither a shard nor a file that cannot be opened is a way out.
    let shard = ("model-00001-of-00002.safetensors", file(&["a"], &[]));
    check(&[shard, ("pytorch_model.bin", vec![1])], None);
    let whole = ("model.safetensors", file(&["a"], &[]));
    check(&[whole], Some("model.safetensors"));
}

#[test]
fn shards_and_their_index_must_agree() {
    let check = |places: &[(&str, &str)], shards: &[(&str, &[&str])]| {
        let mut files = vec![("model.safetensors.index.json", index(places))];
        files.extend(
            shards
                .iter()
                .map(|(name, tensors)| (*name, file(tensors, &[]))),
        );
        open(directory(&files).path())
    };
    let shards: [(&str, &[&str]); 2] = [("1.safetensors", &["a"]), ("2.safetensors", &["b", "c"])];
    let places = [
        ("a", "1.safetensors"),
        ("b", "2.safetensors"),
        ("c", "2.safetensors"),
    ];
    let checkpoint = check(&places, &shards).unwrap();
    assert_eq!(
        (checkpoint.shards().len(), checkpoint.tensors().len()),
        (2, 3)
    );
    assert!(matches!(
        check(&places[..2], &shards),
        Err(CheckpointError::NotInIndex { tensor, .. }) if tensor == "c"
    ));
    let more = [places.as_slice(), &[("d", "1.safetensors")]].concat();
    assert!(matches!(
        check(&more, &shards),
        Err(CheckpointError::NotInShard { tensor, .. }) if tensor == "d"
    ));
    let elsewhere = [
        ("a", "2.safetensors"),
        ("b", "2.safetensors"),
        ("c", "2.safetensors"),
    ];
    assert!(matches!(
        check(&elsewhere, &shards),
        Err(CheckpointError::NotInShard { .. })
    ));
    // The same tensor in two shards: one of them is not where the index says.
    let twice: [(&str, &[&str]); 2] = [
        ("1.safetensors", &["a", "b"]),
        ("2.safetensors", &["b", "c"]),
    ];
    assert!(matches!(
        check(&places, &twice),
        Err(CheckpointError::NotInIndex { .. })
    ));
    let missing = check(&places, &shards[..1]);
    assert!(matches!(missing, Err(CheckpointError::MissingShard { .. })));
    for outside in ["../1.safetensors", "/etc/passwd", ".."] {
        let found = check(&[("a", outside)], &shards);
        assert!(
            matches!(found, Err(CheckpointError::Index { .. })),
            "{outside}"
        );
    }
}

#[test]
fn an_index_and_a_shard_may_be_symbolic_links() {
    let blobs = directory(&[
        ("blob1", file(&["a"], &[])),
        ("blob2", index(&[("a", "model-00001-of-00001.safetensors")])),
    ]);
    let snapshot = directory(&[]);
    for (blob, name) in [
        ("blob1", "model-00001-of-00001.safetensors"),
        ("blob2", INDEX_NAME),
    ] {
        std::os::unix::fs::symlink(blobs.path().join(blob), snapshot.path().join(name)).unwrap();
    }
    assert_eq!(open(snapshot.path()).unwrap().tensors().len(), 1);
}

#[test]
fn what_is_no_checkpoint_is_named() {
    let directory = directory(&[
        (
            "a.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n".to_vec(),
        ),
        ("b.safetensors", file(&["a"], &[])),
        ("c.safetensors.index.json", b"<!DOCTYPE html>".to_vec()),
    ]);
    let found = |name: &str| open(&directory.path().join(name));
    assert!(matches!(
        found("a.safetensors"),
        Err(CheckpointError::Foreign {
            found: Foreign::LfsPointer,
            ..
        })
    ));
    assert!(matches!(
        found("c.safetensors.index.json"),
        Err(CheckpointError::Foreign {
            found: Foreign::Html,
            ..
        })
    ));
    let options = OpenOptions {
        header_limit: 16,
        ..OpenOptions::default()
    };
    let limited = Checkpoint::open(&directory.path().join("b.safetensors"), &options);
    assert!(matches!(
        limited,
        Err(CheckpointError::Header {
            source: HeaderError::OverLimit { .. },
            ..
        })
    ));
}

#[test]
fn elements_and_metadata_are_read_from_the_right_shard() {
    let places = [("a", "1.safetensors"), ("b", "2.safetensors")];
    let directory = directory(&[
        (INDEX_NAME, index(&places)),
        (
            "1.safetensors",
            file(&["a"], &[("format", "pt"), ("step", "1")]),
        ),
        (
            "2.safetensors",
            file(&["b"], &[("format", "np"), ("more", "x")]),
        ),
    ]);
    for access in [Access::Mapped, Access::Pread] {
        let options = OpenOptions {
            access,
            ..OpenOptions::default()
        };
        let checkpoint = Checkpoint::open(directory.path(), &options).unwrap();
        let mut scratch = Vec::new();
        let b = &checkpoint.tensors()[checkpoint.find("b").unwrap()];
        assert_eq!(
            checkpoint.read(b, 1, 1, &mut scratch).unwrap(),
            [4, 5, 6, 7]
        );
        assert_eq!(checkpoint.tensor_bytes(), 16);
        let metadata = BTreeMap::from([("format", "pt"), ("more", "x"), ("step", "1")]);
        assert_eq!(checkpoint.metadata(), metadata);
        checkpoint.check_unchanged().unwrap();
    }
}

mod conventions {
    use super::*;

    /// A checkpoint of tensors with the given names, types and shapes.
    fn checkpoint(tensors: &[(&str, Dtype, &[u64])]) -> (TempDir, Checkpoint) {
        let entry = |&(name, dtype, dims): &(&str, Dtype, &[u64])| Entry {
            name: name.to_owned(),
            dtype,
            shape: Shape::new(dims).unwrap(),
        };
        let layout = Layout::new(tensors.iter().map(entry).collect()).unwrap();
        let mut bytes = layout.header(&BTreeMap::new()).unwrap();
        bytes.resize(bytes.len() + layout.data_bytes() as usize, 0);
        let directory = directory(&[("x.st", bytes)]);
        let checkpoint = open(&directory.path().join("x.st")).unwrap();
        (directory, checkpoint)
    }

    fn join(
        tensors: &[(&str, Dtype, &[u64])],
    ) -> Result<Vec<(String, Convention)>, IngredientsError> {
        let (_directory, checkpoint) = checkpoint(tensors);
        let ingredients = Ingredients::join(vec![checkpoint], None, DtypeRule::Same, |_| true)?;
        let parameters = ingredients.parameters().iter();
        Ok(parameters
            .map(|parameter| (parameter.name.clone(), parameter.sources[0].convention))
            .collect())
    }

    #[test]
    fn masks_are_found_by_name() {
        let check = |names: &[(&str, Dtype)], expected: &[(&str, Convention)]| {
            let tensors: Vec<_> = names
                .iter()
                .map(|&(name, dtype)| (name, dtype, &[2, 3][..]))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|&(name, how)| (name.to_owned(), how))
                .collect();
            assert_eq!(join(&tensors).unwrap(), expected);
        };
        let f = Dtype::F32;
        check(
            &[("fc.weight_mask", f), ("fc.weight_orig", f)],
            &[("fc.weight", Convention::TorchPrune)],
        );
        check(
            &[("fc._weight_mask", Dtype::Bool), ("fc.weight", f)],
            &[("fc.weight", Convention::ModelOpt)],
        );
        check(
            &[("fc.pre_ops.0.op._binary_mask", f), ("fc.weight", f)],
            &[("fc.weight", Convention::Nncf)],
        );
        check(
            &[
                (
                    "__nncf_hooks.post_hooks.block:0:weight__0.1.binary_mask",
                    Dtype::Bool,
                ),
                ("block.0.weight", f),
            ],
            &[("block.0.weight", Convention::Nncf)],
        );
        // Without its other half, a name is a name.
        check(
            &[("attention_mask", f), ("fc.weight_orig", f)],
            &[
                ("attention_mask", Convention::Plain),
                ("fc.weight_orig", Convention::Plain),
            ],
        );
    }

    #[test]
    fn masks_that_do_not_fit_are_refused() {
        let f = Dtype::F32;
        let other_shape = join(&[("w_mask", f, &[3, 2]), ("w_orig", f, &[2, 3])]);
        assert!(matches!(
            other_shape,
            Err(IngredientsError::MaskShape { .. })
        ));
        let other_type = join(&[("w_mask", Dtype::F8E4M3, &[2]), ("w_orig", f, &[2])]);
        assert!(matches!(
            other_type,
            Err(IngredientsError::MaskDtype { .. })
        ));
        let twice = join(&[("w", f, &[2]), ("w_mask", f, &[2]), ("w_orig", f, &[2])]);
        assert!(matches!(twice, Err(IngredientsError::StoredTwice { .. })));
    }

    #[test]
    fn differing_checkpoints_are_refused_with_a_hint() {
        let check =
            |first: &[(&str, Dtype, &[u64])], other: &[(&str, Dtype, &[u64])], hint: &str| {
                let ((_a, first), (_b, other)) = (checkpoint(first), checkpoint(other));
                let joined = Ingredients::join(vec![first, other], None, DtypeRule::Same, |_| true);
                let text = joined.unwrap_err().to_string();
                assert!(text.contains(hint), "{text}");
            };
        let (f32, f16) = (Dtype::F32, Dtype::F16);
        check(&[("a", f32, &[2])], &[("a", f16, &[2])], "`--dtype`");
        check(
            &[("a", f32, &[2])],
            &[("module.a", f32, &[2])],
            "prefix `module.`",
        );
        check(
            &[("a", f32, &[2]), ("b", f32, &[2])],
            &[("a", f32, &[2])],
            "`--exclude`",
        );
        check(
            &[("a", f32, &[2])],
            &[("a", f32, &[3])],
            "shape [2] in the first and [3] in the second",
        );
    }
}
