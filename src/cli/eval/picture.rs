//! A confusion matrix as a picture: counts walk in, SVG walks out.

use std::fmt::Write as _;

use sms_merge::train::evaluate::Evaluation;

use crate::cli::text::count;
use crate::cli::text::percent;

/// Longest name of a class that is shown, in characters.
const MOST_CHARACTERS: usize = 20;

/// Width of a character of 12 pixels, about, in a proportional font.
const CHARACTER: f64 = 6.8;

/// Side of the whole matrix that cells share, and the sides that a cell may have.
const SIDE: f64 = 640.0;
const CELL: [f64; 2] = [9.0, 52.0];

/// Least side of a cell that shows its count.
const COUNTED: f64 = 24.0;

/// Least side of a cell of which every class is named.
const NAMED: f64 = 12.0;

/// Shares of a row that the scale names, in per cent.
const TICKS: [f64; 6] = [0.0, 1.0, 5.0, 20.0, 50.0, 100.0];

/// Colours from a share of nothing to all of a row. Light to dark, so that it reads the
/// same without colour. Source: ColorBrewer, `Blues`.
const COLOURS: [[f64; 3]; 6] = [
    [247.0, 251.0, 255.0],
    [210.0, 227.0, 243.0],
    [158.0, 202.0, 225.0],
    [87.0, 160.0, 206.0],
    [33.0, 113.0, 181.0],
    [8.0, 48.0, 107.0],
];

/// Text colour on light and on dark cells.
const INK: [&str; 2] = ["#1b2733", "#ffffff"];

/// Rows are labels, columns are predictions; a cell's colour is its share of the row.
///
/// `title` says what was evaluated; `names` are those of the classes, and classes
/// without a name are numbered.
pub(super) fn picture(title: &str, names: &[String], evaluation: &Evaluation) -> String {
    let classes = evaluation.confusion.len();
    let names: Vec<String> = (0..classes)
        .map(|class| names.get(class).map_or(class.to_string(), |name| cut(name)))
        .collect();
    Picture::new(title, &names, evaluation).draw()
}

/// Where everything lies, in pixels.
struct Picture<'a> {
    title: &'a str,
    names: &'a [String],
    evaluation: &'a Evaluation,
    cell: f64,
    /// Left edge of the cells; names stand before it.
    left: f64,
    /// Upper edge of the cells; names stand above it.
    top: f64,
    /// Whether names are too long to stand upright above their columns.
    is_slanted: bool,
    text: String,
}

impl<'a> Picture<'a> {
    fn new(title: &'a str, names: &'a [String], evaluation: &'a Evaluation) -> Self {
        let longest = names.iter().map(|name| name.chars().count()).max();
        let label = longest.unwrap_or(0) as f64 * CHARACTER;
        let cell = (SIDE / names.len().max(1) as f64).clamp(CELL[0], CELL[1]);
        let is_slanted = label > cell.max(NAMED);
        Self {
            title,
            names,
            evaluation,
            cell: cell.floor(),
            left: 52.0 + label,
            // The names' slanted height, and three lines of text.
            top: 104.0 + if is_slanted { label * 0.71 } else { 0.0 },
            is_slanted,
            text: String::new(),
        }
    }

    /// Side of the matrix.
    fn side(&self) -> f64 {
        self.cell * self.names.len() as f64
    }

    fn draw(mut self) -> String {
        let label = self.left - 52.0;
        // The last column's name leans over the accuracies, and titles are long.
        let right = 84.0_f64.max(label * 0.71 + 16.0);
        let subtitle = format!(
            "accuracy {}, {} images; rows are labels, and at their end is the class's accuracy",
            percent(self.evaluation.accuracy),
            count(self.evaluation.samples)
        );
        let longest = self.title.chars().count().max(subtitle.chars().count());
        let width = (self.left + self.side() + right).max(48.0 + longest as f64 * 8.2);
        let height = self.top + self.side() + 84.0;
        let _ = writeln!(
            self.text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" \
             font-family=\"system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\" \
             font-size=\"12\" fill=\"{}\">",
            INK[0]
        );
        let title = escaped(self.title);
        let _ = writeln!(self.text, "<title>Confusion matrix: {title}</title>");
        let _ = writeln!(
            self.text,
            "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"24\" y=\"32\" font-size=\"17\" font-weight=\"600\">{title}</text>\n\
             <text x=\"24\" y=\"53\" fill=\"#53616f\">{}</text>",
            escaped(&subtitle)
        );
        self.cells();
        self.names();
        self.scale();
        self.text.push_str("</svg>\n");
        self.text
    }

