//! The credentials of callers, and the key under which secrets are made.

use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::accounts::refused_account;
use super::lists::{Cursor, PageItem, Paged, Paging};
use super::tokens::{EXPIRE_TIME, expiry_field};
use super::validate::{self, FieldErrors};
use super::{Caller, Changed, Error, Propagation, Result, Services, wait_unless};
use crate::clock::id_at;
use crate::model::{
    Credential, CredentialRefusal, CredentialUpdate, CredentialUpdateRefusal, Invalidation, Role,
};
use crate::policy::client_certificate::{Fingerprint, InvalidFingerprints, fingerprints};
use crate::policy::client_source::{ClientSource, ClientSourceFields, FieldError};
use crate::policy::id::{AccountId, CredentialId};
use crate::policy::time::Timestamp;
use crate::policy::token::{Expiry, ExpiryRefused, RequestedExpiry};
use crate::replication::Wait;
use crate::secret::{Secret, SecretKind};

/// Which role was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedRole {
    /// None, or one that this version does not know.
    Unspecified,
    /// [`Role::Pep`].
    Pep,
    /// [`Role::AccountAdmin`].
    AccountAdmin,
    /// [`Role::Operator`].
    Operator,
}

/// A credential as a caller asks for it.
#[derive(Debug, Clone, Copy)]
pub struct CreateCredential<'a> {
    /// What its bearer may do.
    pub role: AskedRole,
    /// Only for [`AskedRole::AccountAdmin`]; else empty.
    pub account_id: &'a str,
    /// A label; may be empty.
    pub name: &'a str,
    /// Only for [`AskedRole::Pep`].
    pub client_source: Option<ClientSourceFields<'a>>,
    /// SHA-256 of each certificate in DER, 32 bytes; only for [`AskedRole::Pep`].
    pub client_certificate_sha256s: &'a [Vec<u8>],
    /// From when on it is refused; not for [`AskedRole::Operator`].
    pub expires: Option<RequestedExpiry>,
}

/// What `UpdateCredential` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct UpdateCredential<'a> {
    /// The credential.
    pub credential_id: &'a str,
    /// Its name from now on; `None` to leave it.
    pub name: Option<&'a str>,
    /// Its end from now on, if that is nearer; `None` to leave it.
    pub expires: Option<RequestedExpiry>,
    /// Answer before it has propagated.
    pub no_wait: bool,
}

/// The field of a request with the client source.
const CLIENT_SOURCE: &str = "client_source";
/// The field of a request with the client certificates.
const CLIENT_CERTIFICATES: &str = "client_certificate_sha256s";

impl Services {
    /// A new secret for `id`.
    ///
    /// # Errors
    /// [`Error::Internal`] where the system gives no randomness.
    pub(super) fn make_secret(&self, opens: SecretKind, id: Uuid) -> Result<Secret> {
        let random = random()?;
        Ok(self.cache.keys().make(opens, &self.prefix, id, &random))
    }

