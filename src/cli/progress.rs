//! A progress bar: counts of bytes walk in, a line on standard error that is gone at
//! the end walks out. Nothing where nobody looks.

use std::io;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

use crate::cli::args::ReportArguments;

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