    fn cells(&mut self) {
        let size = if self.cell >= 36.0 { 12.0 } else { 10.0 };
        for (row, counts) in self.evaluation.confusion.iter().enumerate() {
            let total: u64 = counts.iter().sum();
            for (column, &number) in counts.iter().enumerate() {
                let share = number as f64 / total.max(1) as f64;
                let (x, y) = self.corner(row, column);
                let _ = write!(
                    self.text,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{0}\" height=\"{0}\" fill=\"{1}\">\
                     <title>{2} said to be {3}: {4} of {5} ({6})</title></rect>",
                    self.cell,
                    colour(share),
                    escaped(&self.names[row]),
                    escaped(&self.names[column]),
                    count(number),
                    count(total),
                    percent(share)
                );
                let shown = count(number);
                let fits = shown.len() as f64 * size * 0.6 <= self.cell - 2.0;
                if number > 0 && self.cell >= COUNTED && fits {
                    let _ = write!(
                        self.text,
                        "<text x=\"{}\" y=\"{}\" font-size=\"{size}\" text-anchor=\"middle\" \
                         fill=\"{}\" pointer-events=\"none\">{shown}</text>",
                        x + self.cell / 2.0,
                        y + self.cell / 2.0 + size * 0.36,
                        INK[usize::from(is_dark(share))]
                    );
                }
                self.text.push('\n');
            }
        }
        let _ = writeln!(
            self.text,
            "<rect x=\"{}\" y=\"{}\" width=\"{2}\" height=\"{2}\" fill=\"none\" \
             stroke=\"#9aa8b5\"/>",
            self.left,
            self.top,
            self.side()
        );
        if self.cell >= COUNTED {
            let mut path = String::new();
            for line in 1..self.names.len() {
                let at = line as f64 * self.cell;
                let (x, y) = (self.left + at, self.top + at);
                let _ = write!(
                    path,
                    "M{x} {}v{1}M{2} {y}h{1}",
                    self.top,
                    self.side(),
                    self.left
                );
            }
            let _ = writeln!(
                self.text,
                "<path d=\"{path}\" stroke=\"#ffffff\" fill=\"none\"/>"
            );
        }
    }

    fn corner(&self, row: usize, column: usize) -> (f64, f64) {
        (
            self.left + column as f64 * self.cell,
            self.top + row as f64 * self.cell,
        )
    }

    /// Names of rows and columns, and the accuracy of each row.
    fn names(&mut self) {
        let every = (NAMED / self.cell).ceil().max(1.0) as usize;
        for class in (0..self.names.len()).step_by(every) {
            let name = escaped(&self.names[class]);
            let (x, y) = self.corner(class, class);
            let middle = self.cell / 2.0;
            let _ = writeln!(
                self.text,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>",
                self.left - 8.0,
                y + middle + 4.0
            );
            let (x, above) = (x + middle, self.top - 8.0);
            let placed = if self.is_slanted {
                format!("transform=\"rotate(-45 {x} {above})\"")
            } else {
                "text-anchor=\"middle\"".to_owned()
            };
            let _ = writeln!(
                self.text,
                "<text x=\"{x}\" y=\"{above}\" {placed}>{name}</text>"
            );
            if let Some(accuracy) = self.evaluation.classes[class].accuracy {
                let _ = writeln!(
                    self.text,
                    "<text x=\"{}\" y=\"{}\" fill=\"#53616f\">{}</text>",
                    self.left + self.side() + 8.0,
                    y + middle + 4.0,
                    percent(accuracy)
                );
            }
        }
        let middle = self.top + self.side() / 2.0;
        let _ = writeln!(
            self.text,
            "<text x=\"24\" y=\"{middle}\" text-anchor=\"middle\" fill=\"#53616f\" \
             transform=\"rotate(-90 24 {middle})\">label</text>\n\
             <text x=\"{}\" y=\"78\" text-anchor=\"middle\" fill=\"#53616f\">prediction</text>",
            self.left + self.side() / 2.0
        );
    }

    /// Which colour is which share, with the same steps as the cells.
    fn scale(&mut self) {
        let width = self.side().clamp(180.0, 320.0);
        let (x, y) = (self.left, self.top + self.side() + 24.0);
        self.text.push_str("<linearGradient id=\"scale\">");
        for (step, colour) in COLOURS.iter().enumerate() {
            let at = step as f64 / (COLOURS.len() - 1) as f64;
            let _ = write!(
                self.text,
                "<stop offset=\"{at}\" stop-color=\"{}\"/>",
                hexadecimal(*colour)
            );
        }
        let _ = writeln!(
            self.text,
            "</linearGradient>\n<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"12\" \
             fill=\"url(#scale)\" stroke=\"#9aa8b5\"/>"
        );
        for tick in TICKS {
            let _ = writeln!(
                self.text,
                "<text x=\"{:.1}\" y=\"{}\" font-size=\"10\" text-anchor=\"middle\" \
                 fill=\"#53616f\">{tick}</text>",
                x + width * place(tick / 100.0),
                y + 25.0
            );
        }
        let _ = writeln!(
            self.text,
            "<text x=\"{x}\" y=\"{}\" font-size=\"10\" fill=\"#53616f\">per cent of the images \
             with this label</text>",
            y + 41.0
        );
    }
}

