//! Tokens: their facts for decisions, and their lists, creation and deletion.

use serde_json::{Value, json};
use sqlx::FromRow;
use uuid::Uuid;

mod row;

use super::change::{Record, WriteTx};
use super::decode::{digest, labels_text, whitelist, whitelist_text};
use super::{Connection, Db, Handle, QueryBuilder, account, lifecycle, mail, pending};
use crate::model::{
    AccountRefusal, AuditAction, Context, Invalidation, LeakLocation, NewToken, Page, Token,
    TokenFilter, TokenUpdate, TokenUpdateRefusal,
};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::network::Whitelist;
use crate::policy::scope::Catalog;
use crate::policy::time::Timestamp;
use crate::policy::token::{
    AccountRestriction, Expiry, ExpiryRefused, RequestedExpiry, TokenFacts, TokenState,
};
use crate::secret::Digest;
use crate::store::Result;
use crate::store::error::CorruptRow;

pub(super) use row::{Row, SELECT, grant, page_of_tokens, row, state};

/// Each part by its key: the token, its scopes, and its live actions, a row for each; of a token that was replaced, those
/// of its heir, which take from it too (rule 11.36 of docs/policy.md).
macro_rules! select_facts {
    ($condition:literal) => {
        concat!(
            "SELECT t.token_id, t.account_id, t.kind, t.digest, t.whitelist, \
                t.delete_time, t.delete_cause, t.leaked, t.expire_time, t.downgrade_time, \
                (SELECT string_agg(CAST(s.scope_id AS TEXT) || ':' || \
                                   coalesce(CAST(s.taken_time AS TEXT), ''), ',') \
                 FROM token_scope s WHERE s.token_id = t.token_id) AS scopes, \
                p.pending_action_id, p.takes, p.basis_time, p.accepted_time, \
                (SELECT string_agg(CAST(n.scope_id AS TEXT), ',') FROM pending_action_scope n \
                 WHERE n.pending_action_id = p.pending_action_id AND n.keeps = 0) AS takes_scopes \
            FROM token t JOIN token_use u ON u.token_id = t.token_id LEFT JOIN pending_action p \
                ON p.token_id = coalesce(u.heir_id, t.token_id) AND p.end_time IS NULL \
                    AND t.delete_time IS NULL AND t.expiry_done = 0 \
            WHERE ",
            $condition
        )
    };
}

const SELECT_BY_ID: &str = select_facts!("t.token_id = $1");

/// Not one that was made here: its secret names it.
const SELECT_BY_DIGEST: &str = select_facts!("t.digest = $1 AND t.import_revision IS NOT NULL");

const INSERT: &str = "\
    INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, whitelist_version, \
        create_time, expire_time, replaces_token_id, clock_time, labels) \
    VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, $10, $11)";

const INSERT_SCOPES: &str = "INSERT INTO token_scope (token_id, scope_id) ";

const INSERT_USE: &str = "\
    INSERT INTO token_use (token_id, last_use, last_write_use, idle_since) \
    VALUES ($1, $2, $3, $4)";

const END_USE: &str = "UPDATE token_use SET idle_since = NULL WHERE token_id = $1";

const DELETE: &str =
    "UPDATE token SET delete_time = $2, delete_cause = 'owner', leaked = $3 WHERE token_id = $1";

const UPDATE: &str = "UPDATE token SET name = $2, labels = $3 WHERE token_id = $1";

const SET_EXPIRY: &str = "UPDATE token SET expire_time = $2 WHERE token_id = $1";

#[derive(FromRow)]
struct FactsRow {
    token_id: Uuid,
    account_id: Uuid,
    kind: String,
    digest: Vec<u8>,
    whitelist: String,
    delete_time: Option<i64>,
    delete_cause: Option<String>,
    leaked: i16,
    expire_time: Option<i64>,
    downgrade_time: Option<i64>,
    scopes: Option<String>,
    #[sqlx(flatten)]
    action: pending::LiveRow,
}

pub(super) async fn facts(store: &Handle, id: TokenId) -> Result<Option<TokenFacts>> {
    let mut conn = store.decision_connection().await?;
    let query = sqlx::query_as(SELECT_BY_ID).bind(id.0);
    let rows = query.fetch_all(&mut *conn).await?;
    conn.release();
    read_facts(rows)
}

