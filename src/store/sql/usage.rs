//! Recorded use. `lifecycle` explains why no use is lost to what happens beside it.
//!
//! What must stay true: times only move forward, so the same use may be recorded twice and in any
//! order; a row that is gone spoils no other; nothing here takes the head row after a token's, and
//! recording many takes it not at all.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::change::WriteTx;
use super::lifecycle::{LockedToken, OVERTAKEN, heir, idle_since};
use super::token::SELECT;
use super::{Connection, Handle, QueryBuilder, bulk, pending, push_ids, token};
use crate::model::{Context, NoLongerHeld, Use};
use crate::policy::id::TokenId;
use crate::policy::lifecycle::{LiveAction, Uses};
use crate::policy::scope::{Access, Catalog};
use crate::policy::token::ScopeStatus;
use crate::store::Result;

/// Live actions that recorded use has overtaken, as `UsageState::overtaken` says.
const SELECT_OVERTAKEN: &str = "\
    SELECT DISTINCT p.token_id FROM pending_action p JOIN token_use u ON u.token_id = p.token_id \
    WHERE p.end_time IS NULL AND ( \
        (p.takes = 'token' AND u.last_use > p.basis_time) \
        OR (p.takes = 'writes' AND u.last_write_use > p.basis_time) \
        OR (p.takes = 'scopes' AND EXISTS ( \
            SELECT 1 FROM pending_action_scope s \
            JOIN scope_use x ON x.token_id = p.token_id AND x.scope_id = s.scope_id \
            WHERE s.pending_action_id = p.pending_action_id AND s.keeps = 0 \
                AND x.last_use > p.basis_time)))";

/// Records uses. The tokens with an action that recorded use has overtaken.
pub(super) async fn record(store: &Handle, uses: &[Use]) -> Result<Vec<TokenId>> {
    let mut merged: BTreeMap<TokenId, Uses> = BTreeMap::new();
    for used in uses {
        merged.entry(used.token_id).or_default().note(used.scope_id, used.write, used.time);
    }
    let mut ids: BTreeSet<TokenId> = merged.keys().copied().collect();
    let (mut tx, heirs) = loop {
        let mut tx = store.write().await?;
        let to_lock: Vec<_> = ids.iter().copied().collect();
        let heirs = bulk::lock(&mut tx, &to_lock).await?;
        let known = ids.len();
        ids.extend(heirs.iter().map(|&(_, heir)| heir));
        if ids.len() == known {
            break (tx, heirs);
        }
        // Locks are taken in the order of ids, so that all of them are taken again.
        tx.rollback().await?;
    };
    // Rule 11.34 of docs/policy.md.
    for (id, heir) in heirs {
        if let Some(uses) = merged.get(&id).cloned() {
            merged.entry(heir).or_default().merge(&uses);
        }
    }
    let merged: Vec<_> = merged.into_iter().collect();
    let ids: Vec<_> = ids.into_iter().collect();
    bulk::record(&mut tx, &merged).await?;
    let mut overtaken = Vec::new();
    for ids in ids.chunks(super::IDS_AT_ONCE) {
        let mut query = QueryBuilder::new(SELECT_OVERTAKEN);
        query.push(" AND p.token_id IN (");
        push_ids(&mut query, ids.iter().map(|id| id.0));
        query.push(") ORDER BY p.token_id");
        let found: Vec<Uuid> =
            query.build_query_scalar().persistent(false).fetch_all(&mut *tx).await?;
        overtaken.extend(found.into_iter().map(TokenId));
    }
    if !overtaken.is_empty() {
        // Those actions that are not cancelled after this are found by the next sweep.
        let overtaken_tokens: Vec<_> = overtaken.iter().map(|&id| (id, Some(OVERTAKEN))).collect();
        bulk::set_idle(&mut tx, &overtaken_tokens).await?;
    }
    tx.commit().await?;
    Ok(overtaken)
}

