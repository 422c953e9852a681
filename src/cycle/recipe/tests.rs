use super::*;
use crate::train::choices::ScheduleName;

fn parse(text: &str) -> Result<Recipe, RecipeError> {
    Recipe::parse(text, &[])
}

#[test]
fn nothing_is_a_recipe() {
    let recipe = parse("").unwrap();
    assert_eq!(recipe, Recipe::default());
    assert_eq!(recipe.n_ingredients(), 3);
    let percents: Vec<f64> = recipe
        .sparsities()
        .iter()
        .map(|sparsity| (10_000.0 * sparsity).round() / 100.0)
        .collect();
    assert_eq!(percents, [53.58, 78.46, 90.0]);
}

#[test]
fn recipes_are_text_and_back() {
    let text = r#"
        title = "a"
        seeds = [1, 2]
        device = "cuda"
        [model]
        name = "lenet5"
        [pretraining]
        epochs = 3
        weight_decay = 1e-4
        [pruning]
        sparsities = [0.5, 0.75]
        distribution = "lamp"
        exclude = ["head.*"]
        [retraining]
        epochs = 2
        schedule = "llr"
        rewind_epoch = 1
        [ingredients]
        min = 2
        [[ingredients.each]]
        weight_decay = 1e-3
        seed = 9
        [[ingredients.each]]
        schedule = "clr"
        [merge]
        method = "greedy"
        tie = "drop"
        [trainer.parameters]
        width = 3
        [run]
        keep = "soups"
    "#
    .replace("[trainer.parameters]\n        width = 3\n", "");
    let recipe = parse(&text).unwrap();
    assert_eq!(parse(&recipe.to_text()).unwrap(), recipe);
    assert_eq!(recipe.pretraining.training.epochs, Some(3));
    assert_eq!(recipe.retraining.rewind_epoch, Some(1));
    assert_eq!(recipe.ingredients.each[0].seed, Some(9));
    let external = parse("[trainer]\ncommand = \"a b\"\n[trainer.parameters]\nwidth = 3").unwrap();
    assert_eq!(parse(&external.to_text()).unwrap(), external);
}

#[test]
fn ingredients_vary_in_turn_or_in_every_combination() {
    let check = |text: &str, expected: &[(f64, u64)]| {
        let recipe = parse(text).unwrap();
        let found: Vec<(f64, u64)> = recipe
            .ingredients()
            .iter()
            .map(|ingredient| {
                let training = &ingredient.training;
                (training.weight_decay.unwrap(), training.epochs.unwrap())
            })
            .collect();
        assert_eq!(found, expected, "{text}");
    };
    let lists = "weight_decay = [0.1, 0.2]\nepochs = [1, 2]";
    check(
        &format!("[ingredients.vary]\n{lists}"),
        &[(0.1, 1), (0.2, 2)],
    );
    check(
        &format!("[ingredients]\ncount = 3\n[ingredients.vary]\n{lists}"),
        &[(0.1, 1), (0.2, 2), (0.1, 1)],
    );
    check(
        &format!("[ingredients.vary]\ngrid = true\n{lists}"),
        &[(0.1, 1), (0.2, 1), (0.1, 2), (0.2, 2)],
    );
    let recipe = parse("[ingredients.vary]\nschedule = [\"llr\", \"ft\"]").unwrap();
    let second = &recipe.ingredients()[1];
    assert_eq!(second.training.schedule, Some(ScheduleName::Ft));
    assert_eq!(second.varied["schedule"], "ft");
}

#[test]
fn overrides_win() {
    let overrides = ["pruning.phases=2", "title=a b", "merge.method=greedy"];
    let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    let recipe = Recipe::parse("[pruning]\nphases = 5", &overrides).unwrap();
    assert_eq!(recipe.pruning.phases, Some(2));
    assert_eq!(recipe.title, "a b");
    assert_eq!(recipe.merge.method, Method::Greedy);
    let through: Override = "title.a=1".parse().unwrap();
    let error = Recipe::parse("title = \"t\"", &[through]).unwrap_err();
    assert!(matches!(error, RecipeError::NoSection { .. }), "{error}");
    for text in ["phases", "=1", "a..b=1"] {
        let error = text.parse::<Override>().unwrap_err();
        assert!(matches!(error, RecipeError::Override { .. }), "{error}");
    }
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    let check = |text: &str, expected: &str| match parse(text).unwrap_err() {
        RecipeError::Text { suggestion, .. } => {
            assert_eq!(suggestion.as_deref(), Some(expected), "{text}");
        }
        error => panic!("{error}"),
    };
    check("[pruning]\nphase = 3", "phases");
    check("[prunning]\nphases = 3", "pruning");
    check("[pretraining]\nepoch = 3", "epochs");
    check("[retraining]\nschedule = \"linaer\"", "linear");
    check("[[ingredients.each]]\nweight_deacy = 0.1", "weight_decay");
    check("[ingredients.vary]\nepoch = [1]", "epochs");
    check("[merge]\nmethod = \"gready\"", "greedy");
}

#[test]
fn choices_with_an_effect_somewhere_are_kept() {
    for text in [
        "[pretraining]\noptimizer = \"adamw\"\n[retraining]\nbetas = [0.9, 0.99]",
        "[retraining]\nlearning_rate = 0.1\n[ingredients.vary]\nschedule = [\"llr\", \"linear\"]",
        "[retraining]\nlearning_rate = 0.1\n[trainer]\ncommand = \"train {job}\"",
    ] {
        assert!(parse(text).is_ok(), "{text}");
    }
}

