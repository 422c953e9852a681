//! A strict reader of the XML that pages are: what is not well-formed is named.

/// Entities that XML itself knows.
const ENTITIES: [&str; 5] = ["amp", "lt", "gt", "quot", "apos"];

/// An element's tag and attributes, in the order of the document.
pub(super) struct Element {
    pub(super) tag: String,
    pub(super) attributes: Vec<(String, String)>,
}

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let mut attributes = self.attributes.iter();
        attributes
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A document as read.
pub(super) struct Read {
    pub(super) elements: Vec<Element>,
    /// Its text, entities replaced.
    pub(super) text: String,
}

/// All elements and the text, or what is wrong with the document.
pub(super) fn read(page: &str) -> Result<Read, String> {
    let mut rest = page
        .strip_prefix("<!DOCTYPE html>\n")
        .ok_or("no document type")?;
    let mut open: Vec<String> = Vec::new();
    let mut read = Read {
        elements: Vec::new(),
        text: String::new(),
    };
    while !rest.is_empty() {
        let end = rest.find('<').unwrap_or(rest.len());
        let text = unescaped(&rest[..end])?;
        if open.is_empty() && !text.trim().is_empty() {
            return Err(format!("text outside of the root: {text:?}"));
        }
        read.text.push_str(&text);
        rest = &rest[end..];
        let Some(inside) = rest.strip_prefix('<') else {
            break;
        };
        let end = inside.find('>').ok_or("a tag without an end")?;
        let (tag, after) = (&inside[..end], &inside[end + 1..]);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            let expected = open.pop().ok_or(format!("`{name}` was not open"))?;
            if expected != name {
                return Err(format!("`{expected}` ends as `{name}`"));
            }
            continue;
        }
        let (tag, is_empty) = match tag.strip_suffix('/') {
            Some(tag) => (tag, true),
            None => (tag, false),
        };
        let element = element(tag)?;
        if open.is_empty() && !read.elements.is_empty() {
            return Err(format!("`{}` is a second root", element.tag));
        }
        if !is_empty {
            open.push(element.tag.clone());
        }
        read.elements.push(element);
    }
    match open.pop() {
        Some(left) => Err(format!("`{left}` does not end")),
        None => Ok(read),
    }
}

fn is_name(text: &str) -> bool {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-:".contains(character);
    text.starts_with(|character: char| character.is_ascii_alphabetic()) && text.chars().all(is_part)
}

fn element(tag: &str) -> Result<Element, String> {
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    if !is_name(name) {
        return Err(format!("`{name}` is no tag"));
    }
    let mut attributes: Vec<(String, String)> = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once("=\"")
            .ok_or(format!("no value in `{rest}`"))?;
        let (value, after) = after
            .split_once('"')
            .ok_or(format!("`{key}` does not end"))?;
        if !is_name(key) || attributes.iter().any(|(known, _)| known == key) {
            return Err(format!("`{key}` is no attribute, or is there twice"));
        }
        attributes.push((key.to_owned(), unescaped(value)?));
        rest = after;
        if !rest.is_empty() {
            rest = rest
                .strip_prefix(' ')
                .ok_or(format!("no space before `{rest}`"))?;
        }
    }
    Ok(Element {
        tag: name.to_owned(),
        attributes,
    })
}

fn unescaped(text: &str) -> Result<String, String> {
    if text.contains(['<', '>']) {
        return Err(format!("`<` or `>` in {text:?}"));
    }
    let is_forbidden = |character: char| {
        character.is_control() && !"\n\t".contains(character)
            || matches!(character, '\u{fffe}' | '\u{ffff}')
    };
    if let Some(character) = text.chars().find(|&character| is_forbidden(character)) {
        return Err(format!("{character:?} in {text:?}"));
    }
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let (entity, after) = part
            .split_once(';')
            .ok_or(format!("`&` alone in {text:?}"))?;
        let at = ENTITIES.iter().position(|known| *known == entity);
        let at = at.ok_or(format!("entity `{entity}`"))?;
        plain.push(['&', '<', '>', '"', '\''][at]);
        plain.push_str(after);
    }
    Ok(plain)
}

#[test]
fn what_is_not_well_formed_is_rejected() {
    let check = |body: &str, is_good: bool| {
        let page = format!("<!DOCTYPE html>\n{body}");
        assert_eq!(read(&page).is_ok(), is_good, "{body}");
    };
    check("<p a=\"1\" b=\"&lt;\">x &amp; y<br/></p>\n", true);
    check("<p>", false);
    check("<p></q>", false);
    check("<p><b></p></b>", false);
    check("<p/><p/>", false);
    check("<p>a & b</p>", false);
    check("<p>&nbsp;</p>", false);
    check("<p>a > b</p>", false);
    check("<p a=1></p>", false);
    check("<p a=\"1\" a=\"2\"></p>", false);
    check("<p a=\"1\"b=\"2\"></p>", false);
    check("<p a=\"1></p>", false);
    check("<p>\u{1}</p>", false);
    check("<p>\u{ffff}</p>", false);
    check("<p></p>x", false);
    check("<1></1>", false);
    assert!(read("<p></p>").is_err());
}
