//! Names of safetensors files: an output that is called like something else would be
//! taken for that.

use std::path::Path;

use super::OutputError;
use crate::checkpoint::directory::has_suffix;

/// Endings of other formats, and what they are of.
const OTHERS: [(&[&str], &str); 2] = [
    (&[".onnx"], "an ONNX model"),
    (&[".pt", ".pth", ".bin", ".ckpt"], "a checkpoint of torch"),
];

/// Refuses a name for a safetensors file that means something else.
///
/// # Errors
/// [`OutputError::OtherFormat`], and [`OutputError::Stream`] for `-`.
pub fn refuse_other_name(path: &Path) -> Result<(), OutputError> {
    if path.as_os_str() == "-" {
        return Err(OutputError::Stream);
    }
    let is_named = |endings: &[&str]| endings.iter().any(|ending| has_suffix(path, ending));
    match OTHERS.iter().find(|(endings, _)| is_named(endings)) {
        None => Ok(()),
        Some(&(_, format)) => Err(OutputError::OtherFormat {
            path: path.to_owned(),
            format,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_formats_are_refused() {
        for name in ["a.st", "a.safetensors", "a", "pt", "-a", "./-", "a.pt.st"] {
            assert!(refuse_other_name(Path::new(name)).is_ok(), "{name}");
        }
        for name in ["a.pt", "b/a.pth", "pytorch_model.bin", "a.ckpt"] {
            let error = refuse_other_name(Path::new(name)).unwrap_err().to_string();
            assert!(error.contains("like a checkpoint of torch"), "{error}");
        }
        let error = refuse_other_name(Path::new("a.onnx")).unwrap_err();
        assert!(error.to_string().contains("like an ONNX model"), "{error}");
        let error = refuse_other_name(Path::new("-")).unwrap_err();
        assert!(error.to_string().contains("standard output"), "{error}");
    }
}