/// Ends and shrinks what recorded use has overtaken. Whether there was anything.
pub(super) async fn cancel_overtaken(store: &Handle, ctx: &Context, id: TokenId) -> Result<bool> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(mut locked) = LockedToken::take(&mut change.tx, id).await? else {
        change.undo().await;
        return Ok(false);
    };
    match locked.cancel_overtaken(&mut change).await? {
        Some(record) => {
            change.commit(record).await?;
            Ok(true)
        }
        None => {
            change.undo().await;
            Ok(false)
        }
    }
}

/// Records one use and cancels what it overtakes, before its ALLOW is answered. Whether anything was
/// overtaken.
pub(super) async fn record_use_of_announced(
    store: &Handle,
    ctx: &Context,
    catalog: &Catalog,
    used: &Use,
) -> Result<Result<bool, NoLongerHeld>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    change.must_be_in_force(catalog)?;
    let heir = heir::of(&mut change.tx, used.token_id).await?;
    let mut ids: Vec<_> = heir.into_iter().chain([used.token_id]).collect();
    ids.sort_unstable();
    bulk::lock(&mut change.tx, &ids).await?;
    let locked = LockedToken::take(&mut change.tx, used.token_id).await?;
    let scope = catalog.by_id(used.scope_id);
    let (Some(mut locked), Some(scope)) = (locked, scope) else {
        change.undo().await;
        return Ok(Err(NoLongerHeld));
    };
    let grant = &locked.usage_state.grant;
    let usable = locked.is_usable(used.time.max(ctx.now));
    if !usable || grant.holding(scope) != ScopeStatus::Granted {
        change.undo().await;
        return Ok(Err(NoLongerHeld));
    }
    let mut uses = Uses::default();
    uses.note(scope.id, scope.access == Access::Write, used.time);
    let uses: Vec<_> = ids.into_iter().map(|id| (id, uses.clone())).collect();
    bulk::record(&mut change.tx, &uses).await?;
    locked.usage_state.uses.note(scope.id, scope.access == Access::Write, used.time);
    // What is announced for a replaced token is announced for its heir.
    if let Some(heir) = heir
        && let Some(heir) = LockedToken::take(&mut change.tx, heir).await?
    {
        locked = heir;
    }
    match locked.cancel_overtaken(&mut change).await? {
        Some(record) => {
            change.commit(record).await?;
            Ok(Ok(true))
        }
        // Somebody else has cancelled it already.
        None => {
            change.finish().await?;
            Ok(Ok(false))
        }
    }
}

/// Computes again since when these tokens are idle.
pub(super) async fn reschedule(store: &Handle, ids: &[TokenId]) -> Result<()> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let mut tx = store.write().await?;
    bulk::lock(&mut tx, &ids).await?;
    let mut idle = Vec::with_capacity(ids.len());
    for ids in ids.chunks(super::IDS_AT_ONCE) {
        let mut query = QueryBuilder::new(SELECT);
        query.push(
            " AND t.delete_time IS NULL AND t.expiry_done = 0 AND u.heir_id IS NULL \
             AND t.token_id IN (",
        );
        push_ids(&mut query, ids.iter().map(|id| id.0));
        query.push(")");
        let rows: Vec<token::Row> =
            query.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
        let mut live = live_of(&mut tx, &rows).await?;
        for row in rows {
            let live = live.remove(&row.id()).unwrap_or_default();
            let announced = live.iter().map(LiveAction::announced).collect();
            idle.push((row.id(), idle_since(&row.usage_state(announced)?)));
        }
    }
    bulk::set_idle(&mut tx, &idle).await?;
    Ok(tx.commit().await?)
}

/// The live actions of the tokens in these rows.
pub(super) async fn live_of(
    connection: &mut Connection,
    rows: &[token::Row],
) -> Result<std::collections::HashMap<TokenId, Vec<LiveAction>>> {
    let ids: Vec<_> = rows.iter().map(token::Row::id).collect();
    pending::live_of(connection, &ids).await
}
