//! Announcing, cancelling, carrying out and withdrawing: the transactions, and why they are safe.
//!
//! Three kinds of transaction touch a token's lifecycle:
//!
//! - *recording* use, many tokens at once: takes the tokens' `token_use` rows in the order of their
//!   ids, moves times forward, and then selects live actions that the uses overtake;
//! - *rescheduling*: takes the same rows likewise, and sets `idle_since` from what it then reads;
//! - *changes* (announce, cancel overtaken, record the use of an announced token, carry out, withdraw, purge, delete): take the head
//!   row, then the token's `token_use` row, and only then read what they decide on. On Postgres each
//!   statement of theirs sees whatever was committed before it (read committed), so what is read
//!   under both locks is the newest there is, and nobody changes it until the end. On SQLite a
//!   transaction that writes is alone.
//!
//! No transaction that holds a `token_use` row waits for the head row, and one that takes several
//! takes them by ascending id, so nobody waits in a circle. Pending actions and `accepted_time` are
//! written only under the head row; uses only under the `token_use` row; the grant and the deletion
//! only under both.
//!
//! *A use against the notice.* The recording either takes the row first: then the announcement reads
//! the use and plans with it. Or it takes it second: then its search for overtaken actions begins after
//! the announcement was committed and finds the new action, whose basis is older than the use, and the
//! caller cancels it. If the caller dies in between, the use is on record; the next sweep finds the
//! token before all idle ones ([`OVERTAKEN`]), and carrying out would find it at the latest. Nothing
//! is lost in either order, and a use that was recorded late cancels like one that was recorded at
//! once, since it is compared with the basis and not with the time of the notice.
//!
//! *A use against the carrying out.* A use that fits a live action is answered only after
//! `record_use_of_announced` has committed, which holds both locks, like the carrying out. If the use is first,
//! the carrying out reads it under the row lock and cancels. If the carrying out is first, the use
//! finds the token deleted or the scope taken, records nothing and says [`NoLongerHeld`]; the decision is
//! made again, on the new facts. A use by a replica that did not know of the action is recorded
//! within the flush interval; a notice is mailed only when every replica knows of its action, and
//! then a whole notice period passes, so it is on record long before.
//!
//! *Two sweepers on one token.* Both may read it as idle; `announce` plans again under both locks,
//! and the second one finds the first one's action, beside which nothing is due. Should that ever
//! fail, the unique index on live actions refuses a second deletion or `READ_WRITE` downgrade, and a
//! scope that is announced is in no other plan. `carry_out` by the second one finds that the action
//! has ended and says [`CarriedOut::ActionEnded`]; its mails are unique by action, kind and recipient.
//!
//! *A sweeper that stalls between reading and writing.* What it read before is only a hint of which
//! ids to try: everything is read again under the locks, with the `now` of the call. A stale `now` is
//! too early and therefore makes less due, never more: acceptances and uses are compared with it, and
//! one that lies after it holds or cancels the action.
//!
//! *A token deleted by its owner meanwhile.* The deletion is a change like the others: it ends the
//! live actions with it (`withdrawn`), takes back their queued notices and sets `idle_since` to null.
//! Afterwards `announce` finds a deleted token and does nothing, `carry_out` finds no live action, and
//! a use finds [`NoLongerHeld`]. A notice that was handed to the relay already cannot be called
//! back; its acceptance is noted and changes nothing else.
//!
//! *A token that expires meanwhile.* Its expiry binds by the time of each decision and each transaction, whether or not
//! a sweep has recorded it: `announce` and `carry_out` do nothing with it, and a use finds [`NoLongerHeld`]. Recording
//! the expiry is a change like the deletion: it ends the live actions and sets `idle_since` to null.
//!
//! *A notice of an expiry against its change.* Queueing the notices, bringing the expiry nearer, deleting the token and
//! recording the expiry are changes. `token.noticed_expiry` says which expiry the notices are for, so that any change of
//! the expiry leads to other notices, without knowing of mails. A mail keeps the expiry that it states, and is claimed
//! only while that is the token's, so that none that begins to be sent is wrong.
//!
//! *An account that is closed meanwhile.* A closed account's tokens are deleted by all that this says: `announce` and
//! `carry_out` do nothing with them, and a use finds [`NoLongerHeld`], as it does for those of a suspended account, which
//! lives on otherwise. No mail of a closed account is handed out. `account::continue_closure` then deletes the tokens.
//!
//! *A token that is replaced meanwhile.* Replacing is a change that takes the lock of the old token, and of those that it
//! replaced, so that each use is either recorded before, and copied, or after, and recorded for the successor as well
//! (`heir`). A recorder of a use finds the successor with the lock taken. `announce` and `carry_out` find what is
//! announced at the successor, and do nothing with a token that has one.
//!
//! *A changed admin list.* Setting the admins takes the head row and, in that same transaction, queues
//! notices for those who joined, takes back those of who left, and computes `accepted_time` again:
//! null while any current admin's notice is not accepted, else the newest acceptance among the
//! current ones. `carry_out` does not trust it but computes it again from the mails and the list as
//! they are under the head row, so no order of the two carries out without a whole notice period for
//! everybody who is an admin at that moment. An admin who returns with an accepted notice was notified then.
//!
//! *A replica whose wall clock is an hour off.* No time here comes from a wall clock: `now` is the
//! store's time, carried forward by a monotonic clock (`crate::clock`), and so are the times of uses
//! and acceptances. Replicas differ by what a round trip costs, which is nothing beside a notice
//! period; and an acceptance is stamped after the relay's answer, so an error of that size makes
//! the notice longer where the stamp is late.

