//! Webhooks: what they are, and how far each has received events.
//!
//! # Invariants
//! - How far a webhook got is stored only by who has claimed it, and a claim ends with each change of the webhook.
//! - Only changes by operators, and the end of what is gone, take the head row: deliveries hold up no change.

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::FromRow;
use uuid::Uuid;

use super::change::{Record, WriteTx};
use super::{Connection, Db, Handle, QueryBuilder, audit};
use crate::model::{
    AuditAction, AuditBatch, Context, Delivery, EventType, Failing, FormerSecret, Invalidation,
    Page, SecretVersion, Webhook, WebhookState, WebhookUpdate,
};
use crate::policy::destination::Origin;
use crate::policy::id::WebhookId;
use crate::policy::time::Timestamp;
use crate::store::error::CorruptRow;
use crate::store::{MAX_WEBHOOKS, Result, WebhookStore};

#[async_trait]
impl WebhookStore for Handle {
    async fn create_webhook(&self, ctx: &Context, new: &Webhook) -> Result<bool> {
        self.within(create(self, ctx, new)).await
    }

    async fn webhooks(&self, page: Page<WebhookId>) -> Result<Vec<Webhook>> {
        self.within(list(self, page)).await
    }

    async fn webhook(&self, id: WebhookId) -> Result<Option<Webhook>> {
        self.within(one(self, id)).await
    }

    async fn update_webhook(
        &self,
        ctx: &Context,
        id: WebhookId,
        update: &WebhookUpdate,
    ) -> Result<Option<Webhook>> {
        self.within(change(self, ctx, id, update)).await
    }

    async fn rotate_webhook_secret(
        &self,
        ctx: &Context,
        id: WebhookId,
        key: u16,
        former_until: Option<Timestamp>,
    ) -> Result<Option<Webhook>> {
        self.within(rotate_secret(self, ctx, id, key, former_until)).await
    }

    async fn delete_webhook(&self, ctx: &Context, id: WebhookId) -> Result<bool> {
        self.within(delete(self, ctx, id)).await
    }

    async fn audit_events_of(
        &self,
        actions: &[AuditAction],
        after: i64,
        limit: u32,
    ) -> Result<AuditBatch> {
        self.within(audit::of_actions(self, actions, after, limit)).await
    }

    async fn claim_webhook(
        &self,
        id: WebhookId,
        position: i64,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Webhook>> {
        self.within(claim(self, id, position, now, until)).await
    }

    async fn save_delivery(
        &self,
        id: WebhookId,
        claimed: Timestamp,
        delivery: &Delivery,
    ) -> Result<bool> {
        self.within(save(self, id, claimed, delivery)).await
    }

    async fn pass_events(&self, id: WebhookId, from: i64, to: i64) -> Result<()> {
        self.within(pass(self, id, from, to)).await
    }

    async fn retry_webhook(&self, id: WebhookId) -> Result<()> {
        self.within(retry(self, id)).await
    }

    async fn disable_gone_webhook(
        &self,
        ctx: &Context,
        id: WebhookId,
        claimed: Timestamp,
        delivery: &Delivery,
    ) -> Result<bool> {
        self.within(disable_gone(self, ctx, id, claimed, delivery)).await
    }
}

#[derive(FromRow)]
struct Row {
    webhook_id: Uuid,
    name: String,
    url: String,
    event_types: Option<String>,
    create_time: i64,
    secret_key: i32,
    secret_version: i32,
    former_key: Option<i32>,
    former_until: Option<i64>,
    state: String,
    position: i64,
    attempts: i32,
    next_time: i64,
    claim_until: i64,
    failing_since: Option<i64>,
    pending_time: Option<i64>,
    success_time: Option<i64>,
    failure_time: Option<i64>,
    failure: Option<String>,
    delivered: i64,
    skipped: i64,
}

/// The columns, in every order the same.
macro_rules! columns {
    () => {
        "webhook_id, name, url, event_types, create_time, secret_key, secret_version, former_key, \
         former_until, state, position, attempts, next_time, claim_until, failing_since, \
         pending_time, success_time, failure_time, failure, delivered, skipped"
    };
}

const SELECT: &str = concat!("SELECT ", columns!(), " FROM webhook WHERE 1 = 1");

const COUNT: &str = "SELECT count(*) FROM webhook";

const INSERT: &str = concat!(
    "INSERT INTO webhook (",
    columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, NULL, NULL, 'enabled', $8, 0, 0, 0, NULL, NULL, NULL, \
     NULL, NULL, 0, 0)"
);

