//! A JSON text with some of its members changed: all else keeps its order and its form.
//!
//! A parsed object does not say how it was written, and a configuration is compared and
//! read by people too. So the text is looked through for the places of members, and these
//! alone get other text.

use std::ops::Range;

use serde::de::IgnoredAny;

/// A member of an object, by its places in the text.
struct Member {
    key: String,
    /// From the quotation mark of the key to the end of the value.
    whole: Range<usize>,
    value: Range<usize>,
}

/// The text of a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(String);

impl JsonText {
    /// The text, if it is one object in JSON.
    pub fn new(text: String) -> Option<Self> {
        let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        (is_json && text.trim_start().starts_with('{')).then_some(Self(text))
    }

    /// The text as it is now.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Sets a member, which `path` leads to from object to object, to a value. `None` if
    /// one of them is no object, or if a key stands twice.
    #[must_use]
    pub fn set(&mut self, path: &[&str], value: &serde_json::Value) -> Option<()> {
        let (last, outer) = path.split_last()?;
        let object = self.object(outer)?;
        let members = members(&self.0, object.start);
        if let Some(member) = only(&members, last)? {
            let indent = self.indent_at(member.whole.start);
            let text = rendered(value, indent.as_deref());
            self.0.replace_range(member.value.clone(), &text);
            return Some(());
        }
        // After the last member, or alone.
        let (at, before) = match members.last() {
            Some(last) => (last.whole.end, ","),
            None => (object.start + 1, ""),
        };
        let indent = members
            .last()
            .and_then(|last| self.indent_at(last.whole.start));
        let text = rendered(value, indent.as_deref());
        let key = serde_json::Value::from(*last);
        let gap = match (&indent, members.is_empty()) {
            (Some(indent), _) => format!("\n{indent}"),
            (None, false) => " ".to_owned(),
            (None, true) => String::new(),
        };
        self.0
            .insert_str(at, &format!("{before}{gap}{key}: {text}"));
        Some(())
    }

    /// Takes a member out, with its comma. `None` as for [`set`](Self::set).
    #[must_use]
    pub fn remove(&mut self, path: &[&str]) -> Option<()> {
        let (last, outer) = path.split_last()?;
        let object = self.object(outer)?;
        let members = members(&self.0, object.start);
        only(&members, last)?;
        let at = members.iter().position(|member| member.key == *last)?;
        let range = match (at.checked_sub(1), members.get(at + 1)) {
            (_, Some(next)) => members[at].whole.start..next.whole.start,
            (Some(before), None) => members[before].whole.end..members[at].whole.end,
            (None, None) => members[at].whole.clone(),
        };
        self.0.replace_range(range, "");
        Some(())
    }

    /// Place of an object that keys lead to.
    fn object(&self, path: &[&str]) -> Option<Range<usize>> {
        let begin = self.0.len() - self.0.trim_start().len();
        let mut found = begin..self.0.len();
        for key in path {
            let members = members(&self.0, found.start);
            let member = only(&members, key)??;
            found = member.value.clone();
            self.0[found.clone()].starts_with('{').then_some(())?;
        }
        Some(found)
    }

    /// The white space before a member that begins its line.
    fn indent_at(&self, at: usize) -> Option<String> {
        let line = self.0[..at].rfind('\n')? + 1;
        let indent = &self.0[line..at];
        indent.trim().is_empty().then(|| indent.to_owned())
    }
}

/// The member with a key; the outer `None` if several have it.
fn only<'m>(members: &'m [Member], key: &str) -> Option<Option<&'m Member>> {
    let mut found = members.iter().filter(|member| member.key == key);
    let first = found.next();
    found.next().is_none().then_some(first)
}

/// A value as it stands behind its key: on one line, or on several, indented so.
fn rendered(value: &serde_json::Value, indent: Option<&str>) -> String {
    match indent {
        Some(indent) if value.is_object() => {
            format!("{value:#}").replace('\n', &format!("\n{indent}"))
        }
        _ => value.to_string(),
    }
}

