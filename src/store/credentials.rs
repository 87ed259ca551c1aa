//! The credentials of callers, and the keys that secrets are made under.

use async_trait::async_trait;

use super::Result;
use crate::model::{
    Context, Credential, CredentialRefusal, CredentialUpdate, CredentialUpdateRefusal,
    LastOperatorCredential, Page, SettingsCredential,
};
use crate::policy::id::{AccountId, CredentialId};
use crate::policy::time::Timestamp;
use crate::secret::{Digest, SecretKey};

/// The credentials of callers, and the keys that secrets are made under.
#[async_trait]
pub trait CredentialStore {
    /// One credential with its digest, revoked ones included.
    async fn credential(&self, id: CredentialId) -> Result<Option<(Credential, Digest)>>;

    /// Every credential that is not revoked, with its digest.
    async fn live_credentials(&self) -> Result<Vec<(Credential, Digest)>>;

    /// Stores a credential. Refused where another valid one is bound to one of its certificates.
    async fn create_credential(
        &self,
        ctx: &Context,
        new: &Credential,
        digest: &Digest,
    ) -> Result<Result<(), CredentialRefusal>>;

    /// Stores the very first credential; `false`, and nothing stored, where there are any already
    /// (revoked ones count).
    async fn create_first_credential(
        &self,
        ctx: &Context,
        new: &Credential,
        digest: &Digest,
    ) -> Result<bool>;

    /// Makes the operator credential of the settings the one with `digest`, or none: a former one is
    /// revoked. Changes nothing where it is that one already. A digest that was revoked before stays
    /// revoked, and the answer says so.
    async fn set_settings_credential(
        &self,
        ctx: &Context,
        wanted: Option<(&Credential, &Digest)>,
    ) -> Result<SettingsCredential>;

    /// Credentials, the oldest first, revoked ones included; with `only`, those of that account's admins.
    async fn credentials(
        &self,
        only: Option<AccountId>,
        page: Page<CredentialId>,
    ) -> Result<Vec<Credential>>;

    /// Revokes a credential. A revoked one stays as it is. `None` where there is none; refused for the
    /// last valid one of role operator.
    async fn revoke_credential(
        &self,
        ctx: &Context,
        id: CredentialId,
    ) -> Result<Option<Result<Credential, LastOperatorCredential>>>;

    /// Changes a credential's name, and brings its end nearer; `None` where there is none. What it has already leaves
    /// no record.
    async fn update_credential(
        &self,
        ctx: &Context,
        id: CredentialId,
        update: &CredentialUpdate,
    ) -> Result<Option<Result<Credential, CredentialUpdateRefusal>>>;

    /// Records that these were used at `now` or shortly before; the time only moves forward. Leaves no record.
    async fn record_credential_uses(&self, ids: &[CredentialId], now: Timestamp) -> Result<()>;

    /// Every key that secrets were made under.
    async fn secret_keys(&self) -> Result<Vec<SecretKey>>;

    /// Stores `key` under the next free number, of which there are `secret::MAX_KEY_NUMBER + 1`;
    /// with `only_first`, only where there is no key yet. The number it got, or the newest that
    /// was there.
    async fn add_secret_key(&self, ctx: &Context, key: &[u8; 32], only_first: bool) -> Result<u16>;
}
