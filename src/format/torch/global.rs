//! The names that mean something here: data, and what tensors are made of. Every other
//! name in a pickle is kept as a name and stands for nothing.

use crate::format::torch::Unread;
use crate::tensor::Dtype;

/// What a name in a pickle stands for. Nothing here runs: each is a shape that the
/// machine knows how to take apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// `dict`, `collections.OrderedDict` and `collections.Counter`: a dict.
    Dict,
    /// `collections.defaultdict`: a dict behind a function for missing keys.
    DefaultDict,
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
    /// `torch._tensor._rebuild_from_type_v2(function, type, arguments, state)`.
    FromType,
    /// A class of tensors of torch's own, which adds nothing to its elements.
    TensorClass,
    /// `torch.serialization._get_layout(name)`.
    GetLayout,
    /// Where the elements of a tensor are.
    Layout(Layout),
    /// Functions of `copyreg` that make an object of the class that they are given.
    Reconstruct,
    /// `_codecs.encode`, by which protocol 2 writes bytes.
    Encode,
}

/// Where the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// At regular distances.
    Strided,
    /// A list of coordinates.
    Coo,
    /// A list of columns for each row.
    Csr,
    /// Blocks, or a list of rows for each column.
    Other,
}

impl Layout {
    /// The layout of that name.
    pub(super) fn find(name: &str) -> Option<Self> {
        match name {
            "torch.strided" => Some(Self::Strided),
            "torch.sparse_coo" => Some(Self::Coo),
            "torch.sparse_csr" => Some(Self::Csr),
            "torch.sparse_csc" | "torch.sparse_bsr" | "torch.sparse_bsc" => Some(Self::Other),
            _ => None,
        }
    }
}

/// What a storage holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StorageType {
    /// Elements of one type, in which its length is counted.
    Of(Dtype),
    /// Bytes.
    Untyped,
    /// Elements of a type that safetensors does not have.
    Foreign(ForeignType),
}

/// An element type that safetensors does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForeignType {
    pub(super) name: &'static str,
    /// Bytes of what a storage's length counts.
    pub(super) bytes: u64,
    pub(super) why: Unread,
}

impl StorageType {
    /// Width of what the length counts.
    pub(super) fn element_bytes(self) -> u64 {
        match self {
            Self::Of(dtype) => dtype.bits() / 8,
            Self::Untyped => 1,
            Self::Foreign(of) => of.bytes,
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
    /// `_rebuild_sparse_tensor(layout, data)`.
    Sparse,
}

impl Rebuild {
    /// The name of the function.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tensor => "_rebuild_tensor",
            Self::TensorV2 => "_rebuild_tensor_v2",
            Self::TensorV3 => "_rebuild_tensor_v3",
            Self::Parameter => "_rebuild_parameter",
            Self::Sparse => "_rebuild_sparse_tensor",
        }
    }
}

