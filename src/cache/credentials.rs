//! The credentials of callers, all of them in memory by digest, so that a wrong one never reaches the
//! store and a call never waits for it.
//!
//! Must stay true: a credential that is not known to be valid is not in here.

use std::collections::HashMap;

use arc_swap::ArcSwap;

use crate::model::{Credential, Role};
use crate::policy::id::CredentialId;
use crate::secret::{self, Digest};

/// Who bears a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The credential.
    pub id: CredentialId,
    /// What it may do.
    pub role: Role,
}

type ByDigest = HashMap<Digest, Principal>;

fn by_digest(live: Vec<(Credential, Digest)>) -> ByDigest {
    let bearer = |credential: Credential| Principal { id: credential.id, role: credential.role };
    live.into_iter().map(|(credential, digest)| (digest, bearer(credential))).collect()
}

/// Every valid credential. See the module.
#[derive(Debug)]
pub struct Credentials {
    bearers: ArcSwap<ByDigest>,
}

impl Credentials {
    /// Knows these, of which none is revoked.
    pub fn new(live: Vec<(Credential, Digest)>) -> Self {
        Self { bearers: ArcSwap::from_pointee(by_digest(live)) }
    }

    /// Knows these from now on, and no others.
    pub fn set_all(&self, live: Vec<(Credential, Digest)>) {
        self.bearers.store(std::sync::Arc::new(by_digest(live)));
    }

    /// Who bears this secret; `None` for a wrong or revoked one. The secret is looked up by its
    /// SHA-256, so how long that takes tells nothing of any valid one.
    pub fn bearer(&self, presented: &[u8]) -> Option<Principal> {
        self.by_digest(&secret::digest(presented))
    }

    /// The same for a digest that was taken before.
    pub fn by_digest(&self, digest: &Digest) -> Option<Principal> {
        self.bearers.load().get(digest).copied()
    }

    /// Takes over what the store says of `id`.
    pub fn set(&self, id: CredentialId, known: Option<(Credential, Digest)>) {
        self.bearers.rcu(|bearers| {
            let mut bearers = ByDigest::clone(bearers);
            bearers.retain(|_, bearer| bearer.id != id);
            if let Some((credential, digest)) = &known
                && credential.revoked.is_none()
            {
                bearers.insert(*digest, Principal { id, role: credential.role });
            }
            bearers
        });
    }
}