/// The members of the object whose brace is at `at` of a valid text.
fn members(text: &str, at: usize) -> Vec<Member> {
    let bytes = text.as_bytes();
    let mut members = Vec::new();
    let mut next = skip_space(bytes, at + 1);
    while bytes.get(next) == Some(&b'"') {
        let key_end = value_end(bytes, next);
        let colon = skip_space(bytes, key_end);
        let begin = skip_space(bytes, colon + 1);
        let end = value_end(bytes, begin);
        // Keys with escapes in them are not those that are looked for, but for letters.
        let key = serde_json::from_str(&text[next..key_end]).unwrap_or_default();
        members.push(Member {
            key,
            whole: next..end,
            value: begin..end,
        });
        let comma = skip_space(bytes, end);
        if bytes.get(comma) != Some(&b',') {
            break;
        }
        next = skip_space(bytes, comma + 1);
    }
    members
}

fn skip_space(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.iter().skip(from);
    from + rest.take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Where the value that begins at `from` ends.
fn value_end(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut is_text, mut at) = (0_usize, false, from);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if is_text => at += 1,
            b'"' => {
                is_text = !is_text;
                if !is_text && depth == 0 {
                    return at + 1;
                }
            }
            _ if is_text => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            byte if byte.is_ascii_whitespace() && depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len().min(at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_changed_in_place() {
        let check = |text: &str, edit: &dyn Fn(&mut JsonText) -> Option<()>, expected: &str| {
            let mut found = JsonText::new(text.to_owned()).unwrap();
            edit(&mut found).unwrap();
            assert_eq!(found.as_str(), expected);
            assert!(JsonText::new(expected.to_owned()).is_some(), "{expected}");
        };
        let text =
            "{\n  \"b\": [1, {\"x\": \"}\\\"\"}],\n  \"a\": 1e3 ,\n  \"o\": {\"p\": null}\n}\n";
        check(
            text,
            &|json| json.set(&["a"], &json!("y")),
            &text.replace("1e3", "\"y\""),
        );
        check(
            text,
            &|json| json.set(&["o", "p"], &json!(2)),
            &text.replace("null", "2"),
        );
        check(
            text,
            &|json| json.set(&["q"], &json!({"r": [1]})),
            &text.replace(
                "null}\n",
                "null},\n  \"q\": {\n    \"r\": [\n      1\n    ]\n  }\n",
            ),
        );
        check(
            text,
            &|json| json.set(&["o", "q"], &json!(true)),
            &text.replace("null}", "null, \"q\": true}"),
        );
        check(
            text,
            &|json| json.remove(&["a"]),
            &text.replace("\"a\": 1e3 ,\n  ", ""),
        );
        check(
            text,
            &|json| json.remove(&["o"]),
            &text.replace(" ,\n  \"o\": {\"p\": null}", ""),
        );
        check("{\"a\":1}", &|json| json.remove(&["a"]), "{}");
        check("{ }", &|json| json.set(&["a"], &json!(1)), "{\"a\": 1 }");
        check(
            "{\"a\":[]}",
            &|json| json.set(&["b"], &json!({})),
            "{\"a\":[], \"b\": {}}",
        );
        check(
            "{\"\\u0061\":3}",
            &|json| json.set(&["a"], &json!(4)),
            "{\"\\u0061\":4}",
        );
    }

    #[test]
    fn what_is_not_clear_is_left_alone() {
        for text in ["", "[]", "{", "{} {}", "{\"a\": 1,}", "\u{feff}{}"] {
            assert_eq!(JsonText::new(text.to_owned()), None, "{text}");
        }
        let mut json = JsonText::new("{\"a\": 1, \"a\": {}, \"b\": 2}".to_owned()).unwrap();
        let before = json.clone();
        assert!(json.set(&["a"], &json!(1)).is_none());
        assert!(json.set(&["a", "c"], &json!(1)).is_none());
        assert!(json.set(&["b", "c"], &json!(1)).is_none());
        assert!(json.set(&["z", "c"], &json!(1)).is_none());
        assert!(json.remove(&["a"]).is_none());
        assert!(json.remove(&["z"]).is_none());
        assert_eq!(json, before);
    }
}
