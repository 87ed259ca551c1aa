//! Pending actions as rows: reading them, storing them, ending them. When that is to happen is
//! `lifecycle`'s to say; all of it happens with the head row taken.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use sqlx::FromRow;
use uuid::Uuid;

use super::decode::{notice_state, numbered_scopes, scope_ids, takes, takes_word};
use super::{Connection, Db, Handle, QueryBuilder, mail, push_ids};
use crate::model::{Notice, Page, PendingAction, PendingCounts, PendingFilter};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::lifecycle::LiveAction;
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;
use crate::policy::token::PendingActionType;
use crate::store::Result;
use crate::store::error::CorruptRow;

/// A live action as decisions know it; every column is null where there is none.
#[derive(FromRow)]
pub(super) struct LiveRow {
    pending_action_id: Option<Uuid>,
    takes: Option<String>,
    basis_time: Option<i64>,
    accepted_time: Option<i64>,
    takes_scopes: Option<String>,
}

impl LiveRow {
    pub(super) fn read(self) -> Result<Option<LiveAction>> {
        let (Some(id), Some(word), Some(basis)) =
            (self.pending_action_id, self.takes, self.basis_time)
        else {
            return Ok(None);
        };
        Ok(Some(LiveAction {
            id: PendingActionId(id),
            takes: takes(&word, &scope_ids(self.takes_scopes.as_deref())?)?,
            basis: Timestamp(basis),
            accepted: self.accepted_time.map(Timestamp),
        }))
    }
}

#[derive(FromRow)]
struct OwnedLiveRow {
    token_id: Uuid,
    #[sqlx(flatten)]
    action: LiveRow,
}

const SELECT_LIVE: &str = "\
    SELECT p.token_id, p.pending_action_id, p.takes, p.basis_time, p.accepted_time, \
        (SELECT string_agg(CAST(n.scope_id AS TEXT), ',') FROM pending_action_scope n \
         WHERE n.pending_action_id = p.pending_action_id AND n.keeps = 0) AS takes_scopes \
    FROM pending_action p WHERE p.end_time IS NULL AND p.token_id IN (";

/// The live actions of these tokens, by token.
pub(super) async fn live_of(
    connection: &mut Connection,
    ids: &[TokenId],
) -> Result<HashMap<TokenId, Vec<LiveAction>>> {
    let mut by_token: HashMap<_, Vec<_>> = HashMap::new();
    for ids in ids.chunks(super::IDS_AT_ONCE) {
        let mut query = QueryBuilder::new(SELECT_LIVE);
        push_ids(&mut query, ids.iter().map(|id| id.0));
        query.push(") ORDER BY p.pending_action_id");
        let rows = query.build_query_as().persistent(false).fetch_all(&mut *connection).await?;
        for OwnedLiveRow { token_id, action } in rows {
            by_token.entry(TokenId(token_id)).or_default().extend(action.read()?);
        }
    }
    Ok(by_token)
}

/// A pending action with one of its notices, if it has any.
#[derive(FromRow)]
struct Row {
    pending_action_id: Uuid,
    token_id: Uuid,
    token_name: String,
    account_id: Uuid,
    takes: String,
    last_use: Option<i64>,
    last_use_of_taken: Option<i64>,
    basis_time: i64,
    accepted_time: Option<i64>,
    create_time: i64,
    scopes: Option<String>,
    recipient: Option<String>,
    state: Option<String>,
    accept_time: Option<i64>,
    failure: Option<String>,
}

