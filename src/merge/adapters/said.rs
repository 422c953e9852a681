//! What a soup of adapters says of its ranks and scales: in its configuration, and in its
//! metadata.

use std::collections::BTreeMap;

use crate::adapter::Adapter;
use crate::adapter::DIFFUSERS_KEY;
use crate::adapter::Scaling;
use crate::adapter::rewritten;
use crate::merge::adapters::plan::AdapterPlan;
use crate::merge::adapters::plan::PlannedModule;

/// What kohya's programs put into metadata and is not true of a soup: digests, and the one
/// network that was trained.
const KOHYA_DIGESTS: [&str; 2] = ["sshs_model_hash", "sshs_legacy_hash"];

impl AdapterPlan {
    /// The text of `adapter_config.json`, if that is where scales are said.
    pub(super) fn config(&self) -> Option<String> {
        let configs: Vec<_> = self
            .adapters
            .iter()
            .map(|adapter| match &adapter.scaling {
                Scaling::Config(config) => Some(config.all()),
                _ => None,
            })
            .collect::<Option<_>>()?;
        let bare = |name: &'static str| {
            let first = configs[0].get(name);
            configs.iter().all(|config| config.get(name) == first)
        };
        let name_of = |name: &str| name.strip_prefix("base_model.model.").unwrap_or(name).len();
        let modules: BTreeMap<&str, (u64, f64)> = self
            .modules
            .iter()
            .map(|module| {
                let name = &module.name[module.name.len() - name_of(&module.name)..];
                (name, (module.rank, module.alpha))
            })
            .collect();
        let first: &Adapter = &self.adapters[0];
        let is_whole = first.modules.len() == self.modules.len()
            && bare("target_modules")
            && bare("layers_to_transform")
            && bare("layers_pattern")
            && bare("exclude_modules");
        let targets = (!is_whole).then(|| modules.keys().copied().collect());
        Some(rewritten(configs[0], &modules, targets))
    }

    /// Puts what is true of the soup into its metadata.
    pub(super) fn correct(&self, metadata: &mut BTreeMap<String, String>) {
        metadata.remove(DIFFUSERS_KEY);
        for key in KOHYA_DIGESTS {
            metadata.remove(key);
        }
        let is_kohya = matches!(self.adapters[0].scaling, Scaling::Alphas);
        let first = self.modules.first();
        let Some(first) = first.filter(|_| is_kohya) else {
            return;
        };
        let all = |of: &dyn Fn(&PlannedModule) -> String| {
            let same = self.modules.iter().all(|module| of(module) == of(first));
            // As kohya's own program says it of files that it has resized.
            if same {
                of(first)
            } else {
                "Dynamic".to_owned()
            }
        };
        let said = [
            ("ss_network_dim", all(&|module| module.rank.to_string())),
            ("ss_network_alpha", all(&|module| module.alpha.to_string())),
        ];
        let is_named = |key: &str| {
            let mut keys = metadata.keys();
            keys.any(|other| other == key || other.starts_with("ss_network"))
        };
        let said: Vec<_> = said.into_iter().filter(|(key, _)| is_named(key)).collect();
        metadata.extend(said.into_iter().map(|(key, value)| (key.to_owned(), value)));
    }
}

/// Whether a key says what a soup says in its own way, or is a digest of an ingredient.
pub(super) fn is_said_anew(key: &str) -> bool {
    key == DIFFUSERS_KEY || KOHYA_DIGESTS.contains(&key)
}
