//! Tokens that were replaced and still last, and their heir: the newest successor. It has the clocks of all of them and
//! what is announced for them, so that they live and lose as one token. Rules 11.34 to 11.37 of docs/policy.md.
//!
//! What must stay true: uses of each are recorded for its heir in the same transaction (`usage`); what is taken from the
//! heir is taken from each that lasts; nothing is announced for a token that has an heir; a token whose heir has ended
//! has its lifecycle back. `token_use.heir_id` is written with the head row and the lock on the row taken, so that either
//! lock keeps it.

use std::time::Duration;

use serde_json::json;
use sqlx::FromRow;
use uuid::Uuid;

use super::super::change::{Record, WriteTx};
use super::super::{Connection, Db, QueryBuilder, bulk, pending};
use super::LockedToken;
use crate::model::{AuditAction, Invalidation};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::lifecycle::ActionEffect;
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;
use crate::policy::token::Grant;
use crate::store::Result;

/// For so long after its end, a use of a token may be recorded that was made before.
const LATE_USES: Duration = Duration::from_secs(24 * 60 * 60);

const SELECT_FAMILY: &str = "\
    SELECT u.token_id, t.replaced_by_token_id, t.expire_time, t.delete_time \
    FROM token_use u JOIN token t ON t.token_id = u.token_id \
    WHERE u.heir_id = $1 AND t.expire_time > $2 ORDER BY t.create_time DESC, t.token_id DESC";

/// A token that has an heir.
#[derive(FromRow)]
struct ReplacedToken {
    token_id: Uuid,
    replaced_by_token_id: Option<Uuid>,
    expire_time: i64,
    delete_time: Option<i64>,
}

const SELECT_HEIR: &str =
    "SELECT heir_id FROM token_use WHERE token_id = $1 AND heir_id IS NOT NULL";

const SET_HEIR: &str = "UPDATE token_use SET heir_id = $2, idle_since = NULL WHERE token_id = $1";

const UNSET_HEIR: &str = "UPDATE token_use SET heir_id = NULL WHERE token_id = $1";

/// The heir of a token, where it was replaced.
pub(in super::super) async fn of(
    connection: &mut Connection,
    id: TokenId,
) -> Result<Option<TokenId>> {
    let heir: Option<Uuid> =
        sqlx::query_scalar(SELECT_HEIR).bind(id.0).fetch_optional(connection).await?;
    Ok(heir.map(TokenId))
}

/// The tokens whose heir this one is, the newest first; also those that have ended, while uses of theirs may come late.
async fn family(
    connection: &mut Connection,
    heir: TokenId,
    now: Timestamp,
) -> Result<Vec<ReplacedToken>> {
    let mut left: Vec<ReplacedToken> = sqlx::query_as(SELECT_FAMILY)
        .bind(heir.0)
        .bind(now.minus(LATE_USES).0)
        .fetch_all(connection)
        .await?;
    // Several may be of one instant: the chain says which was first.
    let (mut ordered, mut next) = (Vec::with_capacity(left.len()), heir.0);
    while let Some(at) = left.iter().position(|old| old.replaced_by_token_id == Some(next)) {
        let old = left.remove(at);
        next = old.token_id;
        ordered.push(old);
    }
    ordered.append(&mut left);
    Ok(ordered)
}

/// Those of them which can be used at `now`.
pub(in super::super) async fn live(
    connection: &mut Connection,
    heir: TokenId,
    now: Timestamp,
) -> Result<Vec<TokenId>> {
    let family = family(connection, heir, now).await?;
    let live =
        family.into_iter().filter(|old| old.delete_time.is_none() && old.expire_time > now.0);
    Ok(live.map(|old| TokenId(old.token_id)).collect())
}

/// Takes the locks of a token and of those whose heir it is, which has to be done at once: locks are taken in the order
/// of ids. Those tokens, the newest first, as `family` says.
pub(in super::super) async fn lock_family(
    connection: &mut Connection,
    heir: TokenId,
    now: Timestamp,
) -> Result<Vec<TokenId>> {
    let family = family(connection, heir, now).await?;
    let family: Vec<_> = family.into_iter().map(|old| TokenId(old.token_id)).collect();
    let mut locked = family.clone();
    locked.push(heir);
    locked.sort_unstable();
    bulk::lock(connection, &locked).await?;
    Ok(family)
}

/// The same for many at once.
pub(in super::super) async fn lock_families(
    connection: &mut Connection,
    heirs: &[TokenId],
    now: Timestamp,
) -> Result<()> {
    let mut locked = heirs.to_vec();
    for heir in heirs {
        let family = family(connection, *heir, now).await?;
        locked.extend(family.into_iter().map(|old| TokenId(old.token_id)));
    }
    locked.sort_unstable();
    locked.dedup();
    bulk::lock(connection, &locked).await?;
    Ok(())
}

