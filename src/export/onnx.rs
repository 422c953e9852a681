//! A graph and the checkpoint of its weights walk in, an ONNX model walks out.
//!
//! All weights are read twice: once to count what masks retain, which settles every
//! length and offset, and once to write. Between the two nothing of a large tensor is
//! held. A weight is computed with in single precision, whatever type it is stored in.
//!
//! Batches of any size: the first dimension of input and output is `batch`. The number
//! of batches that a batch norm has seen is left out: nothing computes with it.

mod assembly;
mod bits;
mod census;
mod decode;
mod elements;
mod error;
mod fold;
mod lower;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use error::OnnxError;

use crate::checkpoint::DataTarget;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::checkpoint::publish_model;
use crate::connectivity::Rules;
use crate::format::onnx::note::NOTE_KEY;
use crate::format::onnx::write::FileLayout;
use crate::format::onnx::write::MOST_BYTES;
use crate::format::onnx::write::Model;
use crate::format::replace::Durability;
use crate::format::replace::StagedFile;
use crate::format::replace::Target;
use crate::graph::Graph;

use assembly::Lowered;
use census::Planned;
use fold::Folds;

/// Version of the operators: the first that has `BitwiseAnd`.
pub const OPSET: u64 = 18;

/// Version of the file format, that of the first onnx release with [`OPSET`].
pub const IR_VERSION: u64 = 8;

/// How the weights that a mask prunes are stored. All others are stored as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// With their zeros.
    #[default]
    Dense,
    /// Retained values, and one bit per element; nodes of the graph decode them.
    Bitmask,
    /// Retained values, and about one byte for the distance to each; nodes of the graph
    /// decode them.
    Delta,
    /// As `SparseTensorProto`: retained values, and eight bytes for the place of each.
    SparseInitializer,
}

impl Encoding {
    /// Every encoding.
    pub const ALL: [Self; 4] = [
        Self::Dense,
        Self::Bitmask,
        Self::Delta,
        Self::SparseInitializer,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Bitmask => "bitmask",
            Self::Delta => "delta",
            Self::SparseInitializer => "sparse-initializer",
        }
    }
}

/// What becomes of batch norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchNorms {
    /// It stays.
    #[default]
    Keep,
    /// Where it follows a convolution or linear layer that nothing else follows, that
    /// layer's weights are scaled and it is gone. They are scaled in f64, rounded once
    /// and stored in F32, whatever type they had.
    Fold,
}

/// What the model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// What the last layer gives, called `logits`.
    #[default]
    Logits,
    /// The softmax of that, called `probabilities`.
    Probabilities,
}

/// Where the elements of parameters are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Payloads {
    /// In the model's file, which then has at most 2 GiB.
    #[default]
    Inside,
    /// Where they are: in the checkpoint, which must stay beside or below `directory`,
    /// the one that the model's file is in.
    Checkpoint {
        /// The directory.
        directory: PathBuf,
    },
    /// In a second file beside the model's.
    File {
        /// Its name.
        name: String,
    },
}

/// How a model is exported.
#[derive(Clone, Debug, Default)]
pub struct OnnxOptions {
    /// How pruned weights are stored.
    pub encoding: Encoding,
    /// What becomes of batch norm.
    pub batch_norms: BatchNorms,
    /// What the model computes.
    pub output: Output,
    /// Where weights are stored.
    pub payloads: Payloads,
    /// Which tensors are pruned.
    pub rules: Rules,
    /// Free text by key that the file keeps.
    pub metadata: BTreeMap<String, String>,
}

/// An ONNX model that is known but for the elements of its tensors.
#[derive(Debug)]
pub struct OnnxExport<'a> {
    ingredients: &'a Ingredients,
    planned: Vec<Option<Planned<'a>>>,
    folds: Folds,
    sizes: [(Encoding, u64); 4],
    lowered: Lowered,
    layout: FileLayout,
    n_batch_norms: usize,
}

