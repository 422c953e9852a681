//! What a checkpoint holds and what it says of that: digest and certificate.

use crate::tensor::Digest;
use crate::tensor::Digester;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// Key of a soup's certificate in `__metadata__`; its value is one JSON object.
pub const CERTIFICATE_KEY: &str = "sms_merge";

/// Key in `__metadata__` of how batch norm's statistics were estimated again; its value
/// is one JSON object. What makes another checkpoint of it drops it: it is not true of
/// that one.
pub const RECALIBRATION_KEY: &str = "sms_recalibration";

/// Digest of a checkpoint's content, however it is cut into files: of the name,
/// element type, rank, dimensions and content digest of each tensor, sorted by name.
pub(crate) fn checkpoint_digest<'t>(
    tensors: impl Iterator<Item = (&'t str, Dtype, &'t Shape, Digest)>,
) -> Digest {
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_unstable_by_key(|&(name, ..)| name);
    let mut digester = Digester::new();
    for (name, dtype, shape, digest) in tensors {
        digester.push_text(name);
        digester.push_text(dtype.name());
        digester.update(&(shape.rank() as u64).to_le_bytes());
        shape
            .dims()
            .iter()
            .for_each(|dim| digester.update(&dim.to_le_bytes()));
        digester.push(digest);
    }
    digester.finish()
}
