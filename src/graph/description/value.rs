//! Values of TOML and JSON alike, in the order of the text and without a key twice.

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde::ser::SerializeMap;

use std::fmt;

/// What both notations can say.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Flag(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Table(Vec<(String, Value)>),
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A count; no count of a graph passes [`MOST_ELEMENTS`](crate::graph::MOST_ELEMENTS).
    pub(super) fn size(size: usize) -> Self {
        Self::Integer(i64::try_from(size).unwrap_or(i64::MAX))
    }
}

/// As an error shows it: short, whatever was found.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Number(number) => write!(f, "{number:?}"),
            Self::Text(text) => {
                let start: String = text.chars().take(40).collect();
                write!(f, "{start:?}")
            }
            Self::List(values) => write!(f, "a list of {}", values.len()),
            Self::Table(_) => f.write_str("a table"),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Integer(integer) => serializer.serialize_i64(*integer),
            Self::Number(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(values) => values.serialize(serializer),
            Self::Table(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true, false, a list or a table")
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_i64<E: de::Error>(self, integer: i64) -> Result<Value, E> {
        Ok(Value::Integer(integer))
    }

    fn visit_u64<E: de::Error>(self, integer: u64) -> Result<Value, E> {
        let integer = i64::try_from(integer);
        let integer = integer.map_err(|_| E::custom("a whole number passes 2^63 - 1"))?;
        Ok(Value::Integer(integer))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields: Vec<(String, Value)> = Vec::new();
        // Tables of a description have few keys; one with many is refused for them.
        while let Some(key) = entries.next_key::<String>()? {
            if fields.len() > 64 {
                return Err(de::Error::custom("a table has more than 64 keys"));
            }
            if fields.iter().any(|(other, _)| *other == key) {
                return Err(de::Error::custom(format_args!("key {key:?} appears twice")));
            }
            fields.push((key, entries.next_value()?));
        }
        Ok(Value::Table(fields))
    }
}

/// Keys with short values line by line, and lists of tables as `[[key]]`.
pub(super) fn to_toml(value: &Value) -> String {
    let mut text = String::new();
    let Value::Table(fields) = value else {
        return text;
    };
    let is_tables = |value: &Value| matches!(value, Value::List(items) if matches!(items.first(), Some(Value::Table(_))));
    for (key, value) in fields.iter().filter(|(_, value)| !is_tables(value)) {
        text.push_str(&format!("{key} = {}\n", inline(value)));
    }
    for (key, value) in fields.iter().filter(|(_, value)| is_tables(value)) {
        let Value::List(items) = value else { continue };
        for item in items {
            text.push_str(&format!("\n[[{key}]]\n{}", to_toml(item)));
        }
    }
    text
}

fn inline(value: &Value) -> String {
    let mut text = String::new();
    value
        .serialize(toml::ser::ValueSerializer::new(&mut text))
        .expect("these values have a TOML form");
    text
}

/// Indented, with one line for each layer.
pub(super) fn to_json(value: &Value) -> String {
    let line = |value: &Value| serde_json::to_string(value).expect("these values have a JSON form");
    let Value::Table(fields) = value else {
        return line(value);
    };
    let fields: Vec<String> = fields
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Value::List(items) => {
                    let items: Vec<String> = items.iter().map(line).collect();
                    format!("[\n    {}\n  ]", items.join(",\n    "))
                }
                value => line(value),
            };
            format!("  {}: {value}", line(&Value::text(key)))
        })
        .collect();
    format!("{{\n{}\n}}\n", fields.join(",\n"))
}
