//! The tensors that the initialisers of a model stand for.

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::Compact;
use crate::checkpoint::Content;
use crate::checkpoint::Convention;
use crate::checkpoint::Extent;
use crate::checkpoint::MaskOf;
use crate::checkpoint::Shard;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::onnx::bad_model;
use crate::format::compact::CompactKind;
use crate::format::onnx::read::Elements;
use crate::format::onnx::read::Initializer;
use crate::format::onnx::read::OnnxError;
use crate::format::onnx::read::Place;
use crate::format::onnx::read::ReadError;
use crate::format::onnx::read::Scattered;
use crate::format::onnx::read::Values;
use crate::tensor::Dtype;

/// The tensor messages of an initialiser.
fn parts(elements: &Elements) -> impl Iterator<Item = &Values> {
    let (first, second) = match elements {
        Elements::Dense(values) => (values, None),
        Elements::Sparse { values, places, .. } => (values, Some(places)),
        Elements::Bitmask { values, bitmask } => (values, Some(bitmask)),
        Elements::Gaps { values, gaps } => (values, Some(gaps)),
    };
    std::iter::once(first).chain(second)
}

/// Checks that what lies in other files lies within them.
pub(super) fn check_places(
    path: &Path,
    initializer: &Initializer,
    shards: &[Shard],
) -> Result<(), CheckpointError> {
    for values in parts(&initializer.elements) {
        let Place::External { location, offset } = values.place else {
            continue;
        };
        let source = &shards[location + 1].source;
        let end = offset + values.bytes();
        if end > source.bytes() {
            return Err(CheckpointError::ExternalData {
                path: path.to_owned(),
                tensor: initializer.name.clone(),
                file: source.path().to_owned(),
                expected: end,
                found: source.bytes(),
            });
        }
    }
    Ok(())
}

/// Adds the tensors that an initialiser stands for: one, or its values and its mask.
pub(super) fn push_tensors(
    path: &Path,
    initializer: &Initializer,
    shards: &[Shard],
    tensors: &mut Vec<StoredTensor>,
) -> Result<(), CheckpointError> {
    let Initializer {
        name, dtype, shape, ..
    } = initializer;
    let place_of = |values: &Values| match values.place {
        Place::Model { offset } => (0, offset),
        Place::External { location, offset } => (location + 1, offset),
        Place::Fields { .. } => (0, values.message.content.start),
    };
    let tensor = |name: String, dtype: Dtype, values: &Values, content, mask_of| {
        let (shard, offset) = place_of(values);
        StoredTensor {
            name,
            dtype,
            shape: shape.clone(),
            shard,
            offset,
            bytes: dtype.byte_len(shape.numel()).unwrap_or(u64::MAX),
            content,
            mask_of,
        }
    };
    let mask_of = || {
        Some(MaskOf {
            tensor: name.clone(),
            convention: Convention::Compact(CompactKind::Bitmask),
        })
    };
    let file = |location: Option<usize>| &shards[location.map_or(0, |place| place + 1)].source;
    let mask_name = format!("{name}.bitmask");
    let mut push_pair = |values: &Values, places: &Values, contents: [Content; 2]| {
        let [content, mask] = contents;
        tensors.push(tensor(name.clone(), *dtype, values, content, None));
        tensors.push(tensor(
            mask_name.clone(),
            Dtype::Bool,
            places,
            mask,
            mask_of(),
        ));
    };
    match &initializer.elements {
        Elements::Dense(values) => {
            let content = match values.place {
                Place::Fields { .. } => Content::Fields(Arc::new(values.clone())),
                _ => Content::Plain,
            };
            tensors.push(tensor(name.clone(), *dtype, values, content, None));
        }
        Elements::Bitmask { values, bitmask } => {
            let extent = |values: &Values| {
                let (shard, begin) = place_of(values);
                let end = begin + values.bytes();
                Extent { shard, begin, end }
            };
            let is_fixed = |values: &Values| !matches!(values.place, Place::Fields { .. });
            if !is_fixed(values) || !is_fixed(bitmask) {
                let tensor = name.clone();
                let what = "is encoded, and its values or bitmask are not raw";
                let error = OnnxError::Sparse { tensor, what };
                return Err(bad_model(path, ReadError::Onnx(error)));
            }
            let compact = Arc::new(Compact::of_bitmask(
                (name.clone(), mask_name.clone()),
                (*dtype, shape.numel(), values.count),
                extent(values),
                extent(bitmask),
            ));
            let contents = [Content::Values(compact.clone()), Content::Mask(compact)];
            push_pair(values, bitmask, contents);
        }
        Elements::Sparse { values, places, .. }
        | Elements::Gaps {
            values,
            gaps: places,
        } => {
            let scattered = Scattered::new(initializer, file);
            let scattered = scattered.map_err(|error| bad_model(path, error))?;
            if let Some(scattered) = scattered.map(Arc::new) {
                let contents = [
                    Content::Scattered(scattered.clone()),
                    Content::ScatteredMask(scattered),
                ];
                push_pair(values, places, contents);
            }
        }
    }
    Ok(())
}
