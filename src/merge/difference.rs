//! What a verification finds.

use std::path::PathBuf;

use crate::format::onnx::read::GraphDifference;
use std::collections::BTreeMap;

use crate::checkpoint::Checkpoint;
use crate::tensor::Digest;
use crate::tensor::Dtype;
use crate::tensor::Shape;

/// In what a soup differs from what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// An element has other bits than the ingredients give.
    Element {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        shape: Shape,
        /// Row-major index of the element.
        index: u64,
    },
    /// The soup lacks a tensor, or has it with another type or shape.
    Missing {
        /// The tensor.
        tensor: String,
    },
    /// The soup has a tensor that it should not have.
    Extra {
        /// The tensor.
        tensor: String,
    },
    /// An ingredient is not the one that the certificate names.
    Ingredient {
        /// Its position, from 0.
        position: usize,
        /// Its name in the certificate.
        name: String,
        /// The file that was given for it.
        path: PathBuf,
        /// Its digest in the certificate.
        recorded: Digest,
        /// Its digest now.
        found: Digest,
    },
    /// There are other ingredients than the certificate names.
    IngredientCount {
        /// Number in the certificate.
        recorded: usize,
        /// Number given.
        found: usize,
    },
    /// The mask file is not the one that the certificate names.
    MaskFile,
    /// A tensor's bytes are not those that were written.
    Content {
        /// The tensor.
        tensor: String,
    },
    /// A tensor's non-zero elements are not those of its mask.
    Mask {
        /// The tensor.
        tensor: String,
        /// Non-zero elements that the certificate allows for.
        expected: u64,
        /// Non-zero elements that it has.
        found: u64,
    },
    /// What the certificate says of a tensor is not what the ingredients give.
    Record {
        /// The tensor.
        tensor: String,
    },
    /// What a file says beside the elements of its tensors is not what was written: the
    /// certificate, other metadata, the graph of a model, the index of shards.
    Seal {
        /// The file.
        file: PathBuf,
    },
    /// Metadata is not what the ingredients give.
    Metadata {
        /// Its key.
        key: String,
    },
    /// The graph of a model is not that of its first ingredient.
    Graph {
        /// Where they first differ.
        place: GraphDifference,
    },
    /// The certificate contradicts itself.
    Certificate {
        /// What does not fit.
        what: &'static str,
    },
}

/// Tensors that a soup lacks, or has with another type or shape, or should not have.
pub(super) fn layout_differences(
    soup: &Checkpoint,
    expected: &BTreeMap<&str, (Dtype, &Shape)>,
) -> Vec<Difference> {
    let lacks = |(name, (dtype, shape)): &(&&str, &(Dtype, &Shape))| {
        let found = soup.find(name).map(|index| &soup.tensors()[index]);
        !found.is_some_and(|found| found.dtype == *dtype && found.shape == **shape)
    };
    let missing = expected
        .iter()
        .filter(lacks)
        .map(|(name, _)| Difference::Missing {
            tensor: (*name).to_owned(),
        });
    let extra = soup
        .weights()
        .filter(|tensor| !expected.contains_key(tensor.name.as_str()))
        .map(|tensor| Difference::Extra {
            tensor: tensor.name.clone(),
        });
    missing.chain(extra).collect()
}
