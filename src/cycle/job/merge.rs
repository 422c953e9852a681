//! Steps that average.

use std::error::Error;
use std::path::Path;
use std::path::PathBuf;

use super::Bench;
use super::JobError;
use super::Made;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Destination;
use crate::checkpoint::DtypeRule;
use crate::checkpoint::Ingredients;
use crate::checkpoint::OpenOptions;
use crate::connectivity::MismatchPolicy;
use crate::cycle::findings::Decision;
use crate::cycle::findings::Distances;
use crate::cycle::findings::Model;
use crate::cycle::findings::Segment;
use crate::cycle::measure::Gauge;
use crate::cycle::measure::scores;
use crate::cycle::recipe;
use crate::cycle::recipe::Tie;
use crate::cycle::work::Measure;
use crate::cycle::work::MergeWork;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::kernel::Normalization;
use crate::kernel::Weights;
use crate::merge;
use crate::merge::Better;
use crate::merge::Evaluate;
use crate::merge::Greedy;
use crate::merge::MergeOptions;
use crate::merge::MergePlan;
use crate::merge::Merged;
use crate::merge::Method;
use crate::merge::OnTie;
use crate::merge::Selection;
use crate::merge::choose;
use crate::train::evaluate::Predictions;

impl Bench<'_> {
    /// Averages ingredients of one mask, estimates the statistics of batch norm again, and
    /// measures the soup.
    pub(super) fn merge(&self, work: &MergeWork) -> Result<Made, JobError> {
        let (ingredients, mask) = (self.ingredients()?, self.input("mask")?);
        let mut made = Made::default();
        let metrics = &mut made.metrics;
        let (kept, options) = match work.merge.method {
            recipe::Method::Greedy => {
                let selection = self.choose(work, &ingredients, &mask)?;
                metrics.decisions = decisions(&selection);
                let kept = selection.kept();
                let options = MergeOptions::new(Method::Uniform, Weights::uniform(kept.len())?);
                (kept, options.with_selection(selection)?)
            }
            recipe::Method::Uniform => {
                let weights = Weights::uniform(ingredients.len())?;
                let options = MergeOptions::new(Method::Uniform, weights);
                ((0..ingredients.len()).collect(), options)
            }
            recipe::Method::Weighted => {
                let weights = Weights::new(work.merge.weights.clone(), Normalization::SumToOne)?;
                let options = MergeOptions::new(Method::Weighted, weights);
                ((0..ingredients.len()).collect(), options)
            }
        };
        metrics.coefficients = vec![0.0; ingredients.len()];
        for (&place, coefficient) in kept.iter().zip(options.weights.coefficients()) {
            metrics.coefficients[place] = coefficient;
        }
        let chosen: Vec<PathBuf> = kept
            .iter()
            .map(|&place| ingredients[place].clone())
            .collect();
        let averaged = self.attempt.scratch().join("average.st");
        let output = self.output("checkpoint");
        if let [single] = chosen.as_slice() {
            // A soup of one is that one.
            self.copy(single, &averaged)?;
        } else {
            let merged = self.average(&chosen, Some(&mask), &options, &averaged)?;
            if chosen.len() == ingredients.len() {
                metrics.distances = merged.distances.as_ref().map(Distances::of);
            }
        }
        metrics.model = self.recalibrated(&work.measure, &averaged, &output)?;
        if let Some(gauge) = self.gauge(&work.measure)? {
            if work.ensemble {
                metrics.ensemble = Some(ensemble(&gauge, &ingredients)?);
            }
            if work.segment_points > 0 {
                metrics.segments = self.segments(work, &gauge, &ingredients, &mask)?;
            }
        }
        made.outputs.insert("checkpoint".to_owned(), output);
        Ok(made)
    }

    /// Averages into a new file. With a mask, that is the soup's, and what of the
    /// ingredients it retains may be zero: that they hold nothing else was checked when
    /// they were made.
    pub(super) fn average(
        &self,
        ingredients: &[PathBuf],
        mask: Option<&Path>,
        options: &MergeOptions,
        output: &Path,
    ) -> Result<Merged, JobError> {
        let mut options = options.clone();
        options.workers.threads = self.around.threads;
        if mask.is_some() {
            options.rules.policy = MismatchPolicy::First;
        }
        let open = |path: &Path| Checkpoint::open(path, &OpenOptions::default());
        let checkpoints = ingredients.iter().map(|path| open(path));
        let checkpoints = checkpoints.collect::<Result<_, _>>()?;
        let mask = mask.map(open).transpose()?;
        let joined = Ingredients::join(checkpoints, mask, DtypeRule::Same, |_| true)?;
        let plan = MergePlan::new(&joined, &options)?;
        let (existing, durability) = (Existing::Refuse, Durability::Unsynced);
        let destination = Destination::resolve(output, &joined, None, existing, durability)?;
        let observer = self.observer();
        let merged = merge::merge(plan, &joined, &options, &destination, Vec::new(), observer);
        Ok(merged?)
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<(), JobError> {
        let copied = std::fs::copy(from, to);
        copied.map(drop).map_err(|source| JobError::File {
            path: to.to_owned(),
            source,
        })
    }

    /// The greedy choice, by validation accuracy after recalibration.
    fn choose(
        &self,
        work: &MergeWork,
        ingredients: &[PathBuf],
        mask: &Path,
    ) -> Result<Selection, JobError> {
        let scratch = self.attempt.scratch().join("greedy");
        std::fs::create_dir(&scratch).map_err(|source| JobError::File {
            path: scratch.clone(),
            source,
        })?;
        let mut options = MergeOptions::new(Method::Uniform, Weights::uniform(ingredients.len())?);
        options.workers.threads = self.around.threads;
        let greedy = Greedy {
            paths: ingredients,
            mask_file: Some(mask),
            open: OpenOptions::default(),
            options: &options,
            better: Better::Higher,
            on_tie: match work.merge.tie {
                Tie::Keep => OnTie::Keep,
                Tie::Drop => OnTie::Drop,
            },
            scratch: &scratch,
            watch: &|_| {},
        };
        let mut judge = Judge {
            gauge: self.gauge(&work.measure)?,
            bench: self,
            measure: &work.measure,
        };
        Ok(choose(&greedy, &mut judge, self.observer())?)
    }

    /// Accuracy on the straight lines between ingredients, each point a merge of its own.
    fn segments(
        &self,
        work: &MergeWork,
        gauge: &Gauge<'_>,
        ingredients: &[PathBuf],
        mask: &Path,
    ) -> Result<Vec<Segment>, JobError> {
        let accuracy = |path: &Path| -> Result<f64, JobError> {
            let mut loaded = gauge.load(path)?;
            gauge.recalibrate(path, loaded.engine())?;
            Ok(gauge.test(&mut loaded)?.evaluate().accuracy)
        };
        let ends: Vec<f64> = ingredients
            .iter()
            .map(|path| accuracy(path))
            .collect::<Result<_, _>>()?;
        let between = self.attempt.scratch().join("between.st");
        let last = work.segment_points - 1;
        let mut segments = Vec::new();
        for second in 1..ingredients.len() {
            for first in 0..second {
                let mut points = Vec::with_capacity(work.segment_points);
                for point in 0..=last {
                    let share = point as f64 / last as f64;
                    let found = if point == 0 {
                        ends[first]
                    } else if point == last {
                        ends[second]
                    } else {
                        let weights = vec![1.0 - share, share];
                        let weights = Weights::new(weights, Normalization::SumToOne)?;
                        let mut options = MergeOptions::new(Method::Weighted, weights);
                        options.distances = false;
                        let pair = [ingredients[first].clone(), ingredients[second].clone()];
                        self.average(&pair, Some(mask), &options, &between)?;
                        let found = accuracy(&between)?;
                        std::fs::remove_file(&between).map_err(|source| JobError::File {
                            path: between.clone(),
                            source,
                        })?;
                        found
                    };
                    points.push((share, found));
                }
                segments.push(Segment {
                    from: first + 1,
                    to: second + 1,
                    points,
                });
            }
        }
        Ok(segments)
    }

    /// Writes a checkpoint again, its statistics of batch norm estimated anew, and
    /// measures it.
    pub(super) fn recalibrated(
        &self,
        measure: &Measure,
        path: &Path,
        output: &Path,
    ) -> Result<Option<Model>, JobError> {
        match self.gauge(measure)? {
            None => {
                self.copy(path, output)?;
                self.measured(measure, output)
            }
            Some(gauge) => {
                let mut loaded = gauge.rewrite_recalibrated(path, output)?;
                let mut model = gauge.model(&mut loaded)?;
                if measure.command.is_some() {
                    model.scores = self.commanded(measure, output)?;
                }
                Ok(Some(model))
            }
        }
    }

    /// Measures a checkpoint as it is.
    pub(super) fn measured(
        &self,
        measure: &Measure,
        path: &Path,
    ) -> Result<Option<Model>, JobError> {
        let mut model = match self.gauge(measure)? {
            None => Model::default(),
            Some(gauge) => gauge.model(&mut gauge.load(path)?)?,
        };
        if measure.command.is_some() {
            model.scores = self.commanded(measure, path)?;
        }
        Ok(Some(model))
    }
}

