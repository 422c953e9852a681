//! Readable names of what a run made, and whose soup it delivers.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use super::bench::Bench;
use super::bench::SMALL;
use super::bench::stderr;

#[test]
fn artefacts_have_names_and_the_soup_says_whose_it_is() {
    let bench = Bench::new();
    bench.recipe("r.toml", &format!("seeds = [7, 3]\n{SMALL}"));
    let found = bench.cycle(&["r.toml"], 0);
    let said = stderr(&found);
    assert!(
        said.contains("the soup is that of seed 7, phase 2"),
        "{said}"
    );

    let run = bench.at("sms-run");
    let read = |name: &str| fs::read(run.join("named").join(name)).unwrap();
    for seed in ["seed-3", "seed-7"] {
        assert!(!read(&format!("{seed}/pretraining.safetensors")).is_empty());
        for phase in ["phase-1", "phase-2"] {
            for name in [
                "ingredient-1",
                "ingredient-2",
                "soup",
                "imp",
                "prune",
                "prune-mask",
            ] {
                assert!(!read(&format!("{seed}/{phase}/{name}.safetensors")).is_empty());
            }
        }
    }
    let soup = fs::read(run.join("soup.safetensors")).unwrap();
    assert_eq!(soup, read("seed-7/phase-2/soup.safetensors"));
    assert_ne!(soup, read("seed-3/phase-2/soup.safetensors"));
    // IMP begins as the first ingredient does.
    assert_eq!(
        read("seed-7/phase-1/imp.safetensors"),
        read("seed-7/phase-1/ingredient-1.safetensors")
    );

    let report: Value = serde_json::from_str(&bench.text("sms-run/report.json")).unwrap();
    assert_eq!(
        report["delivered"],
        serde_json::json!({ "seed": 7, "phase": 2 })
    );
    for name in ["report.html", "report.md"] {
        let text = bench.text(&format!("sms-run/{name}"));
        assert!(text.contains("the soup of seed 7, phase 2"), "{name}");
        assert!(
            text.contains("mean ± standard deviation of 2 seeds"),
            "{name}"
        );
    }
    let again = bench.cycle(&["r.toml", "--json"], 0);
    let object: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(object["delivered"]["seed"], 7);
    assert_eq!(object["files"][0], "soup.safetensors");
}

#[test]
fn a_run_ends_without_names_that_it_cannot_give() {
    let bench = Bench::new();
    bench.recipe("r.toml", SMALL);
    let outside = bench.at("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(bench.at("sms-run/receipts")).unwrap();
    symlink(&outside, bench.at("sms-run/named")).unwrap();
    let found = bench.cycle(&["r.toml"], 0);
    let said = stderr(&found);
    assert!(
        said.contains("not every artefact has a readable name"),
        "{said}"
    );
    assert!(bench.at("sms-run/soup.safetensors").is_file());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn names_go_with_what_they_lead_to() {
    let bench = Bench::new();
    bench.recipe("r.toml", &format!("{SMALL}\n[run]\nkeep = \"soups\""));
    bench.cycle(&["r.toml"], 0);
    let mut directories = vec![bench.at("sms-run/named")];
    let mut names = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => {
                    assert!(path.is_file(), "{} leads nowhere", path.display());
                    names += 1;
                }
            }
        }
    }
    assert!(names > 0);
}