/// The claim ends, so that a delivery under way stores nothing of what it was before.
const UPDATE: &str = "\
    UPDATE webhook SET name = $2, url = $3, event_types = $4, state = $5, position = $6, \
        attempts = 0, next_time = 0, claim_until = 0, failing_since = NULL, pending_time = NULL \
    WHERE webhook_id = $1";

const ROTATE: &str = "\
    UPDATE webhook SET secret_key = $2, secret_version = $3, former_key = $4, former_until = $5 \
    WHERE webhook_id = $1";

const DELETE: &str = "DELETE FROM webhook WHERE webhook_id = $1";

const CLAIM: &str = concat!(
    "UPDATE webhook SET claim_until = $4 \
     WHERE webhook_id = $1 AND position = $2 AND state = 'enabled' AND next_time <= $3 \
        AND claim_until <= $3 \
     RETURNING ",
    columns!()
);

const SAVE: &str = "\
    UPDATE webhook SET position = $3, attempts = $4, next_time = $5, claim_until = $6, \
        failing_since = $7, pending_time = $8, success_time = $9, failure_time = $10, \
        failure = $11, delivered = $12, skipped = $13 \
    WHERE webhook_id = $1 AND claim_until = $2 AND state = 'enabled'";

const PASS: &str = "UPDATE webhook SET position = $3 WHERE webhook_id = $1 AND position = $2";

const RETRY: &str = "\
    UPDATE webhook SET next_time = 0 WHERE webhook_id = $1 AND state = 'enabled' AND attempts > 0";

const SET_GONE: &str = "UPDATE webhook SET state = 'gone' WHERE webhook_id = $1";

async fn list(store: &Handle, page: Page<WebhookId>) -> Result<Vec<Webhook>> {
    let mut query = QueryBuilder::new(SELECT);
    if let Some(after) = page.after {
        query.push(" AND webhook_id > ").push_bind(after.0);
    }
    query.push(" ORDER BY webhook_id LIMIT ").push_bind(i64::from(page.limit));
    let rows: Vec<Row> = query.build_query_as().fetch_all(&store.read()).await?;
    rows.into_iter().map(Row::read).collect()
}

async fn one(store: &Handle, id: WebhookId) -> Result<Option<Webhook>> {
    let mut connection = store.read().acquire().await?;
    find(&mut connection, id).await
}

async fn find(connection: &mut Connection, id: WebhookId) -> Result<Option<Webhook>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND webhook_id = ").push_bind(id.0);
    let row: Option<Row> = query.build_query_as().fetch_optional(connection).await?;
    row.map(Row::read).transpose()
}

/// Rule 14.1 of docs/policy.md.
async fn create(store: &Handle, ctx: &Context, new: &Webhook) -> Result<bool> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *change.tx).await?;
    if count >= i64::from(MAX_WEBHOOKS) {
        change.undo().await;
        return Ok(false);
    }
    // Also its own creation is an event, which tells its receiver where the sequence begins.
    let position = change.position() - 1;
    sqlx::query::<Db>(INSERT)
        .bind(new.id.0)
        .bind(&new.name)
        .bind(&new.url)
        .bind(event_types_text(new.event_types.as_deref()))
        .bind(new.created.0)
        .bind(i32::from(new.secret.key))
        .bind(i32::try_from(new.secret.version).unwrap_or(i32::MAX))
        .bind(position)
        .execute(&mut *change.tx)
        .await?;
    change.commit(record(AuditAction::WebhookCreate, new.id, None, Some(summary(new)))).await?;
    Ok(true)
}

async fn change(
    store: &Handle,
    ctx: &Context,
    id: WebhookId,
    update: &WebhookUpdate,
) -> Result<Option<Webhook>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(mut webhook) = find(&mut change.tx, id).await? else {
        change.undo().await;
        return Ok(None);
    };
    let before = webhook.clone();
    let WebhookUpdate { name, url, event_types, enabled } = update.clone();
    webhook.name = name.unwrap_or(webhook.name);
    webhook.url = url.unwrap_or(webhook.url);
    webhook.event_types = event_types.unwrap_or(webhook.event_types);
    webhook.state = match enabled {
        Some(true) => WebhookState::Enabled,
        Some(false) if webhook.state == WebhookState::Enabled => WebhookState::Disabled,
        Some(false) | None => webhook.state,
    };
    if webhook == before {
        change.finish().await?;
        return Ok(Some(webhook));
    }
    let delivery = &mut webhook.delivery;
    // Rule 14.17 of docs/policy.md.
    if webhook.state == WebhookState::Enabled && before.state != WebhookState::Enabled {
        delivery.position = change.position();
    }
    (delivery.attempts, delivery.failing) = (0, None);
    (delivery.next_attempt, delivery.claimed_until) = (Timestamp(0), Timestamp(0));
    sqlx::query::<Db>(UPDATE)
        .bind(id.0)
        .bind(&webhook.name)
        .bind(&webhook.url)
        .bind(event_types_text(webhook.event_types.as_deref()))
        .bind(state_word(webhook.state))
        .bind(webhook.delivery.position)
        .execute(&mut *change.tx)
        .await?;
    let (before, after) = (Some(summary(&before)), Some(summary(&webhook)));
    change.commit(record(AuditAction::WebhookUpdate, id, before, after)).await?;
    Ok(Some(webhook))
}