/// Judges candidates of the greedy soup.
struct Judge<'a> {
    gauge: Option<Gauge<'a>>,
    bench: &'a Bench<'a>,
    measure: &'a Measure,
}

impl Evaluate for Judge<'_> {
    fn score(&mut self, checkpoint: &Path) -> Result<f64, Box<dyn Error + Send + Sync>> {
        if self.measure.command.is_some() {
            let scores = match &self.gauge {
                None => self.bench.commanded(self.measure, checkpoint)?,
                Some(gauge) => {
                    let ready = self.bench.attempt.scratch().join("judged.st");
                    gauge.rewrite_recalibrated(checkpoint, &ready)?;
                    let scores = self.bench.commanded(self.measure, &ready)?;
                    std::fs::remove_file(&ready)?;
                    scores
                }
            };
            let score = scores.validation_accuracy;
            return score.ok_or_else(|| {
                "a greedy soup is chosen on held-out images, and the command gave no \
                 `validation_accuracy`"
                    .into()
            });
        }
        let gauge = self.gauge.as_ref().ok_or("nobody can measure it")?;
        let mut loaded = gauge.load(checkpoint)?;
        gauge.recalibrate(checkpoint, loaded.engine())?;
        let found = gauge.validation(checkpoint, loaded.engine())?;
        found.ok_or_else(|| "no images are held out to validate".into())
    }
}

