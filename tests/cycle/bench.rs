//! A directory to run the cycle in, and a recipe that is fast.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

/// Two phases of two ingredients with every baseline, on 200 digits.
pub const SMALL: &str = r#"
[model]
name = "mlp"
options = { hidden = "16" }
[data]
name = "digits"
limit_train = 200
[pretraining]
epochs = 4
[pruning]
sparsity = 0.8
phases = 2
[retraining]
epochs = 2
schedule = "llr"
[baselines]
imp_reprune = true
[evaluation]
segment_points = 3
[run]
backoff_secs = 0.01
[ingredients]
count = 2
"#;

pub struct Bench(TempDir);

impl Bench {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).unwrap()
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    /// Writes a recipe. Of a section that stands in `text` twice, the later lines are
    /// added to the first.
    pub fn recipe(&self, name: &str, text: &str) {
        let mut sections: Vec<(String, String)> = vec![(String::new(), String::new())];
        for line in text.lines() {
            let is_header = line.starts_with('[') && line.ends_with(']');
            if is_header && !line.starts_with("[[") {
                let found = sections.iter().position(|(header, _)| header == line);
                let section = match found {
                    Some(idx) => sections.remove(idx),
                    None => (line.to_owned(), String::new()),
                };
                sections.push(section);
            } else if let Some((_, lines)) = sections.last_mut() {
                lines.push_str(line);
                lines.push('\n');
            }
        }
        let text: String = sections
            .iter()
            .map(|(header, lines)| format!("{header}\n{lines}"))
            .collect();
        fs::write(self.at(name), text).unwrap();
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        command
            .args(words)
            .current_dir(self.0.path())
            .env_remove("CUDA_VISIBLE_DEVICES")
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn run(&self, words: &[&str], exit: i32) -> Output {
        let output = self.command(words).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert_eq!(output.status.code(), Some(exit), "{words:?}\n{out}\n{err}");
        output
    }

    #[track_caller]
    pub fn cycle(&self, words: &[&str], exit: i32) -> Output {
        self.run(&[&["cycle"], words].concat(), exit)
    }

    /// The outputs that receipts of a run name, by key and role, with their digests.
    pub fn outputs(&self, run: &str) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.at(run).join("receipts")).unwrap() {
            let path = entry.unwrap().path();
            let receipt: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let key = receipt["key"].as_str().unwrap().to_owned();
            for (role, artefact) in receipt["outputs"].as_object().unwrap() {
                let digest = artefact["digest"].as_str().unwrap().to_owned();
                found.insert(format!("{key} {role}"), digest);
            }
        }
        found
    }

    /// The receipt of the step that is called `label`.
    pub fn receipt(&self, run: &str, label: &str) -> (PathBuf, Value) {
        let entries = fs::read_dir(self.at(run).join("receipts")).unwrap();
        let mut receipts = entries.map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            (
                path,
                serde_json::from_str::<Value>(&text).unwrap_or_default(),
            )
        });
        let found = receipts.find(|(_, receipt)| receipt["label"] == label);
        found.unwrap_or_else(|| panic!("no receipt of `{label}`"))
    }

    /// The checkpoint that the step called `label` made.
    pub fn artefact(&self, run: &str, label: &str) -> PathBuf {
        let (_, receipt) = self.receipt(run, label);
        let file = receipt["outputs"]["checkpoint"]["file"].as_str().unwrap();
        self.at(run).join("artefacts").join(file)
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
