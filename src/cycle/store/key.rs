//! Names of steps: what a step is made from walks in, 32 digits walk out.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;
use thiserror::Error;

use crate::cycle::store::FORMAT_VERSION;
use crate::tensor::Digest;

/// Hexadecimal digits of a key.
const DIGITS: usize = 32;

/// Name of a step: a function of its kind, its parameters and the contents of its inputs,
/// and of nothing else. Two steps with one key have one result.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The key of a step of this `kind`.
    ///
    /// The first 32 hexadecimal digits of SHA-256 over `{format_version, inputs, kind,
    /// parameters}` as JSON without spaces, the keys of every object in the order of their
    /// bytes. `1` and `1.0` are different parameters. `inputs` are the digests of the files
    /// that the step reads, by their roles.
    pub fn of(kind: &str, parameters: &Value, inputs: &BTreeMap<String, Digest>) -> Self {
        let step = json!({
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "parameters": parameters,
            "inputs": inputs,
        });
        let mut text = String::new();
        write_canonically(&step, &mut text);
        let digest = Sha256::digest(text);
        let mut digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.truncate(DIGITS);
        Self(digits)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Appends `value` as JSON without spaces, keys in the order of their bytes, whatever order
/// the map was built in.
fn write_canonically(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            text.push('{');
            for (idx, (name, value)) in sorted.into_iter().enumerate() {
                text.push_str(if idx == 0 { "" } else { "," });
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write_canonically(value, text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (idx, value) in values.iter().enumerate() {
                text.push_str(if idx == 0 { "" } else { "," });
                write_canonically(value, text);
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a key has 32 hexadecimal digits in lower case")]
pub struct KeyError;

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == DIGITS && text.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyError)
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(roles: &[(&str, &[u8])]) -> BTreeMap<String, Digest> {
        roles
            .iter()
            .map(|(role, bytes)| ((*role).to_owned(), Digest::of(bytes)))
            .collect()
    }

    #[test]
    fn a_known_key() {
        // From Python 3.11: hashlib.sha256(json.dumps({"format_version": 1, "inputs": {},
        // "kind": "train", "parameters": {"a": [1.5, True], "b": "\u00e9"}},
        // separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode())
        // .hexdigest()[:32].
        let parameters = json!({"b": "é", "a": [1.5, true]});
        let key = Key::of("train", &parameters, &BTreeMap::new());
        assert_eq!(key.as_str(), "71f1146e4c588a268808563034925b17");
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn everything_that_a_step_is_made_from_is_in_its_key() {
        let base = inputs(&[("mask", b"m"), ("checkpoint", b"c")]);
        let steps = [
            ("train", json!({"seed": 1, "epochs": 2}), base.clone()),
            ("prune", json!({"seed": 1, "epochs": 2}), base.clone()),
            ("train", json!({"seed": 2, "epochs": 2}), base.clone()),
            ("train", json!({"seed": 1.0, "epochs": 2}), base.clone()),
            ("train", json!({"seed": "1", "epochs": 2}), base.clone()),
            ("train", json!({"seed": 1, "epochs": 2, "x": null}), base),
            (
                "train",
                json!({"seed": 1, "epochs": 2}),
                inputs(&[("mask", b"c"), ("checkpoint", b"m")]),
            ),
            (
                "train",
                json!({"seed": 1, "epochs": 2}),
                inputs(&[("mask", b"m")]),
            ),
        ];
        for (idx, (kind, parameters, inputs)) in steps.iter().enumerate() {
            let key = Key::of(kind, parameters, inputs);
            for (other, (kind, parameters, inputs)) in steps.iter().enumerate() {
                let is_same = key == Key::of(kind, parameters, inputs);
                assert_eq!(is_same, idx == other, "{idx} and {other}");
            }
        }
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let check = |a: &str, b: &str| {
            let key = |text| Key::of("k", &serde_json::from_str(text).unwrap(), &BTreeMap::new());
            assert_eq!(key(a), key(b));
        };
        check(
            r#"{"a": 1, "b": {"c": [2], "d": 3}}"#,
            r#"{"b":{"d":3,"c":[2]},"a":1}"#,
        );
    }

    #[test]
    fn what_is_no_key() {
        let digits = "0123456789abcdef0123456789abcdef";
        assert_eq!(digits.parse::<Key>().unwrap().as_str(), digits);
        for text in ["", "0", &digits.to_uppercase(), &digits.replace('0', "/")] {
            assert_eq!(text.parse::<Key>(), Err(KeyError), "{text}");
        }
    }
}