/// The notices of those who are admins now.
const SELECT: &str = "\
    SELECT p.pending_action_id, p.token_id, p.account_id, p.takes, p.last_use, \
        (SELECT t.name FROM token t WHERE t.token_id = p.token_id) AS token_name, \
        p.last_use_of_taken, p.basis_time, p.accepted_time, p.create_time, \
        (SELECT string_agg(CAST(s.scope_id AS TEXT) || ':' || CAST(s.keeps AS TEXT), ',') \
         FROM pending_action_scope s WHERE s.pending_action_id = p.pending_action_id) AS scopes, \
        m.recipient, m.state, m.accept_time, m.failure \
    FROM pending_action p LEFT JOIN mail m ON m.pending_action_id = p.pending_action_id \
        AND m.kind = 'notice' AND m.state <> 'withdrawn' \
        AND m.recipient IN (SELECT a.email FROM account_admin a WHERE a.account_id = p.account_id) \
    WHERE ";

pub(super) async fn list(
    store: &Handle,
    filter: &PendingFilter,
    page: Page<PendingActionId>,
) -> Result<Vec<PendingAction>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(
        "p.pending_action_id IN (SELECT pending_action_id FROM pending_action \
         WHERE end_time IS NULL",
    );
    if let Some(id) = filter.account_id {
        query.push(" AND account_id = ").push_bind(id.0);
    }
    if let Some(id) = filter.token_id {
        query.push(" AND token_id = ").push_bind(id.0);
    }
    match filter.action {
        None => {}
        Some(PendingActionType::Deletion) => drop(query.push(" AND takes = 'token'")),
        Some(PendingActionType::Downgrade) => drop(query.push(" AND takes <> 'token'")),
    }
    if let Some((before, calendar)) = filter.effective_before {
        // The later of two dates is before it exactly if both are.
        let settings = calendar.settings;
        query
            .push(" AND basis_time < ")
            .push_bind(before.minus(settings.window()).0)
            .push(" AND coalesce(accepted_time, ")
            .push_bind(calendar.now.0)
            .push(") < ")
            .push_bind(before.minus(settings.notice()).0);
    }
    if let Some(after) = page.after {
        query.push(" AND pending_action_id > ").push_bind(after.0);
    }
    query
        .push(" ORDER BY pending_action_id LIMIT ")
        .push_bind(i64::from(page.limit))
        .push(") ORDER BY p.pending_action_id");
    grouped(query.build_query_as().fetch_all(&store.read()).await?)
}

/// Those of the tokens in `range`, by token; only of `only` where given.
pub(super) async fn of_tokens(
    connection: &mut Connection,
    range: RangeInclusive<TokenId>,
    only: Option<AccountId>,
) -> Result<HashMap<TokenId, Vec<PendingAction>>> {
    let mut query = QueryBuilder::new(SELECT);
    query
        .push("p.end_time IS NULL AND p.token_id >= ")
        .push_bind(range.start().0)
        .push(" AND p.token_id <= ")
        .push_bind(range.end().0);
    if let Some(only) = only {
        query.push(" AND p.account_id = ").push_bind(only.0);
    }
    query.push(" ORDER BY p.pending_action_id");
    Ok(by_token(grouped(query.build_query_as().fetch_all(connection).await?)?))
}

/// Those of these tokens, by token: at most `IDS_AT_ONCE`.
pub(super) async fn of_listed(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<HashMap<TokenId, Vec<PendingAction>>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push("p.end_time IS NULL AND p.token_id IN (");
    push_ids(&mut query, ids.iter().copied());
    query.push(") ORDER BY p.pending_action_id");
    let rows = query.build_query_as().persistent(false).fetch_all(connection).await?;
    Ok(by_token(grouped(rows)?))
}

fn by_token(actions: Vec<PendingAction>) -> HashMap<TokenId, Vec<PendingAction>> {
    let mut by_token: HashMap<_, Vec<_>> = HashMap::new();
    for action in actions {
        by_token.entry(action.token_id).or_default().push(action);
    }
    by_token
}

/// Those of an account.
pub(super) async fn of_account(
    connection: &mut Connection,
    id: AccountId,
) -> Result<Vec<PendingAction>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push("p.end_time IS NULL AND p.account_id = ").push_bind(id.0);
    query.push(" ORDER BY p.pending_action_id");
    grouped(query.build_query_as().fetch_all(connection).await?)
}

