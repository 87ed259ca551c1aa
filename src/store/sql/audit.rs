//! Reads the record: audit events and their chain, change records and the head; seals and prunes old events.
//!
//! # Invariants
//! - The chain of the head row moves only with that row locked, from each event to the one of the next position.
//! - No event after one without a hash has a hash, until that one is sealed.

use serde_json::json;
use sqlx::FromRow;
use uuid::Uuid;

use super::change::{Record, WriteTx, action_of};
use super::{Connection, Db, Handle, QueryBuilder};
use crate::audit::{ChainHash, ChainPoint, EventFields};
use crate::model::{
    Actor, AuditAction, AuditBatch, AuditChain, AuditEvent, AuditFilter, ChangeRecord, Context,
    Invalidation, Page, StoreMode,
};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::time::Timestamp;
use crate::store::Result;
use crate::store::error::CorruptRow;

#[derive(FromRow)]
struct EventRow {
    position: i64,
    time: i64,
    action: String,
    actor: String,
    actor_role: String,
    client_address: Option<String>,
    account_id: Option<Uuid>,
    token_id: Option<Uuid>,
    before_json: Option<String>,
    after_json: Option<String>,
    hash: Option<Vec<u8>>,
}

const SELECT: &str = "\
    SELECT position, time, action, actor, actor_role, client_address, account_id, token_id, \
        before_json, after_json, hash \
    FROM audit_event WHERE 1 = 1";

const SELECT_CHANGES: &str = "\
    SELECT position, touched, key FROM change WHERE position > $1 ORDER BY position LIMIT $2";

const SELECT_POSITION: &str = "SELECT position FROM head WHERE id = 1";

const SELECT_MARK: &str = "SELECT mark FROM head WHERE id = 1";

const SET_MARK: &str = "\
    UPDATE head SET mark = $1 WHERE id = 1 AND (mark IS NULL OR mark = $1)";

pub(super) async fn events(
    store: &Handle,
    filter: &AuditFilter,
    page: Page<i64>,
) -> Result<Vec<AuditEvent>> {
    let mut query = QueryBuilder::new(SELECT);
    if let Some(id) = filter.account_id {
        query.push(" AND account_id = ").push_bind(id.0);
    }
    if let Some(id) = filter.token_id {
        // One event names all tokens that a call imported.
        query.push(" AND (token_id = ").push_bind(id.0);
        query.push(" OR position = (SELECT import_revision FROM token WHERE token_id = ");
        query.push_bind(id.0).push("))");
    }
    if let Some(start) = filter.start {
        query.push(" AND time >= ").push_bind(start.0);
    }
    if let Some(end) = filter.end {
        query.push(" AND time < ").push_bind(end.0);
    }
    if let Some(id) = filter.pending_action_id {
        // The column has the first action that an event names. Where a use or an end concerned several at once, the others
        // stand in the event of one of their tokens.
        let named = format!("%\"{id}\"%");
        query.push(" AND position IN (SELECT position FROM audit_event WHERE pending_action_id = ");
        query.push_bind(id.0);
        query.push(
            " UNION SELECT e.position FROM audit_event e WHERE e.token_id IN \
             (SELECT token_id FROM audit_event WHERE pending_action_id = ",
        );
        query.push_bind(id.0).push(") AND (e.before_json LIKE ").push_bind(named.clone());
        query.push(" OR e.after_json LIKE ").push_bind(named).push("))");
    }
    if let Some(after) = filter.after {
        query.push(" AND position > ").push_bind(after);
    }
    let (compared, order) = if filter.oldest_first { (" > ", "ASC") } else { (" < ", "DESC") };
    if let Some(after) = page.after {
        query.push(" AND position").push(compared).push_bind(after);
    }
    query.push(" ORDER BY position ").push(order);
    query.push(" LIMIT ").push_bind(i64::from(page.limit));
    let rows: Vec<EventRow> = query.build_query_as().fetch_all(&store.read()).await?;
    rows.into_iter().map(event).collect()
}

