//! Tensors of a state dict, held against the storages that they look into.

use crate::format::torch::Places;
use crate::format::torch::SparseView;
use crate::format::torch::StateError;
use crate::format::torch::Storage;
use crate::format::torch::View;
use crate::format::torch::heap::Heap;
use crate::format::torch::heap::PlacesRef;
use crate::format::torch::heap::Span;
use crate::format::torch::heap::Value;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// Elements of a sparse tensor that may be stored in as few as it likes.
const LARGE: u64 = 1 << 24;
/// Elements of a larger one for each that is stored. A file of a few bytes must not stand
/// for a tensor that takes minutes to write.
const SPARSEST: u64 = 1 << 14;

/// A tensor, all of whose elements lie within its storage.
pub(super) fn view(
    heap: &Heap<'_>,
    name: &str,
    tensor: u32,
    storages: &[Storage],
) -> Result<View, StateError> {
    let tensor = heap.tensor(tensor);
    let storage = &storages[tensor.storage as usize];
    let strides = extents(heap, tensor.strides);
    let element_bytes = tensor.dtype.bits() / 8;
    let too_large = || StateError::TooLarge {
        tensor: name.to_owned(),
    };
    let shape = Shape::new(extents(heap, tensor.sizes)).ok_or_else(too_large)?;
    let bytes = storage.bytes().ok_or_else(too_large)?;
    let begin = tensor.offset.checked_mul(element_bytes);
    let begin = begin.ok_or_else(too_large)?;
    if shape.numel() > 0 {
        let last = shape
            .dims()
            .iter()
            .zip(&strides)
            .try_fold(tensor.offset, |last, (dim, stride)| {
                last.checked_add((dim - 1).checked_mul(*stride)?)
            });
        let end = last.and_then(|last| last.checked_add(1)?.checked_mul(element_bytes));
        if end.is_none_or(|end| end > bytes) {
            return Err(StateError::Bounds {
                tensor: name.to_owned(),
                bytes,
            });
        }
        let stored = bytes / element_bytes;
        if shape.numel() > stored {
            return Err(StateError::Expanded {
                tensor: name.to_owned(),
                numel: shape.numel(),
                stored,
            });
        }
    }
    Ok(View {
        name: name.to_owned(),
        dtype: tensor.dtype,
        // Nothing is read of an empty tensor, wherever it begins.
        begin: if shape.numel() == 0 { 0 } else { begin },
        shape,
        strides,
        storage: tensor.storage as usize,
    })
}

fn extents(heap: &Heap<'_>, span: Span) -> Vec<u64> {
    let items = heap.tuple(span).iter();
    let extents = items.filter_map(|item| match item {
        Value::Int(extent) => u64::try_from(*extent).ok(),
        _ => None,
    });
    extents.collect()
}

/// A sparse tensor whose parts have the types and shapes that go together.
pub(super) fn sparse_view(
    heap: &Heap<'_>,
    name: &str,
    tensor: u32,
    storages: &[Storage],
) -> Result<SparseView, StateError> {
    let tensor = heap.sparse(tensor);
    let wrong = |what| StateError::Sparse {
        tensor: name.to_owned(),
        what,
    };
    let shape = Shape::new(extents(heap, tensor.sizes));
    let shape = shape.ok_or_else(|| StateError::TooLarge {
        tensor: name.to_owned(),
    })?;
    let part = |part: &str, tensor| view(heap, &format!("{name}.{part}"), tensor, storages);
    let values = part("values", tensor.values)?;
    if values.shape.rank() != 1 {
        return Err(wrong(
            "stores whole rows for an index; write it with `.to_dense()`",
        ));
    }
    let count = values.shape.numel();
    let is_free = shape.numel() <= LARGE;
    if !is_free && shape.numel() / SPARSEST > count {
        return Err(wrong(
            "has more than 16,384 elements for each that is stored; write it with `.to_dense()`",
        ));
    }

    let is_index = |view: &View, dims: &[u64]| {
        matches!(view.dtype, Dtype::I64 | Dtype::I32) && view.shape.dims() == dims
    };
    let rank = shape.rank() as u64;
    let places = match tensor.places {
        PlacesRef::Coordinates(indices) => {
            let indices = part("indices", indices)?;
            if rank == 0 || !is_index(&indices, &[rank, count]) {
                return Err(wrong(
                    "has indices of another shape or type than its values",
                ));
            }
            Places::Coordinates(indices)
        }
        PlacesRef::Rows(rows, columns) => {
            let &[n_rows, _] = shape.dims() else {
                return Err(wrong("is a batch of matrices; write it with `.to_dense()`"));
            };
            let (rows, columns) = (part("crow_indices", rows)?, part("col_indices", columns)?);
            if !is_index(&rows, &[n_rows.saturating_add(1)]) || !is_index(&columns, &[count]) {
                return Err(wrong(
                    "has indices of another shape or type than its values",
                ));
            }
            Places::Rows(rows, columns)
        }
    };
    Ok(SparseView {
        name: name.to_owned(),
        shape,
        values,
        places,
    })
}
