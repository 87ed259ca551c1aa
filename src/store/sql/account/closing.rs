//! Suspending, resuming and closing accounts.
//!
//! Closing is one short transaction however many tokens the account has: it marks the account, which restricts it at once
//! (`cache::accounts`), and revokes its admins' credentials. What that entails is done in steps by any sweeper: mails are
//! withdrawn, and tokens deleted with a record for each, as their owner would. A crash between two steps loses nothing,
//! since each step selects what is left.
//!
//! What must stay true: nothing is created in a closed account, whose creations take the head row and look here
//! ([`admit`]), so what is left only gets less; the account stays restricted until no token of it is active.

use serde_json::json;
use uuid::Uuid;

use super::super::change::{Record, WriteTx};
use super::super::lifecycle::heir;
use super::super::token::{self, Ending};
use super::super::{Connection, Db, Handle, QueryBuilder, activity, bulk, credential};
use super::by_id;
use crate::model::{
    Account, AccountRefusal, Actor, AuditAction, CloseRefusal, ClosureStep, Context, Credential,
    Invalidation, Role,
};
use crate::policy::id::{AccountId, CredentialId, TokenId};
use crate::policy::time::Timestamp;
use crate::policy::token::AccountRestriction;
use crate::store::Result;

const SELECT_RESTRICTION: &str =
    "SELECT suspend_time, close_time FROM account WHERE account_id = $1";

/// The condition is that of the index `account_restricted`.
const SELECT_RESTRICTED: &str = "\
    SELECT account_id, suspend_time, close_time FROM account \
    WHERE (suspend_time IS NOT NULL OR close_time IS NOT NULL) AND close_done = 0";

const COUNT_TOKENS: &str =
    "SELECT count(*) FROM token WHERE account_id = $1 AND delete_time IS NULL";

const SUSPEND: &str = "UPDATE account SET suspend_time = $2 WHERE account_id = $1";

const CLOSE: &str = "UPDATE account SET close_time = $2 WHERE account_id = $1";

const REVOKE_CREDENTIALS: &str = "\
    UPDATE credential SET revoke_time = $2 WHERE account_id = $1 AND revoke_time IS NULL \
    RETURNING credential_id";

/// Why no token of an account may be used; `None` where there is no such account, too.
pub(in super::super) async fn restriction(
    connection: &mut Connection,
    id: AccountId,
) -> Result<Option<AccountRestriction>> {
    Ok(find_restriction(connection, id).await?.flatten())
}

async fn find_restriction(
    connection: &mut Connection,
    id: AccountId,
) -> Result<Option<Option<AccountRestriction>>> {
    let row: Option<(Option<i64>, Option<i64>)> =
        sqlx::query_as(SELECT_RESTRICTION).bind(id.0).fetch_optional(connection).await?;
    let read = |(suspended, closed)| restriction_of(suspended, closed);
    Ok(row.map(read))
}

fn restriction_of(suspended: Option<i64>, closed: Option<i64>) -> Option<AccountRestriction> {
    AccountRestriction::of(suspended.map(Timestamp), closed.map(Timestamp))
}

/// The same outside of a change.
pub(in super::super) async fn one_restriction(
    store: &Handle,
    id: AccountId,
) -> Result<Option<AccountRestriction>> {
    let mut conn = store.read_steadily().await?;
    restriction(&mut conn, id).await
}

/// Every account that is suspended, or closed with tokens that are not deleted yet.
pub(in super::super) async fn all_restricted(
    store: &Handle,
) -> Result<Vec<(AccountId, AccountRestriction)>> {
    let rows: Vec<(Uuid, Option<i64>, Option<i64>)> =
        sqlx::query_as(SELECT_RESTRICTED).fetch_all(&store.read()).await?;
    let read = |(id, suspended, closed)| Some((AccountId(id), restriction_of(suspended, closed)?));
    Ok(rows.into_iter().filter_map(read).collect())
}

