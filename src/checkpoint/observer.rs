//! How a pass over a checkpoint's bytes is watched and ended from outside.

use std::sync::atomic::AtomicBool;

/// Watches a pass and may end it.
#[derive(Clone, Copy)]
pub struct Observer<'a> {
    /// Is told of every stretch of bytes that has been read. Called by all threads.
    pub advance: &'a (dyn Fn(u64) + Sync),
    /// Ends the pass once set.
    pub interrupted: &'a AtomicBool,
}
