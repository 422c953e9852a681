//! Choices of a training that have no effect beside the others: a slip of the writer.

use super::Recipe;
use super::RecipeError;
use crate::train::choices::Choices;
use crate::train::choices::Ignored;
use crate::train::choices::ScheduleName;

/// How the learning rate of a retraining goes where the recipe does not say.
pub const RETRAINING_SCHEDULE: ScheduleName = ScheduleName::Llr;

impl Recipe {
    /// Refuses what the pretraining or an ingredient says without effect, and what the
    /// retraining says without effect on any ingredient. A trainer of the user's makes of
    /// choices what it likes.
    pub(super) fn check_effects(&self) -> Result<(), RecipeError> {
        if self.trainer.is_some() {
            return Ok(());
        }
        let before = &self.pretraining.training;
        if let Some(ignored) = before.ignored().next() {
            return Err(refused(format!("pretraining.{}", ignored.field), ignored));
        }
        let shared = &self.retraining.training;
        let mut of_all: Option<Vec<Ignored>> = None;
        for (idx, ingredient) in self.ingredients().into_iter().enumerate() {
            let own = ingredient.training;
            let mut whole = own.or(shared);
            whole.schedule.get_or_insert(RETRAINING_SCHEDULE);
            whole.optimizer = whole.optimizer.or(before.optimizer);
            let by_itself = Choices {
                schedule: whole.schedule,
                optimizer: whole.optimizer,
                ..own
            };
            if let Some(ignored) = by_itself.ignored().next() {
                let field = format!("{}` of ingredient `{}", ignored.field, idx + 1);
                return Err(refused(field, ignored));
            }
            let ignored: Vec<Ignored> = whole.ignored().collect();
            match &mut of_all {
                None => of_all = Some(ignored),
                Some(of_all) => of_all.retain(|one| ignored.contains(one)),
            }
        }
        match of_all.and_then(|all| all.first().copied()) {
            None => Ok(()),
            Some(ignored) => Err(refused(format!("retraining.{}", ignored.field), ignored)),
        }
    }
}

fn refused(field: String, ignored: Ignored) -> RecipeError {
    RecipeError::Ignored {
        field,
        why: match ignored.field {
            "learning_rate" | "warmup_epochs" => {
                "the schedule, `llr` by default, takes its rates from the pretraining; choose \
                 another, such as `linear`"
            }
            _ => ignored.why,
        },
    }
}