use serde_json::json;

use super::change::{Record, WriteTx};
use super::{Connection, account, bulk, pending, token};
use crate::model::{AuditAction, Invalidation, NoticeState, PendingAction};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::lifecycle::{PendingPlan, Superseded, UsageState, Uses};
use crate::policy::scope::Catalog;
use crate::policy::time::Timestamp;
use crate::policy::token::{AccountRestriction, Expiry, TokenState};
use crate::store::Result;

mod announce;
mod carry_out;
mod due;
mod end;
mod evidence;
mod expiry;
pub(super) mod heir;
mod replace;

pub(super) use announce::announce;
pub(super) use carry_out::carry_out;
pub(super) use due::{active_tokens, due_actions, idle_tokens};
pub(super) use end::{purge, withdraw_actions};
pub(super) use expiry::{announce_expiries, record_expiries};
use pending::Outcome;
pub(super) use replace::replace;

// For the links above.
#[cfg(doc)]
use crate::model::{CarriedOut, NoLongerHeld};

/// A token whose lifecycle is locked, as it stands.
pub(super) struct LockedToken {
    pub(super) id: TokenId,
    pub(super) account_id: AccountId,
    pub(super) name: String,
    pub(super) state: TokenState,
    /// When it expires.
    pub(super) expiry: Expiry,
    /// Why no token of its account may be used.
    pub(super) account: Option<AccountRestriction>,
    /// Whether its expiry is reached and recorded.
    ended: bool,
    /// The expiry whose notices are queued.
    noticed: Option<Timestamp>,
    /// The token that has its clocks and what is announced for it, where it was replaced.
    pub(super) heir: Option<TokenId>,
    /// Whose `announced` is always `live`.
    pub(super) usage_state: UsageState,
    pub(super) live: Vec<PendingAction>,
}

impl LockedToken {
    /// Takes the lock, in a change; `None` where there is no such token.
    pub(super) async fn take(connection: &mut Connection, id: TokenId) -> Result<Option<Self>> {
        bulk::lock(connection, &[id]).await?;
        let Some(row) = token::row(connection, id, None).await? else { return Ok(None) };
        let mut live = pending::of_tokens(connection, id..=id, None).await?;
        let live = live.remove(&id).unwrap_or_default();
        Ok(Some(Self {
            id,
            account_id: row.account_id(),
            name: row.name().to_owned(),
            state: row.state()?,
            expiry: row.expires().into(),
            account: account::restriction(connection, row.account_id()).await?,
            ended: row.is_ended(),
            noticed: row.noticed_expiry(),
            heir: row.heir(),
            usage_state: row.usage_state(announced(&live))?,
            live,
        }))
    }

