//! How good checkpoints are: what a step says of measuring walks in, scores walk out.

mod error;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::OpenOptions;
use crate::checkpoint::rewrite;
use crate::cycle::findings::Model;
use crate::cycle::findings::Scores;
use crate::cycle::findings::Shifted;
use crate::cycle::recalibrated::Observation;
use crate::cycle::recalibrated::RecalibrationRecord;
use crate::cycle::work::Measure;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::format::replace::Target;
use crate::graph::Graph;
use crate::tensor::DeviceKind;
use crate::tensor::DeviceName;
use crate::train::Weights;
use crate::train::card;
use crate::train::card::Card;
use crate::train::compute::Compute;
use crate::train::data;
use crate::train::data::Assembler;
use crate::train::data::Corruption;
use crate::train::data::DataSpec;
use crate::train::data::Dataset;
use crate::train::data::Samples;
use crate::train::data::Severity;
use crate::train::data::Split;
use crate::train::data::corrupted;
use crate::train::data::epoch_order;
use crate::train::engine::Engine;
use crate::train::engine::EngineError;
use crate::train::engine::Masks;
use crate::train::evaluate::Evaluation;
use crate::train::evaluate::Predictions;
use crate::train::evaluate::predict;
use crate::train::masks::masks_of_zeros;
use crate::train::recalibrate::Recalibration;
use crate::train::recalibrate::has_statistics;
use crate::train::recalibrate::recalibrate;
use crate::train::recalibrate::stored_statistics;
use crate::train::record::DataRecord;
use crate::train::record::digest_of;

pub use error::MeasureError;

/// Images that are classified at once.
const BATCH: usize = 256;
/// Names the order of the images that statistics are estimated from, and corruptions.
const SEED: u64 = 0;

/// Measures checkpoints of one network on one data set.
pub struct Gauge<'a> {
    measure: &'a Measure,
    graph: Graph,
    dataset: Dataset,
    record: DataRecord,
    split: Split,
    compute: Compute,
    interrupted: &'a AtomicBool,
}

/// A network in an engine.
pub struct Loaded {
    path: PathBuf,
    engine: Box<dyn Engine>,
}

impl<'a> Gauge<'a> {
    /// Reads images, builds the network and opens the device, which is the first of its kind
    /// that this process may use; `None` if the network is none that this program can
    /// compute. `directory` is where the images are.
    ///
    /// # Errors
    /// [`MeasureError::OtherImages`], [`MeasureError::Data`], [`MeasureError::Network`],
    /// [`MeasureError::Device`].
    pub fn open(
        measure: &'a Measure,
        directory: Option<&Path>,
        threads: usize,
        interrupted: &'a AtomicBool,
    ) -> Result<Option<Self>, MeasureError> {
        let (Some(model), Some(images)) = (&measure.model, &measure.images) else {
            return Ok(None);
        };
        let dataset = data::open(&DataSpec {
            name: images.name.clone(),
            directory: directory.map(Path::to_owned),
        })?;
        let record = DataRecord::new(&dataset);
        let is_other = record.digest != images.digest;
        if is_other || digest_of(&dataset.test) != images.test_digest {
            return Err(MeasureError::OtherImages {
                name: images.name.clone(),
            });
        }
        let (fraction, seed) = (images.validation_fraction, images.validation_seed);
        let device = match measure.device {
            DeviceKind::Cpu => DeviceName::Cpu,
            DeviceKind::Cuda => DeviceName::Cuda(None),
        };
        Ok(Some(Self {
            measure,
            graph: model.graph()?,
            split: Split::of(dataset.train.len(), fraction, seed)?,
            record,
            dataset,
            compute: Compute::open(device, threads)?,
            interrupted,
        }))
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The images.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// What is recorded of them.
    pub fn record(&self) -> &DataRecord {
        &self.record
    }

    /// What checkpoints of this network say of themselves.
    pub fn card(&self) -> Option<Card> {
        let images = self.measure.images.as_ref()?;
        Some(Card {
            format_version: card::FORMAT_VERSION,
            model: self.measure.model.clone()?,
            data: self.record.clone(),
            validation_fraction: images.validation_fraction,
            validation_seed: images.validation_seed,
        })
    }

    /// The network with the weights of a checkpoint; its zeros are its masks.
    ///
    /// # Errors
    /// [`MeasureError`] if the checkpoint does not hold the network.
    pub fn load(&self, path: &Path) -> Result<Loaded, MeasureError> {
        let checkpoint = Checkpoint::open(path, &OpenOptions::default())?;
        let weights = Weights::read(&self.graph, &checkpoint)?;
        let masks = masks_of_zeros(&self.graph, &weights);
        Ok(Loaded {
            path: path.to_owned(),
            engine: self.engine(&weights, masks)?,
        })
    }

    /// An engine with these weights.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn engine(&self, weights: &Weights, masks: Masks) -> Result<Box<dyn Engine>, EngineError> {
        self.compute.engine(self.graph.clone(), weights, masks)
    }

