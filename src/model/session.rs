//! Who is signed in to the management page.

use crate::model::Role;
use crate::policy::id::CredentialId;
use crate::policy::time::Timestamp;
use crate::secret::Digest;

/// A session of the management page that is about to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// SHA-256 of the secret in its cookie.
    pub digest: Digest,
    /// With what it begins; `None` only for `--dev`, which asks for no credential.
    pub credential_id: Option<CredentialId>,
    /// When it ends, however much it is used.
    pub expires: Timestamp,
}

/// A live session of the management page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The credential that it began with: its id, its role as it is now, and its label. `None` only for
    /// `--dev`: code that needs a credential must take that for nobody.
    pub bearer: Option<(CredentialId, Role, String)>,
    /// When it began.
    pub created: Timestamp,
    /// When it ends, however much it is used.
    pub expires: Timestamp,
}
