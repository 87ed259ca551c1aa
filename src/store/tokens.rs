//! Tokens and their whitelists.

use async_trait::async_trait;

use super::Result;
use crate::model::{
    AccountRefusal, Context, FoundTokens, ImportItem, ImportOutcome, ImportPosition, NewToken,
    NotReplaced, Page, Replaced, Replacement, Token, TokenFilter, TokenSearch, TokenUpdate,
    TokenUpdateRefusal, WhitelistChanged, WhitelistRefused, WhitelistTarget,
};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::lifecycle::{Calendar, Settings};
use crate::policy::network::{Change, Limits};
use crate::policy::scope::Catalog;
use crate::policy::token::{ExpiryRefused, RequestedExpiry, TokenFacts};
use crate::secret::Digest;

/// Tokens and their whitelists.
#[async_trait]
pub trait TokenStore {
    /// The facts of one token; `None` where there is none. Deleted and expired tokens have facts until
    /// purged.
    async fn token_facts(&self, id: TokenId) -> Result<Option<TokenFacts>>;

    /// Stores a token that `policy` was asked about with `catalog`.
    async fn create_token(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        new: &NewToken,
    ) -> Result<Result<Token, AccountRefusal>>;

    /// One token, of `only` where given.
    async fn token(&self, id: TokenId, only: Option<AccountId>) -> Result<Option<Token>>;

    /// Tokens, the oldest first.
    async fn tokens(&self, filter: &TokenFilter, page: Page<TokenId>) -> Result<Vec<Token>>;

    /// Tokens, `limit` of them (1,000 at most) behind the first `offset`, and how many there are in all.
    /// `calendar` says what takes effect first.
    async fn search_tokens(
        &self,
        search: &TokenSearch,
        calendar: &Calendar,
        offset: u32,
        limit: u32,
    ) -> Result<FoundTokens>;

    /// Deletes a token, with what is announced for it. A deleted one stays as it is. `None` where there
    /// is none.
    async fn delete_token(
        &self,
        ctx: &Context,
        id: TokenId,
        only: Option<AccountId>,
    ) -> Result<Option<Token>>;

    /// Brings a token's expiry nearer, as [`crate::policy::token::Expiry::shorten`] says; `None` where there is no
    /// such token. The expiry that it has leaves no record.
    async fn set_token_expiry(
        &self,
        ctx: &Context,
        id: TokenId,
        only: Option<AccountId>,
        expires: RequestedExpiry,
    ) -> Result<Option<Result<Token, ExpiryRefused>>>;

    /// Replaces a token as [`crate::policy::replacement`] says, which ends the old one after the overlap: both or neither.
    /// `None` where there is no such token. `catalog` must be in force. With `dry_run` everything is checked and nothing
    /// written.
    #[allow(clippy::too_many_arguments, reason = "one use case, each argument a fact of it")]
    async fn replace_token(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        id: TokenId,
        only: Option<AccountId>,
        settings: &Settings,
        new: &Replacement,
        dry_run: bool,
    ) -> Result<Option<Result<Replaced, NotReplaced>>>;

    /// The facts of the token that was imported with this digest; `None` where none was, and after it is purged.
    async fn imported_token_facts(&self, digest: &Digest) -> Result<Option<TokenFacts>>;

    /// Imports tokens into an account, at most 1,000, that `policy` was asked about with `catalog`: an outcome for each
    /// item, in order. A digest that the account has, or that is among the items before, changes nothing. All that is
    /// imported is one change. With `dry_run` everything is checked and nothing written.
    async fn import_tokens(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        account_id: AccountId,
        items: &[ImportItem],
        dry_run: bool,
    ) -> Result<Result<Vec<ImportOutcome>, AccountRefusal>>;

    /// The positions of imported tokens behind `after`, at most `limit`, in order. What is missing at the end was imported
    /// later, since changes are committed in the order of their revisions; purged tokens are left out.
    async fn imported_tokens(
        &self,
        after: ImportPosition,
        limit: u32,
    ) -> Result<Vec<ImportPosition>>;

    /// Changes a token's name and labels, which no decision rests on; `None` where there is no such token. What it has
    /// already leaves no record.
    async fn update_token(
        &self,
        ctx: &Context,
        id: TokenId,
        only: Option<AccountId>,
        update: &TokenUpdate,
    ) -> Result<Option<Result<Token, TokenUpdateRefusal>>>;

    /// Changes a token's whitelist as `policy::network::apply` says; `None` where there is no such
    /// token. A change that changes nothing keeps the version and leaves no record. With
    /// `dry_run` everything is checked and nothing written.
    #[allow(clippy::too_many_arguments, reason = "one use case, each argument a fact of it")]
    async fn change_whitelist(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        target: WhitelistTarget,
        change: &Change,
        limits: &Limits,
        dry_run: bool,
    ) -> Result<Option<Result<WhitelistChanged, WhitelistRefused>>>;
}
