//! Carrying out: everything is checked again under the lock (docs/policy.md, rule 5.7).

use serde_json::{Value, json};

use super::super::change::WriteTx;
use super::super::mail::{self, MailSubject};
use super::super::pending::{self, Outcome};
use super::super::{Db, Handle, QueryBuilder, account};
use super::announce::names;
use super::{LockedToken, accepted_by, evidence, heir};
use crate::model::{AuditAction, CarriedOut, Context, PendingAction};
use crate::policy::id::PendingActionId;
use crate::policy::lifecycle::{ActionEffect, Mode, Settings, may_carry_out};
use crate::policy::scope::Catalog;
use crate::policy::token::{Grant, TokenState};
use crate::store::Result;

const DELETE: &str =
    "UPDATE token SET delete_time = $2, delete_cause = 'unused' WHERE token_id = $1";

const DOWNGRADE: &str =
    "UPDATE token SET kind = 'READ_ONLY', downgrade_time = $2 WHERE token_id = $1";

const TAKE: &str = "\
    UPDATE token_scope SET taken_time = $2 \
    WHERE token_id = $1 AND scope_id = $3 AND taken_time IS NULL";

/// Carries an action out, or finds why not.
pub(in super::super) async fn carry_out(
    store: &Handle,
    ctx: &Context,
    id: PendingActionId,
    catalog: &Catalog,
    settings: &Settings,
) -> Result<CarriedOut> {
    if settings.mode == Mode::Observe {
        return Ok(CarriedOut::Held);
    }
    let mut change = WriteTx::begin(store, ctx).await?;
    change.must_be_in_force(catalog)?;
    // Under the head row an action stays as it is.
    let token_id = pending::live(&mut change.tx, id).await?.map(|action| action.token_id);
    let locked = match token_id {
        Some(token_id) => {
            heir::lock_family(&mut change.tx, token_id, ctx.now).await?;
            LockedToken::take(&mut change.tx, token_id).await?
        }
        None => None,
    };
    let Some(mut locked) = locked.filter(|locked| locked.is_live(ctx.now)) else {
        change.undo().await;
        return Ok(CarriedOut::ActionEnded);
    };

    locked.count_writes(&mut change.tx, catalog).await?;
    if let Some(record) = locked.cancel_overtaken(&mut change).await? {
        change.record_part(record).await?;
    }
    let Some(mut action) = locked.live.iter().find(|action| action.id == id).cloned() else {
        change.finish().await?;
        return Ok(CarriedOut::Cancelled);
    };
    let grant = &locked.usage_state.grant;
    let Some(mut taken) = action.takes.as_named(&action.taken, grant, catalog) else {
        pending::end(&mut change.tx, id, ctx.now, Outcome::Withdrawn).await?;
        end_in_memory(&mut locked, id);
        locked.set_idle(&mut change.tx).await?;
        heir::touch(&mut change, locked.id, locked.account_id, AuditAction::LifecycleWithdraw)
            .await?;
        let before = json!({ "pending_action_id": id.to_string() });
        change.commit(locked.record(AuditAction::LifecycleWithdraw, before)).await?;
        return Ok(CarriedOut::Cancelled);
    };

    let admins = account::admins(&mut change.tx, locked.account_id).await?;
    let stored = action.accepted;
    // Rule 4.5 of docs/policy.md.
    action.accepted = accepted_by(&admins, &action);
    let due =
        |action: &PendingAction| may_carry_out(settings, action.basis, action.accepted, ctx.now);
    if !due(&action) {
        if action.accepted != stored {
            pending::set_accepted(&mut change.tx, id, action.accepted).await?;
            heir::touch(&mut change, locked.id, locked.account_id, AuditAction::LifecycleHold)
                .await?;
            let before = json!({ "pending_action_id": id.to_string() });
            change.record_part(locked.record(AuditAction::LifecycleHold, before)).await?;
        }
        change.finish().await?;
        return Ok(CarriedOut::Held);
    }
    // The deletion says it all: where both are due, it goes first and ends the downgrade.
    let deletion = locked.live.iter().find(|action| action.takes == ActionEffect::Token);
    if action.takes != ActionEffect::Token && deletion.is_some_and(due) {
        change.finish().await?;
        return Ok(CarriedOut::Held);
    }

    // What a changed catalogue spares, the second mail and the history don't name.
    let spared: Vec<_> =
        action.taken.iter().copied().filter(|scope| !taken.contains(scope)).collect();
    pending::keep(&mut change.tx, id, &spared).await?;
    if action.takes == ActionEffect::Token {
        // It may have been announced for a successor that could do less (rule 11.37): the mail names what this one could do.
        let (held, _) = action.takes.taken_and_kept(&locked.usage_state.grant, catalog);
        let unnamed =
            held.into_iter().filter(|scope| !taken.contains(scope) && !action.kept.contains(scope));
        let unnamed: Vec<_> = unnamed.collect();
        pending::take(&mut change.tx, id, &unnamed).await?;
        taken.extend(unnamed);
        taken.sort_unstable();
    }
    action.taken = taken;
    let done = match action.takes {
        ActionEffect::Token => AuditAction::LifecycleDelete,
        ActionEffect::Writes | ActionEffect::Scopes(_) => AuditAction::LifecycleDowngrade,
    };
    take_from_replaced(&mut change, &locked, &action, done, catalog).await?;
    let basis =
        evidence::basis(&mut change.tx, &locked, &action, &admins, settings, catalog).await?;
    let (before, mut after) = take(&mut change, &mut locked, &action, catalog).await?;
    after["evidence"] = basis;
    pending::end(&mut change.tx, id, ctx.now, Outcome::CarriedOut).await?;
    end_in_memory(&mut locked, id);
    if action.takes == ActionEffect::Token {
        pending::withdraw(&mut change.tx, locked.id, ctx.now).await?;
        locked.set_live(Vec::new());
    }
    let about = MailSubject::CarriedOut(id, locked.id);
    mail::queue(&mut change.tx, ctx.now, locked.account_id, about, &admins).await?;
    locked.set_idle(&mut change.tx).await?;
    let mut record = locked.record(done, before);
    record.after = Some(after);
    change.commit(record).await?;
    Ok(CarriedOut::Done)
}

