//! Pages and texts of runs of many shapes: well-formed, filled, escaped.

use std::collections::BTreeSet;
use std::env;
use std::fs;

use super::sample::LENET;
use super::sample::Size;
use super::xml;

use crate::cycle::findings::Findings;
use crate::cycle::findings::Model;
use crate::cycle::findings::Scores;
use crate::cycle::findings::Study;
use crate::cycle::report::Report;
use crate::cycle::report::rows;

/// Renders everything and checks what holds for all pages. With `SMS_MERGE_REPORT_DIR` set,
/// the files stay there, to be looked at.
fn check(name: &str, findings: &Findings) -> String {
    let report = Report::of(findings);
    let page = report.html();
    let read = xml::read(&page).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    for word in ["NaN", "inf", "{}", "None", "Some("] {
        let words = read
            .text
            .split(|character: char| !character.is_alphanumeric());
        let is_there = words.into_iter().any(|found| found == word)
            || (word.contains(['{', '(']) && read.text.contains(word));
        assert!(!is_there, "{name}: {word} in the page");
    }
    let mut ids = BTreeSet::new();
    for element in &read.elements {
        assert!(element.tag != "script", "{name}");
        // To a reader of HTML, `<p/>` opens a paragraph.
        let may_be_empty = ["meta", "path", "rect", "circle"].contains(&element.tag.as_str());
        assert!(
            may_be_empty || !element.is_empty,
            "{name}: <{}/>",
            element.tag
        );
        for address in ["src", "srcset", "data", "action"] {
            assert_eq!(element.attribute(address), None, "{name}: {}", element.tag);
        }
        if let Some(id) = element.attribute("id") {
            assert!(ids.insert(id), "{name}: {id} twice");
        }
        for place in ["d", "x", "y", "width", "height", "style"] {
            let value = element.attribute(place).unwrap_or("");
            assert!(
                !value.contains("NaN") && !value.contains("inf"),
                "{name}: {value}"
            );
        }
    }
    for element in read.elements.iter().filter(|element| element.tag == "a") {
        let target = element.attribute("href").unwrap();
        assert!(
            ids.contains(target.strip_prefix('#').unwrap()),
            "{name}: {target}"
        );
    }
    assert!(!page.contains("url("), "{name}");
    let text = report.markdown();
    let mut json = String::new();
    // The JSON of many seeds is that of one many times, and takes seconds to read.
    if findings.studies.len() <= 5 {
        json = report.json().unwrap();
        let again: Findings = serde_json::from_str(&json).unwrap();
        assert_eq!(again, *findings, "{name}");
    }
    let rows = rows(&report);
    let of_phases = rows.iter().filter(|row| !row[0].is_empty());
    assert_eq!(of_phases.count(), report.summary.phases.len());
    if let Ok(directory) = env::var("SMS_MERGE_REPORT_DIR") {
        for (ending, content) in [("html", &page), ("md", &text), ("json", &json)] {
            fs::write(format!("{directory}/{name}.{ending}"), content).unwrap();
        }
    }
    page
}

#[test]
fn runs_of_any_size_are_shown() {
    let study = Size::study().findings();
    let page = check("study", &study);
    for id in [
        "accuracy",
        "differences",
        "curves",
        "segments",
        "distances",
        "greedy",
        "calibration",
        "corrupted",
        "layers",
        "cost",
        "details",
        "recipe",
    ] {
        assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
    }
    let loses = Size {
        gain: -0.004,
        n_seeds: 1,
        n_ingredients: 3,
        ..Size::study()
    };
    check("loses", &loses.findings());
    let large = Size {
        n_seeds: 10,
        n_phases: 10,
        n_ingredients: 10,
        gain: 0.005,
        layers: LENET,
    };
    let page = check("large", &large.findings());
    assert!(page.len() < 4 << 20, "{} bytes", page.len());
    let least = Size {
        n_seeds: 1,
        n_phases: 1,
        n_ingredients: 1,
        ..Size::study()
    };
    check("least", &least.findings());
}

