//! The operator credential of the settings. Must stay true: no message repeats it, and nothing keeps it: its digest is
//! enough.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::errors::{ConfigErrors, InvalidSettings, secret_path};
use super::variables::{OPERATOR, OPERATOR_FILE};
use crate::secret::{Digest, digest};

/// The fewest characters of an operator credential.
const MIN_CREDENTIAL: usize = 32;
/// The most.
const MAX_CREDENTIAL: usize = 1_024;

/// The digest of the credential that the environment holds or names the file of, or else of the one in `configured`,
/// which the configuration file names.
pub(super) fn credential(configured: Option<&Path>, errors: &mut ConfigErrors) -> Option<Digest> {
    let secret = errors.secret(OPERATOR, OPERATOR_FILE, configured)?;
    check(&secret, errors)
}

fn check(secret: &SecretString, errors: &mut ConfigErrors) -> Option<Digest> {
    let secret = secret.expose_secret();
    if !(MIN_CREDENTIAL..=MAX_CREDENTIAL).contains(&secret.len())
        || !secret.bytes().all(|byte| byte.is_ascii_graphic())
    {
        errors.add(format!(
            "{OPERATOR}: must be {MIN_CREDENTIAL} to {MAX_CREDENTIAL} printable ASCII characters without \
             spaces"
        ));
        return None;
    }
    Some(digest(secret.as_bytes()))
}

/// The file with the operator credential, to be read again while the server runs.
#[derive(Debug, Clone)]
pub struct OperatorFile(PathBuf);

impl OperatorFile {
    /// The one that the credential comes from, if it comes from a file.
    pub(super) fn named(configured: Option<&Path>) -> Option<Self> {
        secret_path(OPERATOR, OPERATOR_FILE, configured).map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the credential's digest.
    ///
    /// # Errors
    /// It can't be read, or is no operator credential.
    pub fn read(&self) -> Result<Digest, InvalidSettings> {
        let mut errors = ConfigErrors::default();
        let secret = errors.secret_file(OPERATOR_FILE, &self.0);
        let credential = secret.and_then(|secret| check(&secret, &mut errors));
        errors.into_result(|| credential)
    }
}