/// A live one.
pub(super) async fn live(
    connection: &mut Connection,
    id: PendingActionId,
) -> Result<Option<PendingAction>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push("p.end_time IS NULL AND p.pending_action_id = ").push_bind(id.0);
    Ok(grouped(query.build_query_as().fetch_all(connection).await?)?.pop())
}

fn grouped(rows: Vec<Row>) -> Result<Vec<PendingAction>> {
    let mut actions: Vec<PendingAction> = Vec::new();
    for mut row in rows {
        let notice = notice(&mut row)?;
        match actions.last_mut() {
            Some(action) if action.id.0 == row.pending_action_id => action.notices.extend(notice),
            _ => actions.push(action(row, notice)?),
        }
    }
    for action in &mut actions {
        action.notices.sort_by(|a, b| a.email.cmp(&b.email));
    }
    Ok(actions)
}

fn action(row: Row, notice: Option<Notice>) -> Result<PendingAction> {
    let (taken, kept) = taken_and_kept(row.scopes.as_deref())?;
    Ok(PendingAction {
        id: PendingActionId(row.pending_action_id),
        token_id: TokenId(row.token_id),
        token_name: row.token_name,
        account_id: AccountId(row.account_id),
        takes: takes(&row.takes, &taken)?,
        taken,
        kept,
        last_use: row.last_use.map(Timestamp),
        last_use_of_taken: row.last_use_of_taken.map(Timestamp),
        basis: Timestamp(row.basis_time),
        accepted: row.accepted_time.map(Timestamp),
        created: Timestamp(row.create_time),
        notices: notice.into_iter().collect(),
    })
}

/// Reads `3:0,7:1`: what an action takes, and what stays.
pub(super) fn taken_and_kept(scopes: Option<&str>) -> Result<(Vec<ScopeId>, Vec<ScopeId>)> {
    let (mut taken, mut kept) = (Vec::new(), Vec::new());
    for (id, keeps) in numbered_scopes(scopes)? {
        match keeps {
            Some(0) => taken.push(id),
            Some(1) => kept.push(id),
            _ => return Err(CorruptRow("a pending action's scopes can't be read").into()),
        }
    }
    Ok((taken, kept))
}

fn notice(row: &mut Row) -> Result<Option<Notice>> {
    let Some(email) = row.recipient.take() else {
        return Ok(None);
    };
    let state = notice_state(row.state.as_deref(), row.accept_time, row.failure.take())?;
    Ok(Some(Notice { email, state }))
}

const INSERT: &str = "\
    INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, last_use, \
        last_use_of_taken, basis_time, create_time) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

/// Stores a new action; its notices are not.
pub(super) async fn insert(connection: &mut Connection, action: &PendingAction) -> Result<()> {
    sqlx::query::<Db>(INSERT)
        .bind(action.id.0)
        .bind(action.token_id.0)
        .bind(action.account_id.0)
        .bind(takes_word(&action.takes))
        .bind(action.last_use.map(|time| time.0))
        .bind(action.last_use_of_taken.map(|time| time.0))
        .bind(action.basis.0)
        .bind(action.created.0)
        .execute(&mut *connection)
        .await?;
    let taken = action.taken.iter().map(|&scope| (scope, 0i16));
    let scopes: Vec<_> = taken.chain(action.kept.iter().map(|&scope| (scope, 1))).collect();
    insert_scopes(connection, action.id, &scopes).await
}

/// From now on the action takes these scopes as well.
pub(super) async fn take(
    connection: &mut Connection,
    id: PendingActionId,
    scopes: &[ScopeId],
) -> Result<()> {
    let scopes: Vec<_> = scopes.iter().map(|&scope| (scope, 0)).collect();
    insert_scopes(connection, id, &scopes).await
}

