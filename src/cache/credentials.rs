//! The credentials of callers, all of them in memory by digest, so that a wrong one never reaches the
//! store and a call never waits for it.
//!
//! Must stay true: a credential that is not known to be valid, but for its expiry, is not in here; one that has expired
//! is nobody's. Noting a use allocates nothing, takes no lock and asks for no time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::model::{Credential, Role};
use crate::policy::client_certificate::Fingerprint;
use crate::policy::client_source::ClientSource;
use crate::policy::id::{AccountId, CredentialId};
use crate::policy::time::Timestamp;
use crate::policy::token::Expiry;
use crate::secret::{self, Digest};

/// Who bears a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The credential.
    pub id: CredentialId,
    /// What it may do.
    pub role: Role,
}

/// A gateway's credential, and where it reads its client from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPrincipal {
    /// Who bears the credential. Its role may be one that no gateway has.
    pub principal: Principal,
    /// Where the client is read from; the default where the credential says nothing.
    pub client_source: Arc<ClientSource>,
}

/// Every valid credential, and which one each certificate identifies.
#[derive(Debug, Clone, Default)]
struct Bearers {
    by_digest: HashMap<Digest, Entry>,
    by_certificate: HashMap<Fingerprint, Digest>,
}

/// What is known of a valid credential.
#[derive(Debug, Clone)]
struct Entry {
    principal: Principal,
    client_source: Option<Arc<ClientSource>>,
    expiry: Expiry,
    /// Whether it was used since that was last recorded. Shared by copies of the entry.
    used: Arc<AtomicBool>,
}

impl Entry {
    /// Whether it is valid, which is a use. The time is asked for only where it expires at all.
    fn accept(&self, now: impl FnOnce() -> Timestamp) -> bool {
        if self.expiry != Expiry::NEVER && self.expiry.is_reached(now()) {
            return false;
        }
        // Written once a minute, so that threads don't take the cache line from each other.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        true
    }
}

impl From<Credential> for Entry {
    fn from(credential: Credential) -> Self {
        let principal = Principal { id: credential.id, role: credential.role };
        Self {
            principal,
            client_source: credential.client_source,
            expiry: credential.expires.into(),
            used: Arc::default(),
        }
    }
}

impl FromIterator<(Credential, Digest)> for Bearers {
    fn from_iter<T: IntoIterator<Item = (Credential, Digest)>>(live: T) -> Self {
        let mut bearers = Self::default();
        live.into_iter().for_each(|(credential, digest)| bearers.insert(credential, digest));
        bearers
    }
}

impl Bearers {
    fn insert(&mut self, credential: Credential, digest: Digest) {
        for &certificate in &credential.client_certificates {
            // Of two credentials with one certificate the older is not valid: it is revoked, or has expired.
            let known = self.by_certificate.get(&certificate);
            let known = known.and_then(|digest| self.by_digest.get(digest));
            if known.is_none_or(|known| known.principal.id <= credential.id) {
                self.by_certificate.insert(certificate, digest);
            }
        }
        self.by_digest.insert(digest, credential.into());
    }

    fn entry(&self, digest: &Digest, now: impl FnOnce() -> Timestamp) -> Option<&Entry> {
        self.by_digest.get(digest).filter(|entry| entry.accept(now))
    }

    fn remove(&mut self, id: CredentialId) {
        self.by_digest.retain(|_, entry| entry.principal.id != id);
        let by_digest = &self.by_digest;
        self.by_certificate.retain(|_, digest| by_digest.contains_key(digest));
    }

    fn used(&self, id: CredentialId) -> Option<Arc<AtomicBool>> {
        let entry = self.by_digest.values().find(|entry| entry.principal.id == id);
        entry.map(|entry| entry.used.clone())
    }

    fn remove_account(&mut self, id: AccountId) {
        self.by_digest.retain(|_, entry| entry.principal.role != Role::AccountAdmin(id));
    }

    fn gateway(
        &self,
        digest: &Digest,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<GatewayPrincipal> {
        let entry = self.entry(digest, now)?;
        let client_source = entry.client_source.clone().unwrap_or_default();
        Some(GatewayPrincipal { principal: entry.principal, client_source })
    }
}

/// Every valid credential. See the module.
#[derive(Debug)]
pub struct Credentials {
    bearers: ArcSwap<Bearers>,
}

impl Credentials {
    /// Knows these, of which none is revoked.
    pub fn new(live: Vec<(Credential, Digest)>) -> Self {
        Self { bearers: ArcSwap::from_pointee(live.into_iter().collect()) }
    }

