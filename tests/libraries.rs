//! Directories as libraries write them: their soups are called as those libraries expect,
//! have what goes beside the weights, and say of them what is true.
//!
//! `fixtures/libraries/make.py` wrote the fixtures. Where PEFT, diffusers, timm,
//! transformers or compressed-tensors are installed, `tests/libraries/check.py` makes
//! larger ones with them and loads the soups; elsewhere that is skipped with a message.

#![expect(unreachable_pub, reason = "modules of a test have no other users")]

mod python;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("fixtures/libraries").join(name)
}

/// A directory with copies of fixtures in it.
struct Bench(TempDir);

impl Bench {
    /// `a` and `b` are the two directories of a library.
    fn new(library: &str) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for letter in ["a", "b"] {
            fs::create_dir(bench.at(letter)).unwrap();
            let from = fixture(&format!("{library}_{letter}"));
            for entry in fs::read_dir(from).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, bench.at(letter).join(path.file_name().unwrap())).unwrap();
            }
        }
        bench
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in both directories.
    fn put(&self, name: &str, text: &str) {
        for letter in ["a", "b"] {
            let path = self.at(letter).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    /// Gives a file of both directories another name.
    fn rename(&self, from: &str, to: &str) {
        for letter in ["a", "b"] {
            let directory = self.at(letter);
            fs::rename(directory.join(from), directory.join(to)).unwrap();
        }
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sms-merge"))
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs what must succeed, and returns what was said.
    fn done(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?}: {said}");
        said
    }

    fn refused(&self, words: &[&str], status: i32, part: &str) {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {said}");
        assert!(said.contains(part), "{said}");
    }

    /// Names of all files below a directory, in order.
    fn files(&self, directory: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut open = vec![self.at(directory)];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => open.push(path),
                    false => {
                        let name = path.strip_prefix(self.at(directory)).unwrap();
                        names.push(name.to_str().unwrap().to_owned());
                    }
                }
            }
        }
        names.sort();
        names
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.at(name)).unwrap()).unwrap()
    }
}

/// Elements of a tensor of F32.
fn elements(path: &Path, name: &str) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let (words, rest) = tensor.data().as_chunks::<4>();
    assert!(rest.is_empty());
    words.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

const UNET: &str = "diffusion_pytorch_model.safetensors";

#[test]
fn weights_keep_the_name_that_their_library_looks_for() {
    let bench = Bench::new("unet");
    bench.done(&["a", "b", "-o", "soup"]);
    assert_eq!(bench.files("soup"), ["config.json", UNET]);
    let of = |directory: &str| elements(&bench.at(directory).join(UNET), "conv_in.weight");
    let pairs = of("a").into_iter().zip(of("b"));
    let means: Vec<f32> = pairs
        .map(|(a, b)| ((f64::from(a) + f64::from(b)) / 2.0) as f32)
        .collect();
    assert_eq!(of("soup"), means);
    bench.done(&["verify", "soup", "a", "b"]);

    // Whatever writes a directory does so, and an older soup is replaced.
    bench.done(&["prune", "a", "--sparsity", "0.5", "-o", "pruned"]);
    bench.done(&["export", "pruned", "-o", "copy", "--layout", "dense"]);
    for directory in ["pruned", "copy"] {
        assert_eq!(bench.files(directory), ["config.json", UNET]);
    }
    bench.done(&["a", "b", "-o", "soup", "--force", "--shard-size", "8KB"]);
    let shards = [
        "config.json",
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
    ];
    assert_eq!(bench.files("soup"), shards);
    bench.done(&["verify", "soup", "a", "b"]);
    bench.done(&["a", "b", "-o", "soup", "--force"]);
    assert_eq!(bench.files("soup"), ["config.json", UNET]);

    // Files of one name have that of their library too; others have none.
    let (a, b) = (format!("a/{UNET}"), format!("b/{UNET}"));
    bench.done(&[&a, &b, "-o", "files/"]);
    assert_eq!(bench.files("files"), [UNET]);
    fs::copy(bench.at(&a), bench.at("one.st")).unwrap();
    bench.done(&["one.st", &b, "-o", "mixed/"]);
    assert_eq!(bench.files("mixed"), ["model.safetensors"]);
}

