//! What there is to do: hints only, which the transactions check again.

use uuid::Uuid;

use super::super::token::{Row, SELECT, page_of_tokens};
use super::super::{Db, Handle, QueryBuilder, usage};
use crate::model::{IdleToken, Page};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::lifecycle::{Mode, Settings};
use crate::policy::time::Timestamp;
use crate::store::Result;

/// Tokens that are idle since `before` or longer, the longest first.
pub(in super::super) async fn idle_tokens(
    store: &Handle,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<IdleToken>> {
    let mut query = QueryBuilder::new(SELECT);
    query
        .push(" AND t.delete_time IS NULL AND t.expiry_done = 0 AND u.idle_since <= ")
        .push_bind(before.0)
        .push(" AND ")
        .push(not_of_closed_account!("t"))
        .push(" ORDER BY u.idle_since, u.token_id LIMIT ")
        .push_bind(i64::from(limit));
    read(store, query).await
}

/// Active tokens, the oldest first.
pub(in super::super) async fn active_tokens(
    store: &Handle,
    only: Option<AccountId>,
    page: Page<TokenId>,
) -> Result<Vec<IdleToken>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND t.delete_time IS NULL AND t.expiry_done = 0 AND u.heir_id IS NULL");
    if let Some(only) = only {
        query.push(" AND t.account_id = ").push_bind(only.0);
    }
    page_of_tokens(&mut query, page);
    read(store, query).await
}

async fn read(store: &Handle, mut query: QueryBuilder) -> Result<Vec<IdleToken>> {
    let mut tx = store.read_steadily().await?;
    let rows: Vec<Row> = query.build_query_as().fetch_all(&mut *tx).await?;
    let mut live = usage::live_of(&mut tx, &rows).await?;
    rows.iter().map(|row| row.idle(live.remove(&row.id()).unwrap_or_default())).collect()
}

/// Deletions before downgrades, so that a token's deletion goes first where both are due.
const SELECT_DUE: &str = concat!(
    "SELECT pending_action_id, token_id FROM pending_action \
     WHERE end_time IS NULL AND accepted_time IS NOT NULL AND accepted_time <= $1 \
        AND basis_time <= $2 AND ",
    not_of_closed_account!("pending_action"),
    " ORDER BY CASE takes WHEN 'token' THEN 0 ELSE 1 END, accepted_time, pending_action_id \
     LIMIT $3"
);

/// Live actions that may be carried out at `now`, with their tokens.
pub(in super::super) async fn due_actions(
    store: &Handle,
    settings: &Settings,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<(PendingActionId, TokenId)>> {
    if settings.mode == Mode::Observe {
        return Ok(Vec::new());
    }
    let rows: Vec<(Uuid, Uuid)> = sqlx::query_as::<Db, _>(SELECT_DUE)
        .bind(now.minus(settings.notice()).0)
        .bind(now.minus(settings.window()).0)
        .bind(i64::from(limit))
        .fetch_all(&store.read())
        .await?;
    Ok(rows.into_iter().map(|(id, token)| (PendingActionId(id), TokenId(token))).collect())
}
