//! `sms-merge --method greedy` as a user runs it: with a command that evaluates, and with
//! the embedded evaluator.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

/// Writes the letters of the ingredients of a checkpoint to a log, and prints the score
/// that a table has for them. The name of a soup's file tells nothing: its certificate
/// names the ingredients.
const SCORE: &str = r#"
case "$1" in
    a.st|b.st|c.st) members=${1%.st} ;;
    *) members=$(head -c 20000 "$1" | grep -a -o '[abc]\.st' | sort -u | tr -d '.st\n') ;;
esac
echo "$members" >> log
echo "evaluating $1"
while read -r name score; do
    if [ "$name" = "$members" ]; then echo "$score"; fi
done < table
"#;

const EVAL: &str = "sh score.sh {checkpoint}";

/// A directory with three ingredients of one mask, one of another, and an evaluator.
struct Bench(TempDir);

impl Bench {
    fn new(table: &str) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for name in ["a.st", "b.st", "c.st", "odd.st"] {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
            fs::copy(fixtures.join(name), bench.at(name)).unwrap();
        }
        fs::write(bench.at("score.sh"), SCORE).unwrap();
        bench.set(table);
        bench
    }

    /// Sets what checkpoints score: `a` 0.7, the soup of `a` and `b` `ab` 0.8.
    fn set(&self, table: &str) {
        fs::write(self.at("table"), table.replace(", ", "\n") + "\n").unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sms-merge"));
        let command_line = command.args(words).current_dir(self.0.path());
        command_line.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// A greedy soup of `a.st`, `b.st` and `c.st`.
    fn greedy(&self, more: &[&str]) -> Output {
        let words = [
            "a.st", "b.st", "c.st", "--method", "greedy", "-o", "soup.st",
        ];
        self.run(&[&words, more].concat())
    }

    fn greedy_json(&self, more: &[&str]) -> Value {
        let output = self.greedy(&[more, &["--json", "--force"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What was evaluated, in order.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.at("log")).unwrap_or_default();
        let _ = fs::remove_file(self.at("log"));
        log.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Names of what should not be there.
    fn strays(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let known = ["a.st", "b.st", "c.st", "odd.st", "score.sh", "table", "log"];
        names
            .filter(|name| !known.contains(&name.as_str()))
            .collect()
    }

    /// Digest of the content of a soup.
    fn content(&self, soup: &str) -> String {
        let output = self.run(&["inspect", soup, "--json"]);
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        object["certificate"]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Helps, makes no difference or harms, from the best down.
const MIXED: &str = "a 0.6, b 0.9, c 0.8, bc 0.95, abc 0.5, ab 0.9";

#[test]
fn the_soup_is_saved_and_not_the_candidate_that_was_dropped_last() {
    let bench = Bench::new(MIXED);
    let output = bench.greedy(&["--eval", EVAL]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(bench.log(), "a b c bc abc");
    assert_eq!(bench.strays(), ["soup.st"]);
    let told = stderr(&output);
    for line in [
        "evaluated 2 of 3: `b.st` scores 0.9",
        "kept `b.st`: the soup with it scores 0.9",
        "kept `c.st`: the soup with it scores 0.95",
        "dropped `a.st`: the soup with it scores 0.5",
        "merged 2 ingredients into `soup.st`",
        "kept 2 candidates of 3, with a score of 0.95",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    assert!(bench.run(&["b.st", "c.st", "-o", "bc.st"]).status.success());
    assert!(
        bench
            .run(&["a.st", "b.st", "c.st", "-o", "abc.st"])
            .status
            .success()
    );
    assert_eq!(bench.content("soup.st"), bench.content("bc.st"));
    assert_ne!(bench.content("soup.st"), bench.content("abc.st"));
    for (given, exit) in [
        (&["b.st", "c.st"][..], 0),
        (&["c.st", "a.st", "b.st"], 0),
        (&[], 0),
        (&["a.st", "b.st"], 6),
        (&["b.st", "c.st", "odd.st"], 4),
        (&["b.st"], 2),
    ] {
        let output = bench.run(&[&["verify", "soup.st"], given].concat());
        assert_eq!(
            output.status.code(),
            Some(exit),
            "{given:?} {}",
            stderr(&output)
        );
    }
    let inspected = bench.run(&["inspect", "soup.st"]);
    let inspected = String::from_utf8(inspected.stdout).unwrap();
    assert!(
        inspected.contains("greedy soup of 2 ingredients"),
        "{inspected}"
    );
    assert!(
        inspected.contains("dropped a.st: with it 0.5"),
        "{inspected}"
    );
}

#[test]
fn the_report_holds_every_decision() {
    let bench = Bench::new(MIXED);
    let report = bench.greedy_json(&["--eval", EVAL]);
    assert_eq!(report["method"], "greedy");
    assert_eq!(report["ingredients"], serde_json::json!(["b.st", "c.st"]));
    assert_eq!(report["coefficients"], serde_json::json!([0.5, 0.5]));
    let selection = &report["selection"];
    assert_eq!(
        (&selection["better"], &selection["on_tie"]),
        (&"higher".into(), &"keep".into())
    );
    assert_eq!(selection["score"], 0.95);
    let expected = serde_json::json!([
        {"candidate": 1, "score": 0.9, "is_kept": true},
        {"candidate": 2, "score": 0.95, "is_kept": true},
        {"candidate": 0, "score": 0.5, "is_kept": false},
    ]);
    assert_eq!(selection["decisions"], expected);
    let candidates = selection["candidates"].as_array().unwrap();
    let found: Vec<_> = candidates
        .iter()
        .map(|found| (&found["name"], &found["score"]))
        .collect();
    let name = |name: &str| Value::from(name);
    let (a, b, c) = (name("a.st"), name("b.st"), name("c.st"));
    let scores = [0.6, 0.9, 0.8].map(Value::from);
    assert_eq!(
        found,
        [(&a, &scores[0]), (&b, &scores[1]), (&c, &scores[2])]
    );
    let uniform = bench.run(&["a.st", "b.st", "-o", "ab.st", "--json"]);
    let uniform: Value = serde_json::from_slice(&uniform.stdout).unwrap();
    assert_eq!(uniform["selection"], Value::Null);
}

#[test]
fn rules_and_metrics() {
    let bench = Bench::new("");
    let check = |table: &str, more: &[&str], kept: &[&str], log: &str| {
        bench.set(table);
        let report = bench.greedy_json(&[&["--eval", EVAL], more].concat());
        assert_eq!(
            report["ingredients"],
            serde_json::json!(kept),
            "{table} {more:?}"
        );
        assert_eq!(bench.log(), log, "{table} {more:?}");
    };
    let same = "a 1, b 1, c 1, ab 1, ac 1, abc 1";
    check(same, &[], &["a.st", "b.st", "c.st"], "a b c ab abc");
    check(same, &["--on-tie", "drop"], &["a.st"], "a b c ab ac");
    let loss = "a 3, b 1, c 2, bc 0.5, abc 0.5, ab 9";
    check(
        loss,
        &["--lower-is-better"],
        &["a.st", "b.st", "c.st"],
        "a b c bc abc",
    );
    let strictly = ["--lower-is-better", "--on-tie", "drop"];
    check(loss, &strictly, &["b.st", "c.st"], "a b c bc abc");
    let object = r#"a {"f":{"1":3}}, b {"f":{"1":1}}, c {"f":{"1":2}}, ab {"f":{"1":4}}, ac {"f":{"1":0}}, abc {"f":{"1":0}}"#;
    check(
        object,
        &["--metric", "/f/1"],
        &["a.st", "b.st"],
        "a b c ac ab",
    );
    // Of `--best` only what it keeps is looked at.
    fs::write(bench.at("metrics.json"), r#"{"a": 1, "b": 0, "c": 2}"#).unwrap();
    let best = ["--best", "2", "--metrics", "metrics.json"];
    check("a 1, c 2, ac 0", &best, &["c.st"], "a c ac");
    check(
        "b 1, c 2, bc 3",
        &["--last", "2"],
        &["b.st", "c.st"],
        "b c bc",
    );
}

#[test]
fn statistics_are_estimated_again_before_each_evaluation() {
    let bench = Bench::new("a 1, b 2, c 3, ab 4, ac 5, abc 6, bc 7");
    // What is evaluated is the copy, of which the name tells nothing.
    let score = SCORE.replace("a.st|b.st|c.st", "never");
    fs::write(bench.at("score.sh"), score).unwrap();
    let copy = "sh -c 'echo \"$1\" >> copied; cat \"$1\" > \"$2\"; : ${SMS_MERGE_CHECKPOINT:?} \
                ${SMS_MERGE_OUTPUT:?}' copy {checkpoint} {output}";
    for name in ["a", "b", "c"] {
        // Their own certificates name them.
        let file = format!("{name}.st");
        fs::rename(bench.at(&file), bench.at("x.st")).unwrap();
        let named = fs::read(bench.at("x.st")).unwrap();
        fs::write(bench.at(&file), rename_format(&named, &file)).unwrap();
    }
    fs::remove_file(bench.at("x.st")).unwrap();
    let output = bench.greedy(&["--eval", EVAL, "--recalibrate", copy]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let copied = fs::read_to_string(bench.at("copied")).unwrap();
    let copied: Vec<&str> = copied.lines().collect();
    assert_eq!(copied.len(), 5);
    assert_eq!(copied[..3], ["a.st", "b.st", "c.st"]);
    assert!(copied[3].ends_with("soup.safetensors"), "{copied:?}");
    assert_eq!(bench.log(), "a b c bc abc");
    let mut strays = bench.strays();
    strays.sort();
    assert_eq!(strays, ["copied", "soup.st"]);
}

/// A checkpoint with a line of metadata that names it.
fn rename_format(bytes: &[u8], name: &str) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header["__metadata__"]["name"] = name.into();
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut renamed = (text.len() as u64).to_le_bytes().to_vec();
    renamed.extend(text);
    renamed.extend(&bytes[8 + length..]);
    renamed
}

#[test]
fn a_failing_evaluator_is_named_and_leaves_nothing() {
    let bench = Bench::new(MIXED);
    let check = |eval: &[&str], exit: i32, expected: &[&str]| {
        let output = bench.greedy(&[&["--eval"], eval].concat());
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(exit), "{eval:?} {told}");
        for words in expected {
            assert!(told.contains(words), "{words}\n{told}");
        }
        assert_eq!(bench.strays(), [""; 0], "{eval:?}");
    };
    let first = "`a.st` cannot be evaluated";
    let failing = "sh -c 'echo half; echo why >&2; exit 9' {checkpoint}";
    check(
        &[failing],
        1,
        &[first, "exit status: 9", "it printed `half`", "why\n"],
    );
    check(
        &["echo {checkpoint}"],
        1,
        &[first, "printed `a.st`", "neither a number"],
    );
    check(&["echo nan"], 1, &[first, "expected a finite number"]);
    check(&["true"], 1, &[first, "printed nothing"]);
    check(
        &["./no-such-program"],
        1,
        &[first, "`./no-such-program` cannot be run"],
    );
    check(
        &["sleep 60", "--eval-timeout", "1"],
        1,
        &[first, "was stopped after 1 s"],
    );
    check(
        &["echo '{\"f\": 1}'", "--metric", "g"],
        1,
        &["no metric `g`, only `f`"],
    );
    check(
        &[EVAL, "--recalibrate", "true {output}"],
        1,
        &["wrote no `./.sms-merge-candidates"],
    );
    // The soup of two has no entry.
    bench.set("a 1, b 1, c 1");
    check(
        &[EVAL],
        1,
        &[
            "the soup of `a.st` and `b.st` cannot be evaluated",
            "evaluating",
        ],
    );
}

#[test]
fn an_interruption_ends_the_evaluation() {
    let bench = Bench::new(MIXED);
    let eval = "sh -c 'echo $$ > pid; sleep 60; echo 1'";
    let words = [
        "a.st", "b.st", "--method", "greedy", "--eval", eval, "-o", "soup.st",
    ];
    let mut child = bench
        .command(&words)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let pid = loop {
        assert!(started.elapsed() < Duration::from_secs(30));
        match fs::read_to_string(bench.at("pid")) {
            Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(!Path::new("/proc").join(pid).exists());
    assert_eq!(bench.strays(), ["pid"]);
}

#[test]
fn masks_are_compared_before_anything_is_evaluated() {
    let bench = Bench::new(MIXED);
    let words = [
        "a.st", "b.st", "odd.st", "--method", "greedy", "--eval", EVAL, "-o", "soup.st",
    ];
    let output = bench.run(&words);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert_eq!(bench.log(), "");
    assert_eq!(bench.strays(), [""; 0]);
}

#[test]
fn options_that_do_not_go_together() {
    let bench = Bench::new(MIXED);
    let check = |more: &[&str], expected: &str| {
        let output = bench.run(&[&["a.st", "b.st", "-o", "soup.st"], more].concat());
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{more:?} {told}");
        assert!(told.contains(expected), "{expected}\n{told}");
        assert_eq!(bench.strays(), [""; 0]);
    };
    let with = |more: &[&'static str]| [&["--method", "greedy", "--eval", EVAL], more].concat();
    check(&["--eval", EVAL], "`--eval` is for greedy soups");
    check(&["--on-tie", "drop"], "`--on-tie` is for greedy soups");
    check(
        &["--metric", "f1"],
        "`--metric` says by what ingredients are ranked, and none are",
    );
    check(
        &["--method", "weighted"],
        "`--method weighted` needs `--weights`",
    );
    check(
        &["--method", "uniform", "-w", "1,2"],
        "`--weights` are for `--method weighted`",
    );
    check(
        &with(&["-w", "1,2"]),
        "`--weights` are for `--method weighted`",
    );
    check(&with(&["--on-mask-mismatch", "union"]), "must be `error`");
    check(
        &with(&["--recalibrate", "true"]),
        "`--recalibrate` must say where to write",
    );
    check(
        &["--method", "greedy", "--eval", "a 'b"],
        "has a quote that is not closed",
    );
    check(&["--method", "greedy", "--eval-timeout", "9"], "--eval");
    let output = bench.run(&["check", "a.st", "b.st", "--lower-is-better"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    if cfg!(feature = "train") {
        check(&["--model", "mlp"], "`--model` is for greedy soups");
        check(
            &with(&["--data", "digits"]),
            "`--data` is for the embedded evaluator",
        );
        check(
            &["--method", "greedy", "--metric", "loss"],
            "the embedded evaluator measures",
        );
    } else {
        check(&["--method", "greedy"], "built without its evaluator");
    }
}

#[test]
fn a_plan_says_how_much_may_be_read_and_evaluated() {
    let bench = Bench::new(MIXED);
    let plain = bench.run(&["a.st", "b.st", "c.st", "--plan", "--json"]);
    let plain: Value = serde_json::from_slice(&plain.stdout).unwrap();
    assert_eq!(plain["plan"]["n_evaluations"], 0);
    let greedy = bench.greedy(&["--eval", EVAL, "--plan", "--json"]);
    let greedy: Value = serde_json::from_slice(&greedy.stdout).unwrap();
    let plan = &greedy["plan"];
    assert_eq!(plan["n_evaluations"], 5);
    assert_eq!(plan["coefficients"], Value::Null);
    let bytes = |plan: &Value, name: &str| plan[name].as_u64().unwrap();
    let all = bytes(&plain["plan"], "bytes_to_read");
    // Masks of all, soups of two and of three, and that of three again.
    assert_eq!(bytes(plan, "bytes_to_read"), all + all / 3 * 2 + all + all);
    let soup = bytes(&plain["plan"], "bytes_to_write");
    assert_eq!(bytes(plan, "bytes_to_write"), 3 * soup);
    let told = bench.greedy(&["--eval", EVAL, "--plan"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("chosen by 5 evaluations"), "{told}");
    assert_eq!(bench.log(), "");
    assert_eq!(bench.strays(), [""; 0]);
}

/// Ingredients with batch norm that share a mask: two good ones and a spoilt one.
#[cfg(feature = "train")]
fn networks() -> Bench {
    let bench = Bench(tempfile::tempdir().unwrap());
    let run = |words: &[&str]| {
        let output = bench.run(words);
        assert!(output.status.success(), "{words:?} {}", stderr(&output));
    };
    let train = |words: &[&str]| run(&[&["train", "-q"], words].concat());
    let convnet = ["--model", "convnet", "--model-option", "widths=4,8"];
    train(&[&convnet[..], &["--epochs", "6", "-o", "dense.st"]].concat());
    run(&["prune", "dense.st", "-o", "base.st", "--sparsity", "0.5"]);
    let retrain = ["--init", "base.st", "--limit-train", "512", "--epochs"];
    train(&[&retrain[..], &["1", "--seed", "1", "-o", "a.st"]].concat());
    // The parent with its weights turned round: it says what an image is not.
    let spoil = ["base.st", "base.st", "-w", "1,-4", "--no-normalize"];
    run(&[&spoil[..], &["-o", "b.st", "-q"]].concat());
    train(&[&retrain[..], &["1", "--seed", "3", "-o", "c.st"]].concat());
    bench
}

#[cfg(feature = "train")]
#[test]
fn the_embedded_evaluator_measures_what_recalibrate_and_eval_do() {
    let bench = networks();
    let report = bench.greedy_json(&[]);
    let selection = &report["selection"];
    let accuracy = |name: &str| {
        let ready = bench.run(&["recalibrate", name, "-o", "ready.st", "--force"]);
        assert!(ready.status.success(), "{}", stderr(&ready));
        let found = bench.run(&["eval", "ready.st", "--on", "validation", "--json"]);
        let found: Value = serde_json::from_slice(&found.stdout).unwrap();
        found["models"][0]["evaluation"]["accuracy"]
            .as_f64()
            .unwrap()
    };
    let alone = ["a.st", "b.st", "c.st"].map(accuracy);
    for (candidate, alone) in alone.iter().enumerate() {
        assert_eq!(selection["candidates"][candidate]["score"], *alone);
    }
    assert_eq!(selection["score"], accuracy("soup.st"));
    let decisions = selection["decisions"].as_array().unwrap();
    // One that is kept alone has its own statistics.
    assert_eq!(report["needs_recalibration"], decisions[1]["is_kept"]);
    assert!(
        alone[1] + 0.2 < alone[0].min(alone[2]),
        "the spoilt one is not: {alone:?}"
    );
    // The spoilt one comes last, and spoils the soup.
    assert_eq!(
        (&decisions[2]["candidate"], &decisions[2]["is_kept"]),
        (&1.into(), &false.into())
    );
    let of_all = bench.run(&["a.st", "b.st", "c.st", "-o", "all.st", "-q"]);
    assert!(of_all.status.success());
    if decisions[1]["is_kept"] == true {
        assert_eq!(decisions[2]["score"], accuracy("all.st"));
    }
    for given in [&["a.st", "b.st", "c.st"][..], &[]] {
        for soup in ["soup.st", "ready.st"] {
            let _ = accuracy("soup.st");
            let output = bench.run(&[&["verify", soup], given].concat());
            assert_eq!(output.status.code(), Some(0), "{soup} {}", stderr(&output));
        }
    }
    // The evaluator of `eval` is a command as well.
    let eval = format!(
        "{} eval {{checkpoint}} --on validation --json",
        env!("CARGO_BIN_EXE_sms-merge")
    );
    let recalibrate = format!(
        "{} recalibrate {{checkpoint}} -o {{output}} -q",
        env!("CARGO_BIN_EXE_sms-merge")
    );
    let metric = "/models/0/evaluation/accuracy";
    let words = [
        "--eval",
        &eval,
        "--recalibrate",
        &recalibrate,
        "--metric",
        metric,
    ];
    assert_eq!(&bench.greedy_json(&words)["selection"], selection);
}

#[cfg(feature = "train")]
#[test]
fn the_embedded_evaluator_says_what_it_cannot_evaluate() {
    let bench = Bench::new(MIXED);
    let check = |more: &[&str], exit: i32, expected: &str| {
        let output = bench.greedy(more);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(exit), "{more:?} {told}");
        assert!(told.contains(expected), "{expected}\n{told}");
        assert_eq!(bench.strays(), [""; 0]);
    };
    // Its candidates do not say what they are.
    check(
        &[],
        2,
        "`a.st` does not say which network it holds and which",
    );
    let model = ["--model", "mlp"];
    check(&model, 2, "`a.st` does not say which images");
    let both = [&model[..], &["--data", "digits"]].concat();
    check(&both, 3, "`a.st` cannot be evaluated");
    check(
        &[&both[..], &["--validation", "0"]].concat(),
        2,
        "no images of `digits` are held out",
    );
    let unknown = [&model[..], &["--data", "no-such-data"]].concat();
    check(&unknown, 2, "no-such-data");
}
