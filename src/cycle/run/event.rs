//! What happens in a run, for those who watch it and for the journal.

use serde::Serialize;

use crate::cycle::job::Progress;
use crate::cycle::store::Receipt;

/// What happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A step was found done.
    Reused {
        /// The step.
        step: usize,
        /// Its receipt.
        receipt: &'a Receipt,
    },
    /// A result was found damaged, and is made again.
    Discarded {
        /// The step.
        step: usize,
        /// What is wrong with it.
        why: &'a str,
    },
    /// A result is needed again that is no longer there.
    Missing {
        /// The step.
        step: usize,
    },
    /// A job was started.
    Started {
        /// The step.
        step: usize,
        /// How often it was started in this run.
        attempt: u32,
        /// Threads that it computes with.
        threads: usize,
    },
    /// A job told how far it is.
    Progress {
        /// The step.
        step: usize,
        /// How far.
        progress: Progress,
    },
    /// A job is done.
    Finished {
        /// The step.
        step: usize,
        /// Its receipt.
        receipt: &'a Receipt,
    },
    /// A job failed.
    Failed {
        /// The step.
        step: usize,
        /// Why.
        why: &'a str,
        /// Seconds until it is tried again; `None` if it is not.
        retry_secs: Option<f64>,
    },
}

/// Who watches a run.
pub trait Watch {
    /// Is told what happened.
    fn event(&mut self, event: &Event<'_>);

    /// Is told the receipts, by step, each time that another phase has its soup.
    fn soup(&mut self, receipts: &[Option<&Receipt>]);
}

/// A line of the journal.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    /// Milliseconds since 1970.
    pub(super) time_ms: u64,
    pub(super) event: &'static str,
    pub(super) step: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
}
