//! What a recipe is about: a network, images and a checkpoint that is given are looked up
//! once, before anything is trained.

mod error;

use std::path;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::map::SourceError;
use crate::cycle::recipe::Recipe;
use crate::cycle::work::ImagesRecord;
use crate::cycle::work::Measure;
use crate::format::regular;
use crate::graph::Description;
use crate::graph::Graph;
use crate::graph::Syntax;
use crate::tensor::Digest;
use crate::tensor::Digester;
use crate::train::card::Card;
use crate::train::card::Named;
use crate::train::card::Origin;
use crate::train::card::choose_data;
use crate::train::card::choose_model;
use crate::train::data;
use crate::train::data::DataSpec;
use crate::train::data::Dataset;
use crate::train::recipe::Pace;
use crate::train::recipe::Rates;
use crate::train::record::DataRecord;
use crate::train::record::ModelRecord;
use crate::train::record::Record;
use crate::train::record::digest_of;
use crate::train::schedule::Schedule;

pub use error::SceneError;
pub use error::Untold;

/// Bytes of a checkpoint that are digested at once.
const BLOCK_BYTES: u64 = 1 << 20;

/// Images that are classified at once when a network is measured.
const LARGEST_BATCH: usize = 256;
/// Copies of the weights that a training keeps at most: values, gradients, two moments, an
/// average, and a state.
const COPIES: u64 = 6;
/// Memory of a process that has read nothing yet, rounded up.
const BASE_BYTES: u64 = 64 << 20;

/// What a recipe is about.
#[derive(Debug)]
pub struct Scene {
    /// The network, if it is one that this program can compute.
    pub network: Option<Network>,
    /// The images, if this program reads them.
    pub images: Option<Images>,
    /// The checkpoint that is given in place of a pretraining.
    pub given: Option<Given>,
}

/// A network and how it is built again.
#[derive(Debug)]
pub struct Network {
    /// As data.
    pub graph: Graph,
    /// As a record.
    pub record: ModelRecord,
}

/// Images.
#[derive(Debug)]
pub struct Images {
    /// The data set.
    pub dataset: Dataset,
    /// What was asked for.
    pub spec: DataSpec,
    /// What is recorded of it.
    pub record: DataRecord,
    /// Digest of its test images and their labels.
    pub test_digest: Digest,
}

/// A checkpoint of the user's.
#[derive(Debug)]
pub struct Given {
    /// It.
    pub checkpoint: Checkpoint,
    /// Learning rates of the training that it came out of, if it says so.
    pub schedule: Option<Schedule>,
    /// Epochs of that training.
    pub epochs: Option<u64>,
}

impl Scene {
    /// Looks everything up that the recipe names.
    ///
    /// The network and the images may be unknown only if the user brings a trainer and a
    /// command that measures.
    ///
    /// # Errors
    /// [`SceneError`].
    pub fn new(recipe: &Recipe) -> Result<Self, SceneError> {
        let given = recipe.pretraining.checkpoint.as_deref();
        let given = given.map(Given::open).transpose()?;
        let card = match &given {
            None => None,
            Some(given) => Card::of(&given.checkpoint.metadata()).map_err(|source| {
                let path = given.checkpoint.path().to_owned();
                SceneError::Card { path, source }
            })?,
        };
        let is_foreign = recipe.trainer.is_some()
            && recipe.evaluation.command.is_some()
            && recipe.model.name.is_none()
            && recipe.data.name.is_none()
            && card.is_none();
        if is_foreign {
            return Ok(Self {
                network: None,
                images: None,
                given,
            });
        }
        let origin = match (&card, &given, &recipe.trainer) {
            (Some(card), _, _) => Origin::Told(card),
            // What somebody else trains is not ours to guess.
            (None, Some(_), _) | (None, None, Some(_)) => Origin::Silent,
            (None, None, None) => Origin::New,
        };
        let untold = || Untold::of(recipe, origin, given.as_ref());
        let images = images(recipe, origin).and_then(|images| images.ok_or_else(untold))?;
        let network = network(recipe, origin, &images.dataset);
        let network = network.and_then(|network| network.ok_or_else(untold))?;
        let (input, classes) = (images.dataset.image(), images.dataset.classes());
        if network.graph.input() != input || network.graph.classes() < classes {
            return Err(SceneError::Fit {
                model: network.graph.name.clone(),
                data: images.dataset.name.clone(),
            });
        }
        Ok(Self {
            network: Some(network),
            images: Some(images),
            given,
        })
    }

    /// About the memory that a job takes: images, the network's buffers at the largest
    /// batch, and weights with what an optimiser and an average remember; 0 if nothing is
    /// known.
    pub fn memory_bytes(&self, recipe: &Recipe) -> u64 {
        let (Some(network), Some(images)) = (&self.network, &self.images) else {
            return 0;
        };
        let dataset = &images.dataset;
        let pixels = dataset.train.pixels().len() + dataset.test.pixels().len();
        let trainings = [&recipe.pretraining.training, &recipe.retraining.training];
        let asked = trainings.map(|training| training.batch_size.unwrap_or(0));
        let most = dataset.train.len().max(LARGEST_BATCH);
        let batch_size = asked[0].max(asked[1]).clamp(LARGEST_BATCH, most);
        // Values and gradients of every node.
        let outputs = network.graph.nodes.iter();
        let activations: usize = outputs.map(|node| node.output.numel()).sum();
        let activations = 2 * 4 * (activations * batch_size) as u64;
        let weights = 4 * COPIES * network.graph.learned();
        BASE_BYTES + pixels as u64 + activations + weights
    }

