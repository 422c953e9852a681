//! What types leave open: ranges, and values that do not go together.

use super::Distribution;
use super::Method;
use super::Recipe;
use super::RecipeError;
use super::SparsitySchedule;
use super::Tie;
use crate::connectivity::NamePatterns;
use crate::cycle::executor::Template;
use crate::cycle::job::MEASURE_PLACEHOLDERS;
use crate::cycle::job::PLACEHOLDERS;
use crate::kernel::Normalization;
use crate::kernel::Weights;
use crate::prune::Schedule;
use crate::prune::Target;

/// Sparsity after the last phase where the recipe does not say.
const SPARSITY: f64 = 0.9;
/// Number of phases where the recipe does not say.
const PHASES: u32 = 3;
/// Longest first pause before a step is tried again: a day.
const MOST_BACKOFF_SECS: f64 = 86_400.0;
/// Most phases, seeds and ingredients: more are a slip of the keyboard.
pub(super) const MOST: usize = 1000;

/// What a pattern is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternKind {
    /// Single weights.
    Unstructured,
    /// Whole output channels.
    Channels,
    /// At most n of every m weights.
    Groups(u64, u64),
}

impl PatternKind {
    /// The pattern that a recipe spells.
    ///
    /// # Errors
    /// [`RecipeError::Field`] if it is none.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let groups = || {
            let (n, m) = text.split_once(':')?;
            let (n, m) = (n.parse().ok()?, m.parse().ok()?);
            Target::checked_pattern(n, m).ok()?;
            Some(Self::Groups(n, m))
        };
        match text {
            "unstructured" => Ok(Self::Unstructured),
            "channels" => Ok(Self::Channels),
            _ => groups().ok_or_else(|| RecipeError::Field {
                field: "pruning.pattern".to_owned(),
                found: format!("`{text}`"),
                expected: "`unstructured`, `channels`, or n:m with m one of 2, 4, 8, 16 and 32"
                    .to_owned(),
            }),
        }
    }
}

pub(super) fn field(
    is_legal: bool,
    name: &str,
    found: impl ToString,
    expected: &str,
) -> Result<(), RecipeError> {
    if is_legal {
        return Ok(());
    }
    Err(RecipeError::Field {
        field: name.to_owned(),
        found: found.to_string(),
        expected: expected.to_owned(),
    })
}

impl Recipe {
    pub(super) fn check(&self) -> Result<(), RecipeError> {
        let counted = |len: usize| (1..=MOST).contains(&len);
        let between = "between 1 and 1000";
        field(
            counted(self.seeds.len()),
            "seeds",
            format!("a list of {}", self.seeds.len()),
            between,
        )?;
        if let Some(pair) = sorted(&self.seeds)
            .windows(2)
            .find(|pair| pair[0] == pair[1])
        {
            field(
                false,
                "seeds",
                format!("{} twice", pair[0]),
                "seeds that differ",
            )?;
        }
        self.check_pruning()?;
        self.check_trainings()?;
        self.check_ingredients()?;
        self.check_effects()?;
        self.check_merge()?;
        self.check_rest()
    }

    /// Sparsity after each phase.
    pub fn sparsities(&self) -> Vec<f64> {
        let pruning = &self.pruning;
        if let Some(given) = &pruning.sparsities {
            return given.clone();
        }
        if let Ok(PatternKind::Groups(n, m)) = self.pattern() {
            return vec![1.0 - n as f64 / m as f64];
        }
        let target = pruning.sparsity.unwrap_or(SPARSITY);
        let phases = pruning.phases.unwrap_or(PHASES);
        let schedule = match pruning.schedule {
            SparsitySchedule::Geometric => Schedule::Geometric,
            SparsitySchedule::Cubic => Schedule::Cubic,
        };
        (1..=phases)
            .map(|phase| {
                let sparsity = schedule.sparsity(0.0, target, phase, phases);
                sparsity.expect("the sparsity was checked")
            })
            .collect()
    }

    /// What the pattern is.
    ///
    /// # Errors
    /// [`RecipeError::Field`] if it is none.
    pub fn pattern(&self) -> Result<PatternKind, RecipeError> {
        PatternKind::parse(&self.pruning.pattern)
    }

