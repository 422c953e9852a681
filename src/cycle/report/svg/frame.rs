//! What all plots share: the element with its text alternative, axes, grid and names.

use super::Size;
use super::coordinate;
use super::scale::Scale;

use crate::cycle::report::markup::Markup;

/// Most values that are named on an upright axis.
const Y_TICKS: usize = 6;

/// Least distance of two names on a lying axis, and on a narrow page, where letters are
/// larger.
const GAP: f64 = 46.0;
const NARROW_GAP: f64 = 74.0;

/// Room at the edges, for letters of a narrow page.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 58.0;

/// The edges of what is plotted, and what the plot says in words.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) size: Size,
    pub(super) title: &'a str,
    pub(super) description: &'a str,
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
}

impl Frame<'_> {
    /// Coordinates of the left and right edge.
    pub(super) fn across(&self) -> (f64, f64) {
        (LEFT, self.size.units().0 - RIGHT)
    }

    /// Coordinates of the lower and upper edge.
    pub(super) fn up(&self) -> (f64, f64) {
        (self.size.units().1 - BOTTOM, TOP)
    }

    /// The whole plot: axes, and on them what `content` draws. Names of `x_ticks` that
    /// would overlap are left out, the last kept.
    pub(super) fn draw(
        &self,
        markup: &mut Markup,
        x_ticks: &[(f64, String)],
        y: &Scale,
        content: impl FnOnce(&mut Markup),
    ) {
        let (width, height) = self.size.units();
        let view = format!("0 0 {width} {height}");
        let class = format!("plot {}", self.size.class());
        let attributes = [
            ("class", class.as_str()),
            ("viewBox", view.as_str()),
            ("role", "img"),
            ("aria-label", self.title),
        ];
        markup.element("svg", &attributes, |markup| {
            markup.leaf("title", &[], self.title);
            markup.leaf("desc", &[], self.description);
            self.draw_axes(markup, x_ticks, y);
            content(markup);
        });
        markup.line();
    }

    fn draw_axes(&self, markup: &mut Markup, x_ticks: &[(f64, String)], y: &Scale) {
        let (left, right) = self.across();
        let (bottom, top) = self.up();
        for (value, text) in y.ticks(Y_TICKS) {
            let at = coordinate(y.at(value));
            let line = format!("M{left} {at}H{right}");
            markup.empty("path", &[("class", "grid"), ("d", &line)]);
            let x = coordinate(left - 9.0);
            let place = [
                ("class", "tick end"),
                ("x", &x),
                ("y", &at),
                ("dy", ".35em"),
            ];
            markup.leaf("text", &place, &text);
        }
        let base = format!("M{left} {bottom}H{right}");
        markup.empty("path", &[("class", "axis"), ("d", &base)]);
        let (mut next, mut next_narrow) = (f64::INFINITY, f64::INFINITY);
        for (at, text) in x_ticks.iter().rev() {
            let x = coordinate(*at);
            let mark = format!("M{x} {bottom}v5");
            markup.empty("path", &[("class", "axis"), ("d", &mark)]);
            if next - at < GAP {
                continue;
            }
            next = *at;
            let class = if next_narrow - at < NARROW_GAP {
                "tick mid spare"
            } else {
                next_narrow = *at;
                "tick mid"
            };
            let y = coordinate(bottom + 9.0);
            let place = [("class", class), ("x", &x), ("y", &y), ("dy", ".8em")];
            markup.leaf("text", &place, text);
        }
        let y = coordinate(top - 17.0);
        markup.leaf(
            "text",
            &[("class", "label"), ("x", "4"), ("y", &y)],
            self.y_label,
        );
        let (x, y) = (coordinate(right), coordinate(bottom + BOTTOM - 5.0));
        let place = [("class", "label end"), ("x", &x), ("y", &y)];
        markup.leaf("text", &place, self.x_label);
    }
}
