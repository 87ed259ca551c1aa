//! Taking back what was announced, and forgetting what ended long ago.
//!
//! Must stay true: where there is nothing to do, no change waits for it; every replica looks often.

use serde_json::json;
use uuid::Uuid;

use super::super::change::{Record, WriteTx};
use super::super::{Db, Handle, QueryBuilder, bulk, import, pending};
use super::{LockedToken, heir};
use crate::model::{AuditAction, Context, Invalidation};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::time::Timestamp;
use crate::store::Result;

const SELECT_ANNOUNCED: &str = "\
    SELECT DISTINCT token_id FROM pending_action WHERE end_time IS NULL \
    ORDER BY token_id LIMIT $1";

/// Takes back every live action, of at most `limit` tokens. The tokens.
pub(in super::super) async fn withdraw_actions(
    store: &Handle,
    ctx: &Context,
    limit: u32,
) -> Result<Vec<TokenId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(SELECT_ANNOUNCED)
        .bind(i64::from(limit))
        .fetch_all(&store.read())
        .await?;
    let ids: Vec<_> = ids.into_iter().map(TokenId).collect();
    if ids.is_empty() {
        return Ok(ids);
    }
    let mut change = WriteTx::begin(store, ctx).await?;
    let mut withdrew = Vec::new();
    for id in ids {
        let Some(mut locked) = LockedToken::take(&mut change.tx, id).await? else { continue };
        if locked.live.is_empty() {
            // Another did it meanwhile.
            continue;
        }
        let withdrawn: Vec<_> = locked.live.iter().map(|action| action.id.to_string()).collect();
        pending::withdraw(&mut change.tx, id, ctx.now).await?;
        locked.set_live(Vec::new());
        locked.set_idle(&mut change.tx).await?;
        heir::touch(&mut change, id, locked.account_id, AuditAction::LifecycleWithdraw).await?;
        let before = json!({ "withdrawn": withdrawn });
        change.record_part(locked.record(AuditAction::LifecycleWithdraw, before)).await?;
        withdrew.push(id);
    }
    change.finish().await?;
    Ok(withdrew)
}

/// Those that ended before an instant, each group by an index of its own; expired ones once that is recorded.
const SELECT_ENDED: &str = "\
    SELECT token_id, account_id, name, state FROM ( \
        SELECT * FROM (SELECT token_id, account_id, name, \
                CASE WHEN leaked = 1 THEN 'leaked' ELSE 'deleted' END AS state, delete_time AS end_time \
            FROM token WHERE delete_time < $1 ORDER BY delete_time, token_id LIMIT $2) d \
        UNION ALL \
        SELECT * FROM (SELECT token_id, account_id, name, 'expired' AS state, expire_time AS end_time \
            FROM token WHERE expire_time IS NOT NULL AND delete_time IS NULL AND expiry_done = 1 AND expire_time < $1 \
            ORDER BY expire_time, token_id LIMIT $2) e \
    ) ended ORDER BY end_time, token_id LIMIT $2";

/// Uses, actions and mails go with it.
const PURGE: &str = "DELETE FROM token WHERE token_id = $1";

/// Without the head row: no record names an ended mail, and nothing changes it.
async fn purge_mails(store: &Handle, before: Timestamp, limit: u32) -> Result<()> {
    let mut tx = store.write().await?;
    let mut query = QueryBuilder::new(
        "DELETE FROM mail WHERE mail_id IN (SELECT mail_id FROM mail \
         WHERE token_id IS NULL AND state IN ('accepted', 'withdrawn') AND create_time < ",
    );
    query
        .push_bind(before.0)
        .push(" ORDER BY create_time LIMIT ")
        .push_bind(i64::from(limit))
        .push(bulk::SKIP_LOCKED)
        .push(")");
    query.build().execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Forgets tokens that were deleted or expired before `before`, at most `limit`, and ended mails that are about
/// no token likewise. The tokens.
pub(in super::super) async fn purge(
    store: &Handle,
    ctx: &Context,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<TokenId>> {
    purge_mails(store, before, limit).await?;
    let mut rows: Vec<(Uuid, Uuid, String, String)> = sqlx::query_as(SELECT_ENDED)
        .bind(before.0)
        .bind(i64::from(limit))
        .fetch_all(&store.read())
        .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    rows.sort_unstable();
    let ids: Vec<_> = rows.iter().map(|&(id, ..)| TokenId(id)).collect();
    let mut change = WriteTx::begin(store, ctx).await?;
    bulk::lock(&mut change.tx, &ids).await?;
    let mut purged = Vec::new();
    for (id, account_id, name, state) in rows {
        import::retire(&mut change.tx, id).await?;
        let purge = sqlx::query::<Db>(PURGE).bind(id).execute(&mut *change.tx);
        if purge.await?.rows_affected() == 0 {
            // Another did it meanwhile.
            continue;
        }
        change
            .record_part(Record {
                action: AuditAction::TokenPurge,
                touched: Invalidation::Token(TokenId(id)),
                account_id: Some(AccountId(account_id)),
                token_id: Some(TokenId(id)),
                before: Some(json!({ "name": name, "state": state })),
                after: None,
            })
            .await?;
        purged.push(TokenId(id));
    }
    change.finish().await?;
    Ok(purged)
}
