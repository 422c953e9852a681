//! `config.json` beside the weights: it says of them what was written, and not what the
//! first ingredient had.
//!
//! transformers makes tensors of the type that `torch_dtype` (or `dtype`) names, and
//! decompresses what `quantization_config` says is compressed. Of everything else the
//! file keeps its text.

use serde_json::Value;

use crate::format::compact::CompactKind;
use crate::format::json_text::JsonText;
use crate::tensor::Dtype;

/// Where a configuration says how sparse weights are stored: that of today, and those of
/// older releases.
///
/// Source: `model_compressor.py` of compressed-tensors 0.12.
const HOLDERS: [&[&str]; 3] = [
    &["quantization_config", "sparsity_config"],
    &["compression_config", "sparsity_config"],
    &["sparsity_config"],
];

/// The formats of compressed-tensors that this program reads and writes.
const FORMATS: [&str; 2] = ["sparse-bitmask", "sparse-24-bitmask"];

/// Most configurations that are looked at within one another, such as `text_config`.
const MOST_DEPTH: usize = 3;

/// What is written, as far as a configuration speaks of it.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Element type of most weights, if weights of the first ingredient have another one.
    pub dtype: Option<Dtype>,
    /// Weights in a format of compressed-tensors, if there are some.
    pub sparse: Option<SparseFormat>,
}

/// Weights in a format of the library compressed-tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseFormat {
    /// Which one.
    pub kind: CompactKind,
    /// The modules whose weights are stored so.
    pub modules: Vec<String>,
    /// The pruned fraction of these weights.
    pub sparsity: f64,
}

impl SparseFormat {
    /// Its name in that library.
    pub fn name(&self) -> &'static str {
        match self.kind {
            CompactKind::Sparse24 => FORMATS[1],
            CompactKind::Bitmask | CompactKind::CompressedTensors => FORMATS[0],
        }
    }

    /// The value of `sparsity_config`.
    ///
    /// Source: `SparsityCompressionConfig` of compressed-tensors 0.14.
    fn sparsity_config(&self) -> Value {
        let structure = match self.kind {
            CompactKind::Sparse24 => "2:4",
            CompactKind::Bitmask | CompactKind::CompressedTensors => "unstructured",
        };
        serde_json::json!({
            "format": self.name(),
            "targets": self.modules,
            "ignore": [],
            "global_sparsity": self.sparsity,
            "sparsity_structure": structure,
        })
    }

    /// What a configuration has to say of it, as the value of its key
    /// `quantization_config`.
    pub fn quantization_config(&self) -> Value {
        serde_json::json!({
            "quant_method": "compressed-tensors",
            "format": "dense",
            "sparsity_config": self.sparsity_config(),
        })
    }
}

/// What became of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// What it says now that it did not, one clause each.
    pub changed: Vec<String>,
    /// What it has to say and does not, one clause each.
    pub open: Vec<String>,
}

impl ConfigChanges {
    /// What has to stand in a configuration that is not there, or cannot be read.
    pub(super) fn without_text(written: &Written) -> Self {
        let mut changes = Self::default();
        if let Some(sparse) = &written.sparse {
            changes.open.push(to_add(sparse));
        }
        changes
    }
}

fn to_add(sparse: &SparseFormat) -> String {
    let config = serde_json::json!({ "quantization_config": sparse.quantization_config() });
    format!("add to config.json: {config}")
}

/// The text of a configuration that agrees with what is written, if that is another one.
pub(super) fn agree(text: String, written: &Written) -> (Option<String>, ConfigChanges) {
    let mut changes = ConfigChanges::default();
    let before = text.clone();
    let value = serde_json::from_str::<Value>(&text);
    let (Some(mut json), Ok(value)) = (JsonText::new(text), value) else {
        return (None, ConfigChanges::without_text(written));
    };
    if let Some(dtype) = written.dtype.and_then(torch_name) {
        set_dtype(&mut json, &value, dtype, &mut changes);
    }
    set_sparsity(&mut json, &value, written.sparse.as_ref(), &mut changes);
    let text = json.as_str().to_owned();
    ((text != before).then_some(text), changes)
}

fn torch_name(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F16 => Some("float16"),
        Dtype::BF16 => Some("bfloat16"),
        Dtype::F32 => Some("float32"),
        Dtype::F64 => Some("float64"),
        _ => None,
    }
}