impl<'a> OnnxExport<'a> {
    /// Reads all weights once, and lays the model out.
    ///
    /// Takes one checkpoint, with a mask file if one is given. A mask that is stored or
    /// given decides what is retained, else the zeros of a weight do if they are more
    /// than 0.1 % of it.
    ///
    /// # Errors
    /// [`OnnxError`]: the checkpoint is not one of `graph`, a mask is none, a batch norm
    /// cannot be folded, or the file would be too large or cannot refer to the
    /// checkpoint.
    pub fn plan(
        graph: &Graph,
        ingredients: &'a Ingredients,
        options: &OnnxOptions,
        observer: Observer<'_>,
    ) -> Result<Self, OnnxError> {
        if options.payloads != Payloads::Inside {
            refuse_outside(options)?;
        }
        let mut planned = census::locate(graph, ingredients, &options.rules)?;
        if options.encoding == Encoding::Dense && options.batch_norms == BatchNorms::Keep {
            // Nothing need be read to know how much this takes.
            let lowered = lower::lower(graph, &planned, &Folds::default(), options)?;
            refuse_large(&model(&lowered, &options.metadata).layout())?;
        }
        census::count(&mut planned, observer)?;
        check_unchanged(ingredients)?;
        let folds = match options.batch_norms {
            BatchNorms::Keep => Folds::default(),
            BatchNorms::Fold => fold::fold(graph, &mut planned, observer)?,
        };
        let laid_out = |encoding, payloads: &Payloads| {
            let options = OnnxOptions {
                encoding,
                payloads: payloads.clone(),
                ..options.clone()
            };
            let lowered = lower::lower(graph, &planned, &folds, &options)?;
            let layout = model(&lowered, &options.metadata).layout();
            Ok::<_, OnnxError>((lowered, layout))
        };
        let mut sizes = [(Encoding::Dense, 0); 4];
        for (size, encoding) in sizes.iter_mut().zip(Encoding::ALL) {
            *size = (encoding, laid_out(encoding, &Payloads::Inside)?.1.bytes);
        }
        let (lowered, layout) = laid_out(options.encoding, &options.payloads)?;
        refuse_large(&layout)?;
        Ok(Self {
            ingredients,
            n_batch_norms: lowered.n_batch_norms,
            planned,
            folds,
            sizes,
            lowered,
            layout,
        })
    }

    /// Bytes that a file with all weights inside takes in each encoding.
    pub fn sizes(&self) -> &[(Encoding, u64); 4] {
        &self.sizes
    }

    /// Batch norms that were folded into another layer.
    pub fn folded_batch_norms(&self) -> usize {
        self.folds.len()
    }

    /// Batch norms that are left.
    pub fn kept_batch_norms(&self) -> usize {
        self.n_batch_norms
    }

    /// Elements of weights that masks prune, and of those weights.
    pub fn pruned(&self) -> (u64, u64) {
        let pruned = self.planned.iter().flatten();
        let pruned = pruned.filter(|planned| planned.found.is_pruned);
        pruned.fold((0, 0), |(gone, all), planned| {
            let numel = planned.source.numel();
            (gone + numel - planned.found.retained, all + numel)
        })
    }

    /// Writes the model to `target`, and its weights to `data` if
    /// [`Payloads::File`] asked for that; `data` is published first. Returns the bytes
    /// written.
    ///
    /// # Errors
    /// [`OnnxError`]; then neither place has changed, unless what failed came after
    /// publishing.
    ///
    /// # Panics
    /// If [`Payloads::File`] was asked for and `data` is not given.
    pub fn write(
        &self,
        target: &Target,
        data: Option<&DataTarget>,
        durability: Durability,
        observer: Observer<'_>,
    ) -> Result<u64, OnnxError> {
        let data_bytes = self.lowered.data_bytes;
        let beside = match (data_bytes, data) {
            (0, _) => None,
            (_, data) => {
                let data = data.expect("a second file has a place");
                Some(StagedFile::create(data.target(), data_bytes, durability)?)
            }
        };
        let file = StagedFile::create(target, self.layout.bytes, durability)?;
        for (offset, bytes) in &self.layout.chunks {
            file.write_at(bytes, *offset)?;
        }
        let places = self.lowered.places(&self.layout);
        stream::write(
            &self.planned,
            &self.lowered.payloads,
            &places,
            &file,
            beside.as_ref(),
            observer,
        )?;
        check_unchanged(self.ingredients)?;
        publish_model(file, data.zip(beside))?;
        Ok(self.layout.bytes + data_bytes)
    }
}

/// Refuses what cannot be stored outside of the model's file.
fn refuse_outside(options: &OnnxOptions) -> Result<(), OnnxError> {
    let encoding = options.encoding;
    let is_checkpoint = matches!(options.payloads, Payloads::Checkpoint { .. });
    match encoding {
        Encoding::SparseInitializer => Err(OnnxError::SparseOutside),
        Encoding::Bitmask | Encoding::Delta if is_checkpoint => {
            Err(OnnxError::EncodedOutside { encoding })
        }
        _ => Ok(()),
    }
}

/// Refuses a file that protobuf could not read.
fn refuse_large(layout: &FileLayout) -> Result<(), OnnxError> {
    match layout.bytes {
        found if found > MOST_BYTES => Err(OnnxError::TooLarge { found }),
        _ => Ok(()),
    }
}

fn model(lowered: &Lowered, metadata: &BTreeMap<String, String>) -> Model {
    let mut metadata = metadata.clone();
    let note =
        serde_json::to_string(&lowered.note).expect("strings, numbers and lists have a JSON form");
    metadata.insert(NOTE_KEY.to_owned(), note);
    Model {
        ir_version: IR_VERSION,
        opset: OPSET,
        producer: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: lowered.graph.clone(),
        metadata,
    }
}

/// Checks that no file has changed since it was opened.
fn check_unchanged(ingredients: &Ingredients) -> Result<(), OnnxError> {
    let checkpoints = ingredients.checkpoints().iter();
    for checkpoint in checkpoints.chain(ingredients.mask_file()) {
        checkpoint.check_unchanged()?;
    }
    Ok(())
}