#[test]
fn what_cannot_be_is_named() {
    let check = |text: &str, expected: &str| {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    };
    check(
        "seeds = [1, 1]",
        "`seeds` is 1 twice, expected seeds that differ",
    );
    check(
        "seeds = []",
        "`seeds` is a list of 0, expected between 1 and 1000",
    );
    check(
        "[pruning]\nsparsity = 1.0",
        "`pruning.sparsity` is 1, expected a number between 0 and 1",
    );
    check(
        "[pruning]\nsparsity = nan",
        "`pruning.sparsity` is NaN, expected a number between 0 and 1",
    );
    check(
        "[pruning]\nsparsities = [0.5, 0.4]",
        "`pruning.sparsities` is 0.4 after 0.5, expected ascending numbers",
    );
    check(
        "[pruning]\nsparsities = [0.5]\nphases = 1",
        "`pruning.sparsities` and `pruning.phases` cannot both be given: the list says both",
    );
    check(
        "[pruning]\npattern = \"3:5\"",
        "`pruning.pattern` is `3:5`, expected `unstructured`, `channels`, or n:m with m one of 2, \
         4, 8, 16 and 32",
    );
    check(
        "[pruning]\npattern = \"2:4\"\nsparsity = 0.5",
        "`pruning.pattern` and `pruning.sparsity` cannot both be given: an n:m pattern says by \
         itself what is pruned, in one phase",
    );
    check(
        "[pruning]\npattern = \"channels\"\ndistribution = \"erk\"",
        "`pruning.distribution` is erk, expected `global` or `uniform` with the pattern `channels`",
    );
    check(
        "[pretraining]\nschedule = \"llr\"",
        "`pretraining.schedule` has no effect: it takes its rates from a training before, and \
         there is none",
    );
    check(
        "[pretraining]\nmilestones = [1.0]",
        "`pretraining.milestones` has no effect: only the schedule `step` has milestones",
    );
    let without_effect = "has no effect: the schedule, `llr` by default, takes its rates from \
                          the pretraining; choose another, such as `linear`";
    check(
        "[retraining]\nlearning_rate = 0.01",
        &format!("`retraining.learning_rate` {without_effect}"),
    );
    check(
        "[[ingredients.each]]\nschedule = \"linear\"\nlearning_rate = 0.01\n\
         [[ingredients.each]]\nwarmup_epochs = 0.1",
        &format!("`warmup_epochs` of ingredient `2` {without_effect}"),
    );
    check(
        "[retraining]\nbetas = [0.9, 0.99]",
        "`retraining.betas` has no effect: only `adamw` has betas",
    );
    check(
        "[ingredients]\ncount = 1",
        "`ingredients.count` is 1, expected between 2 and 1000",
    );
    check(
        "[ingredients]\nmin = 4",
        "`ingredients.min` is 4, expected between 2 and 3, the number of ingredients",
    );
    check(
        "[ingredients]\nsame_seed = true",
        "ingredients `1` and `2` have the same seed and training: they would be copies of one \
         another",
    );
    check(
        "[[ingredients.each]]\nseed = 3\n[[ingredients.each]]\n[[ingredients.each]]\nseed = 3",
        "ingredients `1` and `3` have the same seed and training: they would be copies of one \
         another",
    );
    check(
        "[ingredients]\ncount = 2\nvary = { epochs = [1, 2, 3] }",
        "`ingredients.count` is 2, expected at least 3, the longest list of `ingredients.vary`",
    );
    check(
        "[merge]\ntie = \"drop\"",
        "`merge.tie` has no effect: only the method `greedy` meets ties",
    );
    check(
        "[evaluation]\nmetric = \"f1\"",
        "`evaluation.metric` has no effect: only an `evaluation.command` prints metrics",
    );
    check(
        "[evaluation]\nood = true\ncommand = \"measure {checkpoint}\"",
        "`evaluation.command` and `evaluation.ood` cannot both be given: the embedded evaluator \
         measures that, and numbers of two evaluators are not held against each other",
    );
    check(
        "[recalibration]\nimages = 1",
        "`recalibration.images` is 1, expected at least 2",
    );
    check(
        "[trainer]\ncommand = \"train\"\nstall_secs = 0",
        "`trainer.stall_secs` is 0, expected at least 1",
    );
    check(
        "[run]\nbackoff_secs = 1e9",
        "`run.backoff_secs` is 1000000000, expected a number between 0 and 86400",
    );
    check(
        "[merge]\nmethod = \"weighted\"\nweights = [1.0]",
        "`merge.weights` is a list of 1, expected 3, one per ingredient",
    );
    check(
        "[merge]\nweights = [1.0]",
        "`merge.weights` has no effect: only the method `weighted` takes weights",
    );
    check(
        "[merge]\nmethod = \"greedy\"\n[data]\nvalidation = 0.0",
        "`data.validation` is 0, expected above 0: the greedy soup is chosen by validation accuracy",
    );
    check(
        "[evaluation]\nsegment_points = 2",
        "`evaluation.segment_points` is 2, expected 0, or between 3 and 101",
    );
}
