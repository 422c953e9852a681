//! `sms-merge data`: the name of a data set walks in, what it holds walks out, as text
//! and as a picture.

use std::path::Path;

use serde::Serialize;
use sms_merge::checkpoint::OutputError;
use sms_merge::checkpoint::refuse_named_input;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::ReplaceError;
use sms_merge::format::replace::StagedFile;
use sms_merge::format::replace::Target;
use sms_merge::graph::Features;
use sms_merge::train::data::Corruption;
use sms_merge::train::data::DataSpec;
use sms_merge::train::data::Dataset;
use sms_merge::train::data::Normalisation;
use sms_merge::train::data::Samples;
use sms_merge::train::data::Severity;
use sms_merge::train::data::Split;
use sms_merge::train::data::VALIDATION_FRACTION;
use sms_merge::train::data::VALIDATION_SEED;
use sms_merge::train::data::corrupted;
use sms_merge::train::data::open;
use sms_merge::train::data::sheet;

use crate::cli::SCHEMA;
use crate::cli::args::data::DataArguments;
use crate::cli::exit::Exit;
use crate::cli::exit::UsageError;
use crate::cli::outputs;
use crate::cli::text;
use crate::cli::text::Clean;
use crate::cli::text::Column;
use crate::cli::text::count;
use crate::cli::text::note;
use crate::cli::text::plural;
use crate::cli::text::shown;
use crate::cli::text::table;

/// Images in a row of the picture.
const MOST_COLUMNS: usize = 12;
/// Classes that have a row of the picture.
const MOST_CLASSES: usize = 20;
/// Classes that are listed; JSON has all.
const MOST_LISTED: usize = 20;
/// Seed of the corruptions of a picture.
const SEED: u64 = 0;

/// What `--json` prints.
#[derive(Serialize)]
struct DataObject<'a> {
    schema: u32,
    name: &'a str,
    image: ImageObject,
    train: usize,
    validation: usize,
    test: usize,
    classes: Vec<ClassObject<'a>>,
    normalisation: NormalisationObject<'a>,
    augmentation: AugmentationObject,
    corruptions: Vec<&'static str>,
    picture: Option<PictureObject>,
}

#[derive(Serialize)]
struct ImageObject {
    channels: usize,
    height: usize,
    width: usize,
}

#[derive(Serialize)]
struct ClassObject<'a> {
    name: &'a str,
    train: u64,
    test: u64,
}

#[derive(Serialize)]
struct NormalisationObject<'a> {
    mean: &'a [f32],
    deviation: &'a [f32],
    measured_mean: Vec<f32>,
    measured_deviation: Vec<f32>,
}

#[derive(Serialize)]
struct AugmentationObject {
    crop_padding: usize,
    flip: bool,
}

#[derive(Serialize)]
struct PictureObject {
    path: String,
    rows: Vec<String>,
    columns: Vec<String>,
}

/// Shows a data set.
pub(crate) fn run(arguments: &DataArguments) -> anyhow::Result<Exit> {
    let existing = outputs::existing(arguments.force);
    if let Some(picture) = &arguments.picture {
        refuse_named_input(picture, [Path::new(&arguments.name)])?;
    }
    // Asked before the images are read, which can take seconds.
    let target = arguments
        .picture
        .as_deref()
        .map(|path| Target::for_file(path, existing))
        .transpose()
        .map_err(OutputError::from)?;
    if let Some(target) = &target {
        target.probe(0).map_err(OutputError::from)?;
    }
    let spec = DataSpec {
        name: arguments.name.clone(),
        directory: arguments.data_dir.clone(),
    };
    let data = open(&spec)?;
    let picture = match target {
        Some(target) => Some(draw(&data, arguments, &target)?),
        None => None,
    };
    let object = object(&data, picture)?;
    if arguments.report.json {
        text::print(&text::json(&object)?)?;
    } else {
        text::print(&report(&object, arguments.report.verbose))?;
        if let (Some(picture), false) = (&object.picture, arguments.report.quiet) {
            let path = shown(Path::new(&picture.path));
            note(&format!("wrote {path}"));
            note(&format!("rows: {}", Clean(&picture.rows.join(", "))));
            note(&format!("columns: {}", Clean(&picture.columns.join(", "))));
        }
    }
    Ok(Exit::Done)
}

