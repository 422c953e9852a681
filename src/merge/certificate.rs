//! What a soup says about itself: how it came about, and the digests that prove it.

mod error;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::checkpoint::CERTIFICATE_KEY;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::MaskLayout;
use crate::checkpoint::Seal;
use crate::connectivity::MismatchPolicy;
use crate::connectivity::NamePatterns;
use crate::kernel::Normalization;
use crate::merge::adapters::AdapterRecord;
use crate::merge::file_digest::FileDigest;
use crate::merge::options::IntegerPolicy;
use crate::merge::options::MergeOptions;
use crate::merge::options::Method;
use crate::merge::selection::Selection;
use crate::tensor::Digest;
use crate::tensor::Dtype;

pub use error::CertificateError;

/// Version of the certificate's fields and of the definition of its digests. Soups of
/// version 1 have no seal.
const FORMAT_VERSION: u32 = 2;

/// Versions that can be read.
const READ_VERSIONS: std::ops::RangeInclusive<u32> = 1..=FORMAT_VERSION;

/// Longest lineage in bytes of JSON that is copied from an ingredient; of a longer
/// one only the digest is kept.
const LINEAGE_LIMIT: usize = 1 << 20;

/// Most generations of soups that are recorded; of older ones only the digest is
/// kept. Each takes three levels of JSON, of which readers allow 128.
const MOST_GENERATIONS: usize = 32;

/// What a soup says about itself.
///
/// In a soup of several files, each file's certificate lists that file's tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Version of these fields.
    pub format_version: u32,
    /// Name and version of the program that wrote it.
    pub tool: String,
    /// How it came about.
    #[serde(flatten)]
    pub soup: SoupRecord,
    /// The options that decided its bytes.
    pub options: RecordedOptions,
    /// Digest of the content of all its files.
    pub content: Digest,
    /// Elements of tensors that have a mask.
    pub prunable: u64,
    /// Those of them that are retained.
    pub retained: u64,
    /// Each stored tensor, by name.
    pub tensors: BTreeMap<String, TensorRecord>,
    /// Names of the batch-norm statistics that were estimated again after the merge: not
    /// what the ingredients give.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recalibrated: Vec<String>,
}

/// How a soup came about: its own, or that of an ingredient that is itself a soup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoupRecord {
    /// How the weights were chosen.
    pub method: Method,
    /// The weights, one per ingredient.
    pub weights: Vec<f64>,
    /// Whether the combination was divided by the sum of the weights.
    pub normalized: bool,
    /// Digest of all masks.
    pub mask: Digest,
    /// What was averaged, in order.
    pub ingredients: Vec<IngredientRecord>,
    /// What they were chosen from, and how, if that was done here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
}

/// One ingredient of a soup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IngredientRecord {
    /// Last component of its path.
    pub name: String,
    /// Digest of the tensors that were read.
    pub digest: Digest,
    /// SHA-256 of each of its files, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileDigest>,
    /// How it came about, if it is a soup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soup: Option<Box<SoupRecord>>,
}

/// The options that decided a soup's bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedOptions {
    /// What was done where masks differed.
    pub on_mask_mismatch: MismatchPolicy,
    /// Whether accidental zeros counted as a mismatch.
    pub strict: bool,
    /// Tensors declared prunable.
    pub prunable: Vec<String>,
    /// Tensors declared dense.
    pub dense: Vec<String>,
    /// Tensors that were merged; empty for all.
    pub include: Vec<String>,
    /// Tensors that were left out.
    pub exclude: Vec<String>,
    /// Tensors that are the first ingredient's, as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_first: Vec<String>,
    /// Element type that was asked for.
    pub dtype: Option<String>,
    /// What was done where integers differed.
    pub on_integer_mismatch: IntegerPolicy,
    /// Whether NaN and infinities were merged.
    pub allow_non_finite: bool,
    /// How masks are stored.
    pub layout: MaskLayout,
    /// Digest of the mask file, if one was given.
    pub mask_file: Option<Digest>,
    /// Whether running variances are pooled, so that batch norm's statistics have to
    /// be estimated again before the soup is used.
    pub batch_norm_pooled: bool,
    /// Which products it has, if it is a soup of adapters whose products were averaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapters: Option<AdapterRecord>,
}

