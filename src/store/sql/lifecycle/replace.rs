//! Replacing a token: the successor, with the clocks and what is announced, and the end of the old token, in one
//! transaction. Rules 11.30 to 11.37 of docs/policy.md.

use serde_json::json;

use super::super::change::{Record, WriteTx};
use super::super::mail;
use super::super::pending::{self, Outcome};
use super::super::token::{find, insert, record, whitelist_json};
use super::super::{Db, Handle, account};
use super::announce::names;
use super::heir::{self, Move};
use super::{LockedToken, idle_since};
use crate::failpoint::{self, Failpoint};
use crate::model::{
    AuditAction, Context, Invalidation, NotReplaced, PendingAction, Replaced, Replacement, Token,
};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::lifecycle::{ActionEffect, Calendar, Settings, UsageState};
use crate::policy::network::Whitelist;
use crate::policy::replacement::{self, ReplacementRefused};
use crate::policy::scope::{Catalog, ScopeId};
use crate::policy::token::{Expiry, Grant, TokenState};
use crate::store::Result;

const COPY_SCOPE_USES: &str = "\
    INSERT INTO scope_use (token_id, scope_id, last_use) \
    SELECT $1, scope_id, last_use FROM scope_use WHERE token_id = $2";

const END: &str = "\
    UPDATE token SET expire_time = $2, replaced_by_token_id = $3 WHERE token_id = $1";

const SHORTEN: &str = "UPDATE token SET expire_time = $2 WHERE token_id = $1";

/// An announced action, and what it takes from the successor.
struct InheritedAction {
    action: PendingAction,
    takes: Option<ActionEffect>,
}

/// What a replacement comes to, before anything of it is stored.
struct Plan {
    grant: Grant,
    whitelist: Whitelist,
    expiry: Expiry,
    old_expiry: Expiry,
    inherited: Vec<InheritedAction>,
    /// Whether something that is announced is left out, so that all that last have to end with the old token.
    shortens: bool,
}

/// Replaces a token; with `dry_run` everything is checked and nothing written. `None` where there is no such token.
#[allow(clippy::too_many_arguments, reason = "one use case, each argument a fact of it")]
pub(in super::super) async fn replace(
    store: &Handle,
    ctx: &Context,
    catalog: &Catalog,
    id: TokenId,
    only: Option<AccountId>,
    settings: &Settings,
    new: &Replacement,
    dry_run: bool,
) -> Result<Option<std::result::Result<Replaced, NotReplaced>>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    change.must_be_in_force(catalog)?;
    let family = heir::lock_family(&mut change.tx, id, ctx.now).await?;
    let old = find(&mut change.tx, id, only).await?;
    let locked = LockedToken::take(&mut change.tx, id).await?;
    let (Some(old), Some(locked)) = (old, locked) else {
        change.undo().await;
        return Ok(None);
    };
    if let Err(refused) = account::admit(&mut change.tx, ctx, old.account_id).await? {
        change.undo().await;
        return Ok(Some(Err(NotReplaced::Account(old.account_id, refused))));
    }
    // Those that have ended within a day as well: a change of the newest locks them all.
    if family.len() >= replacement::MAX_OVERLAPPING {
        change.undo().await;
        return Ok(Some(Err(NotReplaced::Rule(ReplacementRefused::TooManyOverlapping))));
    }
    let plan = match plan(&old, catalog, settings, ctx, new) {
        Ok(plan) => plan,
        Err(refused) => {
            change.undo().await;
            return Ok(Some(Err(NotReplaced::Rule(refused))));
        }
    };
    let (successor, usage) = successor(&old, &locked.usage_state, ctx, new, &plan);
    let mut replaced = Token {
        expires: plan.old_expiry.time(),
        replaced_by: Some(successor.id),
        pending: Vec::new(),
        ..old.clone()
    };
    if dry_run {
        change.undo().await;
        replaced.replaced_by = None;
        return Ok(Some(Ok(Replaced { successor, replaced })));
    }

    insert(&mut change.tx, &successor, &new.digest, idle_since(&usage)).await?;
    let copy = sqlx::query::<Db>(COPY_SCOPE_USES).bind(successor.id.0).bind(id.0);
    copy.execute(&mut *change.tx).await?;
    let end = sqlx::query::<Db>(END)
        .bind(id.0)
        .bind(replaced.expires.map(|at| at.0))
        .bind(successor.id.0);
    end.execute(&mut *change.tx).await?;
    mail::withdraw_expiry_notices(&mut change.tx, id).await?;
    heir::set(&mut change.tx, &family, successor.id).await?;
    heir::set(&mut change.tx, &[id], successor.id).await?;

    let moved = plan.inherited.iter().filter(|inherited| inherited.takes.is_some());
    let moved: Vec<_> = moved.map(|inherited| inherited.action.id.to_string()).collect();
    let left = plan.inherited.iter().filter(|inherited| inherited.takes.is_none());
    let left: Vec<_> = left.map(|inherited| inherited.action.id.to_string()).collect();
    let text = |expires: Option<crate::policy::time::Timestamp>| expires.map(|at| at.to_string());
    let before = json!({ "name": old.name, "expire_time": text(old.expires) });
    let after = json!({
        "name": old.name,
        "expire_time": text(replaced.expires),
        "replaced_by_token_id": successor.id.to_string(),
        "moved": moved,
        "withdrawn": left,
    });
    change.record_part(record(AuditAction::TokenReplace, &old, Some(before), Some(after))).await?;
    if failpoint::is_active(Failpoint::HalfReplaced) {
        std::future::pending::<()>().await;
    }
    shorten(&mut change, &family, &plan, &successor).await?;
    for InheritedAction { action, takes } in &plan.inherited {
        let Some(takes) = takes else {
            pending::end(&mut change.tx, action.id, ctx.now, Outcome::Withdrawn).await?;
            continue;
        };
        let scopes = successor.scopes.as_slice();
        let go = Move {
            action: action.id,
            to: successor.id,
            takes,
            scopes: (!scopes.is_empty()).then_some(scopes),
            position: change.position(),
        };
        heir::move_action(&mut change.tx, go).await?;
    }
    let mut after = json!({
        "name": successor.name,
        "kind": successor.kind.word(),
        "scopes": names(catalog, &successor.scopes),
        "whitelist": whitelist_json(&successor.whitelist),
        "replaces_token_id": id.to_string(),
    });
    if let Some(at) = successor.expires {
        after["expire_time"] = json!(at.to_string());
    }
    change.commit(record(AuditAction::TokenCreate, &successor, None, Some(after))).await?;
    Ok(Some(Ok(Replaced { successor, replaced })))
}

