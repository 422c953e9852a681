//! A model again, with other elements in some of its initialisers.

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::DataTarget;
use crate::checkpoint::OutputError;
use crate::checkpoint::output::model::copy_pieces;
use crate::checkpoint::output::model::make_room;
use crate::checkpoint::output::publish_model;
use crate::checkpoint::refuse_named_input;
use crate::format::onnx::splice::Room;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::StagedFile;

/// A model under construction, in which some initialisers have no elements yet.
pub(crate) struct ReplacedModel<'a> {
    file: &'a StagedFile,
    data: Option<&'a StagedFile>,
    rooms: &'a [Room],
}

impl ReplacedModel<'_> {
    /// Writes elements of the initialiser that was the `nth` to be replaced, from an
    /// offset in bytes.
    pub(crate) fn write(&self, nth: usize, bytes: &[u8], begin: u64) -> Result<(), OutputError> {
        let (file, offset) = match (self.rooms[nth], self.data) {
            (Room::Data { offset }, Some(data)) => (data, offset),
            (Room::Model { offset } | Room::Data { offset }, _) => (self.file, offset),
        };
        Ok(file.write_at(bytes, offset + begin)?)
    }
}

/// Writes the model `template` to `path`, and has `fill` write the elements of the
/// initialisers `replaced`, which are ascending indices and stored dense. Returns the
/// bytes of the model and of the file beside it. A failure leaves nothing.
///
/// # Errors
/// [`OutputError`], and what `fill` says.
pub(crate) fn write_replaced<E: From<OutputError>>(
    template: &Checkpoint,
    path: &Path,
    replaced: &[usize],
    (existing, durability): (Existing, Durability),
    fill: impl FnOnce(&ReplacedModel<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let Some(model) = template.model() else {
        let (output, input) = (path.to_owned(), template.path().to_owned());
        return Err(OutputError::NoGraph { output, input }.into());
    };
    let is_replaced = |idx| replaced.binary_search(&idx).is_ok();
    let (splice, target, data) = make_room(path, template, model, is_replaced, existing)?;
    for path in data.iter().flat_map(DataTarget::paths) {
        let shards = template.shards().iter();
        refuse_named_input(path, shards.map(|shard| shard.source().path()))?;
    }
    let file =
        StagedFile::create(&target, splice.model_bytes, durability).map_err(OutputError::from)?;
    let staged_data = data
        .as_ref()
        .map(|data| StagedFile::create(data.target(), splice.data_bytes, durability))
        .transpose()
        .map_err(OutputError::from)?;
    copy_pieces(template, &splice, &file)?;
    fill(&ReplacedModel {
        file: &file,
        data: staged_data.as_ref(),
        rooms: &splice.rooms,
    })?;
    let beside = data.as_ref().zip(staged_data);
    publish_model(file, beside).map_err(OutputError::from)?;
    Ok(splice.model_bytes + splice.data_bytes)
}
