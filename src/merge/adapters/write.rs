//! A soup of adapters from end to end.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::adapter::CONFIG_NAME;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::Contents;
use crate::checkpoint::Destination;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::checkpoint::Sidecars;
use crate::checkpoint::StagedOutput;
use crate::checkpoint::checkpoint_digest;
use crate::connectivity::Connectivity;
use crate::merge::MergeError;
use crate::merge::adapters::AdapterRecord;
use crate::merge::adapters::Products;
use crate::merge::adapters::compute::Norms;
use crate::merge::adapters::compute::Work;
use crate::merge::adapters::plan::AdapterPlan;
use crate::merge::adapters::plan::Piece;
use crate::merge::adapters::plan::plain_options;
use crate::merge::adapters::said::is_said_anew;
use crate::merge::adapters::scales_digest;
use crate::merge::certificate::Certificate;
use crate::merge::certificate::RecordedOptions;
use crate::merge::certificate::TensorRecord;
use crate::merge::draft::Draft;
use crate::merge::file_digest::FileDigest;
use crate::merge::job::Job;
use crate::merge::ledger::Outcome;
use crate::merge::options::MergeOptions;
use crate::merge::recalibrated::content_digest;
use crate::merge::run::carried_metadata;
use crate::merge::run::prove;
use crate::merge::run::require_content;
use crate::merge::sink::Sink;
use crate::tensor::Digest;

/// A soup of adapters that has been written.
#[derive(Debug)]
pub struct AdapterSoup {
    /// Its modules, in the order of the plan.
    pub modules: Vec<MergedModule>,
    /// What was found of tensors that belong to no factor.
    pub outcome: Outcome,
    /// Their masks.
    pub connectivity: Connectivity,
    /// What the soup says about itself.
    pub certificate: Certificate,
    /// Files that were copied along.
    pub sidecars: Sidecars,
    /// Keys of metadata that are not carried over, because ingredients differ in them.
    pub dropped_metadata: Vec<String>,
    /// Bytes of all files of the soup.
    pub bytes_written: u64,
}

/// What was found of a module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MergedModule {
    /// Frobenius norm of the mean of the products, of a truncated one.
    pub norm: f64,
    /// That of what the stored product lacks; 0 of one that is not truncated.
    pub lost: f64,
}

/// Merges adapters into `destination`, as their `plan` with these `options` says.
///
/// # Errors
/// [`MergeError`]; then the destination holds what it held.
pub fn merge_adapters(
    plan: &AdapterPlan,
    ingredients: &Ingredients,
    options: &MergeOptions,
    destination: &Destination,
    files: Vec<Vec<FileDigest>>,
    observer: Observer<'_>,
) -> Result<AdapterSoup, MergeError> {
    let config = plan.config();
    if config.is_some() && !destination.is_directory() {
        return Err(crate::adapter::AdapterError::Option {
            what: "a file",
            reason: "cannot hold this soup: its rank and scale stand in adapter_config.json beside \
                     the weights; write it to a directory, `-o SOUP/`",
        }
        .into());
    }
    let (mut metadata, mut dropped_metadata) = carried_metadata(ingredients);
    plan.correct(&mut metadata);
    dropped_metadata.retain(|key| !is_said_anew(key) && !metadata.contains_key(key));
    let plain = plain_options(options);
    let draft = Draft::new(ingredients, options, &plan.plain, metadata, files);
    let records = plan
        .pieces()
        .map(|piece| TensorRecord::longest(&piece.name, piece.shape.numel(), false));
    let records: usize = records.sum();
    let headers: Vec<u64> = draft
        .reserve_headers()?
        .into_iter()
        .map(|bytes| (bytes + records as u64).next_multiple_of(8))
        .collect();
    let written = plan.plain.written(ingredients);
    let mut sidecars = destination.sidecars(ingredients, &written)?;
    if let Some(text) = config {
        sidecars.give(CONFIG_NAME, text);
    }
    let bytes_written = headers.iter().sum::<u64>() + plan.plain.bytes_to_write;
    destination.require_space(bytes_written)?;

    let fill = |output: &StagedOutput<'_>| {
        let job = Job::new(ingredients, &plan.plain, &plain, Sink::Write(output));
        let outcome = job.run(observer)?;
        let connectivity =
            prove(&outcome, ingredients, &plain).map_err(MergeError::Connectivity)?;
        require_content(&plan.plain, &outcome)?;
        let put = |piece: &Piece, bytes: &[u8]| Ok(output.write_at(0, bytes, piece.offset)?);
        let computed = plan.compute(ingredients, options, observer, put)?;
        let certificate = draft
            .certificate(&outcome, &connectivity)
            .expect("a soup has a certificate");
        let certificate =
            plan.certified(certificate, ingredients, (&outcome, &computed), options)?;
        for (shard, bytes) in draft
            .headers(Some(&certificate), &headers)?
            .iter()
            .enumerate()
        {
            output.write_header(shard, bytes)?;
        }
        let mut inputs = ingredients
            .checkpoints()
            .iter()
            .chain(ingredients.mask_file());
        inputs.try_for_each(Checkpoint::check_unchanged)?;
        if observer.interrupted.load(Ordering::Relaxed) {
            return Err(MergeError::Interrupted);
        }
        let modules = computed.into_iter().map(|found| found.merged()).collect();
        Ok((modules, outcome, connectivity, certificate))
    };
    let contents = Contents {
        headers: &headers,
        layouts: &plan.plain.layouts,
        sidecars: &sidecars,
    };
    let (modules, outcome, connectivity, certificate) = destination.write(&contents, fill)?;
    Ok(AdapterSoup {
        modules,
        outcome,
        connectivity,
        certificate,
        sidecars,
        dropped_metadata,
        bytes_written,
    })
}

