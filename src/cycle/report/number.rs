//! Numbers as text for people: values walk in, text of a fixed number of digits walks out.

use crate::cycle::findings::Findings;
use crate::cycle::findings::Model;
use crate::cycle::report::contender::mean;
use crate::cycle::report::spread::Spread;
use crate::tensor::decimals;

/// What accuracies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Shares in [0, 1], shown in per cent.
    Share,
    /// Numbers of an external command, shown as they are.
    Number,
}

impl Unit {
    /// Shares, unless some accuracy lies outside of [0, 1].
    pub(super) fn of(findings: &Findings) -> Self {
        let mut values = findings.studies.iter().flat_map(|study| {
            let phases = study.phases.iter().flat_map(|phase| {
                let ingredients = phase.ingredients.iter().map(|ingredient| &ingredient.model);
                let baselines = phase.baselines.values();
                ingredients.chain(baselines).chain([&phase.soup.model])
            });
            let measured =
                |model: &Model| [model.scores.accuracy, model.scores.validation_accuracy];
            phases.chain([&study.dense]).flat_map(measured).flatten()
        });
        if values.any(|value| value.is_finite() && !(0.0..=1.0).contains(&value)) {
            Self::Number
        } else {
            Self::Share
        }
    }

    /// `value` as it is shown: per cent of shares.
    pub(super) fn scaled(self, value: f64) -> f64 {
        match self {
            Self::Share => 100.0 * value,
            Self::Number => value,
        }
    }

    /// Without the unit, which the column's title says.
    pub(super) fn value(self, value: f64) -> String {
        self.digits(self.scaled(value))
    }

    /// With the unit.
    pub(super) fn whole(self, value: f64) -> String {
        match self {
            Self::Share => format!("{} %", self.value(value)),
            Self::Number => self.value(value),
        }
    }

    /// With its sign.
    pub(super) fn difference(self, value: f64) -> String {
        let scaled = self.scaled(value);
        let sign = if scaled > 0.0 { "+" } else { "" };
        sign.to_owned() + &self.digits(scaled)
    }

    /// Without its sign; what is not quite 0 is not shown as that.
    pub(super) fn magnitude(self, value: f64) -> String {
        let shown = self.value(value.abs());
        let is_zero = shown.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        if is_zero && value != 0.0 {
            let least = 10_f64.powi(-(self.decimals() as i32));
            return format!("less than {}", self.digits(least));
        }
        shown
    }

    fn digits(self, scaled: f64) -> String {
        fixed(scaled, self.decimals())
    }

    fn decimals(self) -> usize {
        match self {
            Self::Share => 2,
            Self::Number => 4,
        }
    }

    /// What is measured: `accuracy`, or `score`.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Share => "accuracy",
            Self::Number => "score",
        }
    }

    /// The noun with its unit, as the title of a column or an axis.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Share => "accuracy (%)",
            Self::Number => "score",
        }
    }

    /// What differences are measured in, after a number: ` points`, or nothing.
    pub(super) fn points(self) -> &'static str {
        match self {
            Self::Share => " points",
            Self::Number => "",
        }
    }

    /// Mean and standard deviation: `97.31 ± 0.20`; without the latter of one seed.
    pub(super) fn spread(self, spread: Option<Spread>) -> String {
        spread.map_or_else(missing, |spread| {
            let mean = self.value(spread.mean);
            spread.deviation.map_or(mean.clone(), |deviation| {
                format!("{mean} ± {}", self.value(deviation))
            })
        })
    }
}

/// What stands where nothing was measured.
pub(super) fn missing() -> String {
    "–".to_owned()
}

/// `value` with `digits` decimals and a true minus sign; a dash if it is not finite.
pub(super) fn fixed(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return missing();
    }
    decimals(value, digits).replace('-', "−")
}

/// A number that may be missing.
pub(super) fn fixed_or_missing(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(missing, |value| fixed(value, digits))
}

/// A share in per cent with two decimals, without the sign.
pub(super) fn percent(share: f64) -> String {
    fixed(100.0 * share, 2)
}

/// The mean of shares in per cent.
pub(super) fn mean_percent(shares: impl Iterator<Item = f64>) -> String {
    mean(shares).map_or_else(missing, percent)
}

/// A count with thousands separated: `12,345,678`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 seed`, `2 seeds`.
pub(super) fn plural(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number as u64))
}

/// A duration: `42 s`, `3 min 20 s`, `2 h 5 min`.
pub(super) fn duration(secs: f64) -> String {
    if !secs.is_finite() || secs < 0.0 {
        return missing();
    }
    if secs < 10.0 {
        return format!("{secs:.1} s");
    }
    let whole = secs.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
