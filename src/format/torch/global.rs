//! The names that a pickle may use: data, and what tensors are made of.

use crate::tensor::Dtype;

/// What a name in a pickle stands for. Nothing here runs: each is a shape that the
/// machine knows how to take apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict` and `collections.Counter`: a dict.
    Dict,
    /// `torch.Size`: a tuple.
    Size,
    /// `torch.device`: where a tensor was, which decides nothing.
    Device,
    /// The class of a storage.
    Storage(StorageType),
    /// An element type.
    Dtype(Dtype),
    /// A function that makes a tensor.
    Rebuild(Rebuild),
}

/// What a storage holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StorageType {
    /// Elements of one type, in which its length is counted.
    Of(Dtype),
    /// Bytes.
    Untyped,
}

impl StorageType {
    /// Width of what the length counts.
    pub(super) fn element_bytes(self) -> u64 {
        match self {
            Self::Of(dtype) => dtype.bits() / 8,
            Self::Untyped => 1,
        }
    }
}

/// Functions of `torch._utils` that make a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rebuild {
    /// `_rebuild_tensor(storage, offset, size, stride)`, before torch 0.4.
    Tensor,
    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`.
    TensorV2,
    /// `_rebuild_tensor_v3(.., hooks, dtype[, metadata])`, of untyped storages.
    TensorV3,
    /// `_rebuild_parameter(tensor, requires_grad, hooks)`, and with a state after these.
    Parameter,
}

impl Rebuild {
    /// The name of the function.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tensor => "_rebuild_tensor",
            Self::TensorV2 => "_rebuild_tensor_v2",
            Self::TensorV3 => "_rebuild_tensor_v3",
            Self::Parameter => "_rebuild_parameter",
        }
    }
}

impl Global {
    /// What a module's item stands for, or `None` if it is none of those known.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict" | "Counter") => Some(Self::Dict),
            ("torch", "Size") => Some(Self::Size),
            ("torch", "device") => Some(Self::Device),
            ("torch._utils", "_rebuild_tensor") => Some(Self::Rebuild(Rebuild::Tensor)),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::Rebuild(Rebuild::TensorV2)),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::Rebuild(Rebuild::TensorV3)),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Some(Self::Rebuild(Rebuild::Parameter))
            }
            ("torch" | "torch.storage", "UntypedStorage") => {
                Some(Self::Storage(StorageType::Untyped))
            }
            ("torch" | "torch.cuda", _) => {
                let named = |table: &[(&str, Dtype)]| {
                    let found = table.iter().find(|(known, _)| *known == name);
                    found.map(|&(_, dtype)| dtype)
                };
                let storage = || Some(Self::Storage(StorageType::Of(named(STORAGES)?)));
                let dtype = || Some(Self::Dtype(named(DTYPES).filter(|_| module == "torch")?));
                storage().or_else(dtype)
            }
            _ => None,
        }
    }
}

/// Classes of storages. `ComplexDoubleStorage` and the quantised ones have no element
/// type in safetensors.
const STORAGES: &[(&str, Dtype)] = &[
    ("FloatStorage", Dtype::F32),
    ("DoubleStorage", Dtype::F64),
    ("HalfStorage", Dtype::F16),
    ("BFloat16Storage", Dtype::BF16),
    ("LongStorage", Dtype::I64),
    ("IntStorage", Dtype::I32),
    ("ShortStorage", Dtype::I16),
    ("CharStorage", Dtype::I8),
    ("ByteStorage", Dtype::U8),
    ("BoolStorage", Dtype::Bool),
    ("ComplexFloatStorage", Dtype::C64),
];

/// Element types under the names that torch pickles.
const DTYPES: &[(&str, Dtype)] = &[
    ("float32", Dtype::F32),
    ("float64", Dtype::F64),
    ("float16", Dtype::F16),
    ("bfloat16", Dtype::BF16),
    ("int64", Dtype::I64),
    ("int32", Dtype::I32),
    ("int16", Dtype::I16),
    ("int8", Dtype::I8),
    ("uint8", Dtype::U8),
    ("uint16", Dtype::U16),
    ("uint32", Dtype::U32),
    ("uint64", Dtype::U64),
    ("bool", Dtype::Bool),
    ("complex64", Dtype::C64),
    ("float8_e4m3fn", Dtype::F8E4M3),
    ("float8_e5m2", Dtype::F8E5M2),
    ("float8_e4m3fnuz", Dtype::F8E4M3Fnuz),
    ("float8_e5m2fnuz", Dtype::F8E5M2Fnuz),
    ("float8_e8m0fnu", Dtype::F8E8M0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_by_module_and_item_together() {
        let check = |module, name, expected| {
            assert_eq!(Global::find(module, name), expected, "{module}.{name}");
        };
        let storage = |dtype| Some(Global::Storage(StorageType::Of(dtype)));
        check("collections", "OrderedDict", Some(Global::Dict));
        check("torch", "BFloat16Storage", storage(Dtype::BF16));
        check("torch.cuda", "HalfStorage", storage(Dtype::F16));
        check("torch", "float8_e5m2", Some(Global::Dtype(Dtype::F8E5M2)));
        check("torch.cuda", "float32", None);
        check("torch", "ComplexDoubleStorage", None);
        check("torch", "QInt8Storage", None);
        check("torch", "OrderedDict", None);
        check("torch", "load", None);
        check("os", "system", None);
        check("builtins", "eval", None);
        check("torch.serialization", "load", None);
        check("torch._utils", "_rebuild_sparse_tensor", None);
        check("numpy.core.multiarray", "_reconstruct", None);
    }
}