    /// Creates a credential.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad fields, [`Error::NotFound`] for no such account, [`Error::Refused`] for a certificate
    /// of another credential; the store's.
    pub async fn create_credential(
        &self,
        caller: &Caller,
        create: CreateCredential<'_>,
    ) -> Result<Changed<(Credential, Secret)>> {
        let mut errors = FieldErrors::default();
        let name = errors.take(validate::name(create.name, false)).unwrap_or_default();
        let client_source = create.client_source.and_then(|fields| {
            if !matches!(create.role, AskedRole::Pep | AskedRole::Unspecified) {
                let only = "goes with ROLE_PEP only: leave it out";
                errors.add(CLIENT_SOURCE, "NOT_FOR_THIS_ROLE", only);
            }
            self.client_source(&fields, &mut errors).map(Arc::new)
        });
        let client_certificates = client_certificates(&create, &mut errors);
        let expires = errors.take(self.credential_expiry(&create)).flatten();
        let role = match (create.role, create.account_id) {
            (AskedRole::AccountAdmin, id) => {
                errors.take(validate::id("account_id", id)).map(Role::AccountAdmin)
            }
            (AskedRole::Unspecified, _) => {
                let roles = "is required: ROLE_PEP, ROLE_ACCOUNT_ADMIN or ROLE_OPERATOR";
                errors.add("role", "REQUIRED", roles);
                None
            }
            (role, "") => Some(if role == AskedRole::Pep { Role::Pep } else { Role::Operator }),
            (_, _) => {
                let only = "goes with ROLE_ACCOUNT_ADMIN only: leave it out";
                errors.add("account_id", "NOT_FOR_THIS_ROLE", only);
                None
            }
        };
        errors.into_result()?;
        let now = self.clock.now();
        let id = CredentialId(id_at(now));
        let secret = self.make_secret(SecretKind::Credential, id.0)?;
        let credential = Credential {
            id,
            role: role.ok_or(Error::Internal)?,
            name,
            created: now,
            revoked: None,
            expires,
            last_use: None,
            from_settings: false,
            client_source,
            client_certificates,
        };
        let ctx = caller.context(now);
        let digest = secret.digest();
        let create = self.store.create_credential(&ctx, &credential, &digest);
        match self
            .writes
            .commit("create_credential", Invalidation::Credential(id), &ctx, create)
            .await?
        {
            Ok(()) => {
                self.await_early_expiry(expires).await?;
                self.writes.await_propagation_best_effort().await;
                Ok(Changed::new((credential, secret), &ctx))
            }
            Err(CredentialRefusal::Account(refused)) => Err(match credential.role {
                Role::AccountAdmin(account) => refused_account(account, refused),
                Role::Pep | Role::Operator => Error::Internal,
            }),
            Err(CredentialRefusal::CertificateInUse(certificate)) => Err(Error::refused(
                "CLIENT_CERTIFICATE_IN_USE",
                format!("{CLIENT_CERTIFICATES}/{certificate}"),
                "another valid credential is bound to this certificate: make a certificate for this \
                 credential, or revoke the other credential first",
            )),
        }
    }

    /// The expiry of a new credential. Rule 11.84 of docs/policy.md.
    fn credential_expiry(&self, create: &CreateCredential<'_>) -> Result<Option<Timestamp>> {
        let Some(requested) = create.expires else { return Ok(None) };
        if create.role == AskedRole::Operator {
            return Err(no_expiry_of_operators(create.expires));
        }
        let expiry = Expiry::NEVER.shorten(requested, self.clock.now());
        expiry.map(Expiry::time).map_err(|refused| invalid_expiry(create.expires, &refused))
    }

    /// Changes a credential's name, or brings its end nearer. Rules 11.83 and 11.84 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad fields, [`Error::NotFound`] for no such credential, [`Error::Refused`] for one that
    /// has ended; the store's.
    pub async fn update_credential(
        &self,
        caller: &Caller,
        request: UpdateCredential<'_>,
    ) -> Result<Changed<(Credential, Propagation)>> {
        let mut errors = FieldErrors::default();
        let id = errors.take(validate::id::<CredentialId>("credential_id", request.credential_id));
        let name = request.name.and_then(|name| errors.take(validate::name(name, false)));
        if request.name.is_none() && request.expires.is_none() {
            let text =
                "is required where nothing else is to be changed: set name, expire_time or ttl";
            for field in ["name", EXPIRE_TIME, "ttl"] {
                errors.add(field, "REQUIRED", text);
            }
        }
        errors.into_result()?;
        let id = id.ok_or(Error::Internal)?;
        let ctx = caller.context(self.clock.now());
        let update = CredentialUpdate { name, expires: request.expires };
        let work = self.store.update_credential(&ctx, id, &update);
        let changed = Invalidation::Credential(id);
        let updated = self.writes.commit("update_credential", changed, &ctx, work).await?;
        let no_credential = || Error::NotFound { kind: "credential", id: id.to_string() };
        let credential = updated.ok_or_else(no_credential)?.map_err(|refused| {
            let ended = |rule, text: &str| Error::refused(rule, format!("credentials/{id}"), text);
            let requested = request.expires;
            match refused {
                CredentialUpdateRefusal::Revoked => {
                    ended("CREDENTIAL_REVOKED", "the credential is revoked: create another one")
                }
                CredentialUpdateRefusal::Operator => no_expiry_of_operators(requested),
                CredentialUpdateRefusal::Expiry(ExpiryRefused::Expired(at)) => {
                    let text = format!("the credential expired at {at}: create another one");
                    ended("CREDENTIAL_EXPIRED", &text)
                }
                CredentialUpdateRefusal::Expiry(refused) => invalid_expiry(requested, &refused),
            }
        })?;
        let propagation = self.propagation(wait_unless(request.no_wait)).await?;
        Ok(Changed::new((credential, propagation), &ctx))
    }

