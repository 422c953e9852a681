//! What a checkpoint says about itself after its statistics of batch norm were estimated
//! again: how, and, of a soup, in a certificate that knows of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::RECALIBRATION_KEY;
use crate::merge::CERTIFICATE_KEY;
use crate::merge::Certificate;
use crate::merge::CertificateError;
use crate::tensor::Digest;

/// Version of the record's fields.
const FORMAT_VERSION: u32 = 1;

/// What the metadata says of a recalibration.
#[derive(Clone, Debug, Serialize)]
pub struct RecalibrationRecord<'a> {
    format_version: u32,
    tool: &'a str,
    data: &'a str,
    data_digest: Digest,
    images: usize,
    batches: usize,
    batch_size: usize,
    seed: u64,
}

/// What was observed, and in which order.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Name of the data set.
    pub data: &'a str,
    /// Digest of its training images.
    pub data_digest: Digest,
    /// Images that were observed.
    pub images: usize,
    /// Batches of them.
    pub batches: usize,
    /// Images of a batch.
    pub batch_size: usize,
    /// Names their order.
    pub seed: u64,
}

impl<'a> RecalibrationRecord<'a> {
    /// The record of an observation.
    pub fn new(observation: Observation<'a>) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            tool: concat!("sms-merge ", env!("CARGO_PKG_VERSION")),
            data: observation.data,
            data_digest: observation.data_digest,
            images: observation.images,
            batches: observation.batches,
            batch_size: observation.batch_size,
            seed: observation.seed,
        }
    }

    /// The record as text of one line.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers have a JSON form")
    }

    /// The metadata of `checkpoint` once the statistics in `replaced` are its own. A
    /// certificate that cannot be used is left out, and is the second part.
    pub fn metadata(
        &self,
        checkpoint: &Checkpoint,
        replaced: &BTreeMap<String, Vec<u8>>,
    ) -> (BTreeMap<String, String>, Option<CertificateError>) {
        let (mut metadata, refused) = kept_metadata(checkpoint);
        metadata.insert(RECALIBRATION_KEY.to_owned(), self.to_text());
        if refused.is_some() {
            return (metadata, refused);
        }
        match Certificate::of(checkpoint) {
            Ok(certificate) => {
                let certificate = certificate.recalibrated(checkpoint, replaced);
                metadata.insert(CERTIFICATE_KEY.to_owned(), certificate.to_text());
                (metadata, None)
            }
            Err(CertificateError::Missing { .. }) => (metadata, None),
            Err(error) => {
                metadata.remove(CERTIFICATE_KEY);
                (metadata, Some(error))
            }
        }
    }
}

/// What a copy of `checkpoint`, with the names it has now, keeps of its metadata. A
/// certificate that names its tensors otherwise is left out, and is the second part.
pub fn kept_metadata(
    checkpoint: &Checkpoint,
) -> (BTreeMap<String, String>, Option<CertificateError>) {
    let mut metadata: BTreeMap<String, String> = checkpoint
        .metadata()
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let is_misnamed = checkpoint.is_renamed() && metadata.remove(CERTIFICATE_KEY).is_some();
    let refused = is_misnamed.then(|| CertificateError::Renamed {
        path: checkpoint.path().display().to_string(),
    });
    (metadata, refused)
}
