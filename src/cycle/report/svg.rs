//! Plots as SVG: numbers in the unit in which they are shown walk in, an `svg` element
//! walks out.
//!
//! Colours and sizes of letters are classes, which the page's style sheet gives values, so
//! that plots follow light and dark and stay readable when they shrink. Kinds of lines
//! differ in their marks as well as in colour. Values that are not finite are not drawn.

mod bars;
mod frame;
mod lines;
mod scale;

use crate::cycle::report::contender::Contender;
use crate::cycle::report::markup::Markup;

pub(super) use bars::{Bar, Bars};
pub(super) use lines::{Band, Lines, Place, Rule, Series};

/// A plot.
#[derive(Debug)]
pub(super) enum Chart {
    /// Lines with marks.
    Lines(Lines),
    /// Upright bars from 0.
    Bars(Bars),
}

impl Chart {
    /// Writes the plot.
    pub(super) fn draw(&self, markup: &mut Markup) {
        match self {
            Self::Lines(lines) => lines.draw(markup),
            Self::Bars(bars) => bars.draw(markup),
        }
    }
}

/// How large a plot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// As wide as the page.
    Wide,
    /// One of several.
    Panel,
}

impl Size {
    /// Width and height in units of its own, which are pixels at most.
    fn units(self) -> (f64, f64) {
        match self {
            Self::Wide => (640.0, 360.0),
            Self::Panel => (400.0, 270.0),
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Panel => "panel",
        }
    }
}

/// Colour and mark of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    colour: usize,
    mark: Mark,
    is_main: bool,
}

/// Shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Circle,
    Triangle,
    Square,
    Diamond,
    Cross,
    Inverted,
    Plus,
    None,
}

/// Shapes that several of a kind take in turn.
const MARKS: [Mark; 7] = [
    Mark::Circle,
    Mark::Triangle,
    Mark::Square,
    Mark::Diamond,
    Mark::Cross,
    Mark::Inverted,
    Mark::Plus,
];

/// Number of colours in the style sheet, which are `c0` (grey) and up.
const COLOURS: usize = 8;

impl Style {
    /// How a contender is drawn, everywhere.
    pub(super) fn of(contender: &Contender) -> Self {
        let (colour, mark) = match contender {
            Contender::Soup => (1, Mark::Circle),
            Contender::BestCandidate => (2, Mark::Triangle),
            Contender::MeanCandidate => (0, Mark::Square),
            Contender::ByValidation => (5, Mark::Inverted),
            Contender::Baseline(key) => match key.as_str() {
                "imp" => (3, Mark::Diamond),
                "imp-m-times" => (4, Mark::Cross),
                "imp-reprune" => (6, Mark::Plus),
                _ => (7, Mark::Square),
            },
            Contender::Dense => (0, Mark::None),
        };
        Self {
            colour,
            mark,
            is_main: *contender == Contender::Soup,
        }
    }

    /// One of many of a kind, by its place from 0.
    pub(super) fn nth(idx: usize) -> Self {
        Self {
            colour: 1 + idx % (COLOURS - 1),
            mark: MARKS[(idx + idx / (COLOURS - 1)) % MARKS.len()],
            is_main: false,
        }
    }

    /// A line without marks that matters most.
    pub(super) fn bare() -> Self {
        Self {
            colour: 1,
            mark: Mark::None,
            is_main: true,
        }
    }

    /// A dashed line.
    pub(super) fn dashed() -> Self {
        Self::of(&Contender::Dense)
    }

    /// The class of its colour, and of its weight.
    fn class(self) -> String {
        let weight = if self.is_main { " main" } else { "" };
        format!("c{}{weight}", self.colour)
    }

    /// A short line with the mark, for a legend.
    pub(super) fn draw_key(self, markup: &mut Markup) {
        let attributes = [
            ("class", "key"),
            ("viewBox", "0 0 28 14"),
            ("aria-hidden", "true"),
        ];
        markup.element("svg", &attributes, |markup| {
            markup.element("g", &[("class", &self.class())], |markup| {
                let dash = if self.is_dashed() { "rule" } else { "line" };
                markup.empty("path", &[("class", dash), ("d", "M1 7H27")]);
                if self.mark != Mark::None {
                    self.draw_mark(markup, 14.0, 7.0, None);
                }
            });
        });
    }

    fn is_dashed(self) -> bool {
        self.mark == Mark::None && !self.is_main
    }

    /// The mark with its centre at a point; `says` is shown to who points at it.
    fn draw_mark(self, markup: &mut Markup, x: f64, y: f64, says: Option<&str>) {
        let path = self.mark.path(x, y);
        let class = match self.mark {
            Mark::Cross | Mark::Plus => "open",
            _ => "mark",
        };
        markup.element("path", &[("class", class), ("d", &path)], |markup| {
            if let Some(says) = says {
                markup.leaf("title", &[], says);
            }
        });
    }
}

impl Mark {
    /// The shape round a point; all shapes cover about the same area.
    fn path(self, x: f64, y: f64) -> String {
        let at = |dx: f64, dy: f64| format!("{} {}", coordinate(x + dx), coordinate(y + dy));
        let corners = |corners: &[(f64, f64)]| {
            let corners: Vec<String> = corners.iter().map(|&(dx, dy)| at(dx, dy)).collect();
            format!("M{}Z", corners.join("L"))
        };
        match self {
            Self::Circle => format!("M{}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z", at(-4.5, 0.0)),
            Self::Triangle => corners(&[(0.0, -5.5), (5.2, 3.8), (-5.2, 3.8)]),
            Self::Square => corners(&[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)]),
            Self::Diamond => corners(&[(0.0, -5.6), (5.6, 0.0), (0.0, 5.6), (-5.6, 0.0)]),
            Self::Inverted => corners(&[(0.0, 5.5), (5.2, -3.8), (-5.2, -3.8)]),
            Self::Cross => format!("M{}l8 8M{}l-8 8", at(-4.0, -4.0), at(4.0, -4.0)),
            Self::Plus => format!("M{}v11M{}h11", at(0.0, -5.5), at(-5.5, 0.0)),
            Self::None => String::new(),
        }
    }
}

/// A coordinate with one decimal, or none where that is 0.
fn coordinate(value: f64) -> String {
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0" } else { text }.to_owned()
}
