//! What a run leaves for its user: the last soup, as a checkpoint and as an ONNX model, and
//! the report.

use std::sync::atomic::AtomicBool;

use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::Observer;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::rewrite;
use sms_merge::connectivity::Rules;
use sms_merge::cycle::findings::Findings;
use sms_merge::cycle::measure::owned;
use sms_merge::cycle::plan::Plan;
use sms_merge::cycle::recipe::Recipe;
use sms_merge::cycle::report::Report;
use sms_merge::cycle::run::collect;
use sms_merge::cycle::run::name_artefacts;
use sms_merge::cycle::scene::Scene;
use sms_merge::cycle::store::ArtefactState;
use sms_merge::cycle::store::Receipt;
use sms_merge::cycle::store::RunDirectory;
use sms_merge::export::onnx::BatchNorms;
use sms_merge::export::onnx::Encoding;
use sms_merge::export::onnx::OnnxExport;
use sms_merge::export::onnx::OnnxOptions;
use sms_merge::export::onnx::Output;
use sms_merge::export::onnx::Payloads;
use sms_merge::format::replace::Durability;

use crate::cli::export::onnx::model_metadata;
use crate::cli::text::Clean;
use crate::cli::text::note;

/// Name of the last soup of the first study, in the run directory.
const SOUP: &str = "soup.safetensors";

/// Name of the same as a model that others compute.
const MODEL: &str = "soup.onnx";

/// Name of the report for people.
pub(super) const REPORT: &str = "report.html";

/// What was found, and the files that say it.
pub(super) struct Deliveries {
    pub(super) findings: Findings,
    /// Names in the run directory: the soup, its model, the report, as far as they are there.
    pub(super) files: Vec<&'static str>,
}

/// What is delivered, and where.
pub(super) struct Delivery<'a> {
    pub(super) run: &'a RunDirectory,
    pub(super) recipe: &'a Recipe,
    pub(super) scene: &'a Scene,
    pub(super) plan: &'a Plan,
}

impl Delivery<'_> {
    /// Writes what there is: each file whole or not at all.
    pub(super) fn deliver(&self, receipts: &[Option<&Receipt>]) -> anyhow::Result<Deliveries> {
        let findings = self.report(receipts)?;
        let mut files = self.soup(receipts)?;
        self.name(receipts);
        if !findings.studies.is_empty() {
            files.push(REPORT);
        }
        Ok(Deliveries { findings, files })
    }

    /// Gives artefacts their readable names. They serve people alone, so that a run does not
    /// fail for them.
    pub(super) fn name(&self, receipts: &[Option<&Receipt>]) {
        if let Err(error) = name_artefacts(self.run, self.plan, receipts) {
            let error = anyhow::Error::from(error);
            let error = Clean(&format!("{error:#}")).to_string();
            note(&format!(
                "warning: not every artefact has a readable name: {error}"
            ));
        }
    }

    /// Writes the report of what there is. One without a soup takes no other's place.
    pub(super) fn report(&self, receipts: &[Option<&Receipt>]) -> anyhow::Result<Findings> {
        let findings = collect(self.recipe, self.scene, self.plan, receipts)?;
        let has_soup = findings
            .studies
            .iter()
            .any(|study| !study.phases.is_empty());
        let is_first = !self.run.root().join(REPORT).exists();
        if !findings.studies.is_empty() && (has_soup || is_first) {
            let report = Report::of(&findings);
            let files = [
                (REPORT, report.html()),
                ("report.md", report.markdown()),
                ("report.json", report.json()?),
            ];
            for (name, text) in files {
                self.run.write_top(name, text.as_bytes())?;
            }
        }
        Ok(findings)
    }

    /// The soup of the last phase of the first study, once it is there.
    fn soup(&self, receipts: &[Option<&Receipt>]) -> anyhow::Result<Vec<&'static str>> {
        let study = self.plan.studies.first();
        let last = study.and_then(|study| study.phases.last());
        let receipt = last.and_then(|phase| receipts[phase.soup]);
        let artefact = receipt.and_then(|receipt| receipt.outputs.get("checkpoint"));
        let Some(artefact) = artefact else {
            return Ok(Vec::new());
        };
        if self.run.check(artefact)? != ArtefactState::Whole {
            return Ok(Vec::new());
        }
        let path = self.run.path_of(artefact);
        let checkpoint = Checkpoint::open(&path, &OpenOptions::default())?;
        let target = self.run.top_target(SOUP)?;
        let nothing = std::collections::BTreeMap::new();
        let metadata = owned(&checkpoint.metadata());
        let durability = Durability::Synced;
        rewrite(&checkpoint, &metadata, &nothing, &target, durability)?;
        Ok(match self.model(checkpoint)? {
            true => vec![SOUP, MODEL],
            false => vec![SOUP],
        })
    }

    /// The soup as an ONNX model, if its network is one of ours.
    fn model(&self, soup: Checkpoint) -> anyhow::Result<bool> {
        let Some(network) = &self.scene.network else {
            return Ok(false);
        };
        let options = OnnxOptions {
            encoding: Encoding::Dense,
            batch_norms: BatchNorms::Keep,
            output: Output::Logits,
            payloads: Payloads::Inside,
            rules: Rules::default(),
            metadata: model_metadata(&soup),
        };
        let soup = Ingredients::join(vec![soup], None, DtypeRule::AnyFloat, |_| true)?;
        // A moment's work, which a signal does not cut short.
        let observer = Observer {
            advance: &|_| (),
            interrupted: &AtomicBool::new(false),
        };
        let export = OnnxExport::plan(&network.graph, &soup, &options, observer)?;
        let target = self.run.top_target(MODEL)?;
        export.write(&target, None, Durability::Synced, observer)?;
        Ok(true)
    }
}