    fn check_pruning(&self) -> Result<(), RecipeError> {
        let pruning = &self.pruning;
        let is_sparsity = |sparsity: f64| (0.0..1.0).contains(&sparsity) && sparsity > 0.0;
        let range = "a number between 0 and 1";
        if let Some(sparsity) = pruning.sparsity {
            field(is_sparsity(sparsity), "pruning.sparsity", sparsity, range)?;
        }
        if let Some(phases) = pruning.phases {
            let is_legal = (1..=MOST as u32).contains(&phases);
            field(is_legal, "pruning.phases", phases, "between 1 and 1000")?;
        }
        if let Some(given) = &pruning.sparsities {
            field(
                !given.is_empty(),
                "pruning.sparsities",
                "empty",
                "one number per phase",
            )?;
            for &sparsity in given {
                field(is_sparsity(sparsity), "pruning.sparsities", sparsity, range)?;
            }
            if let Some(pair) = given.windows(2).find(|pair| pair[1] <= pair[0]) {
                let found = format!("{} after {}", pair[1], pair[0]);
                field(false, "pruning.sparsities", found, "ascending numbers")?;
            }
            for (name, is_given) in [
                ("pruning.sparsity", pruning.sparsity.is_some()),
                ("pruning.phases", pruning.phases.is_some()),
            ] {
                if is_given {
                    return Err(RecipeError::Conflict {
                        first: "pruning.sparsities".to_owned(),
                        second: name.to_owned(),
                        why: "the list says both",
                    });
                }
            }
        }
        match self.pattern()? {
            PatternKind::Groups(..) => {
                let given = [
                    (pruning.sparsity.is_some(), "pruning.sparsity"),
                    (pruning.sparsities.is_some(), "pruning.sparsities"),
                    (
                        pruning.phases.is_some_and(|phases| phases > 1),
                        "pruning.phases",
                    ),
                    (
                        pruning.distribution != Distribution::Global,
                        "pruning.distribution",
                    ),
                ];
                if let Some((_, name)) = given.into_iter().find(|(is_given, _)| *is_given) {
                    return Err(RecipeError::Conflict {
                        first: "pruning.pattern".to_owned(),
                        second: name.to_owned(),
                        why: "an n:m pattern says by itself what is pruned, in one phase",
                    });
                }
            }
            PatternKind::Channels => {
                let is_legal = matches!(
                    pruning.distribution,
                    Distribution::Global | Distribution::Uniform
                );
                let name = format!("{:?}", pruning.distribution).to_lowercase();
                let expected = "`global` or `uniform` with the pattern `channels`";
                field(is_legal, "pruning.distribution", name, expected)?;
            }
            PatternKind::Unstructured => {}
        }
        for (name, patterns) in [
            ("pruning.include", &pruning.include),
            ("pruning.exclude", &pruning.exclude),
        ] {
            if let Err((text, error)) = NamePatterns::new(patterns) {
                let found = format!("`{text}`, which is no pattern: {error}");
                field(false, name, found, "shell patterns over whole names")?;
            }
        }
        Ok(())
    }

    fn check_trainings(&self) -> Result<(), RecipeError> {
        let pretraining = &self.pretraining.training;
        if pretraining
            .schedule
            .is_some_and(|name| name.method().is_some())
        {
            return Err(RecipeError::Ignored {
                field: "pretraining.schedule".to_owned(),
                why: "it takes its rates from a training before, and there is none",
            });
        }
        if self.retraining.rewind_epoch == Some(0) {
            let expected = "an epoch of the pretraining, from 1";
            field(false, "retraining.rewind_epoch", 0, expected)?;
        }
        if self.retraining.rewind_epoch.is_some() && self.pretraining.checkpoint.is_some() {
            return Err(RecipeError::Conflict {
                first: "retraining.rewind_epoch".to_owned(),
                second: "pretraining.checkpoint".to_owned(),
                why: "a checkpoint that is given has no earlier epochs",
            });
        }
        if self.retraining.rewind_epoch.is_some() && self.trainer.is_some() {
            return Err(RecipeError::Conflict {
                first: "retraining.rewind_epoch".to_owned(),
                second: "trainer.command".to_owned(),
                why: "only the embedded trainer keeps the weights of an early epoch",
            });
        }
        Ok(())
    }

