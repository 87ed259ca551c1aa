//! What comes with a call: who makes a change, and which rows of a list are requested.
//!
//! The store also returns something by it: a commit stores the revision that it made in the [`Context`]
//! (`store/sql/change.rs`), and the service reads it there for its answer. Clones share that revision, so that it is also
//! known where a change is found out to be committed later.

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Invalidation, Role};
use crate::policy::id::{CredentialId, TokenId};
use crate::policy::time::Timestamp;

/// Who makes a change, when, and from where: what its audit record says.
#[derive(Debug, Clone)]
pub struct Context {
    /// Who.
    pub actor: Actor,
    /// When, by the store's clock.
    pub now: Timestamp,
    /// From which network address; `None` for what came from no network.
    pub client: Option<IpAddr>,
    revision: Arc<AtomicI64>,
    touched: Arc<Mutex<Vec<Invalidation>>>,
}

impl Context {
    /// Of a change that is yet to be made.
    pub fn new(actor: Actor, now: Timestamp, client: Option<IpAddr>) -> Self {
        Self { actor, now, client, revision: Arc::default(), touched: Arc::default() }
    }

    /// The revision of the store that includes the change, where it was committed, or found made; 0
    /// before that, and where nothing was committed.
    pub fn revision(&self) -> i64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Takes note that the change touches this, whether or not it is committed.
    pub(crate) fn touch(&self, touched: Invalidation) {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).push(touched);
    }

    /// What the change touched since this was last asked: a change to one token may concern others, which only the store
    /// knows.
    pub(crate) fn take_touched(&self) -> Vec<Invalidation> {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes note of what was committed.
    pub(crate) fn committed(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::Relaxed);
    }
}

/// Who makes a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The bearer of a credential.
    Credential(CredentialId, Role),
    /// The bearer of a token, acting on that token.
    Bearer(TokenId),
    /// A server with `--dev`, which asks for no credential.
    Development,
    /// Portcullis itself, on its own account.
    System,
    /// The publisher of alerts about leaked secrets, by its signature.
    SecretScanning,
    /// A person at the command line, with the store in their hands.
    CommandLine,
}

/// Which rows of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page<K> {
    /// Only those behind this one in the list's order; `None` from the beginning.
    pub after: Option<K>,
    /// How many at most.
    pub limit: u32,
}
