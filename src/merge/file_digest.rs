//! Cryptographic digests of whole files.

use std::io;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use sha2::Digest as _;

use crate::format::regular;
use crate::format::regular::Links;

/// Cryptographic digest of a whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Name of the file.
    pub name: String,
    /// SHA-256 of its bytes in hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
}

/// SHA-256 of a whole file, in hexadecimal.
///
/// # Errors
/// What the system says of opening or reading it.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = regular::open(path, Links::Follow)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
