//! A report as a page: a [`Document`] walks in, one HTML file walks out that is XML too,
//! and that asks for nothing: no network, no script, no fonts.

use crate::cycle::report::document::Block;
use crate::cycle::report::document::Cell;
use crate::cycle::report::document::Document;
use crate::cycle::report::document::Figure;
use crate::cycle::report::document::Kind;
use crate::cycle::report::document::Section;
use crate::cycle::report::document::Table;
use crate::cycle::report::markup::Markup;

/// How it looks.
const STYLE: &str = include_str!("style.css");

/// What a browser may load: nothing. The styles are in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The page.
pub(super) fn render(document: &Document) -> String {
    let mut page = Markup::new();
    page.raw("<!DOCTYPE html>\n");
    let root = [("lang", "en"), ("xmlns", "http://www.w3.org/1999/xhtml")];
    page.element("html", &root, |page| {
        page.line();
        head(page, document);
        page.element("body", &[], |page| {
            page.line();
            page.element("main", &[], |page| {
                header(page, document);
                for part in &document.sections {
                    section(page, part);
                }
            });
            let made = format!("Made by {}.", document.tool);
            page.element("footer", &[], |page| page.leaf("p", &[], &made));
            page.line();
        });
    });
    page.line();
    page.finish()
}

fn head(page: &mut Markup, document: &Document) {
    page.element("head", &[], |page| {
        page.empty("meta", &[("charset", "utf-8")]);
        let view = "width=device-width, initial-scale=1";
        page.empty("meta", &[("name", "viewport"), ("content", view)]);
        page.empty(
            "meta",
            &[("name", "color-scheme"), ("content", "light dark")],
        );
        let policy = ("http-equiv", "Content-Security-Policy");
        page.empty("meta", &[policy, ("content", POLICY)]);
        page.leaf("title", &[], &document.title);
        page.element("style", &[], |page| page.raw(STYLE));
    });
    page.line();
}

fn header(page: &mut Markup, document: &Document) {
    page.element("header", &[], |page| {
        page.leaf("h1", &[], &document.title);
        page.leaf("p", &[("class", "headline")], &document.headline);
        for warning in &document.warnings {
            page.leaf("p", &[("class", "warning")], warning);
        }
        page.leaf("p", &[("class", "subject")], &document.subject);
    });
    page.line();
    page.element("nav", &[("aria-label", "Contents")], |page| {
        page.element("ul", &[], |page| {
            for part in &document.sections {
                let target = format!("#{}", part.id);
                page.element("li", &[], |page| {
                    page.leaf("a", &[("href", &target)], part.name);
                });
            }
        });
    });
    page.line();
}

fn section(page: &mut Markup, section: &Section) {
    page.element("section", &[("id", section.id)], |page| {
        page.leaf("h2", &[], section.title);
        page.line();
        blocks(page, &section.blocks);
    });
    page.line();
}

fn blocks(page: &mut Markup, blocks_of: &[Block]) {
    for block in blocks_of {
        match block {
            Block::Text(text) => page.leaf("p", &[], text),
            Block::Note(text) => page.leaf("p", &[("class", "note")], text),
            Block::Heading(text) => page.leaf("h3", &[], text),
            Block::List(items) => list(page, items),
            Block::Facts(facts) => page.element("dl", &[], |page| {
                for (name, value) in facts {
                    page.element("div", &[], |page| {
                        page.leaf("dt", &[], name);
                        page.leaf("dd", &[], value);
                    });
                }
            }),
            Block::Table(content) => table(page, content),
            Block::Figure(content) => figure(page, content),
            Block::Fold(title, content) => page.element("details", &[], |page| {
                page.leaf("summary", &[], title);
                page.element("div", &[("class", "fold")], |page| blocks(page, content));
            }),
            Block::Code(text) => page.element("pre", &[("tabindex", "0")], |page| {
                page.leaf("code", &[], text);
            }),
        }
        page.line();
    }
}

fn list(page: &mut Markup, items: &[String]) {
    page.element("ul", &[("class", "list")], |page| {
        for item in items {
            page.leaf("li", &[], item);
        }
    });
}

