//! The expiry of tokens: notices before it, and its record with a mail after it.
//!
//! Must stay true: where there is nothing to do, no change waits for it; every replica looks often.

use serde_json::json;
use uuid::Uuid;

use super::super::change::WriteTx;
use super::super::mail::{self, MailSubject};
use super::super::{Db, Handle, account};
use super::{LockedToken, heir};
use crate::model::{AuditAction, Context, Invalidation};
use crate::policy::id::TokenId;
use crate::policy::time::Timestamp;
use crate::policy::token::TokenState;
use crate::store::Result;

/// Tokens of a closed account are about to be deleted, and would fill each round.
const SELECT_UNNOTICED: &str = concat!(
    "SELECT token_id FROM token \
     WHERE expire_time IS NOT NULL AND expiry_done = 0 AND delete_time IS NULL \
        AND coalesce(noticed_expiry, 0) <> expire_time \
        AND expire_time > $1 AND expire_time <= $2 AND ",
    not_of_closed_account!("token"),
    " ORDER BY expire_time, token_id LIMIT $3"
);

const NOTICED: &str = "UPDATE token SET noticed_expiry = expire_time WHERE token_id = $1";

/// Queues the notices of tokens that expire after now and by `until`, at most `limit`; an admin who has one of the same
/// expiry gets no second. How many tokens these were. Rules 11.7 and 11.8 of docs/policy.md.
pub(in super::super) async fn announce_expiries(
    store: &Handle,
    ctx: &Context,
    until: Timestamp,
    limit: u32,
) -> Result<u32> {
    let ids: Vec<Uuid> = sqlx::query_scalar(SELECT_UNNOTICED)
        .bind(ctx.now.0)
        .bind(until.0)
        .bind(i64::from(limit))
        .fetch_all(&store.read())
        .await?;
    if ids.is_empty() {
        return Ok(0);
    }
    let mut ids: Vec<_> = ids.into_iter().map(TokenId).collect();
    ids.sort_unstable();
    let mut change = WriteTx::begin(store, ctx).await?;
    let mut announced = 0;
    for id in ids {
        let Some(locked) = LockedToken::take(&mut change.tx, id).await? else { continue };
        let expires = locked.expiry.time().filter(|_| locked.is_live(ctx.now));
        let Some(expires) = expires.filter(|at| *at <= until && locked.noticed != Some(*at)) else {
            // Another sweep has queued them meanwhile, or the token was deleted.
            continue;
        };
        sqlx::query::<Db>(NOTICED).bind(id.0).execute(&mut *change.tx).await?;
        let admins = account::admins(&mut change.tx, locked.account_id).await?;
        let about = MailSubject::ExpiryNotice(id, expires);
        mail::queue(&mut change.tx, ctx.now, locked.account_id, about, &admins).await?;
        let mut record = locked.record(AuditAction::TokenExpiryNotice, json!(null));
        // Nothing that a decision rests on.
        record.touched = Invalidation::Nothing;
        record.before = None;
        record.after = Some(
            json!({ "name": locked.name, "expire_time": expires.to_string(), "admins": admins }),
        );
        change.record_part(record).await?;
        announced += 1;
    }
    change.finish().await?;
    Ok(announced)
}

/// Not those that another sweep has just recorded.
const SELECT_EXPIRING: &str = concat!(
    "SELECT token_id FROM token \
     WHERE expire_time IS NOT NULL AND expiry_done = 0 AND delete_time IS NULL \
        AND expire_time <= $1 AND ",
    not_of_closed_account!("token"),
    " ORDER BY expire_time, token_id LIMIT $2"
);

const END: &str = "UPDATE token SET expiry_done = 1 WHERE token_id = $1";

/// Records that tokens reached their expiry by now, at most `limit`, mails their admins, and takes back what is announced
/// for them. The tokens. It waits for no notice. Rules 11.5, 11.7 and 11.9 of docs/policy.md.
pub(in super::super) async fn record_expiries(
    store: &Handle,
    ctx: &Context,
    limit: u32,
) -> Result<Vec<TokenId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(SELECT_EXPIRING)
        .bind(ctx.now.0)
        .bind(i64::from(limit))
        .fetch_all(&store.read())
        .await?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids: Vec<_> = ids.into_iter().map(TokenId).collect();
    ids.sort_unstable();
    let mut change = WriteTx::begin(store, ctx).await?;
    heir::lock_families(&mut change.tx, &ids, ctx.now).await?;
    let mut recorded = Vec::new();
    for id in ids {
        let Some(mut locked) = LockedToken::take(&mut change.tx, id).await? else { continue };
        let expired = locked.expiry.time().filter(|_| locked.expiry.is_reached(ctx.now));
        let Some(expired) = expired.filter(|_| locked.state == TokenState::Active && !locked.ended)
        else {
            // Another sweep has recorded it meanwhile, or the token was deleted.
            continue;
        };
        sqlx::query::<Db>(END).bind(id.0).execute(&mut *change.tx).await?;
        locked.ended = true;
        mail::withdraw_expiry_notices(&mut change.tx, id).await?;
        let admins = account::admins(&mut change.tx, locked.account_id).await?;
        let about = MailSubject::Expired(id, expired);
        mail::queue(&mut change.tx, ctx.now, locked.account_id, about, &admins).await?;
        let withdrawn = heir::end_lifecycle(&mut change, id).await?;
        let withdrawn: Vec<_> = withdrawn.iter().map(ToString::to_string).collect();
        locked.set_live(Vec::new());
        locked.set_idle(&mut change.tx).await?;
        let before = json!({ "name": locked.name, "state": "active", "withdrawn": withdrawn });
        let mut record = locked.record(AuditAction::TokenExpire, before);
        let expired = expired.to_string();
        record.after =
            Some(json!({ "name": locked.name, "state": "expired", "expire_time": expired }));
        change.record_part(record).await?;
        recorded.push(id);
    }
    change.finish().await?;
    Ok(recorded)
}
