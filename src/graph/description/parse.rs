//! Values to layers: keys are known, needed keys are there, values have their type.

use super::CLASSES;
use super::Description;
use super::DescriptionError;
use super::Kind;
use super::Layer;
use super::Value;
use super::Width;
use crate::graph::BatchNorm;
use crate::graph::Conv2d;
use crate::graph::Features;
use crate::graph::Initialiser;
use crate::graph::Linear;
use crate::graph::Start;
use crate::graph::Window;
use crate::tensor::Printable;

/// Keys of the description itself.
const KEYS: &[&str] = &["name", "input", "classes", "layers"];

/// Keys of every layer.
const LAYER_KEYS: &[&str] = &["op", "name", "input"];

const NUMBER: &str = "a number";
const SIZE: &str = "a whole number of at least 0";
const PAIR: &str = "a whole number or a list of two, [vertical, horizontal]";
const WIDTH: &str = "a whole number or \"classes\"";
const START: &str = "\"torch\", \"he-fan-in\", \"he-fan-out\", a number, { normal = deviation } or \
                     { uniform = bound }";

/// Keys of one table, and what errors call it.
struct Fields {
    place: String,
    fields: Vec<(String, Value)>,
}

impl Fields {
    fn new(place: &str, fields: Vec<(String, Value)>) -> Self {
        Self {
            place: place.to_owned(),
            fields,
        }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        let at = self.fields.iter().position(|(other, _)| other == key)?;
        Some(self.fields.remove(at).1)
    }

    /// A value that `convert` understands, if the key is there.
    fn optional<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, DescriptionError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let converted = convert(&value);
        converted.map(Some).ok_or_else(|| DescriptionError::Value {
            place: self.place.clone(),
            key,
            found: value.to_string(),
            expected,
        })
    }

    fn required<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, DescriptionError> {
        let value = self.optional(key, expected, convert)?;
        value.ok_or_else(|| DescriptionError::MissingKey {
            place: self.place.clone(),
            key,
            expected,
        })
    }

    /// Fails if a key was not taken.
    fn finish(self, known: impl Iterator<Item = &'static str>) -> Result<(), DescriptionError> {
        match self.fields.into_iter().next() {
            None => Ok(()),
            Some((key, _)) => Err(DescriptionError::UnknownKey {
                place: self.place,
                key,
                expected: known.collect(),
            }),
        }
    }
}

pub(super) fn description(value: Value) -> Result<Description, DescriptionError> {
    let Value::Table(fields) = value else {
        return Err(DescriptionError::Value {
            place: "the file".to_owned(),
            key: "description",
            found: value.to_string(),
            expected: "a table with `name` and `layers`",
        });
    };
    let mut fields = Fields::new("the description", fields);
    let name = fields.required("name", "a text", text)?;
    let shape = "a text such as \"3x32x32\"";
    let input = fields.optional("input", shape, |value| {
        text(value)?.parse::<Features>().ok()
    })?;
    let classes = fields.optional("classes", "a whole number", size)?;
    let layers = fields.required("layers", "a list of layers", |value| match value {
        Value::List(layers) if !layers.is_empty() => Some(layers.clone()),
        _ => None,
    })?;
    fields.finish(KEYS.iter().copied())?;
    let layers = layers.into_iter().enumerate();
    Ok(Description {
        name,
        input,
        classes,
        layers: layers
            .map(|(idx, value)| layer(idx, value))
            .collect::<Result<_, _>>()?,
    })
}

fn layer(idx: usize, value: Value) -> Result<Layer, DescriptionError> {
    let number = format!("layer {}", idx + 1);
    let Value::Table(fields) = value else {
        return Err(DescriptionError::Value {
            place: "the description".to_owned(),
            key: "layers",
            found: format!("{value} at place {}", idx + 1),
            expected: "a table for each layer",
        });
    };
    let mut fields = Fields::new(&number, fields);
    let name = fields.optional("name", "a text", text)?;
    if let Some(name) = &name {
        fields.place = place(idx, Some(name));
    }
    let op = fields.required("op", "the name of an operation", text)?;
    let Some((_, keys)) = Kind::ALL.iter().find(|(known, _)| *known == op) else {
        return Err(DescriptionError::UnknownOp {
            place: fields.place,
            found: op,
            expected: Kind::ALL.iter().map(|(known, _)| *known).collect(),
        });
    };
    let names = "the name of a layer or a list of names";
    let inputs = fields.optional("input", names, |value| match value {
        Value::Text(name) => Some(vec![name.clone()]),
        Value::List(names) => names.iter().map(text).collect(),
        _ => None,
    })?;
    let kind = kind(&op, &mut fields)?;
    if kind.has_parameters() && name.is_none() {
        return Err(DescriptionError::MissingKey {
            place: format!("{number} ({op})"),
            key: "name",
            expected: "the name of torch's module",
        });
    }
    let place = fields.place.clone();
    fields.finish(LAYER_KEYS.iter().chain(*keys).copied())?;
    let found = inputs.as_ref().map_or(1, Vec::len);
    if found != kind.arity() {
        return Err(DescriptionError::Inputs {
            place,
            expected: kind.arity(),
            found,
        });
    }
    Ok(Layer {
        name,
        inputs: inputs.unwrap_or_default(),
        kind,
    })
}

/// What errors call a layer.
pub(super) fn place(idx: usize, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("layer `{}`", Printable(name)),
        None => format!("layer {}", idx + 1),
    }
}

