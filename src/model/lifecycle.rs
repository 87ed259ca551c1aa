//! What the store keeps of the lifecycle: uses, pending actions, and what became of them.

use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::lifecycle::{ActionEffect, Calendar, LiveAction, UsageState};
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;
use crate::policy::token::PendingActionType;

/// One use of a token: a decision that allowed it, and was not a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// The token.
    pub token_id: TokenId,
    /// What it was used for.
    pub scope_id: ScopeId,
    /// Whether that is a write scope in the catalogue that the decision was made with.
    pub write: bool,
    /// When.
    pub time: Timestamp,
}

/// The token is deleted or expired, or no longer holds the scope: the decision has to be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoLongerHeld;

/// An active token, as the sweeper and the preview see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleToken {
    /// The token.
    pub id: TokenId,
    /// Its owner.
    pub account_id: AccountId,
    /// A label.
    pub name: String,
    /// As stored: what [`UsageState::idle_since`] was when it was last computed, or earlier.
    pub idle_since: Option<Timestamp>,
    /// From when on it is denied; `None` for never.
    pub expires: Option<Timestamp>,
    /// The facts that its lifecycle rests on.
    pub usage_state: UsageState,
    /// What is announced for it, with how far its notices got.
    pub live: Vec<LiveAction>,
}

/// What became of an attempt to carry out an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarriedOut {
    /// It is carried out.
    Done,
    /// It takes nothing any more: it was used meanwhile, or no longer takes what its notice named.
    Cancelled,
    /// Not yet: a notice is not accepted for long enough, or a deletion comes first.
    Held,
    /// It has ended already, or its token is deleted.
    ActionEnded,
}

/// An account whose admins were set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminsSet {
    /// The account as it is now.
    pub account: super::Account,
    /// The tokens with actions whose notices this concerned.
    pub touched: Vec<TokenId>,
}

/// How far one admin's notice got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoticeState {
    /// It waits.
    Queued,
    /// The mail server accepted it then.
    Accepted(Timestamp),
    /// The mail server did not take it when it was last sent, and said this.
    Failing(String),
}

/// One admin's notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The admin's address.
    pub email: String,
    /// How far it got.
    pub state: NoticeState,
}

/// A downgrade or deletion that is announced, and not yet carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingAction {
    /// Its id.
    pub id: PendingActionId,
    /// The token it concerns.
    pub token_id: TokenId,
    /// That token's label.
    pub token_name: String,
    /// Its owner.
    pub account_id: AccountId,
    /// What it takes.
    pub takes: ActionEffect,
    /// The scopes it takes, as its notice names them, sorted by id.
    pub taken: Vec<ScopeId>,
    /// The scopes that stay, sorted by id.
    pub kept: Vec<ScopeId>,
    /// Last use of the token when it was announced.
    pub last_use: Option<Timestamp>,
    /// Last use of anything it takes when it was announced.
    pub last_use_of_taken: Option<Timestamp>,
    /// That, or the token's creation: what its date is counted from.
    pub basis: Timestamp,
    /// When the last notice of the current admins was accepted; `None` until all are.
    pub accepted: Option<Timestamp>,
    /// When it was announced.
    pub created: Timestamp,
    /// The current admins' notices, sorted by address.
    pub notices: Vec<Notice>,
}

impl PendingAction {
    /// What it takes, in a word.
    pub fn action(&self) -> PendingActionType {
        self.takes.action()
    }

    /// The same as decisions know it.
    pub fn live(&self) -> LiveAction {
        LiveAction {
            id: self.id,
            takes: self.takes.clone(),
            basis: self.basis,
            accepted: self.accepted,
        }
    }
}

/// How many actions are announced and not yet ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PendingCounts {
    /// Of type deletion.
    pub deletions: u64,
    /// Of type downgrade.
    pub downgrades: u64,
}

/// A list of pending actions.
#[derive(Debug, Clone, Copy, Default)]
pub struct PendingFilter {
    /// Only those of this account.
    pub account_id: Option<AccountId>,
    /// Only those of this token.
    pub token_id: Option<TokenId>,
    /// Only those of this type.
    pub action: Option<PendingActionType>,
    /// Only those that take effect before this instant, by this calendar.
    pub effective_before: Option<(Timestamp, Calendar)>,
}
