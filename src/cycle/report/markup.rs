//! Markup that is well-formed by construction: elements, attributes and text walk in; the
//! text of an HTML page or an SVG picture, which is XML too, walks out.

use crate::tensor::Printable;

/// Markup under construction. Elements are closed by the call that opened them.
#[derive(Debug, Default)]
pub(super) struct Markup {
    text: String,
}

impl Markup {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// An element around what `content` writes.
    pub(super) fn element(
        &mut self,
        tag: &str,
        attributes: &[(&str, &str)],
        content: impl FnOnce(&mut Self),
    ) {
        self.open(tag, attributes);
        self.text.push('>');
        content(self);
        self.text.push_str("</");
        self.text.push_str(tag);
        self.text.push('>');
    }

    /// An element that holds text alone.
    pub(super) fn leaf(&mut self, tag: &str, attributes: &[(&str, &str)], text: &str) {
        self.element(tag, attributes, |markup| markup.text(text));
    }

    /// An element that holds nothing.
    pub(super) fn empty(&mut self, tag: &str, attributes: &[(&str, &str)]) {
        self.open(tag, attributes);
        self.text.push_str("/>");
    }

    /// Text, escaped.
    pub(super) fn text(&mut self, text: &str) {
        self.text.push_str(&escaped(text));
    }

    /// A line break, for those who read the source.
    pub(super) fn line(&mut self) {
        self.text.push('\n');
    }

    /// Text that is markup already, or the constant text of a style sheet.
    pub(super) fn raw(&mut self, markup: &str) {
        self.text.push_str(markup);
    }

    /// What was written.
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn open(&mut self, tag: &str, attributes: &[(&str, &str)]) {
        self.text.push('<');
        self.text.push_str(tag);
        for (name, value) in attributes {
            self.text.push(' ');
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.text.push_str(&escaped(value));
            self.text.push('"');
        }
    }
}

/// `text` as content or as a quoted attribute. Line breaks and tabs stay, and other
/// controlling or invisible characters are shown as [`Printable`] shows them; XML knows no
/// way to write some of them.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => push_visible(&mut escaped, character),
        }
    }
    escaped
}

/// `text` with characters that are controlling, invisible or none shown as escapes. Line
/// breaks, tabs and backslashes stay.
pub(super) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        push_visible(&mut visible, character);
    }
    visible
}

fn push_visible(text: &mut String, character: char) {
    match character {
        '\n' | '\t' | '\\' => text.push(character),
        '\u{fffe}' | '\u{ffff}' => text.push_str(&character.escape_unicode().to_string()),
        _ => {
            let mut buffer = [0; 4];
            let shown = Printable(character.encode_utf8(&mut buffer)).to_string();
            text.push_str(&shown);
        }
    }
}