#[test]
fn variants_keep_theirs() {
    let bench = Bench::new("unet");
    let half = "diffusion_pytorch_model.fp16.safetensors";
    bench.rename(UNET, half);
    bench.done(&["a", "b", "-o", "soup"]);
    assert_eq!(bench.files("soup"), ["config.json", half]);
    bench.done(&["a", "b", "-o", "cut", "--shard-size", "8KB"]);
    let shards = [
        "config.json",
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    ];
    assert_eq!(bench.files("cut"), shards);
    // What is written is read again, and replaced.
    bench.done(&["verify", "cut", "a", "b"]);
    bench.done(&["cut", "soup", "-o", "again"]);
    assert_eq!(bench.files("again"), ["config.json", half]);
    bench.done(&["a", "b", "-o", "cut", "--force"]);
    assert_eq!(bench.files("cut"), ["config.json", half]);
}

#[test]
fn adapters_keep_theirs() {
    let bench = Bench::new("adapter");
    bench.done(&["prune", "a", "--sparsity", "0.5", "-o", "p"]);
    let names = [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ];
    assert_eq!(bench.files("p"), names);
}

#[test]
fn what_goes_beside_weights_is_copied_and_what_stays_is_named() {
    let bench = Bench::new("unet");
    for name in [
        "LICENSE",
        "README.md",
        "tokenizer.model",
        "chat_template.jinja",
        "1_Pooling/config.json",
        "tokenizer/vocab/words.txt",
    ] {
        bench.put(name, name);
    }
    for name in [
        "optimizer.pt",
        "trainer_state.json",
        ".gitattributes",
        "consolidated.safetensors",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "checkpoint-500/config.json",
    ] {
        bench.put(name, "{}");
    }
    fs::write(bench.at("b/1_Pooling/config.json"), "another").unwrap();
    // Neither candidate of the name that transformers prefers is the model's.
    fs::remove_file(bench.at("b/consolidated.safetensors")).unwrap();
    fs::remove_file(bench.at("a/consolidated.safetensors")).unwrap();
    let said = bench.done(&["a", "b", "-o", "soup"]);
    let expected = [
        "1_Pooling/config.json",
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        UNET,
        "tokenizer.model",
        "tokenizer/vocab/words.txt",
    ];
    assert_eq!(bench.files("soup"), expected);
    assert_eq!(fs::read(bench.at("soup/LICENSE")).unwrap(), b"LICENSE");
    for part in [
        "not copied: 2_Dense/ (with weights of its own, to be merged by itself)",
        "checkpoint-500/, optimizer.pt, trainer_state.json (of its training)",
        ".gitattributes (hidden)",
        "`1_Pooling/config.json` differs between ingredients",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // The way out that was named.
    for letter in ["a", "b"] {
        let folder = bench.at(letter).join("2_Dense");
        fs::copy(
            bench.at(letter).join(UNET),
            folder.join("model.safetensors"),
        )
        .unwrap();
    }
    bench.done(&["a/2_Dense", "b/2_Dense", "-o", "soup/2_Dense"]);
    let dense = ["config.json", "model.safetensors"];
    assert_eq!(bench.files("soup/2_Dense"), dense);
    fs::remove_dir_all(bench.at("soup/2_Dense")).unwrap();

    // Folders of an older soup are replaced with it, and those of somebody else are not.
    fs::write(bench.at("soup/1_Pooling/config.json"), "old").unwrap();
    bench.done(&["a", "b", "-o", "soup", "--force"]);
    assert_eq!(bench.files("soup"), expected);
    assert_eq!(
        fs::read(bench.at("soup/1_Pooling/config.json")).unwrap(),
        b"1_Pooling/config.json"
    );
    fs::create_dir(bench.at("soup/notes")).unwrap();
    let again = ["a", "b", "-o", "soup", "--force"];
    bench.refused(&again, 2, "soup/notes");
    fs::remove_dir(bench.at("soup/notes")).unwrap();
    fs::write(bench.at("soup/tokenizer/mine.txt"), "mine").unwrap();
    bench.refused(&again, 2, "soup/tokenizer/mine.txt");
}

#[test]
fn what_does_not_belong_to_a_model_is_neither_read_nor_copied() {
    let bench = Bench::new("unet");
    fs::write(bench.at("secret"), "secret").unwrap();
    for letter in ["a", "b"] {
        let at = |name: &str| bench.at(letter).join(name);
        symlink("../secret", at("notes.txt")).unwrap();
        symlink("/dev/zero", at("zero.json")).unwrap();
        symlink("nowhere", at("nowhere.txt")).unwrap();
        symlink("config.json", at("own.json")).unwrap();
        symlink(".", at("self")).unwrap();
        let made = Command::new("mkfifo").arg(at("pipe.txt")).status().unwrap();
        assert!(made.success());
    }
    let said = bench.done(&["a", "b", "-o", "soup"]);
    assert_eq!(bench.files("soup"), ["config.json", UNET, "own.json"]);
    for part in [
        "self (a directory)",
        "pipe.txt (a fifo)",
        "nowhere.txt (a link that leads nowhere)",
        "notes.txt, zero.json (a link out of the folder)",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // Beside the second ingredient too: the same name there is no file to compare with.
    for name in ["notes.txt", "pipe.txt", "zero.json"] {
        fs::remove_file(bench.at("a").join(name)).unwrap();
        fs::write(bench.at("a").join(name), "secret").unwrap();
    }
    let said = bench.done(&["a", "b", "-o", "other"]);
    for name in ["notes.txt", "pipe.txt", "zero.json"] {
        assert!(said.contains(&format!("`{name}` differs")), "{said}");
    }
}

#[test]
fn the_cache_of_hugging_face_is_made_of_links() {
    let bench = Bench::new("unet");
    for letter in ["a", "b"] {
        let repository = bench.at(format!("hub/models--x--{letter}"));
        let snapshot = repository.join("snapshots/revision");
        fs::create_dir_all(snapshot.join("1_Pooling")).unwrap();
        fs::create_dir(repository.join("blobs")).unwrap();
        for (blob, name) in [("0", UNET), ("1", "config.json")] {
            fs::rename(
                bench.at(letter).join(name),
                repository.join("blobs").join(blob),
            )
            .unwrap();
            symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
        }
        symlink("../../../blobs/1", snapshot.join("1_Pooling/config.json")).unwrap();
        symlink("../../../../secret", snapshot.join("secret.txt")).unwrap();
    }
    fs::write(bench.at("secret"), "").unwrap();
    let of = |letter: &str| format!("hub/models--x--{letter}/snapshots/revision");
    let said = bench.done(&[&of("a"), &of("b"), "-o", "soup"]);
    assert_eq!(
        bench.files("soup"),
        ["1_Pooling/config.json", "config.json", UNET]
    );
    assert!(said.contains("secret.txt (a link out"), "{said}");
    assert!(
        bench
            .at("soup")
            .join(UNET)
            .symlink_metadata()
            .unwrap()
            .is_file()
    );
}

#[test]
fn a_configuration_says_of_the_weights_what_was_written() {
    let bench = Bench::new("sparse");
    let config = |soup: &str| bench.json(&format!("{soup}/config.json"));
    let merge = |soup: &str, words: &[&str]| {
        let said = bench.done(&[&["a", "b", "-o", soup], words].concat());
        // What copies a soup keeps its promise.
        let copy = format!("{soup}_copy");
        bench.done(&["export", soup, "-o", &copy]);
        assert_eq!(config(&copy), config(soup), "{soup}");
        said
    };
    let format =
        |soup: &str| config(soup)["quantization_config"]["sparsity_config"]["format"].clone();

    // Two of every four stay so, in the format of the library and with its text.
    let said = merge("kept", &[]);
    assert!(!said.contains("in `kept/config.json`"), "{said}");
    assert_eq!(
        fs::read(bench.at("kept/config.json")).unwrap(),
        fs::read(bench.at("a/config.json")).unwrap()
    );
    let bytes = fs::read(bench.at("kept/model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let module = "model.layers.0.mlp.up_proj";
    let shapes = [
        ("compressed", vec![8, 8]),
        ("bitmask", vec![8, 2]),
        ("shape", vec![2, 1]),
    ];
    for (part, shape) in shapes {
        let name = format!("{module}.{part}");
        assert_eq!(tensors.tensor(&name).unwrap().shape(), shape, "{part}");
    }
    assert_eq!(tensors.names().len(), 4);
    let values = |soup: &str| {
        let path = bench.at(soup).join("model.safetensors");
        elements(&path, &format!("{module}.compressed"))
    };
    let pairs = values("a").into_iter().zip(values("b"));
    let means: Vec<f32> = pairs
        .map(|(a, b)| ((f64::from(a) + f64::from(b)) / 2.0) as f32)
        .collect();
    assert_eq!(values("kept"), means);
    bench.done(&["verify", "kept", "a", "b"]);

    let said = merge("dense", &["--layout", "dense"]);
    assert!(said.contains("`quantization_config` is left out"), "{said}");
    assert_eq!(config("dense").get("quantization_config"), None);
    assert_eq!(config("dense")["torch_dtype"], "float32");

    let said = merge("bitmask", &["--layout", "compressed-tensors"]);
    assert!(said.contains("names the format sparse-bitmask"), "{said}");
    assert_eq!(format("bitmask"), "sparse-bitmask");

    let said = merge("ours", &["--layout", "bitmask", "--dtype", "bf16"]);
    assert!(
        said.contains("no other library reads the layout `bitmask`"),
        "{said}"
    );
    assert_eq!(config("ours")["torch_dtype"], "bfloat16");
    assert_eq!(config("ours").get("quantization_config"), None);
    // The way out that was named.
    bench.done(&["export", "ours", "--layout", "dense", "-o", "out"]);
    let out = fs::read(bench.at("out/model.safetensors")).unwrap();
    let out = SafeTensors::deserialize(&out).unwrap();
    assert!(out.tensor(&format!("{module}.weight")).is_ok());

    // From plain ones, and where there is no configuration to change.
    bench.done(&[
        "dense",
        "dense_copy",
        "--layout",
        "compressed-tensors",
        "-o",
        "again",
    ]);
    assert_eq!(format("again"), "sparse-bitmask");
    let said = bench.done(&[
        "export",
        "dense",
        "--layout",
        "compressed-tensors",
        "-o",
        "x.st",
    ]);
    assert!(
        said.contains("add to config.json: {\"quantization_config\""),
        "{said}"
    );
    let said = bench.done(&["a", "b", "--layout", "compressed-tensors", "-o", "y.st"]);
    assert!(
        said.contains("add to config.json: {\"quantization_config\""),
        "{said}"
    );
    bench.done(&["prune", "a", "--sparsity", "0.6", "-o", "pruned"]);
    assert_eq!(config("pruned").get("quantization_config"), None);

    // JSON says the same.
    let output = bench.run(&["a", "b", "--layout", "dense", "-o", "json", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["config_changes"].as_array().unwrap().len(), 1);
    assert_eq!(object["sidecars_left"], serde_json::json!([]));
}

#[test]
fn masks_that_are_not_two_of_four_are_stored_otherwise() {
    let bench = Bench::new("sparse");
    // The second ingredient retains other elements in the first eight.
    let path = bench.at("b/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let bits = tensors
        .tensor("model.layers.0.mlp.up_proj.bitmask")
        .unwrap();
    let at = bits.data().as_ptr() as usize - bytes.as_ptr() as usize;
    let flipped = bits.data()[0] ^ 0xff;
    bytes[at] = flipped;
    fs::write(&path, bytes).unwrap();
    bench.done(&["a", "b", "--on-mask-mismatch", "union", "-o", "soup"]);
    let config = bench.json("soup/config.json");
    let format = &config["quantization_config"]["sparsity_config"]["format"];
    assert_eq!(format, "sparse-bitmask");
    let bytes = fs::read(bench.at("soup/model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = tensors
        .tensor("model.layers.0.mlp.up_proj.compressed")
        .unwrap();
    assert_eq!(values.shape(), [68]);
    bench.done(&["verify", "soup", "a", "b"]);
}

#[test]
fn an_empty_directory_is_no_obstacle_and_a_plan_needs_no_place() {
    let bench = Bench::new("unet");
    fs::create_dir(bench.at("soup")).unwrap();
    bench.done(&["a", "b", "-o", "soup"]);
    assert_eq!(bench.files("soup"), ["config.json", UNET]);
    bench.refused(&["a", "b", "-o", "soup"], 2, "--force");
    let before = fs::read(bench.at("soup").join(UNET)).unwrap();
    bench.done(&["a", "b", "-o", "soup", "--plan"]);
    assert_eq!(fs::read(bench.at("soup").join(UNET)).unwrap(), before);
    // What is not empty but for a hidden file is not empty.
    fs::create_dir(bench.at("hidden")).unwrap();
    fs::write(bench.at("hidden/.keep"), "").unwrap();
    bench.refused(&["a", "b", "-o", "hidden"], 2, "--force");
}

/// Has a library make ingredients, and load what becomes of them.
fn check_with(library: &str, packages: &[&str], n_loaded: usize) {
    let Some(python) = python::with(packages) else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(python)
        .arg(root.join("tests/libraries/check.py"))
        .args([env!("CARGO_BIN_EXE_sms-merge"), library])
        .arg(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{library}: {said}");
    let loaded = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        loaded
            .lines()
            .filter(|line| line.starts_with("loaded"))
            .count(),
        n_loaded
    );
}

#[test]
fn transformers_loads_its_soups() {
    check_with("transformers", &["torch", "transformers"], 10);
}

#[test]
fn peft_loads_its_soups() {
    check_with("peft", &["torch", "transformers", "peft"], 2);
}

#[test]
fn diffusers_loads_its_soups() {
    check_with("diffusers", &["torch", "diffusers"], 6);
}

#[test]
fn timm_loads_its_soups() {
    check_with("timm", &["torch", "timm"], 2);
}

#[test]
fn compressed_tensors_reads_its_soups() {
    let module = "compressed_tensors.compressors.sparse_compressors";
    check_with("compressed_tensors", &["torch", module], 6);
}
