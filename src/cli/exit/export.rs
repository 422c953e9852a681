//! How an export ends.

use sms_merge::export::onnx::OnnxError;
use sms_merge::export::template::TemplateError;

use crate::cli::exit::Exit;
use crate::cli::exit::of_output;
use crate::cli::exit::of_replace;
use crate::cli::exit::of_source;

/// The status that an error of an export ends the run with.
pub(super) fn of_onnx(error: &OnnxError) -> Exit {
    match error {
        OnnxError::Source(_) => Exit::Io,
        OnnxError::Output(error) => of_replace(error),
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

/// The status that an error of a template ends the run with.
pub(super) fn of_template(error: &TemplateError) -> Exit {
    match error {
        TemplateError::Source(error) => of_source(error),
        TemplateError::Output(error) => of_output(error),
        TemplateError::Interrupted => Exit::Interrupted,
        _ => Exit::Incompatible,
    }
}
