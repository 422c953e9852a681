//! How an export ends.

use sms_merge::export::onnx::OnnxError;
use sms_merge::format::replace::Failure;

use crate::cli::exit::Exit;

/// The status that an error of an export ends the run with.
pub(super) fn of_onnx(error: &OnnxError) -> Exit {
    match error {
        OnnxError::Source(_) => Exit::Io,
        OnnxError::Output(error) if error.kind() == Failure::Refused => Exit::Usage,
        OnnxError::Output(_) => Exit::Io,
        OnnxError::TooLarge { .. }
        | OnnxError::SparseOutside
        | OnnxError::EncodedOutside { .. }
        | OnnxError::NotInCheckpoint { .. }
        | OnnxError::NotBeside { .. }
        | OnnxError::Unreferable { .. } => Exit::Usage,
        OnnxError::Interrupted => Exit::Interrupted,
        _ => Exit::Incompatible,
    }
}