/// Place of a share on the scale of colours. The root shows few mistakes beside many
/// images that are right.
fn place(share: f64) -> f64 {
    share.clamp(0.0, 1.0).sqrt()
}

fn is_dark(share: f64) -> bool {
    place(share) > 0.55
}

fn colour(share: f64) -> String {
    let at = place(share) * (COLOURS.len() - 1) as f64;
    let below = (at as usize).min(COLOURS.len() - 2);
    let part = at - below as f64;
    let mixed = std::array::from_fn(|channel| {
        let [low, high] = [COLOURS[below][channel], COLOURS[below + 1][channel]];
        low + (high - low) * part
    });
    hexadecimal(mixed)
}

fn hexadecimal(colour: [f64; 3]) -> String {
    let [red, green, blue] = colour.map(|channel| channel.round() as u8);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn cut(name: &str) -> String {
    if name.chars().count() <= MOST_CHARACTERS {
        return name.to_owned();
    }
    let mut cut: String = name.chars().take(MOST_CHARACTERS - 1).collect();
    cut.push('…');
    cut
}

/// Text as content of an element. XML has no control characters, escaped or not.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            character if character.is_control() => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use sms_merge::train::evaluate::Predictions;

    use super::*;

    fn evaluation(classes: usize, samples: usize) -> Evaluation {
        let mut logits = vec![0.0; classes * samples];
        let labels: Vec<u32> = (0..samples).map(|idx| (idx % classes) as u32).collect();
        for (idx, row) in logits.chunks_exact_mut(classes).enumerate() {
            let mistaken = idx % 7 == 3;
            row[(idx + usize::from(mistaken)) % classes] = 1.0;
        }
        let predictions = Predictions::of_logits(&logits, &labels, classes);
        predictions.unwrap().evaluate()
    }

    #[test]
    fn cells_have_their_counts_and_colours() {
        let names = ["left".to_owned(), "right".to_owned()];
        let evaluation = evaluation(2, 14);
        assert_eq!(evaluation.confusion, [vec![6, 1], vec![1, 6]]);
        let text = picture("a.st", &names, &evaluation);
        let cell = "<title>left said to be right: 1 of 7 (14.29 %)</title>";
        assert_eq!(text.matches(cell).count(), 1);
        assert_eq!(text.matches(&colour(1.0 / 7.0)).count(), 2);
        assert_eq!(text.matches(&colour(6.0 / 7.0)).count(), 2);
        assert_eq!(text.matches(">6</text>").count(), 2);
        assert!(text.contains("accuracy 85.71 %, 14 images"));
    }

    #[test]
    fn colours_go_from_light_to_dark() {
        assert_eq!(colour(0.0), "#f7fbff");
        assert_eq!(colour(1.0), "#08306b");
        assert_eq!(colour(0.04), "#d2e3f3");
        let brightness = |share: f64| {
            let text = colour(share / 100.0);
            let channel = |at: usize| u32::from_str_radix(&text[at..at + 2], 16).unwrap();
            channel(1) + channel(3) + channel(5)
        };
        let shares: Vec<u32> = (0..=100).map(|share| brightness(share.into())).collect();
        assert!(shares.is_sorted_by(|first, second| first > second));
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let names = ["<script>&\"'\u{1b}".to_owned(), "x".repeat(99)];
        let text = picture("a<b", &names, &evaluation(3, 6));
        assert!(text.contains("&lt;script&gt;&amp;&quot;&#39;\u{fffd}"));
        assert!(!text.contains("<script") && !text.contains('\u{1b}'));
        assert!(text.contains(&format!(">{}…<", "x".repeat(19))));
        assert!(!text.contains(&"x".repeat(20)));
        // A class without a name is numbered.
        assert!(text.contains(">2</text>"));
    }

    #[test]
    fn many_classes_have_small_cells() {
        let text = picture("a.st", &[], &evaluation(100, 700));
        assert_eq!(text.matches("said to be").count(), 10_000);
        assert!(text.contains("width=\"9\" height=\"9\""));
        assert!(!text.contains("pointer-events"));
    }
}