    /// What computes, as records name it.
    pub fn engine_name(&self) -> &'static str {
        self.compute.name()
    }

    /// Estimates the statistics of a network's batch norm again; `None` of a network that
    /// has none, which stays as it is.
    ///
    /// # Errors
    /// [`MeasureError::Recalibrate`], [`MeasureError::Interrupted`].
    pub fn recalibrate(
        &self,
        path: &Path,
        engine: &mut dyn Engine,
    ) -> Result<Option<RecalibrationRecord<'_>>, MeasureError> {
        if !has_statistics(&self.graph) {
            return Ok(None);
        }
        let asked = self.measure.recalibration;
        let mut order = epoch_order(SEED, 0, &self.split.train);
        order.truncate(asked.images.unwrap_or(usize::MAX));
        let assembler = Assembler::new(&self.dataset.train, &self.dataset.normalisation);
        let batch_size = asked.batch_size.min(order.len());
        let nothing = &|_| {};
        let done = recalibrate(
            engine,
            &assembler,
            &order,
            batch_size,
            nothing,
            self.interrupted,
        );
        let failed = |source| MeasureError::Recalibrate {
            path: path.to_owned(),
            source,
        };
        match done.map_err(failed)? {
            Recalibration::NoBatchNorm => Ok(None),
            Recalibration::Interrupted => Err(MeasureError::Interrupted),
            Recalibration::Done { batches, images } => {
                Ok(Some(RecalibrationRecord::new(Observation {
                    data: &self.dataset.name,
                    data_digest: self.record.digest,
                    images,
                    batches,
                    batch_size,
                    seed: SEED,
                })))
            }
        }
    }

    /// Writes the checkpoint at `path` to `output`, its statistics of batch norm estimated
    /// again, if there are any. Returns the network that was written.
    ///
    /// # Errors
    /// [`MeasureError`].
    pub fn rewrite_recalibrated(&self, path: &Path, output: &Path) -> Result<Loaded, MeasureError> {
        let mut loaded = self.load(path)?;
        let record = self.recalibrate(path, loaded.engine.as_mut())?;
        let checkpoint = Checkpoint::open(path, &OpenOptions::default())?;
        let (metadata, replaced) = match record {
            None => (owned(&checkpoint.metadata()), BTreeMap::new()),
            Some(record) => {
                let weights = loaded.engine.weights()?;
                let replaced = stored_statistics(&self.graph, &weights, &checkpoint);
                let replaced = replaced.map_err(|source| MeasureError::Recalibrate {
                    path: path.to_owned(),
                    source,
                })?;
                // The certificate was written here a moment ago: it can be read.
                let (metadata, _) = record.metadata(&checkpoint, &replaced);
                (metadata, replaced)
            }
        };
        let target = Target::for_file(output, Existing::Refuse)?;
        rewrite(
            &checkpoint,
            &metadata,
            &replaced,
            &target,
            Durability::Unsynced,
        )?;
        Ok(loaded)
    }

    /// How good a network is.
    ///
    /// # Errors
    /// [`MeasureError::Evaluate`], [`MeasureError::Interrupted`].
    pub fn model(&self, loaded: &mut Loaded) -> Result<Model, MeasureError> {
        let (path, engine) = (loaded.path.clone(), loaded.engine.as_mut());
        self.model_of(&path, engine)
    }

    /// How good the network in an engine is; errors name `path`.
    ///
    /// # Errors
    /// [`MeasureError::Evaluate`], [`MeasureError::Interrupted`].
    pub fn model_of(&self, path: &Path, engine: &mut dyn Engine) -> Result<Model, MeasureError> {
        let test = &self.dataset.test;
        let found = self.predictions(path, engine, test, &test.indices())?;
        let mut scores = scores(&found.evaluate());
        scores.validation_accuracy = self.validation(path, engine)?;
        let mut shifted = Vec::new();
        if self.measure.ood {
            for kind in Corruption::of_images(test.image()) {
                let mut accuracies = Vec::new();
                for severity in Severity::ALL {
                    let samples = corrupted(test, kind, severity, SEED);
                    let indices = samples.indices();
                    let found = self.predictions(path, engine, &samples, &indices)?;
                    accuracies.push(found.evaluate().accuracy);
                }
                shifted.push(Shifted {
                    corruption: kind.name().to_owned(),
                    accuracies,
                });
            }
        }
        Ok(Model {
            scores,
            shifted,
            ..Model::default()
        })
    }

    /// Accuracy on the held-out images, if there are any.
    ///
    /// # Errors
    /// [`MeasureError::Evaluate`], [`MeasureError::Interrupted`].
    pub fn validation(
        &self,
        path: &Path,
        engine: &mut dyn Engine,
    ) -> Result<Option<f64>, MeasureError> {
        let held_out = &self.split.validation;
        if held_out.is_empty() {
            return Ok(None);
        }
        let found = self.predictions(path, engine, &self.dataset.train, held_out)?;
        Ok(Some(found.evaluate().accuracy))
    }

    /// What a network says about the test images.
    ///
    /// # Errors
    /// [`MeasureError::Evaluate`], [`MeasureError::Interrupted`].
    pub fn test(&self, loaded: &mut Loaded) -> Result<Predictions, MeasureError> {
        let test = &self.dataset.test;
        let (path, engine) = (&loaded.path, loaded.engine.as_mut());
        self.predictions(path, engine, test, &test.indices())
    }

    fn predictions(
        &self,
        path: &Path,
        engine: &mut dyn Engine,
        samples: &Samples,
        indices: &[u32],
    ) -> Result<Predictions, MeasureError> {
        let assembler = Assembler::new(samples, &self.dataset.normalisation);
        let nothing = &|_| {};
        let found = predict(
            engine,
            &assembler,
            indices,
            BATCH,
            nothing,
            self.interrupted,
        );
        let found = found.map_err(|source| MeasureError::Evaluate {
            path: path.to_owned(),
            source,
        })?;
        found.ok_or(MeasureError::Interrupted)
    }
}

impl Loaded {
    /// The engine.
    pub fn engine(&mut self) -> &mut dyn Engine {
        self.engine.as_mut()
    }
}

/// The scores of an evaluation on test images.
pub fn scores(evaluation: &Evaluation) -> Scores {
    Scores {
        accuracy: Some(evaluation.accuracy),
        loss: Some(evaluation.loss),
        validation_accuracy: None,
        ece: Some(evaluation.ece),
        mce: Some(evaluation.mce),
        worst_class_accuracy: evaluation.worst_class_accuracy,
    }
}

/// Metadata that outlives its checkpoint.
pub fn owned(metadata: &BTreeMap<&str, &str>) -> BTreeMap<String, String> {
    metadata
        .iter()
        .map(|(&key, &value)| (key.to_owned(), value.to_owned()))
        .collect()
}
