//! What replaces a token.

use std::time::Duration;

use super::{AccountRefusal, Token};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::network::Whitelist;
use crate::policy::replacement::ReplacementRefused;
use crate::policy::scope::ScopeId;
use crate::policy::token::RequestedExpiry;
use crate::secret::Digest;

/// A successor that is about to be stored, and how long the old token lasts beside it.
#[derive(Debug, Clone)]
pub struct Replacement {
    /// The successor's id.
    pub id: TokenId,
    /// Of its secret.
    pub digest: Digest,
    /// How long the old token lasts.
    pub overlap: Duration,
    /// What the successor may do, of what the old token may; empty for all of it.
    pub scopes: Vec<ScopeId>,
    /// From where it may be used; `None` for the old token's whitelist.
    pub whitelist: Option<Whitelist>,
    /// From when on it is denied; `None` for the old token's expiry.
    pub expires: Option<RequestedExpiry>,
    /// The longest that a new token may last; `None` for no bound.
    pub longest: Option<Duration>,
}

/// A replacement, as it was stored or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The new token.
    pub successor: Token,
    /// The old one.
    pub replaced: Token,
}

/// Why a token is not replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReplaced {
    /// Its account gets no token.
    Account(AccountId, AccountRefusal),
    /// A rule of replacements stands in the way.
    Rule(ReplacementRefused),
}
