//! Keys of `rank_pattern` and `alpha_pattern` in a configuration of peft.

/// What a key says: a module, or the end of its name.
///
/// peft takes keys for regular expressions over the end of a name, or over all of it
/// after `^`. Only those are known here that are names, whose dots may be written `\.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModulePattern {
    is_whole: bool,
    name: String,
}

impl ModulePattern {
    /// What `key` means, or `None` if it is a regular expression of another sort.
    pub fn parse(key: &str) -> Option<Self> {
        let (is_whole, text) = match key.strip_prefix('^') {
            Some(text) => (true, text),
            None => (false, key),
        };
        let name = text.replace(r"\.", ".");
        let is_plain =
            |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | '.');
        name.chars()
            .all(is_plain)
            .then_some(Self { is_whole, name })
    }

    /// Whether it means the module of this name.
    pub fn matches(&self, module: &str) -> bool {
        if self.is_whole {
            return module == self.name;
        }
        let rest = module.strip_suffix(self.name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_or_their_ends() {
        let check = |key: &str, module, expected| {
            let pattern = ModulePattern::parse(key).expect("a known key");
            assert_eq!(pattern.matches(module), expected, "{key} {module}");
        };
        check("q_proj", "layers.0.q_proj", true);
        check("q_proj", "q_proj", true);
        check("proj", "q_proj", false);
        check("0.q_proj", "layers.10.q_proj", false);
        check(r"layers\.0\.q_proj", "layers.0.q_proj", true);
        check("^layers.0.q_proj", "layers.0.q_proj", true);
        check("^q_proj", "layers.0.q_proj", false);
        for key in [r"layers.\d+.q_proj", ".*q", "(a|b)", "q$", "[ab]"] {
            assert_eq!(ModulePattern::parse(key), None, "{key}");
        }
    }
}