    /// How models of the recipe are measured.
    pub fn measure(&self, recipe: &Recipe) -> Measure {
        Measure {
            model: self.network.as_ref().map(|network| network.record.clone()),
            images: self.images.as_ref().map(|images| ImagesRecord {
                name: images.spec.name.clone(),
                digest: images.record.digest,
                test_digest: images.test_digest,
                validation_fraction: recipe.data.validation,
                validation_seed: recipe.data.validation_seed,
            }),
            device: recipe.device,
            recalibration: recipe.recalibration,
            ood: recipe.evaluation.ood,
            command: recipe.evaluation.command.clone(),
            metric: recipe.evaluation.metric.clone(),
        }
    }
}

impl Untold {
    /// What a recipe has to name, because nothing else does.
    fn of(recipe: &Recipe, origin: Origin<'_>, given: Option<&Given>) -> SceneError {
        let needs_data = choose_data(recipe.data.name.as_deref(), origin).is_none();
        let needs_model = recipe.model.name.is_none() && origin.card().is_none();
        SceneError::Untold(Self {
            checkpoint: given.map(|given| given.checkpoint.path().to_owned()),
            needs_model,
            needs_data,
            has_trainer: recipe.trainer.is_some(),
        })
    }
}

impl Given {
    /// Where it is, as an absolute path, and the digest of its files.
    ///
    /// # Errors
    /// [`SceneError::Source`] if it cannot be read.
    pub fn identity(&self) -> Result<(PathBuf, Digest), SceneError> {
        let path = self.checkpoint.path();
        let absolute = path::absolute(path).map_err(|source| SceneError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok((absolute, digest_of_files(&self.checkpoint)?))
    }

    fn open(path: &Path) -> Result<Self, SceneError> {
        let checkpoint = Checkpoint::open(path, &OpenOptions::default())?;
        let record = Record::of(&checkpoint.metadata());
        let record = record.map_err(|source| SceneError::Record {
            path: path.to_owned(),
            source,
        })?;
        let schedule = record
            .as_ref()
            .and_then(|record| match &record.recipe.pace {
                Pace::Retraining { pretraining, .. } => Some(pretraining.clone()),
                Pace::Curve { .. } => match record.recipe.rates(record.steps_per_epoch) {
                    Ok(Rates::Schedule(schedule)) => Some(schedule),
                    _ => None,
                },
            });
        let epochs = schedule
            .as_ref()
            .zip(record)
            .and_then(|(schedule, record)| schedule.steps.checked_div(record.steps_per_epoch));
        Ok(Self {
            checkpoint,
            schedule,
            epochs,
        })
    }
}

/// The digest of a checkpoint's files.
///
/// # Errors
/// [`SourceError`] if they cannot be read, or changed meanwhile.
pub fn digest_of_files(checkpoint: &Checkpoint) -> Result<Digest, SourceError> {
    let mut digester = Digester::new();
    let mut scratch = Vec::new();
    for shard in checkpoint.shards() {
        let source = shard.source();
        let mut begin = 0;
        while begin < source.bytes() {
            let len = BLOCK_BYTES.min(source.bytes() - begin);
            digester.update(source.read(begin, len as usize, &mut scratch)?);
            source.release(begin, len);
            begin += len;
        }
    }
    checkpoint.check_unchanged()?;
    Ok(digester.finish())
}

/// `None` where nothing tells which images they are.
fn images(recipe: &Recipe, origin: Origin<'_>) -> Result<Option<Images>, SceneError> {
    let Some(name) = choose_data(recipe.data.name.as_deref(), origin) else {
        return Ok(None);
    };
    let spec = DataSpec {
        name,
        directory: recipe.data.directory.clone(),
    };
    let dataset = data::open(&spec)?;
    Ok(Some(Images {
        record: DataRecord::new(&dataset),
        test_digest: digest_of(&dataset.test),
        dataset,
        spec,
    }))
}

/// `None` where nothing tells which network it is.
fn network(
    recipe: &Recipe,
    origin: Origin<'_>,
    dataset: &Dataset,
) -> Result<Option<Network>, SceneError> {
    let (model, options) = (&recipe.model.name, &recipe.model.options);
    let path = model.as_deref().map(Path::new);
    let described = path.and_then(|path| Some((path, syntax(path)?)));
    let described = described.map(|(path, syntax)| describe(path, syntax, dataset));
    let described = described.transpose()?;
    let named = match (&described, model) {
        (Some(_), _) if !options.is_empty() => return Err(SceneError::Options),
        (Some(graph), _) => Some(Named::Described(graph)),
        (None, Some(name)) => Some(Named::Model(name)),
        (None, None) => None,
    };
    let Some(record) = choose_model(named, options.clone(), origin, dataset) else {
        return Ok(None);
    };
    let graph = record.graph()?;
    Ok(Some(Network { graph, record }))
}

/// How a file describes a network, by its extension; `None` for a name.
fn syntax(path: &Path) -> Option<Syntax> {
    match path.extension()?.to_str()? {
        "toml" => Some(Syntax::Toml),
        "json" => Some(Syntax::Json),
        _ => None,
    }
}

fn describe(path: &Path, syntax: Syntax, dataset: &Dataset) -> Result<Graph, SceneError> {
    let text =
        regular::read_text(path, regular::TEXT_LIMIT).map_err(|source| SceneError::Read {
            path: path.to_owned(),
            source,
        })?;
    Description::parse(&text, syntax)
        .and_then(|description| description.build(Some(dataset.image()), Some(dataset.classes())))
        .map_err(|source| SceneError::Description {
            path: path.to_owned(),
            source,
        })
}
