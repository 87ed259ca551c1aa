//! Reports of leaked secrets.

use async_trait::async_trait;

use super::Result;
use crate::model::{Context, LeakLocation, LeakOutcome, SecretOwner};
use crate::secret::Digest;

/// Reports of leaked secrets.
#[async_trait]
pub trait LeakStore {
    /// What the secrets with these digests open, live or not; at most one owner for each digest, in no order.
    async fn secret_owners(&self, digests: &[Digest]) -> Result<Vec<(Digest, SecretOwner)>>;

    /// Revokes what a leaked secret opens, and queues a mail to each admin of its account. What ended before stays as it
    /// is. The last valid credential of role operator stays valid, which the audit record says.
    async fn revoke_leaked(
        &self,
        ctx: &Context,
        owner: SecretOwner,
        location: &LeakLocation,
    ) -> Result<LeakOutcome>;
}
