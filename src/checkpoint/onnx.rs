//! ONNX models as checkpoints: initialisers are the tensors, files beside the model
//! further shards, and the graph is what models of one architecture have in common.

mod tensors;

use std::ops::Range;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::Content;
use crate::checkpoint::ContentError;
use crate::checkpoint::FileFormat;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::Shard;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::beside::open_beside;
use crate::checkpoint::directory::has_suffix;
use crate::checkpoint::map::ByteSource;
use crate::checkpoint::map::SourceError;
use crate::checkpoint::onnx::tensors::check_places;
use crate::checkpoint::onnx::tensors::push_tensors;
use crate::checkpoint::seal::SEAL_KEY;
use crate::checkpoint::seal::ShardSeal;
use crate::format::onnx::note::NOTE_KEY;
use crate::format::onnx::read::GraphDifference;
use crate::format::onnx::read::Model;
use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::ReadAt;
use crate::format::onnx::read::ReadError;
use crate::format::onnx::read::Scattered;
use crate::format::onnx::read::Values;
use crate::format::onnx::read::first_difference;
use crate::format::onnx::read::parse;
use crate::format::sniff::is_onnx;
use crate::tensor::bits::spread;

/// Ends of the names of models, whatever their first bytes are.
const SUFFIX: &str = ".onnx";

impl ReadAt for ByteSource {
    type Error = SourceError;

    fn len(&self) -> u64 {
        self.bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.read_into(offset, buffer)
    }
}

/// Whether a file is opened as a model.
pub(super) fn is_model(path: &Path, first_bytes: &[u8]) -> bool {
    has_suffix(path, SUFFIX) || is_onnx(first_bytes)
}

/// What is known of a model beside its tensors.
#[derive(Debug)]
pub(super) struct Graph {
    model: Model,
    /// Bytes without payloads that may be looked at.
    limit: u64,
    /// The seal that it bears.
    seal: Option<String>,
}

impl Checkpoint {
    /// Opens the model in `source`, and the files beside it that hold its elements.
    pub(super) fn open_model(
        path: &Path,
        source: ByteSource,
        options: &OpenOptions,
    ) -> Result<Self, CheckpointError> {
        let limit = options.header_limit;
        let parsed = parse(&source, limit);
        // What was read from pages that are gone says nothing about the file.
        source.check_fault()?;
        let mut model = parsed.map_err(|error| bad_model(path, error))?;
        // It is about how tensors are stored, which nobody above sees.
        model.metadata.remove(NOTE_KEY);
        let seal = model.metadata.remove(SEAL_KEY);
        let mut shards = vec![Shard {
            source,
            format: FileFormat::Onnx,
            metadata: std::mem::take(&mut model.metadata),
            seal: ShardSeal::Absent,
        }];
        let directory = path.parent().unwrap_or(Path::new(""));
        for location in &model.locations {
            let file = directory.join(location);
            shards.push(Shard {
                source: open_beside(path, &file, options.access)?,
                format: FileFormat::Onnx,
                metadata: Default::default(),
                seal: ShardSeal::Absent,
            });
        }
        let bytes = shards.iter().map(|shard| shard.source.bytes()).sum();
        let checked = model.check_proportion(bytes);
        checked.map_err(|error| bad_model(path, error.into()))?;
        let mut tensors = Vec::with_capacity(model.initializers.len());
        for initializer in &model.initializers {
            check_places(path, initializer, &shards)?;
            push_tensors(path, initializer, &shards, &mut tensors)?;
        }
        for shard in &shards {
            shard.source.check_fault()?;
        }
        let mut checkpoint = Self::new(shards, tensors);
        let mut pairs = checkpoint.tensors.windows(2);
        if let Some(pair) = pairs.find(|pair| pair[0].name == pair[1].name) {
            let tensor = pair[0].name.clone();
            let source = OnnxError::TensorTwice { tensor };
            return Err(bad_model(path, ReadError::Onnx(source)));
        }
        checkpoint.graph = Some(Box::new(Graph { model, limit, seal }));
        Ok(checkpoint)
    }

    /// The model, if this is one.
    pub fn model(&self) -> Option<&Model> {
        self.graph.as_deref().map(|graph| &graph.model)
    }

    /// The seal that the model bears, if it is one and does.
    pub(super) fn model_seal(&self) -> Option<&str> {
        self.graph.as_ref()?.seal.as_deref()
    }