    /// Whether anything falls due for it at `now`. Rules 11.5 and 11.75 of docs/policy.md.
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        let closed = matches!(self.account, Some(AccountRestriction::Closed { .. }));
        self.state == TokenState::Active && !closed && !self.expiry.is_reached(now)
    }

    /// Whether it can be used at `now`. Rules 11.1 and 11.71 of docs/policy.md.
    pub(super) fn is_usable(&self, now: Timestamp) -> bool {
        self.is_live(now) && self.account.is_none()
    }

    /// The live actions are these from now on.
    fn set_live(&mut self, live: Vec<PendingAction>) {
        self.usage_state.announced = announced(&live);
        self.live = live;
    }

    /// Counts uses of scopes that are write scopes by now as the writes that they are, see
    /// [`Uses::last_write_in`]. Rule 4.4 of docs/policy.md.
    async fn count_writes(&mut self, connection: &mut Connection, catalog: &Catalog) -> Result<()> {
        let last_write = self.usage_state.uses.last_write_in(catalog);
        if last_write == self.usage_state.uses.last_write {
            return Ok(());
        }
        self.usage_state.uses.last_write = last_write;
        let uses = Uses { last: last_write, last_write, scopes: Vec::new() };
        bulk::record(connection, &[(self.id, uses)]).await
    }

    /// Stores since when it is idle, as it stands now.
    async fn set_idle(&self, connection: &mut Connection) -> Result<()> {
        let active = self.state == TokenState::Active && !self.ended && self.heir.is_none();
        let since = idle_since(&self.usage_state).filter(|_| active);
        bulk::set_idle(connection, &[(self.id, since)]).await
    }

    /// Cancels, or shrinks, the announced actions that recorded use has overtaken. What to record, where there was anything.
    pub(super) async fn cancel_overtaken(
        &mut self,
        change: &mut WriteTx<'_>,
    ) -> Result<Option<Record>> {
        let now = change.ctx.now;
        let (mut cancelled, mut shrunk) = (Vec::new(), Vec::new());
        let mut live = Vec::new();
        for mut action in std::mem::take(&mut self.live) {
            let announced = PendingPlan { takes: action.takes.clone(), basis: action.basis };
            match self.usage_state.overtaken(&announced) {
                Superseded::No => live.push(action),
                Superseded::Cancelled => {
                    pending::end(&mut change.tx, action.id, now, Outcome::Cancelled).await?;
                    cancelled.push(action.id.to_string());
                }
                Superseded::Shrunk(left) => {
                    let (taken, used): (Vec<_>, Vec<_>) =
                        action.taken.iter().partition(|id| left.contains(id));
                    pending::keep(&mut change.tx, action.id, &used).await?;
                    action.kept.extend(used);
                    action.kept.sort_unstable();
                    action.taken = taken;
                    action.takes = crate::policy::lifecycle::ActionEffect::Scopes(left);
                    shrunk.push(action.id.to_string());
                    live.push(action);
                }
            }
        }
        self.set_live(live);
        let action = match (cancelled.is_empty(), shrunk.is_empty()) {
            (true, true) => return Ok(None),
            (true, false) => AuditAction::LifecycleShrink,
            (false, _) => AuditAction::LifecycleCancel,
        };
        self.set_idle(&mut change.tx).await?;
        heir::touch(change, self.id, self.account_id, action).await?;
        let before = json!({ "cancelled": cancelled, "shrunk": shrunk });
        Ok(Some(self.record(action, before)))
    }

    /// What a change of this token says of itself.
    fn record(&self, action: AuditAction, before: serde_json::Value) -> Record {
        Record {
            action,
            touched: Invalidation::Token(self.id),
            account_id: Some(self.account_id),
            token_id: Some(self.id),
            before: Some(before),
            after: None,
        }
    }
}

/// Stored as the instant since when a token is idle whose announced actions recorded use has overtaken:
/// before all others, until those are cancelled.
pub(super) const OVERTAKEN: Timestamp = Timestamp(i64::MIN);

/// Since when a token is idle, as it is stored.
pub(super) fn idle_since(state: &UsageState) -> Option<Timestamp> {
    if state.is_overtaken() { Some(OVERTAKEN) } else { state.idle_since() }
}

fn announced(live: &[PendingAction]) -> Vec<PendingPlan> {
    let announced =
        |action: &PendingAction| PendingPlan { takes: action.takes.clone(), basis: action.basis };
    live.iter().map(announced).collect()
}

/// Since when every current admin's notice of `action` is accepted; `None` until all are.
pub(super) async fn accepted(
    connection: &mut Connection,
    action: &PendingAction,
) -> Result<Option<Timestamp>> {
    let admins = account::admins(connection, action.account_id).await?;
    Ok(accepted_by(&admins, action))
}

/// The same of these admins.
pub(super) fn accepted_by(admins: &[String], action: &PendingAction) -> Option<Timestamp> {
    let accepted = |admin: &String| {
        let notice = action.notices.iter().find(|notice| notice.email == *admin)?;
        match notice.state {
            NoticeState::Accepted(at) => Some(at),
            NoticeState::Queued | NoticeState::Failing(_) => None,
        }
    };
    let times: Option<Vec<_>> = admins.iter().map(accepted).collect();
    times?.into_iter().max()
}