pub(in super::super) async fn count_tokens(store: &Handle, id: AccountId) -> Result<u64> {
    let count: i64 = sqlx::query_scalar(COUNT_TOKENS).bind(id.0).fetch_one(&store.read()).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Whether a change that does more than narrow is made to an account. In a change, so that the answer holds until its end.
/// Rules 11.72 and 11.77 of docs/policy.md.
pub(in super::super) async fn admit(
    connection: &mut Connection,
    ctx: &Context,
    id: AccountId,
) -> Result<Result<(), AccountRefusal>> {
    let by_admin = matches!(ctx.actor, Actor::Credential(_, Role::AccountAdmin(_)));
    Ok(match find_restriction(connection, id).await? {
        None => Err(AccountRefusal::NotFound),
        Some(Some(AccountRestriction::Closed { .. })) => Err(AccountRefusal::Closed),
        Some(Some(AccountRestriction::Suspended { .. })) if by_admin => {
            Err(AccountRefusal::Suspended)
        }
        Some(_) => Ok(()),
    })
}

/// Suspends an account, or resumes it. Rules 11.70 and 11.73 of docs/policy.md.
pub(in super::super) async fn set_suspended(
    store: &Handle,
    ctx: &Context,
    id: AccountId,
    suspended: bool,
) -> Result<Result<Account, AccountRefusal>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let mut account = match by_id(&mut change.tx, id).await? {
        Some(account) if account.closed.is_none() => account,
        refused => {
            change.undo().await;
            return Ok(Err(match refused {
                None => AccountRefusal::NotFound,
                Some(_) => AccountRefusal::Closed,
            }));
        }
    };
    if account.suspended.is_some() == suspended {
        change.finish().await?;
        return Ok(Ok(account));
    }
    let since = suspended.then_some(ctx.now);
    let set = sqlx::query::<Db>(SUSPEND).bind(id.0).bind(since.map(|at| at.0));
    set.execute(&mut *change.tx).await?;
    let before = summary(&account);
    account.suspended = since;
    let action = match suspended {
        true => AuditAction::AccountSuspend,
        false => AuditAction::AccountResume,
    };
    let after = summary(&account);
    change.commit(record(action, id, before, after)).await?;
    Ok(Ok(account))
}

/// Closes an account. Rules 11.74, 11.75 and 11.76 of docs/policy.md.
pub(in super::super) async fn close(
    store: &Handle,
    ctx: &Context,
    id: AccountId,
    confirmation: &str,
) -> Result<Result<Account, CloseRefusal>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let mut account = match by_id(&mut change.tx, id).await? {
        Some(account) if account.name == confirmation => account,
        refused => {
            change.undo().await;
            return Ok(Err(match refused {
                None => CloseRefusal::NotFound,
                Some(account) => CloseRefusal::NotConfirmed(account.name),
            }));
        }
    };
    if account.closed.is_some() {
        change.finish().await?;
        return Ok(Ok(account));
    }
    sqlx::query::<Db>(CLOSE).bind(id.0).bind(ctx.now.0).execute(&mut *change.tx).await?;
    let revoked: Vec<Uuid> = sqlx::query_scalar(REVOKE_CREDENTIALS)
        .bind(id.0)
        .bind(ctx.now.0)
        .fetch_all(&mut *change.tx)
        .await?;
    let before = summary(&account);
    account.closed = Some(ctx.now);
    let mut after = summary(&account);
    let revoked: Vec<_> = revoked.into_iter().map(CredentialId).collect();
    after["revoked_credentials"] = revoked.iter().map(ToString::to_string).collect();
    // Each has a record of its own, so that a replica that can't read the account back accepts none of them.
    for id in revoked {
        let Some(credential) = credential::by_id(&mut change.tx, id).await? else { continue };
        let live = credential::summary(&Credential { revoked: None, ..credential.clone() }, "live");
        let revoked = credential::summary(&credential, "revoked");
        let action = AuditAction::CredentialRevoke;
        change.record_part(credential::record(action, &credential, Some(live), revoked)).await?;
    }
    change.commit(record(AuditAction::AccountClose, id, before, after)).await?;
    Ok(Ok(account))
}

fn summary(account: &Account) -> serde_json::Value {
    let state = match account.restriction() {
        None => "active",
        Some(AccountRestriction::Suspended { .. }) => "suspended",
        Some(AccountRestriction::Closed { .. }) => "closed",
    };
    json!({ "name": account.name, "state": state })
}

