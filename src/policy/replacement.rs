//! What a token is replaced by: the successor's grant and expiry, how long the old token lasts beside it, and what
//! becomes of what is announced. Rules: docs/policy.md, section 11, from 11.30 on.
//!
//! Must stay true: a successor may do nothing that the old token may not do at that moment; what is announced keeps
//! its dates; no token lasts longer than before.

use std::time::Duration;

use super::id::TokenId;
use super::lifecycle::{ActionEffect, Calendar, LiveAction, Mode, Uses};
use super::scope::{Catalog, ScopeId, ScopeSet};
use super::time::Timestamp;
use super::token::{Expiry, Grant, RequestedExpiry, ScopeStatus, TokenState};

#[cfg(test)]
mod tests;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the old token lasts where nothing is said.
pub const DEFAULT_OVERLAP: Duration = DAY;
/// How long it lasts at most. Rule 11.33 of docs/policy.md.
pub const MAX_OVERLAP: Duration = DAY.saturating_mul(30);

/// How many tokens of one chain may last at once beside the newest. Rule 11.33 of docs/policy.md.
pub const MAX_OVERLAPPING: usize = 100;

/// Why a token is not replaced, or not by what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplacementRefused {
    /// It is deleted.
    #[error("the token is deleted: create a new one")]
    Deleted,
    /// It was revoked, since its secret leaked.
    #[error("the token was revoked, since its secret leaked: create a new one")]
    Leaked,
    /// It has expired.
    #[error("the token expired at {0}: create a new one")]
    Expired(Timestamp),
    /// It has a successor.
    #[error("the token was replaced by {0} already: replace that one, or create a new token")]
    Replaced(TokenId),
    /// Too many of the tokens that it replaced, one after another, still last.
    #[error(
        "{MAX_OVERLAPPING} tokens before it still last, or ended less than a day ago: wait, or create another token"
    )]
    TooManyOverlapping,
    /// It may not do this, now or ever.
    #[error("the token may not use what was asked for")]
    NotGranted(Vec<ScopeId>),
    /// It may do nothing any more.
    #[error("the token may use no scope any more: create a new one")]
    NothingLeft,
    /// The successor, or the old token, must have a whitelist, and there is none.
    #[error("is required: the token has none, and is denied everything for want of one")]
    WhitelistRequired,
    /// The successor can't have that expiry.
    #[error(transparent)]
    Expiry(#[from] SuccessorExpiryRefused),
}

/// Why a successor does not get the expiry that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuccessorExpiryRefused {
    /// It is not in the future.
    #[error("must lie in the future: name a later time")]
    Past,
    /// It is after the year 9999.
    #[error("ends after the year 9999: name a shorter time")]
    TooFar,
    /// It is later than the old token's.
    #[error(
        "is later than the expiry of the token that is replaced, {0}: name an earlier time, or none for that one"
    )]
    AfterOld(Timestamp),
    /// It is later than a new token may have.
    #[error(
        "is later than this server allows, {0} (setting --token-max-lifetime): name an earlier time, or none"
    )]
    AfterLongest(Timestamp),
}

/// Whether a token can be replaced at `now`. Rule 11.30 of docs/policy.md.
///
/// # Errors
/// The rule that stands in the way.
pub fn check(
    state: TokenState,
    expiry: Expiry,
    replaced_by: Option<TokenId>,
    now: Timestamp,
) -> Result<(), ReplacementRefused> {
    match state {
        TokenState::Active => {}
        TokenState::Deleted { .. } | TokenState::DeletedUnused { .. } => {
            return Err(ReplacementRefused::Deleted);
        }
        TokenState::RevokedLeaked { .. } => return Err(ReplacementRefused::Leaked),
    }
    // Before the expiry, which is reached at once where the overlap was nothing.
    if let Some(successor) = replaced_by {
        return Err(ReplacementRefused::Replaced(successor));
    }
    match expiry.time().filter(|_| expiry.is_reached(now)) {
        Some(at) => Err(ReplacementRefused::Expired(at)),
        None => Ok(()),
    }
}

