use super::*;
use crate::cycle::work::Train;
use crate::cycle::work::TrainerWork;
use crate::train::choices::Choices;
use crate::train::recipe::Average;
use crate::train::recipe::Fall;
use crate::train::recipe::Pace;
use crate::train::recipe::Recipe as TrainingRecipe;

fn plan(text: &str) -> Result<Plan, PlanError> {
    let recipe = Recipe::parse(text, &[]).unwrap();
    Plan::new(&recipe, &Scene::new(&recipe).unwrap())
}

/// The training of the step that is called so.
fn training(plan: &Plan, label: &str) -> TrainingRecipe {
    let step = plan.steps.iter().find(|step| step.label == label).unwrap();
    match &step.work {
        Work::Train(train) => match &**train {
            Train {
                trainer: TrainerWork::Embedded { recipe, .. },
                ..
            } => (**recipe).clone(),
            Train { trainer, .. } => panic!("{trainer:?}"),
        },
        work => panic!("{work:?}"),
    }
}

#[test]
fn imp_m_times_takes_as_long_as_all_ingredients_with_its_schedule_stretched() {
    let plan = plan(
        "[pruning]\nphases = 1\n[retraining]\nepochs = 4\nschedule = \"step\"\n\
         milestones = [2.0, 3.0]\nwarmup_epochs = 0.5\nswa = 1\n\
         [[ingredients.each]]\n[[ingredients.each]]\nepochs = 6\n[[ingredients.each]]\nepochs = 2",
    );
    let plan = plan.unwrap();
    let long = training(&plan, "seed 0, phase 1, IMP m times");
    assert_eq!(long.epochs, 12);
    let Pace::Curve {
        shape: Fall::Step { milestones, .. },
        warmup_epochs,
        ..
    } = long.pace
    else {
        panic!("{:?}", long.pace);
    };
    assert_eq!((milestones, warmup_epochs), (vec![6.0, 9.0], 1.5));
    assert_eq!(long.average, Average::Swa { start: 9 });
    let usual = training(&plan, "seed 0, phase 1, ingredient 1");
    assert_eq!(usual.average, Average::Swa { start: 3 });
}

#[test]
fn choices_are_stretched_as_recipes_are() {
    let choices = Choices {
        epochs: Some(4),
        warmup_epochs: Some(0.5),
        milestones: Some(vec![2.0]),
        swa: Some(1),
        ..Choices::default()
    };
    let stretched = Choices {
        epochs: Some(12),
        warmup_epochs: Some(1.5),
        milestones: Some(vec![6.0]),
        swa: Some(3),
        ..Choices::default()
    };
    assert_eq!(choices.stretched(12), stretched);
}

#[test]
fn a_baseline_that_cannot_be_is_named() {
    let last_rates = "[pretraining]\nepochs = 3\n[pruning]\nphases = 1\n\
                      [retraining]\nepochs = 2\nschedule = \"lrw\"";
    let error = plan(last_rates).unwrap_err().to_string();
    assert_eq!(error, "`baselines.imp_m_times` cannot be followed");
    plan(&format!("{last_rates}\n[baselines]\nimp_m_times = false")).unwrap();
}
