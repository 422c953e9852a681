//! `sms-merge eval`: checkpoints and a data set walk in, how well they classify its
//! images walks out.

mod picture;
mod report;
mod shifted;

use std::borrow::Cow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::refuse_named_input;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::StagedFile;
use sms_merge::format::replace::Target;
use sms_merge::graph::Role;
use sms_merge::merge::Certificate;
use sms_merge::tensor::Stream;
use sms_merge::train::Weights;
use sms_merge::train::card::Card;
use sms_merge::train::card::Origin;
use sms_merge::train::data::Assembler;
use sms_merge::train::data::DataError;
use sms_merge::train::data::Dataset;
use sms_merge::train::data::Normalisation;
use sms_merge::train::data::Samples;
use sms_merge::train::data::Split;
use sms_merge::train::data::VALIDATION_FRACTION;
use sms_merge::train::data::VALIDATION_SEED;
use sms_merge::train::engine::Engine;
use sms_merge::train::evaluate::Evaluation;
use sms_merge::train::evaluate::Predictions;
use sms_merge::train::evaluate::check_fit;
use sms_merge::train::evaluate::predict;
use sms_merge::train::masks::masks_of_zeros;
use sms_merge::train::record::ModelRecord;
use thiserror::Error;

use crate::cli::args::eval::EvalArguments;
use crate::cli::args::eval::Part;
use crate::cli::args::eval::SplitArguments;
use crate::cli::eval::picture::picture;
use crate::cli::eval::report::Report;
use crate::cli::eval::shifted::Shifted;
use crate::cli::exit::Exit;
use crate::cli::images::ImageBar;
use crate::cli::inputs::named;
use crate::cli::learning::build_model;
use crate::cli::learning::card_of;
use crate::cli::learning::open_compute;
use crate::cli::learning::open_data;
use crate::cli::outputs;
use crate::cli::silence::OtherWay;
use crate::cli::silence::refuse_silence;
use crate::cli::text;
use crate::cli::text::note;
use crate::cli::text::shown;

/// The user asked to stop.
#[derive(Debug, Error)]
#[error("interrupted; nothing was written")]
pub(crate) struct Stopped;

/// A checkpoint that can classify.
struct Subject {
    path: PathBuf,
    model: ModelRecord,
    engine: Box<dyn Engine>,
    normalisation: Normalisation,
    n_prunable: u64,
    n_retained: u64,
    /// Whether its statistics of batch norm are averages of others.
    is_uncalibrated: bool,
    /// Whether it is an ONNX model.
    is_onnx: bool,
}

/// What is said about some images.
struct Outcome {
    models: Vec<Evaluation>,
    /// `None` of one model, or where models tell other classes apart.
    ensemble: Option<Evaluation>,
}

