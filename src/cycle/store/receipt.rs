//! Receipts: that a step is done, with what result, as text that shows its own damage.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::cycle::store::Artefact;
use crate::cycle::store::FORMAT_VERSION;
use crate::cycle::store::Key;
use crate::cycle::store::artefact;
use crate::tensor::Digest;

/// What stands between the fields of a receipt and its seal, and after the seal.
const BEFORE_SEAL: &str = ",\n  \"seal\": \"";
const AFTER_SEAL: &str = "\"\n}\n";

/// Longest receipt that is read, far above any that is written.
pub(super) const MOST_BYTES: u64 = 64 << 20;

/// A step that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Version of these fields.
    pub format_version: u32,
    /// The step.
    pub key: Key,
    /// The step for people.
    pub label: String,
    /// What kind of step it is.
    pub kind: String,
    /// The files that it made, by their roles.
    pub outputs: BTreeMap<String, Artefact>,
    /// What was measured.
    pub metrics: Value,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// Seconds that the attempt took.
    pub elapsed_secs: f64,
}

/// What is there in the place of a receipt.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Nothing: the step is not done.
    Missing,
    /// Something that is no receipt of this step; not to be believed.
    Damaged {
        /// What shows it.
        why: String,
    },
    /// A receipt, every byte as it was written. Its artefacts have not been looked at.
    Whole(Receipt),
}

impl Receipt {
    /// The text of the file: indented JSON whose last field, `seal`, is the digest of
    /// everything before the comma in front of it.
    pub(super) fn seal(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string_pretty(self)?;
        let body_bytes = text.len() - "\n}".len();
        text.truncate(body_bytes);
        let seal = Digest::of(text.as_bytes()).to_string();
        for part in [BEFORE_SEAL, &seal, AFTER_SEAL] {
            text.push_str(part);
        }
        Ok(text)
    }

    /// The receipt of `key` that `bytes` are.
    ///
    /// # Errors
    /// In what way they are none, or not that one.
    pub(super) fn open(bytes: &[u8], key: &Key) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("it is empty".to_owned());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        let (body, seal) = unsealed(text).ok_or("it does not end in a seal")?;
        let found = Digest::of(body.as_bytes()).to_string();
        if seal != found {
            return Err(format!("its seal is {seal}, expected {found}"));
        }
        let receipt: Self = serde_json::from_str(&format!("{body}\n}}"))
            .map_err(|error| format!("it is sealed, but no receipt: {error}"))?;
        receipt.check(key)?;
        Ok(receipt)
    }

    fn check(&self, key: &Key) -> Result<(), String> {
        if self.format_version != FORMAT_VERSION {
            let found = self.format_version;
            return Err(format!(
                "its format version is {found}, expected {FORMAT_VERSION}"
            ));
        }
        if self.key != *key {
            return Err(format!("it is the receipt of {}, expected {key}", self.key));
        }
        for Artefact { file, .. } in self.outputs.values() {
            let is_own = artefact::maker(file) == Some((self.key.clone(), self.attempt));
            if !is_own || file.contains('/') {
                return Err(format!("it names an artefact of someone else, `{file}`"));
            }
        }
        Ok(())
    }
}

/// What was sealed, and the seal.
fn unsealed(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_suffix(AFTER_SEAL)?;
    let (body, seal) = text.split_at_checked(text.len().checked_sub(32)?)?;
    Some((body.strip_suffix(BEFORE_SEAL)?, seal))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn receipt() -> Receipt {
        let key = Key::of("train", &json!({}), &BTreeMap::new());
        let artefact = Artefact {
            file: format!("{key}-3.checkpoint.st"),
            digest: Digest::of(b"weights"),
            bytes: 7,
        };
        Receipt {
            format_version: FORMAT_VERSION,
            key,
            label: "seed 1, phase 2, ingredient 3".to_owned(),
            kind: "train".to_owned(),
            outputs: BTreeMap::from([("checkpoint".to_owned(), artefact)]),
            metrics: json!({"accuracy": 0.1 + 0.2, "tiny": 1.5e-300, "curve": [1, 2.5, null]}),
            attempt: 3,
            elapsed_secs: 1.25,
        }
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let receipt = receipt();
        let text = receipt.seal().unwrap();
        assert_eq!(
            Receipt::open(text.as_bytes(), &receipt.key),
            Ok(receipt.clone())
        );
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["key"], json!(receipt.key));
        assert_eq!(value["seal"].as_str().unwrap().len(), 32);
    }

    #[test]
    fn every_changed_or_missing_byte_is_found() {
        let receipt = receipt();
        let text = receipt.seal().unwrap().into_bytes();
        let check = |bytes: &[u8], what: &str| {
            assert!(Receipt::open(bytes, &receipt.key).is_err(), "{what}");
        };
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut flipped = text.clone();
                flipped[at] ^= 1 << bit;
                check(&flipped, &format!("bit {bit} of byte {at}"));
            }
            check(&text[..at], &format!("only {at} bytes"));
            check(&text[at + 1..], &format!("without {} bytes", at + 1));
            let zeros = [&text[..at], &vec![0; text.len() - at]].concat();
            check(&zeros, &format!("zeros from {at}"));
        }
        check(&[&text[..], b"\n"].concat(), "one more byte");
        check(&[&text[..], &text[..]].concat(), "twice");
    }

    #[test]
    fn a_sealed_receipt_can_still_be_the_wrong_one() {
        let check = |change: fn(&mut Receipt), expected: &str| {
            let (key, mut receipt) = (receipt().key, receipt());
            change(&mut receipt);
            let text = receipt.seal().unwrap();
            let error = Receipt::open(text.as_bytes(), &key).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(|receipt| receipt.format_version = 2, "format version is 2");
        check(
            |receipt| receipt.key = Key::of("soup", &json!({}), &BTreeMap::new()),
            "it is the receipt of",
        );
        check(|receipt| receipt.attempt = 4, "someone else");
        check(
            |receipt| {
                let artefact = receipt.outputs.values_mut().next().unwrap();
                artefact.file = "../../etc/passwd".to_owned();
            },
            "someone else",
        );
        check(
            |receipt| {
                let artefact = receipt.outputs.values_mut().next().unwrap();
                artefact.file = artefact.file.replace(".checkpoint", "./../x");
            },
            "someone else",
        );
    }
}
