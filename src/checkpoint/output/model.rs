//! A soup as a model: the graph of the first ingredient, byte for byte, with the soup's
//! elements in place of its own.
//!
//! Elements that lay in the model stay where they were, or nearly so; those that lay in
//! files beside it go into one new file. Of a sparse initialiser the retained elements
//! alone are written: its places stay.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::CERTIFICATE_KEY;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::ContentError;
use crate::checkpoint::Destination;
use crate::checkpoint::Ingredients;
use crate::checkpoint::OutputError;
use crate::checkpoint::RECALIBRATION_KEY;
use crate::checkpoint::SEAL_BYTES;
use crate::checkpoint::SEAL_KEY;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::directory::has_suffix;
use crate::checkpoint::map::SourceError;
use crate::checkpoint::output::DataTarget;
use crate::checkpoint::output::StagedOutput;
use crate::checkpoint::output::StagedShard;
use crate::checkpoint::output::publish_model;
use crate::checkpoint::output::refuse_input;
use crate::checkpoint::output::stem::Stem;
use crate::format::onnx::frame::frame_digest;
use crate::format::onnx::frame::values_of;
use crate::format::onnx::read::Model;
use crate::format::onnx::read::Place;
use crate::format::onnx::read::ReadAt;
use crate::format::onnx::read::ReadError;
use crate::format::onnx::read::Values;
use crate::format::onnx::read::parse;
use crate::format::onnx::splice::Piece;
use crate::format::onnx::splice::Room;
use crate::format::onnx::splice::Splice;
use crate::format::onnx::splice::splice;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::ReplaceError;
use crate::format::replace::StagedFile;
use crate::format::replace::Target;
use crate::format::safetensors::Layout;
use crate::tensor::bits::gather;

/// End of the name of a model.
const SUFFIX: &str = ".onnx";

/// Most bytes that are copied at once.
const BLOCK_BYTES: u64 = 1 << 20;

/// What is known of a model before it is written.
#[derive(Debug)]
pub(super) struct ModelOutput {
    splice: Splice,
    /// The file beside it, if it has one.
    data: Option<DataTarget>,
}

/// Whether an output of this name is a model.
fn is_model_name(path: &Path) -> bool {
    has_suffix(path, SUFFIX)
}

/// A model with room for other elements in the initialisers that `is_replaced` picks,
/// its target and that of the file beside it.
pub(in crate::checkpoint) fn make_room(
    path: &Path,
    template: &Checkpoint,
    model: &Model,
    is_replaced: impl Fn(usize) -> bool,
    existing: Existing,
) -> Result<(Splice, Target, Option<DataTarget>), OutputError> {
    let target = Target::for_file(path, existing)?;
    let is_external = |values: &&Values| matches!(values.place, Place::External { .. });
    let initializers = model.initializers.iter().enumerate();
    let replaced: Vec<&Values> = initializers
        .filter(|(idx, _)| is_replaced(*idx))
        .map(|(_, initializer)| values_of(&initializer.elements))
        .collect();
    let source = template.shards()[0].source();
    let dropped = [CERTIFICATE_KEY, RECALIBRATION_KEY, SEAL_KEY];
    let data = replaced
        .iter()
        .any(is_external)
        .then(|| DataTarget::beside(&target, existing))
        .transpose()?;
    let location = data.as_ref().map_or("", DataTarget::name);
    let spliced = splice(source, model, &replaced, &dropped, location);
    let splice = template.model_error(spliced)?;
    let data = data.filter(|_| splice.data_bytes > 0);
    Ok((splice, target, data))
}

/// Copies what stays of a model to a file under construction.
pub(in crate::checkpoint) fn copy_pieces(
    template: &Checkpoint,
    splice: &Splice,
    file: &StagedFile,
) -> Result<(), OutputError> {
    let source = template.shards()[0].source();
    let mut scratch = Vec::new();
    let mut at = 0;
    for piece in &splice.pieces {
        match piece {
            Piece::Hole(bytes) => at += bytes,
            Piece::Bytes(bytes) => {
                file.write_at(bytes, at)?;
                at += bytes.len() as u64;
            }
            Piece::Copy(range) => {
                let mut begin = range.start;
                while begin < range.end {
                    let count = BLOCK_BYTES.min(range.end - begin);
                    let block = source.read(begin, count as usize, &mut scratch)?;
                    file.write_at(block, at)?;
                    (begin, at) = (begin + count, at + count);
                }
            }
        }
    }
    Ok(source.check_fault()?)
}

