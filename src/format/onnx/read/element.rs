//! Element types of ONNX, by number.

use crate::format::onnx::read::schema::tensor;
use crate::tensor::Dtype;

/// The element type of a number. Within, `None` for one that is neither averaged nor
/// compared element by element: text, 4 bits and less, two doubles.
///
/// Source: `TensorProto.DataType` of onnx 1.23.
pub(super) fn element_type(data_type: u64) -> Option<Option<Dtype>> {
    Some(Some(match data_type {
        1 => Dtype::F32,
        2 => Dtype::U8,
        3 => Dtype::I8,
        4 => Dtype::U16,
        5 => Dtype::I16,
        6 => Dtype::I32,
        7 => Dtype::I64,
        9 => Dtype::Bool,
        10 => Dtype::F16,
        11 => Dtype::F64,
        12 => Dtype::U32,
        13 => Dtype::U64,
        14 => Dtype::C64,
        16 => Dtype::BF16,
        17 => Dtype::F8E4M3,
        18 => Dtype::F8E4M3Fnuz,
        19 => Dtype::F8E5M2,
        20 => Dtype::F8E5M2Fnuz,
        24 => Dtype::F8E8M0,
        8 | 15 | 21..=23 | 25 | 26 => return Some(None),
        _ => return None,
    }))
}

/// The field that holds elements of a type, where they are not raw.
pub(super) fn field_of(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 | Dtype::C64 => tensor::FLOAT_DATA,
        Dtype::F64 => tensor::DOUBLE_DATA,
        Dtype::I64 => tensor::INT64_DATA,
        Dtype::U32 | Dtype::U64 => tensor::UINT64_DATA,
        _ => tensor::INT32_DATA,
    }
}