    /// What a caller asks for as the client source. Rules 9.2 and 9.6 of docs/policy.md.
    fn client_source(
        &self,
        fields: &ClientSourceFields<'_>,
        errors: &mut FieldErrors,
    ) -> Option<ClientSource> {
        let invalid = match ClientSource::parse(fields, &self.limits) {
            Ok(source) => return Some(source),
            Err(invalid) => invalid,
        };
        for FieldError { field, index, reason, description } in invalid {
            let index = index.map(|index| format!("[{index}]")).unwrap_or_default();
            errors.add(format!("{CLIENT_SOURCE}.{field}{index}"), reason, description);
        }
        None
    }

    /// One credential, revoked ones included.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no id, [`Error::NotFound`] for no such credential; the store's.
    pub async fn get_credential(&self, id: &str) -> Result<Credential> {
        let id: CredentialId = validate::id("credential_id", id)?;
        let found = self.read("credential", self.store.credential(id)).await?;
        found
            .map(|(credential, _)| credential)
            .ok_or_else(|| Error::NotFound { kind: "credential", id: id.to_string() })
    }

    /// Lists credentials, the oldest first; with `only`, those of that account's admins.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad paging; the store's.
    pub async fn list_credentials<U>(
        &self,
        only: Option<AccountId>,
        paging: Paging<'_>,
        show: impl FnMut(Credential) -> PageItem<U>,
    ) -> Result<Paged<U>> {
        let list = only.map_or_else(String::new, |account| format!(" {account}"));
        let cursor = Cursor::new(paging, format!("credentials{list}"), self.page_keys())?;
        let read = |page| self.read("credentials", self.store.credentials(only, page));
        cursor.collect(read, |credential| credential.id, show).await
    }

    /// Revokes a credential; with `no_wait`, answers before that has propagated.
    ///
    /// # Errors
    /// [`Error::NotFound`] for no such credential, [`Error::Refused`] for the last one of role
    /// operator; the store's.
    pub async fn revoke_credential(
        &self,
        caller: &Caller,
        id: &str,
        no_wait: bool,
    ) -> Result<Changed<(Credential, Propagation)>> {
        let id: CredentialId = validate::id("credential_id", id)?;
        let ctx = caller.context(self.clock.now());
        let revoke = self.store.revoke_credential(&ctx, id);
        let revoked = self
            .writes
            .commit("revoke_credential", Invalidation::Credential(id), &ctx, revoke)
            .await?;
        match revoked {
            Some(Ok(revoked)) => {
                let propagation = self.propagation(wait_unless(no_wait)).await?;
                Ok(Changed::new((revoked, propagation), &ctx))
            }
            Some(Err(_)) => Err(Error::refused(
                "LAST_OPERATOR",
                format!("credentials/{id}"),
                "this is the last valid credential of role operator, and nobody could operate the \
                 server without it: create another one first",
            )),
            None => Err(Error::NotFound { kind: "credential", id: id.to_string() }),
        }
    }

