//! The credentials of callers, and the key under which secrets are made.

use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::accounts::refused_account;
use super::lists::{Cursor, PageItem, Paged, Paging};
use super::validate::{self, FieldErrors};
use super::{Caller, Changed, Error, Propagation, Result, Services, wait_unless};
use crate::clock::id_at;
use crate::model::{Credential, CredentialRefusal, Invalidation, Role};
use crate::policy::client_certificate::{Fingerprint, InvalidFingerprints, fingerprints};
use crate::policy::client_source::{ClientSource, ClientSourceFields, FieldError};
use crate::policy::id::{AccountId, CredentialId};
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

    /// Lists credentials, the oldest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad paging; the store's.
    pub async fn list_credentials<U>(
        &self,
        paging: Paging<'_>,
        show: impl FnMut(Credential) -> PageItem<U>,
    ) -> Result<Paged<U>> {
        let cursor = Cursor::new(paging, "credentials".to_owned(), self.page_keys())?;
        let read = |page| self.read("credentials", self.store.credentials(page));
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
