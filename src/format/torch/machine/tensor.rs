//! Tensors and storages of a pickle, of what torch's functions are given.

use crate::format::torch::PickleError;
use crate::format::torch::Unread;
use crate::format::torch::global::Global;
use crate::format::torch::global::Layout;
use crate::format::torch::global::Rebuild;
use crate::format::torch::global::StorageType;
use crate::format::torch::heap::PlacesRef;
use crate::format::torch::heap::Span;
use crate::format::torch::heap::SparseRef;
use crate::format::torch::heap::StorageRef;
use crate::format::torch::heap::TensorRef;
use crate::format::torch::heap::Value;
use crate::format::torch::heap::What;
use crate::format::torch::machine::LONGEST_NAME;
use crate::format::torch::machine::Machine;
use crate::format::torch::machine::OUTSIDE;
use crate::tensor::Dtype;

/// Most dimensions of a tensor.
///
/// Source: `dim_bitset_size` of torch's `ATen/WrapDimUtilsMulti.h`.
const MOST_DIMS: u32 = 64;

/// The element type of a tensor, or why it is not read.
type Element<'a> = Result<Dtype, (&'a str, Unread)>;

impl<'a> Machine<'a> {
    /// A tensor that looks into a storage.
    pub(super) fn tensor(
        &mut self,
        function: Rebuild,
        span: Span,
    ) -> Result<Value<'a>, PickleError> {
        let wrong = PickleError::Call {
            function: function.name(),
            offset: self.offset,
        };
        let &[place, Value::Int(offset), sizes, strides, ref rest @ ..] = self.heap.tuple(span)
        else {
            return Err(wrong);
        };
        let (dtype, metadata) = match (function, rest) {
            (Rebuild::Tensor, []) | (Rebuild::TensorV2, [_, _]) => (None, None),
            (Rebuild::TensorV2, [_, _, metadata]) => (None, Some(*metadata)),
            (Rebuild::TensorV3, [_, _, dtype, rest @ ..]) => (Some(*dtype), rest.first().copied()),
            _ => return Err(wrong),
        };
        let Value::Storage(storage) = place else {
            // The storage is an object that is not known.
            return match place {
                Value::Opaque(_) => self.unread("Tensor", Unread::Other, span),
                _ => Err(wrong),
            };
        };

        let element: Element<'a> = match dtype {
            Some(Value::Global(Global::Dtype(dtype))) => Ok(dtype),
            Some(Value::Opaque(number)) => {
                let name = self.heap.opaque(number).name;
                let is_complex = name.starts_with("complex");
                let why = [Unread::Other, Unread::Complex][usize::from(is_complex)];
                Err((name, why))
            }
            Some(_) => return Err(wrong),
            None => match self.heap.storage(storage).storage_type {
                StorageType::Of(dtype) => Ok(dtype),
                StorageType::Foreign(of) => Err((of.name, of.why)),
                StorageType::Untyped => return Err(wrong),
            },
        };
        let has_metadata = match metadata {
            None | Some(Value::None) => false,
            Some(Value::Dict(dict)) => !self.heap.dict(dict).is_empty(),
            Some(_) => true,
        };

        let (Ok(offset), Value::Tuple(sizes), Value::Tuple(strides)) =
            (u64::try_from(offset), sizes, strides)
        else {
            return Err(wrong);
        };
        let is_shaped = sizes.len == strides.len && sizes.len <= MOST_DIMS;
        if !is_shaped || !self.are_extents(sizes) || !self.are_extents(strides) {
            return Err(wrong);
        }
        match element {
            Err((name, why)) => self.unread(name, why, span),
            Ok(_) if has_metadata => self.unread("Tensor", Unread::Negated, span),
            Ok(dtype) => self.heap.new_tensor(TensorRef {
                storage,
                dtype,
                offset,
                sizes,
                strides,
                has_attributes: false,
            }),
        }
    }

    /// Whether the items are whole numbers that are not negative.
    fn are_extents(&self, span: Span) -> bool {
        let mut items = self.heap.tuple(span).iter();
        items.all(|item| matches!(item, Value::Int(0..)))
    }

    /// A tensor that is not read, called `torch.NAME` in messages.
    fn unread(&mut self, name: &'a str, why: Unread, span: Span) -> Result<Value<'a>, PickleError> {
        let parts = [Value::Tuple(span)];
        self.heap
            .new_opaque(("torch", name), What::Tensor(why), &parts)
    }

    /// `(layout, (indices, values, sizes[, is_coalesced]))`, or with rows and columns in
    /// place of indices.
    pub(super) fn sparse(&mut self, span: Span) -> Result<Value<'a>, PickleError> {
        let wrong = PickleError::Call {
            function: Rebuild::Sparse.name(),
            offset: self.offset,
        };
        let &[Value::Global(Global::Layout(layout)), Value::Tuple(data)] = self.heap.tuple(span)
        else {
            return Err(wrong);
        };
        let data_items = self.heap.tuple(data);
        let has_unread = data_items
            .iter()
            .any(|item| matches!(item, Value::Opaque(_)));
        let (places, values, sizes) = match (layout, data_items) {
            (Layout::Other, _) => return self.unread("Tensor", Unread::Blocks, span),
            _ if has_unread => return self.unread("Tensor", Unread::Other, span),
            (
                Layout::Coo,
                &[
                    Value::Tensor(indices),
                    Value::Tensor(values),
                    Value::Tuple(sizes),
                    ..,
                ],
            ) => (PlacesRef::Coordinates(indices), values, sizes),
            (
                Layout::Csr,
                &[
                    Value::Tensor(rows),
                    Value::Tensor(columns),
                    Value::Tensor(values),
                    Value::Tuple(sizes),
                ],
            ) => (PlacesRef::Rows(rows, columns), values, sizes),
            _ => return Err(wrong),
        };
        if sizes.len > MOST_DIMS || !self.are_extents(sizes) {
            return Err(wrong);
        }
        self.heap.new_sparse(SparseRef {
            places,
            values,
            sizes,
            has_attributes: false,
        })
    }

    /// `('storage', class, key, location, length)`, in legacy files with a view after it.
    /// What else a program keeps outside a pickle is not known.
    pub(super) fn persistent_id(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let wrong = PickleError::Storage {
            offset: self.offset,
        };
        let items = match id {
            Value::Tuple(span) => self.heap.tuple(span),
            _ => &[],
        };
        let &[
            Value::Text("storage"),
            Value::Global(Global::Storage(storage_type)),
            ref rest @ ..,
        ] = items
        else {
            return self.opaque(OUTSIDE, What::Object, &[id]);
        };
        let (&[Value::Text(key), _, Value::Int(numel)]
        | &[Value::Text(key), _, Value::Int(numel), Value::None]) = rest
        else {
            return Err(wrong);
        };
        match u64::try_from(numel) {
            Ok(numel) if key.len() <= LONGEST_NAME => {
                let storage = self.heap.storage_of(StorageRef {
                    key,
                    storage_type,
                    numel,
                })?;
                self.push(storage)
            }
            _ => Err(wrong),
        }
    }
}
