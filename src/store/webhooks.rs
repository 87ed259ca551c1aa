//! Webhooks, and how far each has received events.

use async_trait::async_trait;

use super::Result;
use crate::model::{AuditAction, AuditBatch, Context, Delivery, Page, Webhook, WebhookUpdate};
use crate::policy::id::WebhookId;
use crate::policy::time::Timestamp;

/// The most webhooks that there can be. Rule 14.1 of docs/policy.md.
pub const MAX_WEBHOOKS: u32 = 16;

/// The webhooks.
#[async_trait]
pub trait WebhookStore {
    /// Creates a webhook, which is sent what happens from then on, whatever `new.delivery` says. False where there are
    /// [`MAX_WEBHOOKS`] already.
    async fn create_webhook(&self, ctx: &Context, new: &Webhook) -> Result<bool>;

    /// The webhooks, the oldest first.
    async fn webhooks(&self, page: Page<WebhookId>) -> Result<Vec<Webhook>>;

    /// One webhook.
    async fn webhook(&self, id: WebhookId) -> Result<Option<Webhook>>;

    /// Changes a webhook: as it is then; `None` where there is none.
    async fn update_webhook(
        &self,
        ctx: &Context,
        id: WebhookId,
        update: &WebhookUpdate,
    ) -> Result<Option<Webhook>>;

    /// Makes the next version of a webhook's secret, derived from the key number `key`. Messages are signed with the one
    /// before as well until `former_until`; `None` for no longer.
    async fn rotate_webhook_secret(
        &self,
        ctx: &Context,
        id: WebhookId,
        key: u16,
        former_until: Option<Timestamp>,
    ) -> Result<Option<Webhook>>;

    /// Deletes a webhook. Whether there was one.
    async fn delete_webhook(&self, ctx: &Context, id: WebhookId) -> Result<bool>;

    /// Up to `limit` audit events of these actions behind `after`, in order.
    async fn audit_events_of(
        &self,
        actions: &[AuditAction],
        after: i64,
        limit: u32,
    ) -> Result<AuditBatch>;

    /// Takes a webhook that is due at `now` for the caller alone, until `until`: as it is then. `None` where another has
    /// it, or it is not due, or it has received more than up to `position`.
    async fn claim_webhook(
        &self,
        id: WebhookId,
        position: i64,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Webhook>>;

    /// Stores how far a webhook got that is claimed until `claimed`. False where it is not claimed so any more: it was
    /// changed, or deleted, or the caller took too long. Then nothing is stored.
    async fn save_delivery(
        &self,
        id: WebhookId,
        claimed: Timestamp,
        delivery: &Delivery,
    ) -> Result<bool>;

    /// Notes that nothing between two positions is for a webhook that is at the first of them.
    async fn pass_events(&self, id: WebhookId, from: i64, to: i64) -> Result<()>;

    /// Makes a webhook that fails due at once.
    async fn retry_webhook(&self, id: WebhookId) -> Result<()>;

    /// Disables a webhook that is claimed until `claimed`, and whose receiver wants no more. False as of
    /// [`Self::save_delivery`].
    async fn disable_gone_webhook(
        &self,
        ctx: &Context,
        id: WebhookId,
        claimed: Timestamp,
        delivery: &Delivery,
    ) -> Result<bool>;
}