impl Destination {
    /// Looks up where a soup goes. Its name says whether that is a model, with the graph
    /// of the first ingredient; otherwise as [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// [`OutputError::NoGraph`] and [`OutputError::ModelName`], and as for
    /// [`resolve`](Self::resolve).
    pub fn resolve_soup(
        path: &Path,
        ingredients: &Ingredients,
        shard_bytes: Option<u64>,
        existing: Existing,
        durability: Durability,
    ) -> Result<Self, OutputError> {
        if !is_model_name(path) {
            return Self::resolve(path, ingredients, shard_bytes, existing, durability);
        }
        let Some(template) = ingredients.checkpoints().first() else {
            return Self::resolve(path, ingredients, shard_bytes, existing, durability);
        };
        let Some(model) = template.model() else {
            return Err(OutputError::NoGraph {
                output: path.to_owned(),
                input: template.path().to_owned(),
            });
        };
        if shard_bytes.is_some() {
            return Err(OutputError::ShardsNeedDirectory {
                path: path.to_owned(),
            });
        }
        refuse_input(path, ingredients)?;
        let (splice, target, data) = make_room(path, template, model, |_| true, existing)?;
        for path in data.iter().flat_map(DataTarget::paths) {
            refuse_input(path, ingredients)?;
        }
        Ok(Self {
            path: path.to_owned(),
            target,
            is_directory: false,
            stem: Stem::default(),
            durability,
            model: Some(ModelOutput { splice, data }),
        })
    }

    /// The file beside a model that holds its elements.
    pub fn data_path(&self) -> Option<&Path> {
        let data = self.model.as_ref()?.data.as_ref()?;
        Some(data.target().path())
    }

    /// Bytes of a model and of the file beside it, without new metadata; `None` if the
    /// output is no model.
    pub(crate) fn model_bytes(&self) -> Option<u64> {
        let splice = &self.model.as_ref()?.splice;
        Some(splice.model_bytes + splice.data_bytes)
    }

    /// Stages the model that this destination is, has `fill` write the elements of the
    /// tensors of `layout` and `metadata_bytes` of metadata, and publishes it. A failure
    /// leaves nothing.
    ///
    /// The file beside it gets its name first, so that the model never names one that is
    /// not there.
    pub(crate) fn write_model<T, E: From<OutputError>>(
        &self,
        template: &Checkpoint,
        layout: &Layout,
        metadata_bytes: u64,
        fill: impl FnOnce(&StagedOutput<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let (Some(output), Some(model)) = (&self.model, template.model()) else {
            let (output, input) = (self.path.clone(), template.path().to_owned());
            return Err(OutputError::NoGraph { output, input }.into());
        };
        let ModelOutput { splice, data } = output;
        let bytes = splice.model_bytes + metadata_bytes;
        let file =
            StagedFile::create(&self.target, bytes, self.durability).map_err(OutputError::from)?;
        let staged_data = data
            .as_ref()
            .map(|data| StagedFile::create(data.target(), splice.data_bytes, self.durability))
            .transpose()
            .map_err(OutputError::from)?;
        copy_pieces(template, splice, &file)?;
        let headers = [metadata_bytes];
        let staged = StagedModel {
            file: &file,
            data: staged_data.as_ref(),
            model_bytes: splice.model_bytes,
            template,
            tensors: placed(template, model, splice, layout),
        };
        let output = StagedOutput {
            shards: vec![StagedShard::Model(staged)],
            headers: &headers,
        };
        let filled = fill(&output)?;
        drop(output);
        let beside = data.as_ref().zip(staged_data);
        publish_model(file, beside).map_err(OutputError::from)?;
        Ok(filled)
    }
}

/// Where the tensors of a layout go in a model.
fn placed<'a>(
    template: &'a Checkpoint,
    model: &Model,
    splice: &Splice,
    layout: &Layout,
) -> Vec<PlacedTensor<'a>> {
    let initializers = model.initializers.iter().zip(&splice.rooms);
    let rooms: HashMap<&str, Room> = initializers
        .map(|(initializer, room)| (initializer.name.as_str(), *room))
        .collect();
    let tensors = layout.tensors().iter().filter_map(|tensor| {
        Some(PlacedTensor {
            begin: tensor.begin,
            end: tensor.end,
            room: *rooms.get(tensor.name.as_str())?,
            stored: &template.tensors()[template.find(&tensor.name)?],
        })
    });
    tensors.collect()
}

