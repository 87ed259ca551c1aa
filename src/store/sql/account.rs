//! Accounts and their admins.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use uuid::Uuid;

mod closing;

use super::change::{Record, WriteTx};
use super::mail::{self, MailSubject};
use super::{Connection, Db, Handle, QueryBuilder, Transaction, lifecycle, pending};
use crate::model::{Account, AccountRefusal, AdminsSet, AuditAction, Context, Invalidation, Page};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::time::Timestamp;
use crate::store::Result;
use crate::store::error::CorruptRow;

pub(super) use closing::{
    admit, all_restricted, close, complete_closure, continue_closure, count_tokens,
    one_restriction, restriction, set_suspended,
};

type Row = (Uuid, String, i64, Option<i64>, Option<i64>, String);

/// One row for each admin.
const SELECT: &str = "\
    SELECT a.account_id, a.name, a.create_time, a.suspend_time, a.close_time, m.email \
    FROM account a JOIN account_admin m ON m.account_id = a.account_id";

const INSERT: &str = "INSERT INTO account (account_id, name, create_time) VALUES ($1, $2, $3)";

const INSERT_ADMIN: &str =
    "INSERT INTO account_admin (account_id, ordinal, email) VALUES ($1, $2, $3)";

const SET_NAME: &str = "UPDATE account SET name = $2 WHERE account_id = $1";

const DELETE_ADMINS: &str = "DELETE FROM account_admin WHERE account_id = $1";

const SELECT_ADMINS: &str =
    "SELECT email FROM account_admin WHERE account_id = $1 ORDER BY ordinal";

const RENOTICE_EXPIRIES: &str = "\
    UPDATE token SET noticed_expiry = NULL WHERE account_id = $1 \
        AND noticed_expiry IS NOT NULL AND expiry_done = 0 AND delete_time IS NULL";

pub(super) async fn create(store: &Handle, ctx: &Context, new: &Account) -> Result<()> {
    let mut change = WriteTx::begin(store, ctx).await?;
    sqlx::query::<Db>(INSERT)
        .bind(new.id.0)
        .bind(&new.name)
        .bind(new.created.0)
        .execute(&mut *change.tx)
        .await?;
    insert_admins(&mut change.tx, new.id, &new.admins).await?;
    change
        .commit(Record {
            action: AuditAction::AccountCreate,
            touched: Invalidation::Nothing,
            account_id: Some(new.id),
            token_id: None,
            before: None,
            after: Some(json!({ "name": new.name, "admins": new.admins })),
        })
        .await
}

pub(super) async fn one(store: &Handle, id: AccountId) -> Result<Option<Account>> {
    let mut query = select_one(id);
    let rows = query.build_query_as().fetch_all(&store.read()).await?;
    Ok(grouped(rows).pop())
}

/// One account, in a transaction.
async fn by_id(connection: &mut Connection, id: AccountId) -> Result<Option<Account>> {
    let mut query = select_one(id);
    Ok(grouped(query.build_query_as().fetch_all(connection).await?).pop())
}

pub(super) async fn list(
    store: &Handle,
    only: Option<AccountId>,
    page: Page<AccountId>,
) -> Result<Vec<Account>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE a.account_id IN (SELECT account_id FROM account WHERE 1 = 1");
    if let Some(only) = only {
        query.push(" AND account_id = ").push_bind(only.0);
    }
    if let Some(after) = page.after {
        query.push(" AND account_id > ").push_bind(after.0);
    }
    query
        .push(" ORDER BY account_id LIMIT ")
        .push_bind(i64::from(page.limit))
        .push(") ORDER BY a.account_id, m.ordinal");
    let rows = query.build_query_as().fetch_all(&store.read()).await?;
    Ok(grouped(rows))
}

pub(super) async fn set_admins(
    store: &Handle,
    ctx: &Context,
    id: AccountId,
    admins: &[String],
) -> Result<Result<AdminsSet, AccountRefusal>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let admitted = admit(&mut change.tx, ctx, id).await?;
    let found = by_id(&mut change.tx, id).await?.ok_or(AccountRefusal::NotFound);
    let mut account = match admitted.and(found) {
        Ok(account) => account,
        Err(refused) => {
            change.undo().await;
            return Ok(Err(refused));
        }
    };
    if account.admins == admins {
        change.finish().await?;
        return Ok(Ok(AdminsSet { account, touched: Vec::new() }));
    }
    sqlx::query::<Db>(DELETE_ADMINS).bind(id.0).execute(&mut *change.tx).await?;
    insert_admins(&mut change.tx, id, admins).await?;
    let before = std::mem::replace(&mut account.admins, admins.to_vec());
    change
        .record_part(Record {
            action: AuditAction::AccountSetAdmins,
            touched: Invalidation::Nothing,
            account_id: Some(id),
            token_id: None,
            before: Some(json!({ "admins": before })),
            after: Some(json!({ "admins": admins })),
        })
        .await?;
    let touched = renotify(&mut change, id, &before, admins).await?;
    let sorted = |admins: &[String]| admins.iter().cloned().collect::<BTreeSet<_>>();
    let (old, new) = (sorted(&before), sorted(admins));
    // Their order is nobody's news.
    if old != new {
        let about = MailSubject::AdminsChanged(&before, admins);
        let everybody: Vec<_> = old.union(&new).cloned().collect();
        mail::queue(&mut change.tx, ctx.now, id, about, &everybody).await?;
    }
    change.finish().await?;
    Ok(Ok(AdminsSet { account, touched }))
}

