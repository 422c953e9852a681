//! The seal of a soup: one digest of what its files say beside the elements of their
//! tensors, so that nothing in a soup is outside of every digest.
//!
//! Names, types, shapes and elements of tensors are in the digest of the content, which
//! the certificate has. The seal of a safetensors file covers its metadata, the
//! certificate among it; that of a model covers every byte that is no element. The index
//! of shards follows from the shards, and is compared with what follows.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::Shard;
use crate::checkpoint::map::Access;
use crate::checkpoint::map::ByteSource;
use crate::checkpoint::map::SourceError;
use crate::format::onnx::frame::frame_digest;
use crate::format::shard_index::render;
use crate::tensor::Digest;
use crate::tensor::Digester;

/// Key of the seal in a file's metadata; its value is a digest.
pub const SEAL_KEY: &str = "sms_seal";

/// Bytes of a seal.
pub(crate) const SEAL_BYTES: u64 = 32;

/// Whether a checkpoint is sealed, and as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seal {
    /// It has no seal: no soup, or one of an older version.
    Absent,
    /// All files are as they were sealed.
    Holds,
    /// A file has another seal than it should, or none where others have one.
    Broken {
        /// The file.
        file: PathBuf,
    },
}

/// The seal that a safetensors file bears, and whether it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShardSeal {
    Absent,
    Fits,
    Misfits,
}

impl ShardSeal {
    /// Takes the seal out of the metadata of a safetensors file: it is about the file,
    /// which nobody above sees.
    pub(super) fn take(metadata: &mut BTreeMap<String, String>) -> Self {
        match metadata.remove(SEAL_KEY) {
            None => Self::Absent,
            Some(text) if text == metadata_seal(metadata).to_string() => Self::Fits,
            Some(_) => Self::Misfits,
        }
    }
}

/// The seal of a safetensors file with this metadata, which may have one already.
pub(crate) fn metadata_seal(metadata: &BTreeMap<String, String>) -> Digest {
    let mut digester = Digester::new();
    for (key, value) in metadata.iter().filter(|(key, _)| *key != SEAL_KEY) {
        digester.push_text(key);
        digester.push_text(value);
    }
    digester.finish()
}

impl Checkpoint {
    /// Whether the checkpoint is what was sealed.
    ///
    /// # Errors
    /// [`SourceError`] if a file cannot be read.
    pub fn seal(&self) -> Result<Seal, SourceError> {
        if let (Some(model), Some(recorded)) = (self.model(), self.model_seal()) {
            let file = |location| self.model_file(location);
            let found = frame_digest(model, file, (SEAL_KEY, SEAL_BYTES));
            for shard in &self.shards {
                shard.source.check_fault()?;
            }
            return Ok(match found?.to_string() == recorded {
                true => Seal::Holds,
                false => broken(self.shards[0].source.path()),
            });
        }
        let is_absent = |shard: &Shard| shard.seal == ShardSeal::Absent;
        if self.shards.iter().all(is_absent) {
            return Ok(Seal::Absent);
        }
        let mut shards = self.shards.iter();
        if let Some(shard) = shards.find(|shard| shard.seal != ShardSeal::Fits) {
            return Ok(broken(shard.source.path()));
        }
        match &self.index {
            Some(index) if !self.follows(index)? => Ok(broken(index)),
            _ => Ok(Seal::Holds),
        }
    }

    /// Names of what stands in the directory that was opened and is no part of the
    /// checkpoint, sorted.
    pub fn companions(&self) -> Vec<String> {
        let Some(directory) = &self.directory else {
            return Vec::new();
        };
        let shards = self.shards.iter().map(|shard| shard.source.path());
        let own: Vec<_> = shards
            .chain(self.index.as_deref())
            .filter_map(Path::file_name)
            .collect();
        let Ok(entries) = std::fs::read_dir(directory) else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<String> = names
            .filter(|name| !own.contains(&name.as_os_str()))
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    /// Whether an index says what follows from the shards, and no more.
    fn follows(&self, index: &Path) -> Result<bool, SourceError> {
        let name_of = |shard: &Shard| {
            let name = shard.source.path().file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let tensors = self.stored_tensors().iter();
        let places =
            tensors.map(|tensor| (tensor.name.clone(), name_of(&self.shards[tensor.shard])));
        let total = self
            .stored_tensors()
            .iter()
            .map(|tensor| tensor.bytes)
            .sum();
        let expected = render(&places.collect(), total);

        let source = ByteSource::open(index, Access::Pread)?;
        if source.bytes() != expected.len() as u64 {
            return Ok(false);
        }
        let mut scratch = Vec::new();
        let found = source.read(0, expected.len(), &mut scratch)?;
        Ok(found == expected.as_bytes())
    }
}

fn broken(file: &Path) -> Seal {
    let file = file.to_owned();
    Seal::Broken { file }
}
