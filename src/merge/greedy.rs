//! Greedy soups: ingredients and someone who can say how good a checkpoint is walk in,
//! a [`Selection`] walks out. Does not know what is measured, or how.
//!
//! The soup itself is then an ordinary merge of what is kept, with the options of
//! [`MergeOptions::with_selection`].

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::Destination;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::checkpoint::OpenOptions;
use crate::connectivity::MismatchPolicy;
use crate::format::replace::Durability;
use crate::format::replace::Existing;
use crate::kernel::Weights;
use crate::merge::MergeError;
use crate::merge::options::MergeOptions;
use crate::merge::options::Method;
use crate::merge::plan::MergePlan;
use crate::merge::run::merge;
use crate::merge::run::scan;
use crate::merge::selection::Better;
use crate::merge::selection::Candidate;
use crate::merge::selection::Decision;
use crate::merge::selection::OnTie;
use crate::merge::selection::Selection;

/// Says how good a checkpoint is.
pub trait Evaluate {
    /// The score of the checkpoint at this path, which is only read: an ingredient, or a
    /// soup that is gone after the call. Must be finite.
    ///
    /// Of networks with batch norm, the statistics of a soup are averages that no
    /// ingredient measured: estimate them again before measuring, and those of
    /// ingredients alike, so that all are compared on equal terms.
    ///
    /// # Errors
    /// Whatever prevents it; the choice ends with it.
    fn score(&mut self, checkpoint: &Path) -> Result<f64, Box<dyn Error + Send + Sync>>;
}

/// What happens on the way to a [`Selection`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A candidate was evaluated alone.
    Scored {
        /// Its position among the candidates.
        candidate: usize,
        /// How good it is.
        score: f64,
    },
    /// It was decided about a candidate.
    Decided(Decision),
}

/// What a greedy soup is chosen from, and how.
#[derive(Clone)]
pub struct Greedy<'a> {
    /// The candidates, in the order of summation.
    pub paths: &'a [PathBuf],
    /// Their mask file, if there is one.
    pub mask_file: Option<&'a Path>,
    /// How files are opened.
    pub open: OpenOptions,
    /// How soups are merged; their method, weights and selection are put in here.
    pub options: &'a MergeOptions,
    /// Which scores are better.
    pub better: Better,
    /// What becomes of candidates that make no difference.
    pub on_tie: OnTie,
    /// An empty directory where soups may be written while they are evaluated.
    pub scratch: &'a Path,
    /// Is told what happens.
    pub watch: &'a dyn Fn(Event),
}

