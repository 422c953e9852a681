//! Lines with marks and bars of error, over bands.

use super::Size;
use super::Style;
use super::coordinate;
use super::frame::Frame;
use super::scale::Scale;

use crate::cycle::report::markup::Markup;

/// Distance of the marks of two lines at one value, where they are put side by side.
const STEP: f64 = 7.0;

/// Most round values that are named on a lying axis.
const X_TICKS: usize = 6;

/// A plot of lines.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) size: Size,
    /// What it shows, for those who cannot see it.
    pub(crate) title: String,
    /// What there is to see.
    pub(crate) description: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    /// Values that are named on the lying axis; round ones if there are none here.
    pub(crate) x_ticks: Vec<(f64, String)>,
    pub(crate) bands: Vec<Band>,
    pub(crate) rule: Option<Rule>,
    pub(crate) series: Vec<Series>,
}

/// A line.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) style: Style,
    pub(crate) places: Vec<Place>,
}

/// A point of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Half the length of its bar of error, if it has one.
    pub(crate) error: Option<f64>,
}

/// From the least to the greatest of something.
#[derive(Debug)]
pub(crate) struct Band {
    /// Values across, and the least and the greatest there.
    pub(crate) edges: Vec<(f64, f64, f64)>,
}

/// A dashed line across the plot.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) y: f64,
    pub(crate) name: String,
}

impl Lines {
    /// Whether there is nothing to draw.
    pub(crate) fn is_empty(&self) -> bool {
        let mut places = self.series.iter().flat_map(|series| &series.places);
        !places.any(Place::is_finite)
    }

    pub(super) fn draw(&self, markup: &mut Markup) {
        let frame = Frame {
            size: self.size,
            title: &self.title,
            description: &self.description,
            x_label: &self.x_label,
            y_label: &self.y_label,
        };
        let places = || {
            let places = self.series.iter().flat_map(|series| &series.places);
            places.filter(|place| place.is_finite())
        };
        let edges = || self.bands.iter().flat_map(|band| &band.edges);
        let across = places().map(|place| place.x);
        let x = Scale::round(across.chain(edges().map(|edge| edge.0)), frame.across());
        let up = places()
            .flat_map(|place| [place.y - place.half(), place.y + place.half()])
            .chain(edges().flat_map(|edge| [edge.1, edge.2]))
            .chain(self.rule.iter().map(|rule| rule.y));
        let y = Scale::round(up, frame.up());
        let ticks = if self.x_ticks.is_empty() {
            x.ticks(X_TICKS)
        } else {
            self.x_ticks.clone()
        };
        let ticks: Vec<(f64, String)> = ticks
            .into_iter()
            .map(|(value, text)| (x.at(value), text))
            .collect();
        frame.draw(markup, &ticks, &y, |markup| {
            for band in &self.bands {
                band.draw(markup, &x, &y);
            }
            if let Some(rule) = &self.rule {
                rule.draw(markup, frame.across(), &y);
            }
            // What matters most is drawn last, above the rest.
            let mut order: Vec<usize> = (0..self.series.len()).collect();
            order.sort_by_key(|&idx| self.series[idx].style.is_main);
            for idx in order {
                self.series[idx].draw(markup, &x, &y, self.shift(idx));
            }
        });
    }

    /// How far a line's marks stand beside their value, so that bars of error are apart.
    fn shift(&self, idx: usize) -> f64 {
        let has_errors = |series: &Series| series.places.iter().any(|place| place.half() > 0.0);
        if self.series.iter().any(has_errors) {
            (idx as f64 - (self.series.len() - 1) as f64 / 2.0) * STEP
        } else {
            0.0
        }
    }
}

impl Place {
    /// Whether it can be drawn.
    fn is_finite(&self) -> bool {
        self.x.is_finite() && self.y.is_finite()
    }

    fn half(&self) -> f64 {
        self.error.filter(|error| error.is_finite()).unwrap_or(0.0)
    }
}

impl Series {
    fn draw(&self, markup: &mut Markup, x: &Scale, y: &Scale, shift: f64) {
        let places: Vec<&Place> = self
            .places
            .iter()
            .filter(|place| place.is_finite())
            .collect();
        let Some(last) = places.last() else {
            return;
        };
        let at = |place: &Place| (x.at(place.x) + shift, y.at(place.y));
        markup.element("g", &[("class", &self.style.class())], |markup| {
            if places.len() > 1 {
                let line = path(places.iter().map(|place| at(place)));
                markup.empty("path", &[("class", "line"), ("d", &line)]);
            }
            for place in &places {
                let half = place.half();
                if half > 0.0 {
                    let (x, _) = at(place);
                    let ends = (y.at(place.y - half), y.at(place.y + half));
                    markup.empty("path", &[("class", "error"), ("d", &error_bar(x, ends))]);
                }
            }
            // Of long lines only the end is marked.
            let marked: &[&Place] = if places.len() > MARKED {
                &[last]
            } else {
                &places
            };
            for place in marked {
                let (x, y) = at(place);
                self.style.draw_mark(markup, x, y, Some(&self.name));
            }
        });
        markup.line();
    }
}

/// Most points of a line of which each is marked.
const MARKED: usize = 12;

/// A line from one value to another, with short lines across its ends.
pub(super) fn error_bar(x: f64, ends: (f64, f64)) -> String {
    let (x, left) = (coordinate(x), coordinate(x - 3.0));
    let (from, to) = (coordinate(ends.0), coordinate(ends.1));
    format!("M{x} {from}V{to}M{left} {from}h6M{left} {to}h6")
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let points: Vec<String> = points
        .map(|(x, y)| format!("{} {}", coordinate(x), coordinate(y)))
        .collect();
    format!("M{}", points.join("L"))
}

impl Band {
    fn draw(&self, markup: &mut Markup, x: &Scale, y: &Scale) {
        let is_finite = |edge: &&(f64, f64, f64)| {
            edge.0.is_finite() && edge.1.is_finite() && edge.2.is_finite()
        };
        let edges: Vec<&(f64, f64, f64)> = self.edges.iter().filter(is_finite).collect();
        if edges.is_empty() {
            return;
        }
        let lower = edges.iter().map(|edge| (x.at(edge.0), y.at(edge.1)));
        let upper = edges.iter().rev().map(|edge| (x.at(edge.0), y.at(edge.2)));
        let outline = path(lower.chain(upper)) + "Z";
        markup.empty("path", &[("class", "band"), ("d", &outline)]);
    }
}

impl Rule {
    fn draw(&self, markup: &mut Markup, across: (f64, f64), y: &Scale) {
        if !self.y.is_finite() {
            return;
        }
        let at = coordinate(y.at(self.y));
        let line = format!("M{} {at}H{}", across.0, across.1);
        markup.element("g", &[("class", "c0")], |markup| {
            markup.element("path", &[("class", "rule"), ("d", &line)], |markup| {
                markup.leaf("title", &[], &self.name);
            });
        });
    }
}
