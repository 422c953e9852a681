//! A progress bar that counts images.

use std::io;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

use crate::cli::args::ReportArguments;

const REDRAW: Duration = Duration::from_millis(100);

/// Images done, of how many, how fast, and how long it still takes.
pub(crate) struct ImageBar(ProgressBar);

impl ImageBar {
    /// A bar for `images`, shown only on a terminal and if the user did not decline.
    pub(crate) fn new(images: u64, report: &ReportArguments) -> Self {
        if report.quiet || report.json || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(images), ProgressDrawTarget::stderr());
        let template = "{wide_bar} {human_pos} of {human_len} images, {per_sec}, {eta} left";
        // A template is only wrong if it was written wrongly here; then there is a
        // plainer bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(REDRAW);
        Self(bar)
    }

    /// Counts `images` as done.
    pub(crate) fn advance(&self, images: u64) {
        self.0.inc(images);
    }

    /// Removes the bar, so that other lines can be written.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for ImageBar {
    fn drop(&mut self) {
        self.clear();
    }
}
