//! What is read of the record: audit events, change records and the head.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Db, Handle, QueryBuilder};
use crate::model::{AuditEvent, AuditFilter, ChangeRecord, Page, StoreMode};
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
}

const SELECT: &str = "\
    SELECT position, time, action, actor, actor_role, client_address, account_id, token_id, \
        before_json, after_json \
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
    if let Some(after) = page.after {
        query.push(" AND position < ").push_bind(after);
    }
    query.push(" ORDER BY position DESC LIMIT ").push_bind(i64::from(page.limit));
    let rows: Vec<EventRow> = query.build_query_as().fetch_all(&store.read()).await?;
    Ok(rows.into_iter().map(event).collect())
}

fn event(row: EventRow) -> AuditEvent {
    AuditEvent {
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
    }
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