/// Names the element type wherever another one is named.
fn set_dtype(json: &mut JsonText, value: &Value, dtype: &str, changes: &mut ConfigChanges) {
    let mut places = Vec::new();
    find_dtypes(value, &[], &mut places);
    for (path, old) in places {
        let (prefix, old_name) = match old.strip_prefix("torch.") {
            Some(name) => ("torch.", name),
            None => ("", old.as_str()),
        };
        if old_name == dtype {
            continue;
        }
        let keys: Vec<&str> = path.iter().map(String::as_str).collect();
        let new = Value::from(format!("{prefix}{dtype}"));
        let name = path.join(".");
        match json.set(&keys, &new) {
            Some(()) => changes
                .changed
                .push(format!("`{name}` is {new}, and was \"{old}\"")),
            None => changes
                .open
                .push(format!("set `{name}` in config.json to {new}")),
        }
    }
}

/// Where a configuration, or one within it, names an element type of floats.
fn find_dtypes(value: &Value, path: &[String], places: &mut Vec<(Vec<String>, String)>) {
    let Some(object) = value.as_object().filter(|_| path.len() <= MOST_DEPTH) else {
        return;
    };
    let names = ["float16", "bfloat16", "float32", "float64"];
    let is_float = |name: &str| names.contains(&name.strip_prefix("torch.").unwrap_or(name));
    let below = |key: &String| path.iter().chain([key]).cloned().collect::<Vec<String>>();
    for (key, inner) in object {
        let is_dtype = key == "torch_dtype" || key == "dtype";
        match inner {
            Value::String(name) if is_dtype && is_float(name) => {
                places.push((below(key), name.clone()));
            }
            // What is said of quantised weights is not about these.
            Value::Object(_) if !key.starts_with("quantization") => {
                let is_config = key.ends_with("_config") || key == "encoder" || key == "decoder";
                if is_config {
                    find_dtypes(inner, &below(key), places);
                }
            }
            _ => {}
        }
    }
}

/// Names the format of sparse weights, or takes out what says that there is one.
fn set_sparsity(
    json: &mut JsonText,
    value: &Value,
    sparse: Option<&SparseFormat>,
    changes: &mut ConfigChanges,
) {
    let mut is_said = false;
    for holder in HOLDERS {
        let found = holder
            .iter()
            .try_fold(value, |value, key| value.get(*key))
            .filter(|found| found.is_object());
        let Some(found) = found else { continue };
        let old = found.get("format").and_then(Value::as_str).unwrap_or("");
        match sparse {
            Some(sparse) if old == sparse.name() => is_said = true,
            Some(sparse) => {
                is_said = true;
                let done = json.set(holder, &sparse.sparsity_config());
                let name = holder.join(".");
                note_format(done, &name, sparse, changes);
            }
            None if FORMATS.contains(&old) => remove(json, value, holder, changes),
            None => {}
        }
    }
    let Some(sparse) = sparse.filter(|_| !is_said) else {
        return;
    };
    let config = value
        .get("quantization_config")
        .filter(|config| !config.is_null());
    let is_theirs = |config: &Value| {
        config.get("quant_method").and_then(Value::as_str) == Some("compressed-tensors")
    };
    match config {
        None => {
            let done = json.set(&["quantization_config"], &sparse.quantization_config());
            note_format(done, "quantization_config", sparse, changes);
        }
        Some(config) if is_theirs(config) => {
            let done = json.set(HOLDERS[0], &sparse.sparsity_config());
            note_format(done, "quantization_config.sparsity_config", sparse, changes);
        }
        // Two methods at once cannot be said.
        Some(_) => changes.open.push(to_add(sparse)),
    }
}

fn note_format(done: Option<()>, name: &str, sparse: &SparseFormat, changes: &mut ConfigChanges) {
    match done {
        Some(()) => changes.changed.push(format!(
            "`{name}` names the format {}, which compressed-tensors reads up to 0.14{}",
            sparse.name(),
            match sparse.kind {
                CompactKind::Sparse24 => "",
                // 4.57 compresses a model without elements before it loads one, and fails;
                // 5 takes no release that knows the format.
                _ => ", and transformers from 4.57 on does not load",
            }
        )),
        None => changes.open.push(to_add(sparse)),
    }
}

