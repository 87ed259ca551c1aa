//! Accounts and their admins.

use serde_json::json;
use uuid::Uuid;

use super::change::{Changing, Record};
use super::{Db, Handle, QueryBuilder, Transaction};
use crate::policy::id::AccountId;
use crate::policy::time::Timestamp;
use crate::store::error::Unreadable;
use crate::store::{Account, Context, Page, Result, Touched};

type Row = (Uuid, String, i64, String);

/// One row for each admin.
const SELECT: &str = "\
    SELECT a.account_id, a.name, a.create_time, m.email \
    FROM account a JOIN account_admin m ON m.account_id = a.account_id";

const INSERT: &str = "INSERT INTO account (account_id, name, create_time) VALUES ($1, $2, $3)";

const INSERT_ADMIN: &str =
    "INSERT INTO account_admin (account_id, ordinal, email) VALUES ($1, $2, $3)";

const DELETE_ADMINS: &str = "DELETE FROM account_admin WHERE account_id = $1";

const EXISTS: &str = "SELECT count(*) FROM account WHERE account_id = $1";

pub(super) async fn create(store: &Handle, ctx: &Context, new: &Account) -> Result<()> {
    let mut change = Changing::begin(store, ctx).await?;
    sqlx::query::<Db>(INSERT)
        .bind(new.id.0)
        .bind(&new.name)
        .bind(new.created.0)
        .execute(&mut *change.tx)
        .await?;
    insert_admins(&mut change.tx, new.id, &new.admins).await?;
    change
        .commit(Record {
            action: "account.create",
            touched: Touched::Nothing,
            account_id: Some(new.id),
            token_id: None,
            before: None,
            after: Some(json!({ "name": new.name, "admins": new.admins })),
        })
        .await
}

pub(super) async fn one(store: &Handle, id: AccountId) -> Result<Option<Account>> {
    let mut query = select_one(id);
    let rows = query.build_query_as().fetch_all(store.read()).await?;
    Ok(grouped(rows).pop())
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
    let rows = query.build_query_as().fetch_all(store.read()).await?;
    Ok(grouped(rows))
}

pub(super) async fn set_admins(
    store: &Handle,
    ctx: &Context,
    id: AccountId,
    admins: &[String],
) -> Result<Option<Account>> {
    let mut change = Changing::begin(store, ctx).await?;
    let mut query = select_one(id);
    let rows = query.build_query_as().fetch_all(&mut *change.tx).await?;
    let Some(mut account) = grouped(rows).pop() else {
        change.undo().await;
        return Ok(None);
    };
    if account.admins == admins {
        change.undo().await;
        return Ok(Some(account));
    }
    sqlx::query::<Db>(DELETE_ADMINS).bind(id.0).execute(&mut *change.tx).await?;
    insert_admins(&mut change.tx, id, admins).await?;
    let before = std::mem::replace(&mut account.admins, admins.to_vec());
    change
        .commit(Record {
            action: "account.set_admins",
            touched: Touched::Nothing,
            account_id: Some(id),
            token_id: None,
            before: Some(json!({ "admins": before })),
            after: Some(json!({ "admins": admins })),
        })
        .await?;
    Ok(Some(account))
}

pub(super) async fn exists(tx: &mut Transaction, id: AccountId) -> Result<bool> {
    let count: i64 = sqlx::query_scalar(EXISTS).bind(id.0).fetch_one(&mut **tx).await?;
    Ok(count > 0)
}

fn select_one(id: AccountId) -> QueryBuilder {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE a.account_id = ").push_bind(id.0).push(" ORDER BY m.ordinal");
    query
}

async fn insert_admins(tx: &mut Transaction, id: AccountId, admins: &[String]) -> Result<()> {
    if admins.is_empty() {
        return Err(Unreadable("an account must have an admin").into());
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
    for (id, name, created, email) in rows {
        match accounts.last_mut() {
            Some(account) if account.id.0 == id => account.admins.push(email),
            _ => accounts.push(Account {
                id: AccountId(id),
                name,
                admins: vec![email],
                created: Timestamp(created),
            }),
        }
    }
    accounts
}
