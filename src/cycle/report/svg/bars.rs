//! Upright bars from 0, with bars of error and a point for each value that they average.

use super::Mark;
use super::Size;
use super::coordinate;
use super::frame::Frame;
use super::lines::error_bar;
use super::scale::Scale;

use crate::cycle::report::markup::Markup;

/// Greatest width of a bar, and its share of the room that it has.
const WIDTH: f64 = 46.0;
const SHARE: f64 = 0.5;

/// A plot of bars.
#[derive(Debug)]
pub(crate) struct Bars {
    pub(crate) size: Size,
    /// What it shows, for those who cannot see it.
    pub(crate) title: String,
    /// What there is to see.
    pub(crate) description: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) bars: Vec<Bar>,
}

/// A bar.
#[derive(Debug)]
pub(crate) struct Bar {
    /// What stands below it.
    pub(crate) name: String,
    /// How high it is.
    pub(crate) value: f64,
    /// Half the length of its bar of error, if it has one.
    pub(crate) error: Option<f64>,
    /// The values that it averages.
    pub(crate) values: Vec<f64>,
}

impl Bars {
    pub(super) fn draw(&self, markup: &mut Markup) {
        let frame = Frame {
            size: self.size,
            title: &self.title,
            description: &self.description,
            x_label: &self.x_label,
            y_label: &self.y_label,
        };
        let values = self.bars.iter().flat_map(|bar| {
            let error = bar.error.unwrap_or(0.0);
            let ends = [bar.value - error, bar.value + error];
            bar.values.iter().copied().chain(ends)
        });
        let y = Scale::round(values.chain([0.0]), frame.up());
        let (left, right) = frame.across();
        let room = (right - left) / self.bars.len().max(1) as f64;
        let centre = |idx: usize| left + room * (idx as f64 + 0.5);
        let names = self.bars.iter().enumerate();
        let ticks: Vec<(f64, String)> = names
            .map(|(idx, bar)| (centre(idx), bar.name.clone()))
            .collect();
        frame.draw(markup, &ticks, &y, |markup| {
            for (idx, bar) in self.bars.iter().enumerate() {
                bar.draw(markup, centre(idx), (SHARE * room).min(WIDTH), &y);
            }
            let zero = format!("M{left} {}H{right}", coordinate(y.at(0.0)));
            markup.empty("path", &[("class", "zero"), ("d", &zero)]);
        });
    }
}

impl Bar {
    fn draw(&self, markup: &mut Markup, centre: f64, width: f64, y: &Scale) {
        if !self.value.is_finite() {
            return;
        }
        let class = if self.value < 0.0 { "c2" } else { "c1" };
        let (zero, end) = (y.at(0.0), y.at(self.value));
        markup.element("g", &[("class", class)], |markup| {
            let attributes = [
                ("class", "column"),
                ("x", &coordinate(centre - width / 2.0)),
                ("y", &coordinate(zero.min(end))),
                ("width", &coordinate(width)),
                ("height", &coordinate((zero - end).abs())),
            ];
            markup.empty("rect", &attributes);
            let finite = self.values.iter().filter(|value| value.is_finite());
            let finite: Vec<f64> = finite.copied().collect();
            for (idx, &value) in finite.iter().enumerate() {
                // Side by side, so that equal ones are seen.
                let share = (idx as f64 + 0.5) / finite.len() as f64 - 0.5;
                let path = Mark::Circle.path(centre + share * width, y.at(value));
                markup.empty("path", &[("class", "point"), ("d", &path)]);
            }
            if let Some(error) = self.error.filter(|error| error.is_finite()) {
                let ends = (y.at(self.value - error), y.at(self.value + error));
                markup.empty(
                    "path",
                    &[("class", "error"), ("d", &error_bar(centre, ends))],
                );
            }
        });
        markup.line();
    }
}