/// Those of a token that was imported with this digest.
pub(super) async fn imported_facts(store: &Handle, digest: &Digest) -> Result<Option<TokenFacts>> {
    let mut conn = store.decision_connection().await?;
    let query = sqlx::query_as(SELECT_BY_DIGEST).bind(&digest[..]);
    let rows = query.fetch_all(&mut *conn).await?;
    conn.release();
    read_facts(rows)
}

fn read_facts(rows: Vec<FactsRow>) -> Result<Option<TokenFacts>> {
    let Some(first) = rows.first() else { return Ok(None) };
    let mut facts = TokenFacts {
        id: TokenId(first.token_id).into(),
        account_id: AccountId(first.account_id).into(),
        digest: digest(&first.digest)?,
        state: row::state(first.delete_time, first.delete_cause.as_deref(), first.leaked)?,
        expiry: first.expire_time.map(Timestamp).into(),
        grant: row::grant(&first.kind, first.downgrade_time, first.scopes.as_deref())?,
        whitelist: whitelist(&first.whitelist)?,
        announced: Vec::new(),
    };
    for row in rows {
        facts.announced.extend(row.action.read()?);
    }
    Ok(Some(facts))
}

pub(super) async fn create(
    store: &Handle,
    ctx: &Context,
    catalog: &Catalog,
    new: &NewToken,
) -> Result<Result<Token, AccountRefusal>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    change.must_be_in_force(catalog)?;
    if let Err(refused) = account::admit(&mut change.tx, ctx, new.account_id).await? {
        change.undo().await;
        return Ok(Err(refused));
    }
    let token = new.token(ctx.now);
    check_whitelist(&token, catalog)?;
    insert(&mut change.tx, &token, &new.digest, Some(token.created)).await?;
    let names: Vec<_> = token
        .scopes
        .iter()
        .filter_map(|&id| catalog.by_id(id))
        .map(|scope| scope.name.as_str())
        .collect();
    let mut after = json!({
        "name": token.name,
        "kind": token.kind.word(),
        "scopes": names,
        "whitelist": whitelist_json(&token.whitelist),
    });
    if let Some(at) = token.expires {
        after["expire_time"] = json!(at.to_string());
    }
    if !token.labels.is_empty() {
        after["labels"] = json!(token.labels);
    }
    change.commit(record(AuditAction::TokenCreate, &token, None, Some(after))).await?;
    Ok(Ok(token))
}

/// Fails where a token lacks the whitelist that its grant requires: the request should have been refused before.
pub(super) fn check_whitelist(token: &Token, catalog: &Catalog) -> Result<()> {
    if token.grant().requires_whitelist(catalog) && token.whitelist == Whitelist::Unrestricted {
        return Err(CorruptRow("a token that may do this must have a whitelist").into());
    }
    Ok(())
}