/// A tensor of the soup, and where its elements go.
struct PlacedTensor<'a> {
    /// Where they begin in the data buffer that the soup would have as safetensors.
    begin: u64,
    /// Where they end there.
    end: u64,
    room: Room,
    /// The tensor of the first ingredient.
    stored: &'a StoredTensor,
}

/// A model under construction, and the file beside it.
pub(super) struct StagedModel<'a> {
    file: &'a StagedFile,
    data: Option<&'a StagedFile>,
    model_bytes: u64,
    template: &'a Checkpoint,
    tensors: Vec<PlacedTensor<'a>>,
}

impl ReadAt for StagedFile {
    type Error = ReplaceError;

    fn len(&self) -> u64 {
        self.bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReplaceError> {
        self.read_into(offset, buffer)
    }
}

impl StagedModel<'_> {
    /// Adds metadata at the end, of which the last is the seal, and seals the model.
    ///
    /// What is sealed is what a reader finds in the file, so both go by one definition.
    /// Elements may be written later: they are no part of it.
    pub(super) fn write_metadata(&self, bytes: &[u8]) -> Result<(), OutputError> {
        self.file.write_at(bytes, self.model_bytes)?;
        let parsed = parse(self.file, u64::MAX);
        let model = parsed.map_err(|error| match error {
            ReadError::Source(error) => OutputError::Replace(error),
            ReadError::Onnx(source) => OutputError::Template(SourceError::Content {
                path: self.template.path().to_owned(),
                source: ContentError::Onnx(source),
            }),
        })?;
        let file = |location: Option<usize>| match (location, self.data) {
            (Some(_), Some(data)) => data,
            _ => self.file,
        };
        let seal = frame_digest(&model, file, (SEAL_KEY, SEAL_BYTES))?.to_string();
        let end = self.model_bytes + bytes.len() as u64;
        Ok(self.file.write_at(seal.as_bytes(), end - SEAL_BYTES)?)
    }

    /// Writes elements, which may be of several tensors, from an offset in the data
    /// buffer. Called by all threads.
    pub(super) fn write_elements(
        &self,
        mut bytes: &[u8],
        mut offset: u64,
    ) -> Result<(), OutputError> {
        let first = self.tensors.partition_point(|tensor| tensor.end <= offset);
        for tensor in &self.tensors[first..] {
            if bytes.is_empty() {
                break;
            }
            let len = (tensor.end - offset).min(bytes.len() as u64);
            let (own, later) = bytes.split_at(len as usize);
            self.write_tensor(tensor, offset - tensor.begin, own)?;
            (bytes, offset) = (later, offset + len);
        }
        Ok(())
    }

    fn write_tensor(
        &self,
        tensor: &PlacedTensor<'_>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), OutputError> {
        let width = tensor.stored.dtype.bits() / 8;
        let (begin, count) = (offset / width, bytes.len() as u64 / width);
        let mut words = Vec::new();
        let first = self
            .template
            .retained(tensor.stored, begin, count, &mut words)?;
        let Some(first) = first else {
            return self.write_room(tensor.room, offset, bytes);
        };
        let width = width as usize;
        let is_retained = |element: usize| words[element / 64] >> (element % 64) & 1 == 1;
        let mut elements = bytes.chunks_exact(width).enumerate();
        if elements.any(|(idx, element)| !is_retained(idx) && element.iter().any(|&byte| byte != 0))
        {
            return Err(OutputError::OffMask {
                tensor: tensor.stored.name.clone(),
                template: PathBuf::from(self.template.path()),
            });
        }
        let n_values: u32 = words.iter().map(|word| word.count_ones()).sum();
        let mut values = vec![0; n_values as usize * width];
        gather(&mut values, bytes, &words, width);
        self.write_room(tensor.room, first * width as u64, &values)
    }

    fn write_room(&self, room: Room, begin: u64, bytes: &[u8]) -> Result<(), OutputError> {
        let (file, offset) = match (room, self.data) {
            (Room::Data { offset }, Some(data)) => (data, offset),
            (Room::Model { offset } | Room::Data { offset }, _) => (self.file, offset),
        };
        Ok(file.write_at(bytes, offset + begin)?)
    }
}