fn end_in_memory(locked: &mut LockedToken, id: PendingActionId) {
    let mut live = std::mem::take(&mut locked.live);
    live.retain(|action| action.id != id);
    locked.set_live(live);
}

/// Takes the same from the tokens that this one replaced and that still last: they lose it at the same time, since their
/// uses count for it. Rule 11.36 of docs/policy.md.
async fn take_from_replaced(
    change: &mut WriteTx<'_>,
    heir: &LockedToken,
    action: &PendingAction,
    done: AuditAction,
    catalog: &Catalog,
) -> Result<()> {
    for token in heir::live(&mut change.tx, heir.id, change.ctx.now).await? {
        let Some(mut old) = LockedToken::take(&mut change.tx, token).await? else { continue };
        if !heir::applies(&action.takes, &old.usage_state.grant) {
            // What is announced for the heir is a part of its facts.
            change.record_part(heir::touched(token, heir.id, heir.account_id, done)).await?;
            continue;
        }
        let mut lost = action.clone();
        if let (ActionEffect::Scopes(named), Grant::Custom { granted, .. }) =
            (&mut lost.takes, &old.usage_state.grant)
        {
            named.retain(|&scope| granted.contains(scope));
        }
        let (before, mut after) = take(change, &mut old, &lost, catalog).await?;
        after["successor_token_id"] = json!(heir.id.to_string());
        old.set_idle(&mut change.tx).await?;
        let mut record = old.record(done, before);
        record.after = Some(after);
        change.record_part(record).await?;
    }
    Ok(())
}

/// Takes what the action takes. The token before and after, for the audit record.
/// Rule 4.9 of docs/policy.md.
async fn take(
    change: &mut WriteTx<'_>,
    locked: &mut LockedToken,
    action: &PendingAction,
    catalog: &Catalog,
) -> Result<(Value, Value)> {
    let (id, now) = (locked.id, change.ctx.now);
    let named = action.id.to_string();
    match &action.takes {
        ActionEffect::Token => {
            let delete = sqlx::query::<Db>(DELETE).bind(id.0).bind(now.0);
            delete.execute(&mut *change.tx).await?;
            mail::withdraw_expiry_notices(&mut change.tx, id).await?;
            locked.state = TokenState::DeletedUnused { at: now };
            let before = json!({ "name": locked.name, "state": "active" });
            let after = json!({ "name": locked.name, "state": "deleted", "cause": "unused",
                "pending_action_id": named });
            Ok((before, after))
        }
        ActionEffect::Writes => {
            let downgrade = sqlx::query::<Db>(DOWNGRADE).bind(id.0).bind(now.0);
            downgrade.execute(&mut *change.tx).await?;
            for lost in action.taken.chunks(super::super::IDS_AT_ONCE) {
                let mut query =
                    QueryBuilder::new("INSERT INTO token_scope (token_id, scope_id, taken_time) ");
                query.push_values(lost, |mut row, scope| {
                    row.push_bind(id.0).push_bind(i32::from(scope.0)).push_bind(now.0);
                });
                query.build().persistent(false).execute(&mut *change.tx).await?;
            }
            locked.usage_state.grant = Grant::ReadOnly { downgraded: true };
            let before = json!({ "name": locked.name, "kind": "READ_WRITE" });
            let after = json!({ "name": locked.name, "kind": "READ_ONLY",
                "taken": names(catalog, &action.taken), "pending_action_id": named });
            Ok((before, after))
        }
        ActionEffect::Scopes(scopes) => {
            for scope in scopes {
                let take = sqlx::query::<Db>(TAKE).bind(id.0).bind(now.0).bind(i32::from(scope.0));
                take.execute(&mut *change.tx).await?;
            }
            let mut held = Vec::new();
            if let Grant::Custom { granted, taken } = &mut locked.usage_state.grant {
                let lost = scopes.iter().copied().collect();
                held = names(catalog, &granted.iter().collect::<Vec<_>>());
                *taken = taken.union(&lost);
                *granted = granted.difference(&lost);
            }
            let before = json!({ "name": locked.name, "scopes": held });
            let after = json!({ "name": locked.name, "taken": names(catalog, scopes),
                "pending_action_id": named });
            Ok((before, after))
        }
    }
}