fn hash(bytes: &[u8]) -> Result<ChainHash> {
    Ok(ChainHash::try_from(bytes)
        .map_err(|_| CorruptRow("a hash of the audit record can't be read"))?)
}

fn event(row: EventRow) -> Result<AuditEvent> {
    Ok(AuditEvent {
        position: row.position,
        time: Timestamp(row.time),
        action: row.action.into(),
        actor: row.actor,
        actor_role: row.actor_role,
        client: row.client_address,
        account_id: row.account_id.map(AccountId),
        token_id: row.token_id.map(TokenId),
        before: row.before_json,
        after: row.after_json,
        hash: row.hash.as_deref().map(hash).transpose()?,
    })
}

/// The chain as the head row has it.
#[derive(FromRow)]
pub(super) struct ChainRow {
    installation_id: Uuid,
    chain_position: i64,
    chain_hash: Option<Vec<u8>>,
}

impl ChainRow {
    pub(super) fn read(self) -> Result<Chain> {
        let installation_id = self.installation_id.to_string();
        let point = point(&installation_id, self.chain_position, self.chain_hash.as_deref())?;
        Ok(Chain { point })
    }
}

fn point(installation_id: &str, revision: i64, bytes: Option<&[u8]>) -> Result<ChainPoint> {
    match bytes {
        Some(bytes) => Ok(ChainPoint { revision, hash: hash(bytes)? }),
        None if revision == 0 => Ok(ChainPoint::genesis(installation_id)),
        None => Err(CorruptRow("the head of the audit record has no hash").into()),
    }
}

/// The end of the chain, which the holder of the head row extends.
pub(super) struct Chain {
    point: ChainPoint,
}

impl Chain {
    /// The hash of an event that is about to be recorded; `None` where one before it has none yet.
    pub(super) fn next(&self, event: &AuditEvent) -> Option<ChainHash> {
        (event.position == self.point.revision + 1).then(|| hash_of(event, &self.point.hash))
    }
}

fn hash_of(event: &AuditEvent, previous: &ChainHash) -> ChainHash {
    let account_id = event.account_id.map(|id| id.to_string());
    let token_id = event.token_id.map(|id| id.to_string());
    let fields = EventFields {
        revision: event.position,
        time: &event.time.to_rfc_3339(),
        action: event.action.as_str(),
        actor: &event.actor,
        actor_role: &event.actor_role,
        client_address: event.client.as_deref().unwrap_or_default(),
        account_id: account_id.as_deref().unwrap_or_default(),
        token_id: token_id.as_deref().unwrap_or_default(),
        before_json: event.before.as_deref().unwrap_or_default(),
        after_json: event.after.as_deref().unwrap_or_default(),
    };
    fields.hash(previous)
}

/// How many positions one reading covers.
const WINDOW: i64 = 1_000;

const SELECT_BOUNDS: &str = "SELECT position, pruned_position FROM head WHERE id = 1";

pub(super) async fn of_actions(
    store: &Handle,
    actions: &[AuditAction],
    after: i64,
    limit: u32,
) -> Result<AuditBatch> {
    // First: every event up to this position is committed.
    let (head, pruned): (i64, i64) = sqlx::query_as(SELECT_BOUNDS).fetch_one(&store.read()).await?;
    let until = head.min(after.max(pruned).saturating_add(WINDOW));
    let mut batch = AuditBatch { events: Vec::new(), until, pruned, more: until < head };
    if until <= after || actions.is_empty() {
        batch.until = until.max(after);
        return Ok(batch);
    }
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND position > ").push_bind(after);
    query.push(" AND position <= ").push_bind(until);
    query.push(" AND action IN (");
    let mut names = query.separated(", ");
    for action in actions {
        names.push_bind(action.as_str());
    }
    query.push(") ORDER BY position LIMIT ").push_bind(i64::from(limit));
    let rows: Vec<EventRow> = query.build_query_as().fetch_all(&store.read()).await?;
    batch.events = rows.into_iter().map(event).collect::<Result<_>>()?;
    if let Some(last) = batch.events.last()
        && batch.events.len() == limit as usize
    {
        (batch.until, batch.more) = (last.position, true);
    }
    Ok(batch)
}

