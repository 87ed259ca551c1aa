//! Announcing: the plan is made again under the lock, and stored with a notice for each admin.

use serde_json::json;

use super::super::change::WriteTx;
use super::super::mail::{self, MailSubject};
use super::super::{Handle, account, pending};
use super::{LockedToken, heir};
use crate::clock::id_at;
use crate::model::{AuditAction, Context, Notice, NoticeState, PendingAction};
use crate::policy::id::{PendingActionId, TokenId};
use crate::policy::lifecycle::{ActionEffect, Mode, PendingPlan, Planned, Settings};
use crate::policy::scope::{Catalog, ScopeId};
use crate::store::Result;

/// Announces what is due; `None` where nothing is.
pub(in super::super) async fn announce(
    store: &Handle,
    ctx: &Context,
    catalog: &Catalog,
    id: TokenId,
    settings: &Settings,
) -> Result<Option<PendingAction>> {
    if settings.mode == Mode::Observe {
        return Ok(None);
    }
    let mut change = WriteTx::begin(store, ctx).await?;
    change.must_be_in_force(catalog)?;
    let locked = LockedToken::take(&mut change.tx, id).await?;
    let lives = |locked: &LockedToken| locked.is_live(ctx.now) && locked.heir.is_none();
    let Some(mut locked) = locked.filter(lives) else {
        change.undo().await;
        return Ok(None);
    };
    locked.count_writes(&mut change.tx, catalog).await?;
    let Some(planned) = locked.usage_state.due(settings, ctx.now) else {
        // Otherwise it would be found idle again and again.
        locked.set_idle(&mut change.tx).await?;
        change.finish().await?;
        return Ok(None);
    };

    let mut action = action(&locked, ctx, catalog, planned);
    if action.takes == ActionEffect::Writes && action.taken.is_empty() {
        // The catalogue has nothing to write with. It is looked at again when the token is idle, or
        // has been for another while.
        locked
            .usage_state
            .announced
            .push(PendingPlan { takes: ActionEffect::Writes, basis: action.basis });
        locked.set_idle(&mut change.tx).await?;
        change.finish().await?;
        return Ok(None);
    }
    heir::touch(&mut change, id, locked.account_id, AuditAction::LifecycleAnnounce).await?;
    pending::insert(&mut change.tx, &action).await?;
    let admins = account::admins(&mut change.tx, locked.account_id).await?;
    let about = MailSubject::Notice(action.id, id, change.position());
    mail::queue(&mut change.tx, ctx.now, locked.account_id, about, &admins).await?;
    let queued = |email: String| Notice { email, state: NoticeState::Queued };
    action.notices = admins.into_iter().map(queued).collect();
    action.notices.sort_by(|a, b| a.email.cmp(&b.email));

    let mut live = std::mem::take(&mut locked.live);
    live.push(action.clone());
    locked.set_live(live);
    locked.set_idle(&mut change.tx).await?;
    let mut record = locked.record(AuditAction::LifecycleAnnounce, json!(null));
    record.before = None;
    record.after = Some(json!({
        "pending_action_id": action.id.to_string(),
        "type": match action.takes {
            ActionEffect::Token => "deletion",
            ActionEffect::Writes | ActionEffect::Scopes(_) => "downgrade",
        },
        "taken": names(catalog, &action.taken),
    }));
    change.commit(record).await?;
    Ok(Some(action))
}

fn action(
    locked: &LockedToken,
    ctx: &Context,
    catalog: &Catalog,
    Planned { takes, basis }: Planned,
) -> PendingAction {
    let state = &locked.usage_state;
    let (taken, kept) = takes.taken_and_kept(&state.grant, catalog);
    let last_use_of_taken = match &takes {
        ActionEffect::Token => state.uses.last,
        ActionEffect::Writes => state.uses.last_write,
        ActionEffect::Scopes(named) => named.iter().filter_map(|&id| state.uses.of(id)).max(),
    };
    PendingAction {
        id: PendingActionId(id_at(ctx.now)),
        token_id: locked.id,
        token_name: locked.name.clone(),
        account_id: locked.account_id,
        takes,
        taken,
        kept,
        last_use: state.uses.last,
        last_use_of_taken,
        basis,
        accepted: None,
        created: ctx.now,
        notices: Vec::new(),
    }
}

/// For the audit record.
pub(super) fn names(catalog: &Catalog, ids: &[ScopeId]) -> Vec<String> {
    let scopes = ids.iter().filter_map(|&id| catalog.by_id(id));
    scopes.map(|scope| scope.name.to_string()).collect()
}
