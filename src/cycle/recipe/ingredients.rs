//! Whether there are as many ingredients as is said, and whether they differ.

use super::Recipe;
use super::RecipeError;
use super::check::MOST;
use super::check::field;

impl Recipe {
    pub(super) fn check_ingredients(&self) -> Result<(), RecipeError> {
        let ingredients = &self.ingredients;
        let has_lists = ingredients.vary.count().is_some();
        if !ingredients.each.is_empty() {
            let given = [
                (ingredients.count.is_some(), "ingredients.count"),
                (has_lists, "ingredients.vary"),
            ];
            if let Some((_, name)) = given.into_iter().find(|(is_given, _)| *is_given) {
                return Err(RecipeError::Conflict {
                    first: "ingredients.each".to_owned(),
                    second: name.to_owned(),
                    why: "ingredients are spelled out, or counted",
                });
            }
        }
        if ingredients.vary.grid
            && let (Some(count), Some(grid)) = (ingredients.count, ingredients.vary.count())
            && count != grid
        {
            let expected = format!("{grid}, the combinations of `ingredients.vary`");
            field(false, "ingredients.count", count, &expected)?;
        }
        let count = self.n_ingredients();
        let is_legal = (2..=MOST).contains(&count);
        field(is_legal, "ingredients.count", count, "between 2 and 1000")?;
        if let Some(min) = ingredients.min {
            let is_legal = (2..=count).contains(&min);
            let expected = format!("between 2 and {count}, the number of ingredients");
            field(is_legal, "ingredients.min", min, &expected)?;
        }
        if !ingredients.vary.grid
            && let Some(longest) = ingredients.vary.count()
            && count < longest
        {
            let expected = format!("at least {longest}, the longest list of `ingredients.vary`");
            field(false, "ingredients.count", count, &expected)?;
        }
        self.check_copies()
    }

    /// Refuses ingredients that would be copies of one another.
    fn check_copies(&self) -> Result<(), RecipeError> {
        let ingredients = self.ingredients();
        let seed = |idx: usize| match ingredients[idx].seed {
            Some(seed) => Err(seed),
            None if self.ingredients.same_seed => Ok(0),
            None => Ok(idx),
        };
        for second in 1..ingredients.len() {
            let is_copy = |&first: &usize| {
                seed(first) == seed(second)
                    && ingredients[first].training == ingredients[second].training
            };
            if let Some(first) = (0..second).find(is_copy) {
                return Err(RecipeError::Copies {
                    first: first + 1,
                    second: second + 1,
                });
            }
        }
        Ok(())
    }
}