/// What a successor may do: what `grant` gives now, without what downgrades took; of that only `scopes`, where any are
/// named. Rule 11.31 of docs/policy.md.
///
/// # Errors
/// [`ReplacementRefused::NotGranted`] with the named scopes that `grant` does not give, and
/// [`ReplacementRefused::NothingLeft`].
pub fn successor_grant(
    grant: &Grant,
    scopes: &[ScopeId],
    catalog: &Catalog,
) -> Result<Grant, ReplacementRefused> {
    if scopes.is_empty() {
        return match grant {
            Grant::ReadOnly { .. } => Ok(Grant::ReadOnly { downgraded: false }),
            Grant::ReadWrite => Ok(Grant::ReadWrite),
            Grant::Custom { granted, .. } if granted.is_empty() => {
                Err(ReplacementRefused::NothingLeft)
            }
            Grant::Custom { granted, .. } => {
                Ok(Grant::Custom { granted: granted.clone(), taken: ScopeSet::default() })
            }
        };
    }
    let granted = |&id: &ScopeId| {
        catalog.by_id(id).is_some_and(|scope| grant.holding(scope) == ScopeStatus::Granted)
    };
    let refused: Vec<_> = scopes.iter().copied().filter(|id| !granted(id)).collect();
    if refused.is_empty() {
        Ok(Grant::Custom { granted: scopes.iter().copied().collect(), taken: ScopeSet::default() })
    } else {
        Err(ReplacementRefused::NotGranted(refused))
    }
}

/// When a successor ends: with the old token, or as asked, which is earlier. Where new tokens have a longest lifetime,
/// one that is asked for is bounded by that instead. Rule 11.32 of docs/policy.md.
///
/// # Errors
/// [`SuccessorExpiryRefused`].
pub fn successor_expiry(
    old: Expiry,
    requested: Option<RequestedExpiry>,
    longest: Option<Duration>,
    now: Timestamp,
) -> Result<Expiry, SuccessorExpiryRefused> {
    let latest = longest.map(|lifetime| now.plus(lifetime));
    let Some(requested) = requested else {
        return Ok(latest.map_or(old, |latest| old.min(Some(latest).into())));
    };
    let new = requested.time(now).ok_or(SuccessorExpiryRefused::TooFar)?;
    if new <= now {
        return Err(SuccessorExpiryRefused::Past);
    }
    match (latest, old.time()) {
        (Some(latest), _) if new > latest => Err(SuccessorExpiryRefused::AfterLongest(latest)),
        (None, Some(old)) if new > old => Err(SuccessorExpiryRefused::AfterOld(old)),
        _ => Ok(Some(new).into()),
    }
}

/// When the old token ends: after `overlap`, and never later than before. What the caller leaves out of an announced
/// downgrade would otherwise last longer by it, so that the old token ends at the latest when the first such downgrade,
/// of `left_out`, takes effect. Rules 11.33 and 11.35 of docs/policy.md.
pub fn old_expiry(
    old: Expiry,
    overlap: Duration,
    left_out: &[LiveAction],
    calendar: &Calendar,
) -> Expiry {
    let acts = calendar.settings.mode == Mode::Enforce;
    let ends = left_out.iter().filter(|_| acts).map(|action| action.effective(calendar));
    let end = ends.chain([calendar.now.plus(overlap)]).min();
    old.min(end.map(|end| end.max(calendar.now)).into())
}

/// What an announced action takes from a successor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// `None` where the successor has nothing of what it takes.
    pub takes: Option<ActionEffect>,
    /// Whether that is all of what it takes from the old token.
    pub whole: bool,
}

/// What an announced action, whose notice named `named`, takes from a successor with this grant.
/// Rule 11.35 of docs/policy.md.
pub fn moved(takes: &ActionEffect, named: &[ScopeId], successor: &Grant) -> Moved {
    let Grant::Custom { granted, .. } = successor else {
        return Moved { takes: Some(takes.clone()), whole: true };
    };
    let some = match takes {
        ActionEffect::Token => return Moved { takes: Some(ActionEffect::Token), whole: true },
        ActionEffect::Writes | ActionEffect::Scopes(_) => named,
    };
    let held: Vec<_> = some.iter().copied().filter(|&id| granted.contains(id)).collect();
    // A `READ_WRITE` token can't lose a part of its writes.
    let whole = *takes == ActionEffect::Scopes(held.clone());
    Moved { takes: (!held.is_empty()).then_some(ActionEffect::Scopes(held)), whole }
}

/// The scopes that a token with `grant` has used within the window, and may use now; the others that it may use. By the
/// order of the catalogue. Rule 11.38 of docs/policy.md.
pub fn used_and_unused(
    grant: &Grant,
    uses: &Uses,
    catalog: &Catalog,
    calendar: &Calendar,
) -> (Vec<ScopeId>, Vec<ScopeId>) {
    let since = calendar.window_start();
    let held = catalog.scopes().iter().filter(|scope| grant.holding(scope) == ScopeStatus::Granted);
    held.map(|scope| scope.id).partition(|&id| uses.of(id).is_some_and(|last| last > since))
}