/// What is certified of one stored tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorRecord {
    /// Digest of its bytes.
    pub content: Digest,
    /// Its mask, if it has one.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskRecord>,
}

/// What is certified of one mask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskRecord {
    /// Digest of the mask.
    pub mask: Digest,
    /// Elements that it retains.
    pub retained: u64,
    /// Retained elements whose value is zero: a mask read from zeros lacks them.
    pub retained_zeros: u64,
}

impl Certificate {
    /// The certificate of a checkpoint, its files taken together.
    ///
    /// # Errors
    /// [`CertificateError`] if there is none or it cannot be read.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CertificateError> {
        let path = || checkpoint.path().display().to_string();
        let mut whole: Option<Self> = None;
        for metadata in checkpoint.shard_metadata() {
            let Some(text) = metadata.get(CERTIFICATE_KEY) else {
                continue;
            };
            let malformed = |source| CertificateError::Malformed {
                path: path(),
                source,
            };
            let certificate: Self = serde_json::from_str(text).map_err(malformed)?;
            if !READ_VERSIONS.contains(&certificate.format_version) {
                return Err(CertificateError::Version {
                    path: path(),
                    found: certificate.format_version,
                });
            }
            match &mut whole {
                Some(whole) => whole.tensors.extend(certificate.tensors),
                None => whole = Some(certificate),
            }
        }
        whole.ok_or_else(|| CertificateError::Missing { path: path() })
    }

    /// Whether the files that have it are sealed: whether graph, metadata and the
    /// certificate itself are covered by a digest too.
    pub fn is_sealed(&self) -> bool {
        self.format_version > 1
    }

    /// Whether a seal is what a soup with this certificate has.
    pub(super) fn is_fitted_by(&self, seal: &Seal) -> bool {
        match seal {
            Seal::Holds => true,
            Seal::Absent => !self.is_sealed(),
            Seal::Broken { .. } => false,
        }
    }

    pub(super) fn new(
        soup: SoupRecord,
        options: RecordedOptions,
        content: Digest,
        (prunable, retained): (u64, u64),
        tensors: BTreeMap<String, TensorRecord>,
    ) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            tool: concat!("sms-merge ", env!("CARGO_PKG_VERSION")).to_owned(),
            soup,
            options,
            content,
            prunable,
            retained,
            tensors,
            recalibrated: Vec::new(),
        }
    }

    /// As the value of [`CERTIFICATE_KEY`], with only the tensors that `holds` picks.
    pub(super) fn to_json(&self, holds: impl Fn(&str) -> bool) -> String {
        /// The fields of [`Certificate`], of which some tensors are left out.
        #[derive(Serialize)]
        struct Part<'a, T: Serialize> {
            format_version: u32,
            tool: &'a str,
            #[serde(flatten)]
            soup: &'a SoupRecord,
            options: &'a RecordedOptions,
            content: Digest,
            prunable: u64,
            retained: u64,
            tensors: T,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            recalibrated: &'a [String],
        }

        struct Picked<'a, F>(&'a BTreeMap<String, TensorRecord>, F);

        impl<F: Fn(&str) -> bool> Serialize for Picked<'_, F> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().filter(|(name, _)| self.1(name)))
            }
        }

        let part = Part {
            format_version: self.format_version,
            tool: &self.tool,
            soup: &self.soup,
            options: &self.options,
            content: self.content,
            prunable: self.prunable,
            retained: self.retained,
            tensors: Picked(&self.tensors, holds),
            recalibrated: &self.recalibrated,
        };
        serde_json::to_string(&part)
            .expect("strings, numbers and maps with string keys have a JSON form")
    }
}