/// Takes out a format that the weights are not in any more, and with it what holds it, if
/// that says nothing else.
fn remove(json: &mut JsonText, value: &Value, holder: &[&str], changes: &mut ConfigChanges) {
    let outer = &holder[..1];
    let is_quantized = value[holder[0]]
        .get("config_groups")
        .is_some_and(|groups| groups.as_object().is_some_and(|groups| !groups.is_empty()));
    let path = match is_quantized {
        true => holder,
        false => outer,
    };
    let name = path.join(".");
    match json.remove(path) {
        Some(()) => changes.changed.push(format!(
            "`{name}` is left out: the weights are not compressed"
        )),
        None => changes.open.push(format!(
            "take `{name}` out of config.json: the weights are not compressed"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, written: &Written, expected: &str, changed: &[&str]) {
        let (found, changes) = agree(text.to_owned(), written);
        assert_eq!(found.as_deref().unwrap_or(text), expected);
        assert_eq!(changes.open, [""; 0], "{text}");
        let names: Vec<&str> = changes
            .changed
            .iter()
            .map(|clause| clause.split('`').nth(1).unwrap())
            .collect();
        assert_eq!(names, changed, "{text}");
    }

    #[test]
    fn the_element_type_is_that_of_the_weights() {
        let half = Written {
            dtype: Some(Dtype::BF16),
            sparse: None,
        };
        check(
            r#"{"a": 1, "torch_dtype": "float32"}"#,
            &half,
            r#"{"a": 1, "torch_dtype": "bfloat16"}"#,
            &["torch_dtype"],
        );
        check(
            r#"{"dtype": "torch.float32", "text_config": {"dtype": "float16"}, "x": {"dtype": "float16"}}"#,
            &half,
            r#"{"dtype": "torch.bfloat16", "text_config": {"dtype": "bfloat16"}, "x": {"dtype": "float16"}}"#,
            &["dtype", "text_config.dtype"],
        );
        for text in [
            r#"{"torch_dtype": "bfloat16"}"#,
            r#"{"torch_dtype": "auto"}"#,
            r#"{"torch_dtype": null}"#,
            r#"{"quantization_config": {"dtype": "float16"}}"#,
            "{}",
        ] {
            check(text, &half, text, &[]);
            check(text, &Written::default(), text, &[]);
        }
    }

    #[test]
    fn the_format_is_that_of_the_weights() {
        let sparse = |kind| Written {
            dtype: None,
            sparse: Some(SparseFormat {
                kind,
                modules: vec!["l".to_owned()],
                sparsity: 0.5,
            }),
        };
        let (bitmask, half) = (
            sparse(CompactKind::CompressedTensors),
            sparse(CompactKind::Sparse24),
        );
        let theirs = r#"{"quantization_config": {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}, "a": 1}"#;
        check(theirs, &half, theirs, &[]);
        check(
            theirs,
            &Written::default(),
            r#"{"a": 1}"#,
            &["quantization_config"],
        );
        let (changed, changes) = agree(theirs.to_owned(), &bitmask);
        let changed: Value = serde_json::from_str(&changed.unwrap()).unwrap();
        let config = &changed["quantization_config"]["sparsity_config"];
        assert_eq!(config["format"], "sparse-bitmask");
        assert_eq!(config["targets"], serde_json::json!(["l"]));
        assert_eq!(changes.changed.len(), 1);
        // What is quantised stays so.
        check(
            r#"{"quantization_config": {"config_groups": {"g": {}}, "sparsity_config": {"format": "sparse-bitmask"}}}"#,
            &Written::default(),
            r#"{"quantization_config": {"config_groups": {"g": {}}}}"#,
            &["quantization_config.sparsity_config"],
        );
        let (added, _) = agree("{}".to_owned(), &half);
        let added: Value = serde_json::from_str(&added.unwrap()).unwrap();
        let expected = half.sparse.as_ref().unwrap().quantization_config();
        assert_eq!(added["quantization_config"], expected);
        // What cannot be said is told.
        for text in [
            r#"{"quantization_config": {"quant_method": "gptq"}}"#,
            "[]",
            "{",
        ] {
            let (found, changes) = agree(text.to_owned(), &bitmask);
            assert_eq!(found, None, "{text}");
            assert!(
                changes.open[0].starts_with("add to config.json: {"),
                "{text}"
            );
        }
    }
}
