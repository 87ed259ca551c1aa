//! What webhooks are sent: a body in JSON, and headers with its id, time and signatures (Standard Webhooks 1.0).
//!
//! Must stay true: a body has ids, and never a secret, a name or an address. Rules 14.3, 14.4 and 14.6 of docs/policy.md.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::model::{Event, FormerSecret, Webhook};
use crate::policy::time::Timestamp;
use crate::secret::{KeyRing, WebhookSecret};

/// The type of what [`Message::test`] makes. No event has it.
const TEST: &str = "webhook.test";

/// A message, signed.
#[derive(Debug)]
pub(super) struct Message {
    /// The same each time that the event is sent. Has no dot.
    pub(super) id: String,
    /// When it is sent, in seconds since 1970.
    pub(super) seconds: i64,
    /// One signature for each secret, the newest first, with spaces between.
    pub(super) signatures: String,
    /// In JSON.
    pub(super) body: Bytes,
}

/// This replica does not know the key that the webhook's secret is derived from, yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnknownKey;

impl Message {
    /// The message about `event`, sent to `webhook` at `now`.
    pub(super) fn of(
        event: &Event,
        webhook: &Webhook,
        keys: &KeyRing,
        now: Timestamp,
    ) -> Result<Self, UnknownKey> {
        // A store that was restored from a backup uses positions again: the time tells the events apart.
        let id = format!("evt_{}_{:x}", event.revision, event.time.0);
        let mut data = Map::new();
        data.insert("revision".to_owned(), json!(event.revision));
        let ids = [
            ("account_id", event.account_id.map(|id| id.to_string())),
            ("token_id", event.token_id.map(|id| id.to_string())),
            ("successor_token_id", event.successor.map(|id| id.to_string())),
            ("credential_id", event.credential_id.map(|id| id.to_string())),
            ("webhook_id", event.webhook_id.map(|id| id.to_string())),
        ];
        for (name, id) in ids {
            data.extend(id.map(|id| (name.to_owned(), json!(id))));
        }
        if !event.actions.is_empty() {
            let actions: Vec<_> = event.actions.iter().map(ToString::to_string).collect();
            data.insert("pending_action_ids".to_owned(), json!(actions));
        }
        Self::signed(id, event.kind.as_str(), event.time, data, webhook, keys, now)
    }

    /// A message that says nothing, to try `webhook`.
    pub(super) fn test(
        id: Uuid,
        webhook: &Webhook,
        keys: &KeyRing,
        now: Timestamp,
    ) -> Result<Self, UnknownKey> {
        let data = Map::from_iter([("webhook_id".to_owned(), Value::from(webhook.id.to_string()))]);
        Self::signed(format!("test_{}", id.simple()), TEST, now, data, webhook, keys, now)
    }

    fn signed(
        id: String,
        kind: &str,
        time: Timestamp,
        data: Map<String, Value>,
        webhook: &Webhook,
        keys: &KeyRing,
        now: Timestamp,
    ) -> Result<Self, UnknownKey> {
        let body = json!({ "type": kind, "timestamp": time.to_rfc_3339(), "data": data });
        let body = Bytes::from(body.to_string());
        let (seconds, _) = now.to_seconds_nanos();
        let secrets = secrets(webhook, keys, now)?;
        let signatures: Vec<_> =
            secrets.iter().map(|secret| secret.sign(&id, seconds, &body)).collect();
        Ok(Self { id, seconds, signatures: signatures.join(" "), body })
    }
}

/// What messages to `webhook` are signed with at `now`. Rule 14.6 of docs/policy.md.
fn secrets(
    webhook: &Webhook,
    keys: &KeyRing,
    now: Timestamp,
) -> Result<Vec<WebhookSecret>, UnknownKey> {
    let version = webhook.secret.version;
    let newest = keys.webhook_secret(webhook.secret.key, webhook.id, version);
    let mut secrets = vec![newest.ok_or(UnknownKey)?];
    if let Some(FormerSecret { key, until }) = webhook.former_secret
        && now < until
    {
        let former = keys.webhook_secret(key, webhook.id, version.saturating_sub(1));
        secrets.push(former.ok_or(UnknownKey)?);
    }
    Ok(secrets)
}