fn kind(op: &str, fields: &mut Fields) -> Result<Kind, DescriptionError> {
    Ok(match op {
        "conv2d" => {
            let (out_channels, width) = fields.required("channels", WIDTH, width)?;
            let layer = Conv2d {
                out_channels,
                kernel: fields.required("kernel", PAIR, pair)?,
                stride: fields.optional("stride", PAIR, pair)?.unwrap_or([1; 2]),
                padding: fields.optional("padding", PAIR, pair)?.unwrap_or([0; 2]),
                weight: weight(fields)?,
                bias: bias(fields)?,
            };
            Kind::Conv2d(layer, width)
        }
        "linear" => {
            let (out_features, width) = fields.required("features", WIDTH, width)?;
            let layer = Linear {
                out_features,
                weight: weight(fields)?,
                bias: bias(fields)?,
            };
            Kind::Linear(layer, width)
        }
        "batch-norm" => {
            let usual = BatchNorm::default();
            Kind::BatchNorm(BatchNorm {
                epsilon: number_or(fields, "epsilon", usual.epsilon)?,
                momentum: number_or(fields, "momentum", usual.momentum)?,
                weight: initialiser_or(fields, "scale", usual.weight)?,
                bias: initialiser_or(fields, "shift", usual.bias)?,
            })
        }
        "relu" => Kind::Relu,
        "add" => Kind::Add,
        "max-pool" => {
            let kernel = fields.required("kernel", PAIR, pair)?;
            Kind::MaxPool(Window {
                kernel,
                stride: fields.optional("stride", PAIR, pair)?.unwrap_or(kernel),
                padding: fields.optional("padding", PAIR, pair)?.unwrap_or([0; 2]),
            })
        }
        "avg-pool" => {
            let kernel = fields.required("kernel", PAIR, pair)?;
            Kind::AvgPool(Window {
                kernel,
                stride: fields.optional("stride", PAIR, pair)?.unwrap_or(kernel),
                padding: [0; 2],
            })
        }
        "global-avg-pool" => Kind::GlobalAvgPool,
        "pad-shortcut" => Kind::PadShortcut {
            stride: fields.optional("stride", SIZE, size)?.unwrap_or(1),
            before: fields.optional("before", SIZE, size)?.unwrap_or(0),
            after: fields.optional("after", SIZE, size)?.unwrap_or(0),
        },
        "flatten" => Kind::Flatten,
        // The table of operations has no other.
        _ => Kind::Dropout {
            probability: fields.required("probability", NUMBER, number)?,
        },
    })
}

fn weight(fields: &mut Fields) -> Result<Start, DescriptionError> {
    let found = fields.optional("init", START, start)?;
    Ok(found.unwrap_or(Start::Torch))
}

fn bias(fields: &mut Fields) -> Result<Option<Start>, DescriptionError> {
    let expected = "true, false, or what `init` may be";
    let found = fields.optional("bias", expected, |value| match value {
        Value::Flag(false) => Some(None),
        Value::Flag(true) => Some(Some(Start::Torch)),
        value => start(value).map(Some),
    })?;
    Ok(found.unwrap_or(Some(Start::Torch)))
}

fn number_or(fields: &mut Fields, key: &'static str, usual: f64) -> Result<f64, DescriptionError> {
    Ok(fields.optional(key, NUMBER, number)?.unwrap_or(usual))
}

fn initialiser_or(
    fields: &mut Fields,
    key: &'static str,
    usual: Initialiser,
) -> Result<Initialiser, DescriptionError> {
    let expected = "a number, { normal = deviation } or { uniform = bound }";
    let found = fields.optional(key, expected, initialiser)?;
    Ok(found.unwrap_or(usual))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

fn size(value: &Value) -> Option<usize> {
    match value {
        Value::Integer(integer) => usize::try_from(*integer).ok(),
        _ => None,
    }
}

fn width(value: &Value) -> Option<(usize, Width)> {
    match value {
        Value::Text(text) if text == CLASSES => Some((0, Width::Classes)),
        value => Some((size(value)?, Width::Stated)),
    }
}

fn pair(value: &Value) -> Option<[usize; 2]> {
    match value {
        Value::List(values) => match &values[..] {
            [vertical, horizontal] => Some([size(vertical)?, size(horizontal)?]),
            _ => None,
        },
        value => size(value).map(|size| [size; 2]),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(integer) => Some(*integer as f64),
        Value::Number(number) if number.is_finite() => Some(*number),
        _ => None,
    }
}

fn start(value: &Value) -> Option<Start> {
    match value {
        Value::Text(text) => match text.as_str() {
            "torch" => Some(Start::Torch),
            "he-fan-in" => Some(Start::HeFanIn),
            "he-fan-out" => Some(Start::HeFanOut),
            _ => None,
        },
        value => initialiser(value).map(Start::Exactly),
    }
}

fn initialiser(value: &Value) -> Option<Initialiser> {
    let Value::Table(fields) = value else {
        return number(value).map(Initialiser::Constant);
    };
    let [(key, value)] = &fields[..] else {
        return None;
    };
    let found = number(value).filter(|number| *number >= 0.0)?;
    match key.as_str() {
        "normal" => Some(Initialiser::Normal { deviation: found }),
        "uniform" => Some(Initialiser::Uniform { bound: found }),
        _ => None,
    }
}