pub(super) async fn update(
    store: &Handle,
    ctx: &Context,
    id: AccountId,
    name: &str,
) -> Result<Result<Account, AccountRefusal>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let admitted = admit(&mut change.tx, ctx, id).await?;
    let found = by_id(&mut change.tx, id).await?.ok_or(AccountRefusal::NotFound);
    let mut account = match admitted.and(found) {
        Ok(account) => account,
        Err(refused) => {
            change.undo().await;
            return Ok(Err(refused));
        }
    };
    if account.name == name {
        change.finish().await?;
        return Ok(Ok(account));
    }
    sqlx::query::<Db>(SET_NAME).bind(id.0).bind(name).execute(&mut *change.tx).await?;
    let before = std::mem::replace(&mut account.name, name.to_owned());
    change
        .commit(Record {
            action: AuditAction::AccountUpdate,
            touched: Invalidation::Nothing,
            account_id: Some(id),
            token_id: None,
            before: Some(json!({ "name": before })),
            after: Some(json!({ "name": name })),
        })
        .await?;
    Ok(Ok(account))
}

/// Makes the notices of an account's announced actions those of its new admins. The tokens concerned.
async fn renotify(
    change: &mut WriteTx<'_>,
    id: AccountId,
    before: &[String],
    admins: &[String],
) -> Result<Vec<TokenId>> {
    let joined: Vec<_> = admins.iter().filter(|admin| !before.contains(admin)).cloned().collect();
    let left: Vec<_> = before.iter().filter(|admin| !admins.contains(admin)).collect();
    let mut touched = BTreeMap::new();
    if joined.is_empty() && left.is_empty() {
        return Ok(Vec::new());
    }
    mail::withdraw_expiry_notices_of_others(&mut change.tx, id).await?;
    if !joined.is_empty() {
        // The next sweep queues the notices of those who joined. Rule 11.8 of docs/policy.md.
        let query = sqlx::query::<Db>(RENOTICE_EXPIRIES).bind(id.0);
        query.execute(&mut *change.tx).await?;
    }
    for action in pending::of_account(&mut change.tx, id).await? {
        let about = MailSubject::Notice(action.id, action.token_id, 0);
        let now = change.ctx.now;
        mail::queue(&mut change.tx, now, id, about, &joined).await?;
        for admin in &left {
            mail::withdraw_notice(&mut change.tx, action.id, admin).await?;
        }
        // Who comes back may have an accepted notice, which was read with the others.
        let accepted = lifecycle::accepted_by(admins, &action);
        if accepted != action.accepted {
            pending::set_accepted(&mut change.tx, action.id, accepted).await?;
        }
        touched.entry(action.token_id).or_insert_with(Vec::new).push(action.id.to_string());
    }
    for (&token_id, actions) in &touched {
        let renotify = AuditAction::LifecycleRenotify;
        lifecycle::heir::touch(change, token_id, id, renotify).await?;
        change
            .record_part(Record {
                action: AuditAction::LifecycleRenotify,
                touched: Invalidation::Token(token_id),
                account_id: Some(id),
                token_id: Some(token_id),
                before: None,
                after: Some(json!({ "pending_action_ids": actions })),
            })
            .await?;
    }
    Ok(touched.into_keys().collect())
}

/// An account's admins, in the order given.
pub(super) async fn admins(connection: &mut Connection, id: AccountId) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(SELECT_ADMINS).bind(id.0).fetch_all(connection).await?)
}

fn select_one(id: AccountId) -> QueryBuilder {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE a.account_id = ").push_bind(id.0).push(" ORDER BY m.ordinal");
    query
}

async fn insert_admins(tx: &mut Transaction, id: AccountId, admins: &[String]) -> Result<()> {
    if admins.is_empty() {
        return Err(CorruptRow("an account must have an admin").into());
    }
    for (ordinal, email) in (0i32..).zip(admins) {
        sqlx::query::<Db>(INSERT_ADMIN)
            .bind(id.0)
            .bind(ordinal)
            .bind(email)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

fn grouped(rows: Vec<Row>) -> Vec<Account> {
    let mut accounts: Vec<Account> = Vec::new();
    for (id, name, created, suspended, closed, email) in rows {
        match accounts.last_mut() {
            Some(account) if account.id.0 == id => account.admins.push(email),
            _ => accounts.push(Account {
                id: AccountId(id),
                name,
                admins: vec![email],
                created: Timestamp(created),
                suspended: suspended.map(Timestamp),
                closed: closed.map(Timestamp),
            }),
        }
    }
    accounts
}
