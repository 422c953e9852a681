//! `adapter_config.json`: what peft says of an adapter's scale, read and written again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::adapter::error::AdapterError;
use crate::adapter::patterns::ModulePattern;

/// Name of the file beside the weights of an adapter.
pub const CONFIG_NAME: &str = "adapter_config.json";

/// Largest configuration that is read: those of large networks with a rank for every
/// module take 100 kB.
const MOST_BYTES: u64 = 16 << 20;

/// What a configuration says of scales.
#[derive(Clone, Debug)]
pub(super) struct Config {
    rank: u64,
    alpha: f64,
    is_rank_stabilized: bool,
    ranks: Vec<(ModulePattern, u64)>,
    alphas: Vec<(ModulePattern, f64)>,
    pub(super) is_transposed: bool,
    pub(super) all: Map<String, Value>,
}

/// Values of `init_lora_weights` with which peft changes the network's own weights when
/// an adapter is loaded, by its rank: a product of another rank is added to other weights.
const CHANGES_NETWORK: [&str; 5] = ["pissa", "olora", "loftq", "corda", "lora_ga"];

/// Keys of peft's variants of LoRA whose products are not those of the two factors.
const VARIANTS: [&str; 5] = [
    "kasa_config",
    "monteclora_config",
    "arrow_config",
    "use_bdlora",
    "use_qalora",
];

impl Config {
    /// Reads the file at `path`, if there is one.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, AdapterError> {
        let wrong = |reason: String| AdapterError::Config {
            path: path.to_owned(),
            reason,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error.to_string())),
        };
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(wrong("expected a file".to_owned()));
        }
        let mut text = Vec::new();
        let read = file.take(MOST_BYTES + 1).read_to_end(&mut text);
        read.map_err(|error| wrong(error.to_string()))?;
        if text.len() as u64 > MOST_BYTES {
            return Err(wrong(format!("expected at most {MOST_BYTES} bytes")));
        }
        match serde_json::from_slice(&text) {
            Ok(Value::Object(all)) => Self::new(all, path).map(Some),
            Ok(_) => Err(wrong("expected a JSON object".to_owned())),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// What an object of this form says; `path` is where it stands.
    pub(super) fn new(all: Map<String, Value>, path: &Path) -> Result<Self, AdapterError> {
        let wrong = |reason: String| AdapterError::Config {
            path: path.to_owned(),
            reason,
        };
        refuse_unknown_arithmetic(&all).map_err(wrong)?;
        let rank = all.get("r").and_then(Value::as_u64);
        let rank = rank.filter(|&rank| rank > 0);
        let alpha = all.get("lora_alpha").and_then(Value::as_f64);
        let (Some(rank), Some(alpha)) = (rank, alpha) else {
            let reason = "expected numbers `r` of at least 1 and `lora_alpha`";
            return Err(wrong(reason.to_owned()));
        };
        let pattern = |key: &str| {
            ModulePattern::parse(key).ok_or_else(|| {
                wrong(format!(
                    "the key `{}` of a pattern is a regular expression; expected names of modules",
                    crate::tensor::Printable(key)
                ))
            })
        };
        let mut ranks = Vec::new();
        for (key, value) in entries(&all, "rank_pattern") {
            let rank = value.as_u64().filter(|&rank| rank > 0);
            let rank = rank.ok_or_else(|| wrong("expected ranks in `rank_pattern`".to_owned()))?;
            ranks.push((pattern(key)?, rank));
        }
        let mut alphas = Vec::new();
        for (key, value) in entries(&all, "alpha_pattern") {
            let alpha = value.as_f64();
            let alpha =
                alpha.ok_or_else(|| wrong("expected numbers in `alpha_pattern`".to_owned()))?;
            alphas.push((pattern(key)?, alpha));
        }
        Ok(Self {
            rank,
            alpha,
            is_rank_stabilized: is_true(&all, "use_rslora"),
            ranks,
            alphas,
            is_transposed: is_true(&all, "fan_in_fan_out"),
            all,
        })
    }

    /// The rank and alpha of a module, and what alpha is divided by.
    pub(super) fn scale_of(&self, module: &str) -> (u64, f64, f64) {
        let mut ranks = self.ranks.iter();
        let mut alphas = self.alphas.iter();
        let rank = ranks.find(|(pattern, _)| pattern.matches(module));
        let alpha = alphas.find(|(pattern, _)| pattern.matches(module));
        let rank = rank.map_or(self.rank, |&(_, rank)| rank);
        let divisor = match self.is_rank_stabilized {
            true => (rank as f64).sqrt(),
            false => rank as f64,
        };
        (rank, alpha.map_or(self.alpha, |&(_, alpha)| alpha), divisor)
    }
}