const SELECT_CHAIN: &str = "\
    SELECT installation_id, chain_position, chain_hash, pruned_position, pruned_hash \
    FROM head WHERE id = 1";

pub(super) async fn chain(store: &Handle) -> Result<AuditChain> {
    #[derive(FromRow)]
    struct Row {
        #[sqlx(flatten)]
        head: ChainRow,
        pruned_position: i64,
        pruned_hash: Option<Vec<u8>>,
    }
    let row: Row = sqlx::query_as(SELECT_CHAIN).fetch_one(&store.read()).await?;
    let installation_id = row.head.installation_id.to_string();
    let begin = point(&installation_id, row.pruned_position, row.pruned_hash.as_deref())?;
    Ok(AuditChain { installation_id, begin, head: row.head.read()?.point })
}

const SELECT_UNSEALED: &str = "SELECT count(*) FROM \
    (SELECT 1 FROM head h JOIN audit_event e ON e.position > h.chain_position LIMIT 1) AS unsealed";

const MOVE_CHAIN: &str = "UPDATE head SET chain_position = $1, chain_hash = $2 WHERE id = 1";

pub(super) async fn seal(store: &Handle, limit: u32) -> Result<u32> {
    // Nearly always there is nothing to seal: no reason to wait for the head row.
    let unsealed: i64 = sqlx::query_scalar(SELECT_UNSEALED).fetch_one(&store.read()).await?;
    if unsealed == 0 {
        return Ok(0);
    }
    let ctx = Context::new(Actor::System, Timestamp::default(), None);
    let mut change = WriteTx::begin(store, &ctx).await?;
    let mut point = change.chain.point;
    let events = oldest(&mut change.tx, point.revision, limit).await?;
    let mut sealed = Vec::with_capacity(events.len());
    for event in &events {
        point = ChainPoint { revision: event.position, hash: hash_of(event, &point.hash) };
        let parts = [&event.after, &event.before].into_iter().flatten();
        let action = parts
            .filter_map(|json| serde_json::from_str(json).ok())
            .find_map(|part| action_of(&part));
        sealed.push((point, action));
    }
    for sealed in sealed.chunks(super::IDS_AT_ONCE) {
        let mut query = QueryBuilder::new("WITH sealed (position, hash, action) AS (");
        query.push_values(sealed, |mut row, (point, action)| {
            row.push_bind(point.revision)
                .push_bind(point.hash.as_bytes().to_vec())
                .push_bind(action.map(|id| id.0));
        });
        query.push(
            ") UPDATE audit_event SET hash = sealed.hash, pending_action_id = sealed.action \
             FROM sealed WHERE audit_event.position = sealed.position",
        );
        query.build().persistent(false).execute(&mut *change.tx).await?;
    }
    sqlx::query::<Db>(MOVE_CHAIN)
        .bind(point.revision)
        .bind(point.hash.as_bytes().to_vec())
        .execute(&mut *change.tx)
        .await?;
    change.finish().await?;
    Ok(u32::try_from(sealed.len()).unwrap_or(limit))
}

async fn oldest(connection: &mut Connection, after: i64, limit: u32) -> Result<Vec<AuditEvent>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND position > ").push_bind(after);
    query.push(" ORDER BY position LIMIT ").push_bind(i64::from(limit));
    let rows: Vec<EventRow> = query.build_query_as().fetch_all(connection).await?;
    rows.into_iter().map(event).collect()
}

/// In the order of the record: removal ends before the first event that is too young or has no hash.
const SELECT_OLDEST: &str = "\
    SELECT position, time, action, hash FROM audit_event ORDER BY position LIMIT $1";

const PRUNE: &str = "DELETE FROM audit_event WHERE position <= $1";

