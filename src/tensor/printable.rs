//! Names from files, made safe to show: what walks in is any text, what walks
//! out is text that neither moves the cursor nor hides or reorders letters.

use std::fmt;
use std::fmt::Write;

/// The text with every invisible or controlling character escaped.
///
/// Escaped are the C0 and C1 controls and DEL, the bidirectional marks,
/// embeddings, overrides and isolates, zero-width characters, the line and
/// paragraph separators, and the backslash, so that two different names never
/// look the same because of an escape. The rest passes unchanged.
///
/// Source: Unicode Technical Report 36, section 2; the property
/// Default_Ignorable_Code_Point of the Unicode Character Database.
///
/// ```
/// use sms_merge::tensor::Printable;
/// assert_eq!(Printable("fc1\u{1b}[2J").to_string(), r"fc1\u{1b}[2J");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if is_escaped(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

fn is_escaped(character: char) -> bool {
    matches!(
        character,
        '\\' | '\u{0}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn controls_are_escaped_and_letters_are_not() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Printable(text).to_string(), expected, "{text:?}");
        };
        check("", "");
        check("encoder.layer.0.weight", "encoder.layer.0.weight");
        check("Gewicht äöü 重み 🙂", "Gewicht äöü 重み 🙂");
        check("a\nb\tc\rd", r"a\nb\tc\rd");
        check("\u{1b}[31mred", r"\u{1b}[31mred");
        check("\u{0}\u{7f}\u{9b}", r"\u{0}\u{7f}\u{9b}");
        check("\u{202e}fdp\u{202c}", r"\u{202e}fdp\u{202c}");
        check("\u{2066}x\u{2069}\u{200f}", r"\u{2066}x\u{2069}\u{200f}");
        check("a\u{200b}b\u{feff}", r"a\u{200b}b\u{feff}");
        check("a\u{2028}b\u{2029}", r"a\u{2028}b\u{2029}");
        check(r"a\nb", r"a\\nb");
    }

    proptest! {
        #[test]
        fn nothing_escaped_is_left(text in any::<String>()) {
            let shown = Printable(&text).to_string();
            prop_assert!(!shown.chars().any(|c| c != '\\' && is_escaped(c)));
        }

        #[test]
        fn different_names_look_different(a in any::<String>(), b in any::<String>()) {
            prop_assert_eq!(a == b, Printable(&a).to_string() == Printable(&b).to_string());
        }
    }
}
