//! Shell patterns that name some tensors and no others: names walk in, the shortest
//! list of patterns that is found walks out.

/// Names that are listed one by one; of more than that patterns are sought.
const MOST_LISTED: usize = 3;

/// Patterns that match every name of `wanted` and none of `others`; `*` stands for any
/// text, dots too.
///
/// Up to three names are listed as they are. Of more, one pattern for all is tried, then
/// one for names that are alike but for their numbers; what no pattern tells from
/// `others` is listed.
///
/// ```
/// use sms_merge::tensor::cover;
/// let wanted = ["h.0.bias", "h.1.bias", "h.2.bias", "h.10.bias"];
/// assert_eq!(cover(&wanted, &["h.0.weight", "bias"]), ["h.*.bias"]);
/// assert_eq!(cover(&["a[0]"], &["a0"]), ["a[[]0[]]"]);
/// ```
pub fn cover(wanted: &[&str], others: &[&str]) -> Vec<String> {
    let listed = |names: &[&str]| names.iter().map(|name| escaped(name)).collect();
    if wanted.len() <= MOST_LISTED {
        return listed(wanted);
    }
    let (prefix, suffix) = common_ends(wanted);
    let is_free = |parts: &[&str]| !others.iter().any(|name| matches(parts, name));
    if !(prefix.is_empty() && suffix.is_empty()) && is_free(&[prefix, suffix]) {
        return vec![format!("{}*{}", escaped(prefix), escaped(suffix))];
    }

    // Layers of one kind differ by their number alone.
    let mut groups: Vec<(Vec<String>, Vec<&str>)> = Vec::new();
    for name in wanted {
        let skeleton = without_numbers(name);
        match groups.iter_mut().find(|(parts, _)| *parts == skeleton) {
            Some((_, names)) => names.push(name),
            None => groups.push((skeleton, vec![name])),
        }
    }
    let patterns = groups.into_iter().flat_map(|(parts, names)| {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if names.len() > 1 && is_free(&parts) {
            let parts: Vec<String> = parts.into_iter().map(escaped).collect();
            vec![parts.join("*")]
        } else {
            listed(&names)
        }
    });
    patterns.collect()
}

/// The longest beginning and, after it, the longest end that all names have.
fn common_ends<'a>(names: &[&'a str]) -> (&'a str, &'a str) {
    let Some((first, rest)) = names.split_first() else {
        return ("", "");
    };
    let mut prefix = *first;
    for name in rest {
        while !name.starts_with(prefix) {
            let last = prefix.char_indices().next_back();
            prefix = &prefix[..last.map_or(0, |(at, _)| at)];
        }
    }
    let mut suffix = &first[prefix.len()..];
    for name in rest {
        while !name[prefix.len()..].ends_with(suffix) {
            let first = suffix.chars().next();
            suffix = &suffix[first.map_or(0, char::len_utf8)..];
        }
    }
    (prefix, suffix)
}

/// The parts of a name between its numbers.
fn without_numbers(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut is_number = false;
    for character in name.chars() {
        let starts = character.is_ascii_digit() && !is_number;
        is_number = character.is_ascii_digit();
        if starts {
            parts.push(String::new());
        } else if !is_number && let Some(last) = parts.last_mut() {
            last.push(character);
        }
    }
    parts
}

/// Whether a name is these parts with any text between them.
fn matches(parts: &[&str], name: &str) -> bool {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return false;
    };
    if parts.len() == 1 {
        return *first == name;
    }
    let Some(rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(mut rest) = rest.strip_suffix(last) else {
        return false;
    };
    parts[1..parts.len() - 1]
        .iter()
        .all(|part| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
}

/// The pattern that matches `text` alone.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '*' | '?' | '[' | ']' => pattern.extend(['[', character, ']']),
            _ => pattern.push(character),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn check(wanted: &[&str], others: &[&str], expected: &[&str]) {
        assert_eq!(cover(wanted, others), expected, "{wanted:?} {others:?}");
    }

    #[test]
    fn few_names_are_listed() {
        check(&[], &["a"], &[]);
        check(&["a.b", "a.c", "a.d"], &[], &["a.b", "a.c", "a.d"]);
        check(&["what?*"], &[], &["what[?][*]"]);
    }

    #[test]
    fn one_pattern_for_all_if_it_matches_no_other() {
        let head = ["head.a", "head.b", "head.c", "head.d"];
        check(&head, &["body.a", "ahead.a"], &["head.*"]);
        check(&head, &["head.e"], &head);
        check(&["a", "b", "c", "d"], &[], &["a", "b", "c", "d"]);
        check(&["ä", "å", "â", "ã"], &[], &["ä", "å", "â", "ã"]);
    }

    #[test]
    fn layers_that_differ_by_their_number() {
        let wanted = ["h.0.b", "h.1.b", "h.12.b", "lm.b", "wte"];
        check(&wanted, &["h.0.w", "x.b"], &["h.*.b", "lm.b", "wte"]);
        check(&wanted, &["h.2.b", "x"], &wanted);
    }

    proptest! {
        #[test]
        fn all_of_the_wanted_and_none_of_the_others(
            names in prop::collection::btree_set("[ab.*?\\[\\]0-9ä]{0,6}", 0..24),
            is_wanted in prop::collection::vec(any::<bool>(), 24),
        ) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let part = |which: bool| -> Vec<&str> {
                let picked = names.iter().zip(&is_wanted).filter(|(_, is)| **is == which);
                picked.map(|(name, _)| *name).collect()
            };
            let (wanted, others) = (part(true), part(false));
            let patterns: Vec<glob::Pattern> = cover(&wanted, &others)
                .iter()
                .map(|text| glob::Pattern::new(text).unwrap())
                .collect();
            for name in wanted {
                prop_assert!(patterns.iter().any(|pattern| pattern.matches(name)), "{name}");
            }
            for name in others {
                prop_assert!(!patterns.iter().any(|pattern| pattern.matches(name)), "{name}");
            }
        }
    }
}
