//! Which tensors can be pruned, and what to do where masks differ.

use glob::Pattern as Glob;
use serde::{Deserialize, Serialize};

use crate::tensor::{Arithmetic, Dtype, Shape};

/// Where masks are read from zeros, a tensor counts as pruned if more than this
/// fraction of its elements is zero in at least one ingredient.
///
/// An unpruned tensor has next to no zeros: an exact zero happens about once in
/// 10^7 weights of F32, and once in 10^6 of F16 through underflow.
pub const DENSE_ZERO_FRACTION: f64 = 1e-3;

/// Where masks are read from zeros, a disagreement of at most this fraction of a
/// tensor's retained weights is taken for weights that are zero by accident:
/// 6 of 12 million in an honest F32 training run.
pub const DRIFT_TOLERANCE: f64 = 1e-5;

/// What to do where the masks of the ingredients differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MismatchPolicy {
    /// Refuse to merge.
    #[default]
    Error,
    /// Retain what every ingredient retains.
    Intersect,
    /// Retain what any ingredient retains.
    Union,
    /// Retain what ingredients of at least half the total weight retain.
    Vote,
    /// Retain what the first ingredient retains (or the mask file, if given).
    First,
}

impl MismatchPolicy {
    /// Every policy but refusing, with what it does.
    pub const REMEDIES: [(Self, &'static str); 4] = [
        (Self::Intersect, "retain what every ingredient retains"),
        (Self::Union, "retain what any one retains (sparsity falls)"),
        (Self::Vote, "retain what at least half of them retain"),
        (Self::First, "retain what the first ingredient retains"),
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Intersect => "intersect",
            Self::Union => "union",
            Self::Vote => "vote",
            Self::First => "first",
        }
    }
}

/// Shell patterns over whole tensor names; `*` matches dots too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamePatterns(Vec<Glob>);

impl NamePatterns {
    /// Compiles `patterns`.
    ///
    /// # Errors
    /// The first pattern that is malformed, and why.
    pub fn new(patterns: &[String]) -> Result<Self, (String, glob::PatternError)> {
        patterns
            .iter()
            .map(|text| Glob::new(text).map_err(|error| (text.clone(), error)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether any pattern matches `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }

    /// The first pattern that matches none of `names`.
    pub fn unused<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        self.0
            .iter()
            .find(|pattern| !names.clone().any(|name| pattern.matches(name)))
            .map(Glob::as_str)
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns as given.
    pub fn texts(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|pattern| pattern.as_str().to_owned())
            .collect()
    }
}

/// How masks are read and compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// What to do where masks differ.
    pub policy: MismatchPolicy,
    /// Whether accidental zeros are a mismatch too.
    pub strict: bool,
    /// Tensors that are pruned whatever their zeros say.
    pub prunable: NamePatterns,
    /// Tensors that are dense whatever their zeros say.
    pub dense: NamePatterns,
}

/// What is known about the mask of a tensor before its bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// It has none: every element is retained.
    Dense,
    /// Its zeros decide whether it is pruned.
    FromZeros,
    /// It is pruned, and its zeros are its mask.
    Pruned,
    /// Its mask is stored beside it, or given as a file.
    Explicit,
}

impl Rules {
    /// What to expect of a tensor.
    ///
    /// `--dense` wins over `--prunable`. Without either, a mask stored or given
    /// decides; else F16, BF16, F32 and F64 tensors of two or more dimensions may
    /// be pruned and everything else is dense.
    pub fn expectation(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &Shape,
        has_explicit_mask: bool,
    ) -> Expectation {
        if has_explicit_mask {
            Expectation::Explicit
        } else if self.dense.matches(name) || dtype.arithmetic() != Arithmetic::Average {
            Expectation::Dense
        } else if self.prunable.matches(name) {
            Expectation::Pruned
        } else if shape.rank() >= 2 {
            Expectation::FromZeros
        } else {
            Expectation::Dense
        }
    }
}

/// How differing mask bits become one bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Retained by any.
    Any,
    /// Retained by all.
    All,
    /// Retained by ingredients of at least half the weight.
    Vote,
    /// Retained by the first.
    First,
}

impl From<MismatchPolicy> for Resolution {
    /// Under [`MismatchPolicy::Error`] what is left of a mismatch is accidental
    /// zeros, which are retained.
    fn from(policy: MismatchPolicy) -> Self {
        match policy {
            MismatchPolicy::Error | MismatchPolicy::Union => Self::Any,
            MismatchPolicy::Intersect => Self::All,
            MismatchPolicy::Vote => Self::Vote,
            MismatchPolicy::First => Self::First,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_of_a_tensor() {
        let patterns = |text: &str| NamePatterns::new(&[text.to_owned()]).unwrap();
        let rules = Rules {
            prunable: patterns("*.gain"),
            dense: patterns("embed*"),
            ..Rules::default()
        };
        let check = |name, dtype, dims: &[u64], explicit, expected| {
            assert_eq!(
                rules.expectation(name, dtype, &Shape::new(dims).unwrap(), explicit),
                expected,
                "{name}"
            );
        };
        check(
            "fc.weight",
            Dtype::F32,
            &[3, 4],
            false,
            Expectation::FromZeros,
        );
        check("fc.bias", Dtype::F32, &[3], false, Expectation::Dense);
        check("fc.gain", Dtype::BF16, &[3], false, Expectation::Pruned);
        check(
            "embed.weight",
            Dtype::F32,
            &[3, 4],
            false,
            Expectation::Dense,
        );
        check(
            "fc.weight",
            Dtype::F32,
            &[3, 4],
            true,
            Expectation::Explicit,
        );
        check(
            "fc.weight",
            Dtype::F8E4M3,
            &[3, 4],
            false,
            Expectation::Dense,
        );
        check("counts", Dtype::I64, &[3, 4], false, Expectation::Dense);
    }

    #[test]
    fn patterns_match_whole_names_and_report_the_unused_and_the_malformed() {
        let patterns = NamePatterns::new(&["layer*.weight".to_owned(), "head".to_owned()]).unwrap();
        assert!(patterns.matches("layer1.0.conv.weight") && !patterns.matches("head.weight"));
        assert_eq!(patterns.unused(["layer1.weight"].into_iter()), Some("head"));
        assert_eq!(NamePatterns::new(&["[".to_owned()]).unwrap_err().0, "[");
    }
}
