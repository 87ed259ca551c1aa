//! What is seen of the requests of tokens: addresses, counts of use, and denials.

use async_trait::async_trait;

use super::Result;
use crate::model::{
    AddressUse, Denial, DenialCount, DenialFilter, DenialRest, EntryMatches, Page, SeenAddress,
    UseCount,
};
use crate::policy::id::{AccountId, DenialId, TokenId};
use crate::policy::time::Timestamp;

/// Addresses seen, counts of use, and denials. Methods that write leave no record: nothing here decides anything.
#[async_trait]
pub trait ActivityStore {
    /// Adds counts and addresses, all in one transaction; tokens that are gone are passed over, and so are the
    /// addresses of deleted ones. Counts are added, so a call is repeated only where it is known that it changed
    /// nothing; addresses may be recorded any number of times.
    async fn record_activity(&self, counts: &[UseCount], addresses: &[AddressUse]) -> Result<()>;

    /// The addresses that a token was used from at `since` or later, the latest first; `None` where there is no such
    /// token, of `only` where given.
    async fn seen_addresses(
        &self,
        id: TokenId,
        only: Option<AccountId>,
        since: Timestamp,
    ) -> Result<Option<Vec<SeenAddress>>>;

    /// When the entries of a token's whitelist last matched, at `since` or later; `None` as above.
    async fn entry_matches(
        &self,
        id: TokenId,
        only: Option<AccountId>,
        since: Timestamp,
    ) -> Result<Option<EntryMatches>>;

    /// How often a token was used, from the day of `since` on: the latest day first, at most `limit` counts; `None` as
    /// above.
    async fn use_counts(
        &self,
        id: TokenId,
        only: Option<AccountId>,
        since: Timestamp,
        limit: u32,
    ) -> Result<Option<Vec<UseCount>>>;

    /// Forgets addresses and matches that were last seen before `before`, and counts of earlier days; at most `limit`
    /// of each. How many.
    async fn purge_activity(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Adds denied requests, those of a token and hour beyond its share as others, and those beyond an account's share
    /// to its rest. Tokens that are gone are passed over. Repeated only where it is known that it changed nothing.
    async fn record_denials(&self, denials: &[DenialCount], rests: &[DenialRest]) -> Result<()>;

    /// Denied requests, the latest rows first.
    async fn denials(&self, filter: &DenialFilter, page: Page<DenialId>) -> Result<Vec<Denial>>;

    /// How many requests were denied from the hour of `since` on beyond the shares of accounts, of `only` where given.
    async fn denial_rest(&self, only: Option<AccountId>, since: Timestamp) -> Result<u64>;

    /// Forgets denials of earlier hours than that of `before`, at most `limit` rows of each kind. How many.
    async fn purge_denials(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Erases the addresses, matches and denials of the tokens of an account, of at most `limit` tokens: those after
    /// `after`, by their ids. The last of them, or `None` where there are no more. Tokens that are not deleted are seen
    /// again.
    async fn erase_activity(
        &self,
        account: AccountId,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Option<TokenId>>;
}
