use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use super::*;
use crate::train::data::idx::FILES;

/// A directory of a user's files.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.at(name), bytes).unwrap();
    }

    fn open(&self, name: &str) -> Result<Dataset, DataError> {
        open(&DataSpec {
            name: self.at(name).to_str().unwrap().to_owned(),
            directory: None,
        })
    }

    /// The data set called `name`, with this directory as data directory.
    fn known(&self, name: &str) -> Result<Dataset, DataError> {
        open(&DataSpec {
            name: name.to_owned(),
            directory: Some(self.0.path().to_owned()),
        })
    }

    /// Four sound files: three 2x1 images to train on, one to test on.
    fn with_idx() -> Self {
        let desk = Self::new();
        desk.put(FILES[0], &idx_images(3, 2, 1, &[1, 2, 3, 4, 5, 6]));
        desk.put(FILES[1], &idx_labels(&[0, 2, 1]));
        desk.put(FILES[2], &idx_images(1, 2, 1, &[255, 0]));
        desk.put(FILES[3], &idx_labels(&[3]));
        desk
    }

    fn put_tensors(&self, tensors: &[(&str, Dtype, &[usize], &[u8])], metadata: &[(&str, &str)]) {
        let views = tensors.iter().map(|&(name, dtype, shape, bytes)| {
            (name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
        });
        let metadata = metadata
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let bytes = safetensors::serialize(views, Some(metadata)).unwrap();
        self.put("data.st", &bytes);
    }
}

fn idx_images(count: u32, height: u32, width: u32, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 3];
    for dim in [count, height, width] {
        bytes.extend(dim.to_be_bytes());
    }
    bytes.extend(pixels);
    bytes
}

fn idx_labels(labels: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 1];
    bytes.extend((labels.len() as u32).to_be_bytes());
    bytes.extend(labels);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

macro_rules! assert_fails {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        let error = $result.unwrap_err();
        assert!(matches!(error, $pattern $(if $guard)?), "{error:?}");
    };
}

