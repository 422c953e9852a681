//! The models that ship with the program: a name, an input and options walk in, a
//! [`Graph`] walks out. Names and layouts of the parameters are torch's.

mod convnet;
mod error;
mod lenet;
mod mlp;
mod options;
mod residual;
mod resnet;
mod resnet18;
mod vgg;
mod wideresnet;

pub use error::ModelError;

use options::Options;

use super::Features;
use super::Graph;

use std::collections::BTreeMap;

/// Which model, for which images and classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// One of the names of [`MODELS`].
    pub name: String,
    /// Shape of one image.
    pub input: Features,
    /// Number of classes, at least 2.
    pub classes: usize,
    /// Values of options by name, such as `hidden` = `300,100`. What is not named has
    /// its default.
    pub options: BTreeMap<String, String>,
}

impl ModelSpec {
    /// A model with the defaults of its options.
    pub fn new(name: &str, input: Features, classes: usize) -> Self {
        Self {
            name: name.to_owned(),
            input,
            classes,
            options: BTreeMap::new(),
        }
    }
}

/// An option of a model.
#[derive(Clone, Copy, Debug)]
pub struct ModelOption {
    /// Its name.
    pub name: &'static str,
    /// Its value where none is given.
    pub default: &'static str,
    /// What it changes.
    pub about: &'static str,
}

/// A model that ships with the program.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Its name.
    pub name: &'static str,
    /// What it is and where it comes from.
    pub about: &'static str,
    /// Shape of the images that it was made for.
    pub input: Features,
    /// What may be chosen.
    pub options: &'static [ModelOption],
    build: fn(&ModelSpec, &Options<'_>) -> Result<Graph, ModelError>,
}

/// Images of MNIST and Fashion-MNIST.
const GREY: Features = Features {
    channels: 1,
    height: 28,
    width: 28,
};

/// Images of CIFAR.
const COLOUR: Features = Features {
    channels: 3,
    height: 32,
    width: 32,
};

/// Images of ImageNet.
const IMAGENET: Features = Features {
    channels: 3,
    height: 224,
    width: 224,
};

/// All models.
pub const MODELS: &[Model] = &[
    Model {
        name: "mlp",
        about: "fully connected layers with ReLU; the default widths are LeNet-300-100 \
                (LeCun et al., 1998)",
        input: GREY,
        options: &[ModelOption {
            name: "hidden",
            default: "300,100",
            about: "widths of the hidden layers, `none` for a linear model",
        }],
        build: mlp::build,
    },
    Model {
        name: "lenet5",
        about: "LeNet-5 (LeCun et al., 1998) as it is written today: ReLU, max-pooling, \
                full connections between the convolutions",
        input: GREY,
        options: &[],
        build: lenet::build,
    },
    Model {
        name: "convnet",
        about: "3x3 convolutions, each with batch norm, ReLU and 2x2 max-pooling, and one \
                linear layer",
        input: GREY,
        options: &[ModelOption {
            name: "widths",
            default: "32,64,128",
            about: "channels of the convolutions; the map is halved behind each",
        }],
        build: convnet::build,
    },
    Model {
        name: "resnet8",
        about: "residual network for CIFAR (He et al., arXiv:1512.03385) with 1 block per stage",
        input: COLOUR,
        options: resnet::OPTIONS,
        build: |spec, options| resnet::build(spec, options, 1),
    },
    Model {
        name: "resnet20",
        about: "residual network for CIFAR (He et al., arXiv:1512.03385) with 3 blocks per stage",
        input: COLOUR,
        options: resnet::OPTIONS,
        build: |spec, options| resnet::build(spec, options, 3),
    },
    Model {
        name: "resnet56",
        about: "residual network for CIFAR (He et al., arXiv:1512.03385) with 9 blocks per stage",
        input: COLOUR,
        options: resnet::OPTIONS,
        build: |spec, options| resnet::build(spec, options, 9),
    },
    Model {
        name: "resnet18",
        about: "ResNet-18 (He et al., arXiv:1512.03385) with torchvision's names",
        input: IMAGENET,
        options: resnet18::OPTIONS,
        build: resnet18::build,
    },
    Model {
        name: "vgg16-bn",
        about: "VGG-16 (Simonyan and Zisserman, arXiv:1409.1556) with batch norm and one \
                linear layer",
        input: COLOUR,
        options: vgg::OPTIONS,
        build: vgg::build,
    },
    Model {
        name: "wideresnet20",
        about: "WideResNet (Zagoruyko and Komodakis, arXiv:1605.07146) with 3 blocks per \
                stage, as the authors of Sparse Model Soups trained it",
        input: COLOUR,
        options: wideresnet::OPTIONS,
        build: wideresnet::build,
    },
];

/// The model called `name`, or `None`.
pub fn find(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

/// The graph of a model.
///
/// # Errors
/// [`ModelError`]: an unknown name or option, a value out of its range, an image that
/// is too small for the architecture.
pub fn build(spec: &ModelSpec) -> Result<Graph, ModelError> {
    let model = find(&spec.name).ok_or_else(|| ModelError::unknown_model(&spec.name))?;
    let options = Options::new(model, &spec.options)?;
    (model.build)(spec, &options)
}

#[cfg(test)]
mod tests;