impl TensorRecord {
    /// Bytes that the record of a tensor takes at most in a header, where it stands as
    /// JSON within a JSON string.
    pub(super) fn longest(name: &str, numel: u64, may_have_mask: bool) -> usize {
        let digest = Digest::of(b"");
        let record = Self {
            content: digest,
            mask: may_have_mask.then_some(MaskRecord {
                mask: digest,
                retained: numel,
                retained_zeros: numel,
            }),
        };
        let in_string = |text: &str| text.len() + text.matches(['"', '\\']).count();
        let json = |json: serde_json::Result<String>| json.map_or(0, |json| in_string(&json));
        // A colon and a comma.
        json(serde_json::to_string(name)) + json(serde_json::to_string(&record)) + 2
    }
}

impl SoupRecord {
    pub(super) fn new(
        options: &MergeOptions,
        mask: Digest,
        ingredients: Vec<IngredientRecord>,
    ) -> Self {
        Self {
            method: options.method,
            weights: options.weights.values().to_vec(),
            normalized: options.weights.normalization() == Normalization::SumToOne,
            mask,
            ingredients,
            selection: options.selection.clone(),
        }
    }

    /// Whether the ingredients are what the selection keeps, if there is one.
    pub(super) fn is_selection_sound(&self) -> bool {
        match &self.selection {
            Some(selection) => {
                self.method == Method::Greedy && selection.is_sound(&self.ingredients)
            }
            None => self.method != Method::Greedy,
        }
    }

    /// Keeps this record and so many generations of soups in all.
    fn forget_beyond(&mut self, generations: usize) {
        for ingredient in &mut self.ingredients {
            match &mut ingredient.soup {
                Some(soup) if generations > 1 => soup.forget_beyond(generations - 1),
                soup => *soup = None,
            }
        }
    }
}

impl IngredientRecord {
    /// The record of a checkpoint; what it says of its own origin is copied.
    pub(super) fn new(checkpoint: &Checkpoint, digest: Digest, files: Vec<FileDigest>) -> Self {
        let mut soup = Certificate::of(checkpoint)
            .ok()
            .map(|certificate| Box::new(certificate.soup));
        if let Some(soup) = &mut soup {
            soup.forget_beyond(MOST_GENERATIONS - 1);
        }
        let is_short = |soup: &SoupRecord| {
            serde_json::to_string(soup).is_ok_and(|text| text.len() <= LINEAGE_LIMIT)
        };
        Self {
            name: checkpoint.display_name(),
            digest,
            files,
            soup: soup.filter(|soup| is_short(soup)),
        }
    }
}

impl RecordedOptions {
    pub(super) fn new(
        options: &MergeOptions,
        mask_file: Option<Digest>,
        batch_norm_pooled: bool,
    ) -> Self {
        Self {
            on_mask_mismatch: options.rules.policy,
            strict: options.rules.strict,
            prunable: options.rules.prunable.texts(),
            dense: options.rules.dense.texts(),
            include: options.include.texts(),
            exclude: options.exclude.texts(),
            from_first: options.from_first.texts(),
            dtype: options.dtype.map(|dtype| dtype.name().to_owned()),
            on_integer_mismatch: options.integers,
            allow_non_finite: options.allow_non_finite,
            layout: options.layout,
            mask_file,
            batch_norm_pooled,
            adapters: options.adapters.map(AdapterRecord::open),
        }
    }

    /// Puts the recorded options in place of `options`' own.
    pub(super) fn restore(&self, options: &mut MergeOptions) {
        let patterns = |texts: &[String]| NamePatterns::new(texts).unwrap_or_default();
        options.rules.policy = self.on_mask_mismatch;
        options.rules.strict = self.strict;
        options.rules.prunable = patterns(&self.prunable);
        options.rules.dense = patterns(&self.dense);
        options.include = patterns(&self.include);
        options.exclude = patterns(&self.exclude);
        options.from_first = patterns(&self.from_first);
        options.dtype = self.dtype.as_deref().and_then(Dtype::from_name);
        options.integers = self.on_integer_mismatch;
        options.allow_non_finite = self.allow_non_finite;
        options.layout = self.layout;
        options.adapters = self.adapters.as_ref().map(|record| record.products);
    }
}