/// Rule 14.6 of docs/policy.md.
async fn rotate_secret(
    store: &Handle,
    ctx: &Context,
    id: WebhookId,
    key: u16,
    former_until: Option<Timestamp>,
) -> Result<Option<Webhook>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(mut webhook) = find(&mut change.tx, id).await? else {
        change.undo().await;
        return Ok(None);
    };
    let SecretVersion { key: former, version } = webhook.secret;
    webhook.secret = SecretVersion { key, version: version.saturating_add(1) };
    webhook.former_secret = former_until.map(|until| FormerSecret { key: former, until });
    sqlx::query::<Db>(ROTATE)
        .bind(id.0)
        .bind(i32::from(key))
        .bind(i32::try_from(webhook.secret.version).unwrap_or(i32::MAX))
        .bind(former_until.map(|_| i32::from(former)))
        .bind(former_until.map(|until| until.0))
        .execute(&mut *change.tx)
        .await?;
    let after = json!({
        "webhook_id": id.to_string(),
        "secret_version": webhook.secret.version,
        "former_secret_until": former_until.map(|until| until.to_string()),
    });
    change.commit(record(AuditAction::WebhookRotateSecret, id, None, Some(after))).await?;
    Ok(Some(webhook))
}

async fn delete(store: &Handle, ctx: &Context, id: WebhookId) -> Result<bool> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(webhook) = find(&mut change.tx, id).await? else {
        change.finish().await?;
        return Ok(false);
    };
    sqlx::query::<Db>(DELETE).bind(id.0).execute(&mut *change.tx).await?;
    change.commit(record(AuditAction::WebhookDelete, id, Some(summary(&webhook)), None)).await?;
    Ok(true)
}

async fn claim(
    store: &Handle,
    id: WebhookId,
    position: i64,
    now: Timestamp,
    until: Timestamp,
) -> Result<Option<Webhook>> {
    let mut tx = store.write().await?;
    let claim = sqlx::query_as::<Db, Row>(CLAIM).bind(id.0).bind(position).bind(now.0);
    let row = claim.bind(until.0).fetch_optional(&mut *tx).await?;
    tx.commit().await?;
    row.map(Row::read).transpose()
}

async fn save(
    store: &Handle,
    id: WebhookId,
    claimed: Timestamp,
    delivery: &Delivery,
) -> Result<bool> {
    let mut tx = store.write().await?;
    let saved = save_in(&mut tx, id, claimed, delivery).await?;
    tx.commit().await?;
    Ok(saved)
}

async fn save_in(
    connection: &mut Connection,
    id: WebhookId,
    claimed: Timestamp,
    delivery: &Delivery,
) -> Result<bool> {
    let failure = delivery.last_failure.as_ref();
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let saved = sqlx::query::<Db>(SAVE)
        .bind(id.0)
        .bind(claimed.0)
        .bind(delivery.position)
        .bind(i32::try_from(delivery.attempts).unwrap_or(i32::MAX))
        .bind(delivery.next_attempt.0)
        .bind(delivery.claimed_until.0)
        .bind(delivery.failing.map(|failing| failing.since.0))
        .bind(delivery.failing.map(|failing| failing.event_time.0))
        .bind(delivery.last_success.map(|at| at.0))
        .bind(failure.map(|(at, _)| at.0))
        .bind(failure.map(|(_, why)| why.clone()))
        .bind(count(delivery.delivered))
        .bind(count(delivery.skipped))
        .execute(connection)
        .await?;
    Ok(saved.rows_affected() > 0)
}