/// Why there is no choice.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GreedyError {
    /// A candidate or the mask file cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The candidates cannot be compared, or some of them not be merged.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// Masks that differ were to be made one.
    #[error(
        "a greedy soup compares soups of one mask, so masks that differ cannot be made one by \
         `{}`",
        policy.name()
    )]
    Policy {
        /// The policy.
        policy: MismatchPolicy,
    },
    /// A checkpoint cannot be evaluated.
    #[error("{} cannot be evaluated", subject(members))]
    Evaluate {
        /// The candidate, or those that the soup consists of.
        members: Vec<PathBuf>,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A score is NaN or infinite.
    #[error(
        "{} has a score of {score}, expected a finite number",
        subject(members)
    )]
    NotFinite {
        /// The candidate, or those that the soup consists of.
        members: Vec<PathBuf>,
        /// The score.
        score: f64,
    },
    /// A soup that was evaluated cannot be removed.
    #[error("`{}` cannot be removed", path.display())]
    Remove {
        /// The soup.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What was evaluated, in words.
fn subject(members: &[PathBuf]) -> String {
    let names: Vec<String> = members
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("the soup of {} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Chooses which candidates a soup is made of, as [`Selection`] says.
///
/// Before anything is evaluated, all candidates are proved to share one mask, those too
/// that will be dropped. Each is evaluated once, and then one soup for each but the best.
///
/// # Errors
/// [`GreedyError`]; [`MergeError::Interrupted`] as soon as the observer says so. The
/// scratch directory holds then what it held, unless a soup cannot be removed.
pub fn choose(
    greedy: &Greedy<'_>,
    evaluate: &mut dyn Evaluate,
    observer: Observer<'_>,
) -> Result<Selection, GreedyError> {
    let mut selection = Selection {
        better: greedy.better,
        on_tie: greedy.on_tie,
        candidates: greedy.prove(observer)?,
        decisions: Vec::new(),
    };
    for candidate in 0..greedy.paths.len() {
        let path = &greedy.paths[candidate];
        let score = greedy.score(evaluate, path, &[candidate], observer)?;
        selection.candidates[candidate].score = score;
        (greedy.watch)(Event::Scored { candidate, score });
    }
    for candidate in selection.ranking() {
        let alone = selection.candidates[candidate].score;
        let (score, is_kept) = match selection.score() {
            None => (alone, true),
            Some(without) => {
                let mut members = selection.kept();
                members.push(candidate);
                members.sort_unstable();
                let with = greedy.score_soup(evaluate, &members, &selection, observer)?;
                (with, selection.keeps(with, without))
            }
        };
        let decision = Decision {
            candidate,
            score,
            is_kept,
        };
        selection.decisions.push(decision);
        (greedy.watch)(Event::Decided(decision));
    }
    Ok(selection)
}

impl Greedy<'_> {
    /// Proves that all candidates share one mask, and digests them.
    fn prove(&self, observer: Observer<'_>) -> Result<Vec<Candidate>, GreedyError> {
        let found = self.paths.len();
        if found < 2 {
            return Err(MergeError::TooFew { found }.into());
        }
        let policy = self.options.rules.policy;
        if policy != MismatchPolicy::Error {
            return Err(GreedyError::Policy { policy });
        }
        let everyone: Vec<usize> = (0..found).collect();
        let (ingredients, options) = self.join(&everyone)?;
        let plan = MergePlan::new(&ingredients, &options)?;
        let scanned = scan(plan, &ingredients, &options, observer)?;
        scanned.connectivity.map_err(MergeError::Connectivity)?;
        let digests = scanned.outcome.ingredients;
        let checkpoints = ingredients.checkpoints().iter().zip(digests);
        checkpoints
            .map(|(checkpoint, digest)| {
                checkpoint.check_unchanged().map_err(MergeError::Source)?;
                Ok(Candidate {
                    name: checkpoint.display_name(),
                    digest,
                    score: 0.0,
                })
            })
            .collect()
    }

    /// Some of the candidates, and the options of their uniform soup.
    fn join(&self, members: &[usize]) -> Result<(Ingredients, MergeOptions), GreedyError> {
        let open = |path: &Path| Checkpoint::open(path, &self.open);
        let checkpoints = members.iter().map(|&member| open(&self.paths[member]));
        let checkpoints = checkpoints.collect::<Result<_, _>>()?;
        let options = MergeOptions {
            method: Method::Uniform,
            weights: Weights::uniform(members.len()).map_err(MergeError::Weights)?,
            selection: None,
            distances: false,
            ..self.options.clone()
        };
        let mask_file = self.mask_file.map(open).transpose()?;
        let dtypes = options.dtype_rule();
        let joined =
            Ingredients::join_picked(checkpoints, mask_file, dtypes, |name| options.pick(name));
        Ok((joined.map_err(MergeError::Ingredients)?, options))
    }

    /// How good the uniform soup of `members` is.
    fn score_soup(
        &self,
        evaluate: &mut dyn Evaluate,
        members: &[usize],
        selection: &Selection,
        observer: Observer<'_>,
    ) -> Result<f64, GreedyError> {
        let (ingredients, mut options) = self.join(members)?;
        let is_directory = |checkpoint: &Checkpoint| checkpoint.directory().is_some();
        // What can read the ingredients can then read the soup.
        let path = match ingredients.checkpoints().iter().all(is_directory) {
            true => self.scratch.join("soup"),
            false => {
                options.shard_bytes = None;
                self.scratch.join("soup.safetensors")
            }
        };
        let destination = Destination::resolve(
            &path,
            &ingredients,
            options.shard_bytes,
            Existing::Refuse,
            Durability::Unsynced,
        );
        let destination = destination.map_err(MergeError::Output)?;
        let plan = MergePlan::new(&ingredients, &options)?;
        let merged = merge(
            plan,
            &ingredients,
            &options,
            &destination,
            Vec::new(),
            observer,
        )?;
        let found = &merged.outcome.ingredients;
        let score = match selection.changed(members, found) {
            Some(changed) => Err(MergeError::NotAsJudged {
                path: self.paths[members[changed]].clone(),
            }
            .into()),
            None => self.score(evaluate, &path, members, observer),
        };
        let removed = remove(&path);
        let score = score?;
        removed.map_err(|source| GreedyError::Remove { path, source })?;
        Ok(score)
    }

    fn score(
        &self,
        evaluate: &mut dyn Evaluate,
        checkpoint: &Path,
        members: &[usize],
        observer: Observer<'_>,
    ) -> Result<f64, GreedyError> {
        let is_interrupted = || observer.interrupted.load(Ordering::Relaxed);
        if is_interrupted() {
            return Err(MergeError::Interrupted.into());
        }
        let found = evaluate.score(checkpoint);
        // Whatever an evaluation says that was told to stop.
        if is_interrupted() {
            return Err(MergeError::Interrupted.into());
        }
        let paths = || members.iter().map(|&member| self.paths[member].clone());
        let score = found.map_err(|source| GreedyError::Evaluate {
            members: paths().collect(),
            source,
        })?;
        if !score.is_finite() {
            let members = paths().collect();
            return Err(GreedyError::NotFinite { members, score });
        }
        // A negative zero is none.
        Ok(score + 0.0)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}
