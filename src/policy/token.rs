//! What a token is: its kind, what it may do now (its grant), and the facts a decision rests on.
//! Rules: docs/policy.md, sections 1 and 3.

use std::cmp::Reverse;
use std::time::Duration;

use super::id::{AccountId, PendingActionId, RenderedId, TokenId};
use super::lifecycle::{Calendar, LiveAction, Mode};
use super::network::Whitelist;
use super::scope::{Catalog, Scope, ScopeSet};
use super::time::Timestamp;

/// What was asked for when the token was created. Rule 1.8 of docs/policy.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenKind {
    /// Every scope whose access is read.
    ReadOnly,
    /// Every scope.
    ReadWrite,
    /// The scopes listed at creation.
    Custom,
}

impl TokenKind {
    /// As the store, the audit record and mails write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::ReadOnly => "READ_ONLY",
            Self::ReadWrite => "READ_WRITE",
            Self::Custom => "CUSTOM",
        }
    }
}

/// What a token may do now, before the catalogue says what that means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// Every scope whose access is read, as the catalogue stands at the decision.
    /// `downgraded` marks a former `READ_WRITE` token, whose lost scopes have a reason of their own.
    ReadOnly {
        /// Whether a downgrade took the write scopes.
        downgraded: bool,
    },
    /// Every scope of the catalogue.
    ReadWrite,
    /// The scopes listed at creation, less those that downgrades took.
    Custom {
        /// May be used.
        granted: ScopeSet,
        /// Were listed once and taken by a downgrade. Disjoint from `granted`.
        taken: ScopeSet,
    },
}

/// How a grant stands to one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeStatus {
    /// The scope may be used.
    Granted,
    /// It was granted once, and a downgrade took it.
    Taken,
    /// It was never granted.
    NotGranted,
}

impl Grant {
    /// How this grant stands to `scope`. Rule 1.9 of docs/policy.md.
    pub fn holding(&self, scope: &Scope) -> ScopeStatus {
        use super::scope::Access;
        match self {
            Self::ReadWrite => ScopeStatus::Granted,
            Self::ReadOnly { .. } if scope.access == Access::Read => ScopeStatus::Granted,
            Self::ReadOnly { downgraded: true } => ScopeStatus::Taken,
            Self::ReadOnly { downgraded: false } => ScopeStatus::NotGranted,
            Self::Custom { granted, .. } if granted.contains(scope.id) => ScopeStatus::Granted,
            Self::Custom { taken, .. } if taken.contains(scope.id) => ScopeStatus::Taken,
            Self::Custom { .. } => ScopeStatus::NotGranted,
        }
    }

    /// Whether a token with this grant must have a whitelist (docs/policy.md, rule 3.1: `READ_WRITE` always;
    /// `CUSTOM` with any scope that requires one in `catalog`, scopes that a downgrade took included;
    /// `READ_ONLY` never, since a scope that requires a whitelist is a write scope).
    ///
    /// What was taken counts, because a downgrade must never open a token: one without a whitelist
    /// that is denied for want of one would be allowed from anywhere once the sensitive scope is gone.
    pub fn requires_whitelist(&self, catalog: &Catalog) -> bool {
        match self {
            Self::ReadWrite => true,
            Self::ReadOnly { .. } => false,
            Self::Custom { granted, taken } => {
                let sensitive = catalog.requiring_whitelist();
                granted.intersects(sensitive) || taken.intersects(sensitive)
            }
        }
    }

    /// The kind a reader sees: a downgraded `READ_WRITE` token reads as `READ_ONLY`.
    pub fn kind(&self) -> TokenKind {
        match self {
            Self::ReadOnly { .. } => TokenKind::ReadOnly,
            Self::ReadWrite => TokenKind::ReadWrite,
            Self::Custom { .. } => TokenKind::Custom,
        }
    }
}

/// Whether a token can be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// It can.
    Active,
    /// Its owner or an operator deleted it.
    Deleted {
        /// When.
        at: Timestamp,
    },
    /// It was deleted because nobody used it.
    DeletedUnused {
        /// When.
        at: Timestamp,
    },
    /// It was revoked because its secret was reported as leaked.
    RevokedLeaked {
        /// When.
        at: Timestamp,
    },
}

/// Why no token of an account may be used, whatever the token's own state (docs/policy.md, rules 11.70 and 11.75).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountRestriction {
    /// Operators suspended it, and may resume it.
    Suspended {
        /// When.
        at: Timestamp,
    },
    /// It is closed for good: its tokens count as deleted.
    Closed {
        /// When.
        at: Timestamp,
    },
}