impl Global {
    /// What a module's item stands for, or `None` if it is none of those known.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict" | "Counter") => Some(Self::Dict),
            ("builtins" | "__builtin__", "dict") => Some(Self::Dict),
            ("collections", "defaultdict") => Some(Self::DefaultDict),
            ("_codecs", "encode") => Some(Self::Encode),
            ("copyreg" | "copy_reg", "_reconstructor" | "__newobj__" | "__newobj_ex__") => {
                Some(Self::Reconstruct)
            }
            ("torch", "Size") => Some(Self::Size),
            ("torch", "device") => Some(Self::Device),
            ("torch" | "torch._tensor", "Tensor") => Some(Self::TensorClass),
            ("torch.nn.parameter", "Parameter" | "Buffer") => Some(Self::TensorClass),
            ("torch._tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => {
                Some(Self::FromType)
            }
            ("torch._utils", name) => Self::find_rebuild(name).map(Self::Rebuild),
            ("torch.serialization", "_get_layout") => Some(Self::GetLayout),
            ("torch" | "torch.storage", "UntypedStorage") => {
                Some(Self::Storage(StorageType::Untyped))
            }
            ("torch" | "torch.cuda", _) => Self::find_element(module, name),
            _ => None,
        }
    }

    fn find_rebuild(name: &str) -> Option<Rebuild> {
        match name {
            "_rebuild_tensor" => Some(Rebuild::Tensor),
            "_rebuild_tensor_v2" => Some(Rebuild::TensorV2),
            "_rebuild_tensor_v3" => Some(Rebuild::TensorV3),
            "_rebuild_parameter" | "_rebuild_parameter_with_state" => Some(Rebuild::Parameter),
            "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => Some(Rebuild::Sparse),
            _ => None,
        }
    }

    /// A class of storages, an element type, or a layout.
    fn find_element(module: &str, name: &str) -> Option<Self> {
        let named = |table: &[(&str, Dtype)]| {
            let found = table.iter().find(|(known, _)| *known == name);
            found.map(|&(_, dtype)| dtype)
        };
        let storage = named(STORAGES).map(StorageType::Of).or_else(|| {
            let found = FOREIGN_STORAGES.iter().find(|(known, _)| *known == name);
            found.map(|&(_, of)| StorageType::Foreign(of))
        });
        if let Some(storage) = storage {
            return Some(Self::Storage(storage));
        }
        let layout = || ["torch.", name].concat();
        match module {
            "torch" => named(DTYPES)
                .map(Self::Dtype)
                .or_else(|| Layout::find(&layout()).map(Self::Layout)),
            _ => None,
        }
    }
}

/// Classes of storages whose element type safetensors has.
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

/// The others. Their lengths are needed where storages lie one behind the other.
const FOREIGN_STORAGES: &[(&str, ForeignType)] = &[
    (
        "ComplexDoubleStorage",
        foreign("complex128", 16, Unread::Complex),
    ),
    ("QInt8Storage", foreign("qint8", 1, Unread::Quantised)),
    ("QUInt8Storage", foreign("quint8", 1, Unread::Quantised)),
    ("QInt32Storage", foreign("qint32", 4, Unread::Quantised)),
    ("QUInt4x2Storage", foreign("quint4x2", 1, Unread::Quantised)),
    ("QUInt2x4Storage", foreign("quint2x4", 1, Unread::Quantised)),
];

const fn foreign(name: &'static str, bytes: u64, why: Unread) -> ForeignType {
    ForeignType { name, bytes, why }
}

/// Why a tensor that an unknown class or function makes is not read.
pub(super) fn why_unread(module: &str, name: &str) -> Option<Unread> {
    let is_torch = module == "torch" || module.starts_with("torch.");
    match name {
        "DTensor" | "ShardedTensor" => Some(Unread::Shard),
        "_rebuild_qtensor" if is_torch => Some(Unread::Quantised),
        "_rebuild_meta_tensor_no_storage" if is_torch => Some(Unread::Meta),
        "UninitializedParameter" | "UninitializedBuffer" => Some(Unread::Meta),
        _ if is_torch && name.starts_with("_rebuild_") => Some(Unread::Other),
        _ => None,
    }
}

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
        check("torch", "sparse_coo", Some(Global::Layout(Layout::Coo)));
        check("torch.cuda", "sparse_coo", None);
        let complex = Global::find("torch", "ComplexDoubleStorage");
        assert!(matches!(
            complex,
            Some(Global::Storage(StorageType::Foreign(of))) if of.bytes == 16
        ));
        check("torch", "OrderedDict", None);
        check("torch", "load", None);
        check("os", "system", None);
        check("builtins", "eval", None);
        check("torch.serialization", "load", None);
        check("torch._utils", "_rebuild_qtensor", None);
        check(
            "torch._utils",
            "_rebuild_sparse_tensor",
            Some(Global::Rebuild(Rebuild::Sparse)),
        );
        check("numpy.core.multiarray", "_reconstruct", None);
    }
}