/// The entries of an object in a configuration; none if it has none.
fn entries<'a>(
    all: &'a Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let object = all.get(key).and_then(Value::as_object);
    object
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value))
}

fn is_true(all: &Map<String, Value>, key: &str) -> bool {
    all.get(key).and_then(Value::as_bool) == Some(true)
}

/// Says what a configuration asks for that makes other changes than products.
fn refuse_unknown_arithmetic(all: &Map<String, Value>) -> Result<(), String> {
    let kind = all.get("peft_type").and_then(Value::as_str);
    if let Some(kind) = kind.filter(|kind| *kind != "LORA") {
        let kind = crate::tensor::Printable(kind);
        return Err(format!("`peft_type` is `{kind}`, expected `LORA`"));
    }
    if is_true(all, "use_dora") {
        let reason = "`use_dora` is true, and the magnitudes of DoRA are not averaged; merge each \
                      adapter into its network first";
        return Err(reason.to_owned());
    }
    let is_set =
        |key: &&str| !matches!(all.get(*key), None | Some(Value::Null | Value::Bool(false)));
    if let Some(key) = VARIANTS.iter().find(|key| is_set(key)) {
        return Err(format!(
            "`{key}` asks for another product of the factors than theirs; merge each adapter into \
             its network first"
        ));
    }
    let parameters = all.get("target_parameters").and_then(Value::as_array);
    if parameters.is_some_and(|parameters| !parameters.is_empty()) {
        let reason = "`target_parameters` names parameters of experts, whose factors are not known";
        return Err(reason.to_owned());
    }
    let start = all.get("init_lora_weights").and_then(Value::as_str);
    let changes = |start: &&str| CHANGES_NETWORK.iter().any(|name| start.starts_with(name));
    match start.filter(changes) {
        None => Ok(()),
        Some(start) => Err(format!(
            "`init_lora_weights` is `{}`: peft changes the network itself when it loads this; save \
             the adapter with `path_initial_model_for_weight_conversion`, which makes it a plain one",
            crate::tensor::Printable(start)
        )),
    }
}

/// The configuration for modules of these ranks and alphas, with all else as in `first`.
///
/// `targets` are the names of all modules where the adapters do not change the same ones.
/// A module's scale is alpha divided by rank.
pub fn rewritten(
    first: &Map<String, Value>,
    modules: &BTreeMap<&str, (u64, f64)>,
    targets: Option<Vec<&str>>,
) -> String {
    let mut all = first.clone();
    let (rank, alpha) = most_common(modules.values().copied());
    let mut ranks = Map::new();
    let mut alphas = Map::new();
    for (name, &(own_rank, own_alpha)) in modules {
        // The whole name: peft takes keys for ends of names.
        let key = || format!("^{}", name.replace('.', r"\."));
        if own_rank != rank {
            ranks.insert(key(), Value::from(own_rank));
        }
        if own_alpha.to_bits() != alpha.to_bits() {
            alphas.insert(key(), number(own_alpha));
        }
    }
    all.insert("r".to_owned(), Value::from(rank));
    all.insert("lora_alpha".to_owned(), number(alpha));
    all.insert("rank_pattern".to_owned(), Value::Object(ranks));
    all.insert("alpha_pattern".to_owned(), Value::Object(alphas));
    all.insert("use_rslora".to_owned(), Value::Bool(false));
    if let Some(targets) = targets {
        all.insert("target_modules".to_owned(), Value::from(targets));
        for key in ["layers_to_transform", "layers_pattern", "exclude_modules"] {
            all.insert(key.to_owned(), Value::Null);
        }
    }
    let text = serde_json::to_string_pretty(&Value::Object(all));
    text.expect("an object with string keys has a JSON form") + "\n"
}

/// The pair that most modules have; of equally many the least.
fn most_common(pairs: impl Iterator<Item = (u64, f64)>) -> (u64, f64) {
    let mut counts: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for (rank, alpha) in pairs {
        *counts.entry((rank, alpha.to_bits())).or_default() += 1;
    }
    let most = counts
        .iter()
        .max_by_key(|(pair, count)| (**count, std::cmp::Reverse(**pair)));
    most.map_or((1, 1.0), |(&(rank, alpha), _)| {
        (rank, f64::from_bits(alpha))
    })
}

/// A whole number as one, as peft writes it.
fn number(value: f64) -> Value {
    // Below 2^53 every whole number is one of `i64`.
    if value.fract() == 0.0 && value.abs() < 9e15 {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}
