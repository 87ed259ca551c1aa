//! What is seen of the requests of tokens: addresses, counts of use, and denials. Nothing here decides anything.

use crate::policy::decide::Reason;
use crate::policy::id::{AccountId, DenialId, TokenId};
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

/// How many denials of one token get a row of their own in an hour. Rule 12.11 of docs/policy.md.
pub const MAX_TOKEN_DENIALS: usize = 20;

/// How many rows the denials of one account get in an hour. Rule 12.11 of docs/policy.md.
pub const MAX_ACCOUNT_DENIALS: usize = 200;

/// Denied requests of one token in one hour, alike in reason, address and scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenialCount {
    /// The token.
    pub token_id: TokenId,
    /// Its owner.
    pub account_id: AccountId,
    /// As [`Timestamp::hour`] counts.
    pub hour: i64,
    /// Why; `None` for those beyond the token's share, of any reason and address.
    pub reason: Option<Reason>,
    /// Where they came from; `None` where the requests named none.
    pub address: Option<ClientAddr>,
    /// What they required, where the checks got that far.
    pub scope_id: Option<ScopeId>,
    /// Method and path of the first one, where no scope was found; empty elsewhere.
    pub operation: String,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
}

/// Denied requests of one account in one hour that got no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenialRest {
    /// The account.
    pub account_id: AccountId,
    /// As [`Timestamp::hour`] counts.
    pub hour: i64,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
}

/// A row of denials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Its place in lists.
    pub id: DenialId,
    /// What it says.
    pub denied: DenialCount,
}

/// A list of denials.
#[derive(Debug, Clone, Copy)]
pub struct DenialFilter {
    /// Only those of this account's tokens.
    pub account_id: Option<AccountId>,
    /// Only those of this token.
    pub token_id: Option<TokenId>,
    /// From the hour of this instant on.
    pub since: Timestamp,
}