/// Stores a new token with its scopes, and with its last use and its last write; not those of each scope.
pub(super) async fn insert(
    connection: &mut Connection,
    token: &Token,
    digest: &Digest,
    idle_since: Option<Timestamp>,
) -> Result<()> {
    let clock_start = Some(token.clock_start).filter(|&start| start != token.created);
    sqlx::query::<Db>(INSERT)
        .bind(token.id.0)
        .bind(token.account_id.0)
        .bind(&token.name)
        .bind(token.kind.word())
        .bind(&digest[..])
        .bind(whitelist_text(&token.whitelist))
        .bind(token.created.0)
        .bind(token.expires.map(|at| at.0))
        .bind(token.replaces.map(|id| id.0))
        .bind(clock_start.map(|at| at.0))
        .bind(labels_text(&token.labels))
        .execute(&mut *connection)
        .await?;
    sqlx::query::<Db>(INSERT_USE)
        .bind(token.id.0)
        .bind(token.uses.last.map(|at| at.0))
        .bind(token.uses.last_write.map(|at| at.0))
        .bind(idle_since.map(|at| at.0))
        .execute(&mut *connection)
        .await?;
    for scopes in token.scopes.chunks(super::IDS_AT_ONCE) {
        let mut query = QueryBuilder::new(INSERT_SCOPES);
        query.push_values(scopes, |mut row, scope| {
            row.push_bind(token.id.0).push_bind(i32::from(scope.0));
        });
        query.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The state of a token: one of a closed account counts as deleted, whether or not that is recorded of it yet.
/// Rule 11.75 of docs/policy.md.
pub(super) async fn current_state(
    connection: &mut Connection,
    token: &Token,
) -> Result<TokenState> {
    let account = account::restriction(connection, token.account_id).await?;
    Ok(match (token.state, account) {
        (TokenState::Active, Some(AccountRestriction::Closed { at })) => TokenState::Deleted { at },
        (state, _) => state,
    })
}

pub(super) async fn one(
    store: &Handle,
    id: TokenId,
    only: Option<AccountId>,
) -> Result<Option<Token>> {
    let mut tx = store.read_steadily().await?;
    find(&mut tx, id, only).await
}

pub(super) async fn list(
    store: &Handle,
    filter: &TokenFilter,
    page: Page<TokenId>,
) -> Result<Vec<Token>> {
    let mut query = QueryBuilder::new(SELECT);
    if let Some(id) = filter.account_id {
        query.push(" AND t.account_id = ").push_bind(id.0);
    }
    if !filter.deleted {
        query.push(" AND t.delete_time IS NULL");
    }
    page_of_tokens(&mut query, page);

    let mut tx = store.read_steadily().await?;
    let rows: Vec<Row> = query.build_query_as().fetch_all(&mut *tx).await?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Ok(Vec::new());
    };
    let range = first.id()..=last.id();
    let mut pending = pending::of_tokens(&mut tx, range, filter.account_id).await?;
    rows.into_iter()
        .map(|row| {
            let pending = pending.remove(&row.id());
            row.into_token(pending.unwrap_or_default())
        })
        .collect()
}

/// How the owner's deletion, the closure of the account and the report of a leak end a token.
#[derive(Clone, Copy)]
pub(super) enum Ending<'a> {
    Deletion,
    /// The account was closed then.
    Closure(Timestamp),
    Leak(&'a LeakLocation),
}

/// Ends an active token in `change`, with what is announced for it. What to record of it.
pub(super) async fn end(
    change: &mut WriteTx<'_>,
    token: &mut Token,
    ending: Ending<'_>,
) -> Result<Record> {
    let (id, now) = (token.id, change.ctx.now);
    let leaked = matches!(ending, Ending::Leak(_));
    let at = match ending {
        Ending::Closure(at) => at,
        Ending::Deletion | Ending::Leak(_) => now,
    };
    lifecycle::heir::end_lifecycle(change, id).await?;
    let end = sqlx::query::<Db>(DELETE).bind(id.0).bind(at.0).bind(i16::from(leaked));
    end.execute(&mut *change.tx).await?;
    sqlx::query::<Db>(END_USE).bind(id.0).execute(&mut *change.tx).await?;
    mail::withdraw_expiry_notices(&mut change.tx, id).await?;
    token.pending = Vec::new();
    token.expiry_notices = Vec::new();
    let before = json!({ "name": token.name, "state": "active" });
    let (action, after) = match ending {
        Ending::Deletion | Ending::Closure(_) => {
            token.state = TokenState::Deleted { at };
            (AuditAction::TokenDelete, json!({ "name": token.name, "state": "deleted" }))
        }
        Ending::Leak(LeakLocation { source, url }) => {
            token.state = TokenState::RevokedLeaked { at: now };
            let after =
                json!({ "name": token.name, "state": "leaked", "source": source, "url": url });
            (AuditAction::TokenRevokeLeaked, after)
        }
    };
    Ok(record(action, token, Some(before), Some(after)))
}

/// Rule 4.2 of docs/policy.md.
pub(super) async fn delete(
    store: &Handle,
    ctx: &Context,
    id: TokenId,
    only: Option<AccountId>,
) -> Result<Option<Token>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(mut token) = find(&mut change.tx, id, only).await? else {
        change.undo().await;
        return Ok(None);
    };
    if token.state != TokenState::Active {
        change.finish().await?;
        return Ok(Some(token));
    }
    let record = end(&mut change, &mut token, Ending::Deletion).await?;
    change.commit(record).await?;
    Ok(Some(token))
}

