//! Findings that look like those of a run, of any size.

use std::collections::BTreeMap;

use crate::cycle::findings::Cost;
use crate::cycle::findings::Data;
use crate::cycle::findings::Decision;
use crate::cycle::findings::Delivered;
use crate::cycle::findings::Distances;
use crate::cycle::findings::Epoch;
use crate::cycle::findings::FORMAT_VERSION;
use crate::cycle::findings::Findings;
use crate::cycle::findings::Ingredient;
use crate::cycle::findings::Layer;
use crate::cycle::findings::Model;
use crate::cycle::findings::Network;
use crate::cycle::findings::Phase;
use crate::cycle::findings::Scores;
use crate::cycle::findings::Segment;
use crate::cycle::findings::Shifted;
use crate::cycle::findings::Soup;
use crate::cycle::findings::Study;
use crate::tensor::Digest;
use crate::tensor::Stream;

/// Test images, so that accuracies are fractions of them.
const IMAGES: f64 = 10_000.0;

/// Sizes of a run.
pub(super) struct Size {
    pub(super) n_seeds: usize,
    pub(super) n_phases: usize,
    pub(super) n_ingredients: usize,
    /// How much better the last soup is than its ingredients; less before.
    pub(super) gain: f64,
    pub(super) layers: &'static [(&'static str, u64)],
}

/// The layers of LeNet-300-100.
pub(super) const LENET: &[(&str, u64)] = &[
    ("fc1.weight", 235_200),
    ("fc2.weight", 30_000),
    ("fc3.weight", 1_000),
];

impl Size {
    /// 5 seeds, 3 phases, 5 ingredients.
    pub(super) fn study() -> Self {
        Self {
            n_seeds: 5,
            n_phases: 3,
            n_ingredients: 5,
            gain: 0.005,
            layers: LENET,
        }
    }

    /// A run that found this.
    pub(super) fn findings(&self) -> Findings {
        let seeds = (1..=self.n_seeds as u64).map(|seed| self.seeded(seed));
        Findings {
            format_version: FORMAT_VERSION,
            tool: "sms-merge 0.1.0".to_owned(),
            title: "LeNet-300-100 on Fashion-MNIST".to_owned(),
            recipe: "title = \"LeNet-300-100 on Fashion-MNIST\"\nseeds = [1, 2, 3, 4, 5]\n\n\
                     [model]\nname = \"lenet-300-100\"\n\n[prune]\nsparsity = 0.98\nphases = 3\n\
                     score = \"global\" # of magnitudes\n"
                .to_owned(),
            network: Some(Network {
                name: "lenet-300-100".to_owned(),
                parameters: 266_610,
                multiply_adds: 266_200,
            }),
            data: Some(Data {
                name: "fashion-mnist".to_owned(),
                train: 54_000,
                validation: 6_000,
                test: 10_000,
                classes: 10,
            }),
            n_ingredients: self.n_ingredients,
            n_phases: self.n_phases,
            n_seeds: self.n_seeds,
            studies: seeds.collect(),
            delivered: Some(Delivered { seed: 1, phase: 3 }),
            computing_secs: 4321.5,
        }
    }

    fn seeded(&self, seed: u64) -> Study {
        let mut draw = Draw(Stream::named(seed, "test", "findings"));
        Study {
            seed,
            dense: draw.model(0.894, 20),
            phases: (1..=self.n_phases)
                .map(|number| self.phase(number, &mut draw))
                .collect(),
        }
    }

    fn phase(&self, number: usize, draw: &mut Draw) -> Phase {
        let share = number as f64 / self.n_phases as f64;
        let sparsity = 1.0 - 0.02_f64.powf(share);
        let level = 0.894 - 0.02 * share * share;
        let count = self.n_ingredients;
        let ingredients: Vec<Ingredient> = (1..=count)
            .map(|ordinal| Ingredient {
                ordinal,
                varied: BTreeMap::from([
                    ("seed".to_owned(), ordinal.to_string()),
                    ("weight_decay".to_owned(), "0.0005".to_owned()),
                ]),
                coefficient: 1.0 / count as f64,
                model: draw.near(level, 0.002, 10),
            })
            .collect();
        let soup = draw.near(level + self.gain * share - 0.001, 0.001, 0);
        let baselines = [
            ("imp", level - 0.001),
            ("imp-m-times", level + 0.002),
            ("imp-reprune", level - 0.03),
            ("ensemble", level + 0.006),
        ];
        let baselines = baselines.map(|(name, level)| {
            let epochs = if name == "ensemble" { 0 } else { 10 };
            (name.to_owned(), draw.near(level, 0.001, epochs))
        });
        let segments = (1..=count).flat_map(|from| ((from + 1)..=count).map(move |to| (from, to)));
        let segments: Vec<Segment> = segments
            .map(|(from, to)| draw.segment(from, to, &ingredients))
            .collect();
        let layers = self.layers.iter().enumerate().map(|(idx, &(name, numel))| {
            let retained = (1.0 - sparsity) * (1.0 + 3.0 * idx as f64 / self.layers.len() as f64);
            Layer {
                name: name.to_owned(),
                numel,
                retained: (numel as f64 * retained.min(1.0)) as u64,
            }
        });
        Phase {
            phase: number as u32,
            target: sparsity,
            sparsity,
            layers: layers.collect(),
            cost: Some(Cost {
                parameters: ((1.0 - sparsity) * 266_200.0) as u64 + 410,
                multiply_adds: ((1.0 - sparsity) * 266_200.0) as u64,
                theoretical_speedup: 1.0 / (1.0 - sparsity),
            }),
            pruned: Some(draw.model(level - 0.3 * share, 0).scores),
            distances: Some(draw.distances(count)),
            soup: Soup {
                method: "greedy".to_owned(),
                decisions: draw.decisions(count),
                missing: Vec::new(),
                model: soup,
            },
            ingredients,
            baselines: baselines.into_iter().collect(),
            segments,
        }
    }
}