    /// Knows these from now on, and no others.
    pub fn set_all(&self, live: Vec<(Credential, Digest)>) {
        self.bearers.store(Arc::new(live.into_iter().collect()));
    }

    /// Who bears this secret at `now`, the store's time; `None` for a wrong, expired or revoked one. The secret is
    /// looked up by its SHA-256, so how long that takes reveals nothing of any valid one.
    pub fn bearer(&self, presented: &[u8], now: impl FnOnce() -> Timestamp) -> Option<Principal> {
        self.by_digest(&secret::digest(presented), now)
    }

    /// The same for a digest that was taken before.
    pub fn by_digest(&self, digest: &Digest, now: impl FnOnce() -> Timestamp) -> Option<Principal> {
        self.bearers.load().entry(digest, now).map(|entry| entry.principal)
    }

    /// The same with where its client is read from. Apart from [`Self::by_digest`], which decisions over gRPC need at
    /// each request: it counts a reference that all threads share.
    pub fn gateway(
        &self,
        digest: &Digest,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<GatewayPrincipal> {
        self.bearers.load().gateway(digest, now)
    }

    /// The credential that a gateway with this certificate bears. Rules 9.20 and 9.21 of docs/policy.md.
    pub fn gateway_by_certificate(
        &self,
        certificate: &Fingerprint,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<GatewayPrincipal> {
        let bearers = self.bearers.load();
        bearers.gateway(bearers.by_certificate.get(certificate)?, now)
    }

    /// What `read` makes of where the client of a gateway is read from, without counting a reference: for decisions
    /// over gRPC. `None` for a wrong or revoked credential.
    pub fn with_client_source<T>(
        &self,
        digest: &Digest,
        now: impl FnOnce() -> Timestamp,
        read: impl FnOnce(&ClientSource) -> T,
    ) -> Option<T> {
        let bearers = self.bearers.load();
        Some(match &bearers.entry(digest, now)?.client_source {
            Some(source) => read(source),
            None => read(&ClientSource::default()),
        })
    }

    /// Forgets the credentials of an account's admins, which are revoked with it.
    pub fn remove_account(&self, id: AccountId) {
        self.bearers.rcu(|bearers| {
            let mut bearers = Bearers::clone(bearers);
            bearers.remove_account(id);
            bearers
        });
    }

    /// Takes over what the store says of `id`.
    pub fn set(&self, id: CredentialId, known: Option<(Credential, Digest)>) {
        self.bearers.rcu(|bearers| {
            let mut bearers = Bearers::clone(bearers);
            let used = bearers.used(id);
            bearers.remove(id);
            if let Some((credential, digest)) = &known
                && credential.revoked.is_none()
            {
                bearers.insert(credential.clone(), *digest);
                if let (Some(used), Some(entry)) = (used, bearers.by_digest.get_mut(digest)) {
                    entry.used = used;
                }
            }
            bearers
        });
    }

    /// The credentials that were used since the last call.
    pub fn take_used(&self) -> Vec<CredentialId> {
        let bearers = self.bearers.load();
        let used =
            bearers.by_digest.values().filter(|entry| entry.used.swap(false, Ordering::Relaxed));
        used.map(|entry| entry.principal.id).collect()
    }

    /// These were used after all, where that could not be recorded.
    pub fn put_back_used(&self, ids: &[CredentialId]) {
        let bearers = self.bearers.load();
        for entry in bearers.by_digest.values().filter(|entry| ids.contains(&entry.principal.id)) {
            entry.used.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(100);

    fn credential(number: u128, client_source: Option<ClientSource>) -> Credential {
        Credential {
            id: CredentialId(uuid::Uuid::from_u128(number)),
            role: Role::Pep,
            name: String::new(),
            created: Timestamp(1),
            revoked: None,
            expires: None,
            last_use: None,
            from_settings: false,
            client_source: client_source.map(Arc::new),
            client_certificates: Vec::new(),
        }
    }

    /// Rules 9.2 and 9.7 of docs/policy.md.
    #[test]
    fn gateway_has_the_client_source_of_its_valid_credential() {
        let (first, second) = (secret::digest(b"first"), secret::digest(b"second"));
        let source = ClientSource::development();
        let credentials = Credentials::new(vec![(credential(1, Some(source.clone())), first)]);
        let known =
            |digest| credentials.gateway(digest, || NOW).map(|gateway| gateway.client_source);
        assert_eq!(known(&first), Some(Arc::new(source.clone())));
        assert_eq!(known(&second), None);

        let replacement = credential(2, Some(source.clone()));
        credentials.set(replacement.id, Some((replacement.clone(), second)));
        assert_eq!(known(&first), known(&second));
        let mut revoked = credential(1, Some(source));
        revoked.revoked = Some(Timestamp(2));
        credentials.set(revoked.id, Some((revoked, first)));
        assert_eq!(known(&first), None);
        assert!(known(&second).is_some());

        // One that says nothing names no header.
        credentials.set_all(vec![(credential(3, None), first)]);
        assert_eq!(known(&first), Some(Arc::new(ClientSource::default())));
        assert_eq!(known(&second), None);
    }

    /// Rule 9.21 of docs/policy.md. What was revoked may be learned of after what took its certificate over.
    #[test]
    fn certificate_identifies_the_valid_credential_in_any_order_of_changes() {
        let (first, second) = (secret::digest(b"first"), secret::digest(b"second"));
        let [one, other] = [Fingerprint::of(b"one"), Fingerprint::of(b"other")];
        let bound = |number, certificates: &[Fingerprint]| Credential {
            client_certificates: certificates.to_vec(),
            ..credential(number, None)
        };
        let credentials = Credentials::new(vec![(bound(1, &[one, other]), first)]);
        let known = |certificate| {
            let gateway = credentials.gateway_by_certificate(&certificate, || NOW)?;
            Some(gateway.principal.id.0.as_u128())
        };
        assert_eq!((known(one), known(other)), (Some(1), Some(1)));
        assert_eq!(known(Fingerprint::of(b"none")), None);

        let successor = bound(2, &[one]);
        credentials.set(successor.id, Some((successor.clone(), second)));
        let mut revoked = bound(1, &[one, other]);
        revoked.revoked = Some(Timestamp(2));
        credentials.set(revoked.id, Some((revoked, first)));
        assert_eq!((known(one), known(other)), (Some(2), None));
        credentials.set_all(Vec::new());
        assert_eq!(known(one), None);
    }

    /// Rule 11.84 of docs/policy.md.
    #[test]
    fn expired_credential_is_nobodys_from_that_instant() {
        let digest = secret::digest(b"first");
        let expiring = Credential { expires: Some(NOW), ..credential(1, None) };
        let credentials = Credentials::new(vec![(expiring, digest)]);
        assert!(credentials.by_digest(&digest, || Timestamp(NOW.0 - 1)).is_some());
        assert_eq!(credentials.by_digest(&digest, || NOW), None);
        assert_eq!(credentials.bearer(b"first", || NOW), None);
        assert_eq!(credentials.gateway(&digest, || NOW), None);
        assert_eq!(credentials.with_client_source(&digest, || NOW, |_| ()), None);
        credentials.set_all(vec![(credential(1, None), digest)]);
        let endless = credentials.by_digest(&digest, || panic!("it has no end to compare with"));
        assert!(endless.is_some());
    }

    /// Rule 11.85 of docs/policy.md.
    #[test]
    fn uses_are_taken_once_and_survive_a_change_of_the_credential() {
        let (first, second) = (secret::digest(b"first"), secret::digest(b"second"));
        let both = vec![(credential(1, None), first), (credential(2, None), second)];
        let credentials = Credentials::new(both);
        assert!(credentials.take_used().is_empty());
        credentials.by_digest(&first, || NOW);
        credentials.by_digest(&first, || NOW);
        let renamed = Credential { name: "renamed".to_owned(), ..credential(1, None) };
        let id = renamed.id;
        credentials.set(id, Some((renamed, first)));
        assert_eq!(credentials.take_used(), [id]);
        assert!(credentials.take_used().is_empty());
        credentials.put_back_used(&[id]);
        assert_eq!(credentials.take_used(), [id]);
    }
}
