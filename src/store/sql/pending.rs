//! Pending actions as they are read, and their end with their token. Planning them, mailing of them
//! and carrying them out is not done here.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use sqlx::FromRow;
use uuid::Uuid;

use super::decode::numbered_scopes;
use super::{Connection, Db, Handle, QueryBuilder};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::time::Timestamp;
use crate::policy::token::PendingActionType;
use crate::store::error::Unreadable;
use crate::store::{Notice, NoticeState, Page, PendingAction, PendingFilter, Result};

/// A pending action with one of its notices, if it has any.
#[derive(FromRow)]
struct Row {
    pending_action_id: Uuid,
    token_id: Uuid,
    account_id: Uuid,
    r#type: String,
    last_use: Option<i64>,
    last_use_of_taken: Option<i64>,
    effective_time: i64,
    create_time: i64,
    scopes: Option<String>,
    email: Option<String>,
    state: Option<String>,
    accept_time: Option<i64>,
    failure: Option<String>,
}

const SELECT: &str = "\
    SELECT p.pending_action_id, p.token_id, p.account_id, p.type, p.last_use, \
        p.last_use_of_taken, p.effective_time, p.create_time, \
        (SELECT string_agg(CAST(s.scope_id AS TEXT) || ':' || CAST(s.keeps AS TEXT), ',') \
         FROM pending_action_scope s WHERE s.pending_action_id = p.pending_action_id) AS scopes, \
        n.email, n.state, n.accept_time, n.failure \
    FROM pending_action p LEFT JOIN notice n ON n.pending_action_id = p.pending_action_id \
    WHERE ";

const WITHDRAW: &str = "\
    UPDATE pending_action SET end_time = $2, outcome = 'withdrawn' \
    WHERE token_id = $1 AND end_time IS NULL";

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
    if let Some(action) = filter.action {
        query.push(" AND type = ").push_bind(action_type_word(action));
    }
    if let Some(before) = filter.effective_before {
        query.push(" AND effective_time < ").push_bind(before.0);
    }
    if let Some(after) = page.after {
        query.push(" AND pending_action_id > ").push_bind(after.0);
    }
    query
        .push(" ORDER BY pending_action_id LIMIT ")
        .push_bind(i64::from(page.limit))
        .push(") ORDER BY p.pending_action_id");
    grouped(query.build_query_as().fetch_all(store.read()).await?)
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
    let actions = grouped(query.build_query_as().fetch_all(connection).await?)?;
    let mut by_token: HashMap<_, Vec<_>> = HashMap::new();
    for action in actions {
        by_token.entry(action.token_id).or_default().push(action);
    }
    Ok(by_token)
}

/// Ends those of a token that its owner deletes.
pub(super) async fn withdraw(
    connection: &mut Connection,
    token: TokenId,
    now: Timestamp,
) -> Result<()> {
    sqlx::query::<Db>(WITHDRAW).bind(token.0).bind(now.0).execute(connection).await?;
    Ok(())
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
    let (mut taken, mut kept) = (Vec::new(), Vec::new());
    for (id, keeps) in numbered_scopes(row.scopes.as_deref())? {
        match keeps {
            Some(0) => taken.push(id),
            Some(1) => kept.push(id),
            _ => return Err(Unreadable("a pending action's scopes can't be read").into()),
        }
    }
    Ok(PendingAction {
        id: PendingActionId(row.pending_action_id),
        token_id: TokenId(row.token_id),
        account_id: AccountId(row.account_id),
        action: action_type(&row.r#type)?,
        taken,
        kept,
        last_use: row.last_use.map(Timestamp),
        last_use_of_taken: row.last_use_of_taken.map(Timestamp),
        effective: Timestamp(row.effective_time),
        created: Timestamp(row.create_time),
        notices: notice.into_iter().collect(),
    })
}

fn notice(row: &mut Row) -> Result<Option<Notice>> {
    let Some(email) = row.email.take() else {
        return Ok(None);
    };
    let state = match (row.state.as_deref(), row.accept_time, row.failure.take()) {
        (Some("queued"), None, None) => NoticeState::Queued,
        (Some("accepted"), Some(at), None) => NoticeState::Accepted(Timestamp(at)),
        (Some("failing"), None, Some(failure)) => NoticeState::Failing(failure),
        _ => return Err(Unreadable("a notice can't be read").into()),
    };
    Ok(Some(Notice { email, state }))
}

pub(super) fn action_type(word: &str) -> Result<PendingActionType> {
    match word {
        "downgrade" => Ok(PendingActionType::Downgrade),
        "deletion" => Ok(PendingActionType::Deletion),
        _ => Err(Unreadable("a pending action's type can't be read").into()),
    }
}

fn action_type_word(action: PendingActionType) -> &'static str {
    match action {
        PendingActionType::Downgrade => "downgrade",
        PendingActionType::Deletion => "deletion",
    }
}