    fn check_merge(&self) -> Result<(), RecipeError> {
        let (merge, count) = (&self.merge, self.n_ingredients());
        match merge.method {
            Method::Weighted => {
                let len = merge.weights.len();
                let expected = format!("{count}, one per ingredient");
                let found = format!("a list of {len}");
                field(len == count, "merge.weights", found, &expected)?;
                let weights = Weights::new(merge.weights.clone(), Normalization::SumToOne);
                if let Err(error) = weights {
                    let found = format!("{:?}", merge.weights);
                    field(false, "merge.weights", found, &error.to_string())?;
                }
                let min = self.ingredients.min.unwrap_or(count);
                let expected = "all, where each has its own weight";
                field(min == count, "ingredients.min", min, expected)
            }
            Method::Uniform | Method::Greedy if !merge.weights.is_empty() => {
                Err(RecipeError::Ignored {
                    field: "merge.weights".to_owned(),
                    why: "only the method `weighted` takes weights",
                })
            }
            Method::Uniform if merge.tie != Tie::default() => Err(RecipeError::Ignored {
                field: "merge.tie".to_owned(),
                why: "only the method `greedy` meets ties",
            }),
            Method::Uniform | Method::Greedy => Ok(()),
        }
    }

    fn check_rest(&self) -> Result<(), RecipeError> {
        let validation = self.data.validation;
        let share = "a number of at least 0 and below 1";
        let is_share = (0.0..1.0).contains(&validation);
        field(is_share, "data.validation", validation, share)?;
        if self.merge.method == Method::Greedy && validation == 0.0 {
            let expected = "above 0: the greedy soup is chosen by validation accuracy";
            field(false, "data.validation", validation, expected)?;
        }
        let commands = [
            (
                "trainer.command",
                self.trainer.as_ref().map(|trainer| &trainer.command),
                PLACEHOLDERS.as_slice(),
            ),
            (
                "evaluation.command",
                self.evaluation.command.as_ref(),
                MEASURE_PLACEHOLDERS.as_slice(),
            ),
        ];
        for (field, command, known) in commands {
            if let Some(command) = command {
                Template::parse(command, known)
                    .map_err(|source| RecipeError::Command { field, source })?;
            }
        }
        let batch_size = self.recalibration.batch_size;
        let expected = "at least 2";
        field(
            batch_size > 1,
            "recalibration.batch_size",
            batch_size,
            expected,
        )?;
        let images = self.recalibration.images;
        field(
            images.is_none_or(|images| images > 1),
            "recalibration.images",
            images.unwrap_or_default(),
            "at least 2",
        )?;
        let evaluation = &self.evaluation;
        if evaluation.command.is_none() && evaluation.metric.is_some() {
            return Err(RecipeError::Ignored {
                field: "evaluation.metric".to_owned(),
                why: "only an `evaluation.command` prints metrics",
            });
        }
        for (name, is_asked) in [
            ("evaluation.segment_points", evaluation.segment_points > 0),
            ("evaluation.ood", evaluation.ood),
        ] {
            if is_asked && evaluation.command.is_some() {
                return Err(RecipeError::Conflict {
                    first: "evaluation.command".to_owned(),
                    second: name.to_owned(),
                    why: "the embedded evaluator measures that, and numbers of two evaluators \
                          are not held against each other",
                });
            }
        }
        let points = evaluation.segment_points;
        let expected = "0, or between 3 and 101";
        let is_legal = points == 0 || (3..=101).contains(&points);
        field(is_legal, "evaluation.segment_points", points, expected)?;
        if let Some(trainer) = &self.trainer {
            for (name, limit) in [
                ("trainer.timeout_secs", trainer.timeout_secs),
                ("trainer.stall_secs", trainer.stall_secs),
            ] {
                field(limit != Some(0), name, 0, "at least 1")?;
            }
        }
        let run = &self.run;
        if let Some(jobs) = run.jobs {
            let is_legal = (1..=1024).contains(&jobs);
            field(is_legal, "run.jobs", jobs, "between 1 and 1024")?;
        }
        let backoff = run.backoff_secs;
        let is_legal = (0.0..=MOST_BACKOFF_SECS).contains(&backoff);
        field(
            is_legal,
            "run.backoff_secs",
            backoff,
            "a number between 0 and 86400",
        )
    }
}

fn sorted(seeds: &[u64]) -> Vec<u64> {
    let mut sorted = seeds.to_vec();
    sorted.sort_unstable();
    sorted
}