/// From now on this is the heir of these tokens. Their locks must be taken.
pub(in super::super) async fn set(
    connection: &mut Connection,
    tokens: &[TokenId],
    heir: TokenId,
) -> Result<()> {
    for token in tokens {
        let set = sqlx::query::<Db>(SET_HEIR).bind(token.0).bind(heir.0);
        set.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Records that the facts of the tokens whose heir this one is have changed with what is announced for it, a part of the
/// change for each.
pub(in super::super) async fn touch(
    change: &mut WriteTx<'_>,
    heir: TokenId,
    account_id: AccountId,
    action: AuditAction,
) -> Result<()> {
    for token in live(&mut change.tx, heir, change.ctx.now).await? {
        change.record_part(touched(token, heir, account_id, action)).await?;
    }
    Ok(())
}

/// What is recorded of a token where what is announced for its heir has changed.
pub(in super::super) fn touched(
    token: TokenId,
    heir: TokenId,
    account_id: AccountId,
    action: AuditAction,
) -> Record {
    Record {
        action,
        touched: Invalidation::Token(token),
        account_id: Some(account_id),
        token_id: Some(token),
        before: None,
        after: Some(json!({ "successor_token_id": heir.to_string() })),
    }
}

/// Where what is announced for one token goes.
pub(in super::super) struct Move<'a> {
    pub(in super::super) action: PendingActionId,
    pub(in super::super) to: TokenId,
    /// What it takes there.
    pub(in super::super) takes: &'a ActionEffect,
    /// What it names there; `None` for all that it named.
    pub(in super::super) scopes: Option<&'a [ScopeId]>,
    /// The change that everybody must know of before another notice of it is sent.
    pub(in super::super) position: i64,
}

const MOVE: &str =
    "UPDATE pending_action SET token_id = $2, takes = $3 WHERE pending_action_id = $1";

const MOVE_MAILS: &str = "\
    UPDATE mail SET token_id = $2, \
        position = CASE WHEN state IN ('queued', 'failing') THEN $3 ELSE position END \
    WHERE pending_action_id = $1";

/// Moves an action with its notices: those that were accepted stay accepted, and the others are sent once.
/// Rule 11.35 of docs/policy.md.
pub(in super::super) async fn move_action(
    connection: &mut Connection,
    moved: Move<'_>,
) -> Result<()> {
    let Move { action, to, takes, scopes, position } = moved;
    let word = super::super::decode::takes_word(takes);
    let query = sqlx::query::<Db>(MOVE).bind(action.0).bind(to.0).bind(word);
    query.execute(&mut *connection).await?;
    let query = sqlx::query::<Db>(MOVE_MAILS).bind(action.0).bind(to.0).bind(position);
    query.execute(&mut *connection).await?;
    if let Some(scopes) = scopes {
        let mut query =
            QueryBuilder::new("DELETE FROM pending_action_scope WHERE pending_action_id = ");
        query.push_bind(action.0).push(" AND scope_id NOT IN (");
        let mut list = query.separated(", ");
        for scope in scopes {
            list.push_bind(i32::from(scope.0));
        }
        query.push(")");
        query.build().persistent(false).execute(connection).await?;
    }
    Ok(())
}

/// Ends what is announced for a token that ends in `change`. Where one that it replaced lasts longer, that one has its
/// lifecycle back, and what is announced is announced for it: ending a successor delays nothing. What is withdrawn.
/// Rule 11.37 of docs/policy.md.
pub(in super::super) async fn end_lifecycle(
    change: &mut WriteTx<'_>,
    ended: TokenId,
) -> Result<Vec<PendingActionId>> {
    let now = change.ctx.now;
    let family = lock_family(&mut change.tx, ended, now).await?;
    let mut next = None;
    for &token in &family {
        let locked = LockedToken::take(&mut change.tx, token).await?;
        if let Some(locked) = locked.filter(|locked| locked.is_live(now)) {
            next = Some(locked);
            break;
        }
    }
    let actions = pending::of_tokens(&mut change.tx, ended..=ended, None).await?.remove(&ended);
    let (mut withdrawn, mut moved) = (Vec::new(), Vec::new());
    for action in actions.unwrap_or_default() {
        let holder = next.as_ref().filter(|next| applies(&action.takes, &next.usage_state.grant));
        let Some(holder) = holder else {
            pending::end(&mut change.tx, action.id, now, pending::Outcome::Withdrawn).await?;
            withdrawn.push(action.id);
            continue;
        };
        let (to, takes, position) = (holder.id, &action.takes, change.position());
        let go = Move { action: action.id, to, takes, scopes: None, position };
        move_action(&mut change.tx, go).await?;
        moved.push(action);
    }
    let Some(mut next) = next else { return Ok(withdrawn) };
    let older: Vec<_> = family.into_iter().filter(|&token| token != next.id).collect();
    set(&mut change.tx, &older, next.id).await?;
    sqlx::query::<Db>(UNSET_HEIR).bind(next.id.0).execute(&mut *change.tx).await?;
    next.heir = None;
    let ids: Vec<_> = moved.iter().map(|action| action.id.to_string()).collect();
    next.set_live(moved);
    next.set_idle(&mut change.tx).await?;
    touch(change, next.id, next.account_id, AuditAction::LifecycleMove).await?;
    let mut record = next.record(AuditAction::LifecycleMove, json!(null));
    record.before = None;
    record.after = Some(json!({ "from_token_id": ended.to_string(), "pending_action_ids": ids }));
    change.record_part(record).await?;
    Ok(withdrawn)
}

/// Whether an action that takes this from an heir takes anything from a token with this grant.
pub(in super::super) fn applies(takes: &ActionEffect, grant: &Grant) -> bool {
    match (takes, grant) {
        (ActionEffect::Token, _) | (ActionEffect::Writes, Grant::ReadWrite) => true,
        (ActionEffect::Scopes(named), Grant::Custom { granted, .. }) => {
            named.iter().any(|&id| granted.contains(id))
        }
        _ => false,
    }
}