fn record(
    action: AuditAction,
    id: AccountId,
    before: serde_json::Value,
    after: serde_json::Value,
) -> Record {
    Record {
        action,
        touched: Invalidation::Account(id),
        account_id: Some(id),
        token_id: None,
        before: Some(before),
        after: Some(after),
    }
}

/// Any of them, so that one whose rows can't be read holds up no other for long.
const SELECT_CLOSING: &str = "\
    SELECT account_id FROM account WHERE close_time IS NOT NULL AND close_done = 0 \
    ORDER BY random() LIMIT 1";

const SELECT_TOKENS: &str = "\
    SELECT token_id FROM token WHERE account_id = $1 AND delete_time IS NULL \
    ORDER BY token_id LIMIT $2";

/// A mail that another transaction holds now is withdrawn by a later step.
const COMPLETE: &str = "\
    UPDATE account SET close_done = 1 WHERE account_id = $1 AND close_time IS NOT NULL AND close_done = 0 \
        AND NOT EXISTS (SELECT 1 FROM token t WHERE t.account_id = $1 AND t.delete_time IS NULL) \
        AND NOT EXISTS (SELECT 1 FROM mail m WHERE m.account_id = $1 AND m.state IN ('queued', 'failing'))";

/// One step of what the closure of an account entails: of `only`, or of any; `None` where there is nothing to do.
pub(in super::super) async fn continue_closure(
    store: &Handle,
    ctx: &Context,
    only: Option<AccountId>,
    limit: u32,
) -> Result<Option<ClosureStep>> {
    let account_id = match only {
        Some(id) => id,
        None => match sqlx::query_scalar(SELECT_CLOSING).fetch_optional(&store.read()).await? {
            Some(id) => AccountId(id),
            None => return Ok(None),
        },
    };
    let withdrawn = withdraw_mails(store, account_id, limit).await?;
    let mut change = WriteTx::begin(store, ctx).await?;
    let account = by_id(&mut change.tx, account_id).await?;
    let Some(closed) = account.and_then(|account| account.closed) else {
        change.undo().await;
        return Ok(None);
    };
    // Within the change, so that the steps of several replicas delete different tokens.
    let ids: Vec<Uuid> = sqlx::query_scalar(SELECT_TOKENS)
        .bind(account_id.0)
        .bind(i64::from(limit))
        .fetch_all(&mut *change.tx)
        .await?;
    let ids: Vec<_> = ids.into_iter().map(TokenId).collect();
    heir::lock_families(&mut change.tx, &ids, ctx.now).await?;
    let mut tokens = Vec::new();
    for id in ids {
        let Some(mut token) = token::find(&mut change.tx, id, None).await? else { continue };
        // As every decision since the closure says.
        let record = token::end(&mut change, &mut token, Ending::Closure(closed)).await?;
        change.record_part(record).await?;
        tokens.push(id);
    }
    activity::erase(&mut change.tx, &tokens).await?;
    change.finish().await?;
    let more = !tokens.is_empty() || withdrawn >= u64::from(limit);
    Ok(Some(ClosureStep { account_id, tokens, more }))
}

/// Marks the closure of an account as complete. `false`, and nothing is marked, where something is left to do.
pub(in super::super) async fn complete_closure(
    store: &Handle,
    ctx: &Context,
    id: AccountId,
) -> Result<bool> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let completed = sqlx::query::<Db>(COMPLETE).bind(id.0).execute(&mut *change.tx).await?;
    change.finish().await?;
    Ok(completed.rows_affected() > 0)
}

/// Without the head row: no decision rests on a mail. How many were withdrawn.
async fn withdraw_mails(store: &Handle, id: AccountId, limit: u32) -> Result<u64> {
    let mut tx = store.write().await?;
    let mut query = QueryBuilder::new(
        "UPDATE mail SET state = 'withdrawn', fail_time = NULL, failure = NULL \
         WHERE mail_id IN (SELECT mail_id FROM mail WHERE state IN ('queued', 'failing') AND account_id = ",
    );
    query
        .push_bind(id.0)
        .push(" ORDER BY mail_id LIMIT ")
        .push_bind(i64::from(limit))
        .push(bulk::SKIP_LOCKED)
        .push(")");
    let withdrawn = query.build().execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(withdrawn)
}
