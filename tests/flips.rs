//! Soups of every format in which one bit was flipped: `verify` finds it, with the
//! ingredients and without, or it is provably harmless: the file opens to the same
//! tensors, bit for bit, and the same metadata.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::Seal;
use sms_merge::checkpoint::map::Access;
use sms_merge::checkpoint::rewrite;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::format::replace::Target;
use sms_merge::merge::CERTIFICATE_KEY;
use sms_merge::merge::Certificate;
use sms_merge::merge::Observer;
use sms_merge::merge::Workers;
use sms_merge::merge::recompute;
use sms_merge::merge::self_check;
use sms_merge::tensor::Stream;
use tempfile::TempDir;

/// Flips in each soup; there are 13 of them.
const FLIPS: usize = 160;

/// Metadata that decides what a checkpoint means.
const MODEL: &str = r#"{"format_version":1,"model":"mlp","mean":[0.3054],"classes":10}"#;

/// A soup and what it was made of.
struct Soup {
    name: &'static str,
    path: PathBuf,
    ingredients: Vec<PathBuf>,
}

impl Soup {
    /// All its files.
    fn files(&self) -> Vec<PathBuf> {
        if self.path.is_dir() {
            let entries = fs::read_dir(&self.path).unwrap();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
            files.sort();
            return files;
        }
        let mut data = self.path.clone().into_os_string();
        data.push(".data");
        let data = PathBuf::from(data);
        let beside = data.exists().then_some(data);
        std::iter::once(self.path.clone()).chain(beside).collect()
    }

    /// Whether `verify` agrees.
    fn is_proved(&self, ingredients: &[PathBuf]) -> bool {
        let interrupted = AtomicBool::new(false);
        let observer = Observer {
            advance: &|_| {},
            interrupted: &interrupted,
        };
        let workers = Workers {
            threads: 1,
            ..Workers::default()
        };
        let Ok(soup) = open(&self.path) else {
            return false;
        };
        let Ok(certificate) = Certificate::of(&soup) else {
            return false;
        };
        let differences = if ingredients.is_empty() {
            self_check(soup, &certificate, &workers, observer).map(|found| found.differences)
        } else {
            let ingredients = ingredients.iter().map(|path| open(path).unwrap());
            let ingredients = ingredients.collect();
            recompute(&soup, &certificate, ingredients, None, &workers, observer)
        };
        differences.is_ok_and(|differences| differences.is_empty())
    }
}

type Content = (
    BTreeMap<String, (String, Vec<u64>, Vec<u8>)>,
    BTreeMap<String, String>,
);

fn open(path: &Path) -> Result<Checkpoint, sms_merge::checkpoint::CheckpointError> {
    let options = OpenOptions {
        access: Access::Pread,
        ..OpenOptions::default()
    };
    Checkpoint::open(path, &options)
}

/// All that a soup of safetensors says; a model says more than that.
fn content(path: &Path) -> Option<Content> {
    let checkpoint = open(path).ok()?;
    if checkpoint.model().is_some() {
        return None;
    }
    let mut tensors = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let mut scratch = Vec::new();
        let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch);
        let dims = tensor.shape.dims().to_vec();
        let entry = (tensor.dtype.name().to_owned(), dims, bytes.ok()?.to_vec());
        tensors.insert(tensor.name.clone(), entry);
    }
    let metadata = checkpoint.metadata().into_iter();
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Some((tensors, metadata.collect()))
}

/// A checkpoint of a small network, of which `seed` gives the weights.
fn write_ingredient(path: &Path, seed: u64) {
    let mut random = Stream::named(seed, "flips", "ingredient");
    let mut floats = |n: usize, keep: fn(usize) -> bool| -> Vec<u8> {
        let value = |bits: u64| (bits >> 40) as f32 / (1 << 24) as f32 - 0.4;
        (0..n)
            .map(|idx| if keep(idx) { value(random.bits()) } else { 0.0 })
            .flat_map(f32::to_le_bytes)
            .collect()
    };
    let tensors = [
        ("fc1.weight", vec![9, 7], floats(63, |idx| idx % 3 == 1)),
        ("fc1.bias", vec![9], floats(9, |_| true)),
        ("norm.running_mean", vec![9], floats(9, |_| true)),
        ("fc2.weight", vec![5, 9], floats(45, |idx| idx % 4 != 0)),
    ];
    let count = 12_i64.to_le_bytes();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (*name, view)
    });
    let count = TensorView::new(Dtype::I64, vec![], &count).unwrap();
    let views = views.chain([("norm.num_batches_tracked", count)]);
    let metadata = [("format", "pt"), ("sms_model", MODEL)];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    safetensors::serialize_to_file(views, Some(metadata.into()), path).unwrap();
}

fn run(directory: &Path, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
    let output = command.args(words).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {text}");
}