#[test]
fn what_was_not_measured_is_left_out() {
    let nothing = Findings {
        studies: Vec::new(),
        network: None,
        data: None,
        recipe: String::new(),
        title: String::new(),
        ..Size::study().findings()
    };
    let page = check("nothing", &nothing);
    assert!(page.contains("No soup has been measured yet."));
    assert!(!page.contains("<svg"), "there is nothing to plot");

    let started = Findings {
        studies: vec![Study {
            seed: 1,
            dense: Model::default(),
            phases: Vec::new(),
        }],
        ..nothing.clone()
    };
    check("started", &started);

    let mut partial = Size::study().findings();
    partial.studies.truncate(2);
    partial.studies[1].phases.truncate(1);
    let phase = &mut partial.studies[1].phases[0];
    phase.soup.model = Model::default();
    phase.soup.decisions.clear();
    phase.ingredients.truncate(2);
    phase.ingredients[1].model.scores = Scores::default();
    phase.distances = None;
    phase.segments.clear();
    phase.baselines.clear();
    phase.cost = None;
    phase.pruned = None;
    let page = check("partial", &partial);
    assert!(page.contains("This run is not finished"));

    let mut bare = Size::study().findings();
    for phase in bare.studies.iter_mut().flat_map(|study| &mut study.phases) {
        phase.ingredients.clear();
        phase.layers.clear();
        phase.soup.missing = vec!["ingredient 2: <killed>".to_owned()];
        phase.soup.model.scores = Scores::default();
        phase
            .segments
            .iter_mut()
            .for_each(|segment| segment.points.clear());
        if let Some(distances) = &mut phase.distances {
            distances.l2.clear();
            distances.angles.clear();
            distances.to_soup.clear();
        }
    }
    let page = check("bare", &bare);
    assert!(page.contains("phase 1, seed 3: ingredient 2: &lt;killed&gt;; and 12 more"));
    assert_eq!(page.matches("class=\"warning\"").count(), 2);
}

#[test]
fn text_from_files_is_escaped() {
    let hostile = "<script>alert(1)</script>&\"'`|*_\u{0}\u{202e}\u{ffff}\n]]>--><!--";
    let mut findings = Size::study().findings();
    findings.title = hostile.to_owned();
    findings.tool = hostile.to_owned();
    findings.recipe = format!("{hostile}\n``````\n# {hostile}");
    findings.network.as_mut().unwrap().name = hostile.to_owned();
    findings.data.as_mut().unwrap().name = hostile.to_owned();
    for phase in findings
        .studies
        .iter_mut()
        .flat_map(|study| &mut study.phases)
    {
        phase.layers[0].name = hostile.to_owned();
        phase.soup.method = hostile.to_owned();
        phase.soup.missing = vec![hostile.to_owned()];
        phase.soup.model.shifted[0].corruption = hostile.to_owned();
        let varied = &mut phase.ingredients[0].varied;
        varied.insert(hostile.to_owned(), hostile.to_owned());
        let model = phase.baselines.remove("imp-reprune").unwrap();
        phase.baselines.insert(hostile.to_owned(), model);
    }
    let page = check("hostile", &findings);
    let read = xml::read(&page).unwrap();
    assert!(read.elements.iter().all(|element| element.tag != "script"));
    assert!(
        read.text
            .contains("<script>alert(1)</script>&\"'`|*_\\u{0}\\u{202e}\\u{ffff}")
    );

    let text = Report::of(&findings).markdown();
    let fence = "`".repeat(7);
    let mut is_code = false;
    for line in text.lines() {
        if line.starts_with(&fence) {
            is_code = !is_code;
        } else if !is_code && !line.contains("`` ") {
            let bare = line.replace("\\<", "").replace("\\|", "");
            assert!(!bare.contains("<script"), "{line}");
        }
    }
    assert!(!is_code, "the fence of the recipe is closed");
    // Every row of a table has as many cells as its head.
    let mut cells = None;
    for line in text.lines() {
        let found = line.replace("\\|", "").matches('|').count();
        if line.starts_with('|') {
            assert_eq!(*cells.get_or_insert(found), found, "{line}");
        } else {
            cells = None;
        }
    }
}
