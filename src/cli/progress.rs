//! A progress bar: counts of bytes walk in, a line on standard error that is gone at
//! the end walks out. Nothing where nobody looks.

use std::io;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

use crate::cli::args::ReportArguments;
#[cfg(feature = "train")]
use crate::cli::text::note;

const REDRAW: Duration = Duration::from_millis(100);

/// Bytes done, of how many, how fast, and how long it still takes.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar for `bytes`, shown only on a terminal and if the user did not decline.
    pub(crate) fn new(bytes: u64, report: &ReportArguments) -> Self {
        if report.quiet || report.json || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
        let template =
            "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        // A template is only wrong if it was written wrongly here; then there is a
        // plainer bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(REDRAW);
        Self(bar)
    }

    /// Counts `bytes` as done. Callable from any thread.
    pub(crate) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Removes the bar, so that other lines can be written.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Steps done, of how many, and how long the rest still takes; lines above it.
#[cfg(feature = "train")]
pub(crate) struct Steps {
    bar: ProgressBar,
    shows_lines: bool,
}

#[cfg(feature = "train")]
impl Steps {
    /// A bar for `steps` steps of which some are done, shown only on a terminal and if
    /// the user did not decline.
    pub(crate) fn new(done: u64, steps: u64, report: &ReportArguments) -> Self {
        let shows_lines = !report.quiet && !report.json;
        if !shows_lines || !io::stderr().is_terminal() {
            let bar = ProgressBar::hidden();
            return Self { bar, shows_lines };
        }
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let template = "{prefix} {wide_bar} {msg}, {eta} left";
        // A template is only wrong if it was written wrongly here; then there is a
        // plainer bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_position(done);
        // Steps of an earlier run are not counted into the speed.
        bar.reset_eta();
        bar.enable_steady_tick(REDRAW);
        Self { bar, shows_lines }
    }

    /// Sets the steps done, and the epoch.
    pub(crate) fn at(&self, step: u64, epoch: u64, epochs: u64) {
        self.bar.set_position(step);
        self.bar.set_prefix(format!("epoch {epoch} of {epochs}"));
    }

    /// Says how it goes.
    pub(crate) fn say(&self, message: String) {
        self.bar.set_message(message);
    }

    /// A line that stays.
    pub(crate) fn line(&self, line: &str) {
        if self.shows_lines {
            self.bar.suspend(|| note(line));
        }
    }

    /// Removes the bar, so that other lines can be written.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
