//! What comes with a call: who makes a change, and which rows of a list are asked for.

use std::net::IpAddr;

use super::Role;
use crate::policy::id::CredentialId;
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
}

/// Who makes a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The bearer of a credential.
    Credential(CredentialId, Role),
    /// A server with `--dev`, which asks for no credential.
    Development,
    /// Portcullis itself, on its own account.
    System,
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
