//! Steps that prune.

use std::path::Path;

use super::Bench;
use super::JobError;
use super::Made;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Destination;
use crate::checkpoint::MaskLayout;
use crate::checkpoint::Observer;
use crate::checkpoint::OpenOptions;
use crate::connectivity::MismatchPolicy;
use crate::connectivity::NamePatterns;
use crate::cycle::findings::Layer;
use crate::cycle::recipe::Distribution;
use crate::cycle::recipe::PatternKind;
use crate::cycle::work::Cut;
use crate::cycle::work::Prune;
use crate::cycle::work::Reprune;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::kernel::Weights;
use crate::merge::MergeOptions;
use crate::merge::Method;
use crate::prune::Amount;
use crate::prune::ChannelDistribution;
use crate::prune::Effort;
use crate::prune::Outputs;
use crate::prune::PrunableRule;
use crate::prune::Pruned;
use crate::prune::Subject;
use crate::prune::Target;
use crate::prune::apply;
use crate::prune::select;

impl Cut {
    fn rule(&self) -> PrunableRule {
        // Patterns were compiled when the recipe was read.
        let patterns = |texts: &[String]| NamePatterns::new(texts).unwrap_or_default();
        PrunableRule {
            include: patterns(&self.include),
            exclude: patterns(&self.exclude),
        }
    }

    fn target(&self) -> Result<Target, JobError> {
        let amount = Amount::Sparsity(self.sparsity);
        Ok(match PatternKind::parse(&self.pattern)? {
            PatternKind::Groups(n, m) => Target::checked_pattern(n, m)?,
            PatternKind::Channels => Target::Channels {
                amount,
                distribution: match self.distribution {
                    Distribution::Uniform => ChannelDistribution::Uniform,
                    _ => ChannelDistribution::Global,
                },
            },
            PatternKind::Unstructured => Target::Weights {
                amount,
                distribution: match self.distribution {
                    Distribution::Global => crate::prune::Distribution::Global,
                    Distribution::Uniform => crate::prune::Distribution::Uniform,
                    Distribution::Erk => crate::prune::Distribution::Erk,
                    Distribution::Lamp => crate::prune::Distribution::Lamp,
                    Distribution::Random => crate::prune::Distribution::Random { seed: self.seed },
                },
            },
        })
    }
}

/// The prunable tensors of a pruned checkpoint.
fn layers(pruned: &Pruned) -> Vec<Layer> {
    let prunable = pruned.tensors.iter().filter(|tensor| tensor.mask.is_some());
    prunable
        .map(|tensor| Layer {
            name: tensor.name.clone(),
            numel: tensor.shape.numel(),
            retained: tensor.retained(),
        })
        .collect()
}

impl Bench<'_> {
    /// Prunes the base. With `early`, its mask is put on the early weights.
    pub(super) fn prune(&self, prune: &Prune) -> Result<Made, JobError> {
        let (checkpoint, mask) = (self.output("checkpoint"), self.output("mask"));
        let base = self.input("base")?;
        let early = self.optional("early");
        let output = early.is_none().then_some(checkpoint.as_path());
        let pruned = self.cut(&base, &prune.cut, output, Some(&mask))?;
        if let Some(early) = early {
            self.put_mask(&early, &mask, &checkpoint)?;
        }
        let mut made = Made::default();
        made.metrics.layers = layers(&pruned);
        made.metrics.model = self.measured(&prune.measure, &checkpoint)?;
        made.outputs.insert("checkpoint".to_owned(), checkpoint);
        made.outputs.insert("mask".to_owned(), mask);
        Ok(made)
    }

    /// Averages networks whose masks differ, and prunes the average.
    pub(super) fn reprune(&self, reprune: &Reprune) -> Result<Made, JobError> {
        let ingredients = self.ingredients()?;
        let scratch = self.attempt.scratch();
        let averaged = scratch.join("average.st");
        let weights = Weights::uniform(ingredients.len())?;
        let mut options = MergeOptions::new(Method::Uniform, weights);
        options.rules.policy = MismatchPolicy::Union;
        self.average(&ingredients, None, &options, &averaged)?;
        let pruned_path = scratch.join("pruned.st");
        let (checkpoint, mask) = (self.output("checkpoint"), self.output("mask"));
        let pruned = self.cut(&averaged, &reprune.cut, Some(&pruned_path), Some(&mask))?;
        let mut made = Made::default();
        made.metrics.layers = layers(&pruned);
        made.metrics.model = self.recalibrated(&reprune.measure, &pruned_path, &checkpoint)?;
        made.outputs.insert("checkpoint".to_owned(), checkpoint);
        made.outputs.insert("mask".to_owned(), mask);
        Ok(made)
    }

    /// Prunes what the mask says, and nothing else.
    pub(super) fn put_mask(
        &self,
        checkpoint: &Path,
        mask: &Path,
        output: &Path,
    ) -> Result<(), JobError> {
        let options = OpenOptions::default();
        let checkpoint = Checkpoint::open(checkpoint, &options)?;
        let mask = Checkpoint::open(mask, &options)?;
        let subject = Subject::with_mask(checkpoint, mask)?;
        self.cut_subject(&subject, &Target::Given, Some(output), None)?;
        Ok(())
    }

    fn cut(
        &self,
        base: &Path,
        cut: &Cut,
        output: Option<&Path>,
        mask: Option<&Path>,
    ) -> Result<Pruned, JobError> {
        let checkpoint = Checkpoint::open(base, &OpenOptions::default())?;
        let subject = Subject::new(checkpoint, None, &cut.rule())?;
        self.cut_subject(&subject, &cut.target()?, output, mask)
    }

    fn cut_subject(
        &self,
        subject: &Subject,
        target: &Target,
        output: Option<&Path>,
        mask: Option<&Path>,
    ) -> Result<Pruned, JobError> {
        let destination = |path: Option<&Path>| {
            let resolve = |path| {
                let ingredients = subject.ingredients();
                let (existing, durability) = (Existing::Refuse, Durability::Unsynced);
                Destination::resolve(path, ingredients, None, existing, durability)
            };
            path.map(resolve).transpose()
        };
        let (output, mask) = (destination(output)?, destination(mask)?);
        let effort = Effort {
            threads: self.around.threads,
            observer: self.observer(),
        };
        let selection = select(subject, target, effort)?;
        let outputs = Outputs {
            checkpoint: output.as_ref(),
            mask: mask.as_ref(),
            layout: MaskLayout::Dense,
            shard_bytes: None,
        };
        Ok(apply(subject, &selection, outputs, effort)?)
    }

    /// Whom long passes over bytes look to: only the flag matters.
    pub(super) fn observer(&self) -> Observer<'_> {
        Observer {
            advance: &|_| {},
            interrupted: self.around.interrupted,
        }
    }
}