    /// Where the graphs of two models first differ; `None` if they compute the same, or
    /// if neither has a graph.
    ///
    /// # Errors
    /// [`SourceError`] if a file cannot be read, or has changed since it was opened.
    pub fn graph_difference(&self, other: &Self) -> Result<Option<GraphDifference>, SourceError> {
        let (Some(own), Some(others)) = (&self.graph, &other.graph) else {
            return Ok(None);
        };
        let (first, second) = (&self.shards[0].source, &other.shards[0].source);
        let limit = own.limit.max(others.limit);
        let found = first_difference((first, &own.model), (second, &others.model), limit);
        first.check_fault()?;
        second.check_fault()?;
        found.map_err(|error| content_error(self, error))
    }

    /// The file of a model, or one beside it.
    pub(super) fn model_file(&self, location: Option<usize>) -> &ByteSource {
        &self.shards[location.map_or(0, |location| location + 1)].source
    }

    /// Elements that lie in no fixed places, into `scratch`.
    pub(super) fn read_fields(
        &self,
        values: &Values,
        begin: u64,
        count: u64,
        scratch: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        scratch.resize((count * values.dtype.bits() / 8) as usize, 0);
        let read = values.read(|location| self.model_file(location), begin, scratch);
        self.checked(read)
    }

    /// Elements of a tensor with a list of places, into `scratch`.
    pub(super) fn read_scattered(
        &self,
        scattered: &Scattered,
        begin: u64,
        count: u64,
        scratch: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let width = (scattered.dtype().bits() / 8) as usize;
        let mut words = Vec::new();
        let range = self.read_words(scattered, begin, count, &mut words)?;
        let file = |location| self.model_file(location);
        let mut values = vec![0; (range.end - range.start) as usize * width];
        self.checked(scattered.values().read(file, range.start, &mut values))?;
        scratch.resize(count as usize * width, 0);
        spread(scratch, &values, &words, width);
        Ok(())
    }

    /// The mask of such a tensor as one byte per element, into `scratch`.
    pub(super) fn read_scattered_mask(
        &self,
        scattered: &Scattered,
        begin: u64,
        count: u64,
        scratch: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let mut words = Vec::new();
        self.read_words(scattered, begin, count, &mut words)?;
        scratch.clear();
        scratch.extend((0..count as usize).map(|bit| (words[bit / 64] >> (bit % 64) & 1) as u8));
        Ok(())
    }

    /// Which of some elements have places in a list, as set bits of `words`; returns which
    /// of the values these are.
    fn read_words(
        &self,
        scattered: &Scattered,
        begin: u64,
        count: u64,
        words: &mut Vec<u64>,
    ) -> Result<Range<u64>, SourceError> {
        words.clear();
        words.resize(count.div_ceil(64) as usize, 0);
        let file = |location| self.model_file(location);
        self.checked(scattered.read_words(file, begin, words, count))
    }

    /// Which of some elements are stored in a tensor that leaves pruned ones out, as set
    /// bits of `words`, and how many are stored before them; `None` if all are stored.
    pub(super) fn retained(
        &self,
        tensor: &StoredTensor,
        begin: u64,
        count: u64,
        words: &mut Vec<u64>,
    ) -> Result<Option<u64>, SourceError> {
        match &tensor.content {
            Content::Values(compact) => {
                let mut scratch = Vec::new();
                let first = compact.rank(self, begin)?;
                compact.read_words(self, begin, count, words, &mut scratch)?;
                Ok(Some(first))
            }
            Content::Scattered(scattered) => {
                let range = self.read_words(scattered, begin, count, words)?;
                Ok(Some(range.start))
            }
            _ => Ok(None),
        }
    }

    /// What was found in a model, or the error for it.
    pub(super) fn model_error<T>(
        &self,
        found: Result<T, ReadError<SourceError>>,
    ) -> Result<T, SourceError> {
        self.checked(found)
    }

    /// What was read, unless a file has lost pages meanwhile.
    fn checked<T>(&self, read: Result<T, ReadError<SourceError>>) -> Result<T, SourceError> {
        for shard in &self.shards {
            shard.source.check_fault()?;
        }
        read.map_err(|error| content_error(self, error))
    }
}

fn bad_model(path: &Path, error: ReadError<SourceError>) -> CheckpointError {
    match error {
        ReadError::Source(error) => error.into(),
        ReadError::Onnx(source) => CheckpointError::Onnx {
            path: path.to_owned(),
            source,
        },
    }
}

fn content_error(checkpoint: &Checkpoint, error: ReadError<SourceError>) -> SourceError {
    match error {
        ReadError::Source(error) => error,
        ReadError::Onnx(source) => SourceError::Content {
            path: checkpoint.path.clone(),
            source: ContentError::Onnx(source),
        },
    }
}
