//! Small safetensors files made by hand, and runs of the program beside them whose advice
//! is followed to the letter.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

/// A tensor to write.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn raw(name: &str, dtype: &str, shape: &[u64], bytes: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            dtype: dtype.to_owned(),
            shape: shape.to_vec(),
            bytes,
        }
    }

    pub(crate) fn f32(name: &str, shape: &[u64], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        Self::raw(name, "F32", shape, bytes.collect())
    }

    pub(crate) fn i64(name: &str, shape: &[u64], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        Self::raw(name, "I64", shape, bytes.collect())
    }

    fn values(&self) -> Vec<f32> {
        let chunks = self.bytes.as_chunks::<4>().0;
        chunks
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }

    /// The same numbers as F64.
    pub(crate) fn wide(&self) -> Self {
        let values = self.values().into_iter();
        let bytes = values.flat_map(|value| f64::from(value).to_le_bytes());
        Self::raw(&self.name, "F64", &self.shape, bytes.collect())
    }

    /// The upper halves, which are BF16.
    pub(crate) fn brain(&self) -> Self {
        let halves = self.bytes.as_chunks::<4>().0.iter();
        let bytes = halves.flat_map(|bytes| [bytes[2], bytes[3]]);
        Self::raw(&self.name, "BF16", &self.shape, bytes.collect())
    }
}

/// Writes a safetensors file.
pub(crate) fn write(path: &Path, tensors: &[Tensor], metadata: &[(&str, &str)]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let begin = data.len();
        data.extend_from_slice(&tensor.bytes);
        let entry = serde_json::json!({
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [begin, data.len()],
        });
        header.insert(tensor.name.clone(), entry);
    }
    if !metadata.is_empty() {
        let pairs = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).into()));
        header.insert("__metadata__".to_owned(), Value::Object(pairs.collect()));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    fs::write(path, bytes).unwrap();
}

/// A safetensors file that has been read.
pub(crate) struct Read {
    header: Value,
    data_start: usize,
    file: Vec<u8>,
}

/// Reads a safetensors file.
pub(crate) fn read(path: &Path) -> Read {
    let file = fs::read(path).unwrap();
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    Read {
        header: serde_json::from_slice(&rest[..length]).unwrap(),
        data_start: 8 + length,
        file,
    }
}

impl Read {
    /// Where the tensor begins in the file.
    pub(crate) fn place(&self, name: &str) -> usize {
        let begin = self.header[name]["data_offsets"][0].as_u64();
        self.data_start + begin.unwrap_or_else(|| panic!("no tensor `{name}`")) as usize
    }

    pub(crate) fn bytes(&self, name: &str) -> &[u8] {
        let begin = self.place(name);
        let end = self.header[name]["data_offsets"][1].as_u64().unwrap() as usize;
        &self.file[begin..self.data_start + end]
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        assert_eq!(self.header[name]["dtype"], "F32");
        let chunks = self.bytes(name).as_chunks::<4>().0;
        chunks
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }
}

/// A directory to run the program in.
pub(crate) struct Bench(TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program with these words of a shell's command line.
    pub(crate) fn run(&self, line: &str) -> Output {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec \"$SMS_MERGE\" {line}")])
            .env("SMS_MERGE", env!("CARGO_BIN_EXE_sms-merge"))
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    /// The object that the program prints.
    #[track_caller]
    pub(crate) fn json(&self, words: &[&str], exit: i32) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        command
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{words:?} {text}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Does what `next` says first: adds the options in its first backticks to `line`, or
    /// runs the command that it names.
    #[track_caller]
    pub(crate) fn follow(&self, line: &str, next: &str, exit: i32) -> Output {
        let quoted = next.split('`').skip(1).step_by(2);
        let mut offers = quoted.chain([next]);
        let offer = offers
            .find(|offer| offer.starts_with("--") || offer.starts_with("sms-merge "))
            .unwrap_or_else(|| panic!("nothing to follow in: {next}"));
        let line = match offer.strip_prefix("sms-merge ") {
            Some(command) => command.to_owned(),
            None => format!("{line} {offer}"),
        };
        let output = self.run(&line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{line}: {text}");
        output
    }
}
