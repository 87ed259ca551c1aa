//! Looking tokens up: which, in what order, a page at a time by its number.
//!
//! What must stay true: names are compared and ordered by their bytes, with `A` to `Z` in lower case, so
//! the same in both databases and under any locale; each order ends with the id, so that pages neither
//! overlap nor leave out; four statements at most, however many tokens there are, and all of them see the
//! same state.

use std::collections::HashMap;

use uuid::Uuid;

use super::decode::ANY_ADDRESS;
use super::token::{Row, SELECT};
use super::{FIND, FOLDED_NAME, Handle, IDS_AT_ONCE, QueryBuilder, pending, push_ids};
use crate::model::{FoundTokens, TokenOrder, TokenSearch, TokenShow};
use crate::policy::id::TokenId;
use crate::policy::lifecycle::Calendar;
use crate::store::Result;
use crate::store::error::CorruptRow;

pub(super) async fn tokens(
    store: &Handle,
    search: &TokenSearch,
    calendar: &Calendar,
    offset: u32,
    limit: u32,
) -> Result<FoundTokens> {
    // No name has one, and Postgres takes no text with one.
    if search.text.contains('\0') {
        return Ok(FoundTokens::default());
    }
    let mut tx = store.read_steadily().await?;
    // Only the ids: whatever stood beside them would be read for each token before they are ordered.
    let mut query = QueryBuilder::new("SELECT t.token_id FROM token t");
    match search.order {
        TokenOrder::Attention => {
            push_use(&mut query, search);
            push_actions(&mut query, search, calendar);
        }
        TokenOrder::LastUse => push_use(&mut query, search),
        TokenOrder::Name | TokenOrder::Created => {}
    }
    push_conditions(&mut query, search);
    push_order(&mut query, search);
    let limit = (limit as usize).min(IDS_AT_ONCE);
    query.push(" LIMIT ").push_bind(limit as i64).push(" OFFSET ").push_bind(i64::from(offset));
    let ids: Vec<Uuid> = query.build_query_scalar().fetch_all(&mut *tx).await?;

    // A last page shows by itself how many there are, and what is found by a text is mostly on one page.
    let total = if ids.len() < limit && (offset == 0 || !ids.is_empty()) {
        u64::from(offset) + ids.len() as u64
    } else {
        let mut query = QueryBuilder::new("SELECT count(*) FROM token t");
        push_conditions(&mut query, search);
        let total: i64 = query.build_query_scalar().fetch_one(&mut *tx).await?;
        u64::try_from(total).unwrap_or(0)
    };
    if ids.is_empty() {
        return Ok(FoundTokens { tokens: Vec::new(), total });
    }

    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND t.token_id IN (");
    push_ids(&mut query, ids.iter().copied());
    query.push(")");
    let rows: Vec<Row> = query.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
    let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.id(), row)).collect();
    let mut pending = pending::of_listed(&mut tx, &ids).await?;
    let tokens = ids.into_iter().map(TokenId).map(|id| {
        let row = rows.remove(&id).ok_or(CorruptRow("a token's use has no row"))?;
        row.into_token(pending.remove(&id).unwrap_or_default())
    });
    Ok(FoundTokens { tokens: tokens.collect::<Result<_>>()?, total })
}

fn push_conditions(query: &mut QueryBuilder, search: &TokenSearch) {
    query.push(match search.show {
        TokenShow::Deleted => " WHERE (t.delete_time IS NOT NULL OR t.expiry_done = 1)",
        TokenShow::Active | TokenShow::Pending | TokenShow::Unrestricted => {
            " WHERE t.delete_time IS NULL AND t.expiry_done = 0"
        }
    });
    match search.show {
        TokenShow::Active | TokenShow::Deleted => {}
        TokenShow::Pending => drop(query.push(
            " AND EXISTS (SELECT 1 FROM pending_action a \
             WHERE a.token_id = t.token_id AND a.end_time IS NULL)",
        )),
        // Not bound: SQLite has an index of just these.
        TokenShow::Unrestricted => {
            query.push(" AND t.whitelist = '").push(ANY_ADDRESS).push("'");
        }
    }
    if let Some(id) = search.account_id {
        query.push(" AND t.account_id = ").push_bind(id.0);
    }
    if let Some(kind) = search.kind {
        query.push(" AND t.kind = ").push_bind(kind.word());
    }
    match search.text.parse::<TokenId>() {
        Ok(id) => drop(query.push(" AND t.token_id = ").push_bind(id.0)),
        Err(_) if search.text.is_empty() => {}
        Err(_) => {
            query.push(" AND ").push(FIND).push("(").push(FOLDED_NAME).push(", ");
            query.push_bind(search.text.to_ascii_lowercase()).push(") > 0");
        }
    }
}

/// How tokens were used, for all accounts at once: joined. For one account its tokens are looked up one by one
/// ([`push_used`]), since Postgres would rather read how all tokens were used than do ten thousand look-ups.
fn push_use(query: &mut QueryBuilder, search: &TokenSearch) {
    if search.account_id.is_none() {
        query.push(" JOIN token_use u ON u.token_id = t.token_id");
    }
}

/// A column of `token_use` after [`push_use`].
fn push_used(query: &mut QueryBuilder, search: &TokenSearch, column: &'static str) {
    match search.account_id {
        None => query.push("u.").push(column),
        Some(_) => query
            .push("(SELECT u.")
            .push(column)
            .push(" FROM token_use u WHERE u.token_id = t.token_id)"),
    };
}

/// Joins `p.due`: what the earliest date of a token's actions is ordered by. That date is the later of
/// `basis_time + window` and `accepted_time + notice` (`policy::lifecycle::effective`); here both are less the
/// window, since subtracting can't overflow.
fn push_actions(query: &mut QueryBuilder, search: &TokenSearch, calendar: &Calendar) {
    let Calendar { settings, now } = calendar;
    let lead = settings.window().saturating_sub(settings.notice());
    let lead = i64::try_from(lead.as_micros()).unwrap_or(i64::MAX);
    query
        .push(
            " LEFT JOIN (SELECT d.token_id, \
                 min(CASE WHEN d.basis > d.noticed THEN d.basis ELSE d.noticed END) AS due \
             FROM (SELECT token_id, basis_time AS basis, coalesce(accepted_time - ",
        )
        .push_bind(lead)
        .push(", ")
        .push_bind(settings.idle_before(*now).0)
        .push(") AS noticed FROM pending_action WHERE end_time IS NULL");
    if let Some(id) = search.account_id {
        query.push(" AND account_id = ").push_bind(id.0);
    }
    query.push(") d GROUP BY d.token_id) p ON p.token_id = t.token_id");
}

fn push_order(query: &mut QueryBuilder, search: &TokenSearch) {
    query.push(" ORDER BY ");
    match search.order {
        TokenOrder::Attention => {
            query.push("p.due NULLS LAST, ");
            push_used(query, search, "idle_since");
            query.push(" NULLS LAST, t.token_id")
        }
        TokenOrder::Name => query.push(FOLDED_NAME).push(", t.token_id"),
        TokenOrder::LastUse => {
            push_used(query, search, "last_use");
            query.push(" NULLS FIRST, t.token_id")
        }
        TokenOrder::Created => query.push("t.create_time DESC, t.token_id DESC"),
    };
}
