//! The user's own model with a soup's weights: a template and the checkpoint that it was
//! exported from walk in, and the template with other weights walks out.
//!
//! Exporters fold, transpose and rename, and may keep the name of a weight that they
//! changed. So an initialiser is replaced only if its bytes are those of a tensor of
//! the source, or of its transpose; what that tensor is called in the source it is
//! called in the soup. Bytes are held against each other by digests of 128 bits.
//! Whatever is left over is refused, unless it is named as a constant of the graph.

mod elements;
mod error;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::checkpoint::StoredTensor;
use crate::checkpoint::write_replaced;
use crate::connectivity::NamePatterns;
use crate::format::onnx::read::Elements;
use crate::format::onnx::read::Initializer;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::tensor::Arithmetic;
use crate::tensor::Digest;
use crate::tensor::Dtype;
use crate::tensor::Shape;

use elements::Order;
use elements::Reader;

pub use error::TemplateError;

/// Where the elements of an initialiser come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Index of the initialiser in the template's model.
    index: usize,
    /// Name of the initialiser.
    pub initializer: String,
    /// Name of the tensor, in the source and in the soup.
    pub tensor: String,
    order: Order,
}

impl Replacement {
    /// Whether the tensor is transposed in the template.
    pub fn is_transposed(&self) -> bool {
        self.order == Order::Transposed
    }
}

/// What is replaced in a template, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filling {
    /// The initialisers that are replaced, in the order of the template.
    pub replaced: Vec<Replacement>,
    /// Names of initialisers with floating-point elements that stay.
    pub kept: Vec<String>,
}

/// What tells a tensor by its bytes.
type Content = (Dtype, Vec<u64>, Digest);

/// Finds what of `template` is replaced by the tensors of `soup`, whose names are those
/// of the tensors of `sources`. `keep` names initialisers that are constants of the
/// graph, and tensors of the sources that it does not have.
///
/// # Errors
/// [`TemplateError`] names the first initialiser or tensor that is left over, and what
/// to do.
pub fn match_template(
    soup: &Ingredients,
    template: &Checkpoint,
    sources: &[Checkpoint],
    keep: &NamePatterns,
    observer: Observer<'_>,
) -> Result<Filling, TemplateError> {
    let Some(model) = template.model() else {
        return Err(TemplateError::NotAModel {
            path: template.path().to_owned(),
        });
    };
    let weights: Vec<(usize, &Initializer)> = model
        .initializers
        .iter()
        .enumerate()
        .filter(|(_, initializer)| initializer.dtype.arithmetic() == Arithmetic::Average)
        .collect();
    let wanted: BTreeSet<(&str, &[u64])> = weights
        .iter()
        .map(|(_, initializer)| (initializer.dtype.name(), initializer.shape.dims()))
        .collect();
    let mut known: BTreeMap<Content, BTreeSet<(&str, Order)>> = BTreeMap::new();
    for source in sources {
        for tensor in floats(source) {
            for &order in Order::of(&tensor.shape) {
                let dims = order.dims(&tensor.shape);
                if wanted.contains(&(tensor.dtype.name(), dims.as_slice())) {
                    let digest = Reader::new(source, tensor, None, observer).digest(order)?;
                    let names = known.entry((tensor.dtype, dims, digest)).or_default();
                    names.insert((&tensor.name, order));
                }
            }
        }
    }
    let mut filling = Filling::default();
    let mut used = BTreeSet::new();
    let mut alike = Vec::new();
    for (index, initializer) in weights {
        let name = initializer.name.as_str();
        if !matches!(initializer.elements, Elements::Dense(_)) && !keep.matches(name) {
            return Err(TemplateError::Sparse {
                path: template.path().to_owned(),
                initializer: name.to_owned(),
            });
        }
        let stored = template.find(name).map(|at| &template.tensors()[at]);
        let candidates = match stored {
            Some(stored) => {
                let digest = Reader::new(template, stored, None, observer).digest(Order::Same)?;
                let dims = initializer.shape.dims().to_vec();
                known.get(&(initializer.dtype, dims, digest))
            }
            None => None,
        };
        let Some(candidates) = candidates else {
            // A scalar is a constant of the graph: no layer has a weight of one element
            // that an exporter could change.
            if initializer.shape.numel() > 1 && !keep.matches(name) {
                return Err(TemplateError::Unknown {
                    path: template.path().to_owned(),
                    initializer: name.to_owned(),
                });
            }
            filling.kept.push(name.to_owned());
            continue;
        };
        used.extend(candidates.iter().map(|(tensor, _)| *tensor));
        let (tensor, order) = choose(soup, name, candidates, observer)?;
        alike.push((name, (tensor, order), candidates));
        check_soup(soup, tensor, initializer, order)?;
        filling.replaced.push(Replacement {
            index,
            initializer: name.to_owned(),
            tensor: tensor.to_owned(),
            order,
        });
    }
    check_shared(soup, &alike, keep, observer)?;
    let mut left = sources
        .iter()
        .flat_map(|source| floats(source).map(move |tensor| (source, tensor)))
        .filter(|(_, tensor)| !used.contains(tensor.name.as_str()) && !keep.matches(&tensor.name));
    match left.next() {
        None => Ok(filling),
        Some((source, tensor)) => Err(TemplateError::Unused {
            path: source.path().to_owned(),
            tensor: tensor.name.clone(),
        }),
    }
}

