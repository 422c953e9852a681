//! Why a certificate cannot be read.

use thiserror::Error;

use crate::merge::certificate::FORMAT_VERSION;

/// A certificate that cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// There is none.
    #[error(
        "`{path}` has no certificate: it was not written by sms-merge, or its metadata was dropped"
    )]
    Missing {
        /// The checkpoint.
        path: String,
    },
    /// It is malformed.
    #[error("the certificate of `{path}` cannot be read")]
    Malformed {
        /// The checkpoint.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It was written by a later version of this program.
    #[error(
        "the certificate of `{path}` has version {found}, and this program knows {FORMAT_VERSION}"
    )]
    Version {
        /// The checkpoint.
        path: String,
        /// Its version.
        found: u32,
    },
    /// It is of tensors that were renamed as the checkpoint was opened.
    #[error("the certificate of `{path}` names the tensors as they are in the file")]
    Renamed {
        /// The checkpoint.
        path: String,
    },
}
