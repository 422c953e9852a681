//! What a report says, in which order: a [`Report`] walks in, a [`Document`] walks out.

mod accuracy;
mod apart;
mod course;
mod details;
mod quality;
mod size;

use crate::cycle::findings::Findings;
use crate::cycle::findings::Phase;
use crate::cycle::findings::Study;
use crate::cycle::report::Report;
use crate::cycle::report::contender::Contender;
use crate::cycle::report::contender::at_phase;
use crate::cycle::report::document::Block;
use crate::cycle::report::document::Document;
use crate::cycle::report::document::Section;
use crate::cycle::report::number::Unit;
use crate::cycle::report::number::count;
use crate::cycle::report::number::duration;
use crate::cycle::report::number::percent;
use crate::cycle::report::number::plural;
use crate::cycle::report::summary::PhaseSummary;
use crate::cycle::report::summary::Summary;
use crate::cycle::report::verdict::capitalised;

/// What sections are made of.
#[derive(Clone, Copy)]
struct View<'a> {
    findings: &'a Findings,
    summary: &'a Summary,
    unit: Unit,
}

/// Most missing ingredients that are named at the top.
const MOST_MISSING: usize = 3;

/// The report, headline first.
pub(super) fn document(report: &Report<'_>) -> Document {
    let view = View {
        findings: report.findings,
        summary: &report.summary,
        unit: Unit::of(report.findings),
    };
    let sections = [
        accuracy::section(view),
        accuracy::differences(view),
        course::section(view),
        apart::segments(view),
        apart::distances(view),
        course::greedy(view),
        quality::calibration(view),
        quality::corrupted(view),
        size::layers(view),
        size::cost(view),
        details::section(view),
        details::recipe(view),
    ];
    let filled = |section: &Section| !section.blocks.is_empty();
    Document {
        title: view.title(),
        headline: view.summary.headline.clone(),
        subject: view.subject(),
        warnings: view.warnings(),
        sections: sections.into_iter().filter(filled).collect(),
        tool: view.findings.tool.clone(),
    }
}

impl<'a> View<'a> {
    fn title(self) -> String {
        match self.findings.title.trim() {
            "" => "Sparse model soup".to_owned(),
            title => title.to_owned(),
        }
    }

    /// `lenet-300-100 on fashion-mnist, 3 phases of 5 ingredients, 5 seeds`.
    fn subject(self) -> String {
        let findings = self.findings;
        let network = findings.network.as_ref().map(|network| &network.name);
        let data = findings.data.as_ref().map(|data| &data.name);
        let what = match (network, data) {
            (Some(network), Some(data)) => format!("{network} on {data}, "),
            (Some(name), None) | (None, Some(name)) => format!("{name}, "),
            (None, None) => String::new(),
        };
        what + &self.shape()
    }

    fn shape(self) -> String {
        format!(
            "{} of {}, {}",
            plural(
                self.findings.n_phases.max(self.summary.phases.len()),
                "phase"
            ),
            plural(self.findings.n_ingredients, "ingredient"),
            plural(self.summary.seeds, "seed")
        )
    }

    /// The verdict of each phase.
    fn verdicts(self) -> Vec<String> {
        let phases = self.summary.phases.iter();
        phases
            .map(|phase| format!("{}: {}.", self.phase_name(phase), phase.verdict))
            .collect()
    }

    fn warnings(self) -> Vec<String> {
        let missing = self.summary.phases.iter().flat_map(|phase| {
            let reasons = phase.missing.iter();
            reasons.map(|reason| format!("phase {}, {reason}", phase.phase))
        });
        let missing: Vec<String> = missing.collect();
        let shown = missing[..missing.len().min(MOST_MISSING)].join("; ");
        let rest = match missing.len().saturating_sub(MOST_MISSING) {
            0 => String::new(),
            rest => format!("; and {rest} more, which the details of their phases name"),
        };
        let warning = (!missing.is_empty()).then(|| {
            format!(
                "Some soups are of fewer ingredients than were asked for. Missing: {shown}{rest}."
            )
        });
        let unfinished = self.summary.unfinished.clone();
        unfinished.into_iter().chain(warning).collect()
    }

    fn facts(self) -> Vec<(String, String)> {
        let findings = self.findings;
        let mut facts = Vec::new();
        if let Some(network) = &findings.network {
            let text = format!("{}, {} parameters", network.name, count(network.parameters));
            facts.push(("Network", text));
        }
        if let Some(data) = &findings.data {
            let text = format!(
                "{}: {} training, {} validation, {} test images",
                data.name,
                count(data.train as u64),
                count(data.validation as u64),
                count(data.test as u64)
            );
            facts.push(("Data", text));
        }
        let seeds: Vec<String> = findings
            .studies
            .iter()
            .map(|study| study.seed.to_string())
            .collect();
        facts.push(("Study", self.shape()));
        if !seeds.is_empty() {
            facts.push(("Seeds", seeds.join(", ")));
        }
        if let Some(delivered) = &findings.delivered {
            let text = format!(
                "the soup of seed {}, phase {}",
                delivered.seed, delivered.phase
            );
            facts.push(("soup.safetensors", text));
        }
        facts.push((
            "Computing time, jobs added up",
            duration(findings.computing_secs),
        ));
        facts
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// `Phase 2, 92.63 %`.
    fn phase_name(self, phase: &PhaseSummary) -> String {
        match phase.sparsity {
            Some(sparsity) => format!("Phase {}, {} % sparse", phase.phase, percent(sparsity.mean)),
            None => format!("Phase {}", phase.phase),
        }
    }

    /// What numbers with a `±` are, as the end of a caption; nothing of one seed.
    fn spread_label(self) -> String {
        match self.summary.seeds {
            0 | 1 => String::new(),
            seeds => format!(": mean ± standard deviation of {seeds} seeds"),
        }
    }

    /// The studies that have reached a phase.
    fn at(self, phase: &PhaseSummary) -> impl Iterator<Item = (&'a Study, &'a Phase)> {
        at_phase(self.findings, phase.phase)
    }

    /// Who was measured in some phase, in order.
    fn contenders(self) -> Vec<Contender> {
        let mut contenders = Contender::all(self.findings);
        contenders.retain(|contender| {
            let mut phases = self.summary.phases.iter();
            phases.any(|phase| phase.standing(contender).is_some())
        });
        contenders
    }

    /// What `content` says of the last phase of which it says something, and folded, of
    /// those before it.
    fn by_phase(self, content: impl Fn(&PhaseSummary) -> Vec<Block>) -> Vec<Block> {
        let mut phases: Vec<(String, Vec<Block>)> = self
            .summary
            .phases
            .iter()
            .map(|phase| (self.phase_name(phase), content(phase)))
            .filter(|(_, blocks)| !blocks.is_empty())
            .collect();
        let Some((name, last)) = phases.pop() else {
            return Vec::new();
        };
        let mut blocks = vec![Block::Heading(name)];
        blocks.extend(last);
        let folded = phases.into_iter().rev();
        blocks.extend(folded.map(|(name, content)| Block::Fold(name, content)));
        blocks
    }

    /// `Accuracy (%)`.
    fn title_of_accuracy(self) -> String {
        capitalised(self.unit.title())
    }
}