const BEGIN_CHAIN: &str = "UPDATE head SET pruned_position = $1, pruned_hash = $2 WHERE id = 1";

pub(super) async fn prune(
    store: &Handle,
    ctx: &Context,
    before: Timestamp,
    limit: u32,
) -> Result<u32> {
    let mut reader = store.read().acquire().await?;
    let due = prunable(&mut reader, before, limit).await?;
    drop(reader);
    if due.is_none() {
        return Ok(0);
    }
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some((last, count)) = prunable(&mut change.tx, before, limit).await? else {
        change.undo().await;
        return Ok(0);
    };
    sqlx::query::<Db>(PRUNE).bind(last.revision).execute(&mut *change.tx).await?;
    sqlx::query::<Db>(BEGIN_CHAIN)
        .bind(last.revision)
        .bind(last.hash.as_bytes().to_vec())
        .execute(&mut *change.tx)
        .await?;
    // So that the rest of the chain itself says where it begins, and why.
    let record = Record {
        action: AuditAction::AuditPrune,
        touched: Invalidation::Nothing,
        account_id: None,
        token_id: None,
        before: None,
        after: Some(json!({
            "revision": last.revision, "hash": last.hash.to_string(), "count": count,
        })),
    };
    change.commit(record).await?;
    Ok(count)
}

/// The last of the events that may be removed, and how many they are.
async fn prunable(
    connection: &mut Connection,
    before: Timestamp,
    limit: u32,
) -> Result<Option<(ChainPoint, u32)>> {
    let rows: Vec<(i64, i64, String, Option<Vec<u8>>)> =
        sqlx::query_as(SELECT_OLDEST).bind(i64::from(limit)).fetch_all(connection).await?;
    let (mut last, mut count, mut worth) = (None, 0, false);
    for (revision, time, action, bytes) in rows {
        let Some(bytes) = bytes.filter(|_| time < before.0) else { break };
        last = Some(ChainPoint { revision, hash: hash(&bytes)? });
        count += 1;
        // Else each removal would leave something to remove.
        worth |= action != AuditAction::AuditPrune.as_str();
    }
    // A full page of records of removals becomes one of them, or they would keep all that is after them.
    worth |= count > 1 && count == limit;
    Ok(last.filter(|_| worth).map(|last| (last, count)))
}

pub(super) async fn position(store: &Handle) -> Result<i64> {
    Ok(sqlx::query_scalar(SELECT_POSITION).fetch_one(&store.read()).await?)
}

pub(super) async fn changes(store: &Handle, after: i64, limit: u32) -> Result<Vec<ChangeRecord>> {
    let rows: Vec<(i64, String, Option<Uuid>)> = sqlx::query_as(SELECT_CHANGES)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&store.read())
        .await?;
    let read = |(position, touched, key): (i64, String, _)| {
        let change = ChangeRecord::read(position, &touched, key);
        Ok(change.ok_or(CorruptRow("a change record can't be read"))?)
    };
    rows.into_iter().map(read).collect()
}

pub(super) async fn mark(store: &Handle) -> Result<Option<StoreMode>> {
    let mark: Option<String> = sqlx::query_scalar(SELECT_MARK).fetch_one(&store.read()).await?;
    match mark.as_deref() {
        None => Ok(None),
        Some("development") => Ok(Some(StoreMode::Development)),
        Some("production") => Ok(Some(StoreMode::Production)),
        Some(_) => Err(CorruptRow("the store's mark can't be read").into()),
    }
}

pub(super) async fn set_mark(store: &Handle, mark: StoreMode) -> Result<()> {
    let word = match mark {
        StoreMode::Development => "development",
        StoreMode::Production => "production",
    };
    let mut tx = store.write().await?;
    let marked = sqlx::query::<Db>(SET_MARK).bind(word).execute(&mut *tx).await?.rows_affected();
    if marked == 0 {
        return Err(CorruptRow("the store is marked as something else already").into());
    }
    Ok(tx.commit().await?)
}