async fn insert_scopes(
    connection: &mut Connection,
    id: PendingActionId,
    scopes: &[(ScopeId, i16)],
) -> Result<()> {
    for chunk in scopes.chunks(super::IDS_AT_ONCE) {
        let mut query = QueryBuilder::new(
            "INSERT INTO pending_action_scope (pending_action_id, scope_id, keeps) ",
        );
        query.push_values(chunk, |mut row, &(scope, keeps)| {
            row.push_bind(id.0).push_bind(i32::from(scope.0)).push_bind(keeps);
        });
        query.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

const KEEP: &str = "\
    UPDATE pending_action_scope SET keeps = 1 WHERE pending_action_id = $1 AND scope_id = $2";

/// From now on the action leaves these scopes.
pub(super) async fn keep(
    connection: &mut Connection,
    id: PendingActionId,
    scopes: &[ScopeId],
) -> Result<()> {
    for scope in scopes {
        let keep = sqlx::query::<Db>(KEEP).bind(id.0).bind(i32::from(scope.0));
        keep.execute(&mut *connection).await?;
    }
    Ok(())
}

const COUNT: &str = "\
    SELECT CASE takes WHEN 'token' THEN 1 ELSE 0 END AS deletes, count(*) FROM pending_action \
    WHERE end_time IS NULL GROUP BY CASE takes WHEN 'token' THEN 1 ELSE 0 END";

/// How many are live.
pub(super) async fn count(store: &Handle) -> Result<PendingCounts> {
    let rows: Vec<(i32, i64)> = sqlx::query_as(COUNT).fetch_all(&store.read()).await?;
    let of = |wanted| {
        let count = rows.iter().find(|&&(deletes, _)| deletes == wanted).map(|&(_, count)| count);
        u64::try_from(count.unwrap_or(0)).unwrap_or(0)
    };
    Ok(PendingCounts { deletions: of(1), downgrades: of(0) })
}

const SET_ACCEPTED: &str =
    "UPDATE pending_action SET accepted_time = $2 WHERE pending_action_id = $1";

/// Since when all current admins' notices are accepted.
pub(super) async fn set_accepted(
    connection: &mut Connection,
    id: PendingActionId,
    accepted: Option<Timestamp>,
) -> Result<()> {
    let set = sqlx::query::<Db>(SET_ACCEPTED).bind(id.0).bind(accepted.map(|time| time.0));
    set.execute(connection).await?;
    Ok(())
}

/// How an action ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    CarriedOut,
    Cancelled,
    Withdrawn,
}

const END: &str = "\
    UPDATE pending_action SET end_time = $2, outcome = $3 \
    WHERE pending_action_id = $1 AND end_time IS NULL";

/// Ends one action, and takes back its notices that were not accepted.
pub(super) async fn end(
    connection: &mut Connection,
    id: PendingActionId,
    now: Timestamp,
    outcome: Outcome,
) -> Result<()> {
    let word = match outcome {
        Outcome::CarriedOut => "carried_out",
        Outcome::Cancelled => "cancelled",
        Outcome::Withdrawn => "withdrawn",
    };
    let end = sqlx::query::<Db>(END).bind(id.0).bind(now.0).bind(word);
    end.execute(&mut *connection).await?;
    mail::withdraw_notices(connection, id).await
}

const LIVE_IDS: &str = "\
    SELECT pending_action_id FROM pending_action WHERE token_id = $1 AND end_time IS NULL";

/// Ends those of a token that is deleted, or whose lifecycle is only observed.
pub(super) async fn withdraw(
    connection: &mut Connection,
    token: TokenId,
    now: Timestamp,
) -> Result<()> {
    let ids: Vec<Uuid> =
        sqlx::query_scalar(LIVE_IDS).bind(token.0).fetch_all(&mut *connection).await?;
    for id in ids {
        end(connection, PendingActionId(id), now, Outcome::Withdrawn).await?;
    }
    Ok(())
}