/// A table in a box of its own, in which it is moved sideways where the page is narrow.
fn table(page: &mut Markup, table: &Table) {
    let is_map = table.rows.iter().flatten().any(|cell| cell.heat.is_some());
    let class = if is_map { "scroll map" } else { "scroll" };
    let mut attributes = vec![("class", class), ("role", "region"), ("tabindex", "0")];
    let label = if table.caption.is_empty() {
        "Table"
    } else {
        &table.caption
    };
    attributes.push(("aria-label", label));
    page.element("div", &attributes, |page| {
        page.element("table", &[], |page| {
            if !table.caption.is_empty() {
                page.leaf("caption", &[], &table.caption);
            }
            page.element("thead", &[], |page| {
                page.element("tr", &[], |page| {
                    for column in &table.columns {
                        let attributes = [("scope", "col"), ("class", class_of(column.kind))];
                        page.leaf("th", &attributes, &column.title);
                    }
                });
            });
            page.element("tbody", &[], |page| {
                for cells in &table.rows {
                    row(page, table, cells);
                }
            });
        });
    });
}

fn row(page: &mut Markup, table: &Table, cells: &[Cell]) {
    page.line();
    page.element("tr", &[], |page| {
        for (idx, (cell, column)) in cells.iter().zip(&table.columns).enumerate() {
            let class = match (cell.is_strong, class_of(column.kind)) {
                (false, class) => class.to_owned(),
                (true, class) => format!("{class} strong"),
            };
            let mut attributes = Vec::new();
            if idx == 0 {
                attributes.push(("scope", "row"));
            }
            if !class.is_empty() {
                attributes.push(("class", class.as_str()));
            }
            let heat = cell
                .heat
                .map(|heat| format!("--t:{:.2}", heat.clamp(0.0, 1.0)));
            if let Some(heat) = &heat {
                attributes.push(("style", heat));
            }
            let tag = if idx == 0 { "th" } else { "td" };
            page.element(tag, &attributes, |page| match (cell.bar, column.kind) {
                (Some(share), _) => bar(page, share),
                (None, Kind::Code) => page.leaf("code", &[], &cell.text),
                (None, _) => page.text(&cell.text),
            });
        }
    });
}

/// Classes of cells; those of numbers are none, as most cells hold numbers.
fn class_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Words | Kind::Code => "words",
        Kind::Number => "",
        Kind::Bar => "bar",
    }
}

/// A bar that is as wide as its cell, filled from the left.
fn bar(page: &mut Markup, share: f64) {
    let attributes = [
        ("viewBox", "0 0 100 10"),
        ("preserveAspectRatio", "none"),
        ("aria-hidden", "true"),
    ];
    page.element("svg", &attributes, |page| {
        let room = [("class", "room"), ("width", "100"), ("height", "10")];
        page.empty("rect", &room);
        let width = format!("{:.2}", 100.0 * share.clamp(0.0, 1.0));
        let filled = [("class", "filled"), ("width", &width), ("height", "10")];
        page.empty("rect", &filled);
    });
}

fn figure(page: &mut Markup, figure: &Figure) {
    page.element("figure", &[], |page| {
        if !figure.title.is_empty() {
            page.leaf("figcaption", &[], &figure.title);
            page.line();
        }
        if !figure.legend.is_empty() {
            page.element("ul", &[("class", "legend")], |page| {
                for (style, name) in &figure.legend {
                    page.element("li", &[], |page| {
                        style.draw_key(page);
                        page.text(name);
                    });
                }
            });
            page.line();
        }
        let class = if figure.panels.len() > 1 {
            "panels"
        } else {
            "alone"
        };
        page.element("div", &[("class", class)], |page| {
            for (name, chart) in &figure.panels {
                page.element("div", &[("class", "chart")], |page| {
                    if !name.is_empty() {
                        page.leaf("h4", &[], name);
                    }
                    page.line();
                    chart.draw(page);
                });
            }
        });
        if !figure.note.is_empty() {
            page.leaf("p", &[("class", "note")], &figure.note);
        }
    });
}