/// Brings a token's expiry nearer. Rule 11.2 of docs/policy.md.
pub(super) async fn set_expiry(
    store: &Handle,
    ctx: &Context,
    id: TokenId,
    only: Option<AccountId>,
    expires: RequestedExpiry,
) -> Result<Option<Result<Token, ExpiryRefused>>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(mut token) = find(&mut change.tx, id, only).await? else {
        change.undo().await;
        return Ok(None);
    };
    let shortened = match current_state(&mut change.tx, &token).await? {
        TokenState::Active => Expiry::from(token.expires).shorten(expires, ctx.now),
        TokenState::Deleted { .. }
        | TokenState::DeletedUnused { .. }
        | TokenState::RevokedLeaked { .. } => Err(ExpiryRefused::Deleted),
    };
    let shortened = match shortened {
        Ok(expiry) => expiry.time(),
        Err(refused) => {
            change.undo().await;
            return Ok(Some(Err(refused)));
        }
    };
    if shortened == token.expires {
        change.finish().await?;
        return Ok(Some(Ok(token)));
    }
    let query = sqlx::query::<Db>(SET_EXPIRY).bind(id.0).bind(shortened.map(|at| at.0));
    query.execute(&mut *change.tx).await?;
    mail::withdraw_expiry_notices(&mut change.tx, id).await?;
    let text = |at: Option<Timestamp>| json!({ "expire_time": at.map(|at| at.to_string()) });
    let (before, after) = (text(token.expires), text(shortened));
    token.expires = shortened;
    token.expiry_notices = Vec::new();
    change.commit(record(AuditAction::TokenSetExpiry, &token, Some(before), Some(after))).await?;
    Ok(Some(Ok(token)))
}

/// Changes a token's name and labels. Rule 11.80 of docs/policy.md.
pub(super) async fn update(
    store: &Handle,
    ctx: &Context,
    id: TokenId,
    only: Option<AccountId>,
    update: &TokenUpdate,
) -> Result<Option<Result<Token, TokenUpdateRefusal>>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(mut token) = find(&mut change.tx, id, only).await? else {
        change.undo().await;
        return Ok(None);
    };
    let admitted = account::admit(&mut change.tx, ctx, token.account_id).await?;
    let refused = match admitted {
        Err(refused) => Some(TokenUpdateRefusal::Account(token.account_id, refused)),
        Ok(()) if token.state != TokenState::Active => Some(TokenUpdateRefusal::Deleted),
        Ok(()) => None,
    };
    if let Some(refused) = refused {
        change.undo().await;
        return Ok(Some(Err(refused)));
    }
    let summary = |token: &Token| json!({ "name": token.name, "labels": token.labels });
    let before = summary(&token);
    token.name = update.name.clone().unwrap_or(token.name);
    token.labels = update.labels.clone().unwrap_or(token.labels);
    let after = summary(&token);
    if before == after {
        change.finish().await?;
        return Ok(Some(Ok(token)));
    }
    let set = sqlx::query::<Db>(UPDATE).bind(id.0).bind(&token.name);
    set.bind(labels_text(&token.labels)).execute(&mut *change.tx).await?;
    let record = record(AuditAction::TokenUpdate, &token, Some(before), Some(after));
    // No decision rests on it.
    change.commit(Record { touched: Invalidation::Nothing, ..record }).await?;
    Ok(Some(Ok(token)))
}

pub(super) fn record(
    action: AuditAction,
    token: &Token,
    before: Option<Value>,
    after: Option<Value>,
) -> Record {
    Record {
        action,
        touched: Invalidation::Token(token.id),
        account_id: Some(token.account_id),
        token_id: Some(token.id),
        before,
        after,
    }
}

pub(super) async fn find(
    connection: &mut Connection,
    id: TokenId,
    only: Option<AccountId>,
) -> Result<Option<Token>> {
    let Some(row) = row(connection, id, only).await? else {
        return Ok(None);
    };
    let mut pending = pending::of_tokens(connection, id..=id, only).await?;
    let mut token = row.into_token(pending.remove(&id).unwrap_or_default())?;
    if let Some(expires) = token.expires {
        token.expiry_notices = mail::expiry_notices(connection, id, expires).await?;
    }
    Ok(Some(token))
}

/// For the audit record: the entries, or null for a token that may be used from anywhere.
pub(super) fn whitelist_json(whitelist: &Whitelist) -> Value {
    match whitelist {
        Whitelist::Unrestricted => Value::Null,
        Whitelist::Only(entries) => entries.iter().map(ToString::to_string).collect(),
    }
}