/// Evaluates.
pub(crate) fn run(arguments: &EvalArguments, interrupted: &AtomicBool) -> anyhow::Result<Exit> {
    let existing = outputs::existing(arguments.force);
    let picture_path = arguments.confusion.as_deref();
    if let Some(picture) = picture_path {
        let checkpoints = arguments.checkpoints.iter().map(PathBuf::as_path);
        let data = arguments.data.data.as_deref().map(Path::new);
        refuse_named_input(picture, checkpoints.chain(data))?;
    }
    let target = picture_path.map(|path| Target::for_file(path, existing));
    let target = target.transpose()?;
    if let Some(target) = &target {
        target.probe(0)?;
    }
    let (dataset, mut subjects, cards) = read(arguments)?;
    let samples = chosen(arguments, &dataset, cards.iter().flatten().next())?;
    let shifts = match arguments.images.ood {
        true => shifted::kinds(samples.image()),
        false => Vec::new(),
    };
    let passes = 1 + shifts.len() * shifted::SEVERITIES;
    let images = (samples.len() * subjects.len() * passes) as u64;
    let bar = ImageBar::new(images, &arguments.report);
    let batch_size = arguments.images.batch_size;
    let mut evaluate = |samples: &Samples| {
        let mut predictions = Vec::with_capacity(subjects.len());
        for subject in &mut subjects {
            let found = subject.predict(samples, batch_size, &bar, interrupted);
            predictions.push(found.inspect_err(|_| bar.clear())?);
        }
        anyhow::Ok(Outcome::of(&predictions))
    };
    let outcome = evaluate(&samples)?;
    let mut shifted = Vec::with_capacity(shifts.len());
    for kind in shifts {
        shifted.push(Shifted::of(
            kind,
            &samples,
            arguments.images.seed,
            &mut evaluate,
        )?);
    }
    bar.clear();
    if let Some(target) = &target {
        let names = &dataset.class_names;
        draw(target, &title(&subjects, &dataset), names, &outcome)?;
    }
    let report = Report {
        arguments,
        dataset: &dataset,
        samples: &samples,
        subjects: &subjects,
        outcome: &outcome,
        shifted: &shifted,
    };
    if arguments.report.json {
        text::print(&text::json(&report.object())?)?;
    } else {
        text::print(&report.text())?;
        if !arguments.report.quiet {
            for warning in report.warnings() {
                note(&format!("warning: {warning}"));
            }
        }
    }
    Ok(Exit::Done)
}

/// All that files say: images, networks, and how these came about.
fn read(arguments: &EvalArguments) -> anyhow::Result<(Dataset, Vec<Subject>, Vec<Option<Card>>)> {
    let compute = open_compute(&arguments.engine)?;
    let mut checkpoints = Vec::with_capacity(arguments.checkpoints.len());
    for path in &arguments.checkpoints {
        let checkpoint = Checkpoint::open(path, &named(&arguments.names))?;
        let card = card_of(&checkpoint)?;
        let (model, data) = (&arguments.model, &arguments.data);
        refuse_silence(path, card.as_ref(), model, data, OtherWay::None)?;
        checkpoints.push((checkpoint, card));
    }
    let first = checkpoints.iter().find_map(|(_, card)| card.as_ref());
    let dataset = open_data(&arguments.data, Origin::of_checkpoint(first))?;
    let mut subjects = Vec::with_capacity(checkpoints.len());
    let mut cards = Vec::with_capacity(checkpoints.len());
    for (checkpoint, card) in checkpoints {
        let origin = Origin::of_checkpoint(card.as_ref());
        let (graph, model) = build_model(&arguments.model, origin, &dataset)?;
        let weights = Weights::read(&graph, &checkpoint)?;
        let masks = masks_of_zeros(&graph, &weights);
        let (mut n_prunable, mut n_retained) = (0, 0);
        for (parameter, mask) in graph.parameters.iter().zip(&masks) {
            if parameter.role == Role::Weight {
                let numel = parameter.shape.numel();
                n_prunable += numel;
                n_retained += mask.as_ref().map_or(numel, |mask| mask.retained() as u64);
            }
        }
        let engine = compute.engine(graph, &weights, masks)?;
        check_fit(engine.as_ref(), dataset.image(), dataset.classes())?;
        subjects.push(Subject {
            path: checkpoint.path().to_owned(),
            model,
            engine,
            normalisation: normalisation(card.as_ref(), &dataset),
            n_prunable,
            n_retained,
            is_onnx: checkpoint.model().is_some(),
            is_uncalibrated: Certificate::of(&checkpoint).is_ok_and(|certificate| {
                certificate.options.batch_norm_pooled && certificate.recalibrated.is_empty()
            }),
        });
        cards.push(card);
    }
    Ok((dataset, subjects, cards))
}

/// How pixels are normalised: as in training, if that is known.
pub(super) fn normalisation(card: Option<&Card>, dataset: &Dataset) -> Normalisation {
    let channels = dataset.image().channels;
    let recorded = card.map(|card| &card.data.normalisation);
    let recorded = recorded.filter(|normalisation| {
        normalisation.mean.len() == channels && normalisation.deviation.len() == channels
    });
    recorded.unwrap_or(&dataset.normalisation).clone()
}