#[test]
fn idx_files_are_read_raw_and_compressed() {
    let desk = Desk::with_idx();
    let raw = desk.open("").unwrap();
    assert_eq!(raw.train.pixels(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(raw.train.labels(), [0, 2, 1]);
    assert_eq!(
        (raw.test.picture(0), raw.test.labels()),
        ([255, 0].as_slice(), [3].as_slice())
    );
    assert_eq!((raw.image().height, raw.image().width), (2, 1));
    assert_eq!(raw.class_names, ["0", "1", "2", "3"]);
    for name in FILES {
        let bytes = fs::read(desk.at(name)).unwrap();
        // Two members, as `cat a.gz b.gz` makes.
        let (first, second) = bytes.split_at(9);
        desk.put(&format!("{name}.gz"), &[gzip(first), gzip(second)].concat());
        fs::remove_file(desk.at(name)).unwrap();
    }
    assert_eq!(desk.open("").unwrap(), raw);
}

#[test]
fn bad_idx_files_are_told_apart() {
    let check = |file: usize, bytes: &[u8]| {
        let desk = Desk::with_idx();
        desk.put(FILES[file], bytes);
        desk.open("").unwrap_err()
    };
    let sound = idx_images(3, 2, 1, &[1, 2, 3, 4, 5, 6]);
    // Labels where images should be; floats; two dimensions; nothing at all.
    for bytes in [&idx_labels(&[1])[..], &[0, 0, 0x0d, 3], &[0, 0, 8, 2], &[]] {
        let error = check(0, bytes);
        assert!(
            matches!(&error, DataError::Magic { expected: [0, 0, 8, 3], found, .. } if bytes.starts_with(found)),
            "{error:?}"
        );
    }
    let error = check(1, &sound);
    assert!(matches!(
        error,
        DataError::Magic {
            expected: [0, 0, 8, 1],
            ..
        }
    ));
    for length in [4, 15, 16, sound.len() - 1] {
        let error = check(0, &sound[..length]);
        assert!(
            matches!(error, DataError::Truncated { found, .. } if found == length as u64),
            "{error:?}"
        );
    }
    let error = check(0, &[&sound[..], &[9]].concat());
    assert!(matches!(
        error,
        DataError::TrailingBytes { expected: 22, .. }
    ));
    let error = check(0, &idx_images(0, 2, 1, &[]));
    assert!(matches!(error, DataError::Empty { .. }));
    let error = check(0, &idx_images(3, 0, 1, &[]));
    assert!(matches!(error, DataError::Shape { .. }));
    let error = check(1, &idx_labels(&[0, 1]));
    assert!(matches!(
        error,
        DataError::Count {
            images: 3,
            labels: 2,
            ..
        }
    ));
    let error = check(2, &idx_images(1, 1, 2, &[0, 0]));
    assert!(matches!(error, DataError::OtherShape { .. }));
    // 2^96 bytes, and 2^32 - 1.
    let error = check(0, &idx_images(u32::MAX, u32::MAX, u32::MAX, &[0]));
    assert!(matches!(
        error,
        DataError::Truncated {
            expected: u64::MAX,
            found: 17,
            ..
        }
    ));
    let error = check(0, &idx_images(u32::MAX, 1, 1, &[0]));
    assert!(matches!(error, DataError::Truncated { found: 17, .. }));
}

#[test]
fn bad_compressed_files_are_told_apart() {
    let check = |bytes: &[u8]| {
        let desk = Desk::with_idx();
        desk.put(FILES[0], bytes);
        desk.open("").unwrap_err()
    };
    let sound = gzip(&idx_images(3, 2, 1, &[1, 2, 3, 4, 5, 6]));
    for length in [2, 10, sound.len() - 9, sound.len() - 1] {
        let error = check(&sound[..length]);
        assert!(
            matches!(error, DataError::Gzip { .. }),
            "{length} {error:?}"
        );
    }
    // A wrong sum, found after all pixels are there.
    let mut flipped = sound.clone();
    let last = flipped.len() - 8;
    flipped[last] ^= 1;
    assert!(matches!(check(&flipped), DataError::Gzip { bytes: 22, .. }));
    let rubbish = [&sound[..], b"rubbish"].concat();
    assert!(matches!(check(&rubbish), DataError::Gzip { .. }));
    let short = gzip(&idx_images(3, 2, 1, &[1, 2, 3]));
    let error = check(&short);
    assert!(matches!(
        error,
        DataError::Truncated {
            expected: 22,
            found: 19,
            ..
        }
    ));
    // More than the stored bytes can stand for: refused before any memory is asked for.
    let error = check(&gzip(&idx_images(u32::MAX, u32::MAX, 1, &[0; 100])));
    assert!(matches!(error, DataError::Oversized { .. }), "{error:?}");
    // A bomb behind a small header is not unpacked.
    let bomb = gzip(&[idx_images(3, 2, 1, &[0; 6]), vec![0; 4 << 20]].concat());
    let error = check(&bomb);
    assert!(matches!(
        error,
        DataError::TrailingBytes { expected: 22, .. }
    ));
}

/// A record of CIFAR whose pixels tell its place.
fn record(labels: &[u8], pixel: u8) -> Vec<u8> {
    let planes = (0..3072).map(|idx| pixel.wrapping_add((idx / 1024) as u8));
    labels.iter().copied().chain(planes).collect()
}

#[test]
fn cifar_is_read_in_both_editions() {
    let desk = Desk::new();
    for batch in 1..=5 {
        let bytes = record(&[batch], batch * 10);
        desk.put(&format!("data_batch_{batch}.bin"), &bytes);
    }
    let test = [record(&[9], 100), record(&[0], 103)].concat();
    desk.put("test_batch.bin", &test);
    let ten = desk.known("cifar10").unwrap();
    assert_eq!(ten, desk.open("").unwrap());
    assert_eq!(ten.train.labels(), [1, 2, 3, 4, 5]);
    assert_eq!(ten.test.labels(), [9, 0]);
    let picture = ten.train.picture(4);
    assert_eq!((picture[1023], picture[1024], picture[3071]), (50, 51, 52));
    assert_eq!(ten.class_names[9], "truck");
    assert!(ten.augmentation.flip && ten.normalisation.mean.len() == 3);

    let desk = Desk::new();
    fs::create_dir(desk.at("cifar-100-binary")).unwrap();
    desk.put("cifar-100-binary/train.bin", &record(&[19, 99], 1));
    desk.put("cifar-100-binary/test.bin", &record(&[0, 7], 2));
    let hundred = desk.known("cifar100").unwrap();
    assert_eq!(
        (hundred.train.labels(), hundred.test.labels()),
        ([99].as_slice(), [7].as_slice())
    );
    assert_eq!(hundred.class_names[99], "worm");
    // The other edition is not taken for it.
    assert_fails!(desk.known("cifar10"), DataError::Missing { .. });
}

#[test]
fn bad_cifar_files_are_told_apart() {
    let check = |train: &[u8]| {
        let desk = Desk::new();
        desk.put("train.bin", train);
        desk.put("test.bin", &record(&[0, 0], 0));
        desk.known("cifar100")
    };
    check(&record(&[0, 99], 0)).unwrap();
    assert_fails!(check(&[]), DataError::Records { found: 0, .. });
    assert_fails!(
        check(&record(&[0], 0)),
        DataError::Records {
            found: 3073,
            record: 3074,
            ..
        }
    );
    let wrong = [record(&[0, 0], 0), record(&[0, 100], 0)].concat();
    assert_fails!(
        check(&wrong),
        DataError::Label {
            sample: 1,
            found: 100,
            classes: 100,
            ..
        }
    );
    let desk = Desk::new();
    desk.put("data_batch_1.bin", &record(&[0], 0));
    assert_fails!(desk.open(""), DataError::Source(_));
}

#[test]
fn what_is_not_there_is_explained() {
    let desk = Desk::new();
    assert_fails!(desk.open(""), DataError::Directory { .. });
    assert_fails!(desk.open("nothing.st"), DataError::Unknown { .. });
    let error = desk.known("fashion-mnist").unwrap_err().to_string();
    assert!(
        error.contains("apt-get install dataset-fashion-mnist"),
        "{error}"
    );
    assert!(error.contains("FashionMNIST/raw"), "{error}");
    for known in Known::ALL {
        let found = desk.known(known.name());
        match known {
            Known::Digits => assert!(matches!(found, Err(DataError::DirectoryUnused { .. }))),
            _ => assert!(matches!(found, Err(DataError::Missing { .. }))),
        }
    }
    let desk = Desk::with_idx();
    assert_fails!(desk.open(FILES[0]), DataError::Part { .. });
    assert_fails!(desk.open("test_batch.bin"), DataError::Unknown { .. });
    desk.put("test_batch.bin", &[]);
    assert_fails!(desk.open("test_batch.bin"), DataError::Part { .. });
    assert_fails!(desk.known("mnist"), DataError::OtherShape { .. });
    fs::remove_file(desk.at(FILES[3])).unwrap();
    let error = desk.open("").unwrap_err();
    assert!(error.to_string().contains(FILES[3]), "{error}");
    let desk = Desk::new();
    desk.put(FILES[0], &idx_images(1, 28, 28, &[0; 784]));
    desk.put(FILES[1], &idx_labels(&[9]));
    desk.put(FILES[2], &idx_images(1, 28, 28, &[0; 784]));
    desk.put(FILES[3], &idx_labels(&[10]));
    assert_fails!(
        desk.known("mnist"),
        DataError::Label {
            found: 10,
            classes: 10,
            ..
        }
    );
    fs::create_dir_all(desk.at("FashionMNIST/raw")).unwrap();
    desk.put(FILES[3], &idx_labels(&[1]));
    for name in FILES {
        fs::rename(desk.at(name), desk.at("FashionMNIST/raw").join(name)).unwrap();
    }
    assert_eq!(
        desk.known("fashion-mnist").unwrap().class_names[1],
        "trouser"
    );
}

#[test]
fn tensors_are_read() {
    let desk = Desk::new();
    let pixels: Vec<u8> = (0..24).collect();
    let labels = [2_i64, 0].map(i64::to_le_bytes).concat();
    let tensors: [(&str, Dtype, &[usize], &[u8]); 4] = [
        ("images", Dtype::U8, &[2, 2, 2, 3], &pixels),
        ("labels", Dtype::I64, &[2], &labels),
        ("test_images", Dtype::U8, &[1, 2, 2, 3], &pixels[..12]),
        ("test_labels", Dtype::U8, &[1], &[1]),
    ];
    desk.put_tensors(&tensors, &[]);
    let data = desk.open("data.st").unwrap();
    assert_eq!(data.name, "data");
    assert_eq!(
        data.image(),
        crate::graph::Features {
            channels: 2,
            height: 2,
            width: 3
        }
    );
    assert_eq!(
        (data.train.pixels(), data.train.labels()),
        (&pixels[..], [2, 0].as_slice())
    );
    assert_eq!((data.test.len(), data.class_names.len()), (1, 3));
    // numpy 2.4.6: mean and std of {0..5, 12..17} / 255 and {6..11, 18..23} / 255.
    let mean = &data.normalisation.mean;
    assert!((mean[0] - 8.5 / 255.0).abs() < 1e-7 && (mean[1] - 14.5 / 255.0).abs() < 1e-7);
    assert!((data.normalisation.deviation[1] - 0.024_464_01).abs() < 1e-6);
    assert!(data.augmentation.is_none());
    let metadata = [
        ("class_names", r#"["cat", "dog", "emu", "fox"]"#),
        ("mean", "[0.5, 0.25]"),
        ("deviation", "[1, 2]"),
        ("white", "23"),
        ("crop_padding", "1"),
        ("flip", "true"),
        ("note", "free text"),
    ];
    desk.put_tensors(&tensors, &metadata);
    let data = desk.open("data.st").unwrap();
    assert_eq!(
        (data.class_names[3].as_str(), data.train.white()),
        ("fox", 23)
    );
    assert_eq!(data.normalisation.mean, [0.5, 0.25]);
    assert_eq!(data.normalisation.deviation, [1.0, 2.0]);
    assert_eq!(
        data.augmentation,
        Augmentation {
            crop_padding: 1,
            flip: true
        }
    );
}

#[test]
fn a_fifth_is_for_testing_where_a_file_does_not_say() {
    let desk = Desk::new();
    let pixels: Vec<u8> = (0..11).collect();
    let images = ("images", Dtype::U8, &[11, 1, 1][..], &pixels[..]);
    desk.put_tensors(&[images, ("labels", Dtype::U8, &[11], &pixels)], &[]);
    let data = desk.open("data.st").unwrap();
    assert_eq!((data.train.len(), data.test.len()), (9, 2));
    let mut all = [data.train.pixels(), data.test.pixels()].concat();
    for samples in [&data.train, &data.test] {
        let labels: Vec<u32> = samples.pixels().iter().map(|&pixel| pixel.into()).collect();
        assert_eq!(samples.labels(), labels);
    }
    all.sort_unstable();
    assert_eq!(all, pixels);
    let images = ("images", Dtype::U8, &[4, 1, 1][..], &pixels[..4]);
    desk.put_tensors(&[images, ("labels", Dtype::U8, &[4], &pixels[..4])], &[]);
    assert_fails!(desk.open("data.st"), DataError::TooFew { found: 4, .. });
}

#[test]
fn bad_tensors_are_told_apart() {
    let desk = Desk::new();
    let images = ("images", Dtype::U8, &[2, 1, 2][..], &[0, 1, 2, 3][..]);
    let labels = ("labels", Dtype::U8, &[2][..], &[0, 1][..]);
    let check = |tensors: &[_], metadata: &[_]| {
        desk.put_tensors(tensors, metadata);
        desk.open("data.st")
    };
    assert_fails!(check(&[images], &[]), DataError::TensorMissing { .. });
    let test = ("test_labels", labels.1, labels.2, labels.3);
    assert_fails!(
        check(&[images, labels, test], &[]),
        DataError::TensorMissing { .. }
    );
    let stray = ("fc1.weight", labels.1, labels.2, labels.3);
    assert_fails!(
        check(&[images, labels, stray], &[]),
        DataError::TensorUnknown { .. }
    );
    let floats = ("images", Dtype::F32, &[1, 1, 1][..], &[0; 4][..]);
    assert_fails!(check(&[floats, labels], &[]), DataError::TensorDtype { .. });
    let floats = ("labels", Dtype::F16, &[1][..], &[0; 2][..]);
    let one = ("images", Dtype::U8, &[1, 1, 1][..], &[0][..]);
    assert_fails!(check(&[one, floats], &[]), DataError::TensorDtype { .. });
    let flat = ("images", Dtype::U8, &[2, 2][..], images.3);
    assert_fails!(check(&[flat, labels], &[]), DataError::TensorShape { .. });
    let square = ("labels", Dtype::U8, &[2, 1][..], labels.3);
    assert_fails!(check(&[images, square], &[]), DataError::TensorShape { .. });
    let three = ("labels", Dtype::U8, &[3][..], &[0, 1, 1][..]);
    assert_fails!(
        check(&[images, three], &[]),
        DataError::Count {
            images: 2,
            labels: 3,
            ..
        }
    );
    let empty = ("images", Dtype::U8, &[0, 1, 2][..], &[][..]);
    let none = ("labels", Dtype::U8, &[0][..], &[][..]);
    assert_fails!(check(&[empty, none], &[]), DataError::Empty { .. });
    let void = ("images", Dtype::U8, &[2, 0, 2][..], &[][..]);
    assert_fails!(check(&[void, labels], &[]), DataError::Shape { .. });
    let negative = ("labels", Dtype::I8, &[2][..], &[0, 255][..]);
    assert_fails!(
        check(&[images, negative], &[]),
        DataError::Label {
            sample: 1,
            found: -1,
            ..
        }
    );
    let huge = [0; 8].into_iter().chain([255; 8]).collect::<Vec<u8>>();
    let huge = ("labels", Dtype::U64, &[2][..], &huge[..]);
    assert_fails!(
        check(&[images, huge], &[]),
        DataError::Label { found, .. } if found == i128::from(u64::MAX)
    );
    let names = [("class_names", r#"["only"]"#)];
    assert_fails!(
        check(&[images, labels], &names),
        DataError::Label {
            found: 1,
            classes: 1,
            ..
        }
    );
    let white = [("white", "2")];
    assert_fails!(
        check(&[images, labels], &white),
        DataError::Pixel {
            sample: 1,
            found: 3,
            white: 2,
            ..
        }
    );
    for (key, value) in [
        ("white", "0"),
        ("white", "256"),
        ("class_names", "[]"),
        ("class_names", "cat, dog"),
        ("mean", "[0.1, 0.2]"),
        ("deviation", "[0]"),
        ("deviation", "[-1]"),
        ("deviation", "0.5"),
        ("crop_padding", "-1"),
        ("flip", "yes"),
    ] {
        let images = ("images", Dtype::U8, &[10, 1, 2][..], &[0; 20][..]);
        let labels = ("labels", Dtype::U8, &[10][..], &[0; 10][..]);
        let found = check(&[images, labels], &[(key, value)]);
        assert_fails!(found, DataError::Metadata { key: named, .. } if named == key);
    }
    desk.put("data.st", b"no safetensors file");
    assert_fails!(desk.open("data.st"), DataError::Checkpoint(_));
}

#[test]
fn samples_cannot_be_built_wrong() {
    let build = |image, pixels: &[u8], labels: &[u32]| {
        Samples::new(
            Path::new("test"),
            image,
            255,
            pixels.to_vec(),
            labels.to_vec(),
        )
    };
    let image = crate::graph::Features {
        channels: 1,
        height: 1,
        width: 2,
    };
    build(image, &[1, 2], &[0]).unwrap();
    assert_fails!(build(image, &[], &[]), DataError::Empty { .. });
    assert_fails!(build(image, &[1, 2, 3], &[0]), DataError::Count { .. });
    assert_fails!(build(image, &[1, 2], &[0, 1]), DataError::Count { .. });
    let wide = crate::graph::Features {
        width: usize::MAX,
        height: 2,
        ..image
    };
    assert_fails!(build(wide, &[1, 2], &[0]), DataError::Shape { .. });
}