/// What the rules make of the request. `policy` decides all of it.
fn plan(
    old: &Token,
    catalog: &Catalog,
    settings: &Settings,
    ctx: &Context,
    new: &Replacement,
) -> std::result::Result<Plan, ReplacementRefused> {
    let expiry = Expiry::from(old.expires);
    replacement::check(old.state, expiry, old.replaced_by, ctx.now)?;
    let old_grant = old.grant();
    let grant = replacement::successor_grant(&old_grant, &new.scopes, catalog)?;
    let whitelist = new.whitelist.clone().unwrap_or_else(|| old.whitelist.clone());
    // Without one, the old token is denied everything; leaving out what needs it must not open it.
    let required = grant.requires_whitelist(catalog) || old_grant.requires_whitelist(catalog);
    if required && whitelist == Whitelist::Unrestricted {
        return Err(ReplacementRefused::WhitelistRequired);
    }
    let successor_expiry =
        replacement::successor_expiry(expiry, new.expires, new.longest, ctx.now)?;
    let mut left_out = Vec::new();
    let inherit = |action: &PendingAction| {
        let moved = replacement::moved(&action.takes, &action.taken, &grant);
        if !moved.whole {
            left_out.push(action.live());
        }
        InheritedAction { action: action.clone(), takes: moved.takes }
    };
    let inherited: Vec<_> = old.pending.iter().map(inherit).collect();
    let calendar = Calendar { settings: *settings, now: ctx.now };
    let old_expiry = replacement::old_expiry(expiry, new.overlap, &left_out, &calendar);
    let shortens = !left_out.is_empty();
    Ok(Plan { grant, whitelist, expiry: successor_expiry, old_expiry, inherited, shortens })
}

/// The successor, and what its lifecycle rests on.
fn successor(
    old: &Token,
    usage: &UsageState,
    ctx: &Context,
    new: &Replacement,
    plan: &Plan,
) -> (Token, UsageState) {
    let scopes: Vec<ScopeId> = match &plan.grant {
        Grant::Custom { granted, .. } => granted.iter().collect(),
        Grant::ReadOnly { .. } | Grant::ReadWrite => Vec::new(),
    };
    let held = |ids: &[ScopeId]| -> Vec<ScopeId> {
        let held = ids.iter().copied().filter(|id| scopes.is_empty() || scopes.contains(id));
        held.collect()
    };
    let inherited = plan.inherited.iter().filter_map(|InheritedAction { action, takes }| {
        Some(PendingAction {
            token_id: new.id,
            taken: held(&action.taken),
            kept: held(&action.kept),
            takes: takes.clone()?,
            ..action.clone()
        })
    });
    let pending: Vec<_> = inherited.collect();
    let usage = UsageState {
        grant: plan.grant.clone(),
        created: usage.created,
        uses: usage.uses.clone(),
        announced: super::announced(&pending),
    };
    let successor = Token {
        id: new.id,
        account_id: old.account_id,
        name: old.name.clone(),
        state: TokenState::Active,
        kind: plan.grant.kind(),
        downgraded: None,
        scopes,
        taken: Vec::new(),
        whitelist: plan.whitelist.clone(),
        whitelist_version: 1,
        created: ctx.now,
        clock_start: usage.created,
        expires: plan.expiry.time(),
        labels: old.labels.clone(),
        replaces: Some(old.id),
        replaced_by: None,
        imported: None,
        uses: usage.uses.clone(),
        pending,
        expiry_notices: Vec::new(),
    };
    (successor, usage)
}

/// Earlier tokens of the same chain that last end no later than the old token, where something that is announced is left
/// out of the successor. Rule 11.35 of docs/policy.md.
async fn shorten(
    change: &mut WriteTx<'_>,
    family: &[TokenId],
    plan: &Plan,
    successor: &Token,
) -> Result<()> {
    let Some(end) = plan.old_expiry.time().filter(|_| plan.shortens) else { return Ok(()) };
    for &id in family {
        let locked = LockedToken::take(&mut change.tx, id).await?;
        let Some(locked) = locked.filter(|locked| locked.is_live(change.ctx.now)) else { continue };
        if locked.expiry <= plan.old_expiry {
            continue;
        }
        sqlx::query::<Db>(SHORTEN).bind(id.0).bind(end.0).execute(&mut *change.tx).await?;
        mail::withdraw_expiry_notices(&mut change.tx, id).await?;
        let text = |at: Expiry| json!({ "expire_time": at.time().map(|at| at.to_string()) });
        let mut after = text(plan.old_expiry);
        after["successor_token_id"] = json!(successor.id.to_string());
        change
            .record_part(Record {
                action: AuditAction::TokenSetExpiry,
                touched: Invalidation::Token(id),
                account_id: Some(locked.account_id),
                token_id: Some(id),
                before: Some(text(locked.expiry)),
                after: Some(after),
            })
            .await?;
    }
    Ok(())
}