/// The soup in which batch norm's statistics were estimated again.
fn recalibrated(directory: &Path, ingredients: &[PathBuf]) -> Soup {
    let soup = open(&directory.join("dense.st")).unwrap();
    let bytes: Vec<u8> = (0..9).flat_map(|idx| (idx as f32).to_le_bytes()).collect();
    let replaced = BTreeMap::from([("norm.running_mean".to_owned(), bytes)]);
    let certificate = Certificate::of(&soup)
        .unwrap()
        .recalibrated(&soup, &replaced);
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let mut metadata: BTreeMap<String, String> = soup.metadata().into_iter().map(owned).collect();
    metadata.insert(CERTIFICATE_KEY.to_owned(), certificate.to_text());
    let path = directory.join("recalibrated.st");
    let target = Target::for_file(&path, Existing::Refuse).unwrap();
    rewrite(&soup, &metadata, &replaced, &target, Durability::Unsynced).unwrap();
    Soup {
        name: "recalibrated",
        path,
        ingredients: ingredients.to_vec(),
    }
}

/// A soup of every format that is written.
fn soups(directory: &Path) -> Vec<Soup> {
    let ingredients: Vec<PathBuf> = ["a.st", "b.st"].map(|name| directory.join(name)).into();
    for (seed, path) in ingredients.iter().enumerate() {
        write_ingredient(path, seed as u64);
    }
    let ways: [(&str, &str, &[&str]); 6] = [
        ("dense", "dense.st", &[]),
        ("bitmask", "bitmask.st", &["--layout", "bitmask"]),
        (
            "compressed",
            "compressed.st",
            &["--layout", "compressed-tensors"],
        ),
        ("torch-prune", "torch.st", &["--layout", "torch-prune"]),
        ("shards", "shards/", &["--shard-size", "200B"]),
        (
            "greedy",
            "greedy.st",
            &["--method", "greedy", "--eval", "echo 1"],
        ),
    ];
    let mut soups = Vec::new();
    for (name, output, more) in ways {
        run(directory, &[&["a.st", "b.st", "-o", output], more].concat());
        soups.push(Soup {
            name,
            path: directory.join(output),
            ingredients: ingredients.clone(),
        });
    }
    soups.push(recalibrated(directory, &ingredients));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/onnx");
    for name in ["legacy", "typed", "sparse", "bitmask", "delta", "external"] {
        let pair = ["a", "b"].map(|letter| fixtures.join(format!("{name}_{letter}.onnx")));
        let [first, other] = pair.each_ref().map(|path| path.to_str().unwrap());
        let output = format!("{name}.onnx");
        run(directory, &[first, other, "-o", &output]);
        soups.push(Soup {
            name,
            path: directory.join(output),
            ingredients: pair.into(),
        });
    }
    soups
}

#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let directory = tempfile::tempdir().unwrap();
    let (mut n_flips, mut n_harmless) = (0, 0);
    for soup in soups(directory.path()) {
        assert!(soup.is_proved(&[]), "{}", soup.name);
        assert!(soup.is_proved(&soup.ingredients), "{}", soup.name);
        let before = content(&soup.path);
        let files: Vec<(PathBuf, Vec<u8>)> = soup
            .files()
            .into_iter()
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut random = Stream::named(2026, "flips", soup.name);
        for _ in 0..FLIPS {
            let mut at = (random.bits() % (8 * total as u64)) as usize;
            let (path, bytes) = files
                .iter()
                .find(|(_, bytes)| {
                    let is_here = at < 8 * bytes.len();
                    if !is_here {
                        at -= 8 * bytes.len();
                    }
                    is_here
                })
                .unwrap();
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            fs::write(path, &flipped).unwrap();
            n_flips += 1;
            let is_found = !soup.is_proved(&[]) && !soup.is_proved(&soup.ingredients);
            if !is_found {
                let is_harmless = before.is_some() && content(&soup.path) == before;
                let (name, path) = (soup.name, path.display());
                assert!(
                    is_harmless,
                    "{name}: bit {} of byte {} of {path}",
                    at % 8,
                    at / 8
                );
                n_harmless += 1;
            }
            fs::write(path, bytes).unwrap();
        }
        assert!(soup.is_proved(&soup.ingredients), "{}", soup.name);
    }
    println!("{n_flips} flips, of which {n_harmless} are harmless");
    assert!(n_flips >= 2000);
    // Letters of hexadecimal digits in an escape, at most.
    assert!(n_harmless <= n_flips / 100, "{n_harmless} of {n_flips}");
}