/// How training images were parted, as the user says or as the checkpoint does.
pub(super) fn split(
    arguments: &SplitArguments,
    card: Option<&Card>,
    dataset: &Dataset,
) -> Result<Split, DataError> {
    let fraction = card.map_or(VALIDATION_FRACTION, |card| card.validation_fraction);
    let seed = card.map_or(VALIDATION_SEED, |card| card.validation_seed);
    Split::of(
        dataset.train.len(),
        arguments.validation.unwrap_or(fraction),
        arguments.validation_seed.unwrap_or(seed),
    )
}

/// The images that are asked for.
fn chosen<'a>(
    arguments: &EvalArguments,
    dataset: &'a Dataset,
    card: Option<&Card>,
) -> anyhow::Result<Cow<'a, Samples>> {
    let images = &arguments.images;
    let (samples, mut indices) = match images.on {
        Part::Test => (&dataset.test, dataset.test.indices()),
        part => {
            let split = split(&images.split, card, dataset)?;
            let is_validation = part == Part::Validation;
            let indices = if is_validation {
                split.validation
            } else {
                split.train
            };
            (&dataset.train, indices)
        }
    };
    if indices.is_empty() {
        return Err(crate::cli::exit::UsageError {
            message: format!("`{}` has no such images", text::Clean(&dataset.name)),
            next: Some("hold out some with `--validation`, or choose `--on test`".to_owned()),
        }
        .into());
    }
    if let Some(most) = images.limit
        && most < indices.len()
    {
        Stream::named(images.seed, "limit", "eval").shuffle(&mut indices);
        indices.truncate(most);
        indices.sort_unstable();
    }
    Ok(if indices.len() == samples.len() {
        Cow::Borrowed(samples)
    } else {
        Cow::Owned(samples.subset(&indices))
    })
}

impl Subject {
    fn predict(
        &mut self,
        samples: &Samples,
        batch_size: usize,
        bar: &ImageBar,
        interrupted: &AtomicBool,
    ) -> anyhow::Result<Predictions> {
        use anyhow::Context;

        let assembler = Assembler::new(samples, &self.normalisation);
        let found = predict(
            self.engine.as_mut(),
            &assembler,
            &samples.indices(),
            batch_size,
            &|images| bar.advance(images),
            interrupted,
        );
        let found = found.with_context(|| format!("`{}` cannot be evaluated", shown(&self.path)));
        Ok(found?.ok_or(Stopped)?)
    }
}

impl Outcome {
    fn of(predictions: &[Predictions]) -> Self {
        let classes = predictions.first().map(Predictions::classes);
        let is_alike = |member: &Predictions| Some(member.classes()) == classes;
        let is_ensemble = predictions.len() > 1 && predictions.iter().all(is_alike);
        Self {
            models: predictions.iter().map(Predictions::evaluate).collect(),
            ensemble: is_ensemble.then(|| Predictions::ensemble(predictions).evaluate()),
        }
    }

    /// What stands for all: the ensemble, or else the first.
    fn main(&self) -> &Evaluation {
        self.ensemble.as_ref().unwrap_or(&self.models[0])
    }
}

fn title(subjects: &[Subject], dataset: &Dataset) -> String {
    let name = match subjects {
        [single] => single
            .path
            .file_name()
            .map_or_else(|| shown(&single.path), |name| shown(Path::new(name))),
        several => format!("ensemble of {} checkpoints", several.len()),
    };
    format!("{name} on {}", text::Clean(&dataset.name))
}

fn draw(target: &Target, title: &str, names: &[String], outcome: &Outcome) -> anyhow::Result<()> {
    let text = picture(title, names, outcome.main());
    let file = StagedFile::create(target, text.len() as u64, Durability::Unsynced)?;
    file.write_at(text.as_bytes(), 0)?;
    file.publish()?;
    Ok(())
}