/// Tensors with elements that are averaged.
fn floats(checkpoint: &Checkpoint) -> impl Iterator<Item = &StoredTensor> {
    let tensors = checkpoint.weights();
    tensors.filter(|tensor| tensor.dtype.arithmetic() == Arithmetic::Average)
}

/// Which of several tensors with the same bytes an initialiser is: the one of its name,
/// or any if the soup has the same bytes for all.
fn choose<'n>(
    soup: &Ingredients,
    initializer: &str,
    candidates: &BTreeSet<(&'n str, Order)>,
    observer: Observer<'_>,
) -> Result<(&'n str, Order), TemplateError> {
    let mut named = candidates.iter().filter(|(name, _)| *name == initializer);
    let found = named.next().or_else(|| candidates.first());
    let Some(&found) = found else {
        return Err(TemplateError::NotInSoup {
            tensor: initializer.to_owned(),
        });
    };
    if candidates.len() == 1 || (found.0 == initializer && named.next().is_none()) {
        return Ok(found);
    }
    let first = digest(soup, found, observer)?;
    for &other in candidates {
        if digest(soup, other, observer)? != first {
            return Err(TemplateError::Ambiguous {
                initializer: initializer.to_owned(),
                first: found.0.to_owned(),
                other: other.0.to_owned(),
            });
        }
    }
    Ok(found)
}

/// Refuses an initialiser that stands for several tensors, as exporters make one of those
/// with the same bytes, if the soup has different bytes for them.
fn check_shared(
    soup: &Ingredients,
    alike: &[(&str, (&str, Order), &BTreeSet<(&str, Order)>)],
    keep: &NamePatterns,
    observer: Observer<'_>,
) -> Result<(), TemplateError> {
    let placed: BTreeSet<&str> = alike.iter().map(|(_, found, _)| found.0).collect();
    for &(initializer, found, candidates) in alike {
        let others = candidates.iter();
        for &other in others.filter(|(name, _)| !placed.contains(name) && !keep.matches(name)) {
            if digest(soup, other, observer)? != digest(soup, found, observer)? {
                return Err(TemplateError::Ambiguous {
                    initializer: initializer.to_owned(),
                    first: found.0.to_owned(),
                    other: other.0.to_owned(),
                });
            }
        }
    }
    Ok(())
}

fn digest(
    soup: &Ingredients,
    (name, order): (&str, Order),
    observer: Observer<'_>,
) -> Result<Digest, TemplateError> {
    match parameter(soup, name) {
        Some(reader) => reader(observer).digest(order),
        None => Err(TemplateError::NotInSoup {
            tensor: name.to_owned(),
        }),
    }
}

/// What reads a tensor of the soup, its mask applied.
fn parameter<'a>(soup: &'a Ingredients, name: &str) -> Option<impl Fn(Observer<'a>) -> Reader<'a>> {
    let parameters = soup.parameters();
    let at = parameters
        .binary_search_by(|parameter| parameter.name.as_str().cmp(name))
        .ok()?;
    let parameter = &parameters[at];
    let (values, mask) = (soup.value(parameter, 0), soup.stored_mask(parameter, 0));
    let checkpoint = &soup.checkpoints()[0];
    Some(move |observer| Reader::new(checkpoint, values, mask, observer))
}

/// Checks that the soup has elements of the right type and number for an initialiser.
fn check_soup(
    soup: &Ingredients,
    tensor: &str,
    initializer: &Initializer,
    order: Order,
) -> Result<(), TemplateError> {
    let mut parameters = soup.parameters().iter();
    let Some(parameter) = parameters.find(|parameter| parameter.name == tensor) else {
        return Err(TemplateError::NotInSoup {
            tensor: tensor.to_owned(),
        });
    };
    let dtype = soup.value(parameter, 0).dtype;
    let dims = order.dims(&parameter.shape);
    if dtype == initializer.dtype && dims == initializer.shape.dims() {
        return Ok(());
    }
    Err(TemplateError::Other {
        tensor: tensor.to_owned(),
        expected: (initializer.dtype, Box::new(undo(&initializer.shape, order))),
        found: (dtype, Box::new(parameter.shape.clone())),
    })
}

/// The shape of a tensor that has this one in an order.
fn undo(shape: &Shape, order: Order) -> Shape {
    Shape::new(order.dims(shape)).unwrap_or_else(|| shape.clone())
}

/// Writes `template` to `path` with the elements that `filling` says, and returns the
/// bytes of the model and of the file beside it.
///
/// # Errors
/// [`TemplateError`]; then the place holds what it held.
pub fn fill_template(
    soup: &Ingredients,
    template: &Checkpoint,
    filling: &Filling,
    path: &Path,
    (existing, durability): (Existing, Durability),
    observer: Observer<'_>,
) -> Result<u64, TemplateError> {
    let replaced: Vec<usize> = filling
        .replaced
        .iter()
        .map(|replacement| replacement.index)
        .collect();
    write_replaced(template, path, &replaced, (existing, durability), |model| {
        for (nth, replacement) in filling.replaced.iter().enumerate() {
            let tensor = || replacement.tensor.clone();
            let reader = parameter(soup, &replacement.tensor)
                .ok_or_else(|| TemplateError::NotInSoup { tensor: tensor() })?;
            reader(observer).blocks(replacement.order, |bytes, begin| {
                Ok(model.write(nth, bytes, begin)?)
            })?;
        }
        soup.checkpoints()[0].check_unchanged()?;
        template.check_unchanged()?;
        if observer.interrupted.load(Ordering::Relaxed) {
            return Err(TemplateError::Interrupted);
        }
        Ok(())
    })
}