fn object(data: &Dataset, picture: Option<PictureObject>) -> anyhow::Result<DataObject<'_>> {
    let Features {
        channels,
        height,
        width,
    } = data.image();
    let split = Split::of(data.train.len(), VALIDATION_FRACTION, VALIDATION_SEED)?;
    let measured = Normalisation::measured(&data.train);
    let counts = |samples: &Samples| {
        let mut counts = vec![0_u64; data.classes()];
        for &label in samples.labels() {
            counts[label as usize] += 1;
        }
        counts
    };
    let counts = counts(&data.train).into_iter().zip(counts(&data.test));
    let classes = data.class_names.iter().zip(counts);
    Ok(DataObject {
        schema: SCHEMA,
        name: &data.name,
        image: ImageObject {
            channels,
            height,
            width,
        },
        train: data.train.len(),
        validation: split.validation.len(),
        test: data.test.len(),
        classes: classes
            .map(|(name, (train, test))| ClassObject { name, train, test })
            .collect(),
        normalisation: NormalisationObject {
            mean: &data.normalisation.mean,
            deviation: &data.normalisation.deviation,
            measured_mean: measured.mean,
            measured_deviation: measured.deviation,
        },
        augmentation: AugmentationObject {
            crop_padding: data.augmentation.crop_padding,
            flip: data.augmentation.flip,
        },
        corruptions: Corruption::of_images(data.image())
            .map(Corruption::name)
            .collect(),
        picture,
    })
}

fn report(object: &DataObject<'_>, verbose: bool) -> String {
    let ImageObject {
        channels,
        height,
        width,
    } = object.image;
    let numbers = |values: &[f32]| {
        let values = values.iter().map(|value| format!("{value:.4}"));
        values.collect::<Vec<_>>().join(", ")
    };
    let normalisation = &object.normalisation;
    let varied = match (object.augmentation.crop_padding, object.augmentation.flip) {
        (0, false) => "nothing".to_owned(),
        (0, true) => "mirrored".to_owned(),
        (padding, flip) => format!(
            "moved by up to {}{}",
            plural(padding as u64, "pixel"),
            if flip { ", mirrored" } else { "" }
        ),
    };
    let mut rows: Vec<Vec<String>> = object
        .classes
        .iter()
        .take(if verbose { usize::MAX } else { MOST_LISTED })
        .map(|class| {
            let name = Clean(class.name).to_string();
            vec![name, count(class.train), count(class.test)]
        })
        .collect();
    let left_out = object.classes.len() - rows.len();
    if left_out > 0 {
        rows.push(vec![format!("... {left_out} more (-v)")]);
    }
    let columns = [
        ("class", Column::Name),
        ("train", Column::Number),
        ("test", Column::Number),
    ];
    format!(
        "{}\n\
         {}: {} to train on, {} to test on, in {} classes\n\
         images         {channels} x {height} x {width} (channels, height, width)\n\
         held out       {} of the training images, by default\n\
         mean           {} (measured: {})\n\
         deviation      {} (measured: {})\n\
         augmentation   {varied}, by default\n",
        table(&columns, &rows),
        Clean(object.name),
        plural(object.train as u64, "image"),
        count(object.test as u64),
        count(object.classes.len() as u64),
        count(object.validation as u64),
        numbers(normalisation.mean),
        numbers(&normalisation.measured_mean),
        numbers(normalisation.deviation),
        numbers(&normalisation.measured_deviation),
    )
}

/// Draws the picture that is asked for.
fn draw(
    data: &Dataset,
    arguments: &DataArguments,
    target: &Target,
) -> anyhow::Result<PictureObject> {
    let severity = arguments.severity.and_then(Severity::new);
    let plan = match arguments.corruption.as_deref() {
        None => Plan::of_classes(data, None),
        Some("all") => Plan::of_corruptions(data, severity),
        Some(name) => {
            let corruption = Corruption::of_images(data.image())
                .find(|corruption| corruption.name() == name)
                .ok_or_else(|| UsageError {
                    message: format!("`{name}` needs images of three channels"),
                    next: None,
                })?;
            match severity {
                Some(severity) => Plan::of_classes(data, Some((corruption, severity))),
                None => Plan::of_severities(data, corruption),
            }
        }
    };
    let cells: Vec<Vec<(&Samples, usize)>> = plan
        .cells
        .iter()
        .map(|row| {
            row.iter()
                .map(|&(set, sample)| (&plan.sets[set], sample))
                .collect()
        })
        .collect();
    let canvas = sheet(&cells).ok_or_else(|| UsageError {
        message: "the images are too large for a picture".to_owned(),
        next: None,
    })?;
    let png = canvas.to_png();
    publish(&png, target).map_err(OutputError::from)?;
    Ok(PictureObject {
        path: target.path().to_string_lossy().into_owned(),
        rows: plan.rows,
        columns: plan.columns,
    })
}