    /// Makes a new key for new secrets; earlier secrets stay valid. Its number.
    ///
    /// # Errors
    /// The store's.
    pub async fn rotate_secret_key(&self, caller: &Caller) -> Result<Changed<u16>> {
        let key = random()?;
        let ctx = caller.context(self.clock.now());
        let add = self.store.add_secret_key(&ctx, &key, false);
        let number =
            self.writes.commit("add_secret_key", Invalidation::SecretKeys, &ctx, add).await?;
        // A replica that does not know it takes what is made under it for forged.
        self.propagation(Wait::UntilComplete).await?;
        Ok(Changed::new(number, &ctx))
    }
}

/// The field of a request with the expiry that it asks for.
fn field_of(requested: Option<RequestedExpiry>) -> &'static str {
    requested.map_or(EXPIRE_TIME, expiry_field)
}

fn no_expiry_of_operators(requested: Option<RequestedExpiry>) -> Error {
    let text = "goes with ROLE_PEP and ROLE_ACCOUNT_ADMIN only, since the last operator's credential must not end unseen: \
                leave it out, and revoke the credential when another one is in use";
    Error::invalid(field_of(requested), "NOT_FOR_THIS_ROLE", text)
}

/// An expiry that no credential can have, or not this one.
fn invalid_expiry(requested: Option<RequestedExpiry>, refused: &ExpiryRefused) -> Error {
    let field = field_of(requested);
    match refused {
        ExpiryRefused::Past => {
            let text =
                "must lie in the future: name a later time; RevokeCredential ends a credential now";
            Error::invalid(field, "IN_THE_PAST", text)
        }
        ExpiryRefused::TooFar => Error::invalid(field, "TOO_LATE", refused),
        ExpiryRefused::Later(at) => {
            let text = format!(
                "is later than the credential's expiry, {at}, which can only be brought nearer: create another credential"
            );
            Error::invalid(field, "TOO_LATE", text)
        }
        // The store gives these only for what has ended.
        ExpiryRefused::Expired(_) | ExpiryRefused::Deleted => Error::Internal,
    }
}

/// The certificates that a credential is to be bound to. Rule 9.20 of docs/policy.md.
fn client_certificates(
    create: &CreateCredential<'_>,
    errors: &mut FieldErrors,
) -> Vec<Fingerprint> {
    let list = create.client_certificate_sha256s;
    if !list.is_empty() && !matches!(create.role, AskedRole::Pep | AskedRole::Unspecified) {
        let only = "goes with ROLE_PEP only: leave it out";
        errors.add(CLIENT_CERTIFICATES, "NOT_FOR_THIS_ROLE", only);
    }
    let invalid = match fingerprints(list) {
        Ok(certificates) => return certificates,
        Err(invalid) => invalid,
    };
    for error in invalid {
        let (field, reason) = match error {
            InvalidFingerprints::TooMany(_) => (CLIENT_CERTIFICATES.to_owned(), "TOO_MANY"),
            InvalidFingerprints::Malformed(index) => {
                (format!("{CLIENT_CERTIFICATES}[{index}]"), "INVALID_FINGERPRINT")
            }
            InvalidFingerprints::Duplicate(index) => {
                (format!("{CLIENT_CERTIFICATES}[{index}]"), "DUPLICATE")
            }
        };
        errors.add(field, reason, error.to_string());
    }
    Vec::new()
}

/// Random bytes from the system.
///
/// # Errors
/// [`Error::Internal`] where the system gives none.
pub fn random<const BYTES: usize>() -> Result<Zeroizing<[u8; BYTES]>> {
    let mut random = Zeroizing::new([0u8; BYTES]);
    getrandom::fill(random.as_mut()).map_err(|error| {
        tracing::error!(%error, "the system gives no randomness");
        Error::Internal
    })?;
    Ok(random)
}

/// What an account admin's credential is for.
pub fn account_of(role: Role) -> Option<AccountId> {
    match role {
        Role::AccountAdmin(account) => Some(account),
        Role::Pep | Role::Operator => None,
    }
}
