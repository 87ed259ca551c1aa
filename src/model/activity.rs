//! What is seen of the requests of tokens: addresses, counts of use, and denials. Nothing here decides anything.

use crate::policy::id::TokenId;
use crate::policy::network::{Cidr, ClientAddr};
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;

/// How many addresses are kept of a token: the latest. Rule 12.1 of docs/policy.md.
pub const MAX_ADDRESSES: usize = 50;

/// Allowed requests of one token for one scope on one day of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UseCount {
    /// The token.
    pub token_id: TokenId,
    /// What they required.
    pub scope_id: ScopeId,
    /// As [`Timestamp::day`] counts.
    pub day: i64,
    /// How many; at least 1.
    pub count: u64,
}

/// Allowed requests of one token from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressUse {
    /// The token.
    pub token_id: TokenId,
    /// Where they came from.
    pub address: ClientAddr,
    /// The whitelist entry that let the last of them through; `None` for a token without a whitelist.
    pub entry: Option<Cidr>,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
}

/// An address that a token was used from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenAddress {
    /// The address.
    pub address: ClientAddr,
    /// When it was first seen, as far as it was not forgotten in between.
    pub first: Timestamp,
    /// When it was last seen, to the minute.
    pub last: Timestamp,
}

/// When the entries of a token's whitelist last matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryMatches {
    /// Entries that matched, sorted, each with the last time.
    pub matches: Vec<(Cidr, Timestamp)>,
    /// Since when every match of the whitelist as it is was recorded.
    pub since: Timestamp,
}