/// Replaces what stands in a file once, with text of the same length.
fn edit(path: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|&at| bytes[at..].starts_with(from.as_bytes()))
        .collect();
    assert_eq!(places.len(), 1, "{from} in {}", path.display());
    bytes[places[0]..][..to.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

fn verify(directory: &TempDir, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
    let command = command.arg("verify").args(words);
    let output = command.current_dir(directory.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text)
}

#[test]
fn changed_metadata_and_a_changed_certificate_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let check = |layout: &str, from: &str, to: &str, more: &str| {
        for name in ["a.st", "b.st", "soup.st"] {
            let _ = fs::remove_file(directory.path().join(name));
        }
        write_ingredient(&directory.path().join("a.st"), 0);
        write_ingredient(&directory.path().join("b.st"), 1);
        let words = ["a.st", "b.st", "-o", "soup.st", "--layout", layout];
        run(directory.path(), &words);
        edit(&directory.path().join("soup.st"), from, to);
        for words in [&["soup.st"][..], &["soup.st", "a.st", "b.st"]] {
            let (code, text) = verify(&directory, words);
            assert_eq!(code, Some(6), "{from} {words:?} {text}");
            assert!(text.contains("`soup.st` does not fit its seal"), "{text}");
            assert!(words.len() == 1 || text.contains(more), "{text}");
        }
    };
    for layout in ["dense", "bitmask"] {
        let metadata = "the metadata `sms_model` is not what the ingredients give";
        check(layout, "[0.3054]", "[0.9054]", metadata);
        check(layout, r#"\"name\":\"a.st\""#, r#"\"name\":\"c.st\""#, "");
        check(layout, r#"\"tool\":\"sms"#, r#"\"tool\":\"SMS"#, "");
    }
}

#[test]
fn a_changed_graph_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/onnx");
    let pair = ["a", "b"].map(|letter| fixtures.join(format!("legacy_{letter}.onnx")));
    let [first, other] = pair.each_ref().map(|path| path.to_str().unwrap());
    let soup = directory.path().join("soup.onnx");
    for (from, to, is_graph) in [
        ("\x22\x04Relu", "\x22\x04Selu", true),
        ("main_graph", "mein_graph", false),
    ] {
        let _ = fs::remove_file(&soup);
        run(directory.path(), &[first, other, "-o", "soup.onnx"]);
        let bytes = fs::read(&soup).unwrap();
        let mut places = 0..bytes.len() - from.len();
        let at = places.find(|&at| bytes[at..].starts_with(from.as_bytes()));
        let mut changed = bytes.clone();
        changed[at.unwrap()..][..to.len()].copy_from_slice(to.as_bytes());
        fs::write(&soup, changed).unwrap();
        for words in [&["soup.onnx"][..], &["soup.onnx", first, other]] {
            let (code, text) = verify(&directory, words);
            assert_eq!(code, Some(6), "{text}");
            assert!(text.contains("`soup.onnx` does not fit its seal"), "{text}");
            let differs = text.contains("the graph is not that of the first ingredient");
            assert_eq!(differs, is_graph && words.len() > 1, "{text}");
        }
    }
}

#[test]
fn what_is_not_covered_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for (seed, name) in ["a", "b"].iter().enumerate() {
        let folder = directory.path().join(name);
        fs::create_dir(&folder).unwrap();
        write_ingredient(&folder.join("model.safetensors"), seed as u64);
        fs::write(folder.join("config.json"), "{}").unwrap();
    }
    run(directory.path(), &["a", "b", "-o", "soup"]);
    let (code, text) = verify(&directory, &["soup", "a", "b"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("is proved") && text.contains("not covered: `config.json`"),
        "{text}"
    );

    // As an older version wrote it: without a seal, and with a certificate that expects
    // none.
    let path = directory.path().join("soup/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    let text =
        metadata[CERTIFICATE_KEY].replacen(r#""format_version":2"#, r#""format_version":1"#, 1);
    metadata.insert(CERTIFICATE_KEY.to_owned(), text);
    metadata.remove("sms_seal").unwrap();
    safetensors::serialize_to_file(file.tensors(), Some(metadata), &path).unwrap();
    let (code, text) = verify(&directory, &["soup"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("not covered: metadata and the certificate's own text"),
        "{text}"
    );
    let (code, text) = verify(&directory, &["soup", "a", "b"]);
    assert!(code == Some(0) && !text.contains("proved"), "{text}");
    assert!(
        text.contains("every bit of 5 tensors is what 2 ingredients give"),
        "{text}"
    );
}

#[test]
fn a_soup_that_another_library_saved_again_keeps_its_seal() {
    let directory = tempfile::tempdir().unwrap();
    write_ingredient(&directory.path().join("a.st"), 0);
    write_ingredient(&directory.path().join("b.st"), 1);
    run(directory.path(), &["a.st", "b.st", "-o", "soup.st"]);
    let path = directory.path().join("soup.st");
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone();
    safetensors::serialize_to_file(file.tensors(), metadata, &path).unwrap();
    assert_eq!(open(&path).unwrap().seal().unwrap(), Seal::Holds);
    let (code, text) = verify(&directory, &["soup.st", "a.st", "b.st"]);
    assert_eq!(code, Some(0), "{text}");
}
