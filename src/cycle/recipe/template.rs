//! A recipe that names every key.

/// A recipe with every key as a comment: what it means, and its default if it has one. As
/// it stands it is the empty recipe.
pub const TEMPLATE: &str = include_str!("template.toml");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::TEMPLATE;
    use crate::cycle::plan::Plan;
    use crate::cycle::recipe::Recipe;
    use crate::cycle::scene::Scene;

    /// Ends a line of a key that has no default.
    const EXAMPLE: &str = "  # for example";

    /// A key that stands as a comment.
    struct Line<'a> {
        section: String,
        key: &'a str,
        text: &'a str,
        is_example: bool,
    }

    fn lines() -> Vec<Line<'static>> {
        let mut section = String::new();
        let mut lines = Vec::new();
        for line in TEMPLATE.lines() {
            let text = line.strip_prefix('#').unwrap_or(line);
            let text = text.strip_suffix(EXAMPLE).unwrap_or(text);
            if text.starts_with(' ') || text.is_empty() {
                continue;
            }
            if let Some(header) = text.strip_prefix('[') {
                section = header.trim_matches(['[', ']']).to_owned();
                continue;
            }
            let (key, _) = text.split_once(" = ").expect("a key and its value");
            lines.push(Line {
                section: section.clone(),
                key,
                text,
                is_example: line.ends_with(EXAMPLE),
            });
        }
        lines
    }

    /// The template with the sign taken away in front of some of its keys.
    fn changed(is_active: impl Fn(&str) -> bool) -> String {
        let change = |line: &'static str| match line.strip_prefix('#') {
            Some(text) if !text.starts_with(' ') && !text.is_empty() && is_active(line) => text,
            _ => line,
        };
        TEMPLATE.lines().map(change).collect::<Vec<_>>().join("\n")
    }

    /// The keys that serde knows in a section, from what it says of one that it does not.
    fn keys(section: &str) -> BTreeSet<String> {
        let text = match section {
            "" => "zzz = 1".to_owned(),
            "ingredients.each" => "[[ingredients.each]]\nzzz = 1".to_owned(),
            "trainer" => "[trainer]\ncommand = \"a\"\nzzz = 1".to_owned(),
            _ => format!("[{section}]\nzzz = 1"),
        };
        let error = toml::from_str::<Recipe>(&text).unwrap_err();
        let (_, known) = error.message().split_once("expected").unwrap();
        known
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_key_stands_in_it_once() {
        let lines = lines();
        let mut sections: BTreeSet<String> = keys("");
        sections.retain(|key| {
            let is_own = |line: &Line<'_>| line.section.is_empty() && line.key == key;
            !lines.iter().any(is_own)
        });
        let mut count = 0;
        for section in sections
            .iter()
            .map(String::as_str)
            .chain(["", "ingredients.vary"])
        {
            let of_section = lines.iter().filter(|line| line.section == section);
            let found: Vec<&str> = of_section.map(|line| line.key).collect();
            let named: BTreeSet<String> = found.iter().map(|&key| key.to_owned()).collect();
            assert_eq!(named.len(), found.len(), "[{section}] names a key twice");
            let mut expected = keys(section);
            match section {
                "" => expected.retain(|key| !sections.contains(key)),
                // These are sections of their own.
                "ingredients" => {
                    assert!(expected.remove("vary") && expected.remove("each"));
                }
                // Serde shows the keys of a training; these stand beside them.
                "pretraining" => assert!(expected.insert("checkpoint".to_owned())),
                "retraining" => assert!(expected.insert("rewind_epoch".to_owned())),
                _ => {}
            }
            assert_eq!(named, expected, "[{section}]");
            count += found.len();
        }
        // Of an ingredient that is spelled out, the seed; the rest is that of a training.
        let of_each = lines
            .iter()
            .filter(|line| line.section == "ingredients.each");
        assert_eq!(of_each.map(|line| line.key).collect::<Vec<_>>(), ["seed"]);
        assert_eq!(count + 1, lines.len());
    }

    #[test]
    fn as_it_stands_it_changes_nothing() {
        assert_eq!(Recipe::parse(TEMPLATE, &[]).unwrap(), Recipe::default());
        assert!(TEMPLATE.lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn every_default_is_true() {
        let text = changed(|line| !line.ends_with(EXAMPLE));
        let recipe = Recipe::parse(&text, &[]).unwrap();
        let default = Recipe::default();
        assert_eq!(recipe.ingredients(), default.ingredients());
        assert_eq!(recipe.sparsities(), default.sparsities());

        // What every step does, with nothing open any more.
        let plan = |recipe: &Recipe| Plan::new(recipe, &Scene::new(recipe).unwrap()).unwrap();
        assert_eq!(plan(&recipe), plan(&default));

        // What is no part of a step, or is nowhere open.
        assert_eq!(
            (&recipe.title, &recipe.seeds, recipe.device, &recipe.run),
            (&default.title, &default.seeds, default.device, &default.run)
        );
        assert_eq!(recipe.merge, default.merge);
        assert_eq!(recipe.baselines, default.baselines);
        assert_eq!(recipe.recalibration, default.recalibration);
        assert_eq!(recipe.evaluation, default.evaluation);
        assert_eq!(recipe.ingredients.vary, default.ingredients.vary);
        assert_eq!(recipe.ingredients.same_seed, default.ingredients.same_seed);
    }

    #[test]
    fn a_default_that_is_not_true_would_be_found() {
        let plan = |text: &str| {
            let recipe = Recipe::parse(text, &[]).unwrap();
            Plan::new(&recipe, &Scene::new(&recipe).unwrap()).unwrap()
        };
        for wrong in [
            "[pretraining]\nmomentum = 0.8",
            "[pretraining]\nepochs = 31",
            "[retraining]\nepochs = 11",
            "[retraining]\nweight_decay = 0.001",
            "[data]\nvalidation = 0.2",
            "[pruning]\nphases = 2",
        ] {
            assert_ne!(plan(wrong), plan(""), "{wrong}");
        }
    }

    #[test]
    fn every_example_is_of_its_type() {
        for line in lines().iter().filter(|line| line.is_example) {
            let header = match line.section.as_str() {
                "ingredients.each" => "[[ingredients.each]]".to_owned(),
                "trainer" if line.key != "command" => "[trainer]\ncommand = \"a\"".to_owned(),
                section => format!("[{section}]"),
            };
            let text = format!("{header}\n{}", line.text);
            toml::from_str::<Recipe>(&text).expect(&text);
        }
    }
}