fn publish(bytes: &[u8], target: &Target) -> Result<(), ReplaceError> {
    let file = StagedFile::create(target, bytes.len() as u64, Durability::Synced)?;
    file.write_at(bytes, 0)?;
    file.publish()
}

/// What stands where.
struct Plan {
    sets: Vec<Samples>,
    /// By row and column: a set and a place in it.
    cells: Vec<Vec<(usize, usize)>>,
    rows: Vec<String>,
    columns: Vec<String>,
}

impl Plan {
    /// The first test images of each class.
    fn of_classes(data: &Dataset, change: Option<(Corruption, Severity)>) -> Self {
        let classes = data.classes().min(MOST_CLASSES);
        let mut chosen = vec![Vec::new(); classes];
        for (sample, &label) in data.test.labels().iter().enumerate() {
            if let Some(row) = chosen.get_mut(label as usize)
                && row.len() < MOST_COLUMNS
            {
                row.push(sample as u32);
            }
        }
        let set = data.test.subset(&chosen.concat());
        let mut next = 0;
        let cells = chosen.iter().map(|row| {
            let begin = next;
            next += row.len();
            (begin..next).map(|sample| (0, sample)).collect()
        });
        Self {
            cells: cells.collect(),
            sets: vec![match change {
                Some((corruption, severity)) => corrupted(&set, corruption, severity, SEED),
                None => set,
            }],
            rows: data.class_names[..classes].to_vec(),
            columns: vec!["test images".to_owned()],
        }
    }

    /// The first test images as they are and in all severities.
    fn of_severities(data: &Dataset, corruption: Corruption) -> Self {
        let samples = data.test.len().min(MOST_COLUMNS);
        let set = data.test.subset(&data.test.indices()[..samples]);
        let all = Severity::ALL.map(|severity| corrupted(&set, corruption, severity, SEED));
        let sets: Vec<Samples> = [set].into_iter().chain(all).collect();
        let row = |set| (0..samples).map(|sample| (set, sample)).collect();
        let number = |severity: Severity| format!("severity {}", severity.number());
        Self {
            cells: (0..sets.len()).map(row).collect(),
            sets,
            rows: ["as it is".to_owned()]
                .into_iter()
                .chain(Severity::ALL.map(number))
                .collect(),
            columns: vec!["test images".to_owned()],
        }
    }

    /// All corruptions: of one image in all severities, or of the first images in one.
    fn of_corruptions(data: &Dataset, severity: Option<Severity>) -> Self {
        let samples = match severity {
            Some(_) => data.test.len().min(MOST_COLUMNS),
            None => 1,
        };
        let severities = severity.map_or(Severity::ALL.to_vec(), |severity| vec![severity]);
        let set = data.test.subset(&data.test.indices()[..samples]);
        let mut plan = Self {
            cells: vec![(0..samples).map(|sample| (0, sample)).collect()],
            sets: vec![set],
            rows: vec!["as it is".to_owned()],
            columns: match severity {
                Some(_) => vec!["test images".to_owned()],
                None => severities
                    .iter()
                    .map(|severity| format!("severity {}", severity.number()))
                    .collect(),
            },
        };
        for corruption in Corruption::of_images(data.image()) {
            let mut row = Vec::new();
            for &severity in &severities {
                row.extend((0..samples).map(|sample| (plan.sets.len(), sample)));
                let changed = corrupted(&plan.sets[0], corruption, severity, SEED);
                plan.sets.push(changed);
            }
            plan.cells.push(row);
            plan.rows.push(corruption.name().to_owned());
        }
        plan
    }
}
