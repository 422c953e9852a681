//! What somebody may have meant: a word and known names walk in, the nearest name walks out.

/// The name that is most like `found`, if one is similar enough to be worth saying:
/// at most a third of its letters have to change.
pub fn nearest<'a>(found: &str, names: &[&'a str]) -> Option<&'a str> {
    let found = found.to_lowercase();
    names
        .iter()
        .map(|name| (distance(&found, name), *name))
        .filter(|(changes, name)| *changes <= name.len().div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

/// The nearest name as words behind a message: ` (did you mean ...?)`, or nothing.
pub(super) fn hint(found: &str, names: &[&str]) -> String {
    nearest(found, names)
        .map(|name| format!(" (did you mean `{name}`?)"))
        .unwrap_or_default()
}

/// Insertions, deletions and replacements that turn one text into the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    // Long texts are like no name, and need not be looked at.
    for (idx, letter) in one.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = idx + 1;
        for (place, expected) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *expected);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(row[place] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_are_found() {
        let names = ["mlp", "lenet5", "resnet8", "resnet20"];
        let check = |found, expected| assert_eq!(nearest(found, &names), expected, "{found}");
        check("lenet-5", Some("lenet5"));
        check("ResNet20", Some("resnet20"));
        check("resnet8", Some("resnet8"));
        check("transformer", None);
        check("", None);
        check(&"x".repeat(100_000), None);
    }

    #[test]
    fn distances_are_those_of_levenshtein() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
