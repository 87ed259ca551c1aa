//! Taking back what was announced, and forgetting what was deleted long ago.
//!
//! Must stay true: where there is nothing to do, no change waits for it; every replica looks often.

use serde_json::json;
use uuid::Uuid;

use super::super::change::{Changing, Record};
use super::super::{Db, Handle, bulk, pending};
use super::Locked;
use crate::policy::id::{AccountId, TokenId};
use crate::policy::time::Timestamp;
use crate::store::{Context, Result, Touched};

const SELECT_ANNOUNCED: &str = "\
    SELECT DISTINCT token_id FROM pending_action WHERE end_time IS NULL \
    ORDER BY token_id LIMIT $1";

/// Takes back every live action, of at most `limit` tokens. The tokens.
pub(in super::super) async fn withdraw_actions(
    store: &Handle,
    ctx: &Context,
    limit: u32,
) -> Result<Vec<TokenId>> {
    let announced = sqlx::query_scalar(SELECT_ANNOUNCED).bind(1_i64).fetch_optional(store.read());
    let announced: Option<Uuid> = announced.await?;
    if announced.is_none() {
        return Ok(Vec::new());
    }
    let mut change = Changing::begin(store, ctx).await?;
    let ids: Vec<Uuid> = sqlx::query_scalar(SELECT_ANNOUNCED)
        .bind(i64::from(limit))
        .fetch_all(&mut *change.tx)
        .await?;
    let ids: Vec<_> = ids.into_iter().map(TokenId).collect();
    for &id in &ids {
        let Some(mut locked) = Locked::take(&mut change.tx, id).await? else { continue };
        let withdrawn: Vec<_> = locked.live.iter().map(|action| action.id.to_string()).collect();
        pending::withdraw(&mut change.tx, id, ctx.now).await?;
        locked.set_live(Vec::new());
        locked.set_idle(&mut change.tx).await?;
        let before = json!({ "withdrawn": withdrawn });
        change.commit_part(locked.record("lifecycle.withdraw", before)).await?;
    }
    change.finish().await?;
    Ok(ids)
}

const SELECT_DELETED: &str = "\
    SELECT token_id, account_id, name FROM token WHERE delete_time < $1 \
    ORDER BY delete_time, token_id LIMIT $2";

/// Uses, actions and mails go with it.
const PURGE: &str = "DELETE FROM token WHERE token_id = $1";

const PURGE_MAILS: &str = "\
    DELETE FROM mail WHERE mail_id IN (SELECT mail_id FROM mail \
        WHERE token_id IS NULL AND state IN ('accepted', 'withdrawn') AND create_time < $1 \
        ORDER BY create_time LIMIT $2)";

const COUNT_FORGOTTEN: &str = "\
    SELECT (SELECT count(*) FROM (SELECT 1 FROM token WHERE delete_time < $1 LIMIT 1) t) \
        + (SELECT count(*) FROM (SELECT 1 FROM mail \
            WHERE token_id IS NULL AND state IN ('accepted', 'withdrawn') AND create_time < $1 \
            LIMIT 1) m)";

/// Forgets tokens that were deleted before `before`, at most `limit`, and ended mails that are about
/// no token likewise. The tokens.
pub(in super::super) async fn purge(
    store: &Handle,
    ctx: &Context,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<TokenId>> {
    let count = sqlx::query_scalar(COUNT_FORGOTTEN).bind(before.0).fetch_one(store.read());
    let count: i64 = count.await?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut change = Changing::begin(store, ctx).await?;
    let mut rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(SELECT_DELETED)
        .bind(before.0)
        .bind(i64::from(limit))
        .fetch_all(&mut *change.tx)
        .await?;
    rows.sort_unstable();
    let ids: Vec<_> = rows.iter().map(|&(id, ..)| TokenId(id)).collect();
    bulk::lock(&mut change.tx, &ids).await?;
    for (id, account_id, name) in rows {
        sqlx::query::<Db>(PURGE).bind(id).execute(&mut *change.tx).await?;
        change
            .commit_part(Record {
                action: "token.purge",
                touched: Touched::Token(TokenId(id)),
                account_id: Some(AccountId(account_id)),
                token_id: Some(TokenId(id)),
                before: Some(json!({ "name": name, "state": "deleted" })),
                after: None,
            })
            .await?;
    }
    let purge = sqlx::query::<Db>(PURGE_MAILS).bind(before.0).bind(i64::from(limit));
    purge.execute(&mut *change.tx).await?;
    change.finish().await?;
    Ok(ids)
}