fn ensemble(gauge: &Gauge<'_>, ingredients: &[PathBuf]) -> Result<Model, JobError> {
    let mut members = Vec::with_capacity(ingredients.len());
    for path in ingredients {
        members.push(gauge.test(&mut gauge.load(path)?)?);
    }
    Ok(Model {
        scores: scores(&Predictions::ensemble(&members).evaluate()),
        ..Model::default()
    })
}

fn decisions(selection: &Selection) -> Vec<Decision> {
    let mut before = None;
    let decided = selection.decisions.iter();
    decided
        .map(|decision| {
            let found = Decision {
                ordinal: decision.candidate + 1,
                score: decision.score,
                before,
                kept: decision.is_kept,
            };
            if decision.is_kept {
                before = Some(decision.score);
            }
            found
        })
        .collect()
}

impl Distances {
    fn of(found: &merge::Distances) -> Self {
        let count = found.norms.len();
        let mut l2 = vec![vec![0.0; count]; count];
        let mut angles = vec![vec![0.0; count]; count];
        for pair in &found.pairs {
            for (i, k) in [(pair.first, pair.second), (pair.second, pair.first)] {
                l2[i][k] = pair.l2;
                angles[i][k] = pair.angle_degrees;
            }
        }
        Self {
            l2,
            angles,
            to_soup: found.to_barycentre.clone(),
        }
    }
}