/// Made-up measurements, the same for the same seed.
struct Draw(Stream);

impl Draw {
    /// Between -1 and 1.
    fn noise(&mut self) -> f64 {
        2.0 * self.0.uniform() - 1.0
    }

    fn accuracy(&mut self, level: f64) -> f64 {
        ((level + 0.0008 * self.noise()).clamp(0.0, 1.0) * IMAGES).round() / IMAGES
    }

    /// A model at about this level.
    fn near(&mut self, level: f64, far: f64, epochs: u64) -> Model {
        let level = level + far * self.noise();
        self.model(level, epochs)
    }

    fn model(&mut self, level: f64, epochs: u64) -> Model {
        let accuracy = self.accuracy(level);
        let curve = (1..=epochs).map(|epoch| {
            let left = 1.0 - epoch as f64 / epochs as f64;
            Epoch {
                epoch,
                train_loss: Some(0.3 + 0.4 * left * left),
                train_accuracy: Some(accuracy + 0.01 - 0.05 * left * left),
                validation_accuracy: Some(self.accuracy(level - 0.04 * left * left)),
                learning_rate: Some(0.1 * left),
            }
        });
        let curve: Vec<Epoch> = curve.collect();
        let shifted = ["gaussian_noise", "motion_blur", "contrast"].map(|name| Shifted {
            corruption: name.to_owned(),
            accuracies: (1..=5)
                .map(|severity| self.accuracy(level - 0.06 * f64::from(severity)))
                .collect(),
        });
        Model {
            scores: Scores {
                accuracy: Some(accuracy),
                loss: Some(3.0 * (1.0 - accuracy)),
                validation_accuracy: Some(self.accuracy(level)),
                ece: Some(0.03 + 0.01 * self.noise()),
                mce: Some(0.2 + 0.05 * self.noise()),
                worst_class_accuracy: Some(self.accuracy(level - 0.2)),
            },
            curve,
            shifted: shifted.into(),
            digest: Some(Digest::of(&accuracy.to_le_bytes())),
        }
    }

    fn segment(&mut self, from: usize, to: usize, ingredients: &[Ingredient]) -> Segment {
        let end = |ordinal: usize| ingredients[ordinal - 1].model.scores.accuracy.unwrap();
        let (first, last) = (end(from), end(to));
        let height = 0.012 * self.noise() + 0.012;
        let points = (0..=10).map(|step| {
            let share = f64::from(step) / 10.0;
            let straight = first + share * (last - first);
            (share, straight + height * share * (1.0 - share))
        });
        Segment {
            from,
            to,
            points: points.collect(),
        }
    }

    fn distances(&mut self, count: usize) -> Distances {
        let mut matrix = |most: f64| {
            let mut rows: Vec<Vec<f64>> = Vec::new();
            for ordinal in 0..count {
                let mut row: Vec<f64> = rows.iter().map(|row| row[ordinal]).collect();
                row.push(0.0);
                row.resize_with(count, || most * (1.0 + 0.3 * self.noise()));
                rows.push(row);
            }
            rows
        };
        Distances {
            l2: matrix(3.2),
            angles: matrix(21.0),
            to_soup: (0..count).map(|_| 1.9 + 0.2 * self.noise()).collect(),
        }
    }

    fn decisions(&mut self, count: usize) -> Vec<Decision> {
        let mut best = self.accuracy(0.88);
        let mut decisions = vec![Decision {
            ordinal: 1,
            score: best,
            before: None,
            kept: true,
        }];
        for ordinal in 2..=count {
            let score = self.accuracy(best);
            let kept = score >= best;
            decisions.push(Decision {
                ordinal,
                score,
                before: Some(best),
                kept,
            });
            best = best.max(score);
        }
        decisions
    }
}