impl AccountRestriction {
    /// Of an account that was suspended or closed then. A closed one is not merely suspended.
    pub fn of(suspended: Option<Timestamp>, closed: Option<Timestamp>) -> Option<Self> {
        match (suspended, closed) {
            (_, Some(at)) => Some(Self::Closed { at }),
            (Some(at), None) => Some(Self::Suspended { at }),
            (None, None) => None,
        }
    }
}

/// From when on a token is denied, by the store's time (docs/policy.md, rule 11.1). One number, so that a decision
/// compares it without asking whether there is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(Timestamp);

/// From when on a token is to be denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedExpiry {
    /// From this instant.
    At(Timestamp),
    /// That long after the call at the latest, by the store's time.
    After(Duration),
}

impl RequestedExpiry {
    /// The instant; `None` where it is after the year 9999, which the contract can't say.
    pub fn time(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::After(length) => Some(now.plus(length)).filter(|&time| time <= Timestamp::LAST),
        }
    }
}

/// Why a token does not get the expiry that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExpiryRefused {
    /// It is not in the future.
    #[error("must lie in the future: name a later time; DeleteToken ends a token now")]
    Past,
    /// It is after the year 9999.
    #[error("ends after the year 9999")]
    TooFar,
    /// The token ends earlier than that.
    #[error(
        "is later than the token's expiry, {0}, which can only be brought nearer: create a new token"
    )]
    Later(Timestamp),
    /// The token has ended.
    #[error("the token expired at {0}: create a new one")]
    Expired(Timestamp),
    /// The token is deleted.
    #[error("the token is deleted")]
    Deleted,
}

impl Expiry {
    /// The token does not end by itself.
    pub const NEVER: Self = Self(Timestamp(i64::MAX));

    /// The instant; `None` for [`Self::NEVER`].
    pub fn time(self) -> Option<Timestamp> {
        (self != Self::NEVER).then_some(self.0)
    }

    /// Whether the token is denied at `now`.
    pub fn is_reached(self, now: Timestamp) -> bool {
        now >= self.0
    }

    /// Brings it nearer at `now`. The same one changes nothing, even if it is reached; nor does a length that ends later.
    /// Rule 11.2 of docs/policy.md.
    ///
    /// # Errors
    /// [`ExpiryRefused`], where it is reached, or the requested one is later or not in the future.
    pub fn shorten(
        self,
        requested: RequestedExpiry,
        now: Timestamp,
    ) -> Result<Self, ExpiryRefused> {
        let new = requested.time(now).ok_or(ExpiryRefused::TooFar)?;
        match self.time() {
            Some(current) if current == new => Ok(self),
            Some(current) if current <= now => Err(ExpiryRefused::Expired(current)),
            _ if new <= now => Err(ExpiryRefused::Past),
            Some(current) if current < new => match requested {
                RequestedExpiry::At(_) => Err(ExpiryRefused::Later(current)),
                RequestedExpiry::After(_) => Ok(self),
            },
            _ => Ok(Self(new)),
        }
    }
}

impl From<Option<Timestamp>> for Expiry {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::NEVER, Self)
    }
}

/// What a pending action will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PendingActionType {
    /// Some of what the token may do.
    Downgrade,
    /// The token.
    Deletion,
}

/// The pending action that takes effect first, as decisions mention it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpcomingAction {
    /// Its id.
    pub id: PendingActionId,
    /// What it will take.
    pub action: PendingActionType,
    /// The earliest instant at which it takes effect, as far as known now.
    pub effective: Timestamp,
}

/// Everything about one token that a decision rests on. Cached; a decision never is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFacts {
    /// The token.
    pub id: RenderedId<TokenId>,
    /// Its owner.
    pub account_id: RenderedId<AccountId>,
    /// SHA-256 of its secret: what a presented secret is compared with, in constant time.
    pub digest: [u8; 32],
    /// Whether it can be used at all.
    pub state: TokenState,
    /// From when on it can't. Checked after `state`, by the time of the decision: no change has to propagate.
    pub expiry: Expiry,
    /// What it may do.
    pub grant: Grant,
    /// From where.
    pub whitelist: Whitelist,
    /// What is announced for it, in no order.
    pub announced: Vec<LiveAction>,
}

impl TokenFacts {
    /// The announced action that takes effect first. None is shown where nothing will be taken: while the lifecycle only
    /// observes, and of an expired token, whether or not a sweep has withdrawn it. Rule 11.5 of docs/policy.md.
    pub fn upcoming(&self, calendar: &Calendar) -> Option<UpcomingAction> {
        let acts = calendar.settings.mode == Mode::Enforce && !self.expiry.is_reached(calendar.now);
        let upcoming = |action: &LiveAction| UpcomingAction {
            id: action.id,
            action: action.takes.action(),
            effective: action.effective(calendar),
        };
        let announced = self.announced.iter().filter(|_| acts).map(upcoming);
        announced.min_by_key(|action| (action.effective, Reverse(action.action), action.id))
    }
}