async fn pass(store: &Handle, id: WebhookId, from: i64, to: i64) -> Result<()> {
    let mut tx = store.write().await?;
    sqlx::query::<Db>(PASS).bind(id.0).bind(from).bind(to).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

async fn retry(store: &Handle, id: WebhookId) -> Result<()> {
    let mut tx = store.write().await?;
    sqlx::query::<Db>(RETRY).bind(id.0).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Rule 14.14 of docs/policy.md.
async fn disable_gone(
    store: &Handle,
    ctx: &Context,
    id: WebhookId,
    claimed: Timestamp,
    delivery: &Delivery,
) -> Result<bool> {
    let mut change = WriteTx::begin(store, ctx).await?;
    if !save_in(&mut change.tx, id, claimed, delivery).await? {
        change.undo().await;
        return Ok(false);
    }
    sqlx::query::<Db>(SET_GONE).bind(id.0).execute(&mut *change.tx).await?;
    let state = |word: &str| Some(json!({ "webhook_id": id.to_string(), "state": word }));
    change.commit(record(AuditAction::WebhookDisable, id, state("enabled"), state("gone"))).await?;
    Ok(true)
}

fn record(
    action: AuditAction,
    id: WebhookId,
    before: Option<Value>,
    after: Option<Value>,
) -> Record {
    debug_assert!(
        [&before, &after].into_iter().flatten().all(|part| part["webhook_id"] == id.to_string())
    );
    let touched = Invalidation::Nothing;
    Record { action, touched, account_id: None, token_id: None, before, after }
}

/// What the audit record has of it: not the path and the query of its URL, which may have a secret in them.
fn summary(webhook: &Webhook) -> Value {
    json!({
        "webhook_id": webhook.id.to_string(),
        "name": webhook.name,
        "origin": Origin(&webhook.url).to_string(),
        "event_types": webhook.event_types.as_ref().map(|types| names(types)),
        "state": state_word(webhook.state),
    })
}

fn names(types: &[EventType]) -> Vec<&'static str> {
    types.iter().map(|event| event.as_str()).collect()
}

fn event_types_text(types: Option<&[EventType]>) -> Option<String> {
    types.map(|types| names(types).join(" "))
}

fn state_word(state: WebhookState) -> &'static str {
    match state {
        WebhookState::Enabled => "enabled",
        WebhookState::Disabled => "disabled",
        WebhookState::Gone => "gone",
    }
}

impl Row {
    fn read(self) -> Result<Webhook> {
        let corrupt = |what| CorruptRow(what);
        let key = |number: i32| {
            u16::try_from(number).map_err(|_| corrupt("a webhook's key number is out of range"))
        };
        let count = |number: i64| {
            u64::try_from(number).map_err(|_| corrupt("a webhook's count is negative"))
        };
        let event_types = match &self.event_types {
            None => None,
            // A newer version may know others: then one of that version delivers.
            Some(text) => Some(
                text.split(' ')
                    .map(EventType::parse)
                    .collect::<Option<Vec<_>>>()
                    .ok_or(corrupt("a webhook's types of events can't be read"))?,
            ),
        };
        let former_secret = match (self.former_key, self.former_until) {
            (Some(number), Some(until)) => {
                Some(FormerSecret { key: key(number)?, until: Timestamp(until) })
            }
            _ => None,
        };
        let failing = self.failing_since.zip(self.pending_time).map(|(since, event_time)| {
            Failing { since: Timestamp(since), event_time: Timestamp(event_time) }
        });
        Ok(Webhook {
            id: WebhookId(self.webhook_id),
            name: self.name,
            url: self.url,
            event_types,
            created: Timestamp(self.create_time),
            secret: SecretVersion {
                key: key(self.secret_key)?,
                version: u32::try_from(self.secret_version)
                    .map_err(|_| corrupt("a webhook's secret has a negative version"))?,
            },
            former_secret,
            state: match self.state.as_str() {
                "enabled" => WebhookState::Enabled,
                "disabled" => WebhookState::Disabled,
                "gone" => WebhookState::Gone,
                _ => return Err(corrupt("a webhook's state can't be read").into()),
            },
            delivery: Delivery {
                position: self.position,
                attempts: u32::try_from(self.attempts)
                    .map_err(|_| corrupt("a webhook's attempts are negative"))?,
                next_attempt: Timestamp(self.next_time),
                claimed_until: Timestamp(self.claim_until),
                failing,
                last_success: self.success_time.map(Timestamp),
                last_failure: self.failure_time.map(Timestamp).zip(self.failure),
                delivered: count(self.delivered)?,
                skipped: count(self.skipped)?,
            },
        })
    }
}