/// What was found of a module while it was computed.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    digests: Vec<Digest>,
    norms: Option<Norms>,
}

impl Found {
    fn merged(&self) -> MergedModule {
        let norms = self.norms;
        norms.map_or_else(MergedModule::default, |norms| MergedModule {
            norm: norms.exact,
            lost: norms.lost,
        })
    }
}

impl AdapterPlan {
    /// Computes all modules and hands their tensors to `put`, on several threads. What
    /// is found is in the order of the modules.
    pub(super) fn compute(
        &self,
        ingredients: &Ingredients,
        options: &MergeOptions,
        observer: Observer<'_>,
        put: impl Fn(&Piece, &[u8]) -> Result<(), MergeError> + Sync,
    ) -> Result<Vec<Found>, MergeError> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let found: Mutex<Vec<Found>> = Mutex::new(vec![Found::default(); self.modules.len()]);
        let failure: Mutex<Option<(usize, MergeError)>> = Mutex::new(None);
        let one = |index: usize| -> Result<Found, MergeError> {
            if observer.interrupted.load(Ordering::Relaxed) {
                return Err(MergeError::Interrupted);
            }
            let work = Work {
                checkpoints: ingredients.checkpoints(),
                module: &self.modules[index],
                options,
            };
            let computed = work.compute()?;
            let mut digests = Vec::with_capacity(computed.pieces.len());
            for (piece, bytes) in &computed.pieces {
                put(piece, bytes)?;
                (observer.advance)(bytes.len() as u64);
                digests.push(content_digest(bytes, &piece.shape, piece.dtype.bits()));
            }
            Ok(Found {
                digests,
                norms: computed.norms,
            })
        };
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.modules.len() {
                    break;
                }
                match one(index) {
                    Ok(own) => lock(&found)[index] = own,
                    Err(error) => {
                        stop.store(true, Ordering::Relaxed);
                        let mut failure = lock(&failure);
                        if failure.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                            *failure = Some((index, error));
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.plain.threads.min(self.modules.len()) {
                // Where the system permits no more threads, those there are do it all.
                let spawned = std::thread::Builder::new().spawn_scoped(scope, work);
                if spawned.is_err() {
                    break;
                }
            }
            work();
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// The certificate of the tensors that belong to no factor, completed.
    pub(super) fn certified(
        &self,
        mut certificate: Certificate,
        ingredients: &Ingredients,
        (outcome, computed): (&Outcome, &[Found]),
        options: &MergeOptions,
    ) -> Result<Certificate, MergeError> {
        for (module, found) in self.modules.iter().zip(computed) {
            for (piece, &content) in module.pieces().zip(&found.digests) {
                let record = TensorRecord {
                    content,
                    mask: None,
                };
                certificate.tensors.insert(piece.name.clone(), record);
            }
        }
        let layout = self
            .plain
            .layouts
            .iter()
            .flat_map(|layout| layout.tensors());
        let contents = layout.filter_map(|tensor| {
            let content = certificate.tensors.get(&tensor.name)?.content;
            Some((tensor.name.as_str(), tensor.dtype, &tensor.shape, content))
        });
        certificate.content = checkpoint_digest(contents);
        let records = certificate.soup.ingredients.iter_mut().enumerate();
        for (ingredient, record) in records {
            record.digest = self.ingredient_digest(ingredients, ingredient, outcome)?;
        }
        certificate.options = RecordedOptions {
            adapters: options.adapters.map(|products| self.record(products)),
            ..RecordedOptions::new(
                options,
                outcome.mask_file,
                certificate.options.batch_norm_pooled,
            )
        };
        Ok(certificate)
    }

    pub(super) fn record(&self, products: Products) -> AdapterRecord {
        let modules = self.modules.iter();
        AdapterRecord {
            products,
            scales: scales_digest(
                modules.map(|module| (module.name.as_str(), module.rank, module.alpha)),
            ),
        }
    }

    /// Digest of all that was read of an ingredient.
    pub(super) fn ingredient_digest(
        &self,
        ingredients: &Ingredients,
        ingredient: usize,
        outcome: &Outcome,
    ) -> Result<Digest, MergeError> {
        let checkpoint = &ingredients.checkpoints()[ingredient];
        let mut digests = Vec::new();
        let mut scratch = Vec::new();
        for module in self.adapters[ingredient].modules.values() {
            let others = module.bias.into_iter().chain(module.alpha_tensor);
            for index in [module.down, module.up].into_iter().chain(others) {
                let tensor = &checkpoint.tensors()[index];
                let bytes = checkpoint.read(tensor, 0, tensor.shape.numel(), &mut scratch)?;
                let digest = content_digest(bytes, &tensor.shape, tensor.dtype.bits());
                digests.push((tensor, digest));
            }
        }
        for (planned, found) in self.plain.tensors.iter().zip(&outcome.tensors) {
            let parameter = &ingredients.parameters()[planned.parameter];
            digests.push((
                ingredients.value(parameter, ingredient),
                found.values[ingredient],
            ));
            let mask = ingredients.stored_mask(parameter, ingredient);
            digests.extend(mask.zip(found.stored_masks[ingredient]));
        }
        let all = digests.into_iter();
        Ok(checkpoint_digest(all.map(|(tensor, digest)| {
            (tensor.name.as_str(), tensor.dtype, &tensor.shape, digest)
        })))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
